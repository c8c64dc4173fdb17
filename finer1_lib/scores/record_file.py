"""A record file read line by line, each line held against what a record must have.

A line that is no record is refused with its number. A last line that a kill tore is left out, and its number
kept: a whole JSON object without a line end is no torn one.

Source: our choice.
"""

import gzip
import hashlib
import json
import re
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping

from finer1_lib.errors import UserError
from finer1_lib.evaluation_requests import FILE_RULE, ITEM_RULE, rule_of
from finer1_lib.files import atomic_write_bytes, is_file
from finer1_lib.scores.per_question import SETTINGS

_TEXTS = (
    "model", "setting", "item_id", "image_id", "super_category", "sub_category", "categories", "completion",
)  # fmt: skip
_NUMBERS = ("rotation", "seed")
_HALF = re.compile("[\ud800-\udfff]")
ORDER_RULES = (None, ITEM_RULE, FILE_RULE)
ROTATED = "rotations"
NOT_JSON = "it is not JSON"
ASIDE = ".aside"  # added to the name of a record file, for the lines that `set_aside` takes out of it


class RecordFile:
    """The records of a `.jsonl` or `.jsonl.gz` file, each held against what a record must have.

    After a pass `torn` is the number of a last line without its end, if there is one, and `count` that of
    the records. Doubled lines are for the reader to find (`rescore`), who counts them in `doubled`.
    """

    def __init__(self, path: "str | Path") -> None:
        self.path, self.torn, self.count, self.doubled = Path(path), None, 0, 0
        self._number = 0

    def __iter__(self) -> Iterator[dict]:
        """One record after the other.

        Raises:
            UserError: no file, a damaged archive, a line that is no record, another seed or another rule of
                the shuffle than before, no records at all.
        """
        self.torn, self.count, self.doubled = None, 0, 0
        before: dict[str, Any] = {}
        for number, line in enumerate(self.lines(), start=1):
            record, fault = read_line(line, before)
            if fault == NOT_JSON and not line.endswith(b"\n"):  # a whole object is never torn
                self.torn = number
                break
            if fault:
                raise self._wrong(number, fault)
            self._number, self.count = number, self.count + 1
            yield record
        if not self.count:
            raise UserError(f"{self.path} holds no records: give the records.jsonl of a run's 04_evaluation")

    def refuse(self, fault: str) -> UserError:
        """The last record that was read, refused for what it says beside the others."""
        return self._wrong(self._number, fault)

    def _wrong(self, number: int, fault: str) -> UserError:
        return UserError(f"{self.path} line {number} cannot be counted: {fault}; {offer(self.path)}")

    def lines(self) -> Iterator[bytes]:
        """The lines as they are.

        Raises:
            UserError: no file, one that may not be read, or a damaged archive.
        """
        if not is_file(self.path):
            raise UserError(f"{self.path} is no file: give a records.jsonl, or the name of a run")
        try:
            with (gzip.open if self.path.suffix == ".gz" else open)(self.path, "rb") as file:
                yield from file
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{self.path} is no whole gzip file ({error}): pack it again") from error
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror}): check its permissions") from error


def fault_of(record: Any) -> str:
    """What keeps a value from being a record; "" if nothing does."""
    if not isinstance(record, dict):
        return "it is not an object"
    for names, kind, words in ((_TEXTS, str, "text"), (_NUMBERS, int, "whole number")):
        for name in names:
            if type(record.get(name)) is not kind:
                return f"it has no {words} {name!r}"
    if empty := next((name for name in _TEXTS if not record[name].strip() and name != "completion"), None):
        return f"its {empty!r} is empty"
    if record["categories"] not in ("seen", "unseen"):
        return f"its categories is {record['categories'][:40]!r}, neither seen nor unseen"
    if record["setting"] not in SETTINGS:
        return f"its setting is {record['setting'][:40]!r}, none of {', '.join(SETTINGS)}"
    options, order = record.get("options"), record.get("option_order")
    if options is not None and not (isinstance(options, list) and all(isinstance(o, str) for o in options)):
        return "its options are no list of names"
    if record["seed"] < 0:
        return f"its seed is {record['seed']}, below 0"
    if "option_order" not in record or not isinstance(order, (str, type(None))):
        return "it has no 'option_order' (a word, or null in the open world)"
    texts = {**{name: record[name] for name in _TEXTS}, "options": "".join(options or ()), "option_order": order or ""}
    if half := next((name for name, text in texts.items() if _HALF.search(text)), None):
        return f"its {half!r} holds half a character (a lone surrogate), which no file of text can hold"
    if not isinstance(record.get("release_path", ""), str):
        return "its 'release_path' is no text"
    if record.get("order_rule") not in ORDER_RULES:
        return f"its 'order_rule' is none of {', '.join(filter(None, ORDER_RULES))}"
    if not options and (order == ROTATED or record.get("lettered")):
        return "it has no options"
    if order == ROTATED and not 0 < record["rotation"] < len(options):
        return f"its rotation is {record['rotation']} of {len(options)} options"
    sample, samples = record.get("sample", 0), record.get("samples", 1)
    whole = type(record.get("sample")) is type(samples) is int
    if {"sample", "samples"} & set(record) and not (whole and 0 <= sample < samples):
        return "its 'sample' and 'samples' are no whole numbers, the first below the second"
    return ""


def read_line(line: bytes, before: dict[str, Any]) -> tuple[Any, str]:
    """(a line's record, what is wrong with it); `before` takes up what all lines of a file must share."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None, NOT_JSON
    if fault := fault_of(record):
        return record, fault
    for name, value in _shared(record).items():
        if value is not None and before.setdefault(name, value) != value:
            return record, f"its {name} is {value}, of those before it {before[name]}"
    return record, ""


def _shared(record: Mapping) -> dict[str, Any]:
    """What is the same in all records of a file; None where a record does not say."""
    return {"seed": record["seed"], "order_rule": rule_of(record)}


def key_of(record: Mapping) -> tuple:
    """What a record answers: two records of one key are two answers to one question."""
    named = (record[name] for name in ("model", "setting", "option_order", "rotation", "item_id"))
    return (*named, record.get("sample", 0))


def mark_of(record: Mapping) -> int:
    """64 bits of a record's content, never 0: equal ones are the same line twice."""
    text = json.dumps(record, sort_keys=True).encode("utf-8")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") or 1


def offer(path: "str | Path") -> str:
    """How a file with lines that are no records is put right, for messages."""
    path = Path(path)
    first = "unpack it, then " if path.suffix == ".gz" else ""
    name = path.with_suffix("") if path.suffix == ".gz" else path
    return (f"{first}`finer1 rescore {name} --set-aside` moves such lines to {name.name}{ASIDE} and keeps the"
            " rest")


def set_aside(path: "str | Path") -> str:
    """Move the lines of a record file that cannot be counted into a file beside it; nothing is thrown away
    but doubled lines. Of two different answers to one question the first stays.

    Returns:
        What was done, in words.

    Raises:
        UserError: no file, a packed one, or one of whose lines less than half are records (nothing changes).
    """
    path = Path(path)
    if path.suffix == ".gz":
        raise UserError(f"{path} is packed: {offer(path)}")
    kept, aside, faults = [], [], []
    marks: dict[tuple, int] = {}
    said: dict[str, Counter] = {"seed": Counter(), "order_rule": Counter()}
    for record, fault in (read_line(line, {}) for line in RecordFile(path).lines()):
        for name, value in ({} if fault else _shared(record)).items():
            said[name].update([] if value is None else [value])
    before = {name: counts.most_common(1)[0][0] for name, counts in said.items() if counts}
    doubled = 0
    for number, line in enumerate(RecordFile(path).lines(), start=1):
        line = line.rstrip(b"\r\n") + b"\n"
        record, fault = read_line(line, before)
        if not fault:
            key, mark = key_of(record), mark_of(record)
            if marks.get(key) == mark:
                doubled += 1
                continue
            if marks.setdefault(key, mark) != mark:
                fault = "its question has another answer already"
        (aside if fault else kept).append(line)
        faults += [f"line {number}: {fault}"] if fault else []
    if len(aside) > len(kept):
        raise UserError(f"{path}: {len(aside)} of {len(aside) + len(kept)} lines are no records of this file"
                        f" ({faults[0]}): nothing was changed; is it the right file?")
    held = path.with_name(path.name + ASIDE)
    if aside:  # first the copy: a kill between the two loses nothing
        atomic_write_bytes(held, (held.read_bytes() if held.exists() else b"") + b"".join(aside))
    if aside or doubled:
        atomic_write_bytes(path, b"".join(kept))
    told = f"{path.name}: {len(kept):,} records kept, {len(aside)} lines set aside, {doubled} doubled lines dropped"
    first = "; ".join(faults[:3])
    return told + (f" ({first}): run 04_evaluation again to answer them anew" if aside else "")


def names_in(file: Iterable[Mapping]) -> dict[str, list[str]]:
    """{super_category: every name among labels and options}, by which a second name in an answer is known."""
    names: dict[str, set] = {}
    for record in file:
        own = names.setdefault(record["super_category"], set())
        own.update((record["sub_category"], *(record.get("options") or ())))
    return {word: sorted(found) for word, found in sorted(names.items())}
