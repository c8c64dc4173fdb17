"""Which weights are trained: LoRA adapters or the weights themselves, of which parts of the model.

    Trainable("lora", rank=8, alpha=16)                    # the kit's default: the language model's linears
    Trainable("lora", rank=8, alpha=16, vision_tower=True)
    Trainable("full")                                      # as the release: vision tower, projector frozen
    Trainable("full", vision_tower=True, projector=True)   # everything

The language model is always trained. How the trained weights are kept: `finer1_lib.models.trained_weights`.

Source: paper section 5.1 (full fine-tuning); the release freezes vision tower and projector in stage 1
(LLaMA-Factory's defaults, audit D2) and trains them in stage 2; LoRA, its rank and targets are our choice.
"""

import dataclasses
from typing import Any, Optional

from finer1_lib.core.errors import UserError

KINDS = ("lora", "full")
VISION, PROJECTOR = "visual.", "visual.merger."  # in the names of Qwen2.5-VL's parameters
LANGUAGE_TARGETS = r"(?:.*\.)?language_model\..*\.(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
VISION_TARGETS = r"(?:.*\.)?visual\.blocks\..*\.(?:qkv|proj|gate_proj|up_proj|down_proj)"
PROJECTOR_TARGETS = r"(?:.*\.)?visual\.merger\.mlp\.[02]"  # 1 is the GELU between


@dataclasses.dataclass(frozen=True)
class Trainable:
    """The trained part of a model.

    Attributes:
        kind: "lora" or "full".
        rank, alpha: of the low-rank update, scaled by alpha / rank; LoRA only.
        vision_tower: train the vision tower's blocks too (full: with its patch embedding); else frozen.
        projector: train the projector ("merger") between tower and language model too; else frozen.
    """

    kind: str = "lora"
    rank: int = 8
    alpha: int = 16
    vision_tower: bool = False
    projector: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"finetuning {self.kind!r}: one of {', '.join(KINDS)}")
        if self.rank < 1 or self.alpha < 1:
            raise UserError(f"lora_rank {self.rank} and lora_alpha {self.alpha} must be positive")

    @property
    def full(self) -> bool:
        """Whether the weights themselves are trained."""
        return self.kind == "full"

    @property
    def targets(self) -> str:
        """The pattern of the linear layers that get an adapter; the output head never does."""
        parts = [LANGUAGE_TARGETS]
        parts += [VISION_TARGETS] * self.vision_tower + [PROJECTOR_TARGETS] * self.projector
        return parts[0] if len(parts) == 1 else "|".join(f"(?:{part})" for part in parts)

    def trains(self, name: str) -> bool:
        """Whether full fine-tuning trains the parameter of this name."""
        if PROJECTOR in name:
            return self.projector
        return self.vision_tower if VISION in name else True


def make_trainable(loaded: "LoadedModel", trainable: Trainable, seed: int = 0) -> "LoadedModel":
    """A bare model, with a fresh LoRA adapter (zero at first: the outputs do not change) or its own weights
    freed.

    For full fine-tuning the weights are held in float32, whatever they are computed in: a step of the paper's
    5e-6 is lost in bfloat16's rounding.

    Args:
        loaded: without an adapter; for full fine-tuning from `load(..., full_finetuning=True)`.
        trainable: which weights.
        seed: of the adapter's random half.

    Raises:
        UserError: the model has an adapter already, or its weights cannot be trained as they were loaded.
    """
    if hasattr(loaded.model, "peft_config"):
        raise UserError(f"{loaded.checkpoint} has an adapter already: load it afresh to train another part")
    if not trainable.full:
        from peft import LoraConfig

        config = LoraConfig(r=trainable.rank, lora_alpha=trainable.alpha, lora_dropout=0.0,
                            target_modules=trainable.targets, task_type="CAUSAL_LM")
        return dataclasses.replace(wrap_in_lora(loaded, config, seed), trainable=trainable)
    if not loaded.full_finetuning:
        raise UserError(
            f"{loaded.checkpoint} was not loaded for full fine-tuning: use load(..., full_finetuning=True)")
    loaded.model.float()
    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_(trainable.trains(name))
    return dataclasses.replace(loaded, model=loaded.model.eval(), trainable=trainable)


def add_lora(
    loaded: "LoadedModel", rank: int, alpha: int, *, vision_layers: bool = False, seed: int = 0
) -> "LoadedModel":
    """`make_trainable` for an adapter on the language model and, if asked for, the vision tower."""
    return make_trainable(loaded, Trainable("lora", rank, alpha, vision_tower=vision_layers), seed)


def has_trainable(loaded: "LoadedModel") -> bool:
    """Whether a model has a part to train: an adapter, or its own weights freed by `make_trainable`."""
    return loaded.trainable is not None


def wrap_in_lora(loaded: "LoadedModel", config: Any, seed: int) -> "LoadedModel":
    """Put a LoRA adapter of this configuration around a bare model."""
    import torch

    if loaded.backend == "unsloth":
        from unsloth import FastVisionModel

        model = FastVisionModel.get_peft_model(
            loaded.model, r=config.r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout,
            target_modules=config.target_modules, random_state=seed, use_gradient_checkpointing="unsloth")
        if not hasattr(model, "peft_config"):  # the last load of the process decides, not this model's
            raise UserError(f"{loaded.checkpoint}: Unsloth adds no adapter once another model was loaded for"
                            " full fine-tuning: load it afresh")
    else:
        from peft import get_peft_model

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = get_peft_model(loaded.model, config)
    return dataclasses.replace(loaded, model=model.eval(), adapter=None)


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
