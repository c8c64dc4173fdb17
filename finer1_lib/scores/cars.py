"""What of a car's name an answer must say: the release's rule, and the parts by name.

    Chevrolet Corvette ZR1 2012     official: "chevrolet corvette" (its last two words are dropped)
                                    make_model: Chevrolet, Corvette     make_model_trim: ZR1 as well

The official labels are make, model, often a trim, mostly a body, and a year, which nobody says of a picture. The
release drops two words from every label; so trims vanish (ZR1), and where the body has two words a fragment
of it stays ("Extended"). By the table only the named parts count, wherever they stand in the answer.

Source: release eval/evaluation.py, audit B4; the parts are those of `data_sets/cars_taxonomy.csv`.
"""

import re
from typing import Iterable, Mapping, Optional, Sequence

from finer1_lib.rewards import normalise
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

    Args:
        answer: the one answer, None for none.
        label: of the car.
    """
    said, scores = normalise(answer or ""), {}
    for reading in READINGS:
        parts = parts_of(label, reading)
        if parts is None:
            return {}
        scores[f"text_inclusion_{reading}"] = float(
            all(re.search(rf"(?<!\w){re.escape(part)}(?!\w)", said) for part in parts))
    return scores


def not_told_apart(labels: Iterable[str], reading: str) -> Sequence[tuple[str, ...]]:
    """Groups of labels that a reading ("official", or one of `READINGS`) cannot tell apart."""
    groups: dict[object, list[str]] = {}
    for label in labels:
        key = official_needle(label) if reading == "official" else parts_of(label, reading)
        groups.setdefault(key, []).append(label)
    return [tuple(group) for group in groups.values() if len(group) > 1]
