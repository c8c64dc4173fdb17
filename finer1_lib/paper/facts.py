"""What the paper prints, as facts: every value with its table or figure and its row.

One wide csv file a table or figure (a column a data set) is beside this file, in percent as printed; it is
read in long form. The numbers are of photographs and of models of 3B and 7B: only `comparison` puts numbers
of a run beside them, and it refuses the miniature's.

    >>> value("Figure 3a", "SFT", "unseen")
    65.82

Source: Fine-R1 (arXiv 2602.07605), the tables and figures named; counts of the release's eval/data/*.jsonl.
"""

import csv
from functools import cache
from pathlib import Path
from typing import Any, Mapping, Optional

COLUMNS = ("source", "setting", "metric", "family", "model", "categories", "dataset", "value")
DATASETS = ("Aircraft", "Bird", "Car", "Dog", "Flower", "Pet")
AVERAGE = "Average"  # over the six, unweighted
_FOLDER = Path(__file__).parent
_KEYS = COLUMNS[1:6]


def facts(source: Optional[str] = None, **equal: Any):
    """Values of the paper as printed (percent, but for Table 4's similarities): a DataFrame of `COLUMNS`.

    `source` is "Table 1", "Figure 3a", ... or None for all; `equal` chooses rows, e.g. categories="unseen".
    ValueError for an unknown source or column.
    """
    import pandas as pd
    return pd.DataFrame(_chosen(source, equal), columns=list(COLUMNS))


def value(source: str, model: str, categories: str, dataset: str = AVERAGE, **equal: Any) -> float:
    """The one value of a row; ValueError if there is none, or several."""
    found = _chosen(source, {"model": model, "categories": categories, "dataset": dataset, **equal})
    if len(found) != 1:
        raise ValueError(f"{source}, {model}, {categories}, {dataset}: {len(found)} values, not one")
    return found[0]["value"]


def sources() -> list[str]:
    """Tables and figures of which values are here: "Figure 3a", "Table 1", ..."""
    return sorted(_name(file) for file in _files())


def remarks(source: Optional[str] = None) -> dict[tuple[str, str], str]:
    """What must be said with a row: {(source, model): remark}."""
    return {(row["source"], row["model"]): row["remark"] for row in _read(_FOLDER / "remarks.csv")
            if source in (None, row["source"])}


def evaluation_sets() -> dict[tuple[str, str], tuple[int, int]]:
    """The release's test sets: {(data set, seen or unseen): (sub-categories, images)}."""
    return {(row["dataset"], row["categories"]): (int(row["sub_categories"]), int(row["items"]))
            for row in _read(_FOLDER / "evaluation_sets.csv")}


def _chosen(source: Optional[str], equal: Mapping[str, Any]) -> list[dict[str, Any]]:
    if source is not None and source not in sources():
        raise ValueError(f"no {source!r} here: one of {', '.join(sources())}")
    if unknown := set(equal) - set(COLUMNS):
        raise ValueError(f"no column {sorted(unknown)}: {', '.join(COLUMNS)}")
    wanted = {**equal, **({} if source is None else {"source": source})}
    return [row for row in _rows() if all(row[key] == wanted[key] for key in wanted)]


@cache
def _rows() -> tuple[dict[str, Any], ...]:
    return tuple(
        {"source": _name(file), **{key: row[key] for key in _KEYS}, "dataset": dataset, "value": float(cell)}
        for file in _files() for row in _read(file)
        for dataset, cell in row.items() if dataset not in _KEYS and cell)


@cache
def _files() -> list[Path]:
    return sorted([*_FOLDER.glob("table_*.csv"), *_FOLDER.glob("figure_*.csv")])


def _name(file: Path) -> str:
    return file.stem.replace("_", " ").capitalize()


@cache
def _read(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))
