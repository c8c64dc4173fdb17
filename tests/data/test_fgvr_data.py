"""A folder of folders becomes a table, a split and items; every mistake in it is named."""

import json
import os
import shutil
from pathlib import Path

import numpy
import pandas
import pytest
from hypothesis import given, strategies as st
from PIL import Image
from shared_cases import UNHURRIED

from finer1_lib.core.errors import UserError
from finer1_lib.core.images import load_image
from finer1_lib.data.folder import read_table
from finer1_lib.data.guide import guide_similarity, read_guide
from finer1_lib.data.split import count_names, evaluation_items, nearest_names, split_table



def paint(path: Path, number: int, size=(24, 20), **save) -> Path:
    """An image of its own: noise seeded by a number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = numpy.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=numpy.uint8)
    Image.fromarray(pixels).save(path, **save)
    return path


def folder(root: Path, classes=5, images=8, supers=("bird", "aircraft"), flat=False) -> Path:
    """A small well-formed folder."""
    number = 0
    for super_category in supers:
        for c in range(classes):
            for i in range(images):
                number += 1
                top = root if flat else root / super_category
                paint(top / f"{super_category[0].upper()}_kind_{c}" / f"{i:03d}.png", number)
    return root


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return read_table(folder(tmp_path_factory.mktemp("images")))


def test_two_levels_become_a_table(table):
    assert list(table.columns) == ["image_id", "super_category", "sub_category", "width", "height"]
    assert len(table) == 80 and set(table["super_category"]) == {"bird", "aircraft"}
    assert table.iloc[0].to_dict() == {"image_id": "aircraft/A_kind_0/000.png", "super_category": "aircraft",
                                       "sub_category": "A kind 0", "width": 24, "height": 20}
    assert table["image_id"].is_monotonic_increasing and table["image_id"].is_unique


def test_one_level_takes_the_parameter(tmp_path):
    table = read_table(folder(tmp_path, supers=("bird",), flat=True), super_category="garden_bird")
    assert set(table["super_category"]) == {"garden bird"} and len(set(table["sub_category"])) == 5


def test_hidden_and_other_files_are_left_alone(tmp_path):
    root = folder(tmp_path, classes=1, images=1, supers=("bird",))
    (root / "bird" / "B_kind_0" / ".DS_Store").write_text("x")
    (root / "bird" / "B_kind_0" / "._000.png").write_text("not an image")
    (root / "bird" / "B_kind_0" / "notes.txt").write_text("x")
    (root / "README.md").write_text("x")
    paint(root / ".cache" / "thing" / "a.png", 99)
    paint(root / "bird" / "B_kind_0" / "001.JPG", 98)
    assert list(read_table(root)["image_id"]) == ["bird/B_kind_0/000.png", "bird/B_kind_0/001.JPG"]


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_image_is_named(tmp_path, kind, share):
    root = folder(tmp_path, classes=2, images=2, supers=("bird",))
    path = paint(root / "bird" / "B_kind_0" / f"broken.{kind}", 7, size=(80, 80))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match=rf"broken\.{kind}.*(replace|take it out)") as caught:
        read_table(root)
    assert "\n" not in str(caught.value)


def test_corrupt_bytes_and_text_are_named(tmp_path):
    path = paint(tmp_path / "a" / "x.png", 1, size=(60, 60))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"x\.png"):
        read_table(tmp_path)
    path.write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"x\.png"):
        read_table(tmp_path)


def test_orientation_transparency_and_depth(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    paint(tmp_path / "a" / "turned.jpg", 1, size=(30, 10), exif=exif)
    assert load_image(tmp_path, "a/turned.jpg").size == (10, 30)
    Image.new("RGBA", (9, 9), (255, 0, 0, 0)).save(tmp_path / "a" / "clear.png")
    assert load_image(tmp_path, "a/clear.png").getpixel((4, 4)) == (255, 255, 255)
    Image.fromarray(numpy.full((9, 9), 256 * 100, dtype=numpy.uint16)).save(tmp_path / "a" / "deep.png")
    assert load_image(tmp_path, "a/deep.png").getpixel((4, 4)) == (100, 100, 100)
    palette = Image.new("P", (9, 9), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "a" / "palette.png")
    assert load_image(tmp_path, "a/palette.png").getpixel((0, 0)) == (10, 20, 30)
    Image.new("CMYK", (9, 9)).save(tmp_path / "a" / "print.jpg")
    assert load_image(tmp_path, "a/print.jpg").mode == "RGB"


def test_needle_thin_images_are_refused_early(tmp_path):
    paint(tmp_path / "a" / "thin.png", 1, size=(400, 2))
    with pytest.raises(UserError, match="too narrow"):
        read_table(tmp_path)


def test_links_may_not_leave_the_root(tmp_path):
    outside = paint(tmp_path / "outside" / "a.png", 1)
    root = folder(tmp_path / "images", classes=1, images=1, supers=("bird",))
    os.symlink(outside, root / "bird" / "B_kind_0" / "linked.png")
    with pytest.raises(UserError, match="leads out of"):
        read_table(root)
    (root / "bird" / "B_kind_0" / "linked.png").unlink()
    os.symlink(tmp_path / "outside", root / "bird" / "linked")
    with pytest.raises(UserError, match="leads out of"):
        read_table(root)
    with pytest.raises(UserError, match="leads out of"):
        load_image(root, "../outside/a.png")
    os.symlink(tmp_path / "outside", tmp_path / "door")  # the root itself may be a link
    assert load_image(tmp_path / "door", "a.png").size == (24, 20)


def test_layout_mistakes(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        read_table(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no .png"):
        read_table(tmp_path)
    paint(tmp_path / "a" / "x.png", 1)
    paint(tmp_path / "b" / "c" / "x.png", 2)
    with pytest.raises(UserError, match="images both in"):
        read_table(tmp_path)
    shutil.rmtree(tmp_path / "b")
    paint(tmp_path / "loose.png", 3)
    with pytest.raises(UserError, match="loose.png"):
        read_table(tmp_path)


@pytest.mark.parametrize("name", ["Wren, Dunen", "a<b>", "Boeing 737 (early)", "a:b", "___", "Inc."])
def test_names_that_break_a_list_of_candidates(tmp_path, name):
    paint(tmp_path / name / "x.png", 1)
    with pytest.raises(UserError, match="rename"):
        read_table(tmp_path)


def test_two_spellings_of_one_name(tmp_path):
    paint(tmp_path / "Red-winged Wren" / "x.png", 1)
    paint(tmp_path / "red_winged_wren" / "x.png", 2)
    with pytest.raises(UserError, match="same name"):
        read_table(tmp_path)


def test_duplicates(tmp_path):
    first = paint(tmp_path / "a" / "x.png", 1)
    (tmp_path / "a" / "y.png").write_bytes(first.read_bytes())
    table = read_table(tmp_path)
    assert list(table["image_id"]) == ["a/x.png"] and table.attrs["duplicates"] == ["a/y.png"]
    paint(tmp_path / "b" / "z.png", 1)
    with pytest.raises(UserError, match="under another name"):
        read_table(tmp_path)


def test_split_counts_by_hand(table):
    split = split_table(table, seed=0)
    classes = split.drop_duplicates("sub_category").groupby(["super_category", "categories"]).size()
    assert classes.to_dict() == {("bird", "seen"): 3, ("bird", "unseen"): 2, ("aircraft", "seen"): 3,
                                 ("aircraft", "unseen"): 2}
    for name, images in split.groupby("sub_category"):
        shots = sorted(images["shot"])
        assert shots == ([-1] * 4 + [0, 1, 2, 3] if (images["categories"] == "seen").all() else [-1] * 8), name
        assert list(images["split"]).count("test") == 4
    assert (split[split["shot"] >= 0]["split"] == "train").all()


@UNHURRIED
@given(seed=st.integers(0, 10**6), shots=st.integers(3, 6), share=st.floats(0.4, 0.8))
def test_split_properties(table, seed, shots, share):
    split = split_table(table, seed=seed, num_shots=shots, seen_share=share)
    assert split.equals(split_table(table, seed=seed, num_shots=shots, seen_share=share))
    assert split["image_id"].equals(table["image_id"])
    by_name = split.groupby("sub_category")["categories"].nunique()
    assert (by_name == 1).all()
    seen = split[split["categories"] == "seen"].groupby("sub_category")
    assert all(sorted(part[part["shot"] >= 0]["shot"]) == list(range(shots)) for _, part in seen)
    assert split[split["split"] == "test"].groupby("sub_category").size().min() >= 1
    assert (split[split["split"] == "test"]["shot"] == -1).all()


def test_another_folder_leaves_the_others_draws_alone(table):
    fewer = table[table["super_category"] == "bird"].reset_index(drop=True)
    both = split_table(table, seed=3)
    assert split_table(fewer, seed=3).equals(both[both["super_category"] == "bird"].reset_index(drop=True))


def test_paper_counts_come_from_the_floor():
    for classes, seen in {100: 60, 200: 120, 196: 117, 120: 72, 102: 61, 37: 22}.items():
        rows = [(f"{c}/{i}", "x", str(c), 1, 1) for c in range(classes) for i in range(5)]
        columns = ["image_id", "super_category", "sub_category", "width", "height"]
        split = split_table(pandas.DataFrame(rows, columns=columns), seed=0)
        assert split[split["categories"] == "seen"]["sub_category"].nunique() == seen


def test_split_mistakes(table):
    def without(mask):
        return table[~mask].reset_index(drop=True)

    for bad in ({"num_shots": 2}, {"seen_share": 0.0}, {"seen_share": 1.0}, {"train_share": 1.0}):
        with pytest.raises(UserError):
            split_table(table, seed=0, **bad)
    with pytest.raises(UserError, match="aircraft: 3 sub-categories"):
        split_table(without(table["sub_category"].isin(["A kind 0", "A kind 1"])), seed=0)
    with pytest.raises(UserError, match=r"a seen one with 4 shots needs 5: [AB] kind \d \(3\)\);"):
        seen = split_table(table, seed=0).query("categories == 'seen'")["sub_category"].iloc[0]
        split_table(without((table["sub_category"] == seen) & (table["image_id"].str[-7:] > "002.png")), seed=0)
    with pytest.raises(UserError, match="1 of 5 sub-categories are seen"):
        split_table(table, seed=0, seen_share=0.3)


def guide_of(table, seen_count=3):
    """Attributes that make `X kind n` and `X kind m` differ in |n - m| of four places."""
    guide = {"super_categories": {}, "sub_categories": {}, "seen": [], "unseen": []}
    for (super_category, name), _ in table.groupby(["super_category", "sub_category"]):
        n = int(name[-1])
        attributes = {f"part{p}": "high" if p < n else "low" for p in range(4)}
        values = {part: ["high", "low"] for part in attributes}
        guide["super_categories"][super_category] = {"attributes": values, "genus_attributes": []}
        guide["sub_categories"][name] = {"super_category": super_category, "genus": "g", "attributes": attributes}
        guide["seen" if n < seen_count else "unseen"].append(name)
    return guide


def test_the_guide_decides_the_split(table, tmp_path):
    path = tmp_path / "guide.json"
    path.write_text(json.dumps(guide_of(table)))
    split = split_table(table, seed=5, guide=read_guide(path, table))
    assert set(split[split["categories"] == "seen"]["sub_category"]) == set(guide_of(table)["seen"])


def test_a_guide_that_does_not_fit(table, tmp_path):
    path = tmp_path / "guide.json"
    path.write_text("{")
    with pytest.raises(UserError, match="not a readable guide"):
        read_guide(path, table)
    guide = guide_of(table)
    path.write_text(json.dumps({**guide, "unseen": guide["unseen"][1:]}))
    with pytest.raises(UserError, match="part the sub-categories"):
        read_guide(path, table)
    del guide["sub_categories"]["A kind 0"]
    path.write_text(json.dumps(guide))
    with pytest.raises(UserError, match="A kind 0"):
        read_guide(path, table)


def changed(guide, path: str, value):
    """The guide with one entry replaced, or left out where the value is `None`."""
    *outer, last = path.split("/")
    inner = guide
    for key in outer:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return guide


@pytest.mark.parametrize(("path", "value", "told"), [
    ("sub_categories/A kind 0/genus", None, "sub_categories > A kind 0 > genus: field required"),
    ("sub_categories/A kind 0/genus", 3, "genus: input should be a valid string"),
    ("sub_categories/A kind 0/genus", " ", "'A kind 0' has an empty genus"),
    ("sub_categories/A kind 0/attributes", None, "attributes: field required"),
    ("sub_categories/A kind 0/attributes", ["high"], "attributes: input should be a valid dictionary"),
    ("sub_categories/A kind 0/attributes", {}, "'A kind 0' has no attributes"),
    ("sub_categories/A kind 0/attributes/part1", None, "'part1' of 'A kind 0' does not fit"),
    ("sub_categories/A kind 0/attributes/part1", "blue", "'part1' of 'A kind 0' does not fit"),
    ("sub_categories/A kind 0/attributes/part1", 1, "part1: input should be a valid string"),
    ("sub_categories/A kind 0/attributes/tail", "long", "'tail' of 'A kind 0' does not fit"),
    ("sub_categories/A kind 0/super_category", "Aircraft", "disagree about 'A kind 0' of 'Aircraft'"),
    ("sub_categories/A kind 0", "x", "A kind 0: input should be a valid dictionary"),
    ("sub_categories", ["A kind 0"], "sub_categories: input should be a valid dictionary"),
    ("super_categories", None, "super_categories: field required"),
    ("super_categories/bird", None, "'bird' of 'B kind 0' is not an entry of super_categories (and 4 more"),
    ("super_categories/bird/attributes", None, "bird > attributes: field required"),
    ("super_categories/bird/attributes/part0", "high", "part0: input should be a valid list"),
    ("super_categories/bird/attributes/part0", [], "part0: list should have at least 1 item"),
    ("super_categories/bird/genus_attributes", None, "genus_attributes: field required"),
    ("super_categories/bird/genus_attributes", ["wing"], "'wing' of the genus_attributes of 'bird' is none"),
    ("seen", None, "seen: field required"), ("seen", "all", "seen: input should be a valid list"),
    ("unseen", [3], "unseen > 0: input should be a valid string"),
])
def test_what_a_guide_lacks_or_has_of_another_type_is_named(table, tmp_path, path, value, told):
    file = tmp_path / "guide.json"
    file.write_text(json.dumps(changed(guide_of(table), path, value)))
    with pytest.raises(UserError) as caught:
        read_guide(file, table)
    assert all(part in str(caught.value) for part in (told, "guide.json", "; correct the guide"))


@pytest.mark.parametrize(("content", "told"), [
    (b"[1]", "the guide: input should be a valid dictionary"), (b"null", "the guide: input"),
    (b"", "not a readable"),
    (b"[" * 100_000, "nested too deeply"), (b'{"seen": [], "seen": []}', "'seen' is listed twice"),
    (b'{"seen": ["\\ud800"]}', "half a sign"), (b'{"seen": ["B\xfclb\xfcl"]}', "line 1 is not UTF-8"),
])
def test_a_guide_that_cannot_be_read_is_one_line(table, tmp_path, content, told):
    (tmp_path / "guide.json").write_bytes(content)
    for file, why in (("guide.json", told), (".", "Is a directory"), ("no", "No such")):
        with pytest.raises(UserError, match=why):
            read_guide(tmp_path / file, table)


def test_all_thin_sub_categories_are_named_and_a_name_of_two_super_categories_counts_twice(table):
    small = table[~((table["sub_category"].str[-1] < "2") & (table["image_id"].str[-7:] > "000.png"))]
    with pytest.raises(UserError) as caught:
        split_table(small.reset_index(drop=True), seed=0)
    assert all(f"{name} kind {number} (1)" in str(caught.value) for name in "AB" for number in "01")
    assert "aircraft: 2 sub-categories have too few images" in str(caught.value)
    shared = table.assign(sub_category=table["sub_category"].str.replace("A kind", "B kind"))
    assert shared["sub_category"].nunique() == 5 and count_names(shared) == 10
    split = split_table(shared, seed=0)
    assert sum(count_names(split[split["categories"] == kind]) for kind in ("seen", "unseen")) == 10
    assert sorted(split[split["shot"] >= 0].groupby(["super_category", "sub_category"]).size()) == [4] * 6


def test_items_by_hand(table):
    """From kind 0 the others lie at 1, 2, 3, 4: nearest 1, so the release's order ends with it."""
    guide = guide_of(table)
    items = evaluation_items(split_table(table, seed=0, guide=guide), guide_similarity(guide), seed=0)
    assert len(items) == 40
    item = next(item for item in items if item["sub_category"] == "B kind 0")
    assert item["options"] == ["B kind 0", "B kind 3", "B kind 2", "B kind 1"]
    assert item["question"] == "What species is this bird?" and item["categories"] == "seen"
    for item in items:
        assert item["options"][0] == item["sub_category"] and len(set(item["options"])) == 4
        near = [-guide_similarity(guide)("", item["sub_category"], name) for name in item["options"][1:]]
        assert near == sorted(near, reverse=True)
        assert all(name[0] == item["sub_category"][0] for name in item["options"])


def test_items_cap_is_stratified(table):
    split = split_table(table, seed=0)
    items = evaluation_items(split, lambda *names: 0.0, seed=0, images_per_class=2)
    assert len(items) == 20 and len({item["sub_category"] for item in items}) == 10
    test = set(split[split["split"] == "test"]["image_id"])
    assert {item["image_id"] for item in items} <= test


@UNHURRIED
@given(seed=st.integers(), k=st.integers(1, 5))
def test_nearest_names_break_ties_by_seed_only(seed, k):
    names = list("abcdef")
    first = nearest_names("s", "c", names, lambda *_: 1.0, k, seed)
    assert first == nearest_names("s", "c", names[::-1], lambda *_: 1.0, k, seed)
    assert "c" not in first and len(set(first)) == k


@pytest.mark.parametrize("lost", ["wren/male/1.png", "wren/1.heic", "wren/1.gif"])
def test_a_folder_whose_pictures_are_not_read_is_no_silent_loss(tmp_path, lost):
    for prefix in ("", "bird/"):
        root = tmp_path / (prefix.strip("/") or "flat")
        for number, file in enumerate((f"{prefix}robin/1.png", f"{prefix}{lost}")):
            paint(root / file, number, format="PNG")
        with pytest.raises(UserError, match="an image that is not read: wren/ must hold|images both in"):
            read_table(root)
        (root / f"{prefix}{lost}").unlink()
        (root / prefix / "wren" / "notes.txt").write_text("no picture")
        assert set(read_table(root)["sub_category"]) == {"robin"}
