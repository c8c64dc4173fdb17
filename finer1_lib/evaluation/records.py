"""A record file read line by line, each line held against what a record must have.

A line that is no record is refused with its number. A last line that a kill tore is left out, and its number
kept: a whole JSON object without a line end is no torn one.


Notebook 04's engine: questions become records, one JSON line each, as they are answered.

What a model wrote is kept in `records.jsonl` and scored afterwards, from the records alone
(`finer1_lib.evaluation.scores`). Everything that is asked about a picture is asked while it is at hand: a window of
pictures is prepared once for all orders of the options, both settings and all samples.

A killed run resumes: windows and batches are cut the same way again, whole batches found in the records are
skipped, and a torn one is generated anew as a whole, so that each completion is what an uninterrupted run
would have written.

The release (eval/evaluation.py) loads a model per split, asks two questions at a time, and writes its
results at the end.
"""

import gzip
import hashlib
import json
import re
import zlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Mapping, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import append_jsonl, atomic_write_bytes, is_file, read_jsonl
from finer1_lib.evaluation.requests import FILE_RULE, ITEM_RULE, rule_of
from finer1_lib.evaluation.scores.scoring import SETTINGS
from finer1_lib.evaluation.systems.strategies import draw_seed

if TYPE_CHECKING:
    import pandas

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


WINDOW_PIXELS = 40 * 2**20  # of pictures held at a time: 1 GB once they are prepared


def batches_of(requests: Sequence[Mapping], batch_size: int) -> list[list[Mapping]]:
    """Batches of equal image size and similar prompt length: least padding, always the same cut."""
    order = sorted(requests, key=lambda r: (
        r["size"], len(r["prompt"]), r["item_id"], r["rotation"], r.get("sample", 0)))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def windows_of(asked: Sequence[Sequence[Mapping]], batch_size: int) -> list[list[list[Mapping]]]:
    """The lists of requests cut alike: in one window everything that is asked about the same few pictures.

    A window is whole batches of pictures, as many as `WINDOW_PIXELS` hold and one at least; pictures of one
    size stand together. So each picture is prepared once for all that is asked about it, whatever their
    number.
    """
    pictures = {request["image_id"]: request["size"] for requests in asked for request in requests}
    order = sorted(pictures, key=lambda image_id: (pictures[image_id], image_id))
    places: dict[str, int] = {}
    window, pixels = 0, 0
    for start in range(0, len(order), batch_size):
        some = order[start : start + batch_size]
        more = sum(width * height for width, height in map(pictures.get, some))
        if pixels and pixels + more > WINDOW_PIXELS:
            window, pixels = window + 1, 0
        pixels += more
        places.update(dict.fromkeys(some, window))
    found: list[list[list[Mapping]]] = [[[] for _ in asked] for _ in range(window + 1)]
    for number, requests in enumerate(asked):
        for request in requests:
            found[places[request["image_id"]]][number].append(request)
    return found


def collect_records(
    asked: Sequence[Sequence[Mapping]], path: Path, open_answerer: Callable[[], Any], *, max_new_tokens: int,
    batch_size: int, progress: Optional[Callable[..., None]] = None,
) -> list[dict]:
    """Answer every request that `path` does not yet answer, and append the records as they come.

    Args:
        asked: of `all_requests`, of one model.
        path: `records.jsonl`; other models' records in it are left alone.
        open_answerer: gives what answers (`systems.answering.Answerer`); called only if something is left
            to do.
        max_new_tokens: longest completion; one that reaches it is marked `truncated`.
        batch_size: requests a forward pass; also what a kill can cost.
        progress: called as `progress(done, total, label)` after every batch.

    Returns:
        One record a request, in the requests' order.

    Raises:
        UserError: the file holds an answer to another question under the same key, options shuffled by
            another rule, or a line that is no record; or an image is broken.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: give a positive number")
    known = _read_records(path)
    for requests in asked:
        for request in requests:
            _refuse_other_question(request, known.get(key_of(request)), path)
    answerer = None
    batches = [batch for window in windows_of(asked, batch_size) for requests in window
               for batch in batches_of(requests, batch_size)]
    for number, batch in enumerate(batches, start=1):
        if all(key_of(request) in known for request in batch):
            continue
        if answerer is None:
            answerer = open_answerer()
        # the whole batch again, not only what is missing: padding changes the last digits of a forward pass
        answered = _answer(answerer, batch, max_new_tokens)
        new = [record for record in answered if key_of(record) not in known]
        append_jsonl(path, *new)
        known.update({key_of(record): record for record in new})
        if progress:
            progress(number, len(batches), _label(batch[0]))
    return [known[key_of(request)] for requests in asked for request in requests]


def left_to_query(questions: Mapping[str, Sequence[Sequence[Mapping]]], path: Path) -> list[str]:
    """The models that have a question of theirs ({model: of `all_requests`}) without an answer in `path`."""
    known = _read_records(path)
    return [model for model, asked in questions.items()
            if any(key_of(request) not in known for requests in asked for request in requests)]


def _answer(answerer: Any, batch: Sequence[Mapping], max_new_tokens: int) -> list[dict]:
    """One batch's records."""
    answers = answerer.answer(batch, max_new_tokens=max_new_tokens, seed=draw_seed(batch[0]["seed"], batch))
    if len(answers) != len(batch):
        raise RuntimeError(f"{len(batch)} prompts gave {len(answers)} completions")
    return [
        {**{key: value for key, value in request.items() if key != "size"}, "order_rule": rule_of(request),
         "completion": answer.text, "tokens": answer.tokens, "truncated": bool(answer.truncated),
         **({"no_text": answer.no_text} if getattr(answer, "no_text", "") else {})}
        for request, answer in zip(batch, answers)
    ]


def without_text(records: Sequence[Mapping]) -> "pandas.DataFrame":
    """How many answers of each model came from an endpoint without text, a column for each reason; no columns
    where all had text. To be joined to the models' tables, where such answers count as wrong ones."""
    import pandas

    told = [(one["model"], one.get("no_text", "")) for one in records]
    table = pandas.DataFrame(told, columns=["model", "why"])
    counts = pandas.crosstab(table["model"], table["why"]).drop(columns="", errors="ignore")
    return counts.rename(columns="no text: {}".format).rename_axis(columns=None)


def _read_records(path: Path) -> dict[tuple, dict]:
    """The records on the disk by their keys; a torn last line is cut off, a doubled one left out and told."""
    found: dict[tuple, dict] = {}
    doubled = 0
    for number, record in enumerate(read_jsonl(path, truncate=True, fix=offer(path)), start=1):
        if fault := fault_of(record):
            raise UserError(f"{path} has a line that is no record (line {number}: {fault}): {offer(path)}")
        if found.setdefault(key_of(record), record) != record:
            raise UserError(f"{path} line {number} gives {record['item_id']} ({_label(record)}) a second "
                            f"answer, which is not the first; {offer(path)}")
        doubled += found[key_of(record)] is not record
    if doubled:
        print(f"{path.name}: {doubled} lines stand twice; the first of each is read", flush=True)
    return found


def _label(request: Mapping) -> str:
    """ "cot_sft closed_world release": what a line of progress is about."""
    order = request["option_order"]
    return " ".join([request["model"], request["setting"], *([] if order in (None, "shuffled") else [order])])


def _refuse_other_question(request: Mapping, record: Optional[Mapping], path: Path) -> None:
    """A record may only stand for a request that asked the same thing."""
    asked = ("prompt", "options", "image_id", "sub_category", "seed", "examples", "example_prompt", "samples",
             "labels_hash", "weights", "release_path")
    if record is None:
        return
    if rule_of(record) != rule_of(request):
        raise UserError(f"{path.name} holds options shuffled by {rule_of(record)}, and these items are"
                        f" shuffled by {rule_of(request)}: the two do not mix; move {path.name} away and run"
                        " again, or keep it with the items.jsonl that it was made from")
    if any(record.get(name) != request.get(name) for name in asked):
        raise UserError(
            f"{path.name} answers another question for {request['item_id']} ({_label(request)}): the prompts "
            "or the items have changed; delete it and run again"
        )
