"""The drawn world: its taxonomy keeps its promises, its pictures are reproducible, its pretraining data never name a picture."""

import random
from itertools import combinations

import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageChops

from finer1_lib.core.files import read_json
from finer1_lib.data.guide import distance
from finer1_lib.miniature import pretraining_data
from finer1_lib.miniature.base import WEIGHTS
from finer1_lib.miniature.drawing import SIZE, draw_specimen, write_world
from finer1_lib.miniature.world import SUPER_CATEGORIES, make_guide

GUIDE = make_guide()


def test_the_guide_has_at_least_80_sub_categories_in_genera_of_4_to_6():
    entries = GUIDE["sub_categories"].values()
    assert len(GUIDE["sub_categories"]) >= 80 and len({e["super_category"] for e in entries}) >= 2
    sizes = {}
    for entry in entries:
        sizes[entry["genus"]] = sizes.get(entry["genus"], 0) + 1
    assert set(sizes.values()) <= {4, 5, 6}


def test_a_genus_shares_its_attributes_and_its_members_differ_in_one_to_three_others():
    for genus in {e["genus"] for e in GUIDE["sub_categories"].values()}:
        members = {n: e for n, e in GUIDE["sub_categories"].items() if e["genus"] == genus}
        rules = GUIDE["super_categories"][next(iter(members.values()))["super_category"]]
        for a, b in combinations(members, 2):
            assert 1 <= distance(GUIDE, a, b) <= 3
            assert all(members[a]["attributes"][k] == members[b]["attributes"][k] for k in rules["genus_attributes"])


def test_no_two_sub_categories_share_all_attributes_nor_an_epithet():
    assert len({tuple(e["attributes"].values()) for e in GUIDE["sub_categories"].values()}) == len(GUIDE["sub_categories"])
    assert len({name.split()[0] for name in GUIDE["sub_categories"]}) == len(GUIDE["sub_categories"])


def test_60_percent_of_each_super_category_are_seen():
    for super_category in SUPER_CATEGORIES:
        names = {n for n, e in GUIDE["sub_categories"].items() if e["super_category"] == super_category}
        seen, unseen = names & set(GUIDE["seen"]), names & set(GUIDE["unseen"])
        assert seen | unseen == names and not seen & unseen and len(seen) / len(names) == pytest.approx(0.6)


def test_the_guide_is_a_function_of_its_seed():
    assert make_guide() == GUIDE and make_guide(7)["sub_categories"] != GUIDE["sub_categories"]


@pytest.mark.parametrize("super_category", SUPER_CATEGORIES)
def test_every_value_of_every_attribute_changes_the_picture(super_category):
    attributes = {key: values[0] for key, values in SUPER_CATEGORIES[super_category]["attributes"].items()}
    for key, values in SUPER_CATEGORIES[super_category]["attributes"].items():
        pictures = [draw_specimen(super_category, {**attributes, key: v}, random.Random(3)) for v in values]
        for one, other in combinations(pictures, 2):
            changed = ImageChops.difference(one, other).convert("L").point(lambda v: 255 * (v > 24))
            assert changed.histogram()[255] > 0.004 * SIZE * SIZE, (key, values)


def test_a_picture_is_a_function_of_its_random_state_and_varies_between_states():
    entry = next(iter(GUIDE["sub_categories"].values()))
    draw = lambda seed: draw_specimen(entry["super_category"], entry["attributes"], random.Random(seed)).tobytes()
    assert draw(1) == draw(1) and len({draw(seed) for seed in range(8)}) == 8


def test_the_world_is_written_as_folders_of_files_with_a_row_each(tmp_path):
    few = {**GUIDE, "sub_categories": dict(list(GUIDE["sub_categories"].items())[:3])}
    rows = write_world(few, tmp_path / "images", 2, seed=0)
    assert len(rows) == 6 and len(list((tmp_path / "images").rglob("*.png"))) == 6
    for row in rows:
        assert Image.open(tmp_path / "images" / row["path"]).size == (SIZE, SIZE)
        assert row["crown"] == GUIDE["sub_categories"][row["sub_category"]]["attributes"]["crown"]


def test_a_failure_while_drawing_leaves_no_half_world(tmp_path):
    broken = {"sub_categories": {**dict(list(GUIDE["sub_categories"].items())[:2]),
                                 "Bad Wren": {"super_category": "bird", "genus": "Wren", "attributes": {"bill": "none"}}}}
    with pytest.raises(KeyError):
        write_world(broken, tmp_path / "images", 1, seed=0)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32))
def test_no_sample_of_the_pretraining_data_holds_both_an_image_and_a_name(seed):
    rng = random.Random(seed)
    sample = pretraining_data.image_sample(GUIDE, pretraining_data.draw_specimen_values(GUIDE, rng), rng)
    text = (sample["user"] + " " + sample["assistant"]).lower()
    assert sample["image"] is not None
    for name in GUIDE["sub_categories"]:
        epithet, genus = name.lower().split()
        assert epithet not in text and genus not in text
    assert pretraining_data.text_sample(GUIDE, rng)["image"] is None


def test_the_pretraining_texts_speak_of_seen_and_unseen_alike():
    rng, counts = random.Random(0), {"seen": 0, "unseen": 0}
    for _ in range(3000):
        sample = pretraining_data.text_sample(GUIDE, rng)
        for kind in counts:
            counts[kind] += any(name in sample["assistant"] for name in GUIDE[kind])
    assert counts["seen"] / counts["unseen"] == pytest.approx(1.5, rel=0.25)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_is_misread_in_a_text_the_answer_stays_the_best_fit(seed):
    rng = random.Random(seed)
    name, entry = pretraining_data._name(GUIDE, rng)
    observed = pretraining_data._observed(GUIDE, name, rng)
    assert name in pretraining_data._best_fit(GUIDE, entry["super_category"], observed)


def test_the_shipped_guide_is_the_one_that_the_base_was_pretrained_on():
    assert read_json(WEIGHTS / "guide.json") == GUIDE
