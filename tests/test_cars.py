"""Readings of a car's name, held against the counts of the audit."""

import pytest

from finer1_lib.data_sets.names import official_names
from finer1_lib.scores.cars import car_scores, not_told_apart, official_needle, parts_of

CARS = sorted(official_names("car"))


def test_the_releases_rule_merges_what_the_audit_counted():
    groups = not_told_apart(CARS, "official")
    assert len(CARS) == 196 and (len(groups), sum(map(len, groups))) == (22, 44)
    accepted = [a for a in CARS if any(official_needle(a) in b.lower() for b in CARS if b != a)]
    assert len(accepted) == 50  # another class's full name is taken for these


def test_parts_tell_trims_apart_and_leave_years_together():
    by_parts = {reading: not_told_apart(CARS, reading) for reading in ("make_model", "make_model_trim")}
    corvettes = [label for label in CARS if "Corvette" in label]
    assert tuple(corvettes) in by_parts["make_model"]
    assert not any(set(corvettes) & set(group) for group in by_parts["make_model_trim"])
    assert ("Audi S4 Sedan 2007", "Audi S4 Sedan 2012") in by_parts["make_model_trim"]


@pytest.mark.parametrize("said, label, model, trim", [
    ("Chevrolet Corvette ZR1", "Chevrolet Corvette ZR1 2012", 1, 1),
    ("2012 Chevrolet Corvette", "Chevrolet Corvette ZR1 2012", 1, 0),
    ("a Corvette by Chevrolet", "Chevrolet Corvette Convertible 2012", 1, 1),  # it has no trim
    ("Corvette", "Chevrolet Corvette Convertible 2012", 0, 0),
    ("Chevrolet Corvette/Camaro/Malibu", "Chevrolet Corvette Convertible 2012", 0, 0),  # a list
    ("not a Chevrolet Malibu", "Chevrolet Malibu Sedan 2007", 0, 0),
    ("Chevrolet Corvette ZR1 2012", "Chevrolet Corvette Convertible 2012", 1, 0),  # another trim
    ("Chrysler Town and Country", "Chrysler Town and Country Minivan 2012", 1, 1),
    ("Audi TTS Coupe", "Audi TT RS Coupe 2012", 0, 0),  # TT is no whole word of it
    (None, "Audi TT RS Coupe 2012", 0, 0),
])
def test_an_answer_by_its_parts(said, label, model, trim):
    assert car_scores(said, label) == {
        "text_inclusion_make_model": model, "text_inclusion_make_model_trim": trim}


def test_other_labels_have_no_parts():
    assert car_scores("x", "Rock Wren") == {} and parts_of("Rock Wren", "make_model") is None
