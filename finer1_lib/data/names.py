"""Other names of the paper's 755 sub-categories, and which parts of a car's name an answer must contain.

>>> name_of("bird", "Yellow-rumped Warbler"), name_of("aircraft", "727-200"), name_of("dog", "Westie")
('Myrtle Warbler', 'Boeing 727-200', 'West Highland White Terrier')

`aliases.csv` has a row per alias with its kind. Hyphens, case, apostrophes and brackets are folded, and
spaces where a name has a number ("A 320"); a name beside one of its own is one thing ("C-47 (Skytrain)"). An
alias of two sub-categories is not in the table. A model can be right by a name that is missing here, so a
score with aliases is not a bound.
Of a car's label the release drops the last two words (eval/evaluation.py:245-246): trims are lost, half a
body remains. Here make, model and trim (`data_sets/cars_taxonomy.csv`) count, by letters and digits alone
("F150") and by everyday names (`car_names.csv`). Both tables were collected by hand from general use.
"""

import csv
import importlib.resources
import re
import unicodedata
from functools import cache, lru_cache
from typing import Iterator, Mapping, NamedTuple, Optional

from finer1_lib.core.completions import forms, normalise, says
from finer1_lib.data.data_sets.catalogue import DATA_SETS, official_names
from finer1_lib.data.taxonomy import genera

KINDS = ("spelling", "fuller or shorter", "synonym", "renamed", "botanical", "taken as", "year first")
ALSO = re.compile(  # between two names of one thing
    r"[,;]?\s?\b(?:(?:also|better|commonly|formerly|otherwise) (?:known as|called|named)|formerly|aka|a\.k\.a\.)\s",
    re.IGNORECASE)
_ARTICLE = re.compile("^(?:an?|the) ")
_BRACKET = re.compile(r"[()\[\]]")
_GLOSS = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_BINOMIAL = re.compile(r"(?!Not?\b|Or\b)[A-Z][a-z]+ (?!or\b)[a-z]{3,}(?: [a-z]{3,})?")


@cache
def alias_rows() -> tuple[dict[str, str], ...]:
    """The table's rows: data_set, sub_category, alias, kind."""
    return _csv("aliases.csv")


def _csv(name: str) -> tuple[dict[str, str], ...]:
    text = (importlib.resources.files(__package__) / name).read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


@cache
def _joined(data_set: str) -> Mapping[str, str]:
    """Names with a number, without their spaces -> the official name: "A 320", "Ford F150"."""
    known = names_by_spelling(data_set).items()
    return {said.replace(" ", ""): name for said, name in known if any(map(str.isdigit, said))}


@cache
def names_by_spelling(data_set: str) -> Mapping[str, str]:
    """Every normalised name and alias of a data set -> the official name; empty for any other data set."""
    if data_set not in DATA_SETS:
        return {}
    found = {normalise(name): name for name in official_names(data_set)}
    for row in alias_rows():
        if row["data_set"] == data_set:
            found[normalise(row["alias"])] = row["sub_category"]
    return found


def name_of(data_set: str, text: str) -> Optional[str]:
    """The official name that a text is, by itself, an alias or both; None if it is none, or two."""
    known = names_by_spelling(data_set) if len(text) < 400 else {}  # no two names are as long
    for said in forms(text) if known else ():
        folded = normalise(_BRACKET.sub(" ", said))
        # an article before a number too ("a 2012 Audi TTS Coupe"), where a name follows
        if found := known.get(normalise(said)) or known.get(folded) or known.get(_ARTICLE.sub("", folded)):
            return found
        if found := _joined(data_set).get(normalise(said).replace(" ", "")):
            return found
        first, *others = (piece.strip(" ,;") for piece in _BRACKET.split(ALSO.sub(" (", said)))
        found, others = known.get(normalise(first)), list(filter(None, others))
        if found and others and all(_is_too(data_set, found, other) for other in others):
            return found
    return None


def same_name(data_set: str, said: str, name: str) -> bool:
    """Whether two texts are one name: as they are, without what is in brackets, by aliases, or as one car
    (make and model decide, and the trim where both have one).
    """
    glosses = {name_of(data_set, gloss[1:-1]) for gloss in _GLOSS.findall(f"{said} {name}")} - {None}
    if says(said, name) or (says(without_gloss(said), without_gloss(name))
                            and glosses <= {name_of(data_set, without_gloss(name))}):  # fmt: skip
        return True
    one, other = name_of(data_set, said), name_of(data_set, name)
    return one == other if one and other else data_set == "car" and _one_car(said, name)


def without_gloss(text: str) -> str:
    """A text without what is in brackets, in time linear in the text."""
    return " ".join(_GLOSS.sub(" ", text).split())


@cache
def meanings(data_set: str) -> Mapping[str, frozenset[str]]:
    """Every normalised spelling -> the official names it may mean; a car's make and model mean several."""
    official = {said: frozenset({name}) for said, name in names_by_spelling(data_set).items()}
    return short_names() | official if data_set == "car" else official


def _is_too(data_set: str, name: str, said: str) -> bool:
    """Whether what is beside a name is the same thing: a name of it, or in the form of a species' name."""
    other = name_of(data_set, said)
    if other is None and data_set == "car":
        return _one_car(said, name) and adds_nothing(said, name)
    return other == name if other else bool(_BINOMIAL.fullmatch(said))


def _one_car(said: str, name: str) -> bool:
    one, other = cars_in(said).trims, cars_in(name).trims
    labels = [{label} if (label := name_of("car", text)) else labels_of(text) for text in (said, name)]
    return bool(labels[0] & labels[1]) and (one == other or not (one and other))


def covers(data_set: str, label: str) -> bool:
    """Whether a label is an official name, so that its other names are known (a drawn world's are not)."""
    return data_set in DATA_SETS and label in official_names(data_set)


def table_for(word: str, label: str) -> str:
    """The data set whose other names a label has: its super-category's word, "" where none is covered."""
    return word if covers(word, label) else ""


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
_BODIES = frozenset(  # beside the table's
    "cabriolet car crossover estate hardtop limousine pickup roadster saloon spider spyder truck".split())
_NO_MODEL = re.compile(r"v?\d+\Z")  # after another model
_YEAR = re.compile(r"(?:19|20)\d\d\Z")


class Part(NamedTuple):
    """What a spelling may mean."""

    make: str
    model: str = ""  # of the make
    trim: str = ""  # of the model
    whole: bool = False  # make and model in one


class Cars(NamedTuple):
    """What a text says of cars, as the table spells it."""

    makes: frozenset[str]
    models: frozenset[tuple[str, str]]  # (make, model)
    trims: frozenset[tuple[str, str, str]]  # (make, model, trim)
    rest: tuple[str, ...]  # words that are no part of a car's name, nor a body, a year or an article


def car_scores(answer: Optional[str], label: str) -> dict[str, float]:
    """Each reading of one answer (None for none), 1 where it says every part; {} for no car's label.

    Another make, model or trim of the table beside the right one scores 0, as a denial or a likeness does.
    """
    if (known := genera("car").get(label)) is None:
        return {}
    right, trim = label in labels_of(answer or ""), (known["genus"], known["model"], known.get("trim", ""))
    same = cars_in(answer or "").trims == ({trim} if trim[2] else set())
    return {"text_inclusion_make_model": float(right), "text_inclusion_make_model_trim": float(right and same)}


def cut_labels(label: str) -> list[str]:
    """A car's label without body and year, by each name of its make ("Chevy Corvette ZR1").

    Source: release eval/evaluation.py:245-246.
    """
    make, cut = genera("car")[label]["genus"], " ".join(label.split()[:-2])
    return [cut.replace(make, said, 1) for said in _makes()[make]]


def labels_of(text: str) -> frozenset[str]:
    """The labels of the one make and model that a text names; none for several, a denial, a likeness or a
    question. "Hybrid" leaves only labels that say so.
    """
    said = cars_in(text)
    one = len(said.models) == 1 and said.makes == {make for make, _ in said.models}
    # joiners and strokes, which no one sees
    hidden = any(unicodedata.category(sign) in ("Cf", "Mn", "Me") for sign in normalise(text))
    if not one or "?" in text or hidden or any(map(_DENIED.fullmatch, said.rest)):
        return frozenset()
    labels, hybrid = _labels()[next(iter(said.models))], _HYBRID.search(normalise(text))
    return frozenset(label for label in labels if "hybrid" in label.lower()) if hybrid else labels


@lru_cache(maxsize=4096)
def cars_in(text: str) -> Cars:
    """The makes, models and trims that a text names, the longest spelling first, in time linear in the text.

    A model belongs to the make before it, else to any make that is named; without a make it counts for every
    make that has it, unless it is short or a number ("V8", "300").
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
        if not whole and trim:
            trims.add(trim[:3])
        elif one := whole or own:
            make, model = one.make, one[:2]
            makes |= {make} if whole else set()
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


@cache
def _labels() -> Mapping[tuple[str, str], frozenset[str]]:
    """(make, model) -> its labels."""
    cars = genera("car").items()
    return {model: frozenset(label for label, one in cars if (one["genus"], one["model"]) == model)
            for model in _models()}


def _found(text: str) -> Iterator[tuple[str, Optional[tuple[Part, ...]]]]:
    """(spelling, its parts) along a text; (word, None) for what is no part of a car, body, year or article.
    """
    words = re.findall(r"[^\W_]+", normalise(text).replace("&", " and "))
    known, longest, bodies = *_spellings(), _bodies()
    at = 0
    while at < len(words):
        joined, best = "", 0
        for end in range(at, len(words)):
            joined += words[end]
            if len(joined) > longest:
                break
            if joined in known and (words[at] != "a" or end == at):  # "a 5" is no A5
                best, spelling = end + 1, joined
        if best:
            yield spelling, known[spelling]
        elif words[at] not in _ARTICLES and words[at] not in bodies and not _YEAR.match(words[at]):
            yield words[at], None
        at = best or at + 1


@cache
def _spellings() -> tuple[Mapping[str, tuple[Part, ...]], int]:
    """Squashed spelling -> what it may mean; and the length of the longest."""
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
    return tuple(row for row in _csv("car_names.csv") if row["part"] == part)


@cache
def _bodies() -> frozenset[str]:
    return _BODIES | {word for one in genera("car").values() for word in normalise(one.get("body", "")).split()}


def _squashed(text: str) -> str:
    return "".join(re.findall(r"[^\W_]+", normalise(text).replace("&", "and")))
