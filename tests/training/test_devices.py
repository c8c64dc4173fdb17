"""What a GPU or a launcher decides, answered by stand-ins: precision, one process, one device, adapters in float32."""

import pytest
import torch
import training_cases as cases

from finer1_lib.core.errors import UserError
from finer1_lib.models.loading import pick_dtype
from finer1_lib.training import checkpoints, sft, tapo


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return cases.prepare(tmp_path_factory.mktemp("devices"))


def build(kind, loaded, folder, path):
    if kind == "sft":
        return sft.build_trainer(loaded, cases.examples(folder), cases.sft_config(), path)
    return tapo.build_trainer(loaded, cases.triplets(folder), cases.tapo_config(), path)


@pytest.mark.parametrize("capability, wanted", [
    ((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((8, 9), torch.bfloat16), ((9, 0), torch.bfloat16)])
def test_precision_follows_the_compute_capability_not_emulation(monkeypatch, capability, wanted):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args: True)  # a T4 says so too
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *args: capability)
    assert pick_dtype("auto", "cuda:0") is wanted
    assert pick_dtype("auto", "cpu") is torch.float32 and pick_dtype("float32", "cuda") is torch.float32


@pytest.mark.parametrize("kind", ["sft", "tapo"])
def test_one_of_several_processes_is_refused_before_anything_is_written(folder, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="one process, and WORLD_SIZE is 2: start it without torchrun"):
        cases.train(kind, folder, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["sft", "tapo"])
def test_of_two_visible_gpus_one_is_used_and_said(folder, tmp_path, monkeypatch, capsys, kind):
    from transformers import TrainingArguments

    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: getattr(self, "_n_gpu", 0) or 2))
    trainer = build(kind, cases.start(folder), folder, tmp_path)
    assert trainer.args.n_gpu == 1 and "2 GPUs are visible, one is used" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["sft", "tapo"])
def test_adapters_of_a_quantized_model_stay_in_float32(folder, tmp_path, kind):
    loaded = cases.start(folder)
    loaded.model.is_loaded_in_4bit = True
    before = {name: weight.clone() for name, weight in loaded.model.named_parameters() if weight.requires_grad}
    model = checkpoints.with_adapters_kept(loaded.model, lambda: build(kind, loaded, folder, tmp_path)).model
    after = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert before and all(after[name].dtype == torch.float32 for name in before)
    assert all(torch.equal(after[name], before[name]) for name in before)
