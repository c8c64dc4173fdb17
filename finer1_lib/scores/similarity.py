"""Text similarities for the open world: how near is a name to another one?

Relative semantic similarity (METHOD 4) needs Sim(a, b). Three are at hand, all symmetric, 1 for equal texts:
`siglip` (the paper's text tower), `guide` (taxonomy and attributes of a drawn world, no model), and
`trigram` (shared character trigrams, no model and no guide; the stub of the release's oracle file).

Example:
    >>> round(trigram_jaccard("House Wren", "Rock Wren"), 3)
    0.235

Source: paper Section 4.1, release eval/evaluation.py (SigLIP); guide and trigram are our choice.
"""

import re
from typing import Any, Iterable, Mapping, Optional, Protocol

from finer1_lib.errors import UserError
from finer1_lib.rewards import normalise

SIGLIP = "google/siglip-base-patch16-256"  # [P] Section 4.1
SIGLIP_LENGTH = 64  # [R] every text is padded to 64 tokens, as in SigLIP's training


class Similarity(Protocol):
    """Sim(a, b); `prepare` is told all texts beforehand, so that a model can embed them in batches."""

    name: str

    def prepare(self, texts: Iterable[str]) -> None: ...

    def __call__(self, a: str, b: str) -> float: ...


def _trigrams(text: str) -> set[str]:
    padded = f"  {text} "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


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

    def prepare(self, texts: Iterable[str]) -> None:
        """Nothing to prepare."""

    def features(self, text: str) -> frozenset:
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


class SiglipSimilarity:
    """Cosine of SigLIP text embeddings, each text embedded once, in batches, padded to 64 tokens.

    Args:
        checkpoint: hub id or folder.
        batch_size: texts a forward pass.
        lower_case: SigLIP was trained on lower-cased text; the release does not lower-case, so False is its
            way.
        device: a torch device.

    Raises:
        UserError: the checkpoint cannot be loaded, leaves weights of the text tower newly initialised, or
            reads fewer than 64 tokens.

    Source: release eval/evaluation.py, SigLIPTextSimilarity (which ignores mismatched sizes: here they are
    refused).
    """

    name = "siglip"

    def __init__(
        self, checkpoint: str = SIGLIP, *, batch_size: int = 64, lower_case: bool = False, device: str = "cpu"
    ) -> None:
        from transformers import AutoTokenizer, SiglipTextModel

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(checkpoint)
            self._model, report = SiglipTextModel.from_pretrained(
                checkpoint, output_loading_info=True, use_safetensors=True, ignore_mismatched_sizes=True
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"no SigLIP text tower at {checkpoint!r}: {str(error).splitlines()[0]}; "
                "give a hub id or a folder with safetensors weights and a tokenizer"
            ) from error
        fresh = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in report[kind])
        if fresh:
            raise UserError(
                f"{checkpoint!r} leaves {len(fresh)} weights of the SigLIP text tower newly "
                f"initialised (first: {fresh[0]}): similarities would be random; use a whole checkpoint"
            )
        if self._model.config.max_position_embeddings < SIGLIP_LENGTH:
            raise UserError(
                f"{checkpoint!r} reads {self._model.config.max_position_embeddings} tokens, "
                f"the metric needs {SIGLIP_LENGTH}: use {SIGLIP}"
            )
        self._model.eval().to(device)
        self._batch_size, self._lower_case, self._device = batch_size, lower_case, device
        self._cache: dict[str, Any] = {}

    def prepare(self, texts: Iterable[str]) -> None:
        """Embed every text that is not yet in the cache."""
        import torch

        new = sorted(
            {self._key(text) for text in texts} - self._cache.keys(), key=lambda text: (len(text), text)
        )
        for start in range(0, len(new), self._batch_size):
            batch = new[start : start + self._batch_size]
            inputs = self._tokenizer(
                batch, padding="max_length", truncation=True, max_length=SIGLIP_LENGTH, return_tensors="pt"
            )
            with torch.no_grad():  # SigLIP attends to its padding: no attention mask, as in the release
                pooled = self._model(input_ids=inputs["input_ids"].to(self._device)).pooler_output
            unit = torch.nn.functional.normalize(pooled.float(), dim=-1).cpu()
            self._cache.update(zip(batch, unit))

    def __call__(self, a: str, b: str) -> float:
        """Cosine of the two embeddings, in [-1, 1]; exactly 1 for equal texts."""
        one, two = self._key(a), self._key(b)
        if one == two:
            return 1.0
        self.prepare([one, two])
        return float(self._cache[one] @ self._cache[two])

    def _key(self, text: str) -> str:
        return text.lower() if self._lower_case else text


def make_similarity(name: str, guide: Optional[Mapping[str, Any]] = None, **options: Any) -> Similarity:
    """A similarity by name: guide, trigram, siglip or auto (the guide's where there is one, else trigrams).

    Whichever it is, its `name` goes into every row that was computed with it.

    Args:
        guide: needed by "guide".
        options: of `SiglipSimilarity`.

    Raises:
        UserError: unknown name, or "guide" for a data set without one.
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
    if name == "siglip":
        return SiglipSimilarity(**options)
    raise UserError(f"unknown similarity {name!r}: one of auto, guide, trigram, siglip")
