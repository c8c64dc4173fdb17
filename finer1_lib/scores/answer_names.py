"""Does one answer name one thing or several? A list is no answer, and containment pays for it.

Real names hold commas, slashes and "and", so known names are read first, the longest first, and only what is
left is cut at separators:

    "House Wren, Rock Wren"     two names        "Border Collie" is not a "Collie" beside something else
    "Rock Wren or some finch"   two names        "Black-and-white Warbler", "F/A-18": one name each
    "C-47 (Skytrain)"           one thing under two names

Source: our choice.
"""

import re
from functools import lru_cache
from typing import Iterable

from finer1_lib.rewards import normalise
from finer1_lib.scores.aliases import ALSO, meanings, name_of

_STAND_IN = "\0 \0"  # of a known name already read: two words that no text holds
_APART = re.compile(r"[,;]|\s/|/\s|\bor\b")
_AND = re.compile(r"\s(?:and|&)\s")


def names_several(answer: str, known: Iterable[str], data_set: str = "") -> bool:
    """Whether an answer names several things.

    1. An answer that equals a known name (after normalisation) names one thing, whatever signs are in it; so
       does a name with one of its own in brackets, or after "also known as".
    2. Known names are found as whole words, from the left, the longest at each place; two of them are several,
       unless the data set has both for one thing.
    3. The rest is cut at commas, semicolons, line ends, "or", and slashes with white space beside them; two
       pieces are several. It is cut at "and" (or "&") too, unless one word stands before it and more than
       one after it: that is how names have it (Black and White Warbler).

    So "Collie/Poodle" is several only where both are known, and an apposition ("Rock Wren, a small bird")
    counts as a list.

    Args:
        answer: what stands between the tags.
        known: the options and labels that are known, if any.
        data_set: whose other names count as one thing.
    """
    text = normalise(ALSO.sub(" | ", "; ".join(answer.splitlines())))
    names = _longest_first(frozenset(known), data_set)
    if text in names or name_of(data_set, answer) is not None:
        return False
    # nearly all known names stand nowhere in the answer
    here = "|".join(re.escape(name) for name in names if name in text)
    of_names = re.compile(rf"(?<!\w)(?:{here})(?!\w)" if here else r"(?!)")
    found, text = [names[name] for name in of_names.findall(text)], of_names.sub(_STAND_IN, text)
    pieces = [piece.strip() for part in _APART.split(text) for piece in _cut_at_and(part)]
    pieces = {piece for piece in pieces if re.search(r"[\w\0]", piece)}  # one said twice is one
    return len(pieces) > 1 or bool(found) and not frozenset.intersection(*found)


@lru_cache(maxsize=1024)  # one set of names serves a whole data set
def _longest_first(known: frozenset, data_set: str) -> dict[str, frozenset[str]]:
    """Normalised name -> what it may stand for: itself, or official names (none of them in a drawn world)."""
    official, names = meanings(data_set), {normalise(name) for name in known} - {""}
    names |= official.keys() if names & official.keys() else set()
    names = {name: official.get(name, frozenset({name})) for name in names}
    return {name: names[name] for name in sorted(names, key=lambda name: (-len(name), name))}


def _cut_at_and(text: str) -> list[str]:
    pieces = _AND.split(text)
    first, second = len(pieces[0].split()), len(pieces[-1].split())
    one_name = len(pieces) == 2 and first == 1 < second and "\0" not in text
    return [text] if one_name else pieces
