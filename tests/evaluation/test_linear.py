"""Model text of any length and form is read in linear time, and to the same value as by the plain ways."""

import re
import time
import unicodedata

import pytest
from hypothesis import given, settings, strategies as st

from finer1_lib.core.completions import normalise, read_completion, strict, well_formatted
from finer1_lib.core.prompts import FOUR_PARTS
from finer1_lib.data.answers import names_several
from finer1_lib.data.rationales import filters as rationale_filters, quality as rationale_quality, teachers
from finer1_lib.data.rationales.parsing import (CANDIDATE_MARKER, PREDICTION_MARKER, candidate_lines, parse,
                                                release_layout, split_names)
from finer1_lib.evaluation.scores.official import official_answer
from finer1_lib.evaluation.scores.scoring import make_scorer
from finer1_lib.traces import sheet as examples, statistics
from finer1_lib.training.rewards import answer_only_formatted, contains_answer, contains_response

GUIDE = {
    "super_categories": {"bird": {"attributes": {"crown": ["red", "blue"], "wings": ["plain", "barred"]},
                                  "genus_attributes": ["crown"]}},
    "sub_categories": {name: {"super_category": "bird", "genus": "Wren",
                              "attributes": {"crown": crown, "wings": "barred"}}
                       for name, crown in (("Dunen Wren", "red"), ("Marlo Wren", "blue"))},
}
UNITS = [  # repeated; of a pair the first half of the text is the first, the second half the other
    "<answer>", "</answer>", "<answer>a</answer>", "<think>", "</think>", "<think></think>",
    "</think><think>", "<options>", "</options>", "<prediction>a</prediction>", "<", "<a", "</", "< ", " ",
    "\n", "\t", "\u2028", "(", "( ", "(a", ")", "[", "[a](", "{", "}", "*", "**a", "`", "_", "-", "- \n",
    "- a\n", "1. a\n", "1", "1) ", "a, ", "a; ", "a/", "/ ", ". ", ".", ":", ": ", " - ", '"', "\u201c",
    "\\boxed{", "\\text", "$", "A", "A ", "a ", "an", "not ", "or ", "and ", "is a ", "is a Rock ", "it is ",
    "of the bird in the bird ", "the ", "most ", "Rock Wren, ", "Rock Wren\n", "- Dunen* Wren\n",
    "Du*nen Wren, ", "Dunen Wren: red crown, ", "Dunen Wren: red crown (differs); ", "red crown, ",
    "Dunen Wren: other genus, ", "(differs ", "Chevrolet ", "2012 ", "VW ", "also known as ", " vs ",
    PREDICTION_MARKER, CANDIDATE_MARKER + "\n", "comparison\n", "final prediction\n", "B) ", "option ",
    "\u0301\u0323", "e\u0301\u0323", "\u0344", "\u0f73", "\uff9e", "\u00e9", "\u00df", "\u200b",
    ("\u0301", "\u0323"), ("<answer>", "</answer>"), ("<think>", "</think>"), ("(", ")"), ("\\boxed{", "}"),
    ("<options>", "</options>"), (" ", "("), ("**", "\n"),
]


def record(text, **more):
    return {"completion": text, "sub_category": "Dunen Wren", "super_category": "bird", "model": "m",
            "image_id": "birds/1.jpg", "item_id": "1", "categories": "seen", **more}


def rewards(text):
    return [judge(text, "dunen wren") for judge in (strict, contains_answer, contains_response)] + [
        well_formatted(text), answer_only_formatted(text), normalise(text), official_answer(text)]


def scores(text):
    lettered = record(text, options=["Dunen Wren", "Marlo Wren"], lettered=True)
    car = record(text, sub_category="Chevrolet Corvette ZR1 2012", super_category="car")
    for scorer in (make_scorer("strict", guide=GUIDE), make_scorer("official", guide=GUIDE)):
        scorer.open(record(text))
        scorer.closed(lettered)
        scorer.open(car)
        scorer.open(record(text, sub_category="Rock Wren"))


def traces(text):
    trace = parse(text)
    statistics._row(record(text), GUIDE)
    examples.mark(trace, "Dunen Wren", GUIDE)
    rationale_filters.flaws(text, "Dunen Wren", ["Marlo Wren"], ["F-16"], 50)
    rationale_quality._look(record(text) | {"text": text})
    return candidate_lines(trace), release_layout(text)


def parts(text):
    return split_names(text), names_several(text, ["Rock Wren", "A"]), teachers.SelfTeacher.concepts_all(None, [({}, [text])])


def wrapped(text):
    """A text where model text may stand."""
    tagged = "".join(f"<{part}>{text}</{part}>" for part in FOUR_PARTS)
    return {"bare": text, "answer": f"<think>x</think><answer>The bird is {text} Rock Wren</answer>",
            "thinking": f"{text}</think><answer>Dunen Wrens</answer>",
            "tags": f"<think>{tagged}</think><answer>Marlo Wren</answer>",
            "markers": f"<think>{text}\n{CANDIDATE_MARKER}\n- {text}\n{text}\n{PREDICTION_MARKER} {text}"
                       f"</think><answer>{text}</answer>"}


def seconds(read, unit, where, length):
    first, second = unit if isinstance(unit, tuple) else (unit, unit)
    text = wrapped("".join(piece * (length // 2 // len(piece)) for piece in (first, second)))[where]
    normalise.cache_clear()
    read_completion.cache_clear()
    begun = time.process_time()
    read(text)
    return time.process_time() - begun


@pytest.mark.parametrize("read, where, length", [(rewards, "bare", 16_000), (rewards, "answer", 8_000),
                                                 (rewards, "thinking", 8_000), (scores, "answer", 4_000),
                                                 (scores, "markers", 4_000), (traces, "tags", 4_000),
                                                 (traces, "markers", 4_000), (parts, "bare", 8_000)])
def test_four_times_the_text_takes_no_more_than_eight_times_as_long(read, where, length):
    """Linear is 4, quadratic 16; what is quick at both lengths cannot be told and need not be."""
    slow = {}
    for unit in UNITS:
        for _ in range(3):  # other work beside it may slow a single try
            large = seconds(read, unit, where, length)
            if large < 0.02 or large < 8 * (small := seconds(read, unit, where, length // 4)):
                break
        else:
            slow[unit] = (small, large)
    assert not slow


PIECES = st.lists(st.sampled_from(
    ["<answer>", "</answer>", "<", ">", "/", "answer", " ", "\n", "\x1f", "a", "B", "\u00a0"],
), max_size=14).map("".join)


@settings(max_examples=400, deadline=None)
@given(PIECES, st.sampled_from(["a", "b", "answer", "a b", "<"]))
def test_the_release_s_readings_by_its_own_patterns(text, label):
    """Patterns as the release has them: non-greedy in the reward, greedy in the evaluation."""
    folded = re.sub(r"\s*([<>/])\s*", r"\1", text)
    first = re.search(r"<answer>(.*?)</answer>", folded, re.DOTALL)
    assert contains_answer(text, label) == float(first is not None and label in first[1].lower())
    whole = re.search(r"<answer>(.*)</answer>", text, re.DOTALL)
    assert official_answer(text) == (whole[1].strip() if whole else None)


@settings(max_examples=400, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(
    "ae\u0301\u0323\u0327\u0344\u0f73\u0f71\u0f72\uff9e\u3099\u30ab\u00e9\u1e69\uac00\u1100\u1161\u0958"
    "\u0345\u03b1' -_\ufb01")))
def test_normalise_is_what_plain_composition_gives(text):
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = re.sub("['\u2019\u2018\u02bc\u02b9`\u00b4]", "", plain)
    plain = re.sub("[-\u2010\u2011\u2012\u2013\u2014\u2212_]", " ", unicodedata.normalize("NFKC", plain))
    assert normalise(text) == " ".join(plain.split())
