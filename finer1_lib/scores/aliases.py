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

Hyphens, case and apostrophes are folded before names are compared, so "Red-winged Blackbird" needs no row. An
alias that is another sub-category of its data set, or an alias of two, is not in the table; a model can be
right by another name that is missing here, so a score with aliases is neither
a lower nor an upper bound where a row takes a genus for its one species.

Source: collected by hand from what is in general use (checklists of birds, breed registers and WordNet's
synonyms for the dogs, makers' names), no list copied; audit B5, data.md 2.3 (dogs and pets) and 1.3 (flowers,
cars with the year first). Which names are near enough is our choice.
"""

import csv
import importlib.resources
from functools import cache
from typing import Mapping, Optional

from finer1_lib.data_sets.catalogue import DATA_SETS
from finer1_lib.data_sets.names import official_names
from finer1_lib.rewards import normalise

KINDS = ("spelling", "fuller or shorter", "synonym", "renamed", "botanical", "taken as", "year first")


@cache
def alias_rows() -> tuple[dict[str, str], ...]:
    """The table's rows: data_set, sub_category, alias, kind."""
    text = (importlib.resources.files(__package__) / "aliases.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


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
    """The official name that a text is, by itself or by an alias; None if it is none."""
    return names_by_spelling(data_set).get(normalise(text))


def covers(data_set: str, label: str) -> bool:
    """Whether a label is one of the official names, so that its other names are known.

    A drawn world has birds too, and the table knows none of them.
    """
    return data_set in DATA_SETS and label in official_names(data_set)
