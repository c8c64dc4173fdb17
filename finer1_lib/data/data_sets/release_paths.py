"""Which image on the disk the release means by a path such as `bird_200/images/001.Name/Name_0046_18.jpg`.

The release keeps the data sets under folder names of its own, evaluation and training images apart, so a
image is known by its data set, its split and its file's name without the ending: each archive gives a name
once in a split (Cars numbers its training and its test images alike, both from 00001). A name proves
nothing: whoever asks compares the label. Images of copies that have lost their names are never found.

Source: the paths in release eval/data/*.jsonl and LLaMA-Factory/data/Fine-R1-Stage1-data.json, and the
archives' file names.
"""

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Callable, Mapping, Optional

from finer1_lib.core.errors import UserError
from finer1_lib.data.data_sets.catalogue import DATA_SETS

if TYPE_CHECKING:
    import pandas

Picture = Mapping[str, Any]
# where the release keeps each data set's test images
FOLDERS = {
    "aircraft": "fgvc_aircraft/data/images", "bird": "bird_200/images", "car": "stanford-cars/cars_test",
    "dog": "dogs_120/Images", "flower": "flower102/jpg", "pet": "oxford-pet/images",
}  # fmt: skip
_CLASS = re.compile(r"\d{3}\.|n\d{8}-")  # folders of a class, as CUB and Stanford Dogs have them


def word_of(path: str) -> str:
    """The data set of a path of the release, by its first folder: "oxford-pet-train/..." is "pet".
    Raises: UserError: the first folder names none of the six, or more than one.
    """
    first = PurePosixPath(path).parts[0].lower() if path else ""
    words = [word for word in DATA_SETS if word in first]
    if len(words) != 1:
        raise UserError(f"{path!r}: its first folder names none of the data sets {', '.join(DATA_SETS)}")
    return words[0]


def find_images(
    word: str, table: "pandas.DataFrame", split: str
) -> Callable[[str], Optional[Picture]]:
    """A function from the release's path to the row of that image, or to None.

    Args:
        word: the data set; one that is not of the paper's is looked up by the whole path.
        table: image_id, super_category, sub_category, split (and what else the rows are to hold).
        split: "train" or "test"; images of the other split are never found.
    Raises: UserError: two images of the split have one name.
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
    """The release's path of a test image, wherever it lies here: "hub/car/test/00001.jpg" is
    "stanford-cars/cars_test/00001.jpg". Of a copy that lost its file names only the folder is the release's.
    """
    file = PurePosixPath(image_id.partition("#")[0])
    inner = f"{file.parent.name}/" if _CLASS.match(file.parent.name) else ""
    return f"{FOLDERS[word]}/{inner}{file.stem}.jpg"


def image_name(item: Mapping) -> str:
    """What the chance of an item goes by: for an official image its data set and file, the same in every
    layout; else its `item_id`. Training and test images of cars share their names, so those have a folder.
    """
    if not item.get("release_path"):
        return item["item_id"]
    word, file = item["super_category"], PurePosixPath(item["release_path"])
    return f"{word}/{file.parent.name}/{file.stem}" if word == "car" else f"{word}/{file.stem}"


def _key(word: str, path: str) -> str:
    """What an image is known by within its split."""
    return PurePosixPath(path).stem if word in DATA_SETS else path
