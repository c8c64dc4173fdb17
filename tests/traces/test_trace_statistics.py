"""Traces in numbers: hand-worked values, nothing dropped, before and after, reading and use, figures."""

import json
import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402
from hypothesis import (  # noqa: E402
    given,
    settings,
    strategies as st,  # noqa: E402
)
from test_trace_steps import GUIDE, text  # noqa: E402

from finer1_lib.core.errors import UserError  # noqa: E402
from finer1_lib.traces import (  # noqa: E402
    changes as trace_changes,
    changes as trace_reading,
    plots as trace_plots,
    statistics as trace_statistics,
)
from finer1_lib.traces.plots import flow_figure  # noqa: E402
from finer1_lib.traces.steps import WRONG_STEPS  # noqa: E402

TWICE = "Dunen Wren, Dunen Wren, Marmo Wren"  # one is listed twice, one is invented
MARKERS = ("<think> Small.\nThe analysis of candidate subcategories:\n1. Dunen Wren\n2. Marlo Wren\n\n"
           "Comparison\npaler\nThe prediction is: Dunen Wren</think>\n<answer>Dunen Wren</answer>")


def record(completion, item="a", model="cot_sft", sub_category="Dunen Wren", categories="seen", **other):
    return {"model": model, "item_id": item, "image_id": f"{item}.png", "super_category": "bird",
            "sub_category": sub_category, "categories": categories, "completion": completion, "tokens": 9,
            "prompt_name": "cot_open", "setting": "open_world", "option_order": None, **other}


def table_of(*records, guide=GUIDE):
    return trace_statistics.trace_table(records, guide)


def test_one_trace_by_hand():
    compared = "Marlo Wren: red crown (differs), barred wings; Dunen Wren: red crown"
    said = text(analysis="needle bill, blue crown", options=TWICE, comparison=compared)
    row = table_of(record(said)).iloc[0]
    assert (row["words_analysis"], row["words_options"], row["candidates"], row["tokens"]) == (4, 6, 3, 9)
    assert (row["repeats"], row["invents"], row["truth_listed"], row["complete"]) == (1, 1, 1, 1)
    assert row["attributes_right"] == pytest.approx(1 / 3) == row["attributes_misread"]
    assert row["all_read"] == 0 == row["right"]
    assert row["claims_true"] == pytest.approx(2 / 3)  # Marlo's crown is blue
    # blue was seen: "red (differs)" fits; nothing was seen of the wings; Dunen's red should have been marked
    assert row["marks_consistent"] == 0.5 and row["step"] == "misread_attribute"


def test_what_is_left_out_is_neither_read_nor_misread():
    row = table_of(record(text(analysis="needle bill, red crown"))).iloc[0]
    assert row["attributes_right"] == pytest.approx(2 / 3)
    assert row["attributes_misread"] == 0 == row["all_read"]


def test_only_the_thinking_models_main_answers_are_read_and_none_is_dropped():
    records = [record("a bird"), record(text(), prompt_name="answer_open"),
               record(text(), setting="closed_world"), record("", item="b")]
    table = table_of(*records)
    assert list(table["step"]) == ["unparsable", "unparsable"] and table["words_analysis"].isna().all()
    closed = [record(text(), setting="closed_world", option_order=order, rotation=rotation)
              for order, rotation in (("shuffled", 0), ("release", 0), ("rotations", 1))]
    assert len(trace_statistics.trace_table(closed, GUIDE, "closed_world")) == 1
    counts = trace_statistics.problems(table).loc["cot_sft"]
    assert counts["total"] == 2 and counts["complete"] == 0 and counts["missing_answer"] == 2


def test_without_a_guide_and_in_the_other_layout():
    for guide in ({}, None):
        table = table_of(record(MARKERS), record(text(), item="b"), guide=guide)
        assert list(table["step"]) == ["right", "prediction_differs"] and list(table["complete"]) == [1, 1]
        assert list(table["candidates"]) == [2, 3] and list(table["truth_listed"]) == [1, 1]
        told = set(trace_statistics.statistics(table, seed=0)["quantity"])
        assert told & {"invents", "all_read", "claims_true", "marks_consistent", "attributes_right"} == set()
        assert {"words_comparison", "candidates", "right", "truth_listed"} <= told
        levels, gains = trace_reading.reading_and_use(table, ["cot_sft"], seed=0)
        assert levels.empty and gains.empty


def test_released_rationales_in_numbers():
    folder = os.environ.get("FINER1_OFFICIAL_DATA")
    if not folder:
        pytest.skip("FINER1_OFFICIAL_DATA is not set")
    items = json.loads((Path(folder) / "stage1_birds_pets.json").read_text(encoding="utf-8"))
    completions = [item["messages"][-1]["content"] for item in items]
    table = table_of(*(record(completion, item=str(number), sub_category=f"class {number}")
                       for number, completion in enumerate(completions)), guide=None)
    # no label is "class ..": every answer is wrong, and without a guide that shows at the candidates
    assert table["step"].value_counts().to_dict() == {"candidate_missing": 97, "unparsable": 1}
    found = trace_statistics.statistics(table, seed=0).set_index("quantity")["value"]
    assert found["complete"] == pytest.approx(97 / 98) and found["candidates"] == 4 and found["repeats"] == 0
    assert found["words_analysis"] > found["words_comparison"] > found["words_options"]


def test_steps_are_counted_and_shares_add_up():
    table = table_of(*(record(t, item=str(k), sub_category=name) for k, (t, name) in enumerate(
        [(text(answer="Dunen Wren"), "Dunen Wren"), (text(options="Marlo Wren"), "Dunen Wren"),
         (text(), "Dunen Wren"), ("a bird", "Tarn Lark")])))
    tally = trace_statistics.tally_steps(table, seed=0).set_index("step")
    once = ("right", "unparsable", "candidate_missing", "prediction_differs")
    assert tally["count"].to_dict() == {step: int(step in once) for step in trace_statistics.STEPS}
    assert tally["share"].sum() == pytest.approx(1) and tally.loc["right", "share"] == 0.25
    assert (tally["low"] <= tally["share"]).all() and (tally["share"] <= tally["high"]).all()
    assert trace_statistics.tally_steps(table_of(), seed=0).empty


def test_averages_are_clustered_and_counts_keep_their_scale():
    completions = [text(), text(options="Marlo Wren, Dunen Wren"), text(), text(options="Dunen Wren")]
    names = ["Dunen Wren", "Dunen Wren", "Marlo Wren", "Tarn Lark"]
    table = table_of(*(record(completion, item=str(k), sub_category=name)
                       for k, (completion, name) in enumerate(zip(completions, names))))
    found = trace_statistics.statistics(table, seed=0).set_index("quantity")
    assert found.loc["candidates", "value"] == pytest.approx((3 + 2 + 3 + 1) / 4)
    assert 1 <= found.loc["candidates", "low"] < 2.25 < found.loc["candidates", "high"] <= 3
    assert (found.loc["candidates", "n"], found.loc["candidates", "clusters"]) == (4, 3)
    # the same count everywhere: no interval that would claim to know, or that knows only shares
    assert found.loc["words_prediction", "value"] == 2 and np.isnan(found.loc["words_prediction", "low"])
    single = table_of(*(record(text(prediction="Lark"), item=str(k), sub_category=name)
                        for k, name in enumerate(names)))  # fmt: skip
    (words,) = trace_statistics.statistics(single, seed=0).query("quantity == 'words_prediction'").to_dict("records")
    assert words["value"] == 1 and np.isnan(words["low"])


def two_models(pairs):
    """Records of two models from [(before, after)], four items a sub-category."""
    names, found = ["Dunen Wren", "Marlo Wren", "Tarn Lark"], []
    for number, pair in enumerate(pairs):
        name = names[number // 4 % 3]
        for model, answer in zip(("cot_sft", "cot_sft_tapo"), pair):
            found.append(record(text(answer=name) if answer == "right" else answer, item=f"{number:02d}",
                                model=model, sub_category=name))
    return found


def test_what_flows_where():
    turned = [("right", "right")] * 5 + [("", "right")] * 3 + [("right", "")] * 2 + [("", "")]
    table = table_of(*two_models(turned))
    flows = trace_changes.flow(table, "cot_sft", "cot_sft_tapo")
    assert flows[["from_step", "to_step", "count"]].values.tolist() == [
        ["right", "right", 5], ["right", "unparsable", 2], ["unparsable", "right", 3],
        ["unparsable", "unparsable", 1]]
    found = trace_changes.turns(flows, "seen")
    assert found == {"mended": 3, "broken": 2, "right_twice": 5, "wrong_twice": 1}
    changes = trace_changes.changes(table, "cot_sft", "cot_sft_tapo", seed=0).set_index("quantity")
    assert changes.loc["right", "difference"] == pytest.approx(1 / 11)
    assert changes.loc["right", "reading"] == "cannot tell" and changes.loc["right", "n"] == 11
    assert changes.loc["candidates", "n"] == 5  # where both could be read
    assert np.isnan(changes.loc["candidates", "low"])


def test_models_that_answered_other_items_are_not_compared():
    records = two_models([("right", "right"), ("right", "")])
    for function in (trace_changes.flow, trace_changes.pair_of):
        with pytest.raises(UserError, match="not of the same items"):
            function(table_of(*records[:-1]), "cot_sft", "cot_sft_tapo")


def test_which_two_models_are_compared():
    chosen = trace_changes.before_and_after
    assert chosen(["base_cot_prompt", "cot_sft", "cot_sft_tapo", "x"]) == ("cot_sft", "cot_sft_tapo")
    assert chosen(["base_cot_prompt", "cot_sft", "x"]) == ("base_cot_prompt", "x")
    assert chosen(["cot_sft"]) is None is chosen([])


# --- reading and use --------------------------------------------------------------------------------------


def planted(rows, model):
    """Rows of a trace table from [(read, right, how many)], dealt out over twelve sub-categories."""
    cells = [cell for read, right, count in rows for cell in [(read, right)] * count]
    order = np.random.default_rng(0).permutation(len(cells))
    return pd.DataFrame([{"model": model, "item_id": f"{k:03d}", "super_category": "bird",
                          "sub_category": f"s{k % 12:02d}", "categories": "seen",
                          "all_read": float(cells[i][0]), "right": float(cells[i][1])}
                         for k, i in enumerate(order)])


def parts(before, after):
    table = pd.concat([planted(before, "a"), planted(after, "b")], ignore_index=True)
    levels, gains = trace_reading.reading_and_use(table, ["a", "b"], seed=0)
    return levels, gains.set_index("part")


USED_BETTER = [(1, 1, 48), (1, 0, 12), (0, 1, 12), (0, 0, 48)], [(1, 1, 60), (0, 1, 24), (0, 0, 36)]
READ_MORE = [(1, 1, 48), (1, 0, 12), (0, 1, 12), (0, 0, 48)], [(1, 1, 80), (1, 0, 20), (0, 1, 4), (0, 0, 16)]


def test_a_gain_by_use_alone_and_by_reading_alone():
    levels, gains = parts(*USED_BETTER)  # P stays 0.5; 0.8 and 0.2 become 1.0 and 0.4
    assert gains["value"].to_dict() == pytest.approx({"gain": 0.2, "reading": 0.0, "use": 0.2})
    assert gains.loc["use", "reading"] == "higher" and gains.loc["reading", "reading"] == "cannot tell"
    known = levels.set_index(["model", "quantity"])["value"]
    assert known["a"].to_dict() == pytest.approx({"all_read": 0.5, "right": 0.5, "right_if_read": 0.8,
                                                  "right_if_not": 0.2})
    _, gains = parts(*READ_MORE)  # P from 1/2 to 5/6, 0.8 and 0.2 stay: (1/3) * 0.6
    assert gains["value"].to_dict() == pytest.approx({"gain": 0.2, "reading": 0.2, "use": 0.0}, abs=1e-12)
    assert gains.loc["reading", "reading"] == "higher" and gains.loc["use", "reading"] == "cannot tell"


def test_what_a_model_never_did_is_taken_from_the_other():
    _, gains = parts([(1, 1, 60), (1, 0, 60)], [(1, 1, 30), (1, 0, 30), (0, 0, 60)])
    assert gains["value"].to_dict() == pytest.approx({"gain": -0.25, "reading": -0.25, "use": 0.0}, abs=1e-12)
    _, gains = parts([(1, 1, 60), (1, 0, 60)], [(1, 1, 30), (1, 0, 30), (0, 1, 60)])
    assert gains["value"].to_dict() == pytest.approx({"gain": 0.25, "reading": 0.25, "use": 0.0}, abs=1e-12)
    _, same = parts([(1, 1, 120)], [(1, 1, 120)])
    use = same.loc["use"]
    assert use["value"] == 0 and use["low"] < 0 < use["high"]  # no change seen is not certainly none


counts = st.lists(st.integers(0, 9), min_size=4, max_size=4)


@settings(deadline=None, max_examples=12)
@given(counts, counts)
def test_the_parts_add_up_to_the_gain_and_turn_with_the_models(first, second):
    cells = [(1, 1), (1, 0), (0, 1), (0, 0)]
    missing = sum(first) - sum(second)
    first[3], second[3] = first[3] + max(0, -missing) + 12, second[3] + max(0, missing) + 12
    before, after = ([(*cell, n) for cell, n in zip(cells, side)] for side in (first, second))
    (_, there), (_, back) = parts(before, after), parts(after, before)
    value = there["value"]
    assert value["reading"] + value["use"] == pytest.approx(value["gain"])
    assert value.to_dict() == pytest.approx((-back["value"]).to_dict(), abs=1e-12)
    for row in there.itertuples():
        assert row.low - 1e-12 <= row.value <= row.high + 1e-12 and 0 < row.p <= 1


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng, inside = np.random.default_rng(1), 0
    for trial in range(60):
        sides = []
        for use in (0.6, 0.8):  # both read 70 % right; the second makes more of it: use +0.14 at P = 0.7
            read = rng.random(120) < 0.7
            right = rng.random(120) < np.where(read, use, 0.3)
            names = [f"s{k % 20}" for k in range(120)]
            sides.append(pd.DataFrame({"super_category": "bird", "sub_category": names,
                                       "all_read": read.astype(float), "right": right.astype(float)}))
        _, use_part = trace_reading.two_parts(*sides, seed=trial, resamples=300)
        inside += use_part.low <= 0.14 <= use_part.high
    assert 50 <= inside <= 60


def test_the_p_value_lets_whole_sub_categories_change_sides():
    before, after = (pd.DataFrame({"super_category": "bird", "sub_category": list("abc"), "all_read": 1.0,
                                   "right": right}) for right in (0.0, 1.0))
    by_reading, by_use = trace_reading.two_parts(before, after, seed=0)
    assert by_use.value == 1 and by_reading.p == 1
    assert by_use.p == pytest.approx(2 / 8, abs=0.04)  # only all flipped, or none, go as far


def test_one_sub_category_allows_no_interval():
    table = pd.concat([planted(rows, model).assign(sub_category="only") for rows, model in
                       (([(1, 1, 3), (0, 0, 3)], "a"), ([(1, 1, 6)], "b"))], ignore_index=True)
    gains = trace_reading.reading_and_use(table, ["a", "b"], seed=0)[1]
    assert gains["low"].isna().all() and "no interval" in trace_reading.findings(gains, "b", "seen")


# --- figures ----------------------------------------------------------------------------------------------


def written(figure):
    figure.canvas.draw()
    return [t for axis in figure.axes for t in axis.texts if t.get_text()]


def test_figures_show_what_they_are_given():
    assert set(trace_plots.STEP_COLOURS) == set(trace_plots.STEP_HATCHES) == {"right", *WRONG_STEPS}
    turned = [("right", "right")] * 5 + [("", "right")] * 3 + [("right", text())] * 2 + [("", "")]
    table = table_of(*two_models(turned))
    bars = trace_plots.wrong_steps(trace_statistics.tally_steps(table, seed=0))
    assert bars.axes[0].patches[0].get_width() == pytest.approx(100 * 4 / 11)  # unparsable, first model
    flows = trace_changes.flow(table, "cot_sft", "cot_sft_tapo")
    drawn = written(flow_figure(flows, "cot_sft", "cot_sft_tapo", {"cot_sft": "SFT", "cot_sft_tapo": "TAPO"}))
    words = [t.get_text() for t in drawn]
    assert {"7  right", "8  right", "SFT", "TAPO"} <= set(words)
    assert min(t.get_fontsize() for t in drawn) >= 11
    assert sum(int(w.split()[0]) for w in words if w[0].isdigit()) == 22  # every item once on each side
    numbers = trace_statistics.statistics(table, seed=0)
    for unit in ("share", "words"):
        shown = written(trace_plots.dots(numbers, unit=unit))
        assert len(shown) == (numbers["unit"] == unit).sum()
    gains = parts(*USED_BETTER)[1].reset_index()
    assert [t.get_text() for t in written(trace_plots.parts_of_gain(gains))] == ["+20.0", "+0.0", "+20.0"]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 20)), max_size=9))
def test_labels_never_overlap(labels):
    labels.sort(key=lambda label: label[0])
    places = trace_plots.spread([place for place, _ in labels], [size for _, size in labels])
    for (a, first), (b, second) in zip(zip(places, labels), list(zip(places, labels))[1:]):
        assert b - a >= (first[1] + second[1]) / 2 - 1e-9
    if len(labels) == 1:
        assert places == pytest.approx([labels[0][0]])


def test_a_run_without_two_thinking_models_gives_empty_tables():
    none = trace_changes.Traces([], GUIDE, {}, seed=0)
    one = trace_changes.Traces([record(text())], GUIDE, {"cot_sft": "CoT SFT"}, seed=0)
    for found in (none, one):
        assert found.pair is None and found.compared.startswith("nothing to compare")
        (table, clear, words), (flows, turned), (_, gains, more) = found.changes(), found.flow(), found.gains()
        assert not len(table.columns) and not len(clear) and words.startswith("nothing to compare")
        assert not len(flows) and turned == {} and not len(gains) and more.startswith("nothing to compare")
    assert not len(none.numbers()[0]) and len(one.numbers()[1]) and len(one.steps())
