"""Other names of the paper's 755 sub-categories, and which parts of a car's name an answer must contain.

>>> name_of("bird", "Yellow-rumped Warbler"), name_of("aircraft", "727-200"), name_of("dog", "Westie")
('Myrtle Warbler', 'Boeing 727-200', 'West Highland White Terrier')

Hyphens, case, apostrophes and brackets are folded, and spaces where a name has a number. Aliases and everyday
names are collected by hand (`aliases.csv`, `car_names.csv`): a model can be right by a name that is missing,
so a score with aliases is no bound. Of a car's label the release drops the last two words
(eval/evaluation.py:245-246): trims are lost, half a body remains. Here make, model and trim count
(`data_sets/cars_taxonomy.csv`), by letters and digits alone.
"""

import csv
import re
import unicodedata
from collections import defaultdict
from functools import cache, lru_cache
from pathlib import Path
from typing import Iterator, Mapping, NamedTuple, Optional

from finer1_lib.core.completions import forms, normalise, says
from finer1_lib.data.data_sets.catalogue import DATA_SETS, official_names
from finer1_lib.data.taxonomy import genera

ALSO = re.compile(  # between two names of one thing
    r"[,;]?\s?\b(?:(?:also|better|commonly|formerly|otherwise) (?:known as|called|named)|formerly|aka|a\.k\.a\.)\s",
    re.IGNORECASE)
_ARTICLE = re.compile("^(?:an?|the) ")
_BRACKET = re.compile(r"[()\[\]]")
_GLOSS = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_BINOMIAL = re.compile(r"(?!Not?\b|Or\b)[A-Z][a-z]+ (?!or\b)[a-z]{3,}(?: [a-z]{3,})?")


@cache
def alias_rows(name: str = "aliases.csv") -> tuple[dict[str, str], ...]:
    """The table's rows: data_set, sub_category, alias, kind."""
    with Path(__file__).with_name(name).open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


@cache
def names_by_spelling(data_set: str) -> Mapping[str, str]:
    """Every normalised name and alias of a data set -> the official name; empty for any other data set."""
    if data_set not in DATA_SETS:
        return {}
    aliases = {normalise(row["alias"]): row["sub_category"] for row in alias_rows()
               if row["data_set"] == data_set}
    return {normalise(name): name for name in official_names(data_set)} | aliases


@cache
def _joined(data_set: str) -> Mapping[str, str]:
    """Names with a number, without their spaces -> the official name: "A 320", "Ford F150"."""
    known = names_by_spelling(data_set).items()
    return {said.replace(" ", ""): name for said, name in known if any(map(str.isdigit, said))}


def name_of(data_set: str, text: str) -> Optional[str]:
    """The official name that a text is, by itself, an alias or both; None if it is none, or two."""
    known = names_by_spelling(data_set) if len(text) < 400 else {}  # no two names are as long
    for said in forms(text) if known else ():
        plain, folded = normalise(said), normalise(_BRACKET.sub(" ", said))
        # an article before a number too ("a 2012 Audi TTS Coupe"), where a name follows
        if found := (known.get(plain) or known.get(folded) or known.get(_ARTICLE.sub("", folded))
                     or _joined(data_set).get(plain.replace(" ", ""))):
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
    bare = without_gloss(name)
    if says(said, name) or says(without_gloss(said), bare) and glosses <= {name_of(data_set, bare)}:
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
    return _table().short | official if data_set == "car" else official


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
    return [cut.replace(make, said, 1) for said in _table().makes[make]]


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
    labels, hybrid = _table().labels[next(iter(said.models))], _HYBRID.search(normalise(text))
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


def adds_nothing(said: str, label: str) -> bool:
    """Whether a text has no words but those of a car, and no body or year that a label has not."""
    words = set(normalise(said).split()) - set(normalise(label).split())
    return not cars_in(said).rest and not any(word in _table().bodies or _YEAR.match(word) for word in words)


def _found(text: str) -> Iterator[tuple[str, Optional[tuple[Part, ...]]]]:
    """(spelling, its parts) along a text; (word, None) for what is no part of a car, body, year or article.
    """
    words = re.findall(r"[^\W_]+", normalise(text).replace("&", " and "))
    table, at = _table(), 0
    while at < len(words):
        joined, best = "", 0
        for end in range(at, len(words)):
            joined += words[end]
            if len(joined) > table.longest:
                break
            if joined in table.spellings and (words[at] != "a" or end == at):  # "a 5" is no A5
                best, spelling = end + 1, joined
        if best:
            yield spelling, table.spellings[spelling]
        elif words[at] not in _ARTICLES and words[at] not in table.bodies and not _YEAR.match(words[at]):
            yield words[at], None
        at = best or at + 1


class _Table(NamedTuple):
    """The cars' names, a model as (make, model)."""

    makes: Mapping[str, list[str]]  # make -> all its spellings, its own first
    labels: Mapping[tuple[str, str], frozenset[str]]  # model -> its labels
    short: Mapping[str, frozenset[str]]  # every spelling of a make with a model, normalised -> its labels
    spellings: Mapping[str, tuple[Part, ...]]  # squashed spelling -> what it may mean
    longest: int  # spelling
    bodies: frozenset[str]


@cache
def _table() -> _Table:
    cars = [(label, one, (one["genus"], one["model"])) for label, one in genera("car").items()]
    everyday: dict[str, list[tuple[Part, str]]] = defaultdict(list)
    for row in alias_rows("car_names.csv"):
        everyday[row["part"]].append((Part(row["make"], row["model"], row["trim"]), row["said"]))
    makes = {make: [make, *(said for part, said in everyday["make"] if part.make == make)]
             for _, _, (make, _) in cars}
    models = {model: [model[1], *(said for part, said in everyday["model"] if part[:2] == model),
                      re.sub("[- ]", "", model[1])] for _, _, model in cars}
    pairs = [(Part(*model, whole=True), f"{make} {said}")
             for model, names in models.items() for make in makes[model[0]] for said in names]
    pairs += [(part._replace(whole=True), said) for part, said in everyday["car"]]
    trims = [(Part(*model, one["trim"]), one["trim"]) for _, one, model in cars if "trim" in one]
    trims += everyday["trim"]
    parts = [(Part(make), said) for make, names in makes.items() for said in names]
    parts += [(Part(*model), said) for model, names in models.items() for said in names] + pairs
    parts += [(Part(*model, whole=True), label) for label, _, model in cars]
    parts += [(Part(*model, one["trim"]), label) for label, one, model in cars if "trim" in one]
    for part, said in trims:
        together = [(part, model + said) for model in models[part[:2]]]  # "TTRS"
        parts += [(part, said), *together, *((part._replace(trim=""), model) for _, model in together)]
    spellings: dict[str, dict[Part, None]] = defaultdict(dict)  # a set that keeps its order
    for part, said in parts:
        spellings[_squashed(said)][part] = None
    for part, said in trims:
        for make in makes[part.make]:
            if (both := _squashed(make + said)) in spellings:  # the trim alone says the model: "Jaguar XKR"
                spellings[both][part] = None
    labels = {model: frozenset(label for label, _, other in cars if other == model) for model in models}
    short = {said: labels[part[:2]] for part, pair in pairs for pair in [normalise(pair)]
             for said in (pair, pair.replace(" and ", " & "))}
    bodies = (normalise(one.get("body", "")).split() for _, one, _ in cars)
    return _Table(makes, labels, short, {said: tuple(found) for said, found in spellings.items()},
                  max(map(len, spellings)), _BODIES.union(*bodies))


def _squashed(text: str) -> str:
    return "".join(re.findall(r"[^\W_]+", normalise(text).replace("&", "and")))
