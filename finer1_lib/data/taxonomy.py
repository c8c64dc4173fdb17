"""Taxonomy: which sub-categories are near each other by knowledge, not by appearance.

    sub_category,genus,family            a CSV with one row per sub-category; a column "note" is for people
    Rock Wren,Salpinctes,Troglodytidae
    {"Rock Wren": {"genus": "Salpinctes"}}                              the same as JSON

Every sub-category has a value for one or more ranks; "genus" is whatever is between super-category and
sub-category (of cars the maker), and what names are compared by (Fine-R1, arXiv 2602.07605, Section 5.4). An
empty cell is unknown. It comes from a guide, a user's file, or tables of this kit.
"""

import csv
import io
import os
from functools import cache
from pathlib import Path
from typing import Any, Iterable, Mapping, Optional

from finer1_lib.core.completions import normalise
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import parse_json, read_text

Taxonomy = dict[str, dict[str, str]]  # sub-category -> rank -> value
NAME, GENUS, NOTE = "sub_category", "genus", "note"
# word of a data set of the paper -> file in the room data_sets; flowers, dogs and pets have none
_BUILT_IN = {"bird": "cub_taxonomy.csv", "aircraft": "aircraft_taxonomy.csv", "car": "cars_taxonomy.csv"}


def find_taxonomy(table, *, guide: Optional[Mapping[str, Any]] = None, path: str = "",
                  data_sets: Iterable[str] = ()) -> Taxonomy:
    """All that is known about a table's sub-categories, sorted; empty where there is no taxonomy.

    From the built-in tables of the paper's `data_sets`, the guide, and the user's file `path`; the last wins.
    Raises: UserError: of `read_taxonomy`.
    """
    found: Taxonomy = {}
    for word in data_sets:
        found |= genera(word)
    found |= taxonomy_of(guide) if guide else {}
    found |= read_taxonomy(path, table) if path else {}
    return {name: found[name] for name in sorted(set(table[NAME])) if name in found}


@cache
def genera(word: str) -> Taxonomy:
    """What the kit brings for birds, aircraft and cars: sub-category -> rank -> value.

    Birds have order, family and genus (AOS, Clements, IOC; the file notes where these differ or a name of
    CUB's is ambiguous); aircraft maker and, as "genus", FGVC-Aircraft's family; cars, as "genus", the make,
    then model, trim, body and year as far as the devkit's name has them.
    """
    return dict(_rows(Path(__file__).parent / "data_sets" / _BUILT_IN[word])) if word in _BUILT_IN else {}


def taxonomy_of(guide: Mapping[str, Any]) -> Taxonomy:
    """The genera of a guide; its attributes stay where they are."""
    entries = guide["sub_categories"].items()
    return {name: {GENUS: entry[GENUS]} for name, entry in entries if entry.get(GENUS)}


def read_taxonomy(path, table) -> Taxonomy:
    """A user's taxonomy (.csv or .json) fitted to a table's names: sub-category -> rank -> value.

    Names match by `completions.normalise`. The file may have more names than the table; of a super-category
    it must have all sub-categories or none, because a misspelled name would be dropped silently.
    Raises: UserError: unreadable, without a genus, a name twice, a value in two spellings, a name of the
    table that is missing, or nothing that fits.
    """
    path, known = Path(os.path.expanduser(path)), {}
    spellings: dict[tuple[str, str], str] = {}
    try:
        rows = _rows(path)
    except (OSError, ValueError, csv.Error) as error:
        what = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: not a readable taxonomy ({what}); correct it, or leave it out") from None
    for name, ranks in rows:
        if known.setdefault(normalise(name), ranks) is not ranks:
            raise UserError(f"{path}: {name!r} is listed twice; remove one of the two")
        for rank, value in ranks.items():
            if (first := spellings.setdefault((rank, normalise(value)), value)) != value:
                raise UserError(f"{path}: the {rank} of {name!r} is spelled {value!r} and elsewhere {first!r};"
                                " choose one spelling")
    if not any(GENUS in ranks for ranks in known.values()):
        raise UserError(f"{path}: gives no name a {GENUS}, which names are compared by; add that rank")
    found: Taxonomy = {}
    for super_category, names in table.groupby("super_category")[NAME].unique().items():
        missing = sorted(name for name in names if normalise(name) not in known)
        if missing and len(missing) < len(names):
            raise UserError(f"{path}: {len(missing)} of {len(names)} sub-categories of {super_category!r} are"
                            f" missing, the first is {missing[0]!r}; add it (with an empty {GENUS} where no"
                            " one knows it)")
        found |= {name: known[normalise(name)] for name in names if not missing}
    if not found:
        raise UserError(f"{path}: none of its {len(known)} names is a sub-category of the data (the first is "
                        f"{rows[0][0]!r}); spell them as the folders do")
    return dict(sorted(found.items()))


def _rows(path: Path) -> list[tuple[str, dict[str, str]]]:
    """(name, rank -> value) of every row of either format; ValueError says what is wrong."""
    readers = {".csv": _csv_rows, ".json": _json_rows}
    if path.suffix.lower() not in readers:
        raise ValueError("neither .csv nor .json")
    rows = [(" ".join(name.split()), {rank: " ".join(value.split()) for rank, value in cells.items()
                                      if value.strip() and rank not in (NAME, NOTE, "")})
            for name, cells in readers[path.suffix.lower()](read_text(path))]
    if not all(normalise(name) for name, _ in rows):
        raise ValueError("a row has no name")
    return rows


def _csv_rows(text: str) -> list[tuple[str, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    reader.fieldnames = titles = [title.strip().lower() for title in reader.fieldnames or []]
    if NAME not in titles or GENUS not in titles or len(set(titles)) < len(titles):
        commas = "; part the cells by commas" if any(sign in "".join(titles) for sign in ";\t") else ""
        has = ", ".join(titles) or "none"
        raise ValueError(f"needs one column {NAME!r} and one {GENUS!r}, has {has}{commas}")
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(f"line {reader.line_num} has more or fewer cells than the first line")
        if any(map(str.strip, row.values())):  # spreadsheets write empty rows, pandas an untitled column
            rows.append((row[NAME], row))
    return rows


def _json_rows(text: str) -> list[tuple[str, dict[str, str]]]:
    content = parse_json(text)
    if not isinstance(content, dict):
        raise ValueError("not an object of names")
    for name, ranks in content.items():
        if not isinstance(ranks, dict) or not all(isinstance(value, str) for value in ranks.values()):
            raise ValueError(f"{name!r} must be an object of texts, as in {{\"{GENUS}\": \"Salpinctes\"}}")
    return list(content.items())
