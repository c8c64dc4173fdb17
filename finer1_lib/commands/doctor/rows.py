"""A check's answer: rows of pass, warn, fail or skip, each saying what, where, and how to mend it.

    >>> warn("3 of 100 pictures are shrunk", "04_evaluation.max_pixels", "raise it").level
    'warn'

Source: our choice.
"""

from typing import NamedTuple

LEVELS = ("pass", "warn", "fail", "skip")


class Row(NamedTuple):
    """One finding.

    Attributes:
        level: one of `LEVELS`; "skip" is no judgement: there was nothing to look at yet.
        what: what was found, with its numbers.
        where: the parameter, file or picture it is about.
        mend: what to do; "" where nothing is to be done.
    """

    level: str
    what: str
    where: str = ""
    mend: str = ""


class NotYet(Exception):
    """What a check would look at is not there yet, and that is no mistake; the text says why."""


def passed(what: str, where: str = "") -> Row:
    """A row that needs nothing."""
    return Row("pass", what, where)


def warn(what: str, where: str, mend: str) -> Row:
    """A row that changes what the numbers mean, but stops nothing."""
    return Row("warn", what, where, mend)


def fail(what: str, where: str, mend: str) -> Row:
    """A row with which the run would stop, or its numbers be wrong."""
    return Row("fail", what, where, mend)


def refused(error: Exception, where: str) -> Row:
    """A UserError as a row: these messages end in "; how to mend it"."""
    what, _, mend = str(error).rpartition("; ")
    return fail(what or mend, where, mend if what else "as it says")


def shortly(names: "list[str]", most: int = 3) -> str:
    """The first names of a list and how many more there are: "a, b, c and 4 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
