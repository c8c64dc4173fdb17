"""Scorers: the release's answers item by item, faults of form, and what strict never credits."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finer1_lib.scores.answer_names import names_several
from finer1_lib.errors import UserError
from finer1_lib.scores.official import official_answer, official_word
from finer1_lib.scores.relative import relative_similarity
from finer1_lib.scores.scorers import SCORERS, make_scorer, register
from finer1_lib.scores.scoring import score_records, summary_rows
from finer1_lib.scores.similarity import TrigramSimilarity

GUIDE = {
    "super_categories": {
        "bird": {
            "attributes": {
                "bill": ["needle", "stout"],
                "crown": ["red", "blue"],
                "wings": ["plain", "barred"],
            },
            "genus_attributes": ["bill"],
        },
        "aircraft": {"attributes": {"fin": ["red", "blue"]}, "genus_attributes": []},
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
        "Tarn Finch": {
            "super_category": "bird",
            "genus": "Finch",
            "attributes": {"bill": "stout", "crown": "red", "wings": "plain"},
        },
        "Sabel Scout": {"super_category": "aircraft", "genus": "Scout", "attributes": {"fin": "red"}},
    },
}
NAMES = list(GUIDE["sub_categories"])


def record(completion, label="Rock Wren", path="bird_200/images/1.jpg", super_category="bird"):
    return {
        "completion": completion,
        "sub_category": label,
        "image_id": path,
        "super_category": super_category,
    }


# ---------------------------------------------------------------- the oracle


@pytest.fixture(scope="module")
def oracle():
    """(items as the release scored them, {(setting, file): its totals})."""
    folder = os.environ.get("FINER1_OFFICIAL_DATA")
    if not folder:
        pytest.skip("FINER1_OFFICIAL_DATA is not set")
    text = (Path(folder) / "scored_by_release.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    totals = {(row["setting"], row["file"]): row for row in rows if "total" in row}
    return [row for row in rows if "total" not in row], totals


def test_official_scorer_is_the_release_item_by_item(oracle):
    rows, _ = oracle
    scorer, agreed = make_scorer("official", similarity=TrigramSimilarity()), 0
    for row in rows:
        item = record(row["output"], row["ground_truth"], row["image_path"])
        if row["setting"] == "closed":
            # the release keeps what it parsed; its accuracy is that the label stands in it
            label = row["ground_truth"].lower().replace("_", " ")
            right = float(row["parsed_answer"] is not None and label in row["parsed_answer"])
            same = scorer.parsed_answer(item) == row["parsed_answer"]
            agreed += same and scorer.closed(item) == {"accuracy": right}
        else:
            said = row["answer"] or row["output"]
            found = scorer.open(item)
            agreed += (
                official_answer(row["output"]) == row["answer"]
                and official_word(row["image_path"]) == row["super_category"]
                and found["relative_semantic_similarity"]
                == pytest.approx(row["relative_similarity"], abs=1e-12)
                and found["text_inclusion"] == (row["ground_truth"].lower().replace("_", " ") in said.lower())
            )
    assert agreed == len(rows) == 2240


def test_the_release_s_totals_come_out_of_the_kit_s_own_summary(oracle):
    """accuracy, accuracy_TI and avg_semantic_similarity, through `score_records` and `summary_rows`."""
    rows, totals = oracle
    records = [
        {
            **record(row["output"], row["ground_truth"], row["image_path"], row["file"].split("_")[0]),
            "model": "planted", "setting": f"{row['setting']}_world", "item_id": f"{number:04d}",
            "categories": row["file"].split("_")[1], "option_order": None,
        }  # fmt: skip
        for number, row in enumerate(rows)
    ]
    scores = score_records(records, [make_scorer("official", similarity=TrigramSimilarity())])
    keys = ("setting", "dataset", "categories", "metric")
    ours = {tuple(row[key] for key in keys): row for row in summary_rows(scores, seed=0)}
    names = {"accuracy": ("accuracy", 100), "accuracy_TI": ("text_inclusion", 100),
             "avg_semantic_similarity": ("relative_semantic_similarity", 1)}  # fmt: skip
    compared = 0
    for (setting, file), total in totals.items():
        for key in names.keys() & total.keys():
            metric, scale = names[key]
            row = ours[f"{setting}_world", *file.split("_"), metric]
            assert scale * row["value"] == pytest.approx(total[key], abs=1e-9), (setting, file, key)
            assert row["n"] == total["total"] == 280
            compared += 1
    assert compared == 4 * 1 + 4 * 2


# ---------------------------------------------------------------- the release's readings by hand


@pytest.mark.parametrize(
    "path, word",
    [
        ("bird_200/images/1.jpg", "object"),
        ("dogs_120/Images/1.jpg", "object"),
        ("data/birds/1.jpg", "bird"),
        ("/data/aircraft/flower102/1.jpg", "aircraft"),
        ("flower102/jpg/1.jpg", "flower"),
        ("stanford-cars/1.jpg", "car"),
    ],
)
def test_the_release_s_guess_of_the_super_category(path, word):
    assert official_word(path) == word


def test_relative_similarity_by_hand():
    sims = {
        ("said", "label"): 0.6,
        ("bird", "label"): 0.2,
        ("far", "label"): 0.1,
        ("label", "label"): 1.0,
        ("bird", "bird"): 1.0,
        ("said", "bird"): 0.3,
    }
    similar = lambda a, b: sims[a, b]  # noqa: E731
    assert relative_similarity(similar, "said", "label", "bird") == pytest.approx(0.5)
    assert relative_similarity(similar, "far", "label", "bird") == 0.0
    assert relative_similarity(similar, "label", "label", "bird") == 1.0
    assert relative_similarity(similar, "bird", "bird", "bird") == 1.0  # undefined: the label is the word
    assert relative_similarity(similar, "said", "bird", "bird") == 0.0


@pytest.mark.parametrize(
    "said, near",
    [
        ("Marlo Wren", 1),
        ("Unheard Wren", 1),
        ("marlo-wren", 1),
        ("Dunen Wren", 0),
        ("Wren", 0),
        ("Tarn Finch", 0),
        ("bird", 0),
        ("Marlo Wren, Tarn Wren", 0),
        ("", 0),
    ],
)
def test_right_genus_wrong_epithet(said, near):
    scorer = make_scorer("strict", guide=GUIDE)
    scores = scorer.closed(record(f"<answer>{said}</answer>", "Dunen Wren"))
    assert scores["genus_right_epithet_wrong"] == near
    assert scores["format_failure"] == float(not said)


OPTIONS = ["House Wren", "Rock Wren", "Marsh Wren", "Cactus Wren"]
KNOWN = [*OPTIONS, "Black-and-white Warbler", "F/A-18", "Collie", "Border Collie"]


@pytest.mark.parametrize(
    "said, known, several",
    [
        ("Rock Wren", OPTIONS, False),
        ("rock-wren", OPTIONS, False),
        ("a Rock Wren", OPTIONS, False),
        ("not a Rock Wren", OPTIONS, False),
        ("House Wren, Rock Wren", OPTIONS, True),
        ("House Wren or a Rock Wren", OPTIONS, True),
        ("House Wren and Rock Wren", OPTIONS, True),
        ("House Wren/Rock Wren", OPTIONS, True),
        ("House Wren\nRock Wren", OPTIONS, True),
        ("Rock Wren, not a House Wren", OPTIONS, True),
        ("Rock Wren or some finch", OPTIONS, True),
        ("some finch and a Rock Wren", OPTIONS, True),  # one known name and something beside it
        ("Poodle and Rock Wren", OPTIONS, True),
        ("a Black and White Warbler", ["Black", "Black and White Warbler"], False),  # the longest first
        ("Rock Wren Rock Wren", OPTIONS, False),  # one thing twice
        ("Tarn Finch, Sorel Finch", (), True),
        ("Tarn Finch; Sorel Finch", (), True),
        ("Tarn Finch / Sorel Finch", (), True),
        ("Collie or Poodle", (), True),
        ("Collie and Poodle", (), True),
        ("Tarn Finch & Sorel Finch", (), True),
        ("Tarn Finch", (), False),
        # real names that hold such signs: known ones are read first, the others by the rule
        ("Black-and-white Warbler", (), False),
        ("Black and White Warbler", (), False),
        ("Black and White Warbler or Ovenbird", (), True),
        ("F/A-18", (), False),
        ("F-16A/B", (), False),
        ("Collie/Poodle", (), False),  # the rule's limit: a slash without white space
        ("Ford F-150 / F-250", ["Ford F-150 / F-250", "Ford Focus"], False),
        ("Ford F-150 / F-250", (), True),
        ("Finch, Tarn", ["Finch, Tarn"], False),
        ("Finch, Tarn, or Finch, Sorel", ["Finch, Tarn", "Finch, Sorel"], True),
        ("Border Collie", ["Collie", "Border Collie"], False),  # one in the other: the longer one is meant
        ("Border Collie, Collie", ["Collie", "Border Collie"], True),
        ("primrose", ["rose", "primrose", "petunia"], False),
        ("Rock Wren, Rock Wren", ["Rock Wren", "House Wren"], False),  # one thing, said twice
        ("Rock Wren, Rock Wren", (), False),
        ("Ford", ["or", "For"], False),  # no part of a word is a name or a separator
        (",", (), False),
        ("", OPTIONS, False),
    ],
)  # fmt: skip
def test_how_many_things_an_answer_names(said, known, several):
    assert names_several(said, known) is several


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(KNOWN[:-1]), min_size=1, unique=True),
    st.sampled_from([", ", "; ", " / ", "/", " or ", " and ", "\n", ", or "]),
    st.sampled_from([str, str.upper, str.lower]),
)
def test_a_list_of_known_names_is_several_and_one_is_not(names, between, case):
    assert names_several(case(between.join(names)), KNOWN) is (len(names) > 1)


@pytest.mark.parametrize(
    "completion, failure, several",
    [
        ("<answer>Rock Wren</answer>", 0, 0),
        ("<answer>House Wren, Rock Wren</answer>", 0, 1),
        ("<answer>House Wren</answer><answer>Rock Wren</answer>", 1, 1),
        ("<answer>Rock Wren</answer><answer>Rock Wren</answer>", 1, 1),
        ("<answer>House Wren <answer>Rock Wren</answer></answer>", 1, 1),
        ("House Wren, Rock Wren", 1, 0),
        ("<answer>House Wren, Rock Wren", 1, 0),  # unclosed: no answer, so none to count names in
        ("<answer></answer>", 1, 0),
    ],
)
def test_format_failures_and_multiple_answers(completion, failure, several):
    for guide in (None, GUIDE):
        scorer = make_scorer("strict", guide=guide)
        item = {**record(completion), "options": OPTIONS}
        for scores in (scorer.open({**item, "options": None}), scorer.closed(item)):
            assert (scores["format_failure"], scores["multiple_answers"]) == (failure, several)


def four_parts(prediction, answer):
    return (
        "<think><analysis>red crown</analysis><options>Rock Wren</options><comparison>a; b</comparison>"
        f"{prediction}</think>{answer}"
    )


@pytest.mark.parametrize(
    "completion, differs",
    [
        (four_parts("<prediction>Rock Wren</prediction>", "<answer>rock-wren</answer>"), 0.0),
        (four_parts("<prediction>Rock Wren</prediction>", "<answer>House Wren</answer>"), 1.0),
        (four_parts("<prediction>Rock Wren</prediction>", ""), None),
        (four_parts("", "<answer>House Wren</answer>"), None),
        ("<answer>House Wren</answer>", None),
        ("", None),
    ],
)
def test_answer_against_prediction_only_where_both_can_be_read(completion, differs):
    scorer = make_scorer("strict")
    for scores in (scorer.open(record(completion)), scorer.closed(record(completion))):
        assert scores.get("answer_differs_from_prediction") == differs


def test_chose_first_is_the_first_option_shown_and_no_metric_of_the_open_world():
    scorer = make_scorer("strict")
    for said, first in (("house-wren", 1), ("Rock Wren", 0), ("House Wren, Rock Wren", 0), ("", 0)):
        item = {**record(f"<answer>{said}</answer>"), "options": OPTIONS}
        assert scorer.closed(item)["chose_first"] == first
        assert "chose_first" not in scorer.open({**item, "options": None})


def test_an_answer_that_is_strictly_right_is_as_near_as_can_be():
    item = record("<answer>rock_wren</answer>")
    assert make_scorer("strict").open(item)["relative_semantic_similarity"] == 1.0
    assert make_scorer("official").open(item)["relative_semantic_similarity"] < 0.5  # spelling alone costs it


def test_metrics_that_need_a_taxonomy_options_or_a_prediction_are_absent_without():
    found = set(make_scorer("strict").closed(record("x", label="Dunen Wren")))
    assert found == {"accuracy", "format_failure", "multiple_answers"}


def test_the_registry():
    assert {"official", "strict"} <= set(SCORERS)
    with pytest.raises(UserError, match="unknown scorer 'lenient'"):
        make_scorer("lenient")
    with pytest.raises(ValueError, match="already registered"):
        register("strict")(object)

    @register("length")
    class LengthScorer:
        def __init__(self, similarity, guide=None):
            pass

        def closed(self, item):
            return {"length": float(len(item["completion"]))}

    try:
        assert (
            make_scorer("length").closed(record("abc")) == {"length": 3.0}
            and make_scorer("length").name == "length"
        )
    finally:
        SCORERS.pop("length")
