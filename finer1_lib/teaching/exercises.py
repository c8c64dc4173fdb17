"""Checks of the notebooks' exercises: three a notebook (read, change, extend), one function an exercise.

A check takes a student's answer (a value or a function) with what it needs of the notebook, and returns one
line. It knows the usual wrong answer; its words stand in `exercises.yaml`, under the keys used here:

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
from finer1_lib.teaching.verdicts import by_number, by_trials, check, near, number, run

# --- 00 miniature world ---


@check
def never_wrong(answer: Any, reading: Any) -> Any:
    """Read: of an unseen cell that was always right, how many in a hundred may still be wrong (percent).

    `reading` has the columns categories, value, low and n of the base's model card.
    """
    sure = reading[(reading["categories"] == "unseen") & (reading["value"] == 1)]
    if sure.empty:
        return "not here"
    first = sure.iloc[0]
    open_to, right = 100 * (1 - first["low"]), 100 * first["low"]
    key = by_number(answer, {"right": open_to, "usual, none": 0, "usual, the right ones": right}, share=0.03)
    return key, {"n": first["n"], "open_to": open_to}


@check
def four_times_the_images(answer: Any) -> Any:
    """Change: how many times narrower an interval gets with four times the images."""
    return by_number(answer, {"right": 2, "usual, one over n": 4, "usual, the width": 0.5}, share=0.1)


@check
def look_alikes(function: Any, guide: Mapping) -> Any:
    """Extend: (guide, name) -> all other sub-categories that differ from it in the fewest attributes."""
    entries, tried = guide["sub_categories"], 0
    for name, entry in entries.items():
        gaps = {other: distance(guide, name, other) for other, theirs in entries.items()
                if other != name and theirs["super_category"] == entry["super_category"]}
        if not gaps:
            continue
        least = min(gaps.values())
        wanted = {other for other, gap in gaps.items() if gap == least}
        found, tried = set(run(function, guide, name)), tried + 1
        if name in found:
            return "usual, itself", {"name": name}
        if found < wanted:
            return "usual, too few", {"name": name, "wanted": len(wanted), "found": len(found)}
        if strangers := found - set(gaps):
            return "not yet, a stranger", {"name": name, "stranger": min(strangers)}
        if found != wanted:
            return "not yet", {"name": name, "wanted": len(wanted), "gap": least}
    return "right", {"tried": tried}


# --- 01 data ---


@check
def true_but_dropped(answer: Any, entries: Sequence[Mapping], sub_category: str,
                     guide: Optional[Mapping]) -> Any:
    """Read: a concept that is true of the sub-category and was not kept, or "none".

    `entries` are {"concept", "score", "kept"} of one image.
    """
    if not guide:
        return "not here"
    concepts = [row["concept"] for row in entries]
    true = [concept for concept in concepts if is_true(concept, sub_category, guide)]
    dropped = [row["concept"] for row in entries if not row["kept"] and row["concept"] in true]
    if not dropped:
        return "right, none" if answer == "none" else "not yet, none"
    if answer == "none":
        return "not yet, there is one"
    if answer in dropped:
        return "right"
    key = "not yet, unknown" if answer not in concepts else "not yet, kept" if answer in true else "usual"
    return key, {"answer": answer, "sub_category": sub_category}


@check
def given_up(answer: Any, attempts: int) -> Any:
    """Change: the share of images given up when half of all texts are sent back."""
    wanted = 0.5**attempts
    return by_number(answer, {
        "right": wanted, "usual, one attempt": 0.5, "usual, the kept ones": 1 - wanted,
        "usual, shared": 0.5 / attempts}), {"attempts": attempts, "wanted": wanted}


_NAMES = ("Dunen Wren", "Marlo Wren", "Berish Wren")


def _rationale(denied: Sequence[str], order: Sequence[str] = _NAMES) -> str:
    """A rationale for the first of `_NAMES` in which the comparison marks these candidates as different."""
    entries = (f"{name}: red crown{' (differs)' * (name in denied)}, plain wings" for name in order)
    return write_rationale("red crown, plain wings", order, "; ".join(entries), _NAMES[0])


@check
def denies_its_label(function: Any) -> Any:
    """Extend: a filter (text, label) -> bool that finds a comparison which marks the label as different."""
    label, *others = _NAMES
    last = [*others, label]
    return by_trials(function, label, [
        (_rationale(others), False, "usual"),
        (_rationale(others, last), False, "not yet, sound"),
        (_rationale([label]), True, "not yet, denied"),
        (_rationale([label], last), True, "not yet, denied last"),
        (f"<answer>{label}</answer>", False, "not yet, no comparison")])


# --- 02 CoT SFT ---


@check
def better_by_its_loss(answer: Any, log: Any) -> Any:
    """Read: which model is better on unseen sub-categories by its loss curve alone, or "cannot tell".

    `log` has the columns model and loss, in the order of the steps.
    """
    last = log.groupby("model", sort=False)["loss"].last()
    keys = dict.fromkeys(last.index, "usual, the other")
    keys |= {last.idxmin(): "usual, the lower", "cannot tell": "right"}
    return keys.get(str(answer), "not yet"), {
        "ends": " and ".join(f"{value:.2g} ({model})" for model, value in last.items()),
        "models": ", ".join(map(repr, last.index))}


@check
def weights_of_rank_two(answer: Any, moved: int, lora_rank: int, finetuning: str) -> Any:
    """Change: how many weights LoRA trains at rank 2, given that it trains `moved` at `lora_rank`."""
    if finetuning != "lora":
        return "not here"
    wanted = 2 * moved / lora_rank
    return by_number(answer, {
        "right": wanted, "usual, the same": moved, "usual, squared": wanted * 2 / lora_rank,
    }), {"millions": wanted / 1e6, "moved": moved, "lora_rank": lora_rank}


# p, is_completion, is_answer
_PLAIN = [1e-9, 0.5, 0.9, 0.6, 0.8], [False, False, True, True, True], [False, False, False, True, True]


def _loss(weights: list[float], divisor: float) -> float:
    return -sum(w * math.log(p) for w, p in zip(weights, _PLAIN[0])) / divisor


@check
def weighted_loss(function: Any) -> Any:
    """Extend: (p, is_completion, is_answer, weight) -> mean of -log p, answers counted `weight` times."""
    plain, heavy = (number(run(function, *_PLAIN, weight)) for weight in (1.0, 3.0))
    if near(plain, _loss([1] * 5, 5)) or near(heavy, _loss([1, 1, 1, 3, 3], 9)):
        return "usual, the question"
    if not near(plain, _loss([0, 0, 1, 1, 1], 3)):
        return "not yet, plain"
    weighted = [0, 0, 1, 3, 3]
    return by_number(heavy, {"usual, the divisor": _loss(weighted, 3), "not yet, no weight": plain,
                             "right": _loss(weighted, 7)})


# --- 03 TAPO ---


@check
def matched_budget(answer: Any, n_anchor: int, n_positive: int) -> Any:
    """Read: how many rollouts DAPO draws over each anchor, so that its budget is TAPO's."""
    wanted = n_anchor + n_positive
    key = by_number(answer, {"right": wanted, "usual": n_anchor}, share=0)
    return key, {"wanted": wanted, "n_anchor": n_anchor, "n_positive": n_positive}


TOKENS, RATIO = 50, 1.2  # of the exercise's rollout: its length, and p(own image) / p(negative) of a token


@check
def divergence_as_printed(answer: Any) -> Any:
    """Change: the paper's divergence of one rollout, each of whose tokens is 1.2 times as likely."""
    log_g, token, k3 = TOKENS * math.log(RATIO), RATIO - math.log(RATIO) - 1, 1 / RATIO + math.log(RATIO) - 1
    return by_number(answer, {
        "right": math.exp(log_g) - log_g - 1, "usual, one token": token, "usual, added": TOKENS * token,
        "not yet, k3": k3, "not yet, k3 added": TOKENS * k3, "not yet, inverse": math.exp(-log_g) + log_g - 1,
    }), {"ratio": RATIO, "tokens": TOKENS, "k3": k3}


@check
def three_images(function: Any) -> Any:
    """Extend: rewards of the rollouts over each image -> advantages, one group over all images."""
    images = [[1.0, 0.1], [1.0, 1.0], [0.0, 0.1]]
    found, wanted = run(function, images), _by_hand(images)
    if _close(found, [_by_hand([rewards])[0] for rewards in images]):
        return "usual, groups"
    if _close(found, _by_hand(images, freedom=0)):
        return "usual, biased"
    if not _close(found, wanted):
        return "not yet", {"images": images, "wanted": [[round(a, 3) for a in part] for part in wanted]}
    equal = _close(run(function, [[1.0, 1.0], [1.0], [1.0]]), [[0.0, 0.0], [0.0], [0.0]])
    return "right" if equal else "usual, not finite"


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
def official_alone(answer: Any, records: Sequence[Mapping], scorers: Sequence[Any]) -> Any:
    """Read: a closed-world record that `official` calls right and `strict` wrong, or "none".

    `scorers` are official and strict, in this order.
    """
    def verdicts(record: Mapping) -> list[bool]:
        return [scorer.closed(record)["accuracy"] == 1 for scorer in scorers]

    if isinstance(answer, str) and answer == "none":
        closed = [record for record in records if record["setting"] == "closed_world"]
        if any(verdicts(record) == [True, False] for record in closed):
            return "not yet, there is one"
        return "right, none", {"closed": len(closed)}
    if not isinstance(answer, Mapping) or answer.get("setting") != "closed_world":
        return "not yet, no record"
    by_official, by_strict = verdicts(answer)
    if by_official == by_strict:
        return "usual", {"both": "accept" if by_strict else "refuse"}
    return "not yet" if by_strict else "right"


@check
def first_under_rotations(answer: Any) -> Any:
    """Change: the score of "always the first option" where all four rotations must be right."""
    return by_number(answer, {"right": 0, "usual, one rotation": 0.25, "usual, draws": 0.25**4})


@check
def forgiving(function: Any) -> Any:
    """Extend: (completion, label) -> 1.0 for one answer that is the label in a short sentence, else 0.0."""
    right = ("Dunen Wren", "dunen-wren", "a Dunen Wren", "It is a Dunen Wren.")
    return by_trials(function, "Dunen Wren", [
        ("<answer>not a Dunen Wren</answer>", False, "usual, denied"),
        ("<answer>Marlo Wren, Dunen Wren</answer>", False, "usual, a list"),
        ("<answer>Redunen Wren</answer>", False, "usual, a part"),
        ("<answer>Dunen Wren or Marlo Wren</answer>", False, "not yet, or"),
        ("<answer>Marlo Wren</answer><answer>Dunen Wren</answer>", False, "not yet, two"),
        ("I think it is a Dunen Wren.", False, "not yet, no tags"),
        ("<answer>Marlo Wren</answer>", False, "not yet, another"),
        *((f"<think>Long.</think><answer>{said}</answer>", True, "not yet, refused") for said in right)])


# --- 05 probing ---


@check
def what_may_be_said(answer: Any) -> Any:
    """Read: a difference of -0.01 with an interval of [-0.06, +0.04] and a margin of 0.02."""
    keys = {"undecided": "right", "equal": "usual", "different": "not yet, different"}
    return keys.get(str(answer), "not yet")


@check
def auc_of_the_embeddings(answer: Any) -> Any:
    """Change: H3's AUC at layer 0, where the last token of every question is the same."""
    key = by_number(answer, {"right": 0.5, "not yet, percent": 50, "usual, wrong order": 0})
    return "usual, above" if key == "not yet" and number(answer) > 0.5 else key


_EPITHETS = {"Wren": "ABCDE", "Tern": "FGHI", "Lark": "JKL", "Heron": "MN", "Finch": "O"}
_GENERA = {f"{letter} {genus}": genus for genus, letters in _EPITHETS.items() for letter in letters}


@check
def swaps_within_genus(function: Any) -> Any:
    """Extend: ({name: genus}, seed) -> groups of names of one genus that exchange their names."""
    groups = [tuple(group) for group in run(function, _GENERA, 0)]
    used = [name for group in groups for name in group]
    if any(name not in _GENERA for name in used):
        return "not yet, no name"
    if mixed := next((group for group in groups if len({_GENERA[name] for name in group}) > 1), None):
        return "usual, genera", {"names": " and ".join(mixed)}
    if twice := next((name for name in used if used.count(name) > 1), None):
        return "usual, twice", {"name": twice}
    if any(len(group) < 2 for group in groups):
        return "not yet, alone"
    if len(used) < 12:
        return "not yet, too few", {"used": len(used)}
    same = sorted(map(sorted, groups)) == sorted(map(sorted, run(function, _GENERA, 1)))
    return "not yet, the seed" if same else "right"
