"""A completion taken apart: visual analysis, candidates, comparison, prediction, and the answer.

Two layouts are read. The kit's has tags, `<think><analysis>..</analysis><options>A, B</options><comparison>..
</comparison><prediction>A</prediction></think><answer>A</answer>`. The release's 404 rationales carry no tags
between `<think>` and `</think>`: two marker lines ("The analysis of candidate subcategories:", "The
prediction is:") stand in for them. What cannot be read is named in `Trace.problems`, counted, and never
dropped.

Example:
    >>> parse("<think>hm</think><answer>Dunen Wren</answer>").answer
    'Dunen Wren'
    >>> parse("<answer>Dunen Wren</answer><answer>Marlo Wren</answer>").problems[:1]
    ('repeated_answer',)

Source: METHOD 2 (target format of the kit), the layouts of the release's Fine-R1-Stage1-data.json.
"""

import re
from dataclasses import dataclass
from typing import Iterable, Mapping, Optional

from finer1_lib.prompts import FOUR_PARTS
from finer1_lib.rewards import WELL_FORMED, normalise, read_completion, read_tag

CANDIDATE_MARKER = "The analysis of candidate subcategories:"
PREDICTION_MARKER = "The prediction is:"
MAX_CANDIDATES = 4  # METHOD 2: "at most four"

_LIST_ITEM = re.compile(r"^\s?(?:[-*•]|\d{1,2}[.)])\s+(\S.*)$")
_COMPARING = re.compile(r"\bcompar", re.IGNORECASE)
_CONCLUDING = re.compile(r"\bfinal (?:prediction|answer)|^(?:prediction|conclusion)", re.IGNORECASE)
_LATIN = re.compile(r"\s*\([^)]*\)")
_NAMED = re.compile(r"\b(?:is|as|likely) (?:an? |the )?((?:[A-Z][\w'’-]*)(?: [A-Z][\w'’-]*)*)")


@dataclass(frozen=True)
class Trace:
    """What was read from one completion; a part that is missing or broken is None (candidates: empty).

    Attributes:
        layout: "tags", "markers" (the release's) or "none".
        candidates: names in the order written.
        answer: the one well-formed answer, else None.
        problems: `<what>_<part>` with what in missing, empty, unclosed, repeated, nested, misplaced.
    """

    layout: str
    analysis: Optional[str]
    options: Optional[str]
    comparison: Optional[str]
    prediction: Optional[str]
    candidates: tuple[str, ...]
    answer: Optional[str]
    problems: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """All four parts and the answer were read."""
        return not self.problems


def parse(completion: str) -> Trace:
    """Take one completion apart; any string is accepted and nothing is raised.

    Source: METHOD 2; the second layout: LLaMA-Factory/data/Fine-R1-Stage1-data.json of the release.
    """
    *_, answer, answer_problem = read_completion(completion)
    problems = [] if answer_problem == WELL_FORMED else [f"{answer_problem}_answer"]
    thought = thinking(completion)
    parts: dict[str, Optional[str]] = dict.fromkeys(FOUR_PARTS)
    if any(f"<{part}>" in completion for part in FOUR_PARTS):
        layout = "tags"
        candidates = None
        for part in FOUR_PARTS:
            parts[part], problem = read_tag(thought, part)
            problems += [] if problem == WELL_FORMED else [f"{problem}_{part}"]
        problems += _misplaced(thought, parts)
    elif CANDIDATE_MARKER in thought or PREDICTION_MARKER in thought:
        layout = "markers"
        parts, candidates = _by_markers(thought)
        problems += [f"missing_{part}" for part in FOUR_PARTS if not parts[part]]
    else:
        layout, candidates = "none", ()
        problems += [f"missing_{part}" for part in FOUR_PARTS]
    if candidates is None:
        candidates = split_names(parts["options"] or "")
    return Trace(layout, *(parts[part] for part in FOUR_PARTS), tuple(candidates), answer, tuple(problems))


def release_layout(completion: str) -> str:
    """How a rationale of the release is laid out.

    Returns:
        "single": the markers, no heading for the comparison; "headings": one as well; "double": a whole chain
        up to its final prediction, then a short repeat with the markers; "none": no candidates' marker.

    Source: data.md 3.1 (three layouts of the 404); telling them by their headings is our choice.
    """
    thought = thinking(completion)
    before, marker, _ = thought.rpartition(CANDIDATE_MARKER)
    if not marker:
        return "none"
    if _has_heading(before, _CONCLUDING):
        return "double"
    return "headings" if _has_heading(thought, _COMPARING) else "single"


def candidate_lines(trace: Trace) -> tuple[str, ...]:
    """The candidates with what follows in brackets: "Nymphaea alba (White Water Lily)"."""
    items = filter(None, (_LIST_ITEM.match(line) for line in (trace.options or "").splitlines()))
    return tuple(_uncommented(item.group(1)) for item in items)[:MAX_CANDIDATES] or trace.candidates


def split_names(text: str) -> tuple[str, ...]:
    """Names of a candidate list: one per bulleted or numbered line, or separated by commas or semicolons."""
    lines = [_LIST_ITEM.match(line) for line in text.splitlines()]
    pieces = [m.group(1) for m in lines if m] or re.split(r"[,;\n]", text)
    return tuple(name for name in (_bare_name(piece) for piece in pieces) if name)


def count_problems(traces: Iterable[Trace]) -> dict[str, int]:
    """How often each problem occurs, with "complete" and "total": the counts that a report shows.

    Source: style.md 5.20 ("unparsable traces are counted and shown, never dropped"); our choice.
    """
    counts = {"total": 0, "complete": 0}
    for trace in traces:
        counts["total"] += 1
        counts["complete"] += trace.complete
        for problem in trace.problems:
            counts[problem] = counts.get(problem, 0) + 1
    return counts


def attribute_claims(analysis: Optional[str], attributes: Iterable[str]) -> dict[str, list[str]]:
    """Every claim "<value> <part>" of an analysis, such as "needle bill".

    Args:
        analysis: the text of the part, or None.
        attributes: the part words that the guide knows ("bill", "wings").

    Returns:
        attribute -> normalised values claimed, in order; attributes without a claim are absent.
    """
    claims: dict[str, list[str]] = {}
    for chunk in re.split(r"[,;.\n]|\band\b|\bwith\b", analysis or ""):
        words = normalise(chunk)
        for attribute in attributes:
            part = normalise(attribute)
            if words.endswith(f" {part}"):
                if value := re.sub(r"^(?:an?|the|has|it|its|their) ", "", words[: -len(part) - 1]).strip():
                    claims.setdefault(attribute, []).append(value)
    return claims


def check_claims(analysis: Optional[str], sub_category: str, guide: Mapping) -> dict[str, str]:
    """Compare an analysis with what the guide says of the pictured sub-category.

    Args:
        analysis: the analysis part, or None.
        sub_category: the true name; it must stand in the guide.
        guide: the dictionary of `guide.json`.

    Returns:
        attribute -> "right", "wrong" or "missing"; two different values for one attribute are "wrong".

    Raises:
        KeyError: the guide does not know the sub-category.
    """
    truth = guide["sub_categories"][sub_category]["attributes"]
    claims = attribute_claims(analysis, truth)
    return {
        attribute: "missing" if attribute not in claims
        else "right" if set(claims[attribute]) == {normalise(value)} else "wrong"
        for attribute, value in truth.items()
    }  # fmt: skip


def thinking(completion: str) -> str:
    """The thinking (`rewards.read_completion`); where it cannot be read, all that precedes the answer."""
    text = read_completion(completion).thinking
    if text is None:
        text = completion.partition("<think>")[2] or completion
        for end in ("</think>", "<answer>"):
            text = text.partition(end)[0]
    return text


def _misplaced(thought: str, parts: Mapping[str, Optional[str]]) -> list[str]:
    """Parts that were read but stand inside another one or out of order."""
    starts = [(thought.find(f"<{part}>"), part) for part in FOUR_PARTS if parts[part] is not None]
    late = {f"misplaced_{b}" for (i, a), (j, b) in zip(starts, starts[1:]) if j < i}
    inside = {f"misplaced_{b}" for a in parts for b in parts if a != b and f"<{b}>" in (parts[a] or "")}
    return sorted(late | inside)


def _by_markers(thought: str) -> tuple[dict[str, Optional[str]], tuple[str, ...]]:
    """The four parts by the release's two marker lines; the last of each counts, since some traces repeat."""
    body, marker, tail = thought.rpartition(PREDICTION_MARKER)
    body, tail = (body, tail) if marker else (thought, "")
    analysis, marker, block = body.rpartition(CANDIDATE_MARKER)
    if not marker:  # 4 of the 404: nothing separates analysis and candidates
        analysis, block = body, ""
    lines, names, last = block.strip().splitlines(), [], 0
    for number, line in enumerate(lines):
        item = _LIST_ITEM.match(line)
        name = _bare_name(item.group(1)) if item else ""
        if item and (" vs" in name or normalise(name) in [normalise(known) for known in names]):
            break  # the comparison's own numbered list has begun
        if name and len(names) < MAX_CANDIDATES:
            names.append(name)
            last = number + 1
        elif line.strip() and names and not line.startswith("  "):
            break
    if not names and lines:  # one line of names after the marker
        names, last = list(split_names(lines[0])), 1
    parts = {
        "analysis": analysis.strip() or None,
        "options": "\n".join(lines[:last]).strip() or None,
        "comparison": "\n".join(lines[last:]).strip() or None,
        "prediction": _predicted(tail) or None,
    }
    return parts, tuple(names)


def _predicted(text: str) -> str:
    """The name after the prediction marker: alone, or in a sentence ("The bird is a Canada Warbler.").

    A heading may stand between them, ended by a colon (1 of 98).
    """
    lines = [line for line in text.strip().splitlines() if line.strip() and not line.rstrip().endswith(":")]
    sentence = _LATIN.sub("", lines[0] if lines else "").split(". ")[0]
    named = _NAMED.findall(sentence)
    return _bare_name(named[-1] if named else sentence)


def _bare_name(text: str) -> str:
    """A name without its Latin gloss, what is said of it after a colon or dash, and a final full stop."""
    return _uncommented(_LATIN.sub("", text))


def _uncommented(text: str) -> str:
    """A name without stars, what is said of it after a colon or dash, and a final full stop."""
    name = re.split(r":|\s[-–—]\s", text.replace("*", ""), maxsplit=1)[0]
    return name.strip().rstrip(".").strip()


def _has_heading(text: str, word: re.Pattern) -> bool:
    """Some line of at most eight words has the word and is no list item."""
    short = (line.strip() for line in text.splitlines() if len(line.split()) <= 8)
    return any(word.search(line) and not _LIST_ITEM.match(line) for line in short)
