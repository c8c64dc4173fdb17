"""Notebook 04's engine: requests become records, one JSON line each, as they are answered; and their file.

What a model wrote is kept in `records.jsonl` and scored afterwards, from the records alone. A killed run
resumes: windows and batches are cut the same way again, complete batches found in the records are skipped,
and an incomplete one is generated again as a whole, so that each completion is what an uninterrupted run
would have written. A line that is not a record is refused with its number; an incomplete last line is left
out (a whole JSON object without a line end counts).
"""

import gzip
import hashlib
import json
import re
import zlib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.faces import Later
from finer1_lib.core.files import append_jsonl, atomic_write_bytes, is_file, read_jsonl
from finer1_lib.evaluation.requests import FILE_RULE, ITEM_RULE, record_of, rule_of
from finer1_lib.evaluation.scores.scoring import SETTINGS
from finer1_lib.evaluation.systems.strategies import draw_seed

pandas = Later("pandas")

_TEXTS = ("model", "setting", "item_id", "image_id", "super_category", "sub_category", "categories",
          "completion")
# what a record shares with the request that it answers
_QUESTION = ("prompt", "options", "image_id", "sub_category", "seed", "examples", "example_prompt", "samples",
             "labels_hash", "weights", "release_path")
_HALF = re.compile("[\ud800-\udfff]")
ORDER_RULES = (None, ITEM_RULE, FILE_RULE)
ROTATED = "rotations"
NOT_JSON = "it is not JSON"
ASIDE = ".aside"  # added to the name of a record file, for the lines that `set_aside` moves out of it
WINDOW_PIXELS = 40 * 2**20  # of images held at a time: 1 GB once they are prepared


class RecordFile:
    """The records of a `.jsonl` or `.jsonl.gz` file, each checked.

    After a pass `torn` is the number of an incomplete last line, if there is one, and `count` that of the
    records. The reader finds repeated lines (`rescore`) and counts them in `doubled`.
    """

    def __init__(self, path: "str | Path") -> None:
        self.path, self.torn, self.count, self.doubled = Path(path), None, 0, 0
        self._number = 0

    def __iter__(self) -> Iterator[dict]:
        """Raises: UserError: no file, a damaged one, no records, a line that is none or of another seed."""
        self.torn, self.count, self.doubled = None, 0, 0
        before: dict[str, Any] = {}
        for self._number, line in enumerate(self.lines(), start=1):
            record, fault = read_line(line, before)
            if fault == NOT_JSON and not line.endswith(b"\n"):  # a whole object is never incomplete
                self.torn = self._number
                break
            if fault:
                raise self.refuse(fault)
            self.count += 1
            yield record
        if not self.count:
            raise UserError(f"{self.path} holds no records: give the records.jsonl of a run's 04_evaluation")

    def refuse(self, fault: str) -> UserError:
        """The last line that was read, refused for what it holds."""
        return UserError(f"{self.path} line {self._number} cannot be counted: {fault}; {offer(self.path)}")

    def lines(self) -> Iterator[bytes]:
        """The lines as they are. Raises: UserError: no file, an unreadable one, or a damaged archive."""
        if not is_file(self.path):
            raise UserError(f"{self.path} is not a file: give a records.jsonl, or the name of a run")
        try:
            with (gzip.open if self.path.suffix == ".gz" else open)(self.path, "rb") as file:
                yield from file
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{self.path} is not a complete gzip file ({error}): pack it again") from error
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror}): check permissions") from error


def fault_of(record: Any) -> str:
    """What keeps a value from being a record; "" if nothing does."""
    return next(_faults(record), "") if isinstance(record, dict) else "it is not an object"


def _faults(record: dict) -> Iterator[str]:
    """Each after those that it relies on."""
    typed = {**dict.fromkeys(_TEXTS, (str, "text")), **dict.fromkeys(("rotation", "seed"), (int, "whole number"))}
    yield from (f"it has no {words} {name!r}" for name, (kind, words) in typed.items()
                if type(record.get(name)) is not kind)
    yield from (f"its {name!r} is empty" for name in _TEXTS if name != "completion" and not record[name].strip())
    options, order = record.get("options"), record.get("option_order", 0)
    listed = options is None or isinstance(options, list) and all(isinstance(name, str) for name in options)
    texts = {**{name: record[name] for name in _TEXTS}, "option_order": order if isinstance(order, str) else "",
             "options": "".join(options or ()) if listed else ""}
    half = next((name for name, text in texts.items() if _HALF.search(text)), None)
    count, turned = len(options) if listed and options else 0, order == ROTATED
    sample, samples = record.get("sample", 0), record.get("samples", 1)
    whole = type(record.get("sample")) is type(samples) is int
    rules = {
        f"its categories is {record['categories'][:40]!r}, neither seen nor unseen":
            record["categories"] in ("seen", "unseen"),
        f"its setting is {record['setting'][:40]!r}, none of {', '.join(SETTINGS)}": record["setting"] in SETTINGS,
        "its options are not a list of names": listed,
        f"its seed is {record['seed']}, below 0": record["seed"] >= 0,
        "it has no 'option_order' (a word, or null in the open world)": isinstance(order, (str, type(None))),
        f"its {half!r} holds half a character (a lone surrogate), which no text file can hold": half is None,
        "its 'release_path' is not a text": isinstance(record.get("release_path", ""), str),
        f"its 'order_rule' is none of {', '.join(filter(None, ORDER_RULES))}":
            record.get("order_rule") in ORDER_RULES,
        "it has no options": count or not (turned or record.get("lettered")),
        f"its rotation is {record['rotation']} of {count} options": not turned or 0 < record["rotation"] < count,
        "its 'sample' and 'samples' are not whole numbers, the first below the second":
            not {"sample", "samples"} & set(record) or whole and 0 <= sample < samples,
    }
    yield from (fault for fault, fine in rules.items() if not fine)


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
    """What is the same in all records of a file; None where a record does not state it."""
    return {"seed": record["seed"], "order_rule": rule_of(record)}


def key_of(record: Mapping) -> tuple:
    """What a record answers: two records of one key are two answers to one question."""
    named = (record[name] for name in ("model", "setting", "option_order", "rotation", "item_id"))
    return (*named, record.get("sample", 0))


def answered_before(record: Mapping, marks: dict[tuple, bytes]) -> Optional[bool]:
    """Of a record's question: None for not yet, True by the same line, False by another; `marks` keeps them."""
    mark = hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=8).digest()
    return None if (first := marks.setdefault(key_of(record), mark)) is mark else first == mark


def offer(path: "str | Path") -> str:
    """How to fix a file with lines that are not records, for messages."""
    path, packed = Path(path), Path(path).suffix == ".gz"
    name = path.with_suffix("") if packed else path
    return (f"{'unpack it, then ' if packed else ''}`finer1 rescore {name} --set-aside` moves such lines to "
            f"{name.name}{ASIDE} and keeps the rest")


def set_aside(path: "str | Path") -> str:
    """Move the lines of a record file that cannot be counted into a file beside it; what was done, in words.

    Only repeated lines are deleted. Of two different answers to one question the first stays.
    Raises: UserError: no file, a packed one, or fewer than half of the lines are records (nothing changes).
    """
    path = Path(path)
    if path.suffix == ".gz":
        raise UserError(f"{path} is packed: {offer(path)}")
    values: dict[str, Counter] = {}
    for record, fault in (read_line(line, {}) for line in RecordFile(path).lines()):
        for name, value in ({} if fault else _shared(record)).items():
            values.setdefault(name, Counter()).update([] if value is None else [value])
    before = {name: counts.most_common(1)[0][0] for name, counts in values.items() if counts}  # of most lines
    kept, aside, faults, marks, doubled = [], [], [], {}, 0
    for number, line in enumerate(RecordFile(path).lines(), start=1):
        record, fault = read_line(line, before)
        same = None if fault else answered_before(record, marks)
        if same:
            doubled += 1
            continue
        fault = "its question has another answer already" if same is False else fault
        (aside if fault else kept).append(line.rstrip(b"\r\n") + b"\n")
        faults += [f"line {number}: {fault}"] if fault else []
    if len(aside) > len(kept):
        raise UserError(f"{path}: {len(aside)} of {len(aside) + len(kept)} lines are not records of this file"
                        f" ({faults[0]}): nothing was changed; is it the right file?")
    held = path.with_name(path.name + ASIDE)
    if aside:  # first the copy: a kill between the two loses nothing
        atomic_write_bytes(held, (held.read_bytes() if held.exists() else b"") + b"".join(aside))
    if aside or doubled:
        atomic_write_bytes(path, b"".join(kept))
    again = f" ({'; '.join(faults[:3])}): run 04_evaluation again to answer them anew" if aside else ""
    return (f"{path.name}: {len(kept):,} records kept, {len(aside)} lines set aside, {doubled} doubled lines "
            f"dropped{again}")


def names_in(file: Iterable[Mapping]) -> dict[str, list[str]]:
    """{super_category: every name among labels and options}, by which a second name in an answer is known."""
    names: dict[str, set] = {}
    for record in file:
        names.setdefault(record["super_category"], set()).update(
            (record["sub_category"], *(record.get("options") or ())))
    return {word: sorted(found) for word, found in sorted(names.items())}


def batches_of(requests: Sequence[Mapping], batch_size: int) -> list[list[Mapping]]:
    """Batches of equal image size and similar prompt length: least padding, always the same cut."""
    order = sorted(requests, key=lambda request: (request["size"], len(request["prompt"]), request["item_id"],
                                                  request["rotation"], request.get("sample", 0)))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def windows_of(requests: Sequence[Sequence[Mapping]], batch_size: int) -> list[list[list[Mapping]]]:
    """The lists of requests cut alike: in one window all requests about the same few images.

    A window is whole batches of images, as many as `WINDOW_PIXELS` hold and one at least; images of one size
    are neighbours. So each image is prepared once for all option orders, settings and samples (the release's
    eval/evaluation.py takes two questions at a time).
    """
    sizes = {request["image_id"]: request["size"] for part in requests for request in part}
    order = sorted(sizes, key=lambda image_id: (sizes[image_id], image_id))
    places: dict[str, int] = {}
    window, pixels = 0, 0
    for start in range(0, len(order), batch_size):
        some = order[start : start + batch_size]
        more = sum(width * height for width, height in map(sizes.get, some))
        if pixels and pixels + more > WINDOW_PIXELS:
            window, pixels = window + 1, 0
        pixels += more
        places.update(dict.fromkeys(some, window))
    found: list[list[list[Mapping]]] = [[[] for _ in requests] for _ in range(window + 1)]
    for number, part in enumerate(requests):
        for request in part:
            found[places[request["image_id"]]][number].append(request)
    return found


def collect_records(requests: Sequence[Sequence[Mapping]], path: Path, open_answerer: Callable[[], Any], *,
                    max_new_tokens: int, batch_size: int,
                    progress: Optional[Callable[..., None]] = None, engine: str = "transformers") -> list[dict]:
    """Answer every request of one model that `path` does not yet answer: one record each, in their order.

    requests: of `all_requests`. open_answerer: called only if something is left to do. Records are appended
    after each batch (checkpointing), and `progress(done, total, label)` is called. engine: "vllm" makes its own
    batches and gets all requests of a window at once.
    Raises: UserError: the file holds an answer to another question under the same key, by another engine, or
    with options shuffled by another rule, or a line that is not a record; or an image is broken.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: give a positive number")
    known, every = _read_records(path), [request for part in requests for request in part]
    for request in every:
        record = known.get(key_of(request), request)  # it may only answer a request for the same thing
        if (rule := rule_of(record)) != rule_of(request):
            raise UserError(f"{path.name} holds options shuffled by {rule}, and these items are shuffled by "
                            f"{rule_of(request)}: the two do not mix; move {path.name} away and run again, or keep "
                            "it with the items.jsonl that it was made from")
        if any(record.get(name) != request.get(name) for name in _QUESTION):
            raise UserError(f"{path.name} answers another question for {request['item_id']} ({_label(request)}): "
                            "the prompts or the items have changed; delete it and run again")
    @cache
    def open_once() -> Any:
        answerer = open_answerer()
        engine = getattr(answerer, "engine", None)  # answers of two do not make one row: rounding lets some differ
        for record in filter(None, (known.get(key_of(request)) for request in every)):
            if engine and record.get("engine", engine) != engine:
                raise UserError(f"{path.name} holds answers of {record['model']} by {record['engine']}, the others "
                                f"would come from {engine}: use that engine, or move {path.name} away")
        return answerer

    batches = [batch for window in windows_of(requests, batch_size)
               for batch in ([sum(window, [])] if engine == "vllm" else
                             [batch for part in window for batch in batches_of(part, batch_size)])]
    for number, batch in enumerate(batches, start=1):
        if all(key_of(request) in known for request in batch):
            continue
        # the whole batch again, not only what is missing: padding changes the last digits of a forward pass
        answered = _answer(open_once(), batch, max_new_tokens)
        new = [record for record in answered if key_of(record) not in known]
        append_jsonl(path, *new)
        known.update({key_of(record): record for record in new})
        if progress:
            progress(number, len(batches), _label(batch[0]))
    return [known[key_of(request)] for request in every]


def left_to_query(questions: Mapping[str, Sequence[Sequence[Mapping]]], path: Path) -> list[str]:
    """The models (of {model: `all_requests`}) that have a request without an answer in `path`."""
    known = _read_records(path)
    return [model for model, requests in questions.items()
            if any(key_of(request) not in known for part in requests for request in part)]


def _answer(answerer: Any, batch: Sequence[Mapping], max_new_tokens: int) -> list[dict]:
    """One batch's records."""
    answers = answerer.answer(batch, max_new_tokens=max_new_tokens, seed=draw_seed(batch[0]["seed"], batch))
    if len(answers) != len(batch):
        raise RuntimeError(f"{len(batch)} prompts gave {len(answers)} completions")
    return [{**record_of(request, answer.text, answer.tokens, answer.truncated),
             **({"engine": answerer.engine} if hasattr(answerer, "engine") else {}),
             **({"no_text": answer.no_text} if getattr(answer, "no_text", "") else {})}
            for request, answer in zip(batch, answers)]


def without_text(records: Sequence[Mapping]) -> "pandas.DataFrame":
    """How many answers of each model came from an endpoint without text (they are wrong), a column a reason."""
    rows = [(one["model"], one.get("no_text", "")) for one in records]
    table = pandas.DataFrame(rows, columns=["model", "why"])
    counts = pandas.crosstab(table["model"], table["why"]).drop(columns="", errors="ignore")
    return counts.rename(columns="no text: {}".format).rename_axis(columns=None)


def _read_records(path: Path) -> dict[tuple, dict]:
    """The records on the disk by their keys; an incomplete last line is cut, repeated ones are reported."""
    found: dict[tuple, dict] = {}
    doubled = 0
    for number, record in enumerate(read_jsonl(path, truncate=True, fix=offer(path)), start=1):
        if fault := fault_of(record):
            raise UserError(f"{path} has a line that is not a record (line {number}: {fault}): {offer(path)}")
        if found.setdefault(key_of(record), record) != record:
            raise UserError(f"{path} line {number} gives {record['item_id']} ({_label(record)}) a second "
                            f"answer, which is not the first; {offer(path)}")
        doubled += found[key_of(record)] is not record
    if doubled:
        print(f"{path.name}: {doubled} lines are repeated; the first of each is read", flush=True)
    return found


def _label(request: Mapping) -> str:
    """ "cot_sft closed_world release": what a line of progress is about."""
    order = request["option_order"]
    return " ".join([request["model"], request["setting"], *([] if order in (None, "shuffled") else [order])])
