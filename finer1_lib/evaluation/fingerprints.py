"""Fingerprint of 04_evaluation's `systems` (see runs.fingerprints): entries may change under the same names.
"""

from pathlib import Path
from typing import Any, Mapping, Sequence

from finer1_lib.core.hashing import listing_digest
from finer1_lib.evaluation.systems.registry import find_systems


def _systems(value: Sequence[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Each named system's entry, and its checkpoint's files where it is a folder."""
    found = {}
    for one in find_systems(value, parameters.get("systems_from", "")):
        folder = Path(one.checkpoint)
        files = listing_digest(folder, deep=False) if folder.is_dir() else None
        found[f"system {one.name}"] = [one.model_dump(mode="json"), files]
    return found


FINGERPRINTS = {"systems": _systems}
