"""What a large teacher's answers took: tokens and money, counted from the file of the answers alone.

    spent(Path("answers.jsonl"), prices=[2.5, 10.0])
        -> {"answers": 1, "prompt_tokens": 1310, "completion_tokens": 9, "uncounted": 0, "cost": 0.003365}

Source: our choice.
"""

from pathlib import Path
from typing import Any, Sequence

from finer1_lib.errors import UserError
from finer1_lib.files import read_jsonl


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
    lines, kinds = read_jsonl(Path(answers)), ("prompt_tokens", "completion_tokens")
    counted = {kind: sum(line[kind] or 0 for line in lines) for kind in kinds}
    cost = sum(price * counted[kind] for price, kind in zip(prices, kinds)) / 1e6 if prices else None
    missing = sum(any(line[kind] is None for kind in kinds) for line in lines)
    return {"answers": len(lines), **counted, "uncounted": missing, "cost": cost}


def told(answers: Path, prices: Sequence[float] = ()) -> str:
    """One line of `spent`."""
    took = spent(answers, prices)
    cost = "" if took["cost"] is None else f", {took['cost']:.2f} at the prices given"
    missing = f"; {took['uncounted']} answers without a count" if took["uncounted"] else ""
    return (f"{took['answers']} answers: {took['prompt_tokens']:,} tokens read, {took['completion_tokens']:,}"
            f" written{cost}{missing}")
