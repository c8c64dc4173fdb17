"""A data set from its copy on the Hugging Face Hub: parquet at a pinned commit, written out as image files.

    data_root/hub/pet/train/Abyssinian_201.jpg, ...       the copy's own bytes, not encoded anew
    data_root/hub/pet/index.json                          repository, commit, and a row an image

A copy without a commit in the catalogue is taken at its newest one, which is written down and held from then
on. The released evaluation items know images by their file names, which most copies have lost: an image
without one is named by its row ("row-train-00017.jpg"), and no item is ever matched to it by position.
Rows are streamed: some copies hold further splits, distorted images for instance, that no one asked for.

Source: `catalogue.DATA_SETS` (which copies); every label goes through the rules of `names`.
"""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Iterator, Mapping, Optional

from finer1_lib.core import files
from finer1_lib.core.errors import UserError, first_line
from finer1_lib.core.network import settings_named
from finer1_lib.data.data_sets.archives import Picture
from finer1_lib.data.data_sets.catalogue import DataSet
from finer1_lib.data.data_sets.names import name_of_label


class NotToBeHad(UserError):
    """A copy that the Hub does not give now: no connection, no such repository, no permission."""


SIGNS = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"RIFF", ".webp"))


def read_hub_copy(
    data_set: DataSet, data_root: "str | Path", revision: Optional[str] = None,
    load: Optional[Callable[..., Any]] = None, newest: Optional[Callable[[str], str]] = None,
    progress: Optional[Callable[[int, int], None]] = None,
) -> tuple[list[Picture], str]:
    """All images of a copy, and its commit; downloaded the first time, read from the disk afterwards.

    Images go to data_root/hub/WORD, all or none. `revision` (40 hexadecimal digits) replaces the catalogue's
    commit; `load` and `newest` stand in for `datasets.load_dataset` and the Hub in tests. Raises: NotToBeHad:
    the Hub does not give it. UserError: `revision` is not a commit, another one is there already, or the copy
    has changed: a column is missing, a label is not a name of the data set, a row holds no image.
    """
    copy = data_set.hub
    word, folder = data_set.word, Path(data_root) / "hub" / data_set.word
    known = files.read_json(folder / "index.json")
    held = known.get("revision") if known.get("repository") == copy.name else None
    commit = revision or copy.revision or held or (newest or _newest)(copy.name)
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise UserError(f"hub_copies: {word}@{commit} names no commit of {copy.name}: give 40 hexadecimal "
                        "digits from the copy's page under Files, History")
    wanted = {"repository": copy.name, "revision": commit}
    if {key: known.get(key) for key in wanted} != wanted:
        if folder.exists():
            raise UserError(f"{folder} holds another copy ({known.get('repository')} at "
                            f"{known.get('revision')}); move it away or name that commit")
        with files.atomic_directory(folder) as target:
            rows: list[dict] = []
            for split, part in ((split, part) for split, parts in copy.splits.items() for part in parts):
                for row in _written(data_set, _rows(data_set, part, commit, load), split, part, target):
                    rows.append(row)
                    if progress:
                        progress(len(rows), data_set.train + data_set.test)
            files.atomic_write_json(target / "index.json", {**wanted, "pictures": rows})
        known = files.read_json(folder / "index.json")
    pictures = [Picture(folder / row["file"], row["sub_category"], row["split"]) for row in known["pictures"]]
    return pictures, commit


def _newest(name: str) -> str:
    """The newest commit of a data set on the Hub."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name).sha
    except Exception as error:
        raise _not_had(name, error) from error


def _not_had(what: str, error: Exception) -> NotToBeHad:
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return NotToBeHad(f"{what} cannot be had: {first_line(error)}{settings_named(hub)}")


def _changed(data_set: DataSet, what: str) -> UserError:
    return UserError(f"{data_set.hub.name}: {what}: it is not the copy it was; {data_set.how}")


def _rows(data_set: DataSet, part: str, commit: str, load: Optional[Callable]) -> Iterator[dict]:
    """The rows of one split, images as the bytes they are stored in, labels as names."""
    from datasets import Image

    if load is None:
        from datasets import load_dataset as load
    copy = data_set.hub
    try:
        found = load(copy.name, revision=commit, split=part, streaming=True)
        columns = found.column_names or []
        for column in ("image", copy.label, *([copy.file] if copy.file else [])):
            if column not in columns:
                raise _changed(data_set, f"no column {column!r} (it has {', '.join(columns)})")
        labels = getattr(found.features[copy.label], "names", None)
        names = dict(enumerate(_name(data_set, label) for label in labels)) if labels else None
        for row in found.cast_column("image", Image(decode=False)):
            label = row[copy.label]
            if names and label not in names:
                raise _changed(data_set, f"an image of {part} has the label {label}")
            yield {**row, copy.label: names[label] if names else _name(data_set, str(label))}
    except UserError:
        raise
    except Exception as error:  # the Hub, its client and the reader each have their own
        raise _not_had(f"{copy.name} at {commit}, split {part!r},", error) from error


def _name(data_set: DataSet, label: str) -> str:
    try:
        return name_of_label(data_set.word, label)
    except ValueError as error:
        raise _changed(data_set, str(error)) from None


def _written(data_set: DataSet, rows: Iterator[dict], split: str, part: str, target: Path) -> Iterator[dict]:
    """Write a split's images; a row of the index for each."""
    (target / split).mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        data = (row["image"] or {}).get("bytes")
        if not data:
            raise _changed(data_set, f"row {number} of {part} holds no image")
        stem = _own_name(row, data_set.hub.file) or f"row-{part}-{number:05d}"
        file = f"{split}/{stem}{_suffix(data, data_set, number)}"
        if (target / file).exists():
            raise _changed(data_set, f"two images of {part} are called {stem}")
        (target / file).write_bytes(data)
        yield {"file": file, "sub_category": row[data_set.hub.label], "split": split}


def _own_name(row: Mapping[str, Any], column: str) -> str:
    """The image's own file name without its ending, made of plain signs; "" if the copy has lost it."""
    name = row[column] if column else row["image"].get("path") or ""
    stem = PurePosixPath(str(name).replace("\\", "/")).name
    stem = re.sub(r"\.(jpe?g|png|gif|webp)$", "", stem, flags=re.IGNORECASE)
    return stem if re.fullmatch(r"[A-Za-z0-9][\w.-]*", stem) else ""


def _suffix(data: bytes, data_set: DataSet, number: int) -> str:
    """The ending that fits the bytes."""
    for sign, suffix in SIGNS:
        if data.startswith(sign):
            return suffix
    raise _changed(data_set, f"row {number} holds no JPEG, PNG, GIF or WebP image")
