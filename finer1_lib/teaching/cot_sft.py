"""Checks of notebook 02's exercises: what a loss does not say, what a rank costs, a loss with weights.

Source: our choice.
"""

import math
from typing import Any

from finer1_lib.teaching.verdicts import ask, check, near, not_here, not_yet, number, right, usual


@check
def better_by_its_loss(answer: Any, log: Any) -> str:
    """Read: which model is better on unseen sub-categories, judging by the loss curves alone.

    Args:
        answer: a model's name or "cannot tell".
        log: DataFrame: model, loss, in the order of the steps.
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
    """Change: how many weights LoRA trains at rank 2.

    Args:
        answer: a number of weights.
        moved: how many it trains at `lora_rank`.
        lora_rank, finetuning: the notebook's parameters.
    """
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
    plain, heavy = number(ask(function, *_PLAIN, 1.0)), number(ask(function, *_PLAIN, 3.0))
    if near(plain, _loss([1] * 5, 5)) or near(heavy, _loss([1, 1, 1, 3, 3], 9)):
        return usual("the question's tokens count too: they have weight 0")
    if not near(plain, _loss([0, 0, 1, 1, 1], 3)):
        return not_yet("with weight 1 it must be the plain loss of section 2")
    if near(heavy, _loss([0, 0, 1, 3, 3], 3)):
        return usual("divide by the sum of the weights, not by the number of tokens, or it is no mean")
    if near(heavy, plain):
        return not_yet("the weight changes nothing")
    if not near(heavy, _loss([0, 0, 1, 3, 3], 7)):
        return not_yet("p 0.9 with weight 1, then 0.6 and 0.8 with weight 3: divide by 1 + 3 + 3")
    return right("a mean again, in which the few tokens of the name are no longer lost among the easy ones")
