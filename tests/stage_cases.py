"""Stages opened without a notebook, and notebook cells run without a kernel, for tests of `runs`."""

from pathlib import Path

from finer1_lib.core import files
from finer1_lib.runs import stage as stage_module
from finer1_lib.runs.chain import STAGES
from finer1_lib.runs.stage import Stage


def opened(root: Path, name: str = STAGES[0], **values) -> Stage:
    return Stage.open(name, {"run_name": "r", "output_root": str(root), "seed": 0, **values})


def play(*cells: str) -> dict:
    """Globals after running cells in IPython's manner, with its In list."""
    namespace: dict = {"In": [""]}
    for cell in cells:
        namespace["In"].append(cell)
        exec(cell, namespace)
    return namespace


def release_locks() -> None:
    while stage_module._locks:
        files.unlock(stage_module._locks.popitem()[1])
