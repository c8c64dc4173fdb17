"""Every score of a record file again, without a model and without holding the file.

    records.jsonl  ->  1,024 records at a time  ->  sums of each sub-category  ->  rows of the summary

The rows are those of `scoring.summary_rows` on the same records, whatever the order of the lines. Beside the
sums stay eight bytes a question (which answer it had), the samples of questions that still lack some, and of
items in rotations the number of turns and the worst of them: memory does not grow with what was written.

Source: our choice; METHOD 4 for what is scored.
"""

from array import array
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Mapping, NamedTuple, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.data.answers import answer_of
from finer1_lib.data.taxonomy import GENUS, Taxonomy
from finer1_lib.evaluation.records import ROTATED, RecordFile, mark_of
from finer1_lib.evaluation.scores.averages import rows_of_sums
from finer1_lib.evaluation.scores.hierarchy import path_scores, trees_of
from finer1_lib.evaluation.scores.samples import settle
from finer1_lib.evaluation.scores.scorers import Scorer
from finer1_lib.evaluation.scores.scoring import prepare, scored

CHUNK = 1024  # records at a time: enough for batches of texts, a few MB of completions
SUMS = ("model", "setting", "scorer", "metric", "categories", "option_order", "super_category",
        "sub_category", "first", "total", "n")  # fmt: skip
Paths = Callable[[Mapping], Mapping[str, float]]


class Rescored(NamedTuple):
    """What a record file says.

    Attributes:
        rows: of `averages.rows_of_sums`.
        records: how many were counted.
        torn: number of the last line if it was torn and so left out, else None.
        doubled: how many lines stood there twice, and so counted once.
    """

    rows: list[dict[str, Any]]
    records: int
    torn: Optional[int]
    doubled: int = 0


def rescore(
    file: RecordFile, scorers: Sequence[Scorer], *, similarity: Optional[str] = None,
    paths: Optional[Paths] = None,
) -> Rescored:
    """Rows of the summary out of a record file.

    Args:
        file: read once.
        scorers: of `make_scorer`.
        similarity: name of Sim, as for `scoring.summary_rows`.
        paths: of `paths_of`, for the rows of `hierarchy.hierarchy_scores` as well.

    Raises:
        UserError: of `RecordFile`; a question that stands twice; one that lacks a sample or a rotation.
    """
    sums, turns, seeds = Sums(), Turns(), set()
    whole = _questions(file, seeds)
    while chunk := list(islice(whole, CHUNK)):
        _count(chunk, scorers, sums, turns)
        for record in chunk if paths is not None else ():
            if record["option_order"] in (None, "shuffled"):
                for metric, value in paths(record).items():
                    sums.add(record, "strict", metric, value)
    turns.check(file.path)
    (seed,) = seeds
    return Rescored(rows_of_sums(sums.table(), seed=seed, similarity=similarity), file.count, file.torn,
                    file.doubled)


def paths_of(names: Mapping[str, Iterable[str]], taxonomy: Taxonomy) -> Paths:
    """What `hierarchy.hierarchy_scores` says of one record; nothing where the label has no genus.

    Args:
        names: of `record_file.names_in`: the names that the records speak of.
        taxonomy: {sub_category: {rank: value}}.

    Raises:
        UserError: the taxonomy knows none of the names.
    """
    trees = trees_of(({"super_category": word, "sub_category": name}
                      for word, all_names in names.items() for name in all_names), taxonomy)  # fmt: skip

    def scores(record: Mapping) -> Mapping[str, float]:
        tree, label = trees.get(record["super_category"]), record["sub_category"]
        if tree is None or not taxonomy.get(label, {}).get(GENUS):
            return {}
        return path_scores(tree.path_of(label), tree.path_of(answer_of(record)))

    return scores


def _questions(file: RecordFile, seeds: set) -> Iterator[Mapping]:
    """One record a question: of several samples the majority's, as soon as all are there."""
    items: dict[str, int] = {}
    asked: dict[tuple, array] = {}
    drawn: dict[tuple, list] = {}
    for record in file:
        seeds.add(record["seed"])
        item = items.setdefault(record["item_id"], len(items))
        question = (record["model"], record["setting"], record["option_order"], record["rotation"])
        marks = asked.setdefault((*question, record.get("sample")), array("Q"))
        marks.extend([0] * (item + 1 - len(marks)))
        before, marks[item] = marks[item], mark_of(record)
        if before == marks[item]:  # the same line once more
            file.count, file.doubled = file.count - 1, file.doubled + 1
            continue
        if before:
            raise file.refuse(f"{record['model']} answers {record['item_id']} in {record['setting']} twice, and "
                              "not alike")
        if "samples" not in record:
            yield record
            continue
        group = drawn.setdefault((*question, item), [])
        group.append(record)
        if len(group) == record["samples"]:
            yield from settle(drawn.pop((*question, item)))
    for group in drawn.values():
        settle(group)  # says which samples are missing


def _count(chunk: Sequence[Mapping], scorers: Iterable[Scorer], sums: "Sums", turns: "Turns") -> None:
    """Add one chunk's scores."""
    plain = [record for record in chunk if record["option_order"] != ROTATED]
    rotated = [record for record in chunk if record["option_order"] == ROTATED]
    for scorer in scorers:
        prepare(scorer, plain)
        for place, metric, value in scored(plain, scorer):
            sums.add(plain[place], scorer.name, metric, value)
            if metric == "accuracy" and plain[place]["option_order"] == "shuffled":
                turns.add(plain[place], scorer.name, value, sums)
        for record in rotated:
            value = scorer.closed(record).get("accuracy")
            if value is not None:
                turns.add(record, scorer.name, value, sums)


class Sums:
    """What each sub-category's scores add up to, as `averages.cluster_sums` has it, counted as they come."""

    def __init__(self) -> None:
        self._groups: dict[tuple, dict[tuple, list]] = {}

    def add(self, record: Mapping, scorer: str, metric: str, value: float) -> None:
        """One score."""
        group = self._groups.setdefault((
            record["model"], record["setting"], scorer, metric, record["categories"], record["option_order"]
        ), {})  # fmt: skip
        item, cluster = record["item_id"], (record["super_category"], record["sub_category"])
        held = group.get(cluster)
        if held is None:
            group[cluster] = [item, float(value), 1]
            return
        held[0] = min(held[0], item)
        held[1] += value
        held[2] += 1

    def table(self):
        """A DataFrame with the columns `SUMS`; sub-categories by their first item."""
        import pandas as pd

        rows = [(*group, *cluster, *held) for group, clusters in self._groups.items()
                for cluster, held in sorted(clusters.items(), key=lambda entry: entry[1][0])]  # fmt: skip
        return pd.DataFrame(rows, columns=list(SUMS))


class Turns:
    """Items in rotations: how many turns of each were scored, and the worst score among them."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._state: dict[tuple[str, str], tuple[array, array, array]] = {}

    def add(self, record: Mapping, scorer: str, value: float, sums: Sums) -> None:
        """One turn; the last one of an item adds the item's score to the sums."""
        code = self._codes.setdefault(record["item_id"], len(self._codes))
        seen, needed, worst = self._state.setdefault(
            (scorer, record["model"]), (array("H"), array("H"), array("d")))
        for held, empty in ((seen, 0), (needed, 0), (worst, 1.0)):
            held.extend([empty] * (code + 1 - len(held)))
        seen[code] += 1
        worst[code] = min(worst[code], value)
        if record["option_order"] == ROTATED:
            needed[code] = len(record["options"])
        if seen[code] == needed[code]:
            sums.add({**record, "option_order": ROTATED}, scorer, "accuracy", worst[code])

    def check(self, path: Path) -> None:
        """Refuse (UserError) an item that was asked under some of its rotations only."""
        items = list(self._codes)
        for (_, model), (seen, needed, _) in self._state.items():
            for code, (count, wanted) in enumerate(zip(seen, needed)):
                if wanted and count != wanted:
                    raise UserError(f"{path}: {model} was not asked about {items[code]} under each rotation "
                                    "of its options once: run 04_evaluation again")  # fmt: skip
