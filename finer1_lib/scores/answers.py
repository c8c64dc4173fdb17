"""The one answer of a record, read in the same way by every strict metric, vote and confusion.

    "<answer>rock-wren</answer>"                        rock-wren
    "<answer>B</answer>", "(B)", "B. Rock Wren"         the second option, where the options had letters
    "<answer>B. House Wren</answer>"                    as it stands: letter and name disagree

Also which of the known names a longer text mentions, the longest first: "Border Collie" mentions no "Collie".

Source: METHOD 4 (`strict`), audit A3 and A4; FOCI shows its options under letters.
"""

import re
from functools import lru_cache
from typing import Any, Iterable, Mapping, Optional

from finer1_lib.rewards import normalise, one_answer

Record = Mapping[str, Any]
_LETTER = re.compile(r"\(?([A-Za-z])(?:[).:]+|\Z)\s*(.*)\Z", re.DOTALL)
_WORDS = re.compile(r"\w+")
_Index = dict[str, list[tuple[tuple[str, ...], str]]]  # first or last word -> (words, name)


def answer_of(record: Record) -> Optional[str]:
    """What a record answers, its letter read as the option it stood for; None without a well-formed answer.

    Args:
        record: with completion; `lettered` and options where its prompt showed letters.
    """
    answer = one_answer(record["completion"])[0]
    found = _LETTER.match(answer) if answer is not None and record.get("lettered") else None
    place = ord(found[1].upper()) - ord("A") if found else -1
    if not found or place >= len(record["options"]):
        return answer
    option, named = record["options"][place], found[2].strip()
    return option if not named or normalise(named) == normalise(option) else answer


class KnownNames:
    """Finds names in a text by whole words, in time linear in the text.

    Args:
        names: as the data set spells them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._starting: _Index = {}
        self._ending: _Index = {}
        split = {normalise(name): tuple(_WORDS.findall(normalise(name))) for name in sorted(set(names))}
        for name, words in sorted(split.items(), key=lambda one: -len(one[1])):  # the longest first
            if words:
                self._starting.setdefault(words[0], []).append((words, name))
                self._ending.setdefault(words[-1], []).append((words, name))

    def mentioned(self, text: str) -> list[str]:
        """The names that a text mentions, normalised, in its order; at each place the longest."""
        words, found, free = _WORDS.findall(normalise(text)), [], 0
        for at, word in enumerate(words):
            if word not in self._starting or at < free:
                continue
            for name_words, name in self._starting[word]:
                if tuple(words[at : at + len(name_words)]) == name_words:
                    found.append(name)
                    free = at + len(name_words)
                    break
        return found

    def last_mentioned(self, text: str) -> Optional[str]:
        """The name that ends last in a text, the longest of those that end there; None if there is none."""
        words = _WORDS.findall(normalise(text))
        for end in range(len(words), 0, -1):  # a conclusion stands at the end: few words are looked at
            for name_words, name in self._ending.get(words[end - 1], ()):
                if tuple(words[max(0, end - len(name_words)) : end]) == name_words:
                    return name
        return None


@lru_cache(maxsize=4096)  # four options make a set of their own in every question
def known_names(names: frozenset) -> KnownNames:
    """`KnownNames`, made once for equal sets."""
    return KnownNames(names)
