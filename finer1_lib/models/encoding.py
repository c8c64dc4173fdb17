"""Chat messages into model inputs, each distinct picture and text processed once.

A training step scores one question under 8 rollouts and two pictures; calling the processor for each would
cost more than the model's own forward on a CPU. The encoder renders the chat template, expands each image
placeholder to the picture's number of tokens, and remembers what it has seen. Its result equals the
processor's own (a test compares).

    [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "..."}]}]
        -> Encoded(ids=[...], pixels=(patches, 1176), grid=(images, 3))

A picture is a PIL image or an `ImageFile`, which is opened when it is needed.

Source: transformers' Qwen2_5_VLProcessor, whose behaviour this reproduces.

How large a picture may be: the fewest and the most pixels that a processor lets through.

    set_pixels(processor, 0, 256 * 28 * 28)   # 256 image tokens at most; 0 leaves the checkpoint's own bound
    pixels_of(processor)                      # {"min_pixels": 3136, "max_pixels": 200704}
    told_apart(folder, processor)             # one line where what lies in `folder` was trained with others

A smaller picture is enlarged to the one, a larger one reduced to the other, its proportions kept, and both
sides are rounded to 28 pixels; 28 x 28 pixels are one image token.

Source: transformers' Qwen2VLImageProcessor; data.md 4.1 (the checkpoints' own bounds: 3,136 and 12,845,056
pixels; the release trains with 200,704 and 1,003,520).
"""

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import read_json
from finer1_lib.models.chat_templates import bounded
from finer1_lib.models.checkpoint_files import read_object

if TYPE_CHECKING:
    import torch

CACHE_BYTES = 256 * 2**20  # pixel tensors kept; a picture of 1280 tokens takes 24 MB


class Encoded(NamedTuple):
    """One prompt.

    Attributes:
        ids: token ids with image placeholders expanded.
        pixels: (patches, features) of all its images one after another, or None.
        grid: (images, 3) time, height, width in patches, or None.
    """

    ids: list[int]
    pixels: "Optional[torch.Tensor]"
    grid: "Optional[torch.Tensor]"


class Encoder:
    """Encodes prompts for one processor and keeps the last pictures' pixels (least recently used go first).

    Args:
        processor: a Qwen2_5_VLProcessor.
        cache_bytes: upper bound of the pixels kept.
    """

    def __init__(self, processor: Any, cache_bytes: int = CACHE_BYTES) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self._budget, self._held = cache_bytes, 0
        self._pictures: OrderedDict[Any, tuple] = OrderedDict()

    def __call__(self, messages: Sequence[dict], add_generation_prompt: bool = True) -> Encoded:
        """Encode one conversation.

        Raises:
            ValueError: the text itself holds image placeholders.
        """
        text, pixels, grid = self.render(messages, add_generation_prompt)
        return Encoded(self.tokenizer(text, add_special_tokens=False)["input_ids"], pixels, grid)

    def render(self, messages: Sequence[dict], add_generation_prompt: bool = True) -> tuple:
        """(text with every placeholder expanded, pixels or None, grid or None) of one conversation."""
        import torch

        with bounded(self.tokenizer.name_or_path):
            text = self.processor.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt)
        contents = [message["content"] for message in messages if not isinstance(message["content"], str)]
        images = [part["image"] for parts in contents for part in parts if part["type"] == "image"]
        pictures = [self.picture(image) for image in images]
        mark = self.processor.image_token
        pieces = text.split(mark)
        if len(pieces) != len(pictures) + 1:
            raise ValueError(f"{len(pictures)} images but {len(pieces) - 1} times {mark!r} in the prompt")
        if not pictures:
            return text, None, None
        merge = self.processor.image_processor.merge_size**2
        for i, (_, grid) in enumerate(pictures):
            pieces[i] += mark * (int(grid.prod()) // merge)
        if len(pictures) == 1:  # the very tensors: what is kept for a picture's pixels is found again
            return ("".join(pieces), *pictures[0])
        return "".join(pieces), torch.cat([p for p, _ in pictures]), torch.cat([g for _, g in pictures])

    def completion(self, text: str) -> list[int]:
        """Token ids of an assistant turn: the text and the token that ends it."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] + [self.tokenizer.eos_token_id]

    def picture(self, image: Any) -> tuple:
        """(pixels (patches, features), grid (1, 3)) of a picture, from the cache if it was seen before."""
        file = isinstance(image, tuple)  # an ImageFile, or another name of a picture that `open`s it
        key = image if file else id(image)
        if key in self._pictures:
            self._pictures.move_to_end(key)
            return self._pictures[key][:2]
        opened = image.open() if file else image.convert("RGB")
        inputs = self.processor.image_processor(images=[opened], return_tensors="pt")
        pixels, grid = inputs["pixel_values"], inputs["image_grid_thw"]
        size = pixels.numel() * pixels.element_size()
        # The image itself is kept beside its pixels: while it lives, no other object can take its id.
        self._pictures[key] = (pixels, grid, image, size)
        self._held += size
        while self._held > self._budget and len(self._pictures) > 1:
            self._held -= self._pictures.popitem(last=False)[1][3]
        return pixels, grid


def pad(rows: Sequence[Sequence[int]], value: int, side: str) -> "tuple[torch.Tensor, torch.Tensor]":
    """Rows of ids of unequal lengths as one tensor.

    Returns:
        (B, L) int64 ids filled up with `value` on `side` ("left" or "right"), and the (B, L) int64 mask of
        real ids.
    """
    import torch

    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), value, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
        ids[i, place] = torch.tensor(row, dtype=torch.long)
        mask[i, place] = 1
    return ids, mask


def vision_inputs(rows: Sequence, ids: "torch.Tensor", image_token_id: int) -> dict[str, Any]:
    """The keyword arguments that carry the pictures of a batch.

    Args:
        rows: objects with `pixels` and `grid` (None for text alone), in the batch's order.
        ids: (B, L) padded ids; the token types are rebuilt from these, because transformers falls back to
            plain 1-D positions, silently, where they are missing.

    Returns:
        pixel_values, image_grid_thw and mm_token_type_ids on the device of `ids`; {} if no row has a picture.
    """
    import torch

    pictured = [row for row in rows if row.pixels is not None]
    if not pictured:
        return {}
    return {
        "pixel_values": torch.cat([row.pixels for row in pictured]).to(ids.device),
        "image_grid_thw": torch.cat([row.grid for row in pictured]).to(ids.device),
        "mm_token_type_ids": (ids == image_token_id).int(),
    }


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


def trained_with_other_pixels(folder: "str | Path", processor: Any) -> str:
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
