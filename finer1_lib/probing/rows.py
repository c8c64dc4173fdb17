"""From probed items to what is reported: summary rows, and comparisons of checkpoints.

Each function takes DataFrames that lie as CSV in the stage's folder, so every number here can be recomputed
without a model.

Source: METHOD 5 and DESIGN 7; the row keys are the kit's contract with later tables (`summary.KEYS`).
"""

from typing import Any, Iterable, Iterator, Mapping, Optional, Sequence

from finer1_lib.probing.statistics import (
    auc, auc_difference, compare_accuracy, compare_gaps, pair_counts, reading,
)
from finer1_lib.statistics import Estimate, clustered_mean

CATEGORIES = ("seen", "unseen", "all")
COLUMNS = {"h1_probe_accuracy": "correct", "name_prompt_accuracy": "correct", "h2_genus_gap": "gap",
           "h3_auc": "score", "attribute_image_accuracy": "correct", "attribute_prompt_accuracy": "correct"}
CLUSTERS = {"h1_probe_accuracy": "sub_category", "name_prompt_accuracy": "sub_category",
            "h2_genus_gap": "genus", "attribute_image_accuracy": "cluster",
            "attribute_prompt_accuracy": "cluster"}


def counts_of(items):
    """H3's items as pair counts, for `auc` and `auc_difference`."""
    columns = ("score", "right", "swap", "fold", "super_category")
    return pair_counts(*(items[column].to_numpy() for column in columns))


def estimates(
    items, metric: str, column: str, seed: int, kinds: Sequence[str] = CATEGORIES
) -> Iterator[tuple[str, str, Estimate]]:
    """Yield (dataset, categories, Estimate): each super-category and the average, each of seen, unseen, all.

    Args:
        items: of `probe_h1`, `probe_h2`, `probe_h3` or `probe_attributes`, of one model and layer.
        metric: a key of `COLUMNS`.
        column: the column that holds the values.
        kinds: of `CATEGORIES`.
    """
    for dataset in [*sorted(items["super_category"].unique()), "average"]:
        for categories in kinds:
            part = items if dataset == "average" else items[items["super_category"] == dataset]
            part = part if categories == "all" else part[part["categories"] == categories]
            if part.empty:
                continue
            if metric == "h3_auc":
                yield dataset, categories, auc(counts_of(part), seed=seed)
            else:
                groups, clusters = list(part["super_category"]), list(part[CLUSTERS[metric]])
                values = part[column].to_numpy()
                yield dataset, categories, clustered_mean(values, clusters, groups, seed=seed)


def rows_of(
    items, *, model: str, metric: str, seed: int, column: Optional[str] = None, variant: Optional[str] = None,
    kinds: Sequence[str] = CATEGORIES,
) -> list[dict[str, Any]]:
    """Summary rows of one model and one probe; none for no items.

    Args:
        column: what is averaged; the metric's own column unless given (a control of H1 has another).
        variant: name of the control, None for the probe itself.
        kinds: of `CATEGORIES`.
    """
    found = estimates(items, metric, column or COLUMNS[metric], seed, kinds)
    fixed = {"model": model, "setting": "probing", "scorer": None, "metric": metric, "option_order": None,
             "variant": variant, "seed": seed}
    return [{**fixed, "dataset": dataset, "categories": categories, **estimate.as_row()}
            for dataset, categories, estimate in found]


def compare_models(
    items, metric: str, *, reference: str, seed: int, variant: Optional[str] = None
) -> list[dict[str, Any]]:
    """Every other model against the reference on the same items, over all super-categories.

    Args:
        items: of all models, with the column model.
        metric: a key of `COLUMNS`; it decides the test (margins: `probing.statistics`).
        reference: the model that is subtracted, "base".
        variant: name of the control that the items are of, None for the probe itself.

    Returns:
        One dict per other model: metric, variant, model, reference and what the test gives; none without
        reference.
    """
    found = []
    base = items[items["model"] == reference] if len(items) else items
    others = [model for model in items["model"].unique() if model != reference] if len(base) else []
    for model in others:
        other = items[items["model"] == model]
        if metric == "h1_probe_accuracy":
            test = compare_accuracy(base["correct"].to_numpy(), other["correct"].to_numpy(),
                                    list(base["sub_category"]), list(base["super_category"]), seed=seed)
        elif metric == "h2_genus_gap":
            genera = base["super_category"] + "/" + base["genus"]
            test = compare_gaps(base["gap"].to_numpy(), other["gap"].to_numpy(), genera)
        else:
            wide, narrow = (auc_difference(counts_of(other), counts_of(base), seed=seed, level=level)
                            for level in (0.95, 0.90))
            test = {"difference": wide.value, "low": wide.low, "high": wide.high, "margin": None,
                    "reading": reading((wide.low, wide.high), (narrow.low, narrow.high))}
        found.append({"metric": metric, "variant": variant, "model": model, "reference": reference, **test})
    return found


def principal_components(states, items, model: str, value: float):
    """Two principal components of the last states, as the paper pictures H3.

    Args:
        states: [N, D]; items: DataFrame with `right`, [N]; value: the AUC to print with the picture.

    Returns:
        A DataFrame with model, x, y, right, auc.
    """
    import pandas as pd
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    plane = PCA(n_components=2, random_state=0).fit_transform(StandardScaler().fit_transform(states))
    return pd.DataFrame({"model": model, "x": plane[:, 0], "y": plane[:, 1],
                         "right": items["right"].to_numpy(), "auc": value})


def tell(
    rows: Iterable[Mapping[str, Any]], comparisons: Iterable[Mapping[str, Any]], metric: str,
    variant: Optional[str] = None,
) -> str:
    """One metric in words: every model's average with its interval, then every comparison with its reading.

    Args:
        rows: summary rows; comparisons: of `compare_models`, of all metrics.
        metric: a key of `COLUMNS`.
        variant: name of a control, None for the probe itself.

    Returns:
        A sentence or more; "was left out" where there are no rows.
    """
    gap = metric == "h2_genus_gap"

    def number(value: Optional[float], sign: str = "") -> str:
        return "?" if value is None else f"{value:{sign}.3f}" if gap else f"{100 * value:{sign}.1f}"

    wanted = {"metric": metric, "dataset": "average", "categories": "all", "variant": variant}
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    if not found:
        return "was left out (see the notes above)."
    values = [f"{row['model']} {number(row['value'])} [{number(row['low'])}, {number(row['high'])}]"
              for row in found]
    words = [f"{', '.join(values)}; n = {found[0]['n']} each."]
    for test in comparisons:
        if (test["metric"], test["variant"]) != (metric, variant):
            continue
        size, unit = (test["effect_size"], "standard deviations") if gap else (100 * test["difference"], "points")
        low, high = (test[end] if gap or test[end] is None else 100 * test[end] for end in ("low", "high"))
        span = "no interval" if low is None else f"{low:+.2f} to {high:+.2f}"
        text = f"{test['model']} minus {test['reference']}: {size:+.2f} {unit} ({span}): **{test['reading']}**"
        if test["margin"] is not None and test["smallest_margin"] is not None:
            scale = 1 if gap else 100
            text += (f"; the margin was {scale * test['margin']:g}, these data could have shown equivalence within "
                     f"{scale * test['smallest_margin']:.2f}")
        words.append(text + ".")
    return " ".join(words)


def verdict(comparisons: Iterable[Mapping[str, Any]], metric: str) -> str:
    """A hypothesis in a few words, a checkpoint at a time: what its comparison allows to say.

    Args:
        comparisons: of `compare_models`, of all metrics.
        metric: a key of `COLUMNS`; only the probe itself counts, no control.
    """
    words = []
    for test in comparisons:
        if (test["metric"], test["variant"]) == (metric, None):
            more = "more" if test["difference"] > 0 else "less"
            said = {"equivalent": "the same, within the margin", "different": more,
                    "different, but within the margin": f"{more}, but within the margin",
                    "undecided": "cannot be told"}[test["reading"]]
            words.append(f"{test['model']} against {test['reference']}: {said}")
    return "; ".join(words) or "not tested here"
