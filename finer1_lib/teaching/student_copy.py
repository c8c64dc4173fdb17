"""Student copies: a notebook without its solutions and outputs, with a line on top that says so.

    finer1 student-copy 03_tapo --to handout        # handout/03_tapo.ipynb
    finer1 student-copy --to handout                # all six
    finer1 student-copy outputs/lesson/04_evaluation.ipynb --to handout

A solution is a cell tagged `solution`; the cell before it, tagged `attempt`, sets what the check after it
reads, so a copy runs from top to bottom and its checks say "not tried yet". nbconvert removes the cells and
the outputs.
"""

from pathlib import Path
from typing import Any, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import atomic_write_text
from finer1_lib.runs.chain import STAGES
from finer1_lib.runs.parameters import nearest

NOTE = ("*A student copy: the solutions of the exercises are left out. Put your answers into the cells that "
        "say `# yours`; the check after each says what is right, and names the usual mistake.*")


def find_notebooks(kit: Path, names: Sequence[str]) -> list[Path]:
    """The files meant by names ("03_tapo") or paths; without any, all six notebooks of the kit.
    Raises: UserError: neither a stage nor a file.
    """
    found = []
    for name in names or STAGES:
        path = kit / "notebooks" / f"{name}.ipynb" if name in STAGES else Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"no notebook {name!r} here{nearest(path.stem, STAGES, 'the notebooks are')}")
        found.append(path)
    return found


def clear(notebook: Any) -> Any:
    """The notebook without what an execution leaves in it: outputs, counts, run times, widgets."""
    from nbconvert.preprocessors import ClearOutputPreprocessor
    for holder in (notebook, *notebook.cells):
        for left in ("papermill", "widgets"):
            holder.metadata.pop(left, None)
    return ClearOutputPreprocessor().preprocess(notebook, {})[0]


def student_copy(notebook: Path) -> str:
    """The text of a copy without solutions and outputs.
    Raises: UserError: not a notebook, or without a cell tagged `solution` (it may be a copy already).
    """
    import nbformat
    from nbconvert.preprocessors import TagRemovePreprocessor
    try:
        content = nbformat.read(notebook, as_version=4)
        nbformat.validate(content)
    except Exception as error:  # nbformat raises another type for each way of being broken
        raise UserError(f"{notebook} is not a notebook") from error
    cells = len(content.cells)
    content, _ = TagRemovePreprocessor(remove_cell_tags={"solution"}).preprocess(clear(content), {})
    if len(content.cells) == cells:
        raise UserError(f"{notebook} has no cell tagged `solution`: is it a student copy already?")
    note = nbformat.v4.new_markdown_cell(NOTE, id="student-copy")
    if (content.nbformat, content.nbformat_minor) < (4, 5):
        del note["id"]
    content.cells.insert(0, note)
    return nbformat.writes(content) + "\n"


def write_copies(notebooks: Sequence[Path], folder: Path, force: bool = False) -> list[Path]:
    """Write the copies under the notebooks' own names; nothing is written unless all of them can be.

    `force` replaces copies that are there; a notebook is never replaced by its own copy.
    Raises: UserError: two notebooks of one name, a copy in the way, a folder that cannot be made, or what
    `student_copy` refuses.
    """
    for path in notebooks:
        target = folder / path.name
        if target.exists() and target.resolve() == path.resolve():
            raise UserError(f"{target} is the notebook itself: choose another folder with --to")
        if sum(other.name == path.name for other in set(notebooks)) > 1:
            raise UserError(f"two notebooks are called {path.name}: copy them one after the other")
        if target.exists() and not force:
            raise UserError(f"{target} exists, perhaps with a student's work: --force replaces it")
    texts = {folder / path.name: student_copy(path) for path in notebooks}
    try:
        for target, text in texts.items():
            atomic_write_text(target, text)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    return list(texts)
