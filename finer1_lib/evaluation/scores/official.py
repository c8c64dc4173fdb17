"""What a scorer is, and `official`: the release's evaluation, bug for bug (oracle: `scored_by_release.jsonl`).

Source: release eval/evaluation.py:72 (the answer), 140-143 (closed world), 227-249 (open world).
"""

from typing import Any, Iterable, Mapping, Optional, Sequence

from finer1_lib.evaluation.scores.averages import SIMILARITY, VARIANT_MARK
from finer1_lib.evaluation.scores.similarity import Similarity, unclipped_similarity

# A line of records.jsonl: completion, sub_category, super_category, image_id; in the closed world options
Record = Mapping[str, Any]


class Scorer:
    """A record in, metrics out: fractions in [0, 1]. A scorer has a `name`, `closed`, `open` and `prepare`.

    similarity: Sim of the open world; more: further ones, each a row of its own. guide and names
    ({super_category: its sub-categories}): for scorers that know genera and second names.
    """

    name: str

    def __init__(self, similarity: Similarity, guide: Optional[Mapping[str, Any]] = None,
                 names: Optional[Mapping[str, Iterable[str]]] = None,
                 more: Sequence[Similarity] = ()) -> None:
        self._similarities = (similarity, *more)

    def closed(self, record: Record) -> dict[str, float]:
        """Metrics of a closed-world record."""
        raise NotImplementedError

    def open(self, record: Record) -> dict[str, float]:
        """Metrics of an open-world record."""
        raise NotImplementedError

    def prepare(self, records: Iterable[Record]) -> None:
        """Receives all open-world records before `open` is called, and embeds their texts in batches."""
        texts = dict.fromkeys(text for record in records for text in self.texts(record) if text is not None)
        for similarity in self._similarities:
            similarity.prepare(list(texts))

    def texts(self, record: Record) -> tuple[Optional[str], str, str]:
        """(answer, label, the super-category's word) of an open-world record."""
        raise NotImplementedError

    def nearness(self, record: Record, known: Optional[float] = None) -> dict[str, float]:
        """Relative similarities, clipped as in the paper and not; `known` where nothing is compared."""
        scores = {}
        for number, similarity in enumerate(self._similarities):
            near = unclipped_similarity(similarity, *self.texts(record)) if known is None else known
            mark = VARIANT_MARK + similarity.name if number else ""
            scores |= {SIMILARITY + mark: max(0.0, near), f"{SIMILARITY}_unclipped{mark}": near}
        return scores


# the release looks for these words anywhere in the image's path, in this order
PATH_WORDS = (("aircraft", "aircraft"), ("birds", "bird"), ("cars", "car"), ("flower", "flower"))


def official_answer(completion: str) -> Optional[str]:
    """The text between the first `<answer>` and the LAST `</answer>`, stripped; None without tags.

    The release uses a greedy pattern with DOTALL; this takes time linear in the text.
    """
    _, opening, rest = completion.partition("<answer>")
    said, closing, _ = rest.rpartition("</answer>")
    return said.strip() if opening and closing else None


def official_word(path: str) -> str:
    """The super-category as the release guesses it from the image's path ("object" for its own birds)."""
    return next((word for sign, word in PATH_WORDS if sign in path), "object")


class OfficialScorer(Scorer):
    """What the release's functions return, and beside it what they hide.

    Closed world: the label contained in the greedy answer; no answer is wrong. Open world: without an answer
    (or with an empty one) the whole completion is scored; cars drop the label's last two words; underscores
    of the label are folded for text inclusion only. Added by the kit: `fallback`, the completions that were
    scored whole, and the unclipped similarity.
    """

    name = "official"

    def parsed_answer(self, record: Record) -> Optional[str]:
        """The closed-world answer as the release stores it: lower case, no underscores; None without tags."""
        answer = official_answer(record["completion"])
        return answer.lower().replace("_", " ") if answer else answer

    def closed(self, record: Record) -> dict[str, float]:
        """accuracy: containment."""
        answer = self.parsed_answer(record)
        label = record["sub_category"].lower().replace("_", " ")
        return {"accuracy": float(bool(answer) and label in answer)}

    def open(self, record: Record) -> dict[str, float]:
        """text_inclusion, fallback, and relative_semantic_similarity, clipped as in the release and not."""
        said, label, word = self.texts(record)
        needle = " ".join(label.lower().split()[:-2]) if word == "car" else label.lower().replace("_", " ")
        return {"text_inclusion": float(needle in said.lower()),
                "fallback": float(not official_answer(record["completion"])), **self.nearness(record)}

    def texts(self, record: Record) -> tuple[str, str, str]:
        """Without an answer the whole completion; the word by the release's own path (a copy may be anywhere)."""
        said = official_answer(record["completion"]) or record["completion"]
        return said, record["sub_category"], official_word(record.get("release_path") or record["image_id"])
