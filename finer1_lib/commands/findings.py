"""What a preflight check returns: rows of pass, warn, fail or skip, with what was found, where, and the fix.

    >>> judged(False, "3 of 100 images are shrunk", "04_evaluation.max_pixels", "raise it", warn).level
    'warn'

A check is one function from a subject (the doctor's `Subject`, gpu_check's `Bench`) to rows. `examine` runs
them all; one that breaks is a row too and stops no other.
"""

from collections import Counter
from functools import partial
from typing import Any, Callable, Mapping, NamedTuple, Sequence

from finer1_lib.core.errors import UserError, printable

LEVELS = ("pass", "warn", "fail", "skip")


class Row(NamedTuple):
    """One finding of a check."""

    level: str  # one of `LEVELS`; "skip" where there was nothing to check yet
    what: str  # what was found, with its numbers
    where: str = ""  # the parameter, file or image it is about
    mend: str = ""  # how to fix it; "" where nothing is to be done


Finding = NamedTuple("Finding", [("check", str), ("level", str), ("what", str), ("where", str), ("mend", str)])
Check = Callable[[Any], "list[Row]"]
passed = partial(Row, "pass")
warn = partial(Row, "warn")  # changes what the numbers mean, but stops nothing
fail = partial(Row, "fail")  # with it the run would stop, or its numbers be wrong


class NotYet(Exception):
    """What a check would read does not exist yet, and that is not a mistake; the text says why."""


def judged(fine: bool, what: str, where: str, mend: str, level: Callable[..., Row] = fail) -> Row:
    """A row that passes if it is `fine`, else a failure (or a warning)."""
    return passed(what, where) if fine else level(what, where, mend)


def told(text: Any, where: str, level: Callable[..., Row] = fail, mark: str = "; ") -> Row:
    """A message (also a UserError) that ends in "; how to fix it", as a row."""
    what, _, fix = str(text).rpartition(mark)
    return level(what or fix, where, fix if what else "see the message")


def shortly(names: "list[str]", most: int = 3) -> str:
    """The first names of a list and how many more there are: "a, b, c and 4 more"."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def examine(subject: Any, checks: "Mapping[str, Check | tuple[Check, ...]]") -> list[Finding]:
    """Run the checks {name: one function or several} on a subject: at least a finding each, in their order."""
    return [Finding(name, *map(printable, row)) for name, parts in checks.items()
            for check in (parts if isinstance(parts, tuple) else (parts,)) for row in _run(check, subject)]


def _run(check: Check, subject: Any) -> list[Row]:
    try:
        return check(subject)
    except NotYet as reason:
        return [Row("skip", str(reason))]
    except UserError as error:
        return [told(error, "")]
    except OSError as error:  # a disk, a share or another user's file: not a fault of the kit
        return [fail(error.strerror or str(error), str(error.filename or ""),
                     "make it readable, or take it out")]
    except Exception as error:  # whatever it is, the other checks still run
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return [fail(f"this check broke: {text}", "", "a fault of the kit: please report it with this line")]


def counts(findings: Sequence[Finding]) -> dict[str, int]:
    """{"pass": 9, "warn": 1, "fail": 0, "skip": 3}."""
    found = Counter(one.level for one in findings)
    return {level: found[level] for level in LEVELS}


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Everything for a program to read: {"counts": {...}, "findings": [{...}]}."""
    return {"counts": counts(findings), "findings": [one._asdict() for one in findings]}
