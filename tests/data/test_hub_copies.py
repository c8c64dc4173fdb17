"""A data set from a parquet copy: its own bytes written out once, every label through the name rules."""

import json

import pytest
from data_set_trees import CLASSES, NAMES, picture, plant
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset

from finer1_lib.core.errors import UserError
from finer1_lib.core.images import load_image
from finer1_lib.data import sources
from finer1_lib.data.data_sets import archives
from finer1_lib.data.data_sets.catalogue import DATA_SETS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LABELS = {"pet": [name.lower() for name in CLASSES["pet"]],
          "flower": NAMES["flower"][:3] + ["lotus lotus", "ball moss"],
          **{word: CLASSES[word] for word in ("aircraft", "bird", "car", "dog")}}


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
            file = folder / f"data/{part}-00000-of-00001.parquet"
            Dataset.from_dict(columns, Features(features)).to_parquet(file)
    asked = []

    def load(name, revision, split, streaming):
        asked.append((name, revision, split))
        return load_dataset(str(folder), split=split, cache_dir=str(folder / "cache"), streaming=streaming)

    return load, asked


def read(word, root, load, commit=COMMIT):
    return archives.read_hub_copy(DATA_SETS[word], root, commit, load)[0]


@pytest.mark.parametrize("word", sorted(LABELS))
def test_a_copy_gives_the_paper_s_names_and_its_own_bytes(tmp_path, word):
    load, asked = copy_of(tmp_path / "copy", word)
    root, data_set = tmp_path / "data", DATA_SETS[word]
    pictures = read(word, root, load)
    assert sorted({one.sub_category for one in pictures}) == sorted(NAMES[word])
    assert {(name, revision) for name, revision, _ in asked} == {(data_set.hub.name, COMMIT)}
    parts = len(data_set.hub.splits["train"])
    assert [one.split for one in pictures].count("train") == 15 * parts
    first = next(one for one in pictures if one.split == "train")
    assert first.file.read_bytes() == picture(0)
    assert any(one.file.suffix == ".png" for one in pictures)
    load_image(root, first.file.relative_to(root).as_posix())
    asked.clear()
    assert read(word, root, load) == pictures and not asked


def test_splits_that_nobody_asked_for_are_left_where_they_are(tmp_path):
    load, _ = copy_of(tmp_path / "copy", "car")
    fog = tmp_path / "copy/data/fog-00000-of-00001.parquet"
    fog.write_bytes(b"another split, which a plain load would prepare")
    assert len(read("car", tmp_path / "data", load)) == 25


def test_downloads_tell_how_far_they_are(tmp_path):
    load, _ = copy_of(tmp_path / "copy", "bird")
    calls = []
    for _ in range(2):  # the second time nothing is downloaded
        archives.read_hub_copy(
            DATA_SETS["bird"], tmp_path, COMMIT, load, progress=lambda *one: calls.append(one))
    assert calls == [(number, 5994 + 5794) for number in range(1, 26)]


def test_pictures_keep_the_names_that_the_copy_has(tmp_path):
    load, _ = copy_of(tmp_path / "pets", "pet")
    stems = {one.file.stem for one in read("pet", tmp_path / "a", load)}
    assert "american_bulldog_train_101" in stems
    for named, stem in ((True, "stem_train_101"), (False, "row-train-00004")):
        load, _ = copy_of(tmp_path / f"birds{named}", "bird", named)
        assert stem in {one.file.stem for one in read("bird", tmp_path / f"b{named}", load)}


def test_the_table_takes_a_copy_beside_archives(tmp_path, monkeypatch):
    load, _ = copy_of(tmp_path / "copy", "pet")
    read("pet", tmp_path, load)
    table, told, missing = sources.read_data_sets(
        ["pet", "bird"], tmp_path, hub_copies=[f"pet@{COMMIT}"], allow_incomplete=True)
    assert told["pet"]["source"] == f"hub timm/oxford-iiit-pet@{COMMIT}" and set(missing) == {"bird"}
    assert table["image_id"].str.startswith("hub/pet/").all() and len(table) == 25
    with pytest.raises(UserError, match="5 in place of 37"):
        sources.read_data_sets(["pet"], tmp_path, hub_copies=[f"pet@{COMMIT}"])


def refused(tmp_path, match, word="pet", commit=COMMIT, load=None, **copy):
    load = load or copy_of(tmp_path / "copy", word, **copy)[0]
    with pytest.raises(UserError, match=match):
        archives.read_hub_copy(DATA_SETS[word], tmp_path / "data", commit, load)
    assert not (tmp_path / "data/hub" / word).exists()
    assert not list((tmp_path / "data").rglob("*.*"))


def test_a_word_is_no_commit(tmp_path):
    refused(tmp_path, "pet@main names no commit", commit="main")


def test_the_newest_commit_is_written_down_and_held(tmp_path):
    load, asked = copy_of(tmp_path / "copy", "pet")
    answers = iter([COMMIT])
    for _ in range(2):  # the second time nobody is asked
        pictures, commit = archives.read_hub_copy(
            DATA_SETS["pet"], tmp_path, None, load, newest=lambda name: next(answers))
    assert len(pictures) == 25 and commit == COMMIT and {revision for _, revision, _ in asked} == {COMMIT}
    assert json.loads((tmp_path / "hub/pet/index.json").read_text())["revision"] == COMMIT


@pytest.mark.parametrize("word, labels, told", [
    ("flower", ["1", "10", "100", "101", "102"], "'1' is not a class label"),
    ("car", [name.lower() for name in CLASSES["car"]], "'am general hummer suv 2000' is no"),
    ("dog", CLASSES["pet"], "'Abyssinian' is not a class label of the data set 'dog'"),
    ("pet", ["abyssinian", "american_bulldog", "bengal", "pug", "wolf"], "'Wolf' is not a class label"),
])
def test_a_label_that_is_no_name_of_the_data_set(tmp_path, word, labels, told):
    refused(tmp_path, told, word, labels=labels)


def gone(*args, **kwargs):
    raise ConnectionError("no route\nto the host")


def test_what_cannot_be_had(tmp_path):
    refused(tmp_path, "split 'train', cannot be had: no route$", load=gone)


def test_a_stream_that_breaks_off_leaves_nothing(tmp_path):
    load, _ = copy_of(tmp_path / "copy", "pet")

    def breaks(name, revision, split, streaming):
        found = load(name, revision, split, streaming)
        return found if split == "train" else found.map(gone, features=found.features)

    refused(tmp_path, "split 'test', cannot be had: no route$", load=breaks)


def test_a_hub_out_of_reach_is_a_data_set_that_is_missing(tmp_path, monkeypatch):
    plant(tmp_path, "bird")
    monkeypatch.setattr("datasets.load_dataset", gone)
    table, told, missing = sources.read_data_sets(
        ["bird", "pet"], tmp_path, hub_copies=[f"pet@{COMMIT}"], allow_incomplete=True)
    assert set(told) == {"bird"} == set(table["super_category"]) and missing["pet"].endswith("had: no route")
    with pytest.raises(UserError, match="no data set: pet: timm/oxford-iiit-pet .* no route"):
        sources.read_data_sets(["pet"], tmp_path, hub_copies=[f"pet@{COMMIT}"])


def test_a_column_that_is_not_there(tmp_path):
    def other(name, revision, split, streaming):
        return Dataset.from_dict({"picture": [1]})

    refused(tmp_path, "no column 'image'", load=other)


def test_a_path_in_place_of_a_picture_and_bytes_that_are_none(tmp_path):
    features = Features({"image": Image(), "label": ClassLabel(names=["pug"]), "image_id": Value("string")})

    def rows(content, label=0, times=1):
        data = {"image": [content] * times, "label": [label] * times, "image_id": ["pug_1"] * times}
        return lambda name, revision, split, streaming: Dataset.from_dict(data, features)

    secret = tmp_path / "secret.jpg"
    secret.write_bytes(picture(1))
    refused(tmp_path, "row 0 of train holds no image", load=rows({"bytes": None, "path": str(secret)}))
    refused(tmp_path, "row 0 of train holds no image", load=rows(None))
    refused(tmp_path, "two images of train are called pug_1",
            load=rows({"bytes": picture(1), "path": None}, times=2))
    refused(tmp_path, "an image of train has the label -1",
            load=rows({"bytes": picture(1), "path": None}, label=-1))
    refused(tmp_path, "no JPEG, PNG, GIF or WebP", load=rows({"bytes": b"MZ program", "path": None}))


def test_a_stem_cannot_leave_the_folder():
    for name in ("../../x", "a/../..", "..", ".hidden", "", "CON\x00"):
        assert "/" not in archives._own_name({"image": {"path": name}}, "")
    assert archives._own_name({"image": {"path": "C:\\pets\\Pug_1.JPG"}}, "") == "Pug_1"
    assert archives._own_name({"image": {"path": None}}, "") == ""


def test_another_commit_does_not_replace_what_is_there(tmp_path):
    load, _ = copy_of(tmp_path / "copy", "pet")
    read("pet", tmp_path, load)
    with pytest.raises(UserError, match="holds another copy"):
        read("pet", tmp_path, load, "f" * 40)
    index = json.loads((tmp_path / "hub/pet/index.json").read_text())
    assert index["revision"] == COMMIT and len(index["pictures"]) == 25
