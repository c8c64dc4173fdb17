"""What the console programs share: exit codes and one-line errors, tables, the option for the runs' folder.

`finer1` and the scripts in tests/benchmarks all end by `run_app(app)`.
"""

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

import typer

from finer1_lib.core.errors import UserError, printable
from finer1_lib.core.files import atomic_write_json, one_line_for_the_system
from finer1_lib.runs.provenance import clean_this_process

OutputRoot = Annotated[Optional[str], typer.Option(  # where commands that read runs look for them
    "--output-root", help="Folder for all runs.", show_default="outputs/ in the checkout",
    callback=lambda typed: typed and os.path.abspath(os.path.expanduser(typed)))]
Json = Annotated[Optional[str], typer.Option("--json", help="Also write all numbers to this file.")]


def new_app(**options: Any) -> typer.Typer:
    """A Typer app whose errors `run_app` prints."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich", **options)


def write_json(file: Optional[str], content: Any) -> None:
    """Write what a command found to the file of its option --json, if it was given."""
    if file is not None:
        atomic_write_json(Path(file), content)


def show_table(title: str, titles: list[str], rows: list[list[str]], note: str = "") -> None:
    """Print a table of texts below its title and a note, at least 110 columns wide where it is no terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table
    table = Table(*(Column(words, overflow="fold") for words in titles),
                  title="\n".join(filter(None, (title, note))))
    for row in rows:  # labels are text, never markup nor control signs
        table.add_row(*("\n".join(map(printable, escape(cell).split("\n"))) for cell in row))
    console = Console()
    Console(width=max(console.width, 110) if not console.is_terminal else None).print(table)


def run_app(app: typer.Typer) -> NoReturn:
    """Run a command line and exit: 0 done, 2 a mistake of the user's, 1 a fault of the kit, 130 after Ctrl-C.

    Every error is one line on stderr.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w")  # closed by the parent process, as some schedulers do
    sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show stops nothing
    # ends by SystemExit, so that kernels are shut down before this process
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    try:
        with one_line_for_the_system(Path.cwd()):
            clean_this_process(figures=False)
            code = app(standalone_mode=False)
    except UserError as error:
        code = _complain(str(error), 2)
    except typer.TyperException as error:
        code = _complain(" ".join(error.format_message().split()), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except SystemExit as stop:  # of the signal
        code = stop.code
    except Exception as error:
        from finer1_lib.runs.runner import NotebookFailure

        if not isinstance(error, NotebookFailure):
            raise
        code = _complain(str(error), 1)
    if code in (130, 143):
        # A kernel that dies while it is waited for leaves an asyncio task, whose traceback Python would print
        # at exit: the one line below is all there is to report.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        _complain("interrupted: the same command continues from here", code)
    sys.exit(code or 0)


def _complain(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"finer1: {message}", file=sys.stderr, flush=True)
    return code
