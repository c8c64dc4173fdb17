"""Triplets: an anchor, a positive of the same sub-category, a negative of the nearest other one.

"Nearest" is visual: every image is the mean of the merged patch features that the model's own vision tower
hands to its language model; a sub-category is the mean of its images (its prototype).

The release's inherited names, said once: `images` = anchor, `image_noisy` = positive, `image_aug` = negative,
`kl_prcp` = the inter-class term. Its data also fall back to an image with blackened patches where a negative
is missing; here that is an error.

Source: METHOD 3 (positive, negative: image of the most visually similar OTHER sub-category); audit.md C4, C5
(the release ships neither the mining nor its encoder: the vision tower is our choice).
"""

import random
from typing import TYPE_CHECKING, Iterable, Mapping, Sequence

from finer1_lib.errors import UserError
from finer1_lib.fgvr_data import Similarity, nearest_names

if TYPE_CHECKING:
    import numpy

RELEASE_NAMES = {"images": "anchor", "image_noisy": "positive", "image_aug": "negative"}


def image_features(loaded, images: Iterable, batch_size: int = 16) -> "numpy.ndarray":
    """Mean-pooled vision features, in chunks: time linear in the images, memory bounded by one chunk.

    Args:
        loaded: a `models.LoadedModel`; its processor resizes, its vision tower and merger encode.
        images: RGB images; an iterator is read chunk by chunk, so nobody need hold them all.
        batch_size: images per chunk; it does not change the result beyond rounding.

    Returns:
        (images, hidden) float32, not normalised.

    Raises:
        UserError: the features are not finite (a broken checkpoint).
    """
    import numpy
    import torch

    rows, chunk = [], []

    def encode() -> None:
        inputs = loaded.processor.image_processor(images=chunk, return_tensors="pt").to(loaded.device)
        with torch.inference_mode():
            output = loaded.model.get_image_features(
                pixel_values=inputs["pixel_values"], image_grid_thw=inputs["image_grid_thw"], return_dict=True
            )
        rows.extend(tokens.float().mean(0).cpu().numpy() for tokens in output.pooler_output)
        chunk.clear()

    training = loaded.model.training
    loaded.model.eval()
    try:
        for image in images:
            chunk.append(image)
            if len(chunk) == batch_size:
                encode()
        if chunk:
            encode()
    finally:
        loaded.model.train(training)
    features = numpy.stack(rows).astype("float32") if rows else numpy.zeros((0, 0), "float32")
    if not numpy.isfinite(features).all():
        raise UserError(f"{loaded.checkpoint}: its vision features are not finite; choose another checkpoint")
    return features


def prototypes(features: "numpy.ndarray", table) -> dict[tuple[str, str], "numpy.ndarray"]:
    """One unit vector per sub-category.

    Features are centred on their super-category's mean first: what all birds share says nothing about which
    two are alike, and it would push every cosine towards 1.

    Args:
        features: (rows of table, hidden).
        table: DataFrame with super_category and sub_category, row i for features[i].

    Returns:
        (super_category, sub_category) -> (hidden,) unit vector (zeros where nothing is left after centring).

    Source: METHOD 3 asks for visual similarity; centring and cosine are our choice.
    """
    import numpy

    if len(features) != len(table):
        raise ValueError(f"{len(features)} features for {len(table)} images")
    found = {}
    supers, names = table["super_category"].to_numpy(), table["sub_category"].to_numpy()
    for super_category in sorted(set(supers)):
        rows = features[supers == super_category]
        centred = _unit(rows - rows.mean(0))
        inner = names[supers == super_category]
        for name in sorted(set(inner)):
            found[super_category, name] = _unit(centred[inner == name].mean(0))
    return found


def prototype_similarity(found: Mapping[tuple[str, str], "numpy.ndarray"]) -> Similarity:
    """Cosine of two prototypes, as `fgvr_data` asks for it."""

    def similarity(super_category: str, first: str, second: str) -> float:
        return float(found[super_category, first] @ found[super_category, second])

    return similarity


def build_triplets(table, similarity: Similarity, *, seed: int, all_shots: bool = False):
    """One triplet per TAPO shot of every seen sub-category.

    The positive is the next shot in a seeded round, so every image is a positive once and none its own. The
    negative is a drawn TAPO shot of the most similar other SEEN sub-category of the same super-category.

    Args:
        table: from `fgvr_data.split_table`.
        similarity: `prototype_similarity` of the images.
        seed: of the round and of the draw.
        all_shots: also use shot 0, the rationale's image (METHOD 1: "a switch gives TAPO all 4").

    Returns:
        DataFrame: image_id, positive_id, negative_id, super_category, sub_category, negative_sub_category.

    Raises:
        UserError: a sub-category with one shot only, or without another seen one beside it.
    """
    import pandas

    shots = table[(table["categories"] == "seen") & (table["shot"] >= (0 if all_shots else 1))]
    rows = []
    for super_category, part in shots.groupby("super_category"):
        images = {name: sorted(group["image_id"]) for name, group in part.groupby("sub_category")}
        for name, own in images.items():
            draw = random.Random(f"{seed}/triplets/{super_category}/{name}")
            others = nearest_names(super_category, name, list(images), similarity, 1, seed)
            if not others:
                raise UserError(
                    f"{super_category}/{name}: no other seen sub-category to take a negative from; add "
                    "folders or raise seen_share"
                )
            if len(own) < 2:
                raise UserError(f"{super_category}/{name}: one TAPO shot has no positive; raise num_shots")
            ring = draw.sample(own, len(own))
            for anchor, positive in zip(ring, _next(ring)):
                negative = draw.choice(images[others[0]])
                rows.append((anchor, positive, negative, super_category, name, others[0]))
    columns = [
        "image_id", "positive_id", "negative_id", "super_category", "sub_category", "negative_sub_category"
    ]
    return pandas.DataFrame(rows, columns=columns).sort_values("image_id", ignore_index=True)


def _next(items: Sequence) -> list:
    """Each item's successor in a round."""
    return [*items[1:], items[0]]


def _unit(vectors: "numpy.ndarray") -> "numpy.ndarray":
    """Rows (or one vector) divided by their norm; a zero row stays zero."""
    import numpy

    norm = numpy.linalg.norm(vectors, axis=-1, keepdims=True)
    return numpy.divide(vectors, norm, out=numpy.zeros_like(vectors), where=norm > 1e-12)
