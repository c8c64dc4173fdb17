"""Notebook 01 on the six data sets' own layouts, with the release's questions, rationales and triplets."""

import json
import shutil

import pandas
import pytest
from data_set_trees import CLASSES, NAMES, SEEN, plant, release_tree
from fixture_kit import CHECKOUT, finer1

from finer1_lib.core.files import read_jsonl
from finer1_lib.data.sources import read_data_sets

WORDS = sorted(CLASSES)
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Trees, the release's files about them, and how notebook 01 is run: (root, run)."""
    root = tmp_path_factory.mktemp("paper")
    for word in WORDS:
        plant(root / "data", word)
    table, _, _ = read_data_sets(WORDS, root / "data", allow_incomplete=True)
    release_tree(root / "release", table)

    def run(name, *settings, words=WORDS):
        given = {"data_sets": f"[{','.join(words)}]", "data_root": root / "data", "allow_incomplete": "true"}
        chosen = [f"01_data.{key}={value}" for key, value in given.items()] + list(settings)
        chosen += ["01_data.prototype_images=1", "00_miniature_world.images_per_sub_category=2",
                   "00_miniature_world.card_pictures=0"]
        command = ["run", "miniature", "--run-name", name, "--output-root", str(root / "runs"), "--to", "01_data"]
        if (root / "runs/released").exists():  # the drawn world is the same for all: drawn once
            shutil.copytree(root / "runs/released/00_miniature_world", root / "runs" / name / "00_miniature_world")
            shutil.copy(root / "runs/released/00_miniature_world.ipynb", root / "runs" / name)
        return finer1(CHECKOUT, *command, *(part for one in chosen for part in ("--set", one))), root / "runs" / name

    return root, run


@pytest.fixture(scope="module")
def released(world):
    """A run on the release's questions and rationales."""
    root, run = world
    (code, out, err), folder = run("released", f"01_data.release={root / 'release'}",
                                   f"01_data.rationales_file={root / 'release/stage1.json'}")
    assert code == 0, err + out
    return folder / "01_data"


def test_questions_and_rationales_are_the_release_s(released):
    items, records = read_jsonl(released / "items.jsonl"), read_jsonl(released / "rationales.jsonl")
    assert len(items) == 60 and {item["question"] for item in items} == {f"Which {word} do you see?" for word in WORDS}
    assert all(item["options"][0] == item["sub_category"] for item in items)
    plane = next(item for item in items if item["sub_category"] == "F-16A/B")
    assert plane["image_id"].endswith(".jpg#bottom=20") and plane["item_id"].endswith(".jpg")
    table = pandas.read_parquet(released / "images.parquet")
    first = set(table.loc[table["shot"] == 0, "image_id"])
    assert {record["image_id"] for record in records} == first and len(first) == SEEN * len(WORDS)
    for word in WORDS:
        seen = table[(table["super_category"] == word) & (table["categories"] == "seen")]["sub_category"]
        assert set(seen) == set(NAMES[word][:SEEN])


def test_what_later_notebooks_read(released):
    data = json.loads((released / "data.json").read_text())
    assert set(data["data_sets"]) == set(WORDS) and data["missing"] == {}
    assert {(one["split"], one["complete"]) for one in data["data_sets"].values()} == {("release", False)}
    genera = json.loads((released / "taxonomy.json").read_text())
    assert genera["Sooty Albatross"]["genus"] == "Phoebetria"
    triplets = pandas.read_parquet(released / "triplets.parquet")
    assert len(triplets) == SEEN * len(WORDS) * 3


def test_a_missing_set_is_reported_and_triplets_are_read_back(world, released):
    root, run = world
    code, out, err = finer1(CHECKOUT, "export-stage2", "released", str(root / "stage2"), "--output-root",
                            str(root / "runs"))
    assert code == 0, err
    (root / "data/stanford_cars").rename(root / "data/hidden")
    try:
        (code, out, err), folder = run("fewer", f"01_data.release={root / 'release'}", "01_data.descriptions_per_focus=1",
                                       f"01_data.triplets_file={root / 'stage2'}")
    finally:
        (root / "data/hidden").rename(root / "data/stanford_cars")
    assert code == 0, err + out
    data = json.loads((folder / "01_data/data.json").read_text())
    assert "no stanford_cars" in data["missing"]["car"] and "car" not in data["data_sets"]
    mine, theirs = (pandas.read_parquet(path / "triplets.parquet") for path in (folder / "01_data", released))
    kept = theirs[theirs["super_category"] != "car"]
    ids = ["image_id", "positive_id", "negative_id"]
    assert sorted(map(tuple, mine[ids].to_numpy())) == sorted(map(tuple, kept[ids].to_numpy()))

