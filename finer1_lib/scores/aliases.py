"""Other names of the paper's 755 sub-categories: what else a right answer may be called.

    >>> name_of("bird", "Yellow-rumped Warbler"), name_of("aircraft", "727-200"), name_of("dog", "Westie")
    ('Myrtle Warbler', 'Boeing 727-200', 'West Highland White Terrier')

`aliases.csv` has a row an alias, with its kind:

    spelling           the same name, written otherwise: Arctic Tern, Brewer's Blackbird, CRJ200
    fuller or shorter  with or without a word: 727-200, Cairn Terrier, Antonov An-12
    synonym            another common name: Sheltie, Sand Martin
    renamed            what a species was called before or is called now: Florida Scrub-Jay
    botanical          a plant's scientific name, the genus where the set has one of it: Gazania rigens
    taken as           what the pictures of a vaguely named sub-category show: Greater Roadrunner
    year first         2012 Audi TTS Coupe

Hyphens, case, apostrophes and brackets are folded before names are compared, and spaces where a name has a
number, so "Red-winged Blackbird" and "A 320" need no row, and a name beside one of its own is one thing: "C-47 (Skytrain)", "Basset, also known as Basset Hound". An
alias that is another sub-category of its data set, or an alias of two, is not in the table; a model can be
right by another name that is missing here, so a score with aliases is neither
a lower nor an upper bound where a row takes a genus for its one species.

Source: collected by hand from what is in general use (checklists of birds, breed registers and WordNet's
synonyms for the dogs, makers' names), no list copied. Which names are near enough is our choice.
"""

import csv
import importlib.resources
import re
from functools import cache
from typing import Mapping, Optional

from finer1_lib.data_sets.catalogue import DATA_SETS
from finer1_lib.data_sets.names import official_names
from finer1_lib.rewards import forms, normalise, says
from finer1_lib.scores.cars import adds_nothing, cars_in, labels_of, short_names

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
    text = (importlib.resources.files(__package__) / "aliases.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


@cache
def _joined(data_set: str) -> Mapping[str, str]:
    """Names with a number, without their spaces -> the official name: "A 320", "Ford F150 Regular Cab 2012"."""
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
    """Whether two texts are one name: as they stand, but for what is in brackets, by aliases, or as one car.

    Of a car make and model decide, and the trim where both say one.
    """
    glosses = {name_of(data_set, gloss[1:-1]) for gloss in _GLOSS.findall(f"{said} {name}")} - {None}
    if says(said, name) or (says(without_gloss(said), without_gloss(name))
                            and glosses <= {name_of(data_set, without_gloss(name))}):  # fmt: skip
        return True
    one, other = name_of(data_set, said), name_of(data_set, name)
    return one == other if one and other else data_set == "car" and _one_car(said, name)


def without_gloss(text: str) -> str:
    """A text without what stands in brackets, in time linear in the text."""
    return " ".join(_GLOSS.sub(" ", text).split())


@cache
def meanings(data_set: str) -> Mapping[str, frozenset[str]]:
    """Every normalised spelling -> the official names it may stand for; a car's make and model stand for several."""
    return {**(short_names() if data_set == "car" else {}),
            **{said: frozenset({name}) for said, name in names_by_spelling(data_set).items()}}  # fmt: skip


def _is_too(data_set: str, name: str, said: str) -> bool:
    """Whether what stands beside a name is the same thing: a name of it, or in the form of a species' name."""
    other = name_of(data_set, said)
    if other is None and data_set == "car":
        return _one_car(said, name) and adds_nothing(said, name)
    return other == name if other else bool(_BINOMIAL.fullmatch(said))


def _one_car(said: str, name: str) -> bool:
    one, other = cars_in(said).trims, cars_in(name).trims
    labels = [{label} if (label := name_of("car", text)) else labels_of(text) for text in (said, name)]
    return bool(labels[0] & labels[1]) and (one == other or not (one and other))


def covers(data_set: str, label: str) -> bool:
    """Whether a label is one of the official names, so that its other names are known.

    A drawn world has birds too, and the table knows none of them.
    """
    return data_set in DATA_SETS and label in official_names(data_set)


def table_for(word: str, label: str) -> str:
    """The data set whose other names a label has: its super-category's word, "" where none is covered."""
    return word if covers(word, label) else ""
