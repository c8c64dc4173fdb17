"""The line that every table of a partial run carries."""

import json

from finer1_lib.evaluation.requests import coverage, coverage_of

WORDS = ("aircraft", "bird", "car", "dog", "flower", "pet")


def held(words=WORDS, **other):
    return {word: {"complete": True, "split": "release", **other.get(word, {})} for word in words}


def test_other_data_than_the_paper_s_carry_no_label():
    assert coverage({}) == coverage({"image_root": "photos", "data_sets": {}, "missing": {}}) == ""


def test_all_six_whole_and_split_as_released_carry_none():
    assert coverage({"data_sets": held(), "missing": {}}) == ""


def test_what_is_not_there_is_named():
    found = coverage({"data_sets": held(("pet", "bird")), "missing": {"car": "no folder stanford_cars"}})
    assert found == "PARTIAL: 2 of the paper's 6 data sets (bird, pet); missing: car"


def test_a_cut_set_and_an_own_split_are_named():
    data = {"data_sets": held(bird={"complete": False}, dog={"split": "seeded"}), "missing": {}}
    assert coverage(data) == ("PARTIAL: not all images of bird; not the release's seen and unseen in dog")


def test_a_sample_of_the_test_pictures_is_named(tmp_path):
    assert coverage({"data_sets": held()}, 8) == "PARTIAL: 8 test images of each sub-category at most"
    assert coverage({}, 8) == ""  # the drawn world's tests are its own
    for stage, limit in (("01_data", 5), ("04_evaluation", 8)):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "stage.json").write_text(json.dumps({"parameters": {"images_per_class": limit}}))
    (tmp_path / "01_data/data.json").write_text(json.dumps({"data_sets": held()}))
    assert coverage_of(tmp_path) == "PARTIAL: 5 test images of each sub-category at most"


def test_a_run_is_read_from_its_data_json(tmp_path):
    assert coverage_of(tmp_path) == ""
    (tmp_path / "01_data").mkdir()
    (tmp_path / "01_data/data.json").write_text(json.dumps({"data_sets": held(("pet",)), "missing": {}}))
    assert "1 of the paper's 6 data sets (pet)" in coverage_of(tmp_path)
