"""The chain run as one command: which stages are due, one after the other, and what stands at the end.

Source: our choice.
"""

import shutil
import time
from pathlib import Path
from typing import Callable, Optional, Sequence

from finer1_lib import files
from finer1_lib.chain import NEEDS, STAGES
from finer1_lib.errors import UserError
from finer1_lib.execution import NotebookFailure, run_notebook
from finer1_lib.parameters import nearest
from finer1_lib.presets import Plan
from finer1_lib.signatures import (
    earlier_digests, is_current, is_finished, other_code, other_inputs, read_record, signature_of,
)  # fmt: skip
from finer1_lib.stage import set_aside
from finer1_lib.summary import SOURCES, join_summary


def chosen_stages(first: Optional[str], last: Optional[str], settings: Sequence[str] = ()) -> tuple[str, ...]:
    """The stages from `first` to `last`, both included.

    Args:
        first: `--from`; None for the chain's first.
        last: `--to`; None for the chain's last.
        settings: of `--set`; one for a stage that will not run is a mistake.

    Raises:
        UserError: unknown stage, `--from` after `--to`, or a setting without effect.
    """
    for option, stage in (("--from", first), ("--to", last)):
        if stage is not None and stage not in STAGES:
            raise UserError(f"{option} {stage}: unknown stage{nearest(stage, STAGES, 'the stages are')}")
    start = STAGES.index(first) if first else 0
    end = STAGES.index(last) + 1 if last else len(STAGES)
    if start >= end:
        raise UserError(f"--from {first} comes after --to {last}: no stage is left to run")
    for setting in settings:
        stage = setting.partition(".")[0].strip()
        if stage in STAGES and stage not in STAGES[start:end]:
            raise UserError(f"--set {setting} has no effect: {stage} is not among the stages to run")
    return STAGES[start:end]


def run_chain(
    plan: Plan, stages: Sequence[str], say: Callable[[str], None], keep_finished: bool = False
) -> Optional[Path]:
    """Run the stages that are due and write summary.json and report.html.

    A stage is skipped if it finished with the same parameters, inputs and code, its outputs are what it recorded,
    and its executed notebook is there.

    Args:
        plan: of `make_plan`.
        stages: a consecutive part of the chain.
        say: called with each progress line.
        keep_finished: go on with what other code of a notebook, or another version of the kit, made.

    Returns:
        Path of the report; None if the chain ended before there was anything to report.

    Raises:
        UserError: a missing earlier stage, a folder in use, removed or changed by hand, or the mistake a notebook
            names.
        NotebookFailure: a notebook failed otherwise.
    """
    run_dir = plan.run_dir
    missing = [stage for stage in NEEDS[stages[0]] if not is_current(run_dir, stage)]
    if missing:
        raise UserError(
            f"--from {stages[0]}: run {run_dir.name!r} in {run_dir.parent} has not finished"
            f" {', '.join(missing)}: run with --from {missing[0]}, or without --from"
        )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {run_dir}: {error.strerror}") from error
    held = files.lock(run_dir / ".run.lock", f"run {run_dir.name!r}", patience=2.0)
    try:
        say(f"run {run_dir.name!r} in {run_dir}")
        for stage in stages:
            _run_stage(plan, stage, say, keep_finished)
        if not set(stages) & set(SOURCES):
            say(f"stopped after {stages[-1]}, as asked")
            return None
        return _conclude(run_dir)
    except FileNotFoundError:
        if run_dir.is_dir():
            raise
        raise UserError(f"{run_dir} was removed while it was being made: give the same command again") from None
    finally:
        files.unlock(held)


def _run_stage(plan: Plan, stage: str, say: Callable[[str], None], keep_finished: bool) -> None:
    run_dir, number = plan.run_dir, f"{STAGES.index(stage) + 1}/{len(STAGES)}"
    needs, folder = earlier_digests(run_dir, stage), run_dir / stage
    signature = signature_of(plan.parameters[stage], needs)
    finished = is_finished(folder, signature)
    before = {**files.read_json(folder / "started.json"), **(read_record(folder) if finished else {})}
    same, other, why = before.get("signature") == signature, "", ""
    if same:
        other = other_code(before.get("made_by", {}), stage)
    elif before:
        why = f": {other_inputs(before, plan.parameters[stage], needs)}"
    if finished and (keep_finished or not other) and (run_dir / f"{stage}.ipynb").is_file():
        kept = f"kept, though {other}" if other else "skipped"
        say(f"{number} {stage} finished earlier with the same parameters and inputs: {kept}")
        return
    if other and not keep_finished:
        set_aside(folder)
        why = (f" anew: {other}; the earlier folder is {stage}.previous (with --keep-finished a stage that other code"
               " made is kept)")  # fmt: skip
    for old in ("summary.json", "report.html"):
        (run_dir / old).unlink(missing_ok=True)  # they describe another state of the run
    if shutil.disk_usage(run_dir).free < 200e6:
        raise UserError(
            f"less than 200 MB are free where {run_dir} lies: make room, then run the same command again"
        )
    say(f"{number} {stage} begins{why}")
    began = time.monotonic()
    run_notebook(stage, plan.notebooks[stage], plan.given[stage], run_dir, say)
    if not is_finished(folder, signature):
        started = files.read_json(folder / "started.json")
        if started.get("signature", signature) != signature:
            raise UserError(f"{stage}: a cell of the notebook sets parameters of its own"
                            f" ({other_inputs(started, plan.parameters[stage], needs)}): set them in the parameters"
                            f" cell, in params/ or by --set {stage}.NAME=VALUE")  # fmt: skip
        raise NotebookFailure(f"notebook {stage} ended without stage.finish(...)")
    say(f"{number} {stage} done in {clock(time.monotonic() - began)}")


def _conclude(run_dir: Path) -> Optional[Path]:
    from finer1_lib.report.page import write_report

    rows = join_summary(run_dir)
    return None if rows is None else write_report(run_dir, rows)


def clock(seconds: float) -> str:
    """Elapsed time as minutes and seconds, "3:07", with hours where there are any, "1:03:07"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
