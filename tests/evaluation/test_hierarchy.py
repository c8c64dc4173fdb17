"""Near misses through a taxonomy, by hand: what counts, what does not, and what stays in the denominator."""

import pytest
from hypothesis import given, strategies as st

from finer1_lib.core.completions import normalise
from finer1_lib.core.errors import UserError
from finer1_lib.data.taxonomy import genera
from finer1_lib.evaluation.scores.hierarchy import Tree, hierarchy_scores, path_scores, trees_of

TAXONOMY = {"Rock Wren": {"order": "P", "family": "Troglodytidae", "genus": "Salpinctes"},
            "House Wren": {"order": "P", "family": "Troglodytidae", "genus": "Troglodytes"},
            "Winter Wren": {"order": "P", "family": "Troglodytidae", "genus": "Troglodytes"},
            "Mallard": {"order": "A", "family": "Anatidae", "genus": "Anas"}}
TREE = Tree("bird", TAXONOMY)
LEVELS = 4


def of(truth, said):
    return path_scores(TREE.path_of(truth), TREE.path_of(said))


def record(said, truth="House Wren", model="m", **more):
    return {"model": model, "setting": "open_world", "item_id": f"{model}/{truth}/{said}", "super_category": "bird",
            "sub_category": truth, "categories": "seen", "option_order": None, "options": None, "rotation": 0,
            "completion": f"<answer>{said}</answer>", **more}


def test_the_right_name_is_right_everywhere():
    scores = of("House Wren", "house-wren")
    assert scores.pop("path_near_miss") == 0.0 and set(scores.values()) == {1.0}


def test_a_sibling_is_a_near_miss():
    assert of("House Wren", "Winter Wren") == {
        "path_order": 1, "path_family": 1, "path_genus": 1, "path_sub_category": 0, "path_hca": 0,
        "path_tor": 2 / 3, "path_f1": 6 / 8,
        "path_depth": 3 / 4, "path_near_miss": 1}


def test_an_inner_node_is_as_deep_as_it_is():
    cousin, genus = of("House Wren", "Rock Wren"), of("House Wren", "Troglodytes")
    assert (cousin["path_depth"], genus["path_depth"]) == (2 / 4, 3 / 4)
    assert genus["path_f1"] == 6 / 7 and genus["path_near_miss"] == 1  # three nodes said, all right
    assert of("House Wren", "Troglodytidae")["path_depth"] == 2 / 4


@pytest.mark.parametrize("said", ["", "a bird", "wren", "P", "Sparrow", "House Wren, Rock Wren", None])
def test_what_names_no_node_counts_as_nothing(said):
    """A value of one letter is no answer by itself; a list is none either."""
    assert set(of("House Wren", said).values()) == {0.0}


def test_what_cars_share_without_a_model_is_no_nearness():
    """A body and a year count only under the right make and model; the near miss is the make, another car."""
    tree = Tree("car", genera("car"))
    truth = tree.path_of("Audi S4 Sedan 2012")
    assert tree.ranks == ("genus", "model", "body", "year", "sub_category")
    assert set(path_scores(truth, tree.path_of("Toyota Camry Sedan 2012")).values()) == {0.0}
    sibling = path_scores(truth, tree.path_of("Audi S5 Coupe 2012"))
    assert sibling["path_depth"] == sibling["path_f1"] == 1 / 5 and sibling["path_near_miss"] == 1
    assert path_scores(truth, tree.path_of("Audi S4 Sedan 2007"))["path_depth"] == 3 / 5


@pytest.mark.parametrize("said, nodes", [
    ("Toyota Camry", 2), ("2012 Toyota Camry", 2), ("Camry", 2), ("Toyota", 1), ("a BMW", 1), ("GMC", 1),
    ("Geo", 1), ("Ram", 1), ("smart", 1), ("HHR", 2), ("VW", 1), ("a Mercedes", 1), ("Chevy Tahoe", 2), ("Ford F150.", 2),
    ("Chevrolet Tahoe SUV 2012", 2), ("a 2008 Toyota Camry Wagon", 2), ("Toyota Camry V6 2010", 2), ("Range Rover", 2),
    ("Audi S4 Sedan 2013", 2), ("Audi S4 Sedan 2012", 5), ("TL", 0), ("500", 0), ("not a BMW", 0), ("a BMW?", 0), ("GTI", 0), ("GMC, BMW", 0),
    ("Toyota Camry and Honda Accord", 0), ("no Toyota Camry", 0), ("something like a Toyota Camry", 0), ("2012", 0),
    ("1991", 0), ("SuperCab", 0), ("Sedan", 0)])
def test_a_make_and_a_model_are_nodes_and_what_all_share_is_none(said, nodes):
    assert len(Tree("car", genera("car")).path_of(said)) == nodes


def test_an_aircraft_family_with_its_maker_is_a_node():
    tree = Tree("aircraft", genera("aircraft"))
    assert len(tree.path_of("Airbus A330")) == len(tree.path_of("A330")) == len(tree.path_of("Boeing 737")) == 2


@pytest.mark.parametrize("said, nodes", [
    ("a Falcon 2000", 3), ("Saab 2000.", 3), ("ATR", 1), ("an ATR", 1), ("Dassault Falcon 2000", 3), ("Falcon", 0),
    ("Cessna Citation 2000", 0), ("C-130 (Hercules)", 3), ("F 18", 3),
    ("DC9", 2), ("DC 9", 2), ("A 340", 2), ("A-320", 3), ("F16", 3), ("BAe146", 2), ("747", 0), ("Boeing747", 2)])
def test_a_number_that_belongs_to_a_name_is_no_year(said, nodes):
    assert len(Tree("aircraft", genera("aircraft")).path_of(said)) == nodes


@pytest.mark.parametrize("word", ["bird", "aircraft", "car"])
def test_every_name_and_every_make_has_its_own_path(word):
    tree, known = Tree(word, genera(word)), genera(word)
    for name, ranks in known.items():
        assert tree.path_of(name)["sub_category"] == tree.path_of(f"The {name}.")["sub_category"] == normalise(name)
        top = next(rank for rank in tree.ranks if rank != "super_category")
        if ranks[top] not in ("HUMMER", "Eurofighter"):  # a model of AM General's too; a name of the Typhoon
            assert tree.path_of(ranks[top]) == tree.path_of(f"a {ranks[top]}") == {top: normalise(ranks[top])}


def test_a_drawn_name_keeps_its_number():
    tree = Tree("car", {"Marlo 2000": {"genus": "Marlo", "year": "1999"}, "Dunen 2000": {"genus": "Dunen"}})
    assert tree.path_of("a Marlo 2000")["sub_category"] == "marlo 2000"


def test_a_rank_that_the_truth_lacks_is_not_asked_and_moves_no_other():
    tree = Tree("car", genera("car"))
    scores = path_scores(tree.path_of("Buick Regal GS 2012"), tree.path_of("Buick Verano Sedan 2012"))
    assert "path_body" not in scores and scores["path_depth"] == 1 / 4


def test_names_that_nobody_asked_for_are_nodes_too():
    said = record("House Wren", truth="Winter Wren")
    alone, given = (hierarchy_scores([said], TAXONOMY, names) for names in ({}, {"bird": list(TAXONOMY)}))
    depth = [table.set_index("metric")["value"]["path_depth"] for table in (alone, given)]
    assert depth == [0.0, 3 / 4]


def test_a_node_of_two_places_is_no_answer():
    tree = Tree("x", {"a one": {"family": "Same", "genus": "First"}, "a two": {"family": "Other", "genus": "Same"}})
    assert tree.path_of("Same") == {} and tree.path_of("First") == {"family": "same", "genus": "first"}


def test_a_taxonomy_of_genera_alone_stands_below_the_super_category():
    tree = Tree("bird", {"Dunen Wren": {"genus": "Wren"}, "Marlo Wren": {"genus": "Wren"}})
    assert tree.ranks == ("super_category", "genus", "sub_category")
    assert tree.path_of("bird") == tree.path_of("A bird") == {"super_category": "bird"}
    assert len(tree.path_of("a wren")) == 2 and tree.path_of("a finch") == {}


@given(st.sampled_from(sorted(TAXONOMY)), st.sampled_from([*sorted(TAXONOMY), "Anas", "nothing", None]))
def test_path_scores_are_shares(truth, said):
    scores = of(truth, said)
    assert all(0 <= value <= 1 for value in scores.values())
    assert scores["path_hca"] == scores["path_sub_category"] == float(said == truth)


def test_scores_of_records():
    names = [{"model": "m", "setting": "closed_world", "item_id": str(n), "super_category": "bird",
              "sub_category": "House Wren", "categories": "seen", "option_order": order, "rotation": 0,
              "options": sorted(TAXONOMY), "completion": f"<answer>{said}</answer>"}
             for n, (said, order) in enumerate([("Winter Wren", "shuffled"), ("", "shuffled"), ("Mallard", "release")])]
    table = hierarchy_scores(names + [record("Mallard", truth="Unknown Bird")], TAXONOMY)
    depth = table[table["metric"] == "path_depth"]
    assert depth["value"].tolist() == [3 / 4, 0.0]  # the release's order is no main reading, an unknown name no question
    assert set(table["scorer"]) == {"strict"}


def test_without_a_taxonomy_it_is_said():
    with pytest.raises(UserError, match="knows none of the sub-categories"):
        trees_of([record("x", truth="Unknown")], TAXONOMY)
