"""Checks of the notebooks' exercises: three a notebook, one function an exercise.

A check takes a student's answer (a value or a function) with what it needs of the notebook, and returns one
line. It knows the usual wrong answer and names it:

    >>> matched_budget(None, n_anchor=4, n_positive=4)
    'not tried yet'
    >>> matched_budget(4, n_anchor=4, n_positive=4)[:28]
    'not yet: the usual mistake: '

A wrong answer raises nothing, so a notebook runs to its end with the exercises done, half done or untouched.
"""

import math
from typing import Any, Mapping, Optional, Sequence

from finer1_lib.data.rationales.filters import write_rationale
from finer1_lib.data.rationales.quality import is_true
from finer1_lib.teaching.verdicts import check, near, not_here, not_yet, number, right, run, usual

# --- 00 miniature world ---


@check
def never_wrong(answer: Any, reading: Any) -> str:
    """Read: of an unseen cell that was always right, how many in a hundred may still be wrong (percent).

    `reading` has the columns categories, value, low and n of the base's model card.
    """
    sure = reading[(reading["categories"] == "unseen") & (reading["value"] == 1)]
    if sure.empty:
        return not_here("no attribute of an unseen sub-category was read rightly every time")
    value, (row, *_) = number(answer), sure.to_dict("records")
    open_to = 100 * (1 - row["low"])
    if near(value, open_to, 0.03):
        return right(f"{row['n']} of {row['n']} right leaves up to {open_to:.1f} wrong in a hundred open")
    if value == 0:
        return usual(f"never wrong in {row['n']} images is not never wrong: read where its interval begins")
    if near(value, 100 * row["low"], 0.03):
        return usual("that is how many must be right; the question is how many may be wrong")
    return not_yet(f"take 100 minus the lower end, in percent, of an unseen cell at 100 % (n = {row['n']})")


@check
def four_times_the_images(answer: Any) -> str:
    """Change: how many times narrower an interval gets with four times the images."""
    value = number(answer)
    if near(value, 2, 0.1):
        return right("the width goes with one over the root of n: twice as narrow costs four times as much")
    if near(value, 4, 0.1):
        return usual("the width does not go with one over n but with one over its root")
    if near(value, 0.5, 0.1):
        return usual("that is the new width; the question is how many times narrower it is")
    return not_yet("compare the widths of proportion_confint(54, 60) and proportion_confint(216, 240)")


@check
def look_alikes(function: Any, guide: Mapping) -> str:
    """Extend: (guide, name) -> all other sub-categories that differ from it in the fewest attributes.

    `guide` has "sub_categories": {name: {"super_category", "attributes"}}.
    """
    entries, tried = guide["sub_categories"], 0
    for name, entry in entries.items():
        gaps = {
            other: sum(entry["attributes"][key] != theirs["attributes"][key] for key in entry["attributes"])
            for other, theirs in entries.items()
            if other != name and theirs["super_category"] == entry["super_category"]
        }
        if not gaps:
            continue
        wanted = {other for other, gap in gaps.items() if gap == min(gaps.values())}
        found, tried = set(run(function, guide, name)), tried + 1
        if name in found:
            return usual(f"nothing is closer to the {name} than itself: leave it out")
        if found < wanted:
            return usual(f"{len(wanted)} sub-categories are equally close to the {name}, not {len(found)}")
        if found - set(gaps):
            stranger = min(found - set(gaps))
            return not_yet(f"{stranger} is unknown, or of another super-category than the {name}")
        if found != wanted:
            return not_yet(f"the {name}: {len(wanted)} differ from it in {min(gaps.values())}, look again")
    return right(f"{tried} sub-categories checked; test a model on these hard negatives")


# --- 01 data ---


@check
def true_but_dropped(
    answer: Any, entries: Sequence[Mapping], sub_category: str, guide: Optional[Mapping]
) -> str:
    """Read: a concept that is true of the sub-category and was not kept, or "none".

    `entries` are {"concept", "score", "kept"} of one image.
    """
    if not guide:
        return not_here("without a guide it is unknown which concepts are true")
    true = {row["concept"]: is_true(row["concept"], sub_category, guide) for row in entries}
    dropped = [row["concept"] for row in entries if not row["kept"] and true[row["concept"]]]
    if not dropped:
        note = "every true concept of this image was kept"
        return right(note) if answer == "none" else not_yet(f"{note}: the answer is 'none'")
    if answer == "none":
        return not_yet("there is one in the table")
    if answer in dropped:
        return right("the neighbours have it too, so it does not distinguish this image from theirs")
    if answer not in list(true):
        return not_yet(f"{answer!r} is not in the column `concept` of the table")
    if true[answer]:
        return not_yet("it is true, and it was kept: the column `kept` must say False")
    return usual(
        f"{answer!r} was dropped and is not true of the {sub_category}: that is what the selection is for;"
        " compare the concept with the guide"
    )


@check
def given_up(answer: Any, attempts: int) -> str:
    """Change: the share of images given up when half of all texts are sent back."""
    value, wanted = number(answer), 0.5**attempts
    if near(value, wanted):
        return right(f"all {attempts} attempts must fail: {wanted:.1%} of the images; one more halves it")
    if near(value, 0.5):
        return usual(f"half of the texts are sent back, but an image gets up to {attempts} attempts")
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
    if run(function, _rationale([other, third]), label):
        return usual("a sound text marks the OTHER candidates as different: look at the label's entry")
    if run(function, _rationale([other, third], (other, third, label)), label):
        return not_yet("it stops a sound text whose label is the last candidate")
    if not run(function, _rationale([label]), label):
        return not_yet(f"it lets a text pass that says `{label}: red crown (differs)`")
    if not run(function, _rationale([label], (other, third, label)), label):
        return not_yet("it misses a label that is denied as the last candidate")
    if run(function, "<answer>Dunen Wren</answer>", label):
        return not_yet("a text without a comparison denies nothing (another filter stops it)")
    return right("it finds a misreading that contradicts the label; one that the text repeats passes")


# --- 02 CoT SFT ---


@check
def better_by_its_loss(answer: Any, log: Any) -> str:
    """Read: which model is better on unseen sub-categories by its loss curve alone, or "cannot tell".

    `log` has the columns model and loss, in the order of the steps.
    """
    last = log.groupby("model", sort=False)["loss"].last()
    ends = " and ".join(f"{value:.2g} ({model})" for model, value in last.items())
    if answer == "cannot tell":
        return right(f"{ends} are means over different tokens, and most of a rationale's are easy")
    if answer == last.idxmin():
        return usual(f"the losses end at {ends}, but they are means over different tokens of different texts")
    if answer in list(last.index):
        return usual("a loss on what was trained says nothing of names that training never taught")
    return not_yet(f"answer with {', '.join(map(repr, last.index))} or 'cannot tell'")


@check
def weights_of_rank_two(answer: Any, moved: int, lora_rank: int, finetuning: str) -> str:
    """Change: how many weights LoRA trains at rank 2, given that it trains `moved` at `lora_rank`."""
    if finetuning != "lora":
        return not_here("full fine-tuning has no rank")
    value, wanted = number(answer), 2 * moved / lora_rank
    if near(value, wanted):
        return right(f"a layer of a x b weights gets rank x (a + b): {wanted / 1e6:.3f} million in all")
    if near(value, moved):
        return usual("the rank is the inner width of both factors: fewer weights, not the same ones")
    if near(value, wanted * 2 / lora_rank):
        return usual("two factors of rank r have r x (a + b) weights: r times, not r squared")
    return not_yet(f"{moved} weights at rank {lora_rank}; how many of them belong to one unit of rank?")


_PLAIN = (  # p, is_completion, is_answer
    [1e-9, 0.5, 0.9, 0.6, 0.8], [False, False, True, True, True], [False, False, False, True, True],
)  # fmt: skip


def _loss(weights: list[float], divisor: float) -> float:
    return -sum(w * math.log(p) for w, p in zip(weights, _PLAIN[0])) / divisor


@check
def weighted_loss(function: Any) -> str:
    """Extend: (p, is_completion, is_answer, weight) -> mean of -log p, answers counted `weight` times."""
    plain, heavy = number(run(function, *_PLAIN, 1.0)), number(run(function, *_PLAIN, 3.0))
    if near(plain, _loss([1] * 5, 5)) or near(heavy, _loss([1, 1, 1, 3, 3], 9)):
        return usual("the question's tokens count too: they have weight 0")
    if not near(plain, _loss([0, 0, 1, 1, 1], 3)):
        return not_yet("with weight 1 it must be the plain loss of section 2")
    if near(heavy, _loss([0, 0, 1, 3, 3], 3)):
        return usual("divide by the sum of the weights, not by the number of tokens, or it is not a mean")
    if near(heavy, plain):
        return not_yet("the weight changes nothing")
    if not near(heavy, _loss([0, 0, 1, 3, 3], 7)):
        return not_yet("p 0.9 with weight 1, then 0.6 and 0.8 with weight 3: divide by 1 + 3 + 3")
    return right("a mean again, in which the few tokens of the name are no longer lost among the easy ones")


# --- 03 TAPO ---


@check
def matched_budget(answer: Any, n_anchor: int, n_positive: int) -> str:
    """Read: how many rollouts DAPO draws over each anchor, so that its budget is TAPO's."""
    value, wanted = number(answer), n_anchor + n_positive
    if value == wanted:
        return right(f"all {wanted} over the anchor: the images differ, not the number of rollouts")
    if value == n_anchor:
        return usual("with half as many rollouts DAPO would lose to TAPO for that alone: it has no positives")
    return not_yet(f"TAPO draws {n_anchor} + {n_positive} rollouts a triplet; see column n_anchor, row dapo")


TOKENS, RATIO = 50, 1.2  # of the exercise's rollout: its length, and p(own image) / p(negative) of a token


@check
def divergence_as_printed(answer: Any) -> str:
    """Change: the paper's divergence of one rollout, each of whose tokens is 1.2 times as likely."""
    value, log_g = number(answer), TOKENS * math.log(RATIO)
    token = RATIO - math.log(RATIO) - 1
    k3 = 1 / RATIO + math.log(RATIO) - 1
    if near(value, math.exp(log_g) - log_g - 1):
        note = f"k3 of the same tokens is {k3:.4f} each; a gamma for one is no gamma for the other"
        return right(f"g is a product over the whole rollout, {RATIO} to the power of {TOKENS}: {note}")
    if near(value, token):
        return usual("g is the ratio of the whole rollout, not of one token: the tokens' ratios multiply")
    if near(value, TOKENS * token):
        return usual("the tokens' ratios multiply into one g first; their divergences are not added")
    if near(value, k3) or near(value, TOKENS * k3):
        return not_yet("that is k3; pass 'paper' to the library's divergence")
    if near(value, math.exp(-log_g) + log_g - 1):
        return not_yet("g is p(own image) over p(negative), not the other way round")
    return not_yet("g - log g - 1 with g = 1.2 to the power of 50, or call divergence_of('paper', ...)")


@check
def three_images(function: Any) -> str:
    """Extend: rewards of the rollouts over each image -> advantages, one group over all images."""
    images = [[1.0, 0.1], [1.0, 1.0], [0.0, 0.1]]
    found = run(function, images)
    wanted = _by_hand(images)
    if _close(found, [_by_hand([rewards])[0] for rewards in images]):
        return usual("each image is its own group here: take one mean and deviation over all six")
    if _close(found, _by_hand(images, freedom=0)):
        return usual("divide the sum of squares by 5, not by 6: the library takes the unbiased deviation")
    if not _close(found, wanted):
        return not_yet(f"for {images} it should be {[[round(a, 3) for a in part] for part in wanted]}")
    if not _close(run(function, [[1.0, 1.0], [1.0], [1.0]]), [[0.0, 0.0], [0.0], [0.0]]):
        return usual("where every rollout is right there is nothing to learn: the advantages are 0, not nan")
    return right("a rollout is compared with the rollouts over all three images")


def _by_hand(images: Sequence[Sequence[float]], freedom: int = 1) -> list[list[float]]:
    flat = [reward for rewards in images for reward in rewards]
    mean = sum(flat) / len(flat)
    std = math.sqrt(sum((reward - mean) ** 2 for reward in flat) / (len(flat) - freedom))
    return [[(reward - mean) / std if std else 0.0 for reward in rewards] for rewards in images]


def _close(found: Any, wanted: Sequence[Sequence[float]]) -> bool:
    """Lists of lists (or tensors) that agree to three digits."""
    try:
        found = [[float(value) for value in part] for part in found]
    except (TypeError, ValueError):
        return False
    return [len(part) for part in found] == [len(part) for part in wanted] and all(
        abs(a - b) < 2e-3 for mine, theirs in zip(found, wanted) for a, b in zip(mine, theirs)
    )


# --- 04 evaluation ---


@check
def official_alone(answer: Any, records: Sequence[Mapping], scorers: Sequence[Any]) -> str:
    """Read: a closed-world record that `official` calls right and `strict` wrong, or "none".

    `scorers` are official and strict, in this order.
    """
    official, strict = scorers

    def verdicts(record: Mapping) -> tuple[bool, bool]:
        return tuple(scorer.closed(record)["accuracy"] == 1 for scorer in (official, strict))

    if isinstance(answer, str) and answer == "none":
        closed = [record for record in records if record["setting"] == "closed_world"]
        if any(verdicts(record) == (True, False) for record in closed):
            return not_yet("there is one: look at the rows where the official score is above the strict one")
        return right(f"the scorers agree on all {len(closed)} closed-world answers of this run")
    if not isinstance(answer, Mapping) or answer.get("setting") != "closed_world":
        return not_yet("give a record of the closed world, e.g. records[0], or the text 'none'")
    by_official, by_strict = verdicts(answer)
    if by_official and not by_strict:
        return right("the label is in it and is not the one answer: which scorer is too harsh?")
    if by_official == by_strict:
        both = "accept" if by_strict else "refuse"
        return usual(f"both scorers {both} it; a wrong answer is not yet one that they disagree on")
    return not_yet("strict accepts it and official does not: the other way round")


@check
def first_under_rotations(answer: Any) -> str:
    """Change: the score of "always the first option" where all four rotations must be right."""
    value = number(answer)
    if value == 0:
        return right("the truth is first in one rotation of four, so never in all: a position earns nothing")
    if near(value, 0.25):
        return usual("one rotation in four is right, and an item counts only if ALL four are")
    if near(value, 0.25**4):
        return usual("the rotations are not independent draws: the truth is first in exactly one of them")
    return not_yet("rotate one item's options by 0, 1, 2, 3 places: how often is the first one right?")


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
    for completion, why, is_usual in _WRONG:
        if run(function, completion, _LABEL):
            return (usual if is_usual else not_yet)(why)
    for answer in _RIGHT:
        if not run(function, f"<think>Long.</think><answer>{answer}</answer>", _LABEL):
            return not_yet(f"it refuses <answer>{answer}</answer> for the label {_LABEL}")
    return right("more lenient than strict and no easier to fool: list the words allowed around the label")


# --- 05 probing ---


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
        return usual("a separator without information scores 0.5; 0 would put every pair in the wrong order")
    if value > 0.5:
        return usual("the name is in the question, but the LAST token is read: at layer 0 it saw no other")
    return not_yet("what is the AUC of a score that is the same for every question?")


_EPITHETS = {"Wren": "ABCDE", "Tern": "FGHI", "Lark": "JKL", "Heron": "MN", "Finch": "O"}
_GENERA = {f"{letter} {genus}": genus for genus, letters in _EPITHETS.items() for letter in letters}


@check
def swaps_within_genus(function: Any) -> str:
    """Extend: ({name: genus}, seed) -> groups of names of one genus that exchange their names."""
    groups = [tuple(group) for group in run(function, _GENERA, 0)]
    used = [name for group in groups for name in group]
    if any(name not in _GENERA for name in used):
        return not_yet("a group holds something that is not a name: give lists of names")
    for group in groups:
        if len({_GENERA[name] for name in group}) > 1:
            return usual(f"{' and '.join(group)} are of different genera: an easy wrong name")
    if len(set(used)) < len(used):
        name = next(name for name in used if used.count(name) > 1)
        return usual(f"{name} is in two groups, so more often wrong than right: it gives the answer away")
    if any(len(group) < 2 for group in groups):
        return not_yet("a group of one has no other name to exchange with: leave it out")
    if len(used) < 12:
        return not_yet(f"{len(used)} of 15 names take part; only a name alone in its genus may be left out")
    if sorted(map(sorted, groups)) == sorted(map(sorted, run(function, _GENERA, 1))):
        return not_yet("another seed should give other groups")
    return right("harder than names of the whole super-category, and every name as often right as wrong")
