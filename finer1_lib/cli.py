"""The console command `finer1`.

Exit codes: 0 done; 2 the user's mistake (one line on stderr); 1 ours; 130 after Ctrl-C.

Source: our choice (issue contract).
"""

import logging
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

import typer

from finer1_lib import cli_teaching
from finer1_lib.errors import UserError

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
        "Stages that finished with the same parameters and inputs are skipped, and one that was interrupted"
        " goes on where it stopped: after a crash, a kill or Ctrl-C, give the same command again.",
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
) -> None:
    from finer1_lib.presets import find_kit, make_plan
    from finer1_lib.runner import chosen_stages, clock, run_chain

    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{clock(time.monotonic() - began):>7}  {line}", flush=True)

    settings = settings or []
    stages = chosen_stages(first, last, settings)
    plan = make_plan(find_kit(), preset, run_name, output_root, seed, settings)
    report = run_chain(plan, stages, say)
    if report is not None:
        _print_table(plan.run_dir)
        say(f"report: {report}")


def _print_table(run_dir: Any) -> None:
    """The main table on the terminal."""
    from finer1_lib.files import read_json
    from finer1_lib.summary import labels_in, main_table

    titles, rows = main_table(read_json(run_dir / "summary.json", list), labels=labels_in(run_dir))
    if rows:
        _show_table("percent [95 % interval], strict scorer, average over super-categories", titles, rows)


def _show_table(title: str, titles: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title)
    for words in titles:
        table.add_column(words, overflow="fold")
    for row in rows:  # labels are text, never markup
        table.add_row(*map(escape, row))
    console = Console()
    Console(width=max(console.width, 110) if not console.is_terminal else None).print(table)


@app.command()
def seeds(
    runs: Annotated[list[str], typer.Argument(help="Finished runs that differ in their seed alone.")],
    output_root: Annotated[str, typer.Option(help="Folder for all runs.")] = "outputs",
    json_file: Annotated[Optional[str], typer.Option("--json", help="Also write all numbers here.")] = None,
    figure: Annotated[Optional[str], typer.Option(help="Also draw them, as .png, .pdf or .svg.")] = None,
) -> None:
    """Pool runs of one preset under several seeds: means and differences, with 95 % intervals.

    Example: finer1 seeds miniature seed1 seed2 --figure seeds.png
    """
    from finer1_lib.files import atomic_write_json, check_targets
    from finer1_lib.seeds import draw, pool, read_runs, tables

    check_targets(json_file, figure)
    pooled = pool(read_runs(runs, output_root))
    for title, (titles, rows) in tables(pooled).items():
        _show_table(title, titles, rows)
    if json_file is not None:
        atomic_write_json(Path(json_file), pooled)
    if figure is not None:
        draw(pooled, Path(figure))


@app.command()
def benchmark(
    run_name: Annotated[str, typer.Argument(help="A run that finished 03_tapo: its triplets and settings.")],
    output_root: Annotated[str, typer.Option(help="Folder for all runs.")] = "outputs",
    checkpoint: Annotated[Optional[str], typer.Option(help="Another base.", show_default="the run's")] = None,
    adapter: Annotated[
        Optional[str], typer.Option(help="Another start.", show_default="the run's CoT SFT")
    ] = None,
    backend: Annotated[str, typer.Option(help="transformers or unsloth.")] = "transformers",
    repeats: Annotated[int, typer.Option(help="Turns that count.")] = 5,
    json_file: Annotated[Optional[str], typer.Option("--json", help="Also write every turn here.")] = None,
) -> None:
    """Time a step of TAPO against one of DAPO with as many rollouts, and what shared prompts save.

    Example: finer1 benchmark miniature --repeats 3 --json cost.json
    """
    from finer1_lib.benchmark import measure_run, tables
    from finer1_lib.files import atomic_write_json, check_targets

    check_targets(json_file)
    result = measure_run(run_name, output_root, checkpoint, adapter, backend, repeats, say=print)
    for title, (titles, rows) in tables(result).items():
        _show_table(title, titles, rows)
    if json_file is not None:
        atomic_write_json(Path(json_file), result)


app.command()(cli_teaching.lesson)
app.command("student-copy")(cli_teaching.student_copy)


@app.command()
def compare(
    run_name: Annotated[str, typer.Argument(help="A finished run on the paper's data.")],
    released: Annotated[Optional[str], typer.Option(help="A run of the released checkpoint.")] = None,
    output_root: Annotated[str, typer.Option(help="Folder for all runs.")] = "outputs",
) -> None:
    """The paper's numbers beside a run's; a run on other data (the miniature's) is refused."""
    from finer1_lib.chain import find_run
    from finer1_lib.paper.comparison import compare_lines

    print(compare_lines(find_run(output_root, run_name), released and find_run(output_root, released)))


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

    signal.signal(signal.SIGTERM, _stop)  # so that kernels are shut down before this process ends
    try:
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
