"""What is queried: every item in the closed world (four options) and the open world (none), of every model.

Options are shuffled for each item by a seed ("shuffled"). The order "release" has the truth first, as in all
35,566 questions of the release, where the policy "always the first option" scores 100 %. "rotations" also
asks A B C D (shuffled) as B C D A, C D A B and D A B C, and an item counts only if all four are right.

The shuffle of an official image depends on its data set and file name, the same wherever the images are; of
any other on its `item_id`, as in older records. Every shuffled record states which (`order_rule`). An
encoder, which does not write, chooses among all names of the super-category in place of the open world
("all_labels").

Source: release eval/evaluation.py:95-97 (the options as stored).
"""

import hashlib
import random
from functools import cache, partial
from pathlib import Path
from typing import Any, Iterable, Mapping, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import read_json
from finer1_lib.core.hashing import digest
from finer1_lib.core.prompts import PROMPTS, Prompt
from finer1_lib.data.data_sets.catalogue import DATA_SETS, image_name
from finer1_lib.evaluation.entries import Entry
from finer1_lib.evaluation.systems.encoders import encoder_prompt
from finer1_lib.evaluation.systems.strategies import STRATEGIES, draw_examples
from finer1_lib.evaluation.worded_prompts import read_prompts
from finer1_lib.runs.fingerprints import parameters_of
from finer1_lib.training.methods import CONTROLS


def select_items(items: Iterable[Mapping], images: Any, *, images_per_class: int, seed: int,
                 budget: int = 0) -> list[dict]:
    """The items to evaluate, with the image's width and height (pixels) for batching.

    `images_per_class` limits the test images of each sub-category (drawn by seed), `budget` the items in all;
    0 takes all. A budget is stratified: every super-category, seen and unseen, gives an equal share (or all
    it has), taken at equal distances along its sub-categories from a start drawn by the seed. So a stratum's
    mean is unbiased; its clustered interval ignores that strata are finite and is conservative.
    Raises: UserError: a negative number, a budget below one item a stratum, no items, no image of an item.
    """
    for name, value in (("images_per_class", images_per_class), ("items_budget", budget)):
        if value < 0:
            raise UserError(f"{name} is {value}: give 0 for all, or a positive number")
    sizes = dict(zip(images["image_id"], zip(map(int, images["width"]), map(int, images["height"]))))
    classes: dict[tuple, list[dict]] = {}
    for item in items:
        if item["image_id"] not in sizes:
            raise UserError(f"items.jsonl asks for {item['image_id']}, which images.parquet lacks: run 01_data again")
        sized = {**item, **dict(zip(("width", "height"), sizes[item["image_id"]]))}
        classes.setdefault((item["super_category"], item["sub_category"]), []).append(sized)
    if not classes:
        raise UserError("items.jsonl holds no items: run 01_data again")
    chosen = []
    for key, members in sorted(classes.items()):
        members.sort(key=lambda item: item["item_id"])
        random.Random(f"{seed}/evaluation/{'/'.join(key)}").shuffle(members)
        chosen += members[: images_per_class or None]
    if budget and budget < len(chosen):
        chosen = _subset(chosen, budget, seed)
    return sorted(chosen, key=lambda item: item["item_id"])


def names_of(images: Any) -> dict[str, list[str]]:
    """{super_category: all its sub-categories, sorted}, of the rows of images.parquet."""
    found = images.groupby("super_category")["sub_category"].unique()
    return {word: sorted(names) for word, names in found.items()}


def _subset(items: Sequence[dict], budget: int, seed: int) -> list[dict]:
    """Items in equal shares of the strata (the others give what a small one lacks), evenly spaced in each."""
    strata: dict[tuple, list[dict]] = {}
    for item in items:
        strata.setdefault((item["super_category"], item["categories"]), []).append(item)
    if budget < len(strata):
        raise UserError(f"items_budget is {budget}: give 0 for all, or at least {len(strata)}, one for each "
                        "super-category's seen and unseen")
    found, left = [], budget
    smallest_first = sorted(sorted(strata.items()), key=lambda stratum: len(stratum[1]))
    for place, (key, members) in enumerate(smallest_first):
        share = min(left // (len(strata) - place), len(members))
        left -= share
        start = random.Random(f"{seed}/budget/{'/'.join(key)}").random()
        found += [members[int((start + k) * len(members) / share)] for k in range(share)]
    return found


def coverage(data: Mapping[str, Any], images_per_class: int = 0, items_budget: int = 0) -> str:
    """The line of a partial run's tables, by its 01_data/data.json; "" for all six data sets, or for other data.

    data: `data_sets`, {word: {"complete": bool, "split": "release" or "seeded"}}, and `missing`, {word: why};
    both absent or empty for other data.
    """
    held, missing = data.get("data_sets") or {}, data.get("missing") or {}
    cut = [word for word, one in held.items() if not one["complete"]]
    own = [word for word, one in held.items() if one["split"] != "release"]
    few = held if len(held) < len(DATA_SETS) else ()
    named = {f"{len(held)} of the paper's {len(DATA_SETS)} data sets ({{}})": few, "missing: {}": missing,
             "not all images of {}": cut, "not the release's seen and unseen in {}": own}
    shown = [text.format(", ".join(sorted(words))) for text, words in named.items() if words]
    if images_per_class:
        shown.append(f"{images_per_class} test images of each sub-category at most")
    if items_budget:
        shown.append(f"{items_budget} test images at most, a stratified subset")
    return f"PARTIAL: {'; '.join(shown)}" if held and shown else ""


def coverage_of(run_dir: "str | Path") -> str:
    """The same for a run; "" before 01 has finished."""
    values = [parameters_of(Path(run_dir) / stage) for stage in ("01_data", "04_evaluation")]
    limits = [found for one in values if (found := one.get("images_per_class", 0))]
    budget = values[-1].get("items_budget", 0)
    return coverage(read_json(Path(run_dir) / "01_data" / "data.json"), min(limits, default=0), budget)


SETTINGS = {"closed_world": "closed", "open_world": "open"}  # setting -> ending of its prompts' names
OPTION_ORDERS = ("shuffled", "release", "rotations")
COPIED = ("item_id", "image_id", "super_category", "sub_category", "categories")
FILE_RULE, ITEM_RULE = "release_file", "item_id"  # what a shuffle depends on, beside the seed
_worded = cache(read_prompts)


def shown_options(item: Mapping, order: str, seed: int, rotation: int = 0) -> list[str]:
    """The four names in the order a model sees them; `item["options"]` has the truth first.

    "shuffled" depends on `seed` and `image_name` alone, whatever the other items are; `rotation` rotates the
    order by so many places (0 of "rotations" is "shuffled").
    """
    if order not in OPTION_ORDERS:
        raise UserError(f"option_orders: {order!r} is not one of {', '.join(OPTION_ORDERS)}")
    options = list(item["options"])
    if order != "release":
        key = hashlib.sha256(f"{seed}/{image_name(item)}".encode()).digest()
        random.Random(int.from_bytes(key[:8], "big")).shuffle(options)
    return options[rotation:] + options[:rotation]


def build_requests(entry: Entry, items: Sequence[Mapping], setting: str, *, order: str = "shuffled",
                   seed: int = 0, prompts: Mapping[str, Prompt] = PROMPTS, shots: Any = None,
                   examples: int = 4, labels: Mapping[str, Sequence[str]] = {}) -> list[dict]:
    """The requests to one model in one setting: records without their completions.

    items: of `select_items`. setting: a key of `SETTINGS`, or "all_labels" for encoders, which need labels,
    {super_category: its sub-categories}; their hash is in its records. The order "rotations" queries every
    item once for each rotation but the first, which is the shuffled question. shots: of
    `strategies.shots_of`, for `examples` in-context examples. Raises: UserError: no labels of a
    super-category, or too few shots.
    """
    closed, strategy = setting == "closed_world", STRATEGIES.get(entry.strategy)
    hashes = _label_hashes(items, labels) if setting == "all_labels" else {}
    if entry.system is not None and entry.system.prompts_from:  # a system may name other wordings
        prompts = {**prompts, **_worded(entry.system.prompts_from)}
    draws = [{"sample": sample, "samples": entry.samples} for sample in range(entry.samples)]
    requests = []
    for item in items:
        word = item["super_category"]
        name = entry.prompts if is_encoder(entry) else f"{entry.prompts}_{SETTINGS[setting]}"
        prompt = encoder_prompt(name, word) if is_encoder(entry) else prompts[name]
        shown = strategy is not None and strategy.examples
        shared = {key: item[key] for key in COPIED}
        if item.get("release_path"):  # by which `official` guesses the super-category
            shared["release_path"] = item["release_path"]
        more = {  # those that are there; weights where the name does not state whose answer it is
            "strategy": entry.strategy if strategy else None,
            "examples": draw_examples(item, shots, examples, seed) if shown else None,
            "example_prompt": prompts["answer_open"].text(question=item["question"]) if shown else None,
            "weights": weights_of(entry) if entry.checkpoint else None, "labels_hash": hashes.get(word),
            "lettered": True if closed and prompt.lettered else None}
        more = {name: value for name, value in more.items() if value is not None}
        for rotation in range(1, len(item["options"])) if closed and order == "rotations" else [0]:
            options = shown_options(item, order, seed, rotation) if closed else None
            request = {
                **shared, "model": entry.model, "setting": setting, "prompt_name": name,
                "prompt": prompt.template if is_encoder(entry) else prompt.text(item["question"], options),
                "prompt_hash": prompt.hash, "options": options, "option_order": order if closed else None,
                "rotation": rotation, "seed": seed, "size": [item["width"], item["height"]], **more,
            }
            requests += [{**request, **draw} for draw in draws] if entry.samples > 1 else [request]
    return requests


def rule_of(request: Mapping) -> Optional[str]:
    """What the options of a request or a record are shuffled by; None where they are not."""
    if "order_rule" in request or not request.get("options") or request["option_order"] == "release":
        return request.get("order_rule")
    return FILE_RULE if request.get("release_path") else ITEM_RULE


def _label_hashes(items: Sequence[Mapping], labels: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """{super_category: hash of its names}: an answer counts among these names alone."""
    words = {item["super_category"] for item in items}
    if words - set(labels):
        raise UserError(f"no sub-categories of {min(words - set(labels))!r} to choose from: give an encoder"
                        " the labels of every super-category that is queried")
    return {word: digest(sorted(set(labels[word])))[:12] for word in words}


def weights_of(entry: Entry) -> str:
    """Where the weights of a row that the run did not train come from: checkpoint, and address or library."""
    one = entry.system
    if one is None or one.kind == "chat":
        return str(entry.checkpoint)
    return f"{entry.checkpoint} at {one.url}" if one.kind == "endpoint" else f"{one.library}: {one.checkpoint}"


def is_encoder(entry: Entry) -> bool:
    """Whether it compares images with sentences, and so chooses among names in place of writing one."""
    return entry.system is not None and entry.system.kind == "encoder"


def check_orders(orders: Sequence[str]) -> None:
    """Refuse orders (UserError) that are unknown, repeated, or without "shuffled", the main reading."""
    if set(orders) - set(OPTION_ORDERS) or "shuffled" not in orders or len(set(orders)) != len(orders):
        raise UserError(f"option_orders is [{', '.join(orders)}]: give some of {', '.join(OPTION_ORDERS)}, "
                        "each once, and 'shuffled' among them: the main table and rotations are read from it")


def all_requests(entry: Entry, items: Sequence[Mapping], orders: Sequence[str], *, seed: int,
                 **options: Any) -> list[list[dict]]:
    """All requests to one model: a list for each order of the closed world, then the open world's (an encoder's:
    among all labels). Where several answers are drawn for a question, the closed world is shuffled alone.

    options: prompts, shots, examples, labels of `build_requests`. UserError: see `check_orders`.
    """
    check_orders(orders)
    build = partial(build_requests, entry, items, seed=seed, **options)
    orders = ["shuffled"] if entry.samples > 1 else orders
    last = "all_labels" if is_encoder(entry) else "open_world"
    return [*(build("closed_world", order=order) for order in orders), build(last)]


def record_of(request: Mapping, completion: str, tokens: int, truncated: bool) -> dict:
    """A request, answered."""
    known = {key: value for key, value in request.items() if key != "size"}
    return {**known, "order_rule": rule_of(request), "completion": completion, "tokens": tokens,
            "truncated": bool(truncated)}


def always_first(items: Sequence[Mapping], orders: Sequence[str], seed: int) -> list[dict]:
    """The control "always the first option": records as `collect_records` gives them, made without a model.

    It never sees the image. With the truth first it is right every time; shuffled one time in four; under all
    four rotations never. What a model gains over it is not explained by the order of the options.
    """
    ((model, row),) = CONTROLS.items()
    return [record_of(request, f"<answer>{request['options'][0]}</answer>", 0, False) for order in orders
            for request in build_requests(Entry(model, "answer", None, row.label), items, "closed_world", order=order,
                                          seed=seed)]
