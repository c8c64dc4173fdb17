"""What a trace claims, compared with the field guide, and the first step at which it goes wrong.

The comparison part of a trace names candidates and says what the guide has of each, marking what its own
analysis contradicts. Both can be checked: the claim with the guide, the mark with the analysis.

    analysis    "red crown, barred wings"
    comparison  "Marlo Wren: blue crown (differs), plain wings"
    claims      blue crown: true in the guide, mark consistent ("red" was seen);
                plain wings: false (the guide has barred), mark inconsistent (it differs from what was seen)

Source: Fine-R1 (arXiv 2602.07605), Table 5: the four parts of a trace.
"""

import re
from typing import Iterator, Mapping, NamedTuple, Optional

from finer1_lib.core.completions import normalise
from finer1_lib.data.names import same_name
from finer1_lib.data.rationales.parsing import Trace, attribute_claims, check_claims, predicts

STEP_LABELS = {"unparsable": "trace cannot be read", "misread_attribute": "an attribute is misread",
               "candidate_missing": "truth not among the candidates",
               "comparison_contradicts": "comparison contradicts the guide",
               "prediction_differs": "wrong choice among the candidates",
               "answer_differs": "answer differs from the prediction"}
WRONG_STEPS = tuple(STEP_LABELS)
GUIDE_STEPS = ("misread_attribute", "comparison_contradicts")  # those that need a guide
_ENTRY, _PIECE, _ANALYSIS_PIECE = re.compile(r"[^;\n]+"), re.compile(r"[^,]+"), re.compile(r"[^,;.\n]+")
_MARK = re.compile(r"\(\s*differs\s*\)")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+")  # of an entry in a list, as candidates have it too
_OTHER_GENUS = "other genus"


class Claim(NamedTuple):
    """One claim of a trace about a sub-category."""

    name: str  # of the sub-category, as the guide spells it
    attribute: str  # a part word of the guide; "" for "other genus", which claims no value
    value: str  # normalised
    start: int  # its place in the part's text
    end: int
    true: Optional[bool]  # whether the guide says the same; None for "other genus"
    consistent: Optional[bool] = None  # whether "(differs)", or its absence, fits the analysis


def attributes_of(guide: Optional[Mapping], sub_category: str) -> Mapping[str, str]:
    """The guide's attributes of a sub-category; empty without a guide, or where it says nothing of it."""
    return (guide or {}).get("sub_categories", {}).get(sub_category, {}).get("attributes") or {}


def analysis_claims(trace: Trace, sub_category: str, guide: Optional[Mapping]) -> list[Claim]:
    """The claims of the analysis about the true sub-category, checked with the guide; none without one."""
    truth = attributes_of(guide, sub_category)
    return [Claim(sub_category, attribute, value, *_trimmed(piece), true)
            for piece in _ANALYSIS_PIECE.finditer(trace.analysis or "")
            for attribute, value, true in _claims_in(piece.group(), truth)]


def comparison_claims(trace: Trace, guide: Optional[Mapping]) -> list[Claim]:
    """The claims of the comparison, "Name: value part, value part (differs); Name: ...", in their order.

    Without a guide, and for a name that the guide does not know, there is nothing to check.
    """
    known = {normalise(name): name for name in (guide or {}).get("sub_categories", {})}
    found, read = [], {}  # what the analysis says of each name's attributes, read once
    for entry in _ENTRY.finditer(trace.comparison or ""):
        head, colon, rest = entry.group().partition(":")
        name = known.get(normalise(_BULLET.sub("", head).replace("*", "")))
        if not colon or name is None:
            continue
        truth = attributes_of(guide, name)
        if name not in read:
            stated = attribute_claims(trace.analysis, truth)
            read[name] = {attribute: frozenset(values) for attribute, values in stated.items()}
        seen = read[name]
        for piece in _PIECE.finditer(rest):
            span = _trimmed(piece, entry.start() + len(head) + 1)
            marked, plain = bool(_MARK.search(piece.group())), _MARK.sub("", piece.group())
            for attribute, value, true in _claims_in(plain, truth):
                fits = False if marked else None  # what was not seen cannot differ
                if attribute in seen:
                    fits = marked == (value not in seen[attribute])
                found.append(Claim(name, attribute, value, *span, true, fits))
            if normalise(plain) == _OTHER_GENUS:
                differs = any(normalise(truth[a]) not in seen[a] for a in _genus_attributes(guide, name)
                              if a in seen)
                found.append(Claim(name, "", _OTHER_GENUS, *span, None, marked == differs))
    return found


def unknown_names(trace: Trace, guide: Optional[Mapping]) -> list[str]:
    """The candidates that the guide does not know, in their order: invented names."""
    known = {normalise(name) for name in (guide or {}).get("sub_categories", {})}
    return [name for name in trace.candidates if normalise(name) not in known]


def where_wrong(trace: Trace, sub_category: str, guide: Optional[Mapping] = None, data_set: str = "") -> str:
    """The first step at which a trace goes wrong, or "right" when its answer is right (whatever comes before
    it: a trace may misread what decides nothing). The steps follow the parts in Table 5 of the paper:

    - "unparsable": the analysis, the candidates, the prediction or the answer cannot be read;
    - "misread_attribute": the analysis claims of some attribute what the guide does not say of the true
      sub-category (an attribute left out is not a misreading);
    - "candidate_missing": the true name is not among the candidates;
    - "comparison_contradicts": the comparison claims something false of the true sub-category or of the
      predicted one (false claims about others do not count, since they were not chosen, nor does a wrong
      "(differs)", since it contradicts the analysis and not the guide);
    - "prediction_differs": nothing false was claimed of the two, and yet the wrong one was chosen;
    - "answer_differs": the prediction was right, the answer is another name.

    Another name of the truth in `data_set` counts as the truth (`data.names.same_name`). Without a guide that
    knows the sub-category, the steps of `GUIDE_STEPS` are left out, and their traces go to the next step.
    """
    if trace.answer is not None and same_name(data_set, trace.answer, sub_category):
        return "right"
    if trace.answer is None or not trace.candidates or trace.prediction is None or trace.analysis is None:
        return "unparsable"
    if (attributes_of(guide, sub_category)
            and "wrong" in check_claims(trace.analysis, sub_category, guide).values()):
        return "misread_attribute"
    if not any(same_name(data_set, name, sub_category) for name in trace.candidates):
        return "candidate_missing"
    false = {claim.name for claim in comparison_claims(trace, guide) if claim.true is False}
    if any(name == sub_category or predicts(trace, name, data_set) for name in false):
        return "comparison_contradicts"
    return "answer_differs" if predicts(trace, sub_category, data_set) else "prediction_differs"


def _claims_in(text: str, truth: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    """(attribute, value, whether it is true) of every claim in a piece of text that has no comma."""
    for attribute, values in attribute_claims(text, truth).items():
        for value in values:
            yield attribute, value, value == normalise(truth[attribute])


def _trimmed(piece: re.Match, offset: int = 0) -> tuple[int, int]:
    """Start and end of a piece without the white space around it."""
    text, start = piece.group(), offset + piece.start()
    return start + len(text) - len(text.lstrip()), start + len(text.rstrip())


def _genus_attributes(guide: Mapping, name: str) -> list[str]:
    rules = guide.get("super_categories", {}).get(guide["sub_categories"][name]["super_category"], {})
    return [a for a in rules.get("genus_attributes", ()) if a in attributes_of(guide, name)]
