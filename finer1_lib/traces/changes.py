"""Traces before and after a training: the same items under two models.

    before_and_after(["cot_sft", "cot_sft_dapo", "cot_sft_tapo"])   ("cot_sft", "cot_sft_tapo")
    changes(table, "cot_sft", "cot_sft_tapo", seed=0)   every quantity, paired and tested
    flow(table, "cot_sft", "cot_sft_tapo")              how many items went from which step to which

Source: METHOD 3 (TAPO on top of CoT SFT; no gain is presumed); the tables are our choice.
"""

from typing import Optional, Sequence

from finer1_lib.errors import UserError
from finer1_lib.scores.scoring import reading
from finer1_lib.statistics import paired_difference
from finer1_lib.traces.statistics import CATEGORIES, QUANTITIES, STEPS, scaled


def before_and_after(models: Sequence[str]) -> Optional[tuple[str, str]]:
    """The two models to compare: CoT SFT and TAPO, else the first and the last; None for fewer than two."""
    models = list(dict.fromkeys(models))
    if {"cot_sft", "cot_sft_tapo"} <= set(models):
        return "cot_sft", "cot_sft_tapo"
    return (models[0], models[-1]) if len(models) > 1 else None


def pair_of(table, first: str, second: str):
    """The two models' rows in the same order of items.

    Raises:
        UserError: the two did not answer the same items.
    """
    sides = [table[table["model"] == model].sort_values("item_id", ignore_index=True)
             for model in (first, second)]
    if sides[0]["item_id"].tolist() != sides[1]["item_id"].tolist():
        raise UserError(f"traces of {first} and {second} are not of the same items: run 04_evaluation again")
    return sides


def changes(table, first: str, second: str, *, seed: int):
    """`second` minus `first` on the same items, for every quantity: before and after a training.

    Items where one of the two has no value (a part that cannot be read) are left out; n says how many stay.

    Returns:
        A DataFrame with quantity, label, unit, categories, difference, low, high, p, n, reading.
    """
    import pandas as pd

    before, after = pair_of(table, first, second)
    rows = []
    for categories in CATEGORIES:
        for name, quantity in QUANTITIES.items():
            here = (before["categories"] == categories) & before[name].notna() & after[name].notna()
            if here.any():
                columns = [side.loc[here, name].astype(float) for side in (after, before)]
                found = scaled(paired_difference, columns, before[here], seed, quantity.unit)
                rows.append({"quantity": name, **quantity._asdict(), "categories": categories,
                             "difference": found.value, "low": found.low, "high": found.high, "p": found.p,
                             "n": found.n, "reading": reading(found)})
    return pd.DataFrame(rows, columns=["quantity", "label", "unit", "categories", "difference", "low", "high",
                                       "p", "n", "reading"])


def flow(table, first: str, second: str):
    """The same items under two models: how many went from which step to which.

    Returns:
        A DataFrame with categories, from_step, to_step, count; what did not occur is left out.

    Raises:
        UserError: the two did not answer the same items.
    """
    import pandas as pd

    before, after = pair_of(table, first, second)
    cells = pd.DataFrame({"categories": before["categories"], "from_step": before["step"],
                          "to_step": after["step"]}).value_counts()
    rows = [{"categories": categories, "from_step": a, "to_step": b, "count": int(cells[categories, a, b])}
            for categories in CATEGORIES for a in STEPS for b in STEPS if (categories, a, b) in cells.index]
    return pd.DataFrame(rows, columns=["categories", "from_step", "to_step", "count"])


def turns(flows, categories: str) -> dict[str, int]:
    """Of a `flow`, how many items of these categories were mended, broken, right twice and wrong twice."""
    part = flows[flows["categories"] == categories]
    was, is_ = part["from_step"] == "right", part["to_step"] == "right"
    cells = {"mended": ~was & is_, "broken": was & ~is_, "right_twice": was & is_, "wrong_twice": ~was & ~is_}
    return {name: int(part.loc[here, "count"].sum()) for name, here in cells.items()}
