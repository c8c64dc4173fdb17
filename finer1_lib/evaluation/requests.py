"""What is asked: every item in the closed world (four options) and in the open world (none), of every model.

Options are shown in a seeded order of each item's own ("shuffled"). The release prints them with the truth
first in all of its 35,566 questions, so that "always the first" scores 100 %; the order "release" shows what
that is worth. "rotations" asks for proof: the shuffled options turned by one, two and three places as well,
and an item counts only if all four are right.

    A B C D (shuffled)  ->  B C D A,  C D A B,  D A B C (rotations 1, 2, 3)

The shuffle of an official picture goes by its data set and file name, so that it is the same wherever the
pictures lie; of any other by its `item_id`. Every shuffled record says which (`order_rule`); records from
before there was a choice went by `item_id`.

An encoder, which compares and does not write, chooses among all sub-categories of the item's super-category
in place of the open world ("all_labels").

Source: release eval/evaluation.py.

Controls of the evaluation: policies that know nothing of the picture, scored like any model.

"Always the first option" never looks. In the release's order, truth first, it is right every time; shuffled
it is right one time in four; of four rotations only one has the truth in front, so all four are never right.
Whatever a model gains over it is not owed to the order of the options.

Example:
    >>> item = {"item_id": "i", "image_id": "i", "super_category": "bird", "sub_category": "Rock Wren",
    ...         "categories": "seen", "question": "What species is this bird?", "width": 28, "height": 28,
    ...         "options": ["Rock Wren", "House Wren", "Marsh Wren", "Cactus Wren"]}
    >>> always_first([item], ["release"], seed=0)[0]["completion"]
    '<answer>Rock Wren</answer>'
"""

import hashlib
import random
from functools import cache, partial
from typing import Any, Mapping, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.hashing import digest
from finer1_lib.core.prompts import PROMPTS, Prompt
from finer1_lib.data.data_sets.catalogue import image_name
from finer1_lib.evaluation.entries import Entry
from finer1_lib.evaluation.systems.strategies import STRATEGIES, draw_examples
from finer1_lib.training.methods import CONTROLS

SETTINGS = {"closed_world": "closed", "open_world": "open"}  # setting -> ending of its prompts' names
OPTION_ORDERS = ("shuffled", "release", "rotations")
COPIED = ("item_id", "image_id", "super_category", "sub_category", "categories")
FILE_RULE, ITEM_RULE = "release_file", "item_id"  # what a shuffle goes by, beside the seed


def shown_options(item: Mapping, order: str, seed: int, rotation: int = 0) -> list[str]:
    """The four names in the order a model sees them.

    Args:
        item: with `options` in the release's order, truth first.
        order: one of `OPTION_ORDERS`; "shuffled" goes by seed and `image_name`, whatever the other items
            are.
        seed: of the shuffle.
        rotation: by how many places the order is turned; for "rotations", whose rotation 0 is "shuffled".

    The shuffle is the kit's default; the release prints the order as stored (eval/evaluation.py).
    """
    if order not in OPTION_ORDERS:
        raise UserError(f"option_orders: {order!r} is not one of {', '.join(OPTION_ORDERS)}")
    options = list(item["options"])
    if order != "release":
        key = hashlib.sha256(f"{seed}/{image_name(item)}".encode("utf-8")).digest()
        random.Random(int.from_bytes(key[:8], "big")).shuffle(options)
    return options[rotation:] + options[:rotation]


def build_requests(
    entry: Entry, items: Sequence[Mapping], setting: str, *, order: str = "shuffled", seed: int = 0,
    prompts: Mapping[str, Prompt] = PROMPTS, shots: Any = None, examples: int = 4,
    labels: Mapping[str, Sequence[str]] = {},
) -> list[dict]:
    """What is asked of one model in one setting: records without their completions.

    Args:
        entry: the model.
        items: of `evaluation_items.select_items`.
        setting: a key of `SETTINGS`; "all_labels" is asked of encoders alone.
        order: of the options, in the closed world; "rotations" asks every item once for each turn but the
            first, which is the shuffled question.
        seed: of the shuffle; written into every record.
        prompts: by name; what `release.prompts` read takes the place of the registry's.
        shots: of `strategies.shots_of`, for in-context examples.
        examples: how many of them.
        labels: {super_category: all its sub-categories}, which "all_labels" chooses from; their hash stands
            in its records.

    Raises:
        UserError: no labels for a super-category that is asked under "all_labels", or too few shots.
    """
    closed = setting == "closed_world"
    hashes = _label_hashes(items, labels) if setting == "all_labels" else {}
    requests = []
    for item in items:
        name, prompt = _prompt(entry, item, setting, prompts)
        turns = range(1, len(item["options"])) if closed and order == "rotations" else [0]
        for rotation in turns:
            options = shown_options(item, order, seed, rotation) if closed else None
            asked = {
                **{key: item[key] for key in COPIED}, **_there(item),
                "model": entry.model, "setting": setting,
                "prompt_name": name, "prompt": _text(entry, prompt, item, options),
                "prompt_hash": prompt.hash, "options": options,
                "option_order": order if closed else None, "rotation": rotation, "seed": seed,
                "size": [item["width"], item["height"]],
                **_way(entry, item, prompts, shots, examples, seed),
            }
            if entry.checkpoint:  # not trained by this run: the name does not say whose answer it is
                asked["weights"] = weights_of(entry)
            if hashes:
                asked["labels_hash"] = hashes[item["super_category"]]
            if closed and prompt.lettered:
                asked["lettered"] = True
            several = range(entry.samples) if entry.samples > 1 else ()
            draws = [{"sample": sample, "samples": entry.samples} for sample in several] or [{}]
            requests += [{**asked, **draw} for draw in draws]
    return requests


def _there(item: Mapping) -> dict[str, str]:
    """The release's path of an item's picture, by which `official` guesses the super-category."""
    return {"release_path": item["release_path"]} if item.get("release_path") else {}


def rule_of(asked: Mapping) -> Optional[str]:
    """What the options of a request or a record are shuffled by; None where they are not."""
    if "order_rule" in asked or not asked.get("options") or asked["option_order"] == "release":
        return asked.get("order_rule")
    return FILE_RULE if asked.get("release_path") else ITEM_RULE


def _prompt(
    entry: Entry, item: Mapping, setting: str, prompts: Mapping[str, Prompt]
) -> tuple[str, Prompt]:
    """(name, prompt) that an entry is asked by; an encoder's is its sentences."""
    if is_encoder(entry):
        from finer1_lib.evaluation.systems.encoders import encoder_prompt

        return entry.prompts, encoder_prompt(entry.prompts, item["super_category"])
    name = f"{entry.prompts}_{SETTINGS[setting]}"
    return name, _own(entry, prompts)[name]


def _own(entry: Entry, prompts: Mapping[str, Prompt]) -> Mapping[str, Prompt]:
    """The prompts, with those that a system names itself in place of the run's."""
    source = entry.system.prompts_from if entry.system is not None else ""
    return {**prompts, **_worded(source)} if source else prompts


def _label_hashes(items: Sequence[Mapping], labels: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """{super_category: hash of its names}: an answer counts among these names alone."""
    asked = {item["super_category"] for item in items}
    if asked - set(labels):
        raise UserError(f"no sub-categories of {min(asked - set(labels))!r} to choose from: give an encoder"
                        " the labels of every super-category that is asked")
    return {word: digest(sorted(set(labels[word])))[:12] for word in asked}


@cache
def _worded(source: str) -> Mapping[str, Prompt]:
    from finer1_lib.evaluation.worded_prompts import read_prompts

    return read_prompts(source)


def _text(entry: Entry, prompt: Prompt, item: Mapping, options: Optional[Sequence[str]]) -> str:
    return prompt.template if is_encoder(entry) else prompt.text(item["question"], options)


def _way(
    entry: Entry, item: Mapping, prompts: Mapping[str, Prompt], shots: Any, examples: int, seed: int
) -> dict[str, Any]:
    """What a record says of a strategy; nothing for a question that stands alone."""
    if entry.strategy == "zero_shot":
        return {}
    way: dict[str, Any] = {"strategy": entry.strategy}
    if STRATEGIES[entry.strategy].examples:
        way["examples"] = draw_examples(item, shots, examples, seed)
        way["example_prompt"] = _own(entry, prompts)["answer_open"].text(question=item["question"])
    return way


def weights_of(entry: Entry) -> str:
    """Where the weights of a row that the run did not train come from: checkpoint, and address or library."""
    one = entry.system
    if one is None or one.kind == "chat":
        return str(entry.checkpoint)
    return f"{entry.checkpoint} at {one.url}" if one.kind == "endpoint" else f"{one.library}: {one.checkpoint}"


def is_encoder(entry: Entry) -> bool:
    """Whether it compares pictures with sentences, and so chooses among names in place of writing one."""
    return entry.system is not None and entry.system.kind == "encoder"


def check_orders(orders: Sequence[str]) -> None:
    """Refuse orders (UserError) that are not known, stand twice or leave out "shuffled", the main reading."""
    if set(orders) - set(OPTION_ORDERS) or "shuffled" not in orders or len(set(orders)) != len(orders):
        raise UserError(f"option_orders is [{', '.join(orders)}]: give some of {', '.join(OPTION_ORDERS)}, "
                        "each once, and 'shuffled' among them: the main table and rotations are read from it")


def all_requests(
    entry: Entry, items: Sequence[Mapping], orders: Sequence[str], *, seed: int, **options: Any
) -> list[list[dict]]:
    """What is asked of one model in all: a list for each order of the closed world, then the open world's.

    An encoder is asked to choose among all labels in place of the open world. Where several answers are drawn
    for each question the closed world has its shuffled order alone.

    Args:
        orders: some of `OPTION_ORDERS`, each once; "shuffled" is the main reading and must be among them.
        options: prompts, shots, examples, labels of `build_requests`.

    Raises:
        UserError: orders that are not so.
    """
    check_orders(orders)
    ask = partial(build_requests, entry, items, seed=seed, **options)
    orders = ["shuffled"] if entry.samples > 1 else orders
    last = "all_labels" if is_encoder(entry) else "open_world"
    return [*(ask("closed_world", order=order) for order in orders), ask(last)]


def always_first(items: Sequence[Mapping], orders: Sequence[str], seed: int) -> list[dict]:
    """What somebody answers who takes the first option of every closed-world question.

    Args:
        items: of `evaluation_items.select_items`.
        orders: some of `evaluation_requests.OPTION_ORDERS`.
        seed: of the shuffle.

    Returns:
        Records of the model "always_first" as `collect_records` gives them; they need no model and are made
        anew each time, never stored.
    """
    (model,) = CONTROLS
    control = Entry(model, "answer", None, CONTROLS[model].label)
    records = []
    for order in orders:
        for request in build_requests(control, items, "closed_world", order=order, seed=seed):
            request.pop("size")
            said = f"<answer>{request['options'][0]}</answer>"
            records.append({**request, "order_rule": rule_of(request), "completion": said, "tokens": 0,
                            "truncated": False})
    return records
