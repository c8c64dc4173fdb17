"""What strangers' folders hold: other kinds of pictures, splits, numbers, leftovers, links, odd names."""

import os
import re
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from test_fgvr_data import folder, paint

from finer1_lib.core.errors import UserError, printable
from finer1_lib.core.images import load_image
from finer1_lib.data.folder import SUFFIXES, read_table


@pytest.fixture
def birds(tmp_path) -> Path:
    """bird/B_kind_0 to bird/B_kind_4 with two images each."""
    return folder(tmp_path / "photos", images=2, supers=("bird",))


def notes(root, **how) -> str:
    return " ".join(read_table(root, **how).attrs["notes"])


def names(root, **how) -> list[str]:
    return sorted(set(read_table(root, **how)["sub_category"]))


@pytest.mark.parametrize("ending", [*SUFFIXES, ".JFIF", ".Jpe"])
def test_jpeg_is_read_under_each_of_its_endings(birds, ending):
    kind = {".png": "PNG", ".webp": "WEBP"}.get(ending, "JPEG")
    paint(birds / "bird/B_kind_0" / f"more{ending}", 90, format=kind)
    table = read_table(birds)
    assert len(table) == 11 and table.attrs["notes"] == []


@pytest.mark.parametrize("ending", ["heic", "HEIF", "avif", "tif", "tiff", "bmp", "gif", "dng", "jp2", "jxl"])
def test_pictures_of_other_kinds_are_counted(birds, ending):
    for number in range(3):
        (birds / "bird/B_kind_1" / f"{number}.{ending}").write_bytes(b"any")
    assert f"3 images are not read: 3 .{ending.lower()};" in notes(birds) and len(read_table(birds)) == 10


@pytest.mark.parametrize("start", [
    b"\xff\xd8\xff\xe0", b"\x89PNG", b"GIF89a", b"\0\0\0\x18ftypheic", b"II*\0",
    b"RIFF\0\0\0\0WEBP"])
@pytest.mark.parametrize("name", ["IMG_1", "x.jpg~", "x.jpg.part", "x.bak"])
def test_a_picture_without_its_ending_is_known_by_its_first_bytes(birds, start, name):
    (birds / "bird/B_kind_1" / name).write_bytes(start + bytes(20))
    assert "1 images are not read: 1 " in notes(birds)


def test_what_is_no_picture_is_ignored(birds):
    (birds / "bird/B_kind_1/clip.avi").write_bytes(b"RIFF\0\0\0\0AVI LIST")
    for name in ("notes.txt", "Thumbs.db", ".DS_Store", "._000.png", "x.xmp", "clip.mov", "000.json"):
        (birds / "bird/B_kind_1" / name).write_bytes(b"\0\0\0\x14ftypqt  ")
    assert notes(birds) == ""


def test_kind_and_depth_are_counted_together(birds):
    for number in range(4):
        paint(birds / "bird/B_kind_0/male" / f"{number}.jpg", 50 + number)
    paint(birds / "bird/B_kind_0/male/old/x.jpg", 60)
    (birds / "bird/cover.heic").write_bytes(b"x")
    (birds / "bird/B_kind_0/.hidden.jpg").write_bytes(b"x")
    (birds / "bird/B_kind_0/gone.jpg").symlink_to(birds / "nowhere.jpg")
    (birds / "disk").symlink_to(birds.parent / "not-mounted")
    told = notes(birds)
    assert told.startswith("9 images are not read: 1 .heic above the sub-categories, 4 .jpg 1 folder below "
                           "a sub-category's, 1 .jpg 2 folders below a sub-category's, ")
    for part in ("1 .jpg (a link to nowhere", "1 hidden .jpg", "1 without an ending (a link to nowhere"):
        assert part in told
    assert len(read_table(birds)) == 10


def test_the_endings_of_a_folder_without_any_image_are_named(tmp_path):
    for name in "abcd":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.heic").write_bytes(b"x")
    with pytest.raises(UserError, match="no .png.*, but 4 .heic; add or convert"):
        read_table(tmp_path)


# ---- folders that are no labels


@pytest.mark.parametrize("inner", ["", "bird"])
@pytest.mark.parametrize("words", [("train",), ("train", "test"), ("Training", "Validation"), ("VAL",),
                                   ("cars_train", "cars_test"), ("images_train",), ("TrainImages",),
                                   ("test_set",), ("trainval", "test"), ("testset", "trainset"),
                                   ("testdata2",), ("seen", "unseen")])
def test_splits_above_the_sub_categories_are_refused(tmp_path, words, inner):
    for word in words:
        folder(tmp_path / "photos" / word / inner, classes=2, images=1, supers=("bird",), flat=True)
    with pytest.raises(UserError, match=f"{sorted(words)[0]}.*splits of a data set.*give image_root"):
        read_table(tmp_path / "photos")


def test_splits_in_place_or_below_the_sub_categories_are_refused(tmp_path):
    for number, path in enumerate((
            "flat/train", "flat/test", "deep/Wren/train", "deep/Wren/val", "part/cars_train",
            "part/cars_test", "mixed/train", "mixed/test", "mixed/bus")):
        paint(tmp_path / path / "1.png", number)
    for name in ("flat", "deep", "part", "mixed"):
        with pytest.raises(UserError, match="splits of a data set"):
            read_table(tmp_path / name)


@pytest.mark.parametrize("name", [
    "St. Bernard", "Mt. Rainier Fern", "E. coli", "No. 7 Rose", "Aster sp. 1", "U.S. Robin", "Train Bearer", "Validus",
    "Test Pattern", "Trainsetter", "Müllerkauz", "4Runner", "707-320", "دم\u200cجنبانک", "\U0001f426\u200d\u2b1b",
])
def test_honest_names_are_names(tmp_path, name):
    paint(tmp_path / name / "1.png", 1)
    paint(tmp_path / "Rock Wren" / "1.png", 2)
    assert name in names(tmp_path) and "of a data set" not in notes(tmp_path)


def test_a_train_among_vehicles_is_a_name(tmp_path):
    for number, name in enumerate(("train", "bus", "steam train", "crash test dummy")):
        paint(tmp_path / "vehicle" / name / "1.png", number)
    assert "train" in names(tmp_path)
    assert "1 of 4 names of 'vehicle' look like folders of a data set" in notes(tmp_path)


def test_a_number_of_a_super_category_is_told_of_and_left_out_on_request(tmp_path):
    folder(tmp_path / "photos" / "01_birds", classes=2, images=1, supers=("bird",), flat=True)
    assert "the question would be 'What species is this 01 birds?'" in notes(tmp_path / "photos")
    table = read_table(tmp_path / "photos", strip_names=True)
    assert set(table["super_category"]) == {"birds"} and table.attrs["notes"] == []


@pytest.mark.parametrize("word", ["images", "JPEGImages", "Photos", "img", "dataset", "raw_images", "archive",
                                  "imagefolder"])
def test_a_wrapper_is_told_of_and_left_out_on_request(tmp_path, word):
    folder(tmp_path / word, classes=2, images=1, supers=("bird",), flat=True)
    told = notes(tmp_path)
    assert "looks like a wrapper" in told and "What species is this" in told and "strip_names=true" in told
    table = read_table(tmp_path, "bird", strip_names=True)
    assert set(table["super_category"]) == {"bird"} and table.attrs["notes"] == []


def test_more_levels_than_two_say_which_folder_to_give(tmp_path):
    folder(tmp_path / "CUB_200_2011" / "images", classes=2, images=1, supers=("bird",), flat=True)
    with pytest.raises(UserError, match="give image_root the folder above.*as .*CUB_200_2011/images$"):
        read_table(tmp_path)
    paint(tmp_path / "inside" / "Wren" / "images" / "1.png", 1)
    with pytest.raises(UserError, match="images: a folder of images, not a name; move them up into Wren/"):
        read_table(tmp_path / "inside")


@pytest.mark.parametrize(("folders", "stripped"), [
    (("001.Black_footed_Albatross", "002.Laysan_Albatross"), ["Black footed Albatross", "Laysan Albatross"]),
    (("n02085620-Chihuahua", "n02085782-Japanese_spaniel"), ["Chihuahua", "Japanese spaniel"]),
    (("12_Rock Wren", "7-House Wren"), ["House Wren", "Rock Wren"]),
    (("Chihuahua-n02085620", "Pug_n02110958"), ["Chihuahua", "Pug"]),
])
def test_catalogue_numbers_are_told_of_and_left_out_on_request(tmp_path, folders, stripped):
    for number, name in enumerate(folders):
        paint(tmp_path / "animal" / name / "1.png", number)
    assert re.search("2 of 2 names of 'animal' carry a catalogue number.*strip_names=true", notes(tmp_path))
    assert names(tmp_path, strip_names=True) == stripped and notes(tmp_path, strip_names=True) == ""


def test_numbers_that_are_names_stay(tmp_path):
    variants = ["707-320", "737-200", "A318", "DC-10", "3 Series"]
    for number, name in enumerate(variants):
        paint(tmp_path / "aircraft" / name / "1.png", number)
    assert notes(tmp_path) == ""
    assert names(tmp_path, strip_names=True) == sorted([*variants[:4], "Series"])


@pytest.mark.parametrize("bare", [("0", "1"), ("n02085620", "n02085782"), ("12", "13-4")])
def test_names_that_are_numbers_only_are_told_of(tmp_path, bare):
    for number, name in enumerate(bare):
        paint(tmp_path / "animal" / name / "1.png", number)
    assert "2 of 2 names of 'animal' are numbers or signs and no names" in notes(tmp_path)


def test_numbers_that_kept_names_apart_may_not_be_left_out(tmp_path):
    for number in range(2):
        paint(tmp_path / "animal" / f"{number:03d}.Wren" / "1.png", number)
    with pytest.raises(UserError, match="reads as the same name"):
        read_table(tmp_path, strip_names=True)


# ---- leftovers, links, rights


@pytest.mark.parametrize("name", [
    "@eaDir", ".ipynb_checkpoints", "lost+found", "__MACOSX", "#recycle", "$RECYCLE.BIN", ".Trash-0",
    "System Volume Information"])
def test_leftovers_are_skipped_with_one_line(birds, name, monkeypatch):
    """Even where they may not be read."""
    for place in (birds, birds / "bird", birds / "bird/B_kind_0"):
        paint(place / name / "x.jpg" / "thumb.jpg", 70)
    (birds / "bird/empty yet" / name).mkdir(parents=True)
    scan = os.scandir

    def guarded(path):
        if name in Path(path).parts:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    table = read_table(birds)
    skipped, empty = table.attrs["notes"]
    assert len(table) == 10 and skipped.startswith("4 folders are skipped") and name in skipped
    assert empty.startswith("1 folders hold no image: bird/empty yet;")


def test_a_folder_of_names_that_may_not_be_read_is_no_silent_loss(birds, monkeypatch):
    scan = os.scandir

    def guarded(path):
        if Path(path).name == "B_kind_3":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(UserError, match=r"B_kind_3: cannot be read \(Permission denied\); make it readable"):
        read_table(birds)
    table = read_table(birds, broken={})
    assert len(table) == 8 and "B_kind_3: cannot be read" in table.attrs["faults"][0]


def test_what_lies_in_the_root_may_be_a_link_elsewhere(birds, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "bird").symlink_to(birds / "bird")
    assert len(read_table(linked)) == 10 and load_image(linked, "bird/B_kind_0/000.png").size == (24, 20)
    flat = tmp_path / "flat"
    flat.mkdir()
    for inner in (birds / "bird").iterdir():
        (flat / inner.name).symlink_to(inner)
    assert len(read_table(flat)) == 10


@pytest.mark.parametrize(("place", "target", "why"), [
    ("bird/B_kind_0/loop.png", "bird/B_kind_0/loop.png", "Too many levels"),
    ("bird/B_kind_0/up", "bird", "a link to a folder that it lies in"), ("self", ".", "a link to a folder"),
    ("bird/B_kind_0/out.png", "../out.png", "leads out of"), ("bird/more", "../elsewhere", "leads out of"),
])
def test_links_that_loop_or_leave_are_refused(birds, place, target, why):
    paint(birds.parent / "out.png", 80)
    paint(birds.parent / "elsewhere" / "1.png", 81)
    (birds / place).symlink_to(birds / target)
    with pytest.raises(UserError, match=why):
        read_table(birds)
    assert why in read_table(birds, broken={}).attrs["faults"][0]


# ---- names


@pytest.mark.parametrize("name", [b"B\xfclb\xfcl", b"A \x1b[2J", "a \u202eneW".encode(), b"a\nb\x07"])
def test_names_of_folders_and_files_that_cannot_be_written_down(birds, name):
    place = os.fsdecode(os.path.join(os.fsencode(birds / "bird"), name))
    os.rename(birds / "bird/B_kind_4", place)
    with pytest.raises(UserError) as caught:
        read_table(birds)
    assert str(caught.value).isprintable() and "rename the folder" in str(caught.value)
    os.rename(place, birds / "bird/B_kind_4")
    image = birds / "bird/B_kind_4/000.png"
    os.rename(image, os.path.join(os.fsencode(image.parent), name + b".png"))
    with pytest.raises(UserError, match="1 image names hold bytes that are not UTF-8, control") as caught:
        read_table(birds)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["At 1.00\u202fPM.png", "\U0001f468\u200d\U0001f469.png", "mésange.png"])
def test_names_of_files_as_people_have_them_are_read(birds, name):
    os.rename(birds / "bird/B_kind_4/000.png", birds / "bird/B_kind_4" / name)
    assert any(image_id.endswith(name) for image_id in read_table(birds)["image_id"])


@given(st.text())
def test_a_message_can_always_be_printed_and_written(text):
    shown = printable(text)
    assert shown.isprintable() and shown.encode("utf-8").decode("utf-8") == shown
    assert text.isprintable() is (shown == text)


# ---- damaged pictures


def png(side: int, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((side // 8 + 1) * side))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*one) for one in ((b"IHDR", head), *chunks, (b"IDAT", pixels), (b"IEND", b"")))


@pytest.mark.parametrize("data", [
    b"", b"\xff\xd8\xff", png(30_000), png(40, (b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8)))),
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\nshowpage\n", b"\0\0\0\x18ftypheic" + bytes(99),
])
def test_empty_damaged_and_oversized_pictures_are_named(birds, data):
    (birds / "bird/B_kind_0/bad.png").write_bytes(data)
    with pytest.raises(UserError, match=r"bad\.png: not a whole image .*; replace the file"):
        read_table(birds)
    broken = {}
    assert len(read_table(birds, broken=broken)) == 10 and list(broken) == ["bird/B_kind_0/bad.png"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["png", "jpg", "webp"]),
       st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=9))
def test_whatever_bytes_are_damaged_an_image_or_one_line_comes(tmp_path, kind, changes):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a note"
    file = paint(tmp_path / "a" / f"x.{kind}", 5, exif=exif)
    data = bytearray(file.read_bytes())
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    file.write_bytes(bytes(data))
    try:
        assert load_image(tmp_path, f"a/x.{kind}").mode == "RGB"
    except UserError as error:
        assert "x." in str(error)


def test_a_root_that_can_be_no_folder(tmp_path):
    for root in ("", "x" * 5000, "a\0b", tmp_path / "none", __file__):
        with pytest.raises(UserError, match="is not a folder"):
            read_table(root) if root else read_table(tmp_path / "no")


def test_all_mistakes_are_counted_in_one_line_and_listed_where_asked(birds):
    for number in range(3):
        data = (birds / f"bird/B_kind_0/00{number % 2}.png").read_bytes()
        (birds / "bird/B_kind_1" / f"copy{number}.png").write_bytes(data)
    paint(birds / "bird/B, kind" / "1.png", 95)
    with pytest.raises(UserError, match=r"\(3 more mistakes: finer1 doctor lists them\); rename the folder$"):
        read_table(birds)
    table = read_table(birds, broken={})
    assert len(table.attrs["faults"]) == 4 and len(table) == 13
    assert sum("under another name" in fault for fault in table.attrs["faults"]) == 3
