"""Notebook 04's engine: questions become records, one JSON line each, as they are answered.

What a model wrote is kept in `records.jsonl` and scored afterwards, from the records alone
(`finer1_lib.scores`). Everything that is asked about a picture is asked while it is at hand: a window of
pictures is prepared once for all orders of the options, both settings and all samples.

A killed run resumes: windows and batches are cut the same way again, whole batches found in the records are
skipped, and a torn one is generated anew as a whole, so that each completion is what an uninterrupted run
would have written.

Source: METHOD 4, audit A8 (the release loads a model per split, asks two questions at a time, and writes its
results at the end).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Mapping, Optional, Sequence

from finer1_lib.errors import UserError
from finer1_lib.evaluation_requests import rule_of
from finer1_lib.files import append_jsonl, read_jsonl
from finer1_lib.scores.record_file import fault_of, key_of, offer
from finer1_lib.systems.strategies import draw_seed

if TYPE_CHECKING:
    import pandas

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


def left_to_ask(questions: Mapping[str, Sequence[Sequence[Mapping]]], path: Path) -> list[str]:
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
