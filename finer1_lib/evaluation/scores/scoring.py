"""From records to numbers: scores per item, rows of the summary, comparisons between models.

Everything is computed from the records alone, so a metric can change without a model being run again. Every
question has one record (`samples.settle`). The closed world and the choice among all labels are both right or
wrong, so they are scored alike; a question in rotations counts only if it is right in all of its rotations.
"""

from dataclasses import replace
from typing import Any, Iterable, Iterator, Mapping, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.statistics import (
    LEVEL, Estimate, clusters_needed, holm, items_needed, mcnemar_p, paired_difference,
)  # fmt: skip
from finer1_lib.evaluation.scores.averages import MAIN_METRICS, cluster_sums, main_reading, rows_of_sums
from finer1_lib.evaluation.scores.official import OfficialScorer, Scorer
from finer1_lib.evaluation.scores.samples import sample_scores, settle
from finer1_lib.evaluation.scores.similarity import Similarity, TrigramSimilarity
from finer1_lib.evaluation.scores.strict import StrictScorer
from finer1_lib.evaluation.summary import KEYS

SETTINGS = ("closed_world", "open_world", "all_labels")
# 2,000 flips find no p below 1/2001, which Holm's correction for a hundred tests raises to 0.05: small ones
# are drawn again with more flips
NEAR_FLOOR, FLIPS = 0.005, 50_000
SCORE_COLUMNS = (
    "model", "setting", "item_id", "super_category", "sub_category", "categories", "option_order",
)  # fmt: skip
_COMPARED = (
    "first", "second", "setting", "metric", "categories", "difference", "low", "high", "p", "n", "needed",
    "reading", "p_holm", "reading_holm", "p_mcnemar", "needed_items", "design_effect",
)  # fmt: skip
# To add a scorer: a class like these two (see `official.Scorer`), and a line here.
SCORERS: dict[str, Any] = {"official": OfficialScorer, "strict": StrictScorer}


def make_scorer(
    name: str, *, similarity: Optional[Similarity] = None, guide: Optional[Mapping[str, Any]] = None,
    **more: Any,
) -> Scorer:
    """A scorer of `SCORERS`; UserError for an unknown name.

    `similarity` is Sim of the open world (trigrams by default); `guide` serves metrics that need genera; the
    kit's two also take `names` and `more` (further similarities).

    Example:
        >>> record = {"completion": "<answer>House Wren, Rock Wren</answer>", "sub_category": "Rock Wren"}
        >>> make_scorer("official").closed(record), make_scorer("strict").closed(record)["accuracy"]
        ({'accuracy': 1.0}, 0.0)
    """
    if name not in SCORERS:
        raise UserError(f"unknown scorer {name!r}: one of {', '.join(sorted(SCORERS))}")
    return SCORERS[name](similarity=similarity or TrigramSimilarity(), guide=guide, **more)


def score_records(records: Iterable[Mapping], scorers: Iterable[Scorer]):
    """Every metric of every scorer for every question: a DataFrame of `SCORE_COLUMNS`, scorer, metric, value.

    Of the rotations one accuracy an item is left: 1 where the item is right in the shuffled order and in
    every rotation of it. A question with several samples has pass_at_1, pass_at_2, ... and majority_share
    beside the metrics of the majority's answer.

    Raises: UserError: an item without all of its rotations or samples, or an unknown setting.
    """
    import pandas as pd

    records = settle(records)
    known = pd.DataFrame([[record[key] for key in SCORE_COLUMNS] for record in records],
                         columns=list(SCORE_COLUMNS), dtype=object)  # fmt: skip
    opened = [one for record in records if record["setting"] == "open_world"
              for one in record.get("drawn", (record,))]  # all samples included
    parts = []
    for scorer in scorers:
        scorer.prepare(opened)
        # lists, not dictionaries: 100,000 records give more than a million scores
        rows: tuple[list, list, list] = ([], [], [])
        for place, metric, value in _scores(records, scorer):
            for column, entry in zip(rows, (place, metric, value)):
                column.append(entry)
        part = known.iloc[rows[0]].reset_index(drop=True)
        parts.append(part.assign(scorer=scorer.name, metric=pd.Series(rows[1], dtype=object),
                                 value=pd.Series(rows[2], dtype=float)))  # fmt: skip
    if not parts:
        return pd.DataFrame(columns=[*SCORE_COLUMNS, "scorer", "metric", "value"])
    return pd.concat(parts, ignore_index=True)


def _scores(records: Sequence[Mapping], scorer: Scorer) -> Iterator[tuple[int, str, float]]:
    """(place of the record, metric, value), then one accuracy for each rotated item, at its last rotation."""
    for place, record in enumerate(records):
        if record["option_order"] == "rotations":
            continue
        for metric, value in _read(scorer, record).items():
            yield place, metric, value
        if "drawn" in record:
            each = [_read(scorer, one) for one in record["drawn"]]
            (metric,) = [name for name in MAIN_METRICS if name in each[0]]
            for name, value in sample_scores(record, [scores[metric] for scores in each]).items():
                yield place, name, value
    for turns in _rotated(records):
        values = [scorer.closed(records[place]).get("accuracy") for place in turns]
        if None not in values:
            yield turns[-1], "accuracy", min(values)


def _read(scorer: Scorer, record: Mapping) -> dict[str, float]:
    if record["setting"] not in SETTINGS:
        raise UserError(f"records.jsonl: the setting of {record['item_id']} is {record['setting']!r}, none "
                        f"of {', '.join(SETTINGS)}")
    return scorer.open(record) if record["setting"] == "open_world" else scorer.closed(record)


def _rotated(records: Sequence[Mapping]) -> Iterator[list[int]]:
    """The places of each item that was queried in rotations: the shuffled record, then its rotations."""
    groups: dict[tuple, list[int]] = {}
    for place, record in enumerate(records):
        if record["option_order"] in ("shuffled", "rotations"):
            groups.setdefault((record["model"], record["item_id"]), []).append(place)
    for (model, item), group in groups.items():
        if all(records[place]["option_order"] == "shuffled" for place in group):
            continue
        group.sort(key=lambda place: records[place]["rotation"])
        turns = [records[place]["rotation"] for place in group]
        if turns != list(range(len(records[group[0]]["options"]))):
            raise UserError(f"records.jsonl: {model} was not queried about {item} under each rotation of its "
                            "options once: run 04_evaluation again")
        yield group


def summary_rows(scores, *, seed: int, similarity: Optional[str] = None) -> list[dict[str, Any]]:
    """Rows of the summary, of `averages.rows_of_sums`; `similarity` is the name of Sim."""
    return rows_of_sums(cluster_sums(scores), seed=seed, similarity=similarity)


def pick(rows: Iterable[Mapping], **wanted: Any):
    """The summary rows with these values, as a DataFrame: `pick(rows, dataset="average")`."""
    import pandas as pd

    chosen = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return pd.DataFrame(chosen, columns=list(KEYS))


def compare(
    scores, first: str, second: str, *, setting: str, metric: str, scorer: str, categories: str, seed: int
) -> tuple[Estimate, Optional[int]]:
    """Paired difference `first - second` in the main reading on the same items, and the required sample size.

    The mean over super-categories with interval and p-value; the size is in sub-categories. ValueError: the
    two models did not answer the same items.
    """
    where = (setting, metric, categories)
    values, clusters, groups = _paired(_cells(scores, scorer, [(setting, metric)]), first, second, *where)
    needed = clusters_needed(*values, list(zip(groups, clusters)))
    return paired_difference(*values, clusters, groups, seed=seed), needed


def _cells(scores, scorer: str, metrics: Iterable[tuple[str, str]]) -> dict[tuple, Any]:
    """{(model, setting, metric, categories): scores of the main reading by item}."""
    scores = scores[(scores["scorer"] == scorer) & scores["metric"].isin([metric for _, metric in metrics])]
    parts = main_reading(scores).groupby(["model", "setting", "metric", "categories"], sort=False)
    return {key: part.sort_values("item_id", ignore_index=True) for key, part in parts}


def _paired(cells: Mapping[tuple, Any], first: str, second: str, *where: str) -> tuple[list, list, list]:
    """(values of both models, sub-categories, super-categories) of the items that both answered."""
    one, two = sides = [cells.get((model, *where)) for model in (first, second)]
    if one is None or two is None or one["item_id"].tolist() != two["item_id"].tolist():
        raise ValueError(f"{first} and {second} did not answer the same items in {where[0]}, {where[2]}")
    columns = (one[name].tolist() for name in ("sub_category", "super_category"))
    return [side["value"].tolist() for side in sides], *columns


def compare_all(
    scores, pairs: Iterable[tuple[str, str]], *, metrics: Sequence[tuple[str, str]], scorer: str, seed: int
):
    """`compare` for several model pairs, (setting, metric) pairs and both categories, as a table.

    A pair is left out of a setting in which one of the two was not queried (an encoder has no open world).
    Beside the columns of `compare`: p_holm and reading_holm, corrected for all tests of this table; p_mcnemar,
    the exact test over items, which takes those of a sub-category for independent (None for a similarity);
    needed_items and design_effect of `items_needed`. ValueError as in `compare`.
    """
    import pandas as pd

    cells, rows, estimates, sharp = _cells(scores, scorer, metrics), [], [], []
    queried = {key[:2] for key in cells}
    for first, second in pairs:
        for setting, metric in metrics:
            if not {(first, setting), (second, setting)} <= queried:
                continue
            for categories in ("seen", "unseen"):
                where = {"setting": setting, "metric": metric, "categories": categories}
                values, clusters, groups = _paired(cells, first, second, *where.values())
                named = list(zip(groups, clusters))
                e = paired_difference(*values, clusters, groups, seed=seed)
                items, effect = items_needed(*values, named)
                estimates.append(e)
                sharp.append(paired_difference(*values, clusters, groups, seed=seed, flips=FLIPS).p
                             if e.p <= NEAR_FLOOR else e.p)  # fmt: skip
                rows.append({
                    "first": first, "second": second, **where, "difference": e.value, "low": e.low,
                    "high": e.high, "p": e.p, "n": e.n, "needed": clusters_needed(*values, named),
                    "reading": reading(e), "p_mcnemar": mcnemar_p(*values), "needed_items": items,
                    "design_effect": effect,
                })  # fmt: skip
    for row, e, p in zip(rows, estimates, holm(sharp)):
        p = p if p is None or e.p is None else max(p, e.p)  # its p is drawn more finely
        row.update(p_holm=p, reading_holm=reading(replace(e, p=p)))
    return pd.DataFrame(rows, columns=_COMPARED)  # the columns are there for no pairs as well


def order_effects(scores, *, scorer: str, seed: int):
    """The effect of the option order: accuracy in each order minus shuffled, for each model, paired by item.

    The table of `compare_all` with the columns model and option_order in place of first and second; empty
    where only the shuffled order was queried.
    """
    closed = scores[(scores["setting"] == "closed_world") & (scores["metric"] == "accuracy")]
    # each order is given as a model of its own name, so that `compare_all` serves here too
    named = closed.assign(model=list(zip(closed["model"], closed["option_order"])), option_order="shuffled")
    others = [key for key in dict.fromkeys(named["model"]) if key[1] != "shuffled"]
    pairs = [((model, order), (model, "shuffled")) for model, order in others]
    table = compare_all(named, pairs, metrics=[("closed_world", "accuracy")], scorer=scorer, seed=seed)
    models, orders = ([key[i] for key in table["first"]] for i in (0, 1))
    return table.drop(columns=["first", "second"]).assign(model=models, option_order=orders)


def findings(comparisons, first: str, second: str, *, setting: str, metric: str, categories: str) -> str:
    """One row of `compare_all` in words: "+12.5 points [3.0, 22.0], p = 0.012: higher"."""
    import pandas as pd

    wanted = dict(first=first, second=second, setting=setting, metric=metric, categories=categories)
    (row,) = comparisons[(comparisons[list(wanted)] == list(wanted.values())).all(axis=1)].to_dict("records")
    span = "no interval" if pd.isna(row["low"]) else f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
    return f"{100 * row['difference']:+.1f} points {span}, p = {row['p']:.2g}: **{row['reading']}**"


def reading(difference: Estimate) -> str:
    """What a difference allows one to state: "higher", "lower" or "cannot tell".

    The interval must exclude zero and, where there is a p-value, that must not exceed 0.05. Where nearly all
    sub-categories tie (a model at its ceiling) the bootstrap sees only the few that do not, and its interval
    excludes zero sooner than a test can: four that all differ one way have p = 0.125 at best.
    """
    outside = difference.low is not None and not difference.low <= 0 <= difference.high
    if not outside or (difference.p is not None and difference.p > 1 - LEVEL):
        return "cannot tell"
    return "higher" if difference.low > 0 else "lower"
