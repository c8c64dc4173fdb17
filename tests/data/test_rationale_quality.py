"""The quality report and what each step prevents: counted by hand, and against planted flaws."""

from dataclasses import fields, replace

import pytest
from hypothesis import given, settings, strategies as st
from shared_cases import UNHURRIED

from finer1_lib.data.rationales.filters import REASONS, write_rationale
from finer1_lib.data.rationales.making import kept_concepts, query_until_good
from finer1_lib.data.rationales.quality import (compare_concepts, concept_report, found_and_missed, is_true,
                                                label_order, longest, misread, misread_share, quality_report,
                                                query_again, share, steps, switched_off)
from finer1_lib.miniature.teacher import GuideTeacher, Rates

UNHURRIED = settings(UNHURRIED, max_examples=25)
NAMES = {"bird": ["Dunen Wren", "Marlo Wren", "Teko Wren", "Ora Wren"], "aircraft": ["Falk 2"]}
VALUES = {"Dunen Wren": "red black", "Marlo Wren": "blue black", "Teko Wren": "red white",
          "Ora Wren": "blue white"}
GUIDE = {
    "super_categories": {
        "bird": {"attributes": {"crown": ["red", "blue"], "back": ["black", "white"]},
                 "genus_attributes": []},
        "aircraft": {"attributes": {"fin": ["red"]}, "genus_attributes": []},
    },
    "sub_categories": {
        **{name: {"super_category": "bird", "genus": "Wren",
                  "attributes": dict(zip(("crown", "back"), values.split()))}
           for name, values in VALUES.items()},
        "Falk 2": {"super_category": "aircraft", "genus": "Falk", "attributes": {"fin": "red"}},
    },
    "seen": list(VALUES), "unseen": [],
}
ROWS = [{"image_id": f"bird/{name}/0.png", "super_category": "bird", "sub_category": name} for name in VALUES]
NONE = {row["image_id"]: [] for row in ROWS}
NO_MISTAKES = Rates(*[0.0] * len(fields(Rates)))


def text(prediction="Dunen Wren", candidates=("Dunen Wren", "Marlo Wren"), analysis="red crown, black back"):
    return write_rationale(analysis, candidates, "Dunen Wren: fits; Marlo Wren: differs", prediction)


def record(*texts, kept=True, **fields_):
    """A record as `query_until_good` leaves it, as far as the reports look."""
    reasons = fields_.pop("rejections", [])
    return {"image_id": "x", "super_category": "bird", "sub_category": "Dunen Wren", "text": texts[-1],
            "texts": list(texts), "kept": kept, "rejections": reasons, "attempts": len(texts), "mended": 0,
            "dropped_because": None if kept else reasons[-1], "candidates": ["Dunen Wren", "Marlo Wren"],
            **fields_}


WRONG, FOREIGN, BROKEN = text("Marlo Wren"), text(candidates=("Dunen Wren", "Falk 2")), "babble"


def test_report_by_hand():
    records = [
        record(text()),
        record(BROKEN, text(), rejections=["not_well_formed"], mended=1,
               candidates=["Marlo Wren", "Dunen Wren"]),
        record(BROKEN, WRONG, BROKEN, kept=False,
               rejections=["not_well_formed", "wrong_prediction", "not_well_formed"]),
    ]
    counts, rows = quality_report(records)
    assert counts == {"images": 3, "kept": 2, "kept_at_once": 1, "resampled": 1, "dropped": 1, "texts": 6,
                      "mended": 1, "label_first": 1}
    assert [row["reason"] for row in rows] == list(REASONS)
    by_reason = {row["reason"]: (row["texts"], row["images_dropped"]) for row in rows}
    assert by_reason["not_well_formed"] == (3, 1) and by_reason["wrong_prediction"] == (1, 0)
    assert sum(texts for texts, _ in by_reason.values()) == 4


def test_a_concept_is_true_false_or_says_nothing():
    assert is_true("red crown", "Dunen Wren", GUIDE) is True
    assert is_true("a Red crown and the black back", "Dunen Wren", GUIDE) is True
    assert is_true("red crown and white back", "Dunen Wren", GUIDE) is False
    assert is_true("a lovely voice", "Dunen Wren", GUIDE) is None


def test_precision_and_recall_by_hand():
    """All: 3 of 5 judged are true, 3 of 4 attributes named. Kept: 2 of 3, and 2 of 4."""
    def entries(**kept):
        return [{"concept": key.replace("_", " "), "score": 0.0, "kept": flag} for key, flag in kept.items()]

    chosen = {ROWS[0]["image_id"]: entries(red_crown=True, white_back=True, black_back=True),
              ROWS[1]["image_id"]: entries(red_crown=False, blue_crown=False, fine_voice=True)}
    report = {(row["concepts"], row["metric"]): row for row in concept_report(ROWS[:2], chosen, GUIDE)}
    values = {key: (row["value"], row["n"], row["unjudged"]) for key, row in report.items()}
    assert values == {("all named", "precision"): (pytest.approx(3 / 5), 5, 1),
                      ("all named", "recall"): (0.75, 4, 1),
                      ("kept", "precision"): (pytest.approx(2 / 3), 3, 1), ("kept", "recall"): (0.5, 4, 1)}
    for row in report.values():
        assert row["low"] is None or row["low"] <= row["value"] <= row["high"]


def test_misread_by_hand():
    wrong = record(text(analysis="blue crown, black back"))
    hidden = record(text(analysis="black back"))
    dropped = record(text(analysis="blue crown"), kept=False, rejections=["prompt_leak"])
    assert misread(wrong, GUIDE) and not misread(hidden, GUIDE)
    assert misread_share([wrong, hidden, dropped], GUIDE)["value"] == 0.5
    nothing = {"value": None, "low": None, "high": None, "n": 0}
    assert misread_share([dropped], GUIDE) == nothing == share([])


def test_the_labels_place_by_hand():
    first, second = text(), text(candidates=("Marlo Wren", "Dunen Wren"))
    records = [record(WRONG, first, candidates=["Marlo Wren", "Dunen Wren"]), record(second), record(first),
               record("babble", kept=False, rejections=["cut_off"])]
    own, shuffled = label_order(records)
    assert (own["order"], own["value"], own["n"]) == ("teacher's", pytest.approx(2 / 3), 3)
    assert (shuffled["order"], shuffled["value"]) == ("shuffled", pytest.approx(2 / 3))


def test_the_longest_rationale_counts_its_end():
    def words(line, add_special_tokens):
        return {"input_ids": line.split()}

    records = [record("one two"), record("one two three", image_id="y"),
               record("a b c d", kept=False, rejections=["x"])]
    assert longest(records, words) == (4, "y")
    with pytest.raises(ValueError):
        longest(records[2:], words)


def test_filters_switched_off_by_hand():
    """A: wrong, then good. B: foreign, then good. C: babble twice, given up. D: good."""
    records = [record(WRONG, text()), record(FOREIGN, text()), record(text()),
               record(BROKEN, BROKEN, kept=False, rejections=["not_well_formed"] * 2)]
    rows = {row["off"]: row for row in switched_off(records, NAMES)}
    assert list(rows) == [*REASONS, "all"]
    seen = {off: (row["kept"], row["texts"], row["flawed"], row["value"]) for off, row in rows.items()}
    untouched = (3, 7, 0, 0.0)
    assert seen["wrong_prediction"] == (3, 6, 1, pytest.approx(1 / 3))
    assert seen["foreign_candidate"] == (3, 6, 1, pytest.approx(1 / 3))
    # babble lists no candidates either: other filters still stop it
    assert seen["not_well_formed"] == seen["mixed_language"] == seen["cut_off"] == untouched
    assert seen["all"] == (4, 4, 3, 0.75)
    assert all((row["on_value"], row["on_n"]) == (0.0, 3) for row in rows.values())


def test_what_was_planted_outweighs_what_a_filter_sees():
    """A planted leak that no filter knows is counted, though the filters call the text clean."""
    records = [record(text(), planted=[{"prompt_leak"}]), record(WRONG, text(), planted=[set(), set()])]
    rows = {row["off"]: row for row in switched_off(records, NAMES)}
    assert rows["prompt_leak"]["flawed"] == 1 and rows["prompt_leak"]["on_value"] == 0.5
    assert rows["wrong_prediction"]["flawed"] == 0  # kept, but nobody planted anything there
    found = {row["reason"]: row for row in found_and_missed(records, NAMES)}
    assert (found["prompt_leak"]["planted"], found["prompt_leak"]["found"]) == (1, 0)
    assert found["wrong_prediction"]["false_alarms"] == 1 and found["prompt_leak"]["texts"] == 3


@UNHURRIED
@given(st.integers(0, 10**6), st.sampled_from([*REASONS, "all"]))
def test_going_through_the_texts_again_is_asking_the_teacher_again(seed, off):
    """The shortcut equals the long way: a run with the filter really off keeps as many and asks as many."""
    teacher = GuideTeacher(GUIDE, Rates(*[0.25] * len(fields(Rates))))
    how = dict(attempts=3, names=NAMES)
    again = query_again(teacher, ROWS, NONE, seeds=[seed], **how)
    row = {row["off"]: row for row in switched_off(again, NAMES)}[off]
    on = [] if off == "all" else [name for name in REASONS if name != off]
    fresh = query_until_good(teacher, ROWS, NONE, seed=seed, filters=on, **how)
    assert row["kept"] == sum(one["kept"] for one in fresh)
    assert row["texts"] == sum(one["attempts"] for one in fresh)


@UNHURRIED
@given(st.integers(0, 10**6))
def test_with_every_filter_on_nothing_planted_is_kept(seed):
    teacher = GuideTeacher(GUIDE, Rates(*[0.3] * len(fields(Rates))))
    again = query_again(teacher, ROWS, NONE, seeds=[seed, seed + 1], attempts=2, names=NAMES)
    assert len(again) == 8
    for one in again:
        assert len(one["planted"]) == len(one["texts"]) == one["attempts"]
        assert not (one["kept"] and one["planted"][-1])
    assert all(row["false_alarms"] == 0 for row in found_and_missed(again, NAMES))


def test_a_filter_prevents_what_its_mistake_makes():
    """One kind of mistake at a known rate: only its own filter's absence lets it through, at that rate."""
    teacher = GuideTeacher(GUIDE, replace(NO_MISTAKES, wrong_prediction=0.4))
    again = query_again(teacher, ROWS, NONE, seeds=range(50), attempts=3, names=NAMES)
    rows = {row["off"]: row for row in switched_off(again, NAMES)}
    assert 0.3 < rows["wrong_prediction"]["value"] < 0.5 and rows["wrong_prediction"]["kept"] == 200
    assert all(rows[off]["flawed"] == 0 for off in REASONS if off != "wrong_prediction")


def test_concepts_are_compared_with_none_and_with_all():
    """Misread at 0.3 an attribute: half of the texts without concepts, none with true ones, all with false."""
    teacher = GuideTeacher(GUIDE, replace(NO_MISTAKES, wrong_attribute=0.3))
    chosen, asked = {}, {}
    for row in ROWS:
        crown, back = VALUES[row["sub_category"]].split()
        other = "blue" if crown == "red" else "red"
        named = [f"{other} crown", f"{crown} crown", f"{back} back"]
        asked[row["image_id"]] = {"concepts": named}
        chosen[row["image_id"]] = [{"concept": one, "score": 0.0, "kept": one != named[0]} for one in named]
    assert kept_concepts(chosen[ROWS[0]["image_id"]]) == ["red crown", "black back"]
    report = compare_concepts(teacher, ROWS, asked, chosen, GUIDE, seeds=range(25), attempts=1, names=NAMES)
    values = {row["concepts"]: row["value"] for row in report}
    assert values["chosen"] == 0.0 and values["all named"] == 1.0
    assert 0.37 < values["none"] < 0.65  # 1 - 0.7 ** 2 = 0.51
    assert {row["n"] for row in report} == {100}


def test_steps_are_one_row_each_on_beside_off():
    records = [record(WRONG, text()), record(text())]
    given_ = [{"concepts": which, "value": value, "low": None, "high": None, "n": 2}
              for which, value in (("chosen", 0.0), ("none", 0.5), ("all named", 1.0))]
    rows = steps(switched_off(records, NAMES), label_order(records), given_)
    assert [row["flaw"] for row in rows][-3:] == ["label stands first", *["an attribute misread"] * 2]
    wrong = next(row for row in rows if row["flaw"] == "wrong prediction")
    assert (wrong["on"], wrong["off"], wrong["n_on"], wrong["n_off"]) == (0.0, 0.5, 2, 2)
    assert [(row["on"], row["off"]) for row in rows[-2:]] == [(0.0, 0.5), (0.0, 1.0)]
    assert len(steps(switched_off(records, NAMES), label_order(records))) == len(REASONS) + 2


def test_a_limit_of_words_is_a_filter_like_the_others():
    """Two texts over the limit, then a short one; switched off, the first stands."""
    long = text(analysis="red crown, black back, " + "very " * 40)
    records = [record(long, long, text(), rejections=["too_long", "too_long"], max_words=30), record(text(), max_words=30)]
    _, rows = quality_report(records)
    assert rows[-1] == {"reason": "too_long", "texts": 2, "images_dropped": 0}
    off = {row["off"]: row for row in switched_off(records, NAMES)}
    assert (off["too_long"]["kept"], off["too_long"]["texts"], off["too_long"]["flawed"]) == (2, 2, 1)
    assert off["wrong_prediction"]["texts"] == 4 and off["all"]["on_value"] == 0.0
    assert [row["flaw"] for row in steps(switched_off(records, NAMES), label_order(records))][-3:-1] == ["too long", "any of these"]
