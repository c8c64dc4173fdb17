"""Several answers to one question: which of them counts, and how often any of so many would be right.

    eight answers: "Rock Wren" five times, "House Wren" twice, none once
    majority  Rock Wren, the record of its first draw; its share 5/8
    pass@k    the chance that at least one of k of the eight is right: pass@1 5/8, pass@4 1 for three wrong

The scorers see one record a question, the majority's. Answers are compared after normalisation; a completion
without a single answer has no vote, but counts in the share. Of equal votes the answer drawn first wins.

Source: Chen et al. 2021, arXiv 2107.03374 (unbiased pass@k); Wang et al. 2023, arXiv 2203.11171.
"""

from collections import Counter
from math import comb
from typing import Any, Iterable, Mapping, Optional, Sequence

from finer1_lib.core.completions import normalise
from finer1_lib.core.errors import UserError
from finer1_lib.data.answers import answer_of

Record = Mapping[str, Any]
_QUESTION = ("model", "setting", "item_id", "option_order", "rotation")


def settle(records: Iterable[Record]) -> list[Record]:
    """One record a question: of several samples the first that gives the majority's answer, in the first's place.

    It has `drawn` beside its keys, all records in the order of drawing; records without `samples` are
    unchanged. Raises: UserError: a question that lacks a sample or has one twice.
    """
    settled: list[Any] = []
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        if "samples" not in record:
            settled.append(record)
            continue
        key = tuple(record.get(name) for name in _QUESTION)
        if key not in groups:
            groups[key] = []
            settled.append(key)
        groups[key].append(record)
    return [_majority(groups[entry]) if isinstance(entry, tuple) else entry for entry in settled]


def _majority(drawn: Sequence[Record]) -> Record:
    drawn = sorted(drawn, key=lambda record: record["sample"])
    first = drawn[0]
    if len(drawn) != first["samples"] or [record["sample"] for record in drawn] != list(range(len(drawn))):
        raise UserError(f"records.jsonl: {first['model']} has {len(drawn)} records of {first['item_id']} in "
                        f"{first['setting']}, not the samples 0 to {first['samples'] - 1} once each: run "
                        "04_evaluation again")
    votes = [vote(record) for record in drawn]
    cast = Counter(answer for answer in votes if answer is not None)  # keeps the order of drawing
    chosen = max(cast, key=cast.__getitem__) if cast else votes[0]
    return {**drawn[votes.index(chosen)], "drawn": drawn}


def vote(record: Record) -> Optional[str]:
    """The answer that a completion votes for, normalised; None without a single well-formed one."""
    answer = answer_of(record)
    return None if answer is None else normalise(answer)


def sample_scores(record: Record, right: Sequence[float]) -> dict[str, float]:
    """pass_at_1, pass_at_2, pass_at_4, ... (and of all draws) and majority_share of one settled question.

    right: 1 for each draw that is right, else 0.
    """
    n, c = len(right), int(sum(right))
    sizes = sorted({n, *(2**power for power in range(n.bit_length()) if 2**power <= n)})
    chosen = vote(record)
    share = sum(vote(one) == chosen for one in record["drawn"]) / n if chosen is not None else 0.0
    return {**{f"pass_at_{k}": pass_at_k(n, c, k) for k in sizes}, "majority_share": share}


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that at least one of k draws without replacement out of n, of which c are right, is right.

    1 - C(n - c, k) / C(n, k) (Chen et al. 2021); ValueError: k is not between 1 and n, or c not in 0 to n.
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"pass@{k} of {n} draws, {c} of them right: k and the right ones are at most {n}")
    return 1.0 - comb(n - c, k) / comb(n, k)
