"""What of a car's name an answer must say: the release's rule, and the parts by name.

    Chevrolet Corvette ZR1 2012     official: "chevrolet corvette" (its last two words are dropped)
                                    make_model: Chevrolet, Corvette     make_model_trim: ZR1 as well

The official labels are make, model, often a trim, mostly a body, and a year, which nobody says of a picture. The
release drops two words from every label; so trims vanish (ZR1), and where the body has two words a fragment
of it stays ("Extended"). By the table only the named parts count, wherever they stand in the answer.

Parts are found by their letters and digits alone, so "F150", "F-150" and "F 150" are one, and by everyday names
too ("Chevy", "Vette": `car_names.csv`). What several cars have is read by what stands before it: GT is Ford's
model, but a Continental's trim.

Source: release eval/evaluation.py; the parts are those of `data_sets/cars_taxonomy.csv`; everyday names are
collected by hand, which of them is our choice.
"""

import csv
import importlib.resources
import re
import unicodedata
from functools import cache, lru_cache
from typing import Iterable, Iterator, Mapping, NamedTuple, Optional, Sequence

from finer1_lib.rewards import normalise
from finer1_lib.taxonomy import genera

READINGS: Mapping[str, tuple[str, ...]] = {
    "make_model": ("genus", "model"), "make_model_trim": ("genus", "model", "trim"),
}  # fmt: skip
_DENIED = re.compile(  # or likened, or one of two, or no car at all
    r"not|n?or|no|non|un|neither|never|cannot|without|hardly|anything|instead|except|exclude[sd]?|ruled?|rules"
    r"|den(?:y|ies|ied)|lacks?|fails?|wrong|incorrect|mistake|opposite|doubt\w*|unlike(?:ly)?|like|alike|lookalikes?"
    r"|similar|akin|resembl\w+|reminds?|reminiscent|mix|cross|than|versus|vs|either|maybe|perhaps|possibly|probably"
    r"|guess|unsure|may|might|could|kind|sort|replica|clone|copy|fake|false|faux|pseudo|anti|imitation|knockoff|toy"
    r"|wannabe|rivals?|cousins?|relatives?|related|successor|predecessor|half|derived|killer|impostor|ersatz|mixed"
    r"|miniature|kit|concept|prototype"
    r"|(?:is|are|was|were|ai|ca|wo|does|do|did|could|would|should|has|have|must)nt")
_HYBRID = re.compile(r"\bhybrids?\b")
_ARTICLES = frozenset({"a", "an", "the"})
_BODIES = frozenset({  # beside the table's
    "cabriolet", "car", "crossover", "estate", "hardtop", "limousine", "pickup", "roadster", "saloon", "spider",
    "spyder", "truck",
})  # fmt: skip
_NO_MODEL = re.compile(r"v?\d+\Z")  # after another model
_YEAR = re.compile(r"(?:19|20)\d\d\Z")


class Part(NamedTuple):
    """What a spelling may say: a make, a model of it, or a trim of that; `whole` says make and model in one."""

    make: str
    model: str = ""
    trim: str = ""
    whole: bool = False


class Cars(NamedTuple):
    """What a text says of cars, as the table spells it.

    Attributes:
        makes, models, trims: all that are named; models as (make, model), trims as (make, model, trim).
        rest: words that are no part of a car's name, nor a body, a year or an article.
    """

    makes: frozenset[str]
    models: frozenset[tuple[str, str]]
    trims: frozenset[tuple[str, str, str]]
    rest: tuple[str, ...]


def official_needle(label: str) -> str:
    """What the release looks for of a car's label."""
    return " ".join(label.lower().split()[:-2])


def parts_of(label: str, reading: str) -> Optional[tuple[str, ...]]:
    """The parts that a reading asks for, normalised; None for a label that is not one of the 196."""
    known = genera("car").get(label)
    return known and tuple(normalise(known[part]) for part in READINGS[reading] if part in known)


def car_scores(answer: Optional[str], label: str) -> dict[str, float]:
    """Each reading of one answer, 1 where it says every part; {} for another label.

    Another make or model of the table beside the right one, or (for the trim) another trim of that model, makes
    it several answers or another car: 0. So does a denial ("isn't a ...") or a likeness ("similar to a ...").

    Args:
        answer: the one answer, None for none.
        label: of the car.
    """
    known = genera("car").get(label)
    if known is None:
        return {}
    right, trim = label in labels_of(answer or ""), (known["genus"], known["model"], known.get("trim", ""))
    same = cars_in(answer or "").trims == ({trim} if trim[2] else set())
    return {"text_inclusion_make_model": float(right), "text_inclusion_make_model_trim": float(right and same)}


def cut_labels(label: str) -> list[str]:
    """A label of the 196 without body and year, by each name of its make ("Chevy Corvette ZR1").

    Source: the cut: release, eval/evaluation.py (open world).
    """
    make, cut = genera("car")[label]["genus"], " ".join(label.split()[:-2])
    return [cut.replace(make, said, 1) for said in _makes()[make]]


def labels_of(text: str) -> frozenset[str]:
    """The labels of the one make and model that a text names; none for several, a denial, a likeness, a question.

    A hybrid is another car than one whose label does not say so.
    """
    said = cars_in(text)
    one = len(said.models) == 1 and said.makes == {make for make, _ in said.models}
    if not one or "?" in text or _hidden(text) or any(map(_DENIED.fullmatch, said.rest)):
        return frozenset()
    labels, hybrid = _labels()[next(iter(said.models))], _HYBRID.search(normalise(text))
    return frozenset(label for label in labels if "hybrid" in label.lower()) if hybrid else labels


@lru_cache(maxsize=4096)
def cars_in(text: str) -> Cars:
    """The makes, models and trims that a text names, the longest spelling first, in time linear in the text.

    A model belongs to the make before it, else to any make that is named; one without a make counts for every
    make that has it, unless it is short or a number ("V8", "300"), which may be anything.
    """
    makes, models, trims, rest, open_parts = set(), set(), set(), [], []
    make = model = None
    for spelling, parts in _found(text):
        if parts is None:
            rest.append(spelling)
            continue
        whole = next((part for part in parts if part.whole), None)
        trim = next((part for part in parts if part.trim and part[:2] == model), None)
        own = next((part for part in parts if part.model and not part.trim and part.make == make), None)
        if own and model and (_NO_MODEL.match(spelling) or any(part.trim for part in parts)):
            # "Mustang GT", "A5 with a V8": no second model
            parts, own = tuple(part for part in parts if part.trim), None
        if whole:
            make, model = whole.make, whole[:2]
            makes.add(make)
            models.add(model)
            trims |= {part[:3] for part in parts if part.trim and part[:2] == model}
        elif trim:
            trims.add(trim[:3])
        elif own:
            model = own[:2]
            models.add(model)
            trims |= {part[:3] for part in parts if part.trim and part[:2] == model}
        elif any(not part.model for part in parts):
            make, model = next(part.make for part in parts if not part.model), None
            makes.add(make)
        else:
            open_parts.append((spelling, parts))
    for spelling, parts in open_parts:  # the make stands after the model, or nowhere
        here = {part[:2] for part in parts if not part.trim and part.make in makes}
        if not here and len(spelling) > 2 and not spelling.isdigit():
            here = {part[:2] for part in parts if not part.trim}
        models |= here
    for _, parts in open_parts:
        trims |= {part[:3] for part in parts if part.trim and part[:2] in models}
    # "smart" is a word too: such a make counts with a model of its own alone
    makes -= {make for make in makes if make.islower() and not any(model[0] == make for model in models)}
    return Cars(frozenset(makes), frozenset(models), frozenset(trims), tuple(rest))


def not_told_apart(labels: Iterable[str], reading: str) -> Sequence[tuple[str, ...]]:
    """Groups of labels that a reading ("official", or one of `READINGS`) cannot tell apart."""
    groups: dict[object, list[str]] = {}
    for label in labels:
        key = official_needle(label) if reading == "official" else parts_of(label, reading)
        groups.setdefault(key, []).append(label)
    return [tuple(group) for group in groups.values() if len(group) > 1]


@cache
def short_names() -> Mapping[str, frozenset[str]]:
    """Every spelling of a make with a model, normalised -> the labels of that model."""
    found: dict[str, frozenset[str]] = {}
    for (make, model), said in _models().items():
        pairs = [f"{one} {other}" for one in _makes()[make] for other in said]
        pairs += [row["said"] for row in _everyday("car") if (row["make"], row["model"]) == (make, model)]
        for pair in map(normalise, pairs):
            for spelling in (pair, pair.replace(" and ", " & ")):
                found[spelling] = _labels()[make, model]
    return found


def adds_nothing(said: str, label: str) -> bool:
    """Whether a text has no words but those of a car, and no body or year that a label has not."""
    words = set(normalise(said).split()) - set(normalise(label).split())
    return not cars_in(said).rest and not any(word in _bodies() or _YEAR.match(word) for word in words)


def _hidden(text: str) -> bool:
    """Whether signs stand in a text that nobody sees or that belong to no letter: joiners, strokes."""
    return any(unicodedata.category(sign) in ("Cf", "Mn", "Me") for sign in normalise(text))


@cache
def _labels() -> Mapping[tuple[str, str], frozenset[str]]:
    found: dict[tuple[str, str], frozenset[str]] = {}
    for label, one in genera("car").items():
        model = one["genus"], one["model"]
        found[model] = found.get(model, frozenset()) | {label}
    return found


def _found(text: str) -> Iterator[tuple[str, Optional[tuple[Part, ...]]]]:
    """(spelling, its parts) along a text; (word, None) for what is no part of a car, body, year or article."""
    words = re.findall(r"[^\W_]+", normalise(text).replace("&", " and "))
    known, longest, bodies = *_spellings(), _bodies()
    at = 0
    while at < len(words):
        joined, best = "", 0
        for end in range(at, len(words)):
            joined += words[end]
            if len(joined) > longest:
                break
            if joined in known and not (words[at] == "a" and end > at):  # "a 5" is no A5
                best, spelling = end + 1, joined
        if best:
            yield spelling, known[spelling]
        elif words[at] not in _ARTICLES and words[at] not in bodies and not _YEAR.match(words[at]):
            yield words[at], None
        at = best or at + 1


@cache
def _spellings() -> tuple[Mapping[str, tuple[Part, ...]], int]:
    """Squashed spelling -> what it may say; and the length of the longest."""
    found: dict[str, dict[Part, None]] = {}
    trims: list[tuple[Part, str]] = []

    def add(part: Part, *pieces: str) -> None:
        found.setdefault(_squashed("".join(pieces)), {})[part] = None

    for make, spellings in _makes().items():
        for said in spellings:
            add(Part(make), said)
    for (make, model), spellings in _models().items():
        for said in spellings:
            add(Part(make, model), said)
            for maker in _makes()[make]:
                add(Part(make, model, whole=True), maker, said)
    for label, one in genera("car").items():
        add(Part(one["genus"], one["model"], whole=True), label)
        if "trim" in one:
            add(Part(one["genus"], one["model"], one["trim"]), label)
            trims.append((Part(one["genus"], one["model"], one["trim"]), one["trim"]))
    for row in _everyday("car"):
        add(Part(row["make"], row["model"], whole=True), row["said"])
    trims += [(Part(row["make"], row["model"], row["trim"]), row["said"]) for row in _everyday("trim")]
    for part, said in trims:
        add(part, said)
        for model in _models()[part[:2]]:  # "TTRS"
            add(Part(*part[:2]), model, said)
            add(part, model, said)
        for maker in _makes()[part.make]:
            if _squashed(maker + said) in found:  # the trim alone says the model: "Jaguar XKR"
                add(part, maker, said)
    return {spelling: tuple(parts) for spelling, parts in found.items()}, max(map(len, found))


@cache
def _makes() -> Mapping[str, tuple[str, ...]]:
    """Make -> all its spellings, its own first."""
    makes = dict.fromkeys(one["genus"] for one in genera("car").values())
    return {make: (make, *(row["said"] for row in _everyday("make") if row["make"] == make)) for make in makes}


@cache
def _models() -> Mapping[tuple[str, str], tuple[str, ...]]:
    """(make, model) -> all spellings of the model, its own first."""
    models = dict.fromkeys((one["genus"], one["model"]) for one in genera("car").values())
    more = [((row["make"], row["model"]), row["said"]) for row in _everyday("model")]
    return {model: (model[1], *dict.fromkeys([said for own, said in more if own == model]
                                             + [model[1].replace("-", "").replace(" ", "")]))
            for model in models}  # fmt: skip


@cache
def _everyday(part: str) -> tuple[dict[str, str], ...]:
    text = (importlib.resources.files(__package__) / "car_names.csv").read_text(encoding="utf-8")
    return tuple(row for row in csv.DictReader(text.splitlines()) if row["part"] == part)


@cache
def _bodies() -> frozenset[str]:
    return _BODIES | {word for one in genera("car").values() for word in normalise(one.get("body", "")).split()}


def _squashed(text: str) -> str:
    return "".join(re.findall(r"[^\W_]+", normalise(text).replace("&", "and")))
