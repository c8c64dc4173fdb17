"""Which items are queried: all, some of each sub-category, or a stratified subset; and a run's coverage.

A subset by budget keeps what the tables average over: every super-category, seen and unseen, gets an equal
share of the questions (less where it has no more), and in each the items are taken at equal distances along
its sub-categories from a start drawn by the seed. So every item of a stratum is equally likely, and the
stratum's mean is unbiased. Its interval is the clustered one of every other table, which is conservative: it
ignores that the strata are finite and evenly covered. (35,566 items are days of computing for a large model.)

    >>> pets = {"pet": {"complete": True, "split": "release"}}
    >>> coverage({"data_sets": pets, "missing": {"bird": "no folder"}})
    "PARTIAL: 1 of the paper's 6 data sets (pet); missing: bird"
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

    `images_per_class` limits the test images of each sub-category (drawn by seed), `budget` the items in all;
    0 takes all.

    Raises: UserError: a negative number, a budget below one item a stratum, no items, or an item whose image
    is missing from the table.
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
    """The line of a partial run's tables, by its 01_data/data.json; "" for all six data sets, or for other data.

    data: `data_sets`, {word: {"complete": bool, "split": "release" or "seeded"}}, and `missing`, {word: why};
    both absent or empty for other data.
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
