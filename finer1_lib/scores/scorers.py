"""Scores of one record, computed from the record alone: `official` (the release, bug for bug) and `strict`.

A scorer maps a record (completion, sub_category, super_category, image_id; in the closed world options) to
`{metric: value}`, in its own way for each world; others join with `@register("name")`. Both share Sim of
`finer1_lib.scores.similarity`:

    relative semantic similarity = max(0, (Sim(c, c*) - Sim(c^, c*)) / (1 - Sim(c^, c*)))

with c what the model answered, c* the label and c^ the super-category's word.

Example:
    >>> record = {"completion": "<answer>House Wren, Rock Wren</answer>", "sub_category": "Rock Wren"}
    >>> make_scorer("official").closed(record), make_scorer("strict").closed(record)["accuracy"]
    ({'accuracy': 1.0}, 0.0)
    >>> make_scorer("strict").closed(record)["multiple_answers"]
    1.0

Source: METHOD 4; release eval/evaluation.py.
"""

import re
from typing import Any, Callable, Iterable, Mapping, Optional, Protocol

from finer1_lib.scores.answer_names import names_several
from finer1_lib.errors import UserError
from finer1_lib.rewards import normalise, one_answer, strict
from finer1_lib.scores.similarity import Similarity, TrigramSimilarity
from finer1_lib.traces.parsing import parse

Record = Mapping[str, Any]
SCORERS: dict[str, Callable[..., "Scorer"]] = {}

# [R] eval/evaluation.py looks for these words anywhere in the image's path, in this order
PATH_WORDS = (("aircraft", "aircraft"), ("birds", "bird"), ("cars", "car"), ("flower", "flower"))
ELSE_WORD = "object"


class Scorer(Protocol):
    """One reading of the metrics; values are fractions in [0, 1]."""

    name: str

    def prepare(self, records: Iterable[Record]) -> None:
        """Told all open-world records before `open` is asked: a chance to embed texts in batches."""

    def closed(self, record: Record) -> dict[str, float]:
        """Metrics of a closed-world record."""

    def open(self, record: Record) -> dict[str, float]:
        """Metrics of an open-world record."""


def register(name: str) -> Callable[[type], type]:
    """Class decorator: the scorer can be made by `make_scorer(name, similarity=..., guide=...)`."""

    def add(scorer: type) -> type:
        if name in SCORERS:
            raise ValueError(f"a scorer {name!r} is already registered")
        scorer.name = name
        SCORERS[name] = scorer
        return scorer

    return add


def make_scorer(
    name: str, *, similarity: Optional[Similarity] = None, guide: Optional[Mapping[str, Any]] = None
) -> Scorer:
    """A registered scorer.

    Args:
        similarity: Sim of the open world; the trigram one when None.
        guide: the field guide, for metrics that need a taxonomy.

    Raises:
        UserError: unknown name.
    """
    if name not in SCORERS:
        raise UserError(f"unknown scorer {name!r}: one of {', '.join(sorted(SCORERS))}")
    return SCORERS[name](similarity=similarity or TrigramSimilarity(), guide=guide)


def relative_similarity(similarity: Similarity, answer: str, label: str, standard: str) -> float:
    """SS of one answer: 0 at the super-category's word or below it, 1 at the label.

    Where the word itself is as near as can be (Sim = 1, a label that is its super-category's word) the ratio
    is undefined; the value is then 1 for an answer equal to the label and 0 for any other.

    Source: METHOD 4, paper Section 4.1; the undefined case is our choice.
    """
    near, word = similarity(answer, label), similarity(standard, label)
    if word >= 1.0:
        return float(near >= 1.0)
    return max(0.0, (near - word) / (1.0 - word))


def official_answer(completion: str) -> Optional[str]:
    """What stands between the first `<answer>` and the LAST `</answer>`, stripped; None without tags.

    Source: release eval/evaluation.py (greedy, DOTALL).
    """
    found = re.search(r"<answer>(.*)</answer>", completion, re.DOTALL)
    return found.group(1).strip() if found else None


def official_word(path: str) -> str:
    """The super-category's word as the release guesses it from the image's path ("object" for its own birds).

    Source: release eval/evaluation.py; audit B1.
    """
    return next((word for sign, word in PATH_WORDS if sign in path), ELSE_WORD)


@register("official")
class OfficialScorer:
    """The release's evaluation, bug for bug; `scored_by_release.jsonl` is its oracle.

    Closed world: the label contained in the greedy answer, no answer is wrong. Open world: without an answer
    (or with an empty one) the whole completion is scored; cars drop the label's last two words; underscores
    of the label are folded for text inclusion only.

    Source: release eval/evaluation.py.
    """

    name: str

    def __init__(self, similarity: Similarity, guide: Optional[Mapping[str, Any]] = None) -> None:
        self._similarity = similarity

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
        self._similarity.prepare(
            text
            for record in records
            for text in (self._said(record), record["sub_category"], official_word(record["image_id"]))
        )

    def open(self, record: Record) -> dict[str, float]:
        """text_inclusion and relative_semantic_similarity."""
        said, label, word = self._said(record), record["sub_category"], official_word(record["image_id"])
        needle = " ".join(label.lower().split()[:-2]) if word == "car" else label.lower().replace("_", " ")
        return {
            "text_inclusion": float(needle in said.lower()),
            "relative_semantic_similarity": relative_similarity(self._similarity, said, label, word),
        }

    def _said(self, record: Record) -> str:
        return official_answer(record["completion"]) or record["completion"]


@register("strict")
class StrictScorer:
    """One well-formed answer, equal after normalisation; nothing for lists, repeats, fragments or none.

    Beside what is right it counts how answers go wrong, in both worlds:

    * `format_failure`: no single well-formed answer;
    * `multiple_answers`: several `<answer>` tags, or one answer that names several things (`answer_names`);
    * `answer_differs_from_prediction`: only of completions whose prediction part and answer can both be read;
    * `genus_right_epithet_wrong`: a sibling was named; only where the guide knows the label;
    * `chose_first`: the answer is the first option shown; closed world only.

    Relative similarity is taken against the record's own super-category; without an answer it is 0, and 1 for
    an answer that equals the label after normalisation.

    Source: METHOD 4 (`strict`); audit A1, A3, A4, B1, B3, part 4.3.
    """

    name: str

    def __init__(self, similarity: Similarity, guide: Optional[Mapping[str, Any]] = None) -> None:
        self._similarity = similarity
        known = guide["sub_categories"] if guide else {}
        self._genus = {normalise(name): normalise(entry["genus"]) for name, entry in known.items()}

    def closed(self, record: Record) -> dict[str, float]:
        """accuracy, the faults, and chose_first where the record has options."""
        scores = {"accuracy": strict(record["completion"], record["sub_category"]), **self._faults(record)}
        if record.get("options"):
            answer = one_answer(record["completion"])[0]
            scores["chose_first"] = float(normalise(answer or "") == normalise(record["options"][0]))
        return scores

    def prepare(self, records: Iterable[Record]) -> None:
        """Embed answers, labels and words in batches."""
        self._similarity.prepare(
            text
            for record in records
            for text in (
                one_answer(record["completion"])[0], record["sub_category"], record["super_category"]
            )
            if text is not None
        )

    def open(self, record: Record) -> dict[str, float]:
        """text_inclusion (equality, in this scorer), relative_semantic_similarity and the faults."""
        answer, label = one_answer(record["completion"])[0], record["sub_category"]
        right = strict(record["completion"], label)
        similar = right
        if answer is not None and not right:
            similar = relative_similarity(self._similarity, answer, label, record["super_category"])
        return {
            "text_inclusion": right, "relative_semantic_similarity": similar, **self._faults(record)
        }

    def _faults(self, record: Record) -> dict[str, float]:
        completion, label = record["completion"], record["sub_category"]
        answer = one_answer(completion)[0]
        several = completion.count("<answer>") > 1
        if answer is not None:
            several = names_several(answer, {label, *(record.get("options") or ()), *self._genus})
        faults = {"format_failure": float(answer is None), "multiple_answers": float(several)}
        prediction = parse(completion).prediction
        if answer is not None and prediction is not None:
            faults["answer_differs_from_prediction"] = float(normalise(prediction) != normalise(answer))
        if normalise(label) in self._genus:
            near = self._sibling(normalise(answer or ""), normalise(label))
            faults["genus_right_epithet_wrong"] = float(near and not several)
        return faults

    def _sibling(self, said: str, label: str) -> bool:
        """Another name of the label's genus; an invented epithet before the genus word is one as well."""
        genus = self._genus[label]
        if said in (label, genus, ""):
            return False
        return self._genus[said] == genus if said in self._genus else said.endswith(f" {genus}")
