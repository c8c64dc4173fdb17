"""Checkpoints: a Qwen2.5-VL of any size, loaded by one call; trained by LoRA or in full; saved and merged.

    loaded = load("Qwen/Qwen2.5-VL-3B-Instruct")             # or owner/name@revision, or a folder
    loaded = make_trainable(loaded, Trainable("lora", rank=8, alpha=16), seed=0)
    save_trained(loaded, folder)                             # an adapter, or (full) a whole checkpoint
    loaded = load("Qwen/Qwen2.5-VL-3B-Instruct", folder)     # either of them
    save_merged(loaded, folder)                              # base and adapter as one checkpoint

`backend="unsloth"` gives the same object from Unsloth's FastVisionModel. It is taken only when asked for by
name: a model that came from another loader than the one named would make two runs look alike that are not.

`generate` (finer1_lib.models.generation), `score` (finer1_lib.models.log_probabilities), `pooled_states` (finer1_lib.models.hidden_states),
what trains (finer1_lib.models.trainable) and saves (finer1_lib.models.trained_weights) are named here too.

Source: paper section 5.1 (Qwen2.5-VL-3B / 7B-Instruct); the interface is our choice.

Where a model computes and in which numbers: device, floating-point type, and weights of four bits.

    device = pick_device("auto")           # "cuda" where there is a GPU, else "cpu"
    dtype = pick_dtype("auto", device)     # torch.float32 on a CPU

Source: our choice; four bits as QLoRA has them (arXiv 2305.14314): NF4, its scales quantised once more.
"""

import dataclasses
import importlib.util
import tempfile
from pathlib import Path
from typing import Any, Sequence

from finer1_lib.core.checkpoint_names import is_folder, split_revision
from finer1_lib.core.errors import UserError, first_line
from finer1_lib.models.adapter_files import check_trained
from finer1_lib.models.chat_templates import check_processor
from finer1_lib.models.checkpoint_files import check_checkpoint, loading, local_copy
from finer1_lib.models.checkpoint_weights import examine, load_model, refuse_bad_weights, vocabulary_of
from finer1_lib.models.encoding import set_pixels, take_pixels, trained_with_other_pixels
from finer1_lib.models.generation import own_settings
from finer1_lib.models.out_of_memory import mended
from finer1_lib.models.trainable import LoadedModel, make_trainable
from finer1_lib.models.trained_weights import attach_adapter, read_trainable, save_adapter, save_whole

DTYPES = ("float32", "bfloat16", "float16")


def pick_device(name: str = "auto") -> str:
    """The device itself, or for "auto" the GPU where there is one, else the CPU."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def pick_dtype(name: str, device: str) -> Any:
    """The torch type; "auto" is float32 on a CPU, on a GPU bfloat16, or float16 where it has no bfloat16.

    Raises:
        UserError: another name.
    """
    import torch

    if name == "auto":
        name = "float32" if not device.startswith("cuda") else (
            "bfloat16" if torch.cuda.is_bf16_supported() else "float16")
    if name not in DTYPES:
        raise UserError(f"dtype {name!r}: one of auto, {', '.join(DTYPES)}")
    return getattr(torch, name)


def four_bits(device: str, dtype: Any, kept_whole: Sequence[str]) -> Any:
    """transformers' settings for NF4 weights.

    Args:
        device: where the weights go.
        dtype: torch type that is computed in.
        kept_whole: modules that keep 16 bits: the head and what sees, as in Unsloth's 4-bit checkpoints.

    Raises:
        UserError: the device is no CUDA GPU.
    """
    import transformers

    if not device.startswith("cuda"):
        raise UserError(f"4-bit weights need a CUDA GPU, the device is {device!r}: set load_in_4bit (a "
                        "teacher's is teacher_4bit) to false")  # fmt: skip
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=list(kept_whole))


BACKENDS = ("transformers", "unsloth")


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
        min_pixels, max_pixels: bounds of a picture's size (`finer1_lib.models.encoding`); 0 for the
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
    if adapter is not None and (line := trained_with_other_pixels(adapter, processor)):
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


def save_merged(loaded: "LoadedModel", folder: "str | Path") -> None:
    """Write base and adapter as one checkpoint with its processor; the model in memory stays as it is.

    `transformers`: the base is read once more, in float32 and on the CPU, merged, and rounded once to the
    dtype in use; so a 4-bit model is merged into the weights it was quantised from. `unsloth`: by Unsloth's
    own `save_pretrained_merged`, which always rounds to 16 bits. Without an adapter (the bare base, or full
    fine-tuning) the weights are written as they are.

    Raises:
        UserError: a 4-bit model without an adapter: its rounded weights are no checkpoint.
    """
    if not hasattr(loaded.model, "peft_config"):
        if getattr(loaded.model, "is_loaded_in_4bit", False):
            raise UserError(f"{loaded.checkpoint} is loaded in 4 bits and has no adapter: nothing to merge")
        return save_whole(loaded, loaded.model, folder)
    if loaded.backend == "unsloth":
        # None, not True: on two cores True would still write a pickle
        loaded.model.save_pretrained_merged(
            str(folder), loaded.processor, save_method="merged_16bit", safe_serialization=None)
        return loaded.processor.save_pretrained(folder)

    with tempfile.TemporaryDirectory() as temporary:
        save_adapter(loaded, temporary)
        again = load(loaded.checkpoint, temporary, device="cpu", dtype="float32")
    save_whole(loaded, again.model.merge_and_unload(), folder)
