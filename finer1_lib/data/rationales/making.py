"""Rationales for Stage 1: query a teacher, filter, resample, and record what was queried, kept and dropped.

Per image: several descriptions, each stressing something else -> concepts that the image supports
(`concepts`) -> the structured prompt -> a text in four tagged parts -> `filters`; a text that fails is
requested again with another seed, up to a cap, at which the image is dropped.

Source: Fine-R1 (arXiv 2602.07605), Stage 1 (CoT SFT). None of the paper's code for it was released.
"""

import random
from pathlib import Path
from typing import Any, Callable, Collection, Iterator, Mapping, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import append_jsonl, read_jsonl
from finer1_lib.core.prompts import question_for
from finer1_lib.data.names import table_for
from finer1_lib.data.rationales.concepts import Encoder, select_concepts
from finer1_lib.data.rationales.filters import REASONS, check_filters, fix_punctuation, reject_reason, settle
from finer1_lib.data.rationales.parsing import parse
from finer1_lib.data.rationales.teachers import Description, Rationale, Row, Teacher, draw_seed

Progress = Optional[Callable[[int, int], None]]


def query_all(teacher: Teacher, rows: Sequence[Row], *, seed: int, path: Path,
              descriptions_per_focus: int = 1, progress: Progress = None) -> dict[str, dict]:
    """Set D and the concept texts of every image (image_id -> line, in the order of `rows`).

    One JSON line per image goes to `path`: image_id, foci, descriptions, concepts. Each focus is described
    `descriptions_per_focus` times, each with another seed. An interrupted run resumes. Raises: UserError: no
    description, or the file's lines were made with other foci or numbers.
    """
    if descriptions_per_focus < 1:
        raise UserError(f"descriptions_per_focus is {descriptions_per_focus}: set D needs at least 1")
    foci = {row["image_id"]: [focus for focus in teacher.foci(row) for _ in range(descriptions_per_focus)]
            for row in rows}
    if not all(foci.values()):
        raise UserError("the teacher has nothing to stress (teacher_foci is empty): name at least one focus")
    done = {line["image_id"]: line for line in read_jsonl(path, truncate=True)}
    for image_id in foci.keys() & done.keys():
        if done[image_id].get("foci") != foci[image_id]:
            raise UserError(f"{path}: {image_id} has other foci; delete the file and run again")
    for number, part in _parts(rows, teacher.batch_size, done):
        asked = [Description(row, focus, draw_seed(seed, row["image_id"], "describe", place, focus))
                 for row in part for place, focus in enumerate(foci[row["image_id"]])]
        answers = iter(teacher.describe_all(asked))
        texts = [[next(answers) for _ in foci[row["image_id"]]] for row in part]
        concepts = teacher.concepts_all(list(zip(part, texts)))
        _append(path, [{"image_id": row["image_id"], "foci": foci[row["image_id"]], "descriptions": own,
                        "concepts": list(found)} for row, own, found in zip(part, texts, concepts)], done)
        if progress:
            progress(number, len(rows))
    return {row["image_id"]: done[row["image_id"]] for row in rows}


def describe_and_choose(teacher: Optional[Teacher], rows: Sequence[Row], encoder: Encoder,
                        **how: Any) -> tuple[dict[str, dict], dict[str, list[dict]]]:
    """(`query_all`, `choose_concepts`) with the options `how` of the first; two empty ones without a teacher.
    """
    if teacher is None:
        return {}, {}
    asked = query_all(teacher, rows, **how)
    return asked, choose_concepts(rows, asked, encoder)


def choose_concepts(rows: Sequence[Row], asked: Mapping[str, Mapping],
                    encoder: Encoder) -> dict[str, list[dict]]:
    """image_id -> [{"concept", "score", "kept"}], best first, from `query_all`; N stays in the
    super-category.
    """
    chosen: dict[str, list[dict]] = {}
    for super_category in dict.fromkeys(row["super_category"] for row in rows):
        part = [asked[row["image_id"]] for row in rows if row["super_category"] == super_category]
        descriptions = {line["image_id"]: line["descriptions"] for line in part}
        concepts = {line["image_id"]: line["concepts"] for line in part}
        chosen |= select_concepts(descriptions, concepts, encoder)
    return chosen


def make_rationales(teacher: Teacher, rows: Sequence[Row], chosen: Mapping[str, Sequence[Mapping]], *,
                    seed: int, attempts: int, names: Mapping[str, Sequence[str]], path: Path,
                    filters: Collection[str] = REASONS, max_words: int = 0,
                    progress: Progress = None) -> list[dict]:
    """A record per image, kept or dropped, as a JSON line in `path`; an interrupted run resumes.

    `names` maps a super-category to its sub-categories; `max_words` limits a text, 0 for no limit. Raises:
    UserError: an unknown filter, no attempt, or lines of the file made on other concepts or limits.
    """
    kept = {row["image_id"]: kept_concepts(chosen[row["image_id"]]) for row in rows}
    done = {record["image_id"]: record for record in read_jsonl(path, truncate=True)}
    for image_id in kept.keys() & done.keys():
        if (done[image_id]["concepts"], done[image_id].get("max_words", 0)) != (kept[image_id], max_words):
            other = "concepts" if done[image_id]["concepts"] != kept[image_id] else "limits"
            raise UserError(f"{path}: {image_id} was made on other {other}; delete the file and run again")
    places = label_places(rows, seed)
    for number, part in _parts(rows, teacher.batch_size, done):
        records = query_until_good(teacher, part, kept, seed=seed, attempts=attempts, names=names,
                                 filters=filters, max_words=max_words, places=places)  # fmt: skip
        _append(path, records, done)
        if progress:
            progress(number, len(rows))
    return [done[row["image_id"]] for row in rows]


def query_until_good(teacher: Teacher, rows: Sequence[Row], concepts: Mapping[str, Sequence[str]], *,
                     seed: int, attempts: int, names: Mapping[str, Sequence[str]],
                     filters: Collection[str] = REASONS, max_words: int = 0,
                     places: Optional[Mapping[str, int]] = None) -> list[dict]:
    """Query a text for every row until one passes, at most `attempts` times; nothing is written.

    `concepts` maps image_id to the concepts given, `places` to the label's place. A record has image_id,
    super_category, sub_category, question, text, concepts, candidates, attempts, kept, dropped_because,
    rejections (a reason per failed attempt), texts (all, punctuation fixed), mended (how many needed that)
    and, with a limit, max_words. A dropped image keeps its last text, which is never trained on.
    """
    if attempts < 1:
        raise UserError(f"attempts is {attempts}: at least 1 is needed")
    filters = check_filters(filters)
    texts: dict[str, list] = {row["image_id"]: [] for row in rows}
    reasons: dict[str, list] = {row["image_id"]: [] for row in rows}
    waiting = list(rows)
    for attempt in range(attempts):
        asked = [Rationale(row, concepts[row["image_id"]], question_for(row["super_category"]),
                           attempt_seed(seed, row, attempt)) for row in waiting]
        for row, text in zip(waiting, teacher.rationale_all(asked) if asked else []):
            word, label = row["super_category"], row["sub_category"]
            texts[row["image_id"]].append(text)
            reasons[row["image_id"]].append(reject_reason(
                fix_punctuation(text), label, *own_and_foreign(names, word), filters, max_words,
                table_for(word, label)))
        waiting = [row for row in waiting if reasons[row["image_id"]][-1]]
    places = label_places(rows, seed) if places is None else places
    limit = {"max_words": max_words} if max_words else {}
    return [_record(row, concepts, texts[row["image_id"]], reasons[row["image_id"]], seed,
                    places[row["image_id"]]) | limit for row in rows]


def label_places(rows: Sequence[Row], seed: int) -> dict[str, int]:
    """image_id -> a place for the label, every place (0 to 11, for 2, 3 or 4 candidates) equally often: a
    free draw is uneven by chance, and a student would learn that from sixty rationales.
    """
    order = sorted(row["image_id"] for row in rows)
    random.Random(draw_seed(seed, "places")).shuffle(order)
    return {image_id: number % 12 for number, image_id in enumerate(order)}


def kept_concepts(entries: Sequence[Mapping]) -> list[str]:
    """The texts of an image's kept concepts, best first."""
    return [entry["concept"] for entry in entries if entry["kept"]]


def attempt_seed(seed: int, row: Row, attempt: int) -> int:
    """The seed of a row's text in one attempt (counted from 0): a repeated query gets the same text."""
    return draw_seed(seed, row["image_id"], attempt)


def own_and_foreign(names: Mapping[str, Sequence[str]],
                    super_category: str) -> tuple[Sequence[str], list[str]]:
    """(the names of a super-category, the names of all others)."""
    foreign = [name for other in names if other != super_category for name in names[other]]
    return names[super_category], foreign


def _record(row: Row, concepts: Mapping, texts: Sequence[str], reasons: Sequence, seed: int,
            place: int) -> dict:
    """One line of `rationales.jsonl`; the last text stands in its final form if it passed."""
    label, kept, text = row["sub_category"], reasons[-1] is None, fix_punctuation(texts[-1])
    if kept:
        text = settle(text, label, random.Random(draw_seed(seed, row["image_id"], "order")), place,
                      table_for(row["super_category"], label))
    return {"image_id": row["image_id"], "super_category": row["super_category"], "sub_category": label,
            "question": question_for(row["super_category"]), "text": text,
            "concepts": list(concepts[row["image_id"]]), "candidates": list(parse(text).candidates),
            "attempts": len(texts), "kept": kept, "dropped_because": reasons[-1],
            "rejections": [reason for reason in reasons if reason],
            "texts": [fix_punctuation(text) for text in texts],
            "mended": sum(fix_punctuation(text) != text.strip() for text in texts)}


def _parts(rows: Sequence[Row], size: int, done: Mapping) -> Iterator[tuple[int, Sequence[Row]]]:
    """(images up to here, rows) of the batches that are not all done. Their borders never move, so that a
    killed run queries the same batches again and gets the same texts.
    """
    if size < 1:
        raise UserError(f"the teacher's batch_size is {size}: at least 1 is needed")
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        if any(row["image_id"] not in done for row in part):
            yield start + len(part), part


def _append(path: Path, lines: Sequence[dict], done: dict[str, dict]) -> None:
    """Write those lines of a batch that an interrupted run had not written yet."""
    new = [line for line in lines if line["image_id"] not in done]
    append_jsonl(path, *new)
    done |= {line["image_id"]: line for line in new}
