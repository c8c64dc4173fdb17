"""Text similarities for the open world: how near is a name to another one? Symmetric, and 1 for equal texts.

    siglip              the paper's text tower, its texts as they are, as in the release
    siglip_lower        the same with texts in small letters, as SigLIP was trained
    encoder:CHECKPOINT  another text encoder, on the Hub or in a folder; encoder_lower: in small letters
    guide               what two texts share of a drawn world's taxonomy and attributes, no model
    trigram             shared character trigrams, no model and no guide; the stub of the oracle file

Relative semantic similarity is how near an answer is to the label, beside the super-category's word:

    unclipped = (Sim(answer, label) - Sim(word, label)) / (1 - Sim(word, label))       SS = max(0, unclipped)

1 is the label, 0 no nearer than "bird". The paper clips at 0, which hides answers that are worse than the
word alone; the unclipped value shows them.

    >>> round(trigram_jaccard("House Wren", "Rock Wren"), 3)
    0.235

Source: Fine-R1 (arXiv 2602.07605), Section 4.1; release eval/evaluation.py (SigLIP).
"""

import re
from functools import lru_cache
from typing import Any, Iterable, Mapping, Optional, Protocol, Sequence

from finer1_lib.core.completions import normalise
from finer1_lib.core.errors import UserError
from finer1_lib.models.encoders import EncoderSimilarity, SiglipSimilarity

NAMES = ("auto", "guide", "trigram", "siglip", "siglip_lower", "encoder:CHECKPOINT", "encoder_lower:CHECKPOINT")


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
    """`trigram_jaccard` as a `Similarity`: knows nothing of the world, needs nothing; case counts."""

    name = "trigram"

    def prepare(self, texts: Iterable[str]) -> None:
        """Nothing to prepare."""

    def __call__(self, a: str, b: str) -> float:
        return trigram_jaccard(a, b)


def make_similarity(name: str, guide: Optional[Mapping[str, Any]] = None, **options: Any) -> Similarity:
    """A similarity by name (the table above), or auto: the guide's where there is one, else trigrams.

    Its `name` goes into every row that was computed with it; options: of `EncoderSimilarity`.
    Raises: UserError: unknown name, "guide" for a data set without one, or a checkpoint without a text
    encoder.
    """
    if name == "auto":
        name = "trigram" if guide is None else "guide"
    if name == "guide" and guide is None:
        raise UserError("similarity 'guide' needs a field guide and this data set has none: set "
                        "text_similarity to 'siglip' or 'trigram'")
    if name in ("guide", "trigram"):
        return GuideSimilarity(guide) if name == "guide" else TrigramSimilarity()
    kind, _, checkpoint = name.partition(":")
    lower = kind.endswith("_lower")
    if name in ("siglip", "siglip_lower"):
        return SiglipSimilarity(lower_case=lower, **options)
    if kind in ("encoder", "encoder_lower") and checkpoint:
        return EncoderSimilarity(checkpoint, lower_case=lower, **options)
    raise UserError(f"unknown similarity {name!r}: one of {', '.join(NAMES)}")


def make_similarities(names: Sequence[str], guide: Optional[Mapping[str, Any]] = None) -> list[Similarity]:
    """Several by name, the main one first; UserError: one is listed twice, or of `make_similarity`."""
    found = [make_similarity(name, guide) for name in names]
    known = [similarity.name for similarity in found]
    if twice := [name for name in known if known.count(name) > 1]:
        raise UserError(f"the similarity {twice[0]!r} is listed twice in text_similarity and more_similarities: "
                        "remove one")
    return found


def unclipped_similarity(similarity: Similarity, answer: str, label: str, standard: str) -> float:
    """The value before the clip: at most 1, and below 0 for an answer farther than the super-category's word.

    Where the word itself is as near as can be (Sim = 1, a label that is its super-category's word) the ratio
    is undefined; the value is then 1 for an answer equal to the label and 0 for any other.
    """
    near, word = similarity(answer, label), similarity(standard, label)
    return float(near >= 1.0) if word >= 1.0 else (near - word) / (1.0 - word)


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", normalise(text)))


class GuideSimilarity:
    """Shared taxonomy and attributes of two texts, as the Jaccard index of what they stand for.

    A name stands for its super-category, genus, own name and every attribute value; a genus word alone for
    super-category, genus and the genus attributes; a super-category word for itself. Any other word stands
    for itself only, so unknown text is 0 to every name, and a list of names is near to none of them: the
    order that SigLIP gives in the paper's Figure 1 sense (sibling > genus word > super-category word >
    unrelated), with exact ground truth.

    guide: the dictionary of `guide.json`.
    """

    name = "guide"

    def __init__(self, guide: Mapping[str, Any]) -> None:
        words = guide["super_categories"]
        self._phrases = {_words(word): frozenset({("super_category", word)}) for word in words}
        for name, entry in guide["sub_categories"].items():
            super_category = entry["super_category"]
            shared = words[super_category].get("genus_attributes", ())
            features = {("super_category", super_category), ("genus", entry["genus"])}
            values = {(key, super_category, value) for key, value in entry["attributes"].items()}
            self._phrases[_words(entry["genus"])] = frozenset(features | {v for v in values if v[0] in shared})
            self._phrases[_words(name)] = frozenset(features | values | {("name", name)})
        self._longest = max(map(len, self._phrases))
        self.features = lru_cache(maxsize=4096)(self._features)  # names come again record after record

    def prepare(self, texts: Iterable[str]) -> None:
        """Nothing to prepare."""

    def _features(self, text: str) -> frozenset:
        """What a text stands for; at every word the longest known phrase is taken."""
        words, found, at = _words(text), set(), 0
        while at < len(words):
            ends = range(min(at + self._longest, len(words)), at, -1)
            end = next((end for end in ends if words[at:end] in self._phrases), at + 1)
            found |= self._phrases.get(words[at:end], {("word", words[at])})
            at = end
        return frozenset(found)

    def __call__(self, a: str, b: str) -> float:
        """Jaccard index of the two texts' features; texts equal after normalisation are 1."""
        if normalise(a) == normalise(b):
            return 1.0
        one, two = self.features(a), self.features(b)
        return len(one & two) / len(one | two) if one | two else 0.0
