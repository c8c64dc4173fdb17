"""The release's evaluation files: read from folder and address, checked, aligned with images by name."""

import http.server
import json
import os
import threading
from functools import partial
from pathlib import Path

import pandas
import pytest

from finer1_lib.core.errors import UserError
from finer1_lib.core.network import settings_named
from finer1_lib.data.data_sets.catalogue import (
    DATA_SETS,
    find_images,
    image_name,
    name_of_path,
    release_path,
    word_of,
)
from finer1_lib.data.split import evaluation_items
from finer1_lib.evaluation.entries import FIXED
from finer1_lib.evaluation.requests import select_items
from finer1_lib.evaluation.requests import build_requests, rule_of, shown_options
from finer1_lib.evaluation.scores.scoring import make_scorer
from finer1_lib.paper.release.questions import (
    COLUMNS,
    find_questions,
    read_lists,
    read_questions,
    release_items,
)

# per data set: the release's path and where the archive puts the same picture
PLACES = {
    "aircraft": ("fgvc_aircraft/data/images/{:07d}.jpg",
                 "fgvc-aircraft-2013b/data/images/{:07d}.jpg#bottom=20"),
    "bird": ("bird_200/images/{0:03d}.B_b/B_B_{0:04d}_9.jpg",
             "CUB_200_2011/images/{0:03d}.B_b/B_B_{0:04d}_9.jpg"),
    "car": ("stanford-cars/cars_test/{:05d}.jpg", "stanford_cars/cars_test/cars_test/{:05d}.jpg"),
    "dog": ("dogs_120/Images/n02085620-Shih-Tzu/n02085620_{}.jpg",
            "Images/n02085620-Shih-Tzu/n02085620_{}.jpg"),
    "flower": ("flower102/jpg/image_{:05d}.jpg", "flowers-102/jpg/image_{:05d}.jpg"),
    "pet": ("oxford-pet/images/Maine_Coon_{}.jpg", "hub/pet/test/Maine_Coon_{}.png"),
}
KINDS = {"A": "seen", "B": "seen", "C": "unseen", "D": "unseen"}


def row(word, number, name):
    return {"image_path": PLACES[word][0].format(number), "question": f"Which {word}?",
            "options": [name, *(other for other in "ABCD" if other != name)], "ground_truth": name}


def write(folder, word="pet", lines=None):
    """Two images of each of four names; `lines` replaces the seen file's."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("seen", "unseen"):
        rows = [row(word, 2 * "ABCD".index(name) + more, name)
                for name in "ABCD" if KINDS[name] == kind for more in (0, 1)]
        text = "".join(json.dumps(one) + "\n" for one in rows)
        (folder / f"{word}_{kind}.jsonl").write_text(lines if lines and kind == "seen" else text)
    return folder


def table_of(*words, **changes):
    """The images of these data sets, as images.parquet has them; Cars' training file names occur twice."""
    rows = [
        {"image_id": PLACES[word][1].format(number), "super_category": word, "sub_category": name,
         "split": "test", "categories": KINDS[name], **changes}
        for word in words for number in range(8) for name in "ABCD"[number // 2]
    ]
    if "car" in words:
        rows += [{**one, "image_id": one["image_id"].replace("cars_test", "cars_train"), "split": "train",
                  "sub_category": "ABCD"[3 - "ABCD".index(one["sub_category"])]}
                 for one in rows if one["super_category"] == "car"]
    return pandas.DataFrame(rows)


@pytest.mark.parametrize("place", ["", "eval/data"])
def test_lists_and_rows_from_a_checkout_or_its_folder(tmp_path, place):
    write(tmp_path / place, "pet")
    files = read_lists(tmp_path, ["pet"], allow_incomplete=True)
    assert files.lists == {"pet": {"seen": ["A", "B"], "unseen": ["C", "D"]}}
    assert files.complete == {"pet": False}
    assert list(files.rows) == COLUMNS and len(files.rows) == 8
    assert files.rows.iloc[0]["options"] == ["A", "B", "C", "D"]


def test_other_counts_than_the_release_s_are_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(UserError, match="8 questions on 2 seen and 2 unseen .* 3669 questions on 22"):
        read_lists(tmp_path, ["pet"])


def test_an_own_data_set_has_no_official_counts(tmp_path):
    folder = write(tmp_path)
    for file in list(folder.iterdir()):
        file.rename(folder / file.name.replace("pet", "newt"))
    assert read_lists(folder, ["newt"]).complete == {"newt": True}


GOOD = row("pet", 0, "A")


@pytest.mark.parametrize(
    "change, told",
    [
        ({"options": ["B", "A", "C", "D"]}, "line 2: the first option is not the ground truth"),
        ({"options": ["A", "B", "B", "D"]}, "line 2: 3 different options instead of 4"),
        ({"options": ["A", "B", "C"]}, "line 2: 3 different options"),
        ({"options": "ABCD"}, "line 2: options is not a list"),
        ({"question": " "}, "line 2: question is missing"),
        ({"image_path": "../../etc/passwd"}, "not a path below the data"),
        ({"image_path": "/etc/passwd"}, "not a path below the data"),
        ({"image_path": GOOD["image_path"]}, "has two questions"),
        ({"ground_truth": "C", "options": ["C", "A", "B", "D"]}, "'C' is in the seen and in the unseen"),
        ({"options": ["A", "B", "C", "Zebra"]}, "option 'Zebra' is not a sub-category"),
        (None, "line 2: not a JSON object"),
    ],
)
def test_a_bad_line_is_named(tmp_path, change, told):
    second = "<html>" if change is None else json.dumps({**row("pet", 1, "A"), **change})
    third = json.dumps(row("pet", 2, "B"))
    write(tmp_path, lines=f"{json.dumps(GOOD)}\n{second}\n{third}\n")
    with pytest.raises(UserError, match=told):
        read_lists(tmp_path, ["pet"], allow_incomplete=True)


@pytest.mark.parametrize("bad", ['{"options": ' * 50_000, '{"options": "\\ud800"}'], ids=["deep", "half a sign"])
def test_a_line_that_no_json_reader_takes_is_named(tmp_path, bad):
    write(tmp_path, lines=f"{json.dumps(GOOD)}\n{bad}\n")
    with pytest.raises(UserError, match="line 2: "):
        read_lists(tmp_path, ["pet"], allow_incomplete=True)
    with pytest.raises(UserError, match="line 2: "):
        read_questions(find_questions(tmp_path, "pet", "seen"), "pet", "seen")


def test_a_missing_or_empty_file_is_named(tmp_path):
    with pytest.raises(UserError, match="pet_seen.jsonl is neither in"):
        read_lists(tmp_path, ["pet"])
    write(tmp_path, lines="\n")
    with pytest.raises(UserError, match="no questions"):
        read_lists(tmp_path, ["pet"], allow_incomplete=True)


class _Server(http.server.SimpleHTTPRequestHandler):
    asked: list = []
    torn = False

    def do_GET(self):
        self.asked.append(self.path)
        if self.torn:
            self.send_response(200)
            self.send_header("Content-Length", "9999")
            self.end_headers()
            self.wfile.write(b'{"image_path"')
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    write(tmp_path / "served")
    handler = type("Handler", (_Server,), {"asked": []})
    http_server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(handler, directory=str(tmp_path / "served")))
    thread = threading.Thread(target=http_server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http_server.server_port}", handler
    http_server.shutdown()
    http_server.server_close()


def test_an_address_is_downloaded_once(tmp_path, server):
    address, handler = server
    first = read_lists(address + "/", ["pet"], tmp_path / "cache", allow_incomplete=True)
    again = read_lists(address, ["pet"], tmp_path / "cache", allow_incomplete=True)
    assert first.rows.equals(again.rows) and handler.asked == ["/pet_seen.jsonl", "/pet_unseen.jsonl"]
    assert first.rows.equals(read_lists(tmp_path / "served", ["pet"], allow_incomplete=True).rows)


def test_what_is_no_such_file_is_neither_taken_nor_kept(tmp_path, server):
    address, handler = server
    with pytest.raises(UserError, match="pet_seen.jsonl: cannot be downloaded .404"):
        read_lists(f"{address}/nowhere", ["pet"], tmp_path / "cache")
    handler.torn = True
    with pytest.raises(UserError, match="cannot be downloaded"):
        read_lists(address, ["pet"], tmp_path / "cache")
    (tmp_path / "served" / "pet_seen.jsonl").write_text("<html>sign in</html>")
    handler.torn = False
    with pytest.raises(UserError, match="line 1: not a JSON object"):
        read_lists(address, ["pet"], tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.jsonl"))
    with pytest.raises(UserError, match="needs a cache"):
        read_lists(address, ["pet"])
    with pytest.raises(UserError, match="cannot be downloaded"):
        read_lists("http://127.0.0.1:1", ["pet"], tmp_path / "cache")


def test_items_of_all_six_find_their_images(tmp_path):
    for word in PLACES:
        write(tmp_path, word)
    files = read_lists(tmp_path, list(PLACES), allow_incomplete=True)
    table = table_of(*PLACES)
    items = release_items(files, table)
    names = [item["item_id"] for item in items]
    assert len(set(names)) == 48 and names == sorted(names)
    label = table[table["split"] == "test"].set_index("image_id")["sub_category"]
    assert all(label[item["image_id"]] == item["sub_category"] == item["options"][0] for item in items)
    (aircraft,) = [item for item in items if item["item_id"].endswith("0000003.jpg")]
    assert aircraft == {
        "item_id": "fgvc-aircraft-2013b/data/images/0000003.jpg",
        "image_id": "fgvc-aircraft-2013b/data/images/0000003.jpg#bottom=20", "super_category": "aircraft",
        "sub_category": "B", "categories": "seen", "question": "Which aircraft?",
        "options": ["B", "A", "C", "D"], "release_path": "fgvc_aircraft/data/images/0000003.jpg",
    }  # fmt: skip
    sized = table.assign(width=5, height=5)
    assert len(select_items(items, sized, images_per_class=1, seed=0)) == 24  # notebook 04 takes them


def test_a_label_or_side_that_differs_refuses_the_alignment(tmp_path):
    files = read_lists(write(tmp_path, "car"), ["car"], allow_incomplete=True)
    table = table_of("car")
    assert len(release_items(files, table)) == 8
    swapped = table.assign(split=table["split"].map({"train": "test", "test": "train"}))
    with pytest.raises(UserError, match="cars_test/00000.jpg: the release's label is 'A'.* has 'D'"):
        release_items(files, swapped, allow_incomplete=True)
    with pytest.raises(UserError, match="side is 'unseen'.* has 'seen'"):
        release_items(files, table_of("car", categories="seen"))


def test_missing_images_are_counted(tmp_path):
    files = read_lists(write(tmp_path, "bird"), ["bird"], allow_incomplete=True)
    table = table_of("bird").iloc[2:]
    with pytest.raises(UserError, match="2 of 8 images .* the first is bird_200/images/000.B_b/B_B_0000_9"):
        release_items(files, table)
    assert len(release_items(files, table, allow_incomplete=True)) == 6
    with pytest.raises(UserError, match="none of the release.s 8 images"):  # a copy that lost its names
        nameless = [f"hub/bird/test/row-test-{i}.jpg" for i in range(8)]
        release_items(files, table_of("bird").assign(image_id=nameless))
    with pytest.raises(UserError, match="none of the release.s 8 images"):  # training pictures are never asked about
        release_items(files, table_of("bird", split="train"))


def test_two_images_of_one_name_are_refused():
    table = table_of("pet")
    twice = pandas.concat([table, table.assign(image_id="other/" + table["image_id"])])
    with pytest.raises(UserError, match="two test images of one name"):
        find_images("pet", twice, "test")


def test_data_sets_are_known_by_the_first_folder():
    for word, (path, _) in PLACES.items():
        assert word_of(path) == word
    for path in ("fgvc-aircraft-2013b-train/images/1.jpg", "stanford_cars_train/images/00001.jpg",
                 "flower102_train/image/train/image_00001.jpg", "oxford-pet-train/train/a_1.jpg"):
        assert word_of(path) in DATA_SETS
    for path in ("", "photos/bird/1.jpg", "birds_and_dogs/1.jpg"):
        with pytest.raises(UserError, match="first folder"):
            word_of(path)


def test_the_official_files():
    folder = os.environ.get("FINER1_OFFICIAL_DATA")
    if not folder:
        pytest.skip("FINER1_OFFICIAL_DATA is not set")
    files = read_lists(folder, ["bird", "pet"])
    counts = files.rows.groupby(["data_set", "categories"]).size().to_dict()
    assert list(counts.values()) == [3483, 2311, 2176, 1493]  # bird seen, unseen, pet seen, unseen
    names = [files.lists[word][kind] for word in ("bird", "pet") for kind in ("seen", "unseen")]
    assert [len(part) for part in names] == [120, 80, 22, 15]
    rows = files.rows
    table = pandas.DataFrame({
        "image_id": [path.replace("bird_200", "CUB_200_2011") for path in rows["image_path"]],
        "super_category": rows["data_set"], "categories": rows["categories"], "split": "test",
        "sub_category": [name_of_path(*pair) for pair in zip(rows["data_set"], rows["image_path"])],
    })  # fmt: skip
    assert (table["sub_category"] == rows["ground_truth"]).all()
    items = release_items(files, table)
    assert len(items) == 9463 and all(item["options"][0] == item["sub_category"] for item in items)
    assert len({Path(item["image_id"]).stem for item in items}) == 9463


LAYOUTS = [  # cars in every place that the catalogue accepts, and as copies of the Hub lie
    "stanford_cars/cars_test/{:05d}.jpg", "stanford-cars/cars_test/cars_test/{:05d}.jpg",
    "car/stanford_cars/cars_test/{:05d}.jpg", "cars_test/{:05d}.jpg", "hub/car/test/{:05d}.jpg",
    "hub/car/test/{:05d}.png",
]  # fmt: skip


def items_in(tmp_path, monkeypatch, word, place):
    monkeypatch.setitem(PLACES, word, (PLACES[word][0], place))
    files = read_lists(write(tmp_path, word), [word], allow_incomplete=True)
    return sorted(release_items(files, table_of(word)), key=lambda item: item["release_path"])


def test_the_shuffled_order_and_the_official_word_are_the_same_in_every_layout(tmp_path, monkeypatch):
    asked = [items_in(tmp_path, monkeypatch, "car", place) for place in LAYOUTS]
    assert len({items[0]["item_id"] for items in asked}) == len(LAYOUTS)
    orders = {tuple(tuple(shown_options(item, "shuffled", 3)) for item in items) for items in asked}
    assert len(orders) == 1 and len(set(*orders)) > 1
    scorer = make_scorer("official")
    for items in asked:
        (record,) = build_requests(FIXED[0], sized(items[:1]), "open_world")
        assert record["release_path"] == "stanford-cars/cars_test/00000.jpg"
        # the release drops a car's last two words: "AM General" of a label of four
        said = {**record, "sub_category": "AM General SUV 2000", "completion": "<answer>AM General</answer>"}
        assert scorer.open(said)["text_inclusion"] == 1.0


def sized(items):
    return [{**item, "width": 28, "height": 28} for item in items]


@pytest.mark.parametrize("word", sorted(PLACES))
def test_every_data_set_keeps_the_release_s_path_with_and_without_its_questions(tmp_path, monkeypatch, word):
    """Questions of our own about official images go by the same rule; a folder of one's own by its path."""
    released = items_in(tmp_path, monkeypatch, word, PLACES[word][1])
    table = table_of(word)
    ours = evaluation_items(table, lambda *_: 0.0, seed=0, official=[word])
    own = evaluation_items(table, lambda *_: 0.0, seed=0)
    assert {one["image_id"]: one["release_path"] for one in ours} == {
        one["image_id"]: one["release_path"] for one in released}
    assert not any("release_path" in one for one in own)
    for setting, order, rules in (("closed_world", "shuffled", {"release_file", "item_id"}),
                                  ("closed_world", "rotations", {"release_file", "item_id"}),
                                  ("closed_world", "release", {None}), ("open_world", "shuffled", {None})):
        found = {rule_of(request) for items in (ours, own)
                 for request in build_requests(FIXED[0], sized(items), setting, order=order)}
        assert found == rules


def test_training_and_test_cars_of_one_name_are_two_images():
    names = [image_name({"super_category": "car", "release_path": f"stanford-cars/cars_{split}/00001.jpg"})
             for split in ("train", "test")]
    assert names == ["car/cars_train/00001", "car/cars_test/00001"]
    assert release_path("car", "hub/car/test/row-test-00017.jpg") == "stanford-cars/cars_test/row-test-00017.jpg"
    assert release_path("aircraft", PLACES["aircraft"][1].format(3)) == "fgvc_aircraft/data/images/0000003.jpg"


def test_files_on_this_machine_are_fetched_whatever_proxy_the_shell_names(tmp_path, server, monkeypatch):
    """And a far address says which variable is in the way."""
    monkeypatch.delenv("no_proxy", raising=False)
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert len(read_lists(server[0], ["pet"], tmp_path / "cache", allow_incomplete=True).rows) == 8
    with pytest.raises(UserError, match="cannot be downloaded .*through the proxy of http_proxy") as caught:
        read_lists("http://far.invalid", ["pet"], tmp_path / "other", allow_incomplete=True)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("http_proxy", "http://[::1")
    assert "http_proxy names no proxy" in settings_named("http://far.invalid")
    assert settings_named(server[0]) == ""
