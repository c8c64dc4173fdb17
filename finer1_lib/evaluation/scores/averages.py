"""From sums over sub-categories to rows of the summary: means, macro means, seen and unseen together.

    sub-category   right   asked        mean of the pictures  6/10
    Rock Wren        1       2          macro mean            (1/2 + 5/8) / 2 = 0.5625
    House Wren       5       8

The sums are all that is needed, so records can be counted as they are read and never be held at once. The
harmonic mean of seen S and unseen U, 2SU / (S + U), is high only where both are; of the average over
super-categories it is the harmonic mean of the two averages. In its interval, and wherever both kinds are
taken together, seen and unseen sub-categories are resampled apart.
"""

from dataclasses import replace
from typing import Any, Callable, Iterator, Mapping, Optional

from finer1_lib.core.statistics import Estimate, clustered_mean_of, codes_of, resampled
from finer1_lib.evaluation.summary import KEYS

AVERAGE = "average"
VARIANT_MARK = "@"  # in scores: "relative_semantic_similarity@siglip"
SIMILARITY = "relative_semantic_similarity"
MAIN_METRICS = ("accuracy", "text_inclusion")
_KEYS = ["model", "setting", "scorer", "metric", "categories", "option_order"]
_CLUSTER = ["super_category", "sub_category"]


def cluster_sums(scores):
    """What each sub-category's scores add up to: the keys, total, n, and first.

    first is the least item_id, by which sub-categories are ordered: the resamples must not depend on the order
    of the lines. Groups keep the order of their appearance.
    """
    import numpy as np

    place = scores.groupby(_KEYS, sort=False, dropna=False).ngroup().to_numpy()
    order = scores["item_id"].argsort(kind="stable").to_numpy()
    scores, place = scores.iloc[order], place[order]
    codes = scores.assign(place=place).groupby(["place", *_CLUSTER], sort=False).ngroup().to_numpy()
    firsts = np.unique(codes, return_index=True)[1]
    sums = scores.iloc[firsts][[*_KEYS, *_CLUSTER]].assign(
        first=scores["item_id"].to_numpy()[firsts],
        total=np.bincount(codes, scores["value"].to_numpy(dtype=float)), n=np.bincount(codes),
    )  # fmt: skip
    return sums.iloc[place[firsts].argsort(kind="stable")].reset_index(drop=True)


def rows_of_sums(sums, *, seed: int, similarity: Optional[str] = None) -> list[dict[str, Any]]:
    """Rows of the summary: model x super-category (and average) x setting, order, scorer, metric, categories.

    `similarity`, the name of Sim, is the `variant` of relative_semantic_similarity; a metric that names one
    ("...@siglip") keeps that. `low` and `high` are None where there is one sub-category only. After the means
    follow, for accuracy and text inclusion in the main reading, macro_accuracy (seen, unseen, "all") and
    harmonic_accuracy ("all").
    """
    rows = []
    for group, part in sums.groupby(_KEYS, sort=False, dropna=False):
        known = _known(dict(zip(_KEYS, group)), similarity, seed)
        rows += [_row({**known, "dataset": name}, clustered_mean_of(
            inside["total"].to_numpy(), inside["n"].to_numpy(), inside["super_category"].tolist(), seed=seed
        )) for name, inside in _data_sets(part)]  # fmt: skip
    main = sums["option_order"].isna() | (sums["option_order"] == "shuffled")
    keys = [key for key in _KEYS if key != "categories"]
    for group, part in sums[main & sums["metric"].isin(MAIN_METRICS)].groupby(keys, sort=False, dropna=False):
        known = _known(dict(zip(keys, group)), similarity, seed)
        for name, inside in _data_sets(part):
            rows += [_row({**known, "dataset": name, "metric": f"{kind}_{known['metric']}",
                           "categories": categories}, estimate)
                     for kind, categories, estimate in _by_class(inside, seed)]
    return rows


def _known(named: Mapping[str, Any], similarity: Optional[str], seed: int) -> dict[str, Any]:
    order = named["option_order"]
    metric, _, own = named["metric"].partition(VARIANT_MARK)
    variant = own or (similarity if metric.startswith(SIMILARITY) else None)
    order = order if isinstance(order, str) else None
    return {**named, "metric": metric, "option_order": order, "variant": variant, "seed": seed}


def _row(known: Mapping[str, Any], estimate: Estimate) -> dict[str, Any]:
    values = {**known, **estimate.as_row()}
    return {column: values[column] for column in KEYS}


def _data_sets(part) -> Iterator[tuple[str, Any]]:
    """Each super-category by name, then the average; sub-categories by their first item."""
    part = part.sort_values("first", kind="stable")
    for name, inside in part.groupby("super_category"):
        yield name, inside
    yield AVERAGE, part


def _by_class(part, seed: int) -> Iterator[tuple[str, str, Estimate]]:
    """(macro or harmonic, categories, estimate) of one metric of one model."""
    kinds = {name: inside for name, inside in part.groupby("categories")}
    for name, inside in kinds.items():
        yield "macro", name, _estimate(inside, _macro, seed)
    if set(kinds) == {"seen", "unseen"}:
        yield "macro", "all", _estimate(part, _macro, seed)
        both = _estimate(part, _harmonic, seed)
        # with one side all wrong the mean is 0 in every draw, and no draw tells how far that side may be off
        still = any(not inside["total"].any() for inside in kinds.values())
        yield "harmonic", "all", replace(both, low=None, high=None) if still else both


def _estimate(part, statistic: Callable[..., Any], seed: int) -> Estimate:
    """A statistic of sub-categories; those of one super-category, seen or unseen, are resampled together."""
    strata = codes_of(list(zip(part["super_category"], part["categories"])))
    return resampled(lambda weights: statistic(part, weights), strata, n=int(part["n"].sum()), seed=seed)


def _macro(part, weights) -> Any:
    """(draws,) means over super-categories of the mean over sub-categories of their share."""
    import numpy as np

    rates, around = (part["total"] / part["n"]).to_numpy(), part["super_category"].to_numpy()
    masks = [around == name for name in dict.fromkeys(around)]
    return np.mean([weights[:, own] @ rates[own] / weights[:, own].sum(axis=1) for own in masks], axis=0)


def _harmonic(part, weights) -> Any:
    """(draws,) harmonic means of the seen and the unseen pictures' averages; 0 where both are 0."""
    import numpy as np

    totals, sizes = part["total"].to_numpy(), part["n"].to_numpy(dtype=float)
    keys = list(zip(part["categories"], part["super_category"]))
    sides: dict[str, list] = {"seen": [], "unseen": []}
    for key in dict.fromkeys(keys):
        own = np.array([other == key for other in keys])
        sides[key[0]].append(weights[:, own] @ totals[own] / (weights[:, own] @ sizes[own]))
    seen, unseen = (np.mean(side, axis=0) for side in sides.values())
    both = seen + unseen
    return np.divide(2 * seen * unseen, both, out=np.zeros_like(both), where=both > 0)
