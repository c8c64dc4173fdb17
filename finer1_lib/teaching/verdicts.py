"""What a check can say, and how it asks a student's function without falling over it.

Example:
    >>> @check
    ... def double_of_three(answer):
    ...     return right("2 x 3") if number(answer) == 6 else usual("3 was squared")
    >>> double_of_three(9), double_of_three("six")
    ('not yet: the usual mistake: 3 was squared', "not yet: a number is asked for, not 'six'")

Source: our choice.
"""

import copy
import functools
import math
from typing import Any, Callable

NOT_TRIED = "not tried yet"


class _Verdict(Exception):
    """Ends a check early with this line."""


def right(told: str) -> str:
    """The answer is right; what follows from it."""
    return f"right: {told}"


def not_yet(told: str) -> str:
    """The answer is wrong in a way that is not the usual one."""
    return f"not yet: {told}"


def usual(told: str) -> str:
    """The answer is the usual mistake; what was overlooked."""
    return not_yet(f"the usual mistake: {told}")


def not_here(told: str) -> str:
    """The exercise has no answer in this run (a folder of pictures without a guide, say)."""
    return f"cannot be done in this run: {told}"


def check(function: Callable[..., str]) -> Callable[..., str]:
    """A check that says "not tried yet" to None, as does a function of the student's that returns None.

    An answer of a kind that nobody thought of is told, not raised: an exercise never ends a run.
    """

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
        raise _Verdict(not_yet(f"a number is asked for, not {_short(answer)}"))
    return value


def near(value: float, wanted: float, share: float = 0.02) -> bool:
    """Whether a number is the one wanted, up to a share of it (rounding is no mistake)."""
    return math.isclose(value, wanted, rel_tol=share, abs_tol=1e-9)


def ask(function: Any, *arguments: Any) -> Any:
    """What a student's function makes of arguments of its own (copies: it may change them).

    A function that is none, stops, or returns None ends the check with a line that says so.
    """
    if not callable(function):
        raise _Verdict(not_yet(f"a function is asked for, not {_short(function)}"))
    try:
        found = function(*copy.deepcopy(arguments))
    except Exception as error:
        told = (str(error).strip().splitlines() or [""])[0][:100]
        shown = ", ".join(_short(argument) for argument in arguments)
        stopped = f"{function.__name__}({shown}) stopped with {type(error).__name__}: {told}"
        raise _Verdict(not_yet(stopped)) from error
    if found is None:
        raise _Verdict(f"{NOT_TRIED}, or nothing is returned for {', '.join(map(_short, arguments))}")
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
