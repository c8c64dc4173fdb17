"""Traces of checkpoints from elsewhere: no guide, the release's two marker lines, a model of another name."""

import json
import os
from pathlib import Path

import matplotlib
import pytest

matplotlib.use("Agg")

from finer1_lib.data.data_sets.catalogue import official_names  # noqa: E402
from finer1_lib.traces import changes, changes as reading, plots, statistics  # noqa: E402
from finer1_lib.traces.plots import flow_figure  # noqa: E402
from finer1_lib.traces.sheet import write_sheet  # noqa: E402

GUIDED = ("attributes_right", "attributes_misread", "all_read", "claims_true", "marks_consistent", "invents")
LABELS = {"base_cot_prompt": "base + four-part prompt", "fine-r1-3b": "Fine-R1-3B"}
NAMES = ["Rock Wren", "House Wren", "Sage Thrasher", "Brown Creeper"]


def said(truth, answer=None, listed=None):
    """A rationale in the release's layout; the words are ours."""
    listed = "\n".join(f"{number}. **{name}** (Aves): a small bird" for number, name in
                       enumerate(listed or NAMES, start=1))
    return ("<think> A slim bill and a pale brow above grey stone.\n\n"
            f"The analysis of candidate subcategories:\n{listed}\n\nThe bill is longer than in the others, and the back is grey.\n\n"
            f"The prediction is:\nThe bird is a {truth}.</think>\n\n<answer> {answer or truth} </answer>")


def record(model, number, completion):
    name = NAMES[number % 4]
    return {"model": model, "item_id": f"i{number}", "image_id": f"{number}.png", "super_category": "bird",
            "sub_category": name, "categories": "seen" if number % 2 else "unseen", "completion": completion,
            "tokens": 60, "prompt_name": "cot_open", "setting": "open_world", "option_order": None}


def test_a_released_checkpoint_without_a_guide_goes_through_every_table_and_figure(tmp_path):
    from PIL import Image

    records = []
    for number in range(8):
        Image.new("RGB", (30, 30), (20 * number, 90, 90)).save(tmp_path / f"{number}.png")
        own = NAMES[number % 4]
        records.append(record("base_cot_prompt", number, "It may be a bird." if number < 6 else said(own)))
        wrong = {0: said("House Wren"), 1: said(own, "Rock Wren"), 2: said("Rock Wren", listed=NAMES[:2])}
        records.append(record("fine-r1-3b", number, wrong.get(number, said(own))))
    table = statistics.trace_table(records, {})
    assert table[list(GUIDED)].isna().all().all()
    released = table[table["model"] == "fine-r1-3b"].sort_values("item_id")
    wrong = ["prediction_differs", "answer_differs", "candidate_missing"]
    assert list(released["step"]) == wrong + ["right"] * 5
    assert list(released["candidates"]) == [4, 4, 2] + [4] * 5 and released["complete"].eq(1).all()
    assert statistics.problems(table, LABELS).loc["fine-r1-3b", "complete"] == 8
    numbers = statistics.statistics(table, seed=0, labels=LABELS)
    assert not set(numbers["quantity"]) & set(GUIDED) and set(numbers["model"]) == set(LABELS)
    pair = changes.before_and_after(["base_cot_prompt", "fine-r1-3b"])
    found = changes.changes(table, *pair, seed=0)
    assert not set(found["quantity"]) & set(GUIDED) and len(found)
    flows = changes.flow(table, *pair)
    turned = [changes.turns(flows, kind) for kind in ("seen", "unseen")]
    assert [(one["mended"], one["broken"], one["right_twice"]) for one in turned] == [(2, 0, 1), (1, 0, 1)]
    levels, gains = reading.reading_and_use(table, pair, seed=0)
    assert levels.empty and gains.empty
    steps = statistics.tally_steps(table, seed=0)
    assert steps.loc[steps["step"].isin(["misread_attribute", "comparison_contradicts"]), "count"].sum() == 0
    for figure in (plots.dots(numbers, LABELS), plots.dots(numbers, LABELS, unit="words"),
                   plots.wrong_steps(steps, LABELS), flow_figure(flows, *pair, LABELS)):
        assert figure.axes
    sheet = write_sheet(tmp_path / "traces.html", records, tmp_path, {}, LABELS, seed=0)
    text = (tmp_path / "traces.html").read_text(encoding="utf-8")
    assert sheet["cards"] == 16 and "Fine-R1-3B" in text and "There is no field guide here" in text


def test_the_releases_own_rationales_are_read_as_traces():
    """The birds and pets of its Stage-1 file, as if a model had said them."""
    file = Path(os.environ.get("FINER1_OFFICIAL_DATA", "")) / "stage1_birds_pets.json"
    if not file.is_file():
        pytest.skip("FINER1_OFFICIAL_DATA is not set")
    records = []
    for number, item in enumerate(json.loads(file.read_text(encoding="utf-8"))):
        completion = item["messages"][-1]["content"]
        answer = completion.rpartition("<answer>")[2].partition("</answer>")[0].strip()
        word = "pet" if answer in official_names("pet") else "bird"
        records.append({**record("stage1", number, completion), "sub_category": answer, "super_category": word})
    table = statistics.trace_table(records, None)
    assert len(table) == 98 and table["step"].eq("right").all()
    known = table["candidates"].dropna()
    assert len(known) >= 97 and (known == 4).mean() > 0.9
    # by its name or another ("Persian Cat" is Persian); one lists a plural, "Bobolinks", one only "Wrens"
    assert table["truth_listed"].sum() == 95 and table[list(GUIDED)].isna().all().all()
    numbers = statistics.statistics(table, seed=0).set_index(["categories", "quantity"])["value"]
    assert 350 < numbers["seen", "words_analysis"] < 450  # 393 stand before the marker, all texts alike
