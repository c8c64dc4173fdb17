"""Intervals, paired tests and sample sizes for scores that come in clusters (the images of one sub-category).

Ten images of one bird are not ten independent tries: a model that does not know the name misses all of them.
So whole sub-categories are resampled, inside their super-category: codes [0, 0, 1, 1] are two groups of two
clusters, and one draw may weigh them [2, 0, 1, 1]. The same seed draws the same clusters everywhere. With few
clusters a percentile interval is too narrow; it is widened as in Hesterberg's expanded percentile interval.
No library has this stratified cluster bootstrap; Holm, McNemar and the sample size are statsmodels'.

Source: Field and Welsh 2007, doi 10.1111/j.1467-9868.2007.00593.x (cluster bootstrap); Hesterberg 2015, doi
10.1080/00031305.2015.1089789 (expanded percentile interval); Kish 1965, Survey Sampling (design effect).
Fine-R1 (arXiv 2602.07605) reports no intervals.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Callable, Hashable, Optional, Sequence

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
POWER = 0.8
EXACT_CLUSTERS = 14  # sign flips are enumerated up to here (16,384), sampled above
Scores, Names = Sequence[float], Sequence[Hashable]


def codes_of(keys: Sequence[Hashable]) -> Any:
    """The code of each key, 0, 1, ... in the order of first appearance: (n,)."""
    codes = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    return np.array([codes[key] for key in keys])


def cluster_weights(groups: Any, seed: Any, resamples: int = RESAMPLES) -> Any:
    """How often each cluster is drawn, (resamples, K): as many in each group as it has, with replacement.

    `groups` (K,) has codes 0, 1, ..., drawn in their order; `seed` may be a generator that has drawn before.
    """
    weights = np.zeros((resamples, len(groups)))
    draw = drawn_by_seed.__wrapped__ if hasattr(seed, "multinomial") else drawn_by_seed
    for group, own in enumerate(draw(tuple(np.bincount(groups).tolist()), seed, resamples)):
        weights[:, groups == group] = own
    return weights


@lru_cache(maxsize=32)  # most tables need the same draws: some 50 MB on the paper's six data sets
def drawn_by_seed(counts: tuple[int, ...], seed: Any, resamples: int) -> tuple:
    """The weights of each group, (resamples, clusters of the group), cached."""
    rng = np.random.default_rng(seed)
    drawn = tuple(rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)
                  for count in counts)
    for own in drawn:
        own.setflags(write=False)  # the next caller gets the same arrays
    return drawn


def reach_of(clusters: int, groups: int, tail: float) -> float:
    """How many standard errors an interval reaches that leaves out `tail` on one side: Student's t, times
    sqrt(n / (n - groups))."""
    from scipy.stats import t
    freedom = clusters - groups
    return float(np.sqrt(clusters / freedom) * abs(t.ppf(tail, freedom)))


def expanded_interval(value, draws, clusters, groups, level, bounds) -> tuple[float, float]:
    """The percentile interval of the draws (resamples,), widened for few clusters; it always holds the value.

    Where the draws never vary (every cluster alike) a bootstrap would claim certainty: the interval is then
    the exact binomial one for 0 of so many clusters. `bounds`: the least and the greatest value possible.
    """
    from scipy.stats import norm
    if np.ptp(draws) <= 1e-12:
        reach = 1 - ((1 - level) / 2) ** (1 / clusters)
        return min(value, max(bounds[0], value - reach)), max(value, min(bounds[1], value + reach))
    tail = norm.cdf(-reach_of(clusters, groups, (1 - level) / 2))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(min(low, value)), float(max(high, value))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979), in the order given."""
    from statsmodels.stats.multitest import multipletests
    return multipletests(p_values, method="holm")[1].tolist() if len(p_values) else []


def mcnemar_p(first: Scores, second: Scores) -> Optional[float]:
    """Exact two-sided McNemar p of two models' right (1) or wrong (0) answers to the same items.

    It ignores clusters, so it finds differences that the clustered test does not: read it beside that one,
    never alone. None where a value is neither 0 nor 1 (a similarity).
    """
    from statsmodels.stats.contingency_tables import mcnemar
    if not {*first, *second} <= {0, 1}:
        return None
    pairs = list(zip(first, second))
    table = [[pairs.count((a, b)) for b in (1, 0)] for a in (1, 0)]
    return min(1.0, float(mcnemar(table, exact=True).pvalue))


def clusters_needed(first: Scores, second: Scores, clusters: Names) -> Optional[int]:
    """Required number of sub-categories for a paired comparison to detect the difference; None for 0.

    Scores of two models on the same items, shape (n,). With differences of six sub-categories 1, 0, 1, 0, 1,
    0 (mean 0.5, standard deviation 0.55): ((1.96 + 0.84) * 0.55 / 0.5) ** 2 = 9.4, so 10.
    """
    values, codes = np.subtract(first, second, dtype=float), codes_of(clusters)
    means = np.bincount(codes, values) / np.bincount(codes)
    if len(means) < 2 or means.mean() == 0:
        return None
    return _sample_size(means.mean(), means.std(ddof=1))


def items_needed(first: Scores, second: Scores, clusters: Names) -> tuple[Optional[int], Optional[float]]:
    """(required number of items at the present cluster sizes, design effect); (None, None) for no difference.

    The design effect is 1 + (m - 1) * ICC for m items a sub-category: how many more items are needed than if
    they were independent. The intraclass correlation is that of a one-way analysis of variance, at least 0.
    """
    values, codes = np.subtract(first, second, dtype=float), codes_of(clusters)
    sizes, mean = np.bincount(codes), values.mean()
    count, n, means = len(sizes), len(values), np.bincount(codes, values) / sizes
    if count < 2 or mean == 0:
        return None, None
    between = float(sizes @ (means - mean) ** 2) / (count - 1)
    within = float(((values - means[codes]) ** 2).sum()) / (n - count) if n > count else 0.0
    shared = max(0.0, (between - within) / ((n - sizes @ sizes / n) / (count - 1)))
    variance = shared + within  # of one item's difference
    effect = 1 + (sizes @ sizes / n - 1) * shared / variance if variance else 1.0
    return _sample_size(mean, (variance * effect) ** 0.5), float(effect)


def _sample_size(difference: float, deviation: float) -> int:
    """Sample size of a two-sided paired comparison in the normal approximation, at least 2."""
    from statsmodels.stats.power import normal_sample_size_one_tail
    return max(2, int(np.ceil(normal_sample_size_one_tail(difference, POWER, (1 - LEVEL) / 2, deviation))))


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; `low` and `high` are None where the data allow none."""

    value: float
    low: Optional[float]
    high: Optional[float]
    n: int  # scores (pairs, in a paired comparison)
    clusters: int  # sub-categories behind them
    p: Optional[float] = None  # two-sided, of a paired comparison

    def as_row(self) -> dict[str, Any]:
        """value, low, high, n: the columns of a summary row."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def has_interval(low: Optional[float]) -> bool:
    """Whether the end of an interval is a number: neither None nor the NaN that a table makes of None."""
    return low is not None and low == low


def clustered_mean(values: Scores, clusters: Names, groups: Optional[Names] = None, *, seed: int = 0,
                   resamples: int = RESAMPLES) -> Estimate:
    """Mean of scores in [0, 1], shape (n,), with a bootstrap interval over whole clusters.

    With `groups`, the super-category of each score, the value is the unweighted mean over groups of their
    means, as in Fine-R1 (arXiv 2602.07605), Section 4, and clusters are resampled inside their group.
    ValueError for no scores, lengths that differ, or a score that is not finite.
    """
    return _estimate(*_summed(values, clusters, groups), seed, resamples)


def clustered_mean_of(sums: Scores, sizes: Scores, groups: Optional[Names] = None, *, seed: int = 0,
                      resamples: int = RESAMPLES) -> Estimate:
    """`clustered_mean` from each cluster's sum and number of scores, and its group, (K,) each, in the order in
    which `clustered_mean` meets the clusters: the draws depend on it."""
    sums, sizes = np.asarray(sums, dtype=float), np.asarray(sizes, dtype=float)
    groups = ["all"] * len(sums) if groups is None else list(groups)
    if not len(sums) or not len(sums) == len(sizes) == len(groups):
        raise ValueError(f"{len(sums)} sums, {len(sizes)} sizes, {len(groups)} groups: give equally many")
    if not np.isfinite(sums).all() or not (sizes > 0).all():
        raise ValueError("a sum is not a finite number, or a cluster has no scores")
    return _estimate(sums, sizes, codes_of(groups), seed, resamples)


def paired_difference(first: Scores, second: Scores, clusters: Names, groups: Optional[Names] = None, *,
                      seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL,
                      flips: Optional[int] = None) -> Estimate:
    """Mean of `first - second` over the same items, with a clustered interval and a sign-flip p-value.

    The test flips the sign of whole clusters: under the null either model could have been the first one. All
    flips are enumerated for at most 14 clusters, else `flips` (by default `resamples`; many tests at once
    need more) are drawn; p is then at least 1 / (flips + 1). Errors as in `clustered_mean`.
    """
    if len(first) != len(second):
        raise ValueError(f"paired scores differ in number: {len(first)} and {len(second)}")
    summed = _summed(np.subtract(first, second, dtype=float), clusters, groups)
    estimate = _estimate(*summed, seed, resamples, level, lowest=-1.0)
    return replace(estimate, p=_sign_flip_p(*summed, seed, flips or resamples))


def resampled(statistic: Callable[[Any], Any], groups: Sequence[int], *, n: int, seed: int = 0,
              resamples: int = RESAMPLES, level: float = LEVEL, bounds: tuple[float, float] = (0.0, 1.0),
              stretched: bool = False) -> Estimate:
    """Any statistic of clusters with a bootstrap interval; none where a group has a single cluster.

    `statistic` takes weights (draws, K), how often each cluster was drawn, and returns (draws,) values within
    `bounds`; `groups` (K,) are `codes_of`; `n` scores are behind the clusters. `stretched` stretches the
    percentile interval about the value instead of taking further percentiles, which cannot reach beyond the
    resamples (of four clusters there are few).
    """
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
    """Each cluster's sum, number and group code, (K,) each; a name in two groups is two clusters."""
    values = np.asarray(values, dtype=float)
    groups = ["all"] * len(values) if groups is None else list(groups)
    if not len(values) or not len(values) == len(clusters) == len(groups):
        raise ValueError(f"{len(values)} scores, {len(clusters)} clusters, {len(groups)} groups: give equally many")
    if not np.isfinite(values).all():
        raise ValueError("a score is not a finite number")
    keys = list(zip(groups, clusters))
    codes, around = codes_of(keys), codes_of([group for group, _ in dict.fromkeys(keys)])
    return np.bincount(codes, values), np.bincount(codes), around


def _estimate(sums, sizes, group_of, seed, resamples, level=LEVEL, lowest=0.0) -> Estimate:
    """The unweighted mean over groups of their means, with its interval."""
    kinds, count = np.bincount(group_of), len(group_of)
    inside = [group_of == group for group in range(len(kinds))]
    value = float(np.mean([sums[own].sum() / sizes[own].sum() for own in inside]))
    known = Estimate(value, None, None, int(sizes.sum()), count)
    if kinds.min() < 2:  # a group of one cluster never varies under resampling, so it allows no interval
        return known
    weights = drawn_by_seed(tuple(kinds.tolist()), seed, resamples)
    draws = np.mean([w @ sums[own] / (w @ sizes[own]) for w, own in zip(weights, inside)], axis=0)
    low, high = expanded_interval(value, draws, count, len(kinds), level, (lowest, 1.0))
    return replace(known, low=low, high=high)


def _sign_flip_p(sums, sizes, group_of, seed, draws) -> float:
    """Two-sided p of the mean difference under flips of whole clusters."""
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
