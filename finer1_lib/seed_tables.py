"""What `finer1 seeds` prints and draws, made from the numbers of `seeds.pool`.

Source: our choice.
"""

from pathlib import Path
from typing import Any, Mapping

from finer1_lib.errors import UserError


def tables(pooled: Mapping[str, Any]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """The tables that are printed, in percent: {title: (column titles, lines)}; none of the paper's values.

    Args:
        pooled: of `pool`.
    """
    from finer1_lib.summary import percent

    seeds = ", ".join(str(run["seed"]) for run in pooled["runs"])
    means, labels = [], {row["model"]: row["label"] for row in pooled["rows"]}
    for row in pooled["rows"]:
        means.append([row["label"], *_where(row), percent(row), _each(row), str(row["n"])])
    minus = [[f"{labels[row['first']]} minus {labels[row['second']]}", *_where(row), percent(row), _each(row),
              f"{row['p']:.2g}", row["reading"]] for row in pooled["differences"]]
    orders = [[row["figure"], row["claim"], row["categories"], percent({**row, "value": row["difference"]}),
               _each(row), f"{row['p']:.2g}", row["holds"]] for row in pooled["orderings"]]
    titles = ["setting", "categories", "mean [95 % interval]", f"seeds {seeds}"]
    return {"percent right, strict scorer, mean over seeds": (["model", *titles, "n"], means),
            "paired differences, in points": (["difference", *titles, "p", "reading"], minus),
            "the paper's orderings, our differences in points": (
                ["figure", "the paper has", *titles[1:], "p", "here"], orders)}


def main_lines(pooled: Mapping[str, Any]) -> list[list[str]]:
    """The lines of the main table (`summary.main_table`) with means over seeds in its cells."""
    from finer1_lib.summary import CATEGORIES, MAIN_SETTINGS, percent

    cells = {(row["label"], row["setting"], row["categories"]): percent(row) for row in pooled["rows"]}
    labels = dict.fromkeys(row["label"] for row in pooled["rows"])
    columns = [(setting, kind) for setting, *_ in MAIN_SETTINGS for kind in CATEGORIES]
    return [[label, *(cells.get((label, *column), "-") for column in columns)] for label in labels]


def _where(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["setting"].replace("_", " "), row["categories"]


def _each(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{100 * value:.1f}" for value in row["per_seed"])


def draw(pooled: Mapping[str, Any], path: Path) -> None:
    """Write the figure of `plots.seed_dots`.

    Raises:
        UserError: a file type that matplotlib does not write.
    """
    import pandas as pd

    from finer1_lib.figure_files import file_of
    from finer1_lib.files import atomic_write_bytes
    from finer1_lib.plots import seed_dots
    from finer1_lib.surroundings import clean_this_process

    if path.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--figure {path}: the name must end in .png, .pdf or .svg")
    labels = {row["model"]: row["label"] for row in pooled["rows"]}
    clean_this_process()
    figure = seed_dots(pd.DataFrame(pooled["rows"]), labels)
    atomic_write_bytes(path, file_of(figure, path.suffix[1:]))
