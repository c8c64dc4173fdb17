"""Checks of notebook 01's exercises: a true concept not kept, texts sent back, a filter of one's own.

Source: our choice.
"""

from typing import Any, Mapping, Optional, Sequence

from finer1_lib.data.rationales.filters import write_rationale
from finer1_lib.data.rationales.quality import is_true
from finer1_lib.teaching.verdicts import ask, check, near, not_here, not_yet, number, right, usual


@check
def true_but_dropped(
    answer: Any, entries: Sequence[Mapping], sub_category: str, guide: Optional[Mapping]
) -> str:
    """Read: a concept that is true of the sub-category and was not kept.

    Args:
        answer: the concept's text, or "none".
        entries: {"concept", "score", "kept"} of one picture.
        sub_category: whose picture.
        guide: the attributes, or None.
    """
    if not guide:
        return not_here("without a guide nobody can say which concepts are true")
    true = {row["concept"]: is_true(row["concept"], sub_category, guide) for row in entries}
    dropped = [row["concept"] for row in entries if not row["kept"] and true[row["concept"]]]
    if not dropped:
        told = "every true concept of this picture was kept"
        return right(told) if answer == "none" else not_yet(f"{told}: the answer is 'none'")
    if answer == "none":
        return not_yet("there is one in the table")
    if answer in dropped:
        return right("the neighbours have it too, so it does not tell this picture from theirs")
    if answer not in list(true):
        return not_yet(f"{answer!r} is not in the column `concept` of the table")
    if true[answer]:
        return not_yet("it is true, and it was kept: the column `kept` must say False")
    return usual(
        f"{answer!r} was dropped and is not true of the {sub_category}: that is what the selection is for;"
        " hold the concept against the guide"
    )


@check
def given_up(answer: Any, attempts: int) -> str:
    """Change: the share of images given up when half of all texts are sent back."""
    value, wanted = number(answer), 0.5**attempts
    if near(value, wanted):
        return right(f"all {attempts} attempts must fail: {wanted:.1%} of the images; one more halves it")
    if near(value, 0.5):
        return usual(f"half of the texts are sent back, but an image is asked about up to {attempts} times")
    if near(value, 1 - wanted):
        return usual("that is the share of images that keep a rationale")
    if near(value, 0.5 / attempts):
        return usual("attempts that must all fail multiply; they do not share one failure among them")
    return not_yet(f"what is the chance that {attempts} texts in a row are wrong, if each is with 0.5?")


_NAMES = ("Dunen Wren", "Marlo Wren", "Berish Wren")


def _rationale(denied: Sequence[str], order: Sequence[str] = _NAMES) -> str:
    """A rationale for the first of `_NAMES` in which the comparison marks these candidates as different."""
    comparison = "; ".join(
        f"{name}: red crown{' (differs)' if name in denied else ''}, plain wings" for name in order
    )
    return write_rationale("red crown, plain wings", order, comparison, _NAMES[0])


@check
def denies_its_label(function: Any) -> str:
    """Extend: a filter (text, label) -> bool that finds a comparison which marks the label as different."""
    label, other, third = _NAMES
    if ask(function, _rationale([other, third]), label):
        return usual("a sound text marks the OTHER candidates as different: look at the label's entry")
    if ask(function, _rationale([other, third], (other, third, label)), label):
        return not_yet("it stops a sound text whose label is the last candidate")
    if not ask(function, _rationale([label]), label):
        return not_yet(f"it lets a text pass that says `{label}: red crown (differs)`")
    if not ask(function, _rationale([label], (other, third, label)), label):
        return not_yet("it misses a label that is denied as the last candidate")
    if ask(function, "<answer>Dunen Wren</answer>", label):
        return not_yet("a text without a comparison denies nothing (another filter stops it)")
    return right("it finds a misreading that contradicts the label; one that the text repeats passes")
