"""How much of the paper's data a run stands on, in the one line that every table of a partial run carries.

    >>> pets = {"pet": {"complete": True, "split": "release"}}
    >>> coverage({"data_sets": pets, "missing": {"bird": "no folder"}})
    "PARTIAL: 1 of the paper's 6 data sets (pet); missing: bird"

A run on the drawn world or on a folder of one's own is no part of the paper's data, and gets no such line.

Source: DESIGN 7 (nothing is called reproduced that was not run); the paper's averages are over six data sets.
"""

from pathlib import Path
from typing import Any, Mapping

from finer1_lib.files import read_json
from finer1_lib.signatures import parameters_of


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
    from finer1_lib.data_sets.catalogue import DATA_SETS

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
