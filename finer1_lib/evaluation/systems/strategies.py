"""Ways to ask any model that chats: zero-shot, think step by step, in-context examples, self-consistency.

    zero_shot         the question alone
    step_by_step      the question, "think step by step", then the name
    in_context        k pictures with their names as earlier turns, then the question
    self_consistency  k answers drawn at a temperature; the commonest counts, pass@k tells what was in reach

Examples are the training's shots of the same super-category, never of a sub-category that is among the item's
options: else the answer could be read off the context, or an option be ruled out by it. They are drawn by seed
and item, the same ones in both settings and for every model.
"""

import random
from typing import TYPE_CHECKING, Any, Mapping, NamedTuple, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.images import ImageFile
from finer1_lib.core.prompts import user_message
from finer1_lib.data.data_sets.catalogue import image_name

if TYPE_CHECKING:
    import pandas

Shots = dict[str, dict[str, list[str]]]  # super-category -> sub-category -> image ids


class Strategy(NamedTuple):
    """One way to ask.

    Attributes:
        label: words that follow a model's label in tables.
        prompts: kind of prompt in place of the row's own; "" keeps that.
        examples: whether examples stand before the question.
        samples: whether several answers are drawn.
    """

    label: str
    prompts: str = ""
    examples: bool = False
    samples: bool = False


STRATEGIES: Mapping[str, Strategy] = {
    "step_by_step": Strategy("step by step", prompts="step"),
    "in_context": Strategy("with examples", prompts="answer", examples=True),
    "self_consistency": Strategy("self-consistency", samples=True),
}


def draw_examples(item: Mapping, shots: Shots, count: int, seed: int) -> list[list[str]]:
    """[image_id, name] of `count` shots for one item, each of another sub-category.

    Args:
        item: with item_id, super_category, sub_category, options.
        shots: of `shots_of`.
        count: of examples.
        seed: of the draw.

    Raises:
        UserError: fewer sub-categories than that beside the item's options.
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
    """The chat messages of one request: its examples as turns that were answered, then picture and prompt.

    Args:
        request: of `evaluation_requests.build_requests`; `examples` and `example_prompt` where there are any.
        image_root: folder that image ids are relative to; pictures are opened when they are encoded.
    """
    turns = []
    for image_id, name in request.get("examples", ()):
        turns += user_message(request["example_prompt"], ImageFile(str(image_root), image_id))
        turns.append({"role": "assistant", "content": [{"type": "text", "text": f"<answer>{name}</answer>"}]})
    return turns + user_message(request["prompt"], ImageFile(str(image_root), request["image_id"]))


def draw_seed(seed: int, batch: Sequence[Mapping]) -> int:
    """The seed of one batch's sampling: by the run's seed and by whom it asks about what."""
    from finer1_lib.core.hashing import digest

    asked = [[request.get("model"), request.get("setting"), image_name(request), request.get("sample")]
             for request in batch]
    return int(digest([seed, asked])[:12], 16)
