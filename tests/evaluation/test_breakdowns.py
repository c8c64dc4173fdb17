"""Breakdowns by place, length and rationale, and models at equal length: hand-worked tables."""

import numpy as np
import pandas as pd
import pytest

from finer1_lib.core.errors import UserError
from finer1_lib.evaluation.scores.breakdowns import COLUMNS, breakdowns
from finer1_lib.evaluation.scores.scoring import make_scorer, score_records

NAMES = ["Rock Wren", "House Wren", "Marsh Wren", "Cactus Wren"]


def record(label, said, *, place=0, tokens=10, model="base", setting="closed_world", categories="seen",
           number=0, group="bird", **more):
    """A record whose truth stands at `place` (from 0) among four options."""
    options = [name for name in NAMES if name != label][:3]
    options.insert(place, label)
    item, closed = f"{group}/{label}/{number}.png", setting == "closed_world"
    return {"model": model, "setting": setting, "item_id": item, "image_id": item, "super_category": group,
            "sub_category": label, "categories": categories, "options": options if closed else None,
            "option_order": "shuffled" if closed else None, "rotation": 0, "tokens": tokens,
            "completion": f"<answer>{said}</answer>", **more}


def table(records, **given):
    scores = score_records(records, [make_scorer("official"), make_scorer("strict")])
    return breakdowns(scores, records, **given)


def levels(found, breakdown, **wanted):
    part = found[found["breakdown"] == breakdown]
    for column, value in wanted.items():
        part = part[part[column] == value]
    return dict(zip(part["level"], zip(part["value"], part["n"])))


def test_a_model_that_takes_the_first_option_is_right_at_the_first_place_alone():
    records = [record(name, [name, "House Wren"][place > 0] if name != "House Wren" else "Rock Wren",
                      place=place, number=place) for name in NAMES[:1] for place in range(4)]
    found = table(records)
    assert levels(found, "position") == {"1": (1.0, 1), "2": (0.0, 1), "3": (0.0, 1), "4": (0.0, 1)}
    assert tuple(found.columns) == COLUMNS and set(found["metric"]) == {"accuracy"}
    assert set(found["scorer"]) == {"strict"} and set(found["option_order"]) == {"shuffled"}


def test_averages_of_a_level_are_unweighted_over_super_categories():
    records = [record("Rock Wren", "Rock Wren", number=n) for n in range(3)]
    records.append(record("Marsh Wren", "no", group="fake", number=9))
    assert levels(table(records), "position") == {"1": (0.5, 4)}


def test_other_orders_and_rotations_stand_aside():
    records = [record("Rock Wren", "Rock Wren")]
    records += [record("Rock Wren", "House Wren", place=turn, option_order="rotations", rotation=turn)
                for turn in (1, 2, 3)]
    records.append(record("Rock Wren", "House Wren", place=2, option_order="release"))
    assert levels(table(records), "position") == {"1": (1.0, 1)}


def test_the_open_world_has_no_place_and_no_options_are_no_place():
    found = table([record("Rock Wren", "Rock Wren", setting="open_world"),
                   record("Rock Wren", "Rock Wren", setting="all_labels", tokens=0, model="clip-l")])
    assert set(found["breakdown"]) == {"length"} and set(found["metric"]) == {"text_inclusion"}
    assert set(found["model"]) == {"base"}  # an encoder writes nothing


def test_lengths_are_cut_alike_for_all_models_and_encoders_have_none():
    records = [record("Rock Wren", "Rock Wren" if tokens > 4 else "no", tokens=tokens, number=tokens)
               for tokens in (1, 2, 3, 4, 5, 6, 7, 80)]
    records += [record("Rock Wren", "no", tokens=0, number=n, model="clip-l") for n in range(30)]
    found = table(records)
    wanted = {"1-2": (0.0, 2), "3-4": (0.0, 2), "5-6": (1.0, 2), "7-80": (1.0, 2)}
    assert levels(found, "length") == wanted and list(levels(found, "length")) == list(wanted)
    assert found[found["model"] == "clip-l"]["breakdown"].tolist() == ["position"]
    # a second model of one length alone moves the cuts of both
    longer = [record("Rock Wren", "no", tokens=100, number=n, model="cot") for n in range(24)]
    both = table(records + longer)
    assert levels(both, "length", model="cot") == {"100": (0.0, 24)}
    assert levels(both, "length", model="base") == {"1-80": (0.5, 8)}


def test_numbers_are_in_order_not_words():
    records = [record("Rock Wren", "no", tokens=tokens, number=tokens) for tokens in (9, 10, 100, 1000)]
    assert list(levels(table(records), "length")) == ["9", "10", "100", "1000"]


def test_seen_with_a_rationale_seen_without_and_unseen():
    records = [record("Rock Wren", "Rock Wren"), record("House Wren", "no"),
               record("Marsh Wren", "Marsh Wren", categories="unseen")]
    lines = [{"super_category": "bird", "sub_category": "Rock Wren", "text": "..."},
             {"super_category": "fake", "sub_category": "House Wren", "text": "..."}]
    found = table(records, rationales=lines)
    assert levels(found, "rationale") == {
        "seen with rationale": (1.0, 1), "seen without rationale": (0.0, 1), "unseen": (1.0, 1)}
    kinds = dict(zip(found["level"], found["categories"]))
    assert kinds["unseen"] == "unseen" and kinds["seen without rationale"] == "seen"
    assert "rationale" not in set(table(records)["breakdown"])


def test_several_samples_count_once():
    drawn = [record("Rock Wren", said, tokens=tokens, sample=place, samples=3)
             for place, (said, tokens) in enumerate([("no", 5), ("Rock Wren", 7), ("Rock Wren", 9)])]
    found = table(drawn)
    assert levels(found, "length") == {"7": (1.0, 1)} and levels(found, "position") == {"1": (1.0, 1)}


# ---------------------------------------------------------------- at equal length


def lengths_of(model, cells):
    """Records of one model from {tokens: (right, wrong)}."""
    records = []
    for tokens, (right, wrong) in cells.items():
        for said in ["Rock Wren"] * right + ["no"] * wrong:
            records.append(record("Rock Wren", said, tokens=tokens, number=len(records), model=model))
    return records


def test_equal_length_by_hand():
    """Long answers are wrong in both; one writes more of them, so it looks worse than it is."""
    one = lengths_of("one", {5: (2, 0), 9: (2, 6)})
    two = lengths_of("two", {5: (6, 2), 9: (0, 2)})
    found = table(one + two, pairs=[("one", "two")])
    plain = {model: np.mean([f"<answer>{'Rock Wren'}</answer>" == r["completion"] for r in records])
             for model, records in (("one", one), ("two", two))}
    assert plain["one"] - plain["two"] == pytest.approx(0.4 - 0.6)
    (row,) = found[found["breakdown"] == "equal_length"].to_dict("records")
    # 5 tokens: 1 and 6/8, of two answers; 9 tokens: 2/8 and 0, of two answers
    assert row["value"] == pytest.approx((2 * 0.25 + 2 * 0.25) / 4) and row["n"] == 4
    assert (row["model"], row["level"]) == ("one", "two") and pd.isna(row["low"])  # one sub-category
    back = table(one + two, pairs=[("two", "one")])
    assert back[back["breakdown"] == "equal_length"]["value"].tolist() == [pytest.approx(-0.25)]


def test_models_that_never_write_alike_have_no_difference():
    found = table(lengths_of("one", {5: (2, 2)}) + lengths_of("two", {90: (1, 3)}), pairs=[("one", "two")])
    (row,) = found[found["breakdown"] == "equal_length"].to_dict("records")
    assert pd.isna(row["value"]) and row["n"] == 0
    none = table(lengths_of("one", {5: (2, 2)}), pairs=[("one", "clip-l")])
    assert "equal_length" not in set(none["breakdown"])  # a model that was not asked, or writes nothing


def test_the_interval_of_a_difference_at_equal_length():
    rng = np.random.default_rng(2)
    records = []
    for model, ease in (("one", 0.9), ("two", 0.3)):
        for place in range(24):
            for number, tokens in enumerate((5, 9)):
                said = f"N{place}" if rng.random() < ease else "no"
                records.append(record(f"N{place}", said, tokens=tokens, number=number, model=model))
    (row,) = table(records, pairs=[("one", "two")]).query("breakdown == 'equal_length'").to_dict("records")
    assert 0 < row["low"] < row["value"] < row["high"] <= 1 and row["clusters"] == 24 and row["n"] == 48
    # a single shared answer: resamples that miss it know nothing
    alone = [one for one in records if one["model"] == "two" or one["tokens"] == 5][:24]
    apart = [{**one, "tokens": 5 if one["sub_category"] == "N0" else 77, "model": "two"} for one in alone]
    found = table(alone + apart, pairs=[("one", "two")])
    (row,) = found[found["breakdown"] == "equal_length"].to_dict("records")
    assert row["n"] == 1 and pd.isna(row["low"]) and not pd.isna(row["value"])


# ---------------------------------------------------------------- refusals


def test_scores_without_their_records_and_options_without_the_truth_are_refused():
    records = [record("Rock Wren", "Rock Wren"), record("House Wren", "no")]
    scores = score_records(records, [make_scorer("strict")])
    with pytest.raises(UserError, match="some scores have no record"):
        breakdowns(scores, records[:1])
    with pytest.raises(UserError, match="Rock Wren is not an option of bird/Rock Wren/0.png"):
        breakdowns(scores, [{**records[0], "options": NAMES[1:]}, records[1]])


def test_nothing_gives_an_empty_table_with_its_columns():
    scores = score_records([], [make_scorer("strict")])
    assert list(breakdowns(scores, []).columns) == list(COLUMNS)
