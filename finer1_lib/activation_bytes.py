"""How many bytes a forward pass of Qwen2.5-VL keeps for its backward, layer by layer.

With D hidden, H all heads' width, K all key heads' width, I intermediate, one token of a decoder layer keeps

    2 D   inputs of the two norms, in float32       + 2 D  their normalised outputs, where norms are trained
    2 D   inputs of the projections                 (5 D where each projection casts its own copy)
    2 H   queries and attention's output            + H    the output's copy: adapters in half precision
    2 K   keys and values                           (2 H of every KEY where there is a mask)
    4 I   gate, its activation, up, their product

in the precision that is computed in, and each row keeps its mask, queries x keys, once a layer. With gradient
checkpointing a layer keeps its input alone, and one layer at a time is computed anew.

Source: our choice; the terms are what autograd saves in transformers' modeling_qwen2_5_vl and PEFT's LoRA
layers, found by saved-tensor hooks and held against the measured peak by a test.
"""

from typing import NamedTuple, Optional

from finer1_lib.model_shapes import Shape

WIDE = 4  # bytes of a float32


class Mode(NamedTuple):
    """How the numbers are kept.

    Attributes:
        width: bytes of a number as it is computed with: 2 in half precision, 4 in float32.
        cast: whether trained weights are float32 and cast for computing, so that inputs are cast as well.
        full: whether the weights themselves are trained, norms among them.
        rank: of the adapters; 0 for none.
        checkpointing: whether layers keep their input alone.
        offload: whether that input is moved to the computer's own memory (Unsloth's way).
    """

    width: int
    cast: bool
    full: bool
    rank: int
    checkpointing: bool = False
    offload: bool = False


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


def language(
    shape: Shape, mode: Mode, rows: int, queries: int, keys: int, masked: bool, layers: Optional[int] = None
) -> int:
    """Bytes that the decoder layers (all, or `layers` of them) and what lies around them keep.

    Around them: the embeddings, the last norm's input, positions as sines and cosines; with checkpointing the
    mask, once.
    """
    tokens, d, layers = rows * queries, shape.hidden, shape.layers if layers is None else layers
    stream = WIDE if mode.full else mode.width  # what runs from layer to layer
    around = tokens * (d * (stream + WIDE * (2 if mode.full else 1)) + 2 * shape.head_dim * mode.width)
    if not mode.checkpointing:
        return around + layers * language_layer(shape, mode, rows, queries, keys, masked)
    mask = rows * queries * keys if masked else 0
    return around + mask + (0 if mode.offload else layers) * tokens * d * stream


def vision_layer(shape: Shape, mode: Mode, patches: int) -> int:
    """Bytes that one block of the vision tower keeps where it is trained; its attention knows no mask."""
    d, i = shape.vision_hidden, shape.vision_intermediate
    norms = (4 if mode.full else 2) * d * WIDE
    inner = (3 if mode.cast else 2) * d + 4 * d + 4 * i + 5 * mode.rank
    inner += d if mode.cast else 0
    return patches * (norms + inner * mode.width)


def vision(shape: Shape, mode: Mode, patches: int) -> int:
    """Bytes that all blocks keep, and the pixels where their embedding is trained."""
    pixels = shape.patch_features * WIDE if mode.full else 0
    around = patches * (pixels + shape.vision_hidden * mode.width)
    if not mode.checkpointing:
        return around + shape.vision_layers * vision_layer(shape, mode, patches)
    stream = WIDE if mode.full else mode.width
    return around + (0 if mode.offload else shape.vision_layers) * patches * shape.vision_hidden * stream


def recomputed(layer: int, tokens: int, hidden: int, intermediate: int, mode: Mode) -> int:
    """Bytes while one layer's backward runs: what it kept, and the gradients on their way through it.

    An adapter in half precision sees its input in float32 for a moment, forward and backward.
    """
    wide = WIDE if mode.cast and not mode.full else 0
    return layer + tokens * (intermediate * (mode.width + wide) + hidden * mode.width)
