"""Sim(a, b) of a drawn world: what two texts share of the field guide's taxonomy and attributes.

Source: our choice.
"""

import re
from functools import lru_cache
from typing import Any, Iterable, Mapping

from finer1_lib.rewards import normalise


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", normalise(text))


class GuideSimilarity:
    """Shared taxonomy and attributes of two texts, as the Jaccard index of what they stand for.

    A known name stands for its super-category, genus, own name and every attribute value; a genus word alone
    for super-category, genus and the genus attributes; a super-category word for itself. Any other word
    stands for itself only, so unknown text is 0 to every name, and a list of names is near to none of them.

    Args:
        guide: the dictionary of `guide.json`.

    Source: our choice: the ordering that SigLIP gives in the paper's Figure 1 sense (sibling > genus word >
        super-category word > unrelated), with exact ground truth.
    """

    name = "guide"

    def __init__(self, guide: Mapping[str, Any]) -> None:
        self._phrases: dict[tuple[str, ...], frozenset] = {}
        for name in guide["super_categories"]:
            self._phrases[tuple(_words(name))] = frozenset({("super_category", name)})
        for name, entry in guide["sub_categories"].items():
            super_category = entry["super_category"]
            shared = guide["super_categories"][super_category].get("genus_attributes", ())
            features = {("super_category", super_category), ("genus", entry["genus"])}
            values = {(key, super_category, value) for key, value in entry["attributes"].items()}
            genus_words = tuple(_words(entry["genus"]))
            self._phrases[genus_words] = frozenset(features | {v for v in values if v[0] in shared})
            self._phrases[tuple(_words(name))] = frozenset(features | values | {("name", name)})
        self._longest = max(len(phrase) for phrase in self._phrases)
        self.features = lru_cache(maxsize=4096)(self._features)  # names come again record after record

    def prepare(self, texts: Iterable[str]) -> None:
        """Nothing to prepare."""

    def _features(self, text: str) -> frozenset:
        """What a text stands for; at every word the longest known phrase is taken."""
        words, found, at = _words(text), set(), 0
        while at < len(words):
            for length in range(min(self._longest, len(words) - at), 0, -1):
                known = self._phrases.get(tuple(words[at : at + length]))
                if known is not None:
                    found |= known
                    break
            else:
                length = 1
                found.add(("word", words[at]))
            at += length
        return frozenset(found)

    def __call__(self, a: str, b: str) -> float:
        """Jaccard index of the two texts' features; texts equal after normalisation are 1."""
        if normalise(a) == normalise(b):
            return 1.0
        one, two = self.features(a), self.features(b)
        return len(one & two) / len(one | two) if one | two else 0.0
