"""Rationales for Stage 1: query a teacher, filter, resample, and record what was queried, kept and dropped.

Per image: several descriptions, each stressing something else -> concepts that the image supports
(`concepts`) -> the structured prompt -> a text in four tagged parts -> `filters`; a text that fails is
requested again with another seed, up to a cap, at which the image is dropped.

Source: Fine-R1 (arXiv 2602.07605), Stage 1 (CoT SFT). None of the paper's code for it was released.
"""

import random
from pathlib import Path
from typing import Any, Callable, Collection, Mapping, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import append_jsonl, read_jsonl
from finer1_lib.core.prompts import question_for
from finer1_lib.data.names import table_for
from finer1_lib.data.rationales.concepts import TfidfEncoder, select_concepts
from finer1_lib.data.rationales.filters import REASONS, check_filters, fix_punctuation, reject_reason, settle
from finer1_lib.data.rationales.parsing import parse
from finer1_lib.data.rationales.teachers import Description, Rationale, Row, Teacher, draw_seed

Progress = Optional[Callable[[int, int], None]]


def _completed(path: Path, rows: Sequence[Row], teacher: Teacher, check: Callable[[dict], Optional[str]],
               make: Callable[[Sequence[Row]], Sequence[dict]], progress: Progress) -> list[dict]:
    """A line for every row, those of `path` and those made now, which are appended batch by batch. The borders
    never move, so a killed run queries the same batches again and gets the same texts. Raises: UserError:
    `check` says what another run's line was made with, or a batch size below 1.
    """
    done = {line["image_id"]: line for line in read_jsonl(path, truncate=True)}
    for image_id in (row["image_id"] for row in rows if row["image_id"] in done):
        if other := check(done[image_id]):
            raise UserError(f"{path}: {image_id} {other}; delete the file and run again")
    if (size := teacher.batch_size) < 1:
        raise UserError(f"the teacher's batch_size is {size}: at least 1 is needed")
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        if all(row["image_id"] in done for row in part):
            continue
        new = [line for line in make(part) if line["image_id"] not in done]
        append_jsonl(path, *new)
        done |= {line["image_id"]: line for line in new}
        if progress:
            progress(start + len(part), len(rows))
    return [done[row["image_id"]] for row in rows]


def query_all(teacher: Teacher, rows: Sequence[Row], *, seed: int, path: Path,
              descriptions_per_focus: int = 1, progress: Progress = None) -> dict[str, dict]:
    """Set D and the concept texts of every image: image_id -> its line of `path`, {image_id, foci,
    descriptions, concepts}. Each focus is described `descriptions_per_focus` times, each with another seed. An
    interrupted run resumes. Raises: UserError: no description, or lines made with other foci or numbers.
    """
    if descriptions_per_focus < 1:
        raise UserError(f"descriptions_per_focus is {descriptions_per_focus}: set D needs at least 1")
    foci = {row["image_id"]: [focus for focus in teacher.foci(row) for _ in range(descriptions_per_focus)]
            for row in rows}
    if not all(foci.values()):
        raise UserError("the teacher has nothing to stress (teacher_foci is empty): name at least one focus")

    def make(part: Sequence[Row]) -> list[dict]:
        answers = iter(teacher.describe_all([
            Description(row, focus, draw_seed(seed, row["image_id"], "describe", place, focus))
            for row in part for place, focus in enumerate(foci[row["image_id"]])]))
        texts = [[next(answers) for _ in foci[row["image_id"]]] for row in part]
        return [{"image_id": row["image_id"], "foci": foci[row["image_id"]], "descriptions": own,
                 "concepts": list(found)}
                for row, own, found in zip(part, texts, teacher.concepts_all(list(zip(part, texts))))]

    def check(line: dict) -> Optional[str]:
        return "has other foci" if line.get("foci") != foci[line["image_id"]] else None

    return {line["image_id"]: line for line in _completed(path, rows, teacher, check, make, progress)}


def describe_and_choose(teacher: Optional[Teacher], rows: Sequence[Row], encoder: TfidfEncoder,
                        **how: Any) -> tuple[dict[str, dict], dict[str, list[dict]]]:
    """(`query_all`, `choose_concepts`), `how` for the first; two empty ones without a teacher."""
    asked = query_all(teacher, rows, **how) if teacher else {}
    return asked, choose_concepts(rows, asked, encoder) if teacher else {}


def choose_concepts(rows: Sequence[Row], asked: Mapping[str, Mapping],
                    encoder: TfidfEncoder) -> dict[str, list[dict]]:
    """image_id -> [{"concept", "score", "kept"}], best first, of `query_all`'s lines; N: its super-category."""
    chosen: dict[str, list[dict]] = {}
    for super_category in dict.fromkeys(row["super_category"] for row in rows):
        own = {row["image_id"]: asked[row["image_id"]] for row in rows if row["super_category"] == super_category}
        chosen |= select_concepts({name: line["descriptions"] for name, line in own.items()},
                                  {name: line["concepts"] for name, line in own.items()}, encoder)
    return chosen


def kept_concepts(entries: Sequence[Mapping]) -> list[str]:
    """The texts of an image's kept concepts, best first."""
    return [entry["concept"] for entry in entries if entry["kept"]]


def make_rationales(teacher: Teacher, rows: Sequence[Row], chosen: Mapping[str, Sequence[Mapping]], *,
                    path: Path, seed: int, max_words: int = 0, progress: Progress = None, **how: Any) -> list[dict]:
    """A record per image, kept or dropped, as a JSON line in `path`; an interrupted run resumes. `how` as for
    `query_until_good`. Raises: UserError: as there, or lines made on other concepts or limits.
    """
    kept = {row["image_id"]: kept_concepts(chosen[row["image_id"]]) for row in rows}
    places = label_places(rows, seed)

    def check(line: dict) -> Optional[str]:
        other = ("concepts" if line["concepts"] != kept[line["image_id"]] else
                 "limits" if line.get("max_words", 0) != max_words else "")
        return other and f"was made on other {other}"

    def make(part: Sequence[Row]) -> list[dict]:
        return query_until_good(teacher, part, kept, seed=seed, max_words=max_words, places=places, **how)

    return _completed(path, rows, teacher, check, make, progress)


def query_until_good(teacher: Teacher, rows: Sequence[Row], concepts: Mapping[str, Sequence[str]], *,
                     seed: int, attempts: int, names: Mapping[str, Sequence[str]],
                     filters: Collection[str] = REASONS, max_words: int = 0,
                     places: Optional[Mapping[str, int]] = None) -> list[dict]:
    """Query a text for every row until one passes, at most `attempts` times; nothing is written.

    `concepts` maps image_id to the concepts given, `places` to the label's place, `names` a super-category to
    its sub-categories; `max_words` 0 is no limit. Of a record, dropped_because and rejections (one per failed
    attempt) are reasons, texts are all with mended punctuation (mended: how many needed it); a dropped image
    keeps its last text, which is never trained on. Raises: UserError: an unknown filter, or no attempt.
    """
    if attempts < 1:
        raise UserError(f"attempts is {attempts}: at least 1 is needed")
    filters = check_filters(filters)
    tried: dict[str, list[tuple]] = {row["image_id"]: [] for row in rows}  # (text, why it was rejected)
    waiting = list(rows)
    for attempt in range(attempts):
        asked = [Rationale(row, concepts[row["image_id"]], question_for(row["super_category"]),
                           draw_seed(seed, row["image_id"], attempt)) for row in waiting]
        for row, text in zip(waiting, teacher.rationale_all(asked) if asked else []):
            word, label = row["super_category"], row["sub_category"]
            tried[row["image_id"]].append((text, reject_reason(
                fix_punctuation(text), label, *own_and_foreign(names, word), filters, max_words,
                table_for(word, label))))
        waiting = [row for row in waiting if tried[row["image_id"]][-1][1]]
    places = label_places(rows, seed) if places is None else places
    limit = {"max_words": max_words} if max_words else {}
    return [_record(row, list(concepts[row["image_id"]]), tried[row["image_id"]], places[row["image_id"]],
                    random.Random(draw_seed(seed, row["image_id"], "order"))) | limit for row in rows]


def _record(row: Row, concepts: list, tried: Sequence[tuple], place: int, rng: random.Random) -> dict:
    """One line of `rationales.jsonl`; the last text stands in its final form if it passed."""
    word, label = row["super_category"], row["sub_category"]
    texts, reason = [fix_punctuation(text) for text, _ in tried], tried[-1][1]
    text = settle(texts[-1], label, rng, place, table_for(word, label)) if reason is None else texts[-1]
    return {"image_id": row["image_id"], "super_category": word, "sub_category": label,
            "question": question_for(word), "text": text, "concepts": concepts,
            "candidates": list(parse(text).candidates), "attempts": len(tried), "kept": reason is None,
            "dropped_because": reason, "rejections": [why for _, why in tried if why], "texts": texts,
            "mended": sum(fixed != text.strip() for fixed, (text, _) in zip(texts, tried))}


def label_places(rows: Sequence[Row], seed: int) -> dict[str, int]:
    """image_id -> a place for the label, every place (0 to 11, for 2, 3 or 4 candidates) equally often: a
    free draw is uneven by chance, and a student would learn that from sixty rationales.
    """
    order = sorted(row["image_id"] for row in rows)
    random.Random(draw_seed(seed, "places")).shuffle(order)
    return {image_id: number % 12 for number, image_id in enumerate(order)}


def own_and_foreign(names: Mapping[str, Sequence[str]],
                    super_category: str) -> tuple[Sequence[str], list[str]]:
    """(the names of a super-category, the names of all others)."""
    foreign = [name for other in names if other != super_category for name in names[other]]
    return names[super_category], foreign
