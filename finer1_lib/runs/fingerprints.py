"""When a stage is finished, and when what it made is still what the next one should read.

Two things are recorded. The *signature* says what was computed: parameters, earlier stages, the user's files.
A stage of another signature is never gone on with. `made_by` says which code computed it: the code cells of
the notebook and the kit's version. `finer1 run` computes anew what other code made, unless --keep-finished says
otherwise; a notebook opened by hand goes on and prints so, because whoever fixes a cell wants to keep the
training above it.

Source: our choice.
"""

import ast
import os
from pathlib import Path
from typing import Any, Mapping

import finer1_lib
from finer1_lib.core import files, hashing
from finer1_lib.core.errors import UserError
from finer1_lib.runs.chain import NEEDS, OUTSIDE
from finer1_lib.runs.presets import find_kit, read_cells

UNREAD = ("figures/", "metrics.json")  # for people: later stages do not depend on them
_KEPT = {"needs": dict, "outputs": dict, "digest": str}  # of a record, without which it shows nothing
_KINDS = {**_KEPT, "signature": str, "opened": int, "seed": int, "seconds": (int, float), "device": str,
          "written": str, **dict.fromkeys(("parameters", "made_by", "inputs", "versions", "peak_memory_gb"), dict)}  # fmt: skip
_OWN_TAGS = {"parameters", "injected-parameters", "attempt", "check", "solution"}  # no code of the stage
_PLACE = ("run_name", "output_root")  # where results lie, not what they are


def signature_of(parameters: dict[str, Any], needs: dict[str, str]) -> str:
    """sha256 of what decides a stage's results.

    Args:
        parameters: the notebook's parameters; where results are stored plays no part.
        needs: digests of the stages it reads, of `earlier_digests`.
    """
    identity = {name: value for name, value in parameters.items() if name not in (*_PLACE, "notebook")}
    outside = {
        name: _looks(name, Path(value), identity)
        for name, value in identity.items()
        if name.endswith(OUTSIDE) and isinstance(value, str) and os.path.exists(value)
    }
    if identity.get("more_models"):
        from finer1_lib.core.checkpoint_names import read_entry, split_adapter

        parts = (part for entry in identity["more_models"] for part in split_adapter(read_entry(entry)[2]))
        for folder in (Path(part).expanduser() for part in parts if part):
            if folder.is_dir():
                outside[str(folder)] = hashing.listing_digest(folder, deep=False)
    if identity.get("systems"):  # their entries may change under the same names
        from finer1_lib.evaluation.systems.registry import find_systems

        for one in find_systems(identity["systems"], identity.get("systems_from", "")):
            folder = Path(one.checkpoint)
            looks = hashing.listing_digest(folder, deep=False) if folder.is_dir() else None
            outside[f"system {one.name}"] = [one.model_dump(mode="json"), looks]
    return hashing.digest({"parameters": identity, "outside": outside, "needs": needs})


def _looks(name: str, path: Path, parameters: dict[str, Any]) -> Any:
    """What a file or folder of the user's looks like, as far as a stage reads it.

    A root of data sets also holds what 01 writes there (Hub copies, whose commit they carry themselves, and
    pictures out of a parquet file), archives and other data sets; a checkout also holds git's own files.
    """
    if name == "data_root":
        from finer1_lib.data.data_sets.archives import find_archive
        from finer1_lib.data.data_sets.catalogue import DATA_SETS, copies_named

        copies = copies_named(parameters.get("hub_copies", ()))
        words = [word for word in parameters.get("data_sets", ()) if word in DATA_SETS and word not in copies]
        found = {word: find_archive(DATA_SETS[word], path) for word in words}
        return {word: folder and hashing.listing_digest(folder) for word, folder in found.items()}
    if name in ("release", "prompts_from") and path.is_dir():
        read = [path / "eval", *path.glob("*.jsonl"), *sorted(path.rglob("*.jinja"))]
        return [hashing.listing_digest(part) for part in read if part.exists()]
    # a checkpoint's files lie side by side: a folder that holds more is none, and is not walked to see it
    return hashing.listing_digest(path, deep=not name.endswith(("_model", "checkpoint", "encoder")))


def made_by(stage: str) -> dict[str, Any]:
    """The code that computes a stage now.

    Returns:
        version: the kit's.
        code: digest of the kit's notebook of that stage: its code cells but for parameters and exercises,
            without blanks and comments; None where there is no notebook, as on Colab.
    """
    try:
        notebook = find_kit() / "notebooks" / f"{stage}.ipynb"
    except UserError:
        notebook = None
    code = None
    if notebook is not None and notebook.is_file():
        code = hashing.digest([_meaning(cell["source"]) for cell in read_cells(notebook)
                               if cell.get("cell_type") == "code" and not cell["tags"] & _OWN_TAGS])  # fmt: skip
    return {"version": finer1_lib.__version__, "code": code}


def _meaning(source: str) -> Any:
    """What a cell says in Python, or its words where it is not Python alone (a %magic)."""
    try:
        return _tree(ast.parse(source))
    except (SyntaxError, ValueError, RecursionError):
        return source.split()


def _tree(node: Any) -> Any:
    """A syntax tree as lists, without places and empty fields: the same under every version of Python."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
        return [type(node).__name__, *([name, _tree(value)] for name, value in fields)]
    return [_tree(item) for item in node] if isinstance(node, list) else repr(node)


def other_code(then: Mapping[str, Any], stage: str) -> str:
    """Which other code made a stage, `then` being its record's `made_by`; "" if it is the code of now."""
    now = made_by(stage)
    if not then:
        return "its record does not say which code made it"
    if then.get("version") != now["version"]:
        return f"version {then.get('version')} of the kit made it, this is {now['version']}"
    return "the code of its notebook has changed since" if then.get("code") != now["code"] else ""


def other_inputs(before: Mapping[str, Any], parameters: Mapping[str, Any], needs: Mapping[str, str]) -> str:
    """Why a stage's folder has another signature, `before` being what was recorded when it was begun."""
    old = before.get("parameters") or {}
    skip = (*_PLACE, "notebook")
    told = [f"{name} was {short(old, name)} and is {short(parameters, name)}"
            for name in {**parameters, **old} if name not in skip and old.get(name) != parameters.get(name)]
    told += [f"{need} was made anew" for need in needs if before.get("needs", needs).get(need) != needs[need]]
    return "; ".join(told[:4]) or "a file or folder that its parameters name has changed"


def short(values: Mapping[str, Any], name: str) -> str:
    """A parameter's value as a message shows it."""
    text = repr(values[name]) if name in values else "not there"
    return text if len(text) < 60 else f"{text[:57]}..."


def digest_of(outputs: Mapping[str, str]) -> str:
    """A stage's digest: what later stages can read of it."""
    return hashing.digest({name: sha256 for name, sha256 in outputs.items() if not name.startswith(UNREAD)})


def read_record(folder: Path, *more: str) -> dict[str, Any]:
    """A stage's stage.json; {} where it has not finished.

    Args:
        folder: the stage's.
        more: keys that the caller reads beside needs, outputs and digest.

    Raises:
        UserError: it lacks one of these.
    """
    record = _read(folder, "stage.json")
    if not record:
        return {}
    lacking = [key for key in (*_KEPT, *more) if key not in record]
    if not lacking:
        needed, named = NEEDS.get(folder.name, ()), record["needs"]
        lacking = [f"the digest of {need}" for need in needed if not isinstance(named.get(need), str)]
    if lacking:
        raise _worthless(folder, f"lacks {', '.join(lacking)}")
    if folder.name in NEEDS and len(named) > len(needed):
        raise _worthless(folder, "names stages that it cannot have read")
    return record


def parameters_of(folder: Path) -> dict[str, Any]:
    """What a finished stage was asked with; {} where it has not finished.

    Raises:
        UserError: its stage.json is damaged.
    """
    return _read(folder, "stage.json").get("parameters", {})


def read_start(folder: Path) -> dict[str, Any]:
    """A stage's started.json: signature, parameters, needs, made_by, opened; {} where it was not begun.

    Raises:
        UserError: it is damaged.
    """
    return _read(folder, "started.json")


def _read(folder: Path, name: str) -> dict[str, Any]:
    known = files.read_json(folder / name)
    for key, kind in _KINDS.items():
        if key in known and not isinstance(known[key], kind):
            raise _worthless(folder, f"holds no {key} that could be", name)
    return known


def _worthless(folder: Path, fault: str, name: str = "stage.json") -> UserError:
    return UserError(f"{folder / name} {fault}, so nothing shows that the files beside it are those that"
                     f" {folder.name} made: move {folder} away and run notebook {folder.name} again")


def _checkable(folder: Path) -> dict[str, Any]:
    """The record of `read_record`, if it lists outputs and its digest is theirs."""
    record = read_record(folder)
    if record and not record["outputs"]:
        raise _worthless(folder, "lists no outputs")
    if record and record["digest"] != digest_of(record["outputs"]):
        fault = "was changed after the stage had finished (its digest is not that of its outputs)"
        raise _worthless(folder, fault)
    return record


def check_outputs(folder: Path, outputs: Mapping[str, str]) -> None:
    """Hold outputs against their recorded hashes.

    Raises:
        UserError: one is missing or has another content.
    """
    for name in hashing.changed_outputs(folder, outputs):
        if not (folder / name).exists():
            raise UserError(f"{folder / name} is missing: run notebook {folder.name} again")
        made_anew = name.startswith(UNREAD) or read_start(folder).get("reopened")
        fix = "run notebook" if made_anew else f"put it back, or move {folder} away and run notebook"
        raise UserError(f"{folder / name} is not what {folder.name} recorded: {fix} {folder.name} again")


def recorded_file(run_dir: Path, path: str) -> Path:
    """A file of a finished stage, e.g. "04_evaluation/summary_rows.json", that is what the stage recorded.

    Raises:
        UserError: it is missing, has another content, or the stage did not record it.
    """
    stage, _, name = path.partition("/")
    outputs = read_record(run_dir / stage).get("outputs", {})
    if name not in outputs:
        raise UserError(f"{path} of run {run_dir.name!r} is not among the files that {stage} recorded:"
                        f" run notebook {stage} again")
    check_outputs(run_dir / stage, {name: outputs[name]})
    return run_dir / path


def is_finished(folder: Path, signature: str) -> bool:
    """Whether stage.json has this signature and everything it lists is as it was recorded.

    False too where the notebook can make anew what is not: outputs that are missing, figures, and what a
    notebook that was opened again had begun to write when it was stopped.

    Raises:
        UserError: any other output was changed: to go on from it would make it look as if it were computed.
    """
    record = _checkable(folder)
    if record.get("signature") != signature:
        return False
    changed = hashing.changed_outputs(folder, record["outputs"])
    if not read_start(folder).get("reopened"):
        kept = [name for name in changed if (folder / name).exists() and not name.startswith(UNREAD)]
        check_outputs(folder, {name: record["outputs"][name] for name in kept})
    return not changed


def is_current(run_dir: Path, stage: str, outputs: bool = True) -> bool:
    """Whether a stage has finished and was made from the earlier stages as their records say they are now.

    Args:
        outputs: False leaves out the look at its files, for whoever takes each by `recorded_file`.

    Raises:
        UserError: its record shows nothing, or an output is not what was recorded.
    """
    record = _checkable(run_dir / stage)
    if not record or not _belongs(run_dir, record):
        return False
    if outputs:
        check_outputs(run_dir / stage, record["outputs"])
    return True


def _belongs(run_dir: Path, record: Mapping[str, Any]) -> bool:
    """Whether the records of earlier stages have the digests that a record names, and so on down."""
    earlier = {need: read_record(run_dir / need) for need in record["needs"]}
    return all(known.get("digest") == record["needs"][need] and _belongs(run_dir, known)
               for need, known in earlier.items())  # fmt: skip


def earlier_digests(run_dir: Path, notebook: str) -> dict[str, str]:
    """Digest of each stage that a notebook reads.

    Raises:
        UserError: if one has not finished, was made from another state of a stage that it reads itself, or is
            no longer what it recorded.
    """
    digests = {}
    for need in NEEDS[notebook]:
        record = read_record(run_dir / need)
        if not record:
            where = f"which has not finished in run {run_dir.name!r}"
            raise UserError(f"{notebook} needs {need}, {where}: run notebook {need} first")
        if not is_current(run_dir, need):
            raise UserError(
                f"{need} of run {run_dir.name!r} was made from other inputs: run notebook {need} again"
            )
        digests[need] = record["digest"]
    return digests
