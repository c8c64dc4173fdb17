"""The rationale writer to the letter; the guide's teacher errs as often as told; the other teachers claim little."""

import random
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy
import pandas
import pytest
from hypothesis import example, given, strategies as st
from PIL import Image
from shared_cases import UNHURRIED

from finer1_lib.core.errors import UserError
from finer1_lib.core.images import ImageFile
from finer1_lib.data.guide import analysis_text, distance, four_parts, nearest
from finer1_lib.data.rationales.filters import CUT_OFF, REASONS, fix_punctuation, flaws, reject_reason
from finer1_lib.data.rationales.making import query_until_good
from finer1_lib.data.rationales.parsing import parse
from finer1_lib.data.rationales.teachers import (TEACHER_PROMPTS, Description, PromptedTeacher, Rationale,
                                                 SelfTeacher, draw_seed, fill)
from finer1_lib.miniature.teacher import GuideTeacher, Rates

PARTS = ["bill", "tail", "crown", "back"]
KINDS = {"Dunen Wren": "needle forked red black", "Marlo Wren": "needle forked blue black",
         "Teko Wren": "needle forked blue white", "Ora Finch": "hook fan red black",
         "Ula Finch": "hook fan blue black"}
GUIDE = {
    "super_categories": {
        "bird": {
            "attributes": {"bill": ["needle", "hook"], "tail": ["forked", "fan"],
                           "crown": ["red", "blue", "green"], "back": ["black", "white"]},
            "genus_attributes": ["bill", "tail"],
        },
        "aircraft": {"attributes": {"fin": ["red"]}, "genus_attributes": []},
    },
    "sub_categories": {
        **{name: {"super_category": "bird", "genus": name.split()[1],
                  "attributes": dict(zip(PARTS, values.split()))} for name, values in KINDS.items()},
        "Falk 2": {"super_category": "aircraft", "genus": "Falk", "attributes": {"fin": "red"}},
    },
    "seen": [], "unseen": [],
}
NO_MISTAKES = Rates(*[0.0] * len(fields(Rates)))
ROW = {"image_id": "bird/Dunen_Wren/0.png", "super_category": "bird", "sub_category": "Dunen Wren"}
TRUTH = GUIDE["sub_categories"]["Dunen Wren"]["attributes"]


def erring(**rates):
    return GuideTeacher(GUIDE, replace(NO_MISTAKES, **rates))


def record_of(teacher, row, attempts):
    return query_until_good(teacher, [row], {row["image_id"]: []}, seed=0, attempts=attempts,
                          names={"bird": list(KINDS), "aircraft": ["Falk 2"]})[0]


class Unshuffled:
    def shuffle(self, x):
        """Leave it sorted, so that a test can write the text out."""


def test_the_text_to_the_letter():
    text = four_parts(TRUTH, "Dunen Wren", ["Ora Finch", "Dunen Wren", "Teko Wren"], GUIDE, Unshuffled())
    assert text == ("<think>\n<analysis>needle bill, forked tail, red crown, black "
                    "back</analysis>\n<options>Dunen Wren, Ora Finch, Teko Wren</options>\n<comparison>Dunen "
                    "Wren: red crown, black back; Ora Finch: red crown, black back, other genus (differs); "
                    "Teko Wren: blue crown (differs), white back (differs)</comparison>\n<prediction>Dunen "
                    "Wren</prediction>\n</think>\n<answer>Dunen Wren</answer>")


def test_hidden_attributes_contradict_nothing_and_order_is_the_guides():
    text = four_parts({"back": "black", "bill": "needle"}, "Dunen Wren", ["Teko Wren"], GUIDE, Unshuffled())
    assert "<analysis>needle bill, black back</analysis>" in text
    assert "<comparison>Teko Wren: blue crown, white back (differs)</comparison>" in text
    assert analysis_text({}) == ""


def test_distance_and_nearest_by_hand():
    assert distance(GUIDE, "Dunen Wren", "Marlo Wren") == 1 and distance(GUIDE, "Dunen Wren", "Ula Finch") == 3
    near = nearest(GUIDE, "Dunen Wren", 4, random.Random(0))
    assert near == ["Marlo Wren", "Teko Wren", "Ora Finch", "Ula Finch"]  # 1, 2 (own genus), 2, 3
    assert {nearest(GUIDE, "Marlo Wren", 1, random.Random(seed))[0] for seed in range(20)} == {
        "Dunen Wren", "Teko Wren",
    }
    assert nearest(GUIDE, "Dunen Wren", 9, numpy.random.default_rng(0))[0] == "Marlo Wren"  # numpy serves as well


def test_without_mistakes_every_text_passes_and_tells_the_truth():
    teacher = GuideTeacher(GUIDE, NO_MISTAKES)
    for number in range(50):
        text = teacher.rationale(ROW, [], "?", number)
        assert reject_reason(text, "Dunen Wren", list(KINDS), ["Falk 2"]) is None
        trace = parse(text)
        assert trace.analysis == "needle bill, forked tail, red crown, black back" and len(trace.candidates) == 4
    assert sorted(teacher.concepts(ROW, [])) == ["black back", "forked tail", "needle bill", "red crown"]


@pytest.mark.parametrize(
    ("rate", "reason"),
    [("wrong_prediction", "wrong_prediction"), ("missing_candidate", "label_not_a_candidate"),
     ("language_slip", "mixed_language"), ("prompt_leak", "prompt_leak"), ("broken_tag", "not_well_formed"),
     ("cut_off", "cut_off"), ("foreign_candidate", "foreign_candidate")],
)
def test_each_mistake_is_made_at_its_rate_and_caught_by_its_filter(rate, reason):
    teacher = erring(**{rate: 0.3})
    texts = [teacher.rationale(ROW, [], "?", n) for n in range(400)]
    reasons = [reject_reason(text, "Dunen Wren", list(KINDS), ["Falk 2"]) for text in texts]
    assert set(reasons) == {None, reason}
    assert 0.22 < reasons.count(reason) / 400 < 0.38
    planted = [teacher.planted(ROW, [], n) for n in range(400)]
    assert [frozenset([found] if found else []) for found in reasons] == planted
    record = record_of(erring(**{rate: 1.0}), ROW, 3)
    assert not record["kept"] and record["dropped_because"] == reason


@UNHURRIED
@given(st.integers(0, 10**6))
@example(432025)  # nothing read, and yet the analysis holds a leak and a slip
def test_what_is_planted_is_there(seed):
    """At high rates of everything, each planted flaw is seen by its filter, if it can read the text."""
    teacher = GuideTeacher(GUIDE, Rates(*[0.5] * len(fields(Rates))))
    found = flaws(fix_punctuation(teacher.rationale(ROW, [], "?", seed)), "Dunen Wren", list(KINDS), ["Falk 2"])
    planted = teacher.planted(ROW, [], seed)
    assert planted <= set(found) <= set(REASONS) or "not_well_formed" in found
    assert bool(planted) == bool(found)


def test_wide_punctuation_is_mended_and_no_flaw():
    teacher, plain = erring(wide_punctuation=1.0), erring()
    text = teacher.rationale(ROW, [], "?", 0)
    assert "needle bill\uff0cforked tail" in text and teacher.planted(ROW, [], 0) == frozenset()
    assert parse(fix_punctuation(text)).analysis == parse(plain.rationale(ROW, [], "?", 0)).analysis
    assert record_of(teacher, ROW, 1)["kept"]


def test_a_teacher_likes_to_put_the_label_first():
    firsts = [parse(erring(label_first=0.5).rationale(ROW, [], "?", n)).candidates[0] for n in range(400)]
    assert 0.54 < firsts.count("Dunen Wren") / 400 < 0.71  # half of the time, and a quarter of the other half
    always = [parse(erring(label_first=1.0).rationale(ROW, [], "?", n)).candidates for n in range(40)]
    assert {names[0] for names in always} == {"Dunen Wren"} and len({names[1:] for names in always}) > 3


def test_a_misread_attribute_passes_every_filter():
    """The one mistake the filters cannot see; a kept concept corrects it."""
    teacher = GuideTeacher(GUIDE, Rates(**{**NO_MISTAKES.__dict__, "wrong_attribute": 1.0}))
    text = teacher.rationale(ROW, [], "?", 0)
    assert reject_reason(text, "Dunen Wren", list(KINDS)) is None and "needle bill" not in parse(text).analysis
    trusted = parse(teacher.rationale(ROW, ["needle bill", "hook bill"], "?", 0)).analysis
    assert trusted.startswith("needle bill, fan tail")


def test_hidden_attributes_and_false_concepts():
    hidden = GuideTeacher(GUIDE, Rates(**{**NO_MISTAKES.__dict__, "hidden_attribute": 0.3}))
    analyses = [parse(hidden.rationale(ROW, ["needle bill"], "?", n)).analysis for n in range(40)]
    assert {len(analysis.split(", ")) for analysis in analyses} == {1, 2, 3, 4}
    false = GuideTeacher(GUIDE, Rates(**{**NO_MISTAKES.__dict__, "wrong_concept": 1.0}))
    assert len(false.concepts(ROW, [])) == 8 and false.concepts(ROW, []) == false.concepts({**ROW, "image_id": "x"}, [])


def test_descriptions_stress_their_focus_in_many_wordings_and_never_name():
    teacher = GuideTeacher(GUIDE, NO_MISTAKES)
    assert teacher.foci(ROW) == PARTS
    texts = [teacher.describe(ROW, "crown", n) for n in range(60)]
    assert all("red" in text and "crown" in text for text in texts) and len(set(texts)) > 30
    assert not any("Wren" in text for text in texts)
    assert any("a red crown" in text for text in texts) and any("crown is red" in text for text in texts)


@UNHURRIED
@given(st.integers(0, 10**6))
def test_the_same_question_has_the_same_answer(seed):
    one, two = GuideTeacher(GUIDE), GuideTeacher(GUIDE)
    assert one.rationale(ROW, ["red crown"], "?", seed) == two.rationale(ROW, ["red crown"], "?", seed)
    assert one.describe(ROW, "bill", seed) == two.describe(ROW, "bill", seed)


def test_rates_are_checked():
    with pytest.raises(UserError, match="broken_tag"):
        Rates(broken_tag=1.5)


# --- teachers without an attribute table


@pytest.fixture
def photographs(tmp_path):
    for name in KINDS:
        (tmp_path / name).mkdir()
        Image.new("RGB", (30, 30), "red").save(tmp_path / name / "0.png")
    rows = [{"image_id": f"{name}/0.png", "super_category": "bird", "sub_category": name} for name in KINDS]
    return tmp_path, pandas.DataFrame(rows)


def answering(reply, calls, truncated=False):
    """Something like `models.generate`."""

    def generate(loaded, prompts, *, max_new_tokens, temperature, seed, batch_size):
        calls.append((prompts, seed))
        return [SimpleNamespace(text=reply(p[0]["content"]), tokens=1, truncated=truncated) for p in prompts]

    return generate


def similarity(super_category, first, second):
    return -abs(list(KINDS).index(first) - list(KINDS).index(second))


def test_the_self_teacher_says_only_what_it_knows(photographs):
    root, table = photographs
    calls = []
    generate = answering(lambda content: "<analysis>red crown, long tail</analysis>", calls)
    teacher = SelfTeacher(object, root, table, similarity, generate=generate)
    row = table.to_dict("records")[0]
    assert teacher.describe(row, "sample 1", 3) == "red crown, long tail" and calls[0][1] == 3
    assert calls[0][0][0][0]["content"][0]["image"] == ImageFile(str(root), "Dunen Wren/0.png")
    assert teacher.concepts(row, ["red crown, long tail", "long tail. grey"]) == ["long tail", "red crown", "grey"]
    text = teacher.rationale(row, [], "?", 0)
    assert reject_reason(text, "Dunen Wren", list(KINDS)) is None
    trace = parse(text)
    assert trace.candidates == ("Dunen Wren", "Marlo Wren", "Teko Wren", "Ora Finch")
    assert trace.comparison.split("; ")[:2] == ["Dunen Wren: fits this picture",
                                                "Marlo Wren: among the nearest in looks, but another"]


@pytest.mark.parametrize("babble", ["", "<analysis></analysis>", "<analysis>红</analysis>", "a <think> b"])
def test_a_babbling_model_is_dropped_not_trained_on(photographs, babble):
    root, table = photographs
    teacher = SelfTeacher(object, root, table, similarity, generate=answering(lambda content: babble, []))
    record = record_of(teacher, table.to_dict("records")[0], 2)
    assert not record["kept"] and record["dropped_because"] in ("not_well_formed", "mixed_language")


def test_the_prompted_teacher_asks_what_the_registry_holds(photographs):
    root, table = photographs
    calls = []

    def reply(content):
        prompt = content[-1]["text"]
        if "ten short" in prompt:
            return "1. red crown\n- black back.\n\n* forked tail"
        return "ok" if "above all its shape" in prompt else prompt

    teacher = PromptedTeacher(object, root, ["shape"], generate=answering(reply, calls))
    row = table.to_dict("records")[0]
    assert teacher.foci(row) == ["shape"] and teacher.describe(row, "shape", 0) == "ok"
    assert teacher.concepts(row, []) == ["red crown", "black back", "forked tail"]
    assert len(calls[-1][0][0][0]["content"]) == 1  # asked without a picture
    text = teacher.rationale(row, ["red crown", "black back"], "What species?", 5)
    assert "Dunen Wren" in text and "red crown; black back" in text and "What species?" in text and "{" not in text
    assert all(len(prompt.hash) == 12 for prompt in TEACHER_PROMPTS.values())
    with pytest.raises(ValueError, match="lacks"):
        fill("teacher_describe", focus="shape")


def test_teachers_answer_a_batch_in_one_call(photographs):
    """Two pictures, two foci, two descriptions: one call; the pictures are names of files until encoded."""
    root, table = photographs
    calls = []
    teacher = PromptedTeacher(object, root, ["shape", "colours"], batch_size=2,
                              generate=answering(lambda content: content[-1]["text"], calls))
    rows = table.to_dict("records")[:2]
    asked = [Description(row, focus, number) for number, (row, focus) in enumerate(
        (row, focus) for row in rows for focus in ("shape", "colours"))]
    texts = teacher.describe_all(asked)
    assert len(calls) == 1 and calls[0][1] == draw_seed(0, 1, 2, 3)
    assert ["its shape" in text for text in texts] == [True, False, True, False]
    pictures = [prompt[0]["content"][0]["image"] for prompt in calls[0][0]]
    assert pictures == [ImageFile(str(root), row["image_id"]) for row in rows for _ in range(2)]
    assert len(teacher.concepts_all([(row, []) for row in rows])) == 2 and len(calls) == 2
    made = [Rationale(row, ["red crown"], "What?", 5) for row in rows]
    assert len(teacher.rationale_all(made)) == 2 and len(calls) == 3
    assert teacher.rationale(*made[0]) == teacher.rationale_all(made)[0]  # one alone is a batch of one


def test_what_was_cut_off_is_never_accepted(photographs):
    """A whole text, and a half one, at the limit; descriptions and lists lose what was only begun."""
    root, table = photographs
    row = table.to_dict("records")[0]
    good = erring().rationale(ROW, [], "?", 0)
    for text in (good, good[: len(good) // 2]):
        teacher = PromptedTeacher(object, root, ["shape"], generate=answering(lambda content: text, [], True))
        record = record_of(teacher, row, 1)
        assert not record["kept"] and record["dropped_because"] == "cut_off"
        assert record["text"].endswith(CUT_OFF)
    whole = PromptedTeacher(object, root, ["shape"], generate=answering(lambda content: good, []))
    assert record_of(whole, row, 1)["kept"]

    def prompted(text):
        return PromptedTeacher(object, root, ["shape"], generate=answering(lambda content: text, [], True))

    assert prompted("A red crown. Its bi").describe(row, "shape", 0) == "A red crown."
    assert prompted("Its bi").describe(row, "shape", 0) == ""
    assert prompted("red crown\nblack ba").concepts(row, []) == ["red crown"]


def test_the_self_teacher_is_cut_off_too(photographs):
    root, table = photographs
    row = table.to_dict("records")[0]

    def teacher(text):
        generate = answering(lambda content: text, [], True)
        return SelfTeacher(object, root, table, similarity, samples=2, generate=generate)

    begun = teacher("<analysis>red crown, long ta")
    assert begun.foci(row) == ["sample 1", "sample 2"] and begun.describe(row, "", 0) == "red crown,"
    assert record_of(begun, row, 1)["dropped_because"] == "cut_off"
    rambling = teacher("<analysis>red crown, long tail</analysis> and so on and")  # the analysis is whole
    assert rambling.describe(row, "", 0) == "red crown, long tail"
    assert record_of(rambling, row, 1)["kept"]


def test_a_real_model_answers_a_batch_and_is_loaded_once(photographs):
    """The shipped base as its own teacher: lazily loaded, pictures opened from their files, same again."""
    from finer1_lib.miniature.base import WEIGHTS
    from finer1_lib.models.loading import load

    root, table = photographs
    loads = []

    def loading():
        loads.append(1)
        return load(WEIGHTS)

    def ask():
        teacher = SelfTeacher(loading, root, table, similarity, max_new_tokens=24, batch_size=3)
        assert not loads or len(loads) == 1
        rows = table.to_dict("records")[:3]
        return teacher.describe_all([Description(row, "", n) for n, row in enumerate(rows)])

    first = ask()
    assert len(loads) == 1 and len(first) == 3 and any(first)
    assert ask() == first and len(loads) == 2
