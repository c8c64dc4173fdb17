"""Checks of the notebooks' exercises: three a notebook (read, change, extend), one function an exercise.

A check takes a student's answer (a value or a function) with what it needs of the notebook, and returns one
line. It knows the usual wrong answer and names it:

    >>> matched_budget(None, n_anchor=4, n_positive=4)
    'not tried yet'
    >>> matched_budget(4, n_anchor=4, n_positive=4)[:28]
    'not yet: the usual mistake: '
"""

import math
from typing import Any, Mapping, Optional, Sequence

from finer1_lib.data.guide import distance
from finer1_lib.data.rationales.filters import write_rationale
from finer1_lib.data.rationales.quality import is_true
from finer1_lib.teaching.verdicts import (
    by_number, by_trials, check, near, not_here, not_yet, number, right, run, usual)

# --- 00 miniature world ---


@check
def never_wrong(answer: Any, reading: Any) -> str:
    """Read: of an unseen cell that was always right, how many in a hundred may still be wrong (percent).

    `reading` has the columns categories, value, low and n of the base's model card.
    """
    sure = reading[(reading["categories"] == "unseen") & (reading["value"] == 1)]
    if sure.empty:
        return not_here("no attribute of an unseen sub-category was read rightly every time")
    low, n = sure.iloc[0][["low", "n"]]
    open_to = 100 * (1 - low)
    return by_number(answer, [
        (open_to, right(f"{n} of {n} right leaves up to {open_to:.1f} wrong in a hundred open")),
        (0, usual(f"never wrong in {n} images is not never wrong: read where its interval begins")),
        (100 * low, usual("that is how many must be right; the question is how many may be wrong")),
    ], not_yet(f"take 100 minus the lower end, in percent, of an unseen cell at 100 % (n = {n})"), 0.03)


@check
def four_times_the_images(answer: Any) -> str:
    """Change: how many times narrower an interval gets with four times the images."""
    return by_number(answer, [
        (2, right("the width goes with one over the root of n: twice as narrow costs four times as much")),
        (4, usual("the width does not go with one over n but with one over its root")),
        (0.5, usual("that is the new width; the question is how many times narrower it is")),
    ], not_yet("compare the widths of proportion_confint(54, 60) and proportion_confint(216, 240)"), 0.1)


@check
def look_alikes(function: Any, guide: Mapping) -> str:
    """Extend: (guide, name) -> all other sub-categories that differ from it in the fewest attributes."""
    entries, tried = guide["sub_categories"], 0
    for name, entry in entries.items():
        gaps = {other: distance(guide, name, other) for other, theirs in entries.items()
                if other != name and theirs["super_category"] == entry["super_category"]}
        if not gaps:
            continue
        wanted = {other for other, gap in gaps.items() if gap == min(gaps.values())}
        found, tried = set(run(function, guide, name)), tried + 1
        if name in found:
            return usual(f"nothing is closer to the {name} than itself: leave it out")
        if found < wanted:
            return usual(f"{len(wanted)} sub-categories are equally close to the {name}, not {len(found)}")
        if strangers := found - set(gaps):
            return not_yet(f"{min(strangers)} is unknown, or of another super-category than the {name}")
        if found != wanted:
            return not_yet(f"the {name}: {len(wanted)} differ from it in {min(gaps.values())}, look again")
    return right(f"{tried} sub-categories checked; test a model on these hard negatives")


# --- 01 data ---


@check
def true_but_dropped(answer: Any, entries: Sequence[Mapping], sub_category: str,
                     guide: Optional[Mapping]) -> str:
    """Read: a concept that is true of the sub-category and was not kept, or "none".

    `entries` are {"concept", "score", "kept"} of one image.
    """
    if not guide:
        return not_here("without a guide it is unknown which concepts are true")
    concepts = [row["concept"] for row in entries]
    true = [concept for concept in concepts if is_true(concept, sub_category, guide)]
    dropped = [row["concept"] for row in entries if not row["kept"] and row["concept"] in true]
    if not dropped:
        note = "every true concept of this image was kept"
        return right(note) if answer == "none" else not_yet(f"{note}: the answer is 'none'")
    if answer == "none":
        return not_yet("there is one in the table")
    if answer in dropped:
        return right("the neighbours have it too, so it does not distinguish this image from theirs")
    if answer not in concepts:
        return not_yet(f"{answer!r} is not in the column `concept` of the table")
    if answer in true:
        return not_yet("it is true, and it was kept: the column `kept` must say False")
    return usual(f"{answer!r} was dropped and is not true of the {sub_category}: that is what the selection "
                 "is for; compare the concept with the guide")


@check
def given_up(answer: Any, attempts: int) -> str:
    """Change: the share of images given up when half of all texts are sent back."""
    wanted = 0.5**attempts
    return by_number(answer, [
        (wanted, right(f"all {attempts} attempts must fail: {wanted:.1%} of the images; one more halves it")),
        (0.5, usual(f"half of the texts are sent back, but an image gets up to {attempts} attempts")),
        (1 - wanted, usual("that is the share of images that keep a rationale")),
        (0.5 / attempts, usual("attempts that must all fail multiply; they do not share one failure")),
    ], not_yet(f"what is the chance that {attempts} texts in a row are wrong, if each is with 0.5?"))


_NAMES = ("Dunen Wren", "Marlo Wren", "Berish Wren")


def _rationale(denied: Sequence[str], order: Sequence[str] = _NAMES) -> str:
    """A rationale for the first of `_NAMES` in which the comparison marks these candidates as different."""
    entries = (f"{name}: red crown{' (differs)' * (name in denied)}, plain wings" for name in order)
    return write_rationale("red crown, plain wings", order, "; ".join(entries), _NAMES[0])


@check
def denies_its_label(function: Any) -> str:
    """Extend: a filter (text, label) -> bool that finds a comparison which marks the label as different."""
    label, *others = _NAMES
    last = [*others, label]
    trials = [
        (_rationale(others), False,
         usual("a sound text marks the OTHER candidates as different: look at the label's entry")),
        (_rationale(others, last), False, not_yet("it stops a sound text whose label is the last candidate")),
        (_rationale([label]), True, not_yet(f"it lets a text pass that says `{label}: red crown (differs)`")),
        (_rationale([label], last), True, not_yet("it misses a label that is denied as the last candidate")),
        (f"<answer>{label}</answer>", False,
         not_yet("a text without a comparison denies nothing (another filter stops it)")),
    ]
    return by_trials(function, label, trials) or right(
        "it finds a misreading that contradicts the label; one that the text repeats passes")


# --- 02 CoT SFT ---


@check
def better_by_its_loss(answer: Any, log: Any) -> str:
    """Read: which model is better on unseen sub-categories by its loss curve alone, or "cannot tell".

    `log` has the columns model and loss, in the order of the steps.
    """
    last = log.groupby("model", sort=False)["loss"].last()
    ends = " and ".join(f"{value:.2g} ({model})" for model, value in last.items())
    verdicts = dict.fromkeys(last.index, usual(
        "a loss on what was trained says nothing of names that training never taught"))
    verdicts[last.idxmin()] = usual(
        f"the losses end at {ends}, but they are means over different tokens of different texts")
    verdicts["cannot tell"] = right(
        f"{ends} are means over different tokens, and most of a rationale's are easy")
    otherwise = not_yet(f"answer with {', '.join(map(repr, last.index))} or 'cannot tell'")
    return verdicts.get(str(answer), otherwise)


@check
def weights_of_rank_two(answer: Any, moved: int, lora_rank: int, finetuning: str) -> str:
    """Change: how many weights LoRA trains at rank 2, given that it trains `moved` at `lora_rank`."""
    if finetuning != "lora":
        return not_here("full fine-tuning has no rank")
    wanted = 2 * moved / lora_rank
    return by_number(answer, [
        (wanted, right(f"a layer of a x b weights gets rank x (a + b): {wanted / 1e6:.3f} million in all")),
        (moved, usual("the rank is the inner width of both factors: fewer weights, not the same ones")),
        (wanted * 2 / lora_rank, usual("factors of rank r have r x (a + b) weights: r times, not r squared")),
    ], not_yet(f"{moved} weights at rank {lora_rank}; how many of them belong to one unit of rank?"))


# p, is_completion, is_answer
_PLAIN = [1e-9, 0.5, 0.9, 0.6, 0.8], [False, False, True, True, True], [False, False, False, True, True]


def _loss(weights: list[float], divisor: float) -> float:
    return -sum(w * math.log(p) for w, p in zip(weights, _PLAIN[0])) / divisor


@check
def weighted_loss(function: Any) -> str:
    """Extend: (p, is_completion, is_answer, weight) -> mean of -log p, answers counted `weight` times."""
    plain, heavy = (number(run(function, *_PLAIN, weight)) for weight in (1.0, 3.0))
    if near(plain, _loss([1] * 5, 5)) or near(heavy, _loss([1, 1, 1, 3, 3], 9)):
        return usual("the question's tokens count too: they have weight 0")
    if not near(plain, _loss([0, 0, 1, 1, 1], 3)):
        return not_yet("with weight 1 it must be the plain loss of section 2")
    return by_number(heavy, [
        (_loss([0, 0, 1, 3, 3], 3),
         usual("divide by the sum of the weights, not by the number of tokens, or it is not a mean")),
        (plain, not_yet("the weight changes nothing")),
        (_loss([0, 0, 1, 3, 3], 7),
         right("a mean again, in which the few tokens of the name are no longer lost among the easy ones")),
    ], not_yet("p 0.9 with weight 1, then 0.6 and 0.8 with weight 3: divide by 1 + 3 + 3"))


# --- 03 TAPO ---


@check
def matched_budget(answer: Any, n_anchor: int, n_positive: int) -> str:
    """Read: how many rollouts DAPO draws over each anchor, so that its budget is TAPO's."""
    both = n_anchor + n_positive
    return by_number(answer, [
        (both, right(f"all {both} over the anchor: the images differ, not the number of rollouts")),
        (n_anchor, usual("with half as many rollouts DAPO would lose to TAPO for that alone: no positives")),
    ], not_yet(f"TAPO draws {n_anchor} + {n_positive} rollouts a triplet; see column n_anchor, row dapo"), 0)


TOKENS, RATIO = 50, 1.2  # of the exercise's rollout: its length, and p(own image) / p(negative) of a token


@check
def divergence_as_printed(answer: Any) -> str:
    """Change: the paper's divergence of one rollout, each of whose tokens is 1.2 times as likely."""
    log_g, token, k3 = TOKENS * math.log(RATIO), RATIO - math.log(RATIO) - 1, 1 / RATIO + math.log(RATIO) - 1
    is_k3 = not_yet("that is k3; pass 'paper' to the library's divergence")
    return by_number(answer, [
        (math.exp(log_g) - log_g - 1,
         right(f"g is a product over the whole rollout, {RATIO} to the power of {TOKENS}: k3 of the same "
               f"tokens is {k3:.4f} each; a gamma for one is no gamma for the other")),
        (token, usual("g is the ratio of the whole rollout, not of one token: the tokens' ratios multiply")),
        (TOKENS * token, usual("the tokens' ratios multiply into one g; their divergences are not added")),
        (k3, is_k3), (TOKENS * k3, is_k3),
        (math.exp(-log_g) + log_g - 1, not_yet("g is p(own image) over p(negative), not the inverse")),
    ], not_yet("g - log g - 1 with g = 1.2 to the power of 50, or call divergence_of('paper', ...)"))


@check
def three_images(function: Any) -> str:
    """Extend: rewards of the rollouts over each image -> advantages, one group over all images."""
    images = [[1.0, 0.1], [1.0, 1.0], [0.0, 0.1]]
    found, wanted = run(function, images), _by_hand(images)
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
    """Whether lists of lists (or tensors) agree to three digits."""
    try:
        return all(abs(float(a) - b) < 2e-3 for mine, theirs in zip(found, wanted, strict=True)
                   for a, b in zip(mine, theirs, strict=True))
    except (TypeError, ValueError):  # no lists of numbers, or of other lengths
        return False


# --- 04 evaluation ---


@check
def official_alone(answer: Any, records: Sequence[Mapping], scorers: Sequence[Any]) -> str:
    """Read: a closed-world record that `official` calls right and `strict` wrong, or "none".

    `scorers` are official and strict, in this order.
    """
    def verdicts(record: Mapping) -> list[bool]:
        return [scorer.closed(record)["accuracy"] == 1 for scorer in scorers]

    if isinstance(answer, str) and answer == "none":
        closed = [record for record in records if record["setting"] == "closed_world"]
        if any(verdicts(record) == [True, False] for record in closed):
            return not_yet("there is one: look at the rows where the official score is above the strict one")
        return right(f"the scorers agree on all {len(closed)} closed-world answers of this run")
    if not isinstance(answer, Mapping) or answer.get("setting") != "closed_world":
        return not_yet("give a record of the closed world, e.g. records[0], or the text 'none'")
    by_official, by_strict = verdicts(answer)
    if by_official == by_strict:
        both = "accept" if by_strict else "refuse"
        return usual(f"both scorers {both} it; a wrong answer is not yet one that they disagree on")
    if by_strict:
        return not_yet("strict accepts it and official does not: the other way round")
    return right("the label is in it and is not the one answer: which scorer is too harsh?")


@check
def first_under_rotations(answer: Any) -> str:
    """Change: the score of "always the first option" where all four rotations must be right."""
    return by_number(answer, [
        (0, right("the truth is first in one rotation of four, so never in all: a position earns nothing")),
        (0.25, usual("one rotation in four is right, and an item counts only if ALL four are")),
        (0.25**4, usual("rotations are not independent draws: the truth is first in exactly one of them")),
    ], not_yet("rotate one item's options by 0, 1, 2, 3 places: how often is the first one right?"))


_LABEL = "Dunen Wren"
_WRONG = [(text, False, verdict) for text, verdict in [
    ("<answer>not a Dunen Wren</answer>", usual("'not a Dunen Wren' holds the label and denies it")),
    ("<answer>Marlo Wren, Dunen Wren</answer>", usual("a list that holds the label is no answer")),
    ("<answer>Redunen Wren</answer>", usual("'Redunen Wren' is another name: whole words")),
    ("<answer>Dunen Wren or Marlo Wren</answer>", not_yet("two names with 'or' are a list too")),
    ("<answer>Marlo Wren</answer><answer>Dunen Wren</answer>", not_yet("two answers are none")),
    ("I think it is a Dunen Wren.", not_yet("without tags there is no answer")),
    ("<answer>Marlo Wren</answer>", not_yet("another name is wrong")),
]]
_RIGHT = [(f"<think>Long.</think><answer>{said}</answer>", True,
           not_yet(f"it refuses <answer>{said}</answer> for the label {_LABEL}"))
          for said in ("Dunen Wren", "dunen-wren", "a Dunen Wren", "It is a Dunen Wren.")]


@check
def forgiving(function: Any) -> str:
    """Extend: (completion, label) -> 1.0 for one answer that is the label in a short sentence, else 0.0."""
    return by_trials(function, _LABEL, _WRONG + _RIGHT) or right(
        "more lenient than strict and no easier to fool: list the words allowed around the label")


# --- 05 probing ---


@check
def what_may_be_said(answer: Any) -> str:
    """Read: a difference of -0.01 with an interval of [-0.06, +0.04] and a margin of 0.02."""
    return {
        "undecided": right("zero lies in it, and differences beyond the margin on both sides: too few data"),
        "equal": usual("'not significant' is not 'no difference': is the whole interval inside the margin?"),
        "different": not_yet("zero lies in the interval, so no difference is shown either"),
    }.get(str(answer), not_yet("answer with 'equal', 'different' or 'undecided'"))


@check
def auc_of_the_embeddings(answer: Any) -> str:
    """Change: H3's AUC at layer 0, where the last token of every question is the same."""
    above = usual("the name is in the question, but the LAST token is read: at layer 0 it saw no other")
    below = not_yet("what is the AUC of a score that is the same for every question?")
    return by_number(answer, [
        (0.5, right("before the first block a token knows itself alone, and the last is always the same")),
        (50, not_yet("0.5: as a share, not in percent")),
        (0, usual("a separator without information scores 0.5; 0 would put every pair in the wrong order")),
    ], above if number(answer) > 0.5 else below)


_EPITHETS = {"Wren": "ABCDE", "Tern": "FGHI", "Lark": "JKL", "Heron": "MN", "Finch": "O"}
_GENERA = {f"{letter} {genus}": genus for genus, letters in _EPITHETS.items() for letter in letters}


@check
def swaps_within_genus(function: Any) -> str:
    """Extend: ({name: genus}, seed) -> groups of names of one genus that exchange their names."""
    groups = [tuple(group) for group in run(function, _GENERA, 0)]
    used = [name for group in groups for name in group]
    if any(name not in _GENERA for name in used):
        return not_yet("a group holds something that is not a name: give lists of names")
    if mixed := next((group for group in groups if len({_GENERA[name] for name in group}) > 1), None):
        return usual(f"{' and '.join(mixed)} are of different genera: an easy wrong name")
    if twice := next((name for name in used if used.count(name) > 1), None):
        return usual(f"{twice} is in two groups, so more often wrong than right: it gives the answer away")
    if any(len(group) < 2 for group in groups):
        return not_yet("a group of one has no other name to exchange with: leave it out")
    if len(used) < 12:
        return not_yet(f"{len(used)} of 15 names take part; only a name alone in its genus may be left out")
    if sorted(map(sorted, groups)) == sorted(map(sorted, run(function, _GENERA, 1))):
        return not_yet("another seed should give other groups")
    return right("harder than names of the whole super-category, and every name as often right as wrong")
