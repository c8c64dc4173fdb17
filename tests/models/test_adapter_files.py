"""A user's own adapter: what is read equals PEFT's own, what cannot be read is one line with the true reason."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_checkpoint
import torch
from safetensors.torch import load_file, save_file

from finer1_lib import models
from finer1_lib.core.checkpoint_names import split_adapter
from finer1_lib.core.errors import UserError
from finer1_lib.evaluation.entries import FIXED, check_rows, weights_at, with_more, with_systems
from finer1_lib.evaluation.systems.registry import System
from finer1_lib.models import adapter_files
from finer1_lib.models.adapter_files import other_base
from finer1_lib.models.generation import generate

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TOWER = {"model.visual.": "visual."}
LAYOUTS = {"before 4.52": {"model.language_model.": "model.", **TOWER},
           "older": {"model.language_model.": "language_model.model.", **TOWER}}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_checkpoint.build(tmp_path_factory.mktemp("adapters") / "tiny-VL-3B")


def bare(base):
    import transformers

    return transformers.AutoModelForImageTextToText.from_pretrained(str(base), dtype=torch.float32)


def logits(model) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits.numpy()


def made(base, folder, **options) -> np.ndarray:
    """Write an adapter with PEFT alone, none of its weights zero; what PEFT's own model says with it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(bare(base), LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **options))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    edit(folder, base_model_name_or_path=base.name)
    return logits(model)


def edit(folder, **values):
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def rewrite(folder, change):
    """Write the weights anew, as `change` makes them out of {name: tensor}."""
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def plain(base):
    folder = base.parent / "plain"
    return folder, made(base, folder, target_modules=["q_proj", "v_proj"])


@pytest.fixture
def copy(plain, tmp_path):
    shutil.copytree(plain[0], tmp_path / "mine")
    return tmp_path / "mine"


KINDS = {
    "names": dict(target_modules=["q_proj", "v_proj"]),
    "every linear": dict(target_modules="all-linear"),
    "pattern": dict(target_modules=r".*language_model.*\.(q_proj|down_proj)"),
    "tower": dict(target_modules=["qkv", "proj", "q_proj"]),
    "other ranks": dict(target_modules=["q_proj", "v_proj"], rank_pattern={r".*\.1\..*q_proj": 2},
                        alpha_pattern={"v_proj": 32}),
    "dora": dict(target_modules=["q_proj"], use_dora=True),
    "rslora": dict(target_modules=["q_proj"], use_rslora=True),
    "biases": dict(target_modules=["q_proj", "v_proj"], bias="lora_only"),
    "first layer": dict(target_modules=["q_proj", "k_proj"], layers_to_transform=[0], layers_pattern="layers"),
    "not all": dict(target_modules=["q_proj", "k_proj"], exclude_modules=r".*\.1\..*"),
    "saved whole": dict(target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "saved embeddings": dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
    "embeddings": dict(target_modules=["q_proj", "embed_tokens"]),
    "some tokens": dict(target_modules=["q_proj"], trainable_token_indices=[5, 6]),
    "pissa": dict(target_modules=["q_proj"], init_lora_weights="pissa"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_peft_s_own_says_what_peft_says(base, tmp_path, kind):
    wanted = made(base, tmp_path / "mine", **KINDS[kind])
    found = logits(models.load(base, tmp_path / "mine").model)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(wanted - logits(bare(base))).max() > 1e-3, "the adapter must matter, or this says nothing"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["names", "pattern", "tower", "other ranks", "first layer", "saved embeddings"])
def test_names_of_older_transformers_are_read(base, tmp_path, kind, layout):
    def old(name):
        return next((name.replace(new, was) for new, was in LAYOUTS[layout].items() if new in name), name)

    wanted = made(base, tmp_path / "mine", **KINDS[kind])
    rewrite(tmp_path / "mine", lambda weights: {old(name): tensor for name, tensor in weights.items()})
    if kind == "pattern":  # a pattern of that time, which no name of today matches
        begin = LAYOUTS[layout]["model.language_model."].replace(".", r"\.")
        edit(tmp_path / "mine", target_modules=rf"{begin}layers\.\d+\.\w+\.(q_proj|down_proj)")
    np.testing.assert_allclose(logits(models.load(base, tmp_path / "mine").model), wanted, atol=1e-5)
    rewrite(tmp_path / "mine", lambda weights: dict(sorted(weights.items())[: len(weights) // 2]))
    with pytest.raises(UserError, match="its file is cut short"):
        models.load(base, tmp_path / "mine")


def test_a_later_peft_s_settings_and_half_numbers_are_read(base, plain, copy):
    edit(copy, some_future_option=True, base_model_name_or_path=None)
    rewrite(copy, lambda weights: {name.replace(".weight", ".default.weight"): tensor.bfloat16()
                                   for name, tensor in weights.items()})
    np.testing.assert_allclose(logits(models.load(base, copy).model), plain[1], atol=2e-2)


def test_the_fields_that_are_read_are_peft_s():
    import inspect

    from peft import LoraConfig

    assert set(adapter_files.Config.model_fields) <= set(inspect.signature(LoraConfig).parameters)
    assert set(adapter_files._NOT_READ) <= set(inspect.signature(LoraConfig).parameters)


BROKEN = {
    "list": (lambda f: (f / CONFIG).write_text("[]"), "holds a list in place of an object"),
    "torn config": (lambda f: (f / CONFIG).write_text("{"), "is not JSON"),
    "deep": (lambda f: (f / CONFIG).write_text("[" * 10**5 + "]" * 10**5), "nested too deeply"),
    "latin-1": (lambda f: (f / CONFIG).write_bytes(b'{"r": "\xe9"}'), "not UTF-8"),
    "no kind": (lambda f: edit(f, peft_type=None), "names no peft_type"),
    "rank as text": (lambda f: edit(f, r="4"), "r is '4'"),
    "no rank": (lambda f: edit(f, r=0), "r is '0'"),
    "true rank": (lambda f: edit(f, r=True), "r is 'True'"),
    "no number": (lambda f: edit(f, lora_alpha=float("nan")), "lora_alpha is 'nan'"),
    "endless start": (lambda f: edit(f, init_lora_weights="pissa_niter_999999"), "init_lora_weights is"),
    "vast ranks": (lambda f: edit(f, rank_pattern={"q_proj": 10**9}), "rank_pattern is"),
    "alpha as text": (lambda f: edit(f, lora_alpha="8"), "lora_alpha is '8'"),
    "endless targets": (lambda f: edit(f, target_modules=[f"m{i}" for i in range(5000)]), "target_modules is"),
    "no scale": (lambda f: edit(f, lora_alpha=0), "lora_alpha is '0'"),
    "dropout of two": (lambda f: edit(f, lora_dropout=2.0), "lora_dropout is '2.0'"),
    "whole numbers": (lambda f: rewrite(f, lambda w: {**w, min(w): w[min(w)].int()}), "hold whole"),
    "complex numbers": (lambda f: rewrite(f, lambda w: {**w, min(w): w[min(w)] * 1j}), "whole or complex numbers"),
    "a weight twice": (lambda f: rewrite(f, lambda w: {**w, min(w).replace(".weight", ".default.weight"): 7 * w[min(w)]}),
                       "a weight under two names"),
    "ranks as text": (lambda f: edit(f, rank_pattern={"q_proj": "4"}), "rank_pattern is"),
    "targets of numbers": (lambda f: edit(f, target_modules=[1]), "target_modules is"),
    "imports": (lambda f: edit(f, megatron_config={"a": 1}), "sets megatron_config, which is not read"),
    "replicated": (lambda f: edit(f, layer_replication=[[0, 9]]), "sets layer_replication, which is not read"),
    "no pattern": (lambda f: edit(f, target_modules="q_proj("), "a pattern of modules' names is wrong"),
    "truncated": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]), "weights file is damaged"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "weights file is damaged"),
    "pointer": (lambda f: (f / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:a\n"),
                "pointer of Git LFS"),
    "pickled": (lambda f: (f / WEIGHTS).rename(f / "adapter_model.bin"), "is a pickle"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "adapter_model.safetensors is missing"),
    "no config": (lambda f: (f / CONFIG).unlink(), "adapter_config.json is missing"),
    "other weights": (lambda f: rewrite(f, lambda w: {"a.weight": torch.ones(2)}), "holds no LoRA weights"),
    "half": (lambda f: rewrite(f, lambda w: dict(sorted(w.items())[: len(w) // 2])), "of its 8 weights"),
    "another rank": (lambda f: edit(f, r=2), "have another size"),
    "nan": (lambda f: rewrite(f, lambda w: {k: v * float("nan") for k, v in w.items()}), "8 weights hold NaN"),
    "infinite": (lambda f: rewrite(f, lambda w: {**w, min(w): w[min(w)] / 0}), "1 weights hold NaN or infinite"),
    "foreign": (lambda f: rewrite(f, lambda w: {k.replace("self_attn", "attention"): v for k, v in w.items()}),
                "8 modules that are not there|4 modules that are not there"),
    **{kind: (lambda f, kind=kind: edit(f, peft_type=kind), f"of the kind '{kind}', LORA alone is read")
       for kind in ("IA3", "LOKR", "PROMPT_TUNING", "P_TUNING", "XLORA")},
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_with_an_adapter_is_one_line(base, copy, case, monkeypatch):
    spoil, said = BROKEN[case]
    spoil(copy)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the terminal was asked"))
    with pytest.raises(UserError, match=said) as caught:
        models.load(base, copy)
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)


def test_an_adapter_of_another_model_names_the_model_it_was_trained_on(base, copy, tmp_path):
    deep = tiny_checkpoint.build(tmp_path / "deep", layers=1)
    edit(copy, base_model_name_or_path="Qwen/Qwen2.5-VL-7B-Instruct")
    for look in (lambda: models.load(deep, copy), lambda: check_rows(with_more(FIXED, [f"x={copy}"]), str(deep))):
        with pytest.raises(UserError, match=r"not there.*trained on Qwen/Qwen2.5-VL-7B-Instruct"):
            look()
    wide = tiny_checkpoint.build(tmp_path / "wide", hidden=64)
    for look in (lambda: models.load(wide, copy), lambda: check_rows(with_more(FIXED, [f"x={copy}"]), str(wide))):
        with pytest.raises(UserError, match=r"does not fit.*is needed.*trained on Qwen/Qwen2.5-VL-7B-Instruct"):
            look()
    check_rows(with_more(FIXED, [f"x={base}+{copy}"]), "o/nowhere")


@pytest.mark.parametrize("name, value", [
    ("target_modules", r"(.*a*)*\.q_projX"), ("exclude_modules", r"(\w+\.?)+X"), ("rank_pattern", {r"(\w+\.?)+X": 2}),
    ("alpha_pattern", {r"(\w+\.?)+X": 2}), ("layers_pattern", [r"(\w+\.?)+X"]), ("modules_to_save", [r"(\w+\.?)+X"]),
])
def test_no_pattern_hangs_a_run(base, copy, name, value, monkeypatch):
    monkeypatch.setattr(adapter_files, "PATTERN_SECONDS", 1.0)
    edit(copy, **{name: value}, **({"layers_to_transform": [0]} if name == "layers_pattern" else {}))
    with pytest.raises(UserError, match="its patterns of modules' names take longer"):
        models.load(base, copy)


# What a row names --------------------------------------------


def test_a_row_names_a_checkpoint_an_adapter_or_both(base, plain, tmp_path, monkeypatch):
    adapter, odd = str(plain[0]), tmp_path / "c++" / "a+b"
    shutil.copytree(plain[0], odd)
    for text, expected in {
        str(base): (str(base), None), adapter: (None, adapter), "o/n": ("o/n", None), "o/n@r": ("o/n@r", None),
        f"o/n@r+{adapter}": ("o/n@r", adapter), f"{base} + {adapter}": (str(base), adapter),
        str(odd): (None, str(odd)), f"{base}+{odd}": (str(base), str(odd)), f"o/n+{odd}": ("o/n", str(odd)),
        "o/n+no/such": ("o/n", "no/such"), str(tmp_path / "c++" / "none"): (str(tmp_path / "c++" / "none"), None),
    }.items():
        assert split_adapter(text) == expected, text
    assert split_adapter("tiny-VL-3B+plain", base.parent) == ("tiny-VL-3B", "plain")
    monkeypatch.setenv("HOME", str(plain[0].parent))
    row = with_more(FIXED, ["x=~/tiny-VL-3B+~/plain"])[-1]
    assert weights_at(row, "its base") == (str(base), str(plain[0]))
    assert weights_at(with_more(FIXED, [f"x={adapter}"])[-1], "its base") == ("its base", adapter)
    assert weights_at(FIXED[-1], "its base", "trained") == ("its base", "trained")


@pytest.mark.parametrize("recorded, given, same", [
    ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct", True),
    ("Qwen/Qwen2.5-VL-3B-Instruct", "/models/qwen2.5-vl-3b-instruct/", True),
    ("unsloth/Qwen2.5-VL-3B-Instruct-unsloth-bnb-4bit", "Qwen/Qwen2.5-VL-3B-Instruct", True),
    ("/x/models--Qwen--Qwen2.5-VL-3B-Instruct/snapshots/0a1b", "Qwen/Qwen2.5-VL-3B-Instruct@0a1b", True),
    ("C:\\models\\Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct", True),
    ("", "Qwen/Qwen2.5-VL-3B-Instruct", True),
    ("o/n@one", "o/n", True), ("o/n@one", "o/n@one", True), ("o/n@one", "o/n@two", False),
    ("Qwen/Qwen2.5-VL-3B-Instruct", "StevenHH2000/Fine-R1-3B", False),
    ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct", False),
    ("Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct", False),
])
def test_the_recorded_base_is_held_against_the_one_it_is_put_on(recorded, given, same):
    told = other_base(recorded, given)
    assert (told == "") is same and (same or recorded in told and given in told)


def test_an_adapter_on_another_base_says_so(base, copy, capsys):
    models.load(base, copy)
    assert "trained on" not in capsys.readouterr().out
    edit(copy, base_model_name_or_path="StevenHH2000/Fine-R1-3B")
    models.load(base, copy)
    assert "trained on StevenHH2000/Fine-R1-3B and is put on" in capsys.readouterr().out


def test_rows_of_adapters_are_answered_as_their_adapter_says(base, plain, tmp_path):
    from PIL import Image

    from finer1_lib.evaluation.systems.answering import open_answerer

    Image.new("RGB", (56, 56), (200, 30, 30)).save(tmp_path / "a.png")
    request = {"setting": "open_world", "option_order": None, "rotation": 0, "item_id": "i", "image_id": "a.png",
               "prompt": "What is it?", "super_category": "bird"}
    rows = with_more(FIXED, [f"on the run's={plain[0]}", f"on its own={base}+{plain[0]}"])[-2:]
    said = [open_answerer(row, where, tmp_path).answer([request], max_new_tokens=6, seed=0)
            for row, where in zip(rows, (str(base), "o/nowhere"))]
    loaded = models.load(base, plain[0])
    from finer1_lib.evaluation.systems.strategies import messages_for

    assert said[0] == said[1] == generate(loaded, [messages_for(request, tmp_path)], max_new_tokens=6)


def test_all_that_rows_need_is_listed_before_any_is_run(base, plain, copy, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY_HERE", raising=False)
    edit(copy, peft_type="IA3")
    reached = []

    def refuse(name, **options):
        reached.append(name)
        raise OSError(f"{name} is not a repository")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    more = [f"good={base}+{plain[0]}", f"kind={base}+{copy}", f"gone={tmp_path / 'none'}", "hub=no/such@abc"]
    system = System(name="keyed", label="K", kind="endpoint", checkpoint="m", url="https://a.example/v1",
                    key_variable="NO_SUCH_KEY_HERE")
    rows = with_systems(with_more(FIXED, more), [system])
    check_rows(rows[: len(FIXED) + 1], str(base))
    with pytest.raises(UserError) as caught:
        check_rows(rows, str(base))
    said = str(caught.value)
    assert said.startswith("4 of the rows cannot be queried: ") and "\n" not in said and "good" not in said
    for part in ("kind: ", "'IA3'", "gone: ", "does not exist", "hub: ", "no/such", "keyed: ", "NO_SUCH_KEY_HERE"):
        assert part in said
    assert reached == ["no/such"]


def test_the_doctor_knows_rows_of_adapters(base, plain, copy):
    from finer1_lib.commands.doctor.machine import systems

    def rows(*more):
        values = {"04_evaluation": {"more_models": list(more)}}
        return systems(SimpleNamespace(
            checkpoint=str(base), get=lambda stage, name, default=None: values.get(stage, {}).get(name, default)))

    assert [row.level for row in rows(f"a={plain[0]}", f"b={base}+{plain[0]}")] == ["pass"]
    edit(copy, base_model_name_or_path="Qwen/Qwen2.5-VL-7B-Instruct")
    (row,) = rows(f"a={copy}")
    assert row.level == "warn" and "Qwen2.5-VL-7B-Instruct" in row.what
    (copy / WEIGHTS).unlink()
    (row,) = rows(f"a={base}+{copy}")
    assert row.level == "fail" and "adapter_model.safetensors is missing" in row.mend


def test_folders_of_rows_are_made_absolute_part_by_part(base, plain, monkeypatch):
    from finer1_lib.runs.presets import _absolute

    monkeypatch.chdir(base.parent)
    given = ["a=plain", "b=answer:tiny-VL-3B+plain", "c=o/n+plain", "d=o/n", "e=tiny-VL-3B"]
    root = base.parent
    assert _absolute("more_models", given, root / "kit") == [
        f"a={root}/plain", f"b=answer:{root}/tiny-VL-3B+{root}/plain", f"c=o/n+{root}/plain", "d=o/n",
        f"e={root}/tiny-VL-3B"]
    monkeypatch.chdir("/")
    assert _absolute("more_models", ["a=plain", "b=tiny-VL-3B+plain"], root) == [
        f"a={root}/plain", f"b={root}/tiny-VL-3B+{root}/plain"]


def test_a_large_folder_is_not_walked(tmp_path, plain, monkeypatch):
    """Whatever lies below a checkpoint's own folder is none of it: neither read nor part of the signature."""
    from pathlib import Path

    from finer1_lib.runs.fingerprints import signature_of

    below = tmp_path / "data" / "photos"
    below.mkdir(parents=True)
    monkeypatch.setattr(Path, "rglob", lambda *_: pytest.fail("the folder was walked"))
    for name, value in (("more_models", [f"x={tmp_path}"]), ("more_models", [f"x={plain[0]}+{tmp_path}"]),
                        ("base_checkpoint", str(tmp_path))):
        before = signature_of({name: value}, {})
        (below / f"{name}.png").write_text("x")
        assert signature_of({name: value}, {}) == before
        (tmp_path / "config.json").write_text(name + str(value))
        assert signature_of({name: value}, {}) != before
    with pytest.raises(UserError, match="without weights"):
        (tmp_path / "config.json").write_text("{}")
        check_rows(with_more(FIXED, [f"x={tmp_path}"]), "o/n")
