"""Intervals and paired tests for scores that come in clusters (the images of one sub-category).

Ten images of one bird are not ten independent tries: a model that does not know the name misses all of them.
So whole sub-categories are resampled. With few of them a percentile interval is too narrow; it is widened as
in Hesterberg's expanded percentile interval, and where every score is the same (0 of 20 right) it falls back
on the exact binomial interval over clusters, since a bootstrap of equal values would claim certainty.

Example:
    >>> clustered_mean([1, 1, 0, 0], ["a", "a", "b", "b"]).value
    0.5

The draws are those of `finer1_lib.resampling`; `resampled` takes any statistic of them. Corrections for many
tests, a test that ignores clusters, and sample sizes: `finer1_lib.telling_apart`.

Source: METHOD 4 and DESIGN 7 (every number has n, seeds and a 95 % interval); Hesterberg 2015 (expanded
percentile); Field and Welsh 2007 (cluster bootstrap). The paper reports no intervals.
"""

from dataclasses import dataclass, replace
from typing import Any, Callable, Hashable, Optional, Sequence

from finer1_lib.resampling import (
    LEVEL, RESAMPLES, cluster_weights, codes_of, drawn_by_seed, expanded_interval, reach_of,
)  # fmt: skip

EXACT_CLUSTERS = 14  # sign flips are enumerated up to here (16,384), sampled above


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; `low` and `high` are None where the data allow none.

    Attributes:
        n: number of scores (pairs, in a paired comparison).
        clusters: number of sub-categories behind them.
        p: two-sided p-value of a paired comparison, else None.
    """

    value: float
    low: Optional[float]
    high: Optional[float]
    n: int
    clusters: int
    p: Optional[float] = None

    def as_row(self) -> dict[str, Any]:
        """value, low, high, n: the columns of a summary row."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def has_interval(low: Optional[float]) -> bool:
    """Whether the end of an interval is a number: neither None nor the NaN that a table makes of None."""
    return low is not None and low == low


def clustered_mean(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    groups: Optional[Sequence[Hashable]] = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """Mean of scores in [0, 1] with a bootstrap interval over whole clusters.

    Args:
        values: scores, shape (n,).
        clusters: the cluster of each score, shape (n,).
        groups: the super-category of each score, shape (n,). When given, the value is the unweighted mean
            over groups of the groups' means, and clusters are resampled inside their group.
        seed: of the resampling.
        resamples: number of bootstrap samples.
        level: coverage asked for.

    Raises:
        ValueError: no scores, lengths that differ, or a score that is not finite.

    Source: paper Section 4 (averages are unweighted over data sets); the interval is our choice.
    """
    return _estimate(*_summed(values, clusters, groups), seed, resamples, level, lowest=0.0)


def clustered_mean_of(
    sums: Sequence[float],
    sizes: Sequence[float],
    groups: Optional[Sequence[Hashable]] = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """`clustered_mean` from what each cluster adds up to, for scores that were never held all at once.

    Args:
        sums, sizes: sum and number of the scores of each cluster, shape (K,), in the order in which
            `clustered_mean` would meet the clusters: the resamples depend on it.
        groups: the super-category of each cluster, shape (K,).
        seed, resamples, level: as in `clustered_mean`.

    Raises:
        ValueError: no clusters, lengths that differ, an empty cluster, or a sum that is not finite.
    """
    import numpy as np

    sums, sizes = np.asarray(sums, dtype=float), np.asarray(sizes, dtype=float)
    groups = ["all"] * len(sums) if groups is None else list(groups)
    if not len(sums) or not len(sums) == len(sizes) == len(groups):
        raise ValueError(f"{len(sums)} sums, {len(sizes)} sizes, {len(groups)} groups: give equally many")
    if not np.isfinite(sums).all() or not (sizes > 0).all():
        raise ValueError("a sum is not a finite number, or a cluster has no scores")
    return _estimate(sums, sizes, codes_of(groups), seed, resamples, level, lowest=0.0)


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable],
    groups: Optional[Sequence[Hashable]] = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    flips: Optional[int] = None,
) -> Estimate:
    """Mean of `first - second` over the same items, with a clustered interval and a sign-flip p-value.

    The test flips the sign of whole clusters: under the null either model could have been the first one. All
    flips are enumerated for at most 14 clusters, else `flips` of them are drawn; p is then at least
    1 / (flips + 1).

    Args:
        first, second: scores of two models on the same items in the same order, shape (n,).
        clusters, groups, seed, resamples, level: as in `clustered_mean`.
        flips: as many as `resamples` unless given; many tests at once need more.

    Raises:
        ValueError: as `clustered_mean`, or different numbers of scores.

    Source: METHOD 3 ("no win of TAPO over DAPO is presumed"); the test is our choice.
    """
    if len(first) != len(second):
        raise ValueError(f"paired scores differ in number: {len(first)} and {len(second)}")
    difference = [float(a) - float(b) for a, b in zip(first, second)]
    summed = _summed(difference, clusters, groups)
    estimate = _estimate(*summed, seed, resamples, level, lowest=-1.0)
    return replace(estimate, p=_sign_flip_p(*summed, seed, flips or resamples))


def resampled(
    statistic: Callable[[Any], Any],
    groups: Sequence[int],
    *,
    n: int,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    bounds: tuple[float, float] = (0.0, 1.0),
    stretched: bool = False,
) -> Estimate:
    """Any statistic of clusters with a bootstrap interval; none where a group has a single cluster.

    Args:
        statistic: takes weights (draws, K), how often each cluster was drawn, and returns (draws,) values.
        groups: (K,) codes 0, 1, ... of `codes_of`; clusters are resampled inside their group.
        n: number of scores behind the clusters, for the estimate.
        bounds: the least and the greatest value there can be.
        stretched: stretch the percentile interval about the value in place of taking further percentiles,
            which cannot reach beyond the resamples (of four clusters there are few).
    """
    import numpy as np
    from scipy.stats import norm

    groups = np.asarray(groups)
    count, kinds = len(groups), len(np.unique(groups))
    known = Estimate(float(statistic(np.ones((1, count)))[0]), None, None, n, count)
    if np.bincount(groups).min() < 2:
        return known
    draws = statistic(cluster_weights(groups, seed, resamples))
    if not stretched:
        low, high = expanded_interval(known.value, draws, count, kinds, level, bounds)
        return replace(known, low=low, high=high)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    further = reach_of(count, kinds, tails[1]) / norm.ppf(tails[1])
    low, high = np.clip(known.value + further * (np.quantile(draws, tails) - known.value), *bounds)
    return replace(known, low=float(min(low, known.value)), high=float(max(high, known.value)))


def _summed(values, clusters, groups) -> tuple[Any, Any, Any]:
    """Sum and number of the scores of each cluster (K,), and its group's code (K,).

    A sub-category name that stands in two groups counts as two clusters.
    """
    import numpy as np

    values = np.asarray(values, dtype=float)
    groups = ["all"] * len(values) if groups is None else list(groups)
    if not len(values) or not len(values) == len(clusters) == len(groups):
        raise ValueError(
            f"{len(values)} scores, {len(clusters)} clusters, {len(groups)} groups: give equally many"
        )
    if not np.isfinite(values).all():
        raise ValueError("a score is not a finite number")
    keys = list(zip(groups, clusters))
    codes = codes_of(keys)
    around = codes_of([group for group, _ in dict.fromkeys(keys)])
    return np.bincount(codes, values), np.bincount(codes), around


def _estimate(sums, sizes, group_of, seed, resamples, level, lowest) -> Estimate:
    """The unweighted mean over groups of their means, with its interval."""
    import numpy as np

    kinds, count = np.bincount(group_of), len(group_of)
    inside = [group_of == group for group in range(len(kinds))]
    value = float(np.mean([sums[own].sum() / sizes[own].sum() for own in inside]))
    known = Estimate(value, None, None, int(sizes.sum()), count)
    # a group of one cluster never varies under resampling: no honest interval can be had from it
    if kinds.min() < 2:
        return known
    weights = drawn_by_seed(tuple(kinds.tolist()), seed, resamples)
    draws = np.mean([w @ sums[own] / (w @ sizes[own]) for w, own in zip(weights, inside)], axis=0)
    low, high = expanded_interval(value, draws, count, len(kinds), level, (lowest, 1.0))
    return replace(known, low=low, high=high)


def _sign_flip_p(sums, sizes, group_of, seed, draws) -> float:
    """Two-sided p of the mean difference under flips of whole clusters."""
    import numpy as np

    count = len(group_of)
    per_group = np.bincount(group_of, sizes)[group_of] * (group_of.max() + 1)
    shares = sums / per_group  # each cluster's part in the value: the value is their sum

    def as_far(flips) -> int:
        return int((np.abs(flips @ shares) >= abs(shares.sum()) - 1e-12).sum())

    if count <= EXACT_CLUSTERS:
        return as_far(1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)) / 2**count
    rng, found = np.random.default_rng(seed + 1), 1  # the observed labelling counts as one of the draws
    for start in range(0, draws, RESAMPLES):
        found += as_far(rng.choice([-1, 1], size=(min(RESAMPLES, draws - start), count)))
    return found / (draws + 1)
