"""Presets that extend another one: whose value counts, and every mistake as one clear line."""

from pathlib import Path

import fixture_kit
import pytest

from finer1_lib.core.errors import UserError
from finer1_lib.runs import fingerprints, parameters, presets
from finer1_lib.runs.chain import STAGES
from finer1_lib.runs.presets import list_presets, make_plan, read_preset

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def kit(tmp_path):
    return fixture_kit.build(tmp_path)


def preset(kit, name, **files):
    """params/NAME with common="..." and, for stages, s02="..."."""
    folder = kit / "params" / name
    folder.mkdir(exist_ok=True)
    stages = {"common": "common", "s02": "02_cot_sft", "s03": "03_tapo"}
    for key, text in files.items():
        (folder / f"{stages[key]}.yaml").write_text(text + "\n", encoding="utf-8")


def test_the_other_preset_lies_below(kit):
    common = "seed: 5\nsteps: 7\nrun_name: low"
    preset(kit, "below", common=common, s02="rate: 0.5\nnames: [x]", s03="steps: 9")
    preset(kit, "above", common="extends: below\nseed: 6", s02="names: [y, z]")
    values = read_preset(kit, "above")
    assert values["common"] == {"seed": 6, "steps": 7}  # neither the line itself nor the other's run_name
    assert values["02_cot_sft"] == {"rate": 0.5, "names": ["y", "z"]} and values["03_tapo"] == {"steps": 9}
    plan = make_plan(kit, "above")
    assert plan.run_dir.name == "above"
    told = plan.parameters["02_cot_sft"]
    assert (told["seed"], told["steps"], told["rate"], told["names"]) == (6, 7, 0.5, ["y", "z"])
    assert plan.parameters["03_tapo"]["steps"] == 9  # the other's notebook file above one's own common.yaml
    assert read_preset(kit, "below")["common"]["run_name"] == "low"


def test_a_run_name_of_its_own(kit):
    preset(kit, "above", common="extends: toy\nrun_name: mine")
    assert make_plan(kit, "above").run_dir.name == "mine"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("extends: tooy", "params/bad/common.yaml: extends: no preset 'tooy': did you mean toy?"),
        ("extends: [toy]", "extends: no preset ['toy']"),
        ("extends:", "extends: no preset None"),
        ("extends: ../params/toy", "extends: no preset '../params/toy'"),
        ("extends: bad", "extends bad, which extends bad itself: name a preset that extends none"),
        ("extends: middle", "extends middle, which extends toy itself: name a preset that extends none"),
        ("extends: back", "extends back, which extends bad itself"),
        ("extends: toy\nsead: 1", "bad/common.yaml (or params/toy, which it extends): the notebook has no"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(kit, line, message):
    preset(kit, "bad", common=line)
    preset(kit, "middle", common="extends: toy")
    preset(kit, "back", common="extends: bad")
    with pytest.raises(UserError) as error:
        make_plan(kit, "bad")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_mistake_below_names_both_files(kit):
    preset(kit, "below", s03="stepz: 3")
    preset(kit, "above", common="extends: below")
    places = r"params/above/03_tapo.yaml \(or params/below, which it extends\)"
    with pytest.raises(UserError, match=f"{places}: .*stepz"):
        make_plan(kit, "above")


def test_extends_is_for_common_yaml_alone(kit):
    preset(kit, "bad", s03="extends: toy")
    with pytest.raises(UserError, match="no parameter 'extends'"):
        make_plan(kit, "bad")


def test_the_ablation_is_the_main_job_with_every_bar_of_figure_3(tmp_path, monkeypatch):
    from finer1_lib.paper.orderings import BARS, left_out
    from finer1_lib.training.methods import model_name

    monkeypatch.chdir(tmp_path)
    assert {"miniature", "miniature_ablation"} <= set(list_presets(ROOT))
    main, longer = (make_plan(ROOT, name) for name in ("miniature", "miniature_ablation"))
    trained = {model_name(method) for method in longer.parameters["03_tapo"]["methods"]}
    fixed = {"base", "base_cot_prompt", "sft_answer_only", "full_sft_answer_only", "cot_sft"}
    assert set(left_out(trained | fixed)) == {"Figure 3b"} and set(BARS) == {"Figure 3a", "Figure 3b", "Figure 3c"}
    assert longer.run_dir.name == "miniature_ablation" != main.run_dir.name
    differ = {f"{stage}.{name}"
              for stage, values in longer.parameters.items() for name, value in values.items()
              if name != "run_name" and value != main.parameters[stage][name]}  # fmt: skip
    assert differ <= {"02_cot_sft.settings_compared", "03_tapo.methods", "03_tapo.wrong_turns",
                      "04_evaluation.option_orders"}  # fmt: skip
    assert longer.parameters["03_tapo"]["wrong_turns"] == []


def test_a_key_in_place_of_its_variable_s_name_is_refused_unseen():
    from finer1_lib.runs.parameters import check_parameters, parse_parameters

    cell = parse_parameters('notebook = "01_data"\nteacher_key_variable = ""  # name\n')
    for name in ("", "OPENAI_API_KEY", "K2"):
        assert check_parameters({"teacher_key_variable": name}, cell, "here") == {"teacher_key_variable": name}
    for secret in ("sk-abcDEF123", "AIzaSyExample", "hf_token"):
        with pytest.raises(UserError, match="takes the NAME of an environment variable") as raised:
            check_parameters({"teacher_key_variable": secret}, cell, "here")
        assert secret not in str(raised.value)


def test_folders_of_more_models_are_made_absolute_whatever_they_are_asked(tmp_path, monkeypatch):
    from finer1_lib.runs.presets import _absolute

    (tmp_path / "trained").mkdir()
    monkeypatch.chdir(tmp_path)
    given = ["one=trained", "two=answer:trained", "three=owner/name@abc"]
    assert _absolute("more_models", given, tmp_path / "kit") == [
        f"one={tmp_path}/trained", f"two=answer:{tmp_path}/trained", "three=owner/name@abc"]


def test_a_changed_folder_of_more_models_asks_anew(tmp_path):
    from finer1_lib.runs.fingerprints import signature_of

    (tmp_path / "trained").mkdir()
    values = {"more_models": [f"one=answer:{tmp_path}/trained"]}
    before = signature_of(values, {})
    assert before == signature_of(values, {})
    (tmp_path / "trained" / "config.json").write_text("{}")
    assert before != signature_of(values, {})


# --- bounds of numbers ---

CELLS = {stage: presets.read_parameters(ROOT / "notebooks" / f"{stage}.ipynb") for stage in STAGES}
NUMBERS = [(stage, name) for stage, cell in CELLS.items() for name, parameter in cell.items()
           if parameter.kind in (int, float)]  # fmt: skip


def checked(stage, name, value):
    return parameters.check_parameters({name: value}, CELLS[stage], stage)[name]


def test_every_bound_is_of_a_parameter_and_every_default_and_preset_within():
    named = {name for cell in CELLS.values() for name in cell}
    assert set(parameters._BOUNDS) <= named and set(fingerprints._declared()) <= named
    for stage, cell in CELLS.items():
        values = {name: parameter.default for name, parameter in cell.items()}
        assert parameters.check_parameters(values, cell, stage) == values
    for preset in presets.list_presets(ROOT):
        presets.make_plan(ROOT, preset)


@pytest.mark.parametrize(("stage", "name"), NUMBERS, ids=[".".join(number) for number in NUMBERS])
def test_no_number_but_a_layer_is_below_zero_or_none(stage, name):
    kind = CELLS[stage][name].kind
    for value in [-1, -3, *([float("nan"), float("inf"), -1e-9] if kind is float else [-(10**400), 2**31])]:
        if (stage, name) == ("05_probing", "layer") and abs(value) < 2**31:
            assert checked(stage, name, value) == value
        else:
            with pytest.raises(UserError, match=f"{name} must be .*, not "):
                checked(stage, name, kind(value) if kind is float else value)


@pytest.mark.parametrize(("stage", "name", "wrong", "right"), [
    ("01_data", "prototype_images", [0], [1, 8]), ("01_data", "images_per_class", [-3], [0, 3]),
    ("01_data", "seen_share", [0.0, 1.0, 1.5], [0.5]), ("01_data", "label_first", [1.01], [0.0, 1.0]),
    ("01_data", "teacher_prices", [[1.0, -1.0]], [[0.0, 2.0]]), ("02_cot_sft", "max_new_tokens", [0], [1]),
    ("02_cot_sft", "hard_learning_rate", [-1.0], [0.0]), ("02_cot_sft", "learning_rate", [0.0], [1e-9]),
    ("03_tapo", "top_p", [0.0, 1.1], [1.0]), ("03_tapo", "temperature", [0.0], [0.5]),
    ("05_probing", "h3_folds", [1], [2]), ("05_probing", "layers", [], [[-1, 0]]),
    ("04_evaluation", "seed", [2**31], [2**31 - 1]),
])  # fmt: skip
def test_bounds_by_hand(stage, name, wrong, right):
    for value in wrong:
        with pytest.raises(UserError, match=f"{stage}: {name} must be"):
            checked(stage, name, value)
    for value in right:
        assert checked(stage, name, value) == value
