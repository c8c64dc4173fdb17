"""Exercises and student copies: what a class touches.

The cells of the exercises are run as they stand in the notebooks, over small stand-ins for what the notebook
has made by then (`exercise_cases`).
"""

import ast
import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import fixture_kit
import nbformat
import pytest
from exercise_cases import PLANTED, STAND_INS, WRONG

from finer1_lib.core.errors import UserError
from finer1_lib.runs import presets
from finer1_lib.runs.chain import STAGES
from finer1_lib.teaching import exercises, verdicts
from finer1_lib.teaching.student_copy import NOTE, find_notebooks, student_copy, write_copies

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
KINDS = ("read", "change", "extend")
PARTS = ("attempt", "solution", "check")
EACH = [(stage, number) for stage in STAGES for number in (1, 2, 3)]
USUAL = "not yet: the usual mistake: "


def cells_of(stage):
    return nbformat.read(NOTEBOOKS / f"{stage}.ipynb", as_version=4).cells


def tags_of(cell):
    return set(cell.metadata.get("tags", []))


def tagged(stage, *tags):
    return [cell for cell in cells_of(stage) if tags_of(cell) & set(tags)]


def exercise(stage, number):
    """The three cells' sources: attempt, solution, and the check with the import of the first one."""
    sources = {part: [cell.source for cell in tagged(stage, part)] for part in PARTS}
    imports = sources["check"][0].splitlines()[0]
    check = f"{imports}\n{sources['check'][number - 1]}"
    return sources["attempt"][number - 1], sources["solution"][number - 1], check


@pytest.fixture(scope="module")
def namespaces():
    made = {}

    def get(stage, **changed):
        if stage not in made:
            made[stage] = STAND_INS[stage]()
        return {**made[stage], **changed}

    return get


def run(namespace, *sources):
    """The last line that the cells print: the check's."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        for source in sources:
            exec(compile(source, "<cell>", "exec"), namespace)
    return out.getvalue().strip().splitlines()[-1]


# --- the notebooks' exercises ---


@pytest.mark.parametrize("stage", STAGES)
def test_three_exercises_of_three_kinds_each_with_its_cells(stage):
    cells = cells_of(stage)
    (start,) = [i for i, cell in enumerate(cells) if cell.source.startswith("## Exercises")]
    assert [i for i, cell in enumerate(cells) if "**Limits.**" in cell.source] == [start - 1]
    assert len(cells) == start + 1 + 3 * 4 + 1 and "stage.finish(" in cells[-1].source
    for number, kind in enumerate(KINDS):
        task, *rest = cells[start + 1 + 4 * number : start + 5 + 4 * number]
        title = rf"### Exercise {number + 1}: {kind} \(\d+ minutes, GPU: no\)\n\n"
        assert re.match(title, task.source), task.source[:60]
        assert [tags_of(cell) for cell in rest] == [{part} for part in PARTS]
        assert "# yours" in rest[0].source and "print(exercises." in rest[2].source


def stored(cells):
    """Names that cells set at their top level, functions too, without a comprehension's or a function's own."""
    found, own = set(), set()
    inner = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    for cell in cells:
        tree = ast.parse(cell.source)
        found |= names(tree, ast.Store) | {d.name for d in tree.body if isinstance(d, ast.FunctionDef)}
        own |= {name for part in ast.walk(tree) if isinstance(part, inner) for name in names(part, ast.Store)}
    return found - own


def loaded(cells):
    return {name for cell in cells for name in names(ast.parse(cell.source), ast.Load)}


def names(tree, context):
    return {
        part.id for part in ast.walk(tree) if isinstance(part, ast.Name) and isinstance(part.ctx, context)
    }


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_else_reads_or_overwrites_what_an_exercise_sets(stage):
    """So a copy without solutions runs, and a student's answer never changes the stage's record."""
    attempts, solutions = tagged(stage, "attempt"), tagged(stage, "solution")
    others = [c for c in cells_of(stage) if c.cell_type == "code" and not tags_of(c) & set(PARTS)]
    mine = stored(attempts + solutions)
    assert not mine & stored(others) and not mine & loaded(others)
    assert not (stored(solutions) - stored(attempts)) & loaded(tagged(stage, "check"))


@pytest.mark.parametrize(("stage", "number"), EACH)
def test_untouched_is_not_tried_yet_and_the_solution_is_right(namespaces, stage, number):
    attempt, solution, check = exercise(stage, number)
    assert run(namespaces(stage), attempt, check).startswith("not tried yet")
    told = run(namespaces(stage), attempt, solution, check)
    assert told.startswith("right: "), told


def stage_of(number):
    return next(stage for stage in STAGES if stage.startswith(number))


@pytest.mark.parametrize(("notebook", "number", "mistake", "told"), PLANTED)
def test_a_planted_mistake_is_named(namespaces, notebook, number, mistake, told):
    stage = stage_of(notebook)
    said = run(namespaces(stage), WRONG, mistake, exercise(stage, number)[2])
    first = next(case for case in PLANTED if case[:2] == (notebook, number))
    assert said.startswith(USUAL if first[2] == mistake else "not yet: ") and told in said, said


def test_every_key_of_a_check_has_its_words_and_no_words_are_left_over():
    tree = ast.parse(Path(exercises.__file__).read_text())
    checks = {part.name: part for part in tree.body if isinstance(part, ast.FunctionDef) and part.decorator_list}
    assert checks.keys() == verdicts.TEXTS.keys()
    for name, function in checks.items():
        texts = [one.value for one in ast.walk(function) if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        keys = {text for text in texts if text.partition(",")[0] in verdicts.KINDS}
        numeric = any(isinstance(one, ast.Name) and one.id == "by_number" for one in ast.walk(function))
        tried = any(isinstance(one, ast.Name) and one.id == "by_trials" for one in ast.walk(function))
        assert keys | ({"not yet"} if numeric else set()) | ({"right"} if tried else set()) == verdicts.TEXTS[name].keys(), name


def test_every_exercise_has_a_planted_mistake():
    assert {(stage_of(notebook), number) for notebook, number, *_ in PLANTED} == set(EACH) and len(EACH) == 18


NONSENSE = ("'what?'", "float('nan')", "object()", "[]", "{}", "lambda *a: 1 / 0", "lambda *a: 'x'",
            "lambda *a: [7]", "lambda *a: 7", "lambda *a: [[[]]]", "-7")


@pytest.mark.parametrize(("stage", "number"), EACH)
def test_nonsense_is_answered_and_never_raised(namespaces, stage, number):
    attempt, _, check = exercise(stage, number)
    name = re.match(r"(?:def )?(\w+)", attempt)[1]
    for nonsense in NONSENSE:
        said = run(namespaces(stage), f"{name} = {nonsense}", check)
        assert said.startswith("not yet: "), (nonsense, said)


def test_what_a_run_lacks_is_reported_and_the_solution_does_not_stop(namespaces):
    def told(stage, number, **changed):
        return run(namespaces(stage, **changed), *exercise(stage, number))

    reading = namespaces(STAGES[0])["reading"]
    assert told(STAGES[0], 1, reading=reading[:2]).startswith("cannot be done in this run: ")
    assert told(STAGES[1], 1, guide=None).startswith("cannot be done in this run: ")
    assert told(STAGES[1], 3, guide=None).startswith("right: ")
    assert told(STAGES[2], 2, finetuning="full").startswith("cannot be done in this run: ")
    agreed = namespaces(STAGES[4])["records"][:2]
    assert told(STAGES[4], 1, records=agreed).startswith("right: the scorers agree on all 2")
    assert told(STAGES[5], 3, taxonomy={}).startswith("right: ")


def test_a_student_s_function_gets_copies_and_rounding_is_no_mistake():
    given = [1, 2]
    assert verdicts.run(lambda values: values.pop(), given) == 2 and given == [1, 2]
    assert verdicts.near(0.1249, 0.125) and not verdicts.near(0.13, 0.125) and verdicts.near(0, 0)


# --- student copies ---


def test_a_copy_of_every_notebook_lacks_the_solutions_and_nothing_else(tmp_path):
    notebooks = find_notebooks(NOTEBOOKS.parent, [])
    assert [path.stem for path in notebooks] == list(STAGES)
    for path in write_copies(notebooks, tmp_path / "class"):
        copy = nbformat.read(path, as_version=4)
        nbformat.validate(copy)
        note, *cells = copy.cells
        kept = [cell for cell in cells_of(path.stem) if "solution" not in tags_of(cell)]
        assert note.source == NOTE and note.cell_type == "markdown"
        assert [cell.source for cell in cells] == [cell.source for cell in kept]
        assert len(cells_of(path.stem)) - len(kept) == 3
        assert presets.read_parameters(path) == presets.read_parameters(NOTEBOOKS / path.name)


def test_outputs_and_an_executed_run_s_traces_are_left_out(tmp_path):
    source, file = nbformat.read(NOTEBOOKS / "03_tapo.ipynb", as_version=4), tmp_path / "03_tapo.ipynb"
    source.metadata["papermill"] = {"duration": 3}
    code = next(cell for cell in source.cells if cell.cell_type == "code")
    code.outputs, code.execution_count = [nbformat.v4.new_output("stream", text="SECRET")], 7
    nbformat.write(source, file)
    copy = student_copy(file)
    assert "SECRET" not in copy and "papermill" not in json.loads(copy)["metadata"]
    assert not any(cell.get("execution_count") for cell in json.loads(copy)["cells"])
    assert "SECRET" in file.read_text()  # the notebook itself is left alone


def test_a_copy_never_replaces_work_unasked_and_all_or_none_are_written(tmp_path):
    real, target = [NOTEBOOKS / "02_cot_sft.ipynb", NOTEBOOKS / "03_tapo.ipynb"], tmp_path / "class"
    (written,) = write_copies(real[1:], target)
    written.write_text("a student's work")
    with pytest.raises(UserError, match="--force"):
        write_copies(real, target)
    assert written.read_text() == "a student's work" and [p.name for p in target.iterdir()] == [written.name]
    write_copies(real, target, force=True)
    assert NOTE in written.read_text() and len(list(target.iterdir())) == 2
    bare = fixture_kit.build(tmp_path / "kit") / "notebooks" / "01_data.ipynb"
    with pytest.raises(UserError, match="no cell tagged `solution`"):
        write_copies([*real, bare], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_copy_never_takes_a_notebook_s_own_place(tmp_path):
    real, own = NOTEBOOKS / "03_tapo.ipynb", tmp_path / "own"
    own.mkdir()
    shutil.copy(real, own)
    with pytest.raises(UserError, match="the notebook itself"):
        write_copies([own / real.name], own, force=True)
    with pytest.raises(UserError, match="two notebooks are called"):
        write_copies([real, own / real.name], tmp_path / "third")
    with pytest.raises(UserError, match="nothing can be read or written there"):
        write_copies([real], own / real.name / "below")
