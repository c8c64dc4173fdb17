"""The filters of Stage 1's rationales, and the final form of those that pass.

Example:
    >>> reject_reason("A Dunen Wren.", "Dunen Wren")
    'not_well_formed'

Source: METHOD 2.3; data.md 3.1 (what went wrong in the release's 404 rationales).
"""

import random
import re
import unicodedata
from typing import Iterable, Optional, Sequence

from finer1_lib.rewards import normalise, well_formatted
from finer1_lib.traces import MAX_CANDIDATES, Trace, parse

REASONS = (
    "not_well_formed", "mixed_language", "prompt_leak", "label_not_a_candidate", "foreign_candidate",
    "wrong_prediction",
)

_TYPOGRAPHY = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2010": "-", "\u2011": "-", "\u2012": "-",
    "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u2026": "...", "\u00a0": " ", "\u202f": " ",
})
_GIVEN = "(?:label|name|answer|description|information|evidence|concepts?|features?|hints?|attributes?)"
_LEAK = re.compile(
    rf"\b(?:provided|given|supplied) {_GIVEN}\b"
    r"|\b(?:mentioned|stated|given|indicated|specified|provided|described) (?:in|by|with) the "
    r"(?:question|prompt|description|instruction|label|input|context)"
    r"|\b(?:question|prompt|instruction|hint) (?:says|states|mentions|asks|tells|provides|indicates)\b"
    r"|\benclosed tags?\b|\bground[- ]truth\b|\b(?:correct|true|known|hidden) label\b"
    r"|\bi (?:was|am|have been) (?:told|given|asked)\b|\bas an ai\b",
    re.IGNORECASE,
)


def write_rationale(analysis: str, candidates: Sequence[str], comparison: str, prediction: str) -> str:
    """The kit's target format, to the newline.

    Source: METHOD 2, target format (white space between tags is ours to choose).
    """
    return (
        f"<think>\n<analysis>{analysis}</analysis>\n<options>{', '.join(candidates)}</options>\n"
        f"<comparison>{comparison}</comparison>\n<prediction>{prediction}</prediction>\n</think>\n"
        f"<answer>{prediction}</answer>"
    )


def reject_reason(
    text: str, label: str, names: Iterable[str] = (), foreign: Iterable[str] = ()
) -> Optional[str]:
    """Why a rationale is no good, or None.

    Args:
        text: the teacher's text.
        label: the true sub-category.
        names: the super-category's sub-categories; letters of any script are welcome if a name has them.
        foreign: sub-categories of other super-categories; none may be a candidate.

    Returns:
        One of `REASONS`. Words of another language in Latin letters pass: script is all that is looked at.

    Source: METHOD 2.3; data.md 3.1 (what went wrong in the release's 404).
    """
    trace = parse(text)
    if trace.layout != "tags" or not trace.complete or not well_formatted(text) or not _sound_list(trace):
        return "not_well_formed"
    if _strange_letters(text, [label, *names]):
        return "mixed_language"
    if _LEAK.search(text):
        return "prompt_leak"
    candidates = {normalise(name) for name in trace.candidates}
    if normalise(label) not in candidates:
        return "label_not_a_candidate"
    if candidates & ({normalise(name) for name in foreign} - {normalise(name) for name in names}):
        return "foreign_candidate"
    if {normalise(trace.prediction), normalise(trace.answer)} != {normalise(label)}:
        return "wrong_prediction"
    return None


def mend(text: str) -> str:
    """Typographic quotes, dashes and spaces as plain ones: the only mixed language that is safe to fix."""
    return text.translate(_TYPOGRAPHY).strip()


def settle(text: str, label: str, rng: random.Random) -> str:
    """Put an accepted rationale into its final form: the label's own spelling, candidates in a drawn order.

    A teacher likes to list the label first (349 of 373 in the release); left so, the student would learn the
    place. A comparison of the form "A: ..; B: .." follows the new order, any other is left as it is. What
    stands between the tags is dropped.

    Source: METHOD 2.3; data.md 3.1 (position bias); the shuffle is our choice.
    """
    trace = parse(text)
    candidates = [label if normalise(name) == normalise(label) else name for name in trace.candidates]
    pieces = dict(zip(trace.candidates, trace.comparison.split("; ")))
    follows = len(trace.comparison.split("; ")) == len(candidates) == len(pieces) and all(
        piece.startswith(f"{name}:") for name, piece in pieces.items()
    )
    order = list(range(len(candidates)))
    rng.shuffle(order)
    comparison = trace.comparison
    if follows:
        comparison = "; ".join(pieces[trace.candidates[index]] for index in order)
    return write_rationale(trace.analysis, [candidates[index] for index in order], comparison, label)


def _sound_list(trace: Trace) -> bool:
    """Two to four different candidates."""
    different = {normalise(name) for name in trace.candidates}
    return 2 <= len(different) == len(trace.candidates) <= MAX_CANDIDATES


def _strange_letters(text: str, names: Iterable[str]) -> set[str]:
    """Letters outside the Latin script that no name has, and signs that no font shows."""
    welcome = set("".join(names)) | {"\n", "\t", "\u00aa", "\u00ba", "\u00b5"}  # ordinals, micro
    return {
        sign
        for sign in set(text) - welcome
        if sign == "\ufffd"
        or unicodedata.category(sign)[0] == "C"
        or (unicodedata.category(sign)[0] == "L" and not unicodedata.name(sign, "").startswith("LATIN"))
    }
