"""Names of folders as labels: which can be none, and which look like a data set's own folders or numbers.

Source: our choice.
"""

import re
import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import Iterable

from finer1_lib.errors import UserError
from finer1_lib.prompts import question_for
from finer1_lib.rewards import normalise
from finer1_lib.traces.parsing import split_names

_DIRECTIONS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SPLITS = frozenset(
    "train training trainval trn val valid validation dev eval evaluation test testing tst holdout seen "
    "unseen query gallery".split())
_WRAPPERS = frozenset(
    "image images img imgs jpg jpeg jpegs jpegimages png pngs picture pictures photo photos data dataset "
    "datasets raw class classes label labels category categories crop crops cropped set sets split splits "
    "folder folders all files media dcim original originals resized sample samples labeled labelled "
    "unlabeled unlabelled fold folds part parts batch archive archives download downloads unzipped extracted "
    "pic pics root".split())
_COMPOUND = re.compile(  # "trainset", "testdata", "imagefolder"
    r"\b(train|test|trainval|val|valid|dev|eval|image|img|photo|picture|pic)(sets?|data|images?|imgs?|splits?|folders?)\b")
NUMBER = re.compile(  # "001.", "n02085620-", "12_" before a name, "-n02085620" behind one
    r"^(?:n\d{8}|\d+)[-._ )]+(?=[^\W\d_])|[-._ ]+n\d{8}$", re.IGNORECASE)


def unfit(text: str) -> bool:
    """Whether a name holds bytes that are no UTF-8, control signs, or signs that turn the direction."""
    return any(unicodedata.category(sign) in ("Cc", "Cs") or sign in _DIRECTIONS for sign in text)


def _words(name: str) -> list[str]:
    """The words of a folder's name: "JPEGImages_2" has "jpeg" and "images"."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return re.findall(r"[^\W\d_]+", _COMPOUND.sub(r"\1 \2", re.sub(r"[\d_]+", " ", parted).casefold()))


def is_wrapper(name: str) -> bool:
    """Whether a folder's name speaks of files and of no kind of thing: "images", "raw_data"."""
    return bool(_words(name)) and set(_words(name)) <= _WRAPPERS


def refuse_splits(parent: Path, folders: list[Path], labels: bool) -> None:
    """Refuse train/, test/, ... where names belong.

    Among labels one such word may be a name, or part of names (a train among vehicles), unless all are such.
    """
    held = {folder: _SPLITS.intersection(_words(folder.name)) for folder in folders}
    alone = [folder for folder, words in held.items()
             if words and set(_words(folder.name)) <= _SPLITS | _WRAPPERS]  # fmt: skip
    marked = [folder for folder in folders if held[folder]]

    def several(those: list[Path]) -> bool:
        return len({word[:2] for folder in those for word in held[folder]}) > 1  # train and training are one

    if several(alone) or (alone and (not labels or alone == folders)) or (
            several(marked) and (not labels or marked == folders)):  # fmt: skip
        found = ", ".join(folder.name for folder in marked)
        raise UserError(
            f"{parent}: {found}: splits of a data set and no names; 01 draws its own split: give image_root "
            "the folder below (with super_category as the word for all), or rename them")


def no_labels(names: Iterable[tuple[str, str]]) -> list[str]:
    """What of pairs (super-category, sub-category) looks like no name: lines, each ending in its fix."""
    notes, held = [], defaultdict(list)
    for outer, inner in names:
        held[outer].append(inner)
    for outer, inside in held.items():
        if NUMBER.search(outer):
            notes.append(
                f"{outer!r} carries a number: the question would be {question_for(outer)!r}; set "
                "01_data.strip_names=true to leave it out, or rename the folder")
        if is_wrapper(outer):
            notes.append(
                f"{outer!r} looks like a wrapper around the sub-categories: the question would be "
                f"{question_for(outer)!r}; give the folder below as image_root, or set "
                "01_data.strip_names=true, and super_category to the word for all")
        numbered = [name for name in inside if NUMBER.search(name)]
        bare = [name for name in inside if not _words(re.sub(r"^n(?=\d{8}$)", "", name))]
        odd = [name for name in inside if _words(name) and set(_words(name)) <= _SPLITS | _WRAPPERS]
        for found, least, what, fix in (
            (odd, 1, "look like folders of a data set and no names", "rename them, or take them out"),
            (numbered, len(inside) / 2, "carry a catalogue number, which would be part of every answer",
             "set 01_data.strip_names=true to leave the numbers out, or rename the folders"),
            (bare, len(inside), "are numbers or signs and no names", "rename the folders"),
        ):
            if len(found) >= least:
                notes.append(f"{len(found)} of {len(inside)} names of {outer!r} {what} ({found[0]!r}); {fix}")
    return notes


def label_of(text: str, where) -> str:
    """A folder name as shown; it must survive a list of candidates (`traces.split_names`)."""
    name = " ".join(text.replace("_", " ").split())
    whole = split_names(f"{name}, {name}") == (name, name)
    shown = re.sub("(?<=\\S)[\u200c\u200d](?=\\S)", "", name)  # joiners, of Persian, Malayalam and emoji
    if not normalise(name) or not whole or set(name) & set("<>") or not shown.isprintable():
        raise UserError(
            f"{where}: {text!r} cannot stand in a list of names (no , ; : < > brackets, bullets, sentences, "
            "final full stop, signs that do not print, bytes that are no UTF-8); rename the folder"
        )
    return name
