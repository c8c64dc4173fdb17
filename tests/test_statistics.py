"""Clustered intervals and paired tests: hand-worked values, coverage, and the degenerate cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finer1_lib.statistics import clustered_mean, clusters_to_tell, paired_difference


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
    assert clusters_to_tell([1, 0, 1, 0], [0, 0, 0, 0], list("abcd")) == 11
    assert clusters_to_tell([1, 0], [1, 0], ["a", "b"]) is None


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
