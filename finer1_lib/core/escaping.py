"""Tables and texts that a run shows to people: names, labels and model text are never markup or a formula.

    styled(table, "Percent right")        a pandas Styler; pandas itself escapes neither labels nor a caption
    markdown(f"- {label}: 71.2 %")        for a cell's output; bold and lists work, HTML and links do not
    write_csv(path, frame)                a text that a spreadsheet would compute gets a quote before it
"""

import csv
import html
import re
from pathlib import Path
from typing import Any

from finer1_lib.core.files import atomic_write_text

# The start of a cell that a spreadsheet computes; some skip blanks and invisible marks, and know wide signs.
FORMULA = re.compile("[\\s\ufeff\u200b-\u200f\u2060-\u2064]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\\t\\r\\n]")
_NO_MATH = "tex2jax_ignore mathjax_ignore"  # a name between dollar signs is not a formula


def escape(text: Any) -> str:
    """Text as HTML, safe in content and in quoted attributes; a lone surrogate becomes "?"."""
    return html.escape(str(text).encode("utf-8", "replace").decode("utf-8"), quote=True)


def styled(frame: Any, caption: str = "", **form: Any) -> Any:
    """A DataFrame whose cells and labels may hold any text, with a plain caption, for a notebook's output.

    Args:
        form: arguments of `Styler.format`: formatter, precision.
    """
    def safe(value: Any) -> Any:
        return escape(value) if isinstance(value, str) else value

    names = {axis: [safe(name) for name in getattr(frame, axis).names] for axis in ("index", "columns")}
    frame = frame.rename(index=safe, columns=safe).rename_axis(**names)
    style = frame.style.format(escape="html", **form).set_table_attributes(f'class="{_NO_MATH}"')
    return style.set_caption(escape(caption))


def markdown(text: str) -> Any:
    """Markdown for a notebook's output in which HTML, links and bare addresses stay text."""
    from IPython.display import Markdown
    text = text.encode("utf-8", "replace").decode("utf-8")
    inert = re.sub(r"[&<>\[\]]|:(?=//)", lambda sign: f"&#{ord(sign[0])};", text)
    return Markdown(f'<div class="{_NO_MATH}">\n\n{inert}\n\n</div>')


def csv_text(frame: Any) -> str:
    """A DataFrame as CSV, without its index; numbers stay numbers, in a column of texts too."""
    import pandas as pd
    frame, torn = frame.copy(deep=False), False
    for place in range(frame.shape[1]):
        kind = frame.dtypes.iloc[place]
        if isinstance(kind, pd.CategoricalDtype) or pd.api.types.is_string_dtype(kind) or kind == object:
            cells = [_cell(value) for value in frame.iloc[:, place].astype(object)]
            torn = torn or any(isinstance(value, str) and "\r" in value for value in cells)
            frame.isetitem(place, pd.Series(cells, frame.index, object))
    frame = frame.set_axis([_cell(name) for name in frame.columns], axis=1)
    # Python's writer puts no quotes around a lone carriage return, which ends the line for every reader
    quoting = csv.QUOTE_NONNUMERIC if torn else csv.QUOTE_MINIMAL
    return frame.to_csv(index=False, lineterminator="\n", quoting=quoting)


def write_csv(path: "str | Path", frame: Any) -> None:
    """Write `csv_text` atomically."""
    atomic_write_text(Path(path), csv_text(frame))


def _cell(value: Any) -> Any:
    if not isinstance(value, str) or not FORMULA.match(value) or value == "-":
        return value
    try:
        float(value)
        return value
    except ValueError:
        return f"'{value}"
