"""Completions taken apart: both layouts, broken tags, candidates, claims, and where a trace goes wrong."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finer1_lib.rewards import normalise, well_formatted
from finer1_lib.traces.steps import WRONG_STEPS, where_wrong
from finer1_lib.traces.parsing import attribute_claims, check_claims, count_problems, parse, split_names

GOOD = (
    "<think>\n<analysis>needle bill, red crown, barred wings</analysis>\n"
    "<options>Dunen Wren, Marlo Wren</options>\n"
    "<comparison>Dunen Wren: red crown; Marlo Wren: blue crown (differs)</comparison>\n"
    "<prediction>Dunen Wren</prediction>\n</think>\n<answer>Dunen Wren</answer>"
)
GUIDE = {
    "super_categories": {
        "bird": {
            "attributes": {
                "bill": ["needle", "stout"],
                "crown": ["red", "blue"],
                "wings": ["plain", "barred"],
            },
            "genus_attributes": ["bill"],
        }
    },
    "sub_categories": {
        "Dunen Wren": {
            "super_category": "bird",
            "genus": "Wren",
            "attributes": {"bill": "needle", "crown": "red", "wings": "barred"},
        },
        "Marlo Wren": {
            "super_category": "bird",
            "genus": "Wren",
            "attributes": {"bill": "needle", "crown": "blue", "wings": "barred"},
        },
    },
}


def changed(**parts):
    text = GOOD
    for part, content in parts.items():
        start, end = text.index(f"<{part}>") + len(part) + 2, text.index(f"</{part}>")
        text = text[:start] + content + text[end:]
    return text


def test_the_kit_s_own_format():
    trace = parse(GOOD)
    assert trace.complete and trace.layout == "tags"
    assert trace.candidates == ("Dunen Wren", "Marlo Wren")
    assert (trace.prediction, trace.answer) == ("Dunen Wren", "Dunen Wren")
    assert trace.analysis == "needle bill, red crown, barred wings"


def test_white_space_between_tags_is_free():
    assert parse(GOOD.replace("\n", "")).complete and parse(GOOD.replace("\n", "\n\n  ")).complete


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "missing_answer"),
        (GOOD.replace("<answer>Dunen Wren</answer>", ""), "missing_answer"),
        (changed(answer="  "), "empty_answer"),
        (changed(answer="<answer>Dunen Wren</answer>"), "nested_answer"),
        (GOOD + "<answer>Marlo Wren</answer>", "repeated_answer"),
        (GOOD.removesuffix("</answer>"), "unclosed_answer"),
        (GOOD.replace("<analysis>", ""), "unclosed_analysis"),
        (GOOD.replace("</options>", ""), "unclosed_options"),
        (changed(options=" "), "empty_options"),
        (
            GOOD.replace("</prediction>", "</prediction><prediction>Marlo Wren</prediction>"),
            "repeated_prediction",
        ),
        (
            GOOD.replace("<comparison>Dunen", "<comparison><comparison>Dunen").replace(
                "</comparison>", "</comparison>" * 2
            ),
            "nested_comparison",
        ),
        ("<think><answer>Dunen Wren</answer></think>", "misplaced_answer"),
        (
            "<think><prediction>A</prediction><analysis>red crown</analysis></think><answer>A</answer>",
            "misplaced_prediction",
        ),
    ],
)
def test_broken_completions_are_named_not_dropped(text, problem):
    trace = parse(text)
    assert problem in trace.problems and not trace.complete
    counts = count_problems([trace, parse(GOOD)])
    assert counts["total"] == 2 and counts["complete"] == 1 and counts[problem] == 1


def test_a_broken_part_leaves_the_others_readable():
    trace = parse(GOOD.replace("</options>", ""))
    assert trace.candidates == () and trace.prediction == "Dunen Wren" and trace.answer == "Dunen Wren"


@pytest.mark.parametrize("begin", ["", "Hm: <think></think> and <answer></answer>?</think>\n<think>"])
def test_a_trace_that_begins_inside_the_thinking_or_speaks_of_tags_is_whole(begin):
    text = begin + GOOD.removeprefix("<think>").replace("red crown, ", "red crown, no <answer> yet, ")
    trace = parse(text)
    assert trace.complete and trace.answer == "Dunen Wren" == trace.prediction
    assert trace.candidates == ("Dunen Wren", "Marlo Wren") and "no <answer> yet" in trace.analysis
    assert where_wrong(trace, "Dunen Wren", GUIDE) == "right"


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "<think>",
                "</think>",
                "<answer>",
                "</answer>",
                "<options>",
                "</options>",
                "<analysis>",
                "</analysis>",
                "<prediction>",
                "</prediction>",
                "The prediction is:",
                "The analysis of candidate subcategories:",
                "Dunen Wren",
                "\n",
                "- ",
                ", ",
            ]
        )
    )
)
def test_any_string_parses(pieces):
    trace = parse("".join(pieces))
    assert trace.layout in ("tags", "markers", "none")
    assert trace.complete == (not trace.problems)
    assert where_wrong(trace, "Dunen Wren", GUIDE) in ("right", *WRONG_STEPS)


@pytest.mark.parametrize(
    "text, names",
    [
        ("A B, C D", ("A B", "C D")),
        (
            "- Bank Swallow (Riparia riparia): small\n  - not a name\n- Tree Swallow",
            ("Bank Swallow", "Tree Swallow"),
        ),
        ("1. Least Auklet\n2) Parakeet Auklet", ("Least Auklet", "Parakeet Auklet")),
        ("", ()),
    ],
)
def test_split_names(text, names):
    assert split_names(text) == names


RELEASED = (
    "<think> Analysis\n1. Plumage: red\n\n Candidates\nThe analysis of candidate subcategories: \n"
    "1. House Wren (Troglodytes aedon):\n   - Small.\n2. Rock Wren\n\n"
    " Comparison\n1. House Wren vs. Rock Wren:\n"
    "   - paler\n\nThe prediction is: {}</think>\n\n<answer>House Wren</answer>"
)


@pytest.mark.parametrize(
    "sentence",
    [
        "House Wren",
        "House Wren (Troglodytes aedon)",
        "The bird is identified as a House Wren (T. aedon).\n",
        "Based on the beak, the bird in the image is most likely a House Wren. It is small.",
        "Final Prediction:\nThe beak shows that it is a House Wren (T. aedon).",
    ],
)
def test_the_release_s_markers(sentence):
    trace = parse(RELEASED.format(sentence))
    assert trace.layout == "markers" and trace.complete
    assert trace.candidates == ("House Wren", "Rock Wren") and trace.prediction == "House Wren"
    assert trace.comparison.startswith("Comparison\n1. House Wren vs. Rock Wren")
    assert trace.analysis.startswith("Analysis")


def test_claims_are_values_before_part_words():
    text = "needle bill, a red crown; wings\nthe red crown and barred wings, bright back"
    assert attribute_claims(text, ["bill", "crown", "wings"]) == {
        "bill": ["needle"],
        "crown": ["red", "red"],
        "wings": ["barred"],
    }
    assert attribute_claims(None, ["bill"]) == {}


def test_check_claims_right_wrong_missing():
    assert check_claims("needle bill, blue crown", "Dunen Wren", GUIDE) == {
        "bill": "right",
        "crown": "wrong",
        "wings": "missing",
    }
    both = check_claims("red crown, blue crown", "Dunen Wren", GUIDE)
    assert both["crown"] == "wrong"  # claiming everything is no reading


def test_released_rationales():
    folder = os.environ.get("FINER1_OFFICIAL_DATA")
    if not folder:
        pytest.skip("FINER1_OFFICIAL_DATA is not set")
    items = json.loads((Path(folder) / "stage1_birds_pets.json").read_text(encoding="utf-8"))
    texts = [item["messages"][-1]["content"] for item in items]
    traces = [parse(text) for text in texts]
    assert len(traces) == 98 and sum(map(well_formatted, texts)) == 98
    assert {trace.layout for trace in traces} == {"markers"} and all(trace.answer for trace in traces)
    # one lacks the candidate marker: candidates and comparison cannot be told apart there
    assert count_problems(traces) == {"total": 98, "complete": 97, "missing_options": 1,
                                      "missing_comparison": 1}
    assert sum(len(trace.candidates) == 4 for trace in traces) == 97
    named = [any(normalise(t.answer) in normalise(name) for name in t.candidates) for t in traces]
    assert sum(named) == 96  # 85 of 86 birds ("Bobolinks" counts, "Wrens" does not), 11 of 11 parsed pets
    assert sum(normalise(t.answer) in normalise(t.prediction or "") for t in traces) == 98
    lengths = [len(trace.analysis.split()) for trace in traces]
    assert min(lengths) > 100 and 350 < sum(lengths) / 98 < 450
