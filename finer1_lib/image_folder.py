"""Reading a folder of folders of images: every picture opened whole, every mistake named.

The folder is `image_root/super_category/sub_category/*.png|jpg|jpeg|webp`, or one level less
(`image_root/sub_category/*.jpg`, all of one super-category). Names are folder names with underscores shown
as spaces; hidden files and other file types are ignored.

Source: our choice.
"""

import hashlib
import re
import struct
import zlib
from pathlib import Path
from typing import Callable, Optional

from finer1_lib.errors import UserError
from finer1_lib.rewards import normalise
from finer1_lib.traces.parsing import split_names

_ORIENTATION = 0x0112  # EXIF
_OTHER = (".heic", ".heif", ".avif", ".tif", ".tiff", ".gif", ".bmp")  # pictures, but not read
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_BROKEN = (OSError, SyntaxError, ValueError, struct.error, zlib.error)  # what Pillow raises on damaged files


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
    try:
        with Image.open(path) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16"):  # PIL would clip 16-bit greys to white
                image = image.point(lambda value: value / 256).convert("L")
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{path}: no such image; run 01_data again if the folder has changed") from None
    except _BROKEN + (Image.DecompressionBombError,) as error:
        raise UserError(
            f"{path}: not a whole image ({error}); replace the file or take it out of the folder"
        ) from None
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
    from PIL import Image

    file, rows = split_crop(image_id)
    path = _below(Path(image_root), file)
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            if opened.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8):
                width, height = height, width
    except FileNotFoundError:
        raise UserError(f"{path}: no such image; run 01_data again if the folder has changed") from None
    except _BROKEN + (Image.DecompressionBombError,) as error:
        raise UserError(f"{path}: not an image ({error}); unpack or download it again") from None
    return width, _kept(path, height, rows)


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
    broken: Optional[dict[str, str]] = None,
):
    """List and check every image below a folder.

    Args:
        image_root: the folder of folders.
        super_category: the word for everything where the folder has one level only.
        progress: called as `progress(done, total)` after each image.
        broken: where given, images that cannot be read are noted in it (image_id -> why) and left out.

    Returns:
        DataFrame sorted by image_id: image_id, super_category, sub_category, width, height (pixels, after
        EXIF orientation). `attrs["duplicates"]` lists files left out because the same bytes stand in the
        same sub-category already (they could end up on both sides of the split).

    Raises:
        UserError: no folder, no images, a wrong layout, a broken image, a name that cannot be used, two
            folders of one name, one image under two names, or a link that leaves the folder.
    """
    import pandas

    root = Path(image_root)
    if not root.is_dir():
        raise UserError(f"image_root {str(image_root)!r} is not a folder; give a folder of folders of images")
    folders = _folders(root, super_category)
    files = [(names, path) for names, folder in folders.items() for path in _images(root, folder)]
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
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        first = seen_bytes.setdefault(digest, (names, image_id))
        if first[0] != names:
            raise UserError(f"{path}: the same file as {first[1]}, under another name; remove one of the two")
        if first[1] != image_id:
            duplicates.append(image_id)
        else:
            rows.append((image_id, *names, image.width, image.height))
        if progress:
            progress(done, len(files))
    columns = ["image_id", "super_category", "sub_category", "width", "height"]
    table = pandas.DataFrame(rows, columns=columns).sort_values("image_id", ignore_index=True)
    table.attrs["duplicates"] = sorted(duplicates)
    return table


def _below(root: Path, file: str) -> Path:
    """The path of a file below the root. What lies directly in the root may be a link of the user's to a
    data set kept elsewhere; nothing further down may leave that."""
    first, _, _ = file.partition("/")
    if not file or file.startswith("/") or first in ("", ".", ".."):
        raise UserError(f"{root / file}: leads out of {root}; give a path below it")
    return _inside(root / first, root / file)


def _inside(root: Path, path: Path) -> Path:
    """Refuse a path that leaves the root, by `..` or by a symbolic link; the root itself may be a link."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{path}: leads out of {root}; copy the images in instead of linking them")
    return path


def _entries(root: Path, folder: Path) -> list[Path]:
    """What a folder holds, hidden entries left out, sorted; links that leave the root are refused."""
    return sorted(_inside(root, path) for path in folder.iterdir() if not path.name.startswith("."))


def _images(root: Path, folder: Path) -> list[Path]:
    return [path for path in _entries(root, folder) if path.suffix.lower() in SUFFIXES and path.is_file()]


def _unread(folder: Path) -> Optional[Path]:
    """A picture below a folder that holds none directly: a level too deep, or of a kind that is not read."""
    found = (path for path in sorted(folder.rglob("*")) if not path.name.startswith("."))
    return next((path for path in found if path.suffix.lower() in (*SUFFIXES, *_OTHER)), None)


def _folders(root: Path, super_category: str) -> dict[tuple[str, str], Path]:
    """(super-category, sub-category) -> folder, for either layout."""
    if loose := _images(root, root):
        raise UserError(f"{loose[0]}: an image outside any sub-category folder; move or remove it")
    tops = [path for path in _entries(root, root) if path.is_dir()]
    flat = [path for path in tops if _images(root, path)]
    deep = [inner for top in tops for inner in _entries(root, top) if inner.is_dir() and _images(root, inner)]
    if flat and deep:
        raise UserError(
            f"{root}: images both in {flat[0].name}/ and in {deep[0].parent.name}/{deep[0].name}/; "
            "use super_category/sub_category/image everywhere, or sub_category/image everywhere"
        )
    inner_folders = [inner for top in tops for inner in _entries(root, top) if inner.is_dir()]
    for folder in tops if flat else inner_folders:
        if not _images(root, folder) and (lost := _unread(folder)):
            kinds = ", ".join(SUFFIXES)
            raise UserError(f"{lost}: a picture that is not read: {folder.name}/ must hold its {kinds} "
                            "directly; move or convert it, or take the folder out")
    if not flat and not deep:
        kinds = ", ".join(SUFFIXES)
        raise UserError(f"{root}: no {kinds} in super_category/sub_category/ or in sub_category/; add some")
    folders, taken = {}, {}
    for folder in flat or deep:
        outer = _name(super_category, "super_category") if flat else _name(folder.parent.name, folder.parent)
        names = (outer, _name(folder.name, folder))
        other = taken.setdefault((outer, normalise(names[1])), folder)
        if other != folder:
            raise UserError(f"{folder}: reads as the same name as {other}; merge or rename one of them")
        folders[names] = folder
    return folders


def _name(text: str, where) -> str:
    """A folder name as shown; it must survive a list of candidates (`traces.split_names`)."""
    name = " ".join(text.replace("_", " ").split())
    whole = split_names(f"{name}, {name}") == (name, name)
    if not normalise(name) or not whole or set(name) & set("<>") or not name.isprintable():
        raise UserError(
            f"{where}: {text!r} cannot stand in a list of names (no , ; : < > brackets, bullets, sentences or "
            "final full stop); rename the folder"
        )
    return name
