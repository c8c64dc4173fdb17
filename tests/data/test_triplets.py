"""Image features of a real (tiny, random) Qwen2.5-VL, prototypes by hand, triplets and their faults."""

from types import SimpleNamespace

import numpy
import pandas
import pytest
from hypothesis import given, strategies as st
from tiny_checkpoint import build, picture
from shared_cases import UNHURRIED

from finer1_lib.core.errors import UserError
from finer1_lib.data import triplets as module
from finer1_lib.data.split import nearest_names
from finer1_lib.data.triplets import build_triplets, prototype_similarity, prototypes
from finer1_lib.models.encoders import image_features



def shots(names=("a", "b", "c"), per_class=4, super_category="bird", categories="seen"):
    rows = [
        {"image_id": f"{super_category}/{name}/{i}", "super_category": super_category, "sub_category": name,
         "categories": categories, "split": "train", "shot": i}
        for name in names for i in range(per_class)
    ]
    return pandas.DataFrame(rows)


def similarity(super_category, first, second):
    """On a line: a b c d."""
    return -abs(ord(first) - ord(second))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    folder = build(tmp_path_factory.mktemp("tiny"))
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    return SimpleNamespace(model=model, processor=AutoProcessor.from_pretrained(folder), device="cpu",
                           checkpoint=str(folder))


def test_features_are_the_mean_over_the_merged_patches(loaded):
    import torch

    images = [picture(seed=1), picture(seed=2, size=(56, 84)), picture(seed=3)]
    features = image_features(loaded, images, batch_size=2)
    assert features.shape == (3, 32) and features.dtype == numpy.float32
    inputs = loaded.processor.image_processor(images=[images[1]], return_tensors="pt")
    with torch.no_grad():
        visual = loaded.model.model.visual
        tokens = visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
    assert tokens.shape == (2 * 3, 32)  # 56 x 84 pixels: 2 x 3 merged patches of 28
    assert numpy.allclose(features[1], tokens.mean(0), atol=1e-5)


def test_chunks_order_and_iterators_do_not_matter(loaded):
    images = [picture(seed=number) for number in range(5)]
    features = image_features(loaded, images, batch_size=5)
    assert numpy.allclose(features, image_features(loaded, iter(images), batch_size=2), atol=1e-5)
    assert numpy.allclose(features[::-1], image_features(loaded, images[::-1], batch_size=3), atol=1e-5)
    assert not numpy.allclose(features[0], features[1], atol=1e-4)
    assert image_features(loaded, []).shape == (0, 0)


def test_the_training_flag_is_given_back(loaded):
    loaded.model.train()
    image_features(loaded, [picture()])
    assert loaded.model.training
    loaded.model.eval()


def test_broken_weights_are_named(loaded):
    import torch

    weight = next(loaded.model.model.visual.parameters())
    kept = weight.data.clone()
    weight.data.fill_(torch.nan)
    with pytest.raises(UserError, match="not finite"):
        image_features(loaded, [picture()])
    weight.data.copy_(kept)


def test_prototypes_by_hand():
    table = shots(("a", "b", "c"), per_class=2)
    base = numpy.array([100.0, 100.0, 100.0])  # what all share; without centring every cosine is about 1
    directions = {"a": [1.0, 0, 0], "b": [0.8, 0.6, 0], "c": [-1.8, -0.6, 0]}
    features = numpy.array([base + directions[name] for name in table["sub_category"]])
    found = prototypes(features, table)
    like = prototype_similarity(found)
    assert numpy.allclose(found["bird", "b"], [0.8, 0.6, 0])
    assert numpy.isclose(like("bird", "a", "b"), 0.8)
    assert numpy.isclose(like("bird", "a", "c"), -1.8 / numpy.hypot(1.8, 0.6))
    with pytest.raises(ValueError):
        prototypes(features[1:], table)


def test_identical_pictures_give_zero_prototypes_not_nan():
    found = prototypes(numpy.ones((6, 4), "float32"), shots(per_class=2))
    assert all((vector == 0).all() for vector in found.values())


@UNHURRIED
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 3), width=st.sampled_from([3, 32]))
def test_prototypes_are_the_plain_formula_bit_for_bit(seed, rows, width):
    """However few rows are taken at a time, and however the table is ordered."""
    table = pandas.concat([shots("abcd", 5), shots("abc", 7, "aircraft")]).sample(frac=1, random_state=seed)
    features = numpy.random.default_rng(seed).normal(3, 1, (len(table), width)).astype("float32")
    expected = {}
    for word in ("aircraft", "bird"):
        own = (table["super_category"] == word).to_numpy()
        centred = features[own] - features[own].mean(0)
        centred /= numpy.linalg.norm(centred, axis=1, keepdims=True)
        for name in sorted(set(table["sub_category"][own])):
            mean = centred[(table["sub_category"][own] == name).to_numpy()].mean(0)
            expected[word, name] = mean / numpy.linalg.norm(mean, axis=-1, keepdims=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ROWS", rows)
        found = prototypes(features, table)
    assert list(found) == list(expected)
    assert all(found[key].tobytes() == expected[key].tobytes() for key in expected)


@UNHURRIED
@given(seed=st.integers(0, 10**6), classes=st.integers(0, 12), rows=st.integers(1, 5), ties=st.booleans())
def test_nearest_by_products_is_nearest_one_by_one(seed, classes, rows, ties):
    """Ties, zero prototypes and all: what `nearest_names` says, with its own draw."""
    rng = numpy.random.default_rng(seed)
    vectors = rng.integers(-1, 2, (classes, 2)) if ties else rng.normal(size=(classes, 40))
    names = [chr(ord("a") + number) for number in rng.permutation(classes)]
    looks = prototype_similarity({("bird", name): module._unit(vector.astype("float32"))
                                  for name, vector in zip(names, vectors)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ROWS", rows)
        found = looks.nearest("bird", names, seed)
    lists = {name: nearest_names("bird", name, names, looks, 1, seed) for name in names}
    assert found == {name: others[0] for name, others in lists.items() if others}


def test_rounding_never_decides_between_two_names():
    """Two names whose cosines differ by less than a product of matrices can tell."""
    close = numpy.nextafter(numpy.float32(0.6), numpy.float32(1))
    found = {("bird", "a"): numpy.array([1, 0], "float32"), ("bird", "b"): numpy.array([0.6, 0.8], "float32"),
             ("bird", "c"): numpy.array([close, -0.8], "float32")}
    looks = prototype_similarity(found)
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "nearest_names", lambda *told: asked.append(told[1]) or nearest_names(*told))
        assert looks.nearest("bird", ["a", "b", "c"], 0)["a"] == "c"
    assert asked == ["a"]  # b and c are sure of their nearest


def test_triplets_are_the_same_by_either_road():
    table = pandas.concat([shots("abcdef"), shots("abc", super_category="aircraft")])
    features = numpy.random.default_rng(0).normal(size=(len(table), 8)).astype("float32")
    looks = prototype_similarity(prototypes(features, table))
    plain = build_triplets(table, lambda *names: looks(*names), seed=3)
    assert build_triplets(table, looks, seed=3).equals(plain)
    assert len(set(plain["negative_sub_category"])) > 2


def test_triplets_by_hand():
    triplets = build_triplets(shots(("a", "b", "d")), similarity, seed=0)
    assert len(triplets) == 9  # three TAPO shots each; shot 0 stays with its rationale
    negative = dict(zip(triplets["sub_category"], triplets["negative_sub_category"]))
    assert negative == {"a": "b", "b": "a", "d": "b"}
    assert list(triplets.columns) == ["image_id", "positive_id", "negative_id", "super_category",
                                      "sub_category", "negative_sub_category"]
    assert len(build_triplets(shots(("a", "b")), similarity, seed=0, all_shots=True)) == 8


@UNHURRIED
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 6), per_class=st.integers(3, 6), everything=st.booleans())
def test_triplet_properties(seed, classes, per_class, everything):
    table = pandas.concat([shots("abcdef"[:classes], per_class), shots("abc", per_class, "aircraft")])
    triplets = build_triplets(table, similarity, seed=seed, all_shots=everything)
    assert triplets.equals(build_triplets(table.sample(frac=1, random_state=1), similarity, seed=seed,
                                          all_shots=everything))
    where = {row["image_id"]: row for row in table.to_dict("records")}
    for row in triplets.to_dict("records"):
        anchor, positive, negative = (where[row[key]] for key in ("image_id", "positive_id", "negative_id"))
        assert row["image_id"] != row["positive_id"]
        assert anchor["sub_category"] == positive["sub_category"] != negative["sub_category"]
        assert anchor["super_category"] == positive["super_category"] == negative["super_category"]
        assert min(anchor["shot"], positive["shot"], negative["shot"]) >= (0 if everything else 1)
    assert sorted(triplets["positive_id"]) == sorted(triplets["image_id"])


def test_unseen_and_unsampled_images_take_no_part():
    table = pandas.concat([shots("ab"), shots("c", categories="unseen"), shots("ab").assign(shot=-1)])
    assert set(build_triplets(table, similarity, seed=0)["negative_sub_category"]) == {"a", "b"}


def test_a_missing_negative_or_positive_is_an_error():
    with pytest.raises(UserError, match="no other seen sub-category"):
        build_triplets(pandas.concat([shots("ab"), shots("z", super_category="aircraft")]), similarity, seed=0)
    with pytest.raises(UserError, match="has no positive"):
        build_triplets(shots(per_class=2), similarity, seed=0)
