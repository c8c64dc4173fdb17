"""All checks, one after the other; one that breaks is a row and stops nothing.

    findings = examine(Subject(plan))
    findings[0].check, findings[0].level, findings[0].what

Source: our choice.
"""

from collections import Counter
from typing import Any, Callable, NamedTuple, Sequence

from finer1_lib.commands.doctor import images as pictures, machine, machine as asked, texts
from finer1_lib.commands.doctor.rows import LEVELS, NotYet, Row, fail, refused
from finer1_lib.commands.doctor.subject import Subject
from finer1_lib.core.errors import UserError, printable

CHECKS: dict[str, Callable[[Subject], list[Row]]] = {
    "named files": pictures.named_files,
    "data": pictures.data,
    "whole pictures": pictures.whole,
    "leaks of pictures": pictures.apart,
    "leaks of names": texts.names,
    "place of the truth": texts.truth_places,
    "pixels": pictures.pixels,
    "prompts": texts.prompt_hashes,
    "completion cap": texts.completion_caps,
    "base model": machine.base,
    "memory": machine.memory,
    "disk": machine.disk,
    "versions": machine.versions,
    "teacher's key": machine.key,
    "systems": asked.systems,
}


class Finding(NamedTuple):
    """A check's name and one of its rows (`doctor.rows.Row`)."""

    check: str
    level: str
    what: str
    where: str
    mend: str


def examine(subject: Any, checks: "dict[str, Callable[[Any], list[Row]]]" = CHECKS) -> list[Finding]:
    """Run the checks.

    Args:
        subject: what is examined: of the doctor's own checks a `Subject`.
        checks: name -> function.

    Returns:
        At least one finding per check, in the checks' order.
    """
    return [Finding(name, *map(printable, row))
            for name, check in checks.items() for row in _run(check, subject)]


def _run(check: Callable[[Any], list[Row]], subject: Any) -> list[Row]:
    try:
        return check(subject)
    except NotYet as reason:
        return [Row("skip", str(reason))]
    except UserError as error:
        return [refused(error, "")]
    except OSError as error:  # a disk, a share or somebody else's file: no fault of the kit
        where = str(error.filename or "")
        return [fail(error.strerror or str(error), where, "make it readable, or take it out")]
    except Exception as error:  # whatever it is, the other checks still have something to say
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return [fail(f"this check broke: {said}", "", "a fault of the kit: please report it with this line")]


def counts(findings: Sequence[Finding]) -> dict[str, int]:
    """{"pass": 9, "warn": 1, "fail": 0, "skip": 3}."""
    found = Counter(one.level for one in findings)
    return {level: found[level] for level in LEVELS}


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Everything for a program to read: {"counts": {...}, "findings": [{...}]}."""
    return {"counts": counts(findings), "findings": [one._asdict() for one in findings]}
