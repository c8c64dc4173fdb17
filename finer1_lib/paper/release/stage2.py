"""The release's Stage-2 parquet as our triplets; tests/tools/export_release.py writes it.

    problem          "<image>What is the birds name?"            question
    answer           "Bank Swallow"                              sub_category
    images           [image], the anchor                         image_id
    image_noisy      [image], of the same sub-category         positive_id
    image_aug        [image], of the nearest other one           negative_id

An image is {"bytes": .., "path": ..}, bytes alone, or a path. The release's trainer uses the anchor's grid of
image tokens for all three, so they must have one size; where `image_aug` is missing it silently blackens
patches of the anchor instead. Here either is an error. Which sub-category a negative shows is not in it.

Source: release README.md:119, TAPO/verl/utils/dataset.py:341-363 (fields), :397-404 (one grid) and
TAPO/verl/trainer/ray_trainer.py:561-580 (what stands in for a missing negative).
"""

import hashlib
import io
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.faces import Later
from finer1_lib.core.files import atomic_write_bytes
from finer1_lib.core.images import load_image, split_crop
from finer1_lib.data.data_sets.catalogue import DATA_SETS
from finer1_lib.paper.release.stage1 import IMAGE

pandas = Later("pandas")

FIELDS = {"images": "image_id", "image_noisy": "positive_id", "image_aug": "negative_id"}
NAMES = {"images": "anchor", "image_noisy": "positive", "image_aug": "negative"}
FOLDER = "stage2"  # below the root: images that came with the file
ROWS = 32  # read or written at a time
_SUFFIXES = {"JPEG": ".jpg", "WEBP": ".webp"}  # else .png


def read_stage2(source: "str | Path", root: "str | Path", lists: Mapping[str, Mapping[str, Sequence[str]]], *,
                same_size: bool = True, allow_incomplete: bool = False) -> "pandas.DataFrame":
    """Triplets of a parquet file or a folder of them, in the file's order.

    An image whose path is a file below `root` with the same bytes is that file; any other is written to
    `stage2/` below it. `lists` is {data set: {"seen": [...], "unseen": [...]}}. `same_size` refuses a triplet
    whose images differ in size; `allow_incomplete` leaves out rows without a certain data set. The DataFrame
    has the columns of `build_triplets` (negative_sub_category is ""), problem, and paths of the three images.
    UserError also for a row without one of its images, and an unseen sub-category as the answer.
    """
    source, root, rows, unknown = Path(source).expanduser(), Path(root), [], []
    for number, row in enumerate(_read(source)):
        where = f"{source.name}, row {number}"
        if problem := _problem(row):
            raise UserError(f"{where}: {problem}; take the release's file as it is")
        if (word := _data_set(row, lists, where)) is None:
            unknown.append(f"{where} ({row['answer']})")
            continue
        images = [_image(row[field][0], source, f"{where}, {NAMES[field]}") for field in FIELDS]
        if same_size:
            check_sizes([size_of(content, where) for content, _ in images], where)
        ids = [_keep(content, path, root, where) for content, path in images]
        rows.append((*ids, word, row["answer"], "", row["problem"], [path for _, path in images]))
    if unknown and not allow_incomplete:
        raise UserError(f"{len(unknown)} triplets belong to no data set of this run, or by name to two, "
                        f"the first is {unknown[0]}; add the data sets, or set allow_incomplete")
    if not rows:
        raise UserError(f"{source}: no triplets for the data sets {', '.join(lists)}")
    return pandas.DataFrame(rows, columns=[*FIELDS.values(), "super_category", "sub_category",
                                           "negative_sub_category", "problem", "paths"])


def _read(source: Path) -> Iterator[dict]:
    """Rows of one file or of a folder's, a few at a time."""
    import pyarrow
    import pyarrow.parquet
    files = sorted(source.glob("*.parquet")) or sorted(source.glob("data/*.parquet"))
    if not (files := [source] if source.is_file() else files):
        raise UserError(f"{source}: no parquet file; give the release's Stage-2 file or its folder")
    for path in files:
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                if absent := {"problem", "answer", *FIELDS} - set(file.schema_arrow.names):
                    raise UserError(f"{path}: the column {sorted(absent)[0]} is missing; without it there "
                                    "is no triplet, and nothing is put in its place")
                for batch in file.iter_batches(ROWS, columns=["problem", "answer", *FIELDS]):
                    yield from batch.to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"{path}: not a readable parquet file ({error})") from None


def _problem(row: Mapping) -> str:
    """What is wrong with one row; "" if nothing is."""
    for field in ("problem", "answer"):
        if not isinstance(row[field], str) or not row[field].strip():
            return f"{field} is empty"
    if row["problem"].count(IMAGE) != 1:
        return f"the problem has not exactly one {IMAGE}"
    for field, name in NAMES.items():
        if not isinstance(row[field], list) or len(row[field]) != 1 or not row[field][0]:
            return f"{field}, the {name}, is missing or not one image"
    return ""


def _data_set(row: Mapping, lists: Mapping[str, Mapping[str, Sequence[str]]], where: str) -> Optional[str]:
    """The data set whose seen sub-category is the answer; of several the one that the problem names."""
    answer = row["answer"]
    if unseen := [word for word in lists if answer in lists[word]["unseen"]]:
        raise UserError(f"{where}: the answer {answer!r} is an unseen sub-category ({unseen[0]}); "
                        "nothing may be trained on it")
    named = [word for word in DATA_SETS if word in row["problem"].lower()]  # pets and dogs share names
    words = [word for word in lists if answer in lists[word]["seen"] and (len(named) != 1 or word in named)]
    return words[0] if len(words) == 1 else None


def _image(value: Any, source: Path, where: str) -> tuple[bytes, Optional[str]]:
    """(bytes, path) of an image; one that is only a path is read from beside the parquet file."""
    if not isinstance(value, dict):
        value = {"path" if isinstance(value, str) else "bytes": value}
    content, path = value.get("bytes"), value.get("path")
    if content is None and path:
        folder = (source if source.is_dir() else source.parent).resolve()
        file = (folder / path).resolve()
        if not file.is_relative_to(folder) or not file.is_file():
            raise UserError(f"{where}: {path} is not a file below {folder}")
        content = file.read_bytes()
    if not content:
        raise UserError(f"{where}: neither bytes nor a path; take the release's file as it is")
    return content, path


def size_of(content: bytes, where: str) -> tuple[int, int, str]:
    """(width, height, format) from an image's header."""
    from PIL import Image
    try:
        with Image.open(io.BytesIO(content)) as image:
            return *image.size, image.format or ""
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{where}: not an image ({error})") from None


def check_sizes(sizes: Sequence[tuple], where: str) -> None:
    if len({size[:2] for size in sizes}) > 1:
        told = ", ".join(f"{name} {size[0]} x {size[1]}" for name, size in zip(NAMES.values(), sizes))
        raise UserError(f"{where}: images of different sizes ({told}); the release's trainer needs one: "
                        "resize positive and negative to the anchor's")


def _keep(content: bytes, path: Optional[str], root: Path, where: str) -> str:
    """The image id of an image: the file below the root that it is, else a new one."""
    if path and _shows(root, path, content):
        return path
    suffix = _SUFFIXES.get(size_of(content, where)[2], ".png")
    image_id = f"{FOLDER}/{hashlib.sha256(content).hexdigest()[:20]}{suffix}"
    if not (root / image_id).is_file():
        atomic_write_bytes(root / image_id, content)
    return image_id


def _shows(root: Path, image_id: str, content: bytes) -> bool:
    """Whether an image id below the root is this image: the same bytes or, cropped, the same pixels."""
    from PIL import Image
    file, rows = split_crop(image_id)
    there = (root / file).resolve()
    if not there.is_relative_to(root.resolve()) or not there.is_file():
        return False
    if not rows:
        return there.read_bytes() == content
    return load_image(root, image_id).tobytes() == Image.open(io.BytesIO(content)).convert("RGB").tobytes()
