"""Completions taken apart: both layouts, broken tags, candidates, claims, and where a trace goes wrong."""

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from finer1_lib.core.completions import normalise, well_formatted
from finer1_lib.data.data_sets.catalogue import DATA_SETS, official_names
from finer1_lib.data.names import alias_rows, meanings, name_of
from finer1_lib.data.rationales.parsing import (  # fmt: skip
    CANDIDATE_MARKER,
    PREDICTION_MARKER,
    attribute_claims,
    candidate_lines,
    check_claims,
    count_problems,
    named_in,
    parse,
    predicts,
    split_names,
)
from finer1_lib.traces.steps import WRONG_STEPS, where_wrong

GOOD = (
    "<think>\n<analysis>needle bill, red crown, barred wings</analysis>\n"
    "<options>Dunen Wren, Marlo Wren</options>\n"
    "<comparison>Dunen Wren: red crown; Marlo Wren: blue crown (differs)</comparison>\n"
    "<prediction>Dunen Wren</prediction>\n</think>\n<answer>Dunen Wren</answer>"
)
GUIDE = {
    "super_categories": {
        "bird": {
            "attributes": {"bill": ["needle", "stout"], "crown": ["red", "blue"],
                           "wings": ["plain", "barred"]},
            "genus_attributes": ["bill"],
        }
    },
    "sub_categories": {
        "Dunen Wren": {"super_category": "bird", "genus": "Wren",
                       "attributes": {"bill": "needle", "crown": "red", "wings": "barred"}},
        "Marlo Wren": {"super_category": "bird", "genus": "Wren",
                       "attributes": {"bill": "needle", "crown": "blue", "wings": "barred"}},
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
        (GOOD.replace("</prediction>", "</prediction><prediction>Marlo Wren</prediction>"),
         "repeated_prediction"),
        (
            GOOD.replace("<comparison>Dunen", "<comparison><comparison>Dunen").replace(
                "</comparison>", "</comparison>" * 2
            ),
            "nested_comparison",
        ),
        ("<think><answer>Dunen Wren</answer></think>", "misplaced_answer"),
        ("<think><prediction>A</prediction><analysis>red crown</analysis></think><answer>A</answer>",
         "misplaced_prediction"),
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
            ["<think>", "</think>", "<answer>", "</answer>", "<options>", "</options>", "<analysis>",
             "</analysis>", "<prediction>", "</prediction>", "The prediction is:",
             "The analysis of candidate subcategories:", "Dunen Wren", "\n", "- ", ", "]
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
        ("- Bank Swallow (Riparia riparia): small\n  - not a name\n- Tree Swallow",
         ("Bank Swallow", "Tree Swallow")),
        ("1. Least Auklet\n2) Parakeet Auklet", ("Least Auklet", "Parakeet Auklet")),
        ("1. Candidate 1: Boeing 737-400\n2. **Option B:** F/A-18 - a fighter", ("Boeing 737-400", "F/A-18")),
        ("House Wren, Rock Wren, and Sage Thrasher", ("House Wren", "Rock Wren", "Sage Thrasher")),
        ("The candidates are: Audi S4, Audi S5 (2012), or Volvo 240.", ("Audi S4", "Audi S5", "Volvo 240")),
        ("The wings are barred, which suggests a wren, a small bird that lives in rocks", ()),
        ("- Small and brown, with a bar.\n- Rock Wren", ("Rock Wren",)),
        ("House Wren\nRock Wren", ("House Wren", "Rock Wren")),  # one a line
        ("Candidate 1: DC-9\nCandidate 2: F/A-18", ("DC-9", "F/A-18")),
        ("A. House Wren\nB. Rock Wren", ("House Wren", "Rock Wren")),
        ("### 1. House Wren\n\n### 2. Rock Wren", ("House Wren", "Rock Wren")),
        ("Town and Country, Town and Country", ("Town and Country", "Town and Country")),
        ("subcategory 3, Has Been, Touch Me Not, This That", ("subcategory 3", "Has Been", "Touch Me Not", "This That")),
        ("", ()),
    ],
)
def test_split_names(text, names):
    assert split_names(text) == names


@pytest.mark.parametrize("listed", ["{}, {}, {} and {}", "{}\n{}\n{}\n{}", "{}, {}, {}, or {}", "A. {}\nB. {}\nC. {}\nD. {}"])
def test_names_are_listed_in_a_row_or_one_a_line(listed):
    names = ("Pug", "Black And Tan Coonhound", "Collie", "Border Collie")
    text = (f"<think>Small.\n{CANDIDATE_MARKER}\n{listed.format(*names)}\n\nThe tail is long.\n\n"
            f"{PREDICTION_MARKER}\n1. **Pug**</think><answer>Pug</answer>")
    assert parse(text, meanings("dog")).candidates == names
    assert parse(text).prediction == "Pug"


RELEASED = (
    "<think> Analysis\n1. Plumage: red\n\n Candidates\nThe analysis of candidate subcategories: \n"
    "1. House Wren (Troglodytes aedon):\n   - Small.\n2. Rock Wren\n\n"
    " Comparison\n1. House Wren vs. Rock Wren:\n"
    "   - paler\n\nThe prediction is: {}</think>\n\n<answer>House Wren</answer>"
)


@pytest.mark.parametrize(
    "sentence",
    ["House Wren", "House Wren (Troglodytes aedon)", "The bird is identified as a House Wren (T. aedon).\n",
     "Based on the beak, the bird in the image is most likely a House Wren. It is small.",
     "Final Prediction:\nThe beak shows that it is a House Wren (T. aedon)."],
)
def test_the_release_s_markers(sentence):
    trace = parse(RELEASED.format(sentence))
    assert trace.layout == "markers" and trace.complete
    assert trace.candidates == ("House Wren", "Rock Wren") and trace.prediction == "House Wren"
    assert trace.comparison.startswith("Comparison\n1. House Wren vs. Rock Wren")
    assert trace.analysis.startswith("Analysis")


NAMES = [(row["data_set"], row["alias"]) for row in alias_rows() if row["alias"][-1] != "?"]  # a list has it so
NAMES += [(word, name) for word in DATA_SETS for name in sorted(official_names(word))]
SENTENCES = [
    "{name}", "**{name}**.", '"{name}" (Genus species)', "Final Prediction: {name}", "Final Answer:\n{name}",
    "The {word} is a {name}.", "It is identified as {name}.", "The twin tails mark it as the {name}.",
    "Given the short body, with its white stripe, the {word} is most likely a {name}.",
    "The centre is that of a {name}.", "This is the {name}, which has a long tail.",
    "It most closely matches the {name} due to its small size, and its tail.",
    "It is not a Foobar Wren but a {name}.", "It is probably the {name} rather than a Foobar Wren.",
    "The {word} is small. It is a {name}. It differs from the Foobar Wren.", "\\boxed{{\\text{{{name}}}}}",
    "Final Prediction\nThe {word} in the image is a {name} (Genus species), as its tail is long.\n\nIt is rare.",
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_every_name_is_read_whole_from_a_conclusion(sentence):
    """All 755 official names and their aliases, with digits, slashes, small letters, "and" and stops in them."""
    for word, name in NAMES:
        said = named_in(sentence.format(name=name, word=word))
        assert normalise(said) == normalise(name), said
        assert said == named_in(said)


@pytest.mark.parametrize("sentence", [*SENTENCES, "The {word} shown, a fine {name}, is a rare one."])
def test_known_names_are_looked_for_first(sentence):
    for word, name in NAMES[::3]:
        said = named_in(sentence.format(name=name, word=word), meanings(word))
        assert name_of(word, said) == name_of(word, name), (word, name, said)


@pytest.mark.parametrize("text, known, name", [
    ("The vehicle is an American SUV, the Buick Enclave.", ["Buick Enclave"], "Buick Enclave"),
    ("It is a Marlo Wren. The House Wren is larger.", ["House Wren"], "Marlo Wren"),
    ("It cannot be a House Wren; it is a Rock Wren.", [], "Rock Wren"),
    ("It is a Rock Wren; it is not a House Wren.", [], "Rock Wren"),
    ("The flower is hibiscus.", [], "hibiscus"),
    ("All features point to colt's foot.", [], "colt's foot"),
    ("Given the size, a Dodge Charger SRT-8 2009 is the most likely candidate.", [], "Dodge Charger SRT-8 2009"),
    ("The Il-76 is the best match.", [], "Il-76"),
    ("The image depicts a Spitfire.", [], "Spitfire"),
    ("the BMW 3 Series Sedan", [], "BMW 3 Series Sedan"),
    ("Aircraft type: Tu-154", [], "Tu-154"),
    ("Answer - Yak-42", [], "Yak-42"),
    ("1. Yak-42", [], "Yak-42"),
    ("I predict Yak-42.", [], "Yak-42"),
    ("The flower is called Sweet William.", [], "Sweet William"),
    ("The marks match those of the Rock Wren.", [], "Rock Wren"),
    ("The dog belongs to the Pug subcategory.", [], "Pug"),
    ("The best match is frangipani.", [], "frangipani"),
    ("", ["House Wren"], ""),
    (":\n", [], ""),
])
def test_a_conclusion(text, known, name):
    assert named_in(text, known) == name


FORMS = {
    "car": ("Buick Enclave SUV 2012", "Buick Enclave", ["Buick Enclave (2008-2012)", "Chevrolet Traverse",
                                                        "GMC Acadia", "Saturn Outlook"]),
    "aircraft": ("F/A-18", "McDonnell Douglas F/A-18 Hornet", ["F/A-18 Hornet", "F-16", "F-15 Eagle", "F-14 Tomcat"]),
    "flower": ("purple coneflower", "Purple Coneflower (Echinacea purpurea)",
               ["Purple Coneflower (Echinacea purpurea)", "black-eyed Susan", "oxeye daisy", "blanket flower"]),
    "dog": ("Black And Tan Coonhound", "black-and-tan coonhound", ["Black and Tan Coonhound", "Bluetick Coonhound",
                                                                 "Rottweiler", "Doberman Pinscher"]),
}


@pytest.mark.parametrize("word", FORMS)
def test_the_forms_of_the_other_data_sets(word):
    label, said, listed = FORMS[word]
    listed = "\n".join(f"{number}. **{name}**:\n- Broad, with a stripe.\n" for number, name in enumerate(listed, 1))
    text = (f"<think> It is large.\nThe analysis of candidate subcategories:\n{listed}\n Comparison\n"
            f"1. {label} vs. others: longer.\nThe prediction is: Given its size, the {word} is most likely a {said}."
            f"</think>\n<answer>{label}</answer>")
    trace = parse(text, meanings(word))
    assert trace.complete and len(trace.candidates) == len(candidate_lines(trace)) == 4
    assert predicts(trace, label, word) and predicts(parse(text), label, word)
    assert where_wrong(trace, label, None, word) == "right"
    assert where_wrong(parse(text.replace(f"<answer>{label}", "<answer>Foobar")), label, None, word) == "answer_differs"
    other = sorted(official_names(word) - {label})[0]
    assert where_wrong(parse(text, meanings(word)), other, None, word) == "candidate_missing"


def test_conclusions_and_lists_are_read_in_time_linear_in_their_length():
    def seconds(function, text):
        start = time.process_time()
        function(text)
        return time.process_time() - start

    for piece in ("(", "is a ", "likely ", "House Wren. ", ", ", "Final answer: ", "- A\n", " ", "not but ", "[(", "a-", "**"):
        for function in (named_in, split_names, lambda text: named_in(text, ["House Wren"])):
            short, long = (min(seconds(function, piece * times) for _ in range(2)) for times in (1_000, 8_000))
            assert long < 24 * short + 0.02, (piece, function)


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
