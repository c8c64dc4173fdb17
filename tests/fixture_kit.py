"""A small kit for tests of the runner: notebooks/ and params/ with the real set-up cell and toy work.

Every notebook counts to `steps`, one record per step, and resumes from its records; parameters make it fail.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat

from finer1_lib.runs.chain import STAGES
from finer1_lib.runs.notebook import SET_UP_CELL

CHECKOUT = Path(__file__).resolve().parent.parent

PARAMETERS = """\
notebook = "{stage}"
run_name = "toy"  # folder of this run
output_root = "outputs"  # folder of all runs
seed = 0  # random seed
steps = 2  # records to write
wait = 0.0  # seconds per record
rate = 1.0e-3  # a float
names = ["a", "b"]  # a list
flag = False  # a switch
image_root = ""  # a folder of the user's
fault = ""  # user, ours, kernel, full, rights or unfinished"""

WORK = """\
import os, time
from finer1_lib.core import UserError, append_jsonl, read_jsonl
if fault == "user":
    raise UserError("the image wren.png is truncated:\\nsave it again")
if fault == "ours":
    raise ValueError("a fault of the kit")
if fault == "kernel":
    os._exit(3)
if fault == "full":
    with open("/dev/full", "wb") as file:
        file.write(b"the system's own error of a full disk")
if fault == "rights":
    raise PermissionError(13, "Permission denied", "/somebody/else")
print("not a progress line")
records = stage.path("records.jsonl")
for step in range(len(read_jsonl(records)), steps):
    time.sleep(wait)
    append_jsonl(records, {"step": step, "draw": (seed + 1) * step})
    stage.progress(step + 1, steps, "counting", rate=rate)"""

ROWS = """\
from finer1_lib.core import atomic_write_json
rows = [
    dict(model=model, dataset="average", setting="closed_world", scorer="strict", metric="accuracy",
         categories=categories, option_order="shuffled", variant=None, value=0.5, low=0.25, high=0.75,
         n=steps, seed=seed)
    for model in ("base", "cot_sft") for categories in ("seen", "unseen") if notebook == "04_evaluation"
]
atomic_write_json(stage.path("summary_rows.json"), rows)"""

FIGURE = """\
import matplotlib.pyplot as plt
import pandas as pd
data = pd.DataFrame({"step": [0, 1], "value": [0.5, 1.0]})
figure, axes = plt.subplots()
axes.plot(data["step"], data["value"])
stage.figure(figure, "curve", data);"""

FINISH = 'if fault != "unfinished":\n    stage.finish({"steps": steps})'


def build(folder: Path, drawn: str = "04_evaluation") -> Path:
    """Write notebooks/ and params/toy/ under a folder and return it; the stage `drawn` has a figure."""
    (folder / "notebooks").mkdir(parents=True)
    (folder / "params" / "toy").mkdir(parents=True)
    (folder / "params" / "toy" / "common.yaml").write_text("run_name: toy\nseed: 0\n")
    (folder / "params" / "toy" / "02_cot_sft.yaml").write_text("rate: 5.0e-6\n")
    for stage in STAGES:
        cells = [
            nbformat.v4.new_markdown_cell("# A toy"),
            nbformat.v4.new_code_cell(PARAMETERS.format(stage=stage), metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(SET_UP_CELL.strip()),
            nbformat.v4.new_code_cell(WORK),
        ]
        if stage in ("04_evaluation", "05_probing"):
            cells.append(nbformat.v4.new_code_cell(ROWS))
        if stage == drawn:
            cells.append(nbformat.v4.new_code_cell(FIGURE))
        cells.append(nbformat.v4.new_code_cell(FINISH))
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, folder / "notebooks" / f"{stage}.ipynb")
    return folder


def environment(kit: Path) -> dict[str, str]:
    """Environment of a `finer1` process that uses this kit and this checkout's library."""
    return dict(os.environ, FINER1_KIT=str(kit), PYTHONPATH=str(CHECKOUT), COLUMNS="120")


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(kit: Path, *words: str) -> subprocess.Popen:
    """Start `finer1 ...` in the kit's folder, in a process group of its own.

    A shell's background job is born deaf to Ctrl-C, and so would be what it starts: the tests' own command is not.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "finer1_lib.commands.cli", *words], cwd=kit, env=environment(kit), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=_hear_interrupts if os.name == "posix" else None,
    )  # fmt: skip


def finer1(kit: Path, *words: str) -> tuple[int, str, str]:
    """Run `finer1 ...` to its end: exit code, stdout, stderr."""
    process = start(kit, *words)
    out, err = process.communicate(timeout=900)
    return process.returncode, out, err
