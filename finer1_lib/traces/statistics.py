"""Reasoning traces in numbers: one row per trace, what could not be read, averages with intervals, steps.

    table = trace_table(records, guide)    one row per trace, nothing dropped
    problems(table)                        what could not be read, by kind
    statistics(table, seed=0)              averages per model, seen and unseen
    tally_steps(table, seed=0)             at which step wrong answers went wrong

Without a guide (photographs have none) the columns that need one are NaN and left out of later tables.
Source: Fine-R1 (arXiv 2602.07605), Table 5: the four parts of a trace.
"""

from itertools import product
from typing import Any, Iterable, Mapping, NamedTuple, Optional, Sequence

from finer1_lib.core.completions import normalise
from finer1_lib.core.faces import Later
from finer1_lib.core.prompts import FOUR_PARTS
from finer1_lib.core.statistics import Estimate, clustered_mean
from finer1_lib.data.names import meanings, same_name, table_for
from finer1_lib.data.rationales.parsing import check_claims, count_problems, parse
from finer1_lib.traces.steps import WRONG_STEPS, attributes_of, comparison_claims, unknown_names, where_wrong
from finer1_lib.training.methods import in_order

pd = Later("pandas")
STEPS = ("right", *WRONG_STEPS)
CATEGORIES = ("seen", "unseen")
_COPIED = ("model", "item_id", "image_id", "super_category", "sub_category", "categories", "completion")


class Quantity(NamedTuple):
    """A column of `trace_table`: its label in tables, and its unit (words, tokens, names or share)."""

    label: str
    unit: str


QUANTITIES: Mapping[str, Quantity] = {
    **{f"words_{part}": Quantity(f"words in the {part}", "words") for part in FOUR_PARTS},
    "tokens": Quantity("tokens in all", "tokens"), "candidates": Quantity("candidates", "names"),
    **{name: Quantity(label, "share") for name, label in {
        "right": "answer right", "complete": "four parts and answer read",
        "truth_listed": "truth among the candidates", "repeats": "a candidate is listed twice",
        "invents": "a candidate the guide lacks", "attributes_right": "attributes read right",
        "attributes_misread": "attributes misread", "all_read": "all attributes read right",
        "claims_true": "comparison agrees with guide", "marks_consistent": '"(differs)" fits the analysis',
    }.items()},
}


def is_trace(record: Mapping[str, Any], setting: str = "open_world") -> bool:
    """Whether a record is one to read: a thinking prompt, this setting, the main reading of the options."""
    main = record.get("option_order") in (None, "shuffled")
    return record["setting"] == setting and record["prompt_name"].startswith("cot") and main


def trace_table(records: Iterable[Mapping[str, Any]], guide: Optional[Mapping] = None,
                setting: str = "open_world") -> Any:
    """One row per completion of the models that think (`is_trace`), with all that is read from it.

    The record's keys and completion, `step` (of `STEPS`), and a column per `QUANTITIES`: words of each part
    and number of candidates (NaN where the part cannot be read), shares of the trace's own attributes, claims
    and marks (NaN where it makes none), and 1 or 0 for yes or no; an attribute left out is neither.
    """
    rows = [_row(record, guide) for record in records if is_trace(record, setting)]
    return pd.DataFrame(rows, columns=[*_COPIED, "step", *QUANTITIES])


def _row(record: Mapping[str, Any], guide: Optional[Mapping]) -> dict[str, Any]:
    truth = record["sub_category"]
    data_set = table_for(record["super_category"], truth)
    trace = parse(record["completion"], meanings(data_set))
    names = [normalise(name) for name in trace.candidates]
    claims = comparison_claims(trace, guide)
    states = list(check_claims(trace.analysis, truth, guide).values()) if attributes_of(guide, truth) else []
    step = where_wrong(trace, truth, guide, data_set)
    words = {part: getattr(trace, part) for part in FOUR_PARTS}
    return {**{key: record[key] for key in _COPIED}, "step": step,
            **{f"words_{part}": float(len(text.split())) if text else None for part, text in words.items()},
            "tokens": record.get("tokens"), "candidates": float(len(names)) if names else None,
            "right": float(step == "right"), "complete": float(trace.complete),
            "truth_listed": float(any(same_name(data_set, name, truth) for name in trace.candidates)),
            "repeats": float(len(set(names)) < len(names)),
            "invents": float(bool(unknown_names(trace, guide))) if guide else None,
            "attributes_right": _share(state == "right" for state in states),
            "attributes_misread": _share(state == "wrong" for state in states),
            "all_read": float(set(states) == {"right"}) if states else None,
            "claims_true": _share(claim.true for claim in claims if claim.true is not None),
            "marks_consistent": _share(claim.consistent for claim in claims if claim.consistent is not None)}


def _share(values: Iterable[bool]) -> Optional[float]:
    values = list(values)
    return sum(values) / len(values) if values else None


def problems(table: Any, labels: Optional[Mapping[str, str]] = None) -> Any:
    """Counts of what could not be read: a row per model; total, complete, then frequent problems first."""
    counts = {model: count_problems(map(parse, table.loc[table["model"] == model, "completion"]))
              for model in in_order(table["model"], labels)}
    frame = pd.DataFrame(list(counts.values()), index=list(counts)).fillna(0).astype(int)
    order = sorted(set(frame.columns) - {"total", "complete"}, key=lambda name: (-frame[name].sum(), name))
    return frame.reindex(columns=["total", "complete", *order])


def statistics(table: Any, *, seed: int, labels: Optional[Mapping[str, str]] = None) -> Any:
    """Average of every quantity for each model, seen and unseen: unweighted over super-categories.

    Intervals are clustered by sub-category; a count that is the same in every trace has none.
    """
    rows = []
    for model, categories in product(in_order(table["model"], labels), CATEGORIES):
        part = table[(table["model"] == model) & (table["categories"] == categories)].sort_values("item_id")
        for name, quantity in QUANTITIES.items():
            known = part[part[name].notna()]
            if len(known):
                estimate = scaled(clustered_mean, [known[name].astype(float)], known, seed, quantity.unit)
                rows.append({"model": model, "categories": categories, "quantity": name,
                             **quantity._asdict(), **estimate.as_row(), "clusters": estimate.clusters})
    return pd.DataFrame(rows, columns=["model", "categories", "quantity", "label", "unit", "value", "low",
                                       "high", "n", "clusters"])


def scaled(function, columns: Sequence, items, seed: int, unit: str = "share") -> Estimate:
    """`clustered_mean` or `paired_difference` of columns that need not be in [0, 1].

    They (one or two Series of items) are divided by their greatest value, since the interval of equal values
    is one of shares; for a count that never varies that interval would mean nothing, and is left out.
    """
    scale = max(1.0, *(column.abs().max() for column in columns))
    shares = [(column / scale).tolist() for column in columns]
    found = function(*shares, items["sub_category"].tolist(), items["super_category"].tolist(), seed=seed)
    one = shares[0] if len(shares) == 1 else [round(a - b, 12) for a, b in zip(*shares)]
    constant = unit != "share" and len(set(one)) == 1
    low, high = (None if end is None or constant else scale * end for end in (found.low, found.high))
    return Estimate(scale * found.value, low, high, found.n, found.clusters, found.p)


def tally_steps(table: Any, *, seed: int) -> Any:
    """Where the answers of each model first went wrong: count, share of all traces of that model and those
    categories, and interval of every step of `STEPS`, 0 for one that did not occur.
    """
    rows = []
    for (model, categories), part in table.sort_values("item_id", kind="stable").groupby(
            ["model", "categories"], sort=False):
        names = list(zip(part["super_category"], part["sub_category"]))
        for step in STEPS:
            here = part["step"] == step
            e = clustered_mean(here.astype(float).tolist(), names, seed=seed)
            rows.append({"model": model, "categories": categories, "step": step, "count": int(here.sum()),
                         "share": e.value, "low": e.low, "high": e.high})
    return pd.DataFrame(rows, columns=["model", "categories", "step", "count", "share", "low", "high"])
