"""The release's triplets: into our table and image files, back without loss, and what is refused."""

import io
import json

import pandas
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from tools import export_release
from tools.export_release import write_stage2
from tools.export_stage1 import main as export_stage1
from tools.export_stage2 import main as export_stage2

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import append_jsonl
from finer1_lib.core.images import load_image
from finer1_lib.paper.release.stage1 import read_stage1
from finer1_lib.paper.release.stage2 import FIELDS, read_stage2
from finer1_lib.training.tapo import triplet_rows

IDS = ["image_id", "positive_id", "negative_id"]
LISTS = {"bird": {"seen": ["Rock Wren", "House Wren"], "unseen": ["Marsh Wren"]},
         "pet": {"seen": ["Beagle", "Pug"], "unseen": ["Bengal"]},
         "dog": {"seen": ["Beagle"], "unseen": ["Akita"]}}


def picture(colour, size=(40, 30), form="PNG", **how):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, form, **how)
    return file.getvalue()


RED, GREEN, BLUE = (picture(colour) for colour in ("red", "green", "blue"))


def row(answer="Rock Wren", problem="<image>What bird?", **changes):
    pictures = {"images": RED, "image_noisy": GREEN, "image_aug": BLUE, **changes}
    return {"problem": problem, "answer": answer,
            **{field: [{"bytes": one, "path": None}] if isinstance(one, bytes) else one
               for field, one in pictures.items()}}  # fmt: skip


def save(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def read_back(folder):
    files = sorted(folder.rglob("*.parquet"))
    return [line for file in files for line in pyarrow.parquet.read_table(file).to_pylist()]


def test_there_and_back(tmp_path, monkeypatch):
    monkeypatch.setattr(export_release, "SHARD", 2)
    pink = picture("pink", form="JPEG")
    rows = [row(), row("House Wren", images=pink, image_noisy=[{"bytes": BLUE, "path": "x/7.png"}]),
            row("Pug", "<image>What pet?\nSay it.")]  # fmt: skip
    save(tmp_path / "in/data/train-0.parquet", rows[:2])
    save(tmp_path / "in/data/train-1.parquet", rows[2:])
    table = read_stage2(tmp_path / "in", tmp_path / "root", LISTS)
    assert list(table["sub_category"]) == ["Rock Wren", "House Wren", "Pug"]
    assert list(table["super_category"]) == ["bird", "bird", "pet"]
    assert set(table["negative_sub_category"]) == {""} and table["image_id"].iloc[1].endswith(".jpg")
    assert table["image_id"].iloc[0] == table["image_id"].iloc[2]
    assert len(list((tmp_path / "root/stage2").iterdir())) == 4  # each picture once
    assert load_image(tmp_path / "root", table["negative_id"].iloc[0]).getpixel((0, 0)) == (0, 0, 255)
    table.to_parquet(tmp_path / "triplets.parquet")  # as notebook 01 keeps them
    kept = pandas.read_parquet(tmp_path / "triplets.parquet")
    assert len(triplet_rows(kept, tmp_path / "root")) == 3  # TAPO takes them
    assert write_stage2(kept, tmp_path / "root", tmp_path / "out") == 3
    assert read_back(tmp_path / "out") == rows
    assert [file.name for file in sorted((tmp_path / "out/data").iterdir())] == [
        "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    again = read_stage2(tmp_path / "out", tmp_path / "root", LISTS)
    assert again.drop(columns="paths").equals(table.drop(columns="paths"))


def ours(root, *, negative="bird/c.png", size=(40, 30)):
    """Triplets as notebook 01 builds them, and their files."""
    for name, colour in (("a", "red"), ("b", "green"), ("c", "blue")):
        (root / "bird").mkdir(parents=True, exist_ok=True)
        (root / f"bird/{name}.png").write_bytes(picture(colour, size if name == "c" else (40, 30)))
    return pandas.DataFrame(
        [("bird/a.png", "bird/b.png", negative, "bird", "Rock Wren", "House Wren")],
        columns=[*IDS, "super_category", "sub_category", "negative_sub_category"])


def test_our_own_triplets_come_back_under_their_own_names(tmp_path):
    table = ours(tmp_path)
    write_stage2(table, tmp_path, tmp_path / "out")
    (written,) = read_back(tmp_path / "out")
    assert written["problem"] == "<image>What species is this bird?" and written["answer"] == "Rock Wren"
    back = read_stage2(tmp_path / "out", tmp_path, LISTS)
    assert back[IDS].equals(table[IDS])
    assert not (tmp_path / "stage2").exists()
    elsewhere = read_stage2(tmp_path / "out", tmp_path / "other", LISTS)
    assert elsewhere["image_id"].iloc[0].startswith("stage2/")
    (tmp_path / "bird/a.png").write_bytes(BLUE)  # another picture by now
    changed = read_stage2(tmp_path / "out", tmp_path, LISTS)
    assert changed["image_id"].iloc[0].startswith("stage2/") and changed["positive_id"].iloc[0] == "bird/b.png"


def test_a_cropped_image_goes_out_as_it_is_seen(tmp_path):
    table = ours(tmp_path, negative="bird/c.png#bottom=20", size=(40, 50))
    write_stage2(table, tmp_path, tmp_path / "out")
    (written,) = read_back(tmp_path / "out")
    assert Image.open(io.BytesIO(written["image_aug"][0]["bytes"])).size == (40, 30)
    back = read_stage2(tmp_path / "out", tmp_path, LISTS)
    assert back["negative_id"].iloc[0] == "bird/c.png#bottom=20"


def test_sizes_differ(tmp_path):
    table = ours(tmp_path, size=(60, 30))
    with pytest.raises(UserError, match="anchor 40 x 30, positive 40 x 30, negative 60 x 30"):
        write_stage2(table, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".tmp-*"))
    write_stage2(table, tmp_path, tmp_path / "out", resize=True)
    (written,) = read_back(tmp_path / "out")
    assert Image.open(io.BytesIO(written["image_aug"][0]["bytes"])).size == (40, 30)
    assert written["images"][0]["bytes"] == RED
    odd = save(tmp_path / "odd.parquet", [row(image_noisy=picture("green", (41, 30)))])
    with pytest.raises(UserError, match="row 0: images of different sizes .*positive 41 x 30"):
        read_stage2(odd, tmp_path / "root", LISTS)
    assert len(read_stage2(odd, tmp_path / "root", LISTS, same_size=False)) == 1


@pytest.mark.parametrize(
    "bad, told",
    [
        (row(image_aug=[]), "row 1: image_aug, the negative, is missing"),
        (row(image_noisy=[]), "row 1: image_noisy, the positive, is missing"),
        (row(image_aug=None), "row 1: image_aug, the negative, is missing"),
        (row(image_aug=[{"bytes": None, "path": None}]), "row 1, negative: neither bytes nor a path"),
        (row(image_aug=[{"bytes": BLUE, "path": None}] * 2), "the negative, is missing or not one image"),
        (row(images=[{"bytes": b"no picture", "path": None}]), "row 1: not an image"),
        (row(images=[{"bytes": None, "path": "../secret.png"}]), "secret.png is not a file below"),
        (row(problem="What bird?"), "not exactly one <image>"),
        (row(answer=" "), "answer is empty"),
        (row(answer="Marsh Wren"), "'Marsh Wren' is an unseen sub-category .bird"),
    ],
)
def test_a_bad_row_is_named(tmp_path, bad, told):
    (tmp_path / "secret.png").write_bytes(RED)
    path = save(tmp_path / "in/a.parquet", [row(), bad])
    with pytest.raises(UserError, match=told):
        read_stage2(path, tmp_path / "root", LISTS, allow_incomplete=True)


def test_a_missing_column_is_named_and_nothing_replaces_it(tmp_path):
    rows = [{key: value for key, value in row().items() if key != "image_aug"}]
    with pytest.raises(UserError, match="the column image_aug is missing"):
        read_stage2(save(tmp_path / "a.parquet", rows), tmp_path / "root", LISTS)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="not a readable parquet file"):
        read_stage2(tmp_path / "b.parquet", tmp_path / "root", LISTS)
    with pytest.raises(UserError, match="no parquet file"):
        read_stage2(tmp_path / "nowhere", tmp_path / "root", LISTS)


def test_the_data_set_of_an_answer(tmp_path):
    rows = [row(), row("Beagle", "<image>What dog is it?"), row("Beagle", "<image>What is it?"), row("Jay")]
    path = save(tmp_path / "a.parquet", rows)
    with pytest.raises(UserError, match="2 triplets belong to no data set .* a.parquet, row 2 .Beagle"):
        read_stage2(path, tmp_path / "root", LISTS)
    table = read_stage2(path, tmp_path / "root", LISTS, allow_incomplete=True)
    assert list(table["super_category"]) == ["bird", "dog"]
    with pytest.raises(UserError, match="no triplets for the data sets newt"):
        read_stage2(path, tmp_path / "root", {"newt": {"seen": [], "unseen": []}}, allow_incomplete=True)


def test_bare_bytes_and_paths_are_images_too(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/r.png").write_bytes(RED)
    rows = [{**row(), "images": [RED], "image_noisy": [GREEN], "image_aug": [BLUE]}]
    table = read_stage2(save(tmp_path / "in/a.parquet", rows), tmp_path / "root", LISTS)
    named = [{**row(), **{field: ["r.png"] for field in FIELDS}}]
    assert read_stage2(save(tmp_path / "in/b.parquet", named), tmp_path / "root", LISTS)["image_id"][0] == (
        table["image_id"][0])


def test_an_existing_target_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("x")
    with pytest.raises(UserError, match="is there already"):
        write_stage2(ours(tmp_path), tmp_path, tmp_path / "out")
    assert (tmp_path / "out/mine.txt").read_text() == "x"
    with pytest.raises(UserError, match="no triplets to export"):
        write_stage2(ours(tmp_path).iloc[:0], tmp_path, tmp_path / "new")
    lost = ours(tmp_path)
    (tmp_path / "bird/c.png").unlink()
    with pytest.raises(UserError, match="c.png: no such image"):
        write_stage2(lost, tmp_path, tmp_path / "new")
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".tmp-*"))


def test_the_commands_export_a_run(tmp_path, capsys):
    folder = tmp_path / "outputs/mine/01_data"
    with pytest.raises(UserError, match="01_data is not finished"):
        export_stage2("mine", str(tmp_path / "x"), str(tmp_path / "outputs"))
    ours(tmp_path / "pictures")
    folder.mkdir(parents=True)
    ours(tmp_path / "pictures").to_parquet(folder / "triplets.parquet")
    (folder / "data.json").write_text(json.dumps({"image_root": str(tmp_path / "pictures")}))
    (folder / "stage.json").write_text("{}")
    append_jsonl(folder / "rationales.jsonl", *(
        {"image_id": f"bird/{n}.png", "super_category": "bird", "question": "What?", "kept": kept,
         "text": "<think>x</think><answer>Rock Wren</answer>"} for n, kept in ((1, True), (2, False))))
    export_stage2("mine", str(tmp_path / "two"), str(tmp_path / "outputs"))
    export_stage1("mine", str(tmp_path / "one.json"), str(tmp_path / "outputs"))
    assert len(read_back(tmp_path / "two")) == 1 and len(read_stage1(tmp_path / "one.json", [])) == 0
    assert "triplets: 1 in" in capsys.readouterr().out
