"""From probed items to what is reported: intervals, equivalence tests, summary rows, comparisons, sentences.

"No significant difference" is not "no difference", as which the paper reads p = 0.6993 (H2): equivalence is
reported only where the 90 % interval of the difference lies inside a margin fixed beforehand, +-2 points for
H1 and +-0.1 standard deviations for H2 (that is, two one-sided tests at 5 %). Functions take DataFrames that
the stage keeps as CSV, so every number can be recomputed without a model.

Source: Fine-R1 (arXiv 2602.07605), Section 5.4; Lakens 2017 (doi 10.1177/1948550617697177).
"""

from dataclasses import dataclass
from typing import Any, Iterable, Iterator, Mapping, Optional, Sequence

import numpy as np

from finer1_lib.core.faces import Later
from finer1_lib.core.statistics import (
    LEVEL, RESAMPLES, Estimate, clustered_mean, codes_of, paired_difference, resampled)

pd = Later("pandas")
H1_MARGIN = 0.02  # accuracy
H2_MARGIN = 0.1   # standard deviations of the gap
CATEGORIES = ("seen", "unseen", "all")
COLUMNS = {"h1_probe_accuracy": "correct", "name_prompt_accuracy": "correct", "h2_genus_gap": "gap",
           "h3_auc": "score", "attribute_image_accuracy": "correct", "attribute_prompt_accuracy": "correct"}
CLUSTERS = {"h1_probe_accuracy": "sub_category", "name_prompt_accuracy": "sub_category",
            "h2_genus_gap": "genus", "attribute_image_accuracy": "cluster",
            "attribute_prompt_accuracy": "cluster"}
LAYER_COLUMNS = ("metric", "model", "layer", "dataset", "categories", "variant", "value", "low", "high", "n")


@dataclass(frozen=True)
class PairCounts:
    """An AUC as counts between clusters, since it is a mean over pairs of questions; with clusters A and B

        ordered = [[2, 1], [3, 4]]   pairs (right question of row, wrong question of column) put in order
        pairs   = [[4, 4], [4, 4]]   pairs there are            ->  AUC 10/16

        a resample that draws A twice and B never has weights [2, 0]  ->  w' ordered w / w' pairs w = 8/16
    """

    ordered: np.ndarray  # [G, G] (right, wrong) pairs in order, ties half
    pairs: np.ndarray  # [G, G] all pairs
    groups: np.ndarray  # [G] super-category of each cluster
    n: int  # questions

    def value(self, weights: Optional[np.ndarray] = None) -> np.ndarray:
        """AUC per super-category, averaged without weights: [1], or [draws] for weights [draws, G]."""
        weights = np.ones((1, len(self.groups))) if weights is None else weights
        parts = []
        for group in np.unique(self.groups):
            w = weights * (self.groups == group)
            ordered, pairs = (np.einsum("dg,gh,dh->d", w, counts, w, optimize=True)
                              for counts in (self.ordered, self.pairs))
            parts.append(ordered / pairs)
        return np.mean(parts, axis=0)


def pair_counts(scores: Sequence[float], right: Sequence[bool], clusters: Sequence[int], folds: Sequence[int],
                groups: Sequence[str]) -> PairCounts:
    """Compare every right with every wrong question [N] of the same fold and super-category.

    Scores of two folds come from two separators and have no common scale, so they are never compared. A
    cluster (swap) is identified by group and number.
    """
    scores, right, folds = np.asarray(scores), np.asarray(right, dtype=bool), np.asarray(folds)
    groups, keys = np.asarray(groups), list(zip(groups, clusters))
    codes, known = codes_of(keys), list(dict.fromkeys(keys))
    ordered, pairs = np.zeros((2, len(known), len(known)))
    for group in np.unique(groups):
        for fold in np.unique(folds):
            here = (folds == fold) & (groups == group)
            a, b = np.flatnonzero(here & right), np.flatnonzero(here & ~right)
            gap = scores[a][:, None] - scores[b][None, :]
            cell = (codes[a][:, None], codes[b][None, :])
            np.add.at(ordered, cell, (gap > 0) + 0.5 * (gap == 0))
            np.add.at(pairs, cell, 1.0)
    return PairCounts(ordered, pairs, np.array([group for group, _ in known]), len(scores))


def auc(counts: PairCounts, *, seed: int, level: float = LEVEL, resamples: int = RESAMPLES) -> Estimate:
    """AUC with an interval over whole swaps of sub-categories; none where a super-category has a single swap.

    The interval speaks of other sub-categories under this probe, not of training the probe anew. Measured
    over 60 experiments each, a nominal 95 % held the truth in 82 % with 4 swaps, in 90 to 95 % with 10 to 25.
    It is stretched about the value: further percentiles (as means take them) cannot reach beyond the
    resamples, which are few of four swaps, and held the truth in 55 % of experiments with noise.
    """
    return _over_swaps(counts.value, counts, (0.0, 1.0), seed, level, resamples)


def auc_difference(first: PairCounts, second: PairCounts, *, seed: int, level: float = LEVEL,
                   resamples: int = RESAMPLES) -> Estimate:
    """AUC of `first` minus AUC of `second` over the same swaps, resampled together."""
    if first.pairs.shape != second.pairs.shape or not np.array_equal(first.groups, second.groups):
        raise ValueError("the two checkpoints were not probed on the same swaps")
    return _over_swaps(lambda weights: first.value(weights) - second.value(weights), first, (-1.0, 1.0), seed,
                       level, resamples)


def _over_swaps(statistic, counts: PairCounts, bounds, seed: int, level: float, resamples: int) -> Estimate:
    codes = np.unique(counts.groups, return_inverse=True)[1]
    return resampled(statistic, codes, n=counts.n, seed=seed, resamples=resamples, level=level,
                     bounds=bounds, stretched=True)


def counts_of(items: Any) -> PairCounts:
    """H3's items as pair counts, for `auc` and `auc_difference`."""
    return pair_counts(*(items[column].to_numpy() for column in
                         ("score", "right", "swap", "fold", "super_category")))


def difference(items: Any, metric: str, first: str, second: str, *, seed: int,
               level: float = LEVEL) -> Estimate:
    """`first` minus `second`, two models on the same items: of AUCs for H3, of paired values otherwise."""
    one, two = (items[items["model"] == model] for model in (first, second))
    if metric == "h3_auc":
        return auc_difference(counts_of(one), counts_of(two), seed=seed, level=level)
    values = (side[COLUMNS[metric]].to_numpy() for side in (one, two))
    return paired_difference(*values, list(one[CLUSTERS[metric]]), list(one["super_category"]), seed=seed,
                             level=level)


Ends = Sequence[Optional[float]]  # (low, high)


def reading(wide: Ends, narrow: Ends, margin: Optional[float] = None, p: Optional[float] = None) -> str:
    """"equivalent", "different", "different, but within the margin", or "undecided".

    From (low, high) at 95 % and at 90 %, a margin (None where none was fixed beforehand) and the p of a test,
    where there is one: "different" then needs it too, as in `scoring.reading`.
    """
    if None in wide or None in narrow:
        return "undecided"
    differ = (wide[0] > 0 or wide[1] < 0) and (p is None or p <= 1 - LEVEL)
    if margin is not None and max(map(abs, narrow)) < margin:
        return "different, but within the margin" if differ else "equivalent"
    return "different" if differ else "undecided"


def compare_gaps(base: Sequence[float], trained: Sequence[float], genera: Sequence, *,
                 margin: float = H2_MARGIN) -> dict:
    """H2 between two checkpoints: paired t-test and two one-sided tests on gaps [S], one value per genus.

    Names of a genus share mates and a genus word, so a genus is the unit. The paper treats the names of the
    two models as independent samples (Section 5.4: t = -0.3872, p = 0.6993): `welch_t` and `welch_p`. The
    difference is of cosines; effect_size, low, high (95 %), margin and smallest_margin are in standard
    deviations of the gap over names, pooled over both checkpoints.
    Raises: ValueError: fewer than two genera, or gaps that do not vary.
    """
    from scipy import stats
    base, trained = np.asarray(base, dtype=float), np.asarray(trained, dtype=float)
    codes = np.unique(np.asarray(genera), return_inverse=True)[1]
    spread = float(np.sqrt((base.var(ddof=1) + trained.var(ddof=1)) / 2)) if codes.max() > 0 else 0.0
    if spread == 0:
        raise ValueError("H2 compares genera: it needs at least two, and gaps that vary")
    units = np.bincount(codes, trained - base) / np.bincount(codes) / spread
    centre, freedom = float(units.mean()), len(units) - 1
    error = float(units.std(ddof=1) / np.sqrt(len(units)))
    known = {"difference": float((trained - base).mean()), "effect_size": centre,
             "degrees_of_freedom": freedom, "margin": margin}
    if error == 0:  # the same states twice: nothing to test
        return {**known, "low": centre, "high": centre, "smallest_margin": abs(centre), "t": None, "p": None,
                "tost_p": None, "reading": reading((centre, centre), (centre, centre), margin),
                "welch_t": 0.0, "welch_p": 1.0}
    wide, narrow = (tuple(float(centre + error * q) for q in stats.t.ppf([1 - side, side], freedom))
                    for side in (0.975, 0.95))
    above = stats.t.sf((centre + margin) / error, freedom)
    below = stats.t.cdf((centre - margin) / error, freedom)
    welch = stats.ttest_ind(trained, base, equal_var=False)
    return {**known, "low": wide[0], "high": wide[1], "smallest_margin": max(map(abs, narrow)),
            "t": centre / error, "p": float(2 * stats.t.sf(abs(centre / error), freedom)),
            "tost_p": float(max(above, below)), "reading": reading(wide, narrow, margin),
            "welch_t": float(welch.statistic), "welch_p": float(welch.pvalue)}


def compare_models(items: Any, metric: str, *, reference: str, seed: int,
                   variant: Optional[str] = None) -> list[dict[str, Any]]:
    """Every other model against the reference on the same items; none where the reference has none.

    The metric decides the test. H1's `smallest_margin` is the one that these data could have shown: the
    further end of the 90 % interval.
    """
    models = list(items["model"].unique()) if len(items) else []
    found = []
    for model in models if reference in models else ():
        if model == reference:
            continue
        if metric == "h2_genus_gap":
            base, other = (items[items["model"] == name] for name in (reference, model))
            test = compare_gaps(base["gap"].to_numpy(), other["gap"].to_numpy(),
                                base["super_category"] + "/" + base["genus"])
        else:
            wide, narrow = (difference(items, metric, model, reference, seed=seed, level=level)
                            for level in (LEVEL, 0.90))
            ends, margin = (narrow.low, narrow.high), H1_MARGIN if metric == "h1_probe_accuracy" else None
            test = {"difference": wide.value, "low": wide.low, "high": wide.high, "margin": margin}
            if margin:
                test |= {"smallest_margin": None if None in ends else max(map(abs, ends)), "p": wide.p}
            test["reading"] = reading((wide.low, wide.high), ends, margin, wide.p)
        found.append({"metric": metric, "variant": variant, "model": model, "reference": reference, **test})
    return found


def estimates(items: Any, metric: str, column: str, seed: int,
              kinds: Sequence[str] = CATEGORIES) -> Iterator[tuple[str, str, Estimate]]:
    """(dataset, categories, Estimate) of one model and layer: each super-category and the average of them."""
    for dataset in [*sorted(items["super_category"].unique()), "average"]:
        for categories in kinds:
            part = items if dataset == "average" else items[items["super_category"] == dataset]
            part = part if categories == "all" else part[part["categories"] == categories]
            if part.empty:
                continue
            if metric == "h3_auc":
                yield dataset, categories, auc(counts_of(part), seed=seed)
            else:
                names = (list(part[key]) for key in (CLUSTERS[metric], "super_category"))
                yield dataset, categories, clustered_mean(part[column].to_numpy(), *names, seed=seed)


def rows_of(items: Any, *, model: str, metric: str, seed: int, column: Optional[str] = None,
            variant: Optional[str] = None, kinds: Sequence[str] = CATEGORIES) -> list[dict[str, Any]]:
    """Summary rows of one model and one probe; none for no items.

    `column` is averaged, the metric's own unless given (a control of H1 has another); `variant` names a
    control, None is the probe itself.
    """
    fixed = {"model": model, "setting": "probing", "scorer": None, "metric": metric, "option_order": None,
             "variant": variant, "seed": seed}
    return [{**fixed, "dataset": dataset, "categories": categories, **estimate.as_row()} for
            dataset, categories, estimate in estimates(items, metric, column or COLUMNS[metric], seed, kinds)]


def curve(items: Any, metric: str, at: int, *, seed: int, controls: Sequence[str] = (),
          variant: Optional[str] = None) -> list[dict[str, Any]]:
    """`rows_of` of every model and layer, with the key layer: seen, unseen and all at layer `at`, else all.

    `controls` are columns that hold controls, and their names as variants.
    """
    return [{**row, "layer": int(depth)}
            for (model, depth), part in items.groupby(["model", "layer"], sort=False)
            for column, name in ((None, variant), *((control, control) for control in controls))
            for row in rows_of(part, model=model, metric=metric, column=column, variant=name, seed=seed,
                               kinds=CATEGORIES if depth == at else ("all",))]


def at_layer(curves: Sequence[Mapping[str, Any]], at: int) -> list[dict[str, Any]]:
    """The rows of one layer, without its number: rows of the summary."""
    return [{key: value for key, value in row.items() if key != "layer"}
            for row in curves if row["layer"] == at]


def layers_table(curves: Sequence[Mapping[str, Any]]) -> Any:
    """layers.csv as a DataFrame."""
    return pd.DataFrame(list(curves), columns=list(LAYER_COLUMNS))


def layer_for_the_image(curves: Sequence[Mapping], reference: str, shown: Optional[str]) -> Optional[int]:
    """The layer where the reference's AUC is best on the super-categories that the image does NOT show.

    Chosen on the questions that are shown, the best of many layers would look better than it is. The earliest
    of equals; None where there is no other super-category.
    """
    table = layers_table(curves)
    table = table[(table["metric"] == "h3_auc") & (table["model"] == reference) & table["variant"].isna()
                  & (table["categories"] == "all") & ~table["dataset"].isin([shown, "average"])]
    return int(table.groupby("layer")["value"].mean().idxmax()) if len(table) else None


def principal_components(states: np.ndarray, items: Any, model: str, value: float) -> Any:
    """Two principal components of the last states [N, D], as Figure 3 of the paper shows H3, with the AUC."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler
    plane = PCA(n_components=2, random_state=0).fit_transform(StandardScaler().fit_transform(states))
    return pd.DataFrame({"model": model, "x": plane[:, 0], "y": plane[:, 1],
                         "right": items["right"].to_numpy(), "auc": value})


def findings(rows: Iterable[Mapping[str, Any]], comparisons: Iterable[Mapping[str, Any]], metric: str,
             variant: Optional[str] = None) -> str:
    """One metric in words: every model's average with interval, then every comparison with its reading."""
    gap = metric == "h2_genus_gap"
    scale, unit = (1, "standard deviations") if gap else (100, "points")

    def number(value: Optional[float]) -> str:
        return "?" if value is None else f"{value:.3f}" if gap else f"{100 * value:.1f}"

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
        size, low, high = (test[key] and scale * test[key]
                           for key in ("effect_size" if gap else "difference", "low", "high"))
        span = "no interval" if low is None else f"{low:+.2f} to {high:+.2f}"
        text = (f"{test['model']} minus {test['reference']}: {size:+.2f} {unit} ({span}): "
                f"**{test['reading']}**")
        if test["margin"] is not None and test["smallest_margin"] is not None:
            text += (f"; the margin was {scale * test['margin']:g}, these data could have shown equivalence "
                     f"within {scale * test['smallest_margin']:.2f}")
        words.append(text + ".")
    return " ".join(words)


def verdict(comparisons: Iterable[Mapping[str, Any]], metric: str) -> str:
    """A hypothesis in a few words for each checkpoint, from the probe itself (no control)."""
    words = []
    for test in comparisons:
        if (test["metric"], test["variant"]) == (metric, None):
            more = "more" if test["difference"] > 0 else "less"
            meaning = test["reading"].replace("different", more).replace(
                "equivalent", "the same, within the margin")
            words.append(f"{test['model']} against {test['reference']}: {meaning}")
    return "; ".join(words) or "not tested here"
