"""Facts about the paper's six data sets, the names of their sub-categories, and the release's image paths.

>>> DATA_SETS["pet"].title, DATA_SETS["pet"].train, dog_name("n02086240-Shih-Tzu"), pet_name("Abyssinian_201")
('Oxford-IIIT Pet', 3680, 'Shih Tzu', 'Abyssinian')

A data set's word is the super-category of all its sub-categories. Names are spelled as in release
eval/data/*.jsonl, with CUB's misspellings ("Artic Tern"). The release's paths are matched by data set, split
and file stem, which each archive gives once in a split; that proves nothing, so callers compare the label.
Sources: Fine-R1 (arXiv 2602.07605), Section 5.1; the data sets' class lists; for flowers OpenAI's CLIP.
"""

import csv
import re
from functools import cache
from pathlib import Path, PurePosixPath
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

    def changed(self, what: str) -> UserError:
        """What is said of a copy that no longer fits."""
        return UserError(f"{self.hub.name}: {what}: it is not the copy it was; {self.how}")


_FACTS = yaml.safe_load(Path(__file__).with_name("data_sets.yaml").read_text(encoding="utf-8"))
DATA_SETS = {word: DataSet(word, **one | {"hub": HubCopy(**one["hub"])}) for word, one in _FACTS.items()}


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

    def key(path: str) -> str:
        return PurePosixPath(path).stem if word in DATA_SETS else path

    for row in rows.to_dict("records"):
        if (other := known.setdefault(key(row["image_id"].partition("#")[0]), row)) is not row:
            raise UserError(f"{other['image_id']} and {row['image_id']}: two {split} images of one name; "
                            "remove one of the two")
    return lambda path: known.get(key(path))


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


# Other lists' names of the same flowers, by number: torchvision's, TensorFlow's, cat_to_name.json's.
FLOWER_ALIASES = {16: ("globe-flower",), 60: ("pink-yellow dahlia", "pink-yellow dahlia?"),
                  78: ("lotus lotus",), 93: ("ball moss",)}


def bird_name(folder: str) -> str:
    """The name of a CUB folder: what follows the number's dot."""
    return re.sub(r"^\d{3}\.", "", folder).replace("_", " ").title()


def dog_name(folder: str) -> str:
    """The name of a Stanford Dogs folder: what follows the FIRST dash; seven breeds have more of them."""
    return re.sub(r"^n\d{8}-", "", folder).replace("_", " ").replace("-", " ").title()


def pet_name(stem: str) -> str:
    """The name in a pet's file name: all before the last underscore."""
    return re.sub(r"_\d+$", "", stem).replace("_", " ").title()


def flower_name(number: int) -> str:
    """The name of class 1 to 102 of imagelabels.mat."""
    if not 1 <= number <= len(FLOWERS):
        raise ValueError(f"flower class {number} is not among 1 to {len(FLOWERS)}")
    return FLOWERS[number - 1]


def aircraft_name(variant: str) -> str:
    """The variant with its maker where the data set leaves it out: Boeing before 7x7-, Airbus before A3xx."""
    return re.sub(r"^(?=A3\d\d)", "Airbus ", re.sub(r"^(?=7\d7-)", "Boeing ", variant))


@cache
def official_names(word: str) -> frozenset[str]:
    """All sub-categories of a data set, as these rules spell them."""
    return frozenset(_listed(word))


def _listed(word: str) -> list[str]:
    """The class list of a data set, flowers in the order of their numbers."""
    file = Path(__file__).with_name("cub_taxonomy.csv" if word == "bird" else "sub_categories.csv")
    rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    return [row["sub_category"] for row in rows if row.get("data_set", word) == word]


FLOWERS = tuple(_listed("flower"))


def name_of_label(word: str, label: str) -> str:
    """The name behind a class label of a copy: official folder names, bare names, or flowers' other names.
    Raises: UserError: a label that gives no name of this data set.
    """
    flowers = {alias: flower_name(number) for number, aliases in FLOWER_ALIASES.items() for alias in aliases}
    rules = {"bird": bird_name, "dog": dog_name, "pet": pet_name, "aircraft": aircraft_name,
             "flower": lambda label: flowers.get(label, label)}
    name = rules.get(word, str)(label)
    if name not in official_names(word):
        raise DATA_SETS[word].changed(f"{name!r} is not a class label of the data set {word!r}")
    return name


def name_of_path(word: str, path: str) -> str:
    """The name that an image's path carries: birds and dogs in the folder, pets in the file.
    Raises: ValueError: cars, flowers and aircraft have numbers for names.
    """
    found, rules = PurePosixPath(path), {"bird": bird_name, "dog": dog_name, "pet": pet_name}
    if word not in rules:
        raise ValueError(f"the path of a {word}'s image does not contain its name")
    return rules[word](found.stem if word == "pet" else found.parent.name)
