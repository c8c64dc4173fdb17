"""Content hashes: what a stage wrote and what the next one read."""

import hashlib
import json
import os
import time
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

from finer1_lib.core import files
from finer1_lib.core.errors import UserError

_FOLD = 200  # a top folder with more files is recorded as one hash
_SEEN = ".seen.json"  # in a stage's folder, hidden: {output: [its sha256, size and times when it was hashed]}
_SETTLED = 100_000_000  # ns; a file touched so shortly before may change again under the same time


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def walk(folder: Path, skip: tuple[str, ...] = (), prefix: str = "") -> Iterator[tuple[str, os.DirEntry]]:
    """Every file under a folder by its relative posix path, without hidden ones and top names in `skip`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name in skip:
                continue
            if entry.is_dir():
                yield from walk(Path(entry.path), prefix=f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, entry


def sha256_tree(folder: Path, skip: tuple[str, ...] = (), prefix: str = "") -> dict[str, str]:
    """sha256 of every file of `walk`, sorted by name."""
    return dict(sorted((name, sha256_file(Path(entry.path))) for name, entry in walk(folder, skip, prefix)))


def digest(value: Any) -> str:
    """sha256 of a value's canonical JSON: equal for equal values, whatever the order of the keys."""
    form = dict(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = json.dumps(files.plain(value), **form)
    # a file name that is not UTF-8 holds lone surrogates
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def recorded_hashes(target: Path, prefix: str = "", skip: tuple[str, ...] = ()) -> dict[str, str]:
    """{path relative to the stage's folder: sha256} of a file or folder of a stage, as stage.json lists it.

    `prefix` is the target's path relative to the stage's folder, "" for the whole; `skip` are names directly
    under it. A top folder of more than 200 files is one entry whose name ends in "/".
    """
    if target.is_file():
        return {prefix: sha256_file(target)}
    found, entries = sha256_tree(target, skip, prefix and f"{prefix}/"), {}
    for top, names in groupby(found, lambda name: "/" in name and name.partition("/")[0] + "/"):
        content = {name: found[name] for name in names}
        entries |= {top: digest(content)} if top and len(content) > _FOLD else content
    return dict(sorted(entries.items()))


def changed_outputs(folder: Path, outputs: Mapping[str, str]) -> list[str]:
    """Those of a record's `outputs` ({path: sha256}) that are missing or no longer have the recorded content.

    Only a file whose size or times differ from when it was last hashed is hashed again (no user can set the
    time of change), so gigabytes that were not touched cost no more than a look.
    """
    try:
        seen = files.read_json(folder / _SEEN)
    except UserError:
        seen = {}  # damaged: hash everything again
    began = time.time_ns()
    states = {name: _state(folder, name) for name in outputs}
    same = {name: sha256 for name, sha256 in outputs.items() if (state := states[name]) and (
        seen.get(name) == [sha256, *state]
        or recorded_hashes(folder / name, name.rstrip("/")).get(name) == sha256)}
    remember(folder, same, began, states, seen)
    return [name for name in outputs if name not in same]


def remember(folder: Path, outputs: Mapping[str, str], began: int, states: Mapping = {},
             seen: Mapping = {}) -> None:
    """Keep size and times of outputs that were hashed from `began` (time_ns) on, for `changed_outputs`."""
    found = {name: states.get(name) or _state(folder, name) for name in outputs}
    known = {**seen, **{name: [outputs[name], *state] for name, state in found.items()
                        if state and state[0] < began - _SETTLED}}
    if known != seen:
        with suppress(OSError, UserError):  # another user's run or a full disk: the next call hashes again
            files.atomic_write_json(folder / _SEEN, known)


def _state(folder: Path, name: str) -> Optional[list]:
    """[newest time, digest of names, sizes and times] of a file or a top folder; None if missing."""
    path = folder / name
    if name.endswith("/") and path.is_dir():
        found = [(file, entry.stat()) for file, entry in walk(path)]
    elif path.is_file():
        found = [("", path.stat())]
    else:
        return None
    rows = sorted([file, status.st_size, status.st_mtime_ns, status.st_ctime_ns] for file, status in found)
    return [max((max(row[2:]) for row in rows), default=0), digest(rows)]


def listing_digest(path: Path, deep: bool = True) -> str:
    """Fingerprint of a file or folder: sha256 of names, sizes and times of change, without hidden files.

    Quick enough for a data set or a checkpoint of gigabytes. With `deep` False folders below are not entered.
    """
    path = Path(path)
    found = [path] if path.is_file() else sorted(
        file for file in (path.rglob("*") if deep else path.glob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts))
    states = [(file.relative_to(path).as_posix(), file.stat()) for file in found]
    return digest([[name, status.st_size, status.st_mtime_ns] for name, status in states])
