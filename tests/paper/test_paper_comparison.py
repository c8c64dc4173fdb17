"""Who may stand beside the paper's numbers, and what the table says then. Runs are made by hand.

`paper_run` is of the paper's data: the six data sets with the release's numbers of sub-categories (a picture
each, so a sample), the plain 3B base, no guide. Every refusal changes one thing in it.
"""

import csv
import json

import pandas as pd
import pytest

from finer1_lib.core import hashing
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import atomic_write_json, atomic_write_text, read_json
from finer1_lib.evaluation.summary import KEYS
from finer1_lib.evaluation.systems.registry import known_systems
from finer1_lib.paper import (
    comparison as paper_admission,
    comparison as paper_comparison,
    facts as paper_facts,
)
from finer1_lib.paper.comparison import (
    NotComparable,
    admit,
    compare_lines,
    comparison_table,
    look_over,
    to_csv,
    to_markdown,
)
from finer1_lib.runs.chain import NEEDS, STAGES

KINDS = ("seen", "unseen")
SETS = {(data.lower(), kind): classes for (data, kind), (classes, _) in paper_facts.evaluation_sets().items()}
MINIATURE = {(data, kind): n for data in ("bird", "aircraft") for kind, n in zip(KINDS, (30, 20))}
WEIGHTS = "nowhere/miniature/weights"
MODELS = ("base", "base_cot_prompt", "sft_answer_only", "cot_sft", "cot_sft_dapo", "cot_sft_tapo")
METRICS = (("closed_world", "accuracy"), ("open_world", "text_inclusion"),
           ("open_world", "relative_semantic_similarity"))  # fmt: skip


def records_of(sets, pictures=1):
    for (data, kind), classes in sets.items():
        for number in range(classes):
            for picture in range(pictures):
                name = f"{data} {kind} {number}"
                yield {"item_id": f"{name}/{picture}", "super_category": data, "sub_category": name,
                       "categories": kind}  # fmt: skip


def rows_of(sets, value=0.8, models=MODELS, variant="siglip", orders=("shuffled",), pictures=1):
    """Summary rows in which every model scores `value`, strictly 0.1 less; intervals of +-0.02."""
    counts = {key: classes * pictures for key, classes in sets.items()}
    counts |= {("average", kind): sum(n for (_, of), n in counts.items() if of == kind) for kind in KINDS}
    rows = []
    for model in models:
        for setting, metric in METRICS:
            for order in orders if setting == "closed_world" else (None,):
                for scorer, less in (("official", 0.0), ("strict", 0.1)):
                    for (data, kind), n in counts.items():
                        found = dict(value=value - less, low=value - less - 0.02, high=value - less + 0.02)
                        similar = variant if metric == METRICS[2][1] else None
                        rows.append({"model": model, "dataset": data, "setting": setting, "scorer": scorer,
                                     "metric": metric, "categories": kind, "option_order": order,
                                     "variant": similar, **found, "n": n, "seed": 0})  # fmt: skip
    return rows


def write_run(root, name, *, sets=SETS, rows=None, guide=None, checkpoint="Qwen/Qwen2.5-VL-3B-Instruct",
              data_sets=None, systems=()):
    """A finished run: stages with their records, each with the hashes of its files and of what it needs."""
    run = root / name
    rows = rows_of(sets) if rows is None else rows
    for stage in STAGES[:5]:
        folder = run / stage
        folder.mkdir(parents=True)
        if stage == "00_miniature_world":
            atomic_write_json(folder / "base.json", {"checkpoint": checkpoint})
        if stage == "01_data":
            atomic_write_json(folder / "data.json", {"image_root": "photos", "guide": guide, "data_sets": data_sets or {}})
        if stage == "04_evaluation":
            lines = "".join(json.dumps(record) + "\n" for record in records_of(sets))
            atomic_write_text(folder / "records.jsonl", lines)
            atomic_write_json(folder / "summary_rows.json", rows)
            entries = [one if isinstance(one, dict) else known_systems()[one].model_dump(mode="json") for one in systems]
            atomic_write_json(folder / "systems.json", entries)
        outputs = hashing.recorded_hashes(folder)
        needs = {need: read_json(run / need / "stage.json")["digest"] for need in NEEDS[stage]}
        record = {"seed": 0, "needs": needs, "outputs": outputs, "digest": hashing.digest(outputs)}
        atomic_write_json(folder / "stage.json", record)
    atomic_write_json(run / "summary.json", rows)
    return run


@pytest.fixture
def paper_run(tmp_path):
    return write_run(tmp_path, "photographs")


def refusal(run, released=None, kind=NotComparable):
    with pytest.raises(kind) as error:
        comparison_table(run, released)
    with pytest.raises(kind) as again:
        comparison_table(run, released)
    assert str(error.value) == str(again.value) and "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------- the table


def line(table, **wanted):
    (row,) = [row for row in table.to_dict("records") if all(row[key] == wanted[key] for key in wanted)]
    return row


def test_the_table_by_hand(paper_run):
    table = comparison_table(paper_run)
    assert tuple(table.columns) == paper_comparison.COLUMNS
    tapo = line(table, source="Table 1", paper_row="Fine-R1-3B", categories="seen", dataset="Average")
    assert (tapo["model"], tapo["paper"], tapo["run"]) == ("cot_sft_tapo", 88.97, pytest.approx(80.0))
    assert tapo["run_strict"] == pytest.approx(70.0) and pd.isna(tapo["released"])
    assert tapo["difference"] == pytest.approx(-8.97)
    assert (tapo["low"], tapo["high"]) == (pytest.approx(-10.97), pytest.approx(-6.97))
    assert (tapo["reading"], tapo["n"], tapo["n_paper"]) == ("below", 452, 21776)
    bird = line(table, source="Table 1", paper_row="Fine-R1-3B", categories="unseen", dataset="Bird")
    assert (bird["paper"], bird["reading"], bird["n"], bird["n_paper"]) == (79.1, "inside", 80, 2311)
    base = line(table, source="Table 2", paper_row="Qwen2.5-VL-3B", categories="seen", dataset="Average")
    assert (base["model"], base["paper"], base["reading"]) == ("base", 56.1, "above")
    sft = line(table, source="Figure 3a", categories="unseen")
    assert (sft["paper_row"], sft["paper"], sft["model"]) == ("SFT", 65.82, "sft_answer_only")
    dapo = line(table, source="Figure 3c", model="cot_sft_dapo", categories="seen")
    assert dapo["paper"] == 72.35
    assert set(table["model"]) == set(MODELS)  # what was not trained has no line


def test_the_release_s_order_has_lines_of_its_own_and_rotations_none(tmp_path):
    rows = rows_of(SETS, orders=("shuffled", "release", "rotations"))
    table = comparison_table(write_run(tmp_path, "orders", rows=rows))
    assert set(table["option_order"].dropna()) == {"shuffled", "release"}
    tapo = table[(table["source"] == "Table 1") & (table["paper_row"] == "Fine-R1-3B")]
    assert tapo["option_order"].value_counts().to_dict() == {"shuffled": 14, "release": 14}
    assert "seen, release's order" in to_markdown(table)


def test_another_similarity_and_a_missing_interval_are_not_comparable(tmp_path):
    rows = rows_of(SETS, variant="trigram")
    for row in rows:
        if row["metric"] == "text_inclusion":
            row["low"] = row["high"] = None
    table = comparison_table(write_run(tmp_path, "trigrams", rows=rows))
    readings = {source: set(part["reading"]) for source, part in table.groupby("source")}
    assert readings["Table 2"] == {"not comparable because its similarity is trigram, the paper's siglip"}
    assert readings["Table 6"] == {"not comparable because it has no interval"}
    assert readings["Table 1"] <= {"inside", "below", "above"}


def test_what_is_printed(paper_run):
    text = compare_lines(comparison_table(paper_run))
    (row,) = [line for line in text.splitlines() if line.startswith("| Table 1 ") and "Fine-R1-3B" in line
              and "| seen |" in line]  # fmt: skip
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["Table 1", "accuracy", "Fine-R1-3B", "CoT SFT + TAPO", "seen", "88.97", "-", "80.00",
                     "-8.97 [-10.97, -6.97]", "452 of 21,776", "below", "70.00"]  # fmt: skip
    assert "Bird" not in text and "official scorer" in text and "labels as printed" in text
    assert "| unseen, Bird |" in to_markdown(comparison_table(paper_run), every_dataset=True)


def test_the_file_has_every_line_with_the_paper_s_own_digits(paper_run):
    table = comparison_table(paper_run)
    rows = list(csv.DictReader(to_csv(table).splitlines()))
    assert len(rows) == len(table) and list(rows[0]) == list(paper_comparison.COLUMNS)
    printed = {(row["source"], row["paper_row"], row["categories"], row["dataset"]): row for row in rows}
    average = printed["Table 1", "Fine-R1-3B", "seen", "Average"]
    assert (average["paper"], average["run"], average["difference"]) == ("88.97", "80.00", "-8.97")
    assert (average["released"], average["run_strict"]) == ("", "70.00")
    for row in rows:  # two digits, and the very value
        found = paper_facts.facts(row["source"], model=row["paper_row"], categories=row["categories"],
                                  dataset=row["dataset"], metric=row["metric"])  # fmt: skip
        assert row["paper"] == f"{found['value'].item():.2f}" and float(row["paper"]) == found["value"].item()


def test_the_whole_test_sets_enter_as_they_are():
    counts = {(data.lower(), kind): found for (data, kind), found in paper_facts.evaluation_sets().items()}
    records = [{"item_id": f"{key}/{number}", "super_category": key[0], "categories": key[1],
                "sub_category": f"{key} {number % classes}"}
               for key, (classes, items) in counts.items() for number in range(items)]  # fmt: skip
    full = {key: items for key, (_, items) in counts.items()}
    known = dict(guide=None, rows=rows_of(full), checkpoint="Qwen/Qwen2.5-VL-3B-Instruct")
    table = paper_comparison.table_of(look_over("all", records=records, **known))
    assert (table["n"] == table["n_paper"]).all()
    extra = {**records[0], "item_id": "one more"}
    with pytest.raises(NotComparable, match="Aircraft has 2003 images of seen sub-categories, .* 2002"):
        look_over("more", records=[*records, extra], **known)


# ---------------------------------------------------------------- released checkpoints


def released_run(root, name="released", checkpoint="StevenHH2000/Fine-R1-3B", value=0.88, **more):
    rows = rows_of(SETS, value, ("base", "base_cot_prompt"))
    return write_run(root, name, rows=rows, checkpoint=checkpoint, **more)


def test_a_released_checkpoint_stands_beside_ours_and_alone(paper_run, tmp_path):
    wanted = dict(source="Table 1", paper_row="Fine-R1-3B", categories="seen", dataset="Average")
    both = line(comparison_table(paper_run, released_run(tmp_path)), **wanted)
    assert (both["released"], both["run"]) == (pytest.approx(88.0), pytest.approx(80.0))
    assert both["difference"] == pytest.approx(-8.97) and both["reading"] == "below"  # of ours
    wanted["paper_row"] = "Qwen2.5-VL-3B"
    base = line(comparison_table(paper_run, tmp_path / "released"), **wanted)
    assert base["run"] == pytest.approx(80.0) and pd.isna(base["released"])
    table = comparison_table(tmp_path / "released")
    alone = line(table, **{**wanted, "paper_row": "Fine-R1-3B"})
    assert alone["released"] == pytest.approx(88.0) and pd.isna(alone["run"])
    assert alone["reading"] == "inside" and alone["difference"] == pytest.approx(-0.97)
    assert set(table["model"]) == {"cot_sft_tapo"}


def test_the_released_stage_1_stands_for_cot_sft(tmp_path):
    run = released_run(tmp_path, checkpoint="StevenHH2000/Fine-R1-3B-Stage1")
    assert {(row["paper_row"], row["model"]) for row in comparison_table(run).to_dict("records")} == {
        ("CoT SFT", "cot_sft")}  # fmt: skip


def test_the_7b_model_has_its_own_rows(tmp_path):
    table = comparison_table(write_run(tmp_path, "large", checkpoint="Qwen/Qwen2.5-VL-7B-Instruct"))
    assert set(table["paper_row"]) == {"Qwen2.5-VL-7B", "Fine-R1-7B"}
    bird = line(table, source="Table 1", paper_row="Fine-R1-7B", categories="seen", dataset="Bird")
    assert bird["paper"] == 90.5


def test_the_two_sides_may_not_be_exchanged_or_mixed(paper_run, tmp_path):
    released = released_run(tmp_path)
    assert "--released takes" in refusal(released, paper_run, UserError)
    other = released_run(tmp_path, "stage1", "StevenHH2000/Fine-R1-3B-Stage1")
    assert "give it with --released" in refusal(other, released, UserError)
    large = released_run(tmp_path, "large", "StevenHH2000/Fine-R1-7B")
    assert "'photographs' is of 3B, 'large' of 7B" in refusal(paper_run, large, UserError)


# ---------------------------------------------------------------- no way in for the miniature


def test_the_miniature_is_refused_in_one_clear_line(tmp_path):
    run = write_run(tmp_path, "mini", sets=MINIATURE, guide="guide.json", checkpoint=WEIGHTS)
    why = "it has a field guide of attributes, as a drawn world has, and the paper's photographs have none"
    assert refusal(run) == f"run 'mini' is not put beside the paper's numbers: {why}"


def test_without_its_guide_its_data_give_it_away(tmp_path):
    """As a folder of images, read without the guide."""
    run = write_run(tmp_path, "pictures", sets=MINIATURE)
    assert "its data sets are Aircraft, Bird, the paper's Aircraft, Bird, Car" in refusal(run)


def test_renamed_into_the_six_data_sets_its_counts_give_it_away(tmp_path):
    names = sorted({data for data, _ in SETS})
    renamed = {(data, kind): n for data in names for kind, n in zip(KINDS, (30, 20))}
    run = write_run(tmp_path, "renamed", sets=renamed)
    assert "Aircraft has 30 seen sub-categories, in the paper 60" in refusal(run)
    exchanged = {(data, KINDS[kind == "seen"]): n for (data, kind), n in SETS.items()}
    assert "Aircraft has 40 seen" in refusal(write_run(tmp_path, "exchanged", sets=exchanged))
    lacking = {**SETS, ("pet", "unseen"): 14}
    run = write_run(tmp_path, "less", sets=lacking)
    assert "Pet has 14 unseen sub-categories, in the paper 15" in refusal(run)


@pytest.mark.parametrize("shape", [(256, 8), (2048, 28)])
def test_its_model_is_refused_on_the_paper_s_data_whatever_its_name(tmp_path, shape):
    run = write_run(tmp_path, "small", checkpoint=WEIGHTS)
    assert "its base model is weights, the paper's are Qwen2.5-VL-3B and 7B" in refusal(run)
    for name in ("Qwen2.5-VL-3B", "Fine-R1-3B"):
        folder = tmp_path / name
        folder.mkdir()
        text = {"hidden_size": shape[0], "num_hidden_layers": shape[1]}
        atomic_write_json(folder / "config.json", {"text_config": text})
        run = write_run(tmp_path, f"named_{name}", checkpoint=str(folder))
        assert f"{name} ({shape[1]} layers of width {shape[0]})" in refusal(run)


def test_the_checkpoint_is_known_by_name_where_it_does_not_lie_here(tmp_path):
    cache = "hub/models--Qwen--Qwen2.5-VL-3B-Instruct/snapshots/abc"
    for name, wanted in (("unsloth/Qwen2.5-VL-7B-Instruct-bnb-4bit", ("7B", "")), (cache, ("3B", "")),
                         ("x/Fine-R1-3B", ("3B", "Fine-R1")), ("x/Fine-R1-7B-Stage1", ("7B", "Stage1")),
                         ("Fine-R1-3B/again/Qwen2.5-VL-7B-Instruct", ("7B", ""))):  # fmt: skip
        found = look_over("r", guide=None, records=records_of(SETS), rows=[], checkpoint=name)
        assert (found.size, found.released) == wanted
    with pytest.raises(NotComparable, match="its base model is unknown"):
        look_over("r", guide=None, records=records_of(SETS), rows=[], checkpoint="")


def test_rows_of_another_run_are_refused(paper_run, tmp_path):
    mini = write_run(tmp_path, "mini", sets=MINIATURE, guide="guide.json")
    own, foreign = (read_json(run / "summary.json", list) for run in (paper_run, mini))
    why = "the scored rows of its summary.json are not those that 04_evaluation recorded"
    for rows in ([*own, foreign[0]], foreign, [{**own[0], "value": 0.99}, *own[1:]], own[1:], []):
        atomic_write_json(paper_run / "summary.json", rows)
        assert why in refusal(paper_run)
    atomic_write_json(paper_run / "summary.json", own)
    probing = {**dict.fromkeys(KEYS), "model": "base", "setting": "probing"}
    atomic_write_json(paper_run / "summary.json", [*own, probing])  # of 05: no score
    assert len(comparison_table(paper_run))


def test_rows_with_another_n_than_the_records_are_refused(tmp_path):
    rows = rows_of(SETS)
    rows[7]["n"] = 160
    run = write_run(tmp_path, "mixed", rows=rows)  # recorded so: every hash is right
    assert "has n = 160, its records are of" in refusal(run)
    rows = [{**row, "dataset": "world"} if number == 3 else row for number, row in enumerate(rows_of(SETS))]
    assert "its records are of 0 images" in refusal(write_run(tmp_path, "foreign", rows=rows))


@pytest.mark.parametrize("path", ["01_data/data.json", "04_evaluation/records.jsonl",
                                  "04_evaluation/summary_rows.json", "04_evaluation/systems.json",
                                  "00_miniature_world/base.json"])
def test_files_that_were_touched_are_refused(paper_run, path):
    file = paper_run / path
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    stage, _, name = path.partition("/")
    assert f"{path} is not the file that {stage} recorded" in refusal(paper_run)
    file.unlink()
    assert f"{path} is not the file that {stage} recorded" in refusal(paper_run)


def test_a_released_run_of_the_miniature_is_refused_too(paper_run, tmp_path):
    for number, known in enumerate((dict(sets=MINIATURE, guide="guide.json"), dict(sets=MINIATURE))):
        run = write_run(tmp_path, f"mini{number}", checkpoint="StevenHH2000/Fine-R1-3B", **known)
        assert f"run 'mini{number}' is not put beside" in refusal(paper_run, run)
        assert f"run 'mini{number}' is not put beside" in refusal(run)


def test_an_unfinished_run_is_no_run(paper_run, tmp_path):
    assert "'gone' has not finished 04_evaluation" in refusal(tmp_path / "gone", kind=UserError)
    summary = (paper_run / "summary.json").read_bytes()
    (paper_run / "summary.json").unlink()
    assert "run 'photographs' is not put beside the paper's numbers: it has no summary.json" in refusal(paper_run)
    (paper_run / "summary.json").write_bytes(summary)
    stage = paper_run / "01_data" / "stage.json"
    atomic_write_json(stage, {**read_json(stage), "digest": "another"})
    assert "'photographs' has not finished 04_evaluation" in refusal(paper_run, kind=UserError)


def test_the_admitted_run_is_what_it_says(paper_run):
    found = admit(paper_run)
    assert (found.name, found.size, found.released) == ("photographs", "3B", "")
    assert paper_admission.SHAPES["3B"] == (2048, 36)


def test_own_seen_and_unseen_sub_categories_are_refused(tmp_path):
    given = {word: {"split": "release"} for word, _ in SETS}
    assert len(comparison_table(write_run(tmp_path, "released", data_sets=given)))
    given["car"] = {"split": "seeded"}
    run = write_run(tmp_path, "own", data_sets=given)
    assert "its seen and unseen sub-categories of car are not the release's" in refusal(run)


def test_systems_of_the_registry_stand_beside_their_rows(tmp_path):
    """Each with the paper's value of its row; what is not certain about it is reported below the table."""
    systems = ("siglip-l", "llava-1.6-7b", "deepperception", "deepperception-fgvr")
    run = write_run(tmp_path, "run", rows=rows_of(SETS, models=(*MODELS, *systems)), systems=systems)
    table = comparison_table(run)
    asked = table[table["dataset"] == "Average"].set_index(["source", "model", "categories"])["paper"]
    assert asked["Table 1", "siglip-l", "unseen"] == 80.54 and asked["Table 1", "llava-1.6-7b", "seen"] == 57.9
    both = [asked["Table 1", name, "seen"] for name in systems[2:]]
    assert both[0] == both[1] == paper_facts.value("Table 1", "DeepPerception-7B", "seen")
    assert ("Table 2", "siglip-l", "seen") not in asked.index  # an encoder writes nothing
    given = "\n".join(paper_comparison.notes(table))
    assert "SigLIP-L: at 384 pixels" in given and "LLaVA" not in given
    assert "| SigLIP-L | SigLIP-L |" in to_markdown(table)  # the paper's row, our label


def test_a_released_checkpoint_asked_in_the_same_run_fills_its_column(tmp_path):
    rows = rows_of(SETS) + rows_of(SETS, value=0.85, models=("fine-r1-3b",))
    table = comparison_table(write_run(tmp_path, "run", rows=rows, systems=["fine-r1-3b"]))
    of = table[(table["model"] == "cot_sft_tapo") & (table["dataset"] == "Average")]
    assert of["released"].tolist() == pytest.approx([85.0] * len(of)) and len(of)
    assert of["run"].tolist() == pytest.approx([80.0] * len(of))
    assert "fine-r1-3b" not in set(table["model"])  # it stands in a column, not in rows of its own
    alone = [row for row in rows if row["model"] == "fine-r1-3b"]
    table = comparison_table(write_run(tmp_path, "alone", rows=alone, systems=["fine-r1-3b"]))
    assert table["run"].isna().all() and table["run_strict"].tolist() == pytest.approx([75.0] * len(table))


def test_a_released_checkpoint_of_the_other_size_has_lines_of_its_own(tmp_path):
    for size, other, checkpoint in (("3B", "7B", "fine-r1-7b"), ("7B", "3B", "fine-r1-3b")):
        rows = rows_of(SETS) + rows_of(SETS, value=0.85, models=(checkpoint,))
        run = write_run(tmp_path, size, rows=rows, checkpoint=f"Qwen/Qwen2.5-VL-{size}-Instruct",
                        systems=[checkpoint])  # fmt: skip
        table = comparison_table(run)
        of = table[table["model"] == checkpoint]
        assert set(of["paper_row"]) == {f"Fine-R1-{other}"} and len(of) == 3 * 14
        assert of["released"].tolist() == pytest.approx([85.0] * len(of)) and of["run"].isna().all()
        paper = line(of, source="Table 1", categories="seen", dataset="Average")
        assert paper["paper"] == paper_facts.value("Table 1", f"Fine-R1-{other}", "seen")
        assert paper["difference"] == pytest.approx(85 - paper["paper"])
        own = table[table["paper_row"] == f"Fine-R1-{size}"]
        assert set(own["model"]) == {"cot_sft_tapo"} and own["released"].isna().all()


def test_systems_asked_in_a_released_checkpoint_s_run_have_their_lines(paper_run, tmp_path):
    rows = rows_of(SETS, 0.88, ("base", "base_cot_prompt", "siglip-l"))
    released = write_run(tmp_path, "r", rows=rows, checkpoint="StevenHH2000/Fine-R1-3B", systems=["siglip-l"])
    for table in (comparison_table(released), comparison_table(paper_run, released)):
        of = line(table, source="Table 1", model="siglip-l", categories="unseen", dataset="Average")
        assert (of["paper"], of["run"]) == (80.54, pytest.approx(88.0)) and pd.isna(of["released"])


def test_a_released_stage_1_beside_the_whole_released_model_of_the_run(tmp_path):
    rows = rows_of(SETS) + rows_of(SETS, value=0.85, models=("fine-r1-3b",))
    run = write_run(tmp_path, "run", rows=rows, systems=["fine-r1-3b"])
    stage1 = released_run(tmp_path, "stage1", "StevenHH2000/Fine-R1-3B-Stage1")
    table = comparison_table(run, stage1)
    table = table[table["dataset"] == "Average"]
    assert table[table["model"] == "cot_sft_tapo"]["released"].tolist() == pytest.approx([85.0] * 6)
    assert table[table["model"] == "cot_sft"]["released"].tolist() == pytest.approx(
        [88.0] * (table["model"] == "cot_sft").sum())  # fmt: skip


def test_a_name_of_the_registry_with_other_weights_is_no_row_of_the_paper(tmp_path):
    rows = rows_of(SETS) + rows_of(SETS, value=0.99, models=("clip-l", "fine-r1-3b"))  # the second of more_models
    for change in ({"checkpoint": "me/other"}, {"kind": "endpoint", "url": "http://localhost:8000/v1"}):
        other = known_systems()["clip-l"].model_dump(mode="json") | change
        table = comparison_table(write_run(tmp_path, f"run {list(change)[0]}", rows=rows, systems=[other]))
        assert "clip-l" not in set(table["model"]) and table["released"].isna().all()


def test_of_several_similarities_the_paper_s_is_taken(tmp_path):
    rows = rows_of(SETS, value=0.5, variant="trigram") + [
        row for row in rows_of(SETS) if row["metric"] == "relative_semantic_similarity"]
    table = comparison_table(write_run(tmp_path, "run", rows=rows))
    of = table[table["metric"] == "relative_semantic_similarity"]
    assert of["run"].tolist() == pytest.approx([80.0] * len(of)) and len(of)
