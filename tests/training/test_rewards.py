"""The accuracy and format rewards: what pays, and the hacks that must not."""

import pytest
from hypothesis import assume, given, settings, strategies as st

from finer1_lib.core.completions import (forms, normalise, one_answer, read_completion, read_tag, says,
                                         strict, well_formatted)
from finer1_lib.training.rewards import (accuracy_reward, answer_only_formatted, contains_answer,
                                         contains_response, format_reward, reward_functions)

NAMES = ["Dunen Wren", "Marlo Wren", "Red Winged Blackbird", "Heermann Gull", "F-16A/B", "colt's foot"]
LABEL = "Dunen Wren"


@pytest.mark.parametrize(
    "a, b",
    [("Red-winged Blackbird", "Red Winged Blackbird"), ("Red_Winged_Blackbird", "red winged  blackbird"),
     ("colt’s foot", "Colts foot"), ("colt's foot", "colts\nfoot"),
     ("Red‑Winged–Blackbird", "red winged blackbird"), ("  DUNEN\tWREN ", "Dunen Wren"),
     ("Ｄunen Wren", "Dunen Wren")],
)
def test_spellings_of_one_name(a, b):
    assert normalise(a) == normalise(b)


@pytest.mark.parametrize("a, b",
                         [("Dunen Wren", "Dunen Wrens"), ("House Wren", "Wren"), ("F-16A/B", "F-16A")])
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
        ("<think>x <answer>Dunen Wren</answer></think> <answer>Marlo Wren</answer>", 0),
        ("<answer>Dunen Wren</answer><think>a</think><answer>Dunen Wren</answer>", 0),
        ("</answer>Dunen Wren<answer>", 0),
        ("<think>a, b<answer>Dunen Wren</answer>", 0),
        # the chat template opened the thinking, or the thinking speaks of the tag
        ("a, b</think><answer>Dunen Wren</answer>", 1),
        ("a, b</think><answer>Marlo Wren</answer>", 0),
        ("Dunen Wren</think>", 0),
        ("<answer>Dunen Wren</answer> is it</think>", 0),
        ("<answer>Dunen Wren</answer> is it</think><answer>Marlo Wren</answer>", 0),
        ("a</think><answer>Dunen Wren</answer><answer>Marlo Wren</answer>", 0),
        ("a</think><think>b</think><answer>Dunen Wren</answer>", 1),
        ("a</think><answer>Dunen Wren</answer><think>b</think>", 0),
        ("a</think>b</think><answer>Dunen Wren</answer>", 0),
        ("<think>the name goes into <answer> tags</think><answer>Dunen Wren</answer>", 1),
        ("<think>as <answer>NAME</answer>, so </answer></think><answer>Dunen Wren</answer>", 1),
        ("as <answer></answer></think>\n<answer>Dunen Wren</answer>", 1),
        ("<think>a <answer>Dunen</think> Wren</answer>", 0),
        ("<think>in <think></think> and <answer></answer></think><answer>Dunen Wren</answer>", 1),
        ("in <think></think> tags</think><think>a</think><answer>Dunen Wren</answer>", 1),
        ("a</think><think>b</think><think>c</think><answer>Dunen Wren</answer>", 0),
        ("<think>a</think><answer>Dunen Wren</answer><think>b</think>", 0),
        ("a</think><answer>Dunen Wren</answer><think>b</think><answer>Dunen Wren</answer>", 0),
        ("<think>a<think>b</think><answer>Dunen Wren</answer>", 0),
        ("<think>a</think>b</think><answer>Dunen Wren</answer>", 0),  # it opened its thinking itself
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
        for text in ("x", "<a></a>", "<a>x", "x</a>", "<a>x</a><a>y</a>", "<a><a>x</a></a>", "<a>x</a>",
                     "</a><a>")
    }
    assert list(reasons.values()) == ["missing", "empty", "unclosed", "unclosed", "repeated", "nested",
                                      "well_formed", "unclosed"]


@pytest.mark.parametrize("completion, thinking, outside, problem", [
    ("<answer>a</answer>", None, "<answer>a</answer>", "well_formed"),
    ("<think>t</think><answer>a</answer>", "t", "<answer>a</answer>", "well_formed"),
    ("t</think><answer>a</answer>", "t", "<answer>a</answer>", "well_formed"),
    ("r</think>x<think>t</think><answer>a</answer>", "t", "x<answer>a</answer>", "well_formed"),
    ("<think><answer>a</answer></think>", "<answer>a</answer>", "", "misplaced"),
    ("<answer>a</answer><think>t</think>", "t", "<answer>a</answer>", "misplaced"),
    ("<answer>a</answer><think>t</think><answer>a</answer>", "t", "<answer>a</answer><answer>a</answer>",
     "repeated"),
    ("<think>t</think>", "t", "", "missing"),
    ("<think>t<answer>a</answer>", None, "<think>t<answer>a</answer>", "unclosed"),
])
def test_one_reading_of_a_completion(completion, thinking, outside, problem):
    reading = read_completion(completion)
    assert (reading.thinking, reading.before + reading.after, reading.problem) == (thinking, outside, problem)
    assert one_answer(completion) == (reading.answer, problem)
    assert reading.answer == ("a" if problem == "well_formed" else None)


@pytest.mark.parametrize("said", ["Dunen Wren.", '"Dunen Wren"', "\u201cDunen Wren\u201d",
                                  "\u2018dunen wren\u2019", "\u00abDunen Wren\u00bb", "**Dunen Wren**",
                                  "*Dunen Wren*", "__Dunen Wren__", "_Dunen-Wren_", "`Dunen Wren`",
                                  "a Dunen Wren", "An Dunen Wren", "The Dunen Wren.", "**Dunen Wren.**",
                                  "**Dunen Wren**.", '"Dunen Wren".', "the **Dunen Wren**",
                                  "\\boxed{Dunen Wren}", "$\\boxed{\\text{Dunen Wren}}$",
                                  "***`Dunen Wren`***"])
def test_what_stands_around_a_name_gives_nothing_away(said):
    assert strict(tagged(said), LABEL) == 1 and strict(tagged(said), "Marlo Wren") == 0


@pytest.mark.parametrize("said", ["Dunen Wren?", "Dunen Wren!", "Dunen Wren..", "Dunen Wren (bird)",
                                  "(Dunen Wren)", "no Dunen Wren", "a", '"Dunen Wren" "Marlo Wren"',
                                  "a a Dunen Wren", "aDunen Wren", "Dunen **Wren**",
                                  "\\boxed{Dunen Wren}{Marlo Wren}", "~~Dunen Wren~~", "\u2260Dunen Wren",
                                  "**", '""', "a the Dunen Wren", "Dunen Wren, a", "Dunen a Wren"])
def test_nothing_else_is_taken_off(said):
    assert strict(tagged(said), LABEL) == 0


def test_labels_that_look_decorated_are_still_themselves():
    for label in ("A 380", "The Citadel", "St. John's Wort Jr.", "Colts' Foot"):
        for said in (label, f"**{label}**", f'"{label}".', f"{label}."):
            assert says(said, label), said
    assert not says("380", "A 380") and not says("Citadel", "The Citadel") and forms("A 380.")[-1] == "A 380"


@settings(deadline=None)
@given(st.lists(st.sampled_from(NAMES), min_size=2, max_size=6),
       st.sampled_from([", ", " or ", "; ", " / ", "\n", " "]))
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
        outside = text.rpartition("</think>")[2]
        assert outside.count("<answer>") == outside.count("</answer>") == 1
        assert outside.split("<answer>")[1].split("</answer>")[0].strip() == LABEL
    if well_formatted(text):
        assert one_answer(text)[0] is not None


@settings(deadline=None)
@given(st.text(alphabet="abcDunewr -_'", min_size=1, max_size=14))
def test_strict_is_equality_after_normalisation(said):
    assume(said.strip())
    bare = said.strip(" '-_").removeprefix("a ")
    assert strict(f"<answer>{said}</answer>", LABEL) == float(normalise(bare) == normalise(LABEL))


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
        ("a</think> <answer>b</answer>\n", 1),  # the template's <think>
        (" </think> <answer>b</answer>", 0),
        ("a</think>and<answer>b</answer>", 0),
        ("a</think><answer>b</answer> and more", 0),
        ("a</think>\n<think>a</think><answer>b</answer>", 1),
        ("a</think>and<think>a</think><answer>b</answer>", 0),
        ("<think>as <answer></answer></think><answer>b</answer>", 1),
        ("<think>as <answer>b</answer></think>", 0),
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
        "content": [{"type": "text", "text": "<think>a</think>"},
                    {"type": "text", "text": "<answer>Dunen Wren</answer>"}],
    }
]


def test_trl_s_signature_with_strings_and_messages():
    completions = [MESSAGE, PARTS, "<answer>Dunen Wren</answer>", "Dunen Wren"]
    columns = dict(prompts=[[]] * 4, completions=completions, completion_ids=[[1]] * 4, image_id=["x"] * 4,
                   sub_category=[LABEL] * 4, trainer_state=None)
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

WORD = (st.text("abcdefghijklmnopqrstuvwxyzéü", min_size=2, max_size=7).map(str.capitalize)
        .filter(lambda word: word not in ("An", "The")))
NAME = st.lists(WORD, min_size=1, max_size=3).flatmap(
    lambda words: st.sampled_from([" ".join(words), "-".join(words), " ".join(words) + "'s Foot"])
)
PADDING = st.sampled_from(["", " ", "\n", " \t\n"])
JOINT = st.sampled_from([", ", " or ", "; ", " / ", " and ", "\n", " ", "|", ". ", " - ", "_"])
# what may stand around the answers: thinking with or without the label, closed or not, and loose talk
TALK = ["", "<think>{0}</think>", "<think>{0}, {1}?</think>\n", "I see a {0}. ", "<think>{1}", "</think>",
        "{0}"]
KINDS = ["list", "empty", "nested", "repeated", "unclosed", "negated", "longer", "thought", "hidden",
         "lookalike", "decorated"]
HIDDEN = ("\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f\u202a\u202b\u202e\u2066\u2069\u061c\u180e"
          "\ufe0f\u0334\u0338")
# Latin letters -> letters of other scripts that look the same
ALIKE = dict(zip("aceghijklnopqrsuvwxyz", "асеցһіјκӏпорԛгѕυνԝхуᴢ"))
AROUND = ["**{}**", '"{}"', "\u00ab{}\u00bb", "`{}`", "__{}__", "\\boxed{{{}}}", "{}.", "a {}",
          "the \u201c{}\u201d."]


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
            tagged(tagged(said) + other), tagged(said + "<answer>") + "</answer>"]))
    elif kind == "repeated":
        names += draw(st.sampled_from([[], [""]]))
        body = draw(PADDING).join(map(tagged, draw(st.permutations(names))))
    elif kind == "unclosed":
        body = draw(st.sampled_from([
            f"<answer>{said}", f"{said}</answer>", f"<answer>{said}<answer>", f"</answer>{said}<answer>",
            f"<answer>{said}</answer", f"<answer>{other}</answer>{said}</answer>", said]))
    elif kind == "negated":
        body = tagged(draw(st.sampled_from([
            f"not a {said}", f"not {said}", f"no {said}", f"{said}? no", f"all but {said}",
            f"isn't {said}"])))
    elif kind == "longer":
        body = tagged(draw(st.sampled_from([
            f"{more} {said}", f"{said} {more}", f"{said}-{more}", f"{said}s"])))
    elif kind == "hidden":  # a sign that nobody sees, somewhere in the name or around it
        at = draw(st.integers(0, len(said)))
        body = tagged(said[:at] + draw(st.text(HIDDEN, min_size=1, max_size=3)) + said[at:])
    elif kind == "lookalike":
        places = [at for at, letter in enumerate(said) if letter.lower() in ALIKE]
        assume(places)
        at = draw(st.sampled_from(places))
        body = tagged(said[:at] + ALIKE[said[at].lower()] + said[at + 1 :])
    elif kind == "decorated":  # two names, a denial or a question, dressed as one answer
        inner = draw(st.sampled_from([
            f"{said}** **{other}", f"{said}, {other}", f'{said}" or "{other}', f"{said}?", f"not {said}",
            f"{said}.{other}", f"a {said} a {other}", f"{other}. {said}"]))
        body = tagged(draw(st.sampled_from(AROUND)).format(inner))
    else:
        body = draw(st.sampled_from([
            f"<think>{said}</think>{tagged(other)}", f"<think>{tagged(said)}</think>",
            f"<think>{tagged(said)}</think>{other}", f"<think>{said}</think>{tagged('')}",
            f"{tagged(said)}</think>", f"{tagged(said)}</think>{tagged(other)}",
            f"{said}</think>{tagged(said + ' ' + other)}", f"{said} <answer></think>{said}</answer>",
            f"{tagged(said)}<think>{said}</think>", f"{said}</think>{tagged(said)}{tagged(other)}",
            f"<think>{said}{tagged(said)}</think>{tagged('')}", f"</think>{said}</think>"]))
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
    said = data.draw(st.sampled_from(["{}", *AROUND])).format(data.draw(respelt(label)).strip())
    said = data.draw(PADDING) + said + data.draw(PADDING)
    bare, talk = tagged(said), f"<think>{thought}.</think>" + data.draw(PADDING)
    assert strict(bare, label) == strict(talk + bare, label) == 1
    assert strict(bare, other) == strict(talk + bare, other) == 0
    mention = data.draw(st.sampled_from([".", " <answer>", tagged("X")]))
    begun = talk.removeprefix("<think>").replace(".", mention, 1) + bare  # where the template opened it
    assert (strict(begun, label), strict(begun, other), well_formatted(begun)) == (1, 0, 1)
    assert (well_formatted(bare), well_formatted(talk + bare)) == (0, 1)
    assert (answer_only_formatted(bare), answer_only_formatted(talk + bare)) == (1, 0)


@pytest.mark.parametrize(
    "text, expected",
    [("<answer>b</answer>", 1), (" \n<answer> b c </answer>\n", 1), ("<think>a</think><answer>b</answer>", 0),
     ("<answer>b</answer>.", 0), ("It is <answer>b</answer>", 0), ("<answer>b</answer><answer>b</answer>", 0),
     ("<answer><answer>b</answer></answer>", 0), ("<answer></answer>", 0), ("<answer> \n</answer>", 0),
     ("<answer>b", 0), ("b</answer>", 0), ("</answer>b<answer>", 0), ("b", 0), ("", 0)],
)
def test_the_form_of_a_bare_answer(text, expected):
    assert answer_only_formatted(text) == expected


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["<answer>", "</answer>", "<think>", "</think>", LABEL, " ", "\n", "x"]),
             max_size=7)
)
def test_no_text_has_both_forms_and_each_form_is_one_answer(pieces):
    text = "".join(pieces)
    bare, thinking = answer_only_formatted(text), well_formatted(text)
    assert not (bare and thinking)
    if bare:
        inner = text.strip().removeprefix("<answer>").removesuffix("</answer>")
        assert text.strip() == tagged(inner) and inner.strip()
        assert "<answer>" not in inner and "</answer>" not in inner
