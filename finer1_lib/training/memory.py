"""A stage's GPU memory, estimated from the configuration before anything is loaded.

    print(*lines("03_tapo", parameters, "Qwen/Qwen2.5-VL-3B-Instruct", trained=parameters_of_02), sep="\\n")

`work_of` reads a stage's sizes from its parameters; `rows` turns them into bytes for each moment (rollouts,
update, optimizer step); the peak is what is held throughout plus the largest moment. A test compares the plan
with a byte count of real steps at three model sizes; what no CPU can measure (CUDA's context, fragments, other
kernels' work space) is assumed, and the output says so.
"""

import dataclasses
import math
from collections import Counter
from operator import attrgetter
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional

from finer1_lib.models.encoding import pixels_named
from finer1_lib.models.log_probabilities import logit_rows
from finer1_lib.models.trainable import Trainable
from finer1_lib.training import model_shapes as kept
from finer1_lib.training.methods import METHODS, method_config
from finer1_lib.training.model_shapes import WIDE, Mode, Shape, shape_of
from finer1_lib.training.tapo_config import TapoConfig

NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes of a 4-bit weight: itself, its block's scale, the scale's scale
LOGIT_COPIES = {"forward": 4, "backward": 5}  # float32 copies of a chunk (token_probabilities) alive at once
PATCH_NUMBERS = 1176  # of an image's patch: 2 x 14 x 14 pixels of 3 colours
SAMPLING_COPIES = 8  # float32 copies of one step's logits while top-p sorts them


class Row(NamedTuple):
    """One part of the plan."""

    moment: str  # "held" for throughout
    part: str
    bytes: float
    reason: str


@dataclasses.dataclass(frozen=True)
class Work:
    """One stage's sizes."""

    mode: Mode
    trainable: Optional[Trainable]  # None for evaluation
    micro_batch: int = 0            # rows of a forward with gradient
    prompts: int = 0                # different prompts among them
    graphs: int = 1                 # 2 where the negative image is scored with gradient too
    text: int = 0                   # tokens of a row
    picture: int = 0                # tokens of its image
    completion: int = 0             # tokens of its completion
    generated: int = 0              # rows generated together
    asked: int = 0                  # prompts read for them
    seen_together: int = 1          # images of these that pass the vision tower at once
    apart: bool = False             # whether a model without optimizer generates, before or after training
    written: int = 0                # tokens of a generated completion, where it is not `completion`
    pictures: int = 0               # different images of a rollout batch, whose features are kept
    four_bit: bool = False          # whether the language model's linear layers are held in 4 bits
    shares: bool = True             # whether rows of one prompt share its pass (`models.sharing`)
    chunk: int = 0                  # rows of logits at a time; 0 for `log_probabilities.logit_rows`
    many: bool = True               # CUDA's multi-tensor optimizer, with a working copy of all weights


def rows(shape: Shape, work: Work) -> list[Row]:
    """The plan of `work` for a model of `shape`, part by part, without what is assumed."""
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
    sums: Counter = Counter()
    for row in plan:
        sums[row.moment] += row.bytes
    held = sums.pop("held", 0)
    moment, largest = max(sums.items(), key=lambda pair: pair[1], default=("held", 0))
    return held + largest, moment


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
                size = f"{count / 1e6:.1f} million, rank {kind.rank}"
                found.append(Row(moment, "adapters", WIDE * count, size))
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
    saved = "layers' inputs" if mode.checkpointing else "all that the backward pass needs"
    saved += ", in main memory" if mode.offload else ""
    words = f"{min(tokens, at_a_time)} x {shape.vocab} words"
    size = attrgetter("bytes")
    backward = max(Row("update", "chunk of logits", logits, words),
                   Row("update", "recomputed layer", max(layer, seen), "one at a time"), key=size)
    copies = Row("update", "forward pass", forward, "logits, and weights as autocast copies them")
    largest = max(backward, copies, key=size)
    own = Row("update", "graph, own picture", graph, f"{work.micro_batch} x {length} tokens: {saved}")
    if work.graphs == 1:
        return [own, largest]
    other = own._replace(part="graph, negative picture", reason="the same once more, with gradient")
    # Autograd hands a weight's gradient over when both graphs have given theirs: the negative's wait.
    waits = Row("update", "negative's gradients", WIDE * shape.trained(kind), "wait for the own picture's")
    return max([own, other, largest], [own, waits, backward], key=lambda rows: sum(map(size, rows)))


TEXT_TOKENS = 120  # question, instruction and chat marks; the kit's prompts and the release's
RATIONALE_TOKENS = 1100  # the release's longest rationale has 822 words
TOKENS_PER_WORD = 1.4  # of such rationales
LARGEST_PICTURE = 2_000_000  # pixels; aircraft's images have 1 to 2 million, the other sets' fewer
PIXELS_PER_TOKEN = 28 * 28
CONTEXT = 0.75 * 2**30  # assumed: CUDA's context and its libraries' work space
FRAGMENTS = 0.05  # assumed: of the rest
GiB = 2**30


def plan(stage: str, parameters: Mapping[str, Any], checkpoint: "str | Path", *,
         trained: Optional[Mapping[str, Any]] = None, completion: Optional[int] = None,
         half: Optional[bool] = None) -> Optional[list[Row]]:
    """The parts of a stage's memory, or None for a Hub id whose shape would have to be downloaded.

    `parameters` are the stage's ("02_cot_sft" to "05_probing") or a notebook's globals(), `trained` stage 02's
    for 03 (which weights it trains on), `completion` the tokens of the longest one where they are known; `half`
    (precision) is by default as on this machine, half over a billion parameters.
    """
    shape = shape_of(str(checkpoint))
    if shape is None:
        return None
    if half is None:
        half = shape.parameters > 1e9 or _gpu() is not None
    own_pixels = pixels_named(Path(checkpoint))["max_pixels"] or LARGEST_PICTURE  # of its own processor
    work = work_of(stage, parameters, trained=trained, half=half, own_pixels=own_pixels)
    return rows(shape, work if completion is None else dataclasses.replace(work, completion=completion))


def total(plan: list[Row], gpu: bool = True) -> float:
    """Bytes at the peak; on a GPU with what is assumed for CUDA's context and fragments."""
    return peak(plan)[0] * (1 + FRAGMENTS) + CONTEXT if gpu else peak(plan)[0]


def lines(stage: str, parameters: Mapping[str, Any], checkpoint: "str | Path", *, room: Optional[int] = None,
          **how: Any) -> list[str]:
    """`plan`, with its arguments, as a text table: a line a part, one for the peak, whether it fits.

    `room` is the GPU's bytes (by default this machine's). One line where the checkpoint's shape is unknown.
    """
    found = plan(stage, parameters, checkpoint, **how)
    if found is None:
        return [f"memory of {stage}: no estimate, the shape of {checkpoint} is not known without a download"]
    room = room or _gpu()
    most, moment = peak(found)
    unit, name = (GiB, "GiB") if most >= GiB else (2**20, "MiB")
    table = [f"{row.moment:<15}{row.part:<25}{row.bytes / unit:>8.2f} {name}  {row.reason}"
             + " (not then)" * (row.moment not in ("held", moment)) for row in found]
    on_gpu = room is not None or most >= GiB
    assumed = f" and {(total(found) - most) / GiB:.1f} assumed for CUDA and fragments" if on_gpu else ""
    verdict = "" if not room else (
        f"; the GPU has {room / GiB:.1f}: " + ("fits" if total(found) <= room else "does NOT fit"))
    return [f"memory of {stage}, estimated:", *table,
            f"{'peak':<15}{moment:<25}{total(found, on_gpu) / unit:>8.2f} {name}"
            f"  {most / unit:.2f} counted{assumed}{verdict}"]


def _gpu() -> Optional[int]:
    """Bytes of this machine's GPU."""
    import torch
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def work_of(stage: str, parameters: Mapping[str, Any], *, trained: Optional[Mapping[str, Any]] = None,
            half: bool = True, own_pixels: int = LARGEST_PICTURE) -> Work:
    """The sizes of a stage; arguments as of `plan`. `own_pixels`: an image's where `max_pixels` is 0."""
    get, how = parameters.get, {**parameters, **(trained or {})}
    kind = Trainable(how.get("finetuning", "lora"), how.get("lora_rank", Trainable.rank),
                     how.get("lora_alpha", Trainable.alpha),
                     bool(how.get("train_vision_tower")), bool(how.get("train_projector")))
    unsloth, four_bit = get("backend") == "unsloth", bool(get("load_in_4bit"))
    pixels = max(min(get("max_pixels") or own_pixels, LARGEST_PICTURE), get("min_pixels") or 0)
    common: dict[str, Any] = dict(
        text=TEXT_TOKENS, picture=max(1, round(pixels / PIXELS_PER_TOKEN)), four_bit=four_bit, many=half)
    width = 2 if half else WIDE
    if stage not in ("02_cot_sft", "03_tapo"):
        whole = kind.full and trained is not None  # some rows are held in float32 and run under autocast
        return Work(Mode(width, half and whole, whole, 0), None, shares=not unsloth,
                    completion=get("max_new_tokens", 1), generated=(many := get("batch_size", 1)), asked=many,
                    seen_together=many if unsloth else 1, **common)
    checkpointing = unsloth or bool(get("gradient_checkpointing"))
    mode = Mode(width, half and not four_bit, kind.full, 0 if kind.full else kind.rank, checkpointing, unsloth)
    if stage == "02_cot_sft":
        micro, together = get("micro_batch_size", 8), get("generation_batch_size", 0)
        return Work(mode, kind, micro, micro, shares=False, completion=RATIONALE_TOKENS, generated=together,
                    asked=together, written=get("max_new_tokens", 0), apart=True,
                    seen_together=together if unsloth else 1, **common)
    base = TapoConfig()
    settings = dataclasses.replace(base, steps=get("updates_per_rollout", base.updates_per_rollout), **{
        name: get(name, getattr(base, name)) for name in (
            "n_anchor", "n_positive", "gamma", "eta1", "eta2", "prompts_per_step", "updates_per_rollout",
            "micro_batch_size", "max_new_tokens", "generation_batch_size")})
    configs = [method_config(name, settings) for name in get("methods", ["tapo"]) if name in METHODS]
    config = max(configs or [settings], key=lambda c: c.needs_negative and c.negative_branch == "fresh")
    group, micro = config.group_size, config.micro_batch_size
    rolled = config.prompts_per_step * config.updates_per_rollout
    together = min(config.generation_batch_size, rolled * group)
    return Work(mode, kind, micro, micro // math.gcd(group, micro),
                1 + (config.needs_negative and config.negative_branch == "fresh"),
                completion=config.max_new_tokens, generated=together,
                asked=together if unsloth else max(1, together // config.n_anchor),
                pictures=rolled * (1 + (bool(config.n_positive) or config.needs_negative)),  # two at a time
                shares=not (checkpointing or unsloth), seen_together=together if unsloth else 1, **common)
