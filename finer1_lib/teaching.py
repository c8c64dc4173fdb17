"""What a teacher is asked, one image at a time or in batches.

A teacher is written by subclassing `Teacher`: what to stress in turn (`foci`), a description, a list of
concepts and a rationale. Seeds are drawn by `draw_seed`, so that whoever asks again gets the same text.

Source: METHOD 2.1 and 2.2 (descriptions, a list of concepts, the structured prompt); the interface is ours.
"""

import hashlib
from abc import abstractmethod
from typing import Any, Mapping, NamedTuple, Protocol, Sequence

Row = Mapping[str, Any]


class Description(NamedTuple):
    """A description asked for: which image, what it is to stress, and the seed of its chance."""

    row: Row
    focus: str
    seed: int


class Rationale(NamedTuple):
    """A rationale asked for: which image, on which concepts, for which question, and its seed."""

    row: Row
    concepts: Sequence[str]
    question: str
    seed: int


class Teacher(Protocol):
    """Whoever writes rationales. A `row` is one row of `01_data/images.parquet` as a dictionary.

    `describe`, `concepts` and `rationale` give one answer each; the same arguments give the same answer: all
    chance comes from `seed`. A teacher that is quicker in batches raises `batch_size` and overrides the three
    `.._all`, where the same list gives the same answers.

    Attributes:
        batch_size: images asked for together.
    """

    batch_size: int = 1

    @abstractmethod
    def foci(self, row: Row) -> Sequence[str]:
        """What the descriptions of an image are to stress in turn."""

    @abstractmethod
    def describe(self, row: Row, focus: str, seed: int) -> str:
        """Describe the image, without its name, stressing the focus."""

    @abstractmethod
    def concepts(self, row: Row, descriptions: Sequence[str]) -> list[str]:
        """Short texts that may be true of the row's sub-category."""

    @abstractmethod
    def rationale(self, row: Row, concepts: Sequence[str], question: str, seed: int) -> str:
        """The whole assistant text for the row's label on these concepts; `CUT_OFF` at its end if it was."""

    def describe_all(self, asked: Sequence[Description]) -> list[str]:
        """One description each."""
        return [self.describe(*one) for one in asked]

    def concepts_all(self, asked: Sequence[tuple[Row, Sequence[str]]]) -> list[list[str]]:
        """One list of concepts for each (row, descriptions)."""
        return [list(self.concepts(*one)) for one in asked]

    def rationale_all(self, asked: Sequence[Rationale]) -> list[str]:
        """One text each."""
        return [self.rationale(*one) for one in asked]


def draw_seed(*parts: Any) -> int:
    """A seed below 2**31 from anything printable, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode("utf-8")).digest()[:4], "big") >> 1
