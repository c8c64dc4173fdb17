"""When a stage is finished, and when what it made is still what the next one should read.

Source: our choice (DESIGN 4, "A finished stage with the same parameters and inputs is not recomputed").
"""

from pathlib import Path
from typing import Any

from finer1_lib import files, hashing
from finer1_lib.chain import NEEDS, OUTSIDE
from finer1_lib.errors import UserError

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
        if name.endswith(OUTSIDE) and isinstance(value, str) and value and Path(value).exists()
    }
    if identity.get("more_models"):
        from finer1_lib.adapter_files import split_adapter
        from finer1_lib.systems.rows import read_entry

        parts = (part for entry in identity["more_models"] for part in split_adapter(read_entry(entry)[2]))
        folders = (Path(part).expanduser() for part in parts if part)
        outside |= {str(folder): hashing.listing_digest(folder, deep=False) for folder in folders if folder.is_dir()}
    if identity.get("systems"):  # their entries may change under the same names
        from finer1_lib.systems.registry import find_systems

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
        from finer1_lib.data_sets.archives import find_archive
        from finer1_lib.data_sets.catalogue import DATA_SETS, copies_named

        copies = copies_named(parameters.get("hub_copies", ()))
        words = [word for word in parameters.get("data_sets", ()) if word in DATA_SETS and word not in copies]
        found = {word: find_archive(DATA_SETS[word], path) for word in words}
        return {word: folder and hashing.listing_digest(folder) for word, folder in found.items()}
    if name in ("release", "prompts_from") and path.is_dir():
        read = [path / "eval", *path.glob("*.jsonl"), *sorted(path.rglob("*.jinja"))]
        return [hashing.listing_digest(part) for part in read if part.exists()]
    # a checkpoint's files lie side by side: a folder that holds more is none, and is not walked to see it
    return hashing.listing_digest(path, deep=not name.endswith(("_model", "checkpoint", "encoder")))


def is_finished(folder: Path, signature: str) -> bool:
    """Whether stage.json has this signature and everything it lists is still there."""
    record = files.read_json(folder / "stage.json")
    return record.get("signature") == signature and all(
        (folder / name).exists() for name in record["outputs"]
    )


def is_current(run_dir: Path, stage: str) -> bool:
    """Whether a stage has finished and was made from the earlier stages as they lie there now."""
    record = files.read_json(run_dir / stage / "stage.json")
    return bool(record) and all(
        files.read_json(run_dir / need / "stage.json").get("digest") == digest and is_current(run_dir, need)
        for need, digest in record["needs"].items()
    )


def earlier_digests(run_dir: Path, notebook: str) -> dict[str, str]:
    """Digest of each stage that a notebook reads.

    Raises:
        UserError: if one has not finished, or was made from another state of a stage that it reads itself.
    """
    digests = {}
    for need in NEEDS[notebook]:
        record = files.read_json(run_dir / need / "stage.json")
        if not record:
            where = f"which has not finished in run {run_dir.name!r}"
            raise UserError(f"{notebook} needs {need}, {where}: run notebook {need} first")
        if not is_current(run_dir, need):
            raise UserError(
                f"{need} of run {run_dir.name!r} was made from other inputs: run notebook {need} again"
            )
        digests[need] = record["digest"]
    return digests
