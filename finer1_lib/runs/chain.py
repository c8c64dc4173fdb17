"""The chain of stages: their names, what each reads, and where a run is on the disk.

One number and one name everywhere: notebook `03_tapo`, preset file `03_tapo.yaml`, output folder `03_tapo/`.
"""

import os
import re
from pathlib import Path
from typing import Iterable, Optional

import finer1_lib
from finer1_lib.core.errors import UserError
from finer1_lib.runs.parameters import check_utf8

STAGES = ("00_miniature_world", "01_data", "02_cot_sft", "03_tapo", "04_evaluation", "05_probing")
NEEDS = {stage: STAGES[:number] for number, stage in enumerate(STAGES)}  # stages that each may read
_RUN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*\Z")
_LONGEST = 100  # characters of a run's name: names of files are made of it
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|\Z)", re.IGNORECASE)  # on Windows, with any ending


def find_checkout(start: Path) -> Optional[Path]:
    """The nearest folder from `start` upwards with pyproject.toml, notebooks/ and params/, or None."""
    start = Path(start).resolve()
    for folder in (start, *start.parents):
        folders = (folder / "notebooks", folder / "params")
        if (folder / "pyproject.toml").is_file() and all(one.is_dir() for one in folders):
            return folder
    return None


def kit_folder() -> Optional[Path]:
    """FINER1_KIT, else the checkout the kit is installed from, else the one around the current folder."""
    if named := os.environ.get("FINER1_KIT"):
        return Path(named).absolute()
    return find_checkout(Path(finer1_lib.__file__).parent) or find_checkout(Path.cwd())


def find_run(output_root: Optional[str], run_name: str) -> Path:
    """The absolute folder of a run; UserError for a name that could leave the output root, or a file there.

    A relative `output_root`, of a preset or a parameters cell, counts from the kit, and None is "outputs"
    there: a command given anywhere and a notebook opened by hand find the same runs. Without a kit it counts
    from the current folder. (The command line makes `--output-root` absolute itself.)
    """
    check_run_name(run_name)
    output_root = "outputs" if output_root is None else output_root
    if not isinstance(output_root, str) or not output_root.strip():
        raise UserError(f"output root {output_root!r} is not a folder: give a path, for example 'outputs'")
    root = Path(os.path.abspath((kit_folder() or Path.cwd()) / os.path.expanduser(output_root)))
    check_utf8(str(root), "output root")
    if "\0" in str(root):
        raise UserError(f"output root {output_root!r} is not a folder: it has a zero character")
    for folder in (root / run_name, root, *root.parents):
        try:
            blocked = _is_other(folder, "is_dir")
        except OSError as error:  # a name that is too long
            raise UserError(f"output root {output_root!r} is not a folder: {error}") from error
        if blocked:
            what = "run folder" if folder.name == run_name and folder.parent == root else "output root"
            raise UserError(f"{what} {folder} is a file, or a link that leads nowhere: remove it or choose another"
                            " --output-root or --run-name")
    check_kinds(root / run_name, [*(f"{stage}.ipynb" for stage in STAGES), "summary.json", "report.html",
                                  *(f".{stage}.lock" for stage in (*STAGES, "run"))], STAGES)
    return root / run_name


def check_run_name(run_name: str) -> None:
    """Refuse (UserError) a run name that cannot be a folder inside the output root on every system."""
    if not isinstance(run_name, str) or not _RUN_NAME.match(run_name) or ".." in run_name:
        raise UserError(f"run name {run_name!r} cannot be a folder inside the output root:"
                        " use letters, digits, '_', '-', '+' and '.', without '..' and without separators")
    if len(run_name) > _LONGEST:
        raise UserError(f"run name {run_name[:20]}... has {len(run_name)} characters: use at most {_LONGEST}")
    if _RESERVED.match(run_name) or run_name.endswith("."):
        raise UserError(f"run name {run_name!r} cannot be a folder on Windows (a device's name, or a dot at the"
                        " end): choose another")


def _is_other(path: Path, kind: str) -> bool:
    """Whether something that is not `kind` ("is_dir" or "is_file") is there, also a broken link."""
    return (path.exists() or path.is_symlink()) and not getattr(path, kind)()


def check_kinds(folder: Path, files: Iterable[str], folders: Iterable[str]) -> None:
    """Refuse (UserError) a folder in a file's place below `folder`, and a file in a folder's place."""
    for path in (folder, *(folder / name for name in folders)):
        if _is_other(path, "is_dir"):
            raise UserError(f"{path} must be a folder, and there is a file: remove it")
    for path in (folder / name for name in files):
        if _is_other(path, "is_file"):
            what = "a folder" if path.is_dir() else "something else"
            raise UserError(f"{path} must be a file, and there is {what}: remove it")
