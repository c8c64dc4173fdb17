"""Who stands in a run's tables, and how values are written."""


import pytest

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import atomic_write_json
from finer1_lib.evaluation.scores.scoring import make_scorer, score_records, summary_rows
from finer1_lib.evaluation.summary import entries_in, fault_table, labels_in, main_table, percent
from finer1_lib.evaluation.systems.registry import find_systems


def run_with(tmp_path, **parameters):
    """A run whose 04 was asked with these parameters, and which trained nothing."""
    (tmp_path / "03_tapo").mkdir()
    atomic_write_json(tmp_path / "03_tapo" / "models.json", [])
    (tmp_path / "04_evaluation").mkdir()
    atomic_write_json(tmp_path / "04_evaluation" / "stage.json", {"parameters": parameters})
    return tmp_path


def test_systems_and_strategies_of_04_are_rows_after_the_fixed_ones(tmp_path):
    run = run_with(tmp_path, more_models=["other=owner/name"], systems=["siglip-l"], systems_from="",
                   strategies=["base=self_consistency", "other=in_context"], samples=4)
    atomic_write_json(run / "04_evaluation" / "systems.json", [
        find_systems(["siglip-l"])[0].model_dump(mode="json")])
    found = entries_in(run)
    assert [entry.model for entry in found[4:]] == [
        "other", "siglip-l", "base-self_consistency", "other-in_context"]
    assert found[5].system.kind == "encoder" and found[6].samples == 4
    labels = labels_in(run)
    assert labels["base-self_consistency"].startswith(labels["base"])


def test_a_run_of_before_has_no_such_parameters(tmp_path):
    assert len(entries_in(run_with(tmp_path))) == 4
    assert len(entries_in(tmp_path / "nothing")) == 4


def test_a_lost_file_of_systems_does_not_matter_any_more(tmp_path):
    """What was asked stands in the run itself."""
    run = run_with(tmp_path, systems=["mine"], systems_from=str(tmp_path / "gone.yaml"))
    entry = {"name": "mine", "label": "Mine", "checkpoint": "gone/from/here/for/good"}
    atomic_write_json(run / "04_evaluation" / "systems.json", [entry])
    assert labels_in(run)["mine"] == "Mine"


@pytest.mark.parametrize("name, content", [
    ("stage.json", {"parameters": [1]}), ("stage.json", {"parameters": {"more_models": None}}),
    ("stage.json", {"parameters": {"more_models": [3]}}), ("stage.json", {"parameters": {"strategies": ["a=b"]}}),
    ("systems.json", [1]), ("systems.json", [{"name": "x"}]),
])
def test_rows_that_a_run_does_not_tell_are_one_line(tmp_path, name, content):
    run = run_with(tmp_path)
    atomic_write_json(run / "04_evaluation" / name, content)
    with pytest.raises(UserError, match=r"(?s)04_evaluation.*(delete|run)"):
        entries_in(run)


def test_values_are_written_in_percent():
    row = {"value": 0.7123, "low": 0.66, "high": 0.7614}
    assert percent(row) == "71.2 [66.0, 76.1]" and percent({**row, "low": None}) == "71.2"
    assert percent(None) == percent({**row, "value": None}) == "-"


def test_macro_rows_do_not_stand_in_for_plain_ones():
    """Two sub-categories of unequal size: the main table shows the mean of the pictures."""
    records = [{"model": "base", "setting": "open_world", "item_id": f"{name}{place}",
                "image_id": f"{name}{place}", "super_category": "bird", "sub_category": name,
                "categories": "seen", "option_order": None, "completion": f"<answer>{said}</answer>",
                "tokens": 3} for name, answers in {"a b": ["a b"], "c d": ["c d", "no", "no", "no"]}.items()
        for place, said in enumerate(answers)]
    rows = summary_rows(score_records(records, [make_scorer("strict")]), seed=0)
    _, [line] = main_table(rows)
    assert line[3].startswith("40.0 [")  # 2 of 5; by sub-category 62.5
    titles, [line] = fault_table(rows, "open_world")
    assert titles[1] == "no single answer, seen" and line[1].startswith("0.0")
