"""How large a picture may be: the fewest and the most pixels that a processor lets through.

    set_pixels(processor, 0, 256 * 28 * 28)   # 256 image tokens at most; 0 leaves the checkpoint's own bound
    pixels_of(processor)                      # {"min_pixels": 3136, "max_pixels": 200704}
    told_apart(folder, processor)             # one line where what lies in `folder` was trained with others

A smaller picture is enlarged to the one, a larger one reduced to the other, its proportions kept, and both
sides are rounded to 28 pixels; 28 x 28 pixels are one image token.

Source: transformers' Qwen2VLImageProcessor; data.md 4.1 (the checkpoints' own bounds: 3,136 and 12,845,056
pixels; the release trains with 200,704 and 1,003,520).
"""

from pathlib import Path
from typing import Any

from finer1_lib.checkpoint_files import read_object
from finer1_lib.errors import UserError
from finer1_lib.files import read_json

TRAINING = "training.json"  # beside trained weights: what they were trained with
KEY = "pixels"  # in it


def pixels_named(folder: Path) -> dict[str, int]:
    """Bounds of an image's size that a checkpoint's folder names; 0 where it names none.

    Raises:
        UserError: one that is no whole number.
    """
    own: Any = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            found = read_object(folder / name)
            own = found.get("image_processor", found) or own
    size = own.get("size") or {} if isinstance(own, dict) else None
    if not isinstance(size, dict):
        raise UserError(f"{folder}: its processor names no sizes of images; copy or download it again")
    bounds = {"min_pixels": own.get("min_pixels") or size.get("shortest_edge") or 0,
              "max_pixels": own.get("max_pixels") or size.get("longest_edge") or 0}
    for name, value in bounds.items():
        if not isinstance(value, int):
            raise UserError(f"{folder}: its processor has {value!r} for {name}; give a whole number")
    return bounds


def pixels_of(processor: Any) -> dict[str, int]:
    """The bounds in force: {"min_pixels", "max_pixels"}."""
    size = processor.image_processor.size
    return {"min_pixels": int(size["shortest_edge"]), "max_pixels": int(size["longest_edge"])}


def set_pixels(processor: Any, min_pixels: int = 0, max_pixels: int = 0) -> None:
    """Bound the size of pictures; 0 leaves a bound as it is.

    Raises:
        UserError: a bound below one image token, or the lower one above the upper one.
    """
    if not min_pixels and not max_pixels:
        return
    from transformers.image_utils import SizeDict

    images, own = processor.image_processor, pixels_of(processor)
    token = (images.patch_size * images.merge_size) ** 2
    asked = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    for name, value in asked.items():
        if value and value < token:
            raise UserError(f"{name} is {value}: an image token is {token} pixels; give at least that, or 0"
                            " for the checkpoint's own")
    least, most = (asked[name] or own[name] for name in asked)
    if least > most:
        said = [f"{name} {value}" + ("" if asked[name] else " (the checkpoint's own)")
                for name, value in (("min_pixels", least), ("max_pixels", most))]
        raise UserError(f"{said[0]} is above {said[1]}: set both")
    images.size = SizeDict(shortest_edge=least, longest_edge=most)


def take_pixels(processor: Any, other: Any, min_pixels: int = 0, max_pixels: int = 0) -> None:
    """Give a processor another one's bounds wherever none is asked for.

    A checkpoint that was trained in full carries its training's bounds in its own processor; beside a base
    and its adapters it must see pictures of their size.
    """
    own = pixels_of(other)
    set_pixels(processor, min_pixels or own["min_pixels"], max_pixels or own["max_pixels"])


def told_apart(folder: "str | Path", processor: Any) -> str:
    """One line if the weights in a folder were trained with other bounds than the processor has now; else "".

    Also "" where the folder does not say.
    """
    trained, now = read_json(Path(folder) / TRAINING).get(KEY), pixels_of(processor)
    if trained in (None, now):
        return ""
    differing = ", ".join(f"{name} {trained.get(name)} then, {now[name]} now" for name in now
                          if trained.get(name) != now[name])
    return (f"warning: {Path(folder).name} was trained on pictures of another size ({differing}): set"
            " min_pixels and max_pixels as there, or its scores measure the change too")
