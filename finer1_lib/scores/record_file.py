"""A record file read line by line, each line held against what a record must have.

A line that is no record is refused with its number. A last line that a kill tore is left out, and its number
kept: a whole JSON object without a line end is no torn one.

Source: our choice.
"""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping

from finer1_lib.errors import UserError
from finer1_lib.scores.per_question import SETTINGS

_TEXTS = (
    "model", "setting", "item_id", "image_id", "super_category", "sub_category", "categories", "completion",
)  # fmt: skip
_NUMBERS = ("rotation", "seed")
ROTATED = "rotations"


class RecordFile:
    """The records of a `.jsonl` or `.jsonl.gz` file, each held against what a record must have.

    After a pass `torn` is the number of a last line without its end, if there is one, and `count` that of
    the records.
    """

    def __init__(self, path: "str | Path") -> None:
        self.path, self.torn, self.count = Path(path), None, 0

    def __iter__(self) -> Iterator[dict]:
        """One record after the other.

        Raises:
            UserError: no file, a damaged archive, a line that is no record, another seed, no records at all.
        """
        self.torn, self.count, seed = None, 0, None
        for number, line in enumerate(self._lines(), start=1):
            try:
                record = json.loads(line)
            except ValueError as error:
                if not line.endswith(b"\n"):  # only the last line can lack it; a whole object is never torn
                    self.torn = number
                    break
                raise self._wrong(number, "it is not JSON") from error
            fault = fault_of(record)
            if fault:
                raise self._wrong(number, fault)
            if seed not in (None, record["seed"]):
                raise self._wrong(number, f"its seed is {record['seed']}, of those before it {seed}")
            seed, self.count = record["seed"], self.count + 1
            yield record
        if not self.count:
            raise UserError(f"{self.path} holds no records: give the records.jsonl of a run's 04_evaluation")

    def refuse(self, fault: str) -> UserError:
        """The last record that was read, refused for what it says beside the others."""
        return self._wrong(self.count, fault)

    def _wrong(self, number: int, fault: str) -> UserError:
        return UserError(f"{self.path} line {number} cannot be counted: {fault}; mend the line or delete it")

    def _lines(self) -> Iterator[bytes]:
        if not self.path.is_file():
            raise UserError(f"{self.path} is no file: give a records.jsonl, or the name of a run")
        try:
            with (gzip.open if self.path.suffix == ".gz" else open)(self.path, "rb") as file:
                yield from file
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{self.path} is no whole gzip file ({error}): pack it again") from error


def fault_of(record: Any) -> str:
    """What keeps a value from being a record; "" if nothing does."""
    if not isinstance(record, dict):
        return "it is not an object"
    for names, kind, words in ((_TEXTS, str, "text"), (_NUMBERS, int, "whole number")):
        for name in names:
            if not isinstance(record.get(name), kind):
                return f"it has no {words} {name!r}"
    if record["setting"] not in SETTINGS:
        return f"its setting is {record['setting']!r}, none of {', '.join(SETTINGS)}"
    options, order = record.get("options"), record.get("option_order")
    if options is not None and not (isinstance(options, list) and all(isinstance(o, str) for o in options)):
        return "its options are no list of names"
    if not options and (order == ROTATED or record.get("lettered")):
        return "it has no options"
    if "option_order" not in record or not isinstance(order, (str, type(None))):
        return "it has no 'option_order' (a word, or null in the open world)"
    if order == ROTATED and not 0 < record["rotation"] < len(options):
        return f"its rotation is {record['rotation']} of {len(options)} options"
    if "samples" in record and not all(isinstance(record.get(name), int) for name in ("sample", "samples")):
        return "its 'sample' and 'samples' are no whole numbers"
    return ""


def names_in(file: Iterable[Mapping]) -> dict[str, list[str]]:
    """{super_category: every name among labels and options}, by which a second name in an answer is known."""
    names: dict[str, set] = {}
    for record in file:
        own = names.setdefault(record["super_category"], set())
        own.update((record["sub_category"], *(record.get("options") or ())))
    return {word: sorted(found) for word, found in sorted(names.items())}
