"""Rows out of sums: hand-worked macro and harmonic means, all labels, corrected readings, who is compared."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from finer1_lib.core.errors import UserError
from finer1_lib.core.statistics import clustered_mean
from finer1_lib.evaluation.scores.averages import cluster_sums, rows_of_sums
from finer1_lib.evaluation.scores.scoring import (compare_all, main_reading, make_scorer, pick, score_records,
                                                  summary_rows)
from finer1_lib.evaluation.summary import KEYS, check_rows, main_table

CLOSED = [("closed_world", "accuracy")]
COLUMNS = ["model", "setting", "item_id", "super_category", "sub_category", "categories", "option_order",
           "scorer", "metric", "value"]


def table(cells, *, model="base", setting="open_world", metric="text_inclusion", scorer="strict", order=None):
    """Scores in long form from {(super_category, categories, sub_category): values}."""
    rows = [[model, setting, f"{group}/{name}/{place}", group, name, categories, order, scorer, metric, value]
            for (group, categories, name), values in cells.items() for place, value in enumerate(values)]
    return pd.DataFrame(rows, columns=COLUMNS)


WORLD = {("bird", "seen", "a"): [1, 0], ("bird", "seen", "b"): [1, 1, 1, 1, 1, 0, 0, 0],
         ("bird", "unseen", "c"): [1, 0, 0, 0], ("bird", "unseen", "d"): [0, 0], ("car", "seen", "e"): [1, 1],
         ("car", "seen", "f"): [0, 0], ("car", "unseen", "g"): [1, 1], ("car", "unseen", "h"): [1, 1]}


def value(rows, **wanted):
    (row,) = pick(rows, **wanted).to_dict("records")
    return row


def test_macro_and_harmonic_means_by_hand():
    rows = summary_rows(table(WORLD), seed=0)
    assert all(tuple(row) == KEYS for row in rows) and check_rows(rows, "rows") == rows
    assert value(rows, dataset="bird", metric="text_inclusion", categories="seen")["value"] == 0.6
    macro = dict(metric="macro_text_inclusion")
    bird = value(rows, dataset="bird", categories="seen", **macro)
    assert bird["value"] == pytest.approx((1 / 2 + 5 / 8) / 2) and bird["n"] == 10
    assert value(rows, dataset="average", categories="seen", **macro)["value"] == pytest.approx(
        (0.5625 + 0.5) / 2)
    both = value(rows, dataset="bird", categories="all", **macro)
    assert both["value"] == pytest.approx((1 / 2 + 5 / 8 + 1 / 4 + 0) / 4) and both["n"] == 16
    harmonic = dict(metric="harmonic_text_inclusion", categories="all")
    # bird: seen 6/10, unseen 1/6; car: seen 1/2, unseen 1
    assert value(rows, dataset="bird", **harmonic)["value"] == pytest.approx(2 * 0.6 / 6 / (0.6 + 1 / 6))
    seen, unseen = (0.6 + 0.5) / 2, (1 / 6 + 1) / 2
    whole = value(rows, dataset="average", **harmonic)
    assert whole["value"] == pytest.approx(2 * seen * unseen / (seen + unseen)) and whole["n"] == 24
    assert 0 <= whole["low"] < whole["value"] < whole["high"] <= 1


def test_nothing_right_has_a_harmonic_mean_of_zero_and_no_certainty():
    none = {key: [0, 0] for key in WORLD}
    row = value(summary_rows(table(none), seed=0), dataset="average", metric="harmonic_text_inclusion")
    assert row["value"] == 0.0 and row["low"] is None and row["high"] is None  # no draw tells how far it may be off


def test_seen_and_unseen_are_resampled_apart():
    """All seen alike and all unseen alike: draws that keep both kinds never vary, and claim no certainty."""
    cells = {("bird", kind, f"{kind}{n}"): right for kind, right in (("seen", [1, 0]), ("unseen", [1, 1]))
             for n in range(4)}
    reach = 1 - 0.025 ** (1 / 8)
    for metric, mean in (("harmonic_text_inclusion", 2 / 3), ("macro_text_inclusion", 0.75)):
        row = value(summary_rows(table(cells), seed=0), dataset="bird", metric=metric, categories="all")
        assert row["value"] == pytest.approx(mean) and row["low"] == pytest.approx(mean - reach)


def test_only_where_both_kinds_were_asked():
    seen = {key: values for key, values in WORLD.items() if key[1] == "seen"}
    rows = summary_rows(table(seen), seed=0)
    assert {(row["metric"], row["categories"]) for row in rows} == {
        ("text_inclusion", "seen"), ("macro_text_inclusion", "seen")}


def test_macro_rows_are_of_the_main_reading_and_of_what_is_right():
    scores = pd.concat([table(WORLD, setting="closed_world", metric="accuracy", order=order)
                        for order in ("shuffled", "release")] + [table(WORLD, metric="format_failure")])
    rows = [row for row in summary_rows(scores, seed=0) if row["metric"].startswith(("macro", "harmonic"))]
    assert {(row["metric"], row["option_order"]) for row in rows} == {
        ("macro_accuracy", "shuffled"), ("harmonic_accuracy", "shuffled")}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["bird", "car"]), st.sampled_from("abcd"), st.floats(0, 1)),
                min_size=1, max_size=40), st.randoms())
def test_rows_depend_on_the_scores_alone_and_are_the_means_of_the_items(cells, chance):
    """Not on the order of the lines; and the sums give what the scores themselves give."""
    cells = [(group, name, place, value) for place, (group, name, value) in enumerate(cells)]
    kinds = {"a": "seen", "b": "seen", "c": "unseen", "d": "unseen"}
    frame = pd.DataFrame([["base", "open_world", f"{place:03}", group, name, kinds[name], None, "strict",
                           "text_inclusion", value] for group, name, place, value in cells], columns=COLUMNS)
    mixed = frame.sample(frac=1, random_state=chance.randint(0, 99))
    rows = rows_of_sums(cluster_sums(frame), seed=1)
    sums = cluster_sums(mixed).sample(frac=1, random_state=3)  # as somebody may have counted them
    again = rows_of_sums(sums, seed=1)
    name = lambda row: (row["metric"], row["categories"], row["dataset"])  # noqa: E731
    assert sorted(rows, key=name) == sorted(again, key=name)
    for row in rows:
        part = frame[(frame["categories"] == row["categories"])]
        if row["metric"] == "text_inclusion" and row["dataset"] == "average":
            own = clustered_mean(part["value"].tolist(), part["sub_category"].tolist(),
                                 part["super_category"].tolist(), seed=1)
            assert (row["value"], row["low"], row["high"], row["n"]) == (own.value, own.low, own.high, own.n)


def test_the_harmonic_interval_covers_the_truth():
    """Seen and unseen of unequal ease: about 95 in 100 intervals hold 2SU / (S + U)."""
    rng, hits, tries = np.random.default_rng(7), 0, 120
    truth = 2 * 0.7 * 0.4 / 1.1
    for _ in range(tries):
        cells = {}
        for kind, (a, b) in {"seen": (3.5, 1.5), "unseen": (2, 3)}.items():
            for number, ease in enumerate(rng.beta(a, b, 24)):
                cells["bird", kind, f"{kind}{number}"] = (rng.random(4) < ease).astype(float)
        row = value(summary_rows(table(cells), seed=0), dataset="bird", metric="harmonic_text_inclusion")
        hits += row["low"] <= truth <= row["high"]
    assert 0.88 <= hits / tries < 1.0


def test_a_metric_that_names_its_similarity_has_it_as_variant():
    plain = table(WORLD, metric="relative_semantic_similarity")
    kinds = ("", "_unclipped", "@siglip_lower", "_unclipped@siglip_lower")
    named = [plain.assign(metric=f"relative_semantic_similarity{kind}") for kind in kinds]
    rows = summary_rows(pd.concat(named), seed=0, similarity="trigram")
    assert {(row["metric"], row["variant"]) for row in rows} == {
        (f"relative_semantic_similarity{kind}", variant)
        for kind in kinds[:2] for variant in ("trigram", "siglip_lower")}


# ---------------------------------------------------------------- all labels


def encoder_record(name, label, setting="all_labels", categories="seen"):
    item = f"bird/{label}.png"
    return {"model": "clip-l", "setting": setting, "item_id": item, "image_id": item,
            "super_category": "bird", "sub_category": label, "categories": categories,
            "option_order": None, "labels_hash": "ab",
            "completion": f"<answer>{name}</answer>", "tokens": 0, "truncated": False}


def test_a_choice_among_all_labels_is_right_or_wrong():
    records = [encoder_record("Rock Wren", "Rock Wren"), encoder_record("House Wren", "Marsh Wren")]
    scores = score_records(records, [make_scorer("official"), make_scorer("strict")])
    right = scores[scores["metric"] == "accuracy"]
    assert right["value"].tolist() == [1, 0, 1, 0] and set(scores["setting"]) == {"all_labels"}
    assert "text_inclusion" not in set(scores["metric"])
    titles, lines = main_table(summary_rows(scores, seed=0))
    assert titles[-2:] == ["among all names, seen", "among all names, unseen"]
    assert lines[0][1] == "-" and lines[0][5].startswith("50.0")


def test_without_encoders_the_main_table_has_its_four_columns():
    assert len(main_table(summary_rows(table(WORLD), seed=0))[0]) == 5


def test_an_unknown_setting_is_refused_in_one_line():
    with pytest.raises(UserError, match="is 'open', none of closed_world") as error:
        score_records([encoder_record("Rock Wren", "Rock Wren", setting="open")], [make_scorer("strict")])
    assert "\n" not in str(error.value)


def test_no_scorer_and_no_record_give_empty_tables():
    assert score_records([], []).empty and score_records([], [make_scorer("strict")]).empty
    assert summary_rows(score_records([], [make_scorer("strict")]), seed=0) == []


# ---------------------------------------------------------------- comparisons


def two_models(first, second, count=20):
    """Closed-world scores of two models on one picture each of so many sub-categories, seen and unseen."""
    frames = []
    for model, right in (("one", first), ("two", second)):
        cells = {("bird", kind, f"{kind}{place:02}"): [right(kind, place)]
                 for kind in ("seen", "unseen") for place in range(count)}
        frames.append(table(cells, model=model, setting="closed_world", metric="accuracy", order="shuffled"))
    return pd.concat(frames, ignore_index=True)


def test_each_reading_is_told_alone_and_corrected_for_all():
    # seen: 6 of 20 differ, all one way: p = 2/64 alone, twice that among two; unseen: none differs
    scores = two_models(lambda kind, place: 1.0, lambda kind, place: float(kind == "unseen" or place >= 6))
    found = compare_all(scores, [("one", "two")], metrics=CLOSED, scorer="strict", seed=0)
    seen, unseen = found.to_dict("records")
    assert seen["p"] == pytest.approx(2 / 64, abs=0.01) and seen["p_holm"] == pytest.approx(2 * seen["p"])
    assert (seen["reading"], seen["reading_holm"]) == ("higher", "cannot tell")
    assert unseen["p_holm"] == 1.0 and unseen["reading_holm"] == "cannot tell"
    assert seen["p_mcnemar"] == pytest.approx(2 / 64) and unseen["p_mcnemar"] == 1.0
    assert seen["design_effect"] == 1.0 and seen["needed_items"] == seen["needed"]
    assert pd.isna(unseen["needed"]) and pd.isna(unseen["needed_items"])
    alone = compare_all(scores[scores["categories"] == "seen"].assign(categories="seen"), [], scorer="strict",
                        metrics=CLOSED, seed=0)
    assert list(alone.columns) == list(found.columns) and alone.empty


def test_a_clear_difference_stays_clear_after_correction():
    scores = two_models(lambda *_: 1.0, lambda *_: 0.0)
    found = compare_all(scores, [("one", "two")], metrics=CLOSED, scorer="strict", seed=0)
    assert set(found["reading_holm"]) == {"higher"}


def test_a_clear_difference_survives_two_hundred_tests():
    """A p of 1/2001 at the least would be corrected to 0.1."""
    scores = two_models(lambda *_: 1.0, lambda *_: 0.0, count=30)
    pairs = [("one", "two")] + [("one", "one")] * 100
    found = compare_all(scores, pairs, metrics=CLOSED, scorer="strict", seed=0)
    assert len(found) == 202 and found["p"].min() * 202 > 0.05
    assert found["reading_holm"].tolist() == ["higher"] * 2 + ["cannot tell"] * 200


def test_similarities_have_no_mcnemar():
    scores = two_models(lambda *_: 0.5, lambda kind, place: place / 40).assign(metric="nearness")
    found = compare_all(scores, [("one", "two")], metrics=[("closed_world", "nearness")],
                        scorer="strict", seed=0)
    assert found["p_mcnemar"].isna().all() and found["p"].notna().all()


def test_an_encoder_is_not_compared_where_it_was_never_asked():
    chat = pd.concat([table(WORLD, model="base"), table(WORLD, model="base", setting="closed_world",
                                                        metric="accuracy", order="shuffled")])
    both = pd.concat([chat, table(WORLD, model="clip-l", setting="closed_world", metric="accuracy",
                                  order="shuffled")], ignore_index=True)
    metrics = [("closed_world", "accuracy"), ("open_world", "text_inclusion")]
    found = compare_all(both, [("base", "clip-l")], metrics=metrics, scorer="strict", seed=0)
    assert set(found["setting"]) == {"closed_world"} and len(found) == 2
    fewer = both.drop(both[(both["model"] == "clip-l") & (both["sub_category"] == "a")].index)
    with pytest.raises(ValueError, match="did not answer the same items in closed_world, seen"):
        compare_all(fewer, [("base", "clip-l")], metrics=metrics, scorer="strict", seed=0)


def test_the_main_reading_leaves_other_orders_out():
    orders = ("shuffled", "release", "rotations", None)
    scores = pd.concat([table(WORLD, order=order) for order in orders], ignore_index=True)
    kept = main_reading(scores)["option_order"]
    assert set(kept.dropna()) == {"shuffled"} and kept.isna().sum() * 2 == len(kept)
