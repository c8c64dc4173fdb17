"""Taxonomies: the built-in genera as facts, the user's file in both formats, and every fault in one line."""

import csv
import importlib.resources
import json
import os
from collections import Counter
from pathlib import Path

import pandas
import pytest

from finer1_lib.core.errors import UserError
from finer1_lib.data.taxonomy import find_taxonomy, genera, read_taxonomy, taxonomy_of

TABLE = pandas.DataFrame(
    [("bird", "Rock Wren"), ("bird", "Rock Wren"), ("bird", "Red-Winged Blackbird"), ("car", "Audi TT")],
    columns=["super_category", "sub_category"])
GOOD = ("sub_category,genus,family,note\nrock_wren, Salpinctes ,Troglodytidae,seen\n"
        "Red winged  blackbird,Agelaius,,\n")


def written(folder: Path, text: str, name: str = "taxonomy.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_a_csv_by_hand(tmp_path):
    found = read_taxonomy(written(tmp_path, "\ufeff" + GOOD), TABLE)
    assert found == {
        "Red-Winged Blackbird": {"genus": "Agelaius"},  # spelled as in the table; no family
        "Rock Wren": {"genus": "Salpinctes", "family": "Troglodytidae"},  # and "note" is no rank
    }  # the car is of a super-category that the file does not speak of


def test_what_spreadsheets_and_pandas_add_is_passed_over(tmp_path):
    text = ",sub_category,genus\n0,Rock Wren,Salpinctes\n,,\n1,House Wren,Troglodytes\n , ,\n"
    (tmp_path / "t.csv").write_text(text)
    table = pandas.DataFrame({"super_category": "bird", "sub_category": ["Rock Wren", "House Wren"]})
    assert read_taxonomy(tmp_path / "t.csv", table) == {
        "House Wren": {"genus": "Troglodytes"}, "Rock Wren": {"genus": "Salpinctes"}}


def test_json_is_the_same(tmp_path):
    content = {"rock wren": {"genus": "Salpinctes", "family": "Troglodytidae", "note": "x"},
               "Red Winged Blackbird": {"genus": "Agelaius", "family": ""},
               "Unused Bird": {"genus": "Nobodya"}}
    path = written(tmp_path, json.dumps(content), "t.json")
    assert read_taxonomy(path, TABLE) == read_taxonomy(written(tmp_path, GOOD), TABLE)


def test_an_empty_genus_is_allowed_and_left_out(tmp_path):
    path = written(tmp_path, "genus,sub_category\n,Rock Wren\nAgelaius,Red-Winged Blackbird\n")
    assert read_taxonomy(path, TABLE) == {"Red-Winged Blackbird": {"genus": "Agelaius"}, "Rock Wren": {}}


@pytest.mark.parametrize(
    ("text", "told"),
    [("sub_category,family\nRock Wren,T\n", "'sub_category' and one 'genus', has sub_category, family"),
     ("sub_category;genus\nRock Wren;T\n", "has sub_category;genus; part the cells by commas"),
     ("sub_category,genus,genus\nRock Wren,S,T\n", "needs one column"), ("", "has none"),
     (GOOD + "Rock Wren,Salpinctes,T,x,y\n", "line 4 has more or fewer cells"),
     (GOOD + "Rock Wren\n", "line 4 has more or fewer cells"),
     (GOOD + " -,Salpinctes,T,\n", "a row has no name"),
     (GOOD + "ROCK-WREN,Salpinctes,Troglodytidae,\n", "'ROCK-WREN' is listed twice"),
     (GOOD + "Canyon Wren,salpinctes,,\n", "'Canyon Wren' is spelled 'salpinctes' and elsewhere 'Sal"),
     ("sub_category,genus\nRock Wren,Salpinctes\n", "1 of 2 sub-categories of 'bird' are missing, the"),
     ("sub_category,genus\nDodo,Raphus\n", "none of its 1 names is a sub-category of the data (the fir"),
     ("sub_category,genus\nRock Wren,\nRed Winged Blackbird,\n", "gives no name a genus"),
     ('sub_category,genus\n"Rock Wren,Salpinctes\n', "not a readable taxonomy")],
)
def test_faults_are_told_in_one_line(tmp_path, text, told):
    with pytest.raises(UserError) as caught:
        read_taxonomy(written(tmp_path, text), TABLE)
    assert told in str(caught.value) and "taxonomy.csv" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [("t.json", "{", "not a readable taxonomy"), ("t.json", "[]", "not an object of names"),
     ("t.json", '{"Rock Wren": "Salpinctes"}', "'Rock Wren' must be an object of texts"),
     ("t.json", '{"Rock Wren": {"genus": 3}}', "'Rock Wren' must be an object of texts"),
     ("t.json", '{"Rock Wren": {"genus": "S"}, "Rock Wren": {"genus": "T"}}', "is listed twice"),
     ("t.json", '{"Rock Wren": {"family": "T"}}', "gives no name a genus"),
     ("t.txt", GOOD, "neither .csv nor .json")],
)
def test_faults_of_json_and_of_other_files(tmp_path, name, text, told):
    with pytest.raises(UserError, match=told):
        read_taxonomy(written(tmp_path, text, name), TABLE)


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_taxonomy(tmp_path / "missing.csv", TABLE)
    (tmp_path / "latin.csv").write_bytes(b"sub_category,genus\nB\xfclb\xfcl,Pycnonotus\n")
    with pytest.raises(UserError, match=r"taxonomy \(line 2 is not UTF-8: save it as UTF-8"):
        read_taxonomy(tmp_path / "latin.csv", TABLE)
    (tmp_path / "wide.csv").write_bytes(GOOD.encode("utf-16"))
    (tmp_path / "deep.json").write_bytes(b"[" * 100_000)
    (tmp_path / "half.json").write_bytes(b'{"Rock Wren": {"genus": "\\ud800"}}')
    for name, why in (("wide.csv", "line 1 is not UTF-8"), ("deep.json", "nested too deeply"),
                      ("half.json", "half a sign"), ("~no_such_user/t.csv", "No such file")):
        with pytest.raises(UserError, match=why):
            read_taxonomy(name if name[0] == "~" else tmp_path / name, TABLE)


def test_a_guide_gives_its_genera():
    guide = {"sub_categories": {"Dunen Wren": {"super_category": "bird", "genus": "Wren", "attributes": {}},
                                "Odd Bird": {"super_category": "bird", "attributes": {}}}}
    assert taxonomy_of(guide) == {"Dunen Wren": {"genus": "Wren"}}


def test_what_wins_and_what_is_left_out(tmp_path):
    names = ["Rock Wren", "Mallard", "Dunen Wren"]
    table = pandas.DataFrame({"super_category": "bird", "sub_category": names})
    guide = {"sub_categories": {"Dunen Wren": {"genus": "Wren"}, "Elsewhere": {"genus": "Wren"}}}
    path = written(tmp_path, "sub_category,genus\nRock Wren,Own\nDunen Wren,\nMallard,Anas\n")
    assert find_taxonomy(table) == {}
    assert find_taxonomy(table, data_sets=["bird", "car"], guide=guide) == {
        "Dunen Wren": {"genus": "Wren"},
        "Mallard": {"order": "Anseriformes", "family": "Anatidae", "genus": "Anas"},
        "Rock Wren": {"order": "Passeriformes", "family": "Troglodytidae", "genus": "Salpinctes"}}
    assert find_taxonomy(table, data_sets=["bird"], path=str(path))["Rock Wren"] == {"genus": "Own"}


def test_the_genera_of_cub():
    found = genera("bird")
    assert len(found) == 200 and all(list(ranks) == ["order", "family", "genus"] for ranks in found.values())
    assert all(ranks["genus"].isalpha() and ranks["genus"].istitle() for ranks in found.values())
    sizes = Counter(ranks["genus"] for ranks in found.values())
    assert len(sizes) == 123 and sum(size for size in sizes.values() if size > 1) == 115
    assert sizes["Setophaga"] == 13 and sizes["Larus"] == sizes["Vireo"] == 7
    expected = {"Black Footed Albatross": "Phoebastria", "Sooty Albatross": "Phoebetria",
                "Ivory Gull": "Pagophila", "Tree Sparrow": "Spizelloides", "House Sparrow": "Passer",
                "Tree Swallow": "Tachycineta", "Gray Catbird": "Dumetella", "Spotted Catbird": "Ailuroedus",
                "Blue Grosbeak": "Passerina", "American Redstart": "Setophaga",
                "Common Yellowthroat": "Geothlypis", "Artic Tern": "Sterna"}
    assert {name: found[name]["genus"] for name in expected} == expected
    assert genera("dog") == {}


def test_birds_make_one_tree():
    """A genus has one family, a family one order; families hold what a birder expects."""
    found = genera("bird").values()
    for below, above in (("genus", "family"), ("family", "order")):
        parents = {}
        for ranks in found:
            parents.setdefault(ranks[below], set()).add(ranks[above])
        assert all(len(each) == 1 for each in parents.values()), below
    assert len({ranks["family"] for ranks in found}) == 37 and len({ranks["order"] for ranks in found}) == 13
    of = {name: genera("bird")[name] for name in ("Herring Gull", "Gadwall", "Belted Kingfisher", "Bobolink")}
    assert [(one["order"], one["family"]) for one in of.values()] == [
        ("Charadriiformes", "Laridae"), ("Anseriformes", "Anatidae"), ("Coraciiformes", "Alcedinidae"),
        ("Passeriformes", "Icteridae")]


def test_aircraft_have_the_release_s_own_families_and_makers():
    found = genera("aircraft")
    assert len(found) == 100 and len({ranks["genus"] for ranks in found.values()}) == 70
    assert len({ranks["maker"] for ranks in found.values()}) == 30
    assert {name for name, ranks in found.items() if ranks["genus"] == "A320"} == {
        "Airbus A318", "Airbus A319", "Airbus A320", "Airbus A321"}
    assert found["DC-9-30"]["maker"] == "McDonnell Douglas" and found["C-47"]["maker"] == "Douglas Aircraft Company"


def test_cars_are_parted_into_pieces_of_their_names():
    found = genera("car")
    assert len(found) == 196
    for name, ranks in found.items():
        assert sorted(" ".join(ranks.values()).split()) == sorted(name.split()), name
        assert {"genus", "model", "year"} <= set(ranks) and ranks["year"].isdigit()
    assert found["Audi TT RS Coupe 2012"] == {
        "genus": "Audi", "model": "TT", "trim": "RS", "body": "Coupe", "year": "2012"}
    assert found["AM General Hummer SUV 2000"]["genus"] == "AM General"


def test_the_built_in_file_is_packed_and_is_a_taxonomy_of_a_user_too():
    path = importlib.resources.files("finer1_lib.data.data_sets") / "cub_taxonomy.csv"
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    names = [row["sub_category"] for row in rows]
    table = pandas.DataFrame({"super_category": "bird", "sub_category": names})
    with importlib.resources.as_file(path) as file:
        assert read_taxonomy(file, table) == genera("bird")


@pytest.mark.skipif(not os.environ.get("FINER1_OFFICIAL_DATA"), reason="FINER1_OFFICIAL_DATA is not set")
def test_the_genera_of_cub_name_the_release_s_birds_exactly():
    folder = Path(os.environ["FINER1_OFFICIAL_DATA"])
    texts = [(folder / f"bird_{half}.jsonl").read_text(encoding="utf-8") for half in ("seen", "unseen")]
    names = {json.loads(line)["ground_truth"] for text in texts for line in text.splitlines()}
    assert names == set(genera("bird"))
