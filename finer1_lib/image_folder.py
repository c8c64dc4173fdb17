"""Reading a folder of folders of images: every picture opened whole, every mistake named.

The folder is `image_root/super_category/sub_category/*.png|jpg|webp` (JPEG under any of its endings), or one
level less (`image_root/sub_category/*.jpg`, all of one super-category). Names are folder names with
underscores shown as spaces. Hidden entries and a system's own folders are skipped, files that are no pictures
ignored; pictures of other kinds, or not directly in a sub-category's folder, are counted and reported.

Source: our choice.
"""

import os
import re
from collections import Counter, defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, Sequence

from finer1_lib.errors import UserError, first_line, printable
from finer1_lib.folder_names import NUMBER, is_wrapper, label_of, no_labels, refuse_splits, unfit
from finer1_lib.hashing import sha256_file
from finer1_lib.rewards import normalise

_ORIENTATION = 0x0112  # EXIF
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".webp")
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # no reader that starts another program
_OTHER = frozenset(  # endings of pictures that are not read
    ".heic .heif .hif .avif .jxl .jp2 .j2k .jpf .jpx .tif .tiff .gif .apng .bmp .dib .ico .tga .ppm "
    ".pgm .pbm .pnm .psd .svg .exr .hdr .raw .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .srw .pef "
    ".mpo .pcx .xcf".split())
# how pictures begin, under whatever ending; HEIF and its relatives name a brand after "ftyp"
_SIGNS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"\xff\x0a", b"\0\0\0\x0cJXL ")
_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis", b"crx ")
_LEFTOVER = re.compile(  # folders of file servers, drives and notebooks
    r"\.|@|~|(lost\+found|__MACOSX|__pycache__|#recycle|#snapshot|\$RECYCLE\.BIN|System Volume Information)$",
    re.IGNORECASE)


def load_image(image_root, image_id: str):
    """Open one image fully: first frame, EXIF orientation applied, RGB (transparency laid on white).

    Args:
        image_root: the folder of folders.
        image_id: posix path relative to it; "#bottom=20" at its end leaves out the last 20 pixel rows.

    Returns:
        A loaded `PIL.Image` in mode RGB.

    Raises:
        UserError: the path leaves the root (also through a symbolic link), is missing, or is no whole image.
    """
    from PIL import Image, ImageOps

    file, rows = split_crop(image_id)
    path = _below(Path(image_root), file)
    with _opened(path) as opened:
        opened.load()
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I;16"):  # PIL would clip 16-bit greys to white
            image = image.point(lambda value: value / 256).convert("L")
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
    if rows:
        image = image.crop((0, 0, image.width, _kept(path, image.height, rows)))
    if max(image.size) >= 200 * min(image.size):  # Qwen2.5-VL's processor refuses it, much later
        size = f"{image.width} x {image.height}"
        raise UserError(f"{path}: {size} pixels are too narrow (1:200 or more); crop or remove it")
    return image


def image_size(image_root, image_id: str) -> tuple[int, int]:
    """(width, height) in pixels of what `load_image` would give, from the file's header alone.

    Raises:
        UserError: as `load_image`, as far as a header tells.
    """
    file, rows = split_crop(image_id)
    path = _below(Path(image_root), file)
    with _opened(path) as opened:
        width, height = opened.size
        if opened.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8):
            width, height = height, width
    return width, _kept(path, height, rows)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A picture opened by Pillow; whatever it raises on a damaged file is a UserError."""
    from PIL import Image

    try:
        with Image.open(path, formats=_FORMATS) as opened:
            yield opened
    except FileNotFoundError:
        raise UserError(f"{path}: no such image; run 01_data again if the folder has changed") from None
    except PermissionError as error:
        raise _unreadable(error, path) from None
    except Exception as error:  # damaged files make its decoders raise nearly anything
        what = first_line(error).replace(f" {str(path)!r}", "")
        raise UserError(
            f"{path}: not a whole image ({what}); replace the file or take it out of the folder"
        ) from None


def _unreadable(error: OSError, path: Path) -> UserError:
    what = f"cannot be read ({error.strerror}); make it readable, or take it out"
    return UserError(f"{error.filename or path}: {what}")


def split_crop(image_id: str) -> tuple[str, int]:
    """("a/b.jpg", 20) of "a/b.jpg#bottom=20", and ("a/b.jpg", 0) of "a/b.jpg"."""
    found = re.fullmatch(r"(.*)#bottom=(\d+)", image_id, re.DOTALL)
    return (found[1], int(found[2])) if found else (image_id, 0)


def _kept(path: Path, height: int, rows: int) -> int:
    """The rows that are left of a picture."""
    if rows >= height:
        raise UserError(f"{path}: {height} pixel rows, of which {rows} should be left out; replace the file")
    return height - rows


def read_table(
    image_root, super_category: str = "object", progress: Optional[Callable] = None,
    broken: Optional[dict[str, str]] = None, strip_names: bool = False,
):
    """List and check every image below a folder.

    Args:
        image_root: the folder of folders.
        super_category: the word for everything where the folder has one level only.
        progress: called as `progress(done, total)` after each image.
        broken: where given, images that cannot be read are noted in it (image_id -> why) and left out, and
            mistakes that leave other images readable go into `attrs["faults"]`.
        strip_names: leave out catalogue numbers ("001.", "n02085620-"); a super-category that is a wrapper
            ("images") becomes `super_category`.

    Returns:
        DataFrame sorted by image_id: image_id, super_category, sub_category, width, height (pixels, after
        EXIF orientation). `attrs["duplicates"]` lists files left out because the same bytes stand in the
        same sub-category already (they could end up on both sides of the split), `attrs["notes"]` what else
        was left out or looks like no label, a line each with its fix at the end.

    Raises:
        UserError: no folder, no images, a wrong layout, split folders above the sub-categories, a broken
            image, a name that cannot be used, two folders of one name, one image under two names, or a link
            that leaves the folder.
    """
    import pandas

    root = Path(image_root)
    if not _is_folder(root) or unfit(str(root)):
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
        first = seen_bytes.setdefault(sha256_file(path), (names, image_id))
        if first[0] != names:
            faults.append(f"{path}: the same file as {first[1]}, under another name; remove one of the two")
        if first[0] == names and first[1] != image_id:
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


def _is_folder(path: Path) -> bool:
    """`is_dir`; a text that can be no path (too long, a zero byte) is no folder either."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _below(root: Path, file: str) -> Path:
    """The path of a file below the root. What lies directly in the root may be a link of the user's to a
    data set kept elsewhere; nothing further down may leave that."""
    first, _, _ = file.partition("/")
    if not file or file.startswith("/") or first in ("", ".", ".."):
        raise UserError(f"{root / file}: leads out of {root}; give a path below it")
    return _inside(root / first, root / file)


def _inside(root: Path, path: Path) -> Path:
    """Refuse a path that leaves the root, by `..` or by a symbolic link; the root itself may be a link."""
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:  # a link that leads to itself
        raise UserError(f"{path}: a link that cannot be followed ({error}); remove it") from None
    if not inside:
        raise UserError(f"{path}: leads out of {root}; copy the images in instead of linking them")
    return path


class _Tree:
    """What lies below a folder, read once.

    Attributes:
        images: folder -> the images in it that can be read, sorted.
        unread: pictures of other kinds, hidden ones, links that lead nowhere.
        first: folder -> the first picture in it or below it, of either sort.
        folders: depth below the root -> folders there, sorted.
        skipped: folders of which nothing was looked at.
        unfit: images whose names cannot be written down.
        faults: what could not be read or followed, a line each.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.images, self.first, self.folders = root, {}, {}, defaultdict(list)
        self.unread, self.skipped, self.unfit, self.faults = [], [], [], []
        waiting = [root]
        while waiting:
            folder = waiting.pop()
            inner = self._read(folder)
            self.folders[self.depth(folder) + 1] += inner
            waiting += reversed(inner)

    def depth(self, path: Path) -> int:
        """Levels below the root."""
        return len(path.parts) - len(self.root.parts)

    def _read(self, folder: Path) -> list[Path]:
        """Note a folder's pictures; its folders are returned."""
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
                        self._found(path)
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
        for path in images:
            self._found(path)
        return inner

    def _found(self, picture: Path) -> None:
        for folder in picture.parents[: self.depth(picture)]:
            self.first.setdefault(folder, picture)

    def notes(self, used: Sequence[Path]) -> list[str]:
        """What is left out beside the folders used, a line for each reason."""
        level, taken = self.depth(used[0]), set(used)
        others = [path for folder, paths in self.images.items() if folder not in taken for path in paths]
        left = Counter((_kind(path), self.depth(path) - level - 1) for path in (*self.unread, *others))
        notes = []
        if left:
            told = ", ".join(f"{number} {kind}{_place(depth)}"
                             for (kind, depth), number in sorted(left.items()))
            notes.append(f"{left.total()} pictures are not read: {told}; put them directly into the folders "
                         "of their sub-categories, as .jpg or .png")
        empty = [folder for depth in range(1, level + 1) for folder in self.folders[depth]
                 if folder not in self.first]
        for folders, what, fix in (
            (self.skipped, "folders are skipped, hidden or of a system's own", "rename what is of the data"),
            (empty, "folders hold no picture", "fill them or take them out"),
        ):
            if folders:
                names = ", ".join(path.relative_to(self.root).as_posix() for path in folders[:5])
                more = f" and {len(folders) - 5} more" if folders[5:] else ""
                notes.append(f"{len(folders)} {what}: {names}{more}; {fix}")
        return notes


def _place(depth: int) -> str:
    """Where a picture lies: so many folders below the folder of a sub-category, or above it."""
    if depth <= 0:
        return " above the sub-categories" if depth else ""
    return f" {depth} folder{'s' * (depth > 1)} below a sub-category's"


def _kind(path: Path) -> str:
    """How a picture that is not read is counted."""
    kind = "hidden " * path.name.startswith(".") + (path.suffix.lower() or "without an ending")
    return kind if path.is_file() else f"{kind} (a link to nowhere, or no file)"


def _looks_like_a_picture(path: Path) -> bool:
    """Whether a file under another ending begins as pictures do; one that may not be read counts as one."""
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:
        return True
    if start.startswith(b"RIFF"):
        return start.endswith(b"WEBP")  # or a film, or sound
    return start.startswith(_SIGNS) or (start[4:8] == b"ftyp" and start[8:12] in _BRANDS)


def _folders(
    tree: _Tree, super_category: str, strip_names: bool
) -> tuple[dict[tuple[str, str], Path], list[str], list[str]]:
    """((super-category, sub-category) -> folder, mistakes, what is left out or looks like no label)."""
    root, kinds = tree.root, ", ".join(SUFFIXES)
    tops, inner = ([path for path in tree.folders[depth] if path in tree.first] for depth in (1, 2))
    flat, deep = ([path for path in paths if tree.images[path]] for paths in (tops, inner))
    refuse_splits(root, tops, labels=bool(flat))
    for top in [] if flat else tops:
        refuse_splits(top, [path for path in inner if path.parent == top], labels=True)
    if flat and deep:
        raise UserError(
            f"{root}: images both in {flat[0].name}/ and in {deep[0].parent.name}/{deep[0].name}/; "
            "use super_category/sub_category/image everywhere, or sub_category/image everywhere"
        )
    if not flat and not deep and (deeper := next(filter(tree.images.get, tree.images), None)):
        raise UserError(f"{root}: its images lie neither in sub_category/ nor in super_category/sub_category/,"
                        f" as {tree.images[deeper][0]}; move those of parts of a sub-category up into its"
                        f" own folder, or give image_root the folder above the sub-categories, as {deeper.parent}")
    faults = tree.faults + [
        f"{path}: an image outside any sub-category folder; move or remove it" for path in tree.images[root]
    ] + [
        f"{tree.first[path]}: a picture that is not read: {path.name}/ must hold its {kinds} directly; move "
        "or convert it, or take the folder out" for path in (tops if flat else inner) if not tree.images[path]
    ]
    if tree.unfit:
        faults.append(f"{len(tree.unfit)} image names hold bytes that are no UTF-8, control signs or signs "
                      f"that turn the direction, the first is {tree.unfit[0]}; rename them")
    if not flat and not deep:
        left = Counter(map(_kind, tree.unread))
        there = "".join(f", but {number} {kind}" for kind, number in sorted(left.items()))
        raise UserError(faults[0] if faults else f"{root}: no {kinds} in super_category/sub_category/ or in "
                        f"sub_category/{there}; add or convert some")
    if deep and all(is_wrapper(folder.name) for folder in deep):
        raise UserError(f"{deep[0]}: a folder of images, not a name; move them up into "
                        f"{deep[0].parent.name}/, in the others too")
    folders, taken = {}, {}
    for folder in flat or deep:
        try:
            outer, inner_name = super_category if flat else folder.parent.name, folder.name
            if strip_names:
                outer = super_category if is_wrapper(outer) else NUMBER.sub("", outer)
                inner_name = NUMBER.sub("", inner_name)
            where = "super_category" if flat else folder.parent
            names = (label_of(outer, where), label_of(inner_name, folder))
        except UserError as error:
            faults.append(str(error))
            continue
        other = taken.setdefault((names[0], normalise(names[1])), folder)
        if other != folder:
            faults.append(f"{folder}: reads as the same name as {other}; merge or rename one of them")
        else:
            folders[names] = folder
    if not folders:
        raise UserError(faults[0])
    notes = [*no_labels(folders), *tree.notes(list(folders.values()))]
    return folders, list(dict.fromkeys(faults)), notes
