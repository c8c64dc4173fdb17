"""Clustered intervals and paired tests: hand-worked values, coverage, and the degenerate cases."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from finer1_lib.core.statistics import (
    cluster_weights,
    clustered_mean,
    clustered_mean_of,
    clusters_needed,
    holm,
    items_needed,
    mcnemar_p,
    paired_difference,
    resampled,
)


def test_value_is_the_plain_mean_and_n_counts_scores():
    estimate = clustered_mean([1, 1, 0, 1], ["a", "a", "b", "c"])
    assert (estimate.value, estimate.n, estimate.clusters, estimate.p) == (0.75, 4, 3, None)


def test_average_over_groups_is_unweighted():
    estimate = clustered_mean([1, 1, 1, 1, 0, 0], list("abcdef"), ["bird"] * 4 + ["plane"] * 2)
    assert estimate.value == 0.5  # not 4/6


def test_one_name_in_two_groups_is_two_clusters():
    assert clustered_mean([1, 0, 1, 0], ["a", "b", "a", "b"], ["x", "x", "y", "y"]).clusters == 4


def test_clusters_widen_the_interval():
    values = [1, 0] * 10
    alone = clustered_mean(np.repeat(values, 5), np.arange(100))
    together = clustered_mean(np.repeat(values, 5), np.repeat(np.arange(20), 5))
    assert together.high - together.low > 1.8 * (alone.high - alone.low)


def test_same_seed_same_interval():
    values, clusters = [0.2, 0.4, 1, 0, 0.5, 1], list("aabbcd")
    assert clustered_mean(values, clusters, seed=3) == clustered_mean(values, clusters, seed=3)


def test_two_clusters_reach_over_everything_that_resampling_can_give():
    estimate = clustered_mean([1, 1, 0, 0], ["a", "a", "b", "b"])
    assert (estimate.low, estimate.high) == (0.0, 1.0)


def test_one_cluster_has_no_interval():
    estimate = clustered_mean([1, 0, 1], ["a", "a", "a"])
    assert estimate.value == pytest.approx(2 / 3) and estimate.low is None and estimate.high is None
    assert estimate.as_row() == {"value": estimate.value, "low": None, "high": None, "n": 3}


def test_a_group_of_one_cluster_spoils_the_average_interval():
    assert clustered_mean([1, 0, 1], list("abc"), ["x", "x", "y"]).low is None


def test_none_of_twenty_is_not_certainty():
    estimate = clustered_mean([0] * 20, range(20))
    assert estimate.low == 0.0 and estimate.high == pytest.approx(
        1 - 0.025 ** (1 / 20)
    )  # Clopper-Pearson: 0.168
    assert clustered_mean([1] * 20, range(20)).low == pytest.approx(0.025 ** (1 / 20))


def test_equal_models_differ_by_zero_with_an_honest_interval():
    estimate = paired_difference([1, 0, 1], [1, 0, 1], list("abc"))
    assert estimate.value == 0 and estimate.low < 0 < estimate.high and estimate.p == 1.0


def test_sign_flip_p_by_hand():
    # three clusters, all in favour: of 8 flips only +++ and --- are as far out
    assert paired_difference([1, 1, 1], [0, 0, 0.5], list("abc")).p == pytest.approx(2 / 8)


def test_paired_difference_by_hand_and_unequal_lengths():
    estimate = paired_difference([1, 1, 0, 1], [0, 1, 0, 0], list("aabb"))
    assert estimate.value == 0.5 and estimate.n == 4
    with pytest.raises(ValueError, match="differ in number"):
        paired_difference([1], [1, 0], ["a"])


def test_many_clusters_use_drawn_flips():
    rng = np.random.default_rng(0)
    base = rng.random(40)
    assert paired_difference(base + 0.3, base, range(40)).p < 0.01
    shuffled = paired_difference(rng.random(40), rng.random(40), range(40))
    assert 0 < shuffled.p <= 1


@pytest.mark.parametrize("values, clusters", [([], []), ([1, 2], ["a"]), ([float("nan")], ["a"])])
def test_unusable_scores_are_refused(values, clusters):
    with pytest.raises(ValueError):
        clustered_mean(values, clusters)


def test_clusters_to_tell():
    # cluster differences 1, 0, 1, 0: mean 0.5, sd 0.577; (1.96 + 0.84)^2 * 0.333 / 0.25 = 10.5
    assert clusters_needed([1, 0, 1, 0], [0, 0, 0, 0], list("abcd")) == 11
    assert clusters_needed([1, 0], [1, 0], ["a", "b"]) is None


@pytest.mark.parametrize("clusters, least", [(6, 0.86), (40, 0.90)])
def test_interval_covers_the_truth(clusters, least):
    """Sub-categories of unequal difficulty, five images each: about 95 in 100 intervals hold the truth."""
    rng = np.random.default_rng(11)
    hits, tries = 0, 300
    for _ in range(tries):
        ease = np.repeat(rng.beta(1.5, 1.5, clusters), 5)
        estimate = clustered_mean(
            rng.random(len(ease)) < ease, np.repeat(np.arange(clusters), 5), resamples=400
        )
        hits += estimate.low <= 0.5 <= estimate.high
    assert hits / tries >= least


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=30), st.integers(0, 5))
def test_value_lies_inside_its_interval_and_the_interval_in_the_unit(rows, seed):
    estimate = clustered_mean([v for v, _ in rows], [c for _, c in rows], seed=seed, resamples=50)
    if estimate.low is not None:
        assert -1e-9 <= estimate.low <= estimate.value + 1e-9
        assert estimate.value - 1e-9 <= estimate.high <= 1 + 1e-9


# ---------------------------------------------------------------- sums, weights, any statistic


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.sampled_from("xy")), min_size=1,
                max_size=40), st.integers(0, 5))
def test_sums_are_enough(rows, seed):
    values, clusters, groups = (list(column) for column in zip(*rows))
    keys = list(dict.fromkeys(zip(groups, clusters)))
    parts = [[v for v, *key in rows if tuple(key[::-1]) == k] for k in keys]
    whole = clustered_mean(values, clusters, groups, seed=seed, resamples=60)
    summed = clustered_mean_of([np.bincount([0] * len(p), p)[0] for p in parts], [len(p) for p in parts],
                               [group for group, _ in keys], seed=seed, resamples=60)
    assert whole == summed  # to the last bit


@pytest.mark.parametrize("sums, sizes, groups, word", [
    ([], [], None, "0 sums"), ([1.0], [1, 2], None, "2 sizes"), ([1.0], [0], None, "no scores"),
    ([float("inf")], [1], None, "finite"), ([1.0, 1.0], [1, 1], ["x"], "1 groups")])  # fmt: skip
def test_unusable_sums_are_refused(sums, sizes, groups, word):
    with pytest.raises(ValueError, match=word):
        clustered_mean_of(sums, sizes, groups)


def test_clusters_that_are_all_alike_are_no_certainty_either():
    """One right and one wrong in each of ten: resampling them never changes the mean."""
    estimate = clustered_mean([1, 0] * 10, np.repeat(np.arange(10), 2))
    reach = 1 - 0.025 ** (1 / 10)
    assert (estimate.low, estimate.high) == (pytest.approx(0.5 - reach), pytest.approx(0.5 + reach))
    below = clustered_mean([-0.5] * 10, range(10))  # a score that may be negative: the value stays inside
    assert below.low == -0.5 and below.high > -0.5


def test_weights_draw_as_many_clusters_of_each_group_as_there_are():
    groups = np.array([1, 0, 1, 1, 0])
    weights = cluster_weights(groups, 3, 500)
    assert (weights[:, groups == 0].sum(1) == 2).all() and (weights[:, groups == 1].sum(1) == 3).all()
    assert np.abs(weights.mean(0) - 1).max() < 0.15 and len(np.unique(weights, axis=0)) > 10
    assert (weights == cluster_weights(groups, 3, 500)).all()
    assert (weights != cluster_weights(groups, 4, 500)).any()
    assert (cluster_weights(groups, np.random.default_rng(3), 500) == weights).all()


def test_any_statistic_of_clusters_has_the_interval_of_their_mean():
    sums, groups = np.array([3.0, 1, 0, 2, 4, 1]), [0, 0, 0, 1, 1, 1]
    mean = clustered_mean_of(sums, [4] * 6, list("xxxyyy"), seed=2)

    def both(weights):
        return np.mean([weights[:, part] @ sums[part] / (4 * weights[:, part].sum(1))
                        for part in (slice(0, 3), slice(3, 6))], axis=0)

    found = resampled(both, groups, n=24, seed=2)
    assert (found.n, found.clusters) == (24, 6)
    for key in ("value", "low", "high"):
        assert getattr(found, key) == pytest.approx(getattr(mean, key))
    assert resampled(both, [0, 0, 0, 1, 1, 2], n=24).low is None
    stretched = resampled(both, groups, n=24, seed=2, stretched=True)
    assert stretched.value == found.value and stretched.low < found.value < stretched.high


# ---------------------------------------------------------------- many tests, and how much more to ask


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.04: times 3, 2, 1, never below the one before
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]


@settings(max_examples=20, deadline=None)  # multipletests collects garbage at each call: a tenth of a second
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_makes_a_find(p_values):
    corrected = holm(p_values)
    assert all(p <= q + 1e-12 and q <= 1 for p, q in zip(p_values, corrected))
    assert min(corrected) == pytest.approx(min(1, len(p_values) * min(p_values)))


def test_mcnemar_by_hand_and_only_for_right_and_wrong():
    # five items only the first has right, none only the second: 2 * (1/2)^5
    assert mcnemar_p([1] * 5 + [1, 0], [0] * 5 + [1, 0]) == pytest.approx(2 / 32)
    assert mcnemar_p([1, 0], [1, 0]) == 1.0
    assert mcnemar_p([1, 0, 1, 0], [0, 1, 1, 0]) == 1.0  # one each way
    assert mcnemar_p([0.5, 1], [0, 1]) is None


def test_mcnemar_ignores_clusters_and_the_clustered_test_does_not():
    first, second = [1] * 20, [0] * 20
    assert mcnemar_p(first, second) < 1e-5
    assert paired_difference(first, second, [0] * 10 + [1] * 10).p == 0.5


def test_items_to_tell_by_hand():
    # every item its own sub-category: as many items as sub-categories, no design effect
    assert items_needed([1, 0, 1, 0], [0] * 4, list("abcd")) == (11, 1.0)
    # pairs that agree wholly: the second picture of a sub-category is worth nothing
    items, effect = items_needed([1, 1, 0, 0, 1, 1, 0, 0], [0] * 8, list("aabbccdd"))
    assert effect == pytest.approx(2.0) and items == 21  # (1.96 + 0.84)^2 * (1/3) * 2 / 0.25 = 20.9
    assert items_needed([1, 0], [1, 0], ["a", "b"]) == (None, None)
    assert items_needed([1, 1], [0, 0], ["a", "a"]) == (None, None)


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 1000))
def test_items_and_sub_categories_needed_agree(count, each, seed):
    """With equally many pictures each, the items needed are those of the sub-categories needed."""
    rng = np.random.default_rng(seed)
    ease = rng.random(count)
    values = (rng.random((count, each)) < ease[:, None]).astype(float)
    codes = np.repeat(np.arange(count), each)
    needed, (items, effect) = clusters_needed(values.ravel(), np.zeros(count * each), codes), items_needed(
        values.ravel(), np.zeros(count * each), codes)
    if needed is None:
        return
    assert 1.0 <= effect <= each + 1e-9
    if effect > 1.0 or each == 1:  # else the sub-categories differ less than chance has it
        assert needed == 2 or abs(items / each - needed) <= 1
