"""The chain run as one command: which stages are due, one after the other, and what stands at the end.

Source: our choice (DESIGN 4).
"""

import os
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
from finer1_lib.signatures import earlier_digests, is_current, is_finished, signature_of
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


def run_chain(plan: Plan, stages: Sequence[str], say: Callable[[str], None]) -> Optional[Path]:
    """Run the stages that are due and write summary.json and report.html.

    A stage is skipped if it finished with the same parameters and inputs and its executed notebook is there.

    Args:
        plan: of `make_plan`.
        stages: a consecutive part of the chain.
        say: called with each progress line.

    Returns:
        Path of the report; None if the chain ended before there was anything to report.

    Raises:
        UserError: a missing earlier stage, a folder in use, or the mistake a notebook names.
        NotebookFailure: a notebook failed otherwise.
    """
    run_dir = plan.run_dir
    missing = [stage for stage in NEEDS[stages[0]] if not is_current(run_dir, stage)]
    if missing:
        raise UserError(
            f"--from {stages[0]}: run {run_dir.name!r} in {run_dir.parent} has not finished"
            f" {', '.join(missing)}: run with --from {missing[0]}, or without --from"
        )
    with files.one_line_for_the_system(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        return _run_stages(plan, stages, say)


def _run_stages(plan: Plan, stages: Sequence[str], say: Callable[[str], None]) -> Optional[Path]:
    run_dir, held = plan.run_dir, None
    if not all(_is_done(plan, stage, _signature(plan, stage)) for stage in stages):  # up to the first that is due
        held = files.lock(run_dir / ".run.lock", f"run {run_dir.name!r}", patience=2.0)
    try:
        say(f"run {run_dir.name!r} in {run_dir}")
        for stage in stages:
            _run_stage(plan, stage, say)
        if not set(stages) & set(SOURCES):
            say(f"stopped after {stages[-1]}, as asked")
            return None
        if held is None and not os.access(run_dir, os.W_OK) and (run_dir / "report.html").is_file():
            say("nothing is due, and the folder may not be written: summary and report stay as they are")
            return run_dir / "report.html"
        return _conclude(run_dir)
    finally:
        files.unlock(held)


def _signature(plan: Plan, stage: str) -> str:
    return signature_of(plan.parameters[stage], earlier_digests(plan.run_dir, stage))


def _is_done(plan: Plan, stage: str, signature: str) -> bool:
    return is_finished(plan.run_dir / stage, signature) and (plan.run_dir / f"{stage}.ipynb").is_file()


def _run_stage(plan: Plan, stage: str, say: Callable[[str], None]) -> None:
    run_dir, number = plan.run_dir, f"{STAGES.index(stage) + 1}/{len(STAGES)}"
    signature = _signature(plan, stage)
    if _is_done(plan, stage, signature):
        say(f"{number} {stage} finished earlier with the same parameters and inputs: skipped")
        return
    for old in ("summary.json", "report.html"):
        (run_dir / old).unlink(missing_ok=True)  # they describe another state of the run
    if shutil.disk_usage(run_dir).free < 200e6:
        raise UserError(
            f"less than 200 MB are free where {run_dir} lies: make room, then run the same command again"
        )
    say(f"{number} {stage} begins")
    began = time.monotonic()
    run_notebook(stage, plan.notebooks[stage], plan.given[stage], run_dir, say)
    if not is_finished(run_dir / stage, signature):
        raise NotebookFailure(f"notebook {stage} ended without stage.finish(...), or under other parameters")
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
