"""The records of a real run that are kept in git: complete, small, and the source of the README's numbers."""

import gzip
import json
import re
from pathlib import Path

import pytest

from finer1_lib.evaluation.entries import all_entries, labels_of
from finer1_lib.evaluation.scores.scoring import make_scorer, pick, score_records, summary_rows
from finer1_lib.evaluation.summary import KEYS, check_rows, main_table
from finer1_lib.paper.orderings import left_out
from finer1_lib.runs.chain import STAGES

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "outputs" / "reference"
LIMIT = 5_000_000  # bytes in all, of which a quarter are the two adapters that a lesson needs


def stored(name):
    return json.loads((REFERENCE / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def labels():
    return labels_of(all_entries(stored("03_tapo/models.json")))


@pytest.fixture(scope="module")
def records():
    with gzip.open(REFERENCE / "04_evaluation" / "records.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def readme_tables():
    """Every table of the README whose first column is "model": (other column titles, lines of cells)."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for block in re.findall(r"^\| *model *\|.*\n\|[-|: ]+\n(?:\|.*\n)+", text, flags=re.M):
        titles, _, *lines = [re.split(r" *\| *", line.strip("| ")) for line in block.splitlines()]
        yield titles[1:], lines


def test_everything_is_there_small_and_of_no_one_s_machine():
    files = [path for path in REFERENCE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LIMIT
    names = ["README.md", "summary.json", "seeds.json", "seeds.png", "03_tapo/models.json",
             "04_evaluation/records.jsonl.gz", "04_evaluation/comparisons.csv", "ablation/seeds.json",
             "02_cot_sft/cot_sft/adapter_model.safetensors",
             "03_tapo/cot_sft_tapo/adapter_model.safetensors"]  # fmt: skip
    for name in names + [f"{stage}/{file}.json" for stage in STAGES for file in ("stage", "metrics")]:
        assert (REFERENCE / name).is_file(), name
    for entry in stored("03_tapo/models.json"):
        if entry["adapter"].startswith("03_tapo/"):  # the others come from notebook 02
            assert (REFERENCE / "03_tapo" / f"metrics_{entry['name']}.csv").is_file(), entry["name"]
    for path in files:
        assert path.suffix in (".json", ".csv", ".png", ".md", ".gz", ".safetensors", ".jinja"), path.name
        if path.suffix not in (".png", ".gz", ".safetensors"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(/home/|/root/|/tmp/|/Users/|/work/)", text), path
    told = (REFERENCE / "README.md").read_text(encoding="utf-8")
    assert "finer1 run miniature" in told and stored("04_evaluation/stage.json")["git_commit"][:7] in told


def test_the_stages_belong_together():
    stages = {stage: stored(f"{stage}/stage.json") for stage in STAGES}
    for stage, record in stages.items():
        assert record["seed"] == 0
        assert record["needs"] == {need: stages[need]["digest"] for need in record["needs"]}, stage
    assert stored("seeds.json")["runs"][0]["seed"] == 0
    assert len({run["seed"] for run in stored("seeds.json")["runs"]}) >= 3


def test_every_score_comes_from_the_records(records, labels):
    """The strict scores of the main table, made again from the records, interval and all."""
    rows = check_rows(stored("summary.json"), "summary.json", labels)
    again = summary_rows(score_records(records, [make_scorer("strict")]), seed=0)
    for metric, setting in (("accuracy", "closed_world"), ("text_inclusion", "open_world")):
        wanted = dict(scorer="strict", metric=metric, setting=setting)
        kept, made = (pick(table, **wanted) for table in (rows, again))
        kept, made = (table[table["model"].isin(labels)].sort_values(list(KEYS[:8]), ignore_index=True)
                      for table in (kept, made))  # without the control, which no record is kept of
        orders = {"closed_world": {"shuffled", "release"}, "open_world": {None}}[setting]
        assert {order if isinstance(order, str) else None for order in kept["option_order"]} == orders
        assert len(kept) == len(labels) * 2 * 3 * len(orders) and set(kept["model"]) == set(labels)
        assert kept["n"].tolist() == made["n"].tolist()
        for column in ("value", "low", "high"):
            assert kept[column].tolist() == pytest.approx(made[column].tolist(), nan_ok=True)


def test_the_first_seed_s_values_are_the_run_s(labels):
    rows = stored("summary.json")
    for row in stored("seeds.json")["rows"]:
        wanted = {key: row[key] for key in ("model", "setting", "metric", "categories")}
        wanted["option_order"] = "shuffled" if row["setting"] == "closed_world" else None
        (own,) = pick(rows, dataset="average", scorer="strict", **wanted).to_dict("records")
        assert row["per_seed"][0] == pytest.approx(own["value"])
        assert row["value"] == pytest.approx(sum(row["per_seed"]) / len(row["per_seed"]))
    assert {row["model"] for row in stored("seeds.json")["rows"]} == set(labels)


def test_every_number_of_the_readme_s_tables_comes_from_here(labels):
    """A table of the README is the one run's main table or the one over seeds, cell by cell."""
    titles, one_run = main_table(stored("summary.json"), labels=labels)
    pooled = [{**dict.fromkeys(KEYS), "scorer": "strict", "dataset": "average", **row}
              for row in stored("seeds.json")["rows"]]
    over_seeds = main_table(pooled, labels=labels)[1]
    sources = [{line[0]: tuple(line[1:]) for line in lines} for lines in (one_run, over_seeds)]
    short = [title.replace(" world", "") for title in titles[1:]]
    tables = list(readme_tables())
    assert tables, "the README has no table of models"
    for columns, lines in tables:
        assert [column.replace(" world", "") for column in columns] == short
        shown = {line[0]: tuple(line[1:]) for line in lines}
        assert len(shown) == len(lines) > 0
        assert any(shown.items() <= source.items() for source in sources), shown


def test_what_the_readme_says_of_the_orderings_is_what_the_ablation_found():
    """The counts in words, and every bar of the paper's figures among the models."""
    ablation = stored("ablation/seeds.json")
    counts = {word: sum(row["holds"] == word for row in ablation["orderings"])
              for word in ("holds", "reversed", "cannot tell")}
    told = (f"of {len(ablation['orderings'])} orderings {counts['holds']} hold, {counts['reversed']} are reversed and "
            f"{counts['cannot tell']} are undecided")
    text = " ".join((REFERENCE / "README.md").read_text(encoding="utf-8").split())
    assert told in text
    assert set(left_out({row["model"] for row in ablation["rows"]})) == {"Figure 3b"} and len(ablation["runs"]) >= 2


def test_what_is_kept_is_what_its_stage_recorded():
    """Pictures are kept in fewer colours; everything else is the run's own, to the byte."""
    from finer1_lib.core.hashing import sha256_file

    looked = 0
    for record in REFERENCE.glob("0*/stage.json"):
        for name, sha in json.loads(record.read_text("utf-8"))["outputs"].items():
            file = record.parent / name
            if file.is_file() and file.suffix != ".png":
                assert sha256_file(file) == sha, file.name
                looked += 1
    assert looked > 20
