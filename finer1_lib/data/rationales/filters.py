"""The filters of Stage 1's rationales, and the final form of those that pass.

>>> reject_reason("A Dunen Wren.", "Dunen Wren")
'not_well_formed'
>>> flaws("A Dunen Wren.", "Dunen Wren")
['not_well_formed', 'label_not_a_candidate', 'wrong_prediction']

Every filter judges on its own (`flaws`), so that one can be switched off and its effect measured. They follow
the faults found in the release's 404 rationales (LLaMA-Factory/data/Fine-R1-Stage1-data.json).
"""

import random
import re
import unicodedata
from typing import Collection, Iterable, Mapping, Optional, Sequence

from finer1_lib.core.completions import is_target, normalise
from finer1_lib.core.errors import UserError
from finer1_lib.data.names import same_name
from finer1_lib.data.rationales.parsing import MAX_CANDIDATES, parse

REASONS = ("cut_off", "not_well_formed", "mixed_language", "prompt_leak", "label_not_a_candidate",
           "foreign_candidate", "wrong_prediction")
TOO_LONG = "too_long"  # one more, which works only where a limit of words is given
CUT_OFF = " [cut off]"  # a teacher ends a text with it that reached the limit of tokens
_TYPOGRAPHY = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2010": "-", "\u2011": "-",
               "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u2026": "...", "\u00a0": " ",
               "\u202f": " ", "\u3000": " ", "\u300c": '"', "\u300d": '"'}
_FULL_WIDTH = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # "\uff01" is "!"
_PLAIN = str.maketrans(_TYPOGRAPHY | _FULL_WIDTH)
# No space follows these.
_WIDE_STOPS = {"\uff0c": ", ", "\u3001": ", ", "\u3002": ". ", "\uff1b": "; ", "\uff1a": ": "}
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
    """The kit's target format, to the newline (Fine-R1, arXiv 2602.07605, Table 5: the four parts)."""
    return (f"<think>\n<analysis>{analysis}</analysis>\n<options>{', '.join(candidates)}</options>\n"
            f"<comparison>{comparison}</comparison>\n<prediction>{prediction}</prediction>\n</think>\n"
            f"<answer>{prediction}</answer>")


def check_filters(filters: Iterable[str]) -> tuple[str, ...]:
    """The filters in the order of `REASONS`. Raises: UserError: a name that no filter has."""
    filters = [filters] if isinstance(filters, str) else list(filters)
    if unknown := sorted(set(filters) - set(REASONS)):
        raise UserError(f"filter {unknown[0]!r} is unknown: choose from {', '.join(REASONS)}")
    return tuple(name for name in REASONS if name in filters)


def reject_reason(text: str, label: str, names: Iterable[str] = (), foreign: Iterable[str] = (),
                  filters: Collection[str] = REASONS, max_words: int = 0,
                  data_set: str = "") -> Optional[str]:
    """The first of `flaws` whose filter is on (`TOO_LONG` is on where there is a limit), or None.

    Source: Fine-R1 (arXiv 2602.07605), Stage 1: texts are resampled until the prediction equals the label.
    """
    on = {*check_filters(filters), TOO_LONG}
    return next((flaw for flaw in flaws(text, label, names, foreign, max_words, data_set) if flaw in on), None)


def flaws(text: str, label: str, names: Iterable[str] = (), foreign: Iterable[str] = (), max_words: int = 0,
          data_set: str = "") -> list[str]:
    """Everything that is wrong with a rationale, each judged on its own: names of `REASONS`, then `TOO_LONG`.

    `names` are the super-category's sub-categories (letters of any script are allowed if a name has them),
    `foreign` those of others, none of which may be a candidate; `max_words` limits a text, 0 for no limit;
    `data_set`: whose other names of the label count (`names.table_for`). Other languages in Latin letters pass.
    """
    trace, names = parse(text), list(names)
    candidates = {normalise(name) for name in trace.candidates}
    others = {normalise(name) for name in foreign} - {normalise(name) for name in names}
    own = [name for name in trace.candidates if same_name(data_set, name, label)]
    said = all(name and same_name(data_set, name, label) for name in (trace.prediction, trace.answer))
    whole = (trace.layout == "tags" and trace.complete and is_target(text)
             and len(own) < 2  # two of its names would list the label twice
             and 2 <= len(candidates) == len(trace.candidates) <= MAX_CANDIDATES)
    found = {"cut_off": text.endswith(CUT_OFF), "not_well_formed": not whole,
             "mixed_language": bool(_strange_letters(text, [label, *names])),
             "prompt_leak": bool(_LEAK.search(text)), "label_not_a_candidate": not own,
             "foreign_candidate": bool(candidates & others), "wrong_prediction": not said}
    return [name for name in REASONS if found[name]] + [TOO_LONG] * bool(max_words and words(text) > max_words)


def words(text: str) -> int:
    """How many words a text has, its tags not counted: what a limit of words counts."""
    return len(re.sub(r"</?\w+>", " ", text.removesuffix(CUT_OFF)).split())


def reasons_of(records: Iterable[Mapping]) -> tuple[str, ...]:
    """`REASONS`, and `TOO_LONG` where records (lines of rationales.jsonl) were made under a limit."""
    return (*REASONS, TOO_LONG) if any(record.get("max_words") for record in records) else REASONS


def fix_punctuation(text: str) -> str:
    """Typographic and full-width signs as plain ones: the only mixed language that is safe to fix. (Words of
    another script are no such signs: `flaws` finds them, and the text is requested again.)
    Source: Fine-R1 (arXiv 2602.07605), Stage 1 (texts of mixed language are fixed or dropped).
    """
    text = re.sub(f"([{''.join(_WIDE_STOPS)}]) ?", lambda stop: _WIDE_STOPS[stop.group(1)], text)
    return text.translate(_PLAIN).strip()


def settle(text: str, label: str, rng: random.Random, place: Optional[int] = None, data_set: str = "") -> str:
    """The final form of an accepted rationale: the label's own spelling, candidates in a drawn order.

    `place` is the label's place, modulo the list; None draws it. Teachers tend to list the label first (349
    of 373 lists in release LLaMA-Factory/data/Fine-R1-Stage1-data.json), and a student would learn that. A
    comparison of the form "A: ..; B: .." follows the new order. A text that is not well-formed, lacks the
    label or predicts another name (each passes only where its filter is off) is returned unchanged.
    """
    trace, found = parse(text), flaws(text, label, data_set=data_set)
    if {"not_well_formed", "label_not_a_candidate", "wrong_prediction"} & set(found):
        return text
    candidates = [label if same_name(data_set, name, label) else name for name in trace.candidates]
    comparison, parts = trace.comparison, trace.comparison.split("; ")
    pieces = dict(zip(trace.candidates, parts))
    order = list(range(len(candidates)))
    rng.shuffle(order)
    if place is not None:
        order.remove(own := candidates.index(label))
        order.insert(place % len(candidates), own)
    if len(parts) == len(candidates) == len(pieces) and all(
            piece.startswith(f"{name}:") for name, piece in pieces.items()):
        comparison = "; ".join(pieces[trace.candidates[index]] for index in order)
    return write_rationale(trace.analysis, [candidates[index] for index in order], comparison, label)


def _strange_letters(text: str, names: Iterable[str]) -> set[str]:
    """Letters outside the Latin script that no name has, East Asian signs, and signs that no font shows."""
    welcome = set("".join(names)) | {"\n", "\t", "\u00aa", "\u00ba", "\u00b5"}  # ordinals, micro
    return {sign for sign in set(text) - welcome if sign == "\ufffd" or unicodedata.category(sign)[0] == "C"
            or "\u3000" <= sign <= "\u303f" or "\uff00" <= sign <= "\uffef"
            or (unicodedata.category(sign)[0] == "L" and not unicodedata.name(sign, "").startswith("LATIN"))}
