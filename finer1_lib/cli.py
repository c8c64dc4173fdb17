"""The console command `finer1`.

Exit codes: 0 done; 2 the user's mistake (one line on stderr); 1 ours; 130 after Ctrl-C.

Source: our choice.
"""

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

import typer

from finer1_lib import (
    cli_checks, cli_general, cli_release, cli_rescore, cli_results, cli_systems, cli_teaching, cli_traps,
)  # fmt: skip
from finer1_lib.benchmark_evaluation import benchmark_evaluation
from finer1_lib.benchmark_triplets import benchmark_triplets
from finer1_lib.errors import UserError
from finer1_lib.files import one_line_for_the_system
from finer1_lib.surroundings import clean_this_process

app = typer.Typer(
    help="Fine-R1, step by step: run the notebooks of the kit as one chain.",
    epilog="Environment: FINER1_KIT names a folder with notebooks/ and params/ in place of the checkout.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

_RUN_HELP = "\n\n".join(
    (
        "Run the notebooks of a preset, one after the other, and end in a table and a report.",
        "Stages that finished with the same parameters, inputs, code of the notebook and version of the kit"
        " are skipped, and one that was interrupted goes on where it stopped: after a crash, a kill or"
        " Ctrl-C, give the same command again.",
        "Everything lands in OUTPUT_ROOT/RUN_NAME: a folder per stage, the executed notebooks, summary.json"
        " and report.html.",
        "Examples:",
        "  finer1 run miniature",
        "  finer1 run miniature --run-name photos --set 01_data.image_root=my_photos",
        "  finer1 run miniature --run-name seed1 --seed 1",
        "  finer1 run miniature --run-name short --to 02_cot_sft --set 02_cot_sft.cot_epochs=2",
        "Exit codes: 0 done; 2 a mistake in the command or the data, told in one line; 1 a fault of the kit;"
        " 130 after Ctrl-C.",
    )
)


@app.command(help=_RUN_HELP)
def run(
    preset: Annotated[
        str, typer.Argument(help="Folder in params/, e.g. miniature; `finer1 list` shows all.")
    ],
    run_name: Annotated[
        Optional[str],
        typer.Option(help="Folder of this run inside the output root.", show_default="the preset's run_name"),
    ] = None,
    output_root: Annotated[
        Optional[str],
        typer.Option(help="Folder for all runs.", show_default="the preset's, else outputs/ in the checkout"),
    ] = None,
    first: Annotated[
        Optional[str],
        typer.Option("--from", metavar="STAGE", help="First stage to run; the ones before must be finished."),
    ] = None,
    last: Annotated[Optional[str], typer.Option("--to", metavar="STAGE", help="Last stage to run.")] = None,
    settings: Annotated[
        Optional[list[str]],
        typer.Option(
            "--set",
            metavar="STAGE.KEY=VALUE",
            help="One parameter of one notebook; may be repeated. Lists as \\[a, b]. A relative folder or"
            " file counts from the current folder.",
        ),
    ] = None,
    seed: Annotated[
        Optional[int], typer.Option(help="Seed of every notebook.", show_default="the preset's")
    ] = None,
    keep_finished: Annotated[
        bool,
        typer.Option("--keep-finished", help="Also keep what other code of a notebook or another version of"
                     " the kit made; without it such a stage is computed anew."),
    ] = False,
) -> None:
    from finer1_lib.presets import find_kit, make_plan
    from finer1_lib.runner import chosen_stages, clock, run_chain

    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{clock(time.monotonic() - began):>7}  {line}", flush=True)

    settings = settings or []
    stages = chosen_stages(first, last, settings)
    plan = make_plan(find_kit(), preset, run_name, output_root, seed, settings)
    report = run_chain(plan, stages, say, keep_finished)
    if report is not None:
        _print_table(plan.run_dir)
        say(f"report: {report}")


def _print_table(run_dir: Any) -> None:
    """The main table on the terminal."""
    from finer1_lib.coverage import coverage_of
    from finer1_lib.files import read_json
    from finer1_lib.summary import labels_in, main_table
    from finer1_lib.terminal import show_table

    titles, rows = main_table(read_json(run_dir / "summary.json", list), labels=labels_in(run_dir))
    if rows:
        title = "percent [95 % interval], strict scorer, average over super-categories"
        show_table("\n".join(filter(None, (title, coverage_of(run_dir)))), titles, rows)


for _command in (
    cli_checks.doctor, cli_checks.gpu_check, cli_results.seeds, cli_results.benchmark,
    benchmark_triplets, cli_results.compare, cli_release.export_stage1, cli_release.export_stage2,
    cli_general.export_lmms, cli_rescore.rescore, cli_systems.systems, cli_traps.traps,
    benchmark_evaluation,
    cli_teaching.lesson, cli_teaching.student_copy,
):  # fmt: skip
    app.command(_command.__name__.replace("_", "-"))(_command)


@app.command("list")
def list_all(
    preset: Annotated[Optional[str], typer.Argument(help="Show this preset's values too.")] = None,
) -> None:
    """List presets and stages; with a preset, every notebook's parameters and their values."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from finer1_lib.chain import NEEDS
    from finer1_lib.presets import find_kit, list_presets, make_plan, read_parameters

    console, kit = Console(), find_kit()
    if preset is None:
        console.print("presets: " + ", ".join(list_presets(kit)), highlight=False)
        for stage, needs in NEEDS.items():
            console.print(f"{stage}  reads {', '.join(needs) or 'nothing'}", highlight=False)
        return
    plan = make_plan(kit, preset)
    for stage, values in plan.parameters.items():
        table = Table("parameter", "value", "meaning", title=stage, title_justify="left")
        for name, parameter in read_parameters(plan.notebooks[stage]).items():
            if name != "notebook":
                table.add_row(name, escape(str(values[name])), escape(parameter.help))
        console.print(table)


def _stop(signum: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + signum)


def main() -> None:
    """Run the command line and leave with the exit code."""
    from finer1_lib.execution import NotebookFailure

    sys.stdout = sys.stdout or open(os.devnull, "w")  # closed by whoever started it, as some schedulers do
    sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show stops nothing
    signal.signal(signal.SIGTERM, _stop)  # so that kernels are shut down before this process ends
    try:
        with one_line_for_the_system(Path.cwd()):
            clean_this_process(figures=False)
            code = app(standalone_mode=False)
    except UserError as error:
        code = _complain(str(error), 2)
    except NotebookFailure as error:
        code = _complain(str(error), 1)
    except typer.TyperException as error:
        code = _complain(" ".join(error.format_message().split()), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except SystemExit as stop:  # of `_stop`
        code = stop.code
    if code in (130, 143):
        # A kernel that dies while it is waited for leaves an asyncio task behind, whose traceback Python
        # would print when it ends: the one line below is all there is to say.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        _complain("interrupted: the same command goes on from here", code)
    sys.exit(code or 0)


def _complain(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"finer1: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    main()
