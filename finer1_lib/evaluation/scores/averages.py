"""From sums over sub-categories to rows of the summary: means, macro means, seen and unseen together.

    sub-category   right   asked        mean of the pictures  6/10
    Rock Wren        1       2          macro mean            (1/2 + 5/8) / 2 = 0.5625
    House Wren       5       8

The sums are all that is needed, so records can be counted as they are read. The harmonic mean of seen S and
unseen U (each an average over super-categories), 2SU / (S + U), is high only where both are. In its interval,
and wherever both kinds are taken together, seen and unseen sub-categories are resampled apart.
"""

from dataclasses import replace
from typing import Any, Callable, Iterator, Optional

from finer1_lib.core.faces import Later
from finer1_lib.core.statistics import Estimate, clustered_mean_of, codes_of, resampled
from finer1_lib.evaluation.summary import KEYS

np = Later("numpy")

AVERAGE = "average"
VARIANT_MARK = "@"  # in scores: "relative_semantic_similarity@siglip"
SIMILARITY = "relative_semantic_similarity"
MAIN_METRICS = ("accuracy", "text_inclusion")
_KEYS = ["model", "setting", "scorer", "metric", "option_order", "categories"]
_CLUSTER = ["super_category", "sub_category"]


def main_reading(scores):
    """The scores of the main reading: the shuffled order of the closed world, and the open world."""
    return scores[scores["option_order"].isna() | (scores["option_order"] == "shuffled")]


def cluster_sums(scores):
    """What each sub-category's scores add up to: the keys, total, n, and first.

    first is the least item_id, by which sub-categories are ordered: the resamples must not depend on the
    order of the lines. Groups keep the order of their appearance.
    """
    place = scores.groupby(_KEYS, sort=False, dropna=False).ngroup().to_numpy()
    order = scores["item_id"].argsort(kind="stable").to_numpy()
    scores, place = scores.iloc[order], place[order]
    codes = scores.assign(place=place).groupby(["place", *_CLUSTER], sort=False).ngroup().to_numpy()
    firsts = np.unique(codes, return_index=True)[1]
    sums = scores.iloc[firsts][[*_KEYS, *_CLUSTER]].assign(
        first=scores["item_id"].to_numpy()[firsts], n=np.bincount(codes),
        total=np.bincount(codes, scores["value"].to_numpy(dtype=float)))
    return sums.iloc[place[firsts].argsort(kind="stable")].reset_index(drop=True)


def rows_of_sums(sums, *, seed: int, similarity: Optional[str] = None) -> list[dict[str, Any]]:
    """Rows of the summary: model x super-category (and average) x setting, order, scorer, metric, categories.

    `similarity`, the name of Sim, is the `variant` of relative_semantic_similarity where the metric names
    none ("...@siglip"). `low` and `high` are None where there is one sub-category only. After the means
    follow, for accuracy and text inclusion in the main reading, macro_accuracy (seen, unseen, "all") and
    harmonic_accuracy.
    """
    right = main_reading(sums)
    right = right[right["metric"].isin(MAIN_METRICS)]
    rows = []
    for table, keys, estimates in ((sums, _KEYS, _means), (right, _KEYS[:-1], _by_class)):
        for group, part in table.groupby(keys, sort=False, dropna=False):
            named = dict(zip(keys, group))
            metric, _, own = named["metric"].partition(VARIANT_MARK)
            variant = own or (similarity if metric.startswith(SIMILARITY) else None)
            order = named["option_order"] if isinstance(named["option_order"], str) else None
            known = {**named, "variant": variant, "seed": seed, "option_order": order}
            part = part.sort_values("first", kind="stable")  # the order in which clusters are drawn
            for name, inside in [*part.groupby("super_category"), (AVERAGE, part)]:
                for kind, found, estimate in estimates(inside, seed):
                    known |= {"dataset": name, "metric": kind + metric, **found, **estimate.as_row()}
                    rows.append({column: known[column] for column in KEYS})
    return rows


def _means(part, seed: int) -> Iterator[tuple[str, dict, Estimate]]:
    """(prefix of the metric, further keys, estimate) of one metric of one model, seen or unseen."""
    columns = (part[name].to_numpy() for name in ("total", "n"))
    yield "", {}, clustered_mean_of(*columns, part["super_category"].tolist(), seed=seed)


def _by_class(part, seed: int) -> Iterator[tuple[str, dict, Estimate]]:
    """The same of macro and harmonic means, seen and unseen."""
    kinds = dict(list(part.groupby("categories")))
    both = set(kinds) == {"seen", "unseen"}
    for name, inside in {**kinds, **({"all": part} if both else {})}.items():
        yield "macro_", {"categories": name}, _estimate(inside, _macro, seed)
    if both:
        # with one side all wrong the mean is 0 in every draw, and no draw tells how far that side may be off
        still = any(not inside["total"].any() for inside in kinds.values())
        found = _estimate(part, _harmonic, seed)
        yield "harmonic_", {"categories": "all"}, replace(found, low=None, high=None) if still else found


def _estimate(part, statistic: Callable[..., Any], seed: int) -> Estimate:
    """A statistic of sub-categories; those of one super-category, seen or unseen, are resampled together."""
    strata = codes_of(list(zip(part["super_category"], part["categories"])))
    return resampled(lambda weights: statistic(part, weights), strata, n=int(part["n"].sum()), seed=seed)


def _macro(part, weights) -> Any:
    """(draws,) means over super-categories of the mean over sub-categories of their share."""
    rates, around = (part["total"] / part["n"]).to_numpy(), part["super_category"].to_numpy()
    masks = [around == name for name in dict.fromkeys(around)]
    return np.mean([weights[:, own] @ rates[own] / weights[:, own].sum(axis=1) for own in masks], axis=0)


def _harmonic(part, weights) -> Any:
    """(draws,) harmonic means of the seen and the unseen pictures' averages; 0 where both are 0."""
    totals, sizes = part["total"].to_numpy(), part["n"].to_numpy(dtype=float)
    keys = list(zip(part["categories"], part["super_category"]))
    sides: dict[str, list] = {"seen": [], "unseen": []}
    for key in dict.fromkeys(keys):
        own = np.array([other == key for other in keys])
        sides[key[0]].append(weights[:, own] @ totals[own] / (weights[:, own] @ sizes[own]))
    seen, unseen = (np.mean(side, axis=0) for side in sides.values())
    both = seen + unseen
    return np.divide(2 * seen * unseen, both, out=np.zeros_like(both), where=both > 0)
