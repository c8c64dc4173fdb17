"""Claims held against the guide, marks against the analysis, and the step at which a trace left the truth."""

import pytest
from hypothesis import given, settings, strategies as st

from finer1_lib.data.rationales.parsing import parse
from finer1_lib.traces.steps import (GUIDE_STEPS, STEP_LABELS, WRONG_STEPS, analysis_claims,
                                     comparison_claims, unknown_names, where_wrong)

GUIDE = {
    "super_categories": {"bird": {"attributes": {"bill": ["needle", "stout"], "crown": ["red", "blue"],
                                                 "wings": ["plain", "barred"]},
                                  "genus_attributes": ["bill"]}},
    "sub_categories": {
        name: {"super_category": "bird", "genus": name.split()[1], "attributes": dict(zip(
            ("bill", "crown", "wings"), values.split()))}
        for name, values in (("Dunen Wren", "needle red barred"), ("Marlo Wren", "needle blue barred"),
                             ("Tarn Lark", "stout red plain"))
    },
}
SEEN = "needle bill, red crown, barred wings"
COMPARED = ("Dunen Wren: red crown, barred wings; Marlo Wren: blue crown (differs), barred wings; "
            "Tarn Lark: red crown, plain wings (differs), other genus (differs)")


def text(analysis=SEEN, options="Dunen Wren, Marlo Wren, Tarn Lark", comparison=COMPARED,
         prediction="Marlo Wren", answer="Marlo Wren"):
    return (f"<think><analysis>{analysis}</analysis><options>{options}</options><comparison>{comparison}"
            f"</comparison><prediction>{prediction}</prediction></think><answer>{answer}</answer>")


def told(comparison, analysis=SEEN):
    claims = comparison_claims(parse(text(analysis=analysis, comparison=comparison)), GUIDE)
    return [(claim.name, claim.value, claim.attribute, claim.true, claim.consistent) for claim in claims]


def test_a_comparison_without_a_flaw():
    claims = comparison_claims(parse(text()), GUIDE)
    assert len(claims) == 7 and all(claim.true is not False and claim.consistent for claim in claims)
    assert claims[-1].attribute == "" and claims[-1].true is None
    spans = [COMPARED[claim.start : claim.end] for claim in claims[2:4]]
    assert spans == ["blue crown (differs)", "barred wings"]


@pytest.mark.parametrize(
    "comparison, expected",
    [
        ("Marlo Wren: blue crown", [("Marlo Wren", "blue", "crown", True, False)]),  # red was seen: unmarked
        ("Marlo Wren: red crown", [("Marlo Wren", "red", "crown", False, True)]),  # false, yet it was seen
        ("Marlo Wren: red crown (differs)", [("Marlo Wren", "red", "crown", False, False)]),
        ("marlo wren : blue crown ( differs )", [("Marlo Wren", "blue", "crown", True, True)]),
        ("Marlo Wren: other genus (differs)", [("Marlo Wren", "other genus", "", None, False)]),
        ("Tarn Lark: other genus (differs)", [("Tarn Lark", "other genus", "", None, True)]),
        ("1. Marlo Wren: blue crown", [("Marlo Wren", "blue", "crown", True, False)]),  # as candidates may stand
        ("- **Marlo Wren**: blue crown", [("Marlo Wren", "blue", "crown", True, False)]),
        ("Zzz Wren: red crown", []),  # no such bird: nothing to hold it against
        ("Dunen Wren, Marlo Wren: red crown", []),
        ("Marlo Wren", []),
        ("", []),
        ("Tarn Lark: red crown and plain wings (differs)", [("Tarn Lark", "red", "crown", True, False),
                                                            ("Tarn Lark", "plain", "wings", True, True)]),
    ],
)
def test_claims_and_marks(comparison, expected):
    assert told(comparison) == expected


def test_what_was_not_seen_cannot_differ():
    assert told("Marlo Wren: blue crown", "needle bill") == [("Marlo Wren", "blue", "crown", True, None)]
    assert told("Marlo Wren: blue crown (differs)", "needle bill")[0][4] is False
    # an analysis that saw both contradicts neither
    both = "red crown, blue crown"
    assert told("Marlo Wren: blue crown", both) == [("Marlo Wren", "blue", "crown", True, True)]


def test_claims_of_the_analysis():
    trace = parse(text(analysis="stout bill, a red crown. Eyes"))
    found = analysis_claims(trace, "Dunen Wren", GUIDE)
    assert [(claim.value, claim.true) for claim in found] == [("stout", False), ("red", True)]
    assert trace.analysis[found[1].start : found[1].end] == "a red crown"
    assert analysis_claims(trace, "Dunen Wren", {}) == [] == comparison_claims(trace, None)


def test_names_that_were_made_up():
    trace = parse(text(options="dunen wren, Marmo Wren, Marlo Wren"))
    assert unknown_names(trace, GUIDE) == ["Marmo Wren"]


def crowns(*values):
    comparison = "Dunen Wren: {} crown; Marlo Wren: {} crown (differs); Tarn Lark: {} crown"
    return {"comparison": comparison.format(*values)}


@pytest.mark.parametrize(
    "changed, step, unguided",
    [
        ({"answer": "Dunen Wren"}, "right", "right"),
        ({"answer": "dunen wren", "analysis": "blue crown"}, "right", "right"),  # right stays right
        ({"analysis": "blue crown"}, "misread_attribute", "prediction_differs"),
        ({"analysis": "needle bill"}, "prediction_differs", "prediction_differs"),  # left out is not misread
        ({"analysis": "red crown, blue crown"}, "misread_attribute", "prediction_differs"),
        ({"options": "Marlo Wren"}, "candidate_missing", "candidate_missing"),
        (crowns("blue", "blue", "red"), "comparison_contradicts", "prediction_differs"),  # of the truth
        (crowns("red", "red", "red"), "comparison_contradicts", "prediction_differs"),  # of the prediction
        (crowns("red", "blue", "blue"), "prediction_differs", "prediction_differs"),  # of another: no matter
        ({"comparison": "Marlo Wren: blue crown"}, "prediction_differs", "prediction_differs"),  # unmarked
        ({"comparison": "Marlo Wren: blue crown (differs), other genus (differs)"}, "prediction_differs",
         "prediction_differs"),  # "other genus" says nothing of the guide
        ({"prediction": "Dunen Wren"}, "answer_differs", "answer_differs"),
        ({"prediction": "Dunen Wren", **crowns("red", "red", "red")}, "answer_differs",
         "answer_differs"),  # false about the one answered, not about the truth or the prediction
        ({"analysis": "blue crown", "options": "Marlo Wren", **crowns("x", "x", "x")},
         "misread_attribute", "candidate_missing"),  # the first step counts
        ({"options": "Marlo Wren", **crowns("x", "x", "x")}, "candidate_missing", "candidate_missing"),
        ({"answer": ""}, "unparsable", "unparsable"),
        ({"prediction": " "}, "unparsable", "unparsable"),
        ({"comparison": ""}, "prediction_differs", "prediction_differs"),  # nothing is said
    ],
)
def test_the_first_step_that_left_the_truth(changed, step, unguided):
    trace = parse(text(**changed))
    assert where_wrong(trace, "Dunen Wren", GUIDE) == step
    assert where_wrong(trace, "Dunen Wren") == where_wrong(trace, "Dunen Wren", {}) == unguided


def test_a_guide_that_does_not_know_the_bird_is_no_guide_for_it():
    options, comparison = "Wood Wren, Marlo Wren", "Wood Wren: red crown"
    trace = parse(text(analysis="blue crown", options=options, comparison=comparison))
    assert where_wrong(trace, "Wood Wren", GUIDE) == "prediction_differs"
    bare = {"sub_categories": {"Wood Wren": {"super_category": "bird", "genus": "Wren"}}}
    assert where_wrong(trace, "Wood Wren", bare) == "prediction_differs"
    assert comparison_claims(trace, bare) == []


PIECES = st.sampled_from(["Dunen Wren", "Marlo Wren", "Zzz", ": ", "; ", ", ", "red crown", "blue crown",
                          " (differs)", "other genus", "wings", "\n", "<b>"])


@settings(deadline=None, max_examples=60)
@given(st.lists(PIECES, max_size=25), st.lists(PIECES, max_size=8))
def test_claims_stand_where_they_say(comparison, analysis):
    trace = parse(text(analysis="".join(analysis), comparison="".join(comparison)))
    for claim in comparison_claims(trace, GUIDE):
        piece = trace.comparison[claim.start : claim.end]
        assert piece == piece.strip() and "," not in piece and ";" not in piece
        assert claim.attribute in piece.lower()
    assert where_wrong(trace, "Dunen Wren", GUIDE) in WRONG_STEPS


def test_steps_have_labels_in_their_order():
    assert list(STEP_LABELS) == ["unparsable", "misread_attribute", "candidate_missing",
                                 "comparison_contradicts", "prediction_differs", "answer_differs"]
    assert set(GUIDE_STEPS) < set(WRONG_STEPS)
