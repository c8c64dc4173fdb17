"""Checkpoints and adapters: a Qwen2.5-VL of any size, loaded by one call, with or without a LoRA adapter.

    loaded = load("Qwen/Qwen2.5-VL-3B-Instruct")             # or a folder; a folder never touches the network
    loaded = add_lora(loaded, rank=8, alpha=16, seed=0)      # language linears; the vision tower stays frozen
    save_adapter(loaded, folder)                             # plain PEFT: safetensors + processor files
    loaded = load("Qwen/Qwen2.5-VL-3B-Instruct", adapter=folder)

`backend="unsloth"` gives the same object from Unsloth's FastVisionModel. It is taken only when asked for by
name: a model that came from another loader than the one named would make two runs look alike that are not.

`generate` (finer1_lib.generation) and `pooled_states` (finer1_lib.hidden_states) are named here too.

Source: paper section 5.1 (Qwen2.5-VL-3B / 7B-Instruct); LoRA rank and targets are our choice (the paper
trains all weights but, by LLaMA-Factory's defaults, not the vision tower and projector; audit D2).
"""

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any, Optional

from finer1_lib.checkpoint_files import check_adapter, check_checkpoint, is_folder
from finer1_lib.errors import UserError
from finer1_lib.generation import Generation, generate
from finer1_lib.hidden_states import pooled_states

__all__ = [
    "BACKENDS", "Generation", "LoadedModel", "add_lora", "attach_adapter", "generate", "load",
    "pooled_states", "save_adapter",
]  # fmt: skip

BACKENDS = ("transformers", "unsloth")
LANGUAGE_TARGETS = r"(?:.*\.)?language_model\..*\.(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
VISION_TARGETS = r"(?:.*\.)?visual\.blocks\..*\.(?:qkv|proj|gate_proj|up_proj|down_proj)"


@dataclasses.dataclass
class LoadedModel:
    """A model ready to generate and to train.

    Attributes:
        model: Qwen2_5_VLForConditionalGeneration, inside a PeftModel when an adapter is attached.
        processor: its Qwen2_5_VLProcessor.
        device: "cpu", "cuda", ...
        backend: "transformers" or "unsloth".
        checkpoint: folder or Hub id of the base weights, as given.
        adapter: folder of the adapter's weights, as given; None for none or for a fresh one.
    """

    model: Any
    processor: Any
    device: str
    backend: str
    checkpoint: str
    adapter: Optional[str] = None


def load(
    checkpoint: "str | Path", adapter: "str | Path | None" = None, *, backend: str = "transformers",
    device: str = "auto", dtype: str = "auto", load_in_4bit: bool = False, max_seq_length: int = 4096,
) -> LoadedModel:
    """Load a checkpoint, and an adapter onto it, in evaluation mode.

    Args:
        checkpoint: a folder (read without network) or a Hub id "owner/name".
        adapter: folder written by `save_adapter` (or by PEFT); its LoRA weights stay trainable.
        backend: "transformers" or "unsloth".
        device: "auto" is the GPU where there is one, else the CPU.
        dtype: "auto" is float32 on a CPU; on a GPU bfloat16, or float16 where it has no bfloat16.
        load_in_4bit: NF4 weights; needs a GPU.
        max_seq_length: tokens of prompt and completion that Unsloth prepares for; transformers has no such
            limit.

    Raises:
        UserError: a missing or incomplete folder, an adapter of another model, an unknown backend, no GPU for
        4 bits.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend {backend!r}: one of {', '.join(BACKENDS)}")
    checkpoint, adapter = str(checkpoint), None if adapter is None else str(adapter)
    local = is_folder(checkpoint)
    if local:
        check_checkpoint(Path(checkpoint))
    if adapter is not None:
        check_adapter(Path(adapter))
    import torch

    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if load_in_4bit and backend == "transformers" and not device.startswith("cuda"):
        raise UserError(f"load_in_4bit needs a CUDA GPU, the device is {device!r}: set load_in_4bit to false")
    where = dict(device=device, dtype=_dtype(dtype, device), load_in_4bit=load_in_4bit, local=local)
    try:
        if backend == "unsloth":
            model, processor = _load_unsloth(checkpoint, max_seq_length=max_seq_length, **where)
        else:
            model, processor = _load_transformers(checkpoint, **where)
    except OSError as error:
        raise UserError(f"cannot load {checkpoint!r}: {_first_line(error)}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # a Rust class without an importable Python base
            raise
        damaged = f"{checkpoint}: a weights file is damaged ({error}); copy or download it again"
        raise UserError(damaged) from error
    if not (processor.chat_template or processor.tokenizer.chat_template):
        raise UserError(f"{checkpoint} has no chat template: add its chat_template.jinja")
    loaded = LoadedModel(model.eval(), processor, device, backend, checkpoint)
    return attach_adapter(loaded, adapter) if adapter is not None else loaded


def add_lora(
    loaded: LoadedModel, rank: int, alpha: int, *, vision_layers: bool = False, seed: int = 0
) -> LoadedModel:
    """Wrap a model in a fresh LoRA adapter (zero at first: the outputs do not change).

    Args:
        loaded: without an adapter.
        rank, alpha: of the low-rank update, scaled by alpha / rank.
        vision_layers: also adapt the vision tower; else it stays frozen. The output head is never adapted.
        seed: of the adapter's random half.

    Raises:
        UserError: the model has an adapter already, or the numbers are not positive.
    """
    from peft import LoraConfig

    if rank < 1 or alpha < 1:
        raise UserError(f"lora_rank {rank} and lora_alpha {alpha} must be positive")
    targets = f"(?:{LANGUAGE_TARGETS})|(?:{VISION_TARGETS})" if vision_layers else LANGUAGE_TARGETS
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM")
    return _wrap(loaded, config, seed)


def attach_adapter(loaded: LoadedModel, folder: "str | Path") -> LoadedModel:
    """Load an adapter's weights onto a model: onto its adapter if it has one, else onto a new one of the same
    shape.

    Raises:
        UserError: the adapter does not fit the model.
    """
    import torch
    from peft import PeftConfig, set_peft_model_state_dict
    from safetensors.torch import load_file

    folder = Path(folder)
    check_adapter(folder)
    if not hasattr(loaded.model, "peft_config"):
        config = PeftConfig.from_pretrained(folder)
        config.inference_mode = False  # saved as true; it would freeze the adapter
        config.base_model_name_or_path = None  # the base is the one already loaded
        loaded = _wrap(loaded, config, seed=0)
    misfit = UserError(f"adapter {folder} does not fit {loaded.checkpoint}: it was trained on another model")
    try:
        weights = load_file(folder / "adapter_model.safetensors")
        with torch.no_grad():
            result = set_peft_model_state_dict(loaded.model, weights)
    except RuntimeError as error:
        raise misfit from error
    if result.unexpected_keys or any("lora_" in key for key in result.missing_keys):
        raise misfit
    return dataclasses.replace(loaded, model=loaded.model.eval(), adapter=str(folder))


def save_adapter(loaded: LoadedModel, folder: "str | Path") -> None:
    """Write the adapter (PEFT safetensors) and the processor; PEFT, `load` and Unsloth read it alike."""
    loaded.model.save_pretrained(folder, safe_serialization=True)
    loaded.processor.save_pretrained(folder)
    file = Path(folder) / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if is_folder(loaded.checkpoint):  # a folder's place on this machine says nothing elsewhere
        config["base_model_name_or_path"] = Path(loaded.checkpoint).name
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (Path(folder) / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _dtype(name: str, device: str) -> Any:
    import torch

    if name == "auto":
        name = "float32" if not device.startswith("cuda") else (
            "bfloat16" if torch.cuda.is_bf16_supported() else "float16")
    if name not in ("float32", "bfloat16", "float16"):
        raise UserError(f"dtype {name!r}: one of auto, float32, bfloat16, float16")
    return getattr(torch, name)


def _load_transformers(checkpoint: str, *, device: str, dtype: Any, load_in_4bit: bool, local: bool) -> tuple:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    options: dict[str, Any] = {}
    if load_in_4bit:  # the head and the vision tower keep 16 bits, as in Unsloth's 4-bit checkpoints
        options["device_map"] = {"": device}
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=["lm_head", "visual"])
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        checkpoint, dtype=dtype, local_files_only=local, **options)
    model = model if load_in_4bit else model.to(device)
    return model, transformers.AutoProcessor.from_pretrained(checkpoint, local_files_only=local)


def _load_unsloth(
    checkpoint: str, *, device: str, dtype: Any, load_in_4bit: bool, local: bool, max_seq_length: int
) -> tuple:
    if importlib.util.find_spec("unsloth") is None:
        raise UserError('backend "unsloth" needs the package unsloth: install the extra "gpu"')
    try:
        from unsloth import FastVisionModel
    except NotImplementedError as error:
        raise UserError(f'backend "unsloth" needs a GPU: {_first_line(error)}') from error
    return FastVisionModel.from_pretrained(
        checkpoint, dtype=dtype, load_in_4bit=load_in_4bit, device_map={"": device}, local_files_only=local,
        max_seq_length=max_seq_length, use_gradient_checkpointing="unsloth", offload_embedding=False)


def _wrap(loaded: LoadedModel, config: Any, seed: int) -> LoadedModel:
    """Put a LoRA adapter of this configuration around a bare model."""
    import torch

    if hasattr(loaded.model, "peft_config"):
        raise UserError(f"{loaded.checkpoint} has an adapter already: load it afresh to add another")
    if loaded.backend == "unsloth":
        from unsloth import FastVisionModel

        model = FastVisionModel.get_peft_model(
            loaded.model, r=config.r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout,
            target_modules=config.target_modules, random_state=seed, use_gradient_checkpointing="unsloth")
    else:
        from peft import get_peft_model

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = get_peft_model(loaded.model, config)
    return dataclasses.replace(loaded, model=model.eval(), adapter=None)
