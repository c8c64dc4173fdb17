"""Intervals and paired tests for scores that come in clusters (the images of one sub-category).

Ten images of one bird are not ten independent tries: a model that does not know the name misses all of them.
So whole sub-categories are resampled. With few of them a percentile interval is too narrow; it is widened as
in Hesterberg's expanded percentile interval, and where every score is the same (0 of 20 right) it falls back
on the exact binomial interval over clusters, since a bootstrap of equal values would claim certainty.

Example:
    >>> clustered_mean([1, 1, 0, 0], ["a", "a", "b", "b"]).value
    0.5

Source: METHOD 4 and DESIGN 7 (every number has n, seeds and a 95 % interval); Hesterberg 2015 (expanded
percentile); Field and Welsh 2007 (cluster bootstrap). The paper reports no intervals.
"""

from dataclasses import asdict, dataclass
from typing import Any, Hashable, Optional, Sequence

RESAMPLES = 2000
LEVEL = 0.95
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
        return {key: asdict(self)[key] for key in ("value", "low", "high", "n")}


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
    values, codes, group_of = _coded(values, clusters, groups)
    return _estimate(values, codes, group_of, seed, resamples, level, lowest=0.0)


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable],
    groups: Optional[Sequence[Hashable]] = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """Mean of `first - second` over the same items, with a clustered interval and a sign-flip p-value.

    The test flips the sign of whole clusters: under the null either model could have been the first one. All
    flips are enumerated for at most 14 clusters, else `resamples` of them are drawn.

    Args:
        first, second: scores of two models on the same items in the same order, shape (n,).
        clusters, groups, seed, resamples, level: as in `clustered_mean`.

    Raises:
        ValueError: as `clustered_mean`, or different numbers of scores.

    Source: METHOD 3 ("no win of TAPO over DAPO is presumed"); the test is our choice.
    """
    if len(first) != len(second):
        raise ValueError(f"paired scores differ in number: {len(first)} and {len(second)}")
    difference = [float(a) - float(b) for a, b in zip(first, second)]
    values, codes, group_of = _coded(difference, clusters, groups)
    estimate = _estimate(values, codes, group_of, seed, resamples, level, lowest=-1.0)
    p = _sign_flip_p(values, codes, group_of, seed, resamples)
    return Estimate(**{**asdict(estimate), "p": p})


def clusters_to_tell(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    power: float = 0.8,
    level: float = LEVEL,
) -> Optional[int]:
    """How many sub-categories a paired comparison needs to tell the difference seen here, or None if it is 0.

    Normal approximation: ((z_level + z_power) * sd of the cluster means / difference)^2, clusters of equal
    size.

    Source: METHOD 3 ("intervals, and the n needed to tell"); textbook sample size of a paired comparison.
    """
    import numpy as np
    from scipy.stats import norm

    values, codes, _ = _coded([float(a) - float(b) for a, b in zip(first, second)], clusters, None)
    means = np.bincount(codes, values) / np.bincount(codes)
    if len(means) < 2 or means.mean() == 0:
        return None
    z = norm.ppf(0.5 + level / 2) + norm.ppf(power)
    return max(2, int(np.ceil((z * means.std(ddof=1) / means.mean()) ** 2)))


def _coded(values, clusters, groups) -> tuple[Any, Any, Any]:
    """Scores (n,), cluster code of each score (n,), group code of each cluster (K,).

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
    keys = {key: code for code, key in enumerate(dict.fromkeys(zip(groups, clusters)))}
    codes = np.array([keys[key] for key in zip(groups, clusters)])
    names = {group: code for code, group in enumerate(dict.fromkeys(group for group, _ in keys))}
    return values, codes, np.array([names[group] for group, _ in keys])


def _bootstrap(values, codes, group_of, seed, resamples) -> tuple[float, Any]:
    """(point value, bootstrap values (resamples,)) of the unweighted mean over groups."""
    import numpy as np

    rng = np.random.default_rng(seed)
    sums, sizes = np.bincount(codes, values), np.bincount(codes)
    points, draws = [], []
    for group in range(group_of.max() + 1):
        inside = group_of == group
        count = int(inside.sum())
        weights = rng.multinomial(count, np.full(count, 1 / count), size=resamples)  # (resamples, clusters)
        points.append(sums[inside].sum() / sizes[inside].sum())
        draws.append(weights @ sums[inside] / (weights @ sizes[inside]))
    return float(np.mean(points)), np.mean(draws, axis=0)


def _estimate(values, codes, group_of, seed, resamples, level, lowest) -> Estimate:
    import numpy as np
    from scipy.stats import norm, t

    value, draws = _bootstrap(values, codes, group_of, seed, resamples)
    count = len(group_of)
    known = {"value": value, "n": len(values), "clusters": count}
    # a group of one cluster never varies under resampling: no honest interval can be had from it
    if np.bincount(group_of).min() < 2:
        return Estimate(low=None, high=None, **known)
    if np.ptp(values) == 0:
        reach = 1 - ((1 - level) / 2) ** (1 / count)  # exact binomial bound for 0 of `count`
        return Estimate(low=max(lowest, value - reach), high=min(1.0, value + reach), **known)
    freedom = count - len(np.bincount(group_of))
    tail = norm.cdf(np.sqrt(count / freedom) * t.ppf((1 - level) / 2, freedom))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(low=float(min(low, value)), high=float(max(high, value)), **known)


def _sign_flip_p(values, codes, group_of, seed, resamples) -> float:
    """Two-sided p of the mean difference under flips of whole clusters."""
    import numpy as np

    sums, sizes, count = np.bincount(codes, values), np.bincount(codes), len(group_of)
    per_group = np.bincount(group_of, sizes)[group_of] * (group_of.max() + 1)
    shares = sums / per_group  # each cluster's part in the value: the value is their sum
    if count <= EXACT_CLUSTERS:
        flips = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        extra = 0
    else:
        flips = np.random.default_rng(seed + 1).choice([-1, 1], size=(resamples, count))
        extra = 1  # the observed labelling counts as one of the draws
    as_far = np.abs(flips @ shares) >= abs(shares.sum()) - 1e-12
    return float((as_far.sum() + extra) / (len(flips) + extra))
