"""Which weights are trained (LoRA adapters, or the weights themselves), and how they are kept on the disk.

    Trainable("lora", rank=8, alpha=16)                    # the kit's default: the language model's linears
    Trainable("lora", rank=8, alpha=16, vision_tower=True)
    Trainable("full")                                      # vision tower and projector frozen
    Trainable("full", vision_tower=True, projector=True)   # everything

LoRA is kept as plain PEFT, full fine-tuning as a checkpoint with trainable.json; either with the processor.
Source: full fine-tuning: Fine-R1 (arXiv 2602.07605), Section 5.1. The release freezes vision tower and
projector in stage 1 (LLaMA-Factory/examples/train_full/qwen2_5vl_full_sft.yaml:11) and trains them in stage 2
(TAPO/examples/configs/config_tapo.yaml:68). LoRA: arXiv 2106.09685.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Optional

from finer1_lib.core.checkpoint_names import is_folder, split_revision
from finer1_lib.core.errors import UserError
from finer1_lib.core.faces import Later
from finer1_lib.models.adapter_files import check_trained, in_layout, misfit, other_base, read_adapter
from finer1_lib.models.checkpoint_files import TRAINABLE, load_model, loading, refuse_some

peft, torch, transformers = Later("peft"), Later("torch"), Later("transformers")
KINDS = ("lora", "full")
VISION, PROJECTOR = "visual.", "visual.merger."  # in the names of Qwen2.5-VL's parameters
LANGUAGE_TARGETS = r"(?:.*\.)?language_model\..*\.(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
VISION_TARGETS = r"(?:.*\.)?visual\.blocks\..*\.(?:qkv|proj|gate_proj|up_proj|down_proj)"
PROJECTOR_TARGETS = r"(?:.*\.)?visual\.merger\.mlp\.[02]"  # 1 is the GELU between


@dataclasses.dataclass(frozen=True)
class Trainable:
    """The trained part of a model: always the language model, by "lora" or "full"."""

    kind: str = "lora"
    rank: int = 8
    alpha: int = 16  # LoRA's update is scaled by alpha / rank
    vision_tower: bool = False  # its blocks too (full: with its patch embedding)
    projector: bool = False  # the "merger" between tower and language model too

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"finetuning {self.kind!r}: one of {', '.join(KINDS)}")
        if self.rank < 1 or self.alpha < 1:
            raise UserError(f"lora_rank {self.rank} and lora_alpha {self.alpha} must be positive")

    @property
    def full(self) -> bool:
        return self.kind == "full"

    @property
    def targets(self) -> str:
        """The pattern of the linear layers that get an adapter; the output head never does."""
        more = [VISION_TARGETS] * self.vision_tower + [PROJECTOR_TARGETS] * self.projector
        return "|".join(f"(?:{part})" for part in (LANGUAGE_TARGETS, *more)) if more else LANGUAGE_TARGETS

    def trains(self, name: str) -> bool:
        """Whether full fine-tuning trains the parameter of this name."""
        return self.projector if PROJECTOR in name else self.vision_tower or VISION not in name


@dataclasses.dataclass
class LoadedModel:
    """A Qwen2.5-VL ready to generate and to train."""

    model: Any  # Qwen2_5_VLForConditionalGeneration, inside a PeftModel when an adapter is attached
    processor: Any
    device: str
    backend: str
    checkpoint: str  # folder or Hub id (with its @revision) of the base weights, as given
    adapter: Optional[str] = None  # folder of the trained weights; None for none or for fresh ones
    dtype: Any = None  # torch dtype that is computed in
    full_finetuning: bool = False  # whether the weights themselves may be trained
    trainable: Optional[Trainable] = None  # None until `make_trainable` or a trained folder decides
    gradient_checkpointing: bool = False


def make_trainable(loaded: LoadedModel, trainable: Trainable, seed: int = 0) -> LoadedModel:
    """A bare model with a fresh LoRA adapter (zero at first: the outputs do not change), or unfrozen weights.

    Full fine-tuning wants `load(..., full_finetuning=True)` and holds the weights in float32: a step of the
    paper's 5e-6 is lost in bfloat16's rounding. `seed`: of the adapter's random half. Raises: UserError: the
    model has an adapter already, or its weights cannot be trained as they were loaded.
    """
    if hasattr(loaded.model, "peft_config"):
        raise UserError(f"{loaded.checkpoint} has an adapter already: load it again to train another part")
    if not trainable.full:
        config = peft.LoraConfig(r=trainable.rank, lora_alpha=trainable.alpha, lora_dropout=0.0,
                                 target_modules=trainable.targets, task_type="CAUSAL_LM")
        return dataclasses.replace(wrap_in_lora(loaded, config, seed), trainable=trainable)
    if not loaded.full_finetuning:
        raise UserError(
            f"{loaded.checkpoint} was not loaded for full fine-tuning: use load(..., full_finetuning=True)")
    loaded.model.float()
    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_(trainable.trains(name))
    return dataclasses.replace(loaded, model=loaded.model.eval(), trainable=trainable)


def has_trainable(loaded: LoadedModel) -> bool:
    """Whether a model has a part to train: an adapter, or its own weights unfrozen by `make_trainable`."""
    return loaded.trainable is not None


def wrap_in_lora(loaded: LoadedModel, config: Any, seed: int) -> LoadedModel:
    """Put a LoRA adapter of this configuration around a bare model."""
    if loaded.backend == "unsloth":
        from unsloth import FastVisionModel

        model = FastVisionModel.get_peft_model(
            loaded.model, r=config.r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout,
            target_modules=config.target_modules, random_state=seed, use_gradient_checkpointing="unsloth")
        if not hasattr(model, "peft_config"):  # the last load of the process decides, not this model's
            raise UserError(f"{loaded.checkpoint}: Unsloth adds no adapter once another model was loaded for"
                            " full fine-tuning: load it again")
    else:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = peft.get_peft_model(loaded.model, config)
    return dataclasses.replace(loaded, model=model.eval(), adapter=None)


def save_trained(loaded: LoadedModel, folder: "str | Path") -> None:
    """Write what was trained: an adapter, or the whole checkpoint with `trainable.json`."""
    if loaded.trainable is None:
        raise UserError(f"{loaded.checkpoint} has nothing trained to save: call models.make_trainable first")
    if not loaded.trainable.full:
        return save_adapter(loaded, folder)
    save_whole(loaded, loaded.model, folder)
    _write(Path(folder) / TRAINABLE, dataclasses.asdict(loaded.trainable))


def load_trained(loaded: LoadedModel, folder: "str | Path") -> LoadedModel:
    """Read what `save_trained` wrote into a model: a bare one, or one with an adapter of the same shape."""
    if check_trained(Path(folder)) == "lora":
        return attach_adapter(loaded, folder)
    if hasattr(loaded.model, "peft_config"):
        raise UserError(f"{folder} holds a whole checkpoint: load the base without an adapter first")
    load_weights(loaded, folder)
    return dataclasses.replace(loaded, model=loaded.model.eval(), adapter=str(folder))


def load_weights(loaded: LoadedModel, folder: "str | Path") -> None:
    """Read all weights of a checkpoint into a bare model, in place. Raises: UserError: they do not fit."""
    with loading(folder):
        read = load_model(transformers.AutoModelForImageTextToText, str(folder), folder, dtype=torch.float32)
    try:
        loaded.model.load_state_dict(read.state_dict())
    except RuntimeError as error:
        raise UserError(f"{folder} does not fit {loaded.checkpoint}: another model's weights") from error


def read_trainable(folder: "str | Path") -> Trainable:
    """What `save_trained` noted of a whole checkpoint; for one made elsewhere, the release's frozen parts."""
    file = Path(folder) / TRAINABLE
    if not file.exists():
        return Trainable("full")
    try:
        return Trainable(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is damaged: train again, or copy the folder again") from error


def attach_adapter(loaded: LoadedModel, folder: "str | Path") -> LoadedModel:
    """Load an adapter's weights onto a model's own, or onto a new one. Raises: UserError: they do not fit."""
    folder = Path(folder)
    if check_trained(folder) != "lora":
        raise UserError(f"{folder} holds a whole checkpoint, not an adapter")
    adapter = read_adapter(folder)
    with loading(folder, f"put on {loaded.checkpoint} the adapter"):
        if not hasattr(loaded.model, "peft_config"):
            modules = [name for name, _ in loaded.model.named_modules()]
            adapter = in_layout(adapter, modules, loaded.checkpoint)
            config = peft.PeftConfig.from_peft_type(**adapter.config)
            loaded = wrap_in_lora(loaded, config, seed=0)
            names = [name for name, one in loaded.model.named_parameters() if one.requires_grad]
            loaded = dataclasses.replace(loaded, trainable=Trainable(
                "lora", config.r, config.lora_alpha, projector=any(PROJECTOR in name for name in names),
                vision_tower=any(VISION in name and PROJECTOR not in name for name in names)))
            if warning := other_base(adapter.base, loaded.checkpoint):
                print(f"{folder}: {warning}", flush=True)
        weights = adapter.weights
        wanted = peft.get_peft_model_state_dict(loaded.model, save_embedding_layers=False)
        refuse_some(sorted(set(wanted) - set(weights)), folder, f"lacks {{}} of its {len(wanted)} weights",
                    "its file is cut short; copy or download it again")
        sizes = [(name, *(" x ".join(map(str, one[name].shape)) for one in (weights, wanted)))
                 for name in sorted(wanted) if weights[name].shape != wanted[name].shape]
        if sizes:
            name, there, here = sizes[0]
            raise misfit(adapter, loaded.checkpoint, f"{len(sizes)} weights have another size (first: "
                         f"{name}, {there} where {here} is needed)")
        with torch.no_grad():
            left = peft.set_peft_model_state_dict(loaded.model, weights).unexpected_keys
    if left:
        raise misfit(adapter, loaded.checkpoint, f"{len(left)} weights that nothing takes (first: {left[0]})")
    return dataclasses.replace(loaded, model=loaded.model.eval(), adapter=str(folder))


def save_adapter(loaded: LoadedModel, folder: "str | Path") -> None:
    """Write the adapter (PEFT safetensors) and the processor; PEFT, `load` and Unsloth read it alike."""
    loaded.model.save_pretrained(folder, safe_serialization=True)
    loaded.processor.save_pretrained(folder)
    file = Path(folder) / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if is_folder(loaded.checkpoint):  # its place on this machine means nothing elsewhere
        config["base_model_name_or_path"] = Path(loaded.checkpoint).name
    else:
        config["base_model_name_or_path"], config["revision"] = split_revision(loaded.checkpoint)
    _write(file, config, sort_keys=True)
    (Path(folder) / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def save_whole(loaded: LoadedModel, model: Any, folder: "str | Path") -> None:
    """Write a model as a checkpoint, in the dtype that `loaded` computes in, and its processor."""
    state = {name: tensor.to(loaded.dtype) if tensor.is_floating_point() else tensor
             for name, tensor in model.state_dict().items()}
    model.save_pretrained(str(folder), state_dict=state)
    # transformers writes the dtype that the model has in memory, and vLLM would load it in that
    path, name = Path(folder) / "config.json", str(loaded.dtype).removeprefix("torch.")
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if "dtype" in part:
            part["dtype"] = name
    _write(path, config, sort_keys=True)
    loaded.processor.save_pretrained(folder)


def _write(path: Path, value: dict, **options: Any) -> None:
    path.write_text(json.dumps(value, indent=2, **options) + "\n", encoding="utf-8")
