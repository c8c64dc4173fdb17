"""The release's evaluation, bug for bug; `scored_by_release.jsonl` is its oracle.

Source: release eval/evaluation.py.
"""

from typing import Any, Iterable, Mapping, Optional, Sequence

from finer1_lib.evaluation.scores.averages import SIMILARITY, VARIANT_MARK
from finer1_lib.evaluation.scores.scorers import Record
from finer1_lib.evaluation.scores.similarity import Similarity, unclipped_similarity

# [R] eval/evaluation.py looks for these words anywhere in the image's path, in this order
PATH_WORDS = (("aircraft", "aircraft"), ("birds", "bird"), ("cars", "car"), ("flower", "flower"))
ELSE_WORD = "object"


def official_answer(completion: str) -> Optional[str]:
    """What stands between the first `<answer>` and the LAST `</answer>`, stripped; None without tags.

    Source: release eval/evaluation.py (greedy, DOTALL); here in time linear in the text.
    """
    _, opening, rest = completion.partition("<answer>")
    said, closing, _ = rest.rpartition("</answer>")
    return said.strip() if opening and closing else None


def official_word(path: str) -> str:
    """The super-category's word as the release guesses it from the image's path ("object" for its own birds).

    Source: release eval/evaluation.py.
    """
    return next((word for sign, word in PATH_WORDS if sign in path), ELSE_WORD)


def _path(record: Record) -> str:
    """The release's own path where the picture is official (a copy may lie anywhere), else where it lies."""
    return record.get("release_path") or record["image_id"]


class OfficialScorer:
    """What the release's functions return, and beside it what they hide.

    Closed world: the label contained in the greedy answer, no answer is wrong. Open world: without an answer
    (or with an empty one) the whole completion is scored; cars drop the label's last two words; underscores
    of the label are folded for text inclusion only. Our own beside it: `fallback` counts the completions that
    were scored whole, and the similarity stands unclipped as well.

    Source: release eval/evaluation.py.
    """

    name = "official"

    def __init__(
        self, similarity: Similarity, guide: Optional[Mapping[str, Any]] = None,
        names: Optional[Mapping[str, Iterable[str]]] = None, more: Sequence[Similarity] = (),
    ) -> None:
        self._similarity, self._more = similarity, more

    def parsed_answer(self, record: Record) -> Optional[str]:
        """The closed-world answer as the release stores it: lower case, no underscores; None without tags."""
        answer = official_answer(record["completion"])
        return answer.lower().replace("_", " ") if answer else answer

    def closed(self, record: Record) -> dict[str, float]:
        """accuracy: containment."""
        answer = self.parsed_answer(record)
        label = record["sub_category"].lower().replace("_", " ")
        return {"accuracy": float(bool(answer) and label in answer)}

    def prepare(self, records: Iterable[Record]) -> None:
        """Embed answers, labels and words in batches."""
        texts = list(dict.fromkeys(
            text for record in records
            for text in (self._said(record), record["sub_category"], official_word(_path(record)))
        ))  # fmt: skip
        for similarity in (self._similarity, *self._more):
            similarity.prepare(texts)

    def open(self, record: Record) -> dict[str, float]:
        """text_inclusion, fallback, and relative_semantic_similarity, clipped as in the release and not."""
        said, label, word = self._said(record), record["sub_category"], official_word(_path(record))
        needle = " ".join(label.lower().split()[:-2]) if word == "car" else label.lower().replace("_", " ")
        scores = {"text_inclusion": float(needle in said.lower()),
                  "fallback": float(not official_answer(record["completion"]))}
        for similarity in (self._similarity, *self._more):
            near = unclipped_similarity(similarity, said, label, word)
            mark = "" if similarity is self._similarity else VARIANT_MARK + similarity.name
            scores[SIMILARITY + mark] = max(0.0, near)
            scores[f"{SIMILARITY}_unclipped{mark}"] = near
        return scores

    def _said(self, record: Record) -> str:
        return official_answer(record["completion"]) or record["completion"]
