"""The parts of a memory plan: what is held throughout, and what each moment of a stage adds, in bytes.

    peak(rows(shape, Work(Mode(2, True, False, 16), Trainable("lora", 16, 16), micro_batch=4, completion=99)))

The moments (the peak is what is held and the largest of them):

    rollouts        keys and values of all rollouts, and what a step of decoding needs
    update          the graphs of a micro-batch (TAPO: own picture, negative picture), and the largest of a
                    chunk of logits, a recomputed layer and autocast's copies of the weights
    optimizer step  AdamW's working copy of what is trained

Source: our choice; the layers' terms are in finer1_lib.activation_bytes.
"""

import dataclasses
from typing import NamedTuple, Optional

from finer1_lib import activation_bytes as kept
from finer1_lib.activation_bytes import WIDE, Mode
from finer1_lib.model_shapes import Shape
from finer1_lib.policy import logit_rows
from finer1_lib.trainable import Trainable

NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes of a 4-bit weight: itself, its block's scale, the scale's scale
LOGIT_COPIES = {"forward": 4, "backward": 5}  # float32 copies of a chunk (token_probabilities) alive at once
PATCH_NUMBERS = 1176  # of a picture's patch: 2 x 14 x 14 pixels of 3 colours
SAMPLING_COPIES = 8  # likewise of one step's logits while top-p sorts them


class Row(NamedTuple):
    """One part of the plan: its moment ("held" for throughout), its name, its bytes, its reason."""

    moment: str
    part: str
    bytes: float
    told: str


@dataclasses.dataclass(frozen=True)
class Work:
    """One stage's sizes.

    Attributes:
        mode: how numbers are kept (`activation_bytes.Mode`).
        trainable: which weights are trained; None for evaluation.
        micro_batch: rows of a forward with gradient.
        prompts: different prompts among them.
        graphs: 2 where the negative picture is scored with gradient too.
        text, picture, completion: tokens of a row's text, picture and completion.
        generated: rows that are generated together, and so many prompts read for them; 0 for none.
        seen_together: pictures of these that pass the vision tower at once.
        apart: whether a model without optimizer generates, before or after the training.
        written: tokens of a generated completion, where these are others than `completion`.
        pictures: different pictures of a rollout batch, whose features are kept.
        four_bit: whether the language model's linear layers are held in 4 bits.
        shares: whether rows of one prompt share its pass in an update (`finer1_lib.sharing`).
        chunk: rows of logits that exist at a time; 0 for `policy.logit_rows`.
        many: whether CUDA's multi-tensor optimizer runs, with a working copy of all weights.
    """

    mode: Mode
    trainable: Optional[Trainable]
    micro_batch: int = 0
    prompts: int = 0
    graphs: int = 1
    text: int = 0
    picture: int = 0
    completion: int = 0
    generated: int = 0
    asked: int = 0
    seen_together: int = 1
    apart: bool = False
    written: int = 0
    pictures: int = 0
    four_bit: bool = False
    shares: bool = True
    chunk: int = 0
    many: bool = True


def rows(shape: Shape, work: Work) -> list[Row]:
    """The plan, part by part, without what is assumed.

    Args:
        shape: of `model_shapes.shape_of`.
        work: the stage's sizes.
    """
    found = _held(shape, work)
    if work.generated:
        found += _rollouts(shape, work)
    if work.micro_batch:
        count = shape.trained(work.trainable)
        gradients = Row("update", "gradients", WIDE * count, f"of {count / 1e6:.1f} million trained numbers")
        found += [gradients, *_update(shape, work), gradients._replace(moment="optimizer step")]
        step = WIDE * count if work.many else 0
        found.append(Row("optimizer step", "working copy", step, "AdamW over all trained weights at once"))
    return [row for row in found if row.bytes]


def peak(plan: list[Row]) -> tuple[float, str]:
    """(bytes held throughout and in the largest moment, that moment's name)."""
    sums: dict[str, float] = {}
    for row in plan:
        sums[row.moment] = sums.get(row.moment, 0) + row.bytes
    held = sums.pop("held", 0)
    moment = max(sums, key=sums.__getitem__, default="held")
    return held + sums.get(moment, 0), moment


def _held(shape: Shape, work: Work) -> list[Row]:
    kind, mode, linears = work.trainable, work.mode, shape.counts["linears"]
    each = WIDE if mode.full else mode.width
    others = shape.parameters - linears
    found = [Row("held", "weights", linears * (NF4 if work.four_bit else each) + others * each,
                 f"{shape.parameters / 1e9:.2f} billion" + (", linear layers in 4 bits" * work.four_bit))]
    if kind is not None and work.micro_batch:
        count = shape.trained(kind)
        for moment in ("update", "optimizer step") if work.apart else ("held",):
            if not kind.full:
                told = f"{count / 1e6:.1f} million, rank {kind.rank}"
                found.append(Row(moment, "adapters", WIDE * count, told))
            found.append(Row(moment, "optimizer", 2 * WIDE * count, "AdamW's two moments"))
    if not (kind and kind.vision_tower):
        features = work.pictures * work.picture * shape.hidden * mode.width
        found.append(Row("held", "pictures' features", features, f"{work.pictures}, the tower being frozen"))
    return found


def _rollouts(shape: Shape, work: Work) -> list[Row]:
    width = work.mode.width  # sampling runs under autocast where the weights are float32
    length = work.text + work.picture + (work.written or work.completion)
    each = 2 * shape.kv_heads * shape.head_dim * width
    cache = work.generated * length * each * shape.layers
    repeated = 2 * work.generated * length * shape.heads * shape.head_dim * width  # of one layer
    sampling = SAMPLING_COPIES * WIDE * work.generated * shape.vocab
    read = work.asked * (work.text + work.picture)
    prefill = read * (3 * shape.intermediate + 4 * shape.hidden) * width
    patch = (6 * shape.vision_hidden + 3 * shape.vision_intermediate) * width + PATCH_NUMBERS * WIDE
    tower = work.seen_together * work.picture * shape.merge * patch
    copies = shape.parameters * width if work.mode.full and work.mode.cast else 0
    return [Row("rollouts", "copies of the weights", copies, "as autocast keeps them"),
            Row("rollouts", "keys and values", cache, f"{work.generated} completions of {length} tokens"),
            Row("rollouts", "one step", max(repeated + sampling, prefill, tower), "decoding, or the prompts")]


def _update(shape: Shape, work: Work) -> list[Row]:
    mode, kind, prompt = work.mode, work.trainable, work.text + work.picture
    length, patches = prompt + work.completion, work.prompts * work.picture * shape.merge
    if mode.checkpointing or not work.shares:
        graph = kept.language(shape, mode, work.micro_batch, length, length, True)
    else:  # of the prompts' last layer only keys and values are used
        graph = kept.language(shape, mode, work.prompts, prompt, prompt, work.prompts > 1, shape.layers - 1)
        graph += kept.language(shape, mode, work.micro_batch, work.completion, length, True)
    tokens, cast = work.micro_batch * work.completion, mode.width * shape.trained(kind) if mode.cast else 0
    graph += tokens * shape.hidden * mode.width  # the states that predict them
    graph += kept.vision(shape, mode, patches) if kind.vision_tower else 0
    at_a_time = work.chunk or logit_rows(shape.vocab)
    chunk = WIDE * min(tokens, at_a_time) * shape.vocab
    layer = seen = 0
    forward = LOGIT_COPIES["forward"] * chunk
    logits = (LOGIT_COPIES["backward"] + (tokens > at_a_time)) * chunk  # the chunk before has left one more
    logits += 2 * WIDE * shape.vocab * shape.hidden if mode.full else 0  # the head's gradient, summed wide
    if mode.checkpointing:  # autocast's copies of the weights live as long as the forward pass
        forward += cast
        inner = kept.language_layer(shape, mode, work.micro_batch, length, length, True)
        layer = kept.recomputed(inner, work.micro_batch * length, shape.hidden, shape.intermediate, mode)
        layer += shape.hidden * shape.intermediate * mode.width if work.four_bit else 0  # as 16 bits again
        if kind.vision_tower:
            inner = kept.vision_layer(shape, mode, patches)
            seen = kept.recomputed(inner, patches, shape.vision_hidden, shape.vision_intermediate, mode)
    else:  # and with a graph that needs them
        graph += cast
    told = "layers' inputs" if mode.checkpointing else "all that the backward pass needs"
    told += ", in main memory" if mode.offload else ""
    words = f"{min(tokens, at_a_time)} x {shape.vocab} words"
    backward = max(Row("update", "chunk of logits", logits, words),
                   Row("update", "recomputed layer", max(layer, seen), "one at a time"), key=_bytes)
    copies = Row("update", "forward pass", forward, "logits, and weights as autocast copies them")
    largest = max(backward, copies, key=_bytes)
    own = Row("update", "graph, own picture", graph, f"{work.micro_batch} x {length} tokens: {told}")
    if work.graphs == 1:
        return [own, largest]
    other = own._replace(part="graph, negative picture", told="the same once more, with gradient")
    both = [own, other, largest]
    # Autograd hands a weight's gradient over when both graphs have given theirs: the negative's wait.
    held = WIDE * shape.trained(kind)
    waiting = [own, Row("update", "negative's gradients", held, "wait for the own picture's"), backward]
    return max(both, waiting, key=lambda rows: sum(map(_bytes, rows)))


def _bytes(row: Row) -> float:
    return row.bytes
