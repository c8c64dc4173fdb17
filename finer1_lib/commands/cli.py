"""The console command `finer1`: every command reads its options, calls the library and prints.

Exit codes: 0 done; 2 a mistake of the user's (one line on stderr); 1 a fault of the kit; 130 after Ctrl-C.
What a single command needs is imported inside it, so that `finer1 --help` starts without torch or pandas.
"""

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Callable, Sequence

import typer

from finer1_lib.commands.findings import Finding, as_json, counts, examine
from finer1_lib.commands.rescore import rescore
from finer1_lib.commands.terminal import Json, OutputRoot, new_app, run_app, show_table, write_json
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import atomic_write_text, check_targets, read_json
from finer1_lib.runs.chain import NEEDS, find_run
from finer1_lib.runs.presets import find_kit, list_presets, make_plan, read_parameters

app = new_app(
    help="Fine-R1, step by step: run the notebooks of the kit as one chain.", no_args_is_help=True,
    epilog="Environment: FINER1_KIT names a folder with notebooks/ and params/ in place of the checkout.")

Preset = Annotated[str, typer.Argument(help="Folder in params/, e.g. miniature; `finer1 list` shows all.")]
RunName = Annotated[str | None, typer.Option(
    help="Folder of this run inside the output root.", show_default="the preset's run_name")]
PresetRoot = Annotated[str | None, typer.Option(
    help="Folder for all runs.", show_default="the preset's, else outputs/ in the checkout")]
Settings = Annotated[list[str] | None, typer.Option(
    "--set", metavar="STAGE.KEY=VALUE",
    help="One parameter of one notebook; may be repeated. Lists as \\[a, b]. A relative folder"
    " or file counts from the current folder.")]
Seed = Annotated[int | None, typer.Option(help="Seed of every notebook.", show_default="the preset's")]
NewFolder = Annotated[str, typer.Argument(help="The folder to write; it must not exist.")]

# Running a preset ---------------------------------------------------------------------------------

_RUN_HELP = "\n\n".join((
    "Run the notebooks of a preset, one after the other, and end in a table and a report.",
    "Stages that finished with the same parameters, inputs, code of the notebook and version of the kit are"
    " skipped, and one that was interrupted resumes where it stopped: after a crash, a kill or Ctrl-C, give"
    " the same command again.",
    "Everything is written to OUTPUT_ROOT/RUN_NAME: a folder per stage, the executed notebooks, summary.json"
    " and report.html.",
    "Examples:",
    "  finer1 run miniature",
    "  finer1 run miniature --run-name photos --set 01_data.image_root=my_photos",
    "  finer1 run miniature --run-name seed1 --seed 1",
    "  finer1 run miniature --run-name short --to 02_cot_sft --set 02_cot_sft.cot_epochs=2",
    "Exit codes: 0 done; 2 a mistake in the command or the data, reported in one line; 1 a fault of the kit;"
    " 130 after Ctrl-C."))


@app.command(help=_RUN_HELP)
def run(preset: Preset, run_name: RunName = None, output_root: PresetRoot = None,
        first: Annotated[str | None, typer.Option(
            "--from", metavar="STAGE", help="First stage to run; the ones before must be finished.")] = None,
        last: Annotated[str | None, typer.Option("--to", metavar="STAGE", help="Last stage to run.")] = None,
        settings: Settings = None, seed: Seed = None,
        keep_finished: Annotated[bool, typer.Option(
            "--keep-finished", help="Also keep what other code of a notebook or another version of the kit "
            "made; without it such a stage is computed again.")] = False) -> None:
    from finer1_lib.commands.report.page import finish_run
    from finer1_lib.evaluation.requests import coverage_of
    from finer1_lib.evaluation.summary import labels_in, main_table
    from finer1_lib.runs.runner import chosen_stages, run_chain
    say, settings = _timed(), settings or []
    stages = chosen_stages(first, last, settings)
    plan = make_plan(find_kit(), preset, run_name, output_root, seed, settings)
    if (report := run_chain(plan, stages, say, keep_finished, finish_run)) is None:
        return
    run_dir = plan.run_dir
    titles, rows = main_table(read_json(run_dir / "summary.json", list), labels=labels_in(run_dir))
    if rows:
        show_table("percent [95 % interval], strict scorer, average over super-categories", titles, rows,
                   coverage_of(run_dir))
    say(f"report: {report}")


def _timed() -> Callable[[str], None]:
    """A function that prints a line after the time since now."""
    from finer1_lib.runs.runner import clock
    began = time.monotonic()
    return lambda line: print(f"{clock(time.monotonic() - began):>7}  {line}", flush=True)


@app.command("list")
def list_all(
    preset: Annotated[str | None, typer.Argument(help="Show this preset's values too.")] = None) -> None:
    """List presets and stages; with a preset, every notebook's parameters and their values."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
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


# Preflight checks ---------------------------------------------------------------------------------

@app.command()
def doctor(preset: Preset, run_name: RunName = None, output_root: PresetRoot = None,
           settings: Settings = None, seed: Seed = None,
           quick: Annotated[bool, typer.Option("--quick", help="Open only a sample of the images.")] = False,
           gpu_gib: Annotated[float | None, typer.Option(
               min=0.1, help="Memory of the GPU that will be used.", show_default="this one's")] = None,
           json_file: Json = None) -> None:
    """Check a preset's data, texts and machine before it runs: pass, warn, fail, and how to fix it.

    Exit codes: 0 nothing fails; 2 something does.

    Example: finer1 doctor single_gpu_24gb --set 01_data.data_root=~/data --quick
    """
    from finer1_lib.commands.doctor import CHECKS
    from finer1_lib.commands.doctor.machine import memory_lines
    from finer1_lib.commands.doctor.subject import Subject
    check_targets(json_file)
    plan = make_plan(find_kit(), preset, run_name, output_root, seed, settings or ())

    def progress(what: str, done: int, total: int) -> None:
        if done % 2000 == 0 or (done == total and total >= 2000):
            print(f"{what}: {done}/{total}", flush=True)

    subject = Subject(plan, quick=quick, gpu_bytes=gpu_gib and gpu_gib * 2**30, progress=progress)
    about = {"preset": preset, "run": plan.run_dir.name, "quick": quick}
    _report("doctor", about, examine(subject, CHECKS), json_file, memory_lines(subject))


@app.command("gpu-check")
def gpu_check(preset: Preset, run_name: RunName = None, output_root: PresetRoot = None,
              settings: Settings = None, seed: Seed = None,
              vllm: Annotated[bool, typer.Option("--vllm", help="Check an installed vLLM too.")] = False,
              json_file: Json = None) -> None:
    """Try a preset's training on this machine's GPU, in small: what tests without a GPU cannot show.

    Exit codes: 0 nothing fails; 2 something does, or there is no GPU.

    Example: finer1 gpu-check single_gpu_24gb
    """
    check_targets(json_file)
    plan = make_plan(find_kit(), preset, run_name, output_root, seed, settings or ())
    found = _tool("tools.gpu_check", "gpu-check").run(plan, vllm=vllm)
    _report("gpu-check", {"preset": preset}, found, json_file)


def _tool(module: str, command: str) -> Any:
    """A module below the checkout's tests/, where what measures the code itself is kept."""
    file = find_kit() / "tests" / f"{module.replace('.', '/')}.py"
    if not file.is_file():
        raise UserError(f"{command}: no {file}: run it from a checkout of the kit")
    sys.path.insert(0, str(find_kit() / "tests"))
    return importlib.import_module(module)


def _report(command: str, about: dict[str, Any], findings: Sequence[Finding], json_file: str | None,
            more: Sequence[str] = ()) -> None:
    """Print and write the findings, and end in an error if something fails."""
    named = f", run {about['run']}" if "run" in about else ""
    show_table(f"{command}: {about['preset']}{named}", ["check", "", "what, and where", "how to fix it"],
               [[one.check, one.level, f"{one.what}\n{one.where}".strip(), one.mend] for one in findings])
    print(*more, sep="\n", end="\n" if more else "")
    print(", ".join(f"{number} {level}" for level, number in counts(findings).items()))
    write_json(json_file, {**about, **as_json(findings)})
    if failed := dict.fromkeys(one.check for one in findings if one.level == "fail"):
        raise UserError(f"{command}: {', '.join(failed)}: fix the failed checks and rerun")


# Reading finished runs ----------------------------------------------------------------------------

@app.command()
def seeds(runs: Annotated[list[str], typer.Argument(help="Finished runs that differ only in their seed.")],
          output_root: OutputRoot = None, json_file: Json = None,
          figure: Annotated[str | None, typer.Option(help="Also draw them, as .png, .pdf or .svg.")] = None
          ) -> None:
    """Pool runs of one preset under several seeds: means and differences, with 95 % intervals.

    Example: finer1 seeds miniature seed1 seed2 --figure seeds.png
    """
    from finer1_lib.commands.seeds import draw, pool, read_runs, tables
    from finer1_lib.evaluation.requests import coverage_of
    check_targets(json_file, figure)
    pooled = pool(read_runs(runs, output_root))
    partial = sorted({coverage_of(find_run(output_root, name)) for name in runs} - {""})
    for title, (titles, rows) in tables(pooled).items():
        show_table(title, titles, rows, "\n".join(partial))
    write_json(json_file, pooled)
    if figure is not None:
        draw(pooled, Path(figure))


_SCRIPTS = {  # of the checkout, in tests/tools or tests/benchmarks; their options are their own
    "export-stage1": "Write a run's kept rationales as the JSON list that the release trains Stage 1 on.",
    "export-stage2": "Write a run's triplets, images inside, as the parquet files of the release's Stage 2.",
    "traps": "Count the traps in the release's evaluation files: the truth first, distractors that contain it, ...",
    "benchmark": "Time a step of TAPO against one of DAPO with equal rollouts, and what shared prompts save.",
    "benchmark-triplets": "Time the mining of negatives by prototypes against all pairs of images.",
    "benchmark-evaluation": "Time an evaluation against the release's: same model, items, prompts, threads."}


def _run_script(context: typer.Context) -> None:
    """Run a script of `_SCRIPTS` with the arguments as they are."""
    name = context.info_name
    room = "benchmarks" if name.startswith("benchmark") else "tools"
    module = _tool(f"{room}.{name.replace('-', '_')}", name)
    if code := module.app(context.args, prog_name=f"finer1 {name}", standalone_mode=False):
        raise typer.Exit(code)


for _name, _help in _SCRIPTS.items():
    app.command(_name, help=_help, add_help_option=False, context_settings={
        "allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})(_run_script)


@app.command()
def compare(run_name: Annotated[str, typer.Argument(help="A finished run on the paper's data.")],
            released: Annotated[str | None, typer.Option(help="A run of the released checkpoint.")] = None,
            to: Annotated[str | None, typer.Option(
                help="All lines as CSV.", show_default="comparison.csv in the run")] = None,
            output_root: OutputRoot = None) -> None:
    """The paper's numbers beside a run's; a run on other data (the miniature's) is refused."""
    from finer1_lib.paper.comparison import compare_lines, comparison_table, to_csv
    run = find_run(output_root, run_name)
    check_targets(to)
    table = comparison_table(run, released and find_run(output_root, released))
    print(compare_lines(table))
    target = Path(to or run / "comparison.csv")
    if to or os.access(run, os.W_OK):  # a finished run of another user's can be compared too
        atomic_write_text(target, to_csv(table))
        print(f"all {len(table)} lines, those of each data set too: {target}")
    else:
        print(f"{target} cannot be written: name a file with --to")


@app.command("export-lmms")
def export_lmms(run_name: Annotated[str, typer.Argument(help="A run that trained the model.")],
                model: Annotated[str, typer.Argument(help="Its name in the records, e.g. cot_sft_tapo.")],
                target: NewFolder, output_root: OutputRoot = None) -> None:
    """Write a trained model as a merged checkpoint, and print the commands for lmms-eval and vLLM.

    Example: finer1 export-lmms paper_3b cot_sft_tapo tapo-checkpoint
    """
    from finer1_lib.commands.export import JUDGE, TASKS, WITHOUT_TASK, export_checkpoint, lmms_command
    run_dir = find_run(output_root, run_name)
    folder = export_checkpoint(run_dir, model, target)
    print(f"checkpoint: {folder}",
          f"{', '.join(TASKS)} (lmms-eval is installed separately: pip install lmms_eval qwen-vl-utils):",
          f"  {lmms_command(run_dir, folder)}", JUDGE,
          f"{', '.join(WITHOUT_TASK)}: lmms-eval has no task for it",
          f"to serve it:\n  vllm serve {folder} --generation-config vllm", sep="\n")


app.command()(rescore)


@app.command()
def systems(
    systems_from: Annotated[str, typer.Option("--from", help="A YAML file with your own entries.")] = ""
) -> None:
    """List what would run for each row of the paper's tables, or the entries of your own file.

    Example: finer1 run single_gpu_80gb --set "04_evaluation.systems=[qwen2.5-vl-7b,siglip-l]"
    """
    from finer1_lib.evaluation.systems.registry import read_systems
    from finer1_lib.paper.rows import notes, systems_table
    if systems_from:
        columns = ["name", "label", "kind", "checkpoint", "prompts"]
        lines = [[getattr(one, name) for name in columns] for one in read_systems(systems_from).values()]
        return show_table(f"systems of {systems_from}", columns, lines)
    show_table("systems for the rows of the paper's tables", *systems_table())
    for label, why in notes().items():
        print(f"{label}: {why}.")


# Teaching -----------------------------------------------------------------------------------------

@app.command()
def lesson(
    run_name: Annotated[str, typer.Option(help="Folder of the lesson inside the output root.")] = "lesson",
    output_root: Annotated[str | None, typer.Option(
        help="Folder for all runs.", show_default="outputs/ in the checkout")] = None) -> None:
    """Prepare notebooks 04 and 05 for a lesson of 50 minutes, without training.

    Runs 00 and 01 of the preset miniature (under a minute), takes adapters and answers from
    outputs/reference, and prints what to open.
    """
    from finer1_lib.teaching.lesson import PRESET, make_lesson
    say, kit = _timed(), find_kit()
    plan = make_plan(kit, PRESET, run_name, output_root)
    copies = make_lesson(plan, kit / "outputs" / "reference", say)
    where = "" if output_root is None else f" --output-root {output_root}"
    print("\nready; no model was trained. Now open, and run from the top, one after the other:",
          *(f"  jupyter lab {_short(copy)}" for copy in copies),
          "when both have run, the report of the lesson:",
          f"  finer1 run {PRESET} --run-name {run_name} --from 04_evaluation{where}",
          "copies without solutions, for students:",
          f"  finer1 student-copy {' '.join(map(_short, copies))} --to {_short(plan.run_dir / 'students')}",
          sep="\n")


def _short(path: Path) -> str:
    """A path as one would type it here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@app.command("student-copy")
def student_copy(
    folder: Annotated[str, typer.Option("--to", metavar="FOLDER", help="Where the copies go.")],
    notebooks: Annotated[list[str] | None, typer.Argument(
        help="Names like 03_tapo, or files; all six if none is given.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing copies.")] = False) -> None:
    """Copy notebooks without their solutions and outputs.

    Example: finer1 student-copy 03_tapo 04_evaluation --to handout
    """
    from finer1_lib.teaching.student_copy import find_notebooks, write_copies
    for path in write_copies(find_notebooks(find_kit(), notebooks or []), Path(folder).expanduser(), force):
        print(path)


def main() -> None:
    """The entry point of `finer1`."""
    run_app(app)


if __name__ == "__main__":
    main()
