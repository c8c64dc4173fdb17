"""The rows that traps are counted in.

Source: our choice.
"""

from collections import Counter
from typing import Mapping, NamedTuple, Optional, Sequence

from finer1_lib.release.questions import Question

COLUMNS = ("trap", "data_set", "categories", "count", "of", "what", "low", "high", "detail")


class Part(NamedTuple):
    """One file.

    Attributes:
        questions: its own.
        whole: all of its data set, seen and unseen.
        paths: {sub-category: the path of one of its pictures}, of the whole data set.
    """

    data_set: str
    categories: str
    questions: Sequence[Question]
    whole: Sequence[Question]
    paths: Mapping[str, str]

    def row(self, trap: str, count: int, of: Optional[int], what: str, detail: str = "", **interval) -> dict:
        """A row of `COLUMNS`."""
        values = (trap, self.data_set, self.categories, count, of, what, None, None, detail)
        return {**dict(zip(COLUMNS, values)), **interval}

    def rows_where(self, trap: str, found: Sequence[str], detail: str = "") -> dict:
        """A row that counts questions, with the commonest reasons in `detail`."""
        return self.row(trap, len(found), len(self.questions), "questions", detail or commonest(found))


def few(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many there are beyond them."""
    return "; ".join(names[:most]) + (f"; {len(names) - most} more" if len(names) > most else "")


def commonest(reasons: Sequence[str]) -> str:
    """The commonest reasons, each with its count."""
    return few([f"{reason} {count}" for reason, count in Counter(reasons).most_common()], most=5)


def table(rows: Sequence[Mapping]) -> tuple[list[str], list[list[str]]]:
    """Titles and lines for the terminal: a line for each trap and data set, the sides beside each other."""
    sides = [side for side in ("seen", "unseen", "all") if any(row["categories"] == side for row in rows)]
    lines: dict[tuple, dict] = {}
    for row in rows:
        line = lines.setdefault((row["trap"], row["data_set"], row["what"]), {"examples": ""})
        of = "" if row["of"] is None else f" of {row['of']}"
        interval = "" if row["low"] is None else f" ({100 * row['low']:.1f} to {100 * row['high']:.1f} %)"
        line[row["categories"]] = f"{row['count']}{of}{interval}"
        line["examples"] = line["examples"] or row["detail"]
    order = {trap: place for place, trap in enumerate(dict.fromkeys(key[0] for key in lines))}
    return ["trap", "data set", "counted", *sides, "examples"], [
        [trap.replace("_", " "), data_set, what, *(line.get(side, "") for side in sides), line["examples"]]
        for (trap, data_set, what), line in sorted(lines.items(), key=lambda item: order[item[0][0]])
    ]
