"""Chat messages into model inputs, each distinct image processed once; and how large an image may be.

    [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "..."}]}]
        -> Encoded(ids=[...], pixels=(patches, 1176), grid=(images, 3))

A smaller image is enlarged to `min_pixels`, a larger one reduced to `max_pixels`, and both sides are rounded
to 28 pixels; 28 x 28 pixels are one image token. The checkpoints' own bounds are 3,136 and 12,845,056 pixels.
Source: transformers' Qwen2_5_VLProcessor and Qwen2VLImageProcessor, whose behaviour this reproduces.
"""

import sys
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.faces import Later
from finer1_lib.core.files import read_json
from finer1_lib.models.checkpoint_files import loading, read_object

torch, transformers = Later("torch"), Later("transformers")
CACHE_BYTES = 256 * 2**20  # pixel tensors kept; an image of 1280 tokens takes 24 MB
LINES = 10**6  # of template code for one conversation; the longest of the published ones takes some hundreds
OWN = "use the chat_template.jinja that belongs to the model"
TRAINING, KEY = "training.json", "pixels"  # the bounds of a training, beside its weights


class Encoded(NamedTuple):
    ids: list[int]  # image placeholders expanded
    pixels: "Optional[torch.Tensor]"  # (patches, features) of all its images one after another; None without
    grid: "Optional[torch.Tensor]"  # (images, 3): time, height and width in patches


class Encoder:
    """Encodes prompts as their Qwen2_5_VLProcessor would, at less cost: the last images' pixels are kept."""

    def __init__(self, processor: Any, cache_bytes: int = CACHE_BYTES) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self._budget, self._held = cache_bytes, 0
        self._images: OrderedDict[Any, tuple] = OrderedDict()  # the least recently used first

    def __call__(self, messages: Sequence[dict], add_generation_prompt: bool = True) -> Encoded:
        """Encode one conversation. Raises: ValueError: the text itself holds image placeholders."""
        text, pixels, grid = self.render(messages, add_generation_prompt)
        return Encoded(self.tokenizer(text, add_special_tokens=False)["input_ids"], pixels, grid)

    def render(self, messages: Sequence[dict], add_generation_prompt: bool = True) -> tuple:
        """(text with every placeholder expanded, pixels or None, grid or None) of one conversation."""
        with bounded(self.tokenizer.name_or_path):
            text = self.processor.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt)
        contents = [message["content"] for message in messages if not isinstance(message["content"], str)]
        images = [self.picture(part["image"]) for parts in contents for part in parts
                  if part["type"] == "image"]
        mark, merge = self.processor.image_token, self.processor.image_processor.merge_size**2
        pieces = text.split(mark)
        if len(pieces) != len(images) + 1:
            raise ValueError(f"{len(images)} images but {len(pieces) - 1} times {mark!r} in the prompt")
        for i, (_, grid) in enumerate(images):
            pieces[i] += mark * (int(grid.prod()) // merge)
        if len(images) > 1:
            images = [tuple(map(torch.cat, zip(*images)))]
        # of one image the very tensors: features kept for an image's pixels are found again
        return ("".join(pieces), *(images[0] if images else (None, None)))

    def completion(self, text: str) -> list[int]:
        """Token ids of an assistant turn: the text and the token that ends it."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] + [self.tokenizer.eos_token_id]

    def picture(self, image: Any) -> tuple:
        """(pixels (patches, features), grid (1, 3)) of a PIL image or an `ImageFile`."""
        file = isinstance(image, tuple)  # an ImageFile, or another name that `open`s an image
        key = image if file else id(image)
        if key not in self._images:
            opened = image.open() if file else image.convert("RGB")
            inputs = self.processor.image_processor(images=[opened], return_tensors="pt")
            pixels, grid = inputs["pixel_values"], inputs["image_grid_thw"]
            # The image itself is kept beside its pixels: while it lives, no other object can take its id.
            self._images[key] = (pixels, grid, image)
            self._held += pixels.nbytes
            while self._held > self._budget and len(self._images) > 1:
                self._held -= self._images.popitem(last=False)[1][0].nbytes
        self._images.move_to_end(key)
        return self._images[key][:2]


@contextmanager
def bounded(where: Any) -> Iterator[None]:
    """A UserError where a chat template fails or takes more than `LINES` lines: jinja2 has no limit."""
    left = LINES

    def count(frame: Any, event: str, value: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != "<template>":
            return None
        left -= 1
        if left < 0:
            raise UserError(f"{where}: its chat template does not end; {OWN}")
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        with loading(where, "render the chat template of", OWN):
            yield
    finally:
        sys.settrace(before)


def pad(rows: Sequence[Sequence[int]], value: int, side: str) -> "tuple[torch.Tensor, torch.Tensor]":
    """(B, L) int64 ids, filled with `value` on `side` ("left", "right"), and the int64 mask of real ones."""
    whole = [torch.tensor(row, dtype=torch.long) for row in rows]
    ones = [torch.ones_like(row) for row in whole]
    fill = torch.nn.utils.rnn.pad_sequence
    return tuple(fill(part, batch_first=True, padding_value=filling, padding_side=side)
                 for part, filling in ((whole, value), (ones, 0)))


def vision_inputs(rows: Sequence, ids: "torch.Tensor", image_token_id: int) -> dict[str, Any]:
    """The model's inputs of a batch; {} without images. No token types would silently mean 1-D positions."""
    seeing = [row for row in rows if row.pixels is not None]
    if not seeing:
        return {}
    return {"pixel_values": torch.cat([row.pixels for row in seeing]).to(ids.device),
            "image_grid_thw": torch.cat([row.grid for row in seeing]).to(ids.device),
            "mm_token_type_ids": (ids == image_token_id).int()}


def pixels_named(folder: Path) -> dict[str, int]:
    """Bounds that a checkpoint's folder names, else 0. Raises: UserError: not a whole number."""
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
    """Bound the size of images; 0 leaves a bound as it is. Raises: UserError: below one token, or crossed."""
    if not min_pixels and not max_pixels:
        return
    images, bounds = processor.image_processor, pixels_of(processor)
    token = (images.patch_size * images.merge_size) ** 2
    wanted = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    for name, value in wanted.items():
        if value and value < token:
            raise UserError(f"{name} is {value}: an image token is {token} pixels; give at least that, or 0"
                            " for the checkpoint's own")
        bounds[name] = value or bounds[name]
    if bounds["min_pixels"] > bounds["max_pixels"]:
        least, most = (f"{name} {value}" + ("" if wanted[name] else " (the checkpoint's own)")
                       for name, value in bounds.items())
        raise UserError(f"{least} is above {most}: set both")
    images.size = transformers.image_utils.SizeDict(
        shortest_edge=bounds["min_pixels"], longest_edge=bounds["max_pixels"])


def trained_with_other_pixels(folder: "str | Path", processor: Any) -> str:
    """A warning if the weights in a folder were trained with other bounds than the processor's; else ""."""
    trained, now = read_json(Path(folder) / TRAINING).get(KEY), pixels_of(processor)
    if trained in (None, now):
        return ""
    differing = ", ".join(f"{name} {trained.get(name)} then, {now[name]} now" for name in now
                          if trained.get(name) != now[name])
    return (f"warning: {Path(folder).name} was trained on images of another size ({differing}): set"
            " min_pixels and max_pixels as there, or its scores measure the change too")
