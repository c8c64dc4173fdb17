"""The chain run as one command: which stages are due, one after the other, and what stands at the end.

Source: our choice.
"""

import os
import shutil
import time
from pathlib import Path
from typing import Callable, NamedTuple, Optional, Sequence

from finer1_lib import files
from finer1_lib.chain import NEEDS, STAGES
from finer1_lib.errors import UserError
from finer1_lib.execution import NotebookFailure, run_notebook
from finer1_lib.parameters import nearest
from finer1_lib.presets import Plan
from finer1_lib.signatures import (
    earlier_digests, is_current, is_finished, other_code, other_inputs, read_record, read_start, signature_of,
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

    A stage is skipped if it finished with the same parameters, inputs and code, its outputs are what it
    recorded, and its executed notebook is there.

    Args:
        plan: of `make_plan`.
        stages: a consecutive part of the chain.
        say: called with each progress line.
        keep_finished: go on with what other code of a notebook, or another version of the kit, made.

    Returns:
        Path of the report; None if the chain ended before there was anything to report.

    Raises:
        UserError: a missing earlier stage, a folder in use, removed or changed by hand, or the mistake that a
            notebook names.
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
        files.make_folder(run_dir)
        return _run_stages(plan, stages, say, keep_finished)


def _run_stages(
    plan: Plan, stages: Sequence[str], say: Callable[[str], None], keep_finished: bool
) -> Optional[Path]:
    run_dir, held = plan.run_dir, None
    done = (_is_done(plan, stage, _standing(plan, stage), keep_finished) for stage in stages)
    if not all(done):  # up to the first that is due
        held = files.lock(run_dir / ".run.lock", f"run {run_dir.name!r}", patience=2.0)
    try:
        say(f"run {run_dir.name!r} in {run_dir}")
        for stage in stages:
            _run_stage(plan, stage, say, keep_finished)
        if not set(stages) & set(SOURCES):
            say(f"stopped after {stages[-1]}, as asked")
            return None
        if held is None and not os.access(run_dir, os.W_OK) and (run_dir / "report.html").is_file():
            say("nothing is due, and the folder may not be written: summary and report stay as they are")
            return run_dir / "report.html"
        return _conclude(run_dir)
    except FileNotFoundError:
        if run_dir.is_dir():
            raise
        raise UserError(f"{run_dir} was removed while it was made: give the same command again") from None
    finally:
        files.unlock(held)


class _Standing(NamedTuple):
    """What lies in a stage's folder.

    Attributes:
        signature: that of the plan.
        finished: with this signature, and as recorded.
        other: which other code made or began what lies there; "" for none.
        why: what of its parameters and inputs is not the plan's; "" where all is, or nothing lies there.
    """

    signature: str
    finished: bool
    other: str
    why: str


def _standing(plan: Plan, stage: str) -> _Standing:
    needs, folder = earlier_digests(plan.run_dir, stage), plan.run_dir / stage
    signature = signature_of(plan.parameters[stage], needs)
    finished = is_finished(folder, signature)
    before = {**read_start(folder), **(read_record(folder) if finished else {})}
    if before.get("signature") == signature:
        return _Standing(signature, finished, other_code(before.get("made_by", {}), stage), "")
    why = other_inputs(before, plan.parameters[stage], needs) if before else ""
    return _Standing(signature, False, "", why)


def _is_done(plan: Plan, stage: str, found: _Standing, keep_finished: bool) -> bool:
    wanted = found.finished and (keep_finished or not found.other)
    return wanted and (plan.run_dir / f"{stage}.ipynb").is_file()


def _run_stage(plan: Plan, stage: str, say: Callable[[str], None], keep_finished: bool) -> None:
    run_dir, number = plan.run_dir, f"{STAGES.index(stage) + 1}/{len(STAGES)}"
    found, folder = _standing(plan, stage), run_dir / stage
    if _is_done(plan, stage, found, keep_finished):
        kept = f"kept, though {found.other}" if found.other else "skipped"
        say(f"{number} {stage} finished earlier with the same parameters and inputs: {kept}")
        return
    why = found.why and f": {found.why}"
    if found.other and not keep_finished:
        set_aside(folder)
        why = (f" anew: {found.other}; the earlier folder is {stage}.previous (--keep-finished keeps what"
               " other code made)")  # fmt: skip
    for old in ("summary.json", "report.html"):
        (run_dir / old).unlink(missing_ok=True)  # they describe another state of the run
    if shutil.disk_usage(run_dir).free < 200e6:
        raise UserError(
            f"less than 200 MB are free where {run_dir} lies: make room, then run the same command again"
        )
    say(f"{number} {stage} begins{why}")
    began = time.monotonic()
    run_notebook(stage, plan.notebooks[stage], plan.given[stage], run_dir, say)
    after = _standing(plan, stage)
    if not after.finished:
        if after.why:
            fix = f"set them in the parameters cell, in params/ or by --set {stage}.NAME=VALUE"
            raise UserError(f"{stage}: a cell of the notebook sets parameters of its own ({after.why}): {fix}")
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
