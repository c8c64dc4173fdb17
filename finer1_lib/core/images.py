"""Images: opened safely by their id below a root, and sent to an endpoint as a data: URL.

    load_image(root, "bird/a.jpg#bottom=20")           # RGB, without the last 20 pixel rows
    data_url(ImageFile(root, "bird/a.jpg"), 1003520)   # "data:image/jpeg;base64,..."
"""

import base64
import hashlib
import io
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, NamedTuple

from finer1_lib.core.errors import UserError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageFile(NamedTuple):
    """An image file: a root folder and the image's id (posix path) below it."""

    image_root: str
    image_id: str

    def open(self) -> "Image":
        return load_image(*self)


_ORIENTATION = 0x0112  # EXIF
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # no reader that starts another program


def load_image(image_root: "str | Path", image_id: str) -> "Image":
    """Open one image fully: first frame, EXIF orientation applied, RGB (transparency on white).

    The id is a posix path below the root; "#bottom=20" at its end leaves out the last 20 pixel rows.
    UserError if it leaves the root (also through a symbolic link), is missing, or is not a whole image.
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


def image_size(image_root: "str | Path", image_id: str) -> tuple[int, int]:
    """(width, height) in pixels of what `load_image` would return, from the file's header alone."""
    file, rows = split_crop(image_id)
    path = _below(Path(image_root), file)
    with _opened(path) as opened:
        width, height = opened.size
        if opened.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8):
            width, height = height, width
    return width, _kept(path, height, rows)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An image opened by Pillow, whose errors on a damaged file become UserErrors."""
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
        fix = "replace the file or take it out of the folder"
        raise UserError(f"{path}: not a whole image ({what}); {fix}") from None


def _unreadable(error: OSError, path: Path) -> UserError:
    fix = "make it readable, or take it out"
    return UserError(f"{error.filename or path}: cannot be read ({error.strerror}); {fix}")


def split_crop(image_id: str) -> tuple[str, int]:
    """("a/b.jpg", 20) of "a/b.jpg#bottom=20", and ("a/b.jpg", 0) of "a/b.jpg"."""
    found = re.fullmatch(r"(.*)#bottom=(\d+)", image_id, re.DOTALL)
    return (found[1], int(found[2])) if found else (image_id, 0)


def _kept(path: Path, height: int, rows: int) -> int:
    """The rows that remain."""
    if rows >= height:
        raise UserError(f"{path}: {height} pixel rows, of which {rows} should be left out; replace the file")
    return height - rows


def _below(root: Path, file: str) -> Path:
    """The path of a file below the root, UserError if it leaves it by `..` or a symbolic link.
    Only a link directly in the root may lead elsewhere; the root itself may be a link.
    """
    first, _, _ = file.partition("/")
    path = root / file
    if not file or file.startswith("/") or first in ("", ".", ".."):
        raise UserError(f"{path}: leads out of {root}; give a path below it")
    try:
        inside = path.resolve().is_relative_to((root / first).resolve())
    except (OSError, RuntimeError) as error:  # a link that leads to itself
        raise UserError(f"{path}: a link that cannot be followed ({error}); remove it") from None
    if not inside:
        raise UserError(f"{path}: leads out of {root / first}; copy the images in instead of linking them")
    return path


MAX_PIXELS = 1280 * 28 * 28  # 1,280 image tokens of Qwen2.5-VL; release TAPO/examples/config.yaml:19
QUALITY = 95  # of the JPEG; colours keep full resolution, because a small crown may decide


def fitted(image: "Image", max_pixels: int) -> "Image":
    """The image, scaled down in its proportions above `max_pixels`; 0 for no bound."""
    pixels = image.width * image.height
    if not max_pixels or pixels <= max_pixels:
        return image
    scale = (max_pixels / pixels) ** 0.5
    return image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))


def data_url(file: ImageFile, max_pixels: int = MAX_PIXELS) -> str:
    """The image as JPEG in a data: URL; UserError for a missing or broken one."""
    buffer = io.BytesIO()
    fitted(file.open(), max_pixels).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def image_key(file: ImageFile, max_pixels: int = MAX_PIXELS) -> str:
    """sha256 of what decides the image that is sent: the file's bytes, the crop, and the settings above."""
    name, rows = split_crop(file.image_id)
    path = Path(file.image_root) / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; run 01_data again if the folder has changed") from None
    return hashlib.sha256(content + f"|{rows}|{max_pixels}|{QUALITY}".encode()).hexdigest()
