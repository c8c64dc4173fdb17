"""Scorers and similarities: the release's answers item by item, the traps, and the SigLIP text tower."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finer1_lib.errors import UserError
from finer1_lib.scorers import (
    SCORERS,
    make_scorer,
    official_answer,
    official_word,
    register,
    relative_similarity,
)
from finer1_lib.similarity import (
    GuideSimilarity,
    SiglipSimilarity,
    TrigramSimilarity,
    make_similarity,
    trigram_jaccard,
)

GUIDE = {
    "super_categories": {
        "bird": {
            "attributes": {
                "bill": ["needle", "stout"],
                "crown": ["red", "blue"],
                "wings": ["plain", "barred"],
            },
            "genus_attributes": ["bill"],
        },
        "aircraft": {"attributes": {"fin": ["red", "blue"]}, "genus_attributes": []},
    },
    "sub_categories": {
        "Dunen Wren": {
            "super_category": "bird",
            "genus": "Wren",
            "attributes": {"bill": "needle", "crown": "red", "wings": "barred"},
        },
        "Marlo Wren": {
            "super_category": "bird",
            "genus": "Wren",
            "attributes": {"bill": "needle", "crown": "blue", "wings": "barred"},
        },
        "Tarn Finch": {
            "super_category": "bird",
            "genus": "Finch",
            "attributes": {"bill": "stout", "crown": "red", "wings": "plain"},
        },
        "Sabel Scout": {"super_category": "aircraft", "genus": "Scout", "attributes": {"fin": "red"}},
    },
}
NAMES = list(GUIDE["sub_categories"])


def record(completion, label="Rock Wren", path="bird_200/images/1.jpg", super_category="bird"):
    return {
        "completion": completion,
        "sub_category": label,
        "image_id": path,
        "super_category": super_category,
    }


# ---------------------------------------------------------------- the oracle


def test_official_scorer_is_the_release_item_by_item():
    folder = os.environ.get("FINER1_OFFICIAL_DATA")
    if not folder:
        pytest.skip("FINER1_OFFICIAL_DATA is not set")
    scorer = make_scorer("official", similarity=TrigramSimilarity())
    agreed, totals, values = 0, 0, []
    for line in (Path(folder) / "scored_by_release.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "total" in row:
            means = {key: sum(value[key] for value in values) / row["total"] for key in values[0]}
            assert len(values) == row["total"] == 280
            if row["setting"] == "closed":
                assert 100 * means["accuracy"] == pytest.approx(row["accuracy"], abs=1e-9)
            else:
                assert 100 * means["text_inclusion"] == pytest.approx(row["accuracy_TI"], abs=1e-9)
                assert means["relative_semantic_similarity"] == pytest.approx(
                    row["avg_semantic_similarity"], abs=1e-12
                )
            totals, values = totals + 1, []
            continue
        item = record(row["output"], row["ground_truth"], row["image_path"])
        if row["setting"] == "closed":
            values.append(scorer.closed(item))
            agreed += scorer.parsed_answer(item) == row["parsed_answer"]
        else:
            values.append(scorer.open(item))
            agreed += (
                official_answer(row["output"]) == row["answer"]
                and official_word(row["image_path"]) == row["super_category"]
                and values[-1]["relative_semantic_similarity"]
                == pytest.approx(row["relative_similarity"], abs=1e-12)
            )
    assert (agreed, totals) == (2240, 8)


# ---------------------------------------------------------------- the traps


@pytest.mark.parametrize(
    "completion, official, strict",
    [
        ("<answer>Rock Wren</answer>", 1, 1),
        ("<answer>rock_wren</answer>", 1, 1),
        ("<answer>Rock-Wren</answer>", 0, 1),  # the release folds underscores but not hyphens
        ("<answer>House Wren, Rock Wren, Marsh Wren</answer>", 1, 0),
        ("<answer>not Rock Wren</answer>", 1, 0),
        ("<answer>House Wren</answer> no <answer>Rock Wren</answer>", 1, 0),
        ("<answer>Green Rock Wren</answer>", 1, 0),
        ("Rock Wren", 0, 0),
        ("<answer></answer>", 0, 0),
        ("<answer>Rock Wren", 0, 0),
        ("", 0, 0),
    ],
)
def test_closed_world_traps(completion, official, strict):
    assert make_scorer("official").closed(record(completion)) == {"accuracy": official}
    assert make_scorer("strict").closed(record(completion))["accuracy"] == strict


def test_open_world_falls_back_on_the_whole_completion_officially_only():
    mentioned = record("<think>Perhaps a Rock Wren, but no.</think>")
    assert make_scorer("official").open(mentioned)["text_inclusion"] == 1
    assert make_scorer("strict").open(mentioned)["text_inclusion"] == 0
    assert make_scorer("strict").open(mentioned)["relative_semantic_similarity"] == 0
    empty = record("Rock Wren <answer> </answer>")
    assert make_scorer("official").open(empty)["text_inclusion"] == 1


def test_cars_lose_their_last_two_words_when_the_path_says_cars():
    car = record("<answer>a BMW M3</answer>", "BMW M3 Coupe 2012", "stanford-cars/cars_test/1.jpg", "car")
    assert make_scorer("official").open(car)["text_inclusion"] == 1
    assert make_scorer("official").closed(car)["accuracy"] == 0  # the closed world keeps the whole name
    elsewhere = {**car, "image_id": "autos/1.jpg"}
    assert make_scorer("official").open(elsewhere)["text_inclusion"] == 0


@pytest.mark.parametrize(
    "path, word",
    [
        ("bird_200/images/1.jpg", "object"),
        ("dogs_120/Images/1.jpg", "object"),
        ("data/birds/1.jpg", "bird"),
        ("/data/aircraft/flower102/1.jpg", "aircraft"),
        ("flower102/jpg/1.jpg", "flower"),
        ("stanford-cars/1.jpg", "car"),
    ],
)
def test_the_release_s_guess_of_the_super_category(path, word):
    assert official_word(path) == word


def test_relative_similarity_by_hand():
    sims = {
        ("said", "label"): 0.6,
        ("bird", "label"): 0.2,
        ("far", "label"): 0.1,
        ("label", "label"): 1.0,
        ("bird", "bird"): 1.0,
        ("said", "bird"): 0.3,
    }
    similar = lambda a, b: sims[a, b]  # noqa: E731
    assert relative_similarity(similar, "said", "label", "bird") == pytest.approx(0.5)
    assert relative_similarity(similar, "far", "label", "bird") == 0.0
    assert relative_similarity(similar, "label", "label", "bird") == 1.0
    assert relative_similarity(similar, "bird", "bird", "bird") == 1.0  # undefined: the label is the word
    assert relative_similarity(similar, "said", "bird", "bird") == 0.0


@pytest.mark.parametrize(
    "said, near",
    [
        ("Marlo Wren", 1),
        ("Unheard Wren", 1),
        ("marlo-wren", 1),
        ("Dunen Wren", 0),
        ("Wren", 0),
        ("Tarn Finch", 0),
        ("bird", 0),
        ("Marlo Wren, Tarn Wren", 0),
        ("", 0),
    ],
)
def test_right_genus_wrong_epithet(said, near):
    scorer = make_scorer("strict", guide=GUIDE)
    scores = scorer.closed(record(f"<answer>{said}</answer>", "Dunen Wren"))
    assert scores["genus_right_epithet_wrong"] == near
    assert scores["format_failure"] == float(not said)


def test_metrics_that_need_a_taxonomy_are_absent_without_one():
    assert set(make_scorer("strict").closed(record("x"))) == {"accuracy", "format_failure"}


def test_the_registry():
    assert {"official", "strict"} <= set(SCORERS)
    with pytest.raises(UserError, match="unknown scorer 'lenient'"):
        make_scorer("lenient")
    with pytest.raises(ValueError, match="already registered"):
        register("strict")(object)

    @register("length")
    class LengthScorer:
        def __init__(self, similarity, guide=None):
            pass

        def closed(self, item):
            return {"length": float(len(item["completion"]))}

    try:
        assert (
            make_scorer("length").closed(record("abc")) == {"length": 3.0}
            and make_scorer("length").name == "length"
        )
    finally:
        SCORERS.pop("length")


# ---------------------------------------------------------------- similarities

TEXTS = st.one_of(
    st.sampled_from(
        [
            *NAMES,
            "Wren",
            "bird",
            "aircraft",
            "object",
            "",
            "not Dunen Wren",
            "red",
            "Dunen Wren or Marlo Wren",
        ]
    ),
    st.text(max_size=20),
)


@settings(max_examples=80, deadline=None)
@given(TEXTS, TEXTS)
def test_similarities_are_symmetric_and_one_for_equal(a, b):
    for similar in (GuideSimilarity(GUIDE), TrigramSimilarity()):
        assert similar(a, a) == 1.0
        assert 0.0 <= similar(a, b) <= 1.0 and similar(a, b) == similar(b, a)


def test_trigrams_by_hand():
    # "  ab " -> "  a", " ab", "ab "; "  ac " -> "  a", " ac", "ac "
    assert trigram_jaccard("ab", "ac") == pytest.approx(1 / 5)
    assert trigram_jaccard("AB", "ab") == pytest.approx(0 / 6)  # case counts


def test_guide_similarity_by_hand():
    similar = GuideSimilarity(GUIDE)
    # a name stands for super-category, genus, three attributes and itself: 6 features
    assert similar("Dunen Wren", "Marlo Wren") == pytest.approx(4 / 8)
    assert similar("Wren", "Dunen Wren") == pytest.approx(3 / 6)  # super-category, genus, bill
    assert similar("bird", "Dunen Wren") == pytest.approx(1 / 6)
    assert similar("Tarn Finch", "Dunen Wren") == pytest.approx(2 / 10)  # super-category, red crown
    assert similar("Sabel Scout", "Dunen Wren") == 0.0  # a red fin is no red crown
    assert similar("zzz qqq", "Dunen Wren") == 0.0 == similar("", "Dunen Wren")
    assert similar("dunen-wren", "Dunen Wren") == 1.0
    assert similar("Unheard Wren", "Dunen Wren") == pytest.approx(3 / 7)
    assert similar("Dunen Wren, Tarn Finch", "Dunen Wren") == pytest.approx(6 / 10)


def test_relative_similarity_of_a_guide_orders_answers_as_a_reader_would():
    scorer = make_scorer("strict", similarity=GuideSimilarity(GUIDE), guide=GUIDE)
    said = ["Dunen Wren", "Marlo Wren", "Wren", "Tarn Finch", "bird"]
    values = [
        scorer.open(record(f"<answer>{name}</answer>", "Dunen Wren"))["relative_semantic_similarity"]
        for name in said
    ]
    assert values[0] == 1.0 and values[-1] == 0.0 and values[1] == pytest.approx((4 / 8 - 1 / 6) / (5 / 6))
    assert values[:2] == sorted(values[:2], reverse=True) and min(values[1:3]) > values[3] > 0


def test_make_similarity_refuses():
    with pytest.raises(UserError, match="needs a field guide"):
        make_similarity("guide")
    with pytest.raises(UserError, match="unknown similarity 'cosine'"):
        make_similarity("cosine")
    assert make_similarity("auto").name == "trigram" and make_similarity("auto", GUIDE).name == "guide"
    assert make_similarity("trigram").name == "trigram" and make_similarity("guide", GUIDE).name == "guide"


WORDS = ["<unk>", "<pad>", "</s>", "Wren", "wren", "House", "Rock", "bird"]


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """A tiny random SigLIP in two forms: the text tower alone, and the whole model (as on the hub)."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SiglipConfig,
        SiglipModel,
        SiglipTextConfig,
        SiglipTextModel,
        SiglipVisionConfig,
    )

    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    text = SiglipTextConfig(
        vocab_size=8,
        max_position_embeddings=64,
        projection_size=16,
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=2,
        **sizes,
    )
    whole = SiglipModel(
        SiglipConfig(
            text_config=text.to_dict(),
            vision_config=SiglipVisionConfig(image_size=32, patch_size=16, **sizes).to_dict(),
        )
    )
    folder = tmp_path_factory.mktemp("siglip")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="</s>",
        model_input_names=["input_ids"],
    )
    for name, model in (("text", SiglipTextModel(text)), ("whole", whole)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder, whole.eval(), tokenizer


def test_siglip_equals_the_whole_model_s_text_features(towers):
    import torch

    folder, whole, tokenizer = towers
    similar = SiglipSimilarity(str(folder / "whole"))
    inputs = tokenizer(["House Wren", "Rock Wren"], padding="max_length", max_length=64, return_tensors="pt")
    with torch.no_grad():
        features = whole.get_text_features(input_ids=inputs["input_ids"])
    pooled = getattr(features, "pooler_output", features)
    assert similar("House Wren", "Rock Wren") == pytest.approx(
        torch.nn.functional.cosine_similarity(pooled[0], pooled[1], dim=0).item(), abs=1e-6
    )


def test_siglip_is_batched_cached_and_symmetric(towers):
    folder, *_ = towers
    similar = SiglipSimilarity(str(folder / "text"), batch_size=2)
    calls = []
    forward = similar._model.forward
    similar._model.forward = lambda **kw: calls.append(len(kw["input_ids"])) or forward(**kw)
    similar.prepare(["House Wren", "Rock Wren", "bird", "House Wren"])
    assert sorted(calls) == [1, 2]
    assert similar("House Wren", "bird") == similar("bird", "House Wren") and similar("bird", "bird") == 1.0
    assert len(calls) == 2
    lower = SiglipSimilarity(str(folder / "text"), lower_case=True)
    assert lower("WREN", "wren") == 1.0 and similar("Wren", "wren") < 1.0


def test_siglip_scores_records_through_the_scorer(towers):
    folder, *_ = towers
    scorer = make_scorer("official", similarity=SiglipSimilarity(str(folder / "text")))
    items = [record("<answer>House Wren</answer>"), record("<answer>Rock Wren</answer>")]
    scorer.prepare(items)
    values = [scorer.open(item)["relative_semantic_similarity"] for item in items]
    assert values[1] == 1.0 and 0.0 <= values[0] < 1.0


def test_siglip_refuses_what_would_give_random_numbers(towers, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder, *_ = towers
    for name, change in (
        ("missing", lambda w: w.pop(next(k for k in w if k.endswith("fc1.weight")))),
        (
            "mismatched",
            lambda w: w.update({k: v[:32].contiguous() for k, v in w.items() if "position_embedding" in k}),
        ),
    ):
        shutil.copytree(folder / "text", tmp_path / name)
        weights = load_file(tmp_path / name / "model.safetensors")
        change(weights)
        save_file(weights, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match="newly initialised"):
            SiglipSimilarity(str(tmp_path / name))
    with pytest.raises(UserError, match="no SigLIP text tower"):
        SiglipSimilarity(str(tmp_path / "nowhere"))
