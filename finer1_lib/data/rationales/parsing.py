"""A completion split into its parts: visual analysis, candidates, comparison, prediction, and the answer.

Two layouts are read. The kit's has tags, `<think><analysis>..</analysis><options>A, B</options><comparison>..
</comparison><prediction>A</prediction></think><answer>A</answer>` (Fine-R1, arXiv 2602.07605, Table 5). The
release's 404 rationales (LLaMA-Factory/data/Fine-R1-Stage1-data.json) have two marker lines in place of tags.
What cannot be read is named in `Trace.problems`, counted, and never dropped.

>>> parse("<think>hm</think><answer>Dunen Wren</answer>").answer
'Dunen Wren'
"""

import re
from collections import Counter
from dataclasses import dataclass
from itertools import takewhile
from typing import Container, Iterable, Mapping, Optional

from finer1_lib.core.completions import WELL_FORMED, forms, normalise, read_completion, read_tag
from finer1_lib.core.prompts import FOUR_PARTS
from finer1_lib.data.answers import known_names
from finer1_lib.data.names import meanings, same_name, without_gloss

CANDIDATE_MARKER = "The analysis of candidate subcategories:"
PREDICTION_MARKER = "The prediction is:"
MAX_CANDIDATES = 4  # Fine-R1 (arXiv 2602.07605), Table 5: at most four
_LIST_ITEM = re.compile(r"^\s?(?:#{1,6}\s)?([-*•]|\d{1,2}[.)]|[A-F][.)])\s+(\S.*)$")
_COMPARING = re.compile(r"\bcompar", re.IGNORECASE)
_CONCLUDING = re.compile(r"\bfinal (?:prediction|answer)|^(?:prediction|conclusion)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<!\bConv)(?<!\bSt)[.!?](?=\s|$)")
# "Final Prediction: ..", "Candidate 1: .."
_HEADING = re.compile(
    r"^\W*(?:(?:the|my) )?(?:final |predicted )?(?:prediction|answer|conclusion|identification|result|candidate"
    r"|option|(?:sub-?)?categor(?:y|ies))s?\b(?:[^:.]{0,20}:|\s[-–—])(?=\s)\s*"
    r"|^\W*(?:\w+ )?(?:type|species|breed|name|variant|variety):\s+", re.IGNORECASE)
_PROSE = re.compile(  # what no name has
    r"[,;]|[!?] |(?<!\b\w)(?<!\b(?:st|mt|no|dr|mr|sp|cv|cf|jr|sr|ft))(?<!\b(?:mrs|ssp|var|aff))(?<!\bconv)(?<!\bsubsp)\. "
    r"|\b(?:is|are|was|were|does|cannot|since|because)\b"
    r"|^(?:super|candidate|possible|potential) (?:sub ?)?categor\w+$")
_LONG_PROSE = re.compile(  # nor any of more than three words
    r"\b(?:has|have|had|be|which|that|this|these|its?|known|based|given|following|features?|includ\w+|belongs?|appears?"
    r"|suggests?|here|could|would|such|than|vs|candidates?|(?:sub|super) ?categor\w+)\b")
_AND = re.compile(r"\s(?:and|or|&)\s")
_JOIN = re.compile(r"^\s*(?:and|or)\s+")
_LEAD_IN = re.compile(  # "The candidates are House Wren", "One of the following: House Wren"
    r"^(?:.*\b(?:candidates?|options?|(?:sub-?)?categor\w+)\b.*\b(?:are|is|be|includ\w+)\s|.*:\s+)", re.IGNORECASE)
MAX_WORDS = 10  # of a name
LONGEST_LEAD = 300  # signs of what may lead in a list
_SURELY = r"\s(?:(?:most|very|quite|more|best|thus|therefore|almost|indeed|[a-z]+ly)\s){0,4}"
_ARTICLE = r"(?P<article>(?:an?|the)\s)?(?=(?P<name>\S))"
_IS = re.compile(
    rf"(?P<cue>\b(?:is|are|was|be|being|likely|probably|called|named|(?:it|that|this)['’]s|\w+(?:ed|wn) as|(?<!,)\sas)"
    rf"{_SURELY}){_ARTICLE}")
_FITS = re.compile(
    rf"(?P<cue>\b(?:th(?:at|ose) of|predict|match\w*|resembl\w+|(?:consistent|compatible|aligns?|agrees?) with|(?:belongs?|points?"
    rf"|corresponds?) to|suggests?|indicates?|fits|shows?|depicts?|looks? like|identif(?:y|ies)|but){_SURELY}){_ARTICLE}")
_GENERIC = re.compile(  # what "NAME is ..." may say of a name
    r"(?:my |our )?(?:(?:best|closest|final|correct|most [a-z]+|likely|only) )*"
    r"(?:match|candidate|fit|answer|prediction|choice|option|identification|one)\b")
_DENIED = re.compile(r"(?:\b(?:not|never|cannot)|n['’]t)\s*$")
_END = re.compile(  # of the clause that holds a name
    r"[,;:]|\s[-–—]\s|\s(?:because|due|based|given|since|which|that|who|whose|where|with|from|rather|although|though"
    r"|but|while|as|owing|thanks|considering|when|instead|seen|shown|pictured|depicted|has|have|is|are|known|not|over"
    r"|characteri[sz]ed|distinguished|evidenced|according|making|by|for|species|breed|(?:sub-?)?category|aircraft|in (?:the|this)"
    r" (?:image|picture|photo\w*|family|genus|question|scene)|and (?:not|is|has|it))(?!\w)")


@dataclass(frozen=True)
class Trace:
    """What was read from one completion; a part that is missing or broken is None (candidates: empty)."""

    layout: str  # "tags", "markers" (the release's) or "none"
    analysis: Optional[str]
    options: Optional[str]
    comparison: Optional[str]
    prediction: Optional[str]
    candidates: tuple[str, ...]  # names in the order written
    answer: Optional[str]  # the one well-formed answer
    # `<what>_<part>` with what in missing, empty, unclosed, repeated, nested, misplaced
    problems: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """All four parts and the answer were read."""
        return not self.problems


def parse(completion: str, known: Iterable[str] = ()) -> Trace:
    """Parse one completion; any string is accepted and nothing is raised. `known` are names and their other
    spellings (`names.meanings`), searched first in a prediction that is a sentence.
    """
    *_, answer, problem = read_completion(completion)
    problems = [] if problem == WELL_FORMED else [f"{problem}_answer"]
    thought = thinking(completion)
    parts: dict[str, Optional[str]] = dict.fromkeys(FOUR_PARTS)
    layout, candidates, known = "none", (), frozenset(map(normalise, known))
    if any(f"<{part}>" in completion for part in FOUR_PARTS):
        layout = "tags"
        for part in FOUR_PARTS:
            parts[part], problem = read_tag(thought, part)
            problems += [] if problem == WELL_FORMED else [f"{problem}_{part}"]
        problems += _misplaced(thought, parts)
        candidates = split_names(parts["options"] or "", known)
    else:
        if CANDIDATE_MARKER in thought or PREDICTION_MARKER in thought:
            layout, (parts, candidates) = "markers", _by_markers(thought, known)
        problems += [f"missing_{part}" for part in FOUR_PARTS if not parts[part]]
    return Trace(layout, **parts, candidates=tuple(candidates), answer=answer, problems=tuple(problems))


def release_layout(completion: str) -> str:
    """How a rationale of the release is laid out (three layouts in its 404 texts): "single": the markers, no
    heading for the comparison; "headings": one as well; "double": a whole chain up to its final prediction,
    then a short repeat with the markers; "none": no candidates' marker.
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
    names = [_uncommented(item.group(2)) for item in items if _is_name(_bare_name(item.group(2)))]
    return tuple(names[:MAX_CANDIDATES]) or trace.candidates


def split_names(text: str, known: Container[str] = ()) -> tuple[str, ...]:
    """Names of a candidate list: one per bulleted or numbered line, or separated by commas or semicolons.

    Sentences are not names; a lead-in of the first name is left out ("These are Rock Wren, .."). The last two
    of a line may be joined by "and" if both are in `known` (normalised names).
    """
    items = [item for item in map(_LIST_ITEM.match, text.splitlines()) if item]
    pieces = [item.group(2) for item in items]
    if not items or len(items) == 1 and items[0].group(1)[0].isalpha():  # "E. coli" alone is no list
        pieces = [piece for line in text.splitlines() for piece in _listed(line, known)]
    pieces = [_JOIN.sub("", piece) for piece in pieces]
    names = [_bare_name(piece if len(piece) > LONGEST_LEAD or _is_name(_bare_name(piece))
                        else _LEAD_IN.sub("", piece)) for piece in pieces]
    return tuple(filter(_is_name, names))


def _listed(line: str, known: Container[str]) -> list[str]:
    """The pieces of one line; only known names are taken apart at "and", which many a name has itself."""
    *pieces, last = re.split("[,;]", without_gloss(line))  # a comma in brackets parts no names
    joined = _AND.split(last)
    return [*pieces, *(joined if all(normalise(_bare_name(name)) in known for name in joined) else [last])]


def predicts(trace: Trace, name: str, data_set: str = "") -> bool:
    """Whether a trace's prediction, bare or in a sentence, is a name (`names.same_name`)."""
    said = trace.prediction or ""
    return same_name(data_set, said, name) or same_name(data_set, named_in(said, meanings(data_set)), name)


def count_problems(traces: Iterable[Trace]) -> dict[str, int]:
    """How often each problem occurs, with "complete" and "total"."""
    traces = list(traces)
    counts = {"total": len(traces), "complete": sum(trace.complete for trace in traces)}
    return counts | Counter(problem for trace in traces for problem in trace.problems)


def attribute_claims(analysis: Optional[str], attributes: Iterable[str]) -> dict[str, list[str]]:
    """attribute -> normalised values claimed, in order, by every "<value> <part>" ("needle bill") of an
    analysis; attributes (the guide's part words) without a claim are absent.
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
    """An analysis compared with the guide: attribute -> "right", "wrong" (also two values) or "missing"."""
    truth = guide["sub_categories"][sub_category]["attributes"]
    claims = attribute_claims(analysis, truth)
    return {attribute: "missing" if attribute not in claims else
            "right" if set(claims[attribute]) == {normalise(value)} else "wrong"
            for attribute, value in truth.items()}


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


def _by_markers(thought: str, known: frozenset[str]) -> tuple[dict[str, Optional[str]], tuple[str, ...]]:
    """The four parts by the release's two marker lines; the last of each counts, since some traces repeat."""
    body, marker, tail = thought.rpartition(PREDICTION_MARKER)
    body, tail = (body, tail) if marker else (thought, "")
    analysis, marker, block = body.rpartition(CANDIDATE_MARKER)
    analysis, block = (analysis, block) if marker else (body, "")  # 4 of the 404 have nothing between the two
    lines, names, last, numbered = block.strip().splitlines(), [], 0, None
    for number, line in enumerate(lines):
        item = _LIST_ITEM.match(line)
        name = _bare_name(item.group(2)) if item else ""
        if item and (" vs" in name or normalise(name) in map(normalise, names)):
            break  # the comparison's own numbered list has begun
        kind = item.group(1)[0].isdigit() if item else None
        if item and (not _is_name(name) or numbered not in (None, kind)):
            continue  # a sentence, or what is said below a name
        if name and len(names) < MAX_CANDIDATES:
            names.append(name)
            last, numbered = number + 1, kind
        elif line.strip() and names and not line.startswith("  "):
            break
    for number, line in enumerate(takewhile(str.strip, lines if not names else ())):
        found = split_names(line, known)  # one line of names after the marker, or one a line; a sentence is none
        if found and len(found) == sum(map(bool, map(str.strip, _listed(line, known)))):
            names, last = names + list(found), number + 1
        if names and (len(found) != 1 or len(names) >= MAX_CANDIDATES):
            break
    read = (analysis, "\n".join(lines[:last]), "\n".join(lines[last:]), named_in(tail, known))
    return {part: text.strip() or None for part, text in zip(FOUR_PARTS, read)}, tuple(names)


def named_in(text: str, known: Iterable[str] = ()) -> str:
    """The name that a conclusion states: alone, or in a sentence ("It is most likely a Boeing 737-400.").

    Known names (any spelling) are searched first; without any, the name is what follows "is a", "as the" and
    the like to the end of its clause. Linear in the text.
    """
    lines = [item.group(2) if (item := _LIST_ITEM.match(line)) else line for line in text.splitlines()]
    lines = [_HEADING.sub("", line, count=1) for line in lines if not line.rstrip().endswith(":")]
    lines = [without_gloss(line) for line in lines if _HEADING.sub("", f"{line}: ", count=1)]
    names, article = known_names(frozenset(known)), ""
    for line in lines:
        for place, sentence in enumerate(_SENTENCE_END.split(line)):
            stated = _clause(sentence.strip(), bare=place == 0)
            for where in (stated, sentence) if known else ():
                if found := names.mentioned(where):
                    return _as_written(found[0] if where == stated else found[-1], where)
            if _is_name(stated) and not stated[0].islower():
                return stated
            article = article or stated
    first = lines[0] if lines else ""
    return article or _clause(first, bare=True, loose=True) or _bare_name(first)


def _clause(sentence: str, bare: bool, loose: bool = False) -> str:
    """The name in one sentence, "" for none. `bare`: the sentence may be the name itself; `loose`: a name may
    follow without a capital, a number or an article ("is hibiscus").
    """
    cues = [[cue for cue in form.finditer(sentence)
             if not _DENIED.search(sentence, max(0, cue.start() - 12), cue.start())]
            for form in (_IS, _FITS)]
    if not any(cues) and bare and _is_name(_bare_name(sentence)):
        return forms(_bare_name(sentence))[-1]
    capital = [[cue for cue in form if not cue["name"].islower()] for form in cues]
    every = sorted(sum(cues, []), key=re.Match.start)
    for form in (*capital, [cue for cue in every if cue["article"]], every if loose else []):
        if form:
            rest = sentence[form[-1].start("name"):]
            if _GENERIC.match(rest):  # "the Il-76 is the best match"
                return forms(_bare_name(re.split("[,;]", sentence[: form[-1].start()])[-1]))[-1]
            return _bare_name(rest[: end.start()] if (end := _END.search(rest)) else rest)
    return ""


def _as_written(name: str, text: str) -> str:
    """A normalised name as a text spells it."""
    found = re.search(r"\b" + r"[\W_]+".join(map(re.escape, name.split())) + r"\b", text, re.IGNORECASE)
    return found.group() if found else name


def _is_name(text: str) -> bool:
    """Whether a text may be a name: no sentence, and no piece of one."""
    words, said = len(text.split()), normalise(text)
    return 0 < words <= MAX_WORDS and not _PROSE.search(said) and not (words > 3 and _LONG_PROSE.search(said))


def _bare_name(text: str) -> str:
    """A name without its Latin gloss, what is said of it after a colon or dash, and a final full stop."""
    return _uncommented(without_gloss(text))


def _uncommented(text: str) -> str:
    """A name without a heading, stars, what is said of it after a colon or dash, and a final full stop."""
    name = re.split(r":|\s[-–—]\s", _HEADING.sub("", text.replace("*", ""), count=1), maxsplit=1)[0]
    return forms(name.strip())[2].strip()


def _has_heading(text: str, word: re.Pattern) -> bool:
    """Some line of at most eight words has the word and is no list item."""
    short = (line.strip() for line in text.splitlines() if len(line.split()) <= 8)
    return any(word.search(line) and not _LIST_ITEM.match(line) for line in short)
