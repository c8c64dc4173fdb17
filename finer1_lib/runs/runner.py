"""The chain as one command: which stages are due, each run by papermill with its lines shown as they come.

The kernel is the interpreter that runs this code, whatever `python` on PATH or a user's kernel specs name.
Its current folder is the run's, so that files a library drops there land nowhere else. When this process
ends, by Ctrl-C or by kill -9, the kernel ends too (ipykernel watches its parent).
"""

import io
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Sequence

import finer1_lib
from finer1_lib.core import files
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import system_line
from finer1_lib.runs import provenance
from finer1_lib.runs.chain import NEEDS, STAGES
from finer1_lib.runs.fingerprints import (earlier_digests, is_current, is_finished, other_code, other_inputs,
                                          read_record, read_start, signature_of)
from finer1_lib.runs.parameters import nearest
from finer1_lib.runs.presets import Plan
from finer1_lib.runs.stage import set_aside

Say = Callable[[str], None]  # called with each line of progress
Finish = Callable[[Path, Sequence[str], Say], Optional[Path]]


class NotebookFailure(Exception):
    """A notebook stopped for a reason that the user cannot fix; the message is a short report."""


def chosen_stages(first: Optional[str], last: Optional[str], settings: Sequence[str] = ()) -> tuple[str, ...]:
    """The stages from `first` to `last`, both included; UserError for an option that fits none of them."""
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


def run_chain(plan: Plan, stages: Sequence[str], say: Say, keep_finished: bool = False,
              finish: Optional[Finish] = None) -> Optional[Path]:
    """Run the stages (a consecutive part of the chain) that are due; returns `finish(run_dir, stages, say)`.

    A stage is skipped if it finished with the same parameters, inputs and code (`keep_finished`: any code),
    its outputs are what it recorded, and its executed notebook is there. The run is locked during `finish`.
    Raises: UserError: a missing earlier stage, a folder in use, removed or changed by hand, or one that a
    notebook raised. NotebookFailure: a notebook failed otherwise.
    """
    run_dir = plan.run_dir
    missing = [stage for stage in NEEDS[stages[0]] if not is_current(run_dir, stage)]
    if missing:
        raise UserError(f"--from {stages[0]}: run {run_dir.name!r} in {run_dir.parent} has not finished"
                        f" {', '.join(missing)}: run with --from {missing[0]}, or without --from")
    with files.one_line_for_the_system(run_dir):
        files.make_folder(run_dir)
        held = None
        if not all(_status(plan, stage).is_done(keep_finished) for stage in stages):
            held = files.lock(run_dir / ".run.lock", f"run {run_dir.name!r}", patience=2.0)
        try:
            say(f"run {run_dir.name!r} in {run_dir}")
            for stage in stages:
                _run_stage(plan, stage, say, keep_finished)
            return finish(run_dir, stages, say) if finish else None
        except FileNotFoundError:
            if run_dir.is_dir():
                raise
            raise UserError(f"{run_dir} was removed while it was made: give the same command again") from None
        finally:
            files.unlock(held)


class _Status(NamedTuple):
    """The state of a stage's folder."""

    finished: bool  # with the plan's signature, and its outputs as recorded
    other_code: str = ""  # which other code made or began it
    why: str = ""  # how its parameters and inputs differ from the plan's
    executed: bool = False  # whether the executed notebook is there

    def is_done(self, keep_finished: bool) -> bool:
        return self.finished and self.executed and (keep_finished or not self.other_code)


def _status(plan: Plan, stage: str) -> _Status:
    needs, folder = earlier_digests(plan.run_dir, stage), plan.run_dir / stage
    signature = signature_of(plan.parameters[stage], needs)
    finished = is_finished(folder, signature)
    before = {**read_start(folder), **(read_record(folder) if finished else {})}
    if before.get("signature") != signature:
        return _Status(False, why=other_inputs(before, plan.parameters[stage], needs) if before else "")
    code = other_code(before.get("made_by", {}), stage)
    return _Status(finished, code, executed=(plan.run_dir / f"{stage}.ipynb").is_file())


def _run_stage(plan: Plan, stage: str, say: Say, keep_finished: bool) -> None:
    run_dir, number = plan.run_dir, f"{STAGES.index(stage) + 1}/{len(STAGES)}"
    found = _status(plan, stage)
    if found.is_done(keep_finished):
        kept = f"kept, though {found.other_code}" if found.other_code else "skipped"
        say(f"{number} {stage} finished earlier with the same parameters and inputs: {kept}")
        return
    why = found.why and f": {found.why}"
    if found.other_code and not keep_finished:
        set_aside(run_dir / stage)
        why = (f" again: {found.other_code}; the earlier folder is {stage}.previous (--keep-finished keeps what"
               " other code made)")
    for old in ("summary.json", "report.html"):
        (run_dir / old).unlink(missing_ok=True)  # they describe another state of the run
    if shutil.disk_usage(run_dir).free < 200e6:
        raise UserError(f"less than 200 MB are free on the disk of {run_dir}: make room, then run the same"
                        " command again")
    say(f"{number} {stage} begins{why}")
    began = time.monotonic()
    run_notebook(stage, plan.notebooks[stage], plan.given[stage], run_dir, say)
    after = _status(plan, stage)
    if not after.finished and after.why:
        raise UserError(f"{stage}: a cell of the notebook sets parameters of its own ({after.why}): set them in the"
                        f" parameters cell, in params/ or by --set {stage}.NAME=VALUE")
    if not after.finished:
        raise NotebookFailure(f"notebook {stage} ended without stage.finish(...)")
    say(f"{number} {stage} done in {clock(time.monotonic() - began)}")


def clock(seconds: float) -> str:
    """Elapsed time as minutes and seconds, "3:07", with hours where there are any, "1:03:07"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def run_notebook(stage: str, source: Path, parameters: dict[str, Any], run_dir: Path, show: Say) -> None:
    """Execute a notebook into RUN/STAGE.ipynb, or RUN/STAGE.failed.ipynb after a failure.

    `show` is called with each printed line that begins with "[STAGE]".
    Raises: UserError: the notebook raised one; the same message. NotebookFailure: it failed otherwise.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # a grammar that no notebook needs: 2 s
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").propagate = False
    logging.getLogger("papermill").addHandler(logging.NullHandler())  # failures are reported here, once
    log = run_dir / f".{stage}.kernel.log"  # stderr of the kernel process: its last words after a crash
    running, failed = run_dir / f"{stage}.running.ipynb", run_dir / f"{stage}.failed.ipynb"
    failed.unlink(missing_ok=True)
    try:
        with log.open("wb") as kernel_stderr, tempfile.TemporaryDirectory(prefix="finer1-") as settings:
            papermill.execute_notebook(
                source, running, parameters, kernel_name="python3", language="python", progress_bar=False,
                cwd=run_dir, start_timeout=300, stdout_file=_Lines(f"[{stage}]", show),
                kernel_manager_class=_kernel_manager(_kernel_environment(settings), kernel_stderr),
            )
    except PapermillExecutionError as error:
        os.replace(running, failed)
        message = str(error.evalue)
        if error.ename == "UserError":
            raise UserError(message if message.startswith(stage) else f"{stage}: {message}") from None
        if line := system_line(message, run_dir):
            raise UserError(f"{stage}: {line}") from None
        arrows = re.findall(r"^\s*-+> ?(\d+ .*)", _plain("\n".join(error.traceback)), re.MULTILINE)
        line = f"\n  in the line {arrows[0].strip()}" if arrows else ""
        what = f"{error.ename}: {_plain(message).strip()[:500]}"
        raise NotebookFailure(f"{stage} failed in cell {error.cell_index} of the notebook: {what}{line}"
                              f"\n  executed notebook: {failed}") from None
    except DeadKernelError:
        os.replace(running, failed)
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        said = f"; it last said: {last[0][:300]}" if last else ""
        raise NotebookFailure(f"{stage} failed: its kernel died, most often for want of memory{said}"
                              f"\n  executed notebook: {failed}\n  log: {log}") from None
    except BaseException:  # Ctrl-C above all: nothing half done stays under a notebook's name
        running.unlink(missing_ok=True)
        raise
    log.unlink()
    os.replace(running, run_dir / f"{stage}.ipynb")


def _plain(text: str) -> str:
    """Text without the colours of a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


class _Lines(io.TextIOBase):
    """A text stream that hands on each whole line that begins with a prefix."""

    def __init__(self, prefix: str, show: Say) -> None:
        self.prefix, self.show, self.rest = prefix, show, ""

    def write(self, text: str) -> None:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            if line.startswith(self.prefix):
                self.show(line.rstrip())


def _kernel_environment(settings: str) -> dict[str, str]:
    """A clean environment, without telemetry, in which this very kit is importable.
    `settings` is an empty folder in place of the user's ~/.ipython, whose start-up files a run does not need.
    """
    environment = provenance.cleaned(os.environ)
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "IPYTHONDIR": settings}
    home = Path(finer1_lib.__file__).resolve().parent.parent
    if home.name != "site-packages":  # a checkout that was not installed
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(home), environment.get("PYTHONPATH")]))
    return environment


def _kernel_manager(environment: dict[str, str], stderr: Any) -> type:
    """jupyter_client's manager with this interpreter, an environment and a log: papermill passes none."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class OwnKernel(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, display_name="Python 3", language="python")

        async def start_kernel(self, **settings: Any) -> None:
            await super().start_kernel(**{"env": environment, "stderr": stderr, **settings})

    return OwnKernel
