"""The shipped base model: a real Qwen2.5-VL within its size, and the abilities its card claims, measured anew."""

import random

import pytest
from hypothesis import given, settings, strategies as st

from finer1_lib.core.files import read_json
from finer1_lib.miniature import model_card as card, pretraining
from finer1_lib.miniature.base import WEIGHTS
from finer1_lib.miniature.drawing import draw_specimen
from finer1_lib.miniature.world import make_guide

GUIDE = make_guide()


@pytest.fixture(scope="module")
def base():
    from finer1_lib import models

    return models.load(str(WEIGHTS))


def test_it_is_a_real_qwen_of_at_most_6_million_parameters_and_16_megabytes(base):
    assert type(base.model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert type(base.processor).__name__ == "Qwen2_5_VLProcessor"
    assert sum(p.numel() for p in base.model.parameters()) <= 6_000_000
    assert sum(f.stat().st_size for f in WEIGHTS.iterdir()) <= 16_000_000
    assert {f.suffix for f in WEIGHTS.iterdir()} <= {".safetensors", ".json", ".jinja"}


def test_the_weights_are_bf16():
    from safetensors import safe_open

    with safe_open(WEIGHTS / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"BF16"}


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=60))
def test_any_name_round_trips(base, text):
    import unicodedata

    tokenizer = base.processor.tokenizer
    text = unicodedata.normalize("NFC", text)  # Qwen's tokenizer composes characters
    for special in tokenizer.all_special_tokens:
        text = text.replace(special, "")
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_abilities_on_fresh_pictures_and_wordings(base, tmp_path):
    """The card's bars, by free generation, under a seed that neither the pretraining nor the shipped card used."""
    path, told = tmp_path / "card.json", []
    how = dict(seed=20260213, pictures=2, wordings=1, progress=lambda *step: told.append(step))
    rows = card.stored_card(path, base, GUIDE, **how)
    assert [step[:2] for step in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert card.stored_card(path, None, GUIDE, **how) == rows  # not measured anew
    missed = [line for line in card.summarise(rows) if not line["holds"]]
    assert not missed, missed


def test_the_shipped_card_is_about_these_weights():
    shipped = read_json(card.model_card_path(WEIGHTS))
    from finer1_lib.core.hashing import sha256_file

    assert shipped["weights_sha256"] == sha256_file(WEIGHTS / "model.safetensors")
    assert {line["ability"] for line in shipped["summary"]} == set(card.BARS)


def test_a_planted_ignorance_is_seen_by_the_card(base):
    """With another guide's facts the same model must fail: the card measures knowledge, not form."""
    rows = card._knowledge(base, make_guide(99), seed=3, count=1)
    assert max(row["value"] for row in rows) < 0.2


def test_claims_reads_exact_values_only():
    attributes = {"bill": ["needle"], "tail": ["fan"]}
    assert card.claims("<analysis>needle bill, fan tail</analysis>", attributes) == {"bill": "needle", "tail": "fan"}
    assert card.claims("a fan tail, bill", attributes) == {}


def test_the_summary_takes_the_worst_cell():
    cell = dict(super_category="bird", attribute="bill", categories="seen", low=0, high=1, seed=0)
    rows = [{**cell, "ability": "attribute read from image", "value": 0.9, "n": 10},
            {**cell, "ability": "attribute read from image", "value": 1.0, "n": 30}]
    for ability in list(card.BARS)[2:]:
        rows.append({**cell, "ability": ability, "value": 0.985, "n": 7})
    lines = {line["ability"]: line for line in card.summarise(rows)}
    assert lines["attribute read from image, mean"]["value"] == pytest.approx(0.975)
    assert lines["attribute read from image, each"]["value"] == 0.9 and not lines["attribute read from image, each"]["holds"]
    assert not lines["sub-category named over an image"]["holds"]  # less is better there


def test_pretraining_resumes_on_the_numbers_it_would_have_seen(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(pretraining, "CHECKPOINT_EVERY", 1)
    monkeypatch.setattr(pretraining, "LOOK_BATCH", 2)
    monkeypatch.setattr(pretraining, "TELL_IMAGES", 2)
    monkeypatch.setattr(pretraining, "TELL_TOKENS", 300)
    settings_ = dict(look_steps=2, tell_steps=2, pool=4, progress=print)
    whole = pretraining.pretrained_base(GUIDE, tmp_path / "whole", tmp_path / "whole-base", **settings_)

    class Killed(Exception):
        pass

    real = pretraining._save_state

    def save_and_die(path, parts, step):
        real(path, parts, step)
        if step == 3:
            raise Killed

    monkeypatch.setattr(pretraining, "_save_state", save_and_die)
    with pytest.raises(Killed):
        pretraining.pretrained_base(GUIDE, tmp_path / "cut", tmp_path / "cut-base", **settings_)
    monkeypatch.setattr(pretraining, "_save_state", real)
    again = pretraining.pretrained_base(GUIDE, tmp_path / "cut", tmp_path / "cut-base", **settings_)
    from safetensors.torch import load_file

    one, other = (load_file(f"{folder}/model.safetensors") for folder in (whole, again))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_fresh_pictures_are_not_the_pretraining_pool():
    drawn = {picture.tobytes() for picture in card._pictures(GUIDE, 1, 1, "card")}
    rng = random.Random("pool-0")
    pool = {draw_specimen(*pretraining.draw_specimen_values(GUIDE, rng), rng).tobytes() for _ in range(50)}
    assert not drawn & pool
