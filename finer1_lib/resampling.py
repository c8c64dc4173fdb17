"""Whole clusters drawn again: the one bootstrap of the kit, and what its draws say of a value.

    two groups of two clusters, codes [0, 0, 1, 1]; one draw has the weights [2, 0, 1, 1]

Every mean, difference, AUC or share with an interval resamples sub-categories (or swaps of them) by these
weights, so the same seed draws the same clusters everywhere.

Source: Field and Welsh 2007 (cluster bootstrap); Hesterberg 2015 (expanded percentile interval).
"""

from functools import lru_cache
from typing import Any, Hashable, Sequence

RESAMPLES = 2000
LEVEL = 0.95


def codes_of(keys: Sequence[Hashable]) -> Any:
    """The code of each key, 0, 1, ... in the order of first appearance: (n,)."""
    import numpy as np

    codes = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    return np.array([codes[key] for key in keys])


def cluster_weights(groups: Any, seed: Any, resamples: int = RESAMPLES) -> Any:
    """How often each cluster is drawn, (resamples, K): as many in each group as it has, with replacement.

    Args:
        groups: (K,) codes 0, 1, ...; the groups are drawn in the order of their codes.
        seed: a number, or a generator that has drawn before.
    """
    import numpy as np

    weights = np.zeros((resamples, len(groups)))
    counts = tuple(np.bincount(groups).tolist())
    draw = _drawn if hasattr(seed, "multinomial") else drawn_by_seed
    for group, own in enumerate(draw(counts, seed, resamples)):
        weights[:, groups == group] = own
    return weights


def reach_of(clusters: int, groups: int, tail: float) -> float:
    """How many of the bootstrap's standard errors an interval must reach: few clusters vary too little.

    Args:
        tail: the share left out on one side, or all but that.

    Source: Hesterberg 2015: Student's t, and sqrt(n / (n - 1)) for the bootstrap's own narrowness.
    """
    import numpy as np
    from scipy.stats import t

    freedom = clusters - groups
    return float(np.sqrt(clusters / freedom) * abs(t.ppf(tail, freedom)))


def expanded_interval(value, draws, clusters, groups, level, bounds) -> tuple[float, float]:
    """The percentile interval of the draws, widened for few clusters; it always holds the value.

    Where the draws never vary (every cluster alike) a bootstrap would claim certainty: the interval is then
    the exact binomial one for 0 of so many clusters.

    Args:
        draws: (resamples,).
        bounds: the least and the greatest value there can be.
    """
    import numpy as np
    from scipy.stats import norm

    if np.ptp(draws) <= 1e-12:
        reach = 1 - ((1 - level) / 2) ** (1 / clusters)
        return min(value, max(bounds[0], value - reach)), max(value, min(bounds[1], value + reach))
    tail = norm.cdf(-reach_of(clusters, groups, (1 - level) / 2))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(min(low, value)), float(max(high, value))


@lru_cache(maxsize=32)  # the seen and the unseen of six data sets and of all; some 50 MB on the paper's
def drawn_by_seed(counts: tuple[int, ...], seed: int, resamples: int) -> tuple:
    """The weights of each group, (resamples, clusters of the group); kept, most tables want the same."""
    import numpy as np

    drawn = _drawn(counts, np.random.default_rng(seed), resamples)
    for own in drawn:
        own.setflags(write=False)  # whoever asks next gets the very same arrays
    return drawn


def _drawn(counts: Sequence[int], rng: Any, resamples: int) -> tuple:
    """The weights of each group, (resamples, clusters of the group)."""
    import numpy as np

    drawn = [rng.multinomial(count, np.full(count, 1 / count), size=resamples) for count in counts]
    return tuple(own.astype(float) for own in drawn)
