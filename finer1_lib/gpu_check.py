"""The first minutes on a GPU: does a preset compute there what it computes on a CPU, and within its memory?

    finer1 gpu-check colab_t4

    a small run           SFT and TAPO on the kit's miniature, on the preset's backend (with torch.compile)
    fp16 scaler           its scale does not collapse (float16 only: a T4)
    log-probabilities     the kit's own against the model's logits
    Unsloth's             the kit's own against Unsloth's
    gradients             finite, and the same with and without checkpointing
    memory of a step      of both trainings, against the plan
    vLLM                  if asked for: whether it wants the torch that is installed

Every check is a function from a `Bench` to rows, as the doctor's; one that breaks stops no other.

Source: trainer.md 6 (the checklist for the first hour on a GPU).
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from finer1_lib.doctor.rows import NotYet, Row, fail, passed, warn
from finer1_lib.errors import UserError
from finer1_lib.gpu_bench import SFT, TAPO, Bench, answer, examples
from finer1_lib.miniature.base import WEIGHTS
from finer1_lib.out_of_memory import mended

if TYPE_CHECKING:
    from finer1_lib.doctor.examination import Finding
    from finer1_lib.presets import Plan

HALF, SINGLE = 0.05, 1e-3  # mean difference of log-probabilities, relative one of gradient norms
UNDER, OVER = 0.6, 1.15  # measured bytes, of the planned ones
TOKENS = 64  # of a completion, where only agreement counts


def run(plan: "Plan", *, device: str = "cuda", vllm: bool = False) -> "list[Finding]":
    """Check a preset on a GPU.

    Args:
        plan: of `presets.make_plan`.
        device: another one for tests.
        vllm: look at vLLM too.

    Returns:
        Rows of pass, warn, fail and skip (`doctor.examination.Finding`).

    Raises:
        UserError: no GPU.
    """
    import torch

    from finer1_lib.doctor.examination import examine

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("gpu-check: there is no CUDA GPU here; run it on the machine that will train")
    with tempfile.TemporaryDirectory() as folder:
        return examine(Bench(plan, device, Path(folder), vllm), CHECKS)


def small_run(bench: Bench) -> list[Row]:
    """Both trainings for a few steps on the kit's miniature, by the very calls of notebooks 02 and 03."""
    from finer1_lib.sft import SftConfig, train_sft
    from finer1_lib.tapo import make_config, train_tapo

    loaded, (given, triplets) = bench.load(str(WEIGHTS)), examples(bench.folder)
    where = f"{bench.get(SFT, 'backend', 'transformers')}, {str(loaded.dtype).removeprefix('torch.')}"
    config = SftConfig(epochs=2, batch_size=4, micro_batch_size=2, warmup_steps=1)
    loaded = train_sft(loaded, given, config, bench.folder / "sft")
    config = make_config(
        "kit", n_anchor=2, n_positive=2, prompts_per_step=2, steps=2, micro_batch_size=4, max_new_tokens=16,
        nothing_survives="keep", max_sampling_rounds=1)
    train_tapo(loaded, triplets, config, bench.folder / "tapo")
    return [_steps(bench.folder / name, what, where)
            for name, what in (("sft_log.csv", "SFT"), ("metrics_tapo.csv", "TAPO"))]


def _steps(log: Path, what: str, where: str) -> Row:
    import pandas as pd

    rows = pd.read_csv(log)[["loss", "grad_norm"]]
    told = f"{what}: {len(rows)} steps, loss {rows['loss'].iloc[-1]:.3g}, gradient norm " + ", ".join(
        f"{norm:.3g}" for norm in rows["grad_norm"])
    if rows.abs().lt(float("inf")).all(axis=None) and rows["grad_norm"].gt(0).all():  # false for nan
        return passed(told, where)
    return fail(told, where, "set backend to transformers, or install the versions of constraints.txt")


def scaler(bench: Bench) -> list[Row]:
    """Eight steps in float16: a scaler that halves its scale at every step never takes one."""
    import torch

    from finer1_lib.sft import SftConfig, build_trainer

    loaded = bench.load(str(WEIGHTS))
    if loaded.dtype != torch.float16:
        raise NotYet(f"computed in {loaded.dtype}: no scaler is needed")
    config = SftConfig(epochs=4, batch_size=3, micro_batch_size=3, warmup_steps=1)
    trainer = build_trainer(loaded, examples(bench.folder)[0], config, bench.folder / "scaler")
    trainer.train()
    norms = [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]
    return [scale_row(trainer.accelerator.scaler.get_scale(), norms)]


def scale_row(scale: float, norms: list[float]) -> Row:
    """What the scale at the end, and the gradient norms on the way, say."""
    finite = sum(abs(norm) < float("inf") for norm in norms)
    told = f"scale {scale:g} at the end, {finite} of {len(norms)} gradient norms finite"
    if scale >= 1 and 2 * finite > len(norms):
        return passed(told, "float16")
    return fail(told, "float16", "use a GPU with bfloat16, or backend transformers with load_in_4bit true")


def log_probabilities(bench: Bench) -> list[Row]:
    """The same completion scored by the kit (hidden states, head in chunks) and by the model's own logits."""
    import torch

    from finer1_lib.encoding import vision_inputs

    loaded, prompt = bench.loaded, bench.prompt(SFT)
    loaded.model.eval()
    ids, mask = answer(loaded)
    whole = torch.cat([torch.tensor([prompt.ids], device=ids.device), ids], 1)
    with torch.no_grad(), bench.autocast():
        ours = bench.scored([prompt], ids, mask).logp
        logits = loaded.model(
            input_ids=whole, attention_mask=torch.ones_like(whole),
            **vision_inputs([prompt], whole, loaded.model.config.image_token_id)).logits
        logs = torch.log_softmax(logits[:, len(prompt.ids) - 1 : -1].float(), -1)
    return [_agree(ours, logs.gather(-1, ids[..., None])[..., 0], loaded, "the model's own logits")]


def unsloths(bench: Bench) -> list[Row]:
    """The same against the method that Unsloth's own GRPO takes its log-probabilities from."""
    import torch

    from finer1_lib.encoding import vision_inputs
    from finer1_lib.tapo import make_config
    from finer1_lib.tapo_trainer import build_trainer

    if bench.get(SFT, "backend", "transformers") != "unsloth":
        raise NotYet("the preset's backend is transformers")
    loaded, prompt = bench.loaded, bench.prompt(SFT)
    config = make_config("kit", n_anchor=1, n_positive=1, prompts_per_step=1, steps=2, micro_batch_size=2)
    trainer = build_trainer(loaded, examples(bench.folder)[1], config, bench.folder / "unsloths")
    ids, mask = answer(loaded)
    whole = torch.cat([torch.tensor([prompt.ids], device=ids.device), ids], 1)
    theirs = trainer._get_per_token_logps_and_entropies(
        trainer.model, whole, torch.ones_like(whole), ids.shape[1], num_images=[1],
        **vision_inputs([prompt], whole, loaded.model.config.image_token_id))[0]
    loaded.model.eval()
    with torch.no_grad():
        ours = bench.scored([prompt], ids, mask).logp
    return [_agree(ours, theirs, loaded, "Unsloth's log-probabilities")]


def _agree(ours: Any, theirs: Any, loaded: Any, whose: str) -> Row:
    import torch

    apart = (ours.float() - theirs.float()).abs()
    bound = SINGLE if loaded.dtype == torch.float32 else HALF
    told = f"{apart.mean():.2g} nats apart in the mean, {apart.max():.2g} at most, {apart.numel()} tokens"
    if apart.mean() <= bound:  # false for nan
        return passed(f"{whose}: {told}")
    return fail(f"{whose}: {told}; at most {bound:g} in the mean is rounding", loaded.checkpoint,
                "backend transformers, or the versions of constraints.txt")


def gradients(bench: Bench) -> list[Row]:
    """The gradient norm of one row, with and without checkpointing."""
    import torch

    prompt, (ids, mask), norms = bench.prompt(SFT), bench.completions(1, TOKENS), {}
    for on in (True, False):
        bench.training(on)
        bench.loaded.model.zero_grad()
        with mended("a step of one row"):
            bench.scored([prompt], ids, mask).logp.mean().backward()
        squares = [p.grad.float().square().sum() for p in bench.loaded.model.parameters()
                   if p.grad is not None]
        norms[on] = float(sum(squares, torch.zeros(()))) ** 0.5
    bench.loaded.model.zero_grad()
    told = f"norm {norms[True]:.4g} with checkpointing, {norms[False]:.4g} without"
    bound = SINGLE if bench.loaded.dtype == torch.float32 else HALF
    if 0 < norms[True] < float("inf") and abs(norms[True] - norms[False]) <= bound * norms[False]:
        return [passed(told)]
    return [fail(told, bench.checkpoint, "set gradient_checkpointing to false, or backend to transformers")]


def memory(bench: Bench, stage: str) -> list[Row]:
    """Bytes of one micro-batch, as large as it can get, beside the plan's."""
    from finer1_lib.memory_plan import GiB, plan

    update, loaded = bench.largest(stage), bench.loaded
    bench.training(loaded.gradient_checkpointing or loaded.backend == "unsloth")
    with mended(f"a micro-batch of {stage}", loaded, training=True,
                micro_batch_size=bench.get(stage, "micro_batch_size", 8)):
        measured = bench.peak(update.backward)
    loaded.model.zero_grad()
    rows = plan(stage, bench.plan.parameters[stage], bench.checkpoint, completion=update.completion,
                trained=bench.plan.parameters[SFT])
    if rows is None:
        return [warn(f"{measured / GiB:.2f} GiB measured", stage, "the plan does not know this checkpoint")]
    planned = sum(row.bytes for row in rows  # what this one step has no use for is not there
                  if row.moment in ("held", "update") and row.part not in ("optimizer", "pictures' features"))
    told = f"{measured / GiB:.2f} GiB measured, {planned / GiB:.2f} planned, without the optimizer's moments"
    if measured <= OVER * planned:
        return [passed(told, stage) if measured >= UNDER * planned else warn(
            told, stage, "the plan is too careful here: a larger micro-batch may fit")]
    return [warn(told, stage, "the plan is too low here: leave that much more room, or one rung smaller")]


def vllm(bench: Bench) -> list[Row]:
    """Whether an installed vLLM wants the torch that is installed."""
    if not bench.vllm:
        raise NotYet("not asked for: the kit samples with transformers or Unsloth; an endpoint may be vLLM's")
    import importlib.metadata

    from packaging.requirements import Requirement

    try:
        version, needs = importlib.metadata.version("vllm"), importlib.metadata.requires("vllm") or []
    except importlib.metadata.PackageNotFoundError:
        return [fail("vLLM is not installed", "vllm", "install one that wants this torch, or do without")]
    torch = importlib.metadata.version("torch")
    wanted = [one for one in map(Requirement, needs) if one.name == "torch"]
    if all(one.specifier.contains(torch.partition("+")[0], prereleases=True) for one in wanted):
        return [passed(f"vLLM {version} takes torch {torch}", "vllm")]
    told = f"vLLM {version} wants {wanted[0]}, torch is {torch}"
    return [fail(told, "vllm", "give vLLM an environment of its own")]


CHECKS: dict[str, Callable[[Bench], list[Row]]] = {
    "a small run": small_run, "fp16 scaler": scaler, "log-probabilities": log_probabilities,
    "Unsloth's": unsloths, "gradients": gradients, "memory of SFT": lambda bench: memory(bench, SFT),
    "memory of TAPO": lambda bench: memory(bench, TAPO), "vLLM": vllm,
}
