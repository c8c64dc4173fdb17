"""The six data sets from their official archives below one `data_root`, or from their copies on the Hub.

    bird      CUB_200_2011/{images/NNN.Name/*.jpg, images.txt, train_test_split.txt}
    car       stanford_cars/{cars_train, cars_test, devkit/*.mat, cars_test_annos_withlabels.mat}
    dog       dogs_120/{Images/wnid-name/*.jpg, train_list.mat, test_list.mat}
    flower    flowers-102/{jpg/image_NNNNN.jpg, imagelabels.mat, setid.mat}
    pet       oxford-iiit-pet/{images/*.jpg, annotations/{trainval,test}.txt}
    aircraft  fgvc-aircraft-2013b/data/{images/*.jpg, images_variant_{trainval,test}.txt}
    a copy    hub/pet/{{train,test}/Abyssinian_201.jpg, index.json}: parquet at a fixed commit, written out

torchvision reads four of the archives through private attributes; the tests compare these readers with it. An
image of a copy whose file name is lost is named by its row, and never matched to an item.
"""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Optional

from finer1_lib.core import files
from finer1_lib.core.errors import UserError, first_line
from finer1_lib.core.network import settings_named
from finer1_lib.data.data_sets.catalogue import (
    DATA_SETS, DataSet, aircraft_name, bird_name, car_name, dog_name, flower_name, name_of_label, pet_name,
)  # fmt: skip

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
    root = Path(data_root)
    places = [root / name for name in (*data_set.folders, data_set.word)]
    places += [root / outer / name for name in data_set.folders for outer in (name, data_set.word)] + [root]
    try:
        return next((place for place in places
                     if any((place / marker).is_file() for marker in data_set.marker)), None)
    except OSError as error:
        raise _closed(error) from None


def _closed(error: OSError) -> UserError:
    return UserError(f"{error.filename}: cannot be read ({error.strerror}); make it readable")


def read_archive(data_set: DataSet, folder: Path, allow_incomplete: bool = False) -> list[Picture]:
    """All images that the archive's own lists name, in their order.

    `allow_incomplete` leaves out images that are listed and missing. Raises: UserError: a list is missing,
    unreadable, or names an image that is missing.
    """
    try:
        pictures = list(_READERS[data_set.word](folder))
    except FileNotFoundError as error:
        raise UserError(f"{data_set.title}: {error.filename} is missing; {data_set.how}") from None
    except (OSError, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        said = f"a list in {folder} cannot be read ({type(error).__name__}: {error})"
        raise UserError(f"{data_set.title}: {said}; unpack it again") from None
    if outside := next((one.file for one in pictures if not one.file.is_relative_to(folder)), None):
        raise UserError(f"{data_set.title}: a list in {folder} leads out of it, to {outside}; unpack it again")
    try:
        held = {file for parent in {picture.file.parent for picture in pictures} if parent.is_dir()
                for file in parent.iterdir()}
    except OSError as error:
        raise _closed(error) from None
    absent = [picture for picture in pictures if picture.file not in held]
    if absent and not allow_incomplete:
        raise UserError(f"{data_set.title}: {len(absent)} of {len(pictures)} listed images are not there, "
                        f"the first is {absent[0].file}; unpack them again, or set allow_incomplete to true")
    return [picture for picture in pictures if picture.file in held]


def _lines(file: Path) -> Iterator[str]:
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def _mat(*places: Path) -> dict:
    """The first of these .mat files that is there, structures as objects with attributes."""
    from scipy.io import loadmat

    for place in places:
        if place.is_file():
            try:
                return loadmat(place, squeeze_me=True, struct_as_record=False)
            except Exception as error:  # scipy has errors of its own, zlib's and struct's
                raise ValueError(f"{place.name}: {first_line(error)}") from None
    raise FileNotFoundError(2, "missing", str(places[0]))


def _folder(*places: Path) -> Path:
    """The first of these folders that is there, else the first."""
    return next((place for place in places if place.is_dir()), places[0])


def _birds(root: Path) -> Iterator[Picture]:
    training = dict(line.split() for line in _lines(root / "train_test_split.txt"))
    for line in _lines(root / "images.txt"):
        number, path = line.split(" ", 1)
        split = {"1": "train", "0": "test"}[training[number]]
        yield Picture(root / "images" / path, bird_name(path.split("/")[0]), split)


def _cars(root: Path) -> Iterator[Picture]:
    import numpy

    devkit = _folder(root / "devkit", root / "car_devkit" / "devkit")
    names = [str(name) for name in _mat(devkit / "cars_meta.mat")["class_names"]]
    labelled = "cars_test_annos_withlabels.mat"
    for split, lists in (("train", (devkit / "cars_train_annos.mat",)),
                         ("test", (root / labelled, devkit / labelled))):
        inner = f"cars_{split}"  # Kaggle's copy nests it once more
        pictures = _folder(root / inner / inner, root / inner)
        for one in numpy.atleast_1d(_mat(*lists)["annotations"]):
            name = names[int(getattr(one, "class")) - 1]
            yield Picture(pictures / str(one.fname), car_name(name), split)


def _dogs(root: Path) -> Iterator[Picture]:
    import numpy

    pictures = _folder(root / "images" / "Images", root / "Images", root / "images")  # Kaggle's copy nests
    for split in ("train", "test"):
        lists = _mat(root / f"{split}_list.mat", root / "lists" / f"{split}_list.mat")
        for path in numpy.atleast_1d(lists["file_list"]):
            yield Picture(pictures / str(path), dog_name(str(path).split("/")[0]), split)


def _flowers(root: Path) -> Iterator[Picture]:
    import numpy

    labels = numpy.atleast_1d(_mat(root / "imagelabels.mat")["labels"])
    sets = _mat(root / "setid.mat")
    for key, split in (("trnid", "train"), ("valid", "train"), ("tstid", "test")):
        for number in numpy.atleast_1d(sets[key]):
            name = flower_name(int(labels[number - 1]))
            yield Picture(root / "jpg" / f"image_{number:05d}.jpg", name, split)


def _pets(root: Path) -> Iterator[Picture]:
    for file, split in (("trainval.txt", "train"), ("test.txt", "test")):
        for line in _lines(root / "annotations" / file):
            stem = line.split(" ")[0]
            yield Picture(root / "images" / f"{stem}.jpg", pet_name(stem), split)


def _aircraft(root: Path) -> Iterator[Picture]:
    for file, split in (("trainval", "train"), ("test", "test")):
        for line in _lines(root / "data" / f"images_variant_{file}.txt"):
            number, variant = line.split(" ", 1)  # variants hold spaces themselves
            yield Picture(root / "data" / "images" / f"{number}.jpg", aircraft_name(variant), split)


_READERS = {"aircraft": _aircraft, "bird": _birds, "car": _cars, "dog": _dogs, "flower": _flowers,
            "pet": _pets}
assert set(_READERS) == set(DATA_SETS)


class NotToBeHad(UserError):
    """A copy that the Hub does not give now: no connection, no such repository, no permission."""


_SIGNS = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"RIFF", ".webp"))


def read_hub_copy(data_set: DataSet, data_root: "str | Path", revision: Optional[str] = None,
                  load: Optional[Callable[..., Any]] = None, newest: Optional[Callable[[str], str]] = None,
                  progress: Optional[Callable[[int, int], None]] = None) -> tuple[list[Picture], str]:
    """All images of a copy, and its commit; downloaded to data_root/hub/WORD (all or none) the first time.

    `revision` (40 hexadecimal digits) replaces the catalogue's commit; `load` and `newest` replace
    `datasets.load_dataset` and the Hub in tests. Raises: NotToBeHad: the Hub does not give it. UserError:
    `revision` is no commit, another one is there already, or the copy has changed (column, label or image
    missing).
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
        suffix = next((suffix for sign, suffix in _SIGNS if data.startswith(sign)), None)
        if suffix is None:
            raise _changed(data_set, f"row {number} holds no JPEG, PNG, GIF or WebP image")
        file = f"{split}/{stem}{suffix}"
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
