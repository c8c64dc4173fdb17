"""Checks of notebook 04's exercises: an answer that one scorer accepts, rotations, a scorer of one's own.

Source: our choice; the traps are audit A1 (order) and A3 (containment).
"""

from typing import Any, Mapping, Sequence

from finer1_lib.teaching.verdicts import ask, check, near, not_yet, number, right, usual


@check
def official_alone(answer: Any, records: Sequence[Mapping], scorers: Sequence[Any]) -> str:
    """Read: a closed-world record that `official` calls right and `strict` wrong.

    Args:
        answer: one of the records, or "none".
        records: of the run.
        scorers: official and strict, in this order.
    """
    official, strict = scorers

    def verdicts(record: Mapping) -> tuple[bool, bool]:
        return tuple(scorer.closed(record)["accuracy"] == 1 for scorer in (official, strict))

    if isinstance(answer, str) and answer == "none":
        asked = [record for record in records if record["setting"] == "closed_world"]
        if any(verdicts(record) == (True, False) for record in asked):
            return not_yet("there is one: look at the rows where the official score is above the strict one")
        return right(f"the scorers agree on all {len(asked)} closed-world answers of this run")
    if not isinstance(answer, Mapping) or answer.get("setting") != "closed_world":
        return not_yet("give a record of the closed world, e.g. records[0], or the text 'none'")
    by_official, by_strict = verdicts(answer)
    if by_official and not by_strict:
        return right("the label stands in it and is not the one answer: decide for yourself who is too harsh")
    if by_official == by_strict:
        both = "accept" if by_strict else "refuse"
        return usual(f"both scorers {both} it; a wrong answer is not yet one that they disagree on")
    return not_yet("strict accepts it and official does not: the other way round")


@check
def first_under_rotations(answer: Any) -> str:
    """Change: the score of "always the first option" where all four rotations must be right."""
    value = number(answer)
    if value == 0:
        return right("the truth stands first in one rotation of four, so never in all: a place earns nothing")
    if near(value, 0.25):
        return usual("one rotation in four is right, and an item counts only if ALL four are")
    if near(value, 0.25**4):
        return usual("the four turns are not four draws of chance: the truth is first in exactly one of them")
    return not_yet("turn one item's options by 0, 1, 2, 3 places: in how many turns is the first one right?")


_LABEL = "Dunen Wren"
_WRONG = (  # completion, what is wrong with accepting it, whether it is the usual mistake
    ("<answer>not a Dunen Wren</answer>", "'not a Dunen Wren' holds the label and denies it", True),
    ("<answer>Marlo Wren, Dunen Wren</answer>", "a list that holds the label is no answer", True),
    ("<answer>Redunen Wren</answer>", "'Redunen Wren' is another name: whole words", True),
    ("<answer>Dunen Wren or Marlo Wren</answer>", "two names with 'or' are a list too", False),
    ("<answer>Marlo Wren</answer><answer>Dunen Wren</answer>", "two answers are none", False),
    ("I think it is a Dunen Wren.", "without tags there is no answer", False),
    ("<answer>Marlo Wren</answer>", "another name is wrong", False),
)
_RIGHT = ("Dunen Wren", "dunen-wren", "a Dunen Wren", "It is a Dunen Wren.")


@check
def forgiving(function: Any) -> str:
    """Extend: (completion, label) -> 1.0 for one answer that is the label in a short sentence, else 0.0."""
    for completion, told, is_usual in _WRONG:
        if ask(function, completion, _LABEL):
            return (usual if is_usual else not_yet)(told)
    for answer in _RIGHT:
        if not ask(function, f"<think>Long.</think><answer>{answer}</answer>", _LABEL):
            return not_yet(f"it refuses <answer>{answer}</answer> for the label {_LABEL}")
    return right("kinder than strict and no easier to fool: name the words that may stand around the label")
