"""Scores of one record, computed from the record alone: `official` (the release, bug for bug) and `strict`.

A scorer maps a record (completion, sub_category, super_category, image_id; in the closed world options) to
`{metric: value}`, in its own way for each world; others join with `@register("name")`. The two of the kit
stand in `official` and `strict`, the similarities of the open world in `similarity`.

Example:
    >>> record = {"completion": "<answer>House Wren, Rock Wren</answer>", "sub_category": "Rock Wren"}
    >>> make_scorer("official").closed(record), make_scorer("strict").closed(record)["accuracy"]
    ({'accuracy': 1.0}, 0.0)
    >>> make_scorer("strict").closed(record)["multiple_answers"]
    1.0

Source: METHOD 4; release eval/evaluation.py.
"""

from typing import Any, Callable, Iterable, Mapping, Optional, Protocol

from finer1_lib.core.errors import UserError
from finer1_lib.evaluation.scores.similarity import Similarity, TrigramSimilarity

Record = Mapping[str, Any]
SCORERS: dict[str, Callable[..., "Scorer"]] = {}


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
    name: str, *, similarity: Optional[Similarity] = None, guide: Optional[Mapping[str, Any]] = None,
    **more: Any,
) -> Scorer:
    """A registered scorer.

    Args:
        similarity: Sim of the open world; the trigram one when None.
        guide: the field guide, for metrics that need a taxonomy.
        more: what else the scorer takes; the kit's two take `names` and `more` (further similarities).

    Raises:
        UserError: unknown name.
    """

    from finer1_lib.evaluation.scores import official, strict  # noqa: F401 - they register themselves

    if name not in SCORERS:
        raise UserError(f"unknown scorer {name!r}: one of {', '.join(sorted(SCORERS))}")
    return SCORERS[name](similarity=similarity or TrigramSimilarity(), guide=guide, **more)
