"""When a stage is finished, and when its outputs are still what the next stage should read.

The *signature* identifies what was computed: parameters, earlier stages, the user's files. A stage with
another signature is never resumed. `made_by` identifies the code: the notebook's code cells and the kit's
version. `finer1 run` recomputes what other code made, unless --keep-finished is given; a notebook opened by
hand resumes and prints a note, because whoever edits a cell wants to keep the training above.

A parameter that names a path (`parameters.path_kind`) is fingerprinted by the names, sizes and times of its
files. Where a stage reads less or more, a room's module `fingerprints` declares its own {parameter:
function(value, parameters) -> entries}; these modules are found by name.
"""

import ast
import importlib
import importlib.util
import os
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any, Callable, Mapping

import finer1_lib
from finer1_lib.core import files, hashing
from finer1_lib.core.checkpoint_names import read_entry, split_adapter
from finer1_lib.core.errors import UserError
from finer1_lib.runs.chain import NEEDS
from finer1_lib.runs.parameters import path_kind
from finer1_lib.runs.presets import find_kit, read_cells

UNREAD = ("figures/", "metrics.json")  # for people: later stages do not depend on them
_NEEDED = ("needs", "outputs", "digest")  # keys of a record without which it proves nothing
_KINDS = {"signature": str, "opened": int, "seed": int, "seconds": (int, float), "device": str, "written": str,
          "digest": str, **dict.fromkeys(("needs", "outputs", "parameters", "made_by", "inputs", "versions",
                                          "peak_memory_gb"), dict)}
_OWN_TAGS = {"parameters", "injected-parameters", "attempt", "check", "solution"}  # not the stage's code
_PLACE = ("run_name", "output_root", "notebook")  # where results are stored, not what they are


@cache
def _declared() -> dict[str, Callable[[Any, Mapping[str, Any]], dict[str, Any]]]:
    """The fingerprint functions that the rooms declare, by parameter."""
    found: dict[str, Any] = {}
    for room in pkgutil.iter_modules(finer1_lib.__path__, "finer1_lib."):
        name = f"{room.name}.fingerprints"
        if room.ispkg and name != __name__ and importlib.util.find_spec(name):
            found |= importlib.import_module(name).FINGERPRINTS
    return found


def signature_of(parameters: Mapping[str, Any], needs: Mapping[str, str]) -> str:
    """sha256 of a stage's parameters, the user's files they name, and `needs`, the `earlier_digests`."""
    identity = {name: value for name, value in parameters.items() if name not in _PLACE}
    outside: dict[str, Any] = {}
    for name, value in identity.items():
        kind = path_kind(name)
        if value and name in _declared():
            outside |= _declared()[name](value, identity)
        elif kind == "entries":
            parts = (part for entry in value or () for part in split_adapter(read_entry(entry)[2]))
            folders = [Path(part).expanduser() for part in parts if part]
            outside |= {str(one): hashing.listing_digest(one, deep=False) for one in folders if one.is_dir()}
        elif kind and isinstance(value, str) and os.path.exists(value):
            # a checkpoint's files lie side by side: folders below it are not walked
            outside[name] = hashing.listing_digest(Path(value), deep=kind != "checkpoint")
    return hashing.digest({"parameters": identity, "outside": outside, "needs": needs})


def made_by(stage: str) -> dict[str, Any]:
    """The code that computes a stage now: the kit's `version` and a digest of the notebook's `code`.

    Parameters, exercises, blanks and comments do not count; `code` is None without a notebook, as on Colab.
    """
    try:
        notebook = find_kit() / "notebooks" / f"{stage}.ipynb"
    except UserError:
        notebook = None
    code = None
    if notebook is not None and notebook.is_file():
        code = hashing.digest([_meaning(cell["source"]) for cell in read_cells(notebook)
                               if cell.get("cell_type") == "code" and not cell["tags"] & _OWN_TAGS])
    return {"version": finer1_lib.__version__, "code": code}


def _meaning(source: str) -> Any:
    """A cell's syntax tree, or its words where it is not plain Python (a %magic)."""
    try:
        return _tree(ast.parse(source))
    except (SyntaxError, ValueError, RecursionError):
        return source.split()


def _tree(node: Any) -> Any:
    """A syntax tree as lists, without positions and empty fields: equal under every version of Python."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
        return [type(node).__name__, *([name, _tree(value)] for name, value in fields)]
    return [_tree(item) for item in node] if isinstance(node, list) else repr(node)


def other_code(then: Mapping[str, Any], stage: str) -> str:
    """How the code that made a stage (its record's `made_by`) differs from the present one; "" if not."""
    now = made_by(stage)
    if not then:
        return "its record does not say which code made it"
    if then.get("version") != now["version"]:
        return f"version {then.get('version')} of the kit made it, this is {now['version']}"
    return "the code of its notebook has changed since" if then.get("code") != now["code"] else ""


def other_inputs(before: Mapping[str, Any], parameters: Mapping[str, Any], needs: Mapping[str, str]) -> str:
    """Why a stage's folder has another signature, `before` being what was recorded when it was begun."""
    old = before.get("parameters") or {}
    changes = [f"{name} was {short(old, name)} and is {short(parameters, name)}"
               for name in {**parameters, **old} if name not in _PLACE and old.get(name) != parameters.get(name)]
    changes += [f"{need} was made again" for need in needs if before.get("needs", needs).get(need) != needs[need]]
    return "; ".join(changes[:4]) or "a file or folder that its parameters name has changed"


def short(values: Mapping[str, Any], name: str) -> str:
    """A parameter's value as a message shows it."""
    text = repr(values[name]) if name in values else "not there"
    return text if len(text) < 60 else f"{text[:57]}..."


def digest_of(outputs: Mapping[str, str]) -> str:
    """A stage's digest: of the outputs that later stages can read."""
    return hashing.digest({name: sha256 for name, sha256 in outputs.items() if not name.startswith(UNREAD)})


def read_record(folder: Path, *more: str) -> dict[str, Any]:
    """A stage's stage.json, {} where it has not finished; UserError if it lacks a key, or one of `more`."""
    record = _read(folder, "stage.json")
    if not record:
        return {}
    needed, missing = NEEDS.get(folder.name, ()), [key for key in (*_NEEDED, *more) if key not in record]
    if not missing:
        missing = [f"the digest of {need}" for need in needed if not isinstance(record["needs"].get(need), str)]
    if missing:
        raise _invalid(folder, f"lacks {', '.join(missing)}")
    if folder.name in NEEDS and len(record["needs"]) > len(needed):
        raise _invalid(folder, "names stages that it cannot have read")
    return record


def parameters_of(folder: Path) -> dict[str, Any]:
    """The parameters of a finished stage; {} where it has not finished."""
    return _read(folder, "stage.json").get("parameters", {})


def read_start(folder: Path) -> dict[str, Any]:
    """A stage's started.json: signature, parameters, needs, made_by, opened; {} where it was not begun."""
    return _read(folder, "started.json")


def _read(folder: Path, name: str) -> dict[str, Any]:
    known = files.read_json(folder / name)
    for key, kind in _KINDS.items():
        if key in known and not isinstance(known[key], kind):
            raise _invalid(folder, f"holds no {key} that could be", name)
    return known


def _invalid(folder: Path, fault: str, name: str = "stage.json") -> UserError:
    return UserError(f"{folder / name} {fault}, so nothing shows that the files beside it are those that"
                     f" {folder.name} made: move {folder} away and run notebook {folder.name} again")


def _checked_record(folder: Path) -> dict[str, Any]:
    """The record of `read_record`, if it lists outputs and its digest is theirs."""
    record = read_record(folder)
    if record and not record["outputs"]:
        raise _invalid(folder, "lists no outputs")
    if record and record["digest"] != digest_of(record["outputs"]):
        raise _invalid(folder, "was changed after the stage had finished (its digest is not that of its outputs)")
    return record


def check_outputs(folder: Path, outputs: Mapping[str, str]) -> None:
    """Compare outputs with their recorded hashes; UserError if one is missing or has changed."""
    for name in hashing.changed_outputs(folder, outputs):
        if not (folder / name).exists():
            raise UserError(f"{folder / name} is missing: run notebook {folder.name} again")
        made_anew = name.startswith(UNREAD) or read_start(folder).get("reopened")
        fix = "run notebook" if made_anew else f"put it back, or move {folder} away and run notebook"
        raise UserError(f"{folder / name} is not what {folder.name} recorded: {fix} {folder.name} again")


def recorded_file(run_dir: Path, path: str) -> Path:
    """A file of a finished stage, "04_evaluation/summary_rows.json"; UserError if it is not as recorded."""
    stage, _, name = path.partition("/")
    outputs = read_record(run_dir / stage).get("outputs", {})
    if name not in outputs:
        raise UserError(f"{path} of run {run_dir.name!r} is not among the files that {stage} recorded:"
                        f" run notebook {stage} again")
    check_outputs(run_dir / stage, {name: outputs[name]})
    return run_dir / path


def is_finished(folder: Path, signature: str) -> bool:
    """Whether stage.json has this signature and everything it lists is as it was recorded.

    False too where the notebook can make the rest again: missing outputs, figures, and what a reopened
    notebook had begun to write when it was stopped. Any other changed output is a UserError: going on from it
    would pass it off as computed.
    """
    record = _checked_record(folder)
    if record.get("signature") != signature:
        return False
    changed = hashing.changed_outputs(folder, record["outputs"])
    if not read_start(folder).get("reopened"):
        kept = [name for name in changed if (folder / name).exists() and not name.startswith(UNREAD)]
        check_outputs(folder, {name: record["outputs"][name] for name in kept})
    return not changed


def is_current(run_dir: Path, stage: str, outputs: bool = True) -> bool:
    """Whether a stage has finished and was made from the earlier stages as their records describe them now.

    UserError for an invalid record or, unless `outputs` is False, an output that is not what was recorded.
    """
    record = _checked_record(run_dir / stage)
    if not record or not _matches_earlier(run_dir, record):
        return False
    if outputs:
        check_outputs(run_dir / stage, record["outputs"])
    return True


def _matches_earlier(run_dir: Path, record: Mapping[str, Any]) -> bool:
    """Whether the earlier stages have the digests that a record names, and so on down."""
    earlier = {need: read_record(run_dir / need) for need in record["needs"]}
    return all(known.get("digest") == record["needs"][need] and _matches_earlier(run_dir, known)
               for need, known in earlier.items())


def earlier_digests(run_dir: Path, notebook: str) -> dict[str, str]:
    """Digest of each stage that a notebook reads; UserError for one unfinished, outdated or changed."""
    digests = {}
    for need in NEEDS[notebook]:
        record = read_record(run_dir / need)
        if not record:
            raise UserError(f"{notebook} needs {need}, which has not finished in run {run_dir.name!r}:"
                            f" run notebook {need} first")
        if not is_current(run_dir, need):
            raise UserError(f"{need} of run {run_dir.name!r} was made from other inputs: run notebook {need} again")
        digests[need] = record["digest"]
    return digests
