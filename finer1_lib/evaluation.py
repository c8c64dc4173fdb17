"""Notebook 04's engine: items become prompts, prompts become records, one JSON line each.

Every model answers every item in the closed world (four options) and in the open world (none). What it wrote
is kept in `records.jsonl` and scored afterwards, from the records alone (`finer1_lib.scoring`).

Options are shown in a seeded order of each item's own. The release prints them with the truth first in all of
its 35,566 questions, so that "always the first" scores 100 %;
`option_order = "release"` shows what that is worth.

A killed run resumes: batches are cut the same way again, whole batches found in the records are skipped, and
a torn one is generated anew as a whole, so that each completion is what an uninterrupted run would have
written.

Source: METHOD 4, audit A1 and A8; release eval/evaluation.py.
"""

import hashlib
import random
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Optional, Sequence

from finer1_lib.contenders import Contender
from finer1_lib.encoding import ImageFile, user_message
from finer1_lib.errors import UserError
from finer1_lib.prompts import PROMPTS
from finer1_lib.runs import append_jsonl, read_jsonl

SETTINGS = {"closed_world": "closed", "open_world": "open"}  # setting -> ending of its prompts' names
OPTION_ORDERS = ("shuffled", "release")
COPIED = ("item_id", "image_id", "super_category", "sub_category", "categories")


def select_items(items: Iterable[Mapping], images: Any, *, images_per_class: int, seed: int) -> list[dict]:
    """The items to evaluate, with the image's width and height (pixels) for batching.

    Args:
        items: the lines of `items.jsonl`.
        images: DataFrame with image_id, width, height.
        images_per_class: at most so many test images of each sub-category, drawn by seed; 0 takes all.
        seed: of the draw.

    Raises:
        UserError: a negative number, no items, or an item whose image the table lacks.
    """
    if images_per_class < 0:
        raise UserError(
            f"images_per_class is {images_per_class}: give 0 for all test images, or a positive number"
        )
    sizes = dict(zip(images["image_id"], zip(images["width"], images["height"])))
    classes: dict[tuple, list[dict]] = {}
    for item in items:
        if item["image_id"] not in sizes:
            raise UserError(
                f"items.jsonl asks for {item['image_id']}, which images.parquet lacks: run 01_data again"
            )
        width, height = map(int, sizes[item["image_id"]])
        key = item["super_category"], item["sub_category"]
        classes.setdefault(key, []).append({**item, "width": width, "height": height})
    if not classes:
        raise UserError("items.jsonl holds no items: run 01_data again")
    chosen = []
    for key, members in sorted(classes.items()):
        members.sort(key=lambda item: item["item_id"])
        random.Random(f"{seed}/evaluation/{'/'.join(key)}").shuffle(members)
        chosen += members[: images_per_class or None]
    return sorted(chosen, key=lambda item: item["item_id"])


def shown_options(item: Mapping, order: str, seed: int) -> list[str]:
    """The four names in the order a model sees them.

    Args:
        item: with `options` in the release's order, truth first.
        order: "shuffled" (by seed and item, whatever the other items are) or "release".

    Source: audit A1; the shuffle is the kit's default, the release prints the order as stored.
    """
    if order not in OPTION_ORDERS:
        raise UserError(f"option_order {order!r}: one of {', '.join(OPTION_ORDERS)}")
    options = list(item["options"])
    if order == "shuffled":
        key = hashlib.sha256(f"{seed}/{item['item_id']}".encode("utf-8")).digest()
        random.Random(int.from_bytes(key[:8], "big")).shuffle(options)
    return options


def build_requests(
    contender: Contender, items: Sequence[Mapping], setting: str, *, order: str = "shuffled", seed: int = 0
) -> list[dict]:
    """What is asked of one model in one setting: records without their completions.

    Args:
        contender: the model.
        items: of `select_items`.
        setting: "closed_world" or "open_world".
        order: of the options, in the closed world.
        seed: of the shuffle; written into every record.
    """
    name = f"{contender.prompts}_{SETTINGS[setting]}"
    requests = []
    for item in items:
        options = shown_options(item, order, seed) if setting == "closed_world" else None
        requests.append(
            {
                **{key: item[key] for key in COPIED},
                "model": contender.model,
                "setting": setting,
                "prompt_name": name,
                "prompt": PROMPTS[name].text(question=item["question"], options=options),
                "prompt_hash": PROMPTS[name].hash,
                "options": options,
                "option_order": order if options else None,
                "seed": seed,
                "size": [item["width"], item["height"]],
            }
        )
    return requests


def batches_of(requests: Sequence[Mapping], batch_size: int) -> list[list[Mapping]]:
    """Batches of equal image size and similar prompt length: least padding, always the same cut."""
    order = sorted(requests, key=lambda r: (r["size"], len(r["prompt"]), r["item_id"]))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def collect_records(
    requests: Sequence[Mapping],
    path: Path,
    load: Callable[[], Any],
    image_root: Path,
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: Optional[Callable[..., None]] = None,
    generate: Optional[Callable] = None,
) -> list[dict]:
    """Answer every request that `path` does not yet answer, greedily, and append the records as they come.

    Args:
        requests: of `build_requests`, of one model.
        path: `records.jsonl`; other models' records in it are left alone.
        load: returns the `LoadedModel`; called only if something is left to do.
        image_root: folder that image ids are relative to.
        max_new_tokens: longest completion; one that reaches it is marked `truncated`.
        batch_size: requests a forward pass; also what a kill can cost.
        progress: called as `progress(done, total, label)` after every batch.
        generate: `finer1_lib.models.generate` unless given.

    Returns:
        One record a request, in the requests' order.

    Raises:
        UserError: the file holds an answer to another question under the same key, or an image is broken.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: give a positive number")
    known = {_key(record): record for record in read_jsonl(path, truncate=True)}
    for request in requests:
        _refuse_other_question(request, known.get(_key(request)), path)
    loaded = None
    batches = batches_of(requests, batch_size)
    for number, batch in enumerate(batches, start=1):
        missing = [request for request in batch if _key(request) not in known]
        if not missing:
            continue
        if loaded is None:
            loaded = load()
        # the whole batch again, not only what is missing: padding changes the last digits of a forward pass
        answered = _answer(loaded, batch, image_root, max_new_tokens, generate)
        new = [record for record in answered if _key(record) not in known]
        append_jsonl(path, *new)
        known.update({_key(record): record for record in new})
        if progress:
            progress(number, len(batches), f"{batch[0]['model']} {batch[0]['setting']}")
    return [known[_key(request)] for request in requests]


def messages_for(request: Mapping, image: Any) -> list[dict]:
    """The chat messages of one request: the image, then the prompt."""
    return user_message(request["prompt"], image)


def _answer(
    loaded: Any, batch: Sequence[Mapping], image_root: Path, max_new_tokens: int, generate: Optional[Callable]
) -> list[dict]:
    """One batch's records."""
    if generate is None:
        from finer1_lib.models import generate
    # by name: each picture is opened when it is encoded, so that a batch of photographs is never held at once
    pictures = [ImageFile(str(image_root), request["image_id"]) for request in batch]
    prompts = [messages_for(request, picture) for request, picture in zip(batch, pictures)]
    answers = generate(loaded, prompts, max_new_tokens=max_new_tokens, temperature=0.0, batch_size=len(batch))
    if len(answers) != len(batch):
        raise RuntimeError(f"{len(batch)} prompts gave {len(answers)} completions")
    return [
        {
            **{key: value for key, value in request.items() if key != "size"},
            "completion": answer.text,
            "tokens": answer.tokens,
            "truncated": bool(answer.truncated),
        }
        for request, answer in zip(batch, answers)
    ]


def _key(record: Mapping) -> tuple[str, str, str]:
    return record["model"], record["setting"], record["item_id"]


def _refuse_other_question(request: Mapping, record: Optional[Mapping], path: Path) -> None:
    """A record may only stand for a request that asked the same thing."""
    asked = ("prompt", "options", "image_id", "sub_category", "seed")
    if record is not None and any(record.get(name) != request[name] for name in asked):
        raise UserError(
            f"{path.name} answers another question for {request['item_id']} ({request['model']}, "
            f"{request['setting']}): the prompts or the items have changed; delete it and run again"
        )
