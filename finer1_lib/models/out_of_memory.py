"""Out of memory: one line that names the next fallback, in place of a traceback.

    with memory_advice("training", loaded, micro_batch_size=16, divides=64, max_new_tokens=384):
        trainer.train()

    the GPU's memory (14.6 GiB) ran out in training: set micro_batch_size to 8 (now 16)
"""

import traceback
from contextlib import contextmanager
from typing import Any, Iterator, NamedTuple, Optional

from finer1_lib.core.errors import UserError
from finer1_lib.core.faces import Later
from finer1_lib.models.encoding import pixels_of
from finer1_lib.models.trainable import LoadedModel

torch = Later("torch")
FEWEST_PIXELS = 64 * 28 * 28  # 64 image tokens: below, a bird's marks are gone
MOST_PIXELS = 1280 * 28 * 28  # the release's own bound: first of all no image above it
SHORTEST = 128  # tokens that four parts and a name need at the least
HOW = {  # {} is the value, "8 (now 16)"; of any other parameter: set NAME to {}
    "prompts": "set the prompts at a time (batch_size in 04, 05; generation_batch_size in 02, 03) to {}",
    "gradient_checkpointing": "set gradient_checkpointing to {}; the same numbers, about a third slower",
    "max_pixels": "set max_pixels to {}; in every notebook of the run alike",
    "max_new_tokens": "set max_new_tokens to {}; rationales must then be shorter too, or are cut off",
    "finetuning": "set finetuning to {} in 02_cot_sft; adapters in place of all weights",
    "": "nothing is left to make smaller but the model: take a smaller checkpoint, or a GPU with more memory"}


class Fallback(NamedTuple):
    name: str  # the parameter
    value: Any  # to try next


@contextmanager
def memory_advice(doing: str, loaded: Optional[LoadedModel] = None, *, final: bool = True,
                  **now: Any) -> Iterator[None]:
    """Turn running out of memory inside the block into one line (UserError).

    `now` are the current values of `next_fallback`, with those of `loaded`. Unless `final`, the error is
    raised again if nothing is left but a smaller model, for a block around this one that knows more. In
    Jupyter restart the kernel before a smaller try: tensors held by the caller stay.
    """
    try:
        yield
    except Exception as error:
        words = ("can't allocate memory", "out of memory", "ALLOC_FAILED")  # of CUDA and its libraries
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not (
                isinstance(error, RuntimeError) and any(word in str(error) for word in words)):
            raise
        if loaded is not None:
            now = dict(
                max_pixels=pixels_of(loaded.processor)["max_pixels"],
                load_in_4bit=bool(getattr(loaded.model, "is_loaded_in_4bit", False)),
                can_4bit=loaded.device.startswith("cuda") and not loaded.full_finetuning,
                finetuning="full" if loaded.trainable is not None and loaded.trainable.full else "lora",
                gradient_checkpointing=loaded.backend == "unsloth" or loaded.gradient_checkpointing) | now
        name, value = next_fallback(**now) or ("", None)
        if not name and not final:
            raise
        memory = "the computer's memory"
        if torch.cuda.is_available():
            memory = f"the GPU's memory ({torch.cuda.get_device_properties(0).total_memory / 2**30:.1f} GiB)"
        new = "true" if value is True else f"{value} (now {now[name]})" if name in now else value
        traceback.clear_frames(error.__traceback__)  # they hold the tensors that took the room
        how = HOW.get(name, f"set {name} to {{}}").format(new)
        raise UserError(f"{memory} ran out in {doing}: {how}") from None


def next_fallback(*, micro_batch_size: int = 1, divides: int = 0, prompts: int = 1, training: bool = False,
                  gradient_checkpointing: bool = True, max_pixels: int = 0, max_new_tokens: int = 0,
                  load_in_4bit: bool = False, can_4bit: bool = False,
                  finetuning: str = "lora") -> Optional[Fallback]:
    """The first fallback that is left; None where only a smaller model or a larger GPU is.

    `micro_batch_size` must divide `divides`; `prompts` are generated together; 0 is not a parameter. They go
    from what costs nothing but time to what changes the experiment.
    """
    whole = divides or micro_batch_size
    fitting = max((size for size in range(1, micro_batch_size) if whole % size == 0), default=1)
    fallbacks = (
        (prompts > 1, "prompts", prompts // 2),
        (micro_batch_size > 1, "micro_batch_size", fitting),
        (training and not gradient_checkpointing, "gradient_checkpointing", True),
        (max_pixels > FEWEST_PIXELS, "max_pixels", min(MOST_PIXELS, max(FEWEST_PIXELS, max_pixels // 2))),
        (max_new_tokens > SHORTEST, "max_new_tokens", max(SHORTEST, max_new_tokens // 2)),
        (training and finetuning == "full", "finetuning", "lora"),
        (can_4bit and not load_in_4bit, "load_in_4bit", True),
    )
    return next((Fallback(name, value) for left, name, value in fallbacks if left), None)
