"""Traces before and after a training: is more read from the image, or more made of what is read?

With P the share of traces that read every attribute right,

    accuracy = P * (accuracy where all was read right) + (1 - P) * (accuracy where it was not)

so a gain has two parts: more is read right (P grows), and more is made of what is read (the two accuracies
grow). Each part is the mean of what it gives when it changes first and when it changes last.
Source: the decomposition is that of Kitagawa 1955 (doi 10.1080/01621459.1955.10501299).
"""

from typing import Any, Iterable, Mapping, Optional, Sequence

import numpy as np

from finer1_lib.core.errors import UserError
from finer1_lib.core.faces import Later
from finer1_lib.core.statistics import (
    LEVEL, RESAMPLES, Estimate, cluster_weights, clustered_mean, expanded_interval, has_interval,
    paired_difference)
from finer1_lib.evaluation.scores.scoring import reading
from finer1_lib.traces.statistics import (
    CATEGORIES, QUANTITIES, STEPS, problems, scaled, statistics, tally_steps, trace_table)
from finer1_lib.training.methods import in_order

pd = Later("pandas")
LEVELS = {  # how well a model reads, and what it makes of it: (what is averaged, of which traces; None: all)
    "all_read": ("all_read", None), "right": ("right", None), "right_if_read": ("right", 1),
    "right_if_not": ("right", 0)}
PARTS = {"gain": "gain in right answers", "reading": "by reading more right",
         "use": "by using better what is read"}


def reading_and_use(table: Any, models: Sequence[str], *, seed: int) -> tuple[Any, Any]:
    """(levels, gains): rows per quantity of `LEVELS`, and per part of `PARTS` of each gain over the first
    model. Averages over super-categories; empty without a guide.
    Raises: UserError: two of the models did not answer the same items.
    """
    table = table[table["all_read"].notna()]
    levels, gains = [], []
    for categories in CATEGORIES:
        part = table[table["categories"] == categories]
        for model in models:
            items = part[part["model"] == model].sort_values("item_id")
            for quantity, (column, read) in LEVELS.items():
                here = items if read is None else items[items["all_read"] == read]
                if len(here):
                    e = clustered_mean(here[column].astype(float).tolist(), here["sub_category"].tolist(),
                                       here["super_category"].tolist(), seed=seed)
                    levels.append({"model": model, "categories": categories, "quantity": quantity,
                                   **e.as_row(), "clusters": e.clusters})
        for model in models[1:]:
            gains += [{"first": models[0], "second": model, "categories": categories, "part": name,
                       **e.as_row(), "p": e.p, "reading": reading(e)}
                      for name, e in _gains(*pair_of(part, models[0], model), seed)]
    return (pd.DataFrame(levels, columns=["model", "categories", "quantity", "value", "low", "high", "n",
                                          "clusters"]),
            pd.DataFrame(gains, columns=["first", "second", "categories", "part", "value", "low", "high", "p",
                                         "n", "reading"]))


def _gains(before: Any, after: Any, seed: int) -> Iterable[tuple[str, Estimate]]:
    """The gain and its two parts; the gain's interval and test are those of every other table."""
    if before.empty:
        return ()
    names = [before[key].tolist() for key in ("sub_category", "super_category")]
    whole = paired_difference(after["right"].tolist(), before["right"].tolist(), *names, seed=seed)
    return zip(PARTS, (whole, *two_parts(before, after, seed=seed)))


def two_parts(before: Any, after: Any, *, seed: int, resamples: int = RESAMPLES) -> tuple[Estimate, Estimate]:
    """(by reading, by use) of a gain, from rows of two models on the same items in the same order.

    P 0.5, 0.8 and 0.2 (accuracy 0.5) become 0.5, 1.0 and 0.4 (accuracy 0.7): reading 0.0, use 0.2. Clusters
    (sub-categories) are resampled inside their super-category for the interval (none where one has a single
    sub-category), and change sides between the two models for the p-value. Where a model never read right (or
    never wrongly), the accuracy there is taken to be the other model's: the change is then one of reading.
    """
    keys = list(zip(before["super_category"], before["sub_category"]))
    clusters = sorted(set(keys))
    codes = np.array([clusters.index(key) for key in keys])
    kinds, around = np.unique([group for group, _ in clusters], return_inverse=True)
    sums = np.stack([_sums(codes, side) for side in (before, after)])  # [2, clusters, 4]
    rng, count = np.random.default_rng(seed), len(clusters)

    def parts(weights, flips=None):
        """[draws, 2] for weights [draws, clusters]; `flips` [draws, clusters] swaps the two models."""
        found = []
        for kind in range(len(kinds)):
            w = weights * (around == kind)
            one, two = w @ sums[0], w @ sums[1]
            if flips is not None:
                change = (w * flips) @ (sums[1] - sums[0])
                one, two = one + change, two - change
            found.append(_decompose(one, two))
        return np.mean(found, axis=0)

    values = parts(np.ones((1, count)))[0]
    flipped = np.abs(parts(np.ones((resamples, count)), rng.integers(0, 2, (resamples, count))))
    p = ((flipped >= np.abs(values) - 1e-12).sum(axis=0) + 1) / (resamples + 1)
    ends = [(None, None)] * 2
    if np.bincount(around).min() > 1:
        draws = parts(cluster_weights(around, rng, resamples))
        ends = [expanded_interval(value, drawn, count, len(kinds), LEVEL, (-1.0, 1.0))
                for value, drawn in zip(values, draws.T)]
    return tuple(Estimate(value, *low_high, len(keys), count, q)
                 for value, low_high, q in zip(values.tolist(), ends, p.tolist()))


def _sums(codes: np.ndarray, side: Any) -> np.ndarray:
    """[clusters, 4]: traces, read right, read right and answered right, not read right but answered right."""
    read, right = (side[name].to_numpy(dtype=float) for name in ("all_read", "right"))
    columns = (np.ones(len(read)), read, read * right, (1 - read) * right)
    return np.stack([np.bincount(codes, column) for column in columns], axis=1)


def _decompose(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """[draws, 2] reading and use, from two models' sums [draws, 4]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        (p1, a1, b1), (p2, a2, b2) = ((s[:, 1] / s[:, 0], s[:, 2] / s[:, 1], s[:, 3] / (s[:, 0] - s[:, 1]))
                                      for s in (one, two))
    (a1, a2), (b1, b2) = _known(a1, a2), _known(b1, b2)
    share = (p1 + p2) / 2
    by_reading = (p2 - p1) * (a1 - b1 + a2 - b2) / 2
    by_use = share * (a2 - a1) + (1 - share) * (b2 - b1)
    return np.stack([by_reading, by_use], axis=1)


def _known(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each where it is known, else the other's value, else 0 (its weight is 0 then)."""
    return (np.nan_to_num(np.where(np.isnan(first), second, first)),
            np.nan_to_num(np.where(np.isnan(second), first, second)))


def findings(gains: Any, second: str, categories: str) -> str:
    """One model's gain and its parts in words, in points."""
    words = []
    for row in gains[(gains["second"] == second) & (gains["categories"] == categories)].itertuples():
        span = f"[{100 * row.low:+.1f}, {100 * row.high:+.1f}]" if has_interval(row.low) else "no interval"
        words.append(f"{PARTS[row.part]} {100 * row.value:+.1f} points {span}, **{row.reading}**")
    return "; ".join(words)


def before_and_after(models: Sequence[str]) -> Optional[tuple[str, str]]:
    """The two models to compare: CoT SFT and TAPO, else the first and the last; None for fewer than two."""
    models = list(dict.fromkeys(models))
    if {"cot_sft", "cot_sft_tapo"} <= set(models):
        return "cot_sft", "cot_sft_tapo"
    return (models[0], models[-1]) if len(models) > 1 else None


def pair_of(table: Any, first: str, second: str) -> list[Any]:
    """The two models' rows in the same order of items; UserError where the items differ."""
    sides = [table[table["model"] == model].sort_values("item_id", ignore_index=True)
             for model in (first, second)]
    if sides[0]["item_id"].tolist() != sides[1]["item_id"].tolist():
        raise UserError(f"traces of {first} and {second} are not of the same items: run 04_evaluation again")
    return sides


def changes(table: Any, first: str, second: str, *, seed: int) -> Any:
    """`second` minus `first` on the same items, for every quantity: before and after a training.

    Items where one of the two has no value (a part that cannot be read) are left out; n says how many stay.
    """
    before, after = pair_of(table, first, second)
    rows = []
    for categories in CATEGORIES:
        for name, quantity in QUANTITIES.items():
            here = (before["categories"] == categories) & before[name].notna() & after[name].notna()
            if here.any():
                columns = [side.loc[here, name].astype(float) for side in (after, before)]
                e = scaled(paired_difference, columns, before[here], seed, quantity.unit)
                rows.append({"quantity": name, **quantity._asdict(), "categories": categories,
                             "difference": e.value, **e.as_row(), "p": e.p, "reading": reading(e)})
    return pd.DataFrame(rows, columns=["quantity", "label", "unit", "categories", "difference", "low", "high",
                                       "p", "n", "reading"])


def flow(table: Any, first: str, second: str) -> Any:
    """The same items under two models: categories, from_step, to_step, count, where it occurred."""
    before, after = pair_of(table, first, second)
    cells = {"categories": (before["categories"], CATEGORIES), "from_step": (before["step"], STEPS),
             "to_step": (after["step"], STEPS)}
    ordered = pd.DataFrame({name: pd.Categorical(column, order) for name, (column, order) in cells.items()})
    return ordered.groupby(list(cells), observed=True).size().reset_index(name="count").astype(
        dict.fromkeys(cells, "str"))


def turns(flows: Any, categories: str) -> dict[str, int]:
    """Of a `flow`, how many items were fixed ("mended"), broken, right twice and wrong twice."""
    part = flows[flows["categories"] == categories]
    was, is_ = part["from_step"] == "right", part["to_step"] == "right"
    cells = {"mended": ~was & is_, "broken": was & ~is_, "right_twice": was & is_, "wrong_twice": ~was & ~is_}
    return {name: int(part.loc[here, "count"].sum()) for name, here in cells.items()}


class Traces:
    """All traces of a run as a table, and the two models to compare, if two models think.

    From the lines of 04's records.jsonl, guide.json or {}, and {model: label} in table order.
    """

    def __init__(self, records: Iterable[Mapping], guide: Optional[Mapping], labels: Mapping[str, str], *,
                 seed: int) -> None:
        self.table, self.labels, self.seed = trace_table(records, guide), labels, seed
        self.thinking = in_order(self.table["model"], labels)
        self.pair = before_and_after(self.thinking)
        self.compared = (
            f"before and after: {labels[self.pair[0]]}, {labels[self.pair[1]]}" if self.pair else
            f"nothing to compare: {len(self.thinking)} model(s) of this run think before they answer")

    def problems(self) -> Any:
        """What could not be read, by kind, a column per model."""
        return problems(self.table, self.labels).rename(index=self.labels).T

    def numbers(self) -> tuple[Any, Any, Any]:
        """(all averages, those of the two models in words, those in shares)."""
        found = statistics(self.table, seed=self.seed, labels=self.labels)
        shown = found[found["model"].isin(self.pair or self.thinking)]
        return found, shown[shown["unit"] == "words"], shown[shown["unit"] == "share"]

    def changes(self) -> tuple[Any, Any, str]:
        """(all paired differences, the clear ones, a sentence); without columns where none is compared."""
        if not self.pair:
            return pd.DataFrame(), pd.DataFrame(), "nothing to compare: fewer than two models think"
        found = changes(self.table, *self.pair, seed=self.seed)
        clear = found[found["reading"] != "cannot tell"].drop(columns="quantity").round(4)
        return found, clear, (f"{len(clear)} of {len(found)} differences are clear (of so many tests, "
                              "a few would be by luck)")

    def steps(self) -> Any:
        """At which step the wrong answers of each model first went wrong."""
        return tally_steps(self.table, seed=self.seed)

    def flow(self) -> tuple[Any, dict]:
        """(how many items went from which step to which, and how many were fixed or broken)."""
        if not self.pair:
            return pd.DataFrame(), {}
        found = flow(self.table, *self.pair)
        return found, {kind: turns(found, kind) for kind in found["categories"].unique()}

    def gains(self) -> tuple[Any, Any, str]:
        """(how well each model reads and uses what it reads, the parts of the gain, the gain in words)."""
        levels, gains = reading_and_use(self.table, self.pair or self.thinking, seed=self.seed)
        words = [f"{kind}: {findings(gains, self.pair[1], kind)}" for kind in gains["categories"].unique()]
        return levels, gains, "\n".join(words) or (
            "nothing to compare: this needs a guide with attributes and two models that think")
