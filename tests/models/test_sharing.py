"""What rollouts share is computed once, and nothing changes by it: values, gradients, and what is drawn."""

import gc
import math

import pytest
import tiny_checkpoint
import torch
from tiny_checkpoint import add_lora

from finer1_lib import models
from finer1_lib.core.prompts import user_message
from finer1_lib.models import log_probabilities, sharing
from finer1_lib.models.encoding import Encoded, Encoder, pad, vision_inputs
from finer1_lib.models.generation import sample_ids
from finer1_lib.models.log_probabilities import logp_and_entropy, score_completions, score_tokens

SIZES = ((112, 112), (84, 140), (56, 56))  # 16, 15 and 4 image tokens
ANSWERS = ("Dunen Wren", "a", "red crown, black back", "", "blue", "the crown is red", "b", "Marlo Wren")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint.build(tmp_path_factory.mktemp("sharing") / "base")


def fresh(folder, kind="bare"):
    """A float64 model: bare (every weight trains), or with an adapter on language, or on vision too."""
    loaded = models.load(folder)
    if kind != "bare":
        loaded = add_lora(loaded, 4, 8, vision_layers=kind == "vision", seed=1)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            for name, parameter in loaded.model.named_parameters():
                if "lora_B" in name:
                    parameter.data.normal_(0.0, 0.1)
    loaded.model.double()
    return loaded


@pytest.fixture(scope="module")
def prompts(folder):
    """Four prompts of unequal length: three pictures of unequal size, and text alone."""
    encode = Encoder(models.load(folder).processor)
    pictures = [tiny_checkpoint.picture(size=size, seed=i) for i, size in enumerate(SIZES)]
    texts = ("What species is this bird?", "Think", "<think>a</think> red crown")
    return [encode(user_message(text, picture)) for text, picture in zip(texts, pictures)] + [
        encode(user_message("only text"))]


@pytest.fixture(scope="module")
def batch(folder, prompts):
    """(rows, ids, mask): eight rows of those prompts, shuffled; one completion is empty but for its end."""
    encode = Encoder(models.load(folder).processor)
    ids, mask = pad([encode.completion(text) for text in ANSWERS], 0, "right")
    mask[4] = 0  # a place that no rollout was left for
    return [prompts[i] for i in (0, 3, 1, 0, 2, 1, 3, 0)], ids, mask


def row_by_row(model, rows, ids, mask):
    """The plain path: whole rows, the tower once a row, transformers' own placing and positions."""
    prompt_ids, prompt_mask = pad([row.ids for row in rows], 0, "left")
    whole, seen = torch.cat([prompt_ids, ids], 1), torch.cat([prompt_mask, mask], 1)
    scored = torch.cat([torch.zeros_like(prompt_mask), mask], 1)
    vision = vision_inputs(rows, whole, model.config.image_token_id)
    result = score_tokens(model, whole, seen, scored, vision, temperature=0.8)
    return result.logp[:, -ids.shape[1] :], result.entropy[:, -ids.shape[1] :]


def gradients(model, logp, entropy):
    """Gradients of one number in which every value counts differently."""
    model.zero_grad()
    steps = torch.arange(1, logp.numel() + 1, dtype=logp.dtype).view_as(logp)
    ((logp * steps.sin()).sum() + (entropy * steps.cos()).sum()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# Scoring -----------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["bare", "language", "vision"])
def test_shared_scores_and_gradients_equal_the_plain_ones(folder, batch, kind, checkpointing):
    model = fresh(folder, kind).model
    rows, ids, mask = batch
    expected = row_by_row(model, rows, ids, mask)
    wanted = gradients(model, *expected)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(dict(use_reentrant=False))
    assert sharing.shares_prompts(sharing.unwrap_base(model)) is not checkpointing
    found = score_completions(model, rows, ids, mask, pad_token_id=0, temperature=0.8, chunk=7)
    for a, b in zip(found[:2], expected):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
        assert float(b.detach().abs().max()) > 1 and not a[4].any()
    given = gradients(model, *found[:2])
    assert given.keys() == wanted.keys()
    assert any("visual" in name for name in given) == (kind != "language")
    for name, gradient in given.items():
        scale = float(wanted[name].abs().max())
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5 * scale + 1e-9, rtol=1e-5, msg=name)


@pytest.mark.parametrize("kind", ["bare", "language", "vision"])
def test_packed_scores_and_gradients_equal_the_plain_ones_under_checkpointing(folder, batch, kind, monkeypatch):
    model = fresh(folder, kind).model
    rows, ids, mask = batch
    expected = row_by_row(model, rows, ids, mask)
    wanted = gradients(model, *expected)
    model.train()
    model.gradient_checkpointing_enable(dict(use_reentrant=False))
    passes = []
    forward = sharing.unwrap_base(model).model.forward
    monkeypatch.setattr(sharing.unwrap_base(model).model, "forward",
                        lambda **given: passes.append(given["attention_mask"].shape) or forward(**given))
    monkeypatch.setattr(log_probabilities, "packs_prompts", lambda *given: True)
    found = score_completions(model, rows, ids, mask, pad_token_id=0, temperature=0.8, chunk=7)
    longest = max(len(prompt.ids) + sum(int(n) for row, n in zip(rows, mask.sum(1)) if row is prompt)
                  for prompt in rows)
    assert passes == [(4, 1, longest, longest)]  # four prompts, each read once
    for a, b in zip(found[:2], expected):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    given = gradients(model, *found[:2])
    assert given.keys() == wanted.keys()
    for name, gradient in given.items():
        scale = float(wanted[name].abs().max())
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5 * scale + 1e-9, rtol=1e-5, msg=name)


def test_prompts_are_packed_where_that_is_less_work(folder, monkeypatch):
    base = fresh(folder).model
    text = base.config.get_text_config()
    monkeypatch.setattr(text, "hidden_size", 40)
    monkeypatch.setattr(text, "intermediate_size", 40)  # a token is worth 40 + 60 = 100 pairs
    monkeypatch.setattr(sharing, "PACKED_FROM", 20)
    prompt = Encoded(list(range(5, 25)), None, None)
    # apart: 2 rows of 20 + n tokens, 2 (20 + n) (120 + n); packed: 20 + 2 n, (20 + 2 n) (120 + 2 n)
    assert sharing.packs_prompts(base, [prompt] * 2, [20, 20])  # 60 * 160 = 9,600 < 2 * 40 * 140 = 11,200
    assert sharing.packs_prompts(base, [prompt] * 2, [34, 34])  # 88 * 188 = 16,544 < 2 * 54 * 154 = 16,632
    assert not sharing.packs_prompts(base, [prompt] * 2, [35, 35])  # 90 * 190 = 17,100 > 2 * 55 * 155 = 17,050
    assert not sharing.packs_prompts(base, [prompt, prompt._replace(pixels=None)], [1, 1])  # equal, not one object
    monkeypatch.setattr(sharing, "PACKED_FROM", 21)
    assert not sharing.packs_prompts(base, [prompt] * 2, [20, 20])  # too short for the mask's memory
    monkeypatch.setattr(sharing, "PACKED_FROM", 20)
    monkeypatch.setattr(text, "_attn_implementation", "eager")  # takes an additive mask
    assert not sharing.packs_prompts(base, [prompt] * 2, [20, 20])


def test_rows_without_anything_in_common_and_one_alone(folder, prompts, batch):
    model = fresh(folder).model
    _, ids, mask = batch
    for rows in (prompts, prompts[:1]):
        found = score_completions(
            model, rows, ids[: len(rows)], mask[: len(rows)], pad_token_id=0, temperature=0.8)
        expected = row_by_row(model, rows, ids[: len(rows)], mask[: len(rows)])
        torch.testing.assert_close(found.logp, expected[0], atol=1e-6, rtol=1e-6)


def test_states_are_those_that_give_the_scores(folder, batch):
    model = fresh(folder, "language").model
    rows, ids, mask = batch
    assert score_completions(model, rows, ids, mask, pad_token_id=0).states is None
    found = score_completions(model, rows, ids, mask, pad_token_id=0, temperature=0.8, keep_states=True)
    real = mask.bool()
    assert found.states.shape == (int(real.sum()), 32) and found.states.requires_grad
    head = sharing.unwrap_base(model).get_output_embeddings().weight
    logp, entropy = logp_and_entropy(found.states, head, ids[real], 0.8)
    assert torch.equal(logp, found.logp[real]) and torch.equal(entropy, found.entropy[real])


def test_image_tokens_without_a_image_are_refused(folder, prompts, batch):
    model = fresh(folder).model
    rows, ids, mask = batch
    wrong = ids.clone()
    wrong[2, 0] = model.config.image_token_id
    with pytest.raises(ValueError, match="image token in a completion"):
        score_completions(model, rows, wrong, mask, pad_token_id=0)
    stray = Encoded(prompts[3].ids + [model.config.image_token_id], None, None)
    with pytest.raises(ValueError, match="1 image tokens in the batch, but features for 0"):
        score_completions(model, [stray] * 8, ids, mask, pad_token_id=0)


# The vision tower --------------------------------------------


@pytest.fixture
def seen(monkeypatch):
    """How many pictures each pass of the tower was given."""
    passes = []
    tower = sharing._tower
    monkeypatch.setattr(sharing, "_tower", lambda base, rows: passes.append(len(rows)) or tower(base, rows))
    return passes


def test_a_tower_in_training_sees_each_distinct_image_once_a_forward(folder, batch, seen):
    model = fresh(folder, "vision").model
    for _ in range(2):
        score_completions(model, *batch, pad_token_id=0)
    assert seen == [3, 3], "eight rows, three pictures; nothing may be kept while the tower trains"


def test_a_frozen_tower_sees_each_image_once_while_it_lives(folder, batch, seen):
    model = fresh(folder, "language").model
    rows, ids, mask = batch
    own = {id(row): row._replace(pixels=None if row.pixels is None else row.pixels.clone()) for row in rows}
    rows = [own[id(row)] for row in rows]
    first = score_completions(model, rows, ids, mask, pad_token_id=0)
    again = score_completions(model, rows[::-1], ids.flip(0), mask.flip(0), pad_token_id=0)
    assert seen == [1, 1, 1]
    torch.testing.assert_close(first.logp, again.logp.flip(0), atol=1e-9, rtol=1e-9)
    tower = sharing.unwrap_base(model).model.visual
    kept = sharing._KEPT[tower][1]
    assert len(kept) == 3 and not any(features.requires_grad for features in kept.values())
    del rows, own
    gc.collect()
    assert len(kept) == 0, "features go with the pixels they came from"


def test_features_do_not_outlive_the_weights_that_made_them(folder, batch, seen):
    model = fresh(folder, "language").model
    rows, ids, mask = batch
    before = score_completions(model, rows, ids, mask, pad_token_id=0, temperature=0.8).logp
    tower = sharing.unwrap_base(model).model.visual
    with torch.no_grad():
        tower.merger.mlp[2].weight.mul_(3.0)
    after = score_completions(model, rows, ids, mask, pad_token_id=0, temperature=0.8).logp
    torch.testing.assert_close(after, row_by_row(model, rows, ids, mask)[0], atol=1e-6, rtol=1e-6)
    assert seen == [1] * 6 and float((before - after).detach().abs().max()) > 1e-3
    tower.merger.mlp[2].weight.requires_grad_(True)
    score_completions(model, rows, ids, mask, pad_token_id=0)
    assert seen[6:] == [3] and tower not in sharing._KEPT


# Sampling ----------------------------------------------------


@pytest.mark.parametrize("kind", ["bare", "vision"])
def test_the_same_is_drawn_with_and_without_sharing(folder, prompts, kind, monkeypatch):
    loaded = fresh(folder, kind)
    rows = [prompts[i] for i in (0, 0, 3, 1, 2, 1, 0, 3)]
    length = sharing.ROOM + 12  # the cache must grow on the way
    draw = dict(max_new_tokens=length, temperature=1.0, top_p=0.9, seed=(4,))
    read = []
    language = sharing.unwrap_base(loaded.model).model.language_model
    hook = language.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True)
    shared = sample_ids(loaded.model, loaded.processor.tokenizer, rows, **draw)
    longest = max(len(row.ids) for row in prompts)
    assert read[:2] == [(4, longest - 1), (8, 1)], "four prompts are read once, then eight rows go on"
    assert max(map(len, shared)) > sharing.ROOM and len({tuple(ids) for ids in shared}) == 8
    alone = sample_ids(loaded.model, loaded.processor.tokenizer, [Encoded(*row) for row in rows], **draw)
    hook.remove()
    monkeypatch.setattr("finer1_lib.models.sharing.shares_prompts", lambda base: False)
    plain = sample_ids(loaded.model, loaded.processor.tokenizer, rows, **draw)
    assert shared == alone == plain
    greedy = {**draw, "temperature": 0.0}
    plain = sample_ids(loaded.model, loaded.processor.tokenizer, rows, **greedy)
    monkeypatch.undo()
    assert sample_ids(loaded.model, loaded.processor.tokenizer, rows, **greedy) == plain


def test_scores_after_sampling_are_not_disturbed_by_its_positions(folder, prompts, batch):
    loaded = fresh(folder, "language")
    rows, ids, mask = batch
    before = score_completions(loaded.model, rows, ids, mask, pad_token_id=0).logp
    sample_ids(loaded.model, loaded.processor.tokenizer, prompts, max_new_tokens=3, temperature=1.0,
               top_p=1.0, seed=(0,))
    assert torch.equal(before, score_completions(loaded.model, rows, ids, mask, pad_token_id=0).logp)
    assert sharing.unwrap_base(loaded.model).model.rope_deltas is None


def test_a_preallocated_cache_holds_what_a_plain_one_holds(folder):
    from transformers import DynamicCache

    plain, roomy = DynamicCache(), sharing.preallocated_cache()
    pieces = torch.Generator().manual_seed(0)
    for rows, length in ((3, 5), (4, 1), (4, sharing.ROOM - 2), (4, 3), (4, 1), (2, 1)):
        if plain.get_seq_length() and rows != plain.layers[0].keys.shape[0]:
            pick = torch.tensor([2, 0, 1, 1][:rows])
            plain.batch_select_indices(pick)
            roomy.batch_select_indices(pick)
        for layer in range(2):
            new = [torch.randn(rows, 2, length, 4, generator=pieces) for _ in range(2)]
            for a, b in zip(plain.update(*new, layer), roomy.update(*new, layer)):
                assert torch.equal(a, b)
        assert plain.get_seq_length() == roomy.get_seq_length()


def test_models_that_cannot_go_on_from_a_prompt_say_so(folder):
    base = fresh(folder).model
    assert sharing.shares_prompts(base)
    base.for_inference = lambda: None  # what Unsloth's model has
    assert not sharing.shares_prompts(base)


# Rows that stay together -------------------------------------


@pytest.mark.parametrize("group, micro", [(4, 8), (4, 4), (8, 4), (6, 4), (5, 4)])
def test_trl_shuffles_and_splits_bundles_whole(group, micro):
    from trl.trainer import utils

    count = group * micro
    rows = {"ids": torch.arange(2 * count).view(count, 2), "names": [object() for _ in range(count)],
            "flag": torch.arange(count) % 2 == 0, "total": torch.tensor(7)}
    bundled = sharing.bundle(rows, group, micro)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shuffled = utils.shuffle_sequence_dict(utils.split_pixel_values_by_grid(bundled))
    parts = [sharing.unbundle(utils.unsplit_pixel_values_by_grid(part))
             for part in utils.split_tensor_dict(shuffled, count // micro)]
    places = [part["ids"][:, 0] // 2 for part in parts]
    assert [len(place) for place in places] == [micro] * (count // micro)
    assert sorted(torch.cat(places).tolist()) == list(range(count)) != torch.cat(places).tolist()
    size = math.gcd(group, micro)
    for part, place in zip(parts, places):
        assert all(name is rows["names"][k] for name, k in zip(part["names"], place))
        assert torch.equal(part["flag"], place % 2 == 0) and int(part["total"]) == 7
        together = place.view(-1, size)
        assert torch.equal(together, together[:, :1] + torch.arange(size))
        assert not (together[:, 0] % size).any()


def test_logits_are_held_in_pieces_of_one_size_in_bytes():
    """1,024 rows for the miniature as ever; for Qwen2.5-VL's vocabulary 2**27 / (4 x 151,936) = 220."""
    from finer1_lib.models.log_probabilities import logit_rows

    assert [logit_rows(words) for words in (1280, 32768, 32769, 151936, 10**7)] == [1024, 1024, 1023, 220, 64]
