"""Every score of a record file again, without a model, some sub-categories at a time.

All records of a question have one sub-category, and the summary needs only the sums over sub-categories: the
scorer of notebook 04 is run on a part of the file at a time, and no table of all scores is ever held.
"""

from functools import partial
from typing import Any, Callable, Iterable, Mapping, NamedTuple, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.data.taxonomy import Taxonomy
from finer1_lib.evaluation.records import RecordFile, answered_before
from finer1_lib.evaluation.scores.averages import cluster_sums, rows_of_sums
from finer1_lib.evaluation.scores.hierarchy import scores_in, trees_of
from finer1_lib.evaluation.scores.official import Scorer
from finer1_lib.evaluation.scores.scoring import score_records

CHUNK = 8192  # records scored at a time, and at least those of one sub-category
_UNUSED = ("prompt", "prompt_hash", "examples", "example_prompt")  # long, and no score reads them
Paths = Callable[[Sequence[Mapping]], Any]  # records -> a table like that of `score_records`


class Rescored(NamedTuple):
    """What `rescore` found."""

    rows: list[dict[str, Any]]  # of `averages.rows_of_sums`
    records: int  # that were counted
    torn: Optional[int]  # number of an incomplete last line, which was left out
    doubled: int = 0  # lines that were repeated, and counted once


def rescore(file: RecordFile, scorers: Sequence[Scorer], *, similarity: Optional[str] = None,
            paths: Optional[Paths] = None) -> Rescored:
    """Rows of the summary from a record file, whatever the order of its lines.

    similarity: name of Sim. paths: of `paths_of`, for the rows of `hierarchy.hierarchy_scores` as well.
    UserError: of `RecordFile` and `score_records`; a question with two different answers; nothing to score.
    """
    import pandas as pd
    groups = _by_sub_category(file)
    seed = next(iter(groups.values()))[0]["seed"]  # `RecordFile` refuses a second one
    sums = []
    while groups:
        part: list[dict] = []
        while groups and len(part) < CHUNK:
            part += groups.pop(next(iter(groups)))
        tables = [score_records(part, scorers), *([paths(part)] if paths else [])]
        if tables := [table for table in tables if len(table)]:
            sums.append(cluster_sums(pd.concat(tables)))
    if not sums:
        raise UserError(f"{file.path} gives no score: name a scorer, or a taxonomy that knows its sub-categories")
    rows = rows_of_sums(pd.concat(sums, ignore_index=True), seed=seed, similarity=similarity)
    return Rescored(rows, file.count, file.torn, file.doubled)


def _by_sub_category(file: RecordFile) -> dict[tuple, list[dict]]:
    """The records by (super-category, sub-category), each line once; equal texts are one object."""
    groups: dict[tuple, list[dict]] = {}
    marks: dict[tuple, bytes] = {}
    texts: dict[str, str] = {}
    for record in file:
        if (same := answered_before(record, marks)) is False:
            raise file.refuse(f"{record['model']} answers {record['item_id']} in {record['setting']} twice, and "
                              "not alike")
        if same:
            file.count, file.doubled = file.count - 1, file.doubled + 1
            continue
        record = {name: texts.setdefault(value, value) if isinstance(value, str) else value
                  for name, value in record.items() if name not in _UNUSED}
        groups.setdefault((record["super_category"], record["sub_category"]), []).append(record)
    return groups


def paths_of(names: Mapping[str, Iterable[str]], taxonomy: Taxonomy) -> Paths:
    """`hierarchy.scores_in` for parts of a file; names: of `records.names_in`.

    Raises: UserError: the taxonomy knows none of the names.
    """
    records = ({"super_category": word, "sub_category": name} for word, own in names.items() for name in own)
    return partial(scores_in, trees_of(records, taxonomy), taxonomy)
