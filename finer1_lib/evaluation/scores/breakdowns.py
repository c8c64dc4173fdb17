"""Accuracy broken down: by the position of the truth, by length, by rationale.

    position      1, 2, 3, 4         closed world: a model with a position bias is better there
    length        3-5, 50-54, 55-90  tokens of the completion, the same cuts for every model of a setting
    rationale     seen with rationale, seen without rationale, unseen
    equal_length  a model minus another, within quarters of length: value = sum of m (a - b) / sum of m

In each quarter m is the lesser number of answers and a, b are the shares right: lengths that only one of two
models writes say nothing, and `n` is the sum of m. It describes and does not prove: a wrong answer may be
long because it is wrong.
"""

from dataclasses import replace
from typing import Any, Iterable, Mapping, Optional

from finer1_lib.core.errors import UserError
from finer1_lib.core.faces import Later
from finer1_lib.core.statistics import Estimate, clustered_mean, codes_of, has_interval, resampled
from finer1_lib.evaluation.scores.averages import MAIN_METRICS, main_reading
from finer1_lib.evaluation.scores.samples import settle

np, pd = Later("numpy"), Later("pandas")

COLUMNS = ("model", "setting", "option_order", "scorer", "metric", "categories", "breakdown", "level", "value",
           "low", "high", "n", "clusters")
WITH, WITHOUT, UNSEEN = "seen with rationale", "seen without rationale", "unseen"
PARTS = 4  # lengths are cut into quarters of all answers


def breakdowns(scores, records: Iterable[Mapping], *, rationales: Iterable[Mapping] = (),
               pairs: Iterable[tuple[str, str]] = (), scorer: str = "strict", seed: int = 0):
    """The table of all breakdowns (`COLUMNS`), in the main reading of `scorer`.

    records: what was scored. rationales: lines of 01's rationales.jsonl, else "rationale" is left out. pairs:
    (first, second) models to compare at equal length. Values are unweighted means over super-categories, but
    for equal_length, which takes all answers together: there `level` is the other model and the value a
    difference in [-1, 1], None with n = 0 where the two never write at the same length, without an interval
    where some resamples hold no such answers. Encoders and controls, which write nothing, have no length.
    Raises: UserError: a score has no record, or an option list lacks the truth.
    """
    answers = _answers(scores, records, rationales, scorer)
    rows = []
    for _, part in answers.groupby(["model", "setting", "categories"], sort=False):
        for breakdown in ("position", "length", "rationale"):
            for level, inside in sorted(part.groupby(breakdown, sort=False), key=lambda group: group[0]):
                inside = inside.sort_values("item_id", kind="stable")
                columns = (inside[name].tolist() for name in ("value", "sub_category", "super_category"))
                rows.append(_row(inside, breakdown, level, clustered_mean(*columns, seed=seed)))
    for _, part in answers[answers["length"].notna()].groupby(["setting", "categories"], sort=False):
        rows += [_at_equal_length(part[part["model"].isin(pair)], *pair, seed)
                 for pair in pairs if set(pair) <= set(part["model"])]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _answers(scores, records: Iterable[Mapping], rationales: Iterable[Mapping], scorer: str):
    """The scores of what is right in the main reading, with the levels of each breakdown (or None)."""
    right = main_reading(scores[(scores["scorer"] == scorer) & scores["metric"].isin(MAIN_METRICS)])
    keys = ("model", "setting", "item_id")
    known = {tuple(record[key] for key in keys): record for record in settle(records)
             if record["option_order"] in (None, "shuffled")}
    asked = list(zip(*(right[key] for key in keys)))
    if not set(asked) <= set(known):
        raise UserError("breakdowns: some scores have no record; give all records that were scored")
    found = [known[key] for key in asked]
    explained = {(line["super_category"], line["sub_category"]) for line in rationales}
    right = right.reset_index(drop=True).assign(tokens=[record["tokens"] for record in found])
    levels = {"position": map(_position, found), "length": _lengths(right),
              "rationale": (_rationale(record, explained) for record in found)}
    return right.assign(**{name: pd.Series(list(each), dtype=object) for name, each in levels.items()})


def _position(record: Mapping) -> Optional[int]:
    options, label = record.get("options"), record["sub_category"]
    if options and label not in options:
        raise UserError(f"breakdowns: {label} is not an option of {record['item_id']}; fix its record")
    return options.index(label) + 1 if options else None


def _rationale(record: Mapping, explained: set[tuple[str, str]]) -> Optional[str]:
    if not explained or record["categories"] == "unseen":
        return UNSEEN if explained else None
    return WITH if (record["super_category"], record["sub_category"]) in explained else WITHOUT


def _lengths(right) -> list[Optional[tuple[int, int]]]:
    """(least, most) tokens of the quarter that each answer falls into, of all answers of its setting."""
    spans: dict[int, tuple[int, int]] = {}
    writes = right.groupby("model")["tokens"].transform("max") > 0
    for _, tokens in right[writes].groupby("setting")["tokens"]:
        ends = np.unique(np.quantile(tokens, np.arange(1, PARTS + 1) / PARTS, method="inverted_cdf"))
        quarter = np.searchsorted(ends, tokens)
        least = tokens.groupby(quarter).transform("min")
        spans.update(zip(tokens.index, zip(least.tolist(), ends[quarter].tolist())))
    return [spans.get(place) for place in right.index]


def _row(part, breakdown: str, level: Any, found: Estimate) -> dict[str, Any]:
    """A row of the table; a span of lengths in words ("5" where it is a single one)."""
    known = {**part.iloc[0], "breakdown": breakdown, **found.as_row(), "clusters": found.clusters}
    known["level"] = "-".join(map(str, dict.fromkeys(level))) if isinstance(level, tuple) else str(level)
    known["option_order"] = known["option_order"] if isinstance(known["option_order"], str) else None
    return {column: known[column] for column in COLUMNS}


def _at_equal_length(both, first: str, second: str, seed: int) -> dict[str, Any]:
    """The row of two models' answers, in one setting, seen or unseen."""
    both = both.sort_values("item_id", kind="stable")
    names = both[["super_category", "sub_category"]]
    place = names.groupby(list(names), sort=False).ngroup().to_numpy()
    level = both["length"].map(sorted(set(both["length"])).index).to_numpy()
    side = (both["model"] == second).to_numpy(dtype=int)
    counts, sums = np.zeros((2, 2, place.max() + 1, level.max() + 1))  # of each model, sub-category and length
    np.add.at(counts, (side, place, level), 1)
    np.add.at(sums, (side, place, level), both["value"].to_numpy(dtype=float))

    def difference(weights):
        n, right = ([weights @ table for table in tables] for tables in (counts, sums))
        fewer = np.minimum(*n)
        share = [np.divide(r, m, out=np.zeros_like(r), where=m > 0) for r, m in zip(right, n)]
        alike, gap = fewer.sum(axis=1), (fewer * (share[0] - share[1])).sum(axis=1)
        return np.divide(gap, alike, out=np.full_like(gap, np.nan), where=alike > 0)

    matched = int(np.minimum(*counts.sum(axis=1)).sum())
    found = Estimate(None, None, None, 0, 0)
    if matched:
        groups = codes_of(names.drop_duplicates()["super_category"].tolist())
        found = resampled(difference, groups, n=matched, seed=seed, bounds=(-1.0, 1.0))
        found = found if has_interval(found.low) else replace(found, low=None, high=None)
    return _row(both[both["model"] == first], "equal_length", second, found)
