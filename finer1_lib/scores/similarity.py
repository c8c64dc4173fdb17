"""Text similarities for the open world: how near is a name to another one?

Relative semantic similarity (METHOD 4) needs Sim(a, b). All are symmetric and 1 for equal texts:

    siglip              the paper's text tower, its texts as they are, as in the release
    siglip_lower        the same with texts in small letters, as SigLIP was trained
    encoder:CHECKPOINT  another text encoder, on the Hub or in a folder; encoder_lower: in small letters
    guide               taxonomy and attributes of a drawn world, no model
    trigram             shared character trigrams, no model and no guide; the stub of the oracle file

Example:
    >>> round(trigram_jaccard("House Wren", "Rock Wren"), 3)
    0.235

Source: paper Section 4.1, release eval/evaluation.py (SigLIP); audit B2 (cased and lower, second encoders);
guide and trigram are our choice.
"""

from functools import lru_cache
from typing import Any, Iterable, Mapping, Optional, Protocol, Sequence

from finer1_lib.errors import UserError
from finer1_lib.scores.guide_similarity import GuideSimilarity
from finer1_lib.scores.text_encoders import EncoderSimilarity, SiglipSimilarity

NAMES = (
    "auto", "guide", "trigram", "siglip", "siglip_lower", "encoder:CHECKPOINT", "encoder_lower:CHECKPOINT",
)  # fmt: skip


class Similarity(Protocol):
    """Sim(a, b); `prepare` is told all texts beforehand, so that a model can embed them in batches."""

    name: str

    def prepare(self, texts: Iterable[str]) -> None: ...

    def __call__(self, a: str, b: str) -> float: ...


@lru_cache(maxsize=4096)  # labels and answers come again record after record
def _trigrams(text: str) -> frozenset[str]:
    padded = f"  {text} "
    return frozenset(padded[i : i + 3] for i in range(len(padded) - 2))


def trigram_jaccard(a: str, b: str) -> float:
    """|T(a) & T(b)| / |T(a) | T(b)| with T the character trigrams of the text padded by two spaces and one.

    Source: README of the oracle data (`scored_by_release.jsonl`), where it stands in for SigLIP.
    """
    one, two = _trigrams(a), _trigrams(b)
    return len(one & two) / len(one | two)


class TrigramSimilarity:
    """`trigram_jaccard` as a `Similarity`: knows nothing of the world, needs nothing."""

    name = "trigram"

    def prepare(self, texts: Iterable[str]) -> None:
        """Nothing to prepare."""

    def __call__(self, a: str, b: str) -> float:
        """Shared trigrams; case counts."""
        return trigram_jaccard(a, b)


def make_similarity(name: str, guide: Optional[Mapping[str, Any]] = None, **options: Any) -> Similarity:
    """A similarity by name (the table above), or auto: the guide's where there is one, else trigrams.

    Whichever it is, its `name` goes into every row that was computed with it.

    Args:
        guide: needed by "guide".
        options: of `EncoderSimilarity`, for those with a model.

    Raises:
        UserError: unknown name, "guide" for a data set without one, or a checkpoint that is no text encoder.
    """
    if name == "auto":
        name = "trigram" if guide is None else "guide"
    if name == "guide":
        if guide is None:
            raise UserError(
                "similarity 'guide' needs a field guide and this data set has none: "
                "set text_similarity to 'siglip' or 'trigram'"
            )
        return GuideSimilarity(guide)
    if name == "trigram":
        return TrigramSimilarity()
    if name in ("siglip", "siglip_lower"):
        return SiglipSimilarity(lower_case=name == "siglip_lower", **options)
    kind, colon, checkpoint = name.partition(":")
    if kind in ("encoder", "encoder_lower") and checkpoint:
        return EncoderSimilarity(checkpoint, lower_case=kind == "encoder_lower", **options)
    raise UserError(f"unknown similarity {name!r}: one of {', '.join(NAMES)}")


def make_similarities(names: Sequence[str], guide: Optional[Mapping[str, Any]] = None) -> list[Similarity]:
    """Several by name, the main one first; each must be another, for a row is told by its name.

    Raises:
        UserError: one that stands twice, or of `make_similarity`.
    """
    found = [make_similarity(name, guide) for name in names]
    known = [similarity.name for similarity in found]
    if twice := [name for name in known if known.count(name) > 1]:
        raise UserError(f"the similarity {twice[0]!r} stands twice in text_similarity and more_similarities: "
                        "remove one")
    return found
