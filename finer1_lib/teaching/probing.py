"""Checks of notebook 05's exercises: what an interval allows to say, a layer that cannot know, harder names.

Source: our choice; the equivalence test and the balanced names are METHOD 5.
"""

from typing import Any

from finer1_lib.teaching.verdicts import ask, check, near, not_yet, number, right, usual


@check
def what_may_be_said(answer: Any) -> str:
    """Read: a difference of -0.01 with an interval of [-0.06, +0.04] and a margin of 0.02."""
    if answer == "undecided":
        return right("zero lies in it, and differences beyond the margin do on both sides: too few data")
    if answer == "equal":
        return usual("'not significant' is not 'no difference': is the whole interval inside the margin?")
    if answer == "different":
        return not_yet("zero lies in the interval, so no difference is shown either")
    return not_yet("answer with 'equal', 'different' or 'undecided'")


@check
def auc_of_the_embeddings(answer: Any) -> str:
    """Change: H3's AUC at layer 0, where the last token of every question is the same."""
    value = number(answer)
    if near(value, 0.5):
        return right("before the first block a token knows itself alone, and the last is always the same")
    if near(value, 50):
        return not_yet("0.5: as a share, not in percent")
    if value == 0:
        return usual("a separator that knows nothing scores 0.5; 0 would put every pair in the wrong order")
    if value > 0.5:
        return usual("the name is in the question, but the LAST token is read: who told it at layer 0?")
    return not_yet("what is the AUC of a score that is the same for every question?")


_EPITHETS = {"Wren": "ABCDE", "Tern": "FGHI", "Lark": "JKL", "Heron": "MN", "Finch": "O"}
_GENERA = {f"{letter} {genus}": genus for genus, letters in _EPITHETS.items() for letter in letters}


@check
def swaps_within_genus(function: Any) -> str:
    """Extend: ({name: genus}, seed) -> groups of names of one genus that exchange their names."""
    groups = [tuple(group) for group in ask(function, _GENERA, 0)]
    used = [name for group in groups for name in group]
    if any(name not in _GENERA for name in used):
        return not_yet("a group holds something that is no name: give lists of names")
    for group in groups:
        if len({_GENERA[name] for name in group}) > 1:
            return usual(f"{' and '.join(group)} are of different genera: such a wrong name is easy to tell")
    if len(set(used)) < len(used):
        name = next(name for name in used if used.count(name) > 1)
        return usual(f"{name} is in two groups, so more often wrong than right: it gives the answer away")
    if any(len(group) < 2 for group in groups):
        return not_yet("a group of one has nobody to exchange its name with: leave it out")
    if len(used) < 12:
        return not_yet(f"{len(used)} of 15 names take part; only a name alone in its genus need stay away")
    if sorted(map(sorted, groups)) == sorted(map(sorted, ask(function, _GENERA, 1))):
        return not_yet("another seed should pair the names otherwise")
    return right("harder than names of the whole super-category, and every name as often right as wrong")
