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

NAMES = ("auto", "guide", "trigram", "siglip", "siglip_lower", "encoder:CHECKPOINT", "encoder_lower:CHECKPOINT")
CLIPPED, UNCLIPPED = "relative_semantic_similarity", "relative_similarity_unclipped"


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


def relative_similarity(similarity: Similarity, answer: str, label: str, standard: str) -> float:
    """SS of one answer, not clipped: 1 at the label, 0 at the super-category's word, less for what is farther.

    Where the word itself is as near as can be (Sim = 1, a label that is its super-category's word) the ratio
    is undefined; the value is then 1 for an answer equal to the label and 0 for any other.

    Source: METHOD 4, paper Section 4.1, whose SS is max(0, this); the undefined case is our choice.
    """
    near, word = similarity(answer, label), similarity(standard, label)
    if word >= 1.0:
        return float(near >= 1.0)
    return (near - word) / (1.0 - word)


def similarity_scores(
    similarities: Sequence[Similarity], answer: Optional[str], label: str, standard: str, right: bool = False
) -> dict[str, float]:
    """SS of one answer by every similarity, clipped at 0 and not.

    Args:
        similarities: the first is the one that all tables read; rows of the others carry its name after "@".
        answer: None for none, which is 0 clipped and, because it is no nearer or farther than anything, absent
            where nothing is clipped.
        standard: the super-category's word.
        right: the answer is the label, whatever Sim says of its spelling: 1.

    Source: METHOD 4; audit B2 (clipping hides answers that are worse than the super-category's word).
    """
    scores = {}
    for place, similarity in enumerate(similarities):
        clipped = CLIPPED if place == 0 else f"{CLIPPED}@{similarity.name}"
        if answer is None:
            scores[clipped] = 0.0
            continue
        value = 1.0 if right else relative_similarity(similarity, answer, label, standard)
        scores[clipped] = max(0.0, value)
        scores[f"{UNCLIPPED}@{similarity.name}"] = value
    return scores


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
