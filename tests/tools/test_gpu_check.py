"""The checklist for a GPU, run on a CPU where it can be, and judged on planted faults."""

import dataclasses
import importlib.metadata
import math
from pathlib import Path

import pytest
import torch
from tools import gpu_check
from tools.gpu_check import SFT, TAPO, Bench

from finer1_lib.commands.findings import NotYet, examine
from finer1_lib.core.errors import UserError
from finer1_lib.models.log_probabilities import Scored
from finer1_lib.runs.presets import find_kit, make_plan
from finer1_lib.training.tapo_config import make_config

SMALL = ["02_cot_sft.micro_batch_size=2", "02_cot_sft.batch_size=2", "03_tapo.micro_batch_size=4",
         "03_tapo.max_new_tokens=24"]


@pytest.fixture(scope="module")
def plan():
    return make_plan(find_kit(), "miniature", settings=SMALL)


@pytest.fixture
def bench(plan, tmp_path):
    return Bench(plan, "cpu", tmp_path)


@pytest.fixture(scope="module")
def loaded(plan, tmp_path_factory):
    return Bench(plan, "cpu", tmp_path_factory.mktemp("bench")).loaded


@pytest.fixture
def ready(bench, loaded):
    """A bench whose model is loaded; what a test does to the gradients is forgotten."""
    bench.__dict__["loaded"] = loaded
    yield bench
    loaded.model.zero_grad()


def test_without_a_gpu_it_is_one_line(plan, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA GPU here") as caught:
        gpu_check.run(plan)
    assert "\n" not in str(caught.value)


def test_the_whole_checklist_on_a_cpu(plan, monkeypatch):
    """Memory apart, which is counted on a GPU alone."""
    torch.set_num_threads(1)
    monkeypatch.setattr(gpu_check, "memory", lambda bench, stage: [])
    found = {one.check: one for one in gpu_check.run(plan, device="cpu")}
    assert {name: one.level for name, one in found.items()} == {
        "a small run": "pass", "fp16 scaler": "skip", "log-probabilities": "pass", "Unsloth's": "skip",
        "gradients": "pass", "speed": "pass", "vLLM": "skip"}, found
    assert "tokens/s (" in found["speed"].what and " hours at " in found["speed"].what
    assert "TAPO: 2 steps" in found["a small run"].what and "float32" in found["a small run"].where


@pytest.mark.parametrize("shift, level", [(0.0, "pass"), (0.01, "fail"), (float("nan"), "fail")])
def test_another_log_probability_is_seen(ready, monkeypatch, shift, level):
    real = ready.scored

    def scored(*args):
        found = real(*args)
        return Scored(found.logp + shift, found.entropy)

    monkeypatch.setattr(ready, "scored", scored)
    (row,) = gpu_check.log_probabilities(ready)
    assert row.level == level and "logits" in row.what


def test_half_precision_may_differ_by_rounding_alone(ready):
    half = dataclasses.replace(ready.loaded, dtype=torch.bfloat16)
    zero = torch.zeros(4)
    assert gpu_check._agree(zero, zero + 0.03, half, "x").level == "pass"
    assert gpu_check._agree(zero, zero + 0.03, ready.loaded, "x").level == "fail"
    assert gpu_check._agree(zero, zero + 0.08, half, "x").level == "fail"


@pytest.mark.parametrize("fault, level", [
    (None, "pass"), (1.5, "fail"), (float("nan"), "fail"), (0.0, "fail")])
def test_gradients_are_compared_with_and_without_checkpointing(ready, monkeypatch, fault, level):
    """The fault multiplies the log-probabilities, and so the gradients, of the pass with checkpointing."""
    real, seen = ready.scored, []

    def scored(*args):
        seen.append(ready.loaded.model.training and ready.loaded.model.is_gradient_checkpointing)
        found = real(*args)
        return Scored(found.logp * (fault if fault is not None and seen[-1] else 1.0), found.entropy)

    monkeypatch.setattr(ready, "scored", scored)
    (row,) = gpu_check.gradients(ready)
    assert row.level == level and seen == [True, False]


@pytest.mark.parametrize("stage", [SFT, TAPO])
@pytest.mark.parametrize("share, level, said", [
    (1.0, "pass", "planned"), (0.3, "warn", "too careful"), (1.3, "warn", "too low")])
def test_memory_is_compared_with_the_plan(ready, monkeypatch, stage, share, level, said):
    from finer1_lib.training import memory as memory_plan

    rows = [memory_plan.Row(*row, "") for row in (
        ("held", "weights", 3 * 2**30), ("held", "optimizer", 2**40), ("update", "graph", 2**30),
        ("rollouts", "keys and values", 2**40))]
    monkeypatch.setattr(memory_plan, "plan", lambda *args, **kwargs: rows)
    monkeypatch.setattr(ready, "peak", lambda work: share * 4 * 2**30)
    (row,) = gpu_check.memory(ready, stage)
    assert row.level == level and said in row.what + row.mend and "4.00 planned" in row.what


def test_the_largest_micro_batch_is_as_large_as_it_says(ready, monkeypatch):
    """Stage 2: four rollouts, of one group of eight, under two pictures; and all of it has a gradient."""
    given, real = [], ready.scored
    monkeypatch.setattr(ready, "scored", lambda *args: given.append(args) or real(*args))
    backward, tokens = ready.largest(TAPO)
    ready.training(False)
    backward()
    assert tokens == 24 and len(given) == 2
    for prompts, ids, mask in given:
        assert ids.shape == (4, 24) == mask.shape and len({id(prompt) for prompt in prompts}) == 1
    assert not torch.equal(given[0][0][0].pixels, given[1][0][0].pixels)
    seen = (torch.tensor(given[0][0][0].ids) == ready.loaded.model.config.image_token_id).sum()
    assert seen == 16, "112 x 112 pixels, the miniature's own bound"
    trained = [p for p in ready.loaded.model.parameters() if p.requires_grad]
    assert any(p.grad.abs().sum() > 0 for p in trained)


def test_running_out_of_memory_is_a_row_with_the_next_fallback(ready, monkeypatch):
    def full(work):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ready, "peak", full)
    (row,) = examine(ready, {"memory": lambda bench: gpu_check.memory(bench, TAPO)})
    assert row.level == "fail" and "set micro_batch_size to 2 (now 4)" in row.what


@pytest.mark.parametrize("scale, norms, level", [
    (65536.0, [math.inf, 1.0, 2.0, 1.5], "pass"), (0.5, [1.0, 1.0], "fail"),
    (8.0, [math.inf, math.inf, math.nan, 1.0], "fail")])
def test_a_collapsed_scaler_is_seen(scale, norms, level):
    assert gpu_check.scale_row(scale, norms).level == level


def test_steps_that_are_not_finite_or_do_nothing_are_seen(tmp_path):
    path = tmp_path / "log.csv"
    for norm, level in (("0.5", "pass"), ("0", "fail"), ("nan", "fail"), ("inf", "fail")):
        path.write_text(f"step,loss,grad_norm\n1,0.3,0.2\n2,-0.1,{norm}\n")
        assert gpu_check._steps(path, "SFT", "here").level == level


@pytest.mark.parametrize("needs, level", [("torch==2.0.0", "fail"), ("torch>=2", "pass")])
def test_vllm_is_checked_only_if_requested(bench, monkeypatch, needs, level):
    with pytest.raises(NotYet, match="not requested"):
        gpu_check.vllm(bench)
    bench.vllm = True
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0" if name == "vllm" else real(name))
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["numpy", needs])
    assert gpu_check.vllm(bench)[0].level == level


def test_the_presets_settings_reach_the_model(tmp_path):
    plan = make_plan(find_kit(), "miniature", settings=[
        *SMALL, "02_cot_sft.finetuning=full", "02_cot_sft.train_projector=true",
        "02_cot_sft.gradient_checkpointing=true", "02_cot_sft.max_pixels=3136", "02_cot_sft.min_pixels=784"])
    bench = Bench(plan, "cpu", Path(tmp_path))
    assert bench.loaded.trainable.full and bench.loaded.trainable.projector
    assert bench.loaded.gradient_checkpointing
    assert bench.prompt(SFT).grid.tolist() == [[1, 4, 4]]


def test_hours_from_measured_speeds():
    """10 steps of 4 x 4 rollouts: 160, sampled 1.5 times; 40 micro-batches of 4 rows."""
    tapo = make_config("kit", steps=10, prompts_per_step=4, n_anchor=2, n_positive=2, micro_batch_size=4)
    sampling = 1.5 * 160 * 90 / 1000
    assert gpu_check.hours_of([tapo], 90, 1000, 3.0) == pytest.approx((sampling + 40 * 3) / 3600)
    dapo = dataclasses.replace(tapo, gamma=0.0, eta2=0.0)  # no negative image
    assert gpu_check.hours_of([tapo, dapo], 90, 1000, 3.0) == pytest.approx((2 * sampling + 40 * 4.5) / 3600)


def test_speed_on_a_cpu(ready, monkeypatch):
    """Its figures are those of the clock: two seconds a turn."""
    ticks = iter(range(0, 1000, 2))
    monkeypatch.setattr(gpu_check.time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(gpu_check, "sample_ids", lambda model, tokenizer, prompts, **how: [[5] * 10] * len(prompts))
    (row,) = gpu_check.speed(ready)
    rows = min(ready.get(TAPO, "generation_batch_size"), gpu_check.SAMPLED)
    assert f"rollouts {rows * 10 / 2:.3g} [" in row.what and "24 tokens 2 [2, 2] s; images 0.5 [" in row.what
    assert all(p.grad is None for p in ready.loaded.model.parameters())
