"""The console command `finer1`.

Exit codes: 0 done; 2 the user's mistake (one line on stderr); 1 ours; 130 after Ctrl-C.

Source: our choice.

Commands that look before anything runs: `finer1 doctor`, `finer1 gpu-check`.

Source: our choice (DESIGN 7: what is wrong is said before numbers are made with it).

`finer1 export-lmms`: general abilities are measured by lmms-eval, on a checkpoint that this writes.

Source: paper Table 8; our choice to leave it to lmms-eval.

The commands of `finer1` that write a run's training data in the release's own forms.

Source: our choice; the forms are those of the release's Fine-R1-Stage1-data.json and Stage-2 parquet.

Commands that read finished runs: `finer1 seeds`, `finer1 benchmark`, `finer1 compare`.

Source: our choice (DESIGN 7: many seeds pooled, the paper's numbers beside a run's).

`finer1 systems`: whom notebook 04 can ask beside a run's own models.

Source: our choice (the paper's tables name models, not checkpoints).

The commands of `finer1` for teaching: a lesson made ready, and notebooks copied without their solutions.

Source: our choice.

`finer1 traps`: what in evaluation files changes a number without being seen, counted.

Source: our choice (DESIGN 7: what is wrong is said before numbers are made with it).
"""

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional, Sequence

import typer

from finer1_lib.commands import rescore as cli_rescore
from finer1_lib.commands.terminal import OutputRoot, show_table
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import one_line_for_the_system
from finer1_lib.runs.provenance import clean_this_process

if TYPE_CHECKING:
    from finer1_lib.commands.doctor.examination import Finding

Preset = Annotated[str, typer.Argument(help="Folder in params/, e.g. miniature; `finer1 list` shows all.")]
RunName = Annotated[
    Optional[str], typer.Option(help="Folder of the run.", show_default="the preset's run_name")]
PresetRoot = Annotated[
    Optional[str],
    typer.Option(help="Folder for all runs.", show_default="the preset's, else outputs/ in the checkout")]
Settings = Annotated[
    Optional[list[str]], typer.Option("--set", metavar="STAGE.KEY=VALUE", help="As for `finer1 run`.")]
Seed = Annotated[Optional[int], typer.Option(help="Seed of every notebook.", show_default="the preset's")]
Json = Annotated[Optional[str], typer.Option("--json", help="Also write everything here.")]


def doctor(
    preset: Preset, run_name: RunName = None, output_root: PresetRoot = None, settings: Settings = None,
    seed: Seed = None,
    quick: Annotated[bool, typer.Option("--quick", help="Open a sample of the pictures only.")] = False,
    gpu_gib: Annotated[
        Optional[float],
        typer.Option(min=0.1, help="Memory of the GPU that will be used.", show_default="this one's"),
    ] = None,
    json_file: Json = None,
) -> None:
    """Examine a preset's data, texts and machine before it runs: pass, warn, fail, and how to mend it.

    Exit codes: 0 nothing fails; 2 something does.

    Example: finer1 doctor single_gpu_24gb --set 01_data.data_root=~/data --quick
    """
    from finer1_lib.commands.doctor.examination import examine
    from finer1_lib.commands.doctor.machine import memory_lines
    from finer1_lib.commands.doctor.subject import Subject
    from finer1_lib.core.files import check_targets
    from finer1_lib.runs.presets import find_kit, make_plan

    check_targets(json_file)
    plan = make_plan(find_kit(), preset, run_name, output_root, seed, settings or [])

    def progress(what: str, done: int, total: int) -> None:
        if done % 2000 == 0 or (done == total and total >= 2000):
            print(f"{what}: {done}/{total}", flush=True)

    subject = Subject(plan, quick=quick, gpu_bytes=gpu_gib and gpu_gib * 2**30, progress=progress)
    findings = examine(subject)
    _show(f"doctor: {preset}, run {plan.run_dir.name}", findings)
    print(*memory_lines(subject), sep="\n")
    _conclude("doctor", {"preset": preset, "run": plan.run_dir.name, "quick": quick}, findings, json_file)


def gpu_check(
    preset: Preset, run_name: RunName = None, output_root: PresetRoot = None, settings: Settings = None,
    seed: Seed = None,
    vllm: Annotated[bool, typer.Option("--vllm", help="Look at an installed vLLM too.")] = False,
    json_file: Json = None,
) -> None:
    """Try a preset's training on this machine's GPU, in small: what the tests without a GPU cannot see.

    Exit codes: 0 nothing fails; 2 something does, or there is no GPU.

    Example: finer1 gpu-check single_gpu_24gb
    """
    from finer1_lib.commands.gpu_check import run
    from finer1_lib.core.files import check_targets
    from finer1_lib.runs.presets import find_kit, make_plan

    check_targets(json_file)
    findings = run(make_plan(find_kit(), preset, run_name, output_root, seed, settings or []), vllm=vllm)
    _show(f"gpu-check: {preset}", findings)
    _conclude("gpu-check", {"preset": preset}, findings, json_file)


def _show(title: str, findings: "Sequence[Finding]") -> None:
    show_table(title, ["check", "", "what, and where", "mend"],
               [[one.check, one.level, f"{one.what}\n{one.where}".strip(), one.mend] for one in findings])


def _conclude(
    command: str, about: dict[str, Any], findings: "Sequence[Finding]", json_file: Optional[str]
) -> None:
    """Count, write the JSON file, and end in an error if something fails."""
    from finer1_lib.commands.doctor.examination import as_json, counts
    from finer1_lib.core.files import atomic_write_json

    print(", ".join(f"{number} {level}" for level, number in counts(findings).items()))
    if json_file is not None:
        atomic_write_json(Path(json_file), {**about, **as_json(findings)})
    if failed := dict.fromkeys(one.check for one in findings if one.level == "fail"):
        raise UserError(f"{command}: {', '.join(failed)}: mend what fails and look again")


def export_lmms(
    run_name: Annotated[str, typer.Argument(help="A run that trained the model.")],
    model: Annotated[str, typer.Argument(help="Its name in the records, e.g. cot_sft_tapo.")],
    target: Annotated[str, typer.Argument(help="The folder to write; it must not exist.")],
    output_root: OutputRoot = None,
) -> None:
    """Write a trained model as a checkpoint of its own, and print how lmms-eval and vLLM take it.

    Example: finer1 export-lmms paper_3b cot_sft_tapo tapo-checkpoint
    """
    from finer1_lib.commands.export import JUDGE, TASKS, WITHOUT_TASK, export_checkpoint, lmms_command
    from finer1_lib.runs.chain import find_run

    run_dir = find_run(output_root, run_name)
    folder = export_checkpoint(run_dir, model, target)
    print(f"checkpoint: {folder}")
    print(f"{', '.join(TASKS)} (lmms-eval is installed apart: pip install lmms_eval qwen-vl-utils):")
    print(f"  {lmms_command(run_dir, folder)}")
    print(JUDGE)
    print(f"{', '.join(WITHOUT_TASK)}: lmms-eval has no task for it")
    print(f"to serve it:\n  vllm serve {folder} --generation-config vllm")


_RUN = Annotated[str, typer.Argument(help="A run that finished 01_data.")]


def export_stage1(
    run_name: _RUN, target: Annotated[str, typer.Argument(help="The JSON file to write.")],
    output_root: OutputRoot = None,
) -> None:
    """Write a run's kept rationales as the JSON list that the release trains Stage 1 on.

    Example: finer1 export-stage1 miniature stage1.json
    """
    from finer1_lib.core.files import check_targets, read_jsonl
    from finer1_lib.paper.release.stage1 import write_stage1

    check_targets(target)
    count = write_stage1(read_jsonl(_data(run_name, output_root) / "rationales.jsonl"), target)
    print(f"rationales: {count} in {target}")


def export_stage2(
    run_name: _RUN, target: Annotated[str, typer.Argument(help="The folder to write; it must not exist.")],
    output_root: OutputRoot = None,
    resize: Annotated[
        bool, typer.Option("--resize", help="Stretch positive and negative to the anchor's size.")
    ] = False,
) -> None:
    """Write a run's triplets, pictures inside, as the parquet files that the release trains Stage 2 on.

    Example: finer1 export-stage2 miniature stage2
    """
    import pandas

    from finer1_lib.core.files import read_json
    from finer1_lib.paper.release.stage2 import write_stage2

    folder = _data(run_name, output_root)
    root = folder.parent / read_json(folder / "data.json")["image_root"]
    count = write_stage2(pandas.read_parquet(folder / "triplets.parquet"), root, target, resize=resize)
    print(f"triplets: {count} in {target}/data")


def _data(run_name: str, output_root: Optional[str]) -> Path:
    """The folder of a run's 01_data; an error if it was not finished."""
    from finer1_lib.core.errors import UserError
    from finer1_lib.runs.chain import find_run

    folder = find_run(output_root, run_name) / "01_data"
    if not (folder / "stage.json").is_file():
        raise UserError(f"{folder}: 01_data is not finished; run it first: finer1 run ... --to 01_data")
    return folder


def seeds(
    runs: Annotated[list[str], typer.Argument(help="Finished runs that differ in their seed alone.")],
    output_root: OutputRoot = None,
    json_file: Annotated[Optional[str], typer.Option("--json", help="Also write all numbers here.")] = None,
    figure: Annotated[Optional[str], typer.Option(help="Also draw them, as .png, .pdf or .svg.")] = None,
) -> None:
    """Pool runs of one preset under several seeds: means and differences, with 95 % intervals.

    Example: finer1 seeds miniature seed1 seed2 --figure seeds.png
    """
    from finer1_lib.commands.seeds import draw, pool, read_runs, tables
    from finer1_lib.core.files import atomic_write_json, check_targets
    from finer1_lib.evaluation.items import coverage_of
    from finer1_lib.runs.chain import find_run

    check_targets(json_file, figure)
    pooled = pool(read_runs(runs, output_root))
    partial = sorted({coverage_of(find_run(output_root, name)) for name in runs} - {""})
    for title, (titles, rows) in tables(pooled).items():
        show_table("\n".join([title, *partial]), titles, rows)
    if json_file is not None:
        atomic_write_json(Path(json_file), pooled)
    if figure is not None:
        draw(pooled, Path(figure))


def compare(
    run_name: Annotated[str, typer.Argument(help="A finished run on the paper's data.")],
    released: Annotated[Optional[str], typer.Option(help="A run of the released checkpoint.")] = None,
    to: Annotated[
        Optional[str], typer.Option(help="All lines as CSV.", show_default="comparison.csv in the run")
    ] = None,
    output_root: OutputRoot = None,
) -> None:
    """The paper's numbers beside a run's; a run on other data (the miniature's) is refused."""
    from finer1_lib.core.files import atomic_write_text, check_targets
    from finer1_lib.paper.comparison import compare_lines, comparison_table, to_csv
    from finer1_lib.runs.chain import find_run

    run = find_run(output_root, run_name)
    check_targets(to)
    table = comparison_table(run, released and find_run(output_root, released))
    print(compare_lines(table))
    target = Path(to or run / "comparison.csv")
    if to or os.access(run, os.W_OK):  # a finished run of somebody else's can be compared too
        atomic_write_text(target, to_csv(table))
        print(f"all {len(table)} lines, those of each data set too: {target}")
    else:
        print(f"{target} cannot be written: name a file with --to")


def systems(
    systems_from: Annotated[str, typer.Option("--from", help="A YAML file with entries of your own.")] = "",
) -> None:
    """List what would run for each row of the paper's tables, or the entries of a file of yours.

    Example: finer1 run single_gpu_80gb --set "04_evaluation.systems=[qwen2.5-vl-7b,siglip-l]"
    """
    from finer1_lib.evaluation.systems.registry import read_systems
    from finer1_lib.paper.rows import notes, systems_table

    if systems_from:
        entries = read_systems(systems_from).values()
        lines = [[one.name, one.label, one.kind, one.checkpoint, one.prompts] for one in entries]
        show_table(f"systems of {systems_from}", ["name", "label", "kind", "checkpoint", "prompts"], lines)
        return
    titles, lines = systems_table()
    show_table("systems for the rows of the paper's tables", titles, lines)
    for label, why in notes().items():
        print(f"{label}: {why}.")


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
    from finer1_lib.runs.presets import find_kit, make_plan
    from finer1_lib.runs.runner import clock
    from finer1_lib.teaching.lesson import PRESET, make_lesson

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
    from finer1_lib.runs.presets import find_kit
    from finer1_lib.teaching.student_copy import find_notebooks, write_copies

    found = find_notebooks(find_kit(), notebooks or [])
    for path in write_copies(found, Path(folder).expanduser(), force):
        print(path)


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
    from finer1_lib.core.files import atomic_write_json, check_targets
    from finer1_lib.paper.release.traps import count_traps, table

    check_targets(json_file)
    rows = count_traps(folder, words or (), seed=seed)
    show_table(f"traps: {folder}", *table(rows))
    if json_file is not None:
        atomic_write_json(Path(json_file), rows)


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
    from finer1_lib.commands.finish import finish_run
    from finer1_lib.runs.presets import find_kit, make_plan
    from finer1_lib.runs.runner import chosen_stages, clock, run_chain

    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{clock(time.monotonic() - began):>7}  {line}", flush=True)

    settings = settings or []
    stages = chosen_stages(first, last, settings)
    plan = make_plan(find_kit(), preset, run_name, output_root, seed, settings)
    report = run_chain(plan, stages, say, keep_finished, finish_run)
    if report is not None:
        _print_table(plan.run_dir)
        say(f"report: {report}")


def _print_table(run_dir: Any) -> None:
    """The main table on the terminal."""
    from finer1_lib.commands.terminal import show_table
    from finer1_lib.core.files import read_json
    from finer1_lib.evaluation.items import coverage_of
    from finer1_lib.evaluation.summary import labels_in, main_table

    titles, rows = main_table(read_json(run_dir / "summary.json", list), labels=labels_in(run_dir))
    if rows:
        title = "percent [95 % interval], strict scorer, average over super-categories"
        show_table("\n".join(filter(None, (title, coverage_of(run_dir)))), titles, rows)


for _command in (
    doctor, gpu_check, seeds,
    compare, export_stage1, export_stage2,
    export_lmms, cli_rescore.rescore, systems, traps,
    lesson, student_copy,
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

    from finer1_lib.runs.chain import NEEDS
    from finer1_lib.runs.presets import find_kit, list_presets, make_plan, read_parameters

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
    from finer1_lib.runs.runner import NotebookFailure

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
