"""Loading, adapters, generation, encoding and pooled states, on a tiny random Qwen2.5-VL."""

import fnmatch
import json
import shutil

import numpy as np
import pytest
import tiny_checkpoint
import torch
from tiny_checkpoint import add_lora

from finer1_lib import models
from finer1_lib.core.checkpoint_names import is_folder, split_revision
from finer1_lib.core.errors import UserError
from finer1_lib.core.images import ImageFile
from finer1_lib.core.prompts import user_message
from finer1_lib.models.encoding import Encoder, pad, pixels_of, vision_inputs
from finer1_lib.models.generation import PLACEHOLDERS, cut_batches, generate, mix, sample_ids
from finer1_lib.models.hidden_states import pooled_states
from finer1_lib.models.log_probabilities import score_completions
from finer1_lib.models.trainable import (Trainable, attach_adapter, has_trainable, load_trained,
                                         make_trainable, save_adapter, save_trained)

QUESTION = "What species is this bird?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint.build(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def loaded(folder):
    return models.load(folder)


@pytest.fixture(scope="module")
def pictures():
    """Three sizes: 16, 15 and 4 image tokens."""
    sizes = [(112, 112), (84, 140), (56, 56)]
    return [tiny_checkpoint.picture(size=size, seed=i) for i, size in enumerate(sizes)]


@pytest.fixture(scope="module")
def prompts(pictures):
    texts = [QUESTION, "Think", "<think>a</think> red crown"]
    return [user_message(text, picture) for text, picture in zip(texts, pictures)]


# Loading -----------------------------------------------------


def test_load_gives_an_evaluating_float32_model_without_network(folder, monkeypatch):
    import socket

    def no_network(*args, **kwargs):
        raise AssertionError("a local checkpoint must not look at the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    loaded = models.load(folder)
    assert not loaded.model.training and next(loaded.model.parameters()).dtype == torch.float32
    assert (loaded.backend, loaded.adapter, loaded.checkpoint) == ("transformers", None, str(folder))


def test_other_mistakes_are_one_clear_line(folder, tmp_path):
    for call, said in [
        (lambda: models.load(tmp_path / "nowhere/at/all"), "does not exist"),
        (lambda: models.load(folder, backend="jax"), "one of transformers, unsloth"),
        (lambda: models.load(folder, dtype="int8"), "dtype"),
        (lambda: models.load(folder, device="cpu", load_in_4bit=True), "need a CUDA GPU.*load_in_4bit"),
        (lambda: models.load(folder, adapter=tmp_path / "none"), "adapter folder"),
        (lambda: models.load(folder, adapter=tmp_path), "not an adapter: adapter_config.json"),
        (lambda: add_lora(models.load(folder), 0, 16), "positive"),
    ]:
        with pytest.raises(UserError, match=said):
            call()
    other = json.loads((folder / "config.json").read_text())
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other/config.json").write_text(json.dumps({**other, "model_type": "llama"}))
    with pytest.raises(UserError, match="'llama'"):
        models.load(tmp_path / "other")


def test_unsloth_is_not_replaced_by_something_else(folder, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="unsloth"):
        models.load(folder, backend="unsloth")


# Adapters ----------------------------------------------------


def test_a_fresh_adapter_changes_nothing_and_leaves_vision_and_head_frozen(folder, prompts):
    bare = models.load(folder)
    before = generate(bare, prompts, max_new_tokens=6)
    loaded = add_lora(bare, 4, 8, seed=1)
    assert generate(loaded, prompts, max_new_tokens=6) == before
    names = [name for name, p in loaded.model.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 7 * 2 and all("language_model" in name and "lora_" in name for name in names)
    with pytest.raises(UserError, match="adapter already"):
        add_lora(loaded, 4, 8)
    wide = add_lora(models.load(folder), 4, 8, vision_layers=True)
    names = [name for name, p in wide.model.named_parameters() if p.requires_grad]
    assert any("visual" in name for name in names)
    assert not any("lm_head" in name or "embed" in name for name in names)


def test_the_seed_decides_a_fresh_adapter(folder):
    def weights(seed):
        model = add_lora(models.load(folder), 2, 4, seed=seed).model
        return torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])

    state = torch.get_rng_state()
    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))
    assert torch.equal(state, torch.get_rng_state())


def test_an_adapter_round_trips_and_carries_no_path(folder, tmp_path, prompts):
    loaded = add_lora(models.load(folder), 4, 8, seed=1)
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.3)
    save_adapter(loaded, tmp_path / "adapter")
    again = models.load(folder, adapter=tmp_path / "adapter")
    compared = (loaded, again, models.load(folder))
    states = [pooled_states(one, prompts, layers=[-1], where="last") for one in compared]
    np.testing.assert_array_equal(states[0], states[1])
    assert np.abs(states[0] - states[2]).max() > 1e-3
    assert again.adapter == str(tmp_path / "adapter")
    assert any(p.requires_grad for p in again.model.parameters()), "TAPO trains the adapter of CoT SFT onward"
    assert str(folder.parent) not in (tmp_path / "adapter/adapter_config.json").read_text()


def test_an_adapter_of_another_model_is_refused(folder, tmp_path):
    for name, sizes in (("deep", dict(layers=3)), ("wide", dict(hidden=64))):
        other = tiny_checkpoint.build(tmp_path / name, **sizes)
        save_adapter(add_lora(models.load(other), 4, 8), tmp_path / f"{name}_adapter")
        with pytest.raises(UserError, match="does not fit"):
            models.load(folder, adapter=tmp_path / f"{name}_adapter")


# Trained parts, whole checkpoints, merging -------------------


def trained_names(loaded) -> set[str]:
    """The parts of the model that have trainable parameters."""
    names = [name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad]
    return {"projector" if "merger" in n else "tower" if "visual" in n else "language" for n in names}


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("tower", [False, True])
@pytest.mark.parametrize("projector", [False, True])
def test_each_part_is_frozen_or_trained_as_said(folder, tmp_path, kind, tower, projector):
    bare = models.load(folder, full_finetuning=kind == "full")
    assert not has_trainable(bare)
    part = Trainable(kind, 2, 4, vision_tower=tower, projector=projector)
    loaded = make_trainable(bare, part)
    expected = {"language"} | ({"tower"} if tower else set()) | ({"projector"} if projector else set())
    assert trained_names(loaded) == expected and has_trainable(loaded)
    save_trained(loaded, tmp_path / "kept")
    again = models.load(folder, tmp_path / "kept")
    assert again.trainable == part if kind == "lora" else again.trainable.full
    assert trained_names(again) == expected, "what follows trains the same parts on"
    assert (tmp_path / "kept/config.json").exists() == (kind == "full")


def test_mistakes_in_what_is_trained_are_one_clear_line(folder, tmp_path):
    lora = add_lora(models.load(folder), 2, 4)
    full = make_trainable(models.load(folder, full_finetuning=True), Trainable("full"))
    save_trained(full, tmp_path / "whole")
    save_trained(lora, tmp_path / "adapter")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/config.json").write_text('{"model_type": "qwen2_5_vl"}')
    shutil.copytree(tmp_path / "whole", tmp_path / "marked")
    (tmp_path / "marked/trainable.json").write_text('{"kind": "full", "shoe_size": 43}')
    for call, said in [
        (lambda: Trainable("half"), "one of lora, full"),
        (lambda: make_trainable(models.load(folder), Trainable("full")), "full_finetuning="),
        (lambda: make_trainable(lora, Trainable("full")), "adapter already"),
        (lambda: save_trained(models.load(folder), tmp_path / "x"), "nothing trained"),
        (lambda: load_trained(lora, tmp_path / "whole"), "whole checkpoint"),
        (lambda: attach_adapter(full, tmp_path / "whole"), "whole checkpoint"),
        (lambda: models.load(folder, tmp_path / "torn"), "without weights"),
        (lambda: models.load(folder, tmp_path / "marked"), "trainable.json is damaged"),
        (lambda: models.load(folder, full_finetuning=True, load_in_4bit=True), "no 4-bit weights"),
        (lambda: models.load(folder, tmp_path / "whole", load_in_4bit=True), "no 4-bit weights"),
    ]:
        with pytest.raises(UserError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)
    other = make_trainable(
        models.load(tiny_checkpoint.build(tmp_path / "deep", layers=3), full_finetuning=True),
        Trainable("full"))
    with pytest.raises(UserError, match="does not fit"):
        load_trained(other, tmp_path / "whole")


def test_full_fine_tuning_holds_float32_and_writes_the_dtype_it_computes_in(folder, tmp_path, prompts):
    """A step of 5e-6 on a weight of 1 is lost in bfloat16, whose next number after 1 is 1.0078."""
    loaded = models.load(folder, full_finetuning=True, dtype="bfloat16")
    loaded = make_trainable(loaded, Trainable("full"))
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32} and loaded.dtype == torch.bfloat16
    assert generate(loaded, prompts, max_new_tokens=3)
    save_trained(loaded, tmp_path / "whole")
    from safetensors.torch import load_file

    assert {t.dtype for t in load_file(tmp_path / "whole/model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize("vision", [False, True])
def test_merged_weights_answer_as_base_and_adapter_do(folder, tmp_path, prompts, vision):
    part = Trainable("lora", 4, 8, vision_tower=vision, projector=vision)
    loaded = make_trainable(models.load(folder), part, seed=1)
    torch.manual_seed(7)
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0.0, 0.2)
    before = {name: parameter.clone() for name, parameter in loaded.model.named_parameters()}
    models.save_merged(loaded, tmp_path / "merged")
    for name, parameter in loaded.model.named_parameters():
        assert torch.equal(parameter, before[name]), "saving must leave the model in memory as it is"
    merged = models.load(tmp_path / "merged")
    assert not hasattr(merged.model, "peft_config")
    assert generate(merged, prompts, max_new_tokens=8) == generate(loaded, prompts, max_new_tokens=8)
    encode = Encoder(loaded.processor)
    rows = [encode(prompt) for prompt in prompts]
    ids, mask = pad([encode.completion("red crown")] * 3, 0, "right")
    scores = [score_completions(one.model, rows, ids, mask, pad_token_id=0).logp.detach()
              for one in (loaded, merged, models.load(folder))]
    torch.testing.assert_close(scores[0], scores[1], atol=2e-5, rtol=1e-4)
    assert (scores[0] - scores[2]).abs().max() > 1e-2, "the adapter must matter, or this says nothing"


def test_merging_without_an_adapter_writes_the_weights_as_they_are(folder, tmp_path):
    models.save_merged(models.load(folder), tmp_path / "same")
    first, second = models.load(folder).model.state_dict(), models.load(tmp_path / "same").model.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# Encoding ----------------------------------------------------


def test_encoding_equals_the_processors_own(loaded, prompts):
    encode = Encoder(loaded.processor)
    for messages in prompts:
        expected = loaded.processor.apply_chat_template(
            [messages], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
        found = encode(messages)
        assert found.ids == expected["input_ids"][0].tolist()
        assert torch.equal(found.pixels, expected["pixel_values"])
        assert torch.equal(found.grid, expected["image_grid_thw"])
        ids = torch.tensor([found.ids])
        types = vision_inputs([found], ids, loaded.model.config.image_token_id)["mm_token_type_ids"]
        assert torch.equal(types.long(), expected["mm_token_type_ids"].long())


def test_each_image_is_processed_once_and_the_cache_has_a_bound(loaded, pictures, tmp_path, monkeypatch):
    encode, calls = Encoder(loaded.processor), []
    process = loaded.processor.image_processor
    encode.processor = type("Counting", (), {
        "image_processor": staticmethod(lambda **kw: calls.append(1) or process(**kw))})
    pictures[0].save(tmp_path / "a.png")
    for _ in range(3):
        encode.picture(pictures[0])
        encode.picture(ImageFile(str(tmp_path), "a.png"))
    assert len(calls) == 2
    small = Encoder(loaded.processor, cache_bytes=1)
    assert torch.equal(small.picture(pictures[0])[0], Encoder(loaded.processor).picture(pictures[0])[0])
    small.picture(pictures[1])
    assert len(small._images) == 1


def test_placeholders_in_the_text_are_refused(loaded):
    with pytest.raises(ValueError, match="image_pad"):
        Encoder(loaded.processor)(user_message("what <|image_pad|> is this"))


# Generation --------------------------------------------------


def test_greedy_batches_agree_with_single_prompts_and_with_transformers(loaded, prompts):
    together = generate(loaded, prompts, max_new_tokens=8)
    assert together == [generate(loaded, [p], max_new_tokens=8)[0] for p in prompts]
    inputs = loaded.processor.apply_chat_template(
        [prompts[0]], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
    out = loaded.model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1]:]
    assert loaded.processor.tokenizer.decode(out, skip_special_tokens=True) == together[0].text


def test_sampling_follows_its_seed_and_leaves_torchs_state_alone(loaded, prompts):
    state = torch.get_rng_state()
    draws = [generate(loaded, prompts, max_new_tokens=8, temperature=1.0, seed=s) for s in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(state, torch.get_rng_state())


def test_image_ids_are_never_sampled_and_endings_are_counted(folder, prompts):
    loaded = models.load(folder)
    tokenizer = loaded.processor.tokenizer
    # A head that wants nothing but image tokens, and then one that wants nothing but the end.
    loaded.model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(loaded.model.lm_head.weight))
    bias = torch.zeros(len(tokenizer))
    bias[[tokenizer.convert_tokens_to_ids(t) for t in ("<|image_pad|>", "<|video_pad|>")]] = 50.0
    loaded.model.lm_head.bias = torch.nn.Parameter(bias)
    rows = [Encoder(loaded.processor)(prompt) for prompt in prompts]
    drawn = sample_ids(loaded.model, tokenizer, rows, max_new_tokens=5, temperature=1.0, top_p=1.0, seed=(0,))
    placeholders = {tokenizer.convert_tokens_to_ids(token) for token in PLACEHOLDERS}
    assert not placeholders & {token for row in drawn for token in row}
    loaded.model.lm_head.bias.data[tokenizer.eos_token_id] = 99.0
    ended = generate(loaded, prompts, max_new_tokens=5)
    assert [(row.text, row.tokens, row.truncated) for row in ended] == [("", 1, False)] * 3
    loaded.model.lm_head.bias.data[tokenizer.eos_token_id] = -99.0
    cut = generate(loaded, prompts, max_new_tokens=5)
    assert [(row.tokens, row.truncated) for row in cut] == [(5, True)] * 3


def test_batches_hold_everything_once_and_equal_lengths_together():
    lengths = [10] * 40 + [7, 12, 9, 12]
    batches = cut_batches(lengths, 32)
    assert sorted(i for batch in batches for i in batch) == list(range(44))
    assert [len(b) for b in batches] == [32, 8, 4] and len({lengths[i] for i in batches[0]}) == 1
    assert cut_batches([], 4) == []
    with pytest.raises(ValueError):
        cut_batches([1], 0)


def test_mixed_seeds_differ():
    assert len({mix(a, b) for a in range(20) for b in range(20)}) == 400 and 0 <= mix(3) < 2**63


# States and scores -------------------------------------------


def test_pooled_states_by_hand(loaded, prompts):
    encode = Encoder(loaded.processor)
    row = encode(prompts[1])
    ids, mask = pad([row.ids], 0, "right")
    vision = vision_inputs([row], ids, loaded.model.config.image_token_id)
    with torch.no_grad():
        states = loaded.model.model(
            input_ids=ids, attention_mask=mask, output_hidden_states=True, **vision).hidden_states
    image = [i for i, token in enumerate(row.ids) if token == loaded.model.config.image_token_id]
    assert len(image) == 15
    for layers, where, expected in [([0, -1], "image", [states[k][0, image].mean(0) for k in (0, -1)]),
                                    ([1], "last", [states[1][0, -1]])]:
        found = pooled_states(loaded, prompts, layers=layers, where=where, batch_size=2)
        assert found.shape == (len(layers), 3, 32) and found.dtype == np.float32
        np.testing.assert_allclose(found[:, 1], torch.stack(expected).numpy(), atol=1e-5)


def test_pooled_states_of_a_span_and_of_text_alone(loaded):
    encode = Encoder(loaded.processor)
    texts = ["Dunen Wren: red crown", "Is the species Dunen Wren?"]
    found = pooled_states(
        loaded, [user_message(t) for t in texts], layers=[0], where="span", spans=["Wren"] * 2)
    embedded = loaded.model.get_input_embeddings().weight
    for i, text in enumerate(texts):
        rendered = encode.render(user_message(text))[0]
        tokens = encode.tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
        start = rendered.rindex("Wren")
        inside = [token for token, (a, b) in zip(tokens["input_ids"], tokens["offset_mapping"])
                  if a < start + 4 and b > start]
        assert "Wren" in encode.tokenizer.decode(inside)
        np.testing.assert_allclose(found[0, i], embedded[inside].mean(0).detach().numpy(), atol=1e-6)


def test_pooled_states_say_what_is_wrong(loaded, prompts):
    for wrong in (dict(where="nose"), dict(where="image", spans=["x"] * 3), dict(where="span"),
                  dict(where="span", spans=["absent"] * 3), dict(layers=[9])):
        with pytest.raises(ValueError):
            pooled_states(loaded, prompts, **{"layers": [0], **wrong})
    with pytest.raises(ValueError, match="no image"):
        pooled_states(loaded, [user_message("text")], layers=[0])


def test_scores_equal_the_models_own_logits_one_by_one(loaded, prompts):
    """Padding, unequal pictures and a text-only row in one batch change nothing."""
    encode = Encoder(loaded.processor)
    rows = [encode(p) for p in [*prompts, user_message("only text")]]
    answers = [encode.completion(text) for text in ("Dunen Wren", "a", "red crown, black back", "")]
    ids, mask = pad(answers, 0, "right")
    found = score_completions(loaded.model, rows, ids, mask, pad_token_id=0, temperature=0.7, chunk=3)
    for i, (row, answer) in enumerate(zip(rows, answers)):
        whole = torch.tensor([row.ids + answer])
        vision = vision_inputs([row], whole, loaded.model.config.image_token_id)
        logits = loaded.model(input_ids=whole, attention_mask=torch.ones_like(whole), **vision).logits[0]
        logs = torch.log_softmax(logits[len(row.ids) - 1 : -1].float() / 0.7, -1)
        expected = logs.gather(-1, torch.tensor(answer)[:, None])[:, 0]
        torch.testing.assert_close(found.logp[i, : len(answer)], expected, atol=2e-5, rtol=1e-4)
        entropy = -(logs.exp() * logs).sum(-1)
        torch.testing.assert_close(found.entropy[i, : len(answer)], entropy, atol=2e-5, rtol=1e-4)
        assert not found.logp[i, len(answer) :].any()


# Pictures' size, revisions, memory ---------------------------


def grid_of(loaded, size):
    return Encoder(loaded.processor).picture(tiny_checkpoint.picture(size=size))[1][0].tolist()


def test_pixel_bounds_set_the_number_of_image_tokens_and_are_saved(folder, tmp_path):
    """112 x 112 pixels are 4 x 4 image tokens of 28 x 28; four patches make a token."""
    from transformers import AutoProcessor

    bare = models.load(folder)
    assert pixels_of(bare.processor) == {"min_pixels": 784, "max_pixels": 12544}
    assert grid_of(bare, (112, 112)) == grid_of(bare, (400, 400)) == [1, 8, 8]
    small = models.load(folder, max_pixels=56 * 56)
    assert grid_of(small, (112, 112)) == [1, 4, 4] and grid_of(small, (28, 28)) == [1, 2, 2]
    large = models.load(folder, min_pixels=84 * 84, max_pixels=168 * 168)
    assert grid_of(large, (28, 28)) == [1, 6, 6] and grid_of(large, (400, 400)) == [1, 12, 12]
    save_adapter(add_lora(large, 4, 8), tmp_path / "out")
    again = AutoProcessor.from_pretrained(tmp_path / "out")
    assert pixels_of(again) == {"min_pixels": 84 * 84, "max_pixels": 168 * 168}


@pytest.mark.parametrize("bounds, said", [
    (dict(max_pixels=783), "max_pixels is 783: an image token is 784 pixels"),
    (dict(min_pixels=-1), "min_pixels is -1"),
    (dict(min_pixels=20000), "min_pixels 20000 is above max_pixels 12544 (the checkpoint's own): set both"),
    (dict(min_pixels=8000, max_pixels=7999), "min_pixels 8000 is above max_pixels 7999: set both"),
])
def test_bounds_that_make_no_sense_are_refused(folder, bounds, said):
    with pytest.raises(UserError) as caught:
        models.load(folder, **bounds)
    assert said in str(caught.value)


def test_other_images_than_in_training_are_one_line(folder, tmp_path, capsys):
    out = tmp_path / "cot_sft"
    save_adapter(add_lora(models.load(folder, max_pixels=6272), 4, 8), out)
    models.load(folder, out)
    assert "warning" not in capsys.readouterr().out, "it does not say what it was trained with"
    (out / "training.json").write_text(json.dumps({"pixels": {"min_pixels": 784, "max_pixels": 6272}}))
    models.load(folder, out, max_pixels=6272)
    assert "warning" not in capsys.readouterr().out
    models.load(folder, out)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].startswith("warning: cot_sft was trained on images of another size")
    assert "max_pixels 6272 then, 12544 now" in lines[0] and "min_pixels 784" not in lines[0]


@pytest.mark.parametrize("text, split", [
    ("owner/name", ("owner/name", None)), ("owner/name@v1.0", ("owner/name", "v1.0")),
    ("owner/Qwen2.5-VL-3B@66285546d2b821cf421d4f5eb2576359d3770cd3",
     ("owner/Qwen2.5-VL-3B", "66285546d2b821cf421d4f5eb2576359d3770cd3")),
    ("owner/name@refs/pr/1", ("owner/name", "refs/pr/1")),
    ("folder", ("folder", None)), ("./owner/name@v1", ("./owner/name@v1", None)),
    ("/a/b@c", ("/a/b@c", None)), ("owner/name@", ("owner/name@", None)),
])
def test_revisions_are_split_off_hub_ids_alone(text, split):
    assert split_revision(text) == split
    assert is_folder(text) is (split[1] is None and text != "owner/name")


def test_a_folder_of_that_name_wins_over_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "owner/name@v1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert split_revision("owner/name@v1") == ("owner/name@v1", None) and is_folder("owner/name@v1")


def test_a_revision_reaches_model_processor_unsloth_and_the_record(folder, tmp_path, monkeypatch):
    """The Hub is played by the tiny folder: what is asked of it is what counts."""
    import sys
    import types

    asked = []

    def hub(name, *, revision, allow_patterns, ignore_patterns):
        asked.append((name, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    loaded = models.load("owner/name@abc123")
    assert {one[:2] for one in asked} == {("owner/name", "abc123")}
    for never in ("modeling.py", "tokenizer.py", "tokenizer_custom.py", "pytorch_model.bin", "a.pt", "model.pkl"):
        assert not any(fnmatch.fnmatch(never, pattern) for one in asked for pattern in one[2])
    assert loaded.checkpoint == "owner/name@abc123"
    save_adapter(add_lora(loaded, 4, 8), tmp_path / "out")
    told = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert (told["base_model_name_or_path"], told["revision"]) == ("owner/name", "abc123")

    given = {}

    class FastVisionModel:
        @staticmethod
        def from_pretrained(name, **kwargs):
            given.update(kwargs, name=name)
            return loaded.model, loaded.processor

    monkeypatch.setitem(sys.modules, "unsloth", types.SimpleNamespace(FastVisionModel=FastVisionModel))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    models.load("owner/name@abc123", backend="unsloth")
    assert (given["name"], given["revision"], given["use_exact_model_name"]) == ("owner/name", "abc123", True)
    models.load("owner/name", backend="unsloth")
    assert (given["revision"], given["use_exact_model_name"]) == (None, False)


def test_a_new_model_finds_the_old_one_gone(folder):
    """Models hold references in a circle; nothing but the caller may keep one alive."""
    import weakref

    loaded = add_lora(models.load(folder), 4, 8)
    generate(loaded, [user_message("a")], max_new_tokens=2)
    old = weakref.ref(loaded.model.get_base_model())
    loaded.model.circle = loaded.model
    del loaded
    models.load(folder)
    assert old() is None


def test_a_model_trained_in_full_sees_the_base_s_images_in_half_precision(folder, tmp_path, prompts):
    """Its own processor carries the training's bounds, and its weights are float32: neither must set it apart."""
    import dataclasses

    import torch

    from finer1_lib.models.generation import in_half

    base = models.load(folder)
    trained = make_trainable(models.load(folder, full_finetuning=True, max_pixels=56 * 56), Trainable("full"))
    save_trained(trained, tmp_path / "whole")
    assert pixels_of(trained.processor) != pixels_of(base.processor)
    again = models.load(folder, tmp_path / "whole")
    assert pixels_of(again.processor) == pixels_of(base.processor)
    asked = models.load(folder, tmp_path / "whole", max_pixels=84 * 84)
    assert pixels_of(asked.processor) == {**pixels_of(base.processor), "max_pixels": 84 * 84}
    half = dataclasses.replace(again, dtype=torch.bfloat16)
    for one, wanted in ((half, True), (again, False), (dataclasses.replace(base, dtype=torch.bfloat16), False)):
        with in_half(one):
            assert torch.is_autocast_enabled("cpu") is wanted
    seen = []
    layer = half.model.model.language_model.layers[0].mlp
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    generate(half, prompts[:1], max_new_tokens=2)
    pooled_states(half, prompts[:1])
    hook.remove()
    assert set(seen) == {torch.bfloat16}
