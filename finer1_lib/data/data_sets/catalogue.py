"""Facts about the paper's six data sets, one entry a word, and the release's paths to their images.

>>> DATA_SETS["pet"].title, DATA_SETS["pet"].train, DATA_SETS["pet"].test
('Oxford-IIIT Pet', 3680, 3669)

The word is the super-category of all its sub-categories. The Hub ids are copies by others, compared with
these counts and with the name rules before use. The release has its own folder names, with evaluation and
training images separate: an image is known by its data set, its split and its file's stem, which each archive
gives once in a split. A stem proves nothing: callers compare the label.

Source: Fine-R1 (arXiv 2602.07605), Section 5.1; the data sets' read-me files; release eval/data/*.jsonl and
LLaMA-Factory/data/Fine-R1-Stage1-data.json (paths, seen and unseen sub-categories).
"""

import importlib.resources
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Callable, Iterable, Mapping, NamedTuple, Optional

import yaml

from finer1_lib.core.errors import UserError

if TYPE_CHECKING:
    import pandas


class HubCopy(NamedTuple):
    """A parquet copy on the Hugging Face Hub."""

    name: str  # owner/name
    revision: Optional[str]  # commit that others have pinned; None: the newest, which is noted
    label: str = "label"  # column of the sub-category, a ClassLabel or text
    splits: dict = {"train": ("train",), "test": ("test",)}  # this kit's split -> the copy's
    file: str = ""  # column with the image's file name or stem; "": the name inside the image column, if any


class DataSet(NamedTuple):
    """One data set."""

    word: str  # its super-category
    title: str  # its name in tables
    classes: int
    seen: int
    unseen: int
    train: int  # all images that are not for testing
    test: int
    folders: tuple[str, ...]  # names of the unpacked archive, below data_root
    marker: tuple[str, ...]  # files of which only this archive has one, relative to such a folder
    how: str  # how to get it, for messages
    archives: dict[str, tuple[str, str]]  # file name -> (address, md5 or "")
    licence: str  # in the owners' words, shortened
    hub: HubCopy


def _data_set(word: str, *, hub: dict, **facts) -> DataSet:
    return DataSet(word, hub=HubCopy(**hub), **facts)


DATA_SETS = {word: _data_set(word, **facts) for word, facts in yaml.safe_load(
    (importlib.resources.files(__package__) / "data_sets.yaml").read_text(encoding="utf-8")).items()}


def copies_named(hub_copies: Iterable[str]) -> dict[str, Optional[str]]:
    """{word: the commit asked for, or None}: the entries "word" and "word@commit" of 01's `hub_copies`."""
    return {word: commit or None for word, _, commit in (entry.partition("@") for entry in hub_copies)}


Picture = Mapping[str, Any]
# where the release keeps each data set's test images
FOLDERS = {"aircraft": "fgvc_aircraft/data/images", "bird": "bird_200/images",
           "car": "stanford-cars/cars_test", "dog": "dogs_120/Images", "flower": "flower102/jpg",
           "pet": "oxford-pet/images"}
_CLASS = re.compile(r"\d{3}\.|n\d{8}-")  # folders of a class, as CUB and Stanford Dogs have them


def word_of(path: str) -> str:
    """The data set of a path of the release, by its first folder: "oxford-pet-train/..." is "pet".
    Raises: UserError: none of the six, or more than one.
    """
    first = PurePosixPath(path).parts[0].lower() if path else ""
    words = [word for word in DATA_SETS if word in first]
    if len(words) != 1:
        raise UserError(f"{path!r}: its first folder names none of the data sets {', '.join(DATA_SETS)}")
    return words[0]


def find_images(word: str, table: "pandas.DataFrame", split: str) -> Callable[[str], Optional[Picture]]:
    """A function from the release's path to the row of that image of the split "train" or "test", or to None.

    `table` has image_id, super_category, sub_category, split; a `word` that is not of the paper's is looked
    up by the whole path. Raises: UserError: two images of the split have one name.
    """
    rows = table[(table["super_category"] == word) & (table["split"] == split)]
    known: dict[str, Picture] = {}
    for row in rows.to_dict("records"):
        key = _key(word, row["image_id"].partition("#")[0])
        if key in known:
            raise UserError(f"{known[key]['image_id']} and {row['image_id']}: two {split} images of one "
                            "name; remove one of the two")
        known[key] = row
    return lambda path: known.get(_key(word, path))


def release_path(word: str, image_id: str) -> str:
    """The release's path of a test image: "hub/car/test/00001.jpg" is "stanford-cars/cars_test/00001.jpg". Of
    a copy that lost its file names only the folder is the release's.
    """
    file = PurePosixPath(image_id.partition("#")[0])
    inner = f"{file.parent.name}/" if _CLASS.match(file.parent.name) else ""
    return f"{FOLDERS[word]}/{inner}{file.stem}.jpg"


def image_name(item: Mapping) -> str:
    """What the chance of an item goes by: for an official image its data set and file, the same in every
    layout (cars with a folder, whose two splits share names); else its `item_id`.
    """
    if not item.get("release_path"):
        return item["item_id"]
    word, file = item["super_category"], PurePosixPath(item["release_path"])
    return f"{word}/{file.parent.name}/{file.stem}" if word == "car" else f"{word}/{file.stem}"


def _key(word: str, path: str) -> str:
    """What an image is known by within its split."""
    return PurePosixPath(path).stem if word in DATA_SETS else path
