"""Strategies for any model that chats: zero-shot, think step by step, in-context examples, self-consistency.

    zero_shot         the question alone
    step_by_step      the question, "think step by step", then the name
    in_context        k images with their names as earlier turns, then the question
    self_consistency  k answers drawn at a temperature; the most frequent one counts, pass@k shows what was possible

Examples are the training's shots of the same super-category, never of a sub-category that is among the item's
options: else the context could give the answer away, or exclude an option. They are drawn by seed
and item, the same ones in both settings and for every model.
"""

import random
from typing import TYPE_CHECKING, Any, Mapping, NamedTuple, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.hashing import digest
from finer1_lib.core.images import ImageFile
from finer1_lib.core.prompts import user_message
from finer1_lib.data.data_sets.catalogue import image_name

if TYPE_CHECKING:
    import pandas

Shots = dict[str, dict[str, list[str]]]  # super-category -> sub-category -> image ids


class Strategy(NamedTuple):
    """One way to query a model."""

    label: str  # follows a model's label in tables
    prompts: str = ""  # kind of prompt in place of the row's; "" keeps that
    examples: bool = False  # whether examples precede the question
    samples: bool = False  # whether several answers are drawn


STRATEGIES: Mapping[str, Strategy] = {
    "step_by_step": Strategy("step by step", prompts="step"),
    "in_context": Strategy("with examples", prompts="answer", examples=True),
    "self_consistency": Strategy("self-consistency", samples=True),
}


def draw_examples(item: Mapping, shots: Shots, count: int, seed: int) -> list[list[str]]:
    """[image_id, name] of `count` shots (of `shots_of`) for one item, each of another sub-category.

    Raises: UserError: fewer sub-categories than that beside the item's options.
    """
    offered = {item["sub_category"], *(item.get("options") or ())}
    here = shots.get(item["super_category"], {})
    names = [name for name in here if name not in offered]
    if count < 1 or count > len(names):
        raise UserError(f"examples is {count}: {item['super_category']!r} has shots of {len(names)} "
                        f"sub-categories beside the options of {item['sub_category']!r}; give a number from 1 "
                        "to that")
    draw = random.Random(f"{seed}/examples/{image_name(item)}")
    return [[draw.choice(here[name]), name] for name in draw.sample(names, count)]


def shots_of(images: "pandas.DataFrame") -> Shots:
    """The training shots among the rows of images.parquet, sorted."""
    taken = images[images["split"].eq("train") & images["shot"].ge(0)].sort_values("image_id")
    found: Shots = {}
    for (word, name), part in taken.groupby(["super_category", "sub_category"]):
        found.setdefault(word, {})[name] = part["image_id"].tolist()
    return found


def messages_for(request: Mapping, image_root: Any) -> list[dict]:
    """The chat messages of one request: its examples as answered turns, then image and prompt.

    Image ids are relative to `image_root`; images are opened when they are encoded.
    """
    turns = []
    for image_id, name in request.get("examples", ()):
        turns += user_message(request["example_prompt"], ImageFile(str(image_root), image_id))
        turns.append({"role": "assistant", "content": [{"type": "text", "text": f"<answer>{name}</answer>"}]})
    return turns + user_message(request["prompt"], ImageFile(str(image_root), request["image_id"]))


def draw_seed(seed: int, batch: Sequence[Mapping]) -> int:
    """The seed of one batch's sampling: by the run's seed and the batch's requests."""
    named = [[request.get("model"), request.get("setting"), image_name(request), request.get("sample")]
             for request in batch]
    return int(digest([seed, named])[:12], 16)
