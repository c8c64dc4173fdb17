"""What a stage will hold in a GPU's memory, estimated from the configuration before anything is loaded.

    print(*lines("03_tapo", parameters, "Qwen/Qwen2.5-VL-3B-Instruct", trained=parameters_of_02), sep="\\n")

`work_of` reads a stage's sizes from its parameters, `finer1_lib.memory_rows` turns them into bytes. These are
held against a byte count of real steps at three model sizes (tests/test_memory_plan.py); what no CPU can tell
(CUDA's context, fragments, other kernels' work space) is assumed, and said to be.

Source: our choice.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, Mapping, Optional

from finer1_lib.activation_bytes import WIDE, Mode
from finer1_lib.baselines import METHODS, method_config
from finer1_lib.memory_rows import Row, Work, peak, rows
from finer1_lib.model_shapes import shape_of
from finer1_lib.pixel_budget import pixels_named
from finer1_lib.tapo_config import TapoConfig
from finer1_lib.trainable import Trainable

TEXT_TOKENS = 120  # question, instruction and chat marks; the kit's prompts and the release's
RATIONALE_TOKENS = 1100  # the release's longest rationale has 822 words
TOKENS_PER_WORD = 1.4  # of such rationales
LARGEST_PICTURE = 2_000_000  # pixels; aircraft's pictures have 1 to 2 million, the other sets' fewer
PIXELS_PER_TOKEN = 28 * 28
CONTEXT = 0.75 * 2**30  # assumed: CUDA's context and its libraries' work space
FRAGMENTS = 0.05  # assumed: of the rest
GiB = 2**30


def plan(
    stage: str, parameters: Mapping[str, Any], checkpoint: "str | Path", *,
    trained: Optional[Mapping[str, Any]] = None, completion: Optional[int] = None,
    half: Optional[bool] = None,
) -> Optional[list[Row]]:
    """The parts of a stage's memory.

    Args:
        stage: "02_cot_sft", "03_tapo", "04_evaluation" or "05_probing".
        parameters: all values of that stage (of `presets.Plan.parameters`, or a notebook's globals(); others
            are ignored).
        checkpoint: a folder, or a Hub id that `model_shapes` knows (with or without @revision).
        trained: stage 02's parameters, for 03: which weights it goes on training.
        completion: tokens of the longest completion, where they are known better than by the parameters.
        half: computed in half precision, as on a GPU, or in float32; by default as on this machine, and in
            half precision where the model has over a billion parameters.

    Returns:
        None for a Hub id that is not known: its shape would have to be downloaded.
    """
    shape = shape_of(str(checkpoint))
    if shape is None:
        return None
    if half is None:
        half = shape.parameters > 1e9 or _gpu() is not None
    work = work_of(stage, parameters, trained=trained, half=half, own_pixels=_own_pixels(checkpoint))
    return rows(shape, work if completion is None else dataclasses.replace(work, completion=completion))


def total(plan: list[Row], gpu: bool = True) -> float:
    """Bytes at the peak; on a GPU with what is assumed for CUDA's context and fragments."""
    return peak(plan)[0] * (1 + FRAGMENTS) + CONTEXT if gpu else peak(plan)[0]


def lines(
    stage: str, parameters: Mapping[str, Any], checkpoint: "str | Path", *,
    trained: Optional[Mapping[str, Any]] = None, completion: Optional[int] = None, room: Optional[int] = None,
    half: Optional[bool] = None,
) -> list[str]:
    """The plan as a text table: a line a part, one for the peak, and whether it fits.

    Args:
        room: bytes of the GPU; by default those of the one that is there.

    The other arguments are those of `plan`.

    Returns:
        One line that says so where the checkpoint's shape is not known.
    """
    found = plan(stage, parameters, checkpoint, trained=trained, completion=completion, half=half)
    if found is None:
        return [f"memory of {stage}: no estimate, the shape of {checkpoint} is not known without a download"]
    room = room or _gpu()
    most, moment = peak(found)
    counted = {"held", moment}
    unit, name = (GiB, "GiB") if most >= GiB else (2**20, "MiB")
    table = [f"{row.moment:<15}{row.part:<25}{row.bytes / unit:>8.2f} {name}  {row.told}"
             + ("" if row.moment in counted else " (not then)") for row in found]
    on_gpu = room is not None or most >= GiB
    assumed = f" and {(total(found) - most) / GiB:.1f} assumed for CUDA and fragments" if on_gpu else ""
    verdict = "" if not room else (
        f"; the GPU has {room / GiB:.1f}: " + ("fits" if total(found) <= room else "does NOT fit"))
    return [f"memory of {stage}, estimated:", *table,
            f"{'peak':<15}{moment:<25}{total(found, on_gpu) / unit:>8.2f} {name}"
            f"  {most / unit:.2f} counted{assumed}{verdict}"]


def _gpu() -> Optional[int]:
    """Bytes of the GPU that is there."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def _own_pixels(checkpoint: "str | Path") -> int:
    """The largest picture that a checkpoint's own processor lets through, where a folder says so."""
    return pixels_named(Path(checkpoint))["max_pixels"] or LARGEST_PICTURE


def work_of(stage: str, parameters: Mapping[str, Any], *, trained: Optional[Mapping[str, Any]] = None,
            half: bool = True, own_pixels: int = LARGEST_PICTURE) -> Work:
    """The sizes of a stage.

    Args:
        stage: "02_cot_sft", "03_tapo", "04_evaluation" or "05_probing".
        parameters: its values.
        trained: stage 02's values, where they say which weights 03 goes on training.
        half: computed in half precision (a GPU), else float32.
        own_pixels: of a picture where `max_pixels` is 0, the checkpoint's own limit.
    """
    get = parameters.get
    how = {**parameters, **(trained or {})}
    kind = Trainable(how.get("finetuning", "lora"), how.get("lora_rank", 8), how.get("lora_alpha", 16),
                     bool(how.get("train_vision_tower")), bool(how.get("train_projector")))
    unsloth = get("backend") == "unsloth"
    pixels = min(get("max_pixels") or own_pixels, LARGEST_PICTURE)
    picture = max(1, round(max(pixels, get("min_pixels") or 0) / PIXELS_PER_TOKEN))
    four_bit = bool(get("load_in_4bit"))
    common: dict[str, Any] = dict(text=TEXT_TOKENS, picture=picture, four_bit=four_bit, many=half)
    if stage not in ("02_cot_sft", "03_tapo"):
        whole = kind.full and trained is not None  # some rows are held in float32 and asked under autocast
        return Work(Mode(2 if half else WIDE, half and whole, whole, 0), None, shares=not unsloth,
                    completion=get("max_new_tokens", 1), generated=(many := get("batch_size", 1)), asked=many,
                    seen_together=many if unsloth else 1, **common)
    checkpointing = unsloth or bool(get("gradient_checkpointing"))
    mode = Mode(2 if half else WIDE, half and not four_bit, kind.full,
                0 if kind.full else kind.rank, checkpointing, unsloth)
    if stage == "02_cot_sft":
        return Work(mode, kind, get("micro_batch_size", 8), get("micro_batch_size", 8), shares=False,
                    completion=RATIONALE_TOKENS, generated=get("generation_batch_size", 0),
                    asked=get("generation_batch_size", 0), written=get("max_new_tokens", 0), apart=True,
                    seen_together=get("generation_batch_size", 0) if unsloth else 1, **common)
    base = TapoConfig()
    settings = dataclasses.replace(base, steps=get("updates_per_rollout", base.updates_per_rollout), **{
        name: get(name, getattr(base, name)) for name in (
            "n_anchor", "n_positive", "gamma", "eta1", "eta2", "prompts_per_step", "updates_per_rollout",
            "micro_batch_size", "max_new_tokens", "generation_batch_size")})
    configs = [method_config(name, settings) for name in get("methods", ["tapo"]) if name in METHODS]
    config = max(configs or [settings], key=lambda c: c.needs_negative and c.negative_branch == "fresh")
    graphs = 1 + (config.needs_negative and config.negative_branch == "fresh")
    group, micro = config.group_size, config.micro_batch_size
    rolled = config.prompts_per_step * config.updates_per_rollout
    together = min(config.generation_batch_size, rolled * group)
    return Work(mode, kind, micro, micro // math.gcd(group, micro), graphs, completion=config.max_new_tokens,
                generated=together, asked=together if unsloth else max(1, together // config.n_anchor),
                pictures=rolled * (1 + (bool(config.n_positive) or config.needs_negative)),  # two at a time
                shares=not (checkpointing or unsloth), seen_together=together if unsloth else 1, **common)
