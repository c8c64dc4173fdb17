"""The hand-over between notebooks: what a stage finds, where it writes, and the record it leaves.

A notebook opens its stage in the set-up cell (`notebook.open_stage`), reads earlier stages by
`stage.input(...)`, writes under `stage.path(...)`, and closes it in its last cell with `stage.finish({...})`.

A stage is known by its *signature* (`fingerprints.signature_of`). A folder with another signature is moved
aside to `NN_stage.previous` (one is kept) and begun again. With the same signature everything in the folder
is kept, so heavy functions load or resume. The record must describe what was written: a parameter changed
below the set-up cell, or a folder that was removed meanwhile, is refused.
"""

import os
import shutil
import time
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, Mapping, Optional

from finer1_lib.core import files, hashing
from finer1_lib.core.errors import UserError
from finer1_lib.core.escaping import write_csv
from finer1_lib.core.plots import file_of
from finer1_lib.runs import provenance
from finer1_lib.runs.chain import NEEDS, STAGES, check_kinds, find_run
from finer1_lib.runs.fingerprints import (check_outputs, digest_of, earlier_digests, is_finished, made_by,
                                          other_code, other_inputs, read_record, read_start, short,
                                          signature_of)
from finer1_lib.runs.parameters import nearest

SCRATCH = "checkpoints"  # what a stage needs only to resume; removed when it finishes
_OWN = ("stage.json", "started.json", SCRATCH)  # never outputs
_locks: dict[Path, int] = {}


class Stage:
    """One notebook's place in a run.

    `run_dir` and `dir` are absolute, `parameters` read-only; `finished`: stage.json has this signature and its
    outputs are in place; `made_by`: the code that made what the folder holds; `note`: a line for the reader, why
    the stage begins again or which other code made what is kept.
    """

    def __init__(self, name: str, run_dir: Path, parameters: dict[str, Any], needs: dict[str, str],
                 values_now: Optional[Callable[[], dict[str, Any]]] = None) -> None:
        self.name, self.run_dir, self.dir, self.needs = name, run_dir, run_dir / name, needs
        self.parameters = MappingProxyType({key: value for key, value in parameters.items() if key != "notebook"})
        self._values_now, self._opened_with = values_now or (lambda: parameters), parameters
        self.signature = signature_of(parameters, needs)
        self.finished = is_finished(self.dir, self.signature)
        self.inputs: dict[str, str] = {}
        self.note = ""
        self._began = time.monotonic()

    @property
    def seed(self) -> int:
        return self.parameters["seed"]

    @classmethod
    def open(cls, notebook: str, parameters: dict[str, Any],
             values_now: Optional[Callable[[], dict[str, Any]]] = None) -> "Stage":
        """Open a stage for writing; the values of `values_now` must not have changed when something is written.

        Raises: UserError: an unknown stage, a bad run name or output root, an earlier stage that is missing or
        was made from other inputs, a folder that another process writes, or one that may not be written.
        """
        if notebook not in STAGES:
            raise UserError(f"unknown stage {notebook!r}{nearest(notebook, STAGES)}")
        for name in ("run_name", "output_root", "seed"):
            if name not in parameters:
                raise UserError(f"{notebook}: the parameters cell does not set {name!r}")
        run_dir = find_run(parameters["output_root"], parameters["run_name"])
        with files.one_line_for_the_system(run_dir):
            files.make_folder(run_dir)
            folder = run_dir / notebook
            check_kinds(folder, ("stage.json", "started.json", "metrics.json"), ("figures", SCRATCH))
            stage = cls(notebook, run_dir, parameters, earlier_digests(run_dir, notebook), values_now)
            again = stage.dir in _locks  # the set-up cell was run twice
            if not again:
                what = f"stage {notebook} of run {run_dir.name!r}"
                _locks[stage.dir] = files.lock(run_dir / f".{notebook}.lock", what)
            stage._prepare(again)
        return stage

    def _prepare(self, again: bool) -> None:
        """Keep the contents of the stage's folder, or move them aside and restart."""
        started = read_start(self.dir)
        if self.dir.exists() and any(self.dir.iterdir()) and started.get("signature") != self.signature:
            before = {**started, **files.read_json(self.dir / "stage.json")}
            unknown = "it was not a stage's folder"
            changed = other_inputs(before, self.parameters, self.needs) if before else unknown
            set_aside(self.dir)
            self.note, started = f"restarted: {changed}; the earlier folder is {self.name}.previous", {}
        self.dir.mkdir(exist_ok=True)
        files.sweep(self.dir)
        self.opened = started.get("opened", 0)  # sessions that worked on this stage
        self.made_by = made_by(self.name)
        if any(name not in ("started.json", SCRATCH) for name, _ in hashing.walk(self.dir, (SCRATCH,))):
            made = read_record(self.dir) if self.finished else started
            if other := other_code(made.get("made_by", {}), self.name):
                self.made_by = made.get("made_by", {})
                self.note = f"{other}: what is there is kept; to recompute it delete {self._shown()}"
        if self.finished:
            if os.access(self.dir, os.W_OK):  # another user's finished run may be read
                self._note_start(reopened=True)
        elif not (again and self.opened):
            self.opened += 1
            self._note_start()

    def _note_start(self, **more: Any) -> None:
        files.atomic_write_json(self.dir / "started.json", {
            "signature": self.signature, "parameters": recorded(self.parameters), "needs": self.needs,
            "made_by": self.made_by, "opened": self.opened, **more})

    def _check(self) -> None:
        """Refuse to write what the record would not describe."""
        if read_start(self.dir).get("signature") != self.signature:
            raise UserError(f"{self.name}: {self.dir} was removed or replaced while the stage was open:"
                            " run the notebook again from its set-up cell")
        then, now = self._opened_with, self._values_now()
        changed = [f"{name} is {short(now, name)} and was {short(then, name)} when the stage was opened"
                   for name in then if now[name] != then[name]]
        if changed:
            raise UserError(f"{self.name}: {'; '.join(changed)}: run the set-up cell again to begin with the"
                            " new value, or set the old one again")

    def input(self, path: str, needed: bool = True) -> Path:
        """A file or folder of an earlier stage, e.g. "01_data/images.parquet"; its sha256 is recorded.

        UserError if it is no longer what that stage recorded or, unless `needed` is False (it may not be read
        at all), missing.
        """
        stage, _, rest = path.partition("/")
        if stage not in NEEDS[self.name]:
            raise ValueError(f"{self.name} does not read {stage!r}: NEEDS has {NEEDS[self.name]}")
        target, folder = self.run_dir / path, self.run_dir / stage
        fix = f"delete {folder} and run notebook {stage} again"
        if not target.exists():
            if not needed:
                return target
            raise UserError(f"{target} is missing: {fix}")
        rest, outputs = rest.rstrip("/"), read_record(folder).get("outputs", {})
        found = {name: sha256 for name, sha256 in outputs.items()
                 if f"{name}/".startswith(f"{rest}/") or name.endswith("/") and f"{rest}/".startswith(name)}
        there = {rest} if target.is_file() else {f"{rest}/{name}" for name, _ in hashing.walk(target)}
        unknown = [name for name in there if name not in found and f"{name.partition('/')[0]}/" not in found]
        if unknown or not found:
            raise UserError(f"{folder / min(unknown, default=rest)} is not a file that {stage} recorded: {fix}")
        check_outputs(folder, found)
        self.inputs |= {f"{stage}/{name}": sha256 for name, sha256 in found.items()}
        return target

    def path(self, path: str) -> Path:
        """Where to write an output, e.g. "records.jsonl"; parents are made. "checkpoints/..." is scratch.

        UserError if a parameter is not what it was when the stage was opened, or the folder is gone.
        """
        target = Path(os.path.abspath(self.dir / path))
        if not target.is_relative_to(self.dir) or target == self.dir:
            raise ValueError(f"{path!r} leaves the folder of {self.name}")
        self._check()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{target.parent} must be a folder, and there is a file: remove it") from None
        if target.is_symlink() and not target.exists():
            raise UserError(f"{target} is a link that leads nowhere: remove it")
        return target

    def figure(self, figure: Any, name: str, data: Any) -> Path:
        """Write figures/NAME.png, and the DataFrame that was drawn to figures/NAME.csv."""
        image = file_of(figure, say=lambda line: print(f"[{self.name}] {line}", flush=True))
        write_csv(self.path(f"figures/{name}.csv"), data)
        files.atomic_write_bytes(self.path(f"figures/{name}.png"), image)
        return self.dir / "figures" / f"{name}.png"

    def progress(self, step: int, total: int, /, label: str = "", **values: Any) -> None:
        """Print one line, "[02_cot_sft] cot_sft 10/60 loss 0.123"; `finer1 run` shows it live."""
        shown = [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                 for key, value in values.items()]
        print(" ".join(filter(None, [f"[{self.name}]", label, f"{step}/{total}", *shown])), flush=True)

    def finish(self, metrics: dict[str, Any]) -> None:
        """Write metrics.json, then stage.json, which makes the stage finished; errors as `path`."""
        self._check()
        earlier = read_record(self.dir) if self.finished else {}
        files.atomic_write_json(self.dir / "metrics.json", metrics)
        began = time.time_ns()
        outputs = hashing.recorded_hashes(self.dir, skip=_OWN)
        hashing.remember(self.dir, outputs, began)
        # a stage that was only loaded keeps the cost and the environment of its computation
        seconds = time.monotonic() - self._began
        cost = provenance.of_record(earlier) or provenance.collect(seconds, self.opened)
        files.atomic_write_json(self.dir / "stage.json", {
            "stage": self.name, "signature": self.signature, "made_by": self.made_by,
            "parameters": recorded(self.parameters), "needs": self.needs,
            "inputs": dict(sorted(self.inputs.items())), "outputs": outputs, "digest": digest_of(outputs),
            "seed": self.seed, **cost})
        self._note_start()
        self.finished = True
        shutil.rmtree(self.dir / SCRATCH, ignore_errors=True)
        files.unlock(_locks.pop(self.dir, None))
        print(f"[{self.name}] finished: {len(outputs)} outputs in {self._shown()}", flush=True)

    def _shown(self) -> str:
        """The stage's folder without the machine's part of the path."""
        return "/".join((self.run_dir.parent.name, self.run_dir.name, self.name))


def set_aside(folder: Path) -> None:
    """Move a stage's folder to `NN_stage.previous`, of which one is kept."""
    previous = folder.with_name(folder.name + ".previous")
    if previous.is_dir() and not previous.is_symlink():
        shutil.rmtree(previous)
    else:
        previous.unlink(missing_ok=True)
    os.replace(folder, previous)


def recorded(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters for the record, without the output root, a path of one machine."""
    return {name: value for name, value in parameters.items() if name != "output_root"}
