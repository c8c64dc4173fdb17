"""Triplets: an anchor, a positive of the same sub-category, a negative of the nearest other one.

    looks = prototype_similarity(prototypes(features, train))
    triplets = build_triplets(table, looks, seed=0)

"Nearest" is visual: an image encoder (`models.encoders`) turns every image into a vector, and a sub-category
is the mean of its images, its prototype. Fine-R1 (arXiv 2602.07605), Stage 2 (TAPO), releases neither the
mining nor its encoder, so both are chosen here. The release calls anchor, positive and negative `images`,
`image_noisy` and `image_aug`, and blackens patches where a negative is missing; here that is an error.
"""

import random
from typing import TYPE_CHECKING, Mapping, NamedTuple, Sequence, Union

import numpy

from finer1_lib.core.errors import UserError
from finer1_lib.core.images import ImageFile
from finer1_lib.data.guide import Similarity
from finer1_lib.data.split import nearest_names

if TYPE_CHECKING:
    from PIL.Image import Image

PATCH = 14  # pixels, the width of a patch of the vision tower
_ROWS = 1024  # rows or sub-categories taken at a time
_NAMES = ["super_category", "sub_category"]


def prototype_rows(table, count: int):
    """The training images behind the prototypes: of each sub-category its shots first, `count` at most.
    Raises: UserError: a count below one.
    """
    if count < 1:
        raise UserError(f"prototype_images is {count}; a prototype needs at least 1 image")
    train = table[table["split"] == "train"].sort_values([*_NAMES, "shot", "image_id"],
                                                         ascending=[True, True, False, True])
    return train.groupby(_NAMES).head(count).sort_values("image_id")


def prototypes(features: numpy.ndarray, table) -> dict[tuple[str, str], numpy.ndarray]:
    """(super_category, sub_category) -> (hidden,) unit vector (zeros where nothing is left after centring).

    Row i of `table` belongs to `features[i]`. Features are centred on their super-category's mean: what all
    birds share does not say which two are alike.
    """
    if len(features) != len(table):
        raise ValueError(f"{len(features)} features for {len(table)} images")
    means = {word: _mean(features, rows) for word, rows in table.groupby("super_category").indices.items()}
    inner = table.groupby(_NAMES).indices
    return {(word, name): _unit(_unit(features[inner[word, name]] - means[word]).mean(0))
            for word, name in sorted(inner)}


class PrototypeSimilarity:
    """Cosine of the `prototypes` of two sub-categories, and the nearest of many at once."""

    def __init__(self, found: Mapping[tuple[str, str], numpy.ndarray]) -> None:
        self._found = found

    def __call__(self, super_category: str, first: str, second: str) -> float:
        return float(self._found[super_category, first] @ self._found[super_category, second])

    def nearest(self, super_category: str, names: Sequence[str], seed: int) -> dict[str, str]:
        """For every name the one that `nearest_names` puts first, by products of matrices; {} for one name.

        A product's rounding depends on its shape: where it leaves more than one name in question, the cosines
        are computed one by one, so the outcome is always that of `nearest_names`.
        """
        names, nearest = list(names), {}
        if len(names) < 2:
            return nearest
        vectors = numpy.stack([self._found[super_category, name] for name in names])
        slack = vectors.shape[1] * numpy.finfo("float32").eps  # bounds the rounding of two such products
        for start in range(0, len(names), _ROWS):
            cosines = vectors[start : start + _ROWS] @ vectors.T
            rows = range(start, start + len(cosines))
            cosines[numpy.arange(len(rows)), rows] = -numpy.inf  # no one is its own negative
            in_question = cosines >= cosines.max(1, keepdims=True) - slack
            for row, several, best in zip(rows, in_question.sum(1) > 1, cosines.argmax(1)):
                nearest[names[row]] = names[best] if not several else nearest_names(
                    super_category, names[row], names, self, 1, seed)[0]
        return nearest


prototype_similarity = PrototypeSimilarity


def build_triplets(table, similarity: Similarity, *, seed: int, all_shots: bool = False):
    """One triplet per TAPO shot of every seen sub-category of a `split_table`.

    The positive is the next shot in a seeded cycle; the negative is a drawn TAPO shot of the most similar
    other SEEN sub-category of the super-category, a hard negative. `all_shots` also uses shot 0, the
    rationale's image. Columns: image_id, positive_id, negative_id, super_category, sub_category,
    negative_sub_category. Raises: UserError: a sub-category with one shot only, or without another seen one.
    """
    import pandas
    shots = table[(table["categories"] == "seen") & (table["shot"] >= (0 if all_shots else 1))]
    rows = []
    for word, part in shots.groupby("super_category"):
        images = {name: sorted(group["image_id"]) for name, group in part.groupby("sub_category")}
        if isinstance(similarity, PrototypeSimilarity):
            nearest = similarity.nearest(word, list(images), seed)
        else:
            nearest = {name: other for name in images
                       for other in nearest_names(word, name, list(images), similarity, 1, seed)}
        for name, own in images.items():
            draw = random.Random(f"{seed}/triplets/{word}/{name}")
            if name not in nearest:
                raise UserError(f"{word}/{name}: no other seen sub-category to take a negative from; add "
                                "folders or raise seen_share")
            if len(own) < 2:
                raise UserError(f"{word}/{name}: one TAPO shot has no positive; raise num_shots")
            ring = draw.sample(own, len(own))
            rows += [(anchor, positive, draw.choice(images[nearest[name]]), word, name, nearest[name])
                     for anchor, positive in zip(ring, [*ring[1:], ring[0]])]
    columns = ["image_id", "positive_id", "negative_id", *_NAMES, "negative_sub_category"]
    return pandas.DataFrame(rows, columns=columns).sort_values("image_id", ignore_index=True)


def _mean(features: numpy.ndarray, rows: numpy.ndarray) -> numpy.ndarray:
    """`features[rows].mean(0)`, bit for bit, without a copy of all these rows: numpy too adds row to row."""
    total = numpy.zeros((0, features.shape[1]), features.dtype)
    for start in range(0, len(rows), _ROWS):
        part = features[rows[start : start + _ROWS]]
        total = numpy.concatenate([total, part]).sum(0, keepdims=True)
    return total[0] / len(rows)


def _unit(vectors: numpy.ndarray) -> numpy.ndarray:
    """Rows (or one vector) divided by their norm; a zero row stays zero."""
    norm = numpy.linalg.norm(vectors, axis=-1, keepdims=True)
    return numpy.divide(vectors, norm, out=numpy.zeros_like(vectors), where=norm > 1e-12)


class DistortedImage(NamedTuple):
    """An image on the disk that is changed when it is opened, the same on every machine.

    Source, simplified: NoisyRollout (arXiv 2504.13055) reduces the noise during training, here it is
    constant; PAPO (arXiv 2507.06448) blackens random patches, 14 pixels wide, 60 %.
    """

    image_root: str
    image_id: str
    kind: str  # "noised" or "masked"
    amount: float  # 0 to 1: share of noise in the signal's variance, or of patches blackened
    seed: int

    def open(self) -> "Image":
        """The distorted RGB image."""
        from PIL import Image as pil
        picture = ImageFile(self.image_root, self.image_id).open()
        seed = f"{self.seed}/{self.kind}/{self.image_id}"
        if self.kind == "noised":
            x = numpy.asarray(picture, dtype="float64") / 127.5 - 1
            noise = numpy.random.default_rng(list(seed.encode())).standard_normal(x.shape)
            y = (1 - self.amount) ** 0.5 * x + self.amount**0.5 * noise
            return pil.fromarray(((y.clip(-1, 1) + 1) * 127.5).round().astype("uint8"))
        picture = picture.copy()
        places = [(x, y) for y in range(0, picture.height, PATCH) for x in range(0, picture.width, PATCH)]
        for x, y in random.Random(seed).sample(places, round(self.amount * len(places))):
            picture.paste((0, 0, 0), (x, y, x + PATCH, y + PATCH))
        return picture


Picture = Union[ImageFile, DistortedImage]


def noised(image: ImageFile, amount: float, seed: int) -> DistortedImage:
    """sqrt(1 - amount) x + sqrt(amount) Gaussian noise, x in [-1, 1]. Raises: UserError: not 0 to 1."""
    return DistortedImage(*image, "noised", _share("noise", amount), seed)


def masked(image: ImageFile, amount: float, seed: int) -> DistortedImage:
    """A share of the patches blackened, drawn at random. Raises: UserError: not 0 to 1."""
    return DistortedImage(*image, "masked", _share("mask_share", amount), seed)


def _share(name: str, amount: float) -> float:
    if not 0 <= amount <= 1:
        raise UserError(f"{name} is {amount}: give 0 to 1")
    return float(amount)
