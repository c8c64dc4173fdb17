"""Concept scores by hand, every filter with a text that it must catch, on and off, resampling, resuming."""

import json
import math
import os
import random
from pathlib import Path

import numpy
import pytest
from hypothesis import given, strategies as st
from shared_cases import UNHURRIED

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import read_jsonl
from finer1_lib.data.rationales.concepts import TfidfEncoder, concept_scores, keep_concepts, select_concepts
from finer1_lib.data.rationales.filters import (CUT_OFF, REASONS, check_filters, fix_punctuation, flaws,
                                                reject_reason, settle, write_rationale)
from finer1_lib.data.rationales.making import (choose_concepts, label_places, make_rationales, query_all,
                                               query_until_good)
from finer1_lib.data.rationales.parsing import parse
from finer1_lib.data.rationales.teachers import Teacher, draw_seed

NAMES = ["Dunen Wren", "Marlo Wren", "Teko Wren", "Red-winged Wren"]
GOOD = write_rationale("needle bill, red crown", ["Dunen Wren", "Marlo Wren"],
                       "Dunen Wren: red crown; Marlo Wren: blue crown (differs)", "Dunen Wren")
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
    descriptions = {"x": ["a red crown and a black back", "the crown is red, the tail is forked"],
                    "y": ["a blue crown and a black back", "the back is black, the tail is forked"],
                    "z": ["black back, forked tail, blue crown", "green crown, the back is black"]}
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
    [("cut_off", GOOD + CUT_OFF), ("cut_off", GOOD[:40] + CUT_OFF), ("not_well_formed", ""),
     ("not_well_formed", "A Dunen Wren."), ("not_well_formed", swap("</comparison>", "")),
     ("not_well_formed", swap("<think>", "")), ("not_well_formed", swap("</think>", "")),
     ("not_well_formed", swap("needle bill, red crown", " ")),
     ("not_well_formed", GOOD + "\n<answer>Marlo Wren</answer>"),
     ("not_well_formed", GOOD + " trailing words"),
     ("not_well_formed", swap("Dunen Wren, Marlo Wren", "Dunen Wren")),
     ("not_well_formed", swap("Dunen Wren, Marlo Wren", "Dunen Wren, dunen-wren")),
     ("not_well_formed", swap("Dunen Wren, Marlo Wren", "Dunen Wren, A, B, C, D")),
     ("mixed_language", swap("needle", "红色")), ("mixed_language", swap("needle", "острый")),
     ("mixed_language", swap("needle", "모양")), ("mixed_language", swap("needle", "bec\ufffd")),
     ("mixed_language", swap("needle", "nee\u200bdle")),
     ("mixed_language", swap("needle bill, ", "needle bill，")),
     ("mixed_language", swap("needle bill", "【needle bill】")),
     ("prompt_leak", swap("needle bill", "as mentioned in the question, needle bill")),
     ("prompt_leak", swap("needle bill", "the provided description shows a needle bill")),
     ("prompt_leak", swap("needle bill", "Given Label: needle bill")),
     ("prompt_leak", swap("needle bill", "using the enclosed tags, needle bill")),
     ("prompt_leak", swap("needle bill", "the ground truth has a needle bill")),
     ("label_not_a_candidate", swap("<options>Dunen Wren", "<options>Teko Wren")),
     ("foreign_candidate", swap("Dunen Wren, Marlo Wren", "Dunen Wren, Boeing 737")),
     ("wrong_prediction", swap("<prediction>Dunen", "<prediction>Marlo")),
     ("wrong_prediction", swap("<answer>Dunen", "<answer>Marlo"))],
)
def test_each_filter(reason, text):
    assert reject_reason(text, "Dunen Wren", NAMES, foreign=["Boeing 737", "Dunen Wren"]) == reason
    assert reason in REASONS


@pytest.mark.parametrize("word, label, said, others", [
    ("pet", "Persian", "Persian Cat", ["Ragdoll", "Birman"]),
    ("car", "Buick Enclave SUV 2012", "Buick Enclave", ["GMC Acadia", "Chevy Traverse"]),
    ("aircraft", "F-16A/B", "F-16 Fighting Falcon", ["F-15 Eagle", "F/A-18"]),
])
def test_another_name_of_the_label_passes_and_is_settled_to_its_own(word, label, said, others):
    text = write_rationale("grey and long", [*others, said], "they differ", said)
    assert flaws(text, label, data_set=word) == [] and reject_reason(text, label, data_set=word) is None
    assert flaws(text, label) == ["label_not_a_candidate", "wrong_prediction"]  # no such data set: another name
    assert settle(text, label, random.Random(0), 0, word) == write_rationale(
        "grey and long", [label, *parse(settle(text, label, random.Random(0), 0, word)).candidates[1:]], "they differ", label)
    twice = write_rationale("grey and long", [*others, said, label], "they differ", said)
    assert flaws(twice, label, data_set=word) == ["not_well_formed"]  # the label would stand there twice


def test_switched_off_a_filter_lets_its_flaw_pass_and_no_other():
    """One text with the flaw of each filter alone: it passes if, and only if, that filter is off."""
    alone = {"not_well_formed": swap("<comparison>", ""), "mixed_language": swap("needle", "红色"),
             "prompt_leak": swap("needle bill", "the provided description shows a needle bill"),
             "label_not_a_candidate": swap("<options>Dunen Wren", "<options>Teko Wren"),
             "foreign_candidate": swap("Dunen Wren, Marlo Wren", "Dunen Wren, Boeing 737"),
             "wrong_prediction": swap("<answer>Dunen", "<answer>Marlo")}
    for flaw, text in alone.items():
        assert flaws(text, "Dunen Wren", NAMES, ["Boeing 737"]) == [flaw]
        for off in REASONS:
            on = [name for name in REASONS if name != off]
            found = reject_reason(text, "Dunen Wren", NAMES, ["Boeing 737"], on)
            assert found == (None if off == flaw else flaw)
        assert reject_reason(text, "Dunen Wren", NAMES, ["Boeing 737"], ()) is None
    assert flaws(GOOD + CUT_OFF, "Dunen Wren", NAMES) == ["cut_off", "not_well_formed"]  # caught twice


def test_filters_are_checked_and_ordered():
    assert check_filters(["wrong_prediction", "cut_off"]) == ("cut_off", "wrong_prediction")
    assert check_filters(()) == () and check_filters("cut_off") == ("cut_off",)
    with pytest.raises(UserError, match="wrong_predictions.*choose from"):
        reject_reason(GOOD, "Dunen Wren", filters=["wrong_predictions"])


@UNHURRIED
@given(st.text(st.sampled_from("<>/ab红，,; \n") | st.sampled_from(GOOD), max_size=60), st.integers(0, 5))
def test_any_text_is_judged_and_what_passes_is_settled(noise, place):
    """Whatever a teacher writes, nothing is raised; what all filters let through parses after settling."""
    for text in (noise, GOOD[:30] + noise + GOOD[30:], GOOD + noise, noise + GOOD):
        text = fix_punctuation(text)
        found = flaws(text, "Dunen Wren", NAMES)
        assert reject_reason(text, "Dunen Wren", NAMES) == (found[0] if found else None)
        settled = settle(text, "Dunen Wren", random.Random(0), place)
        if not found:
            assert flaws(settled, "Dunen Wren", NAMES) == [] and parse(settled).answer == "Dunen Wren"


def test_other_scripts_are_welcome_in_names_only():
    text = swap("Dunen Wren", "鹪鹩")
    assert reject_reason(text, "鹪鹩", ["鹪鹩", "Marlo Wren"]) is None
    assert reject_reason(swap("needle", "红色", text), "鹪鹩", ["鹪鹩"]) == "mixed_language"
    accents = swap("needle bill", "éclatant bill, 5 µm × 3, naïve")
    assert reject_reason(accents, "Dunen Wren", NAMES) is None


def test_mending_fixes_typography_only():
    assert fix_punctuation(" “a’s” – b… ") == "\"a's\" - b..."
    assert fix_punctuation("红") == "红"


def test_full_width_punctuation_is_mended_into_what_it_stands_for():
    wide = GOOD.replace(", ", "，").replace("; ", "；").replace(": ", "：").replace("(differs)", "（differs）")
    assert wide != GOOD and fix_punctuation(wide) == GOOD
    assert fix_punctuation("a， b。c") == "a, b. c" and fix_punctuation("ＡＢ！") == "AB!"
    assert flaws(wide, "Dunen Wren", NAMES)[0] == "not_well_formed"  # so left, no candidate can be read
    assert reject_reason(fix_punctuation(wide), "Dunen Wren", NAMES) is None


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


def test_a_given_place_is_the_labels_place():
    text = swap("Dunen Wren, Marlo Wren", ", ".join(NAMES))
    for place in range(8):
        candidates = parse(settle(text, "Dunen Wren", random.Random(place), place)).candidates
        assert candidates[place % 4] == "Dunen Wren" and sorted(candidates) == sorted(NAMES)
    others = {parse(settle(text, "Dunen Wren", random.Random(seed), 0)).candidates[1:] for seed in range(60)}
    assert len(others) == 6  # the others are shuffled still


@pytest.mark.parametrize(
    "text",
    ["babble", swap("<comparison>", ""), swap("<options>Dunen Wren", "<options>Teko Wren"),
     swap("<prediction>Dunen", "<prediction>Marlo"), swap("<answer>Dunen", "<answer>Marlo")],
)
def test_what_only_passes_without_a_filter_stays_as_it_is(text):
    """A wrong prediction must not become a right one on the way out."""
    assert settle(text, "Dunen Wren", random.Random(0), 1) == text
    assert settle(GOOD, "Dunen Wren", random.Random(0), 1) != GOOD


def test_places_are_dealt_out_evenly_whatever_the_order_of_the_rows():
    rows = [{"image_id": f"{n}.png"} for n in range(24)]
    places = label_places(rows, seed=3)
    for candidates in (2, 3, 4):
        counts = [sum(place % candidates == n for place in places.values()) for n in range(candidates)]
        assert counts == [24 // candidates] * candidates
    assert label_places(rows[::-1], seed=3) == places != label_places(rows, seed=4)


def test_the_label_stands_everywhere_equally_often():
    firsts = [parse(settle(swap("Dunen Wren, Marlo Wren", ", ".join(NAMES)), "Dunen Wren", random.Random(s))).candidates[0]
              for s in range(400)]
    assert 70 < firsts.count("Dunen Wren") < 130


# --- resampling


class Scripted(Teacher):
    """A teacher that answers what it is told to, in turn."""

    def __init__(self, *texts):
        self.texts, self.seeds = list(texts), []

    def foci(self, row):
        return ["crown", "bill"]

    def describe(self, row, focus, seed):
        return f"{focus} {row['image_id']} {seed}"

    def concepts(self, row, descriptions):
        return ["red crown", row["image_id"]]

    def rationale(self, row, concepts, question, seed):
        self.seeds.append(seed)
        return self.texts[len(self.seeds) - 1]


def ask(teacher, attempts=3, **options):
    return query_until_good(teacher, [ROW], {ROW["image_id"]: ["red crown"]}, seed=0, attempts=attempts,
                          names={"bird": NAMES}, **options)[0]


def test_resampling_stops_at_the_first_good_text():
    teacher = Scripted(swap("</think>", ""), swap("<answer>Dunen", "<answer>Marlo"), GOOD, "never asked")
    record = ask(teacher)
    assert record["kept"] and record["attempts"] == 3 and record["dropped_because"] is None
    assert record["rejections"] == ["not_well_formed", "wrong_prediction"] and len(set(teacher.seeds)) == 3
    assert record["candidates"] == list(parse(record["text"]).candidates)
    assert record["texts"] == [swap("</think>", ""), swap("<answer>Dunen", "<answer>Marlo"), GOOD]
    assert list(record)[:10] == ["image_id", "super_category", "sub_category", "question", "text", "concepts",
                                 "candidates", "attempts", "kept", "dropped_because"]


def test_the_cap_drops_and_says_why():
    record = ask(Scripted(*[swap("</think>", "")] * 2, swap("needle", "红")), attempts=3)
    assert not record["kept"] and record["attempts"] == 3 and record["dropped_because"] == "mixed_language"
    with pytest.raises(UserError, match="attempts"):
        ask(Scripted(), attempts=0)


def test_a_filter_that_is_off_lets_the_first_text_stand():
    wrong = swap("<answer>Dunen", "<answer>Marlo")
    assert ask(Scripted(wrong, GOOD))["attempts"] == 2
    record = ask(Scripted(wrong, GOOD), filters=[name for name in REASONS if name != "wrong_prediction"])
    assert record["kept"] and record["attempts"] == 1 and record["rejections"] == []
    with pytest.raises(UserError, match="unknown"):
        ask(Scripted(GOOD), filters=["nonsense"])


def test_mended_texts_are_counted_and_pass():
    record = ask(Scripted(swap("needle bill, ", "needle bill，"), "not asked"))
    assert record["kept"] and record["attempts"] == 1 and record["mended"] == 1 and record["texts"] == [GOOD]
    assert ask(Scripted(f" {GOOD}\n"))["mended"] == 0  # white space is no mending


class Dying(Scripted):
    """Describes and explains in batches, until it is killed. In a batch, every text depends on all of it."""

    def __init__(self, calls, batch_size):
        super().__init__()
        self.calls, self.batch_size = calls, batch_size

    def describe_all(self, asked):
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        together = draw_seed(*(one.seed for one in asked))
        return [f"{one.focus} {one.row['image_id']} {together}" for one in asked]

    def rationale_all(self, asked):
        together = self.describe_all([self.as_description(one) for one in asked])
        return [GOOD.replace("needle", f"needle{text.split()[-1]}")
                if draw_seed(one.seed) % 3 else "not this time" for one, text in zip(asked, together)]

    def as_description(self, asked):
        from finer1_lib.data.rationales.teachers import Description

        return Description(asked.row, "", asked.seed)


def run(folder, teacher, rows, **options):
    asked = query_all(teacher, rows, seed=1, path=folder / "d.jsonl", descriptions_per_focus=2)
    chosen = choose_concepts(rows, asked, TfidfEncoder())
    return make_rationales(teacher, rows, chosen, seed=1, attempts=4, names={"bird": NAMES},
                           path=folder / "r.jsonl", **options)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_killed_run_goes_on_and_leaves_the_same_files(tmp_path, batch_size):
    """Killed between any two calls, the last line of a batch torn or lost: the files are equal."""
    rows = [{**ROW, "image_id": f"bird/x/{n}.png"} for n in range(5)]
    teacher = Dying(999, batch_size)
    whole = run(tmp_path / "whole", teacher, rows)
    needed = 999 - teacher.calls
    assert any(record["kept"] for record in whole) and any(record["attempts"] > 1 for record in whole)
    files = [tmp_path / "whole" / name for name in ("d.jsonl", "r.jsonl")]
    for calls in range(needed):
        folder = tmp_path / f"killed{calls}"
        with pytest.raises(KeyboardInterrupt):
            run(folder, Dying(calls, batch_size), rows)
        for name in ("d.jsonl", "r.jsonl"):
            if (file := folder / name).exists():
                lines = file.read_bytes().splitlines(keepends=True)
                file.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])  # the last line was only begun
        assert run(folder, Dying(999, batch_size), rows) == whole
        assert [(folder / file.name).read_bytes() for file in files] == [file.read_bytes() for file in files]
    assert run(tmp_path / "whole", Dying(0, batch_size), rows) == whole  # finished: nobody is asked


def test_every_focus_is_described_as_often_as_told(tmp_path):
    rows = [{**ROW, "image_id": f"bird/x/{n}.png"} for n in range(2)]
    asked = query_all(Scripted(), rows, seed=1, path=tmp_path / "d.jsonl", descriptions_per_focus=3)
    line = asked["bird/x/1.png"]
    assert line["foci"] == ["crown"] * 3 + ["bill"] * 3 and len(set(line["descriptions"])) == 6
    assert [text.split()[0] for text in line["descriptions"]] == line["foci"]
    with pytest.raises(UserError, match="other foci"):  # three lie there, two are asked for: no mixture
        query_all(Scripted(), rows, seed=1, path=tmp_path / "d.jsonl", descriptions_per_focus=2)
    with pytest.raises(UserError, match="at least 1"):
        query_all(Scripted(), rows, seed=1, path=tmp_path / "e.jsonl", descriptions_per_focus=0)
    assert len(read_jsonl(tmp_path / "d.jsonl")) == 2


def test_lines_made_on_other_concepts_are_not_taken_over(tmp_path):
    chosen = {ROW["image_id"]: [{"concept": "red crown", "score": 0.0, "kept": True}]}
    how = dict(seed=1, attempts=1, names={"bird": NAMES}, path=tmp_path / "r.jsonl")
    make_rationales(Scripted(GOOD), [ROW], chosen, **how)
    chosen[ROW["image_id"]][0]["kept"] = False
    with pytest.raises(UserError, match="other concepts"):
        make_rationales(Scripted(GOOD), [ROW], chosen, **how)


def test_an_unfinished_teacher_cannot_be_made():
    class Silent(Teacher):
        def foci(self, row):
            return ["all"]

    with pytest.raises(TypeError, match="abstract"):
        Silent()


def test_seeds_are_the_same_everywhere():
    assert draw_seed(0, "a", 1) == 886027111
    assert 0 <= draw_seed("x") < 2**31 and draw_seed(0, "a", 1) != draw_seed(0, "a", 2)


@pytest.mark.skipif("FINER1_OFFICIAL_DATA" not in os.environ, reason="needs the release's data")
def test_the_release_has_leaks_and_one_language():
    """About a fifth of the 404 give the prompt away, none holds another script."""
    from finer1_lib.data.rationales.filters import _LEAK, _strange_letters

    items = json.loads((Path(os.environ["FINER1_OFFICIAL_DATA"]) / "stage1_birds_pets.json").read_text())
    texts = [item["messages"][-1]["content"] for item in items]
    assert len(texts) == 98 and not any(_strange_letters(text, []) for text in texts)
    assert 5 <= sum(bool(_LEAK.search(text)) for text in texts) <= 90
    assert {reject_reason(text, "x") for text in texts} == {"not_well_formed"}  # no tags in any
