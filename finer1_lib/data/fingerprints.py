"""Fingerprints of parameters whose folders hold more than a stage reads (see runs.fingerprints)."""

from pathlib import Path
from typing import Any, Mapping

from finer1_lib.core.hashing import listing_digest
from finer1_lib.data.data_sets.archives import find_archive
from finer1_lib.data.data_sets.catalogue import DATA_SETS, copies_named


def _data_root(value: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The unpacked archives that are read; not Hub copies, which carry their commit, nor other data sets."""
    if not Path(value).exists():
        return {}
    copies = copies_named(parameters.get("hub_copies", ()))
    words = [word for word in parameters.get("data_sets", ()) if word in DATA_SETS and word not in copies]
    found = {word: find_archive(DATA_SETS[word], Path(value)) for word in words}
    return {"data_root": {word: folder and listing_digest(folder) for word, folder in found.items()}}


def _checkout(name: str, value: str) -> dict[str, Any]:
    """The parts of a checkout of the release that are read; git's own files are not."""
    path = Path(value)
    if not path.is_dir():
        return {name: listing_digest(path)} if path.exists() else {}
    read = [path / "eval", *path.glob("*.jsonl"), *sorted(path.rglob("*.jinja"))]
    return {name: [listing_digest(part) for part in read if part.exists()]}


FINGERPRINTS = {"data_root": _data_root, "release": lambda value, parameters: _checkout("release", value),
                "prompts_from": lambda value, parameters: _checkout("prompts_from", value)}
