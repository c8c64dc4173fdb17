"""How many tests were made, what a test says that ignores clusters, and how much more must be asked.

    differences of six sub-categories 1, 0, 1, 0, 1, 0: mean 0.5, standard deviation 0.55
    to tell it in 80 of 100 experiments: ((1.96 + 0.84) * 0.55 / 0.5) ** 2 = 9.4, so 10 sub-categories

Ten pictures of one bird weigh less than ten birds: by the design effect 1 + (m - 1) * ICC for m pictures a
sub-category, where the intraclass correlation ICC is the share of the spread between sub-categories.

Source: Holm 1979; McNemar 1947; Kish 1965 (design effect); METHOD 3 ("the n needed to tell").
"""

from typing import Hashable, Optional, Sequence

from finer1_lib.resampling import LEVEL, codes_of

POWER = 0.8


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, in the order given: the chance of one false find stays at 5 %."""
    from statsmodels.stats.multitest import multipletests

    return multipletests(p_values, method="holm")[1].tolist() if len(p_values) else []


def mcnemar_p(first: Sequence[float], second: Sequence[float]) -> Optional[float]:
    """Exact two-sided p of two models' right answers to the same items, each item an independent try.

    It ignores that the pictures of a sub-category stand or fall together, so it finds differences that the
    clustered test does not: to be read beside it, never alone.

    Args:
        first, second: 1 for right and 0 for wrong, shape (n,).

    Returns:
        None where a value is neither (a similarity).
    """
    from statsmodels.stats.contingency_tables import mcnemar

    if not {*first, *second} <= {0, 1}:
        return None
    pairs = [(int(a), int(b)) for a, b in zip(first, second)]
    table = [[pairs.count((a, b)) for b in (1, 0)] for a in (1, 0)]
    return min(1.0, float(mcnemar(table, exact=True).pvalue))


def clusters_to_tell(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    power: float = POWER,
    level: float = LEVEL,
) -> Optional[int]:
    """How many sub-categories a paired comparison needs to tell the difference seen here, or None if it is 0.

    Normal approximation: ((z_level + z_power) * sd of the cluster means / difference)^2, clusters of equal
    size.

    Args:
        first, second: scores of two models on the same items in the same order, shape (n,).
        clusters: the cluster of each item, shape (n,).

    Source: METHOD 3 ("intervals, and the n needed to tell"); textbook sample size of a paired comparison.
    """
    import numpy as np

    values, codes = np.subtract(first, second, dtype=float), codes_of(clusters)
    means = np.bincount(codes, values) / np.bincount(codes)
    if len(means) < 2 or means.mean() == 0:
        return None
    return max(2, int(np.ceil((_reach(power, level) * means.std(ddof=1) / means.mean()) ** 2)))


def items_to_tell(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    power: float = POWER,
    level: float = LEVEL,
) -> tuple[Optional[int], Optional[float]]:
    """How many items that needs, with as many in each sub-category as now, and the design effect.

    Args:
        first, second, clusters, power, level: as in `clusters_to_tell`.

    Returns:
        (items, design effect): the items are those that independent ones would take times the design effect
        (1 where every item has a sub-category of its own). None and None for a difference of 0 or a single
        sub-category.

    Source: Kish 1965; the intraclass correlation is the one of a one-way analysis of variance, at least 0.
    """
    import numpy as np

    values, codes = np.subtract(first, second, dtype=float), codes_of(clusters)
    sizes, mean = np.bincount(codes), values.mean()
    count, n = len(sizes), len(values)
    if count < 2 or mean == 0:
        return None, None
    means = np.bincount(codes, values) / sizes
    between = float(sizes @ (means - mean) ** 2) / (count - 1)
    within = float(((values - means[codes]) ** 2).sum()) / (n - count) if n > count else 0.0
    alike = max(0.0, (between - within) / ((n - sizes @ sizes / n) / (count - 1)))
    spread = alike + within  # variance of one item's difference
    effect = 1 + (sizes @ sizes / n - 1) * alike / spread if spread else 1.0
    return max(2, int(np.ceil(_reach(power, level) ** 2 * spread * effect / mean**2))), float(effect)


def _reach(power: float, level: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(0.5 + level / 2) + norm.ppf(power))
