"""Accuracy broken down: by the position of the truth, by length, by rationale.

    position      1, 2, 3, 4         closed world: a model with a position bias is better there
    length        3-5, 50-54, 55-90  tokens of the completion, the same cuts for every model of a setting
    rationale     seen with rationale, seen without rationale, unseen
    equal_length  a model minus another, within quarters of length

Two models that write at different length are compared by their answers in the same quarter of all lengths:
each quarter counts as often as the model that has fewer answers of it,

    value = sum over lengths of m (a - b) / sum of m,   m the lesser number of answers, a, b the shares right

so lengths that only one of them writes say nothing, and `n` is the sum of m. It describes and does not
prove: a wrong answer may be long because it is wrong.
"""

from dataclasses import replace
from typing import Any, Iterable, Iterator, Mapping, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.statistics import Estimate, clustered_mean, codes_of, has_interval, resampled
from finer1_lib.evaluation.scores.averages import MAIN_METRICS
from finer1_lib.evaluation.scores.samples import settle

COLUMNS = (
    "model", "setting", "option_order", "scorer", "metric", "categories", "breakdown", "level", "value",
    "low", "high", "n", "clusters",
)  # fmt: skip
BREAKDOWNS = ("position", "length", "rationale", "equal_length")
WITH, WITHOUT, UNSEEN = "seen with rationale", "seen without rationale", "unseen"
PARTS = 4  # lengths are cut into quarters of all answers


def breakdowns(
    scores, records: Iterable[Mapping], *, rationales: Iterable[Mapping] = (),
    pairs: Iterable[tuple[str, str]] = (), scorer: str = "strict", seed: int = 0,
):
    """The table of all breakdowns (`COLUMNS`), in the main reading of `scorer`.

    records: what was scored. rationales: lines of 01's rationales.jsonl, else "rationale" is left out. pairs:
    (first, second) models to compare at equal length. Values are unweighted means over super-categories, but
    for equal_length, which takes all answers together: there `level` is the other model and the value a
    difference in [-1, 1], None with n = 0 where the two never write at the same length, without an interval
    where some resamples hold no such answers. Encoders and controls, which write nothing, have no length.

    Raises: UserError: a score has no record, or an option list lacks the truth.
    """
    import pandas as pd

    answers = _answers(scores, records, rationales, scorer)
    rows = []
    for _, part in answers.groupby(["model", "setting", "categories"], sort=False):
        for breakdown in BREAKDOWNS[:3]:
            rows += _levels(part, breakdown, seed)
    kinds = answers[["setting", "categories"]].drop_duplicates().itertuples(index=False)
    for setting, categories in kinds:
        here = answers[(answers["setting"] == setting) & (answers["categories"] == categories)]
        sides = {model: part for model, part in here[here["length"].notna()].groupby("model")}
        rows += [_at_equal_length(sides[first], sides[second], seed)
                 for first, second in pairs if first in sides and second in sides]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _answers(scores, records: Iterable[Mapping], rationales: Iterable[Mapping], scorer: str):
    """The scores of what is right in the main reading, with the levels of each breakdown (or None)."""
    import pandas as pd

    right = scores[(scores["scorer"] == scorer) & scores["metric"].isin(MAIN_METRICS)]
    right = right[right["option_order"].isna() | (right["option_order"] == "shuffled")]
    by_question = {_question(record): record for record in settle(records)
                   if record["option_order"] in (None, "shuffled")}  # fmt: skip
    keys = list(zip(right["model"], right["setting"], right["item_id"]))
    if not set(keys) <= set(by_question):
        raise UserError("breakdowns: some scores have no record; give all records that were scored")
    found = [by_question[key] for key in keys]
    explained = {(line["super_category"], line["sub_category"]) for line in rationales}
    levels = {
        "position": pd.Series([_position(record) for record in found], dtype=object),
        "length": pd.Series(_lengths(found), dtype=object),
        "rationale": pd.Series([_rationale(record, explained) for record in found], dtype=object),
    }
    return right.reset_index(drop=True).assign(**levels)


def _question(record: Mapping) -> tuple[str, str, str]:
    return record["model"], record["setting"], record["item_id"]


def _position(record: Mapping) -> Optional[int]:
    if not record.get("options"):
        return None
    if record["sub_category"] not in record["options"]:
        raise UserError(
            f"breakdowns: {record['sub_category']} is not an option of {record['item_id']}; fix its record"
        )
    return record["options"].index(record["sub_category"]) + 1


def _rationale(record: Mapping, explained: set[tuple[str, str]]) -> Optional[str]:
    if not explained:
        return None
    if record["categories"] == "unseen":
        return UNSEEN
    return WITH if (record["super_category"], record["sub_category"]) in explained else WITHOUT


def _lengths(records: Sequence[Mapping]) -> list[Optional[tuple[int, int]]]:
    """(least, most) tokens of the quarter that each answer falls into, of all answers of its setting."""
    import numpy as np

    writers = {record["model"] for record in records if record["tokens"]}
    written: dict[str, list[int]] = {}
    for record in records:
        if record["model"] in writers:
            written.setdefault(record["setting"], []).append(record["tokens"])
    shares, cuts = np.arange(1, PARTS + 1) / PARTS, {}
    for setting, tokens in written.items():
        ends = np.unique(np.quantile(tokens, shares, method="inverted_cdf")).tolist()
        above = [-1, *ends]
        cuts[setting] = [(min(t for t in tokens if low < t), high) for low, high in zip(above, ends)]
    return [next(cut for cut in cuts[record["setting"]] if record["tokens"] <= cut[1])
            if record["model"] in writers else None for record in records]  # fmt: skip


def _levels(part, breakdown: str, seed: int) -> Iterator[dict[str, Any]]:
    """A row for each level of one model in one setting, seen or unseen, from the least to the greatest."""
    levels = {level: inside for level, inside in part.groupby(breakdown, sort=False)}
    for level in sorted(levels):
        inside = levels[level].sort_values("item_id", kind="stable")
        estimate = clustered_mean(inside["value"].tolist(), inside["sub_category"].tolist(),
                                  inside["super_category"].tolist(), seed=seed)  # fmt: skip
        yield _row(inside, breakdown, _named(level), estimate)


def _named(level: Any) -> str:
    if not isinstance(level, tuple):
        return str(level)
    return "-".join(map(str, dict.fromkeys(level)))  # a single length is no span


def _row(part, breakdown: str, level: str, estimate: Optional[Estimate]) -> dict[str, Any]:
    known = part.iloc[0].to_dict()
    order = known["option_order"] if isinstance(known["option_order"], str) else None
    found = {**known, "option_order": order, "breakdown": breakdown, "level": level, "clusters": 0}
    found.update(value=None, low=None, high=None, n=0)
    if estimate is not None:
        found.update(estimate.as_row(), clusters=estimate.clusters)
    return {column: found[column] for column in COLUMNS}


def _at_equal_length(first, second, seed: int) -> dict[str, Any]:
    """The row of two models' answers, in one setting, seen or unseen."""
    import numpy as np
    import pandas as pd

    both = pd.concat([first, second]).sort_values("item_id", kind="stable")
    clusters = list(zip(both["super_category"], both["sub_category"]))
    names = list(dict.fromkeys(clusters))
    place = codes_of(clusters)
    cells = sorted(set(both["length"]))
    level = np.array([cells.index(length) for length in both["length"]])
    counts, sums = np.zeros((2, 2, len(names), len(cells)))  # of each model, sub-category and length
    for side, model in enumerate((first["model"].iloc[0], second["model"].iloc[0])):
        own = (both["model"] == model).to_numpy()
        np.add.at(counts[side], (place[own], level[own]), 1)
        np.add.at(sums[side], (place[own], level[own]), both["value"].to_numpy(dtype=float)[own])

    def difference(weights):
        n, right = ([weights @ table for table in tables] for tables in (counts, sums))
        fewer = np.minimum(*n)
        share = [np.divide(r, m, out=np.zeros_like(r), where=m > 0) for r, m in zip(right, n)]
        alike = fewer.sum(axis=1)
        gap = (fewer * (share[0] - share[1])).sum(axis=1)
        return np.divide(gap, alike, out=np.full_like(gap, np.nan), where=alike > 0)

    matched = int(np.minimum(counts[0].sum(axis=0), counts[1].sum(axis=0)).sum())
    groups = codes_of([group for group, _ in names])
    found = resampled(difference, groups, n=matched, seed=seed, bounds=(-1.0, 1.0)) if matched else None
    if found is not None and not has_interval(found.low):
        found = replace(found, low=None, high=None)
    return _row(first, "equal_length", second["model"].iloc[0], found)
