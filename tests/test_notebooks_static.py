"""The notebooks as files: anatomy, parameters, the common set-up cell, hygiene. Seconds, no kernel."""

import ast
import dataclasses
import json
import re
from pathlib import Path

import nbformat
import pytest

from finer1_lib.runs.chain import STAGES
from finer1_lib.runs.notebook import SET_UP_CELL
from finer1_lib.runs.parameters import parse_parameters
from finer1_lib.runs.presets import list_presets, make_plan
from finer1_lib.training.tapo_config import TapoConfig

ROOT = Path(__file__).resolve().parent.parent
EXERCISES = {"attempt", "solution", "check"}
FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))

pytestmark = pytest.mark.skipif(not FILES, reason="no notebooks yet")
each = pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])


def read(file: Path) -> nbformat.NotebookNode:
    return nbformat.read(file, as_version=4)


def code_cells(file: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(file).cells if cell.cell_type == "code"]


def parameters_cell(file: Path) -> str:
    return next(cell.source for cell in code_cells(file) if "parameters" in cell.metadata.get("tags", []))


def python(source: str) -> ast.Module:
    """A cell's syntax tree; lines for the shell or with IPython magic are left out."""
    return ast.parse("\n".join("pass" if re.match(r"\s*[%!]", line) else line for line in source.splitlines()))


@each
def test_name_format_and_kernel(file):
    notebook = read(file)
    nbformat.validate(notebook)
    kernel = notebook.metadata.kernelspec
    assert file.stem in STAGES and (kernel.name, kernel.language) == ("python3", "python")


@each
def test_first_code_cell_is_the_one_parameters_cell(file):
    cells = code_cells(file)
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == cells[:1]
    found = parse_parameters(tagged[0].source)
    assert found["notebook"].default == file.stem
    assert {"run_name", "output_root", "seed"} <= set(found)
    assert found["output_root"].default == "outputs" and found["run_name"].default == "miniature"
    for name, parameter in found.items():
        assert name == "notebook" or parameter.help, f"{name} has no help comment"
        values = parameter.default if isinstance(parameter.default, list) else [parameter.default]
        assert all(value is None or isinstance(value, (bool, int, float, str)) for value in values), f"{name}: not flat"
    for line in tagged[0].source.splitlines():
        assert line.count("=") <= 1 and "|" not in line, f"papermill would not list: {line}"


@each
def test_second_code_cell_is_the_set_up_cell(file):
    assert code_cells(file)[1].source.strip() == SET_UP_CELL.strip()


def test_set_up_cells_are_byte_identical():
    assert len({code_cells(file)[1].source for file in FILES}) == 1
    assert len(SET_UP_CELL.strip().splitlines()) <= 9


@each
def test_code_cells_are_short_and_parse(file):
    for cell in code_cells(file):
        # a parameters cell has one line a parameter and no logic
        longest = 60 if "parameters" in cell.metadata.get("tags", []) else 25
        assert len(cell.source.splitlines()) <= longest, cell.source[:80]
        python(cell.source)


@each
def test_notebooks_are_no_programs(file):
    """At most eight lines of imports and five `if`, the set-up cell and exercises not counted."""
    trees = [python(cell.source) for cell in code_cells(file)[2:]
             if not EXERCISES & set(cell.metadata.get("tags", []))]  # fmt: skip
    nodes = [node for tree in trees for node in ast.walk(tree)]
    assert sum(isinstance(node, (ast.Import, ast.ImportFrom)) for node in nodes) <= 8
    assert sum(isinstance(node, ast.If) for node in nodes) <= 5


@each
def test_no_later_cell_sets_a_parameter(file):
    names = set(parse_parameters(parameters_cell(file)))
    scopes = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

    def stored(node: ast.AST) -> set[str]:
        return {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}

    for cell in code_cells(file)[1:]:
        for node in python(cell.source).body:
            inner = {name for part in ast.walk(node) if isinstance(part, scopes) for name in stored(part)}
            assert not (stored(node) - inner) & names, cell.source[:80]


@each
def test_every_parameter_is_used(file):
    rest = "\n".join(cell.source for cell in code_cells(file)[2:]
                     if not EXERCISES & set(cell.metadata.get("tags", [])))  # these may read one; the notebook must
    used = {part.id for part in ast.walk(python(rest)) if isinstance(part, ast.Name)}
    used |= set(re.findall(r"parameters\[[\"'](\w+)[\"']\]", rest))
    if "tapo_config_from(stage.parameters" in rest:
        used |= {field.name for field in dataclasses.fields(TapoConfig)}
    if "failure_plans(stage.parameters" in rest:
        used |= {name for name in parse_parameters(parameters_cell(file)) if name.startswith("wrong_turn")}
    if "stage.seed" in rest:
        used.add("seed")
    unused = set(parse_parameters(parameters_cell(file))) - used - {"notebook", "run_name", "output_root"}
    assert not unused, f"set, never read: {unused}"


@each
def test_last_code_cell_finishes_the_stage(file):
    assert "stage.finish(" in code_cells(file)[-1].source


@each
def test_tags_are_those_that_tools_look_for(file):
    """papermill's, and the exercises' (see test_teaching)."""
    tags = [tag for cell in read(file).cells for tag in cell.metadata.get("tags", [])]
    assert set(tags) == {"parameters", *EXERCISES}


@each
def test_prose_has_the_anatomy(file):
    cells = read(file).cells
    assert cells[0].cell_type == "markdown"
    before = "\n".join(cell.source for cell in cells[: cells.index(code_cells(file)[0])])
    assert before.startswith("# ") and "What you will learn" in before and "colab-badge.svg" in before
    assert f"notebooks/{file.name}" in before  # the badge opens this notebook
    assert re.search(r"\*\*Needs", before) and re.search(r"[Ww]rites", before)
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert re.search(r"^(#+ |\*\*).*limits", prose, flags=re.M | re.I), "no section on limits"
    assert re.search(r"^(#+ |\*\*).*exercises", prose, flags=re.M | re.I), "no exercises"


@each
def test_hygiene(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.encode()) < 500_000
    notebook = json.loads(text)
    assert "widgets" not in notebook["metadata"] and "papermill" not in notebook["metadata"]
    assert not re.search(r"(/home/|/root/|/tmp/|/Users/|/work/|[A-Z]:\\\\)", text), "a path of one machine"
    for cell in code_cells(file):
        assert not {"injected-parameters"} & set(cell.metadata.get("tags", []))
        for output in cell.outputs:
            assert output.output_type != "error"
            assert not any("widget" in kind for kind in output.get("data", {}))
            assert not (output.output_type == "stream" and output.name == "stderr"), output.text[:200]


@pytest.mark.skipif(len(FILES) < len(STAGES), reason="a preset is checked against all notebooks")
@pytest.mark.parametrize("preset", list_presets(ROOT) if (ROOT / "params").is_dir() else [])
def test_presets_fit_the_notebooks(preset, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    plan = make_plan(ROOT, preset)
    assert set(plan.parameters) == set(STAGES)


@each
def test_checkpoints_are_loaded_by_the_library(file):
    """It alone knows `owner/name@revision`, folders without network, and safetensors only."""
    assert not [cell.id for cell in code_cells(file) if "from_pretrained" in cell.source]


@pytest.mark.parametrize("stage", ["01_data", "02_cot_sft", "03_tapo", "04_evaluation", "05_probing"])
def test_names_are_counted_with_their_data_set(stage):
    """Dogs and pets share names: `count_names`, or a count inside a group of one super-category."""
    for cell in code_cells(ROOT / "notebooks" / f"{stage}.ipynb"):
        assert not re.search(r"sub_category.\]\.n?unique\(|drop_duplicates\(.sub_category", cell.source)
