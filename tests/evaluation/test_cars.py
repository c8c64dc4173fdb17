"""Readings of a car's name, with the counts that the data sets' names give."""

import time
from collections import defaultdict

import pytest
from hypothesis import given, strategies as st

from finer1_lib.data.data_sets.catalogue import official_names
from finer1_lib.data.names import car_scores, cars_in, meanings, names_by_spelling
from finer1_lib.data.taxonomy import genera

CARS = sorted(official_names("car"))
MODEL_OF = {label: (one["genus"], one["model"]) for label, one in genera("car").items()}
SHORT = {said: labels for said, labels in meanings("car").items() if said not in names_by_spelling("car")}
ROUND = ["{}", "{}.", "A {}", "2012 {}", "It is a {}.", "The car is most likely the {} of this picture."]


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
    assert car_scores("x", "Rock Wren") == {}


@given(st.sampled_from(CARS), st.sampled_from(ROUND), st.sampled_from([
    str, str.lower, str.upper, lambda name: name.replace("-", " "), lambda name: name.replace("-", ""),
    lambda name: name.replace(" ", ""), lambda name: " ".join([name.split()[-1], *name.split()[:-1]])]))
def test_a_label_names_its_own_car_however_it_is_written(label, around, written):
    assert set(car_scores(around.format(written(label)), label).values()) == {1.0}


def test_every_label_is_right_for_itself_and_for_no_other_make_or_model():
    read = {label: cars_in(label) for label in CARS}
    for label in CARS:
        assert set(car_scores(label, label).values()) == {1.0} and not read[label].rest
        assert (read[label].models, len(read[label].makes)) == ({MODEL_OF[label]}, 1)
        for other in CARS:
            same = MODEL_OF[other] == MODEL_OF[label] and ("Hybrid" in label or "Hybrid" not in other)
            assert car_scores(other, label)["text_inclusion_make_model"] == float(same), (other, label)


def test_everyday_names_name_one_car_and_no_other():
    wanted = defaultdict(set)
    for label in CARS:
        wanted[MODEL_OF[label]].add(label)
    assert len(SHORT) > 400 and {frozenset(labels) for labels in wanted.values()} == set(SHORT.values())
    for said, labels in SHORT.items():
        (model,) = {MODEL_OF[label] for label in labels}
        for form in (said, said.replace(" ", ""), said.title(), f"a {said}"):
            assert cars_in(form)[:2] == ({model[0]}, {model}), form
    for said in ("chevy tahoe", "vw bug", "merc c class", "benz sl", "lambo gallardo", "ford f150", "audi rs4",
                 "rolls phantom", "beemer m3", "chevy vette", "chrysler town & country", "mercedes e350"):
        assert said in SHORT


@pytest.mark.parametrize("said, label, model, trim", [
    ("Bentley Continental GT Coupe 2012", "Bentley Continental GT Coupe 2012", 1, 1),
    ("Bentley Continental or Ford GT", "Bentley Continental GT Coupe 2012", 0, 0),
    ("a Continental GT by Bentley", "Bentley Continental GT Coupe 2007", 1, 1),
    ("Bentley Continental GT", "Bentley Continental Flying Spur Sedan 2007", 1, 0),
    ("Bentley Continental GT", "Ford GT Coupe 2006", 0, 0),
    ("Bentley Flying Spur", "Bentley Continental Flying Spur Sedan 2007", 1, 1),
    ("HUMMER H3T", "AM General Hummer SUV 2000", 0, 0),
    ("AM General Hummer", "HUMMER H3T Crew Cab 2010", 0, 0),
    ("AM General Hummer H1", "AM General Hummer SUV 2000", 1, 1),
    ("Ford Mustang GT with a V8", "Ford Mustang Convertible 2007", 1, 1),
    ("Chevrolet Corvette or Mustang", "Chevrolet Corvette Convertible 2012", 0, 0),
    ("Audi S4/S5", "Audi S4 Sedan 2007", 0, 0),
    ("Dodge Charger SRT8", "Dodge Charger SRT-8 2009", 1, 1),
    ("Dodge Charger SRT8", "Dodge Charger Sedan 2012", 1, 0),
    ("Dodge Sprinter", "Mercedes-Benz Sprinter Van 2012", 0, 0),
    ("Audi TTRS", "Audi TT RS Coupe 2012", 1, 1),
    ("Chev Corvette", "Chevrolet Corvette Convertible 2012", 1, 1),
    ("Jaguar XKR", "Jaguar XK XKR 2012", 1, 1),
    ("Lamborghini Revent\u00f3n", "Lamborghini Reventon Coupe 2008", 1, 1),
    ("Chevrolet Corvette or Viper", "Chevrolet Corvette Convertible 2012", 0, 0),
    ("Chevrol\u1eb9t Corvette", "Chevrolet Corvette Convertible 2012", 0, 0),  # a letter that only looks alike
    ("\u0421hevrolet Corvette", "Chevrolet Corvette Convertible 2012", 0, 0),
    ("Toyota Honda Accord", "Honda Accord Sedan 2012", 0, 0),
    ("a smart little Audi A5", "Audi A5 Coupe 2012", 1, 1),
    ("smart fortwo", "smart fortwo Convertible 2012", 1, 1),
    ("a 5-door car by Audi", "Audi A5 Coupe 2012", 0, 0),
    ("Audi A5 with a V8 engine", "Audi A5 Coupe 2012", 1, 1),
    ("Audi A5 with a V8 engine", "Audi V8 Sedan 1994", 0, 0),
    ("Ford E-350", "Ford E-Series Wagon Van 2012", 1, 1),
    ("Mercedes E350", "Mercedes-Benz E-Class Sedan 2012", 1, 1),
    ("Chrysler 300C", "Chrysler 300 SRT-8 2010", 1, 0),
    ("Honda Accord hybrid", "Honda Accord Sedan 2012", 0, 0),  # another car
    ("Chevrolet Malibu Hybrid", "Chevrolet Malibu Sedan 2007", 0, 0),
    ("a Chevy Malibu hybrid", "Chevrolet Malibu Hybrid Sedan 2010", 1, 1),
    ("Chevrolet Malibu", "Chevrolet Malibu Hybrid Sedan 2010", 1, 0),
])
def test_what_several_cars_have_is_read_by_what_stands_before_it(said, label, model, trim):
    assert tuple(car_scores(said, label).values()) == (model, trim)


@given(st.sampled_from(CARS), st.sampled_from([
    "It isn't a {}", "It ain't a {}", "I doubt it's a {}", "a fake {}", "a {} clone", "akin to a {}", "{} lookalike",
    "anything but a {}", "a non-{}", "It could be a {}", "a cousin of the {}", "It rules out a {}", "not a {}", "It cannot be the {}.", "similar to a {}", "It resembles a {}", "a {} mix", "unlike the {}",
    "{} or Toyota Camry Sedan 2012", "{}, a Camry", "anything but a Camry, like the {}"]))
def test_a_denied_or_likened_car_and_one_of_two_score_nothing(label, around):
    if "Camry" not in label:
        assert set(car_scores(around.format(label), label).values()) == {0.0}


def test_reading_a_text_takes_time_linear_in_its_length():
    def seconds(text):
        start = time.process_time()
        cars_in.__wrapped__(text)
        return time.process_time() - start

    for piece in ("Chevrolet Corvette ", "a5 ", "(", "x"):
        short, long = (min(seconds(piece * times) for _ in range(3)) for times in (4_000, 32_000))
        assert long < 24 * short + 0.01, piece
