"""Several seeds pooled: hand-worked means and differences, coverage, and runs that may not be pooled."""

import json
import signal
import sys

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from finer1_lib.commands import cli
from finer1_lib.commands.seeds import crossed_mean, pool, read_runs, tables
from finer1_lib.core import hashing
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import append_jsonl, atomic_write_json, read_json
from finer1_lib.runs.chain import NEEDS, STAGES

NAMES = {"bird": ["Dunen Wren", "Marlo Wren", "Tarn Finch", "Sorel Finch"],
         "aircraft": ["Bodan Scout", "Kelow Scout", "Lusk Jetliner", "Orm Jetliner"]}
LABELS = {"cot_sft_dapo": "CoT SFT + DAPO", "cot_sft_tapo": "CoT SFT + TAPO"}
TRAINED = [{"name": n, "label": label, "adapter": f"03_tapo/{n}", "prompt": "cot"}
           for n, label in LABELS.items()]
MODELS = ("cot_sft", "cot_sft_dapo", "cot_sft_tapo")


def make_run(root, name, seed, right, *, names=NAMES, models=MODELS, **settings):
    """A finished run by hand: one picture of each sub-category, answered rightly where `right` says so.

    Args:
        right: function of (model, sub_category, setting), e.g. lambda *_: True.
        settings: of notebook 03.
    """
    run = root / name
    for stage in STAGES[:5]:
        folder = run / stage
        folder.mkdir(parents=True)
        parameters = {"run_name": name, "seed": seed, **({"steps": 40, **settings} if stage == "03_tapo" else {})}
        if stage == "03_tapo":
            atomic_write_json(folder / "models.json", TRAINED)
        if stage == "04_evaluation":
            for model in models:
                for setting in ("closed_world", "open_world"):
                    append_jsonl(folder / "records.jsonl", *_records(model, setting, seed, right, names))
        outputs = hashing.recorded_hashes(folder)
        needs = {need: read_json(run / need / "stage.json")["digest"] for need in NEEDS[stage]}
        record = {"parameters": parameters, "seed": seed, "needs": needs, "outputs": outputs,
                  "digest": hashing.digest(outputs), "git_commit": "abc"}
        atomic_write_json(folder / "stage.json", record)
    return run


def _records(model, setting, seed, right, names):
    for super_category, group in names.items():
        for place, name in enumerate(group):
            answer = name if right(model, name, setting) else "Some Other"
            yield {"item_id": f"{name}/{seed}.png", "image_id": f"{name}/{seed}.png", "model": model,
                   "setting": setting, "super_category": super_category, "sub_category": name,
                   "categories": "seen" if place < 2 else "unseen", "option_order": None,
                   "completion": f"<think>a</think><answer>{answer}</answer>"}


def only(*names):
    return lambda model, name, setting: name in names


@pytest.fixture
def three(tmp_path):
    """CoT SFT always wrong, DAPO right on the first bird, TAPO on more the higher the seed."""
    known = {0: ["Dunen Wren"], 1: ["Dunen Wren", "Marlo Wren"]}
    known[2] = [*known[1], "Bodan Scout"]

    def right(seed):
        return lambda model, name, _: name in {
            "cot_sft": [], "cot_sft_dapo": ["Dunen Wren"], "cot_sft_tapo": known[seed]}[model]

    for seed in known:
        make_run(tmp_path, f"seed{seed}", seed, right(seed))
    return str(tmp_path)


RUNS = ["seed0", "seed1", "seed2"]


def one(rows, **wanted):
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def test_means_and_differences_by_hand(three):
    pooled = pool(read_runs(RUNS, three))
    seen = dict(setting="closed_world", metric="accuracy", categories="seen")
    tapo = one(pooled["rows"], model="cot_sft_tapo", **seen)
    # seen: 2 birds, 2 aircraft; birds 1/2, 2/2, 2/2, aircraft 0, 0, 1/2, averaged without weights
    assert tapo["per_seed"] == [0.25, 0.5, 0.75] and tapo["value"] == pytest.approx(0.5)
    assert (tapo["n"], tapo["clusters"], tapo["label"]) == (12, 4, "CoT SFT + TAPO")
    assert tapo["low"] < 0.5 < tapo["high"]
    gain = one(pooled["differences"], first="cot_sft_tapo", second="cot_sft_dapo", **seen)
    assert gain["per_seed"] == [0.0, 0.25, 0.5] and gain["value"] == pytest.approx(0.25)
    assert gain["reading"] == "cannot tell" and gain["p"] == pytest.approx(0.5)  # ++ and -- of four flips
    none = one(pooled["rows"], model="cot_sft", **seen)
    assert none["value"] == none["low"] == 0 and none["high"] > 0.5  # 0 of 4 sub-categories: no certainty
    pairs = {(row["first"], row["second"]) for row in pooled["differences"]}
    against = {"cot_sft_dapo": ["cot_sft"], "cot_sft_tapo": ["cot_sft", "cot_sft_dapo"]}
    assert pairs == {(first, second) for first, others in against.items() for second in others}
    assert len(pooled["rows"]) == 3 * 4 and len(pooled["differences"]) == 3 * 4
    assert [run["seed"] for run in pooled["runs"]] == [0, 1, 2]
    json.dumps(pooled, allow_nan=False)


def test_each_seed_s_value_is_the_one_of_its_own_summary(three):
    from finer1_lib.core.files import read_jsonl
    from finer1_lib.evaluation.scores.scoring import make_scorer, pick, score_records, summary_rows

    pooled = pool(read_runs(RUNS, three))
    for place, run in enumerate(RUNS):
        records = read_jsonl(f"{three}/{run}/04_evaluation/records.jsonl")
        rows = summary_rows(score_records(records, [make_scorer("strict")]), seed=0)
        for row in pooled["rows"]:
            wanted = {key: row[key] for key in ("model", "setting", "metric", "categories")}
            (own,) = pick(rows, dataset="average", **wanted).to_dict("records")
            assert row["per_seed"][place] == pytest.approx(own["value"])


def test_the_order_of_the_runs_changes_nothing_but_the_order(three):
    first, second = pool(read_runs(RUNS, three)), pool(read_runs(RUNS[::-1], three))
    for one_row, other in zip(first["rows"], second["rows"]):
        assert one_row["per_seed"] == other["per_seed"][::-1]
        assert one_row["value"] == pytest.approx(other["value"])


def test_tables_say_everything(three):
    means, minus, orders = tables(pool(read_runs(RUNS, three))).values()
    assert means[0] == ["model", "setting", "categories", "mean [95 % interval]", "seeds 0, 1, 2", "n"]
    (line,) = [x for x in means[1] if x[:3] == ["CoT SFT + TAPO", "closed world", "seen"]]
    assert line[3].startswith("50.0 [") and line[4:] == ["25.0, 50.0, 75.0", "12"]
    wanted = ["CoT SFT + TAPO minus CoT SFT + DAPO", "open world", "unseen"]
    (line,) = [x for x in minus[1] if x[:3] == wanted]
    assert line[3].startswith("0.0 [-") and line[4:] == ["0.0, 0.0, 0.0", "1", "cannot tell"]


def test_the_paper_s_orderings_over_seeds(tmp_path):
    """TAPO right on every bird, but for three unseen ones in the last seed; CoT SFT on none."""
    names = {"bird": [f"{'Abcdefghijklmnopqrst'[n]}ora Wren" for n in range(20)]}
    for seed in range(3):
        missed = names["bird"][-3:] if seed == 2 else []

        def right(model, name, setting, missed=missed):
            return model != "cot_sft" and (model == "cot_sft_dapo" or name not in missed)

        make_run(tmp_path, f"seed{seed}", seed, right, names=names)
    pooled = pool(read_runs(RUNS, str(tmp_path)))
    assert len(pooled["orderings"]) == 6 and {row["figure"] for row in pooled["orderings"]} == {"Figure 3c"}
    unseen = dict(categories="unseen", first="cot_sft_tapo")
    gain = one(pooled["orderings"], second="cot_sft", **unseen)
    assert (gain["metric"], gain["holds"]) == ("relative_semantic_similarity", "holds")
    assert gain["paper_difference"] == pytest.approx(0.0263)  # 61.29 - 58.66
    assert gain["per_seed"][0] == gain["per_seed"][1] > gain["per_seed"][2] > 0.5
    assert gain["low"] < gain["difference"] == pytest.approx(sum(gain["per_seed"]) / 3)
    close = one(pooled["orderings"], second="cot_sft_dapo", **unseen)
    assert close["difference"] < 0 < close["paper_difference"] and close["holds"] == "cannot tell"
    seen = one(pooled["orderings"], second="cot_sft", first="cot_sft_tapo", categories="seen")
    assert seen["holds"] == "cannot tell"  # two sub-categories
    json.dumps(pooled, allow_nan=False)
    *_, (titles, lines) = tables(pooled).values()
    assert titles[-1] == "here" and len(lines) == 6
    assert lines[0][:3] == ["Figure 3c", "+ DAPO above CoT SFT", "seen"]
    assert not any("61.29" in cell or "2.6" == cell for line in lines for cell in line)


def test_another_order_of_the_options_is_another_question(tmp_path):
    """Records in the release's order beside the others change nothing."""
    plain = make_run(tmp_path, "seed0", 0, only("Dunen Wren"))
    make_run(tmp_path, "seed1", 1, only("Dunen Wren"))
    before = pool(read_runs(["seed0", "seed1"], str(tmp_path)))
    stage = plain / "04_evaluation"
    extra = [{**record, "option_order": "release"}
             for record in _records("cot_sft", "closed_world", 0, lambda *_: True, NAMES)]
    append_jsonl(stage / "records.jsonl", *extra)
    outputs = hashing.recorded_hashes(stage, skip=("stage.json",))
    told = {**read_json(stage / "stage.json"), "outputs": outputs, "digest": hashing.digest(outputs)}
    atomic_write_json(stage / "stage.json", told)
    assert pool(read_runs(["seed0", "seed1"], str(tmp_path))) == before


def test_a_model_that_has_no_open_world_has_no_row_there(tmp_path):
    """An encoder compares pictures with options; it is pooled where it was asked, and nowhere else."""
    for seed in (0, 1):
        stage = make_run(tmp_path, f"seed{seed}", seed, only("Dunen Wren")) / "04_evaluation"
        own = [record for record in _records("clip", "closed_world", seed, only("Dunen Wren"), NAMES)
               if record["model"] == "clip"]
        append_jsonl(stage / "records.jsonl", *[{**record, "completion": f"<answer>{record['sub_category']}"
                                                 "</answer>"} for record in own])
        known = read_json(stage / "stage.json")
        known["parameters"]["more_models"] = ["clip=answer:owner/name"]
        known["outputs"] = hashing.recorded_hashes(stage, skip=("stage.json",))
        known["digest"] = hashing.digest(known["outputs"])
        atomic_write_json(stage / "stage.json", known)
    pooled = pool(read_runs(["seed0", "seed1"], str(tmp_path)))
    assert {row["setting"] for row in pooled["rows"] if row["model"] == "clip"} == {"closed_world"}
    compared = {row["setting"] for row in pooled["differences"] if "clip" in (row["first"], row["second"])}
    assert compared <= {"closed_world"}
    assert all(row["value"] == 1 for row in pooled["rows"] if row["model"] == "clip" and row["categories"] == "seen")


# ---------------------------------------------------------------- refusals


def refusal(names, root):
    with pytest.raises(UserError) as error:
        read_runs(names, str(root))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_runs_that_may_not_be_pooled(three, tmp_path):
    yes = only("Dunen Wren")
    assert "name at least two" in refusal(["seed0"], three)
    assert "run 'nothing' has not finished 04_evaluation" in refusal(["seed0", "nothing"], three)
    make_run(tmp_path, "twin", 0, yes)
    assert "runs seed0 and twin have the same seed 0" in refusal(["seed0", "seed1", "twin"], three)
    assert "runs seed0 and seed0 have the same seed 0" in refusal(["seed0", "seed0"], three)
    make_run(tmp_path, "aside", 5, yes, wrong_turn_eta=9.0, option_orders=["shuffled", "release"])  # of what is not pooled
    assert len(read_runs(["seed0", "aside"], str(three))) == 2
    make_run(tmp_path, "longer", 3, yes, steps=60)
    line = refusal(["seed0", "longer"], three)
    assert "seed0 and longer differ in 03_tapo.steps (40 and 60): only seeds may differ" in line
    make_run(tmp_path, "others", 4, yes, names={**NAMES, "bird": [*NAMES["bird"][:3], "X Y"]})
    line = refusal(["seed0", "others"], three)
    assert "seed0 and others were not evaluated on the same sub-categories" in line
    make_run(tmp_path, "fewer", 5, yes, models=MODELS[:2])
    assert "seed0 and fewer were not evaluated on the same models" in refusal(["seed0", "fewer"], three)


def test_a_stage_made_anew_or_a_record_touched_unfinishes_a_run(three, tmp_path):
    stage = tmp_path / "seed1" / "03_tapo" / "stage.json"
    atomic_write_json(stage, {**read_json(stage), "digest": "another"})
    assert "run 'seed1' has not finished 04_evaluation" in refusal(RUNS, three)
    records = tmp_path / "seed0" / "04_evaluation" / "records.jsonl"
    records.write_text(records.read_text().replace("Some Other", "Dunen Wren"))
    assert "records.jsonl is not what 04_evaluation recorded" in refusal(["seed0", "seed2"], three)


def test_a_run_of_several_seeds_has_no_seed(three, tmp_path):
    for stage in STAGES[3:5]:
        path = tmp_path / "seed1" / stage / "stage.json"
        atomic_write_json(path, {**read_json(path), "seed": 9})
    assert "the stages of run 'seed1' have several seeds (1, 9)" in refusal(["seed0", "seed1"], three)


# ---------------------------------------------------------------- the interval


def test_a_single_seed_or_sub_category_has_no_interval():
    alone = crossed_mean([[1, 0]], [["a", "b"]], [["x", "x"]])
    assert alone.value == 0.5 and alone.low is None
    group_of_one = crossed_mean([[1, 0, 1]] * 2, [["a", "b", "c"]] * 2, [["x", "x", "y"]] * 2)
    assert group_of_one.low is None and group_of_one.value == 0.75


def test_seeds_that_differ_widen_the_interval():
    clusters, groups = [list(range(40))] * 3, [["x"] * 40] * 3
    pattern = np.tile([0.0, 1.0], 20)
    same = crossed_mean([pattern] * 3, clusters, groups)
    apart = crossed_mean([np.clip(pattern + shift, 0, 1) for shift in (-0.4, 0.0, 0.4)], clusters, groups)
    assert same.value == pytest.approx(0.5) and apart.value == pytest.approx(0.5)
    assert apart.high - apart.low > 1.3 * (same.high - same.low)


def test_equal_scores_fall_back_on_the_exact_interval():
    clusters, groups = [list(range(20))] * 3, [["x"] * 20] * 3
    never = crossed_mean([[0] * 20] * 3, clusters, groups)
    bound = 1 - 0.025 ** (1 / 20)  # of 20 sub-categories, not of 60
    assert (never.low, never.high) == (0.0, pytest.approx(bound))
    equal = crossed_mean([[0] * 20] * 3, clusters, groups, lowest=-1.0)
    assert equal.low == pytest.approx(-equal.high) and equal.high > 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1), min_size=6, max_size=6), min_size=2, max_size=4), st.integers(0, 3))
def test_the_value_lies_inside_its_interval_and_the_interval_in_the_unit(values, seed):
    groups = [["x", "x", "x", "y", "y", "y"]] * len(values)
    estimate = crossed_mean(values, [list("abcdef")] * len(values), groups, seed=seed)
    assert estimate.value == pytest.approx(np.mean(values))
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_the_interval_covers_the_truth(spread):
    """Three seeds and 40 sub-categories of unequal ease: about 95 in 100 intervals hold the truth."""
    rng, hits, tries = np.random.default_rng(3), 0, 120
    draws = np.random.default_rng(4).normal(0, np.sqrt(spread**2 + 1), 200_000)
    truth = (1 / (1 + np.exp(-draws))).mean()
    for _ in range(tries):
        ease = rng.normal(0, spread, (3, 1)) + rng.normal(0, 1, 40)
        scores = rng.binomial(4, 1 / (1 + np.exp(-ease))) / 4
        estimate = crossed_mean(scores, [list(range(40))] * 3, [["x"] * 40] * 3)
        hits += estimate.low <= truth <= estimate.high
    assert hits / tries >= 0.88


# ---------------------------------------------------------------- the command and the figure


def run_command(monkeypatch, capsys, *words):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["finer1", "seeds", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_the_command_prints_and_writes(three, tmp_path, monkeypatch, capsys):
    numbers, figure = tmp_path / "new" / "seeds.json", tmp_path / "seeds.png"
    code, out, err = run_command(monkeypatch, capsys, *RUNS, "--output-root", three,
                                 "--json", str(numbers), "--figure", str(figure))
    assert code == 0 and not err
    assert "mean over seeds" in out and "25.0, 50.0, 75.0" in out and "cannot tell" in out
    assert json.loads(numbers.read_text()) == pool(read_runs(RUNS, three))
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_the_command_s_mistakes_are_one_line(three, monkeypatch, capsys):
    for words, message in ((["seed0", "gone"], "'gone' has not finished"), (["seed0"], "at least two"),
                           ([*RUNS, "--figure", "seeds.xyz"], "must end in .png"),
                           ([*RUNS, "--json", three], "cannot write to")):
        code, _, err = run_command(monkeypatch, capsys, *words, "--output-root", three)
        assert code == 2 and err.startswith("finer1: ") and err.count("\n") == 1 and message in err


def test_the_figure_shows_every_seed(three):
    import pandas as pd

    from finer1_lib.evaluation.plots import seed_dots

    figure = seed_dots(pd.DataFrame(pool(read_runs(RUNS, three))["rows"]))
    assert len(figure.axes) == 4
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in dots] == [[0, 0, 0], [25, 25, 25], [25, 50, 75]]
