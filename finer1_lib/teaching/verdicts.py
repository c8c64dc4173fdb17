"""What a check can say, and how it runs a student's function without failing because of it.

    >>> by_number(2.001, {"right": 2, "usual, squared": 4}), by_number(4, {"right": 2, "usual, squared": 4})
    ('right', 'usual, squared')

Such a key is looked up under the check's name in `exercises.yaml`; its first words are the kind of verdict.
"""

import copy
import functools
import math
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping

import yaml

NOT_TRIED = "not tried yet"
KINDS = {"right": "right", "not yet": "not yet", "usual": "not yet: the usual mistake",
         "not here": "cannot be done in this run"}
TEXTS = yaml.safe_load(Path(__file__).with_name("exercises.yaml").read_text(encoding="utf-8"))


class _Verdict(Exception):
    """Ends a check early with this line."""


def check(function: Callable[..., Any]) -> Callable[..., str]:
    """A check that puts into words what a function returns: a key of its texts, or a key and what fills them.

    It says "not tried yet" to None and reports exceptions: an exercise never ends a run.
    """
    @functools.wraps(function)
    def checked(answer: Any, *rest: Any, **named: Any) -> str:
        if answer is None:
            return NOT_TRIED
        try:
            said = function(answer, *rest, **named)
            key, values = (said, {}) if isinstance(said, str) else said
            return f"{KINDS[key.partition(',')[0]]}: {TEXTS[function.__name__][key].format(**values)}"
        except _Verdict as verdict:
            return str(verdict)
        except Exception as error:
            return f"not yet: this kind of answer cannot be checked ({type(error).__name__}: {error})"

    return checked


def number(answer: Any) -> float:
    """The answer as a finite number; anything else ends the check with a line that says so."""
    try:
        value = float(answer)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise _Verdict(f"not yet: a number is needed, not {_short(answer)}")
    return value


def near(value: float, wanted: float, share: float = 0.02) -> bool:
    """Whether a number is the one wanted, up to a share of it (rounding is not a mistake)."""
    return math.isclose(value, wanted, rel_tol=share, abs_tol=1e-9)


def by_number(answer: Any, cases: Mapping[str, float], share: float = 0.02) -> str:
    """The key of the first number that the answer is near, else "not yet"."""
    value = number(answer)
    return next((key for key, wanted in cases.items() if near(value, wanted, share)), "not yet")


def by_trials(function: Any, label: str, trials: Iterable[tuple[str, bool, str]]) -> tuple[str, dict]:
    """(key, values) of the first (text, what a student's function must say of it, key) that fails."""
    failed = ((key, text) for text, wanted, key in trials if bool(run(function, text, label)) != wanted)
    key, text = next(failed, ("right", ""))
    return key, {"text": text, "label": label}


def run(function: Any, *arguments: Any) -> Any:
    """What a student's function returns for copies of the arguments (it may change them).

    Not a function, an exception or None ends the check with a line that says so.
    """
    if not callable(function):
        raise _Verdict(f"not yet: a function is needed, not {_short(function)}")
    shown = ", ".join(map(_short, arguments))
    try:
        found = function(*copy.deepcopy(arguments))
    except Exception as error:
        message = (str(error).strip().splitlines() or [""])[0][:100]
        stopped = f"{function.__name__}({shown}) stopped with {type(error).__name__}: {message}"
        raise _Verdict(f"not yet: {stopped}") from error
    if found is None:
        raise _Verdict(f"{NOT_TRIED}, or nothing is returned for {shown}")
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
