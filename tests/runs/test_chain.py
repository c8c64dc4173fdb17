"""All six notebooks, for real, in one chain at a tiny size; then the same command again, which does nothing.

The pictures are a small drawn folder with its guide, handed over as a user's own folder would be, so that the
chain takes minutes; the drawn world as a whole is what `finer1 run miniature` runs.
"""

import json
import time
from collections import Counter

import pytest
from fixture_kit import CHECKOUT, finer1

from finer1_lib.core.files import read_jsonl
from finer1_lib.evaluation.summary import CATEGORIES, KEYS, labels_in
from finer1_lib.runs.chain import STAGES
from finer1_lib.training.methods import CONTROLS

SEEN, UNSEEN = 5, 3  # sub-categories of each super-category; the genus gap needs so many
IMAGES = 5  # 3 shots and 2 for testing
SIZES = {
    "00_miniature_world": {"images_per_sub_category": 2, "card_pictures": 0},
    "01_data": {"num_shots": 3, "attempts": 3, "prototype_images": 2, "quality_draws": 2},
    "02_cot_sft": {"cot_epochs": 1, "answer_epochs": 1, "max_new_tokens": 32,
                   "settings_compared": "[cot_full]"},
    "03_tapo": {"n_anchor": 2, "n_positive": 2, "steps": 2, "prompts_per_step": 2, "micro_batch_size": 8,
                "max_sampling_rounds": 1, "max_new_tokens": 140, "methods": "[tapo,no_thinking_rl]",
                "wrong_turns": "[containment]", "wrong_turn_steps": 2, "wrong_turn_prompts": 2},
    "04_evaluation": {"images_per_class": 1, "max_new_tokens": 64},
    "05_probing": {"layers": "[1,2]", "layer": 2, "h1_train_images": 2, "h1_test_images": 1, "h2_repeats": 2,
                   "h3_images": 1, "h3_folds": 3},
}

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(len(list((CHECKOUT / "notebooks").glob("0*.ipynb"))) < len(STAGES),
                       reason="not all notebooks are here"),
]


def small_guide():
    """The shipped guide cut to a few sub-categories, seen and unseen as they are there."""
    from finer1_lib.miniature.world import make_guide

    guide, kept = make_guide(), []
    entries = guide["sub_categories"]
    for super_category in guide["super_categories"]:
        own = [name for name in entries if entries[name]["super_category"] == super_category]
        kept += [name for name in own if name in guide["seen"]][:SEEN]
        kept += [name for name in own if name in guide["unseen"]][:UNSEEN]
    return {**guide, "sub_categories": {name: entries[name] for name in kept},
            "seen": [name for name in guide["seen"] if name in kept],
            "unseen": [name for name in guide["unseen"] if name in kept]}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """The command, and what it did the first time: (command, run folder, exit code, stdout, stderr)."""
    from finer1_lib.miniature.drawing import write_world

    root = tmp_path_factory.mktemp("chain")
    guide = small_guide()
    write_world(guide, root / "pictures", IMAGES, 7)
    (root / "guide.json").write_text(json.dumps(guide), encoding="utf-8")
    settings = {stage: dict(values) for stage, values in SIZES.items()}
    settings["01_data"] |= {"image_root": root / "pictures", "guide_file": root / "guide.json"}
    command = ["run", "miniature", "--run-name", "tiny", "--output-root", str(root / "runs")]
    for stage, values in settings.items():
        for key, value in values.items():
            command += ["--set", f"{stage}.{key}={value}"]
    began = time.monotonic()
    code, out, err = finer1(CHECKOUT, *command)
    print(f"the chain took {time.monotonic() - began:.0f} s")
    return command, root / "runs" / "tiny", code, out, err


def test_every_notebook_runs_and_leaves_its_record(chain):
    _, run, code, out, err = chain
    assert code == 0, err + out
    for stage in STAGES:
        record = json.loads((run / stage / "stage.json").read_text())
        assert record["stage"] == stage and record["outputs"] and record["seconds"] > 0
        assert (run / f"{stage}.ipynb").is_file() and (run / stage / "metrics.json").is_file()
        assert f"[{stage}]" in out  # progress lines are shown as they come
        for name in record["outputs"]:
            assert not name.endswith((".pt", ".pkl", ".bin", ".pickle")), f"{stage} wrote {name}"
    for figure in run.glob("*/figures/*.png"):
        assert figure.with_suffix(".csv").is_file(), figure
    assert not list(run.rglob(".tmp-*")) and not list(run.glob("*.previous"))


def test_summary_keeps_the_contract(chain):
    run = chain[1]
    rows, models = json.loads((run / "summary.json").read_text()), labels_in(run)
    assert models["cot_sft_tapo"] == "CoT SFT + TAPO" and "base_no_thinking_rl" in models
    assert all(set(row) == set(KEYS) for row in rows)
    for row in rows:
        assert row["model"] in (*models, *CONTROLS) and row["categories"] in (*CATEGORIES, "all")
        assert row["dataset"] in ("bird", "aircraft", "average")
        assert row["setting"] in ("closed_world", "open_world", "probing")
        assert row["scorer"] == (None if row["setting"] == "probing" else row["scorer"])
        assert row["scorer"] in ("official", "strict", None)
        assert row["option_order"] in (("shuffled", "release") if row["setting"] == "closed_world" else (None,))
        assert row["n"] > 0 and row["seed"] == 0
        if row["low"] is not None:
            assert row["low"] <= row["value"] <= row["high"]
        if row["metric"] not in ("h2_genus_gap", "relative_semantic_similarity_unclipped"):
            assert 0 <= row["value"] <= 1
    names = [key for key in KEYS if key not in ("value", "low", "high", "n")]
    keys = Counter(tuple(row[name] for name in names) for row in rows)
    assert max(keys.values()) == 1, keys.most_common(1)
    found = {(row["model"], row["metric"], row["dataset"], row["categories"], row["scorer"]) for row in rows}
    for model in models:
        for metric in ("accuracy", "text_inclusion", "relative_semantic_similarity"):
            assert (model, metric, "average", "unseen", "strict") in found
        assert (model, "accuracy", "bird", "seen", "official") in found
    for model in ("base", "cot_sft", "cot_sft_tapo"):
        for metric in ("h1_probe_accuracy", "h2_genus_gap", "h3_auc"):
            assert (model, metric, "average", "all", None) in found
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "TAPO" in report and "<img" in report


def test_every_score_comes_from_the_records(chain):
    """One number of the summary, recomputed from records.jsonl alone by the plainest of means."""
    run = chain[1]
    records, models = read_jsonl(run / "04_evaluation" / "records.jsonl"), labels_in(run)
    asked = {(r["model"], r["setting"], r["option_order"], r["rotation"], r["item_id"]) for r in records}
    assert len(asked) == len(records) == len(models) * 3 * 2 * (SEEN + UNSEEN)  # shuffled, release, open world
    rows = json.loads((run / "summary.json").read_text())
    control = [row for row in rows if row["model"] == "always_first" and row["metric"] == "accuracy"]
    assert {row["value"] for row in control if row["option_order"] == "release"} == {1.0}
    for model in models:
        said = [r for r in records if (r["model"], r["option_order"], r["super_category"], r["categories"])
                == (model, "shuffled", "bird", "seen")]
        right = [r["completion"].count("<answer>") == 1
                 and f"<answer>{r['sub_category']}</answer>" in r["completion"] for r in said]
        keys = ("model", "dataset", "metric", "categories", "scorer", "option_order")
        wanted = (model, "bird", "accuracy", "seen", "strict", "shuffled")
        (row,) = [row for row in rows if tuple(row[key] for key in keys) == wanted]
        assert row["n"] == len(said) == SEEN and row["value"] == pytest.approx(sum(right) / len(right))


def test_the_same_command_again_skips_every_stage(chain):
    command, run, code, *_ = chain
    assert code == 0
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    summary = (run / "summary.json").read_text()
    again, out, err = finer1(CHECKOUT, *command)
    assert again == 0, err
    assert out.count("finished earlier with the same parameters and inputs: skipped") == len(STAGES)
    assert (run / "summary.json").read_text() == summary
    changed = {path.name for path, when in before.items() if path.stat().st_mtime_ns != when}
    assert {name for name in changed if name[0] != "."} <= {"summary.json", "report.html"}
