"""The six official archives, planted in their exact layouts, become one table with the paper's names."""

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pandas
import pytest
from data_set_trees import CLASSES, FOLDERS, NAMES, SIZE, TEST, TRAIN, plant, put
from hypothesis import given, settings, strategies as st
from PIL import Image

from finer1_lib.core.completions import normalise
from finer1_lib.core.errors import UserError
from finer1_lib.core.images import image_size, load_image, split_crop
from finer1_lib.data import sources
from finer1_lib.data.data_sets import archives, catalogue as names
from finer1_lib.data.data_sets.catalogue import DATA_SETS
from finer1_lib.data.rationales.parsing import split_names
from finer1_lib.data.split import COLUMNS, assign_shots, count_names
from finer1_lib.paper.facts import evaluation_sets

OFFICIAL = os.environ.get("FINER1_OFFICIAL_DATA")
WORDS = sorted(CLASSES)


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for word in WORDS:
        plant(root, word)
    return root


def read(root, words=WORDS, **options):
    return sources.read_data_sets(words, root, allow_incomplete=True, **options)


# Names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule, key, name", [
    (names.bird_name, "001.Black_footed_Albatross", "Black Footed Albatross"),
    (names.bird_name, "141.Artic_Tern", "Artic Tern"),
    (names.dog_name, "n02085936-Maltese_dog", "Maltese Dog"),
    (names.dog_name, "n02086240-Shih-Tzu", "Shih Tzu"),
    (names.dog_name, "n02102973-black-and-tan_coonhound", "Black And Tan Coonhound"),
    (names.pet_name, "staffordshire_bull_terrier_12", "Staffordshire Bull Terrier"),
    (names.flower_name, 1, "pink primrose"), (names.flower_name, 102, "blackberry lily"),
    (names.flower_name, 16, "globe flower"), (names.flower_name, 60, "pink and yellow dahlia"),
    (names.aircraft_name, "747-400", "Boeing 747-400"), (names.aircraft_name, "Boeing 717", "Boeing 717"),
    (names.aircraft_name, "A340-600", "Airbus A340-600"), (names.aircraft_name, "F-16A/B", "F-16A/B"),
    (names.aircraft_name, "F/A-18", "F/A-18"), (names.aircraft_name, "ATR-42", "ATR-42"),
    (names.aircraft_name, "BAE 146-200", "BAE 146-200"),
])
def test_name_rules(rule, key, name):
    assert rule(key) == name


def test_flowers_are_torchvision_s_but_for_three():
    from torchvision.datasets import Flowers102

    differ = {i: theirs for i, (ours, theirs) in enumerate(zip(names.FLOWERS, Flowers102.classes), start=1)
              if ours != theirs}
    assert differ == {16: "globe-flower", 60: "pink-yellow dahlia?", 93: "ball moss"}
    assert all(theirs in names.FLOWER_ALIASES[i] for i, theirs in differ.items())


@pytest.mark.skipif(not OFFICIAL, reason="FINER1_OFFICIAL_DATA is not set")
@pytest.mark.parametrize("word", ["bird", "pet"])
def test_every_path_of_the_release_gives_its_ground_truth(word):
    rows = [json.loads(line) for kind in ("seen", "unseen")
            for line in (Path(OFFICIAL) / f"{word}_{kind}.jsonl").read_text("utf-8").splitlines()]
    assert [row["image_path"] for row in rows
            if names.name_of_path(word, row["image_path"]) != row["ground_truth"]] == []
    assert len(rows) == DATA_SETS[word].test
    assert {row["ground_truth"] for row in rows} == names.official_names(word)


def test_a_number_is_no_name():
    with pytest.raises(ValueError, match="does not contain its name"):
        names.name_of_path("car", "stanford-cars/cars_test/00001.jpg")
    with pytest.raises(ValueError, match="1 to 102"):
        names.flower_name(0)


@pytest.mark.parametrize("word", WORDS)
def test_the_catalogue_agrees_with_the_paper_s_counts(word):
    entry = DATA_SETS[word]
    for kind, classes in (("seen", entry.seen), ("unseen", entry.unseen)):
        assert evaluation_sets()[word.capitalize(), kind][0] == classes
    assert entry.seen + entry.unseen == entry.classes
    assert sum(evaluation_sets()[word.capitalize(), kind][1] for kind in ("seen", "unseen")) == entry.test
    assert all(re.fullmatch(r"[0-9a-f]{32}|", md5) for _, md5 in entry.archives.values())
    known = names.official_names(word)
    assert set(NAMES[word]) <= known
    assert len(known) == len({normalise(name) for name in known}) == entry.classes
    assert all(split_names(f"{name}, {name}") == (name, name) for name in known)  # candidates in a row


def test_what_the_release_s_scorer_confuses():
    """Facts about all names at once: car names cut by two words, names within names, names of both."""
    cars = Counter(" ".join(name.split()[:-2]) for name in names.official_names("car"))
    shared = [count for count in cars.values() if count > 1]
    assert (len(shared), sum(shared)) == (22, 44)
    for word, pairs in {"dog": 1, "car": 0, "aircraft": 0, "bird": 0, "pet": 0}.items():
        known = [name.lower() for name in names.official_names(word)]
        assert sum(one in other for one in known for other in known if one != other) == pairs, word
    assert len(names.official_names("dog") & names.official_names("pet")) == 13


# Archives ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", WORDS)
def test_an_archive_gives_its_names_its_split_and_its_pictures(trees, word):
    table, told, missing = read(trees, [word])
    assert sorted(table["sub_category"].unique()) == sorted(NAMES[word]) and missing == {}
    per_class = table.groupby(["sub_category", "split"]).size().unstack()
    assert set(per_class["train"]) == {TRAIN} and set(per_class["test"]) == {TEST}
    assert told[word] == {"source": "archive", "complete": False, "classes": 5, "train": 25, "test": 10}
    for row in table.itertuples():
        image = load_image(trees, row.image_id)
        assert image.mode == "RGB" and image.size == (row.width, row.height) == SIZE


def test_a_picture_s_label_is_its_own(trees):
    """Cars: 00001.jpg exists twice; flowers: the label comes from a list; aircraft: from the line."""
    table, _, _ = read(trees)
    label = dict(zip(table["image_id"], table["sub_category"]))
    assert label["stanford_cars/cars_train/00001.jpg"] == "AM General Hummer SUV 2000"
    assert label["stanford_cars/cars_test/00003.jpg"] == "Acura RL Sedan 2012"
    assert label["flowers-102/jpg/image_00008.jpg"] == "globe flower"
    assert label["fgvc-aircraft-2013b/data/images/0000040.jpg#bottom=20"] == "F-16A/B"
    assert set(table["super_category"]) == set(WORDS) and len(table) == 6 * 35


@pytest.mark.parametrize("word", ["aircraft", "car", "pet"])
def test_torchvision_reads_the_same(trees, word):
    from torchvision import datasets

    def theirs(split):
        if word == "car":
            found = datasets.StanfordCars(trees, split=split)
            return {(Path(file).name, found.classes[label]) for file, label in found._samples}
        if word == "pet":
            found = datasets.OxfordIIITPet(trees, split="trainval" if split == "train" else split)
            return {(Path(file).name, found.classes[label])
                    for file, label in zip(found._images, found._labels)}
        found = datasets.FGVCAircraft(trees, split="trainval" if split == "train" else split)
        return {(Path(file).name, names.aircraft_name(found.classes[label]))
                for file, label in zip(found._image_files, found._labels)}

    table, _, _ = read(trees, [word])
    for split in ("train", "test"):
        part = table[table["split"] == split]
        ours = {(split_crop(row.image_id)[0].rpartition("/")[2], row.sub_category)
                for row in part.itertuples()}
        assert ours == theirs(split) and len(ours) == len(part)


def test_the_banner_is_cut_off_only_if_asked(trees):
    with_banner, without = (read(trees, ["aircraft"], crop_banner=crop)[0] for crop in (False, True))
    whole, cropped = (load_image(trees, table["image_id"][0]) for table in (with_banner, without))
    assert (whole.height, cropped.height) == (60, 40) and set(with_banner["height"]) == {60}
    assert whole.getpixel((5, 55)) == (255, 255, 255)
    assert whole.crop((0, 0, *cropped.size)).tobytes() == cropped.tobytes()


@given(st.text(max_size=12), st.integers(0, 99))
@settings(max_examples=50)
def test_only_an_ending_of_that_form_is_a_crop(name, rows):
    assert split_crop(f"{name}#bottom={rows}") == (name, rows)
    assert split_crop(f"{name}.jpg") == (f"{name}.jpg", 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_header_tells_the_size_that_is_shown(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("jpg", "png", "webp"):
        Image.new("RGB", (30, 40)).save(tmp_path / f"a.{kind}", exif=exif)
        shown = load_image(tmp_path, f"a.{kind}#bottom=5").size
        assert shown == ((30, 35) if orientation < 5 else (40, 25))
        assert image_size(tmp_path, f"a.{kind}#bottom=5") == shown


def test_a_crop_of_everything_is_refused(trees):
    image_id = "fgvc-aircraft-2013b/data/images/0000000.jpg#bottom=60"
    for reader in (load_image, image_size):
        with pytest.raises(UserError, match="60 pixel rows, of which 60"):
            reader(trees, image_id)


def test_kaggle_s_nested_folders_and_other_places_are_found(tmp_path):
    plant(tmp_path, "car", nested=True)
    assert read(tmp_path, ["car"])[0]["image_id"][0].startswith("stanford_cars/cars_test/cars_test/")
    for place in ("stanford-cars", "car"):
        shutil.move(next(path for path in tmp_path.iterdir()), tmp_path / place)
        assert len(read(tmp_path, ["car"])[0]) == 35
    (tmp_path / "stanford_cars").mkdir()
    shutil.move(tmp_path / "car", tmp_path / "stanford_cars/stanford_cars")
    assert len(read(tmp_path, ["car"])[0]) == 35
    shutil.move(tmp_path / "stanford_cars/stanford_cars", tmp_path / "car")
    (tmp_path / "car/devkit").rename(tmp_path / "car/kit")
    (tmp_path / "car/car_devkit").mkdir()
    (tmp_path / "car/kit").rename(tmp_path / "car/car_devkit/devkit")
    assert len(read(tmp_path, ["car"])[0]) == 35
    shutil.move(tmp_path / "car/cars_test_annos_withlabels.mat", tmp_path / "car/car_devkit/devkit")
    assert len(read(tmp_path, ["car"])[0]) == 35


def test_a_data_set_may_be_kept_elsewhere_and_linked(trees, tmp_path):
    """The user's link in data_root; a link further down, which an archive could bring, is refused."""
    plant(tmp_path / "far", "pet")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/oxford-iiit-pet").symlink_to(tmp_path / "far/oxford-iiit-pet")
    table, _, _ = read(tmp_path / "data", ["pet"])
    assert load_image(tmp_path / "data", table["image_id"][0]).size == SIZE
    inner = tmp_path / "far/oxford-iiit-pet/images" / Path(table["image_id"][0]).name
    inner.unlink()
    inner.symlink_to(next((trees / "oxford-iiit-pet/images").glob("*.jpg")))
    with pytest.raises(UserError, match="leads out of"):
        read(tmp_path / "data", ["pet"])
    for image_id in ("/etc/x.jpg", "../far/x.jpg", "./../x.jpg", "", "oxford-iiit-pet/../../far/x.jpg"):
        with pytest.raises(UserError, match="leads out of"):
            load_image(tmp_path / "data", image_id)


def test_dogs_nested_as_in_kaggle_s_copy(tmp_path):
    folder = plant(tmp_path, "dog")
    (folder / "images").mkdir()
    (folder / "Images").rename(folder / "images" / "Images")
    assert len(read(tmp_path, ["dog"])[0]) == 35


def test_dogs_in_lower_case_with_their_lists_apart(tmp_path):
    folder = plant(tmp_path, "dog")
    (folder / "Images").rename(folder / "images")
    (folder / "lists").mkdir()
    for split in ("train", "test"):
        (folder / f"{split}_list.mat").rename(folder / "lists" / f"{split}_list.mat")
    assert sorted(read(tmp_path, ["dog"])[0]["sub_category"].unique()) == sorted(NAMES["dog"])


# What is refused --------------------------------------------------------------------------------------------


def test_other_counts_are_refused_and_said(trees):
    with pytest.raises(UserError, match=r"Pet: 5 in place of 37 \(classes\), 25 in place of 3680"):
        sources.read_data_sets(["pet"], trees)


def test_official_counts_are_complete(trees, monkeypatch):
    small = DATA_SETS["pet"]._replace(classes=5, train=25, test=10)
    monkeypatch.setitem(DATA_SETS, "pet", small)
    assert sources.read_data_sets(["pet"], trees)[1]["pet"]["complete"] is True


def test_a_missing_set_never_blocks_the_others(tmp_path):
    plant(tmp_path, "pet")
    table, told, missing = read(tmp_path, ["bird", "pet"])
    assert set(told) == {"pet"} and set(table["super_category"]) == {"pet"}
    assert "CUB_200_2011" in missing["bird"] and "unpack CUB_200_2011.tgz" in missing["bird"]
    with pytest.raises(UserError, match="no data set: bird: no CUB_200_2011"):
        read(tmp_path, ["bird"])


def test_wrong_words_and_roots_are_told(trees, tmp_path):
    for words, message in ((["birds"], "did you mean bird"), (["pet", "pet"], "twice")):
        with pytest.raises(UserError, match=message):
            read(trees, words)
    with pytest.raises(UserError, match="is not a folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="hub_copies names 'dog'"):
        read(trees, ["pet"], hub_copies=["dog"])


def planted(tmp_path, word):
    return plant(tmp_path, word), lambda: read(tmp_path, [word])


def test_a_listed_picture_that_is_not_there(tmp_path):
    folder, again = planted(tmp_path, "flower")
    (folder / "jpg/image_00003.jpg").unlink()
    with pytest.raises(UserError, match="1 of 35 listed images are not there, .*image_00003.jpg"):
        sources.read_data_sets(["flower"], tmp_path)
    table, told, _ = again()  # allow_incomplete: what is there, and said so
    assert len(table) == 34 and told["flower"] == {
        "source": "archive", "complete": False, "classes": 5, "train": 24, "test": 10}


def test_names_of_two_data_sets_count_twice_as_in_the_paper():
    """All 755 names, of which dogs and pets share 13: 452 are seen and 303 unseen, as the paper has it."""
    rows = [(f"{word}/{name}/{i}", word, name, "train" if i < 4 else "test", 1, 1)
            for word in WORDS for name in sorted(names.official_names(word)) for i in range(5)]
    columns = ["image_id", "super_category", "sub_category", "split", "width", "height"]
    split = assign_shots(pandas.DataFrame(rows, columns=columns), {}, seed=0)
    assert count_names(split) == 755 and split["sub_category"].nunique() == 742
    for kind, paper in (("seen", 452), ("unseen", 303)):
        assert count_names(split[split["categories"] == kind]) == paper


@pytest.mark.parametrize("content", [
    b"", b"\n\n", b"<html>404</html>\n", b"MATLAB 7.3 MAT-file, " + b" " * 103 + b"\0\2IM\x89HDF", bytes(400),
    None])
@pytest.mark.parametrize(("word", "file"), [
    ("car", "cars_test_annos_withlabels.mat"), ("car", "devkit/cars_meta.mat"), ("dog", "train_list.mat"),
    ("flower", "imagelabels.mat")])
def test_whatever_is_wrong_with_a_list_of_matlab_s_is_one_line(tmp_path, word, file, content):
    folder, again = planted(tmp_path, word)
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[: len(data) // 2] if content is None else content)
    with pytest.raises(UserError, match=f"{DATA_SETS[word].title}: .*; "):
        again()


def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path, monkeypatch):
    folder, again = planted(tmp_path, "bird")

    def closed(path, *more):
        raise PermissionError(13, "Permission denied", str(path))

    for method in ("iterdir", "is_file"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, closed)
            with pytest.raises(UserError, match=r"CUB_200_2011.*: cannot be read \(Permission denied\)"):
                again()


def of_another(folder):
    file = folder / "data/images_variant_trainval.txt"
    file.write_text(file.read_text().replace("Cessna 525", "Cessna Citation"))


def absolute(folder):
    outside = put(folder.parents[1] / "elsewhere/1.jpg", next((folder / "data/images").glob("*.jpg")).read_bytes())
    file = folder / "data/images_variant_test.txt"
    first, *lines = file.read_text().splitlines()
    file.write_text("\n".join([f"{outside.with_suffix('')} {first.partition(' ')[2]}", *lines]))


def twice(folder):
    file = folder / "data/images_variant_test.txt"
    file.write_text(file.read_text() + file.read_text().splitlines()[0] + "\n")


def relative(folder):
    put(folder.parents[1] / "outside.jpg", next((folder / "images").rglob("*.jpg")).read_bytes())
    lines = (folder / "images.txt").read_text().splitlines()
    lines[0] = "1 001.Black_footed_Albatross/../../../../outside.jpg"
    (folder / "images.txt").write_text("\n".join(lines))


@pytest.mark.parametrize("word, damage, told", [
    ("aircraft", of_another, "'Cessna Citation' is none of its 100 sub-categories"),
    ("aircraft", absolute, "leads out of it"), ("aircraft", twice, "one image twice"),
    ("bird", relative, "leads out of"),
    ("pet", lambda folder: put(next((folder / "images").glob("Bengal_*.jpg")), b"torn"), "Bengal_.*not a whole image"),
    ("flower", lambda folder: (folder / "setid.mat").write_bytes(b"no MATLAB file"), "a list in .* cannot be read"),
    ("flower", lambda folder: (folder / "setid.mat").unlink(), "setid.mat is missing"),
])
def test_what_is_refused_though_incomplete(tmp_path, word, damage, told):
    folder, again = planted(tmp_path / "data", word)
    damage(folder)
    with pytest.raises(UserError, match=told):
        again()


# Shots ------------------------------------------------------------------------------------------------------


def lists_of(word, seen=3):
    return {word: {"seen": NAMES[word][:seen], "unseen": NAMES[word][seen:]}}


def test_shots_come_from_training_pictures_of_seen_names(trees):
    table, _, _ = read(trees)
    lists = {word: lists_of(word)[word] for word in WORDS}
    split = assign_shots(table, lists, seed=0)
    assert list(split.columns) == COLUMNS
    shots = split[split["shot"] >= 0]
    assert set(shots["categories"]) == {"seen"} and set(shots["split"]) == {"train"}
    by_name = shots.groupby(["super_category", "sub_category"])["shot"]
    assert by_name.apply(sorted).tolist() == [[0, 1, 2, 3]] * 18
    for word in WORDS:
        part = split[split["super_category"] == word]
        assert set(part.loc[part["categories"] == "seen", "sub_category"]) == set(NAMES[word][:3])


def test_another_set_or_seed_moves_no_one_else_s_shots(trees):
    both, alone = (read(trees, words)[0] for words in (["bird", "pet"], ["pet"]))
    first, second, third = (
        assign_shots(table, {}, seed=seed).query("super_category == 'pet'").reset_index(drop=True)
        for table, seed in ((both, 0), (alone, 0), (alone, 1)))
    assert first.equals(second) and not second.equals(third)


def test_the_rationale_s_picture_is_shot_0(trees):
    table, _, _ = read(trees, ["pet"])
    train = table.query("split == 'train' and sub_category == 'Pug'")["image_id"]
    for image_id in train:
        split = assign_shots(table, lists_of("pet", 4), seed=0, first={("pet", "Pug"): image_id})
        assert split.query("sub_category == 'Pug' and shot == 0")["image_id"].tolist() == [image_id]
        assert sorted(split.query("sub_category == 'Pug' and shot >= 0")["shot"]) == [0, 1, 2, 3]
    test = table.query("split == 'test' and sub_category == 'Pug'")["image_id"].iloc[0]
    with pytest.raises(UserError, match="is not a training image"):
        assign_shots(table, lists_of("pet", 4), seed=0, first={("pet", "Pug"): test})
    with pytest.raises(UserError, match="not a seen sub-category"):
        assign_shots(table, lists_of("pet"), seed=0, first={("pet", "Pug"): train.iloc[0]})


def test_lists_must_part_the_names(trees):
    table, _, _ = read(trees, ["pet"])
    for given_lists, message in (
        ({"pet": {"seen": NAMES["pet"], "unseen": ["Pug"]}}, "both seen and unseen"),
        ({"pet": {"seen": NAMES["pet"][:3], "unseen": []}}, "neither seen nor unseen"),
    ):
        with pytest.raises(UserError, match=message):
            assign_shots(table, given_lists, seed=0)
    with pytest.raises(UserError, match="1 of 5 sub-categories are seen"):
        assign_shots(table, lists_of("pet", 1), seed=0)
    with pytest.raises(UserError, match=r"pet: 3 .* 6 shots needs 6 to train on: Abyssinian \(5\), American Bulldog \(5\), Bengal"):
        assign_shots(table, lists_of("pet"), seed=0, num_shots=6)


def test_folders_are_known(trees):
    for word in WORDS:
        assert archives.find_archive(DATA_SETS[word], trees) == trees / FOLDERS[word]


def test_all_that_is_broken_can_be_had_at_once(tmp_path):
    folder, _ = planted(tmp_path, "pet")
    torn = sorted((folder / "images").glob("*.jpg"))[3:6]
    for file in torn:
        file.write_bytes(b"torn")
    broken = {}
    table, _, _ = read(tmp_path, ["pet"], broken=broken)
    assert sorted(broken) == [file.relative_to(tmp_path).as_posix() for file in torn] and len(table) == 32
    assert all("not a whole image" in why for why in broken.values())


def test_what_01_writes_or_nobody_reads_changes_no_signature(tmp_path):
    """Else a killed run would begin anew for its own Hub copies, for an archive deleted, for git's index."""
    from finer1_lib.runs.fingerprints import signature_of

    folder = plant(tmp_path / "data", "pet")
    release = tmp_path / "data/release"
    put(release / "eval/data/pet_seen.jsonl", "{}\n")

    def signature(words=("pet",), copies=()):
        return signature_of({"data_root": str(tmp_path / "data"), "release": str(release), "data_sets": list(words),
                             "hub_copies": list(copies)}, {})

    before = signature(), signature(("pet", "bird"), ["bird"])
    for file in ("hub/bird/index.json", "stage2/1.png", "images.tar.gz", "release/.git/index", "release/train.log"):
        put(tmp_path / "data" / file, "new")
    plant(tmp_path / "data", "dog")
    assert (signature(), signature(("pet", "bird"), ["bird"])) == before
    put(release / "eval/data/pet_seen.jsonl", '{"a": 1}\n')
    changed = signature()
    assert changed != before[0]
    put(next((folder / "images").glob("*.jpg")), "another picture")
    assert signature() != changed
