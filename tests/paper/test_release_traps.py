"""Traps in evaluation files: the release's own counts, and every trap planted by hand."""

import json
import os
import re
from pathlib import Path

import pytest
from tools.traps import COLUMNS, TRAPS, TWO_NAMES, app, count_traps, few, table, true_spelling
from typer.testing import CliRunner

from finer1_lib.core.errors import UserError
from finer1_lib.data.data_sets.catalogue import official_names
from finer1_lib.paper.release.questions import Question

OFFICIAL = os.environ.get("FINER1_OFFICIAL_DATA")
official = pytest.mark.skipif(not OFFICIAL, reason="FINER1_OFFICIAL_DATA is not set")


def write(folder, word, seen, unseen):
    """Two files from (truth, other options, path, question) tuples; missing parts are filled in."""
    for kind, questions in (("seen", seen), ("unseen", unseen)):
        lines = []
        for number, given in enumerate(questions):
            truth, others, path, question = (*given, None, None, None)[:4]
            path = f"{word}s_x/{kind}/{number}.jpg" if path is None else path
            options = [truth, "A", "B", "C"] if others is None else list(others)
            lines.append(json.dumps({"image_path": path, "question": question or f"Which {word}?",
                                     "options": options, "ground_truth": truth}))  # fmt: skip
        (folder / f"{word}_{kind}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def pick(rows, trap, data_set=None, what=None):
    """{categories: (count, of)} of one trap."""
    return {row["categories"]: (row["count"], row["of"]) for row in rows
            if row["trap"] == trap and data_set in (None, row["data_set"]) and what in (None, row["what"])}


@pytest.fixture(scope="module")
def counted():
    return count_traps(OFFICIAL, ["bird", "pet"], seed=0)


# what the official files hold, at commit 84cdc5c
@official
@pytest.mark.parametrize(
    "trap, what, bird, pet",
    [
        ("questions", None, [(3483, 5794), (2311, 5794)], [(2176, 3669), (1493, 3669)]),
        ("sub_categories", None, [(120, 200), (80, 200)], [(22, 37), (15, 37)]),
        ("smallest_class", None, [(11, None), (15, None)], [(88, None), (97, None)]),
        ("largest_class", None, [(30, None), (30, None)], [(100, None), (100, None)]),
        ("truth_first", None, [(3483, 3483), (2311, 2311)], [(2176, 2176), (1493, 1493)]),
        ("options_not_four_different", None, [(0, 3483), (0, 2311)], [(0, 2176), (0, 1493)]),
        ("truth_not_offered", None, [(0, 3483), (0, 2311)], [(0, 2176), (0, 1493)]),
        ("foreign_option", None, [(0, 3483), (0, 2311)], [(0, 2176), (0, 1493)]),
        ("distractor_contains_truth", None, [(0, 3483), (0, 2311)], [(0, 2176), (0, 1493)]),
        ("on_both_sides", None, [(0, 120), (0, 80)], [(0, 22), (0, 15)]),
        ("picture_asked_twice", None, [(0, 3483), (0, 2311)], [(0, 2176), (0, 1493)]),
        ("another_super_category_word", None, [(3483, 3483), (2311, 2311)], [(2176, 2176), (1493, 1493)]),
        ("never_matched_as_spelled", "sub-categories", [(35, 120), (16, 80)], [(0, 22), (0, 15)]),
        ("never_matched_as_spelled", "questions", [(993, 3483), (463, 2311)], [(0, 2176), (0, 1493)]),
        ("accepts_another_name", "sub-categories", [(0, 120), (0, 80)], [(0, 22), (0, 15)]),
        ("templates", None, [(10, None), (10, None)], [(10, None), (10, None)]),
        ("runs_of_one_class", None, [(120, 120), (80, 80)], [(22, 22), (15, 15)]),
        ("path_says_another_name", None, [(0, 3483), (0, 2311)], [(0, 2176), (0, 1493)]),
        ("asks_for_model", None, [(0, 3483), (0, 2311)], [(0, 2176), (0, 1493)]),
    ],
)
def test_the_official_counts(counted, trap, what, bird, pet):
    for word, expected in (("bird", bird), ("pet", pet)):
        assert list(pick(counted, trap, word, what).values()) == expected


@official
def test_the_smallest_classes_and_the_word_object_by_name(counted):
    detail = {(row["trap"], row["data_set"], row["categories"]): row["detail"] for row in counted}
    assert detail["smallest_class", "bird", "seen"] == "Least Auklet"
    assert detail["smallest_class", "bird", "unseen"] == "Spotted Catbird"
    assert detail["another_super_category_word", "pet", "seen"] == "object 2176"


@official
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_always_first_is_always_right_in_release_order_and_by_chance_when_shuffled(seed):
    rows = count_traps(OFFICIAL, seed=seed)
    assert {row["data_set"] for row in rows} == {"bird", "pet", "bird and pet"}
    for word, questions in (("bird", 5794), ("pet", 3669)):
        assert pick(rows, "always_first_release", word)["all"] == (questions, questions)
        (shuffled,) = [row for row in rows if row["trap"] == "always_first_shuffled"
                       and row["data_set"] == word and row["categories"] == "all"]  # fmt: skip
        assert shuffled["of"] == questions and shuffled["low"] < 0.25 < shuffled["high"]
        assert shuffled["high"] - shuffled["low"] < 0.05


def test_every_trap_is_found_where_it_is_planted(tmp_path):
    seen = [
        ("Rose", ["Rose", "Desert-rose", "Mallow", "Iris"], "flower/a/1.jpg"),
        ("Rose", ["Iris", "Rose", "Mallow", "Tree Mallow"], "x/a/2.jpg", "What species is it?"),
        ("Iris", ["Iris", "Iris", "Mallow", "Rose"], "flower/a/3.jpg", "What model is it"),
        ("Rose", ["Rose", "Mallow", "Iris"], "flower/a/3.jpg"),
        ("Rose", ["Iris", "Mallow", "Zebra", "Tree Mallow"], "x/a/4.jpg"),
        ("Both", ["Both", "Rose", "Iris", "colt's foot"], "x/a/5.jpg"),
    ]
    unseen = [
        ("Mallow", ["Mallow", "Tree Mallow", "Rose", "Iris"], "x/b/6.jpg"),
        ("Tree Mallow", ["Tree Mallow", "Mallow", "Rose", "Iris"], "x/b/7.jpg"),
        ("Desert-rose", ["Desert-rose", "Both", "Rose", "Iris"], "x/b/8.jpg"),
        ("colt's foot", ["colt's foot", "Both", "Rose", "Iris"], "x/b/9.jpg"),
        ("Both", ["Both", "Mallow", "Rose", "Iris"], "x/a/4.jpg"),
    ]
    rows = count_traps(write(tmp_path, "flower", seen, unseen), ["flower"])
    assert all(set(row) == set(COLUMNS) for row in rows)
    assert pick(rows, "questions") == {"seen": (6, 6149), "unseen": (5, 6149)}
    assert pick(rows, "sub_categories") == {"seen": (3, 7), "unseen": (5, 7)}
    assert pick(rows, "smallest_class") == {"seen": (1, None), "unseen": (1, None)}
    assert pick(rows, "largest_class") == {"seen": (4, None), "unseen": (1, None)}
    assert pick(rows, "truth_first") == {"seen": (4, 6), "unseen": (5, 5)}
    assert pick(rows, "options_not_four_different") == {"seen": (2, 6), "unseen": (0, 5)}
    assert pick(rows, "truth_not_offered") == {"seen": (1, 6), "unseen": (0, 5)}
    assert pick(rows, "foreign_option") == {"seen": (1, 6), "unseen": (0, 5)}
    assert pick(rows, "other_side_among_options") == {"seen": (6, 6), "unseen": (5, 5)}
    assert pick(rows, "distractor_contains_truth") == {"seen": (1, 6), "unseen": (1, 5)}
    assert pick(rows, "on_both_sides") == {"seen": (1, 3), "unseen": (1, 5)}
    assert pick(rows, "picture_asked_twice") == {"seen": (3, 6), "unseen": (1, 5)}
    assert pick(rows, "another_super_category_word") == {"seen": (3, 6), "unseen": (5, 5)}
    assert pick(rows, "accepts_another_name", what="sub-categories") == {"seen": (1, 3), "unseen": (1, 5)}
    assert pick(rows, "accepts_another_name", what="questions") == {"seen": (4, 6), "unseen": (1, 5)}
    assert pick(rows, "asks_for_species") == {"seen": (1, 6), "unseen": (0, 5)}
    assert pick(rows, "asks_for_model") == {"seen": (1, 6), "unseen": (0, 5)}
    assert pick(rows, "question_mark_before_comma") == {"seen": (5, 6), "unseen": (5, 5)}
    assert pick(rows, "option_in_double_quotes") == {"seen": (1, 6), "unseen": (1, 5)}
    assert pick(rows, "runs_of_one_class") == {"seen": (4, 3), "unseen": (5, 5)}
    assert pick(rows, "templates") == {"seen": (3, None), "unseen": (1, None)}
    # row 2 of the seen ones offers Iris first, row 5 too: neither is right nor holds the truth
    assert pick(rows, "always_first_release") == {"seen": (4, 6), "unseen": (5, 5), "all": (9, 11)}
    told = {row["trap"]: row["detail"] for row in rows if row["categories"] == "unseen"}
    assert told["distractor_contains_truth"] == "Mallow in Tree Mallow 1"
    examples = [row["detail"] for row in rows if row["trap"] == "accepts_another_name"]
    assert examples == ["Desert-rose for Rose", "Rose 4", "Tree Mallow for Mallow", "Mallow 1"]


def test_case_is_no_trap(tmp_path):
    write(tmp_path, "bird", [("House wren", ["House wren", "HOUSE WREN", "A", "B"], "x/1.House_Wren/1.jpg")],
          [("Jay",)])  # fmt: skip
    rows = count_traps(tmp_path, ["bird"])
    assert pick(rows, "distractor_contains_truth")["seen"] == (0, 1)
    assert pick(rows, "never_matched_as_spelled", what="sub-categories")["seen"] == (0, 1)


def test_any_word_but_the_data_set_s_is_reported(tmp_path):
    """A data root called after another data set turns every super-category into that."""
    seen = [("A", None, "data/aircraft/flower/1.jpg"), ("B", None, "flower/2.jpg"), ("C", None, "pics/3.jpg")]
    rows = count_traps(write(tmp_path, "flower", seen, [("D",)]), ["flower"])
    (row, _) = [row for row in rows if row["trap"] == "another_super_category_word"]
    assert (row["count"], row["detail"]) == (2, "aircraft 1; object 1")


def test_the_interval_is_over_whole_sub_categories(tmp_path):
    """A class that is always first and one that never is: 200 questions, but two tries."""
    seen = [("A", ["A", "B", "C", "D"])] * 100 + [("B", ["A", "B", "C", "D"])] * 100
    rows = count_traps(write(tmp_path, "newt", seen, [("C",)]), ["newt"])
    (row,) = [row for row in rows if row["trap"] == "always_first_release" and row["categories"] == "seen"]
    assert row["count"] == 100 and row["low"] < 0.1 and row["high"] > 0.9


def test_cars_lose_their_last_two_words(tmp_path):
    """22 shortened names for 44 sub-categories, and 50 accept another's full name."""
    names = sorted(official_names("car"))
    write(tmp_path, "car", [(name,) for name in names], [("Other Car SUV 2012",)])
    rows = count_traps(tmp_path, ["car"])
    assert pick(rows, "not_told_apart") == {"seen": (44, 196), "unseen": (0, 1)}
    assert pick(rows, "accepts_another_name", what="sub-categories")["seen"] == (50, 196)
    assert pick(rows, "another_super_category_word")["seen"] == (0, 196)
    # two years of one model on two sides
    write(tmp_path, "car", [("Audi A5 Coupe 2012",), ("BMW M5 Sedan 2010",)],
          [("BMW M3 Coupe 2012",), ("Audi A5 Coupe 2011",)])  # fmt: skip
    rows = count_traps(tmp_path, ["car"])
    assert pick(rows, "not_told_apart_from_the_other_side") == {"seen": (1, 2), "unseen": (1, 2)}
    write(tmp_path, "car", [("Audi A5 Coupe 2012",), ("Audi A5 Coupe 2011",)], [("BMW M3 Coupe 2012",)])
    rows = count_traps(tmp_path, ["car"])
    assert pick(rows, "not_told_apart")["seen"] == (2, 2)
    assert pick(rows, "not_told_apart_from_the_other_side")["seen"] == (0, 2)


def test_dogs_and_pets_share_names_and_breeds(tmp_path):
    """13 names in both; three more breeds are seen in one and unseen in the other."""
    write(tmp_path, "pet", [(name,) for name in sorted(official_names("pet"))], [("None of Them",)])
    write(tmp_path, "dog", [(name,) for name in sorted(official_names("dog"))], [("Nor of These",)])
    rows = count_traps(tmp_path)
    assert pick(rows, "same_name_in_two_data_sets") == {"all": (13, None)}
    assert pick(rows, "seen_here_unseen_there") == {"all": (0, 16)}
    assert all(pet in official_names("pet") and dog in official_names("dog") for pet, dog in TWO_NAMES)
    dogs = [dog for _, dog in TWO_NAMES]
    write(tmp_path, "dog", [(name,) for name in sorted(official_names("dog")) if name not in dogs],
          [(name,) for name in dogs])  # fmt: skip
    for words in (["pet", "dog"], ["dog", "pet"]):
        rows = count_traps(tmp_path, words)
        assert pick(rows, "seen_here_unseen_there") == {"all": (3, 16)}
    (row,) = [row for row in rows if row["trap"] == "seen_here_unseen_there"]
    assert "Leonberg (unseen) and Leonberger (seen)" in row["detail"]


@pytest.mark.parametrize(
    "word, path, truth, spelled",
    [
        ("bird", "bird_200/images/159.Black_and_white_Warbler/x.jpg", "Black And White Warbler",
         "Black-and-white Warbler"),
        ("bird", "bird_200/images/102.Western_Wood_Pewee/x.jpg", "Western Wood Pewee", "Western Wood Pewee"),
        ("bird", "elsewhere/x.jpg", "Rock Wren", "Rock Wren"),
        ("dog", "dogs_120/Images/n02086240-Shih-Tzu/x.jpg", "Shih Tzu", "Shih-Tzu"),
        ("dog", "dogs_120/Images/n02085936-Maltese_dog/x.jpg", "Maltese Dog", "Maltese Dog"),
        ("flower", "flower102/jpg/image_00001.jpg", "desert-rose", "desert-rose"),
    ],
)
def test_the_folder_still_shows_the_hyphens(word, path, truth, spelled):
    assert true_spelling(Question(word, "seen", path, "?", (truth,), truth)) == spelled


def test_hyphens_of_dogs_are_counted_too(tmp_path):
    paths = [f"dogs_120/Images/n02086240-{name}/n_{number}.jpg" for number, name in
             enumerate(["Shih-Tzu", "Maltese_dog", "Shih-Tzu"])]  # fmt: skip
    seen = [(name, None, path) for name, path in zip(["Shih Tzu", "Maltese Dog", "Shih Tzu"], paths)]
    rows = count_traps(write(tmp_path, "dog", seen, [("Pug",)]), ["dog"])
    assert pick(rows, "never_matched_as_spelled", what="sub-categories")["seen"] == (1, 2)
    assert pick(rows, "never_matched_as_spelled", what="questions")["seen"] == (2, 3)
    assert pick(rows, "path_says_another_name") == {"seen": (0, 3), "unseen": (1, 1)}


@pytest.mark.parametrize("change", ["<html>", [], {"options": []}, {"options": [1]}, {"options": "ABCD"},
                                    {"image_path": ""}, {"question": None}, {"ground_truth": 7}])
def test_a_line_that_is_no_question_is_named(tmp_path, change):
    write(tmp_path, "bird", [("A",)], [("B",)])
    file = tmp_path / "bird_seen.jsonl"
    if isinstance(change, dict):
        change = {**json.loads(file.read_text()), **change}
    line = change if isinstance(change, str) else json.dumps(change)
    file.write_text(file.read_text() + line + "\n")
    told = "(not a JSON object|options is not a list of names|(image_path|question|ground_truth) is missing); take"
    with pytest.raises(UserError, match=f"bird_seen.jsonl, line 2: {told}"):
        count_traps(tmp_path, ["bird"])


def test_missing_and_empty_files_are_reported(tmp_path):
    with pytest.raises(UserError, match="no evaluation file"):
        count_traps(tmp_path)
    with pytest.raises(UserError, match="bird_seen.jsonl is neither in"):
        count_traps(tmp_path, ["bird"])
    write(tmp_path, "bird", [("A",)], [("B",)])
    (tmp_path / "bird_unseen.jsonl").unlink()
    with pytest.raises(UserError, match="bird_unseen.jsonl is neither in"):
        count_traps(tmp_path)
    (tmp_path / "bird_unseen.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no questions"):
        count_traps(tmp_path)
    (tmp_path / "eval" / "data").mkdir(parents=True)
    write(tmp_path / "eval" / "data", "bird", [("A",)], [("B",)])  # of a checkout: found first
    assert count_traps(tmp_path)[0]["data_set"] == "bird"


def test_the_table_and_the_command(tmp_path):
    write(tmp_path, "newt", [("A",), ("B", None, None, "What species?")], [("C",)])
    rows = count_traps(tmp_path, ["newt"])
    titles, lines = table(rows)
    assert titles == ["trap", "data set", "counted", "seen", "unseen", "all", "examples"]
    assert ["questions", "newt", "questions", "2 of 3", "1 of 3", "", ""] in lines
    (control,) = [line for line in lines if line[0] == "always first release"]
    assert re.fullmatch(r"3 of 3 \(\d+\.\d to 100\.0 %\)", control[5])
    assert few(["a", "b", "c", "d", "e"]) == "a; b; c; 2 more"
    target = tmp_path / "traps.json"
    result = CliRunner().invoke(app, [str(tmp_path), "newt", "--json", str(target)])
    assert result.exit_code == 0 and "truth first" in result.output
    assert json.loads(target.read_text()) == rows
    assert Path(target).stat().st_size > 100 and len(TRAPS) == 10
