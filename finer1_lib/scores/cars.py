"""What of a car's name an answer must say: the release's rule, and the parts by name.

    Chevrolet Corvette ZR1 2012     official: "chevrolet corvette" (its last two words are dropped)
                                    make_model: Chevrolet, Corvette     make_model_trim: ZR1 as well

The official labels are make, model, often a trim, mostly a body, and a year, which nobody says of a picture. The
release drops two words from every label; so trims vanish (ZR1), and where the body has two words a fragment
of it stays ("Extended"). By the table only the named parts count, wherever they stand in the answer.

Source: release eval/evaluation.py, audit B4; the parts are those of `data_sets/cars_taxonomy.csv`.
"""

import re
from functools import cache, lru_cache
from typing import Iterable, Mapping, Optional, Sequence

from finer1_lib.rewards import normalise
from finer1_lib.scores.answers import KnownNames
from finer1_lib.taxonomy import genera

READINGS: Mapping[str, tuple[str, ...]] = {
    "make_model": ("genus", "model"), "make_model_trim": ("genus", "model", "trim"),
}  # fmt: skip


def official_needle(label: str) -> str:
    """What the release looks for of a car's label."""
    return " ".join(label.lower().split()[:-2])


def parts_of(label: str, reading: str) -> Optional[tuple[str, ...]]:
    """The parts that a reading asks for, normalised; None for a label that is not one of the 196."""
    known = genera("car").get(label)
    return known and tuple(normalise(known[part]) for part in READINGS[reading] if part in known)


def car_scores(answer: Optional[str], label: str) -> dict[str, float]:
    """Each reading of one answer, 1 where every part stands in it as whole words; {} for another label.

    Another model of the table beside the right one, or (for the trim) another trim of that model, makes it
    several answers or another car: 0. So does a "not".

    Args:
        answer: the one answer, None for none.
        label: of the car.
    """
    known, said = genera("car").get(label), normalise(answer or "")
    if known is None:
        return {}
    model, trim = normalise(known["model"]), normalise(known.get("trim", ""))
    trims = {normalise(one.get("trim", "")) for one in _models()[normalise(known["genus"]), model]} - {""}
    right = _holds(said, normalise(known["genus"])) and not re.search(r"\b(?:not|no|never|unlike)\b", said)
    right = right and set(_finder().mentioned(said)) == {model}
    same = {one for one in trims if _holds(said, one)} == ({trim} if trim else set())
    return {"text_inclusion_make_model": float(right), "text_inclusion_make_model_trim": float(right and same)}


@cache
def _models() -> Mapping[tuple[str, str], list[Mapping[str, str]]]:
    found: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for one in genera("car").values():
        found.setdefault((normalise(one["genus"]), normalise(one["model"])), []).append(one)
    return found


@cache
def _finder() -> KnownNames:
    return KnownNames(one["model"] for one in genera("car").values())


@lru_cache(maxsize=4096)
def _pattern(part: str) -> re.Pattern:
    return re.compile(rf"(?<!\w){re.escape(part)}(?!\w)")


def _holds(said: str, part: str) -> bool:
    return _pattern(part).search(said) is not None


def not_told_apart(labels: Iterable[str], reading: str) -> Sequence[tuple[str, ...]]:
    """Groups of labels that a reading ("official", or one of `READINGS`) cannot tell apart."""
    groups: dict[object, list[str]] = {}
    for label in labels:
        key = official_needle(label) if reading == "official" else parts_of(label, reading)
        groups.setdefault(key, []).append(label)
    return [tuple(group) for group in groups.values() if len(group) > 1]
