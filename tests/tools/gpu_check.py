"""The first minutes on a GPU: does a preset compute there what it computes on a CPU, and within its memory?

    finer1 gpu-check colab_t4

`CHECKS` lists the checks, each a function from a `Bench` (a preset's model, its settings, batches as large as
they get) to rows, as the doctor's; one that breaks stops no other.
"""

import importlib.metadata
import math
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Sequence

from finer1_lib.commands.findings import Check, Finding, NotYet, Row, examine, fail, judged, passed, warn
from finer1_lib.core.errors import UserError
from finer1_lib.core.images import ImageFile
from finer1_lib.core.prompts import PROMPTS, question_for, user_message
from finer1_lib.miniature.base import WEIGHTS
from finer1_lib.models import loading as models
from finer1_lib.models.encoding import Encoder, pixels_of, set_pixels, vision_inputs
from finer1_lib.models.generation import evaluating, sample_ids
from finer1_lib.models.log_probabilities import score_completions
from finer1_lib.models.out_of_memory import memory_advice
from finer1_lib.models.trainable import make_trainable
from finer1_lib.runs.presets import Plan
from finer1_lib.training import memory as plans, sft, tapo
from finer1_lib.training.methods import METHODS, method_config
from finer1_lib.training.tapo_config import TapoConfig, TripletRow, make_config, tapo_config_from
from tools.gpu_hours import AGAIN, mean_tokens

WORLD, SFT, TAPO = "00_miniature_world", "02_cot_sft", "03_tapo"
SIDE = 28  # pixels of an image token
HALF, SINGLE = 0.05, 1e-3  # bounds of the mean difference of log-probabilities, and the relative one of norms
UNDER, OVER = 0.6, 1.15  # measured bytes, relative to the planned ones
TOKENS = 64  # of a completion, where only agreement counts
TURNS, SAMPLED, WRITTEN = 3, 32, 128  # of the speed check: turns, rollouts together, tokens of each at most
ANSWER = "<think> red crown, black back </think><answer> Dunen Wren </answer>"


@dataclass
class Bench:
    """A preset on a device ("cuda", or another for tests), with a scratch folder for small trainings."""

    plan: Plan
    device: str
    folder: Path
    vllm: bool = False

    def get(self, stage: str, name: str) -> Any:
        """A stage's value."""
        return self.plan.parameters[stage][name]

    @property
    def checkpoint(self) -> str:
        """The preset's base."""
        return str(self.get(WORLD, "base_checkpoint") or WEIGHTS)

    def load(self, checkpoint: str) -> Any:
        """A checkpoint as stage 02 trains it."""
        trainable = plans.work_of(SFT, self.plan.parameters[SFT]).trainable
        given = {name: self.get(SFT, name) for name in ("backend", "load_in_4bit", "gradient_checkpointing")}
        loaded = models.load(checkpoint, device=self.device, full_finetuning=trainable.full, **given)
        return make_trainable(loaded, trainable)

    @cached_property
    def loaded(self) -> Any:
        """The preset's model, loaded on first use."""
        return self.load(self.checkpoint)

    def prompt(self, stage: str, seed: int = 0) -> Any:
        """The reasoning prompt with a square image of noise, as large as the stage allows, encoded."""
        from PIL import Image

        set_pixels(self.loaded.processor, self.get(stage, "min_pixels"), self.get(stage, "max_pixels"))
        most = min(pixels_of(self.loaded.processor)["max_pixels"], plans.LARGEST_PICTURE)
        side = max(1, math.isqrt(most) // SIDE) * SIDE
        image = Image.effect_noise((side, side), 40 + seed).convert("RGB")
        text = PROMPTS["cot_open"].text(question=question_for("bird"))
        return Encoder(self.loaded.processor)(user_message(text, image))

    def completions(self, rows: int, tokens: int) -> tuple:
        """(ids, mask), (rows, tokens) each, of one repeated letter.

        The last of several rows is a token shorter: rows without padding need no mask, and attention without
        one takes less memory than real, unequal rows.
        """
        import torch

        letter = self.loaded.processor.tokenizer(" a", add_special_tokens=False)["input_ids"][-1]
        ids = torch.full((rows, tokens), letter, device=self.loaded.device)
        mask = torch.ones_like(ids)
        mask[-1, -1] = int(rows == 1)
        return ids, mask

    def autocast(self) -> Any:
        """The precision that training computes in."""
        import torch

        half = self.loaded.dtype != torch.float32
        return torch.autocast(self.loaded.device.partition(":")[0], dtype=self.loaded.dtype, enabled=half)

    def scored(self, prompts: list, ids: Any, mask: Any) -> Any:
        """`score_completions` under `autocast`."""
        pad = self.loaded.processor.tokenizer.pad_token_id
        with self.autocast():
            return score_completions(self.loaded.model, prompts, ids, mask, pad_token_id=pad)

    def answered(self) -> tuple:
        """A prompt and `ANSWER`: (prompt, ids and mask of the answer, a forward's inputs for both)."""
        import torch

        loaded, prompt = self.loaded, self.prompt(SFT)
        ids = torch.tensor([Encoder(loaded.processor).completion(ANSWER)], device=loaded.device)
        both = torch.cat([torch.tensor([prompt.ids], device=ids.device), ids], 1)
        vision = vision_inputs([prompt], both, loaded.model.config.image_token_id)
        return prompt, ids, torch.ones_like(ids), {
            "input_ids": both, "attention_mask": torch.ones_like(both), **vision}

    def training(self, checkpointing: bool) -> None:
        """Switch the model to training, with gradient checkpointing (Unsloth's own, if it is its) or not."""
        model = self.loaded.model
        if hasattr(model, "for_training"):
            return model.for_training(use_gradient_checkpointing="unsloth" if checkpointing else False)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            model.gradient_checkpointing_disable()
        model.train()

    def largest(self, stage: str) -> tuple[Callable[[], Any], int]:
        """The largest micro-batch of a stage, as the plan counts it: all its rows with full completions.

        (a function that runs forward and backward over it, tokens of its completions).
        """
        rows = self.get(stage, "micro_batch_size")
        if stage == SFT:
            tokens, sides = plans.RATIONALE_TOKENS, [[self.prompt(stage, seed) for seed in range(rows)]]
        else:
            tokens = self.get(stage, "max_new_tokens")
            group = self.get(stage, "n_anchor") + self.get(stage, "n_positive")
            together = math.gcd(group, rows)  # rows of one group, as `sharing.bundle` keeps them
            prompts = [self.prompt(stage, seed) for seed in range(2 * rows // together)]
            sides = [[p for p in half for _ in range(together)] for half in (prompts[::2], prompts[1::2])]
        ids, mask = self.completions(rows, tokens)

        def backward() -> None:
            parts = [self.scored(side, ids, mask) for side in sides]
            sum(part.logp.sum() + part.entropy.sum() for part in parts).backward()

        return backward, tokens

    def peak(self, work: Callable[[], Any]) -> int:
        """The peak of allocated bytes on the GPU while `work` runs."""
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()


def examples(folder: Path) -> tuple[list, list]:
    """Six images of noise as examples of SFT and as triplets of TAPO."""
    from PIL import Image

    prompt, files = "What species is this bird?", [ImageFile(str(folder), f"{k}.png") for k in range(6)]
    for number in range(6):
        Image.effect_noise((112, 112), 20 + 10 * number).convert("RGB").save(folder / f"{number}.png")
    return [sft.SftExample(file, prompt, ANSWER) for file in files], [
        TripletRow(files[k], files[k - 1], files[k - 2], prompt, "Dunen Wren") for k in range(6)]


def run(plan: Plan, *, device: str = "cuda", vllm: bool = False) -> list[Finding]:
    """Check a preset on a GPU (another device for tests), and an installed vLLM too if requested.

    Raises: UserError: no GPU.
    """
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("gpu-check: there is no CUDA GPU here; run it on the machine that will train")
    with tempfile.TemporaryDirectory() as folder:
        return examine(Bench(plan, device, Path(folder), vllm), CHECKS)


def small_run(bench: Bench) -> list[Row]:
    """Both trainings for a few steps on the kit's miniature, by the calls of notebooks 02 and 03."""
    loaded, (given, triplets) = bench.load(str(WEIGHTS)), examples(bench.folder)
    where = f"{bench.get(SFT, 'backend')}, {str(loaded.dtype).removeprefix('torch.')}"
    config = sft.SftConfig(epochs=2, batch_size=4, micro_batch_size=2, warmup_steps=1)
    loaded = sft.train_sft(loaded, given, config, bench.folder / "sft")
    config = make_config(
        "kit", n_anchor=2, n_positive=2, prompts_per_step=2, steps=2, micro_batch_size=4, max_new_tokens=16,
        nothing_survives="keep", max_sampling_rounds=1)
    tapo.train_tapo(loaded, triplets, config, bench.folder / "tapo")
    return [_steps(bench.folder / name, what, where)
            for name, what in (("sft_log.csv", "SFT"), ("metrics_tapo.csv", "TAPO"))]


def _steps(log: Path, what: str, where: str) -> Row:
    import pandas as pd

    rows = pd.read_csv(log)[["loss", "grad_norm"]]
    text = f"{what}: {len(rows)} steps, loss {rows['loss'].iloc[-1]:.3g}, gradient norm " + ", ".join(
        f"{norm:.3g}" for norm in rows["grad_norm"])
    fine = rows.abs().lt(float("inf")).all(axis=None) and rows["grad_norm"].gt(0).all()  # false for nan
    return judged(fine, text, where, "set backend to transformers, or install the versions of constraints.txt")


def scaler(bench: Bench) -> list[Row]:
    """Eight steps in float16: a scaler that halves its scale at every step never takes one."""
    loaded = bench.load(str(WEIGHTS))
    if str(loaded.dtype) != "torch.float16":
        raise NotYet(f"computed in {loaded.dtype}: no scaler is needed")
    config = sft.SftConfig(epochs=4, batch_size=3, micro_batch_size=3, warmup_steps=1)
    trainer = sft.build_trainer(loaded, examples(bench.folder)[0], config, bench.folder / "scaler")
    trainer.train()
    norms = [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]
    return [scale_row(trainer.accelerator.scaler.get_scale(), norms)]


def scale_row(scale: float, norms: list[float]) -> Row:
    """Whether the final scale and the gradient norms show a collapse."""
    finite = sum(abs(norm) < float("inf") for norm in norms)
    text = f"scale {scale:g} at the end, {finite} of {len(norms)} gradient norms finite"
    return judged(scale >= 1 and 2 * finite > len(norms), text, "float16",
                  "use a GPU with bfloat16, or backend transformers with load_in_4bit true")


def log_probabilities(bench: Bench) -> list[Row]:
    """The same completion scored by the kit (hidden states, head in chunks) and by the model's own logits."""
    import torch

    prompt, ids, mask, given = bench.answered()
    bench.loaded.model.eval()
    with torch.no_grad(), bench.autocast():
        ours = bench.scored([prompt], ids, mask).logp
        logits = bench.loaded.model(**given).logits
        logs = torch.log_softmax(logits[:, len(prompt.ids) - 1 : -1].float(), -1)
    return [_agree(ours, logs.gather(-1, ids[..., None])[..., 0], bench.loaded, "the model's own logits")]


def unsloths(bench: Bench) -> list[Row]:
    """The same against the method of Unsloth's own GRPO."""
    import torch

    if bench.get(SFT, "backend") != "unsloth":
        raise NotYet("the preset's backend is transformers")
    prompt, ids, mask, given = bench.answered()
    config = make_config("kit", n_anchor=1, n_positive=1, prompts_per_step=1, steps=2, micro_batch_size=2)
    trainer = tapo.build_trainer(bench.loaded, examples(bench.folder)[1], config, bench.folder / "unsloths")
    both, attended = given.pop("input_ids"), given.pop("attention_mask")
    theirs = trainer._get_per_token_logps_and_entropies(
        trainer.model, both, attended, ids.shape[1], num_images=[1], **given)[0]
    bench.loaded.model.eval()
    with torch.no_grad():
        ours = bench.scored([prompt], ids, mask).logp
    return [_agree(ours, theirs, bench.loaded, "Unsloth's log-probabilities")]


def _bound(loaded: Any) -> float:
    return SINGLE if str(loaded.dtype) == "torch.float32" else HALF


def _agree(ours: Any, theirs: Any, loaded: Any, whose: str) -> Row:
    apart, bound = (ours.float() - theirs.float()).abs(), _bound(loaded)
    text = (f"{whose}: differ by {apart.mean():.2g} nats on average, {apart.max():.2g} at most, "
            f"{apart.numel()} tokens; at most {bound:g} on average is rounding")
    return judged(bool(apart.mean() <= bound), text, loaded.checkpoint,  # false for nan
                  "backend transformers, or the versions of constraints.txt")


def gradients(bench: Bench) -> list[Row]:
    """The gradient norm of one row, finite, and equal with and without checkpointing."""
    prompt, (ids, mask), model = bench.prompt(SFT), bench.completions(1, TOKENS), bench.loaded.model
    norms = []
    for checkpointing in (True, False):
        bench.training(checkpointing)
        model.zero_grad()
        with memory_advice("a step of one row"):
            bench.scored([prompt], ids, mask).logp.mean().backward()
        squares = (p.grad.float().square().sum() for p in model.parameters() if p.grad is not None)
        norms.append(float(sum(squares)) ** 0.5)
    model.zero_grad()
    close = abs(norms[0] - norms[1]) <= _bound(bench.loaded) * norms[1] and 0 < norms[0] < float("inf")
    return [judged(close, f"norm {norms[0]:.4g} with checkpointing, {norms[1]:.4g} without", bench.checkpoint,
                   "set gradient_checkpointing to false, or backend to transformers")]


def memory(bench: Bench, stage: str) -> list[Row]:
    """Bytes of one micro-batch, as large as it can get, compared with the plan."""
    (backward, tokens), loaded, values = bench.largest(stage), bench.loaded, bench.plan.parameters
    bench.training(loaded.gradient_checkpointing or loaded.backend == "unsloth")
    with memory_advice(f"a micro-batch of {stage}", loaded, training=True,
                       micro_batch_size=bench.get(stage, "micro_batch_size")):
        measured = bench.peak(backward)
    loaded.model.zero_grad()
    rows = plans.plan(stage, values[stage], bench.checkpoint, completion=tokens, trained=values[SFT])
    text = f"{measured / plans.GiB:.2f} GiB measured"
    if rows is None:
        return [warn(text, stage, "the plan does not know this checkpoint")]
    planned = sum(row.bytes for row in rows  # without what this single step does not allocate
                  if row.moment in ("held", "update") and row.part not in ("optimizer", "pictures' features"))
    text += f", {planned / plans.GiB:.2f} planned, without the optimizer's moments"
    advice = ("the plan is too low here: leave more room, or take the next fallback" if measured > planned
              else "the plan is too careful here: a larger micro-batch may fit")
    return [judged(UNDER * planned <= measured <= OVER * planned, text, stage, advice, warn)]


def speed(bench: Bench) -> list[Row]:
    """Rollout tokens, updated rows and prepared images a second, and from them the hours of this preset's 03.

    The model itself samples; an engine's speed shows in `seconds_rollout` of 03's own log.
    """
    loaded, values = bench.loaded, bench.plan.parameters
    config = tapo_config_from(values[TAPO])
    rows, limit = min(config.generation_batch_size, SAMPLED), min(config.max_new_tokens, WRITTEN)
    prompt, tokens = bench.prompt(TAPO), []

    def sample() -> None:
        with evaluating(loaded.model), bench.autocast(), memory_advice(
                "sampling rollouts", final=False, prompts=rows):
            drawn = sample_ids(loaded.model, loaded.processor.tokenizer, [prompt] * rows, seed=(len(tokens),),
                               max_new_tokens=limit, temperature=config.temperature, top_p=config.top_p)
        tokens.append(sum(map(len, drawn)))

    backward, full = bench.largest(TAPO)

    def update() -> None:
        bench.training(loaded.gradient_checkpointing or loaded.backend == "unsloth")
        with memory_advice("a micro-batch of 03_tapo", loaded, training=True,
                           micro_batch_size=config.micro_batch_size):
            backward()
        loaded.model.zero_grad()

    seconds = {work.__name__: [_seconds(work) for _ in range(TURNS)]
               for work in (sample, update, lambda: bench.prompt(TAPO))}
    rates = [many / spent for many, spent in zip(tokens, seconds["sample"])]
    images = [1 / spent for spent in seconds["<lambda>"]]
    mean = mean_tokens(plans.work_of(TAPO, values[TAPO], trained=values[SFT]))
    methods = [method_config(name, config) if name in METHODS else config for name in values[TAPO]["methods"]]
    shorter = (len(prompt.ids) + mean) / (len(prompt.ids) + full)
    hours = hours_of(methods, mean, statistics.median(rates), statistics.median(seconds["update"]) * shorter)
    return [passed(f"rollouts {_spread(rates)} tokens/s ({rows} at a time, up to {limit} tokens); an update of "
                   f"{config.micro_batch_size} rows of {full} tokens {_spread(seconds['update'])} s; images "
                   f"{_spread(images)}/s; medians of {TURNS} turns [lowest, highest]. By these speeds 03 "
                   f"({', '.join(values[TAPO]['methods'])}) takes about {hours:.3g} hours at {mean:.0f} tokens a "
                   "rollout", bench.checkpoint)]


def hours_of(methods: "Sequence[TapoConfig]", mean: float, rate: float, micro: float) -> float:
    """Hours of stage 2: rollouts at `rate` tokens a second, and `micro` seconds for a micro-batch whose rows are
    scored under their own image and the negative; half of it for a method without a negative.
    """
    spent = 0.0
    for config in methods:
        rows = config.steps * config.rows_per_step
        spent += AGAIN * rows * mean / rate
        spent += rows / config.micro_batch_size * micro * (1 if config.needs_negative else 0.5)
    return spent / 3600


def _seconds(work: Callable[[], Any]) -> float:
    import torch

    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _spread(values: "Sequence[float]") -> str:
    return f"{statistics.median(values):.3g} [{min(values):.3g}, {max(values):.3g}]"


def vllm(bench: Bench) -> list[Row]:
    """Whether an installed vLLM needs the installed torch."""
    if not bench.vllm:
        raise NotYet("not requested: the kit samples with transformers or Unsloth; an endpoint may be vLLM's")
    from packaging.requirements import Requirement

    try:
        version, needs = importlib.metadata.version("vllm"), importlib.metadata.requires("vllm") or []
    except importlib.metadata.PackageNotFoundError:
        return [fail("vLLM is not installed", "vllm", "install one that needs this torch, or do without")]
    own = importlib.metadata.version("torch")
    wanted = [one for one in map(Requirement, needs) if one.name == "torch"]
    fine = all(one.specifier.contains(own.partition("+")[0], prereleases=True) for one in wanted)
    text = f"vLLM {version} takes torch {own}" if fine else f"vLLM {version} needs {wanted[0]}, torch is {own}"
    return [judged(fine, text, "vllm", "install vLLM in a separate environment")]


CHECKS: dict[str, Check] = {
    "a small run": small_run,  # SFT and TAPO on the kit's miniature, on the preset's backend
    "fp16 scaler": scaler,  # its scale does not collapse (float16 only: a T4)
    "log-probabilities": log_probabilities,  # the kit's own against the model's logits
    "Unsloth's": unsloths,  # the kit's own against Unsloth's
    "gradients": gradients,
    "memory of SFT": lambda bench: memory(bench, SFT),  # a step, against the plan
    "memory of TAPO": lambda bench: memory(bench, TAPO),
    "speed": speed,  # tokens, updates and images a second, and this preset's hours from them
    "vLLM": vllm,  # if requested: whether it needs the installed torch
}
