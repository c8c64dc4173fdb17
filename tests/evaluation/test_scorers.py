"""Scorers: the release's answers item by item, faults of form, and what strict never credits."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import assume, given, settings, strategies as st
from shared_cases import GUIDE

from finer1_lib.core.completions import normalise
from finer1_lib.core.errors import UserError
from finer1_lib.data.answers import names_several
from finer1_lib.data.data_sets.catalogue import DATA_SETS, official_names
from finer1_lib.data.names import alias_rows
from finer1_lib.evaluation.scores.official import official_answer, official_word
from finer1_lib.evaluation.scores.scoring import SCORERS, make_scorer, score_records, summary_rows
from finer1_lib.evaluation.scores.similarity import TrigramSimilarity, unclipped_similarity

NAMES = list(GUIDE["sub_categories"])


def record(completion, label="Rock Wren", path="bird_200/images/1.jpg", super_category="bird"):
    return {"completion": completion, "sub_category": label, "image_id": path,
            "super_category": super_category}


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
        {**record(row["output"], row["ground_truth"], row["image_path"], row["file"].split("_")[0]),
         "model": "planted", "setting": f"{row['setting']}_world", "item_id": f"{number:04d}",
         "categories": row["file"].split("_")[1], "option_order": None}
        for number, row in enumerate(rows)
    ]
    scores = score_records(records, [make_scorer("official", similarity=TrigramSimilarity())])
    keys = ("setting", "dataset", "categories", "metric")
    ours = {tuple(row[key] for key in keys): row for row in summary_rows(scores, seed=0)}
    names = {"accuracy": ("accuracy", 100), "accuracy_TI": ("text_inclusion", 100),
             "avg_semantic_similarity": ("relative_semantic_similarity", 1)}
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
    [("bird_200/images/1.jpg", "object"), ("dogs_120/Images/1.jpg", "object"), ("data/birds/1.jpg", "bird"),
     ("/data/aircraft/flower102/1.jpg", "aircraft"), ("flower102/jpg/1.jpg", "flower"),
     ("stanford-cars/1.jpg", "car")],
)
def test_the_release_s_guess_of_the_super_category(path, word):
    assert official_word(path) == word


def test_relative_similarity_by_hand():
    sims = {("said", "label"): 0.6, ("bird", "label"): 0.2, ("far", "label"): 0.1, ("label", "label"): 1.0,
            ("bird", "bird"): 1.0, ("said", "bird"): 0.3}
    similar = lambda a, b: sims[a, b]  # noqa: E731
    for said, label, value in (("said", "label", 0.5), ("far", "label", -0.1 / 0.8), ("label", "label", 1.0),
                               ("bird", "bird", 1.0), ("said", "bird", 0.0)):  # undefined: the label is the word
        assert unclipped_similarity(similar, said, label, "bird") == pytest.approx(value)


@pytest.mark.parametrize(
    "said, near",
    [("Marlo Wren", 1), ("Unheard Wren", 1), ("marlo-wren", 1), ("Dunen Wren", 0), ("Wren", 0),
     ("Tarn Finch", 0), ("bird", 0), ("Marlo Wren, Tarn Wren", 0), ("", 0)],
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
)
def test_how_many_things_an_answer_names(said, known, several):
    assert names_several(said, known) is several


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(KNOWN[:-1]), min_size=1, unique=True),
       st.sampled_from([", ", "; ", " / ", "/", " or ", " and ", "\n", ", or "]),
       st.sampled_from([str, str.upper, str.lower]))
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
    return ("<think><analysis>red crown</analysis><options>Rock Wren</options><comparison>a; "
            f"b</comparison>{prediction}</think>{answer}")


@pytest.mark.parametrize(
    "completion, differs",
    [(four_parts("<prediction>Rock Wren</prediction>", "<answer>rock-wren</answer>"), 0.0),
     (four_parts("<prediction>Rock Wren</prediction>", "<answer>House Wren</answer>"), 1.0),
     (four_parts("<prediction>Rock Wren</prediction>", ""), None),
     (four_parts("", "<answer>House Wren</answer>"), None), ("<answer>House Wren</answer>", None),
     ("", None)],
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
    assert found == {"accuracy", "boundary_inclusion", "format_failure", "multiple_answers"}


def test_a_scorer_is_one_entry_of_the_dictionary(monkeypatch):
    assert {"official", "strict"} <= set(SCORERS)
    with pytest.raises(UserError, match="unknown scorer 'lenient'"):
        make_scorer("lenient")

    class LengthScorer:
        name = "length"

        def __init__(self, similarity, guide=None):
            pass

        def closed(self, item):
            return {"length": float(len(item["completion"]))}

    monkeypatch.setitem(SCORERS, "length", LengthScorer)
    assert make_scorer("length").closed(record("abc")) == {"length": 3.0}


# ---------------------------------------------------------------- what strict never credits, whatever is said

OFFICIAL, STRICT = make_scorer("official"), make_scorer("strict")
MANY = settings(max_examples=150, deadline=None)
WORDS = st.text("abcdefgh -'", min_size=1, max_size=12).filter(str.strip)
NAMED = {word: sorted(official_names(word)) for word in DATA_SETS}
SEPARATORS = [", ", "; ", " / ", " or ", " and ", "\n", ", or "]
EMPTY = ["", "<answer></answer>", "<answer> \n</answer>", "<answer>", "</answer>", "<answer/>"]
RIGHT = ("accuracy", "text_inclusion", "boundary_inclusion", "accuracy_with_aliases",
         "text_inclusion_with_aliases")


@st.composite
def names_of_one_set(draw, least, most):
    """(data set, different names of it)."""
    word = draw(st.sampled_from(sorted(NAMED)))
    return word, draw(st.lists(st.sampled_from(NAMED[word]), min_size=least, max_size=most, unique=True))


def asked(completion, word, label, **more):
    return {**record(completion, label, "x/1.jpg", word), **more}


def credits(completion, word, label, **more):
    """All that strict can give for being right, in both worlds."""
    item = asked(completion, word, label, **more)
    scores = [STRICT.open(item), STRICT.closed(item)]
    return {(world, key): found[key] for world, found in enumerate(scores) for key in RIGHT if key in found}


@MANY
@given(names_of_one_set(2, 5), st.data(), st.sampled_from(SEPARATORS))
def test_strict_never_credits_a_list(names, data, between):
    word, said = names
    label, completion = data.draw(st.sampled_from(said)), f"<answer>{between.join(said)}</answer>"
    assert set(credits(completion, word, label).values()) == {0.0}
    assert STRICT.open(asked(completion, word, label))["multiple_answers"] == 1.0
    assert OFFICIAL.closed(asked(completion, word, label))["accuracy"] == 1.0  # it does: trap A3


@MANY
@given(names_of_one_set(2, 4), st.data())
def test_strict_never_credits_several_answers(names, data):
    word, said = names
    completion = "".join(f"<answer>{name}</answer>" for name in said)
    assert set(credits(completion, word, data.draw(st.sampled_from(said))).values()) == {0.0}


@MANY
@given(names_of_one_set(1, 1), st.text(max_size=20), st.sampled_from(EMPTY))
def test_strict_never_credits_an_empty_answer_or_none(names, thought, ending):
    word, (label,) = names
    for text in (thought, f"<think>{label}</think>", label, f"{thought} {label}"):
        assume("<" not in thought)
        assert set(credits(text + ending, word, label).values()) == {0.0}
        assert STRICT.open(asked(text + ending, word, label))["format_failure"] == 1.0


@MANY
@given(names_of_one_set(1, 1), WORDS, st.booleans())
def test_strict_never_credits_a_longer_name(names, more, before):
    word, (label,) = names
    said = f"{more} {label}" if before else f"{label} {more}"
    assume(normalise(said) != normalise(label) and set(normalise(more).split()) != {"a"})  # its article
    found = credits(f"<answer>{said}</answer>", word, label)
    assert found[0, "text_inclusion"] == found[1, "accuracy"] == 0.0


def test_no_name_that_holds_another_is_credited_for_it():
    """All pairs of the six data sets; official credits each of them."""
    pairs = [(word, one, other) for word, names in NAMED.items() for one in names for other in names
             if one != other and one.lower() in other.lower()]
    assert {("dog", "Collie", "Border Collie"), ("flower", "petunia", "mexican petunia"),
            ("flower", "rose", "lenten rose"), ("flower", "mallow", "tree mallow")} <= set(pairs)
    for word, label, said in pairs:
        completion = f"<answer>{said}</answer>"
        assert set(credits(completion, word, label).values()) == {0.0}
        assert OFFICIAL.closed(asked(completion, word, label))["accuracy"] == 1.0


@MANY
@given(names_of_one_set(1, 2), st.text("abc xyz.,", max_size=20))
def test_strict_equals_official_on_clean_single_answers_of_unambiguous_names(names, thought):
    word, (said, *rest) = names
    for label in (said, *rest):
        assume(label == said or label.lower() not in said.lower())
        item = asked(f"<think>{thought}</think><answer>{said}</answer>", word, label)
        assert STRICT.closed(item)["accuracy"] == OFFICIAL.closed(item)["accuracy"] == float(label == said)
        assert STRICT.open(item)["text_inclusion"] == OFFICIAL.open(item)["text_inclusion"]
        if label == said:
            assert set(credits(item["completion"], word, label).values()) == {1.0}
            assert STRICT.open(item)["multiple_answers"] == STRICT.open(item)["format_failure"] == 0.0


@MANY
@given(names_of_one_set(2, 2), st.sampled_from([str.upper, str.lower, str.title, str.swapcase]),
       st.sampled_from("- _"), st.sampled_from(["", " ", "\n"]), st.booleans())
def test_strict_looks_at_neither_spelling_nor_space_nor_the_path(names, case, joiner, around, right):
    word, (label, other) = names
    said = label if right else other
    spelled = case(said).replace(" ", joiner).replace("'", "’")
    item = asked(f"<answer>{around}{spelled}{around}</answer>", word, label)
    plain = asked(f"<answer>{said}</answer>", word, label)
    for ask in (STRICT.closed, STRICT.open):
        found, expected = ask(item), ask(plain)
        same = [key for key in expected if not key.startswith("relative")]
        assert [found[key] for key in same] == [expected[key] for key in same]
    assert STRICT.open({**item, "image_id": "cars/aircraft/1.jpg"}) == STRICT.open(item)


@MANY
@given(names_of_one_set(4, 4), st.data(), st.sampled_from(["{}", "({})", "{}.", "{}. {name}", "({}) {name}"]))
def test_a_letter_is_worth_its_option_and_nothing_where_none_was_shown(names, data, form):
    word, options = names
    label, at = data.draw(st.sampled_from(options)), data.draw(st.integers(0, 3))
    said = form.format("ABCD"[at], name=options[at])
    item = asked(f"<answer>{said}</answer>", word, label, options=options, lettered=True)
    assert STRICT.closed(item)["accuracy"] == float(options[at] == label)
    assert STRICT.closed(item)["chose_first"] == float(at == 0)
    if "name" not in form:
        assert STRICT.closed({**item, "lettered": False})["accuracy"] == 0.0
    other = form.format("ABCD"[at], name=options[at - 1])  # letter and name at odds
    if other != said:
        assert STRICT.closed({**item, "completion": f"<answer>{other}</answer>"})["accuracy"] == 0.0


@MANY
@given(names_of_one_set(2, 2), st.one_of(WORDS, st.none()), st.booleans())
def test_kinder_readings_are_never_stricter_and_the_clip_only_clips(names, more, near):
    word, (label, other) = names
    completion = "" if more is None else f"<answer>{label if near else other} {more}</answer>"
    item = asked(completion, word, label)
    for scorer in (OFFICIAL, STRICT):
        found = scorer.open(item)
        unclipped = found["relative_semantic_similarity_unclipped"]
        assert found["relative_semantic_similarity"] == max(0.0, unclipped) <= 1.0
    assert found["text_inclusion"] <= min(found["boundary_inclusion"], found["text_inclusion_with_aliases"])
    closed = STRICT.closed(item)
    assert closed["accuracy"] <= closed["accuracy_with_aliases"]


def test_an_alias_is_one_name_even_where_it_reads_like_two():
    said, label = "2012 Chrysler Town and Country Minivan", "Chrysler Town and Country Minivan 2012"
    found = STRICT.open(asked(f"<answer>{said}</answer>", "car", label))
    assert (found["text_inclusion_with_aliases"], found["multiple_answers"]) == (1.0, 0.0)


@pytest.mark.parametrize("thought, said, differs", [
    ("A House Wren? No, a Rock Wren.", "Rock Wren", 0.0),
    ("A Rock Wren? No, a House Wren.", "Rock Wren", 1.0),  # any official name is known, options or none
    ("It is a Myrtle Warbler.", "Yellow-rumped Warbler", 0.0),  # its other name
    ("It is a wren.", "Rock Wren", None),
])
def test_the_thinking_s_last_name_in_the_open_world_of_a_covered_data_set(thought, said, differs):
    item = asked(f"<think>{thought}</think><answer>{said}</answer>", "bird", "Rock Wren")
    assert STRICT.open(item).get("think_answer_differs") == differs


@pytest.mark.parametrize("word, label, said, thought, differs", [
    ("car", "Buick Enclave SUV 2012", "Buick Enclave", "A Buick Enclave.", (0.0, 0.0)),
    ("car", "Buick Enclave SUV 2012", "The car is a Chevy Traverse.", "A GMC Acadia SUV 2012.", (1.0, 1.0)),
    ("car", "Chevrolet Corvette ZR1 2012", "Corvette ZR1 by Chevrolet", "Chevy Corvette", (0.0, 0.0)),
    ("aircraft", "Boeing 737-400", "It is most likely a 737-400 (Boeing).", "Boeing 737-400.", (0.0, 0.0)),
    ("aircraft", "F/A-18", "McDonnell Douglas F/A-18 Hornet", "an F-18", (0.0, 0.0)),
    ("flower", "purple coneflower", "Purple Coneflower (Echinacea purpurea)", "Echinacea", (0.0, 0.0)),
    ("dog", "Cardigan", "Cardigan Welsh Corgi", "a Pembroke", (0.0, 1.0)),
    ("pet", "Persian", "**Persian Cat**", "a Persian cat", (0.0, 0.0)),
])
def test_a_prediction_and_a_thought_by_another_name_do_not_differ(word, label, said, thought, differs):
    for told in (f"The prediction is: {said}", f"<prediction>{said}</prediction>"):
        found = STRICT.open(asked(f"<think>{told}\n{thought}</think><answer>{label}</answer>", word, label))
        if told.startswith("<"):
            assert found["answer_differs_from_prediction"] == differs[0]
        assert found["think_answer_differs"] == differs[1]
    text = f"<think>{thought}\nThe prediction is: {said}</think><answer>{label}</answer>"
    assert STRICT.open(asked(text, word, label))["answer_differs_from_prediction"] == differs[0]


def test_every_alias_beside_its_name_is_one_answer_and_right_with_aliases():
    for row in alias_rows():
        answer = f"{row['sub_category']} ({row['alias']})"
        found = STRICT.open(asked(f"<answer>{answer}</answer>", row["data_set"], row["sub_category"]))
        assert (found["multiple_answers"], found["text_inclusion_with_aliases"]) == (0.0, 1.0), answer
        assert found.get("text_inclusion_make_model", 1.0) == 1.0, answer


def test_where_only_the_label_is_known_the_thinking_is_not_held_against_the_answer():
    """It would be counted only where the label was thought of, and so only against the answer."""
    item = asked("<think>A Tarn Finch.</think><answer>Marlo Wren</answer>", "bird", "Tarn Finch")
    assert "think_answer_differs" not in STRICT.open(item)
    assert make_scorer("strict", guide=GUIDE).open(item)["think_answer_differs"] == 1.0
    assert STRICT.closed({**item, "options": ["Tarn Finch", "Marlo Wren"]})["think_answer_differs"] == 1.0
