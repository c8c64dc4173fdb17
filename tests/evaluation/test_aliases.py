"""The table of other names: what it holds, and that no alias is anybody else's name."""

from collections import Counter

import pytest
from hypothesis import given, strategies as st

from finer1_lib.core.completions import normalise
from finer1_lib.data.answers import names_several
from finer1_lib.data.data_sets.catalogue import DATA_SETS, official_names
from finer1_lib.data.names import alias_rows, covers, name_of, names_by_spelling, same_name

ROWS = alias_rows()
KINDS = {"spelling", "fuller or shorter", "synonym", "renamed", "botanical", "taken as", "year first"}


def test_every_row_belongs_to_an_official_name_and_says_of_what_kind_it_is():
    assert len(ROWS) > 800 and Counter(row["data_set"] for row in ROWS).keys() == DATA_SETS.keys()
    for row in ROWS:
        assert row.keys() == {"data_set", "sub_category", "alias", "kind"} and all(row.values()), row
        assert row["sub_category"] in official_names(row["data_set"]), row
        assert row["kind"] in KINDS, row
        assert row["alias"] == " ".join(row["alias"].split()), row
    assert {row["kind"] for row in ROWS} == KINDS


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
        ("aircraft", "A 320", "Airbus A320"),
        ("aircraft", "B737 400", "Boeing 737-400"),
        ("aircraft", "DC930", "DC-9-30"),
        ("aircraft", "Boeing 737/400", None),
        ("aircraft", "Boeing 737", None),
        ("car", "Ford F150 Regular Cab 2012", "Ford F-150 Regular Cab 2012"),
        ("bird", "RockWren", None),  # no number
        ("car", "Audi S4 Sedan 2007 (Audi S4)", "Audi S4 Sedan 2007"),
        ("car", "Audi S4 Sedan 2007 (Audi S4 2012)", None),
        ("car", "Audi S5 Coupe 2012 (Audi S5 Convertible)", None),
        ("car", "BMW X3 SUV 2012)BMW X3 SUV 201BMW X3 SUV 2012", None),
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
    from finer1_lib.data.data_sets.catalogue import FLOWER_ALIASES, flower_name

    for number, others in FLOWER_ALIASES.items():
        assert {name_of("flower", other) for other in others} == {flower_name(number)}


def test_all_birds_named_after_somebody_have_their_apostrophe():
    """The 15 that CUB writes without the s, and all cars with the year in front."""
    spelled = {row["sub_category"] for row in ROWS if row["data_set"] == "bird" and "'s " in row["alias"]
               and row["kind"] == "spelling"}
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


ALL = [(row["data_set"], row["sub_category"], row["alias"]) for row in ROWS]
ALL += [(word, name, name) for word in DATA_SETS for name in sorted(official_names(word))]
BESIDE = ["{said}", "{said}.", '"{said}"', "**{said}**", "a {said}", "The {said}.", "{name} ({said})", "{said} ({name})",
          "{name}, also known as {said}", "{name} (aka {said})", "{said} [formerly {name}]."]


@pytest.mark.parametrize("around", BESIDE)
def test_every_name_and_alias_is_read_back_to_its_own_name_and_is_one_thing(around):
    assert len(ALL) == len(ROWS) + 755
    for word, name, said in ALL:
        text = around.format(said=said, name=name)
        assert name_of(word, text) == name, (word, text)
        assert same_name(word, text, name) and not names_several(text, names_by_spelling(word), word), (word, text)


@pytest.mark.parametrize("around", ["{one}, {two}", "{one} ({two})", "{one}, also known as {two}", "{one} or {two}",
                                    "{one} / {two}", "{one} and {two}", "{one} {two}"])
def test_a_name_beside_another_name_is_none_and_several(around):
    for word in DATA_SETS:
        names = sorted(official_names(word))
        for one, two in zip(names, names[1:] + names[:1]):
            text = around.format(one=one, two=two)
            assert name_of(word, text) is None and names_several(text, names_by_spelling(word), word), (word, text)
            assert not same_name(word, two, one)


@pytest.mark.parametrize("word, said, name, same", [
    ("bird", "Olive-sided Flycatcher (Contopus cooperi)", "Olive Sided Flycatcher", True),
    ("bird", "Rock Wren (House Wren)", "Rock Wren", False),
    ("bird", "Rock Wren mix", "Rock Wren", False),
    ("bird", "Wrens (Troglodytidae)", "House Wren", False),
    ("pet", "Persian Cat", "Persian", True),
    ("dog", "Cardigan Welsh Corgi", "Cardigan", True),
    ("dog", "Pembroke Welsh Corgi", "Cardigan", False),
    ("car", "Buick Enclave", "Buick Enclave SUV 2012", True),
    ("car", "2012 Chevy Corvette (ZR1)", "Chevrolet Corvette ZR1 2012", True),
    ("car", "Chevrolet Corvette Z06", "Chevrolet Corvette ZR1 2012", False),
    ("car", "Audi S4 Sedan 2007", "Audi S4 Sedan 2012", False),  # two labels
    ("car", "Buick", "Buick Enclave SUV 2012", False),
    ("car", "Chevrolet Malibu Hybrid", "Chevrolet Malibu Sedan 2007", False),
    ("aircraft", "F-16 Fighting Falcon", "F-16A/B", True),
    ("aircraft", "Boeing 737", "Boeing 737-400", False),
    ("flower", "Purple Coneflower (Echinacea purpurea)", "purple coneflower", True),
    ("fish", "Marlo Wren (a drawn one)", "marlo-wren", True),
    ("fish", "", "", True),
])
def test_two_texts_are_one_name(word, said, name, same):
    assert same_name(word, said, name) is same_name(word, name, said) is same


@pytest.mark.parametrize("said", ["Rock Wren (Or a finch)", "Rock Wren (Not certain)", "(Rock Wren", "()", "Rock Wren ((",
                                  "also known as Rock Wren and more"])
def test_what_stands_beside_a_name_must_be_a_name(said):
    assert name_of("bird", said) == ("Rock Wren" if said.strip("(") == "Rock Wren" or "((" in said else None)


def test_a_drawn_world_is_told_apart_by_its_own_names_alone():
    assert names_several("Rock Wren Dunen Wren", ["Dunen Wren", "Marlo Wren"], "bird") is False
    assert names_several("Marlo Wren Dunen Wren", ["Dunen Wren", "Marlo Wren"], "bird")
