"""The six data sets from their official archives below one `data_root`, or from their copies on the Hub.

    bird      CUB_200_2011/{images/NNN.Name/*.jpg, images.txt, train_test_split.txt}
    car       stanford_cars/{cars_train, cars_test, devkit/*.mat, cars_test_annos_withlabels.mat}
    dog       dogs_120/{Images/wnid-name/*.jpg, train_list.mat, test_list.mat}
    flower    flowers-102/{jpg/image_NNNNN.jpg, imagelabels.mat, setid.mat}
    pet       oxford-iiit-pet/{images/*.jpg, annotations/{trainval,test}.txt}
    aircraft  fgvc-aircraft-2013b/data/{images/*.jpg, images_variant_{trainval,test}.txt}
    a copy    hub/pet/{{train,test}/Abyssinian_201.jpg, index.json}: parquet at a fixed commit, written out

torchvision reads four of the archives through private attributes; the tests compare these readers with it.
"""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Optional

from finer1_lib.core import files
from finer1_lib.core.errors import UserError, first_line
from finer1_lib.core.images import _unreadable
from finer1_lib.core.network import settings_named
from finer1_lib.data.data_sets.catalogue import (
    DATA_SETS, DataSet, aircraft_name, bird_name, dog_name, flower_name, name_of_label, pet_name)

BANNER = 20  # pixel rows of copyright notice at the bottom of every aircraft image


class Picture(NamedTuple):
    """One image of an archive: its file, its sub-category's name, "train" or "test"."""

    file: Path
    sub_category: str
    split: str


def find_archive(data_set: DataSet, data_root: "str | Path") -> Optional[Path]:
    """The folder of an unpacked archive, known by a file that only it has; None if there is none.

    Places: data_root/NAME, data_root/NAME/NAME (zip files often nest), data_root/WORD, data_root/WORD/NAME
    and data_root itself.
    """
    root, word = Path(data_root), data_set.word
    nested = (f"{outer}/{name}" for name in data_set.folders for outer in (name, word))
    places = [*data_set.folders, word, *nested, ""]
    try:
        return next((root / place for place in places for marker in data_set.marker
                     if (root / place / marker).is_file()), None)
    except OSError as error:
        raise _unreadable(error, Path(data_root)) from None


def read_archive(data_set: DataSet, folder: Path, allow_incomplete: bool = False) -> list[Picture]:
    """All images that the archive's own lists name, in their order.

    `allow_incomplete` leaves out images that are listed and missing. Raises: UserError: a list is missing,
    unreadable, leads out of the folder, or names an image that is missing.
    """
    try:
        pictures = [Picture(*row) for row in _READERS[data_set.word](folder)]
    except FileNotFoundError as error:
        raise UserError(f"{data_set.title}: {error.filename} is missing; {data_set.how}") from None
    except (OSError, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        said = f"a list in {folder} cannot be read ({type(error).__name__}: {error})"
        raise UserError(f"{data_set.title}: {said}; unpack it again") from None
    if outside := next((one.file for one in pictures if not one.file.is_relative_to(folder)), None):
        raise UserError(f"{data_set.title}: a list in {folder} leads out of it, to {outside}; unpack again")
    try:
        held = {file for parent in {picture.file.parent for picture in pictures} if parent.is_dir()
                for file in parent.iterdir()}
    except OSError as error:
        raise _unreadable(error, folder) from None
    absent = [picture for picture in pictures if picture.file not in held]
    if absent and not allow_incomplete:
        raise UserError(f"{data_set.title}: {len(absent)} of {len(pictures)} listed images are not there, "
                        f"the first is {absent[0].file}; unpack them again, or set allow_incomplete to true")
    return [picture for picture in pictures if picture.file in held]


def _lines(file: Path) -> Iterator[list[str]]:
    """The lines of a list, each cut at its first space (variants hold spaces themselves)."""
    for line in map(str.strip, file.read_text(encoding="utf-8").splitlines()):
        if line and not line.startswith("#"):
            yield line.split(" ", 1)


def _first(*places: Path) -> Path:
    """The first of these places that is there, else the first."""
    return next(filter(Path.exists, places), places[0])


def _mat(name: str, *places: Path) -> Any:
    """One variable of the first of these .mat files that is there: an array, structures as objects."""
    import numpy
    from scipy.io import loadmat
    file = _first(*places)
    if not file.exists():
        raise FileNotFoundError(2, "missing", str(file))
    try:
        return numpy.atleast_1d(loadmat(file, squeeze_me=True, struct_as_record=False)[name])
    except Exception as error:  # scipy has errors of its own, zlib's and struct's
        raise ValueError(f"{file.name}: {first_line(error)}") from None


Rows = Iterator[tuple[Path, str, str]]


def _birds(root: Path) -> Rows:
    training = dict(_lines(root / "train_test_split.txt"))
    for number, path in _lines(root / "images.txt"):
        split = {"1": "train", "0": "test"}[training[number]]
        yield root / "images" / path, bird_name(path.split("/")[0]), split


def _cars(root: Path) -> Rows:
    devkit = _first(root / "devkit", root / "car_devkit" / "devkit")
    labelled = "cars_test_annos_withlabels.mat"
    names = _mat("class_names", devkit / "cars_meta.mat")
    for split, lists in (("train", [devkit / "cars_train_annos.mat"]),
                         ("test", [root / labelled, devkit / labelled])):
        inner = f"cars_{split}"  # Kaggle's copy nests it once more
        pictures = _first(root / inner / inner, root / inner)
        for one in _mat("annotations", *lists):
            yield pictures / str(one.fname), str(names[int(getattr(one, "class")) - 1]), split


def _dogs(root: Path) -> Rows:
    pictures = _first(root / "images" / "Images", root / "Images", root / "images")  # Kaggle's copy nests
    for split in ("train", "test"):
        file = f"{split}_list.mat"
        for path in map(str, _mat("file_list", root / file, root / "lists" / file)):
            yield pictures / path, dog_name(path.split("/")[0]), split


def _flowers(root: Path) -> Rows:
    labels = _mat("labels", root / "imagelabels.mat")
    for key, split in (("trnid", "train"), ("valid", "train"), ("tstid", "test")):
        for number in _mat(key, root / "setid.mat"):
            yield root / "jpg" / f"image_{number:05d}.jpg", flower_name(int(labels[number - 1])), split


def _pets(root: Path) -> Rows:
    for file, split in (("trainval", "train"), ("test", "test")):
        for stem, *_ in _lines(root / "annotations" / f"{file}.txt"):
            yield root / "images" / f"{stem}.jpg", pet_name(stem), split


def _aircraft(root: Path) -> Rows:
    for file, split in (("trainval", "train"), ("test", "test")):
        for number, variant in _lines(root / "data" / f"images_variant_{file}.txt"):
            yield root / "data" / "images" / f"{number}.jpg", aircraft_name(variant), split


_READERS = {"aircraft": _aircraft, "bird": _birds, "car": _cars, "dog": _dogs, "flower": _flowers,
            "pet": _pets}
assert set(_READERS) == set(DATA_SETS)


class NotToBeHad(UserError):
    """A copy that the Hub does not give now: no connection, no such repository, no permission."""


_SIGNS = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp"}


def read_hub_copy(data_set: DataSet, data_root: "str | Path", revision: Optional[str] = None,
                  load: Optional[Callable[..., Any]] = None, newest: Optional[Callable[[str], str]] = None,
                  progress: Optional[Callable[[int, int], None]] = None) -> tuple[list[Picture], str]:
    """All images of a copy, and its commit; downloaded to data_root/hub/WORD (all or none) the first time.

    `revision` (40 hexadecimal digits) replaces the catalogue's commit; `load` and `newest` replace
    `datasets.load_dataset` and the Hub in tests. Raises: NotToBeHad: the Hub does not give it. UserError:
    `revision` is no commit, another one is there already, or the copy lacks a column, label or image.
    """
    copy, folder = data_set.hub, Path(data_root) / "hub" / data_set.word
    known = files.read_json(folder / "index.json")
    held = known.get("revision") if known.get("repository") == copy.name else None
    commit = revision or copy.revision or held or (newest or _newest)(copy.name)
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise UserError(f"hub_copies: {data_set.word}@{commit} names no commit of {copy.name}: give 40 "
                        "hexadecimal digits from the copy's page under Files, History")
    wanted = {"repository": copy.name, "revision": commit}
    if not wanted.items() <= known.items():
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


def _rows(data_set: DataSet, part: str, commit: str, load: Optional[Callable]) -> Iterator[tuple[dict, str]]:
    """The rows of one split, images as the bytes they are stored in, and the names of their labels."""
    from datasets import Image
    if load is None:
        from datasets import load_dataset as load
    copy = data_set.hub
    try:
        found = load(copy.name, revision=commit, split=part, streaming=True)
        columns = found.column_names or []
        for column in filter(None, ("image", copy.label, copy.file)):
            if column not in columns:
                raise data_set.changed(f"no column {column!r} (it has {', '.join(columns)})")
        labels = getattr(found.features[copy.label], "names", None)
        names = {number: name_of_label(data_set.word, label) for number, label in enumerate(labels or ())}
        for row in found.cast_column("image", Image(decode=False)):
            label = row[copy.label]
            if names and label not in names:
                raise data_set.changed(f"an image of {part} has the label {label}")
            yield row, names[label] if names else name_of_label(data_set.word, str(label))
    except UserError:
        raise
    except Exception as error:  # the Hub, its client and the reader each have their own
        raise _not_had(f"{copy.name} at {commit}, split {part!r},", error) from error


def _written(data_set: DataSet, rows: Iterator[tuple[dict, str]], split: str, part: str,
             target: Path) -> Iterator[dict]:
    """Write a split's images; a row of the index for each. One that lost its name is named by its row."""
    (target / split).mkdir(parents=True, exist_ok=True)
    for number, (row, name) in enumerate(rows):
        data = (row["image"] or {}).get("bytes")
        if not data:
            raise data_set.changed(f"row {number} of {part} holds no image")
        stem = _own_name(row, data_set.hub.file) or f"row-{part}-{number:05d}"
        suffix = next((suffix for sign, suffix in _SIGNS.items() if data.startswith(sign)), None)
        if suffix is None:
            raise data_set.changed(f"row {number} holds no JPEG, PNG, GIF or WebP image")
        file = f"{split}/{stem}{suffix}"
        if (target / file).exists():
            raise data_set.changed(f"two images of {part} are called {stem}")
        (target / file).write_bytes(data)
        yield {"file": file, "sub_category": name, "split": split}


def _own_name(row: Mapping[str, Any], column: str) -> str:
    """The image's own file name without its ending, made of plain signs; "" if the copy has lost it."""
    name = row[column] if column else row["image"].get("path") or ""
    stem = PurePosixPath(str(name).replace("\\", "/")).name
    stem = re.sub(r"\.(jpe?g|png|gif|webp)$", "", stem, flags=re.IGNORECASE)
    return stem if re.fullmatch(r"[A-Za-z0-9][\w.-]*", stem) else ""
