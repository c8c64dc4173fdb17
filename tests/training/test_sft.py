"""Supervised fine-tuning: what the loss counts, an independent computation of it, and what a kill costs."""

import json
from pathlib import Path

import pytest
import torch
import training_cases as cases

from finer1_lib import models
from finer1_lib.core.errors import UserError
from finer1_lib.models.generation import generate
from finer1_lib.models.trainable import LoadedModel, Trainable
from finer1_lib.training import checkpoints, sft


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return cases.prepare(tmp_path_factory.mktemp("sft"))


def adapter(model) -> torch.Tensor:
    model = getattr(model, "model", model) if isinstance(model, LoadedModel) else model
    return torch.cat([p.detach().flatten() for _, p in sorted(model.named_parameters()) if p.requires_grad])


def rows_of(folder):
    return [{"image_root": e.image.image_root, "image_id": e.image.image_id, "prompt": e.prompt,
             "completion": e.completion} for e in cases.examples(folder)]


def test_labels_are_the_completion_and_its_end_alone(folder):
    loaded = cases.start(folder)
    rows = rows_of(folder)[:3]
    before = [dict(row) for row in rows]
    batch = sft.SftCollator(loaded.processor)(rows)
    assert rows == before, "the collator must not change its examples"
    tokenizer = loaded.processor.tokenizer
    for i, row in enumerate(rows):
        labels = batch["labels"][i]
        learnt = labels[labels != -100]
        assert tokenizer.decode(learnt) == row["completion"] + "<|im_end|>"
        inside = batch["attention_mask"][i].bool()
        text = tokenizer.decode(batch["input_ids"][i][inside])
        assert text.endswith("<|im_start|>assistant\n" + row["completion"] + "<|im_end|>")
        assert torch.equal(labels[labels != -100], batch["input_ids"][i][labels != -100])
    images = (batch["input_ids"] == loaded.model.config.image_token_id).sum(1)
    assert images.tolist() == [15, 16, 15] and torch.equal(images, batch["mm_token_type_ids"].sum(1))


def test_batch_equals_trls_own_collator(folder):
    """TRL's collator for the same prompt-completion pictures gives the same ids, labels and pixels."""
    from PIL import Image
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    loaded, rows = cases.start(folder), rows_of(folder)[1::2]  # pictures of one size
    collate = DataCollatorForVisionLanguageModeling(
        loaded.processor, max_length=None, completion_only_loss=True)
    theirs = collate([
        {"images": [Image.open(Path(row["image_root"]) / row["image_id"])],
         "prompt": [{"role": "user", "content": row["prompt"]}],
         "completion": [{"role": "assistant", "content": row["completion"]}]} for row in rows])
    ours = sft.SftCollator(loaded.processor)(rows)
    torch.testing.assert_close(ours["pixel_values"], theirs["pixel_values"])
    for i in range(len(rows)):
        # TRL's completion also counts the template's newline after the ending token, which nobody generates.
        learnt = theirs["labels"][i][theirs["labels"][i] != -100].tolist()
        newline = loaded.processor.tokenizer("\n")["input_ids"]
        mine = ours["labels"][i][ours["labels"][i] != -100].tolist()
        assert learnt in (mine, mine + newline)


def independent_loss(model, batches) -> torch.Tensor:
    """Mean over all labelled tokens, from the model's own logits, example by example."""
    total, count = 0.0, 0
    for batch in batches:
        image = 0
        patches = batch["image_grid_thw"].prod(-1).tolist()
        for i in range(len(batch["labels"])):
            real = batch["attention_mask"][i].bool()
            ids, labels = batch["input_ids"][i][real], batch["labels"][i][real]
            logits = model(
                input_ids=ids[None], attention_mask=torch.ones_like(ids)[None],
                pixel_values=batch["pixel_values"][image : image + patches[i]],
                image_grid_thw=batch["image_grid_thw"][i : i + 1],
                mm_token_type_ids=batch["mm_token_type_ids"][i][real][None]).logits[0].float()
            image += patches[i]
            counted = labels[1:] != -100
            logs = torch.log_softmax(logits[:-1], -1)[counted]
            total = total - logs[torch.arange(len(logs)), labels[1:][counted]].sum()
            count += int(counted.sum())
    return total / count


def one_step(trained, folder, config, path):
    """Train `trained` for the first step; (the batches it was given, its row of the log)."""
    trainer = sft.build_trainer(trained, cases.examples(folder), config, path)
    batches = list(trainer.get_train_dataloader())
    trainer.train()
    return batches, [row for row in trainer.state.log_history if "loss" in row][0]


def test_one_step_equals_an_independent_one(folder, tmp_path):
    """Two micro-batches of unequal token counts: the step's mean is over tokens, not over micro-batches."""
    config = cases.sft_config(epochs=1, batch_size=6, micro_batch_size=3, warmup_steps=0, weight_decay=0.1)
    trained = cases.start(folder)
    batches, row = one_step(trained, folder, config, tmp_path)

    model = cases.start(folder).model
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss = independent_loss(model, batches)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.1).step()
    assert row["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert row["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    torch.testing.assert_close(adapter(trained), adapter(model), atol=2e-5, rtol=1e-3)


def test_one_full_step_equals_an_independent_one(folder, tmp_path):
    """All weights but vision tower and projector, decayed like the rest; the tied head is one weight."""
    config = cases.sft_config(epochs=1, batch_size=6, micro_batch_size=3, warmup_steps=0, weight_decay=0.0)
    trained = cases.start_full(folder)
    batches, row = one_step(trained, folder, config, tmp_path)

    model = models.load(folder / "base").model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("visual" not in name)
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss = independent_loss(model, batches)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0).step()
    assert row["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert row["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    # AdamW's first step is lr * sign(gradient): where a gradient is nearly 0, rounding decides its sign
    gradients = torch.cat([p.grad.flatten() for _, p in sorted(model.named_parameters()) if p.requires_grad])
    clear = gradients.abs() > 1e-6
    assert clear.float().mean() > 0.5
    torch.testing.assert_close(adapter(trained)[clear], adapter(model)[clear], atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("parts", [
    dict(), dict(projector=True), dict(vision_tower=True), dict(vision_tower=True, projector=True)])
def test_full_fine_tuning_moves_the_named_parts_alone_and_writes_a_checkpoint(folder, tmp_path, parts):
    loaded = cases.start_full(folder, **parts)
    before = {name: parameter.clone() for name, parameter in loaded.model.named_parameters()}
    trained = cases.train("sft", folder, tmp_path / "full", loaded=loaded)
    moved = {}
    for name, parameter in trained.model.named_parameters():
        part = "projector" if "visual.merger" in name else "vision_tower" if "visual" in name else "language"
        moved[part] = moved.get(part, False) or not torch.equal(parameter, before[name])
    assert moved == {"language": True, "vision_tower": False, "projector": False, **parts}
    assert (tmp_path / "full/model.safetensors").exists() and not list((tmp_path / "full").glob("*.bin"))
    for again in (models.load(tmp_path / "full"), models.load(folder / "base", tmp_path / "full")):
        for name, parameter in again.model.named_parameters():
            assert torch.equal(parameter, dict(trained.model.named_parameters())[name])
    assert again.trainable == trained.trainable == Trainable("full", **parts)
    free = [name for name, parameter in again.model.named_parameters() if parameter.requires_grad]
    assert free == [name for name, p in trained.model.named_parameters() if p.requires_grad]
    # finished: loaded, not trained; and other parts are another training
    finished = cases.train("sft", folder, tmp_path / "full", lambda *a, **k: pytest.fail("trained anew"),
                           loaded=cases.start_full(folder, **parts))
    assert torch.equal(adapter(finished), adapter(trained))
    other = {**parts, "projector": not parts.get("projector", False)}
    with pytest.raises(UserError, match="another start"):
        cases.train("sft", folder, tmp_path / "full", loaded=cases.start_full(folder, **other))


def test_training_lowers_the_loss_moves_only_the_adapter_and_writes_it(folder, tmp_path):
    lines = []
    loaded = cases.start(folder)
    frozen = {n: p.clone() for n, p in loaded.model.named_parameters() if not p.requires_grad}
    out = tmp_path / "cot_sft"
    trained = cases.train("sft", folder, out, lambda *a, **k: lines.append((a, k)), loaded=loaded, epochs=8)
    for name, parameter in trained.model.named_parameters():
        assert parameter.requires_grad or torch.equal(parameter, frozen[name])
    log = (tmp_path / "cot_sft_log.csv").read_text().splitlines()
    assert log[0] == ",".join(sft.LOG_COLUMNS) and len(log) == 1 + 16
    losses = [float(line.split(",")[2]) for line in log[1:]]
    assert losses[-1] < losses[0] - 0.2
    assert lines[-1][0] == (16, 16, "cot_sft") and "loss" in lines[-1][1]
    assert not checkpoints.scratch(tmp_path / "cot_sft").exists()
    again = models.load(folder / "base", adapter=tmp_path / "cot_sft")
    assert torch.equal(adapter(again), adapter(trained)) and not trained.model.training

    # a finished adapter is loaded, not trained; another configuration is refused
    stamp = (tmp_path / "cot_sft/adapter_model.safetensors").stat().st_mtime_ns
    loaded = cases.train("sft", folder, out, lambda *a, **k: pytest.fail("trained anew"), epochs=8)
    assert torch.equal(adapter(loaded), adapter(trained))
    assert (tmp_path / "cot_sft/adapter_model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="config.epochs"):
        cases.train("sft", folder, tmp_path / "cot_sft", epochs=9)


@pytest.mark.parametrize("part", ["lora", "full"])
def test_a_kill_ends_with_the_same_weights(folder, tmp_path, part):
    """SIGKILL at step 5 of 6, with checkpoints at 2 and 4."""
    killed = cases.kill_at(5, "sft", folder, part)
    assert checkpoints.scratch(killed).exists()
    begin, steps = cases.start_full if part == "full" else cases.start, []
    resumed = cases.train("sft", folder, killed, lambda step, *a, **k: steps.append(step), begin(folder))
    whole = cases.train("sft", folder, tmp_path / "whole", loaded=begin(folder))
    assert torch.equal(adapter(resumed), adapter(whole)), "a resumed run must end with the very same weights"
    assert float((adapter(whole) - adapter(begin(folder))).abs().max()) > 1e-3, "it must have moved something"
    assert min(steps) >= 5, "steps before the checkpoint are not repeated"
    logs = [killed.with_name(killed.name + "_log.csv"), tmp_path / "whole_log.csv"]
    told = [[line.split(",")[:-1] for line in log.read_text().splitlines()] for log in logs]
    assert told[0] == told[1], "no step is missing or doubled in the log (seconds aside)"


def test_torn_checkpoints_do_not_count(tmp_path):
    identity = {"config": {"a": 1}, "data": "x", "start": "y"}
    assert checkpoints.latest_checkpoint(tmp_path, identity) is None
    for step in (2, 4, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}" / checkpoints.MARKER).touch()
    assert checkpoints.latest_checkpoint(tmp_path, identity).name == "checkpoint-4"
    assert not (tmp_path / "checkpoint-10").exists(), "a torn one is removed"
    for change, said in [({"start": "z"}, "another start"), ({"config": {"a": 2}}, "config.a")]:
        other = {**identity, **change}
        with pytest.raises(UserError, match=said):
            checkpoints.latest_checkpoint(tmp_path, other)


def test_the_metrics_file_is_cut_back_and_loses_a_torn_line(tmp_path):
    path, columns = tmp_path / "log.csv", ["step", "loss"]
    metrics = checkpoints.MetricsFile(path, columns, keep=0)
    for step in (1, 2, 3):
        metrics.add({"step": step, "loss": 0.5 * step, "unknown": 1})
    with path.open("a") as file:
        file.write("4,2")
    checkpoints.MetricsFile(path, columns, keep=2).add({"step": 3})
    assert path.read_text() == "step,loss\n1,0.5\n2,1\n3,\n"


@pytest.mark.parametrize(
    "wrong", [dict(epochs=0), dict(batch_size=4, micro_batch_size=3), dict(learning_rate=0.0)])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(UserError):
        sft.SftConfig(**wrong)


def test_nothing_to_train_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="nothing to train on"):
        sft.train_sft(cases.start(folder), [], cases.sft_config(), tmp_path / "x")
    with pytest.raises(UserError, match="no part to train"):
        bare = models.load(folder / "base")
        sft.train_sft(bare, cases.examples(folder), cases.sft_config(), tmp_path / "x")


@pytest.mark.parametrize("begin", [cases.start, cases.start_full])
def test_gradient_checkpointing_computes_twice_and_changes_no_number(folder, tmp_path, begin):
    told, passes = {}, {}
    for on in (False, True):
        parts = dict(vision_tower=True) if begin is cases.start_full else {}
        loaded = begin(folder, gradient_checkpointing=on, **parts)
        assert loaded.gradient_checkpointing is on
        passes[on] = cases.count_passes(loaded.model)
        trained = cases.train("sft", folder, tmp_path / str(on), loaded=loaded, epochs=1)
        rows = (tmp_path / f"{on}_log.csv").read_text().splitlines()[1:]
        told[on] = [[float(cell) for cell in row.split(",")[:-1]] for row in rows], adapter(trained)
    assert len(passes[True]) == 2 * len(passes[False]) > 0, "each layer's forward must run once more"
    assert told[True][0] == [pytest.approx(row, rel=1e-5) for row in told[False][0]]
    # AdamW's first steps are lr * sign(gradient): rounding may turn the sign of a gradient that is nearly 0
    close = torch.isclose(told[True][1], told[False][1], atol=1e-4, rtol=1e-3)
    assert close.float().mean() > 0.99


def test_another_size_of_pictures_is_another_training(folder, tmp_path):
    cases.train("sft", folder, tmp_path / "a", epochs=1)
    told = json.loads((tmp_path / "a/training.json").read_text())
    assert told["pixels"] == {"min_pixels": 784, "max_pixels": 12544}
    with pytest.raises(UserError, match="another pixels"):
        cases.train("sft", folder, tmp_path / "a", epochs=1, loaded=cases.start(folder, max_pixels=6272))


def test_nothing_of_a_finished_training_stays_in_memory(folder, tmp_path):
    """Trainers, optimizers and kept features hang on models; the next model must find the room."""
    import weakref

    loaded = cases.start(folder)
    old = weakref.ref(loaded.model.get_base_model())
    trained = cases.train("sft", folder, tmp_path / "a", loaded=loaded, epochs=1)
    generate(trained, [[{"role": "user", "content": "a"}]], max_new_tokens=2)
    del loaded, trained
    cases.start(folder)
    assert old() is None
