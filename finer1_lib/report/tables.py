"""The report's tables: titles and rows of text, from the files that finished stages left.

    differences(run_dir, labels) -> {"titles": ["first minus second", ...], "rows": [["CoT SFT minus base",
                                     "+12.5 [+3.0, +22.0] ▲", ...]], "told": "12 of 24 are told from zero."}

A stage whose folder lacks a file gives None, and the report leaves that table out.

Source: our choice; which differences count as real, `scoring.reading`.
"""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any, Iterable, Mapping, Optional, Sequence

from finer1_lib.contenders import label_of
from finer1_lib.errors import UserError
from finer1_lib.summary import CATEGORIES, MAIN_SETTINGS

SIGNS = {"higher": " ▲", "lower": " ▼"}
PROBES = {
    "h1_probe_accuracy": "H1: sub-category read from image states",
    "h2_genus_gap": "H2: nearness within a genus",
    "h3_auc": "H3: does the name fit the picture (AUC)",
    "attribute_image_accuracy": "attributes, image tokens",
    "attribute_prompt_accuracy": "attributes, last prompt token",
    "name_prompt_accuracy": "sub-category, last prompt token",
}
_PROBE_TITLES = ["probe", "model", "seen", "unseen", "all", "n"]


def read_table(path: Path, needed: Iterable[str]) -> Optional[list[dict[str, Any]]]:
    """The rows of a CSV file, numbers as numbers and empty cells as None; None where there is no file.

    Raises:
        UserError: the file lacks a column, or is no text.
    """
    if not path.is_file():
        return None
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is damaged: delete its folder and run again") from error
    if rows and (missing := set(needed) - set(rows[0])):
        told = f"{path} has no column {', '.join(sorted(missing))}"
        raise UserError(f"{told}: delete its folder and run again")
    return [{key: _value(text) for key, text in row.items() if key is not None} for row in rows]


def _value(text: Optional[str]) -> Any:
    try:
        number = float(text)
    except (TypeError, ValueError):
        return text or None
    return number if math.isfinite(number) else None


def points(row: Mapping[str, Any], scale: float = 100, form: str = "+.1f") -> str:
    """A difference with its interval and, where it is told from zero, its sign: "+12.5 [+3.0, +22.0] ▲"."""
    if row["difference"] is None:
        return "-"
    text = f"{scale * row['difference']:{form}}"
    if row["low"] is not None and row["high"] is not None:
        text += f" [{scale * row['low']:{form}}, {scale * row['high']:{form}}]"
    return text + SIGNS.get(row["reading"], "")


def half(table: tuple[list[str], list[list[str]]], setting: str, kind: str) -> tuple[str, list[str], list]:
    """The seen or the unseen columns of `summary.fault_table`, with a caption: all of them are too wide."""
    titles, rows = table
    chosen = [0, *(place for place, title in enumerate(titles) if title.endswith(f", {kind}"))]
    caption = f"How answers go wrong in form, {_plain(setting)}, {kind} sub-categories (%), strict scorer"
    picked = [[row[place] for place in chosen] for row in rows]
    return caption, [titles[place].removesuffix(f", {kind}") for place in chosen], picked


def differences(run_dir: Path, labels: Mapping[str, str]) -> Optional[dict[str, Any]]:
    """Each pair of models of 04's comparisons.csv by the columns of the main table."""
    keys = ("first", "second", "setting", "metric", "categories")
    found = read_table(run_dir / "04_evaluation" / "comparisons.csv",
                       (*keys, "difference", "low", "high", "reading"))  # fmt: skip
    if not found:
        return None
    cells = {tuple(row[key] for key in keys): row for row in found}
    columns = {f"{words}, {kind}": (setting, metric, kind)
               for setting, metric, words in MAIN_SETTINGS for kind in CATEGORIES}  # fmt: skip
    pairs = list(dict.fromkeys((row["first"], row["second"]) for row in found))
    shown = [[cells.get((*pair, *column)) for column in columns.values()] for pair in pairs]
    asked = [row for line in shown for row in line if row]
    clear = sum(row["reading"] in SIGNS for row in asked)
    return {
        "titles": ["first minus second", *columns],
        "rows": [[" minus ".join(label_of(model, labels) for model in pair),
                  *(points(row) if row else "-" for row in line)] for pair, line in zip(pairs, shown)],
        "told": f"{clear} of {len(asked)} are told from zero; asked so often, a few would be by luck.",
    }  # fmt: skip


def orderings(run_dir: Path, labels: Mapping[str, str]) -> Optional[dict[str, Any]]:
    """The paper's orderings as 04 judged them: of the paper's numbers only the direction is here."""
    from finer1_lib.paper.orderings import COLUMNS, tell

    found = read_table(run_dir / "04_evaluation" / "orderings.csv", COLUMNS)
    if not found:
        return None
    import pandas as pd

    titles = ["claim of the paper", "its figure", "categories", "here", "here, points", "remark"]
    rows = [[row["claim"], row["figure"], row["categories"], row["holds"], points(row), row["remark"] or ""]
            for row in found]  # fmt: skip
    frame = pd.DataFrame(found).assign(remark=[row["remark"] or "" for row in found])
    return {"titles": titles, "rows": rows, "told": tell(frame, labels)}


def probing(run_dir: Path, rows: Iterable[Mapping], labels: Mapping[str, str]) -> dict[str, Any]:
    """Probes by model: the plain ones, the controls and variants, and what 05 says of their differences."""
    cells: dict[tuple, dict[str, Mapping]] = {}
    for row in rows:
        if row["setting"] == "probing" and row["dataset"] == "average":
            cells.setdefault((row["metric"], row["variant"], row["model"]), {})[row["categories"]] = row
    lines = {
        key: [_probe(*key[:2]), label_of(key[2], labels),
              *(_number(found.get(kind)) for kind in (*CATEGORIES, "all")),
              max(row["n"] for row in found.values())]
        for key, found in cells.items()
    }  # fmt: skip
    found = read_table(run_dir / "05_probing" / "comparisons.csv",
                       ("metric", "variant", "model", "reference", "difference", "low", "high", "reading"))
    judged = [[_probe(row["metric"], row["variant"]), label_of(row["model"], labels),
               label_of(row["reference"], labels), points(row, 1, "+.3f"),
               "-" if row.get("margin") is None else f"{row['margin']:.3g}", row["reading"]]
              for row in found or []]  # fmt: skip
    return {
        "titles": _PROBE_TITLES,
        "rows": [line for key, line in lines.items() if key[0] in PROBES and key[1] is None],
        "more": [line for key, line in lines.items() if key[0] not in PROBES or key[1] is not None],
        "judged_titles": ["probe", "model", "reference", "difference", "margin", "reading"],
        "judged": judged,
    }


def _probe(metric: str, variant: Optional[str]) -> str:
    return PROBES.get(metric, _plain(metric)) + (f", {_plain(variant)}" if variant else "")


def _plain(name: Optional[str]) -> str:
    return (name or "").replace("_", " ")


def _number(row: Optional[Mapping]) -> str:
    if row is None or row["value"] is None:
        return "-"
    missing = row["low"] is None or row["high"] is None
    return f"{row['value']:.3f}" + ("" if missing else f" [{row['low']:.3f}, {row['high']:.3f}]")


def paper(run_dir: Path) -> dict[str, Any]:
    """The averages beside the paper's numbers, or the line that says why they do not stand there."""
    from finer1_lib.paper.comparison import NotComparable, comparison_table, lines_of, notes

    try:
        found = comparison_table(run_dir)
    except NotComparable as refused:
        said = str(refused)
        return {"refused": f"{said[:1].upper()}{said[1:]}."}
    titles, rows = lines_of(found)
    return {"refused": "", "titles": titles, "rows": rows, "notes": notes(found)}


def short(value: Any) -> Any:
    """A cell of summary.json: nothing for None, four decimals of a float."""
    return "" if value is None else round(value, 4) if isinstance(value, float) else value


def parameters(record: Mapping[str, Any]) -> list[list[str]]:
    """Names and values of a stage's parameters, as text."""
    return [[name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]
            for name, value in record["parameters"].items()]  # fmt: skip


def cost(stage: str, record: Mapping[str, Any]) -> list[Any]:
    """What a stage took, as the cells of one line."""
    memory = ", ".join(f"{name} {value:.2f}" for name, value in record["peak_memory_gb"].items())
    minutes = f"{record['seconds'] / 60:.1f}"
    return [stage, minutes, record["opened"], memory, record["device"], record["written"]]


def versions(record: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Packages and commit behind a stage."""
    return [*record.get("versions", {}).items(), ("git commit", record.get("git_commit") or "no checkout")]
