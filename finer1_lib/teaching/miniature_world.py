"""Checks of notebook 00's exercises: an interval read, an interval narrowed, and look-alikes.

Source: our choice.
"""

from typing import Any, Mapping

from finer1_lib.teaching.verdicts import ask, check, near, not_here, not_yet, number, right, usual


@check
def never_wrong(answer: Any, reading: Any) -> str:
    """Read: of an unseen cell that was always right, how many in a hundred may still be wrong (percent).

    Args:
        answer: percent.
        reading: DataFrame of the card's rows: categories, value, low, n.
    """
    sure = reading[(reading["categories"] == "unseen") & (reading["value"] == 1)]
    if sure.empty:
        return not_here("no attribute of an unseen sub-category was read rightly every time")
    value, (row, *_) = number(answer), sure.to_dict("records")
    open_to = 100 * (1 - row["low"])
    if near(value, open_to, 0.03):
        return right(f"{row['n']} of {row['n']} right leaves up to {open_to:.1f} wrong in a hundred open")
    if value == 0:
        return usual(f"never wrong in {row['n']} pictures is not never wrong: read where its interval begins")
    if near(value, 100 * row["low"], 0.03):
        return usual("that is how many must be right; asked is how many may be wrong")
    return not_yet(f"take 100 minus the lower end, in percent, of an unseen cell at 100 % (n = {row['n']})")


@check
def four_times_the_images(answer: Any) -> str:
    """Change: how many times narrower an interval gets with four times the pictures."""
    value = number(answer)
    if near(value, 2, 0.1):
        return right("the width goes with one over the root of n: twice as narrow costs four times as much")
    if near(value, 4, 0.1):
        return usual("the width does not go with one over n but with one over its root")
    if near(value, 0.5, 0.1):
        return usual("that is the new width; asked is how many times narrower it is")
    return not_yet("compare the widths of proportion_confint(54, 60) and proportion_confint(216, 240)")


@check
def look_alikes(function: Any, guide: Mapping) -> str:
    """Extend: all other sub-categories that differ from one in the fewest attributes.

    Args:
        function: (guide, name) -> names, in any order.
        guide: with "sub_categories": {name: {"super_category", "attributes"}}.
    """
    entries, asked = guide["sub_categories"], 0
    for name, entry in entries.items():
        gaps = {
            other: sum(entry["attributes"][key] != theirs["attributes"][key] for key in entry["attributes"])
            for other, theirs in entries.items()
            if other != name and theirs["super_category"] == entry["super_category"]
        }
        if not gaps:
            continue
        wanted = {other for other, gap in gaps.items() if gap == min(gaps.values())}
        found, asked = set(ask(function, guide, name)), asked + 1
        if name in found:
            return usual(f"nothing is nearer to the {name} than itself: leave it out")
        if found < wanted:
            return usual(f"{len(wanted)} sub-categories are equally near to the {name}, not {len(found)}")
        if found - set(gaps):
            stranger = min(found - set(gaps))
            return not_yet(f"{stranger} is unknown, or of another super-category than the {name}")
        if found != wanted:
            return not_yet(f"the {name}: {len(wanted)} differ from it in {min(gaps.values())}, look again")
    return right(f"asked about {asked} sub-categories; these are the wrong names a model should be tested on")
