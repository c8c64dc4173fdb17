"""Commands that look before anything runs: `finer1 doctor`, `finer1 gpu-check`.

Source: our choice (DESIGN 7: what is wrong is said before numbers are made with it).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, Sequence

import typer

from finer1_lib.errors import UserError
from finer1_lib.terminal import show_table

if TYPE_CHECKING:
    from finer1_lib.doctor.examination import Finding

Preset = Annotated[str, typer.Argument(help="Folder in params/, e.g. miniature; `finer1 list` shows all.")]
RunName = Annotated[
    Optional[str], typer.Option(help="Folder of the run.", show_default="the preset's run_name")]
OutputRoot = Annotated[
    Optional[str],
    typer.Option(help="Folder for all runs.", show_default="the preset's, else outputs/ in the checkout")]
Settings = Annotated[
    Optional[list[str]], typer.Option("--set", metavar="STAGE.KEY=VALUE", help="As for `finer1 run`.")]
Seed = Annotated[Optional[int], typer.Option(help="Seed of every notebook.", show_default="the preset's")]
Json = Annotated[Optional[str], typer.Option("--json", help="Also write everything here.")]


def doctor(
    preset: Preset, run_name: RunName = None, output_root: OutputRoot = None, settings: Settings = None,
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
    from finer1_lib.doctor.examination import examine
    from finer1_lib.doctor.machine import memory_lines
    from finer1_lib.doctor.subject import Subject
    from finer1_lib.files import check_targets
    from finer1_lib.presets import find_kit, make_plan

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
    preset: Preset, run_name: RunName = None, output_root: OutputRoot = None, settings: Settings = None,
    seed: Seed = None,
    vllm: Annotated[bool, typer.Option("--vllm", help="Look at an installed vLLM too.")] = False,
    json_file: Json = None,
) -> None:
    """Try a preset's training on this machine's GPU, in small: what the tests without a GPU cannot see.

    Exit codes: 0 nothing fails; 2 something does, or there is no GPU.

    Example: finer1 gpu-check single_gpu_24gb
    """
    from finer1_lib.files import check_targets
    from finer1_lib.gpu_check import run
    from finer1_lib.presets import find_kit, make_plan

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
    from finer1_lib.doctor.examination import as_json, counts
    from finer1_lib.files import atomic_write_json

    print(", ".join(f"{number} {level}" for level, number in counts(findings).items()))
    if json_file is not None:
        atomic_write_json(Path(json_file), {**about, **as_json(findings)})
    if failed := dict.fromkeys(one.check for one in findings if one.level == "fail"):
        raise UserError(f"{command}: {', '.join(failed)}: mend what fails and look again")
