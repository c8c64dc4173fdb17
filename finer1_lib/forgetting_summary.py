"""Forgetting in numbers: what each setting lost and gained against the base, question by question.

The same questions are put before and after, so a change is a paired difference; its interval resamples whole
sub-categories.

Source: our choice.
"""

from typing import Any, Mapping, Optional, Sequence

from finer1_lib.forgetting import BASE, GAUGES, OPEN_WORLD, SETTINGS, TWINS
from finer1_lib.rewards import normalise
from finer1_lib.scores.answers import answer_of
from finer1_lib.statistics import clustered_mean, paired_difference


def summarise(records: Sequence[Mapping], seed: int = 0) -> Any:
    """Before and after, per setting and gauge; the open world for seen and unseen sub-categories apart.

    Args:
        records: of `measure`, of the base and of every setting, over the same questions.
        seed: of the resampling.

    Returns:
        DataFrame: setting, label, gauge, categories ("all", "seen", "unseen"), before, before_low,
        before_high, value, low, high (fractions, 95 % intervals over sub-categories), change, change_low,
        change_high (paired), readable (share), n.
    """
    import pandas as pd

    table = pd.DataFrame(records)
    table["image_id"] = table["image_id"].fillna("")
    rows, known = [], _known()
    for setting in [name for name in dict.fromkeys(table["setting"]) if name != BASE]:
        mine = table[table["setting"] == setting]
        mine = mine[(mine["gauge"] != OPEN_WORLD) | (mine["prompt"] == known[setting].prompt)]
        for gauge in (*GAUGES, OPEN_WORLD):
            kinds = ("seen", "unseen") if gauge == OPEN_WORLD else ("all",)
            for kind in kinds:
                part = mine[mine["gauge"] == gauge]
                part = part[part["categories"] == kind] if kind != "all" else part
                if len(part):
                    label = {"setting": setting, "label": known[setting].label, "gauge": gauge}
                    rows.append({**label, "categories": kind, **_compare(part, table, seed)})
    found = pd.DataFrame(rows)
    bounds = [name for name in found if name.endswith(("low", "high"))]
    return found.astype({name: float for name in bounds})  # None (no interval to be had) becomes NaN


def _known() -> dict[str, Any]:
    return {**SETTINGS, **{setting.name: setting for setting in TWINS.values()}}


def unseen_answers(records: Sequence[Mapping], guide: Optional[Mapping]) -> Any:
    """What is said of pictures of unseen sub-categories: the truth, a name that training taught, or another.

    Args:
        records: as for `summarise`.
        guide: the attributes, or None: then nobody can say how far a wrong name is.

    Returns:
        DataFrame, a row a setting: label, right, seen_name, other (shares; another unseen name, or none), n;
        attributes_wrong: of the wrong names that the guide knows, the mean number of attributes in which
        they differ from the truth.
    """
    import pandas as pd

    known, rows = _known(), []
    asked = [r for r in records if r["gauge"] == OPEN_WORLD and r["setting"] in known
             and r["prompt"] == known[r["setting"]].prompt]
    seen = {normalise(r["sub_category"]) for r in asked if r["categories"] == "seen"}
    told = {} if guide is None else guide["sub_categories"]
    entries = {normalise(name): entry["attributes"] for name, entry in told.items()}
    for setting in dict.fromkeys(r["setting"] for r in asked):
        part = [r for r in asked if r["setting"] == setting and r["categories"] == "unseen"]
        said = [normalise(answer_of(r) or "") for r in part]
        truths = [normalise(r["sub_category"]) for r in part]
        far = [sum(entries[a].get(key) != value for key, value in entries[b].items())
               for a, b in zip(said, truths) if a != b and a in entries and b in entries]
        kinds = ["right" if a == b else "seen_name" if a in seen else "other" for a, b in zip(said, truths)]
        shares = {kind: kinds.count(kind) / max(len(part), 1) for kind in ("right", "seen_name", "other")}
        rows.append({"setting": setting, "label": known[setting].label, **shares,
                     "attributes_wrong": sum(far) / len(far) if far else None,
                     "n": len(part)})
    return pd.DataFrame(rows)


def _compare(part: Any, table: Any, seed: int) -> dict[str, Any]:
    """One cell of `summarise`: the same questions, answered by the base and by the setting."""
    keys = ["gauge", "prompt", "image_id", "sub_category", "text"]
    base = table[table["setting"] == BASE]
    pairs = part.merge(base, on=keys, suffixes=("", "_before"), validate="one_to_one")
    if len(pairs) != len(part):
        asked = part["gauge"].iloc[0]
        raise ValueError(f"the base answered {len(pairs)} of {len(part)} questions of {asked}")
    where = list(pairs["sub_category"]), list(pairs["super_category"])
    after, before = list(pairs["value"]), list(pairs["value_before"])
    cell = {}
    for prefix, estimate in (("before_", clustered_mean(before, *where, seed=seed)),
                             ("", clustered_mean(after, *where, seed=seed)),
                             ("change_", paired_difference(after, before, *where, seed=seed))):
        cell[prefix.rstrip("_") or "value"] = estimate.value
        cell |= {f"{prefix}low": estimate.low, f"{prefix}high": estimate.high}
    return {**cell, "readable": float(pairs["readable"].mean()), "n": len(pairs)}


def losses(changes: Any) -> str:
    """What was forgotten, in a sentence: every gauge of every setting whose whole interval lies below zero.

    Args:
        changes: of `summarise`, with at least one gauge.
    """
    gauges = changes[changes["gauge"] != OPEN_WORLD]
    lost = gauges[gauges["change_high"] < 0].sort_values("change")
    if lost.empty:
        least = gauges.loc[gauges["change"].idxmin()]
        return (f"none of {len(gauges)} gauges fell clearly; the lowest change is {_points(least)}"
                f" ({least['label']}, {GAUGES[least['gauge']]}, n = {least['n']})")
    told = [f"{row['label']}: {GAUGES[row['gauge']]} {_points(row)}, {row['readable']:.0%} in the asked form"
            for _, row in lost.iterrows()]
    return f"{len(lost)} of {len(gauges)} gauges fell clearly; " + "; ".join(told)


def gains(changes: Any) -> list[str]:
    """The open world after training, a line a setting."""
    opened = changes[changes["gauge"] == OPEN_WORLD]
    lines = []
    for label, part in opened.groupby("label", sort=False):
        told = [f"{row['categories']} {row['value']:.0%} (before {row['before']:.0%}, n = {row['n']})"
                for _, row in part.iterrows()]
        lines.append(f"{label}: " + ", ".join(told))
    return lines


def _points(row: Mapping) -> str:
    low, high = 100 * row["change_low"], 100 * row["change_high"]
    return f"{100 * row['change']:+.1f} points [{low:+.1f}, {high:+.1f}]"
