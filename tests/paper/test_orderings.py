"""The paper's orderings: the sign the figures give, and what a run may say about each; Figure 3 drawn."""

import pandas as pd
import pytest
from hypothesis import given, strategies as st

from finer1_lib.evaluation.scores.scoring import make_scorer, score_records, summary_rows
from finer1_lib.paper import orderings
from finer1_lib.paper.plots import VERDICTS, figure_bars, ordering_lines
from finer1_lib.training.methods import ROWS

ALL = sorted({model for bars in orderings.BARS.values() for rows in bars.values() for model in rows})
ASKED_OTHERWISE = {"base-in_context", "siglip-l-ensemble"}  # a strategy and a system of 04
MAIN = ["base", "base_cot_prompt", "sft_answer_only", "cot_sft", "full_sft_answer_only", "cot_sft_tapo"]


def claim(models, **wanted):
    (found,) = [row for row in orderings.claims(models) if all(row[key] == wanted[key] for key in wanted)]
    return found


# ---------------------------------------------------------------- the paper's side


def test_the_signs_and_gaps_of_figure_3a():
    seen, unseen = (claim(ALL, first="sft_answer_only", second="base", categories=kind)
                    for kind in ("seen", "unseen"))  # fmt: skip
    assert (seen["figure"], seen["claim"]) == ("Figure 3a", "SFT above Zero-shot")
    assert seen["paper_difference"] == pytest.approx(0.0398)  # 81.41 - 77.43
    assert unseen["claim"] == "SFT below Zero-shot"
    assert unseen["paper_difference"] == pytest.approx(-0.0612)  # 65.82 - 71.94
    assert (seen["setting"], seen["metric"], seen["remark"]) == ("closed_world", "accuracy", "")


def test_full_fine_tuning_is_a_line_of_its_own_beside_lora():
    pair = [claim(ALL, first=model, second="base", categories="unseen")
            for model in ("sft_answer_only", "full_sft_answer_only")]  # fmt: skip
    assert pair[0]["paper_difference"] == pair[1]["paper_difference"]
    assert pair[1]["claim"] == "SFT, all weights below Zero-shot"
    firsts = {(row["first"], row["second"]) for row in orderings.claims(ALL)}
    assert ("full_sft_answer_only", "sft_answer_only") not in firsts  # the same bar of the paper


def test_every_two_bars_are_paired_once_and_the_figures_share_no_pair():
    rows = orderings.claims(ALL)
    keys = [(row["first"], row["second"], row["setting"], row["metric"], row["categories"]) for row in rows]
    assert len(set(keys)) == len(keys)
    # 3a: 10 pairs of 5 bars and 4 more with the second row of SFT; 3b adds 9; 3c has 10; seen and unseen
    counts = pd.Series([row["figure"] for row in rows]).value_counts()
    assert counts.to_dict() == {"Figure 3a": 28, "Figure 3b": 18, "Figure 3c": 20}
    assert all(row["paper_difference"] for row in rows) and set(ALL) - ASKED_OTHERWISE <= set(ROWS)


def test_gaps_below_a_point_and_labels_as_printed_are_marked():
    tiny = [row for row in orderings.claims(ALL) if abs(row["paper_difference"]) < 0.01]
    marked = [row for row in orderings.claims(ALL) if orderings.TINY_REMARK in row["remark"]]
    assert tiny == marked and 0 < len(tiny) < len(orderings.claims(ALL)) / 2
    gain = dict(first="cot_sft_tapo", second="cot_sft_dapo")
    assert orderings.TINY_REMARK not in claim(ALL, **gain, categories="seen")["remark"]  # 73.35 - 72.35
    assert orderings.TINY_REMARK in claim(ALL, **gain, categories="unseen")["remark"]  # 61.29 - 60.50
    assert "labels as printed" in claim(ALL, **gain, categories="seen")["remark"]
    assert not claim(ALL, first="cot_sft_tapo", second="cot_sft", categories="seen")["remark"]


def test_models_that_were_not_trained_are_left_out_and_named():
    assert {model for row in orderings.claims(MAIN) for model in (row["first"], row["second"])} == set(MAIN)
    not_ours = ["In-context learning", "SigLIP prompt ensembling"]  # neither is trained: 04 must ask them
    assert orderings.left_out(MAIN) == {"Figure 3a": ["CLS-RL", "No-Thinking RL"], "Figure 3b": not_ours,
                                        "Figure 3c": ["+ Inter", "+ Intra", "+ DAPO"]}  # fmt: skip
    assert orderings.left_out(set(ALL) - ASKED_OTHERWISE) == {"Figure 3b": not_ours} and not orderings.left_out(ALL)
    assert "SFT" not in orderings.left_out(["full_sft_answer_only"])["Figure 3a"]  # one of its two rows


def test_what_the_paper_says_of_two_models():
    said = orderings.paper_says("sft_answer_only", "base")
    assert said == "Figure 3a: 77.43 to 81.41 on seen, 71.94 to 65.82 on unseen"
    said = orderings.paper_says("cot_sft_tapo", "cot_sft_dapo")
    assert said == "Figure 3c (labels as printed): 72.35 to 73.35 on seen, 60.50 to 61.29 on unseen"
    assert orderings.figure_of("base_cot_prompt", "base") == "Figure 3b"
    for pair in (("cot_sft", "sft_answer_only"), ("full_sft_answer_only", "sft_answer_only"), ("base", "x")):
        assert orderings.figure_of(*pair) is None


# ---------------------------------------------------------------- our side


@given(st.sampled_from(["higher", "lower", "cannot tell"]), st.floats(-0.2, 0.2).filter(bool))
def test_holds_is_the_sign_and_nothing_but_the_sign(reading, gap):
    found = orderings.holds(reading, gap)
    assert (found == "cannot tell") == (reading == "cannot tell")
    assert (found == "holds") == ((reading, gap > 0) in {("higher", True), ("lower", False)})
    assert orderings.holds(reading, -gap) == {"holds": "reversed", "reversed": "holds"}.get(found, found)


def records_of(shares):
    """Twenty seen and twenty unseen birds, a image each; {model: (right of the seen, of the unseen)}."""
    for model, right in shares.items():
        for setting in ("closed_world", "open_world"):
            for place in range(40):
                kind = ("seen", "unseen")[place // 20]
                name = f"{'Abcdefghijklmnopqrst'[place % 20]}ora {'Wren' if kind == 'seen' else 'Finch'}"
                answer = name if place % 20 < right[place // 20] else "a bird"
                yield {"model": model, "setting": setting, "item_id": f"{kind}/{name}",
                       "image_id": "bird/x.png", "super_category": "bird", "sub_category": name,
                       "categories": kind,
                       "option_order": "shuffled" if setting == "closed_world" else None, "rotation": 0,
                       "options": [name], "completion": f"<answer>{answer}</answer>"}  # fmt: skip


SHARES = {"base": (4, 10), "sft_answer_only": (18, 18), "cot_sft": (6, 6), "cot_sft_dapo": (16, 7),
          "cot_sft_tapo": (17, 9)}  # fmt: skip


@pytest.fixture(scope="module")
def scores():
    return score_records(list(records_of(SHARES)), [make_scorer("strict"), make_scorer("official")])


@pytest.fixture(scope="module")
def table(scores):
    return orderings.table(scores, seed=0)


def one(table, **wanted):
    (row,) = [row for row in table.to_dict("records") if all(row[key] == wanted[key] for key in wanted)]
    return row


def test_a_run_s_orderings_by_hand(table):
    assert tuple(table.columns) == orderings.COLUMNS
    seen, unseen = (one(table, first="sft_answer_only", second="base", categories=kind)
                    for kind in ("seen", "unseen"))  # fmt: skip
    assert seen["difference"] == pytest.approx(14 / 20) and seen["n"] == 20
    assert (seen["reading"], seen["holds"]) == ("higher", "holds")
    assert unseen["difference"] == pytest.approx(8 / 20)  # the paper: below
    assert (unseen["reading"], unseen["holds"]) == ("higher", "reversed")
    close = one(table, first="cot_sft_tapo", second="sft_answer_only", categories="seen")
    assert close["difference"] == pytest.approx(-1 / 20) and close["holds"] == "cannot tell"
    similar = one(table, first="cot_sft_dapo", second="cot_sft", categories="seen")
    assert (similar["metric"], similar["setting"]) == ("relative_semantic_similarity", "open_world")
    assert similar["difference"] == pytest.approx(10 / 20) and similar["holds"] == "holds"


def test_an_ordering_of_two_rows_is_reported_to_count_twice(table, scores):
    assert "once more" not in orderings.findings(table, scores["model"])
    twin = scores[scores["model"] == "sft_answer_only"].assign(model="full_sft_answer_only")
    both = orderings.table(pd.concat([scores, twin]), seed=0)
    more = len(both) - len(table)
    assert more >= 4
    told = orderings.findings(both, both["first"])
    assert f"{more} of them repeat an ordering of SFT" in told


def test_the_findings_of_a_table(table, scores):
    counts = {verdict: int((table["holds"] == verdict).sum()) for verdict in VERDICTS}
    assert sum(counts.values()) == len(table) and counts["reversed"] >= 1 and counts["cannot tell"] >= 1
    told = orderings.findings(table, scores["model"])
    assert f"Of {len(table)} orderings {counts['holds']} hold, {counts['reversed']} are reversed" in told
    assert "has no row for them: Figure 3a: CLS-RL, No-Thinking RL; Figure 3b: CoT prompting, In-context" in told


def test_an_interval_without_a_test_is_not_enough():
    """Four sub-categories that all differ one way: p = 0.125 at best, whatever the bootstrap says."""
    row = {"first": "sft_answer_only", "second": "base", "setting": "closed_world", "metric": "accuracy",
           "categories": "seen", "difference": 0.2, "low": 0.1, "high": 0.3, "p": 0.125, "n": 40}  # fmt: skip
    from finer1_lib.core.statistics import Estimate
    from finer1_lib.evaluation.scores.scoring import reading

    row["reading"] = reading(Estimate(0.2, 0.1, 0.3, 40, 20, p=0.125))
    wanted = claim(ALL, first="sft_answer_only", second="base", categories="seen")
    (judged,) = orderings.judge([wanted], [row])
    assert judged["holds"] == "cannot tell"
    (judged,) = orderings.judge([wanted], [{**row, "reading": "higher", "per_seed": [0.2]}])
    assert judged["holds"] == "holds" and judged["per_seed"] == [0.2] and judged["difference"] == 0.2


# ---------------------------------------------------------------- the figures


@pytest.fixture(scope="module")
def rows(scores):
    return summary_rows(scores, seed=0, similarity="trigram")


def test_the_bars_are_the_figure_s_in_the_paper_s_order(rows):
    bars = orderings.bars_of(rows, "Figure 3a")
    assert bars["model"].drop_duplicates().tolist() == ["base", "sft_answer_only", "cot_sft_tapo"]
    assert bars["bar"].drop_duplicates().tolist() == ["Zero-shot", "SFT", "Fine-R1"]
    assert set(bars["metric"]) == {"accuracy"} and set(bars["scorer"]) == {"strict"} and len(bars) == 6
    assert bars["value"].tolist()[:2] == pytest.approx([0.2, 0.5])
    similar = orderings.bars_of(rows, "Figure 3c", "official")
    assert similar["bar"].drop_duplicates().tolist() == ["CoT SFT", "+ DAPO", "+ TAPO"]
    assert set(similar["variant"]) == {"trigram"} and set(similar["scorer"]) == {"official"}
    turned = [{**row, "option_order": "rotations"} for row in rows if row["setting"] == "closed_world"]
    assert len(orderings.bars_of([*rows, *turned], "Figure 3a")) == 6  # the shuffled order alone


def texts(figure):
    import matplotlib.text

    return {text.get_text(): text for text in figure.findobj(matplotlib.text.Text) if text.get_text().strip()}


def test_the_bars_say_n_scorer_and_similarity_and_are_legible(rows):
    figure = figure_bars(orderings.bars_of(rows, "Figure 3c"))
    said = texts(figure)
    assert "seen sub-categories, n = 20" in said
    (title,) = [text for text in said if "Figure 3c" in text]
    assert "strict scorer" in title and "similarity trigram" in title and "seed 0" in title
    assert min(text.get_fontsize() for text in said.values()) >= 11
    assert figure.get_size_inches()[0] <= 13
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    shown = orderings.bars_of(rows, "Figure 3c").query("categories == 'seen'")["value"]
    assert widths == pytest.approx([100 * value for value in shown])


def test_the_ordering_figure_shows_the_paper_s_side_and_none_of_its_values(table):
    figure = ordering_lines(table, "strict scorer")
    assert min(text.get_fontsize() for text in texts(figure).values()) >= 11
    assert figure.get_size_inches()[0] <= 13
    for axis, kind in zip(figure.axes, ("seen", "unseen")):
        part = table[table["categories"] == kind]
        sides = [patch.get_x() < 0 for patch in axis.patches]
        assert sides == [gap < 0 for gap in part["paper_difference"]]
        assert {patch.get_width() for patch in axis.patches} == {118}  # a side, not a size
        hatched = [bool(patch.get_hatch()) for patch in axis.patches]
        assert hatched == [abs(gap) < 0.01 for gap in part["paper_difference"]]
        dots = [line for line in axis.lines if line.get_marker() in ("o", "s", "D")]
        assert [line.get_xdata()[0] for line in dots] == pytest.approx(list(100 * part["difference"]))
        assert [line.get_marker() for line in dots] == [VERDICTS[verdict][1] for verdict in part["holds"]]


def test_nothing_to_draw_is_said():
    with pytest.raises(ValueError, match="no bars"):
        figure_bars(orderings.bars_of([], "Figure 3a"))
    with pytest.raises(ValueError, match="no orderings"):
        ordering_lines(pd.DataFrame(columns=orderings.COLUMNS))


def test_a_missing_interval_is_no_obstacle(rows, table):
    bars = orderings.bars_of(rows, "Figure 3a").assign(low=None, high=None)
    assert len(figure_bars(bars).axes) == 2
    assert len(ordering_lines(table.assign(low=None, high=None, holds="cannot tell")).axes) == 2
