"""Which neighbour is answered for which: counts by hand, the genera chosen, the matrix and its figure."""

import itertools

import pytest
from hypothesis import given, settings, strategies as st

from finer1_lib.core.errors import UserError
from finer1_lib.evaluation.scores.hierarchy import (ELSEWHERE, OTHERS, UNKNOWN, answer_shares,
                                                    confusion_matrix, count_confusions, most_confused)

GENERA = {"Rock Wren": "Wren", "House Wren": "Wren", "Marsh Wren": "Wren", "Barn Owl": "Owl",
          "Snowy Owl": "Owl", "Sora": ""}
TAXONOMY = {name: {"genus": genus} if genus else {} for name, genus in GENERA.items()}
NUMBER = itertools.count()


def record(truth, completion, model="m", setting="open_world", order=None, **more):
    return {"model": model, "setting": setting, "item_id": f"bird/{next(NUMBER)}.png", "rotation": 0,
            "super_category": "bird", "sub_category": truth, "option_order": order, "completion": completion,
            "categories": "unseen" if truth == "House Wren" else "seen", **more}


def said(name):
    return f"<think>a Rock Wren?</think><answer>{name}</answer>"


BY_HAND = [
    record("Rock Wren", said("Rock Wren")), record("Rock Wren", said("rock-wren")),
    record("Rock Wren", said("House Wren")), record("Rock Wren", said("Barn Owl")),
    record("Rock Wren", said("Sora")),  # a known name whose genus nobody knows is no neighbour
    record("Rock Wren", said("a bird")), record("Rock Wren", "<answer></answer>"),
    record("Rock Wren", said("Rock Wren, House Wren")), record("Rock Wren", "House Wren"),
    record("House Wren", said("Rock Wren")), record("House Wren", said("Marsh Wren")),
    record("Barn Owl", said("Barn Owl")), record("Barn Owl", said("Rock Wren")),
    record("Sora", said("Rock Wren")),
]


def test_counts_by_hand():
    table = count_confusions(BY_HAND, TAXONOMY)
    counts = {(truth, answered): (count, n) for truth, answered, count, n in
              table[["truth", "answered", "count", "n"]].itertuples(index=False, name=None)}
    assert counts == {
        ("Rock Wren", "Rock Wren"): (2, 9), ("Rock Wren", "House Wren"): (1, 9),
        ("Rock Wren", ELSEWHERE): (2, 9), ("Rock Wren", UNKNOWN): (4, 9),
        ("House Wren", "Rock Wren"): (1, 2), ("House Wren", "Marsh Wren"): (1, 2),
        ("Barn Owl", "Barn Owl"): (1, 2), ("Barn Owl", ELSEWHERE): (1, 2)}  # Sora takes no part
    assert set(table["genus"]) == {"Wren", "Owl"} and set(table["categories"]) == {"seen", "unseen"}


def test_another_name_of_the_truth_and_of_a_neighbour_is_known():
    """A car by its make and model, an aircraft by its alias."""
    from finer1_lib.data.taxonomy import genera

    cars = [record("Audi S4 Sedan 2007", said(name), super_category="car") for name in
            ("Audi S4", "an Audi S4 Sedan 2012", "Audi S5", "Toyota Camry", "not an Audi S4", "Audi S4 (2007)")]
    planes = [record("F-16A/B", said(name), super_category="aircraft") for name in ("F-16 (F-16 Fighting Falcon)", "F-16.")]
    table = count_confusions([*cars, *planes], genera("car") | genera("aircraft"))
    assert dict(zip(zip(table["truth"], table["answered"]), table["count"])) == {
        ("Audi S4 Sedan 2007", "Audi S4 Sedan 2007"): 2, ("Audi S4 Sedan 2007", "Audi S4 Sedan 2012"): 1,
        ("Audi S4 Sedan 2007", "Audi S5 Convertible 2012"): 1, ("Audi S4 Sedan 2007", ELSEWHERE): 1,
        ("Audi S4 Sedan 2007", UNKNOWN): 1, ("F-16A/B", "F-16A/B"): 2}


def test_shares_by_hand():
    (row,) = answer_shares(count_confusions(BY_HAND, TAXONOMY)).to_dict("records")
    assert row == {"model": "m", "setting": "open_world", "right": 3 / 13, "neighbour": 3 / 13,
                   "elsewhere": 3 / 13, "unknown": 4 / 13, "n": 13}


def test_models_settings_and_orders_stand_apart():
    records = [record("Rock Wren", said("House Wren"), model="a"),
               record("Rock Wren", said("Rock Wren"), model="b"),
               record("Rock Wren", said("Barn Owl"), model="a", setting="closed_world", order="shuffled"),
               record("Rock Wren", said("House Wren"), model="a", setting="closed_world", order="release"),
               record("Rock Wren", said("House Wren"), model="a", setting="closed_world", order="rotations")]
    table = count_confusions(records, TAXONOMY)
    assert table["count"].sum() == 3 and len(answer_shares(table)) == 3
    assert table.loc[table["setting"] == "closed_world", "answered"].tolist() == [ELSEWHERE]


def test_of_several_samples_the_majority_counts():
    names = ("House Wren", "Rock Wren", "House Wren")
    records = [record("Rock Wren", said(name), samples=3, sample=i) for i, name in enumerate(names)]
    records = [{**one, "item_id": "bird/1.png"} for one in records]
    table = count_confusions(records, TAXONOMY)
    assert table[["answered", "count", "n"]].values.tolist() == [["House Wren", 1, 1]]


def test_a_letter_stands_for_its_option():
    options = ["House Wren", "Rock Wren", "Barn Owl", "Sora"]
    asked = dict(setting="closed_world", order="shuffled", options=options)
    letters = [record("Rock Wren", said(letter), lettered=True, **asked) for letter in ("B", "(a)", "C")]
    table = count_confusions(letters, TAXONOMY)
    assert sorted(table["answered"]) == ["House Wren", "Rock Wren", ELSEWHERE]
    assert count_confusions([record("Rock Wren", said("B"), **asked)], TAXONOMY)["answered"].tolist() == [UNKNOWN]


def test_a_taxonomy_of_other_names_is_refused():
    with pytest.raises(UserError, match="gives no genus"):
        count_confusions(BY_HAND, {"Daisy": {"genus": "Bellis"}, "Rock Wren": {"family": "Troglodytidae"}})
    assert not len(count_confusions([], TAXONOMY))  # nothing was asked: nothing to refuse


def test_the_genera_with_the_most_errors_inside():
    more = [record("Snowy Owl", said("Barn Owl")) for _ in range(4)]
    table = count_confusions(BY_HAND + more, TAXONOMY)
    assert most_confused(table, "m", "open_world") == [("bird", "Owl"), ("bird", "Wren")]
    assert most_confused(table, "m", "open_world", most=1) == [("bird", "Owl")]
    assert most_confused(count_confusions(BY_HAND, TAXONOMY), "m", "open_world") == [("bird", "Wren")]
    assert most_confused(table, "other", "open_world") == []


def test_the_matrix_by_hand():
    shares = confusion_matrix(count_confusions(BY_HAND, TAXONOMY), "m", "open_world", "bird", "Wren")
    assert list(shares.index) == ["House Wren", "Rock Wren"]
    assert list(shares.columns) == ["House Wren", "Rock Wren", "Marsh Wren", ELSEWHERE, UNKNOWN]
    assert shares.loc["Rock Wren"].tolist() == pytest.approx([1 / 9, 2 / 9, 0, 2 / 9, 4 / 9])
    assert shares.loc["House Wren"].tolist() == [0, 0.5, 0.5, 0, 0]
    assert shares.attrs == {"n": {"House Wren": 2, "Rock Wren": 9},
                            "categories": {"House Wren": "unseen", "Rock Wren": "seen"}}
    with pytest.raises(UserError, match="not queried about bird, genus 'Lark'"):
        confusion_matrix(count_confusions(BY_HAND, TAXONOMY), "m", "open_world", "bird", "Lark")


def test_of_a_large_genus_the_worst_are_kept():
    """Eight wrens, of which two are mistaken; what is answered beyond the kept ones is one column."""
    names = [f"Wren {letter}" for letter in "ABCDEFGH"]
    taxonomy = {name: {"genus": "Wren"} for name in names}
    records = [record(name, said(name)) for name in names]
    wrong = (("Wren G", "Wren A"), ("Wren G", "Wren H"), ("Wren C", "Wren G"))
    records += [record(truth, said(answer)) for truth, answer in wrong]
    table = count_confusions(records, taxonomy)
    shares = confusion_matrix(table, "m", "open_world", "bird", "Wren", most=2)
    assert list(shares.index) == ["Wren C", "Wren G"]
    assert list(shares.columns) == ["Wren C", "Wren G", OTHERS, ELSEWHERE, UNKNOWN]
    assert shares.loc["Wren G"].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 0, 0])
    assert OTHERS not in confusion_matrix(table, "m", "open_world", "bird", "Wren").columns


ANSWERS = st.sampled_from([*GENERA, "a bird", "", "rock wren", "Rock Wren, Sora"])


@settings(deadline=None, max_examples=60)
@given(pairs=st.lists(st.tuples(st.sampled_from(list(GENERA)), ANSWERS), min_size=1, max_size=40),
       most=st.integers(1, 4))
def test_every_answer_is_counted_once(pairs, most):
    pairs = [("Rock Wren", "Rock Wren"), *pairs]
    records = [record(truth, said(answer)) for truth, answer in pairs]
    table = count_confusions(records, TAXONOMY)
    assert table["count"].sum() == sum(bool(GENERA[truth]) for truth, _ in pairs)
    assert count_confusions(records[::-1], TAXONOMY)["count"].sum() == table["count"].sum()
    for super_category, genus in set(zip(table["super_category"], table["genus"])):
        shares = confusion_matrix(table, "m", "open_world", super_category, genus, most=most)
        assert shares.sum(axis=1).tolist() == pytest.approx([1] * len(shares)) and len(shares) <= most
        for truth in shares.index:  # the diagonal is the share of right answers
            asked = [answer for name, answer in pairs if name == truth]
            right = sum(answer.casefold() == truth.casefold() for answer in asked)
            assert shares.loc[truth, truth] == pytest.approx(right / len(asked)) and truth in shares.columns


# The figure --------------------------------------------------


def test_the_figure_shows_what_the_matrix_holds():
    from finer1_lib.evaluation.plots import confusion_matrices
    from finer1_lib.training.methods import colour_of

    figure = confusion_matrices(count_confusions(BY_HAND, TAXONOMY), "m", labels={"m": "our model"})
    axis = figure.axes[0]
    written = {tuple(map(int, text.get_position())): text.get_text() for text in axis.texts if text.get_text()}
    assert written == {(0, 1): "11", (1, 1): "22", (3, 1): "22", (4, 1): "44", (1, 0): "50", (2, 0): "50"}
    rows = [text.get_text() for text in axis.get_yticklabels()]
    assert rows == ["House Wren, unseen (n = 2)", "Rock Wren (n = 9)"]
    assert axis.get_title() == "Wren (bird)" and "our model, open world" in figure.get_suptitle()
    outlined = {(patch.get_x(), patch.get_y()) for patch in axis.patches}
    assert outlined == {(0, 0), (1, 1)}  # the right answers: House Wren first, then Rock Wren
    full = axis.collections[0].cmap(1.0)[:3]
    assert "#" + "".join(f"{round(255 * part):02X}" for part in full) == colour_of("m")


def test_without_a_neighbour_the_figure_says_so():
    from finer1_lib.evaluation.plots import confusion_matrices

    figure = confusion_matrices(count_confusions([record("Barn Owl", said("Barn Owl"))], TAXONOMY), "m")
    assert "no sub-category was taken for a neighbour" in figure.axes[0].texts[0].get_text()
