"""Checkpoints that are broken or hostile: one line from loader and doctor, and nothing of them is run."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest
import tiny_checkpoint
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from finer1_lib.commands.doctor.subject import Subject
from finer1_lib.core.errors import UserError
from finer1_lib.core.prompts import user_message
from finer1_lib.models import encoding, loading as models
from finer1_lib.models.checkpoint_files import INDEX, check_files, refuse_bad_weights, weight_files
from finer1_lib.models.encoding import Encoder
from finer1_lib.models.generation import generate

TEMPLATE, IMAGE = tiny_checkpoint.CHAT_TEMPLATE, "<|image_pad|>"
EMBEDDING = "model.embed_tokens.weight"
QUERY = [user_message("What is it?", Image.new("RGB", (56, 56)))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_checkpoint.build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def answers(whole):
    return generate(models.load(whole), QUERY, max_new_tokens=6)


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def weights(change):
    def harm(folder):
        held = load_file(folder / "model.safetensors")
        changed = {name: one.contiguous() for name, one in change(held).items()}
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})

    return harm


def without(part):
    return weights(lambda held: {name: one for name, one in held.items() if part not in name})


def more(name):
    return weights(lambda held: {**held, name: torch.zeros(2, 2)})


def spoilt(number):
    def change(held):
        name = next(name for name in held if name.endswith("q_proj.weight"))
        held[name].view(-1)[5] = number
        return held

    return weights(change)


def setting(file, *path, value):
    """One value of a JSON file, at a place in it."""
    def harm(folder):
        found = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
        place = found
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = value
        (folder / file).write_text(json.dumps(found))

    return harm


def text(file, content):
    content = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / file).write_bytes(content)


def sharded(*names, **replaced):
    """The weights in two files, with the names that the index is to give them."""
    def harm(folder):
        held = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        order, index = sorted(held), {}
        for half, name in zip((order[::2], order[1::2]), names):
            index.update(dict.fromkeys(half, replaced.get("says", name)))
            save_file({key: held[key] for key in half}, folder / name, metadata={"format": "pt"})
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))

    return harm


def twice(folder):
    sharded(*SHARDS)(folder)
    one, two = (load_file(folder / name) for name in SHARDS)
    name = next(name for name in one if "layers.0.mlp.up" in name or name.endswith("proj.weight"))
    save_file({**two, name: 7 * one[name]}, folder / SHARDS[1], metadata={"format": "pt"})


def pipe(file):
    def harm(folder):
        (folder / file).unlink()
        os.mkfifo(folder / file)

    return harm


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
HOSTILE = {
    "no vision tower": (without("visual"), r"lacks \d\d of its model's weights \(first: model.visual"),
    "a layer missing": (without("layers.1."), r"lacks 12 of its model's weights \(first: .*layers.1"),
    "one norm missing": (without("model.norm"), "lacks 1 of its model's weights"),
    "keys of another library": (weights(lambda held: {f"module.{k}": v for k, v in held.items()}), "lacks"),
    "an adapter left in": (more("model.layers.0.self_attn.q_proj.lora_A.weight"), "1 weights .* no place for"),
    "more layers than configured": (more("model.layers.7.mlp.up_proj.weight"), "no place for"),
    "another shape": (weights(lambda held: {k: v.T if "layers.0.mlp.up" in k else v
                                            for k, v in held.items()}), r"1 weights of another shape .* is \(32, 64\) in place of \(64, 32\)"),
    "whole numbers": (weights(lambda held: {k: v.long() if "layers.0.mlp.up" in k else v
                                            for k, v in held.items()}), "1 weights of whole or complex numbers"),
    "NaN": (spoilt(float("nan")), "1 weights hold NaN or infinite numbers"),
    "infinite": (spoilt(float("-inf")), "1 weights hold NaN or infinite numbers"),
    "no weights at all": (weights(lambda held: {}), "lacks"),
    "complex numbers": (weights(lambda held: {k: v.to(torch.complex64) if "layers.0.mlp.up" in k else v
                                              for k, v in held.items()}), "1 weights of whole or complex numbers"),
    "a weight in two files": (twice, "1 weights that another file has too"),
    "a torn file": (lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-9]), "damaged"),
    "a pointer": (text("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
                  "pointer of Git LFS"),
    "an index upwards": (sharded(*SHARDS, says="../" + SHARDS[0]), r"names '\.\./"),
    "an index elsewhere": (sharded(*SHARDS, says="/srv/model.safetensors"), "names '/srv"),
    "an index of a pickle": (sharded(*SHARDS, says="pytorch_model.bin"), "names 'pytorch_model.bin'"),
    "a shard missing": (lambda folder: (sharded(*SHARDS)(folder), (folder / SHARDS[1]).unlink()),
                        "00002.safetensors is missing"),
    "an index without a map": (text(INDEX, '{"weight_map": ["a"]}'), "names no weights"),
    "a config that is a list": (text("config.json", "[1]"), "holds a list in place of an object"),
    "a config of null": (text("generation_config.json", "null"), "holds a NoneType in place of an object"),
    "deeply nested": (text("processor_config.json", "[" * 10**5 + "]" * 10**5), "nested too deeply"),
    "no UTF-8": (text("tokenizer_config.json", b'{"a": "\xe9"}'), "is not UTF-8 text"),
    "size as text": (setting("config.json", "text_config", "hidden_size", value="32"), "hidden_size"),
    "negative size": (setting("config.json", "text_config", "hidden_size", value=-4), "sets hidden_size to -4"),
    "no heads": (setting("config.json", "text_config", "num_attention_heads", value=0), "ZeroDivisionError"),
    "a billion layers": (setting("config.json", "vision_config", "depth", value=10**9), "sets depth to"),
    "a smaller embedding": (lambda folder: (
        weights(lambda held: {k: v[:300] if k == EMBEDDING else v for k, v in held.items()})(folder),
        setting("config.json", "text_config", "vocab_size", value=300)(folder)),
        "its tokenizer has tokens up to .* its embedding 300 rows"),
    "another image token": (setting("config.json", "image_token_id", value=3), "token 3 is an image"),
    "patches as text": (setting("processor_config.json", "image_processor", "patch_size", value="x"),
                        "cannot process an image"),
    "no end": (setting("tokenizer_config.json", "eos_token", value=None), "no eos_token"),
    "an end as text": (setting("generation_config.json", "eos_token_id", value="stop"), "id to 'stop'"),
    "an end that is no number": (setting("generation_config.json", "eos_token_id", value=2**70), "token_id to 1180"),
    "ends within ends": (setting("generation_config.json", "eos_token_id", value=[[1]]), r"token_id to \[\[1"),
    "a bad word alone": (setting("generation_config.json", "bad_words_ids", value=[5]), r"words_ids to \[5\]"),
    "a bad word of nothing": (setting("generation_config.json", "bad_words_ids", value=[[]]), r"ids to \[\[\]\]"),
    "a bad word that is not there": (setting("generation_config.json", "bad_words_ids", value=[[332]]), "below 332"),
    "a billion words": (setting("config.json", "text_config", "vocab_size", value=10**9), "sets vocab_size to 1e"),
    "a million labels": (setting("config.json", "num_labels", value=10**9), "sets num_labels to 1e"),
    "images of infinite numbers": (setting("processor_config.json", "image_processor", "image_std", value=[0, 0, 0]),
                                   "make an image of NaN or infinite"),
    "images that fill the memory": (setting("processor_config.json", "image_processor", "size", "shortest_edge",
                                            value=10**14), "sets shortest_edge to 1e"),
    "a pipe": (pipe("tokenizer_config.json"), "tokenizer_config.json is not a file"),
    "another model inside": (setting("processor_config.json", "audio_tokenizer", "audio_tokenizer_class",
                                     value="AutoModel"), "sets audio_tokenizer"),
    "another model beside": (setting("audio_tokenizer_config.json", "audio_tokenizer_class", value="AutoModel"),
                             "sets audio_tokenizer_class"),
    "a broken template": (text("chat_template.jinja", "{{ oops"), "cannot render the chat template .*Syntax"),
    "a template without image": (text("chat_template.jinja", TEMPLATE.replace(IMAGE, "")), "leaves the image out"),
    "a template without text": (text("chat_template.jinja", TEMPLATE.replace("{{ part['text'] }}", "")),
                                "leaves the text out"),
    "a template that shows twice": (text("chat_template.jinja", TEMPLATE.replace(IMAGE, 2 * IMAGE)),
                                    "2 places for one image"),
    **{f"without {file}": (lambda folder, file=file: (folder / file).unlink(), said) for file, said in {
        "config.json": "no checkpoint: config.json is missing", "chat_template.jinja": "it has no chat template",
        "model.safetensors": "without weights .*: model.safetensors is missing",
        "processor_config.json": "without a processor: processor_config.json or .* is missing",
        "tokenizer.json": "without a tokenizer: tokenizer.json or .* is missing"}.items()},
    "an adapter beside": (text("adapter_config.json", '{"peft_type": "PROMPT_TUNING"}'), "holds an adapter"),
}


def refused_alike(folder, said):
    """The loader and the doctor each refuse the folder in one line that says it."""
    for look in (models.load, lambda one: Subject.examine(SimpleNamespace(quick=False), str(one))):
        with pytest.raises(UserError, match=said) as caught:
            look(folder)
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_checkpoint_is_one_line_in_loader_and_doctor(folder, name):
    harm, said = HOSTILE[name]
    harm(folder)
    refused_alike(folder, said)


def template_in_tokenizer_config(folder):
    (folder / "chat_template.jinja").unlink()
    setting("tokenizer_config.json", "chat_template", value=TEMPLATE)(folder)


GOOD = {
    "as built": lambda folder: None,
    "template beside the tokenizer's settings": template_in_tokenizer_config,
    "in shards": sharded(*SHARDS),
    "keys of newer versions": weights(lambda held: {
        "model." + (k if "visual" in k else k.replace("model.", "language_model.")): v for k, v in held.items()}),
    "a buffer of older versions": more("visual.rotary_pos_emb.inv_freq"),
    "code that nothing names": text("modeling_own.py", "raise SystemExit"),
    "sampling of its own": lambda folder: (
        setting("generation_config.json", "num_return_sequences", value=3)(folder),
        setting("generation_config.json", "do_sample", value=True)(folder)),
    "bad words of its own": setting("generation_config.json", "bad_words_ids", value=[[7], [8, 9]]),
    "no bad words": setting("generation_config.json", "bad_words_ids", value=[]),
    "attention of another machine": setting("config.json", "attn_implementation", value="flash_attention_2"),
    "padding outside": setting("generation_config.json", "pad_token_id", value=10**6),
    "beams of its own": setting("generation_config.json", "num_beams", value=4),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_whole_loads_and_answers_the_same(answers, folder, name):
    GOOD[name](folder)
    Subject.examine(SimpleNamespace(quick=False), str(folder))
    assert generate(models.load(folder), QUERY, max_new_tokens=6) == answers and len(answers) == 1


CODE = {"auto_map": {"AutoModel": "own.Own", "AutoTokenizer": ["own.Own", None]}, "trust_remote_code": True,
        "custom_generate": "own/code", "_attn_implementation": "own/kernel",
        "attn_implementation": {"": "own/kernel@v1"}, "transformers_weights": "adapter_model.bin",
        "backbone": "hf-hub:own/model"}


@settings(max_examples=40, deadline=None)
@given(file=st.sampled_from(["config.json", "generation_config.json", "processor_config.json",
                             "tokenizer_config.json", "preprocessor_config.json"]),
       key=st.sampled_from(sorted(CODE)), path=st.lists(st.sampled_from(["text_config", "x", 0]), max_size=6))
def test_what_names_code_is_refused_at_any_depth(tmp_path_factory, file, key, path):
    folder = tmp_path_factory.mktemp("code")
    value = {key: CODE[key]}
    for step in path:
        value = [value] if step == 0 else {step: value}
    (folder / file).write_text(json.dumps(value if isinstance(value, dict) else {"x": value}))
    with pytest.raises(UserError, match=f"{file} sets {key}"):
        check_files(folder)
    quiet = {"trust_remote_code": False, "auto_map": None, "attn_implementation": "sdpa", "x": "own/kernel"}
    (folder / file).write_text(json.dumps({"x": [quiet]}))
    check_files(folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_code_of_a_checkpoint_is_not_run(folder, tmp_path, file):
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    kinds = ("AutoConfig", "AutoProcessor", "AutoImageProcessor", "AutoModelForImageTextToText")
    own = {**dict.fromkeys(kinds, "own.Own"), "AutoTokenizer": ["own.Own", None]}
    setting(file, "auto_map", value=own)(folder)
    refused_alike(folder, "sets auto_map: it needs code")
    assert not (tmp_path / "ran").exists()


@given(st.text(max_size=12).map(lambda name: name + ".safetensors"))
def test_an_index_names_plain_files_alone(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("index")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"a": name}}))
    with pytest.raises(UserError, match="names|is missing") as caught:
        weight_files(folder)
    if not all(one.isalnum() or one in "_.-" for one in name):
        assert "only .safetensors files beside it" in str(caught.value)


@given(st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]), st.integers(0, 59),
       st.sampled_from([float("nan"), float("inf"), float("-inf")]))
def test_one_number_that_is_not_finite_is_found_anywhere(dtype, place, number):
    good = torch.linspace(-9, 9, 60, dtype=dtype).view(3, 20)
    named = {"a": good, "ids": torch.arange(3), "none": torch.zeros(0), "b": good.clone()}
    refuse_bad_weights(named.items(), "x")
    named["b"].view(-1)[place] = number
    with pytest.raises(UserError, match=r"x: 1 weights hold NaN or infinite numbers \(first: b\)"):
        refuse_bad_weights(named.items(), "x")


def test_a_folder_whose_name_is_not_utf8_is_one_line(whole, tmp_path):
    other = shutil.copytree(whole, os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    with pytest.raises(UserError, match="is not UTF-8; rename it"):
        models.load(other)


# Chat templates ----------------------------------------------

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}" \
    "{% endfor %}{% endfor %}"


@pytest.mark.parametrize("bomb", [
    ENDLESS, "{% set x = 10 ** (10 ** 10) %}", "{% set x = 'a' * 99999999999 %}",
    "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(99) }}",
    # what transformers gives to a template, and a trial might not
    "{% set a = strftime_now('%Y') %}{% set x = 10 ** (10 ** 10) %}",
    "{% if eos_token %}{% set x = 10 ** (10 ** 10) %}{% endif %}",
    "{% generation %}{% set x = 10 ** (10 ** 10) %}{% endgeneration %}",
    "{{ messages | tojson(separators=(',', ':')) }}{% set x = tools or 10 ** (10 ** 10) %}",
])
def test_a_template_that_does_not_end_is_refused(folder, monkeypatch, bomb):
    monkeypatch.setattr(models, "SECONDS", 2)
    (folder / "chat_template.jinja").write_text(bomb + TEMPLATE)
    with pytest.raises(UserError, match="takes more than 2 s or 1024 MiB; use the chat_template.jinja"):
        models.load(folder)


def test_a_template_that_waits_for_a_word_is_bounded_when_it_comes(folder, monkeypatch):
    monkeypatch.setattr(encoding, "LINES", 10**4)
    bomb = "{% if 'heron' in messages[0]['content'][-1]['text'] %}" + ENDLESS + "{% endif %}"
    (folder / "chat_template.jinja").write_text(bomb + TEMPLATE)
    encode = Encoder(models.load(folder).processor)
    assert encode.render(user_message("a wren"))[0].startswith("<|im_start|>user\na wren")
    with pytest.raises(UserError, match="its chat template does not end"):
        encode.render(user_message("a heron"))


@pytest.mark.parametrize("number", [0, -1, 1.5, "8", None])
def test_a_limit_of_no_tokens_is_refused(number):
    with pytest.raises(UserError, match="max_new_tokens is .*; give a whole number of 1 or more"):
        generate(None, QUERY, max_new_tokens=number)
