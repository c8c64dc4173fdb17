"""Notebook 04's engine: items become prompts, prompts become records, one JSON line each.

Every model answers every item in the closed world (four options) and in the open world (none). What it wrote
is kept in `records.jsonl` and scored afterwards, from the records alone (`finer1_lib.scores.scoring`).

Options are shown in a seeded order of each item's own ("shuffled"). The release prints them with the truth
first in all of its 35,566 questions, so that "always the first" scores 100 %; the order "release" shows what
that is worth. "rotations" asks for proof: the shuffled options turned by one, two and three places as well,
and an item counts only if all four are right.

    A B C D (shuffled)  ->  B C D A,  C D A B,  D A B C (rotations 1, 2, 3)

A killed run resumes: batches are cut the same way again, whole batches found in the records are skipped, and
a torn one is generated anew as a whole, so that each completion is what an uninterrupted run would have
written.

Source: METHOD 4, audit A1 and A8; release eval/evaluation.py.
"""

import hashlib
import random
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Optional, Sequence

from finer1_lib.contenders import Contender
from finer1_lib.encoding import ImageFile, user_message
from finer1_lib.errors import UserError
from finer1_lib.prompts import PROMPTS, Prompt
from finer1_lib.runs import append_jsonl, read_jsonl

SETTINGS = {"closed_world": "closed", "open_world": "open"}  # setting -> ending of its prompts' names
OPTION_ORDERS = ("shuffled", "release", "rotations")
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
        raise UserError(f"images_per_class is {images_per_class}: give 0 for all, or a positive number")
    sizes = dict(zip(images["image_id"], zip(images["width"], images["height"])))
    classes: dict[tuple, list[dict]] = {}
    for item in items:
        if item["image_id"] not in sizes:
            raise UserError(f"items.jsonl asks for {item['image_id']}, which images.parquet lacks: run "
                            "01_data again")
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


def shown_options(item: Mapping, order: str, seed: int, rotation: int = 0) -> list[str]:
    """The four names in the order a model sees them.

    Args:
        item: with `options` in the release's order, truth first.
        order: one of `OPTION_ORDERS`; "shuffled" goes by seed and item, whatever the other items are.
        seed: of the shuffle.
        rotation: by how many places the order is turned; for "rotations", whose rotation 0 is "shuffled".

    Source: audit A1; the shuffle is the kit's default, the release prints the order as stored.
    """
    if order not in OPTION_ORDERS:
        raise UserError(f"option_orders: {order!r} is not one of {', '.join(OPTION_ORDERS)}")
    options = list(item["options"])
    if order != "release":
        key = hashlib.sha256(f"{seed}/{item['item_id']}".encode("utf-8")).digest()
        random.Random(int.from_bytes(key[:8], "big")).shuffle(options)
    return options[rotation:] + options[:rotation]


def build_requests(
    contender: Contender, items: Sequence[Mapping], setting: str, *, order: str = "shuffled", seed: int = 0,
    prompts: Mapping[str, Prompt] = PROMPTS,
) -> list[dict]:
    """What is asked of one model in one setting: records without their completions.

    Args:
        contender: the model.
        items: of `select_items`.
        setting: "closed_world" or "open_world".
        order: of the options, in the closed world; "rotations" asks every item once for each turn but the
            first, which is the shuffled question.
        seed: of the shuffle; written into every record.
        prompts: by name; what `release.prompts` read takes the place of the registry's.
    """
    name = f"{contender.prompts}_{SETTINGS[setting]}"
    closed = setting == "closed_world"
    requests = []
    for item in items:
        turns = range(1, len(item["options"])) if closed and order == "rotations" else [0]
        for rotation in turns:
            options = shown_options(item, order, seed, rotation) if closed else None
            requests.append({
                **{key: item[key] for key in COPIED}, "model": contender.model, "setting": setting,
                "prompt_name": name, "prompt": prompts[name].text(question=item["question"], options=options),
                "prompt_hash": prompts[name].hash, "options": options,
                "option_order": order if closed else None, "rotation": rotation, "seed": seed,
                "size": [item["width"], item["height"]],
            })
    return requests


def check_orders(orders: Sequence[str]) -> None:
    """Refuse orders (UserError) that are not known, stand twice or leave out "shuffled", the main reading."""
    if set(orders) - set(OPTION_ORDERS) or "shuffled" not in orders or len(set(orders)) != len(orders):
        raise UserError(f"option_orders is [{', '.join(orders)}]: give some of {', '.join(OPTION_ORDERS)}, "
                        "each once, and 'shuffled' among them: the main table and rotations are read from it")


def all_requests(
    contender: Contender, items: Sequence[Mapping], orders: Sequence[str], *, seed: int,
    prompts: Mapping[str, Prompt] = PROMPTS,
) -> list[list[dict]]:
    """What is asked of one model in all: a list for each order of the closed world, then the open world's.

    Args:
        orders: some of `OPTION_ORDERS`, each once; "shuffled" is the main reading and must be among them.
        prompts: as for `build_requests`.

    Raises:
        UserError: orders that are not so.
    """
    check_orders(orders)
    ask = partial(build_requests, contender, items, seed=seed, prompts=prompts)
    return [*(ask("closed_world", order=order) for order in orders), ask("open_world")]


def batches_of(requests: Sequence[Mapping], batch_size: int) -> list[list[Mapping]]:
    """Batches of equal image size and similar prompt length: least padding, always the same cut."""
    order = sorted(requests, key=lambda r: (r["size"], len(r["prompt"]), r["item_id"], r["rotation"]))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def collect_records(
    requests: Sequence[Mapping], path: Path, load: Callable[[], Any], image_root: Path, *,
    max_new_tokens: int, batch_size: int, progress: Optional[Callable[..., None]] = None,
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
        UserError: the file holds an answer to another question under the same key, or a line that is no
            record; or an image is broken.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: give a positive number")
    known = _read_records(path)
    for request in requests:
        _refuse_other_question(request, known.get(_key(request)), path)
    loaded = None
    for number, batch in enumerate(batches := batches_of(requests, batch_size), start=1):
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
            progress(number, len(batches), _label(batch[0]))
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
        {**{key: value for key, value in request.items() if key != "size"}, "completion": answer.text,
         "tokens": answer.tokens, "truncated": bool(answer.truncated)}
        for request, answer in zip(batch, answers)
    ]


def _read_records(path: Path) -> dict[tuple, dict]:
    """The records on the disk by their keys; a torn last line is cut off."""
    try:
        return {_key(record): record for record in read_jsonl(path, truncate=True)}
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} has a line that is no record ({error}): delete it and run again") from error


def _key(record: Mapping) -> tuple:
    return tuple(record[name] for name in ("model", "setting", "option_order", "rotation", "item_id"))


def _label(request: Mapping) -> str:
    """ "cot_sft closed_world release": what a line of progress is about."""
    order = request["option_order"]
    return " ".join([request["model"], request["setting"], *([] if order in (None, "shuffled") else [order])])


def _refuse_other_question(request: Mapping, record: Optional[Mapping], path: Path) -> None:
    """A record may only stand for a request that asked the same thing."""
    asked = ("prompt", "options", "image_id", "sub_category", "seed")
    if record is not None and any(record.get(name) != request[name] for name in asked):
        raise UserError(
            f"{path.name} answers another question for {request['item_id']} ({_label(request)}): the prompts "
            "or the items have changed; delete it and run again"
        )
