"""The accuracy and format rewards: what pays, and the hacks that must not."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from finer1_lib.rewards import (
    accuracy_reward,
    combined_reward,
    contains_answer,
    contains_response,
    format_reward,
    normalise,
    one_answer,
    read_tag,
    reward_functions,
    strict,
    well_formatted,
)

NAMES = ["Dunen Wren", "Marlo Wren", "Red Winged Blackbird", "Heermann Gull", "F-16A/B", "colt's foot"]
LABEL = "Dunen Wren"


@pytest.mark.parametrize(
    "a, b",
    [
        ("Red-winged Blackbird", "Red Winged Blackbird"),
        ("Red_Winged_Blackbird", "red winged  blackbird"),
        ("colt’s foot", "Colts foot"),
        ("colt's foot", "colts\nfoot"),
        ("Red‑Winged–Blackbird", "red winged blackbird"),
        ("  DUNEN\tWREN ", "Dunen Wren"),
        ("Ｄunen Wren", "Dunen Wren"),
    ],
)
def test_spellings_of_one_name(a, b):
    assert normalise(a) == normalise(b)


@pytest.mark.parametrize(
    "a, b", [("Dunen Wren", "Dunen Wrens"), ("House Wren", "Wren"), ("F-16A/B", "F-16A")]
)
def test_different_names_stay_different(a, b):
    assert normalise(a) != normalise(b)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(codec="latin-1") | st.sampled_from("’‑–—_̈")))
def test_normalise_is_idempotent(text):
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("<answer>Dunen Wren</answer>", 1),
        ("<think>a, b</think>\n<answer> dunen-wren </answer>", 1),
        ("<think>Marlo Wren?</think><answer>Dunen_Wren</answer>", 1),
        ("Dunen Wren", 0),
        ("", 0),
        ("<answer></answer>", 0),
        ("<answer>Dunen Wren", 0),
        ("Dunen Wren</answer>", 0),
        ("<answer>Dunen Wren, Marlo Wren</answer>", 0),
        ("<answer>Dunen Wren or Marlo Wren</answer>", 0),
        ("<answer>not Dunen Wren</answer>", 0),
        ("<answer>Dunen Wren</answer><answer>Dunen Wren</answer>", 0),
        ("<answer><answer>Dunen Wren</answer></answer>", 0),
        ("<answer>Dunen Wrens</answer>", 0),
        ("<think><answer>Dunen Wren</answer></think>", 0),
        ("<answer>Wren</answer>", 0),
        ("<think>x <answer>Marlo Wren</answer></think> <answer>Dunen Wren</answer>", 0),
        ("</answer>Dunen Wren<answer>", 0),
    ],
)
def test_strict(text, expected):
    assert strict(text, LABEL) == expected


def test_read_tag_says_why():
    reasons = {
        text: read_tag(text, "a")[1]
        for text in (
            "x",
            "<a></a>",
            "<a>x",
            "x</a>",
            "<a>x</a><a>y</a>",
            "<a><a>x</a></a>",
            "<a>x</a>",
            "</a><a>",
        )
    }
    assert list(reasons.values()) == [
        "missing",
        "empty",
        "unclosed",
        "unclosed",
        "repeated",
        "nested",
        "well_formed",
        "unclosed",
    ]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(NAMES), min_size=2, max_size=6),
    st.sampled_from([", ", " or ", "; ", " / ", "\n", " "]),
)
def test_no_list_of_names_is_paid(names, joint):
    """Containment pays for every list that holds the label; strict pays for none."""
    text = f"<think>a</think><answer>{joint.join(names)}</answer>"
    assert all(strict(text, label) == 0 for label in NAMES)
    assert contains_answer(text, names[0]) == 1


@settings(deadline=None)
@given(st.lists(st.sampled_from(NAMES), min_size=2, max_size=5), st.booleans())
def test_no_repetition_of_answers_is_paid(names, thinking):
    text = ("<think>a</think>" if thinking else "") + "".join(f"<answer>{name}</answer>" for name in names)
    assert all(strict(text, label) == 0 for label in NAMES)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["<answer>", "</answer>", "<think>", "</think>", LABEL, "Marlo Wren", " ", "not "]),
        max_size=9,
    )
)
def test_strict_pays_only_for_one_plain_answer(pieces):
    """Whatever tags are thrown together: paid text has one pair of tags and the label alone between them."""
    text = "".join(pieces)
    if strict(text, LABEL):
        assert text.count("<answer>") == text.count("</answer>") == 1
        assert text.split("<answer>")[1].split("</answer>")[0].strip() == LABEL
    if well_formatted(text):
        assert one_answer(text)[0] is not None


@settings(deadline=None)
@given(st.text(alphabet="abcDunewr -_'", min_size=1, max_size=14))
def test_strict_is_equality_after_normalisation(said):
    assume(said.strip())
    assert strict(f"<answer>{said}</answer>", LABEL) == float(normalise(said) == normalise(LABEL))


def test_the_release_s_and_the_paper_s_reading():
    first = "<answer>Marlo Wren</answer> no, <answer>Dunen Wren</answer>"
    assert contains_answer(first, LABEL) == 0 and contains_response(first, LABEL) == 1
    assert (
        contains_answer("< answer > not dunen wren < / answer >", LABEL) == 1
    )  # white space in tags is folded
    assert contains_response("<think>Dunen Wren? no.</think><answer>Marlo Wren</answer>", LABEL) == 1


@pytest.mark.parametrize(
    "text, expected",
    [
        ("<think>a</think> <answer>b</answer>", 1),
        ("\n<think>a\nb</think>\n\n<answer>b</answer>\n", 1),
        ("<think>a</think><answer>b</answer> and more", 0),
        ("Well, <think>a</think><answer>b</answer>", 0),
        ("<think>a</think><think>a</think><answer>b</answer>", 0),
        ("<think>a</think><answer>b</answer><answer>b</answer>", 0),
        ("<answer>b</answer>", 0),
        ("<think>a</think>", 0),
        ("<answer>b</answer><think>a</think>", 0),
        ("<think> </think><answer>b</answer>", 0),
        ("<think>a</think><answer>\n</answer>", 0),
        ("", 0),
    ],
)
def test_format(text, expected):
    assert well_formatted(text) == expected


MESSAGE = [{"role": "assistant", "content": "<think>a</think><answer>Dunen Wren</answer>"}]
PARTS = [
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "<think>a</think>"},
            {"type": "text", "text": "<answer>Dunen Wren</answer>"},
        ],
    }
]


def test_trl_s_signature_with_strings_and_messages():
    completions = [MESSAGE, PARTS, "<answer>Dunen Wren</answer>", "Dunen Wren"]
    columns = dict(
        prompts=[[]] * 4,
        completions=completions,
        completion_ids=[[1]] * 4,
        image_id=["x"] * 4,
        sub_category=[LABEL] * 4,
        trainer_state=None,
    )
    assert accuracy_reward(**columns) == [1, 1, 1, 0]
    assert format_reward(**columns) == [1, 1, 0, 0]
    assert combined_reward(**columns) == pytest.approx([1.0, 1.0, 0.9, 0.0])
    functions, weights = reward_functions("contains_response")
    assert [f.__name__ for f in functions] == ["accuracy_reward", "format_reward"] and weights == [0.9, 0.1]
    assert functions[0](**columns) == [1, 1, 1, 1]


def test_mistakes_in_the_call_are_loud():
    with pytest.raises(ValueError, match="2 completions but 1 labels"):
        accuracy_reward(completions=["a", "b"], sub_category=["a"])
    with pytest.raises(TypeError):
        accuracy_reward(completions=["a"])
    with pytest.raises(ValueError, match="one of strict"):
        reward_functions("lenient")
