"""The one answer of a record, read in the same way by every strict metric, vote and confusion.

    "<answer>rock-wren</answer>", "**rock-wren**."      rock-wren
    "<answer>B</answer>", "Option B", "(B) Rock Wren"   the second option, where the options had letters
    "<answer>B. House Wren</answer>"                    unchanged: letter and name disagree
    "<answer>The bird is a Rock Wren.</answer>"         unchanged, or what the sentence states: Rock Wren

Only sentences that state that something is so are read; denials, likenesses, guesses and questions state
nothing. A list is not an answer, and a containment reward can be hacked by one: `names_several` finds it.
"""

import re
from collections import defaultdict
from functools import lru_cache
from typing import Any, Iterable, Mapping, Optional

from finer1_lib.core.completions import forms, normalise, one_answer, says
from finer1_lib.data.names import ALSO, meanings, name_of

_STAND_IN = "\0 \0"  # of a known name already read: two words that no text holds
_APART = re.compile(r"[,;]|\s/|/\s|\bor\b")
_AND = re.compile(r"\s(?:and|&)\s")


def names_several(answer: str, known: Iterable[str], data_set: str = "") -> bool:
    """Whether an answer names several things; `known` are options and labels, if any.

    Known names are read first, the longest first: an answer that equals one ("F/A-18"), or one beside a name
    of its own ("C-47 (Skytrain)"), is one thing; two are several, unless they mean the same in `data_set`.
    The rest is cut at commas, semicolons, line ends, "or", slashes with white space, and at "and" unless one
    word is before it and more after it (Black and White Warbler).
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


Record = Mapping[str, Any]
# B, (B), Option B: .., B - .., and "B)** .." whose stars before it are taken off
_LETTER = re.compile(
    r"(?i:(?:option|choice)\s)?[(\[]?([A-Za-z])(?:[)\].:*_]+|\s[-–—]\s|\Z)\s*(.*)\Z", re.DOTALL)
_KINDS = {"aircraft": ("airplane", "plane", "jet"), "car": ("vehicle",), "flower": ("plant",),
          "pet": ("cat", "dog")}
_PHOTO = "(?:image|picture|photo|photograph)"
_ASKED = (
    "answer|option|choice|prediction|name|label|class|(?:sub-?)?category|variant|variety|(?:make and )?model")
_SENTENCE = (  # what may stand before a name, white space folded; thing: what it may be called
    r"(?:(?:so|thus|therefore|hence|yes),? )?"
    r"(?:(?:it|this|that|(?:(?:the|this|that|my) )?(?:(?:final|correct|right|best) )?{thing}"
    r"(?:(?: shown| seen| pictured)?(?: of| in| on) (?:the|this|that) {thing}){{0,3}}(?: shown| here)?)"
    r"(?:(?: is| was|['’]s)(?: clearly| definitely| certainly| indeed)?"
    r"(?: called| named| known as| identified as| classified as)?(?: (?:an? |the )?{photo} of| of)?:?"
    r"| ?[:=]| shows| depicts)"
    r"|i (?:can )?see|{photo} of) "
)
_WORDS = re.compile(r"\w+")


def answer_of(record: Record, sentence: bool = False) -> Optional[str]:
    """What a record (completion, `lettered`, options) answers, its letter read as the option; None without a
    well-formed answer. What is around it and an article are removed (`completions.forms`), unless they are
    part of a known name. `sentence`: take what a sentence states for the answer.
    """
    answer = one_answer(record["completion"])[0]
    if answer is None:
        return None
    said = forms(stated(answer, record.get("super_category", "")) if sentence else answer)
    options = record.get("options") or ()
    known = {normalise(name) for name in (record.get("sub_category", ""), *options)} - {""}
    if named := next((form for form in said if normalise(form) in known), None):
        return named
    found = _LETTER.match(said[-1]) if record.get("lettered") else None
    place = ord(found[1].upper()) - ord("A") if found else len(options)
    if place < len(options) and (not found[2] or says(found[2], options[place])):
        return options[place]
    return said[-1] or answer


def stated(answer: str, word: str) -> str:
    """The name that a plain sentence states ("The bird is a Rock Wren." -> "a Rock Wren"), or the answer."""
    text = " ".join(forms(answer)[-1].replace("*", "").split())  # "**Answer:** a Rock Wren"
    found = _sentence(word).match(text)
    return text[found.end() :] if found else answer


def kinds_of(word: str) -> frozenset[str]:
    """What a thing of a super-category may be called."""
    return frozenset({word.casefold(), "species", "breed", *_KINDS.get(word, ())} - {""})


@lru_cache
def _sentence(word: str) -> re.Pattern:
    thing = rf"(?:{'|'.join([*map(re.escape, sorted(kinds_of(word))), _ASKED, _PHOTO])})(?:(?:['’]s)? name)?"
    return re.compile(_SENTENCE.format(thing=thing, photo=_PHOTO), re.IGNORECASE)


class KnownNames:
    """Finds names in a text by whole words, the longest first, in linear time."""

    def __init__(self, names: Iterable[str]) -> None:
        last_first = map(normalise, sorted(set(names), reverse=True))
        known = {tuple(_WORDS.findall(name)): name for name in last_first}
        self._names = {words: known[words] for words in sorted(known, key=len, reverse=True) if words}
        # first or last word -> how many words its names have, the most first
        self._starting, self._ending = defaultdict(dict), defaultdict(dict)
        for words in self._names:
            self._starting[words[0]][len(words)] = self._ending[words[-1]][len(words)] = None

    def mentioned(self, text: str) -> list[str]:
        """The names that a text mentions, normalised, in its order; at each place the longest."""
        words, found, free = _WORDS.findall(normalise(text)), [], 0
        for at, word in enumerate(words):
            for length in self._starting.get(word, ()) if at >= free else ():
                if name := self._names.get(tuple(words[at : at + length])):
                    found.append(name)
                    free = at + length
                    break
        return found

    def last_mentioned(self, text: str) -> Optional[str]:
        """The name that ends last in a text, the longest of those; None if there is none."""
        words = _WORDS.findall(normalise(text))
        for end in range(len(words), 0, -1):  # a conclusion stands at the end: few words are looked at
            for length in self._ending.get(words[end - 1], ()):
                if name := self._names.get(tuple(words[max(0, end - length) : end])):
                    return name
        return None


known_names = lru_cache(maxsize=4096)(KnownNames)  # of a frozen set; four options are a set in every question
