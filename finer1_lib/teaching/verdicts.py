"""What a check can say, and how it runs a student's function without failing because of it.

    >>> @check
    ... def double_of_three(answer):
    ...     return by_number(answer, [(6, right("2 x 3")), (9, usual("3 was squared"))], not_yet("add 3"))
    >>> double_of_three(9), double_of_three("six")
    ('not yet: the usual mistake: 3 was squared', "not yet: a number is needed, not 'six'")
"""

import copy
import functools
import math
from typing import Any, Callable, Iterable, Optional

NOT_TRIED = "not tried yet"


class _Verdict(Exception):
    """Ends a check early with this line."""


def right(why: str) -> str:
    """The answer is right; what follows from it."""
    return f"right: {why}"


def not_yet(why: str) -> str:
    """The answer is wrong in a way that is not the usual one."""
    return f"not yet: {why}"


def usual(why: str) -> str:
    """The answer is the usual mistake; what was overlooked."""
    return not_yet(f"the usual mistake: {why}")


def not_here(why: str) -> str:
    """The exercise has no answer in this run (a folder of images without a guide, say)."""
    return f"cannot be done in this run: {why}"


def check(function: Callable[..., str]) -> Callable[..., str]:
    """A check that says "not tried yet" to None and reports exceptions: an exercise never ends a run."""

    @functools.wraps(function)
    def checked(answer: Any, *rest: Any, **named: Any) -> str:
        if answer is None:
            return NOT_TRIED
        try:
            return function(answer, *rest, **named)
        except _Verdict as verdict:
            return str(verdict)
        except Exception as error:
            return not_yet(f"this kind of answer cannot be checked ({type(error).__name__}: {error})")

    return checked


def number(answer: Any) -> float:
    """The answer as a finite number; anything else ends the check with a line that says so."""
    try:
        value = float(answer)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise _Verdict(not_yet(f"a number is needed, not {_short(answer)}"))
    return value


def near(value: float, wanted: float, share: float = 0.02) -> bool:
    """Whether a number is the one wanted, up to a share of it (rounding is not a mistake)."""
    return math.isclose(value, wanted, rel_tol=share, abs_tol=1e-9)


def by_number(answer: Any, cases: Iterable[tuple[float, str]], otherwise: str, share: float = 0.02) -> str:
    """The verdict of the first (number, verdict) that the answer is near, else the last one."""
    value = number(answer)
    return next((verdict for wanted, verdict in cases if near(value, wanted, share)), otherwise)


def by_trials(function: Any, label: str, trials: Iterable[tuple[str, bool, str]]) -> Optional[str]:
    """The verdict of the first (text, what a student's function must say of it, verdict) that it fails."""
    failed = (verdict for text, wanted, verdict in trials if bool(run(function, text, label)) != wanted)
    return next(failed, None)


def run(function: Any, *arguments: Any) -> Any:
    """What a student's function returns for copies of the arguments (it may change them).

    Not a function, an exception or None ends the check with a line that says so.
    """
    if not callable(function):
        raise _Verdict(not_yet(f"a function is needed, not {_short(function)}"))
    shown = ", ".join(map(_short, arguments))
    try:
        found = function(*copy.deepcopy(arguments))
    except Exception as error:
        message = (str(error).strip().splitlines() or [""])[0][:100]
        stopped = f"{function.__name__}({shown}) stopped with {type(error).__name__}: {message}"
        raise _Verdict(not_yet(stopped)) from error
    if found is None:
        raise _Verdict(f"{NOT_TRIED}, or nothing is returned for {shown}")
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
