"""Out of memory: one line that names the next fallback, in place of a traceback.

    with memory_advice("training", loaded, micro_batch_size=16, divides=64, max_new_tokens=384):
        trainer.train()

    the GPU's memory (14.6 GiB) ran out in training: set micro_batch_size to 8 (now 16)

The fallbacks go from what costs nothing but time to what changes the experiment.
"""

import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Iterator, NamedTuple, Optional

from finer1_lib.core.errors import UserError
from finer1_lib.models.encoding import pixels_of

if TYPE_CHECKING:
    from finer1_lib.models.trainable import LoadedModel

FEWEST_PIXELS = 64 * 28 * 28  # 64 image tokens: below, a bird's marks are gone
MOST_PIXELS = 1280 * 28 * 28  # the release's own bound: first of all no image above it
SHORTEST = 128  # tokens that four parts and a name need at the least
BATCHES = {
    "micro_batch_size": "micro_batch_size",
    "prompts": "the prompts at a time (batch_size in 04 and 05, generation_batch_size in 02 and 03)",
}
REASONS = {
    "gradient_checkpointing": "; the same numbers, about a third slower",
    "max_pixels": "; in every notebook of the run alike",
    "max_new_tokens": "; longer completions are cut off, so rationales must be shorter too",
    "finetuning": " in 02_cot_sft; adapters in place of all weights",
}


class Fallback(NamedTuple):
    name: str  # the parameter
    value: Any  # to try next


@contextmanager
def memory_advice(
    doing: str, loaded: "Optional[LoadedModel]" = None, *, final: bool = True, **now: Any
) -> Iterator[None]:
    """Turn running out of memory inside the block into one line (UserError).

    `now` are the current values of `next_fallback`, with those of `loaded`. Unless `final`, the error is
    raised again if nothing is left but a smaller model, for a block around this one that knows more. In
    Jupyter restart the kernel before a smaller try: tensors held by the caller stay.
    """
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
        now = {**(settings_of(loaded) if loaded is not None else {}), **now}
        fallback = next_fallback(**now)
        if fallback is None and not final:
            raise
        line = f"{_memory()} ran out in {doing}: {_advice(fallback, now)}"
        traceback.clear_frames(error.__traceback__)  # they hold the tensors that took the room
        raise UserError(line) from None


def ran_out(error: BaseException) -> bool:
    """Whether an error says that a GPU, or the computer itself, has no memory left."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    words = ("can't allocate memory", "out of memory", "ALLOC_FAILED")  # of CUDA and its libraries
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def settings_of(loaded: "LoadedModel") -> dict[str, Any]:
    """What a model adds to the current values."""
    four = bool(getattr(loaded.model, "is_loaded_in_4bit", False))
    return dict(
        max_pixels=pixels_of(loaded.processor)["max_pixels"], load_in_4bit=four,
        can_4bit=loaded.device.startswith("cuda") and not loaded.full_finetuning,
        finetuning="full" if loaded.trainable is not None and loaded.trainable.full else "lora",
        gradient_checkpointing=True if loaded.backend == "unsloth" else loaded.gradient_checkpointing)


def next_fallback(
    *, micro_batch_size: int = 1, divides: int = 0, prompts: int = 1, training: bool = False,
    gradient_checkpointing: bool = True, max_pixels: int = 0, max_new_tokens: int = 0,
    load_in_4bit: bool = False, can_4bit: bool = False, finetuning: str = "lora",
) -> Optional[Fallback]:
    """The first fallback that is left; None where only a smaller model or a larger GPU is.

    `micro_batch_size` must divide `divides`; `prompts` are generated together; 0 is not a parameter.
    """
    if prompts > 1:
        return Fallback("prompts", prompts // 2)
    if micro_batch_size > 1:
        whole = divides or micro_batch_size
        return Fallback("micro_batch_size", max(d for d in range(1, micro_batch_size) if whole % d == 0))
    if training and not gradient_checkpointing:
        return Fallback("gradient_checkpointing", True)
    if max_pixels > FEWEST_PIXELS:
        return Fallback("max_pixels", min(MOST_PIXELS, max(FEWEST_PIXELS, max_pixels // 2)))
    if max_new_tokens > SHORTEST:
        return Fallback("max_new_tokens", max(SHORTEST, max_new_tokens // 2))
    if training and finetuning == "full":
        return Fallback("finetuning", "lora")
    return Fallback("load_in_4bit", True) if can_4bit and not load_in_4bit else None


def _advice(fallback: Optional[Fallback], now: dict[str, Any]) -> str:
    if fallback is None:
        return ("nothing is left to make smaller but the model: take a smaller checkpoint, or a GPU with more"
                " memory")
    name, value = fallback
    new = "true" if value is True else f"{value} (now {now[name]})" if name in now else value
    return f"set {BATCHES.get(name, name)} to {new}{REASONS.get(name, '')}"


def _memory() -> str:
    import torch

    if not torch.cuda.is_available():
        return "the computer's memory"
    return f"the GPU's memory ({torch.cuda.get_device_properties(0).total_memory / 2**30:.1f} GiB)"
