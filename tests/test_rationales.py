"""Concept scores by hand, every filter with a text that it must catch, resampling and the report."""

import json
import math
import os
import random
from pathlib import Path

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finer1_lib.concepts import TfidfEncoder, concept_scores, keep_concepts, select_concepts
from finer1_lib.rationales import (
    REASONS,
    ask_all,
    choose_concepts,
    draw_seed,
    make_rationale,
    make_rationales,
    mend,
    quality_report,
    reject_reason,
    settle,
    write_rationale,
)
from finer1_lib.traces import parse

# A busy machine is no fault of the code's.
UNHURRIED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAMES = ["Dunen Wren", "Marlo Wren", "Teko Wren", "Red-winged Wren"]
GOOD = write_rationale(
    "needle bill, red crown", ["Dunen Wren", "Marlo Wren"],
    "Dunen Wren: red crown; Marlo Wren: blue crown (differs)", "Dunen Wren",
)  # fmt: skip
ROW = {"image_id": "bird/Dunen_Wren/0.png", "super_category": "bird", "sub_category": "Dunen Wren"}


def swap(old: str, new: str, text: str = GOOD) -> str:
    assert old in text
    return text.replace(old, new)


# --- concepts


def test_score_by_hand():
    """Two descriptions, two others, tau 0.5; every exponent written out."""
    D = numpy.array([[1.0, 0.0], [0.6, 0.8]])
    N = numpy.array([[0.0, 1.0], [0.8, 0.6]])
    c = numpy.array([[1.0, 0.0]])
    rest = math.exp(0.0 / 0.5) + math.exp(0.8 / 0.5)
    one, two = math.exp(1.0 / 0.5), math.exp(0.6 / 0.5)
    expected = math.log(one / (one + rest)) + math.log(two / (two + rest))
    assert concept_scores(D, c, N, tau=0.5) == pytest.approx([expected])


def test_score_is_stable_at_extreme_similarity():
    D, N = numpy.array([[1.0, 0.0]]), numpy.array([[-1.0, 0.0]])
    scores = concept_scores(D, numpy.array([[1.0, 0.0], [-1.0, 0.0]]), N, tau=1e-3)
    assert scores == pytest.approx([0.0, -2000.0])


@UNHURRIED
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 5), st.integers(1, 6))
def test_score_properties(seed, d, c, n):
    rng = numpy.random.default_rng(seed)

    def unit(rows):
        vectors = rng.normal(size=(rows, 3))
        return vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True)

    D, C, N = unit(d), unit(c), unit(n)
    scores = concept_scores(D, C, N)
    assert scores.shape == (c,) and (scores <= 0).all() and numpy.isfinite(scores).all()
    assert (concept_scores(D, C, numpy.vstack([N, C])) <= scores + 1e-9).all()  # more others never help
    assert concept_scores(D[::-1], C, N[::-1]) == pytest.approx(scores)


def test_without_others_there_is_no_score():
    with pytest.raises(ValueError):
        concept_scores(numpy.ones((1, 2)), numpy.ones((1, 2)), numpy.ones((0, 2)))


def test_keep_by_hand():
    scores = numpy.array([0.0, 0.0, 0.0, 0.0, 10.0, 9.0, 8.0, 7.0])  # mean 4.25, std 4.29: above 5.97
    assert keep_concepts(scores) == [4, 5, 6, 7]
    assert keep_concepts(numpy.array([0.0, 0.0, 0.0, 0.0, 10.0])) == [4, 0, 1]  # at least three
    assert keep_concepts(numpy.array([1.0, 2.0])) == [1, 0]
    assert keep_concepts(numpy.array([])) == []


def test_words_of_a_bird_are_no_stop_words():
    encoder = TfidfEncoder()
    encoder.fit(["the bill is thick", "a full back and a thin side", "the top"])
    assert (encoder.encode(["bill", "back", "thick", "thin", "side", "full", "top"]).sum(1) > 0).all()
    assert (encoder.encode(["the", "is a", "unheard"]) == 0).all()
    encoder.fit(["the", "", "..."])  # a babbling model: nothing to learn, nothing to break
    assert (encoder.encode(["the bill"]) == 0).all()
    with pytest.raises(RuntimeError):
        TfidfEncoder().encode(["bill"])


def test_selection_finds_what_the_image_bears_out():
    descriptions = {
        "x": ["a red crown and a black back", "the crown is red, the tail is forked"],
        "y": ["a blue crown and a black back", "the back is black, the tail is forked"],
        "z": ["black back, forked tail, blue crown", "green crown, the back is black"],
    }
    concepts = {name: ["red crown", "black back", "forked tail", "yellow breast", "red crown"] for name in descriptions}
    chosen = select_concepts(descriptions, concepts, TfidfEncoder())
    assert [entry["concept"] for entry in chosen["x"]][0] == "red crown"
    assert [entry["concept"] for entry in chosen["y"]][0] != "red crown"
    assert sum(entry["kept"] for entry in chosen["x"]) == 3 and len(chosen["x"]) == 4
    scores = [entry["score"] for entry in chosen["x"]]
    assert scores == sorted(scores, reverse=True)


# --- filters


def test_a_good_text_passes_in_every_spelling():
    assert reject_reason(GOOD, "Dunen Wren", NAMES) is None
    assert reject_reason(swap("<prediction>Dunen Wren", "<prediction>dunen-wren"), "Dunen Wren", NAMES) is None
    hyphen = swap("Dunen Wren", "red winged wren")
    assert reject_reason(hyphen, "Red-winged Wren", NAMES) is None


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("not_well_formed", ""),
        ("not_well_formed", "A Dunen Wren."),
        ("not_well_formed", swap("</comparison>", "")),
        ("not_well_formed", swap("<think>", "")),
        ("not_well_formed", swap("</think>", "")),
        ("not_well_formed", swap("needle bill, red crown", " ")),
        ("not_well_formed", GOOD + "\n<answer>Marlo Wren</answer>"),
        ("not_well_formed", GOOD + " trailing words"),
        ("not_well_formed", swap("Dunen Wren, Marlo Wren", "Dunen Wren")),
        ("not_well_formed", swap("Dunen Wren, Marlo Wren", "Dunen Wren, dunen-wren")),
        ("not_well_formed", swap("Dunen Wren, Marlo Wren", "Dunen Wren, A, B, C, D")),
        ("mixed_language", swap("needle", "红色")),
        ("mixed_language", swap("needle", "острый")),
        ("mixed_language", swap("needle", "모양")),
        ("mixed_language", swap("needle", "bec\ufffd")),
        ("mixed_language", swap("needle", "nee\u200bdle")),
        ("prompt_leak", swap("needle bill", "as mentioned in the question, needle bill")),
        ("prompt_leak", swap("needle bill", "the provided description shows a needle bill")),
        ("prompt_leak", swap("needle bill", "Given Label: needle bill")),
        ("prompt_leak", swap("needle bill", "using the enclosed tags, needle bill")),
        ("prompt_leak", swap("needle bill", "the ground truth has a needle bill")),
        ("label_not_a_candidate", swap("<options>Dunen Wren", "<options>Teko Wren")),
        ("foreign_candidate", swap("Dunen Wren, Marlo Wren", "Dunen Wren, Boeing 737")),
        ("wrong_prediction", swap("<prediction>Dunen", "<prediction>Marlo")),
        ("wrong_prediction", swap("<answer>Dunen", "<answer>Marlo")),
    ],
)
def test_each_filter(reason, text):
    assert reject_reason(text, "Dunen Wren", NAMES, foreign=["Boeing 737", "Dunen Wren"]) == reason
    assert reason in REASONS


def test_other_scripts_are_welcome_in_names_only():
    text = swap("Dunen Wren", "鹪鹩")
    assert reject_reason(text, "鹪鹩", ["鹪鹩", "Marlo Wren"]) is None
    assert reject_reason(swap("needle", "红色", text), "鹪鹩", ["鹪鹩"]) == "mixed_language"
    accents = swap("needle bill", "éclatant bill, 5 µm × 3, naïve")
    assert reject_reason(accents, "Dunen Wren", NAMES) is None


def test_mending_fixes_typography_only():
    assert mend(" “a’s” – b… ") == "\"a's\" - b..."
    assert mend("红") == "红"


# --- the final form


@UNHURRIED
@given(st.integers(0, 10**6))
def test_settling_shuffles_options_and_comparison_together(seed):
    text = write_rationale("x", NAMES, "; ".join(f"{name}: {i} crown" for i, name in enumerate(NAMES)), "dunen wren")
    trace = parse(settle(text, "Dunen Wren", random.Random(seed)))
    assert sorted(trace.candidates) == sorted(NAMES)
    assert trace.prediction == trace.answer == "Dunen Wren"
    assert [piece.split(":")[0] for piece in trace.comparison.split("; ")] == list(trace.candidates)
    for piece in trace.comparison.split("; "):
        name, claim = piece.split(": ")
        assert claim == f"{NAMES.index(name)} crown"


def test_settling_leaves_a_free_comparison_alone():
    text = swap("Dunen Wren: red crown; Marlo Wren: blue crown (differs)", "the first; the second")
    assert parse(settle(text, "Dunen Wren", random.Random(0))).comparison == "the first; the second"


def test_the_label_stands_everywhere_equally_often():
    firsts = [parse(settle(swap("Dunen Wren, Marlo Wren", ", ".join(NAMES)), "Dunen Wren", random.Random(s))).candidates[0]
              for s in range(400)]  # fmt: skip
    assert 70 < firsts.count("Dunen Wren") < 130


# --- resampling


class Scripted:
    """A teacher that answers what it is told to, in turn."""

    def __init__(self, *texts):
        self.texts, self.seeds = list(texts), []

    def rationale(self, row, concepts, question, seed):
        self.seeds.append(seed)
        return self.texts[len(self.seeds) - 1]


def ask(teacher, attempts=3):
    return make_rationale(teacher, ROW, ["red crown"], "What?", seed=0, attempts=attempts, names=NAMES)


def test_resampling_stops_at_the_first_good_text():
    teacher = Scripted(swap("</think>", ""), swap("<answer>Dunen", "<answer>Marlo"), GOOD, "never asked")
    record = ask(teacher)
    assert record["kept"] and record["attempts"] == 3 and record["dropped_because"] is None
    assert record["rejections"] == ["not_well_formed", "wrong_prediction"] and len(set(teacher.seeds)) == 3
    assert record["candidates"] == list(parse(record["text"]).candidates)
    assert list(record)[:10] == ["image_id", "super_category", "sub_category", "question", "text", "concepts",
                                 "candidates", "attempts", "kept", "dropped_because"]  # fmt: skip


def test_the_cap_drops_and_says_why():
    record = ask(Scripted(*[swap("</think>", "")] * 2, swap("needle", "红")), attempts=3)
    assert not record["kept"] and record["attempts"] == 3 and record["dropped_because"] == "mixed_language"
    with pytest.raises(ValueError):
        ask(Scripted(), attempts=0)


def test_report_by_hand():
    records = [
        ask(Scripted(GOOD)), ask(Scripted("", GOOD)), ask(Scripted("", "", "")),
    ]  # fmt: skip
    counts, rows = quality_report(records)
    label_first = sum(record["candidates"][0] == "Dunen Wren" for record in records if record["kept"])
    assert counts == {"images": 3, "kept": 2, "kept_at_once": 1, "resampled": 1, "dropped": 1, "texts": 6,
                      "label_first": label_first}  # fmt: skip
    assert rows[0] == {"reason": "not_well_formed", "texts": 4, "images_dropped": 1}
    assert [row["reason"] for row in rows] == list(REASONS)


class Dying(Scripted):
    """Describes and explains, until it is killed."""

    def __init__(self, calls):
        super().__init__(*[GOOD] * 9)
        self.calls = calls

    def foci(self, row):
        return ["crown", "bill"]

    def describe(self, row, focus, seed):
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return f"{focus} {row['image_id']} {seed}"

    def concepts(self, row, descriptions):
        return ["red crown", row["image_id"]]

    def rationale(self, row, concepts, question, seed):
        self.describe(row, "", seed)
        return GOOD.replace("needle", f"needle{seed}")


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path):
    rows = [{**ROW, "image_id": f"bird/x/{n}.png"} for n in range(4)]

    def run(folder, calls):
        teacher = Dying(calls)
        asked = ask_all(teacher, rows, seed=1, path=folder / "d.jsonl")
        chosen = choose_concepts(rows, asked, TfidfEncoder())
        return make_rationales(teacher, rows, chosen, seed=1, attempts=2, names={"bird": NAMES},
                               path=folder / "r.jsonl")  # fmt: skip

    whole = run(tmp_path / "whole", 99)
    assert len(whole) == 4 and all(record["kept"] for record in whole)
    for calls in (3, 5, 1, 2):  # killed again and again, each time a little further on
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", calls)
        with (tmp_path / "killed" / "d.jsonl").open("a") as file:
            file.write('{"image_id": "torn')
    assert run(tmp_path / "killed", 99) == whole
    assert run(tmp_path / "killed", 0) == whole  # finished: nobody is asked


def test_seeds_are_the_same_everywhere():
    assert draw_seed(0, "a", 1) == 886027111
    assert 0 <= draw_seed("x") < 2**31 and draw_seed(0, "a", 1) != draw_seed(0, "a", 2)


@pytest.mark.skipif("FINER1_OFFICIAL_DATA" not in os.environ, reason="needs the release's data")
def test_the_release_has_leaks_and_one_language():
    """data.md 3.1: about a fifth of the 404 give the prompt away, none holds another script."""
    from finer1_lib.rationale_filters import _LEAK, _strange_letters

    items = json.loads((Path(os.environ["FINER1_OFFICIAL_DATA"]) / "stage1_birds_pets.json").read_text())
    texts = [item["messages"][-1]["content"] for item in items]
    assert len(texts) == 98 and not any(_strange_letters(text, []) for text in texts)
    assert 5 <= sum(bool(_LEAK.search(text)) for text in texts) <= 90
    assert {reject_reason(text, "x") for text in texts} == {"not_well_formed"}  # no tags in any
