"""How long a preset will take on which GPU, and whether it fits: estimates, none of them measured on a GPU.

    PYTHONPATH=tests python -m tools.gpu_hours        # the table of params/README.md, from the presets

A stage's hours are sums of three kinds of work:

    reading    tokens x 2 operations a weight (4 more for the backward of all weights, 2 of frozen ones, 2
               more with gradient checkpointing), at USED of the GPU's peak
               (rows that share a prompt read it once: a cache or packed, `models.sharing`, where that is less work)
    writing    transformers: a batch of completions takes as many steps as its longest; a step reads all weights
               and all keys and values at SPEED of the memory's rate, and never takes less than LAUNCH a layer;
               vLLM: no completion waits for another, VLLM tokens a second
    again      groups without advantage are sampled again: AGAIN times the rollouts

The GPUs' figures are their makers' data sheets (dense half precision); USED, SPEED, LAUNCH, AGAIN and SHARE are
assumptions, stated here and nowhere else.
"""

import dataclasses
import math
from typing import Any, Mapping, NamedTuple, Optional

from finer1_lib.training.memory import NF4, TOKENS_PER_WORD, GiB, Work, plan, total, work_of
from finer1_lib.training.methods import METHODS, method_config
from finer1_lib.training.model_shapes import Shape, shape_of
from finer1_lib.training.tapo_config import TapoConfig

USED = 0.30  # of the peak rate in long matrix products
SPEED = 0.60  # of the memory's rate while writing
LAUNCH = 0.8e-3  # seconds a layer and step, transformers' loop
AGAIN = 1.5  # rollouts sampled for each that is trained on
SHARE = 0.7  # of the cap that a completion takes on average,
WRITTEN = 900  # but no more tokens than this: the release's rationales have 750 on average, 1,150 at most
LONGEST = 1.5  # times the average: the longest of a batch
VLLM = 4000  # tokens a second of a model of VLLM_WEIGHTS on an A100 (published for text); by bandwidth and weights
VLLM_WEIGHTS = 3.1e9
TIGHT = 0.9  # of a GPU's memory: above it the estimate is not reliable
ANSWER = 12  # tokens of a bare answer
RATIONALES = {"aircraft": 60, "bird": 86, "car": 117, "dog": 70, "flower": 59, "pet": 12}  # in the release


class Gpu(NamedTuple):
    """Memory (bytes that a program sees), operations a second, bytes a second."""

    name: str
    memory: float
    rate: float
    bandwidth: float


GPUS = {
    "T4": Gpu("T4, 16 GB", 14.7 * GiB, 65e12, 320e9),
    "4090": Gpu("RTX 4090, 24 GB", 23.5 * GiB, 165e12, 1008e9),
    "A100": Gpu("A100, 80 GB", 79.1 * GiB, 312e12, 2039e9),
    "H200": Gpu("H200, 141 GB", 139.8 * GiB, 989e12, 4800e9),
}
PRESETS = (("colab_t4", "T4"), ("single_gpu_24gb", "4090"), ("single_gpu_80gb", "A100"), ("paper_3b", "A100"),
           ("paper_3b", "H200"), ("paper_7b", "A100"), ("paper_7b", "H200"))


def reading(shape: Shape, work: Work, rows: float, tokens: float, gpu: Gpu, train: bool = False,
            together: int = 1) -> float:
    """Seconds to run rows of so many tokens, each with its image, through the model.

    Args:
        train: with the backward pass that `work` asks for.
        together: so many rows have their prompt and image in common.
    """
    if together > 1:
        prompt, whole = work.text + work.picture, tokens
        packed, linear = prompt + together * (tokens - prompt), shape.hidden + 1.5 * shape.intermediate
        if packed * (linear + packed) < together * whole * (linear + whole):  # as sharing.packs_prompts
            tokens = packed / together
    cost = 2.0
    if train:
        cost += (4 if work.trainable.full else 2) + 2 * work.mode.checkpointing
    language = rows * tokens * (shape.counts["linears"] + shape.vocab * shape.hidden)
    vision = rows / together * work.picture * shape.merge * shape.counts["vision"]
    return (language * cost + vision * 2) / (USED * gpu.rate)


def mean_tokens(work: Work) -> float:
    """Tokens of a completion on average; bare answers are as long as they are."""
    return work.completion if work.completion <= ANSWER else min(SHARE * work.completion, WRITTEN)


def writing(shape: Shape, work: Work, rows: float, gpu: Gpu, engine: str = "transformers",
            batch: Optional[int] = None) -> float:
    """Seconds to write a completion for so many prompts; transformers in batches of `work.generated`."""
    mean = mean_tokens(work)
    if engine == "vllm":
        rate = VLLM * gpu.bandwidth / GPUS["A100"].bandwidth * VLLM_WEIGHTS / (
            shape.counts["linears"] + shape.vocab * shape.hidden)
        return rows * mean / rate
    longest = min(work.completion, LONGEST * mean)
    batch = min(batch or work.generated, math.ceil(rows))
    width = work.mode.width
    # in 4 bits every weight is read, written out in 16 bits and read again
    weights = (shape.counts["linears"] * (NF4 + 4 if work.four_bit else width)
               + shape.vocab * shape.hidden * width)
    length = work.text + work.picture + (longest + mean) / 2
    cache = batch * length * 2 * shape.kv_heads * shape.head_dim * shape.layers * width
    spread = 2 * shape.heads / shape.kv_heads  # each head's own copy, written and read
    step = max(LAUNCH * shape.layers, (weights + cache * (1 + spread)) / (SPEED * gpu.bandwidth))
    return math.ceil(rows / batch) * longest * step


def stage_seconds(stage: str, parameters: Mapping[str, Mapping[str, Any]], shape: Shape, gpu: Gpu) -> float:
    """Seconds of "02_cot_sft", "03_tapo" or "04_evaluation".

    Args:
        parameters: stage -> values, all of a preset's.
    """
    from finer1_lib.data.data_sets.catalogue import DATA_SETS

    mine, data = parameters[stage], parameters["01_data"]
    sets = [DATA_SETS[word] for word in data["data_sets"]]
    seen = sum(entry.seen for entry in sets)
    work = work_of(stage, mine, trained=parameters["02_cot_sft"])
    prompt, engine = work.text + work.picture, mine.get("engine", "transformers")
    if stage == "02_cot_sft":
        words = data["teacher_words"] or 535
        texts = seen if not data["rationales_file"] else sum(RATIONALES[entry.word] for entry in sets)
        pictures = seen * data["num_shots"] * mine["answer_epochs"]
        return (reading(shape, work, texts * mine["cot_epochs"], prompt + words * TOKENS_PER_WORD, gpu, True)
                + reading(shape, work, pictures, prompt + ANSWER, gpu, True))
    if stage == "03_tapo":
        base = TapoConfig()
        names = {field.name for field in dataclasses.fields(TapoConfig)}
        settings = dataclasses.replace(base, **{key: mine[key] for key in names & set(mine)})
        seconds = 0.0
        for name in mine["methods"]:
            config = method_config(name, settings) if name in METHODS else settings
            rows, length = config.steps * config.rows_per_step, prompt + mean_tokens(work)
            seconds += config.steps / config.updates_per_rollout * AGAIN * writing(
                shape, work, config.updates_per_rollout * config.rows_per_step, gpu, engine)
            own = 1 if work.seen_together == 1 else config.group_size  # times that a prompt is read
            prompts = rows / config.group_size * max(own, 1 + bool(config.n_positive))
            seconds += AGAIN * reading(shape, work, prompts, prompt, gpu)
            # rows of a micro-batch that share a prompt (`sharing.bundle` keeps them together)
            together = math.gcd(config.group_size, config.micro_batch_size)
            scored = 1 + (config.needs_negative and config.negative_branch == "fresh")
            seconds += scored * reading(shape, work, rows, length, gpu, True, together)
            seconds += reading(shape, work, rows, length, gpu, together=together) * (config.updates_per_rollout > 1)
        return seconds
    each = mine["images_per_class"] or math.inf
    pictures = sum(min(entry.classes * each, entry.test) for entry in sets)
    questions = pictures * (1 + len(mine["option_orders"]))  # open world, and closed in each order
    thinking = 2 + len(parameters["03_tapo"]["methods"])  # the base with the four-part prompt, CoT SFT, what 03 trained
    short = dataclasses.replace(work, completion=ANSWER)
    return (thinking * (writing(shape, work, questions, gpu, engine) + reading(shape, work, questions, prompt, gpu))
            + 2 * (writing(shape, short, questions, gpu, engine) + reading(shape, work, questions, prompt, gpu)))


def estimates(parameters: Mapping[str, Mapping[str, Any]], gpu: Gpu) -> dict[str, tuple[float, float]]:
    """Stage -> (bytes at its peak, hours) of a preset on a GPU.

    Args:
        parameters: stage -> values (`presets.Plan.parameters`).
    """
    checkpoint = parameters["00_miniature_world"]["base_checkpoint"]
    shape, found = shape_of(checkpoint), {}
    for stage in ("02_cot_sft", "03_tapo", "04_evaluation"):
        own = plan(stage, parameters[stage], checkpoint, trained=parameters["02_cot_sft"], half=True,
                   completion=completion_of(parameters) if stage == "02_cot_sft" else None)
        found[stage] = (total(own), stage_seconds(stage, parameters, shape, gpu) / 3600)
    return found


def engine_hours(parameters: Mapping[str, Mapping[str, Any]], gpu: Gpu) -> Optional[list[float]]:
    """Hours of 03 and 04 with `engine: vllm`; None where it cannot sample: it takes no 4-bit weights."""
    if parameters["03_tapo"]["load_in_4bit"]:
        return None
    with_engine = {stage: {**values, "engine": "vllm"} for stage, values in parameters.items()}
    shape = shape_of(parameters["00_miniature_world"]["base_checkpoint"])
    return [stage_seconds(stage, with_engine, shape, gpu) / 3600 for stage in ("03_tapo", "04_evaluation")]


def completion_of(parameters: Mapping[str, Mapping[str, Any]]) -> Optional[int]:
    """Tokens of the longest rationale where 01 bounds its words; None where it does not."""
    data = parameters["01_data"]
    bounded = data["teacher_words"] and not data["rationales_file"]
    return round(data["teacher_words"] * TOKENS_PER_WORD) + 40 if bounded else None


def table(kit: Any) -> list[str]:
    """The table of presets in params/README.md, in Markdown."""
    from finer1_lib.runs.presets import make_plan

    found = ["| preset | GPU | 02: GB | 03: GB | 04: GB | 02: hours | 03: hours | 04: hours |"
             " 03: with vLLM | 04: with vLLM |", "|---|---|---|---|---|---|---|---|---|---|"]
    for preset, name in PRESETS:
        gpu = GPUS[name]
        parameters = make_plan(kit, preset).parameters
        estimated, engine = estimates(parameters, gpu), engine_hours(parameters, gpu)
        memory = [f"{most / 1e9:.0f}{_room(most / gpu.memory)}" for most, _ in estimated.values()]
        hours = [f"{spent:.1f}" if spent < 10 else f"{spent:.0f}"
                 for spent in [spent for _, spent in estimated.values()] + (engine or [])]
        hours += [] if engine else ["-", "-"]
        found.append(f"| `{preset}` | {gpu.name} | {' | '.join(memory)} | {' | '.join(hours)} |")
    return found


def _room(share: float) -> str:
    """The remark on a peak that takes this share of a GPU."""
    return " (too much)" if share > 1 else " (tight)" if share > TIGHT else ""


if __name__ == "__main__":
    from finer1_lib.runs.presets import find_kit

    print(*table(find_kit()), sep="\n")
