"""Distorted images of two baselines: noise in the place of the positive, blackened patches in the negative's.

Both are named, not stored: a distorted image is the file, the kind, its strength and a seed, and is drawn
when it is opened. The same name gives the same image on every machine.

Source: the kinds are those of two papers, simplified: NoisyRollout (arXiv 2504.13055) takes the forward
process of a diffusion and lets its strength fall during training, here it stays; PAPO (arXiv 2507.06448)
blackens random patches, 14 pixels wide, 60 % of them.
"""

import random
from typing import TYPE_CHECKING, NamedTuple, Union

from finer1_lib.core.errors import UserError
from finer1_lib.core.images import ImageFile

if TYPE_CHECKING:
    from PIL.Image import Image

PATCH = 14  # pixels, the width of a patch of the vision tower


class DistortedImage(NamedTuple):
    """An image on the disk that is changed when it is opened.

    Attributes:
        image_root, image_id: as for `ImageFile`.
        kind: "noised" or "masked".
        amount: share of noise in the signal's variance, or share of patches blackened; 0 to 1.
        seed: with image_id and kind, decides every random number.
    """

    image_root: str
    image_id: str
    kind: str
    amount: float
    seed: int

    def open(self) -> "Image":
        """The distorted RGB image."""
        picture = ImageFile(self.image_root, self.image_id).open()
        seed = f"{self.seed}/{self.kind}/{self.image_id}"
        return (_add_noise if self.kind == "noised" else _blacken)(picture, self.amount, seed)


Picture = Union[ImageFile, DistortedImage]


def noised(image: ImageFile, amount: float, seed: int) -> DistortedImage:
    """sqrt(1 - amount) x + sqrt(amount) Gaussian noise, with x in [-1, 1]: one step of a forward diffusion.
    Raises: UserError: an amount outside 0 to 1.
    """
    return DistortedImage(*image, "noised", _share("noise", amount), seed)


def masked(image: ImageFile, amount: float, seed: int) -> DistortedImage:
    """A share of the patches blackened, drawn at random.
    Raises: UserError: an amount outside 0 to 1.
    """
    return DistortedImage(*image, "masked", _share("mask_share", amount), seed)


def _share(name: str, amount: float) -> float:
    if not 0 <= amount <= 1:
        raise UserError(f"{name} is {amount}: give 0 to 1")
    return float(amount)


def _add_noise(picture: "Image", amount: float, seed: str) -> "Image":
    import numpy
    from PIL import Image

    x = numpy.asarray(picture, dtype="float64") / 127.5 - 1
    noise = numpy.random.default_rng(list(seed.encode())).standard_normal(x.shape)
    y = (1 - amount) ** 0.5 * x + amount**0.5 * noise
    return Image.fromarray(((y.clip(-1, 1) + 1) * 127.5).round().astype("uint8"))


def _blacken(picture: "Image", amount: float, seed: str) -> "Image":
    picture = picture.copy()
    places = [(x, y) for y in range(0, picture.height, PATCH) for x in range(0, picture.width, PATCH)]
    for x, y in random.Random(seed).sample(places, round(amount * len(places))):
        picture.paste((0, 0, 0), (x, y, x + PATCH, y + PATCH))
    return picture
