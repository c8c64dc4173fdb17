"""The release's rationales: into our records, back without loss, and what the report counts in them."""

import copy
import json
import os
from pathlib import Path

import pandas
import pytest
from tools.export_release import stage1_items, write_stage1

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import append_jsonl
from finer1_lib.data.rationales.filters import write_rationale
from finer1_lib.data.rationales.parsing import candidate_lines, parse, release_layout
from finer1_lib.data.rationales.quality import label_order, text_report
from finer1_lib.paper.release.stage1 import rationale_records, read_stage1

LIST = "The analysis of candidate subcategories: \n1. Bonfire Lily (Red Torch)\n2. Marsh Lily\n\n"
SINGLE = (
    f"<think>It is red.\n{LIST}The first fits.\nThe prediction is: Bonfire Lily</think>\n"
    "<answer>{}</answer>"
)
HEADINGS = SINGLE.replace("The first fits.", " Comparison\nThe first fits.\n Final Prediction\nIt does.")
DOUBLE = SINGLE.replace("It is red.", "A lily?\n Comparison:\nThey differ.\n Final Prediction\nThe first.")
BARE = "<think>A bonfire lily.\nThe prediction is: Bonfire Lily</think>\n<answer>{}</answer>"


FLOWER = "flower102_train/image/train/image_00007.jpg"


def item(text=SINGLE, answer="Bonfire Lily", image=FLOWER, system="Think."):
    return {
        "messages": [*([{"role": "system", "content": system}] if system is not None else []),
                     {"content": "<image>Which flower?", "role": "user"},
                     {"role": "assistant", "content": text.replace("{}", answer)}],
        "images": [image],
    }  # fmt: skip


ITEMS = [
    item(), item(HEADINGS, image="oxford-pet-train/train/Red_Torch_3.jpg", system=None),
    item(DOUBLE, "Marsh Lily", "stanford_cars_train/images/00001.jpg"),
]  # fmt: skip
TABLE = pandas.DataFrame(
    [("flowers-102/jpg/image_00007.jpg", "flower", "Bonfire Lily", "train"),
     ("flowers-102/jpg/image_00008.jpg", "flower", "Marsh Lily", "test"),
     ("oxford-iiit-pet/images/Red_Torch_3.jpg", "pet", "Bonfire Lily", "train"),
     ("stanford_cars/cars_test/00001.jpg", "car", "Bonfire Lily", "test"),
     ("stanford_cars/cars_train/00001.jpg", "car", "Marsh Lily", "train")],
    columns=["image_id", "super_category", "sub_category", "split"],
)  # fmt: skip


def save(path, items):
    path.write_text(json.dumps(items), encoding="utf-8")
    return path


def test_there_and_back(tmp_path):
    items = read_stage1(save(tmp_path / "in.json", ITEMS))
    records = rationale_records(items, TABLE)
    assert [record["image_id"] for record in records] == list(TABLE["image_id"].iloc[[0, 2, 4]])
    append_jsonl(tmp_path / "rationales.jsonl", *records)  # as notebook 01 keeps them
    kept = [json.loads(line) for line in (tmp_path / "rationales.jsonl").read_text().splitlines()]
    assert write_stage1(kept, tmp_path / "out.json") == 3
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == ITEMS
    assert read_stage1(tmp_path / "in.json", ["pet", "car"]) == ITEMS[1:]


def test_a_record_is_one_of_ours():
    (record,) = rationale_records([ITEMS[0]], TABLE)
    assert record == {
        "image_id": "flowers-102/jpg/image_00007.jpg", "super_category": "flower",
        "sub_category": "Bonfire Lily", "question": "Which flower?", "text": SINGLE.format("Bonfire Lily"),
        "concepts": [],
        "candidates": ["Bonfire Lily", "Marsh Lily"], "attempts": 1, "kept": True, "dropped_because": None,
        "rejections": [], "texts": [SINGLE.format("Bonfire Lily")], "mended": 0,
        "source": {"image": FLOWER, "system": "Think."},
    }  # fmt: skip


def test_an_own_rationale_is_exported(tmp_path):
    own = rationale_records([ITEMS[0]], TABLE)[0]
    del own["source"]
    items = stage1_items([own, {**own, "kept": False}])
    assert items == [{**ITEMS[0], "images": [own["image_id"]], "messages": ITEMS[0]["messages"][1:]}]
    with pytest.raises(UserError, match="nothing to export"):
        write_stage1([{**own, "kept": False}], tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def broken(change):
    bad = copy.deepcopy(ITEMS[0])
    change(bad)
    return bad


@pytest.mark.parametrize(
    "bad, told",
    [
        ("text", "not an object with messages"),
        (broken(lambda one: one["messages"].pop()), "the messages are not"),
        (broken(lambda one: one["messages"].reverse()), "the messages are not"),
        (broken(lambda one: one["messages"][1].update(content=7)), "a message without text"),
        (broken(lambda one: one["messages"][1].update(content="Which?")), "begin with its one <image>"),
        (broken(lambda one: one["messages"][1].update(content="<image><image>")), "its one <image>"),
        (broken(lambda one: one["messages"][2].update(content="A lily.")), "the text is not <think>"),
        (broken(lambda one: one.update(images=[])), "not exactly one image"),
        (ITEMS[2], "has a rationale already"),
    ],
)
def test_a_bad_item_is_named(tmp_path, bad, told):
    with pytest.raises(UserError, match=f"item 3: .*{told}"):
        read_stage1(save(tmp_path / "in.json", [*ITEMS, bad]))


def test_a_bad_file_is_named(tmp_path):
    for content in ("{}", "[]", "<html>", "[" * 100_000):
        (tmp_path / "in.json").write_text(content)
        with pytest.raises(UserError, match="in.json: not "):
            read_stage1(tmp_path / "in.json")
    with pytest.raises(UserError, match="not readable JSON"):
        read_stage1(tmp_path / "nothing.json")


def test_images_must_be_there_for_training_and_labelled_alike():
    moved = item(image="flower102_train/image/train/image_00008.jpg", answer="Marsh Lily")
    with pytest.raises(UserError, match="1 of 2 rationales' images .*image_00008.jpg"):
        rationale_records([ITEMS[0], moved], TABLE)  # it is a test picture
    assert len(rationale_records([ITEMS[0], moved], TABLE, allow_incomplete=True)) == 1
    with pytest.raises(UserError, match="answers 'Marsh Lily'.*is 'Bonfire Lily'"):
        rationale_records([item(answer="Marsh Lily")], TABLE, allow_incomplete=True)
    with pytest.raises(UserError, match="unseen sub-category 'Bonfire Lily'"):
        rationale_records([ITEMS[0]], TABLE.assign(categories="unseen"))


@pytest.mark.parametrize(
    "text, layout",
    [(SINGLE, "single"), (HEADINGS, "headings"), (DOUBLE, "double"), (BARE, "none"),
     (SINGLE.replace("It is red.", "- compared with others\n- the final answer"), "single")],
)
def test_layouts(text, layout):
    assert release_layout(text) == layout


def test_the_report_by_hand():
    """Three flowers: at place 1 in a name, at 2 in a gloss and leaking, without candidates; and a kit's."""
    texts = [
        (SINGLE, "Bonfire Lily"),
        (SINGLE.replace("2. Marsh", "2. Swamp (marsh lily) - a plant, 3 feet.\n3. Moor").replace(
            "It is red", "As mentioned in the question"), "Marsh Lily"),
        (BARE, "Bonfire Lily"),
    ]  # fmt: skip
    records = [{"super_category": "flower", "sub_category": name, "kept": True, "text": text.format(name)}
               for text, name in texts]
    tagged = write_rationale("a dunen wren", ["Marlo Wren", "Dunen Wren"], "they differ", "Dunen Wren")
    records += [{"super_category": "bird", "sub_category": "Dunen Wren", "kept": True, "text": tagged},
                {"super_category": "bird", "sub_category": "Dunen Wren", "kept": False, "text": "babble"}]
    assert candidate_lines(parse(records[1]["text"])) == (
        "Bonfire Lily (Red Torch)", "Swamp (marsh lily)", "Moor Lily")
    bird, flower, everything = text_report(records)
    none = dict.fromkeys(("headings", "double", "four", "third", "fourth"), 0)
    assert flower == {
        "super_category": "flower", "n": 3, "words": pytest.approx((24 + 35 + 8) / 3), "shortest": 8,
        "longest": 35, "tags": 0, "single": 2, "none": 1, "listed": 2, "label_listed": 2, "label_exact": 1,
        "first": 1, "second": 1, "label_before": 0, "leaks": 1, "answered": 2, **none,
    }  # fmt: skip
    assert (bird["n"], bird["tags"], bird["second"], bird["label_before"]) == (1, 1, 1, 1)
    assert everything["super_category"] == "all" and everything["n"] == 4 and everything["second"] == 2
    assert text_report([]) == []


RELEASED = (
    "<think> Large, as seen. {before}\nThe analysis of candidate subcategories: \n{listed}\n\n Comparison\n"
    "1. The first vs. the second: longer.\n\n Final Prediction:\nThe prediction is: {said}</think>\n\n<answer>{label}</answer>"
)


@pytest.mark.parametrize("word, label, said, listed, before", [
    ("car", "Buick Enclave SUV 2012", "Final Prediction: Buick Enclave", "1. Buick Enclave (2008-2012): big", ""),
    ("car", "Audi A5 Coupe 2012", "The car is an Audi A5.", "1. **Audi A5 Coupe (2012)** - fast", "It may be an Audi A5."),
    ("car", "Chevrolet Corvette ZR1 2012", "Chevy Corvette (C6)", "- Chevy Corvette ZR1", "A Corvette, or a Chevrolet."),
    ("aircraft", "Boeing 737-400", "The aircraft is most likely a Boeing 737-400.", "1. Boeing 737-400: long", ""),
    ("aircraft", "F-16A/B", "F-16 Fighting Falcon", "1. General Dynamics F-16A/B", "Like an F-16A/B."),
    ("flower", "purple coneflower", "Echinacea purpurea", "1. Echinacea purpurea (Purple Coneflower)", "A purple coneflower?"),
    ("dog", "Black And Tan Coonhound", "a Black and Tan Coonhound", "1. Black-and-Tan Coonhound", ""),
])
def test_the_report_knows_the_names_of_the_other_data_sets(word, label, said, listed, before):
    text = RELEASED.format(label=label, said=said, before=before, listed=f"{listed}\n2. Some Other\n3. A Third One")
    record = {"super_category": word, "sub_category": label, "kept": True, "text": text}
    row = text_report([record])[0]
    assert (row["listed"], row["label_listed"], row["first"], row["answered"]) == (1, 1, 1, 1)
    exact = word == "dog" or label in ("Audi A5 Coupe 2012", "Boeing 737-400")
    named = before not in ("", "A Corvette, or a Chevrolet.")
    assert (row["label_exact"], row["label_before"]) == (exact, named)
    other = {"car": "Toyota Camry Sedan 2012", "dog": "Basset", "flower": "rose", "aircraft": "Boeing 737-300"}[word]
    wrong = text_report([{**record, "sub_category": other}])[0]
    assert (wrong["listed"], wrong["label_listed"], wrong["answered"], wrong["label_before"]) == (1, 0, 0, 0)
    assert label_order([{**record, "texts": [text], "candidates": [label]}])[0]["value"] == 1


def test_the_official_rationales():
    """The counts of birds and pets among the 404."""
    folder = os.environ.get("FINER1_OFFICIAL_DATA")
    if not folder:
        pytest.skip("FINER1_OFFICIAL_DATA is not set")
    items = read_stage1(Path(folder) / "stage1_birds_pets.json")
    records = rationale_records(items)
    assert stage1_items(records) == items
    bird, pet, everything = text_report(records)
    assert [bird["n"], pet["n"], everything["n"]] == [86, 12, 98]
    assert [round(bird["words"]), round(pet["words"])] == [622, 546]
    assert [bird["label_listed"], pet["label_listed"], pet["listed"]] == [85, 11, 11]
    assert [bird["label_before"], pet["label_before"]] == [65, 9]
    assert [everything[layout] for layout in ("single", "headings", "double", "none")] == [0, 54, 43, 1]
    assert [everything[key] for key in ("four", "first", "second", "third", "fourth")] == [97, 95, 0, 1, 0]
    assert everything["answered"] == 98 and len({record["sub_category"] for record in records}) == 98
