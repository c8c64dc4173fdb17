"""The shapes of Qwen2.5-VL, counted without weights, and the bytes a forward pass keeps for its backward.

    shape_of("Qwen/Qwen2.5-VL-3B-Instruct").parameters    # 3.75e9, counted on PyTorch's meta device

With D hidden, H all heads' width, K all key heads' width, I intermediate, one token of a decoder layer keeps

    2 D   inputs of the two norms, in float32       + 2 D  their normalised outputs, where norms are trained
    2 D   inputs of the projections                 (5 D where each projection casts its own copy)
    2 H   queries and attention's output            + H    the output's copy: adapters in half precision
    2 K   keys and values                           (2 H of every KEY where there is a mask)
    4 I   gate, its activation, up, their product

in the precision of the computation, and each row keeps its mask, queries x keys, once a layer. With gradient
checkpointing a layer keeps its input alone, and one layer at a time is recomputed. This is what autograd saves
in transformers' modeling_qwen2_5_vl and PEFT's LoRA layers (found by saved-tensor hooks, tested by peaks).

Source: config.json of Qwen/Qwen2.5-VL-3B-Instruct and 7B-Instruct at the revisions in `KNOWN`.
"""

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any, NamedTuple, Optional

from finer1_lib.core.errors import UserError
from finer1_lib.models.checkpoint_files import loading, read_config
from finer1_lib.models.trainable import PROJECTOR, VISION, Trainable

# What the two differ in; everything else is in `known_config`.
KNOWN = {
    "Qwen/Qwen2.5-VL-3B-Instruct": dict(
        revision="66285546d2b821cf421d4f5eb2576359d3770cd3", hidden_size=2048, num_hidden_layers=36,
        num_attention_heads=16, num_key_value_heads=2, intermediate_size=11008, vocab_size=151936, tied=True),
    "Qwen/Qwen2.5-VL-7B-Instruct": dict(
        revision="cc594898137f460bfe9f0759e9844b3ce807cfb5", hidden_size=3584, num_hidden_layers=28,
        num_attention_heads=28, num_key_value_heads=4, intermediate_size=18944, vocab_size=152064,
        tied=False),
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a memory plan needs to know of a model: hidden to vocab are the language model's."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    vision_intermediate: int
    patch_features: int  # numbers that a patch of pixels enters the vision tower with
    merge: int  # patches that become one image token
    # numbers of parameters: "linears" (of the language model's layers), "norms" (and biases), "embedding",
    # "head" (0 where it is the embedding), "vision", "projector"
    counts: dict[str, int]
    linears: tuple[tuple[str, int, int], ...]  # (name, inputs, outputs) of every linear layer

    @property
    def parameters(self) -> int:
        """All weights, a tied head counted once."""
        return sum(self.counts.values())

    def trained(self, trainable: Trainable) -> int:
        """Numbers that training changes; a LoRA adds rank x (inputs + outputs) of each layer it targets."""
        if not trainable.full:
            return sum(trainable.rank * (inputs + outputs) for name, inputs, outputs in self.linears
                       if re.fullmatch(trainable.targets, name))
        parts = {"vision": VISION, "projector": PROJECTOR}
        return sum(count for part, count in self.counts.items() if trainable.trains(parts.get(part, part)))


def known_config(name: str) -> Any:
    """The configuration of one of `KNOWN`, as its config.json has it."""
    from transformers import Qwen2_5_VLConfig
    own = {key: value for key, value in KNOWN[name].items() if key not in ("tied", "revision")}
    tied = KNOWN[name]["tied"]
    return Qwen2_5_VLConfig(
        text_config=dict(
            **own, max_position_embeddings=128000, rms_norm_eps=1e-6, tie_word_embeddings=tied,
            rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[16, 24, 24]),
            bos_token_id=151643, eos_token_id=151645, pad_token_id=151643),
        vision_config=dict(
            depth=32, hidden_size=1280, num_heads=16, intermediate_size=3420, patch_size=14,
            temporal_patch_size=2, spatial_merge_size=2, window_size=112, tokens_per_second=2,
            fullatt_block_indexes=[7, 15, 23, 31], out_hidden_size=own["hidden_size"]),
        image_token_id=151655, video_token_id=151656, vision_start_token_id=151652,
        vision_end_token_id=151653, tie_word_embeddings=tied)


def on_meta(config: Any) -> Any:
    """The model of a configuration on the meta device: every module and shape, no numbers."""
    import torch
    from transformers import AutoModelForImageTextToText
    with loading(config.name_or_path or "the model", "plan"), torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def measure(config: Any) -> Shape:
    """The shape of a configuration, its parameters counted on the meta device."""
    import torch
    model = on_meta(config)
    named = {PROJECTOR: "projector", VISION: "vision", "embed_tokens": "embedding", "lm_head": "head",
             "proj.weight": "linears", "": "norms"}  # the first of these words that is in a parameter's name
    counts = dict.fromkeys(named.values(), 0)
    for name, parameter in model.named_parameters():  # a tied head is listed once, as the embedding
        counts[next(part for words, part in named.items() if words in name)] += parameter.numel()
    text, vision = config.text_config, config.vision_config
    return Shape(
        text.hidden_size, text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads,
        text.hidden_size // text.num_attention_heads, text.intermediate_size, text.vocab_size,
        vision.hidden_size, vision.depth, vision.num_heads, vision.intermediate_size,
        vision.in_channels * vision.temporal_patch_size * vision.patch_size**2, vision.spatial_merge_size**2,
        counts, tuple((name, module.in_features, module.out_features)
                      for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)))


@functools.lru_cache(maxsize=8)
def shape_of(checkpoint: str) -> Optional[Shape]:
    """The shape of a folder or of a known Hub id (a @revision is allowed), remembered; None for any other id.

    Raises: UserError: a folder whose config.json cannot be read, or is not a Qwen2.5-VL's.
    """
    if not Path(checkpoint).is_dir():
        name = checkpoint.partition("@")[0]
        return measure(known_config(name)) if name in KNOWN else None
    config = read_config(checkpoint)
    if config.model_type != "qwen2_5_vl":
        raise UserError(f"{checkpoint} is a {config.model_type}: the plan knows Qwen2.5-VL")
    return measure(config)


WIDE = 4  # bytes of a float32


class Mode(NamedTuple):
    """How the numbers are kept."""

    width: int  # bytes of a number in the computation: 2 in half precision, 4 in float32
    cast: bool  # trained weights are float32 and cast for computing, so that inputs are cast as well
    full: bool  # the weights themselves are trained, norms among them
    rank: int  # of the adapters; 0 for none
    checkpointing: bool = False  # layers keep their input alone
    offload: bool = False  # that input is moved to main memory (as Unsloth does)


def language_layer(shape: Shape, mode: Mode, rows: int, queries: int, keys: int, masked: bool) -> int:
    """Bytes that one decoder layer keeps for `rows` rows of `queries` tokens that attend to `keys` tokens."""
    d, heads, i = shape.hidden, shape.heads * shape.head_dim, shape.intermediate
    tokens = rows * queries
    norms = (4 if mode.full else 2) * d * WIDE
    inner = (5 if mode.cast else 2) * d + 2 * heads + 4 * i + 7 * mode.rank
    inner += heads if mode.cast and not mode.full else 0
    held = 2 * (heads if masked else shape.kv_heads * shape.head_dim) * rows * keys * mode.width
    mask = rows * queries * keys * mode.width if masked else 0
    return tokens * (norms + inner * mode.width + shape.heads * WIDE) + held + mask


def language(shape: Shape, mode: Mode, rows: int, queries: int, keys: int, masked: bool,
             layers: Optional[int] = None) -> int:
    """Bytes kept by the decoder layers (all, or `layers` of them) and around them: the embeddings, the last
    norm's input, the positions' sines and cosines; with checkpointing the mask.
    """
    tokens, d, layers = rows * queries, shape.hidden, shape.layers if layers is None else layers
    stream = WIDE if mode.full else mode.width  # what runs from layer to layer
    around = tokens * (d * (stream + WIDE * (2 if mode.full else 1)) + 2 * shape.head_dim * mode.width)
    if not mode.checkpointing:
        return around + layers * language_layer(shape, mode, rows, queries, keys, masked)
    return around + rows * queries * keys * masked + (0 if mode.offload else layers) * tokens * d * stream


def vision_layer(shape: Shape, mode: Mode, patches: int) -> int:
    """Bytes that one block of the vision tower keeps where it is trained; its attention has no mask."""
    d, i = shape.vision_hidden, shape.vision_intermediate
    norms = (4 if mode.full else 2) * d * WIDE
    inner = (8 if mode.cast else 6) * d + 4 * i + 5 * mode.rank
    return patches * (norms + inner * mode.width)


def vision(shape: Shape, mode: Mode, patches: int) -> int:
    """Bytes that all blocks keep, and the pixels where their embedding is trained."""
    pixels = shape.patch_features * WIDE if mode.full else 0
    around = patches * (pixels + shape.vision_hidden * mode.width)
    layer = vision_layer(shape, mode, patches) if not mode.checkpointing else (
        0 if mode.offload else patches * shape.vision_hidden * (WIDE if mode.full else mode.width))
    return around + shape.vision_layers * layer


def recomputed(layer: int, tokens: int, hidden: int, intermediate: int, mode: Mode) -> int:
    """Bytes while one layer's backward runs: what it kept, and the gradients inside it. (An adapter in half
    precision has its input in float32 for a moment, forward and backward.)
    """
    wide = WIDE if mode.cast and not mode.full else 0
    return layer + tokens * (intermediate * (mode.width + wide) + hidden * mode.width)
