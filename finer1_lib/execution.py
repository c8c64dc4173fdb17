"""One notebook run by papermill, with its lines shown as they come.

The kernel is the interpreter that runs this code, whatever `python` on PATH or a user's kernel specs say. It
stands in the run's folder, so nothing a library drops into the current folder lands elsewhere. When this
process ends, by Ctrl-C or by kill -9, the kernel ends too (ipykernel watches its parent).

Source: our choice (DESIGN 3), on papermill 2.7.0's engine interface.
"""

import logging
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable

import finer1_lib
from finer1_lib import surroundings
from finer1_lib.errors import UserError
from finer1_lib.files import system_line

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
