"""Checkpoints: a Qwen2.5-VL of any size, loaded by one call; trained by LoRA or in full; saved and merged.

    loaded = load("Qwen/Qwen2.5-VL-3B-Instruct")             # or owner/name@revision, or a folder
    loaded = make_trainable(loaded, Trainable("lora", rank=8, alpha=16), seed=0)
    save_trained(loaded, folder)                             # an adapter, or (full) a whole checkpoint
    loaded = load("Qwen/Qwen2.5-VL-3B-Instruct", folder)     # either of them
    save_merged(loaded, folder)                              # base and adapter as one checkpoint

`backend="unsloth"` gives the same object from Unsloth's FastVisionModel. It is taken only when asked for by
name: a model that came from another loader than the one named would make two runs look alike that are not.

`generate` (finer1_lib.generation), `score` (finer1_lib.policy), `pooled_states` (finer1_lib.hidden_states),
what trains (finer1_lib.trainable) and saves (finer1_lib.trained_weights) are named here too.

Source: paper section 5.1 (Qwen2.5-VL-3B / 7B-Instruct); the interface is our choice.
"""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any, Optional

from finer1_lib.chat_templates import check_processor
from finer1_lib.checkpoint_files import (
    check_checkpoint, check_trained, is_folder, loading, local_copy, split_revision,
)  # fmt: skip
from finer1_lib.checkpoint_weights import examine, load_model, refuse_bad_weights, vocabulary_of
from finer1_lib.errors import UserError, first_line
from finer1_lib.generation import Generation, generate, own_settings
from finer1_lib.hidden_states import pooled_states
from finer1_lib.out_of_memory import mended
from finer1_lib.pixel_budget import pixels_of, set_pixels, take_pixels, told_apart
from finer1_lib.policy import score_completions as score
from finer1_lib.precision import four_bits, pick_device, pick_dtype
from finer1_lib.trainable import Trainable, add_lora, has_trainable, make_trainable
from finer1_lib.trained_weights import (
    attach_adapter, load_trained, read_trainable, save_adapter, save_merged, save_trained,
)  # fmt: skip

__all__ = [
    "BACKENDS", "Generation", "LoadedModel", "Trainable", "add_lora", "attach_adapter", "generate",
    "has_trainable", "load", "load_processor", "load_trained", "make_trainable", "pixels_of", "pooled_states", "save_adapter",
    "save_merged", "save_trained", "score",
]  # fmt: skip

BACKENDS = ("transformers", "unsloth")


@dataclasses.dataclass
class LoadedModel:
    """A model ready to generate and to train.

    Attributes:
        model: Qwen2_5_VLForConditionalGeneration, inside a PeftModel when an adapter is attached.
        processor: its Qwen2_5_VLProcessor.
        device: "cpu", "cuda", ...
        backend: "transformers" or "unsloth".
        checkpoint: folder or Hub id (with its @revision) of the base weights, as given.
        adapter: folder of the trained weights, as given; None for none or for fresh ones.
        dtype: torch dtype that is computed in.
        full_finetuning: whether the weights themselves may be trained.
        trainable: which weights training changes; None until `make_trainable` or a trained folder decides.
        gradient_checkpointing: whether training keeps each layer's input alone and computes the rest anew.
    """

    model: Any
    processor: Any
    device: str
    backend: str
    checkpoint: str
    adapter: Optional[str] = None
    dtype: Any = None
    full_finetuning: bool = False
    trainable: Optional[Trainable] = None
    gradient_checkpointing: bool = False


def load(
    checkpoint: "str | Path", adapter: "str | Path | None" = None, *, backend: str = "transformers",
    device: str = "auto", dtype: str = "auto", load_in_4bit: bool = False, full_finetuning: bool = False,
    max_seq_length: int = 4096, min_pixels: int = 0, max_pixels: int = 0,
    gradient_checkpointing: bool = False,
) -> LoadedModel:
    """Load a checkpoint, and what was trained from it, in evaluation mode.

    Models that nobody holds any more are cleared away first, so that two never share the memory unasked.

    Args:
        checkpoint: a folder (read without network) or a Hub id, "owner/name" or "owner/name@revision".
        adapter: folder written by `save_trained` (or by PEFT). An adapter's LoRA weights stay trainable. A
            folder that holds a whole checkpoint (config.json in place of adapter_config.json: the outcome of
            full fine-tuning) is loaded in place of `checkpoint`, with the same weights trainable as before.
        backend: "transformers" or "unsloth".
        device: "auto" is the GPU where there is one, else the CPU.
        dtype: "auto" is float32 on a CPU; on a GPU bfloat16, or float16 where it has no bfloat16.
        load_in_4bit: NF4 weights; needs a GPU, and an adapter to train.
        full_finetuning: prepare for `make_trainable` with all weights.
        max_seq_length: tokens of prompt and completion that Unsloth prepares for; transformers has no such
            limit.
        min_pixels, max_pixels: bounds of a picture's size (`finer1_lib.pixel_budget`); 0 for the
            checkpoint's own. Where `adapter` was trained with others, a line says so.
        gradient_checkpointing: spare memory in training at the cost of a second forward pass. Unsloth always
            trains so, in its own way.

    Raises:
        UserError: a missing or incomplete folder, an adapter of another model, an unknown backend, no GPU for
        4 bits, 4 bits for full fine-tuning, bounds that make no sense.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend {backend!r}: one of {', '.join(BACKENDS)}")
    checkpoint, adapter = str(checkpoint), None if adapter is None else str(adapter)
    if is_folder(checkpoint):
        check_checkpoint(Path(checkpoint))
    whole = adapter is not None and check_trained(Path(adapter)) == "full"
    free_memory()
    device = pick_device(device)
    full_finetuning = full_finetuning or whole
    if load_in_4bit and full_finetuning:
        raise UserError("full fine-tuning has no 4-bit weights: set load_in_4bit to false")
    read = adapter if whole else checkpoint
    where = dict(device=device, dtype=pick_dtype(dtype, device), load_in_4bit=load_in_4bit)
    can = device.startswith("cuda") and not full_finetuning
    with loading(read), mended(f"loading {read}", load_in_4bit=load_in_4bit, can_4bit=can):
        if backend == "unsloth":
            model, processor = _load_unsloth(
                read, max_seq_length=max_seq_length, full_finetuning=full_finetuning, **where)
        else:
            model, processor = _load_transformers(read, **where)
    check_processor(processor, model.config, read)
    model.generation_config = own_settings(model.generation_config, read, vocabulary_of(model.config))
    if whole and not (min_pixels and max_pixels):
        take_pixels(processor, load_processor(checkpoint), min_pixels, max_pixels)
    set_pixels(processor, min_pixels, max_pixels)
    if adapter is not None and (line := told_apart(adapter, processor)):
        print(line, flush=True)
    loaded = LoadedModel(model.eval(), processor, device, backend, checkpoint, dtype=where["dtype"],
                         full_finetuning=full_finetuning, gradient_checkpointing=gradient_checkpointing)
    if whole:
        loaded = make_trainable(loaded, read_trainable(adapter))
        return dataclasses.replace(loaded, adapter=adapter)
    return attach_adapter(loaded, adapter) if adapter is not None else loaded


def free_memory() -> None:
    """Clear away what nobody holds any more: models and trainers are full of reference cycles."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_processor(checkpoint: "str | Path") -> Any:
    """A checkpoint's processor (tokenizer and image processor) without its weights; named as for `load`."""
    import transformers

    with loading(checkpoint):
        processor = transformers.AutoProcessor.from_pretrained(
            local_copy(checkpoint, weights=False), local_files_only=True, trust_remote_code=False)
    if getattr(processor, "chat_template", None) is None:  # some checkpoints have it in tokenizer_config.json
        processor.chat_template = getattr(getattr(processor, "tokenizer", None), "chat_template", None)
    return processor


def _load_transformers(checkpoint: str, *, device: str, dtype: Any, load_in_4bit: bool) -> tuple:
    import transformers

    options: dict[str, Any] = {}
    if load_in_4bit:  # the head and the vision tower keep 16 bits, as in Unsloth's 4-bit checkpoints
        options["device_map"] = {"": device}
        options["quantization_config"] = four_bits(device, dtype, kept_whole=["lm_head", "visual"])
    folder = local_copy(checkpoint)
    examine(Path(folder), checkpoint, numbers=False)  # in a second, before large tensors are made
    model = load_model(transformers.AutoModelForImageTextToText, folder, checkpoint, dtype=dtype, **options)
    return model if load_in_4bit else model.to(device), load_processor(checkpoint)


def _load_unsloth(
    checkpoint: str, *, device: str, dtype: Any, load_in_4bit: bool, max_seq_length: int,
    full_finetuning: bool,
) -> tuple:
    if importlib.util.find_spec("unsloth") is None:
        raise UserError('backend "unsloth" needs the package unsloth: install the extra "gpu"')
    try:
        from unsloth import FastVisionModel
    except NotImplementedError as error:
        raise UserError(f'backend "unsloth" needs a GPU: {first_line(error)}') from error
    name, revision = split_revision(checkpoint)
    if is_folder(name):  # Unsloth does not report what it left random
        examine(Path(name), name, numbers=False)
    model, processor = FastVisionModel.from_pretrained(
        name, dtype=dtype, load_in_4bit=load_in_4bit, full_finetuning=full_finetuning,
        float32_mixed_precision=True, device_map={"": device}, local_files_only=is_folder(name),
        max_seq_length=max_seq_length, use_gradient_checkpointing="unsloth", offload_embedding=False,
        # a revision belongs to the repository that was named, not to Unsloth's copy of it in 4 bits
        revision=revision, use_exact_model_name=revision is not None)
    refuse_bad_weights(model.state_dict().items(), checkpoint)
    return model, processor
