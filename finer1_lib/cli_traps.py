"""`finer1 traps`: what in evaluation files changes a number without being seen, counted.

Source: our choice (DESIGN 7: what is wrong is said before numbers are made with it).
"""

from pathlib import Path
from typing import Annotated, Optional

import typer

from finer1_lib.terminal import show_table


def traps(
    folder: Annotated[str, typer.Argument(help="A checkout of the release, or the folder of its files.")],
    words: Annotated[
        Optional[list[str]], typer.Argument(help="Data sets, e.g. bird pet.", show_default="those there")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the shuffle of the options.")] = 0,
    json_file: Annotated[Optional[str], typer.Option("--json", help="Also write all rows here.")] = None,
) -> None:
    """Count the traps in the release's evaluation files: the truth in front, distractors that hold it, ...

    Example: finer1 traps FineR1_ICLR2026 bird pet --json traps.json
    """
    from finer1_lib.files import atomic_write_json, check_targets
    from finer1_lib.release.trap_rows import table
    from finer1_lib.release.traps import count_traps

    check_targets(json_file)
    rows = count_traps(folder, words or (), seed=seed)
    show_table(f"traps: {folder}", *table(rows))
    if json_file is not None:
        atomic_write_json(Path(json_file), rows)
