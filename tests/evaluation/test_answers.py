"""One reading of an answer: letters, names in a text, and what strict makes of them."""

import pytest
from hypothesis import given, strategies as st

from finer1_lib.core.completions import normalise
from finer1_lib.core.prompts import PROMPTS
from finer1_lib.data.answers import KnownNames, answer_of
from finer1_lib.evaluation.scores.scoring import make_scorer

OPTIONS = ["House Wren", "Rock Wren", "Marsh Wren", "Cactus Wren"]


def lettered(answer, **more):
    return {"completion": f"<answer>{answer}</answer>", "options": OPTIONS, "lettered": True,
            "sub_category": "Rock Wren", "super_category": "bird", "image_id": "bird/1.jpg", **more}


@pytest.mark.parametrize("said, read", [
    ("B", "Rock Wren"), ("b", "Rock Wren"), ("(B)", "Rock Wren"), ("B.", "Rock Wren"), ("B)", "Rock Wren"),
    ("B. Rock Wren", "Rock Wren"), ("(B) rock-wren", "Rock Wren"), ("B: Rock Wren", "Rock Wren"),
    ("Rock Wren", "Rock Wren"),  # the name alone, under letters as without
    ("B. Rock Wren.", "Rock Wren"), ("**B**", "Rock Wren"), ("Option B", "Rock Wren"),
    ("option (B).", "Rock Wren"), ("**B.** Rock Wren", "Rock Wren"), ("B) **rock-wren**", "Rock Wren"),
    ("The option B", "Rock Wren"),
    ("B - a Rock Wren", "Rock Wren"), ("\\boxed{B}", "Rock Wren"), ("[B]", "Rock Wren"), ("'b'", "Rock Wren"),
    ("\u0412", "\u0412"),  # a Cyrillic letter
    ("Option B or C", "Option B or C"), ("not B", "not B"), ("B?", "B?"), ("Options B", "Options B"),
    ("B. House Wren", "B. House Wren"), ("B or C", "B or C"), ("BC", "BC"), ("E", "E"), ("A B", "A B"),
    ("Bobolink", "Bobolink"), ("", None),
])
def test_a_letter_stands_for_its_option(said, read):
    assert answer_of(lettered(said)) == read
    assert make_scorer("strict").closed(lettered(said))["accuracy"] == float(read == "Rock Wren")


def test_a_letter_is_no_answer_where_the_prompt_showed_none():
    plain = {key: value for key, value in lettered("B").items() if key != "lettered"}
    assert answer_of(plain) == "B" and make_scorer("strict").closed(plain)["accuracy"] == 0.0


def test_names_are_found_by_whole_words_the_longest_first():
    known = KnownNames(["Collie", "Border Collie", "F/A-18", "Rose", "Black-and-white Warbler"])
    assert known.mentioned("a border-collie, no Collie; primrose") == ["border collie", "collie"]
    assert known.mentioned("F/A 18 and black and white warbler") == ["f/a 18", "black and white warbler"]
    assert known.mentioned("") == [] and KnownNames([]).mentioned("Rose") == []
    assert known.last_mentioned("a Rose, a Collie, a border-collie; primrose") == "border collie"
    assert known.last_mentioned("") is None is known.last_mentioned("primrose")


@given(st.lists(st.sampled_from(["House Wren", "Rock Wren", "Border Collie", "Collie"]), max_size=6))
def test_every_name_of_a_list_is_found_in_its_order(names):
    known, text = KnownNames(names), "; ".join(names)
    assert known.mentioned(text) == [normalise(name) for name in names]
    assert known.last_mentioned(text) == (normalise(names[-1]) if names else None)


def test_kinder_readings_stand_beside_the_strict_one():
    scorer = make_scorer("strict", names={"dog": ["Collie", "Border Collie", "Pug"]})

    def open_world(answer, label="Collie"):
        return scorer.open({"completion": f"<answer>{answer}</answer>", "sub_category": label,
                            "super_category": "dog", "image_id": "1.jpg"})

    reads = {answer: [open_world(answer)[key] for key in ("text_inclusion", "boundary_inclusion")]
             for answer in ("Collie", "It is a Collie", "Border Collie", "Collie and Pug", "collies", "")}
    assert reads == {"Collie": [1, 1], "It is a Collie": [0, 1], "Border Collie": [0, 0],
                     "Collie and Pug": [0, 0], "collies": [0, 0], "": [0, 0]}


PLAIN = ["{}", "a {}", "{}.", "It is a {}.", "It's the {}", "This is an {}", "The {word} is a {}.",
         "The answer is {}.", "Answer: {}", "the final answer is: **{}**.", "So, this {word} is called a {}.",
         "The species of the {word} in the image is the {}.", "The image shows a {}",
         "This is a photo of a {}.",
         "The {word} shown in this picture is clearly a {}.", "**The answer is {}.**",
         "**Answer:** {}", "**Final answer:** {}.", "The {word} is a **{}**",
         "a {} {word}"]
UNSAID = ["It isn't a {}", "It is not a {}.", "It cannot be a {}", "This is no {}", "never a {}",
          "similar to a {}",
          "It is similar to a {}.", "It resembles a {}", "It looks like a {}", "like a {}", "{}-like",
          "{} mix",
          "a {} hybrid", "It is a {} cross.", "unlike a {}", "rather than a {}", "maybe a {}",
          "It may be a {}",
          "It is perhaps a {}", "probably {}", "It is a {}?", "Is it a {}", "Is it a {}?", "a kind of {}",
          "anything but a {}", "It is hardly a {}", "It is a {} or so", "a relative of the {}", "a {} toy",
          "It is a {}, or not", "almost a {}", "It is a {} without doubt, no", "The answer is not {}.",
          "I doubt that it is a {}", "It was a {} until I looked", "The answer: no {}", "It is a fake {}",
          "The image shows something like a {}", "It is a {}. No, it is not.", "an {} impostor"]


def kind_reading(said, label, word, **more):
    item = {"completion": f"<answer>{said}</answer>", "sub_category": label, "super_category": word,
            "image_id": "1.jpg", **more}
    scorer = make_scorer("strict")
    return scorer.open(item)["boundary_inclusion"], scorer.closed(item)["boundary_inclusion"]


@pytest.mark.parametrize("word, label", [("bird", "Rock Wren"), ("aircraft", "F/A-18"),
                                         ("aircraft", "Boeing 737-400"), ("dog", "Cardigan"),
                                         ("car", "Chevrolet Corvette ZR1 2012"), ("flower", "colt's foot"),
                                         ("pet", "Maine Coon"), ("rune", "Dunen \u00c9z")])
def test_the_kind_reading_takes_one_name_stated_plainly_and_nothing_else(word, label):
    for form in PLAIN:
        assert kind_reading(form.format(label, word=word), label, word) == (1, 1), form
    for form in UNSAID:
        assert kind_reading(form.format(label, word=word), label, word) == (0, 0), form
    for form in PLAIN[:1] + PLAIN[3:]:  # a name that only looks like it, or with another beside it
        at = label.index(" ") if " " in label else 1
        alike = label.translate(str.maketrans("oaenA", "\u043e\u0430\u0435\u0578\u0410"))  # other scripts
        for said in (label[:at] + "\u200b" + label[at:], "\u202e" + label, label + "\u200f", alike,
                     f"{label} Finch", f"{label}, {label} Finch", f"{label} or House Wren"):
            assert kind_reading(form.format(said, word=word), label, word) == (0, 0), (form, said)


def test_the_kind_reading_of_letters_and_of_a_name_that_goes_on():
    shown = {"options": OPTIONS, "lettered": True}
    for said in ("The answer is B.", "Answer: (B)", "It is option B", "The answer is B) Rock Wren."):
        assert kind_reading(said, "Rock Wren", "bird", **shown)[1] == 1, said
    for said in ("The answer is not B.", "Answer: B or C", "The answer is B) House Wren", "Is it B?"):
        assert kind_reading(said, "Rock Wren", "bird", **shown)[1] == 0, said
    names = {"bird": ["Rock", "Rock Bird"]}
    item = lettered("a Rock bird") | {"sub_category": "Rock", "options": ()}
    scores = [make_scorer("strict", names=known).open(item) for known in (names, {"bird": ["Rock"]})]
    assert [one["boundary_inclusion"] for one in scores] == [0, 1]


def test_aliases_count_in_a_row_of_their_own():
    def open_world(answer, label, data_set):
        return make_scorer("strict").open({"completion": f"<answer>{answer}</answer>", "sub_category": label,
                                           "super_category": data_set, "image_id": "1.jpg"})

    found = open_world("727-200", "Boeing 727-200", "aircraft")
    assert (found["text_inclusion"], found["text_inclusion_with_aliases"]) == (0.0, 1.0)
    found = open_world("727-100", "Boeing 727-200", "aircraft")
    assert found["text_inclusion_with_aliases"] == 0.0
    assert "text_inclusion_with_aliases" not in open_world("x", "Dunen Wren", "bird")  # a drawn bird


@pytest.mark.parametrize("thinking, answer, differs", [
    ("A Rock Wren? No: a House Wren.", "House Wren", 0.0), ("It must be a Rock Wren.", "House Wren", 1.0),
    ("Small and brown.", "House Wren", None), ("It must be a Rock Wren.", "", None),
    ("<prediction>rock-wren</prediction>", "Rock Wren", 0.0),
])
def test_the_last_name_of_the_thinking_against_the_answer(thinking, answer, differs):
    record = lettered("x") | {"completion": f"<think>{thinking}</think><answer>{answer}</answer>"}
    del record["lettered"]
    assert make_scorer("strict").closed(record).get("think_answer_differs") == differs


class Fixed:
    """Sim by a table."""

    name = "fixed"
    values = {("far", "Rock Wren"): 0.1, ("near", "Rock Wren"): 0.8, ("bird", "Rock Wren"): 0.4}

    def prepare(self, texts):
        pass

    def __call__(self, a, b):
        return 1.0 if a == b else self.values[a, b]


def test_the_unclipped_similarity_shows_what_is_worse_than_the_word():
    def scores(completion, name="strict"):
        scorer = make_scorer(name, similarity=Fixed(), more=[Other()])
        return scorer.open({"completion": completion, "sub_category": "Rock Wren", "super_category": "bird",
                            "image_id": "birds/1.jpg"})

    class Other(Fixed):
        name = "other"
        values = {**Fixed.values, ("far", "Rock Wren"): 0.7}

    key = "relative_semantic_similarity"
    for name in ("strict", "official"):
        far = scores("<answer>far</answer>", name)
        assert far[key] == 0.0 and far[f"{key}_unclipped"] == pytest.approx((0.1 - 0.4) / 0.6)
        assert far[f"{key}@other"] == pytest.approx(0.5) == far[f"{key}_unclipped@other"]
        near = scores("<answer>near</answer>", name)
        assert near[key] == near[f"{key}_unclipped"] == pytest.approx(0.4 / 0.6)
    assert scores("")[f"{key}_unclipped"] == 0.0


def test_official_counts_the_completions_that_it_scored_whole():
    def fallback(completion):
        return make_scorer("official").open(lettered("x") | {"completion": completion})["fallback"]

    texts = ("<answer>a</answer>", "<answer> </answer>", "a Rock Wren")
    assert [fallback(text) for text in texts] == [0, 1, 1]


def test_no_option_is_left_without_its_letter():
    names = [f"Name {number}" for number in range(27)]
    assert "Z. Name 25" in PROMPTS["letter_closed"].text("Which?", names[:26])
    with pytest.raises(ValueError, match="26 letters for 27 options"):
        PROMPTS["letter_closed"].text("Which?", names)
