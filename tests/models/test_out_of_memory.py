"""Memory that runs out: told in one line, with a next step that fits, wherever it happens; and free again."""

import gc
import weakref

import pytest
import torch
import training_cases as cases
from hypothesis import given, settings, strategies as st

from finer1_lib import models
from finer1_lib.core.errors import UserError
from finer1_lib.core.prompts import user_message
from finer1_lib.models import generation, loading
from finer1_lib.models.generation import generate
from finer1_lib.models.out_of_memory import Fallback, memory_advice, next_fallback
from finer1_lib.training import rewards, rollouts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return cases.prepare(tmp_path_factory.mktemp("memory"))


def full(*args, **kwargs):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 14.75 GiB")


# The fallbacks ----------------------------------------------


def test_the_fallbacks_in_their_order():
    now = dict(micro_batch_size=4, divides=8, training=True, gradient_checkpointing=False, max_pixels=401408,
               max_new_tokens=300, finetuning="full")
    steps = []
    while step := next_fallback(**now):
        steps.append(step)
        now[step.name] = step.value
        if step.name == "finetuning":
            now["can_4bit"] = True
    assert steps == [
        ("micro_batch_size", 2), ("micro_batch_size", 1), ("gradient_checkpointing", True),
        ("max_pixels", 200704), ("max_pixels", 100352), ("max_pixels", 50176), ("max_new_tokens", 150),
        ("max_new_tokens", 128), ("finetuning", "lora"), ("load_in_4bit", True)]


@settings(deadline=None, max_examples=60)
@given(divides=st.integers(1, 96), data=st.data(), pixels=st.integers(0, 2 * 10**7),
       tokens=st.integers(0, 4096), prompts=st.integers(1, 300))
def test_every_fallback_is_smaller_fits_and_ends(divides, data, pixels, tokens, prompts):
    micro = data.draw(st.sampled_from([d for d in range(1, divides + 1) if divides % d == 0]))
    now = dict(micro_batch_size=micro, divides=divides, max_pixels=pixels, max_new_tokens=tokens,
               prompts=prompts)
    for _ in range(60):
        step = next_fallback(**now)
        if step is None:
            break
        assert 1 <= step.value < now[step.name]
        now[step.name] = step.value
        assert divides % now["micro_batch_size"] == 0
    assert step is None and now["micro_batch_size"] == now["prompts"] == 1


def test_images_above_the_releases_bound_are_brought_to_it_first():
    assert next_fallback(max_pixels=12845056) == Fallback("max_pixels", 1280 * 28 * 28)


# Where it runs out -------------------------------------------


def one_line(caught, *said):
    text = str(caught.value)
    assert "\n" not in text and all(part in text for part in ("ran out", *said)), text


def test_a_real_allocation_that_fails_is_reported():
    """No stand-in: four exabytes are refused by every machine."""
    with pytest.raises(UserError) as caught, memory_advice("training", training=True, micro_batch_size=6):
        torch.empty(2**60)
    one_line(caught, "the computer's memory ran out in training: set micro_batch_size to 3 (now 6)")


def test_other_errors_pass_untouched():
    with pytest.raises(RuntimeError, match="shapes"), memory_advice("training", training=True):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(UserError, match="as it was"), memory_advice("training"):
        raise UserError("as it was")


def test_sft_reports_the_next_micro_batch(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("finer1_lib.training.sft.completion_loss", full)
    with pytest.raises(UserError) as caught:
        cases.train("sft", folder, tmp_path / "a")
    one_line(caught, "training: set micro_batch_size to 1 (now 2)")
    loaded = cases.start(folder, gradient_checkpointing=True, max_pixels=200704)
    with pytest.raises(UserError) as caught:
        cases.train("sft", folder, tmp_path / "c", micro_batch_size=1, loaded=loaded)
    one_line(caught, "set max_pixels to 100352 (now 200704)")
    assert not list(tmp_path.glob("?/adapter*")), "nothing half-written looks finished"


def test_tapo_distinguishes_rollouts_from_updates(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(rewards, "accuracy_reward", cases.sometimes_right)
    with monkeypatch.context() as patched:
        patched.setattr("finer1_lib.training.tapo.tapo_loss", full)
        with pytest.raises(UserError) as caught:
            cases.train("tapo", folder, tmp_path / "a")
        one_line(caught, "training: set micro_batch_size to 2 (now 4)")
    monkeypatch.setattr(rollouts, "sample_ids", full)
    with pytest.raises(UserError) as caught:
        cases.train("tapo", folder, tmp_path / "b")
    one_line(caught, "sampling rollouts", "generation_batch_size", "to 8 (now 16)")
    with pytest.raises(UserError) as caught:  # nothing smaller than one rollout: the training's own fallback
        cases.train("tapo", folder, tmp_path / "c", generation_batch_size=1, micro_batch_size=1)
    one_line(caught, "set gradient_checkpointing to true")


def test_answering_and_loading_report(folder, monkeypatch):
    loaded = cases.start(folder)
    monkeypatch.setattr(generation, "sample_ids", full)
    for size, said in ((2, "to 1 (now 2)"), (1, "set max_new_tokens to 128 (now 200)")):
        with pytest.raises(UserError) as caught:
            generate(loaded, [user_message("a")] * size, max_new_tokens=200, batch_size=8)
        one_line(caught, "in answering", said)
    monkeypatch.setattr(loading, "_complete", full)
    with pytest.raises(UserError) as caught:
        models.load(folder / "base", device="cpu")
    one_line(caught, "loading", "a smaller checkpoint")


def test_what_took_the_room_is_let_go():
    """The error's own frames hold tensors: the cell that is run again must find them gone."""
    held = []

    def work():
        tensor = torch.zeros(10)
        held.append(weakref.ref(tensor))
        full()

    try:
        with memory_advice("training", training=True):
            work()
    except UserError as kept:  # as a notebook keeps the last error
        gc.collect()
        assert held[0]() is None and kept.args


def test_gpus_are_named_with_their_size(monkeypatch):
    class Device:
        total_memory = int(14.75 * 2**30)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: Device)
    with pytest.raises(UserError, match=r"^the GPU's memory \(14.8 GiB\) ran out in x"), memory_advice("x"):
        full()


@pytest.mark.parametrize("error, kind", [
    (RuntimeError("CUDA error: out of memory"), UserError),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), UserError),
    (RuntimeError("CUDA error: device-side assert triggered"), RuntimeError),
    (ValueError("out of memory"), ValueError)])
def test_cuda_s_words_for_it_are_known(error, kind):
    with pytest.raises(kind), memory_advice("x"):
        raise error
