"""Similarities of texts: trigrams, the guide's, SigLIP's text tower and further encoders."""

import pytest
from hypothesis import given, settings, strategies as st
from test_scorers import GUIDE, NAMES, record

from finer1_lib.core.errors import UserError
from finer1_lib.evaluation.scores.scoring import make_scorer, score_records, summary_rows
from finer1_lib.evaluation.scores.similarity import (GuideSimilarity, TrigramSimilarity, make_similarity,
                                                     trigram_jaccard)
from finer1_lib.models.encoders import SiglipSimilarity

TEXTS = st.one_of(
    st.sampled_from(
        [*NAMES, "Wren", "bird", "aircraft", "object", "", "not Dunen Wren", "red",
         "Dunen Wren or Marlo Wren"]
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
    values = [scorer.open(record(f"<answer>{name}</answer>", "Dunen Wren"))["relative_semantic_similarity"]
              for name in said]
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
    from transformers import (PreTrainedTokenizerFast, SiglipConfig, SiglipModel, SiglipTextConfig,
                              SiglipTextModel, SiglipVisionConfig)

    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    text = SiglipTextConfig(vocab_size=8, max_position_embeddings=64, projection_size=16, pad_token_id=1,
                            bos_token_id=2, eos_token_id=2, **sizes)
    whole = SiglipModel(
        SiglipConfig(text_config=text.to_dict(),
                     vision_config=SiglipVisionConfig(image_size=32, patch_size=16, **sizes).to_dict())
    )
    folder = tmp_path_factory.mktemp("siglip")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>",
                                        eos_token="</s>", model_input_names=["input_ids"])
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


def counted(similar):
    """The sizes of the batches that a similarity embeds from now on."""
    calls, embed = [], similar._embed
    similar._embed = lambda texts: calls.append(len(texts)) or embed(texts)
    return calls


def test_siglip_is_batched_cached_and_symmetric(towers):
    folder, *_ = towers
    similar = SiglipSimilarity(str(folder / "text"), batch_size=2)
    calls = counted(similar)
    similar.prepare(["House Wren", "Rock Wren", "bird", "House Wren"])
    assert calls == []  # noted only
    assert similar("House Wren", "bird") == similar("bird", "House Wren") and similar("bird", "bird") == 1.0
    assert sorted(calls) == [1, 2]
    similar.prepare(["Rock Wren", "bird"])
    assert similar("Rock Wren", "bird") < 1.0 and len(calls) == 2  # nothing is embedded twice
    lower = make_similarity("siglip_lower", checkpoint=str(folder / "text"))
    assert lower("WREN", "wren") == 1.0 and similar("Wren", "wren") < 1.0
    assert (similar.name, lower.name) == ("siglip", "siglip_lower")


def test_a_long_file_is_embedded_in_its_order_and_the_oldest_is_forgotten(towers):
    from finer1_lib.models import encoders as text_encoders

    folder, *_ = towers
    similar = SiglipSimilarity(str(folder / "text"), batch_size=2, kept=3)
    once = text_encoders.AHEAD * 2
    calls, texts = counted(similar), [f"Wren {number}" for number in range(10 * once)]
    similar.prepare(texts)
    values = []
    for place, text in enumerate(texts):
        values.append(similar(text, "bird"))
        assert len(similar._vectors) <= 4 * once
        assert sum(calls) <= place + 2 * once + 1  # no more ahead than a round of its own and bird's
    assert max(calls) == 2 and sum(calls) == len(texts) + 1 and not similar._waiting  # each once
    assert [similar(text, "bird") for text in texts] == pytest.approx(values, abs=1e-6)  # forgotten, not lost


def test_embeddings_do_not_depend_on_what_is_embedded_beside_them(towers, encoders):
    names = ["House Wren", "Rock Wren House Wren Rock Wren", "bird", "Wren"]
    for make in (lambda **kw: SiglipSimilarity(str(towers[0] / "text"), **kw), *(
            lambda path=path, **kw: make_similarity(f"encoder:{path}", **kw) for path in encoders.values())):
        together, alone = make(batch_size=8), make(batch_size=1)
        together.prepare(names)
        for name in names:
            assert together(name, "Rock Wren") == pytest.approx(alone(name, "Rock Wren"), abs=1e-5)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory, towers):
    """{kind: folder} of tiny random text encoders: CLIP's and SigLIP 2's whole models, and a BERT."""
    import torch
    import transformers as t

    torch.manual_seed(1)
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    vision = dict(image_size=32, patch_size=16, **sizes)
    special = dict(vocab_size=8, pad_token_id=1, bos_token_id=2, eos_token_id=2)
    text = dict(max_position_embeddings=64, **special, **sizes)
    made = {
        "clip": t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)),
        "siglip2": t.Siglip2Model(
            t.Siglip2Config(text_config={**text, "projection_size": 16}, vision_config=sizes)),
        "bert": t.BertModel(t.BertConfig(vocab_size=8, max_position_embeddings=64, pad_token_id=1, **sizes)),
    }
    folders = {}
    for kind, model in made.items():
        folders[kind] = tmp_path_factory.mktemp(kind)
        model.eval().save_pretrained(folders[kind])
        tokenizer = towers[2]
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
        tokenizer.save_pretrained(folders[kind])
    tokenizer.model_input_names = ["input_ids"]
    return folders


def test_second_encoders_by_hand(towers, encoders):
    """Each equals the model's own text features; BERT the mean over its tokens, padding left out."""
    import torch
    import transformers as t

    tokenizer, pair = towers[2], ["House Wren", "Rock Wren bird"]
    cosine = torch.nn.functional.cosine_similarity
    for kind, padding in (("clip", True), ("siglip2", "max_length")):
        inputs = tokenizer(pair, padding=padding, truncation=True, max_length=64, return_tensors="pt",
                           return_attention_mask=True)
        if kind == "siglip2":
            inputs.pop("attention_mask")
        model = t.AutoModel.from_pretrained(encoders[kind])
        with torch.no_grad():
            features = model.get_text_features(**inputs)
        one, two = getattr(features, "pooler_output", features)
        similar = make_similarity(f"encoder:{encoders[kind]}")
        assert similar(*pair) == pytest.approx(cosine(one, two, dim=0).item(), abs=1e-5), kind
        assert similar.name == f"encoder:{encoders[kind]}"
    bert, means = t.AutoModel.from_pretrained(encoders["bert"]), []
    for text in pair:
        with torch.no_grad():
            states = bert(**tokenizer([text], return_tensors="pt")).last_hidden_state
        means.append(states[0].mean(dim=0))
    similar = make_similarity(f"encoder:{encoders['bert']}")
    assert similar(*pair) == pytest.approx(cosine(*means, dim=0).item(), abs=1e-5)
    lower = make_similarity(f"encoder_lower:{encoders['bert']}")
    assert lower("WREN", "wren") == 1.0 and lower.name.startswith("encoder_lower:")


def test_second_encoders_are_rows_of_their_own(encoders, towers):
    more = [make_similarity(f"encoder:{encoders['bert']}"), SiglipSimilarity(str(towers[0] / "text"))]
    scorer = make_scorer("strict", more=more)
    asked = {"model": "m", "setting": "open_world", "categories": "seen", "option_order": None}
    items = [{**record("<answer>House Wren</answer>"), **asked, "item_id": str(n)} for n in range(3)]
    rows = summary_rows(score_records(items, [scorer]), seed=0, similarity="trigram")
    rows = [row for row in rows if row["dataset"] == "bird"]
    wanted = [row for row in rows if row["metric"] == "relative_semantic_similarity"]
    assert [row["variant"] for row in wanted] == ["trigram", more[0].name, "siglip"]
    assert len({row["value"] for row in wanted}) == 3


def test_what_is_no_text_encoder_is_refused_in_one_line(tmp_path, encoders):
    import shutil

    import transformers as t

    with pytest.raises(UserError, match="does not exist"):
        make_similarity(f"encoder:{tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match="unknown similarity 'encoder:'"):
        make_similarity("encoder:")
    t.ViTModel(t.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                           image_size=32)).save_pretrained(tmp_path / "vit")
    for file in encoders["bert"].glob("tokenizer*"):
        shutil.copy(file, tmp_path / "vit" / file.name)
    with pytest.raises(UserError, match="is not a text encoder") as told:
        make_similarity(f"encoder:{tmp_path / 'vit'}")
    assert "\n" not in str(told.value)
    short = t.SiglipTextConfig(vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                               num_attention_heads=2, max_position_embeddings=16)
    t.SiglipTextModel(short).save_pretrained(tmp_path / "short")
    for file in encoders["bert"].glob("tokenizer*"):
        shutil.copy(file, tmp_path / "short" / file.name)
    with pytest.raises(UserError, match="reads 16 tokens"):
        SiglipSimilarity(str(tmp_path / "short"))


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
        ("mismatched",
         lambda w: w.update({k: v[:32].contiguous() for k, v in w.items() if "position_embedding" in k})),
    ):
        shutil.copytree(folder / "text", tmp_path / name)
        weights = load_file(tmp_path / name / "model.safetensors")
        change(weights)
        save_file(weights, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match="lacks 1 of its|has 1 weights of another shape"):
            SiglipSimilarity(str(tmp_path / name))
    with pytest.raises(UserError, match="does not exist"):
        SiglipSimilarity(str(tmp_path / "nowhere"))


def test_several_similarities_must_be_several():
    from finer1_lib.evaluation.scores.similarity import make_similarities

    assert [one.name for one in make_similarities(["trigram"])] == ["trigram"]
    with pytest.raises(UserError, match="'trigram' is listed twice"):
        make_similarities(["auto", "trigram"])
