"""Several answers to one question: votes, ties, pass@k against counting, and the scores that come of them."""

import random
from itertools import combinations

import pytest
from hypothesis import given, settings, strategies as st

from finer1_lib.core.errors import UserError
from finer1_lib.evaluation.scores.samples import pass_at_k, sample_scores, settle, vote
from finer1_lib.evaluation.scores.scoring import make_scorer, pick, score_records, summary_rows

OPTIONS = ["Rock Wren", "House Wren", "Marsh Wren", "Cactus Wren"]


def draws(*answers, item="bird/1.png", setting="closed_world", model="cot_sft-self_consistency", **more):
    """One record for each answer; None is a completion without one."""
    closed = setting == "closed_world"
    return [{"model": model, "setting": setting, "item_id": item, "image_id": item, "super_category": "bird",
             "sub_category": "Rock Wren", "categories": "seen", "options": OPTIONS if closed else None,
             "option_order": "shuffled" if closed else None, "rotation": 0, "sample": place,
             "samples": len(answers), "completion": "I cannot tell."
             if answer is None else f"<answer>{answer}</answer>",
             **more} for place, answer in enumerate(answers)]


def test_the_majority_s_first_record_stands_for_the_question():
    (record,) = settle(draws("House Wren", "rock-wren", "Rock Wren", None, "ROCK WREN"))
    assert record["completion"] == "<answer>rock-wren</answer>" and record["sample"] == 1
    assert [one["sample"] for one in record["drawn"]] == [0, 1, 2, 3, 4]


def test_of_equally_many_votes_the_first_drawn_wins_whatever_the_order_of_the_lines():
    records = draws("House Wren", "Rock Wren", "Rock Wren", "House Wren")
    assert settle(records)[0]["sample"] == 0
    assert settle(records[::-1])[0]["sample"] == 0
    random.Random(3).shuffle(records)
    assert settle(records)[0]["sample"] == 0


def test_no_answer_casts_no_vote():
    (record,) = settle(draws(None, None, None, "House Wren"))
    assert record["sample"] == 3  # three that say nothing do not outvote one that speaks
    assert sample_scores(record, [0, 0, 0, 0])["majority_share"] == 0.25
    (silent,) = settle(draws(None, None))
    assert silent["sample"] == 0 and sample_scores(silent, [0, 0])["majority_share"] == 0.0
    assert vote(silent) is None


def test_other_records_pass_through_and_places_are_kept():
    plain = {key: value for key, value in draws("Rock Wren", model="base")[0].items() if "sample" not in key}
    sampled = draws("Rock Wren", "House Wren")
    settled = settle([sampled[0], plain, sampled[1]])
    assert settled[1] is plain and settled[0]["drawn"] == sampled and len(settled) == 2


def test_questions_of_other_orders_rotations_and_settings_are_apart():
    records = [*draws("Rock Wren"), *draws("House Wren", rotation=1, option_order="rotations"),
               *draws("House Wren", setting="open_world"), *draws("House Wren", model="base"),
               *draws("House Wren", item="bird/2.png"), *draws("House Wren", option_order="release")]
    assert len(settle(records)) == 6


@pytest.mark.parametrize("spoil", ["missing", "twice"])
def test_a_question_without_all_its_samples_is_refused_in_one_line(spoil):
    records = draws("Rock Wren", "Rock Wren", "House Wren")
    records = records[:-1] if spoil == "missing" else [*records, records[0]]
    with pytest.raises(UserError, match="bird/1.png in closed_world, not the samples 0 to 2") as error:
        settle(records)
    assert "\n" not in str(error.value)


def test_a_letter_and_its_name_are_one_vote_where_letters_were_shown():
    said = ["House Wren", "House Wren", "A", "(a)", "A. Rock Wren", "B. Rock Wren", "Z", "C) Cactus Wren"]
    votes = [vote(record) for record in draws(*said, lettered=True)]
    assert votes[:5] == ["house wren"] * 2 + ["rock wren"] * 3
    assert votes[5:] == ["b. rock wren", "z", "c) cactus wren"]  # letter and name differ, no such letter
    (record,) = settle(draws(*said, lettered=True))
    assert record["sample"] == 2
    assert settle(draws(*said))[0]["sample"] == 0  # without letters "A" is a word like another


# ---------------------------------------------------------------- pass@k


def test_pass_at_k_by_hand():
    # of 4 draws 1 is right: of the 6 pairs 3 hold it
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5) and pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 0, 4) == 0.0 and pass_at_k(4, 1, 4) == 1.0 and pass_at_k(4, 3, 2) == 1.0
    for n, c, k in [(4, 1, 0), (4, 1, 5), (4, 5, 1), (4, -1, 1)]:
        with pytest.raises(ValueError, match="pass@"):
            pass_at_k(n, c, k)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_share_of_all_choices_of_k(right, data):
    k = data.draw(st.integers(1, len(right)))
    chosen = list(combinations(right, k))
    assert pass_at_k(len(right), sum(right), k) == pytest.approx(sum(map(any, chosen)) / len(chosen))


def test_powers_of_two_and_all_that_were_drawn():
    (record,) = settle(draws(*["Rock Wren"] * 2, *["House Wren"] * 4))
    found = sample_scores(record, [1, 1, 0, 0, 0, 0])
    assert list(found) == ["pass_at_1", "pass_at_2", "pass_at_4", "pass_at_6", "majority_share"]
    assert found["pass_at_1"] == pytest.approx(1 / 3) and found["pass_at_2"] == pytest.approx(1 - 6 / 15)
    assert found["pass_at_6"] == 1.0 and found["majority_share"] == pytest.approx(4 / 6)


# ---------------------------------------------------------------- scores and rows


def test_the_main_row_is_the_majority_s_and_pass_at_k_that_of_the_draws():
    records = draws("House Wren", "Rock Wren", "House Wren", None)
    records += draws("Rock Wren", "Rock Wren", None, "House Wren", item="bird/2.png")
    scores = score_records(records, [make_scorer(name) for name in ("official", "strict")])
    for scorer in ("official", "strict"):
        own = scores[scores["scorer"] == scorer].set_index(["item_id", "metric"])["value"]
        assert own["bird/1.png", "accuracy"] == 0.0 and own["bird/2.png", "accuracy"] == 1.0
        assert own["bird/1.png", "pass_at_1"] == 0.25 and own["bird/2.png", "pass_at_2"] == 1 - 1 / 6
        assert own["bird/1.png", "majority_share"] == 0.5 and own["bird/1.png", "pass_at_4"] == 1.0
    assert not scores.duplicated(["item_id", "scorer", "metric"]).any()
    row = pick(summary_rows(scores, seed=0), scorer="strict", metric="pass_at_1", dataset="average")
    assert row["value"].tolist() == [pytest.approx(3 / 8)] and row["n"].tolist() == [2]


def test_the_open_world_counts_draws_by_text_inclusion():
    scores = score_records(draws("Rock Wren", "House Wren", setting="open_world"), [make_scorer("strict")])
    own = scores.set_index("metric")["value"]
    assert own["text_inclusion"] == 1.0 and own["pass_at_1"] == 0.5 and own["pass_at_2"] == 1.0


def test_rotations_of_samples_count_by_their_majorities():
    turns = [OPTIONS[place:] + OPTIONS[:place] for place in range(4)]
    right = ("Rock Wren", "House Wren", "Rock Wren")
    records = [record for place, options in enumerate(turns)
               for record in draws(*right, options=options, rotation=place,
                                   option_order="rotations" if place else "shuffled")]
    scores = score_records(records, [make_scorer("strict")])
    turned = scores[scores["option_order"] == "rotations"]
    assert turned["metric"].tolist() == ["accuracy"] and turned["value"].tolist() == [1.0]
    for record in records:
        if record["rotation"] == 2 and record["sample"] == 0:
            record["completion"] = "<answer>House Wren</answer>"
    turned = score_records(records, [make_scorer("strict")])
    assert turned[turned["option_order"] == "rotations"]["value"].tolist() == [0.0]
