"""TAPO's rollouts and updates against independently written ones; its settings, refusals and resumption."""

import os
import signal
import subprocess
import sys

import pytest
import torch

import training_cases as cases
from finer1_lib import checkpoints, rewards, tapo, tapo_trainer
from finer1_lib.baselines import BASELINES, baseline, budget
from finer1_lib.encoding import Encoder, user_message
from finer1_lib.errors import UserError
from finer1_lib.rollouts import planned_row, replacement_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return cases.prepare(tmp_path_factory.mktemp("tapo"))


@pytest.fixture(autouse=True)
def reward(monkeypatch):
    monkeypatch.setattr(rewards, "accuracy_reward", cases.sometimes_right)


def adapter(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for _, p in sorted(model.named_parameters()) if p.requires_grad])


def trainer_for(folder, path, **changes):
    loaded = cases.start(folder)
    config = cases.tapo_config(**changes)
    return loaded, config, tapo_trainer.build_trainer(loaded, cases.triplets(folder), config, path)


def one_step(folder, path, **changes):
    """(adapter after one update, the trainer)."""
    loaded, _, trainer = trainer_for(folder, path, **{**dict(steps=1, updates_per_rollout=1), **changes})
    trainer.train()
    return adapter(loaded.model), trainer


# Against an independent step ---------------------------------


def own_logits(model, prompt, completion):
    """(T, V) log-probabilities of one completion, from the model's own logits."""
    ids = torch.tensor([prompt.ids + completion])
    logits = model(
        input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=prompt.pixels,
        image_grid_thw=prompt.grid, mm_token_type_ids=(ids == model.config.image_token_id).int()).logits
    return torch.log_softmax(logits[0, len(prompt.ids) - 1 : -1].float(), -1)


def own_update(folder, groups, config):
    """One AdamW step written from the formulas of METHOD 3 alone, row by row, without the kit's objective."""
    model = cases.start(folder).model
    parameters = [p for p in model.parameters() if p.requires_grad]
    tokens = sum(len(c) for group in groups for c in group.completions)
    loss = 0.0
    for group in groups:
        accuracy = group.accuracy.tolist()
        scores = [0.9 * a for a in accuracy]  # nothing here has the right form
        mean = sum(scores) / len(scores)
        std = (sum((s - mean) ** 2 for s in scores) / (len(scores) - 1)) ** 0.5
        for i, completion in enumerate(group.completions):
            advantage = (scores[i] - mean) / (std + 1e-6)
            logs = own_logits(model, group.prompts[i], completion)
            picked = logs[torch.arange(len(completion)), completion]
            ratio = (picked - picked.detach()).exp()
            held = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
            row = -torch.minimum(ratio * advantage, held * advantage)
            if config.gamma or config.eta2:
                other = own_logits(model, group.negatives[i], completion)
                log_r = other[torch.arange(len(completion)), completion] - picked
                row = row - config.gamma * (log_r.exp() - log_r - 1)
                row = row - config.eta2 * (other.exp() * other).sum(-1)
            row = row - config.eta1 * (logs.exp() * logs).sum(-1)
            loss = loss + row.sum() / tokens
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay).step()
    return adapter(model), loss.item(), norm.item()


@pytest.mark.parametrize("name, changes", [
    ("dapo", dict(n_anchor=4, n_positive=0, gamma=0.0, eta1=0.0, eta2=0.0)),
    ("tapo", dict(gamma=0.1, eta1=0.03, eta2=0.05)),
])
def test_one_step_equals_an_independently_written_one(folder, tmp_path, name, changes):
    found, trainer = one_step(folder, tmp_path, **changes)
    row = [row for row in trainer.state.log_history if "loss" in row][0]
    _, config, fresh = trainer_for(folder, tmp_path, steps=1, updates_per_rollout=1, **changes)
    groups = fresh.sampler.batch([0, 1], 0).kept[:2]
    expected, loss, norm = own_update(folder, groups, config)
    assert row["loss"] == pytest.approx(loss, abs=2e-5) and row["grad_norm"] == pytest.approx(norm, rel=1e-3)
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=2e-3)
    assert float((found - adapter(cases.start(folder).model)).abs().max()) > 1e-3, "it must move something"


# Rollouts ----------------------------------------------------


@pytest.mark.parametrize("under", ["anchor", "positive"])
def test_positive_rollouts_come_from_the_positive_and_are_scored_under_the_switch(
    folder, tmp_path, under, monkeypatch
):
    from finer1_lib import rollouts

    asked = []
    sample = rollouts.sample_ids
    monkeypatch.setattr(rollouts, "sample_ids", lambda model, tokenizer, rows, **kw:
                        asked.extend(rows) or sample(model, tokenizer, rows, **kw))
    loaded, _, trainer = trainer_for(folder, tmp_path, score_positive_under=under, max_sampling_rounds=1)
    rows = [planned_row(slot, 6, 0) for slot in range(2)]
    batch = trainer.sampler.batch([0, 1], 0)
    encode = Encoder(loaded.processor)
    groups = {id(g): g for g in batch.kept + batch.dropped}.values()
    for group in groups:
        fitting = [t for t in (cases.triplets(folder)[r] for r in rows)
                   if torch.equal(group.prompts[0].pixels, encode(user_message(t.prompt, t.anchor)).pixels)]
        assert len(fitting) == 1
        triplet = fitting[0]
        pixels = {name: encode(user_message(triplet.prompt, getattr(triplet, name))).pixels
                  for name in ("anchor", "positive", "negative")}
        scored = [pixels["anchor"]] * 2 + [pixels[under]] * 2
        assert all(torch.equal(p.pixels, q) for p, q in zip(group.prompts, scored))
        assert all(torch.equal(p.pixels, pixels["negative"]) for p in group.negatives)
        sampled_from = [sum(torch.equal(p.pixels, pixels[name]) for p in asked)
                        for name in ("anchor", "positive")]
        assert min(sampled_from) >= 2, "two rollouts of each picture"


def test_the_returned_rows_survive_trls_split_and_shuffle(folder, tmp_path):
    from trl.trainer import utils

    _, config, trainer = trainer_for(folder, tmp_path)
    inputs = [{"prompt": [], "slot": slot} for slot in range(4) for _ in range(config.group_size)]
    rows = trainer._generate_and_score_completions(inputs)
    assert len(rows["completion_ids"]) == len(inputs) == 16 and rows["num_items_in_batch"].ndim == 0

    def belongings(part):
        """Each row's pieces, in a form that can be compared."""
        names = ("completion_ids", "advantages", "old_logp", "prompts", "negatives")
        columns = [part[name] for name in names]
        return sorted(
            (tuple(ids.tolist()), float(a), float(old.sum()), p.pixels.sum().item(), n.pixels.sum().item())
            for ids, a, old, p, n in zip(*columns))

    expected = belongings(rows)
    shuffled = utils.shuffle_sequence_dict(utils.split_pixel_values_by_grid(rows))
    parts = [utils.unsplit_pixel_values_by_grid(part) for part in utils.split_tensor_dict(shuffled, 4)]
    assert [len(part["prompts"]) for part in parts] == [4] * 4
    assert sorted(row for part in parts for row in belongings(part)) == expected


def test_prompts_come_round_in_seeded_order_and_replacements_are_new():
    import random

    orders = [[planned_row(slot, 5, seed) for slot in range(10)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0][:5]) == sorted(orders[0][5:]) == list(range(5)) and orders[0][:5] != orders[0][5:]
    assert set(replacement_rows(2, 5, {0, 1, 2}, random.Random(0))) == {3, 4}
    assert len(replacement_rows(4, 5, set(range(5)), random.Random(0))) == 4


def test_a_killed_rollout_is_drawn_again_the_same(folder, tmp_path):
    batches = [trainer_for(folder, tmp_path)[2].sampler.batch([0, 1], number) for number in (3, 3, 4)]
    drawn = [[g.completions for g in batch.kept] for batch in batches]
    assert drawn[0] == drawn[1] != drawn[2]


# Dynamic sampling --------------------------------------------


def test_nothing_survives_skip_leaves_the_weights_alone_and_says_so(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rewards, "accuracy_reward", lambda **k: [0.0] * len(k["completion_ids"]))
    before = adapter(cases.start(folder).model)
    found, trainer = one_step(folder, tmp_path / "a", max_sampling_rounds=2, weight_decay=0.5)
    assert torch.equal(found, before), "not even weight decay"
    assert "no group survived" in capsys.readouterr().out
    row = [row for row in trainer.state.log_history if "loss" in row][0]
    assert (row["kept_share"], row["zero_variance_share"], row["sampling_rounds"]) == (0.0, 1.0, 2.0)
    kept, _ = one_step(folder, tmp_path / "b", max_sampling_rounds=2, nothing_survives="keep")
    assert not torch.equal(kept, before), "kept at zero advantage, divergence and entropies still act"


def test_a_step_with_fewer_groups_counts_their_tokens_alone(folder, tmp_path, monkeypatch):
    """One of two groups survives: the update equals that of this group alone."""
    rows = [planned_row(slot, 6, 0) for slot in range(2)]
    label = cases.triplets(folder)[rows[1]].sub_category

    def only_one(*, completion_ids, sub_category, **columns):
        return [float(name == label and sum(ids) % 2) for ids, name in zip(completion_ids, sub_category)]

    monkeypatch.setattr(rewards, "accuracy_reward", only_one)
    changes = dict(max_sampling_rounds=1, prompts_per_step=2)
    found, trainer = one_step(folder, tmp_path, **changes)
    _, config, fresh = trainer_for(folder, tmp_path, steps=1, updates_per_rollout=1, **changes)
    batch = fresh.sampler.batch([0, 1], 0)
    assert len(batch.kept) == 1
    packed = fresh._as_rows(batch, 2)
    assert int(packed["num_items_in_batch"]) == sum(map(len, batch.kept[0].completions))
    assert not packed["completion_mask"][4:].any()
    expected, loss, _ = own_update(folder, batch.kept, config)
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=2e-3)


# Switches ----------------------------------------------------


def test_a_stale_negative_branch_gives_eta2_no_gradient_and_a_fresh_one_does(folder, tmp_path):
    steps = {}
    for branch in ("stale", "fresh"):
        for eta2 in (0.0, 0.5):
            path = tmp_path / f"{branch}{eta2}"
            steps[branch, eta2] = one_step(folder, path, negative_branch=branch, eta2=eta2)[0]
    torch.testing.assert_close(steps["stale", 0.0], steps["stale", 0.5], atol=1e-7, rtol=0)
    assert float((steps["fresh", 0.0] - steps["fresh", 0.5]).abs().max()) > 1e-3


def test_the_other_switches_change_the_update(folder, tmp_path):
    base, _ = one_step(folder, tmp_path / "base", micro_batch_size=2)
    for name, value in [("entropy", "sampled"), ("score_positive_under", "positive")]:
        changed, _ = one_step(folder, tmp_path / name, micro_batch_size=2, **{name: value})
        assert float((changed - base).abs().max()) > 1e-6, name
    assert torch.equal(base, one_step(folder, tmp_path / "again", micro_batch_size=2)[0])


def test_token_mean_over_the_batch_or_over_each_micro_batch(folder, tmp_path):
    """Four rollouts cut to one token each: the release's mean gives them the weight of four full ones."""
    losses = {}
    for mean in ("batch", "micro_batch"):
        _, _, trainer = trainer_for(folder, tmp_path, token_mean=mean, steps=1, updates_per_rollout=1)
        rows = trainer._as_rows(trainer.sampler.batch([0, 1], 0), 2)
        rows["completion_mask"][4:, 1:] = 0
        rows["num_items_in_batch"] = rows["completion_mask"].sum()
        trainer.current_gradient_accumulation_steps = 2
        parts = [{k: v if getattr(v, "ndim", 1) == 0 else v[half] for k, v in rows.items()}
                 for half in (slice(0, 4), slice(4, 8))]
        losses[mean] = [trainer.compute_loss(trainer.model, part).item() for part in parts]
    full, short = 4 * 6, 4 * 1
    whole = full + short
    assert losses["micro_batch"] == pytest.approx(
        [losses["batch"][0] * whole / full / 2, losses["batch"][1] * whole / short / 2], rel=1e-4)


def test_micro_batches_do_not_change_the_whole_batch_mean(folder, tmp_path):
    a, b = (one_step(folder, tmp_path / str(size), micro_batch_size=size)[0] for size in (2, 8))
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("wrong, said", [
    (dict(divergence="paper"), "not built yet"), (dict(divergence="k9"), "one of k3"),
    (dict(n_anchor=1, n_positive=0), "at least 2"), (dict(micro_batch_size=5), "must divide"),
    (dict(dual_clip=1.1), "dual_clip"), (dict(temperature=0.0), "positive"), (dict(gamma=-1.0), "negative"),
    (dict(steps=5), "updates_per_rollout"), (dict(accuracy_reward="lenient"), "one of strict"),
    (dict(top_p=1.5), "top_p"),
])
def test_what_is_not_built_or_makes_no_sense_is_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        cases.tapo_config(**wrong)


def test_presets():
    assert tapo.make_config("kit", steps=7).steps == 7 and tapo.make_config() == tapo.TapoConfig()
    for call, said in [(lambda: tapo.make_config("official_release"), "not built yet"),
                       (lambda: tapo.make_config("mine"), "one of kit"),
                       (lambda: tapo.make_config(gama=1.0), "no setting gama")]:
        with pytest.raises(UserError, match=said):
            call()


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_matched_on_prompts_rollouts_and_updates(name):
    config = tapo.TapoConfig(n_anchor=3, n_positive=5, steps=6, prompts_per_step=2, micro_batch_size=8)
    changed = baseline(name, config)
    assert budget(changed) == budget(config) and changed != config and changed.seed == config.seed
    if name == "dapo":
        assert (changed.n_anchor, changed.n_positive, changed.eta1) == (8, 0, 0.0)
        assert not changed.needs_negative
    with pytest.raises(UserError):
        baseline("ppo", config)


def test_triplet_rows_name_pictures_prompt_and_label():
    import pandas

    from finer1_lib.prompts import PROMPTS, question_for

    table = pandas.DataFrame([dict(
        image_id="bird/a/1.png", positive_id="bird/a/2.png", negative_id="bird/b/1.png",
        super_category="bird", sub_category="A", negative_sub_category="B")])
    row = tapo.triplet_rows(table, "root")[0]
    assert row.prompt == PROMPTS["cot_open"].text(question=question_for("bird")) and row.sub_category == "A"
    assert [tuple(i) for i in row[:3]] == [("root", f"bird/{n}.png") for n in ("a/1", "a/2", "b/1")]


# Resumption --------------------------------------------------


def test_a_kill_ends_with_the_same_weights(folder, tmp_path):
    """SIGKILL at step 3 of 6, between the two updates of a rollout batch; the last checkpoint lies at 2."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, cases.__file__, "tapo", str(folder), "3"], env=env,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    killed = folder / "killed_tapo"
    assert not killed.exists()
    assert (checkpoints.scratch(killed) / "checkpoint-2" / checkpoints.MARKER).exists()
    steps = []
    resumed = cases.train("tapo", folder, killed, lambda step, *a, **k: steps.append(step))
    whole = cases.train("tapo", folder, tmp_path / "whole")
    assert steps == [3, 4, 5, 6]
    assert torch.equal(adapter(resumed.model), adapter(whole.model))
    assert not torch.equal(adapter(whole.model), adapter(cases.start(folder).model))
    logs = [folder / "metrics_killed_tapo.csv", tmp_path / "metrics_whole.csv"]
    told = [[line.split(",")[:-1] for line in log.read_text().splitlines()] for log in logs]
    assert told[0] == told[1] and len(told[0]) == 7 and len(told[0][0]) == len(tapo.LOG_COLUMNS) - 1
    assert not checkpoints.scratch(killed).exists()
    header, last = told[1][0], dict(zip(told[1][0], told[1][-1]))
    assert all(last[name] for name in header), "every gauge has a value"
    # finished: loaded, not trained anew
    again = cases.train("tapo", folder, killed, lambda *a, **k: pytest.fail("trained anew"))
    assert torch.equal(adapter(again.model), adapter(whole.model))
