"""Which items are asked: all, some of each sub-category, or a stratified subset of a given size.

A subset by budget keeps what the tables average over: every super-category, seen and unseen, gets an equal
share of the questions (less where it has no more), and inside each the items are taken at equal distances
along its sub-categories from a start that the seed draws. So every item of a stratum is as likely as any
other, its mean is the mean of the whole but for chance, and sub-categories are covered evenly.

The interval of such a mean is the clustered one of every other table, as if the subset were all there is.
That is on the safe side: it knows neither that the strata are finite nor that even spacing leaves out less
than chance would.

Why: 35,566 items are days of computing for a large model.

How much of the paper's data a run stands on, in the one line that every table of a partial run carries.

    >>> pets = {"pet": {"complete": True, "split": "release"}}
    >>> coverage({"data_sets": pets, "missing": {"bird": "no folder"}})
    "PARTIAL: 1 of the paper's 6 data sets (pet); missing: bird"

A run on the drawn world or on a folder of one's own is no part of the paper's data, and gets no such line.

The paper's averages are over six data sets.
"""

import random
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import read_json
from finer1_lib.runs.fingerprints import parameters_of


def select_items(items: Iterable[Mapping], images: Any, *, images_per_class: int, seed: int,
                 budget: int = 0) -> list[dict]:
    """The items to evaluate, with the image's width and height (pixels) for batching.

    Args:
        items: the lines of `items.jsonl`.
        images: DataFrame with image_id, width, height.
        images_per_class: at most so many test images of each sub-category, drawn by seed; 0 takes all.
        seed: of the draw.
        budget: at most so many items in all, of those that `images_per_class` leaves; 0 takes them all.

    Raises:
        UserError: a negative number, a budget below one item a stratum, no items, or an item whose image the
            table lacks.
    """
    for name, value in (("images_per_class", images_per_class), ("items_budget", budget)):
        if value < 0:
            raise UserError(f"{name} is {value}: give 0 for all, or a positive number")
    sizes = dict(zip(images["image_id"], zip(images["width"], images["height"])))
    classes: dict[tuple, list[dict]] = {}
    for item in items:
        if item["image_id"] not in sizes:
            raise UserError(f"items.jsonl asks for {item['image_id']}, which images.parquet lacks: run "
                            "01_data again")
        width, height = map(int, sizes[item["image_id"]])
        key = item["super_category"], item["sub_category"]
        classes.setdefault(key, []).append({**item, "width": width, "height": height})
    if not classes:
        raise UserError("items.jsonl holds no items: run 01_data again")
    chosen = []
    for key, members in sorted(classes.items()):
        members.sort(key=lambda item: item["item_id"])
        random.Random(f"{seed}/evaluation/{'/'.join(key)}").shuffle(members)
        chosen += members[: images_per_class or None]
    if budget and budget < len(chosen):
        chosen = _subset(chosen, budget, seed)
    return sorted(chosen, key=lambda item: item["item_id"])


def names_of(images: Any) -> dict[str, list[str]]:
    """{super_category: all its sub-categories, sorted}, of the rows of images.parquet."""
    found = images.groupby("super_category")["sub_category"].unique()
    return {word: sorted(names) for word, names in found.items()}


def _subset(items: Sequence[dict], budget: int, seed: int) -> list[dict]:
    """So many items in equal shares of the strata, evenly spaced inside each; the items of a class adjoin."""
    strata: dict[tuple, list[dict]] = {}
    for item in items:
        strata.setdefault((item["super_category"], item["categories"]), []).append(item)
    if budget < len(strata):
        raise UserError(f"items_budget is {budget}: give 0 for all, or at least {len(strata)}, one for each "
                        "super-category's seen and unseen")
    found = []
    for (key, members), share in zip(sorted(strata.items()), _shares(strata, budget)):
        start = random.Random(f"{seed}/budget/{'/'.join(key)}").random()
        found += [members[int((start + k) * len(members) / share)] for k in range(share)]
    return found


def _shares(strata: Mapping[tuple, Sequence], budget: int) -> list[int]:
    """How many items each stratum gives: equal shares; what a small one cannot give goes to the others."""
    sizes = [len(members) for _, members in sorted(strata.items())]
    shares, left = [0] * len(sizes), budget
    smallest_first = sorted(range(len(sizes)), key=sizes.__getitem__)
    for place, stratum in enumerate(smallest_first):
        shares[stratum] = min(left // (len(sizes) - place), sizes[stratum])
        left -= shares[stratum]
    return shares


def coverage(data: Mapping[str, Any], images_per_class: int = 0, items_budget: int = 0) -> str:
    """The label of a run by its 01_data/data.json; "" if all six data sets are whole and split as released.

    Args:
        data: its content. `data_sets`: {word: {"complete": bool, "split": "release" or "seeded"}};
            `missing`: {word: why}. Both are absent or empty for other data.
        images_per_class: test pictures asked about per sub-category, 0 for all.
        items_budget: test pictures asked about in all, 0 for all.
    """
    held, missing = data.get("data_sets") or {}, data.get("missing") or {}
    if not held:
        return ""
    from finer1_lib.data.data_sets.catalogue import DATA_SETS

    told = []
    if len(held) < len(DATA_SETS):
        told.append(f"{len(held)} of the paper's {len(DATA_SETS)} data sets ({', '.join(sorted(held))})")
    if missing:
        told.append(f"missing: {', '.join(sorted(missing))}")
    if cut := sorted(word for word, one in held.items() if not one["complete"]):
        told.append(f"not all pictures of {', '.join(cut)}")
    if own := sorted(word for word, one in held.items() if one["split"] != "release"):
        told.append(f"not the release's seen and unseen in {', '.join(own)}")
    if images_per_class:
        told.append(f"{images_per_class} test pictures of each sub-category at most")
    if items_budget:
        told.append(f"{items_budget} test pictures at most, a stratified subset")
    return f"PARTIAL: {'; '.join(told)}" if told else ""


def coverage_of(run_dir: "str | Path") -> str:
    """The same for a run; "" before 01 has finished."""
    stages = ("01_data", "04_evaluation")
    values = [parameters_of(Path(run_dir) / stage) for stage in stages]
    limits = [found for one in values if (found := one.get("images_per_class", 0))]
    budget = values[-1].get("items_budget", 0)
    return coverage(read_json(Path(run_dir) / "01_data" / "data.json"), min(limits, default=0), budget)
