"""What commands have in common: tables on the terminal, the option that says where runs lie.

Source: our choice.
"""

import os
from typing import Annotated, Optional

import typer

from finer1_lib.core.errors import printable


def _from_here(typed: Optional[str]) -> Optional[str]:
    return typed and os.path.abspath(os.path.expanduser(typed))


OutputRoot = Annotated[  # where commands that read runs look for them
    Optional[str],
    typer.Option(
        "--output-root", help="Folder for all runs.", show_default="outputs/ in the checkout",
        callback=_from_here,
    ),
]  # fmt: skip


def show_table(title: str, titles: list[str], rows: list[list[str]]) -> None:
    """Print a table, at least 110 columns wide where nobody looks on.

    Args:
        title: above it; one or more lines.
        titles: of the columns.
        rows: texts, shown as they are.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title)
    for words in titles:
        table.add_column(words, overflow="fold")
    for row in rows:  # labels are text, never markup nor control signs
        table.add_row(*("\n".join(map(printable, escape(cell).split("\n"))) for cell in row))
    console = Console()
    Console(width=max(console.width, 110) if not console.is_terminal else None).print(table)
