"""The commands of `finer1` for teaching: a lesson made ready, and notebooks copied without their solutions.

Source: our choice.
"""

import time
from pathlib import Path
from typing import Annotated, Optional

import typer


def lesson(
    run_name: Annotated[str, typer.Option(help="Folder of the lesson inside the output root.")] = "lesson",
    output_root: Annotated[
        Optional[str], typer.Option(help="Folder for all runs.", show_default="outputs/ in the checkout")
    ] = None,
) -> None:
    """Make notebooks 04 and 05 ready for a lesson of 50 minutes, without training.

    Runs 00 and 01 of the preset miniature (under a minute), takes adapters and answers from
    outputs/reference, and says what to open.
    """
    from finer1_lib.lesson import PRESET, make_lesson
    from finer1_lib.presets import find_kit, make_plan
    from finer1_lib.runner import clock

    began, kit = time.monotonic(), find_kit()
    plan = make_plan(kit, PRESET, run_name, output_root)
    copies = make_lesson(
        plan, kit / "outputs" / "reference",
        lambda line: print(f"{clock(time.monotonic() - began):>7}  {line}", flush=True),
    )  # fmt: skip
    print("\nready; no model was trained. Now open, and run from the top, one after the other:")
    print("\n".join(f"  jupyter lab {_short(copy)}" for copy in copies))
    where = "" if output_root is None else f" --output-root {output_root}"
    print("when both have run, the report of the lesson:")
    print(f"  finer1 run {PRESET} --run-name {run_name} --from 04_evaluation{where}")
    print("copies without solutions, for students:")
    print(f"  finer1 student-copy {' '.join(map(_short, copies))} --to {_short(plan.run_dir / 'students')}")


def _short(path: Path) -> str:
    """A path as one would type it here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def student_copy(
    folder: Annotated[str, typer.Option("--to", metavar="FOLDER", help="Where the copies go.")],
    notebooks: Annotated[
        Optional[list[str]], typer.Argument(help="Names like 03_tapo, or files; all six if none is given.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace copies that lie there.")] = False,
) -> None:
    """Copy notebooks without their solutions and outputs.

    Example: finer1 student-copy 03_tapo 04_evaluation --to handout
    """
    from finer1_lib.presets import find_kit
    from finer1_lib.student_copy import find_notebooks, write_copies

    found = find_notebooks(find_kit(), notebooks or [])
    for path in write_copies(found, Path(folder).expanduser(), force):
        print(path)
