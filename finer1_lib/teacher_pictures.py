"""A picture as a large teacher gets it: no more pixels than it needs, and, for an endpoint, as a data: URL.

    data_url(ImageFile(root, "bird/a.jpg"), 1003520)   # "data:image/jpeg;base64,..."

Source: our choice; the bound is the release's for training (data.md 3.2): 1,280 image tokens of Qwen2.5-VL.
"""

import base64
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from finer1_lib.encoding import ImageFile
from finer1_lib.errors import UserError
from finer1_lib.image_folder import split_crop

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 1280 * 28 * 28
QUALITY = 95  # of the JPEG; colours are kept at full resolution, for a small crown may be the mark


def fitted(image: "Image", max_pixels: int) -> "Image":
    """The picture itself or, above `max_pixels`, made smaller in its proportions; 0 for no bound."""
    pixels = image.width * image.height
    if not max_pixels or pixels <= max_pixels:
        return image
    scale = (max_pixels / pixels) ** 0.5
    return image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))


def data_url(file: ImageFile, max_pixels: int = MAX_PIXELS) -> str:
    """The RGB picture as JPEG in a data: URL.

    Raises:
        UserError: no such picture, or a broken one.
    """
    buffer = io.BytesIO()
    fitted(file.open(), max_pixels).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def picture_key(file: ImageFile, max_pixels: int = MAX_PIXELS) -> str:
    """What decides the picture that is sent: the file's bytes, the rows left out, and the settings above."""
    name, rows = split_crop(file.image_id)
    path = Path(file.image_root) / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; run 01_data again if the folder has changed") from None
    return hashlib.sha256(content + f"|{rows}|{max_pixels}|{QUALITY}".encode()).hexdigest()
