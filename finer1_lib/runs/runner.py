"""One notebook run by papermill, with its lines shown as they come.

The kernel is the interpreter that runs this code, whatever `python` on PATH or a user's kernel specs say. It
stands in the run's folder, so nothing a library drops into the current folder lands elsewhere. When this
process ends, by Ctrl-C or by kill -9, the kernel ends too (ipykernel watches its parent).

Source: our choice (DESIGN 3), on papermill 2.7.0's engine interface.

The chain run as one command: which stages are due, one after the other, and what stands at the end.

Source: our choice.
"""

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
from finer1_lib.evaluation.summary import SOURCES, join_summary
from finer1_lib.runs import provenance as surroundings
from finer1_lib.runs.chain import NEEDS, STAGES
from finer1_lib.runs.fingerprints import (
    earlier_digests,
    is_current,
    is_finished,
    other_code,
    other_inputs,
    read_record,
    read_start,
    signature_of,
)
from finer1_lib.runs.parameters import nearest
from finer1_lib.runs.presets import Plan
from finer1_lib.runs.stage import set_aside


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
    from finer1_lib.commands.report.page import write_report

    rows = join_summary(run_dir)
    return None if rows is None else write_report(run_dir, rows)


def clock(seconds: float) -> str:
    """Elapsed time as minutes and seconds, "3:07", with hours where there are any, "1:03:07"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_ENGINE = "finer1"


class NotebookFailure(Exception):
    """A notebook stopped for a reason that is not the user's; the message is a short report."""


def run_notebook(
    stage: str, source: Path, parameters: dict[str, Any], run_dir: Path, show: Callable[[str], None]
) -> None:
    """Execute a notebook; the executed copy lies at RUN/STAGE.ipynb, RUN/STAGE.failed.ipynb after a failure.

    Args:
        stage: e.g. "03_tapo".
        source: the notebook file.
        parameters: values to inject.
        run_dir: the run's folder, which exists.
        show: called with each line that the notebook prints and that begins with "[STAGE]".

    Raises:
        UserError: the notebook raised one; the same message.
        NotebookFailure: anything else went wrong in it.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    _register_engine()
    log = run_dir / f".{stage}.kernel.log"  # what the kernel process itself says, a crash above all
    running = run_dir / f"{stage}.running.ipynb"
    failed = run_dir / f"{stage}.failed.ipynb"
    failed.unlink(missing_ok=True)
    echo = _Lines(f"[{stage}]", show)
    try:
        with log.open("wb") as kernel_stderr, tempfile.TemporaryDirectory(prefix="finer1-") as settings:
            papermill.execute_notebook(
                source,
                running,
                parameters=parameters,
                engine_name=_ENGINE,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                cwd=run_dir,
                finer1_echo=echo,
                kernel_stderr=kernel_stderr,
                kernel_settings=settings,
            )
    except PapermillExecutionError as error:
        os.replace(running, failed)
        if error.ename == "UserError":
            message = str(error.evalue)
            raise UserError(message if message.startswith(stage) else f"{stage}: {message}") from None
        if line := system_line(str(error.evalue), run_dir):
            raise UserError(f"{stage}: {line}") from None
        raise NotebookFailure(_report(stage, error, failed)) from None
    except DeadKernelError:
        os.replace(running, failed)
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise NotebookFailure(
            f"{stage} failed: its kernel died, most often for want of memory"
            f"{'; it last said: ' + said[-1][:300] if said else ''}"
            f"\n  executed notebook: {failed}\n  log: {log}"
        ) from None
    except BaseException:  # Ctrl-C above all: nothing half done stays under a notebook's name
        running.unlink(missing_ok=True)
        raise
    log.unlink()
    os.replace(running, run_dir / f"{stage}.ipynb")


def _report(stage: str, error: Any, failed: Path) -> str:
    """Three lines: what was raised, the notebook's own line, and where to look."""
    text = _ANSI.sub("", "\n".join(error.traceback))
    arrows = [line.strip() for line in text.splitlines() if re.match(r"\s*-+> ?\d+ ", line)]
    line = f"\n  in the line {arrows[0].lstrip('->').strip()}" if arrows else ""
    what = f"{error.ename}: {_ANSI.sub('', str(error.evalue)).strip()[:500]}"
    where = f"cell {error.cell_index} of the notebook"
    return f"{stage} failed in {where}: {what}{line}\n  executed notebook: {failed}"


class _Lines:
    """Cuts a stream of text pieces into lines and shows those with the prefix."""

    def __init__(self, prefix: str, show: Callable[[str], None]) -> None:
        self.prefix, self.show, self.rest = prefix, show, ""

    def __call__(self, text: str) -> None:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            if line.startswith(self.prefix):
                self.show(line.rstrip())


def _kernel_environment(settings: str) -> dict[str, str]:
    """The kernel's environment: a clean one, telemetry off, and the kit that runs here importable there.

    Args:
        settings: an empty folder in place of the user's ~/.ipython, whose start-up files a run does not need.
    """
    environment = surroundings.cleaned(os.environ)
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "IPYTHONDIR": settings}
    home = Path(finer1_lib.__file__).resolve().parent.parent
    if home.name != "site-packages":  # a checkout that was not installed
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(home), environment.get("PYTHONPATH")]))
    return environment


def _register_engine() -> None:
    """Tell papermill of an engine with our kernel and our echo; done once."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import Engine, papermill_engines

    if _ENGINE in papermill_engines._engines:
        return

    class OwnKernel(AsyncKernelManager):
        """Starts this very interpreter."""

        @property
        def kernel_spec(self) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, display_name="Python 3", language="python")

    class Client(PapermillNotebookClient):
        """papermill's client that hands stdout on as it comes."""

        def __init__(self, nb_man: Any, echo: Callable[[str], None], **settings: Any) -> None:
            super().__init__(nb_man, **settings)
            self._echo = echo

        def process_message(self, message: dict, *rest: Any, **named: Any) -> Any:
            if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
                self._echo(message["content"]["text"])
            return super().process_message(message, *rest, **named)

    class OwnEngine(Engine):
        """Runs all cells; on Ctrl-C the kernel is interrupted, then shut down."""

        @classmethod
        def execute_managed_notebook(
            cls, nb_man: Any, kernel_name: str, finer1_echo: Any, kernel_stderr: Any, kernel_settings: str,
            **settings: Any
        ) -> None:
            log = logging.getLogger("finer1.kernel")
            log.addHandler(logging.NullHandler())
            log.propagate = False
            client = Client(
                nb_man, finer1_echo, kernel_manager_class=OwnKernel, kernel_name=kernel_name, timeout=None,
                startup_timeout=300, log=log,
            )  # fmt: skip
            client.execute(env=_kernel_environment(kernel_settings), stderr=kernel_stderr)

    papermill_engines.register(_ENGINE, OwnEngine)
