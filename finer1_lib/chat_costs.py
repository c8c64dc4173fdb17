"""What a large teacher's answers took: tokens and money, counted from the file of the answers alone.

    spent(Path("answers.jsonl"), prices=[2.5, 10.0])
        -> {"answers": 1, "prompt_tokens": 1310, "completion_tokens": 9, "uncounted": 0, "cost": 0.003365}

Source: our choice.
"""

from pathlib import Path
from typing import Any, Sequence

from finer1_lib.errors import UserError
from finer1_lib.chat_replies import NO_TEXT
from finer1_lib.files import read_jsonl

_TOKENS = ("prompt_tokens", "completion_tokens")


def read_answers(answers: Path, truncate: bool = False) -> list[dict]:
    """The lines of a file of answers, each looked over; a missing file has none.

    Raises:
        UserError: a line that is none of `ChatEndpoint`'s.
    """
    fix = "take that line out of the file; the others are paid for and stay"
    lines = read_jsonl(Path(answers), truncate=truncate, fix=fix)
    for number, line in enumerate(lines, start=1):
        whole = isinstance(line, dict) and isinstance(line.get("truncated"), bool)
        if not whole or not all(isinstance(line.get(name), str) for name in ("key", "text")) or not all(
            line.get(name) is None or type(line[name]) is int for name in _TOKENS
        ):
            raise UserError(f"{answers} line {number} is no answer of an endpoint: {fix}")
    return lines


def without_text(answers: Path) -> dict[str, int]:
    """{why: how many answers of a file hold no text}, by the keys of `chat_replies.NO_TEXT`."""
    why = [line.get("no_text") or "empty" for line in read_answers(answers) if not line["text"]]
    return {kind: why.count(kind) for kind in NO_TEXT if kind in why}


def advice(answers: Path) -> str:
    """How many answers hold no text, why, and what to do about it; "" where all do."""
    return "; ".join(f"{count} without text: {NO_TEXT[why]}" for why, count in without_text(answers).items())


def spent(answers: Path, prices: Sequence[float] = ()) -> dict[str, Any]:
    """Tokens and cost of all answers in a file.

    Args:
        answers: of a `chat_endpoint.ChatEndpoint`; a missing file counts nothing.
        prices: of a million tokens read and of a million written; empty for unknown.

    Returns:
        answers; prompt_tokens and completion_tokens as the server counts them; uncounted (answers without
        such a count); cost in the prices' currency, None without prices. Tries that failed are not in it.

    Raises:
        UserError: prices that are not two numbers of at least 0.
    """
    prices = list(prices)
    if prices and (len(prices) != 2 or not all(0 <= price < float("inf") for price in prices)):
        raise UserError(f"teacher_prices is {prices}: give two (a million tokens read, written) or none")
    lines = read_answers(answers)
    counted = {kind: sum(line.get(kind) or 0 for line in lines) for kind in _TOKENS}
    cost = sum(price * counted[kind] for price, kind in zip(prices, _TOKENS)) / 1e6 if prices else None
    missing = sum(any(line.get(kind) is None for kind in _TOKENS) for line in lines)
    return {"answers": len(lines), **counted, "uncounted": missing, "cost": cost}


def told(answers: Path, prices: Sequence[float] = ()) -> str:
    """One line of `spent`."""
    took = spent(answers, prices)
    cost = "" if took["cost"] is None else f", {took['cost']:.2f} at the prices given"
    missing = f"; {took['uncounted']} answers without a count" if took["uncounted"] else ""
    return "; ".join(filter(None, (
        f"{took['answers']} answers: {took['prompt_tokens']:,} tokens read, {took['completion_tokens']:,}"
        f" written{cost}{missing}", advice(answers))))
