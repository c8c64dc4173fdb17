"""Rationales for Stage 1: ask a teacher, filter, resample, and say what was dropped and why.

The path of one image: several descriptions, each stressing something else -> concepts that the image bears
out (`concepts`) -> the structured prompt -> a text in four tagged parts -> filters (`rationale_filters`); a
text that fails is asked for again with another seed, up to a cap; at the cap the image is dropped.

Who teaches is open (`Teacher`): the miniature's guide, the model itself, or a larger model (`teachers`).

Source: METHOD 2.1-2.3 (none of the paper's code for it was released: audit.md C4).
"""

import hashlib
import random
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Protocol, Sequence

from finer1_lib.concepts import Encoder, select_concepts
from finer1_lib.files import append_jsonl, read_jsonl
from finer1_lib.prompts import question_for
from finer1_lib.rationale_filters import REASONS, mend, reject_reason, settle, write_rationale
from finer1_lib.traces import parse

__all__ = [
    "REASONS", "Teacher", "ask_all", "choose_concepts", "draw_seed", "make_rationale", "make_rationales",
    "mend", "quality_report", "reject_reason", "settle", "write_rationale",
]

Progress = Optional[Callable[[int, int], None]]


class Teacher(Protocol):
    """Whoever writes rationales. A `row` is one row of `01_data/images.parquet` as a dictionary.

    The same arguments give the same text: all chance comes from `seed`.
    """

    def foci(self, row: Mapping[str, Any]) -> Sequence[str]:
        """What the descriptions of an image are to stress, one after the other (set D has this length)."""

    def describe(self, row: Mapping[str, Any], focus: str, seed: int) -> str:
        """Describe the image, without its name, stressing the focus."""

    def concepts(self, row: Mapping[str, Any], descriptions: Sequence[str]) -> list[str]:
        """Short texts that may be true of the row's sub-category."""

    def rationale(self, row: Mapping[str, Any], concepts: Sequence[str], question: str, seed: int) -> str:
        """The whole assistant text for the row's label, on the kept concepts."""


def draw_seed(*parts: Any) -> int:
    """A seed below 2**31 from anything printable, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode("utf-8")).digest()[:4], "big") >> 1


def ask_all(
    teacher: Teacher, rows: Sequence[Mapping[str, Any]], *, seed: int, path: Path, progress: Progress = None
) -> dict[str, dict]:
    """Set D and the concept texts of every image, a JSON line each; a killed run goes on where it stopped.

    Args:
        rows: the rationale images (shot 0).
        path: {"image_id", "descriptions", "concepts"} lines.
        progress: called as `progress(done, total)` after each new image.

    Returns:
        image_id -> its line, in the order of `rows`.

    Source: METHOD 2.1.
    """
    done = {line["image_id"]: line for line in read_jsonl(path, truncate=True)}
    for number, row in enumerate(rows, start=1):
        image_id = row["image_id"]
        if image_id not in done:
            texts = [
                teacher.describe(row, focus, draw_seed(seed, image_id, "describe", focus))
                for focus in teacher.foci(row)
            ]
            concepts = list(teacher.concepts(row, texts))
            done[image_id] = {"image_id": image_id, "descriptions": texts, "concepts": concepts}
            append_jsonl(path, done[image_id])
            if progress:
                progress(number, len(rows))
    return {row["image_id"]: done[row["image_id"]] for row in rows}


def choose_concepts(
    rows: Sequence[Mapping[str, Any]], asked: Mapping[str, Mapping], encoder: Encoder
) -> dict[str, list[dict]]:
    """Score and choose every image's concepts against the other images of its super-category.

    Args:
        asked: from `ask_all`.

    Returns:
        image_id -> [{"concept", "score", "kept"}], best first.

    Source: METHOD 2.1; N within the super-category is our choice (an aircraft never speaks against a bird).
    """
    chosen: dict[str, list[dict]] = {}
    for super_category in dict.fromkeys(row["super_category"] for row in rows):
        part = [asked[row["image_id"]] for row in rows if row["super_category"] == super_category]
        descriptions = {line["image_id"]: line["descriptions"] for line in part}
        concepts = {line["image_id"]: line["concepts"] for line in part}
        chosen |= select_concepts(descriptions, concepts, encoder)
    return chosen


def make_rationales(
    teacher: Teacher, rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, Sequence[Mapping]], *,
    seed: int, attempts: int, names: Mapping[str, Sequence[str]], path: Path, progress: Progress = None,
) -> list[dict]:
    """A record per image, kept or dropped, one JSON line each; a killed run goes on where it stopped.

    Args:
        chosen: from `choose_concepts`.
        names: super_category -> its sub-categories.
        path: `rationales.jsonl`.
    """
    done = {record["image_id"]: record for record in read_jsonl(path, truncate=True)}
    for number, row in enumerate(rows, start=1):
        image_id, super_category = row["image_id"], row["super_category"]
        if image_id not in done:
            kept = [entry["concept"] for entry in chosen[image_id] if entry["kept"]]
            foreign = [name for other in names if other != super_category for name in names[other]]
            done[image_id] = make_rationale(
                teacher, row, kept, question_for(super_category), seed=seed, attempts=attempts,
                names=names[super_category], foreign=foreign,
            )  # fmt: skip
            append_jsonl(path, done[image_id])
            if progress:
                progress(number, len(rows))
    return [done[row["image_id"]] for row in rows]


def make_rationale(
    teacher: Teacher, row: Mapping[str, Any], concepts: Sequence[str], question: str, *, seed: int,
    attempts: int, names: Sequence[str] = (), foreign: Sequence[str] = (),
) -> dict:
    """Ask until a text passes, at most `attempts` times.

    Returns:
        A line of `rationales.jsonl`: image_id, super_category, sub_category, question, text, concepts,
        candidates, attempts, kept, dropped_because, and rejections (the reason of every failed attempt). A
        dropped image keeps its last text, for reading; nobody trains on it.

    Source: METHOD 2.3 ("resample until the prediction equals the label"); the cap is our choice.
    """
    if attempts < 1:
        raise ValueError(f"attempts is {attempts}, at least 1 is needed")
    label, rejections, text = row["sub_category"], [], ""
    for attempt in range(attempts):
        text = mend(teacher.rationale(row, concepts, question, draw_seed(seed, row["image_id"], attempt)))
        reason = reject_reason(text, label, names, foreign)
        if reason is None:
            text = settle(text, label, random.Random(draw_seed(seed, row["image_id"], "order")))
            break
        rejections.append(reason)
    kept = len(rejections) < attempts
    return {
        "image_id": row["image_id"], "super_category": row["super_category"], "sub_category": label,
        "question": question, "text": text, "concepts": list(concepts),
        "candidates": list(parse(text).candidates), "attempts": len(rejections) + kept, "kept": kept,
        "dropped_because": None if kept else rejections[-1], "rejections": rejections,
    }


def quality_report(records: Sequence[Mapping]) -> tuple[dict, list[dict]]:
    """What the filters did.

    Returns:
        Counts (images, kept, kept_at_once, resampled, dropped, texts, label_first: how many kept ones list
        the label first, which about a quarter should) and a row {reason, texts, images_dropped} per reason.
    """
    kept = [record for record in records if record["kept"]]
    texts = Counter(reason for record in records for reason in record["rejections"])
    dropped = Counter(record["dropped_because"] for record in records if not record["kept"])
    counts = {
        "images": len(records), "kept": len(kept),
        "kept_at_once": sum(record["attempts"] == 1 for record in kept),
        "resampled": sum(record["attempts"] > 1 for record in kept),
        "dropped": len(records) - len(kept), "texts": sum(record["attempts"] for record in records),
        "label_first": sum(record["candidates"][0] == record["sub_category"] for record in kept),
    }
    rows = [{"reason": name, "texts": texts[name], "images_dropped": dropped[name]} for name in REASONS]
    return counts, rows
