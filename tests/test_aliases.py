"""The table of other names: what it holds, and that no alias is anybody else's name."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finer1_lib.data_sets.catalogue import DATA_SETS
from finer1_lib.data_sets.names import official_names
from finer1_lib.rewards import normalise
from finer1_lib.scores.aliases import KINDS, alias_rows, covers, name_of, names_by_spelling

ROWS = alias_rows()


def test_every_row_belongs_to_an_official_name_and_says_of_what_kind_it_is():
    assert len(ROWS) > 800 and Counter(row["data_set"] for row in ROWS).keys() == DATA_SETS.keys()
    for row in ROWS:
        assert row.keys() == {"data_set", "sub_category", "alias", "kind"} and all(row.values()), row
        assert row["sub_category"] in official_names(row["data_set"]), row
        assert row["kind"] in KINDS, row
        assert row["alias"] == " ".join(row["alias"].split()), row
    assert {row["kind"] for row in ROWS} == set(KINDS)


def test_no_alias_is_a_sub_category_of_its_data_set_nor_an_alias_of_two():
    names = {word: {normalise(name) for name in official_names(word)} for word in DATA_SETS}
    keys = [(row["data_set"], normalise(row["alias"])) for row in ROWS]
    assert [key for key in keys if key[1] in names[key[0]]] == []
    assert [key for key, times in Counter(keys).items() if times > 1] == []
    for word in DATA_SETS:  # so the dictionary loses nothing
        rows = [row for row in ROWS if row["data_set"] == word]
        assert len(names_by_spelling(word)) == len(names[word]) + len(rows)


@pytest.mark.parametrize(
    "word, said, name",
    [
        ("bird", "Brewer's Blackbird", "Brewer Blackbird"),
        ("bird", "Brewer’s blackbird", "Brewer Blackbird"),
        ("bird", "arctic tern", "Artic Tern"),
        ("bird", "Red-winged Blackbird", "Red Winged Blackbird"),  # folded, no row needed
        ("bird", "Greater Roadrunner", "Geococcyx"),
        ("bird", "Yellow-rumped Warbler", "Myrtle Warbler"),
        ("bird", "Chuck-will's-widow", "Chuck Will Widow"),
        ("bird", "Song Warbler", None),
        ("aircraft", "727-200", "Boeing 727-200"),
        ("aircraft", "A320", "Airbus A320"),
        ("aircraft", "McDonnell Douglas MD-11", "MD-11"),
        ("aircraft", "CRJ900", "CRJ-900"),
        ("aircraft", "Boeing 737", None),
        ("dog", "Leonberger", "Leonberg"),
        ("pet", "Leonberg", "Leonberger"),
        ("dog", "Basset Hound", "Basset"),
        ("pet", "Basset", "Basset Hound"),
        ("dog", "German Shorthaired Pointer", "German Short Haired Pointer"),
        ("pet", "German Shorthaired Pointer", "German Shorthaired"),
        ("dog", "Poodle", None),  # three of them
        ("dog", "Corgi", None),  # two
        ("flower", "coltsfoot", "colt's foot"),
        ("flower", "Nelumbo nucifera", "lotus"),
        ("flower", "primrose", "primula"),
        ("car", "2012 Audi TTS Coupe", "Audi TTS Coupe 2012"),
        ("car", "VW Golf Hatchback 1991", "Volkswagen Golf Hatchback 1991"),
        ("car", "Audi TTS", None),
        ("fish", "Rock Wren", None),
        ("bird", "", None),
    ],
)
def test_names_behind_what_is_said(word, said, name):
    assert name_of(word, said) == name


def test_flowers_other_lists_are_in_it():
    from finer1_lib.data_sets.names import FLOWER_ALIASES, flower_name

    for number, others in FLOWER_ALIASES.items():
        assert {name_of("flower", other) for other in others} == {flower_name(number)}


def test_all_birds_named_after_somebody_have_their_apostrophe():
    """The 15 that CUB writes without the s, and all cars with the year in front."""
    spelled = {row["sub_category"] for row in ROWS if row["data_set"] == "bird" and "'s " in row["alias"]
               and row["kind"] == "spelling"}  # fmt: skip
    assert len(spelled) == 16 and {"Brewer Sparrow", "Bewick Wren", "Nelson Sharp Tailed Sparrow"} <= spelled
    assert {row["sub_category"] for row in ROWS if row["kind"] == "year first"} == official_names("car")


@given(st.sampled_from(ROWS), st.sampled_from([str.upper, str.lower, str.title]), st.sampled_from("-_ "))
def test_case_hyphens_and_underscores_are_folded(row, case, joiner):
    said = case(row["alias"]).replace(" ", joiner)
    assert name_of(row["data_set"], said) == row["sub_category"]


def test_a_drawn_world_s_birds_are_not_covered():
    assert covers("bird", "Rock Wren") and not covers("bird", "Bulus Wren")
    for word, name in (("bird", "rock wren"), ("dog", "Rock Wren"), ("fish", "Rock Wren")):
        assert not covers(word, name)
