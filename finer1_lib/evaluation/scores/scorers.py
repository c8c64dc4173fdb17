"""What a scorer is: a record in, metrics out, from the record alone. `scoring.SCORERS` lists the kit's two.

A record is a line of 04's records.jsonl (completion, sub_category, super_category, image_id; in the closed world
options). `official` is the release's evaluation, bug for bug; `strict` is the kit's own.
"""

from typing import Any, Iterable, Mapping, Protocol

Record = Mapping[str, Any]


class Scorer(Protocol):
    """One reading of the answers; values are fractions in [0, 1]. Made with `similarity=`, `guide=` and more."""

    name: str

    def prepare(self, records: Iterable[Record]) -> None:
        """Receives all open-world records before `open` is called: a chance to embed texts in batches."""

    def closed(self, record: Record) -> dict[str, float]:
        """Metrics of a closed-world record."""

    def open(self, record: Record) -> dict[str, float]:
        """Metrics of an open-world record."""
