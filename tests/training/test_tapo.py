"""TAPO's rollouts and updates against independently written ones; its settings, refusals and resumption."""

import dataclasses
from collections import defaultdict

import pytest
import torch
import training_cases as cases

from finer1_lib.core.errors import UserError
from finer1_lib.core.prompts import user_message
from finer1_lib.models import sharing
from finer1_lib.models.encoding import Encoder
from finer1_lib.models.generation import sample_ids
from finer1_lib.models.log_probabilities import score_completions
from finer1_lib.training import checkpoints, methods as baselines, rewards, tapo, tapo as tapo_trainer
from finer1_lib.training.methods import METHODS, budget, method_config
from finer1_lib.training.objective import DIVERGENCES
from finer1_lib.training.rollouts import planned_row, replacement_rows
from finer1_lib.training.tapo_config import LOG_COLUMNS, PRESETS, TapoConfig, make_config


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
    """One AdamW step written from the formulas of Section 4.2 alone, row by row, without the kit's objective."""
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
    from finer1_lib.training import rollouts

    asked = []
    sample = sample_ids
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
    bundles = trainer._generate_and_score_completions(inputs)
    rows = sharing.unbundle(bundles)
    assert len(rows["completion_ids"]) == len(inputs) == 16 and rows["num_items_in_batch"].ndim == 0

    def belongings(part):
        """Each row's pieces, in a form that can be compared."""
        names = ("completion_ids", "advantages", "old_logp", "prompts", "negatives")
        columns = [part[name] for name in names]
        return sorted(
            (tuple(ids.tolist()), float(a), float(old.sum()), p.pixels.sum().item(), n.pixels.sum().item())
            for ids, a, old, p, n in zip(*columns))

    expected = belongings(rows)
    shuffled = utils.shuffle_sequence_dict(utils.split_pixel_values_by_grid(bundles))
    parts = [sharing.unbundle(utils.unsplit_pixel_values_by_grid(part))
             for part in utils.split_tensor_dict(shuffled, 4)]
    assert [len(part["prompts"]) for part in parts] == [4] * 4
    assert all(len({id(p) for p in part["prompts"]}) == 1 for part in parts), "a group stays together"
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
    with pytest.raises(UserError, match="all rollouts of every group were alike in 2 rounds"):
        one_step(folder, tmp_path / "c", max_sampling_rounds=2, nothing_survives="stop")


def test_keep_takes_a_round_without_survivors_whole_at_zero_advantage(folder, tmp_path, monkeypatch):
    """The release's rule, round by round: what differs in format alone is kept, and teaches nothing."""
    monkeypatch.setattr(rewards, "accuracy_reward", lambda **k: [0.0] * len(k["completion_ids"]))
    monkeypatch.setattr(rewards, "format_reward", lambda **k: cases.sometimes_right(**k))
    *_, trainer = trainer_for(folder, tmp_path, nothing_survives="keep", max_sampling_rounds=0)
    batch = trainer.sampler.batch([0, 1], 0)
    assert batch.metrics["sampling_rounds"] == 1 and len(batch.kept) == 2 and not batch.dropped
    assert batch.metrics["reward_std"] > 0 and all(not g.advantages.any() for g in batch.kept)
    assert batch.metrics["zero_variance_share"] == 1.0


def test_truncated_rollouts_leave_the_loss_but_not_the_mean_when_masked(folder, tmp_path):
    found = {}
    for masked in (False, True):
        *_, trainer = trainer_for(folder, tmp_path, mask_truncated=masked)
        batch = trainer.sampler.batch([0, 1], 0)
        found[masked] = trainer._as_rows(batch, 2)
    cut = torch.tensor([t for group in batch.kept for t in group.truncated])
    assert cut.any(), "random weights seldom end in six tokens"
    assert found[False]["completion_mask"].any(1).all()
    assert torch.equal(found[True]["completion_mask"].any(1), ~cut)
    assert torch.equal(found[True]["advantages"], found[False]["advantages"])
    assert int(found[True]["num_items_in_batch"]) == int(found[True]["completion_mask"].sum())


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
    switches = {"entropy": "sampled", "score_positive_under": "positive", "mask_truncated": True}
    for name, value in switches.items():
        changed, _ = one_step(folder, tmp_path / name, micro_batch_size=2, **{name: value})
        assert float((changed - base).abs().max()) > 1e-6, name
    assert torch.equal(base, one_step(folder, tmp_path / "again", micro_batch_size=2)[0])


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_every_divergence_reaches_the_loss_as_the_models_own_logits_give_it(folder, tmp_path, kind):
    """gamma alone, advantages switched off: the loss is -gamma times the mean divergence, row by row."""
    loaded, config, trainer = trainer_for(
        folder, tmp_path, divergence=kind, gamma=2.0, eta1=0.0, eta2=0.0, updates_per_rollout=1, steps=1)
    batch = trainer.sampler.batch([0, 1], 0)
    packed = trainer._as_rows(batch, 2)
    packed["advantages"] *= 0
    total = tokens = 0
    with torch.no_grad():
        for group in batch.kept[:2]:
            for i, completion in enumerate(group.completions):
                own, other = (own_logits(loaded.model, prompts[i], completion)
                              for prompts in (group.prompts, group.negatives))
                d = (other - own)[torch.arange(len(completion)), completion]
                g = (-d.sum()).exp()
                values = {"k1": -d, "k2": d**2 / 2, "k3": d.exp() - d - 1,
                          "paper": (g - g.log() - 1).expand_as(d),
                          "full": (own.exp() * (own - other)).sum(-1)}
                total, tokens = total + float(values[kind].sum()), tokens + len(completion)
    loss = trainer.compute_loss(trainer.model, packed)
    assert float(loss.detach()) == pytest.approx(-2.0 * total / tokens, rel=2e-3)
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trainer.model.parameters())


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
    (dict(divergence="k9"), "one of k1, k2, k3, paper, full"), (dict(max_sampling_rounds=0), "for ever"),
    (dict(divergence="full", negative_branch="stale"), "fresh"), (dict(format_reward="poem"), "one of think"),
    (dict(n_anchor=1, n_positive=0), "at least 2"), (dict(micro_batch_size=5), "must divide"),
    (dict(dual_clip=1.1), "dual_clip"), (dict(temperature=0.0), "positive"), (dict(gamma=-1.0), "negative"),
    (dict(steps=5), "updates_per_rollout"), (dict(accuracy_reward="lenient"), "one of strict"),
    (dict(top_p=1.5), "top_p"),
])
def test_what_makes_no_sense_is_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        cases.tapo_config(**wrong)


def test_presets_are_the_columns_of_the_switch_table():
    assert make_config("kit", steps=7, updates_per_rollout=1).steps == 7
    assert make_config() == TapoConfig()
    names = ("score_positive_under", "negative_branch", "divergence", "entropy", "dual_clip", "token_mean",
             "accuracy_reward", "nothing_survives")
    table = {preset: [getattr(make_config(preset), name) for name in names] for preset in PRESETS}
    assert table == {
        "kit": ["anchor", "fresh", "k3", "true", 3.0, "batch", "strict", "skip"],
        "paper_text": ["anchor", "fresh", "paper", "sampled", 0.0, "batch", "contains_response", "skip"],
        "official_release": ["positive", "stale", "k3", "sampled", 3.0, "micro_batch", "contains_answer",
                             "keep"]}
    for call, said in [(lambda: make_config("mine"), "one of kit"),
                       (lambda: make_config(gama=1.0), "no setting gama")]:
        with pytest.raises(UserError, match=said):
            call()


@pytest.mark.parametrize("preset, under", [("official_release", "positive"), ("kit", "anchor")])
def test_what_positive_rollouts_are_scored_under_in_the_presets(folder, tmp_path, preset, under):
    loaded = cases.start(folder)
    own = dataclasses.asdict(cases.tapo_config())
    config = make_config(preset, **{key: own[key] for key in own if key not in PRESETS["official_release"]})
    trainer = tapo_trainer.build_trainer(loaded, cases.triplets(folder), config, tmp_path)
    slot, encode = planned_row(0, 6, 0), Encoder(loaded.processor)
    group = trainer.sampler.groups([slot], (0, 0, 1), defaultdict(float))[0]
    triplet = cases.triplets(folder)[slot]
    expected = [triplet.anchor] * 2 + [getattr(triplet, under)] * 2
    for prompt, picture in zip(group.prompts, expected):
        assert torch.equal(prompt.pixels, encode(user_message(triplet.prompt, picture)).pixels)


# Methods -----------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_matched_on_prompts_rollouts_and_updates(name):
    config = TapoConfig(n_anchor=3, n_positive=5, steps=6, prompts_per_step=2, micro_batch_size=8)
    changed = method_config(name, config)
    different = {key for key, value in budget(config).items() if budget(changed)[key] != value}
    assert not different and changed.seed == config.seed
    if name in ("dapo", "cls_rl"):
        assert (changed.n_anchor, changed.n_positive, changed.eta1) == (8, 0, 0.0)
        assert not changed.needs_negative
    with pytest.raises(UserError, match="one of dapo"):
        method_config("ppo", config)


def test_a_list_of_methods_is_checked_before_anything_is_trained():
    assert baselines.check_methods(("tapo", "dapo")) == ["tapo", "dapo"]
    for wrong, said in (([], "methods is empty"), (["tapo", "tapo"], "'tapo' is listed twice"),
                        (["ppo"], "'ppo'")):
        with pytest.raises(UserError, match=said):
            baselines.check_methods(wrong)


def test_the_methods_of_the_paper_by_their_settings():
    config = TapoConfig(n_anchor=4, n_positive=4)

    def row(name):
        c, m = method_config(name, config), METHODS[name]
        return (c.n_anchor, c.n_positive, c.gamma, c.eta1, c.eta2, m.start, m.prompt, dict(m.pictures))

    on, off = (0.01, 0.03, 0.03), (0.0, 0.0, 0.0)
    assert row("dapo") == (8, 0, *off, "cot_sft", "cot", {})
    assert row("intra") == (4, 4, *off, "cot_sft", "cot", {})
    assert row("inter") == (8, 0, *on, "cot_sft", "cot", {})
    assert row("tapo") == (4, 4, *on, "cot_sft", "cot", {})
    assert row("cls_rl") == (8, 0, *off, "base", "cot", {})
    assert row("no_thinking_rl") == (8, 0, *off, "base", "answer", {})
    assert row("noisy_rollout") == (4, 4, *off, "cot_sft", "cot", {"positive": "noised"})
    assert row("papo") == (8, 0, *on, "cot_sft", "cot", {"negative": "masked"})
    assert baselines.model_name("tapo") == "cot_sft_tapo" and baselines.model_name("cls_rl") == "base_cls_rl"
    assert baselines.model_label("dapo") == "CoT SFT + DAPO"


def test_the_budget_table_adds_up_what_was_spent():
    import pandas

    config = TapoConfig(n_anchor=2, n_positive=2, steps=2, prompts_per_step=2, micro_batch_size=4)
    log = pandas.DataFrame({"rollouts_sampled": [24, 0], "rollouts_trained": [16, 0],
                            "tokens_sampled": [240, 0], "seconds": [2.0, 1.5]})
    row = baselines.budget_table({"a": config}, {"a": log}).loc["a"].to_dict()
    assert row == {"updates": 2, "updates_per_rollout": 2, "prompts": 4, "rollouts_per_prompt": 4,
                   "rollouts": 16, "rollouts_sampled": 24, "rollouts_trained": 16, "tokens_sampled": 240,
                   "seconds": 3.5}


# Pictures ----------------------------------------------------


def test_triplet_rows_name_pictures_prompt_and_label():
    import pandas

    from finer1_lib.core.prompts import PROMPTS, question_for

    table = pandas.DataFrame([dict(
        image_id="bird/a/1.png", positive_id="bird/a/2.png", negative_id="bird/b/1.png",
        super_category="bird", sub_category="A", negative_sub_category="B")])
    row = tapo.triplet_rows(table, "root")[0]
    assert row.prompt == PROMPTS["cot_open"].text(question=question_for("bird")) and row.sub_category == "A"
    assert [tuple(i) for i in row[:3]] == [("root", f"bird/{n}.png") for n in ("a/1", "a/2", "b/1")]
    row = tapo.triplet_rows(table, "root", positive="noised", negative="masked", seed=4)[0]
    assert row.positive == ("root", "bird/a/1.png", "noised", 0.3, 4)
    assert row.negative == ("root", "bird/a/1.png", "masked", 0.6, 4)
    for wrong in (dict(positive="blurred"), dict(negative="none"), dict(negative="masked", mask_share=1.5)):
        with pytest.raises(UserError):
            tapo.triplet_rows(table, "root", **wrong)


def test_distorted_pictures_are_as_strong_as_they_say_and_the_same_every_time(folder):
    import numpy

    from finer1_lib.data.triplets import masked, noised

    plain = cases.images(folder)[1]
    original = numpy.asarray(plain.open(), dtype=float)
    for make in (noised, masked):
        pictures = [numpy.asarray(make(plain, 0.5, seed).open(), dtype=float) for seed in (0, 0, 1)]
        assert (pictures[0] == pictures[1]).all() and (pictures[0] != pictures[2]).any()
        assert (numpy.asarray(make(plain, 0.0, 0).open()) == original).all()
        assert pictures[0].shape == original.shape
    black = (numpy.asarray(masked(plain, 0.5, 0).open()) == 0).all(-1)
    blocks = black.reshape(112 // 14, 14, 112 // 14, 14).all(axis=(1, 3))
    assert blocks.sum() >= 32, "half of 64 patches (a picture may have black ones of its own)"
    # pure noise keeps nothing of the picture: half of a standard normal lies outside +-0.674
    white = numpy.asarray(noised(plain, 1.0, 0).open(), dtype=float) / 127.5 - 1
    assert abs((numpy.abs(white) > 0.6745).mean() - 0.5) < 0.02


# All weights -------------------------------------------------


def test_tapo_trains_all_weights_as_well_and_what_it_writes_is_what_it_trained(folder, tmp_path):
    from finer1_lib import models

    started = cases.start_full(folder)
    before = {name: p.detach().clone() for name, p in started.model.named_parameters()}
    trained = cases.train("tapo", folder, tmp_path / "full", loaded=started, steps=2)
    moved = {name for name, p in trained.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and not any("visual." in name for name in moved), "the vision tower is frozen"
    assert any("language_model" in name for name in moved)
    again = models.load(folder / "base", tmp_path / "full")
    for name, parameter in again.model.named_parameters():
        torch.testing.assert_close(parameter, dict(trained.model.named_parameters())[name], atol=0, rtol=0)


# Resumption --------------------------------------------------


def test_a_kill_ends_with_the_same_weights(folder, tmp_path):
    """SIGKILL at step 3 of 6, between the two updates of a rollout batch; the last checkpoint lies at 2."""
    killed = cases.kill_at(3, "tapo", folder)
    assert (checkpoints.scratch(killed) / "checkpoint-2" / checkpoints.MARKER).exists()
    steps = []
    resumed = cases.train("tapo", folder, killed, lambda step, *a, **k: steps.append(step))
    whole = cases.train("tapo", folder, tmp_path / "whole")
    assert steps == [3, 4, 5, 6]
    assert torch.equal(adapter(resumed.model), adapter(whole.model))
    assert not torch.equal(adapter(whole.model), adapter(cases.start(folder).model))
    logs = [folder / "metrics_killed_tapo.csv", tmp_path / "metrics_whole.csv"]
    timeless = [i for i, name in enumerate(LOG_COLUMNS) if not name.startswith("seconds")]
    told = [[[line.split(",")[i] for i in timeless] for line in log.read_text().splitlines()] for log in logs]
    assert told[0] == told[1] and len(told[0]) == 7
    assert not checkpoints.scratch(killed).exists()
    told_of = [dict(zip(told[1][0], row)) for row in told[1]]
    assert all(value for row in told_of for value in row.values()), "every gauge has a value"
    firsts, seconds = told_of[1::2], told_of[2::2]  # of the two updates of each rollout batch
    assert all(float(row["rollouts_sampled"]) > 0 == float(next_row["rollouts_sampled"])
               for row, next_row in zip(firsts, seconds)), "counted once"
    def moved(row):
        return max(abs(float(row[f"ratio_{half}"]) - 1) for half in ("anchor", "positive"))

    assert max(map(moved, firsts)) < 1e-5, "pi is still pi_old, but for rounding in other micro-batches"
    assert min(map(moved, seconds)) > 1e-4, "the ratio is alive"
    # finished: loaded, not trained anew
    again = cases.train("tapo", folder, killed, lambda *a, **k: pytest.fail("trained anew"))
    assert torch.equal(adapter(again.model), adapter(whole.model))


def test_gradient_checkpointing_changes_no_number(folder, tmp_path, monkeypatch):
    """Updates compute each layer once more, over whole rows; rollouts are sampled with a cache as ever."""
    rows, shared, real = {}, {}, score_completions

    def score(model, *args, **kwargs):
        shared[on].append(sharing.shares_prompts(sharing.unwrap_base(model)))
        return real(model, *args, **kwargs)

    monkeypatch.setattr(tapo_trainer, "score_completions", score)
    for on in (False, True):
        loaded = cases.start(folder, gradient_checkpointing=on)
        config = cases.tapo_config(steps=2, updates_per_rollout=2)
        trainer = tapo_trainer.build_trainer(loaded, cases.triplets(folder), config, tmp_path / str(on))
        shared[on] = []
        trainer.train()
        rows[on] = [{key: value for key, value in row.items() if "seconds" not in key and key != "step_time"}
                    for row in trainer.state.log_history if "loss" in row]
    assert all(shared[False]) and not any(shared[True]) and len(shared[True]) == len(shared[False]) > 0
    for ours, theirs in zip(rows[False], rows[True], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def test_groups_that_nobody_trains_on_are_let_go_with_their_pictures(folder, tmp_path, monkeypatch):
    """Four rounds without variance: the first round's groups stay to fill the batch up, no more."""
    monkeypatch.setattr(rewards, "accuracy_reward", lambda **k: [0.0] * len(k["completion_ids"]))
    *_, trainer = trainer_for(folder, tmp_path, max_sampling_rounds=4)
    batch = trainer.sampler.batch([0, 1], 0)
    assert (batch.metrics["sampling_rounds"], batch.counts["rollouts_sampled"]) == (4.0, 32.0)
    assert len(batch.dropped) == 2 and not batch.kept
    monkeypatch.setattr(rewards, "accuracy_reward", lambda **k: [float(i % 2) for i in range(
        len(k["completion_ids"]))])
    batch = trainer.sampler.batch([0, 1], 0)
    assert len(batch.kept) == 2 and not batch.dropped
