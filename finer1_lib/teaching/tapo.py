"""Checks of notebook 03's exercises: a matched budget, the paper's divergence, a group of three pictures.

Source: our choice; the divergence is METHOD 3, row "divergence D".
"""

import math
from typing import Any, Sequence

from finer1_lib.teaching.verdicts import ask, check, near, not_yet, number, right, usual


@check
def matched_budget(answer: Any, n_anchor: int, n_positive: int) -> str:
    """Read: how many rollouts DAPO draws over each anchor, so that its budget is TAPO's."""
    value, wanted = number(answer), n_anchor + n_positive
    if value == wanted:
        return right(f"all {wanted} over the anchor: the pictures differ, not the number of tries")
    if value == n_anchor:
        return usual("with half as many tries DAPO would lose to TAPO for that alone: it has no positives")
    return not_yet(f"TAPO draws {n_anchor} + {n_positive} rollouts a triplet; see column n_anchor, row dapo")


TOKENS, RATIO = 50, 1.2  # of the exercise's rollout: its length, and p(own picture) / p(negative) of a token


@check
def divergence_as_printed(answer: Any) -> str:
    """Change: the paper's divergence of one rollout, each of whose tokens is 1.2 times as likely."""
    value, log_g = number(answer), TOKENS * math.log(RATIO)
    token = RATIO - math.log(RATIO) - 1
    k3 = 1 / RATIO + math.log(RATIO) - 1
    if near(value, math.exp(log_g) - log_g - 1):
        told = f"k3 of the same tokens is {k3:.4f} each; a gamma for one is no gamma for the other"
        return right(f"g is a product over the whole rollout, {RATIO} to the power of {TOKENS}: {told}")
    if near(value, token):
        return usual("g is the ratio of the whole rollout, not of one token: the tokens' ratios multiply")
    if near(value, TOKENS * token):
        return usual("the tokens' ratios multiply into one g first; their divergences are not added")
    if near(value, k3) or near(value, TOKENS * k3):
        return not_yet("that is k3; pass 'paper' to the library's divergence")
    if near(value, math.exp(-log_g) + log_g - 1):
        return not_yet("g is p(own picture) over p(negative), not the other way round")
    return not_yet("g - log g - 1 with g = 1.2 to the power of 50, or ask divergence_of('paper', ...)")


@check
def three_images(function: Any) -> str:
    """Extend: rewards of the rollouts over each picture -> advantages, one group over all pictures."""
    pictures = [[1.0, 0.1], [1.0, 1.0], [0.0, 0.1]]
    found = ask(function, pictures)
    wanted = _by_hand(pictures)
    if _close(found, [_by_hand([rewards])[0] for rewards in pictures]):
        return usual("each picture is a group of its own here: take one mean and deviation over all six")
    if _close(found, _by_hand(pictures, freedom=0)):
        return usual("divide the sum of squares by 5, not by 6: the library takes the unbiased deviation")
    if not _close(found, wanted):
        return not_yet(f"for {pictures} it should be {[[round(a, 3) for a in part] for part in wanted]}")
    if not _close(ask(function, [[1.0, 1.0], [1.0], [1.0]]), [[0.0, 0.0], [0.0], [0.0]]):
        return usual("where every rollout is right there is nothing to learn: the advantages are 0, not nan")
    return right("a rollout is judged by what was possible over any of the three pictures")


def _by_hand(pictures: Sequence[Sequence[float]], freedom: int = 1) -> list[list[float]]:
    flat = [reward for rewards in pictures for reward in rewards]
    mean = sum(flat) / len(flat)
    std = math.sqrt(sum((reward - mean) ** 2 for reward in flat) / (len(flat) - freedom))
    return [[(reward - mean) / std if std else 0.0 for reward in rewards] for rewards in pictures]


def _close(found: Any, wanted: Sequence[Sequence[float]]) -> bool:
    """Lists of lists (or tensors) that agree to three digits."""
    try:
        found = [[float(value) for value in part] for part in found]
    except (TypeError, ValueError):
        return False
    return [len(part) for part in found] == [len(part) for part in wanted] and all(
        abs(a - b) < 2e-3 for mine, theirs in zip(found, wanted) for a, b in zip(mine, theirs)
    )
