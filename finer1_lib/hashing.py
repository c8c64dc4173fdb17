"""Content hashes: what a stage wrote and what the next one read.

Source: our choice (DESIGN 4, provenance).
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from finer1_lib.files import plain

_FOLD = 200  # a top folder with more files is recorded as one hash


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(folder: Path, skip: tuple[str, ...] = ()) -> dict[str, str]:
    """sha256 of every file under a folder, by relative posix path in sorted order; hidden ones are left out.

    Args:
        folder: where to begin.
        skip: names directly under it that are left out too.
    """
    found: dict[str, str] = {}
    waiting = [(Path(folder), "")]
    while waiting:
        here, prefix = waiting.pop()
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.name.startswith(".") or (not prefix and entry.name in skip):
                    continue
                if entry.is_dir():
                    waiting.append((Path(entry.path), f"{prefix}{entry.name}/"))
                else:
                    found[prefix + entry.name] = sha256_file(Path(entry.path))
    return dict(sorted(found.items()))


def digest(value: Any) -> str:
    """sha256 of a value's canonical JSON: the same for equal values, whatever the order of the keys."""
    text = json.dumps(
        plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def recorded_hashes(target: Path, prefix: str = "", skip: tuple[str, ...] = ()) -> dict[str, str]:
    """sha256 by path relative to the stage's folder, as stage.json lists it.

    Args:
        target: a file or folder of a stage.
        prefix: its path relative to the stage's folder; "" for the whole folder.
        skip: names directly under the target that are no outputs.

    Returns:
        One entry per file; a top folder of more than 200 files is one entry whose name ends in "/".
    """
    if target.is_file():
        return {prefix: sha256_file(target)}
    found = {f"{prefix}/{name}" if prefix else name: sha for name, sha in sha256_tree(target, skip).items()}
    tops: dict[str, dict[str, str]] = {}
    for name, sha in found.items():
        tops.setdefault(name.partition("/")[0] + "/" if "/" in name else "", {})[name] = sha
    entries = tops.pop("", {})
    for top, content in tops.items():
        entries |= {top: digest(content)} if len(content) > _FOLD else content
    return dict(sorted(entries.items()))


def listing_digest(path: Path, deep: bool = True) -> str:
    """sha256 of what a file or folder looks like from outside: names, sizes and times of change, hidden ones
    left out.

    Quick enough for a data set or a checkpoint of gigabytes, and enough to see that one was changed.

    Args:
        path: file or folder.
        deep: also what lies in folders below; False for a checkpoint, whose files lie side by side.
    """
    path = Path(path)
    found = path.rglob("*") if deep else path.glob("*")
    files = [path] if path.is_file() else sorted(
        file for file in found
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts))
    seen = []
    for file in files:
        status = file.stat()
        seen.append([file.relative_to(path).as_posix(), status.st_size, status.st_mtime_ns])
    return digest(seen)
