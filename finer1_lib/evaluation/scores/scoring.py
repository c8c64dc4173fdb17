"""From records to numbers: scores per item, rows of the summary, comparisons between models.

Everything is computed from the records alone, so a metric can change without a model being run again. Every
question has one record (`samples.settle`). The closed world and the choice among all labels are both right or
wrong, so they are scored alike; a question in rotations counts only if it is right in all of its rotations.
"""

from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, Iterable, Iterator, Mapping, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.faces import Later
from finer1_lib.core.statistics import (
    LEVEL, Estimate, clusters_needed, holm, items_needed, mcnemar_p, paired_difference)
from finer1_lib.evaluation.scores.averages import MAIN_METRICS, cluster_sums, main_reading, rows_of_sums
from finer1_lib.evaluation.scores.official import OfficialScorer, Scorer
from finer1_lib.evaluation.scores.samples import sample_scores, settle
from finer1_lib.evaluation.scores.similarity import Similarity, TrigramSimilarity
from finer1_lib.evaluation.scores.strict import StrictScorer
from finer1_lib.evaluation.summary import KEYS

pd = Later("pandas")

SETTINGS = ("closed_world", "open_world", "all_labels")
# 2,000 flips find no p below 1/2001, which Holm's correction for a hundred tests raises to 0.05: small ones
# are drawn again with more flips
NEAR_FLOOR, FLIPS = 0.005, 50_000
SCORE_COLUMNS = ("model", "setting", "item_id", "super_category", "sub_category", "categories", "option_order")
_COMPARED = ("first", "second", "setting", "metric", "categories", "difference", "low", "high", "p", "n",
             "needed", "reading", "p_holm", "reading_holm", "p_mcnemar", "needed_items", "design_effect")
# To add a scorer: a class like these two (see `official.Scorer`), and a line here.
SCORERS: dict[str, Any] = {"official": OfficialScorer, "strict": StrictScorer}


def make_scorer(name: str, *, similarity: Optional[Similarity] = None, **known: Any) -> Scorer:
    """A scorer of `SCORERS`; UserError for an unknown name.

    `similarity` is Sim of the open world (trigrams by default); known: guide, names, more of `Scorer`.

        >>> record = {"completion": "<answer>House Wren, Rock Wren</answer>", "sub_category": "Rock Wren"}
        >>> make_scorer("official").closed(record), make_scorer("strict").closed(record)["accuracy"]
        ({'accuracy': 1.0}, 0.0)
    """
    if name not in SCORERS:
        raise UserError(f"unknown scorer {name!r}: one of {', '.join(sorted(SCORERS))}")
    return SCORERS[name](similarity=similarity or TrigramSimilarity(), **known)


def score_records(records: Iterable[Mapping], scorers: Iterable[Scorer]):
    """Every metric of every scorer for every question: a DataFrame of `SCORE_COLUMNS`, scorer, metric, value.

    Of the rotations one accuracy an item is left: 1 where the item is right in the shuffled order and in
    every rotation of it. A question with several samples has pass_at_1, pass_at_2, ... and majority_share
    beside the metrics of the majority's answer.
    Raises: UserError: an item without all of its rotations or samples, or an unknown setting.
    """
    records = settle(records)
    known = pd.DataFrame([[record[key] for key in SCORE_COLUMNS] for record in records], columns=SCORE_COLUMNS,
                         dtype=object)
    opened = [one for record in records if record["setting"] == "open_world"
              for one in record.get("drawn", (record,))]  # all samples included
    parts = [pd.DataFrame(columns=[*SCORE_COLUMNS, "scorer", "metric", "value"])]
    for scorer in scorers:
        scorer.prepare(opened)
        found = list(_scores(records, scorer))
        places, metrics, values = zip(*found) if found else ((), (), ())
        part = known.iloc[list(places)].reset_index(drop=True)
        parts.append(part.assign(scorer=scorer.name, metric=pd.Series(metrics, dtype=object),
                                 value=pd.Series(values, dtype=float)))
    return pd.concat(parts[1:] or parts, ignore_index=True)


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
    chosen = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return pd.DataFrame(chosen, columns=list(KEYS))


def compare_all(scores, pairs: Iterable[tuple[str, str]], *, metrics: Sequence[tuple[str, str]], scorer: str,
                seed: int):
    """Paired differences first - second in the main reading on the same items: a row a (first, second) pair,
    (setting, metric) pair, and seen or unseen; means over super-categories with interval and p-value.

    needed: the required number of sub-categories; needed_items and design_effect: of `items_needed`; p_holm
    and reading_holm: corrected for all tests of this table; p_mcnemar: the exact test over items, which takes
    those of a sub-category for independent (None for a similarity). A pair is left out of a setting in which
    one of the two was not queried (an encoder has no open world). ValueError: the two did not answer the same
    items.
    """
    asked = scores["metric"].isin([name for _, name in metrics])
    right = main_reading(scores[(scores["scorer"] == scorer) & asked])
    cells = {key: part.sort_values("item_id", ignore_index=True)
             for key, part in right.groupby(["model", "setting", "metric", "categories"], sort=False)}
    queried = {key[:2] for key in cells}
    asked = [(*pair, *metric, kind) for pair, metric, kind in product(pairs, metrics, ("seen", "unseen"))
             if {(model, metric[0]) for model in pair} <= queried]
    rows, estimates, sharp = [], [], []
    for first, second, *where in asked:
        one, two = sides = [cells.get((model, *where)) for model in (first, second)]
        if one is None or two is None or one["item_id"].tolist() != two["item_id"].tolist():
            raise ValueError(f"{first} and {second} did not answer the same items in {where[0]}, {where[2]}")
        values = [side["value"].tolist() for side in sides]
        clusters, groups = one["sub_category"].tolist(), one["super_category"].tolist()
        difference = partial(paired_difference, *values, clusters, groups, seed=seed)
        e, named = difference(), list(zip(groups, clusters))
        items, effect = items_needed(*values, named)
        estimates.append(e)
        sharp.append(difference(flips=FLIPS).p if e.p <= NEAR_FLOOR else e.p)
        rows.append((first, second, *where, e.value, e.low, e.high, e.p, e.n, clusters_needed(*values, named),
                     reading(e), mcnemar_p(*values), items, effect))
    # `max`: the corrected p is drawn more finely
    corrected = [replace(e, p=max(p, e.p)) for e, p in zip(estimates, holm(sharp))]
    table = pd.DataFrame(rows, columns=[name for name in _COMPARED if not name.endswith("_holm")])
    return table.assign(p_holm=[e.p for e in corrected], reading_holm=[*map(reading, corrected)])[list(_COMPARED)]


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
