"""From records to numbers: scores per item, rows of the summary, comparisons between models.

Everything here is computed from the records alone, so a metric can change without a model being run again.

Source: METHOD 4 (averages: unweighted over data sets, seen and unseen apart), DESIGN 7 (n, seed and a 95 %
interval for every number).
"""

from typing import Any, Iterable, Mapping, Optional, Sequence

from finer1_lib.errors import UserError
from finer1_lib.scores.scorers import Scorer
from finer1_lib.statistics import Estimate, clustered_mean, paired_difference
from finer1_lib.summary import KEYS
from finer1_lib.telling_apart import clusters_to_tell

AVERAGE = "average"
_SCORE_COLUMNS = (
    "model", "setting", "item_id", "super_category", "sub_category", "categories", "option_order",
)  # fmt: skip
_COMPARED = (
    "first", "second", "setting", "metric", "categories", "difference", "low", "high", "p", "n", "needed",
    "reading",
)  # fmt: skip


def score_records(records: Sequence[Mapping], scorers: Iterable[Scorer]):
    """Every metric of every scorer for every record.

    Args:
        records: lines of `records.jsonl`.
        scorers: of `make_scorer`.

    Returns:
        A DataFrame in long form: model, setting, item_id, super_category, sub_category, categories,
        option_order, scorer, metric, value. Of the rotations one accuracy an item is left: 1 where the item
        is right in the shuffled order and in every rotation of it.

    Raises:
        UserError: an item was not asked under all rotations.
    """
    import pandas as pd

    rows = []
    for scorer in scorers:
        scorer.prepare([record for record in records if record["setting"] == "open_world"])
        for record in records:
            if record["option_order"] == "rotations":
                continue
            closed = record["setting"] == "closed_world"
            for metric, value in (scorer.closed(record) if closed else scorer.open(record)).items():
                rows.append(_score(record, scorer, metric, value))
        for turns in _turned(records):
            values = [scorer.closed(record).get("accuracy") for record in turns]
            if None not in values:
                rows.append(_score(turns[-1], scorer, "accuracy", min(values)))
    return pd.DataFrame(rows, columns=[*_SCORE_COLUMNS, "scorer", "metric", "value"])


def _score(record: Mapping, scorer: Scorer, metric: str, value: float) -> dict[str, Any]:
    known = {key: record[key] for key in _SCORE_COLUMNS}
    return {**known, "scorer": scorer.name, "metric": metric, "value": value}


def _turned(records: Sequence[Mapping]) -> list[list[Mapping]]:
    """The records of each item that was asked in rotations: the shuffled one, then its rotations."""
    groups: dict[tuple, list[Mapping]] = {}
    for record in records:
        if record["option_order"] in ("shuffled", "rotations"):
            groups.setdefault((record["model"], record["item_id"]), []).append(record)
    found = []
    for (model, item), group in groups.items():
        if all(record["option_order"] == "shuffled" for record in group):
            continue
        group.sort(key=lambda record: record["rotation"])
        if [record["rotation"] for record in group] != list(range(len(group[0]["options"]))):
            raise UserError(
                f"records.jsonl: {model} was not asked about {item} under each rotation of its options once: "
                "run 04_evaluation again"
            )
        found.append(group)
    return found


def main_reading(scores):
    """The scores of the main reading: the shuffled order of the closed world, and the open world."""
    return scores[scores["option_order"].isna() | (scores["option_order"] == "shuffled")]


def summary_rows(scores, *, seed: int, similarity: Optional[str] = None) -> list[dict[str, Any]]:
    """Rows of the summary: model x super-category (and average) x setting, order, scorer, metric, categories.

    Args:
        scores: of `score_records`.
        seed: of the evaluation and the bootstrap.
        similarity: name of Sim, written as the `variant` of relative_semantic_similarity, whose values mean
            nothing without it.

    Returns:
        Dictionaries with exactly `summary.KEYS`; `low` and `high` are None where one sub-category is all there
        is.

    Source: METHOD 4; intervals over whole sub-categories are our choice.
    """
    rows = []
    keys = ["model", "setting", "scorer", "metric", "categories", "option_order"]
    for group, part in scores.groupby(keys, sort=False, dropna=False):
        part = part.sort_values("item_id")  # the resamples must not depend on the order of the lines
        known = dict(zip(keys, group))
        known["option_order"] = part["option_order"].iloc[0] if isinstance(group[-1], str) else None
        known["variant"] = similarity if known["metric"] == "relative_semantic_similarity" else None
        for dataset, inside in part.groupby("super_category"):
            estimate = clustered_mean(inside["value"].tolist(), inside["sub_category"].tolist(), seed=seed)
            rows.append(_row({**known, "dataset": dataset, **estimate.as_row(), "seed": seed}))
        estimate = clustered_mean(
            part["value"].tolist(), part["sub_category"].tolist(), part["super_category"].tolist(), seed=seed
        )
        rows.append(_row({**known, "dataset": AVERAGE, **estimate.as_row(), "seed": seed}))
    return rows


def _row(values: Mapping[str, Any]) -> dict[str, Any]:
    return {column: values[column] for column in KEYS}


def pick(rows: Iterable[Mapping], **wanted: Any):
    """The summary rows with these values, as a DataFrame: `pick(rows, dataset="average")`."""
    import pandas as pd

    chosen = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return pd.DataFrame(chosen, columns=list(KEYS))


def compare(
    scores, first: str, second: str, *, setting: str, metric: str, scorer: str, categories: str, seed: int
) -> tuple[Estimate, Optional[int]]:
    """Paired difference `first - second` in the main reading on the same items; mean of super-categories.

    Args:
        scores: of `score_records`.
        first, second: model names.

    Returns:
        (difference with interval and p-value, sub-categories needed to tell a difference of this size).

    Raises:
        ValueError: the two models did not answer the same items.

    Source: METHOD 3 ("no win of TAPO over DAPO is presumed: intervals, and the n needed to tell").
    """
    scores = main_reading(scores)
    part = scores[
        (scores["setting"] == setting)
        & (scores["metric"] == metric)
        & (scores["scorer"] == scorer)
        & (scores["categories"] == categories)
    ]
    sides = [
        part[part["model"] == model].sort_values("item_id", ignore_index=True) for model in (first, second)
    ]
    if not len(sides[0]) or sides[0]["item_id"].tolist() != sides[1]["item_id"].tolist():
        raise ValueError(f"{first} and {second} did not answer the same items in {setting}, {categories}")
    values = [side["value"].tolist() for side in sides]
    clusters, groups = sides[0]["sub_category"].tolist(), sides[0]["super_category"].tolist()
    return (
        paired_difference(*values, clusters, groups, seed=seed),
        clusters_to_tell(*values, list(zip(groups, clusters))),
    )


def compare_all(
    scores, pairs: Iterable[tuple[str, str]], *, metrics: Sequence[tuple[str, str]], scorer: str, seed: int
):
    """`compare` for several pairs, metrics and both kinds of categories, as a table.

    Args:
        pairs: (first, second) model names.
        metrics: (setting, metric) pairs.

    Returns:
        DataFrame of first, second, setting, metric, categories, difference, low, high, p, n, needed, reading.
    """
    import pandas as pd

    rows = []
    for first, second in pairs:
        for setting, metric in metrics:
            for categories in ("seen", "unseen"):
                where = {"setting": setting, "metric": metric, "categories": categories}
                e, needed = compare(scores, first, second, scorer=scorer, seed=seed, **where)
                told = {"difference": e.value, "low": e.low, "high": e.high, "p": e.p, "n": e.n}
                said = {"needed": needed, "reading": reading(e)}
                rows.append({"first": first, "second": second, **where, **told, **said})
    return pd.DataFrame(rows, columns=_COMPARED)  # the columns are there for no pairs as well


def order_effects(scores, *, scorer: str, seed: int):
    """What another order of the options is worth: accuracy in it minus shuffled, a model at a time, paired.

    Args:
        scores: of `score_records`.

    Returns:
        The table of `compare_all` with the columns model and option_order in place of first and second; empty
        where only the shuffled order was asked.

    Source: audit A1; paired as every other difference of the kit.
    """
    closed = scores[(scores["setting"] == "closed_world") & (scores["metric"] == "accuracy")]
    # each order stands for a model of its own, so that the one comparison of the kit serves here too
    named = closed.assign(model=list(zip(closed["model"], closed["option_order"])), option_order="shuffled")
    others = [key for key in dict.fromkeys(named["model"]) if key[1] != "shuffled"]
    pairs = [((model, order), (model, "shuffled")) for model, order in others]
    table = compare_all(named, pairs, metrics=[("closed_world", "accuracy")], scorer=scorer, seed=seed)
    models, orders = ([key[i] for key in table["first"]] for i in (0, 1))
    return table.drop(columns=["first", "second"]).assign(model=models, option_order=orders)


def tell(comparisons, first: str, second: str, *, setting: str, metric: str, categories: str) -> str:
    """One row of `compare_all` in words: "+12.5 points [3.0, 22.0], p = 0.012: higher"."""
    import pandas as pd

    here = comparisons[
        (comparisons["first"] == first)
        & (comparisons["second"] == second)
        & (comparisons["setting"] == setting)
        & (comparisons["metric"] == metric)
        & (comparisons["categories"] == categories)
    ]
    (row,) = here.to_dict("records")
    span = "no interval" if pd.isna(row["low"]) else f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
    return f"{100 * row['difference']:+.1f} points {span}, p = {row['p']:.2g}: **{row['reading']}**"


def reading(difference: Estimate) -> str:
    """What a difference allows one to say: "higher", "lower" or "cannot tell".

    The interval must leave zero out and, where there is a p-value, that must not exceed 0.05. Where nearly
    all sub-categories tie (a model at its ceiling) the bootstrap knows only the few that do not, and its
    interval leaves zero out sooner than a test can: four that all differ one way have p = 0.125 at best.
    """
    outside = difference.low is not None and not difference.low <= 0 <= difference.high
    if not outside or (difference.p is not None and difference.p > 0.05):
        return "cannot tell"
    return "higher" if difference.low > 0 else "lower"
