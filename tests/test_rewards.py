"""The accuracy and format rewards: what pays, and the hacks that must not."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from finer1_lib.rewards import (
    accuracy_reward,
    answer_only_formatted,
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
        ("<think>a, b<answer>Dunen Wren</answer>", 0),
        ("a, b</think><answer>Dunen Wren</answer>", 0),
        ("<answer>Dunen Wren</answer></think>", 0),
        ("<think>a</think><think>b</think><answer>Dunen Wren</answer>", 0),
        ("</think>a<think><answer>Dunen Wren</answer>", 0),
        ("<answer>Dunen Wren</answer><think>a</think>", 0),
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
    assert format_reward(**columns, form="answer_only") == [0, 0, 1, 0]
    functions, weights = reward_functions("contains_response")
    assert [f.__name__ for f in functions] == ["accuracy_reward", "format_reward"] and weights == [0.9, 0.1]
    assert functions[0](**columns) == [1, 1, 1, 1] and functions[1](**columns) == [1, 1, 0, 0]
    assert reward_functions("strict", "answer_only")[0][1](**columns) == [0, 0, 1, 0]


def test_mistakes_in_the_call_are_loud():
    with pytest.raises(ValueError, match="2 completions but 1 labels"):
        accuracy_reward(completions=["a", "b"], sub_category=["a"])
    with pytest.raises(TypeError):
        accuracy_reward(completions=["a"])
    for accuracy, form in (("lenient", "thinking"), ("strict", "poem")):
        with pytest.raises(ValueError, match=f"accuracy reward '{accuracy}', format '{form}'"):
            reward_functions(accuracy, form)


# ---------------------------------------------------------------- hacks, by generated answers

WORD = st.text("abcdefghijklmnopqrstuvwxyzéü", min_size=2, max_size=7).map(str.capitalize)
NAME = st.lists(WORD, min_size=1, max_size=3).flatmap(
    lambda words: st.sampled_from([" ".join(words), "-".join(words), " ".join(words) + "'s Foot"])
)
PADDING = st.sampled_from(["", " ", "\n", " \t\n"])
JOINT = st.sampled_from([", ", " or ", "; ", " / ", " and ", "\n", " ", "|", ". ", " - ", "_"])
# what may stand around the answers: thinking with or without the label, closed or not, and loose talk
TALK = ["", "<think>{0}</think>", "<think>{0}, {1}?</think>\n", "I see a {0}. ", "<think>{1}", "</think>",
        "{0}"]  # fmt: skip
KINDS = ["list", "empty", "nested", "repeated", "unclosed", "negated", "longer", "thought"]


def tagged(text):
    return f"<answer>{text}</answer>"


@st.composite
def respelt(draw, name):
    """The same name in another spelling: case, hyphens, underscores, apostrophes, white space."""
    letters = []
    for letter in name:
        if letter in " -":
            letter = draw(st.sampled_from([" ", "-", "_", "  ", "\n", "‑", " - "]))
        elif letter == "'":
            letter = draw(st.sampled_from(["'", "’", "", "`"]))
        elif draw(st.booleans()):
            letter = letter.swapcase()
        letters.append(letter)
    return "".join(letters)


@st.composite
def labels(draw):
    """(label, another name): different after normalisation."""
    label, other = draw(NAME), draw(NAME)
    assume(normalise(label) != normalise(other))
    return label, other


@st.composite
def hacks(draw):
    """(kind, completion, label): the label is in it, or nothing is, and it is no honest answer."""
    label, other = draw(labels())
    said = draw(st.just(label) | respelt(label))
    kind, more = draw(st.sampled_from(KINDS)), draw(WORD)
    names = [said, *draw(st.lists(st.sampled_from([other, label]), min_size=1, max_size=5))]
    if kind == "list":  # every name there is, or the label twice
        body = tagged(draw(JOINT).join(draw(st.permutations(names))))
    elif kind == "empty":
        body = tagged(draw(PADDING))
    elif kind == "nested":
        deep = draw(st.integers(1, 3))
        body = draw(st.sampled_from([
            "<answer>" * (deep + 1) + said + "</answer>" * (deep + 1), tagged(other + tagged(said)),
            tagged(tagged(said) + other), tagged(said + "<answer>") + "</answer>"]))  # fmt: skip
    elif kind == "repeated":
        names += draw(st.sampled_from([[], [""]]))
        body = draw(PADDING).join(map(tagged, draw(st.permutations(names))))
    elif kind == "unclosed":
        body = draw(st.sampled_from([
            f"<answer>{said}", f"{said}</answer>", f"<answer>{said}<answer>", f"</answer>{said}<answer>",
            f"<answer>{said}</answer", f"<answer>{other}</answer>{said}</answer>", said]))  # fmt: skip
    elif kind == "negated":
        body = tagged(draw(st.sampled_from([
            f"not a {said}", f"not {said}", f"no {said}", f"{said}? no", f"all but {said}",
            f"isn't {said}"])))  # fmt: skip
    elif kind == "longer":
        body = tagged(draw(st.sampled_from([
            f"{more} {said}", f"{said} {more}", f"{said}-{more}", f"{said}s", f"a {said}"])))  # fmt: skip
    else:
        body = draw(st.sampled_from([
            f"<think>{said}</think>{tagged(other)}", f"<think>{tagged(said)}</think>",
            f"<think>{tagged(said)}</think>{other}", f"<think>{said}</think>{tagged('')}"]))  # fmt: skip
    before, after = (draw(st.sampled_from(TALK)).format(label, other) for _ in range(2))
    return kind, before + draw(PADDING) + body + after, label


@settings(max_examples=400, deadline=None)
@given(hacks())
def test_no_hack_earns_anything_under_strict(hack):
    kind, completion, label = hack
    assert strict(completion, label) == 0, (kind, completion)
    assert reward_functions("strict")[0][0](completions=[completion], sub_category=[label]) == [0]


def test_the_hacks_are_worth_trying():
    """What strict refuses, containment pays for: each kind of generated answer would earn there."""
    earning: dict[str, set] = {"answer": set(), "response": set()}

    @settings(max_examples=400, deadline=None, database=None, derandomize=True)
    @given(hacks())
    def collect(hack):
        earning["answer"] |= {hack[0]} if contains_answer(*hack[1:]) else set()
        earning["response"] |= {hack[0]} if contains_response(*hack[1:]) else set()

    collect()
    assert earning["answer"] >= {"list", "nested", "repeated", "negated", "longer"}
    assert earning["response"] == set(KINDS)  # also where the answer is empty and the label stands beside it


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_every_honest_spelling_earns_everything(data):
    """The control: one answer, the label but for case, hyphens, underscores, apostrophes, white space."""
    label, other = data.draw(labels())
    thought = data.draw(st.sampled_from(["", f"{other} or {label}", "neither", f"not a {label}"]))
    said = data.draw(PADDING) + data.draw(respelt(label)) + data.draw(PADDING)
    bare, talk = tagged(said), f"<think>{thought}.</think>" + data.draw(PADDING)
    assert strict(bare, label) == strict(talk + bare, label) == 1
    assert strict(bare, other) == strict(talk + bare, other) == 0
    assert (well_formatted(bare), well_formatted(talk + bare)) == (0, 1)
    assert (answer_only_formatted(bare), answer_only_formatted(talk + bare)) == (1, 0)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("<answer>b</answer>", 1),
        (" \n<answer> b c </answer>\n", 1),
        ("<think>a</think><answer>b</answer>", 0),
        ("<answer>b</answer>.", 0),
        ("It is <answer>b</answer>", 0),
        ("<answer>b</answer><answer>b</answer>", 0),
        ("<answer><answer>b</answer></answer>", 0),
        ("<answer></answer>", 0),
        ("<answer> \n</answer>", 0),
        ("<answer>b", 0),
        ("b</answer>", 0),
        ("</answer>b<answer>", 0),
        ("b", 0),
        ("", 0),
    ],
)
def test_the_form_of_a_bare_answer(text, expected):
    assert answer_only_formatted(text) == expected


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["<answer>", "</answer>", "<think>", "</think>", LABEL, " ", "\n", "x"]), max_size=7
    )
)
def test_no_text_has_both_forms_and_each_form_is_one_answer(pieces):
    text = "".join(pieces)
    bare, thinking = answer_only_formatted(text), well_formatted(text)
    assert not (bare and thinking)
    if bare:
        inner = text.strip().removeprefix("<answer>").removesuffix("</answer>")
        assert text.strip() == tagged(inner) and inner.strip()
        assert "<answer>" not in inner and "</answer>" not in inner
