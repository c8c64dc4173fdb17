"""The chain as a notebook sees it: its set-up cell, and `open_stage`.

Every notebook's set-up cell is `SET_UP_CELL`, byte for byte. After it the notebook reads earlier stages by
`stage.input("01_data/images.parquet")`, writes under `stage.path("records.jsonl")`, and ends with
`stage.finish({...})`. All paths come from the stage, because the current folder differs: `finer1 run` starts
kernels in the run's folder, JupyterLab in notebooks/.
"""

import ast
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import system_line
from finer1_lib.runs import provenance
from finer1_lib.runs.chain import STAGES
from finer1_lib.runs.parameters import check_parameters, parse_parameters
from finer1_lib.runs.provenance import clean_this_process
from finer1_lib.runs.stage import Stage

REPOSITORY = "OWNER/REPO"  # whoever publishes the kit puts their repository here and in the set-up cells
SET_UP_CELL = f"""\
import importlib.metadata, importlib.util, shutil, subprocess, sys
if "google.colab" in sys.modules and not importlib.util.find_spec("finer1_lib"):
    # On Colab: install the kit (with Unsloth if there is a GPU) and hold fast to the torch that Colab brings.
    keep = [f"{{name}}=={{importlib.metadata.version(name)}}" for name in ("torch", "torchvision", "numpy")]
    gpu = "[gpu]" if shutil.which("nvidia-smi") else ""
    kit = f"finer1-lib{{gpu}} @ git+https://github.com/{REPOSITORY}@v0.1.0"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", kit, *keep], check=True)
from finer1_lib.runs import open_stage
stage = open_stage(globals())
"""


def open_stage(namespace: dict[str, Any]) -> Stage:
    """Open the stage of the running notebook, whose `globals()` are given.

    The parameters are the names that the parameters cell assigns (the latest cell run that sets `notebook` to
    a stage's name), with their present values, so papermill's injected values and edits by hand both count.
    Raises: UserError: no parameters cell was run, an injected key that it lacks, or as `Stage.open`.
    """
    clean_this_process()
    history = namespace.get("In")
    if not isinstance(history, list):
        raise UserError("open_stage(globals()) works in a notebook: elsewhere use Stage.open(name, parameters)")
    position = _find_parameters_cell(history)
    known = parse_parameters(history[position])
    where = namespace.get("notebook")
    after = "".join(history[position + 1 : position + 2])
    if after.partition("\n")[0].strip() == "# Parameters":  # papermill's own cell
        check_parameters(_assigned(after), known, f"parameters injected into {where}")

    def values_now() -> dict[str, Any]:
        if gone := [name for name in known if name not in namespace]:
            raise UserError(f"{where}: {', '.join(gone)} of the parameters cell is deleted: run it again")
        now = {name: namespace[name] for name in known}
        return check_parameters(now, known, f"the parameters of {where}")

    values = values_now()
    stage = Stage.open(values["notebook"], {**values}, values_now)
    _one_line_for_the_system(stage.run_dir)
    state = "finished already: loading" if stage.finished else "resuming" if stage.opened > 1 else "new"
    for line in (f"{state}, seed {stage.seed}, folder {stage._shown()}", stage.note, provenance.line()):
        if line:
            print(f"[{stage.name}] {line}", flush=True)
    return stage


def _one_line_for_the_system(run_dir: Path) -> None:
    """Show one line, not a traceback, below a cell that failed for a full disk or missing rights."""
    from IPython import get_ipython

    def show(shell: Any, kind: type, error: Exception, trace: Any, tb_offset: Any = None) -> None:
        if line := system_line(str(error), run_dir):
            error._render_traceback_ = lambda: [f"{kind.__name__}: {line}"]
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)

    if shell := get_ipython():  # a test may have none
        shell.set_custom_exc((Exception,), show)


def _find_parameters_cell(history: list[str]) -> int:
    for position in range(len(history) - 1, -1, -1):
        if _assigned(history[position]).get("notebook") in STAGES:
            return position
    under_magic = re.compile(r"run_cell_magic\(.*\bnotebook = ", re.DOTALL)  # a %%cell in `In`
    raw = (cell for cell in history if "notebook = " in cell)
    if any(under_magic.search(cell) or cell.lstrip().startswith("%%") for cell in raw):
        raise UserError("the parameters cell begins with a %%magic, so it cannot be read: remove that line"
                        " (put it into a cell below) and run the cells from the top")
    raise UserError("the parameters cell was not run: run the cells from the top")


def _assigned(source: str) -> dict[str, Any]:
    """Names that a cell sets to plain values at its top level; nothing for a cell that does not parse."""
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError):
        return {}
    found = {}
    for statement in statements:
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            if isinstance(target, ast.Name):
                with suppress(ValueError, TypeError, RecursionError):
                    found[target.id] = ast.literal_eval(statement.value)
    return found
