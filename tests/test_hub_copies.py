"""A data set from a parquet copy: its own bytes written out once, every label through the name rules."""

import json

import pytest
from data_set_trees import CLASSES, NAMES, picture
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset

from finer1_lib.data_sets import collect, hub_copies
from finer1_lib.data_sets.catalogue import DATA_SETS
from finer1_lib.errors import UserError
from finer1_lib.image_folder import load_image

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LABELS = {"pet": [name.lower() for name in CLASSES["pet"]], "flower": NAMES["flower"][:3] + ["lotus lotus", "ball moss"],
          **{word: CLASSES[word] for word in ("aircraft", "bird", "car", "dog")}}  # fmt: skip


def copy_of(folder, word, named=False, labels=None):
    """Parquet files of a copy, three training pictures a class and two for testing; how it is loaded."""
    data_set = DATA_SETS[word]
    labels = labels or LABELS[word]
    kind = ClassLabel(names=[str(label) for label in labels])
    for split, parts in data_set.hub.splits.items():
        for part in parts:
            rows = [(k, 100 * k + i + 7 * (part == "validation")) for k in range(5)
                    for i in ((0, 1, 2) if split == "train" else (3, 4))]
            columns = {
                "image": [{"bytes": picture(seed, "PNG" if seed == 100 else "JPEG"),
                           "path": f"stem_{part}_{seed}.jpg" if named else None} for _, seed in rows],
                data_set.hub.label: [k for k, _ in rows],
            }
            features = {"image": Image(), data_set.hub.label: kind}
            if data_set.hub.file:
                columns[data_set.hub.file] = [f"{CLASSES[word][k]}_{part}_{seed}" for k, seed in rows]
                features[data_set.hub.file] = Value("string")
            (folder / "data").mkdir(parents=True, exist_ok=True)
            Dataset.from_dict(columns, Features(features)).to_parquet(folder / f"data/{part}-00000-of-00001.parquet")
    asked = []

    def load(name, revision, split):
        asked.append((name, revision, split))
        return load_dataset(str(folder), split=split, cache_dir=str(folder / "cache"))

    return load, asked


@pytest.mark.parametrize("word", sorted(LABELS))
def test_a_copy_gives_the_paper_s_names_and_its_own_bytes(tmp_path, word):
    load, asked = copy_of(tmp_path / "copy", word)
    root, data_set = tmp_path / "data", DATA_SETS[word]
    pictures = hub_copies.read_hub_copy(data_set, root, COMMIT, load)
    assert sorted({one.sub_category for one in pictures}) == sorted(NAMES[word])
    assert {(name, revision) for name, revision, _ in asked} == {(data_set.hub.name, COMMIT)}
    parts = len(data_set.hub.splits["train"])
    assert [one.split for one in pictures].count("train") == 15 * parts
    first = next(one for one in pictures if one.split == "train")
    assert first.file.read_bytes() == picture(0)
    assert any(one.file.suffix == ".png" for one in pictures)
    load_image(root, first.file.relative_to(root).as_posix())
    asked.clear()
    assert hub_copies.read_hub_copy(data_set, root, COMMIT, load) == pictures and not asked


def test_pictures_keep_the_names_that_the_copy_has(tmp_path):
    load, _ = copy_of(tmp_path / "pets", "pet")
    stems = {one.file.stem for one in hub_copies.read_hub_copy(DATA_SETS["pet"], tmp_path / "a", COMMIT, load)}
    assert "american_bulldog_train_101" in stems
    for named, stem in ((True, "stem_train_101"), (False, "row-train-00004")):
        load, _ = copy_of(tmp_path / f"birds{named}", "bird", named)
        pictures = hub_copies.read_hub_copy(DATA_SETS["bird"], tmp_path / f"b{named}", COMMIT, load)
        assert stem in {one.file.stem for one in pictures}


def test_the_table_takes_a_copy_beside_archives(tmp_path, monkeypatch):
    load, _ = copy_of(tmp_path / "copy", "pet")
    hub_copies.read_hub_copy(DATA_SETS["pet"], tmp_path, COMMIT, load)
    table, told, missing = collect.read_data_sets(
        ["pet", "bird"], tmp_path, hub_copies=[f"pet@{COMMIT}"], allow_incomplete=True)
    assert told["pet"]["source"] == "hub timm/oxford-iiit-pet" and set(missing) == {"bird"}
    assert table["image_id"].str.startswith("hub/pet/").all() and len(table) == 25
    with pytest.raises(UserError, match="5 in place of 37"):
        collect.read_data_sets(["pet"], tmp_path, hub_copies=[f"pet@{COMMIT}"])


def refused(tmp_path, match, word="pet", commit=COMMIT, load=None, **copy):
    load = load or copy_of(tmp_path / "copy", word, **copy)[0]
    with pytest.raises(UserError, match=match):
        hub_copies.read_hub_copy(DATA_SETS[word], tmp_path / "data", commit, load)
    assert not (tmp_path / "data/hub" / word).exists()
    assert not list((tmp_path / "data").rglob("*.*"))


def test_a_word_is_no_commit(tmp_path):
    refused(tmp_path, "pet@main names no commit", commit="main")


def test_the_newest_commit_is_written_down_and_held(tmp_path):
    load, asked = copy_of(tmp_path / "copy", "pet")
    answers = iter([COMMIT])
    for _ in range(2):  # the second time nobody is asked
        pictures = hub_copies.read_hub_copy(
            DATA_SETS["pet"], tmp_path, None, load, newest=lambda name: next(answers))
    assert len(pictures) == 25 and {revision for _, revision, _ in asked} == {COMMIT}
    assert json.loads((tmp_path / "hub/pet/index.json").read_text())["revision"] == COMMIT


def test_a_label_that_is_no_name(tmp_path):
    refused(tmp_path, "'1' is no class label", "flower", labels=["1", "10", "100", "101", "102"])


def test_what_cannot_be_had(tmp_path):
    def gone(*args, **kwargs):
        raise ConnectionError("no route\nto the host")

    refused(tmp_path, "split 'train', cannot be had: no route$", load=gone)


def test_a_column_that_is_not_there(tmp_path):
    def other(name, revision, split):
        return Dataset.from_dict({"picture": [1]})

    refused(tmp_path, "no column 'image'", load=other)


def test_a_path_in_place_of_a_picture_and_bytes_that_are_none(tmp_path):
    features = Features({"image": Image(), "label": ClassLabel(names=["pug"]), "image_id": Value("string")})

    def rows(content, stem="pug_1"):
        data = {"image": [content], "label": [0], "image_id": [stem]}
        return lambda name, revision, split: Dataset.from_dict(data, features)

    secret = tmp_path / "secret.jpg"
    secret.write_bytes(picture(1))
    refused(tmp_path, "only a path", load=rows({"bytes": None, "path": str(secret)}))
    refused(tmp_path, "no JPEG, PNG, GIF or WebP", load=rows({"bytes": b"MZ program", "path": None}))


def test_a_stem_cannot_leave_the_folder():
    for name in ("../../x", "a/../..", "..", ".hidden", "", "CON\x00"):
        assert "/" not in hub_copies._own_name({"image": {"path": name}}, "")
    assert hub_copies._own_name({"image": {"path": "C:\\pets\\Pug_1.JPG"}}, "") == "Pug_1"
    assert hub_copies._own_name({"image": {"path": None}}, "") == ""


def test_another_commit_does_not_replace_what_is_there(tmp_path):
    load, _ = copy_of(tmp_path / "copy", "pet")
    hub_copies.read_hub_copy(DATA_SETS["pet"], tmp_path, COMMIT, load)
    with pytest.raises(UserError, match="holds another copy"):
        hub_copies.read_hub_copy(DATA_SETS["pet"], tmp_path, "f" * 40, load)
    index = json.loads((tmp_path / "hub/pet/index.json").read_text())
    assert index["revision"] == COMMIT and len(index["pictures"]) == 25
