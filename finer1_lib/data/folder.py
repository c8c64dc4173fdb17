"""Reading a folder of folders of images: every image opened whole, every mistake named.

The folder is `image_root/super_category/sub_category/*.png|jpg|webp`, or one level less (all of one
super-category). Names are folder names with underscores shown as spaces; some cannot be a label, and some
look like a data set's own folders or numbers. Hidden entries, a system's own folders and files that are no
images are skipped; images of other kinds or in other places are counted and reported.
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from itertools import chain
from pathlib import Path
from typing import Callable, Iterable, Optional, Sequence

import yaml

from finer1_lib.core.completions import normalise
from finer1_lib.core.errors import UserError, printable
from finer1_lib.core.hashing import sha256_file
from finer1_lib.core.images import _below, _unreadable, load_image
from finer1_lib.core.prompts import question_for
from finer1_lib.data.rationales.parsing import split_names

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".webp")
_KNOWN = yaml.safe_load(Path(__file__).with_name("folder_words.yaml").read_text(encoding="utf-8"))
_OTHER, _BRANDS, _SPLITS, _WRAPPERS = (
    frozenset(_KNOWN[key].split()) for key in ("other_images", "brands", "splits", "wrappers"))
# how images begin, under whatever ending
_SIGNS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"\xff\x0a", b"\0\0\0\x0cJXL ")
_LEFTOVER = re.compile(  # folders of file servers, drives and notebooks
    r"\.|@|~|(lost\+found|__MACOSX|__pycache__|#recycle|#snapshot|\$RECYCLE\.BIN|System Volume Information)$",
    re.IGNORECASE)
_DIRECTIONS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_COMPOUND = re.compile(  # "trainset", "testdata", "imagefolder"
    r"\b(train|test|trainval|val|valid|dev|eval|image|img|photo|picture|pic)"
    r"(sets?|data|images?|imgs?|splits?|folders?)\b")
NUMBER = re.compile(  # "001.", "n02085620-", "12_" before a name, "-n02085620" behind one
    r"^(?:n\d{8}|\d+)[-._ )]+(?=[^\W\d_])|[-._ ]+n\d{8}$", re.IGNORECASE)


def read_table(image_root, super_category: str = "object", progress: Optional[Callable] = None,
               broken: Optional[dict[str, str]] = None, strip_names: bool = False):
    """List and check every image below a folder: image_id, super_category, sub_category, width, height.

    Width and height are pixels after EXIF orientation. `attrs["duplicates"]` lists files left out because an
    identical one is in the same sub-category, `attrs["notes"]` what else was left out or does not look like a
    label. `strip_names` leaves out catalogue numbers ("001."). With a dictionary `broken`, unreadable images
    go there (image_id -> why) and other mistakes into `attrs["faults"]`; without, all are UserErrors.
    """
    import pandas

    root = Path(image_root)
    if not os.path.isdir(root) or unfit(str(root)):
        raise UserError(f"image_root {str(image_root)!r} is not a folder; give a folder of folders of images")
    tree = _Tree(root)
    folders, faults, notes = _folders(tree, super_category, strip_names)
    files = [(names, path) for names, folder in folders.items() for path in tree.images[folder]]
    rows, seen_bytes, duplicates = [], {}, []
    for done, (names, path) in enumerate(files, start=1):
        image_id = path.relative_to(root).as_posix()
        try:
            image = load_image(root, image_id)
        except UserError as error:
            if broken is None:
                raise
            broken[image_id] = str(error)
            continue
        its_names, first = seen_bytes.setdefault(sha256_file(path), (names, image_id))
        if its_names != names:
            faults.append(f"{path}: the same file as {first}, under another name; remove one of the two")
        if its_names == names and first != image_id:
            duplicates.append(image_id)
        else:
            rows.append((image_id, *names, image.width, image.height))
        if progress:
            progress(done, len(files))
    if faults and broken is None:
        what, _, fix = faults[0].rpartition("; ")
        more = f" ({len(faults) - 1} more mistakes: finer1 doctor lists them)" if faults[1:] else ""
        raise UserError(f"{what}{more}; {fix}")
    columns = ["image_id", "super_category", "sub_category", "width", "height"]
    table = pandas.DataFrame(rows, columns=columns).sort_values("image_id", ignore_index=True)
    table.attrs.update(duplicates=sorted(duplicates), faults=faults, notes=list(map(printable, notes)))
    return table


class _Tree:
    """What lies below a folder, read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images: dict = {}  # folder -> the images in it that can be read, sorted
        self.folders = defaultdict(list)  # depth below the root -> folders there, sorted
        # images of other kinds, hidden ones and links that lead nowhere; folders that were not read; images
        # whose names cannot be written down; what could not be followed
        self.unread, self.skipped, self.unfit, self.faults = [], [], [], []
        waiting = [root]
        while waiting:
            folder = waiting.pop()
            inner = self._read(folder)
            self.folders[self.depth(folder) + 1] += inner
            waiting += reversed(inner)
        self.first: dict = {}  # folder -> an image in it or below it, of either sort
        for picture in chain(self.unread, *self.images.values()):
            for folder in picture.parents[: self.depth(picture)]:
                self.first.setdefault(folder, picture)

    def depth(self, path: Path) -> int:
        return len(path.parts) - len(self.root.parts)

    def _read(self, folder: Path) -> list[Path]:
        """Note a folder's images; its folders are returned."""
        images, inner = self.images.setdefault(folder, []), []
        try:
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    path, kind = folder / entry.name, Path(entry.name).suffix.lower()
                    if entry.is_dir():
                        (self.skipped if _LEFTOVER.match(entry.name) else inner).append(path)
                    elif entry.name.startswith("._"):  # macOS keeps a file's attributes there
                        continue
                    elif kind in SUFFIXES and entry.is_file() and not entry.name.startswith("."):
                        (self.unfit if unfit(entry.name) else images).append(path)
                    elif kind in (*SUFFIXES, *_OTHER) or not path.exists() or (
                            entry.is_file() and _looks_like_a_picture(path)):
                        self.unread.append(path)
        except OSError as error:
            self.faults.append(str(_unreadable(error, folder)))
        for path in [path for path in (*images, *inner) if path.is_symlink()]:
            try:
                if path in inner and path.resolve() in {up.resolve() for up in path.parents}:
                    raise UserError(f"{path}: a link to a folder that it lies in; remove it")
                if folder != self.root:
                    _below(self.root, path.relative_to(self.root).as_posix())
            except UserError as error:
                self.faults.append(str(error))
                (images if path in images else inner).remove(path)
        return inner

    def notes(self, used: Sequence[Path]) -> list[str]:
        """What is left out beside the folders used, a line for each reason."""
        level, notes = self.depth(used[0]), []
        others = chain(*(paths for folder, paths in self.images.items() if folder not in set(used)))
        left = Counter((_kind(path), self.depth(path) - level - 1) for path in (*self.unread, *others))
        if left:
            place = {depth: f" {depth} folder{'s' * (depth > 1)} below a sub-category's" if depth > 0
                     else " above the sub-categories" * (depth < 0) for _, depth in left}
            told = ", ".join(f"{count} {kind}{place[depth]}" for (kind, depth), count in sorted(left.items()))
            notes.append(f"{left.total()} images are not read: {told}; put them directly into the folders of "
                         "their sub-categories, as .jpg or .png")
        empty = [folder for depth in range(1, level + 1) for folder in self.folders[depth]
                 if folder not in self.first]
        for folders, what, fix in (
            (self.skipped, "folders are skipped, hidden or of a system's own", "rename what is of the data"),
            (empty, "folders hold no image", "fill them or take them out"),
        ):
            if folders:
                names = ", ".join(path.relative_to(self.root).as_posix() for path in folders[:5])
                more = f" and {len(folders) - 5} more" if folders[5:] else ""
                notes.append(f"{len(folders)} {what}: {names}{more}; {fix}")
        return notes


def _kind(path: Path) -> str:
    """How an image that is not read is counted."""
    kind = "hidden " * path.name.startswith(".") + (path.suffix.lower() or "without an ending")
    return kind if path.is_file() else f"{kind} (a link to nowhere, or no file)"


def _looks_like_a_picture(path: Path) -> bool:
    """Whether a file under another ending begins as images do; one that may not be read counts as one."""
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:
        return True
    if start.startswith(b"RIFF"):
        return start.endswith(b"WEBP")  # or a film, or sound
    of_brand = start[4:8] == b"ftyp" and start[8:12].decode("latin-1").strip() in _BRANDS
    return of_brand or start.startswith(_SIGNS)


def _folders(tree: _Tree, super_category: str,
             strip_names: bool) -> tuple[dict[tuple[str, str], Path], list[str], list[str]]:
    """((super-category, sub-category) -> folder, mistakes, what is left out or looks like no label)."""
    root, kinds = tree.root, ", ".join(SUFFIXES)
    tops, inner = ([path for path in tree.folders[depth] if path in tree.first] for depth in (1, 2))
    flat, deep = ([path for path in paths if tree.images[path]] for paths in (tops, inner))
    refuse_splits(root, tops, labels=bool(flat))
    for top in [] if flat else tops:
        refuse_splits(top, [path for path in inner if path.parent == top], labels=True)
    if flat and deep:
        raise UserError(f"{root}: images both in {flat[0].name}/ and in {deep[0].parent.name}/{deep[0].name}/;"
                        " use super_category/sub_category/image everywhere, or sub_category/image everywhere")
    if not flat and not deep and (deeper := next(filter(tree.images.get, tree.images), None)):
        raise UserError(f"{root}: its images lie neither in sub_category/ nor in super_category/sub_category/,"
                        f" as {tree.images[deeper][0]}; move those of parts of a sub-category up into its own "
                        f"folder, or give image_root the folder above the sub-categories, as {deeper.parent}")
    faults = [*tree.faults, *(f"{path}: an image outside any sub-category folder; move or remove it"
                              for path in tree.images[root])]
    faults += [f"{tree.first[path]}: an image that is not read: {path.name}/ must hold its {kinds} directly; "
               "move or convert it, or take the folder out"
               for path in (tops if flat else inner) if not tree.images[path]]
    if tree.unfit:
        faults.append(f"{len(tree.unfit)} image names hold bytes that are not UTF-8, control signs or signs "
                      f"that turn the direction, the first is {tree.unfit[0]}; rename them")
    if not flat and not deep:
        left = sorted(Counter(map(_kind, tree.unread)).items())
        there = "".join(f", but {number} {kind}" for kind, number in left)
        raise UserError(faults[0] if faults else f"{root}: no {kinds} in super_category/sub_category/ or in "
                        f"sub_category/{there}; add or convert some")
    if deep and all(is_wrapper(folder.name) for folder in deep):
        raise UserError(f"{deep[0]}: a folder of images, not a name; move them up into "
                        f"{deep[0].parent.name}/, in the others too")
    folders, taken = {}, {}
    for folder in flat or deep:
        outer, name = super_category if flat else folder.parent.name, folder.name
        if strip_names:
            outer = super_category if is_wrapper(outer) else NUMBER.sub("", outer)
            name = NUMBER.sub("", name)
        try:
            names = label_of(outer, "super_category" if flat else folder.parent), label_of(name, folder)
        except UserError as error:
            faults.append(str(error))
            continue
        if (other := taken.setdefault((names[0], normalise(names[1])), folder)) != folder:
            faults.append(f"{folder}: reads as the same name as {other}; merge or rename one of them")
        else:
            folders[names] = folder
    if not folders:
        raise UserError(faults[0])
    return folders, list(dict.fromkeys(faults)), [*no_labels(folders), *tree.notes(list(folders.values()))]


def unfit(text: str) -> bool:
    """Whether a name holds bytes that are not UTF-8, control signs, or signs that turn the direction."""
    return any(unicodedata.category(sign) in ("Cc", "Cs") or sign in _DIRECTIONS for sign in text)


def _words(name: str) -> list[str]:
    """The words of a folder's name: "JPEGImages_2" has "jpeg" and "images"."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return re.findall(r"[^\W\d_]+", _COMPOUND.sub(r"\1 \2", re.sub(r"[\d_]+", " ", parted).casefold()))


def is_wrapper(name: str) -> bool:
    """Whether a folder's name speaks of files and of no kind of thing: "images", "raw_data"."""
    return bool(_words(name)) and _WRAPPERS.issuperset(_words(name))


def refuse_splits(parent: Path, folders: list[Path], labels: bool) -> None:
    """Refuse train/, test/, ... where names belong. Among labels one such word may be a name, or part of one
    (a train among vehicles), unless all are such.
    """
    held = {folder: _SPLITS.intersection(_words(folder.name)) for folder in folders}
    marked = [folder for folder in folders if held[folder]]
    alone = [folder for folder in marked if (_SPLITS | _WRAPPERS).issuperset(_words(folder.name))]

    def several(those: list[Path]) -> bool:
        return len({word[:2] for folder in those for word in held[folder]}) > 1  # train and training are one

    if several(alone) or (alone and (not labels or alone == folders)) or (
            several(marked) and (not labels or marked == folders)):
        found = ", ".join(folder.name for folder in marked)
        raise UserError(f"{parent}: {found}: splits of a data set and no names; 01 draws its own split: give "
                        "image_root the folder below (with super_category as the word for all), or rename "
                        "them")


def no_labels(names: Iterable[tuple[str, str]]) -> list[str]:
    """What of pairs (super-category, sub-category) looks like no name: lines, each ending in its fix."""
    notes, held = [], defaultdict(list)
    for outer, inner in names:
        held[outer].append(inner)
    for outer, inside in held.items():
        asked = f"the question would be {question_for(outer)!r}"
        if NUMBER.search(outer):
            notes.append(f"{outer!r} carries a number: {asked}; set 01_data.strip_names=true to leave it out, "
                         "or rename the folder")
        if is_wrapper(outer):
            notes.append(f"{outer!r} looks like a wrapper around the sub-categories: {asked}; give the folder"
                         " below as image_root, or set 01_data.strip_names=true, and super_category to the word"
                         " for all")
        numbered = [name for name in inside if NUMBER.search(name)]
        bare = [name for name in inside if not _words(re.sub(r"^n(?=\d{8}$)", "", name))]
        odd = [name for name in inside if _words(name) and (_SPLITS | _WRAPPERS).issuperset(_words(name))]
        for found, least, what, fix in (
                (odd, 1, "look like folders of a data set and no names", "rename them, or take them out"),
                (numbered, len(inside) / 2, "carry a catalogue number, which would be part of every answer",
                 "set 01_data.strip_names=true to leave the numbers out, or rename the folders"),
                (bare, len(inside), "are numbers or signs and no names", "rename the folders")):
            if len(found) >= least:
                notes.append(f"{len(found)} of {len(inside)} names of {outer!r} {what} ({found[0]!r}); {fix}")
    return notes


def label_of(text: str, where) -> str:
    """A folder name as shown; it must survive a list of candidates (`parsing.split_names`)."""
    name = " ".join(text.replace("_", " ").split())
    whole = split_names(f"{name}, {name}") == (name, name)
    shown = re.sub("(?<=\\S)[\u200c\u200d](?=\\S)", "", name)  # joiners, of Persian, Malayalam and emoji
    if not normalise(name) or not whole or set(name) & set("<>") or not shown.isprintable():
        raise UserError(f"{where}: {text!r} cannot stand in a list of names (no , ; : < > brackets, bullets, "
                        "sentences, final full stop, signs that do not print, bytes that are not UTF-8); "
                        "rename the folder")
    return name
