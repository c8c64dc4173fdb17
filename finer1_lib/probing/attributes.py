"""Which attributes can be read from a state, by a probe that never saw the sub-category: needs a guide.

A probe of "red crown" that saw the test bird's species in training can use the species. So whole
sub-categories are held out, and where all members of a genus share an attribute (bill, tail), whole genera:

    train: Dunen Wren (red crown), Marlo Tern (blue crown), ...     test: Berish Lark: crown?

Balanced accuracy (the mean over values of the share read right) gives "always the commonest" 1 of the number
of values. The control deals the values anew to the same sub-categories: a probe that only remembers
sub-categories gains nothing there.

    plan, notes = plan_attributes(images, guide, seed=0)      one row per image and attribute
    items = probe_attributes(plan, states, seed=0)            correct or not, with controls
    image_shares(items)                                       how many of an image's attributes
    attribute_table(items, seed=0)                            per attribute, with intervals
    attribute_differences(items, pairs, seed=0)               paired, Holm over the attributes

The probe is least squares on one-hot values (Ridge): 20 ms an attribute and layer, less than half of logistic
regression, and better on held-out sub-categories here (crown, image tokens: 0.98 against 0.75). Its strength
is fixed: from 1 to 30 the mean over attributes moves by 2 to 5 points at the image tokens and by up to 8 at
the last prompt token, for all checkpoints alike.

Source: control tasks are those of Hewitt and Liang 2019 (arXiv 1909.03368).
"""

from dataclasses import replace
from typing import Any, Mapping, Optional, Sequence

import numpy as np

from finer1_lib.core.statistics import clustered_mean, holm, paired_difference
from finer1_lib.evaluation.scores.scoring import reading
from finer1_lib.probing.items import CONTROLS
from finer1_lib.probing.probes import grouped_folds

RIDGE = 10.0    # strength of the penalty, on standardised states
FOLDS = 5
MIN_UNITS = 2   # sub-categories (genera) that must show a value: one to train on, one to test
METRICS = {"images": "attribute_image_accuracy", "prompts": "attribute_prompt_accuracy"}  # by states
_PLAN = ("row", "image_id", "super_category", "sub_category", "categories", "attribute", "value", "unit",
         "held_out", "cluster", "fold")


def plan_attributes(images: Any, guide: Mapping[str, Any], *, seed: int):
    """(plan, notes): which attribute is read from which image, and what is held out together.

    Args:
        images: of `items.plan_h1`; its row numbers are those of the states.
        guide: guide.json, {} where there is none.

    Returns:
        A row per image and attribute: row (of images), the images' columns, attribute, value, unit (what is
        held out), held_out ("sub_category" or "genus"), cluster (for means over attributes: the genus where
        one of them is held out by genus), fold; and a sentence for everything left out.
    """
    import pandas as pd

    parts, notes, entries = [], [], guide.get("sub_categories", {})
    known = {name: entry["attributes"] for name, entry in entries.items() if entry.get("attributes")}
    if not known:
        note = "the probes of single attributes are left out: no guide gives attributes"
        return pd.DataFrame(columns=list(_PLAN)), [note]
    numbered = images.reset_index(drop=True).rename_axis("row").reset_index()
    for super_category, part in numbered.groupby("super_category"):
        here = {name: known[name] for name in sorted(part["sub_category"].unique()) if name in known}
        genera = {name: entries[name].get("genus") for name in here}
        planned = []
        for attribute in dict.fromkeys(key for attributes in here.values() for key in attributes):
            values = {name: str(attributes[attribute]) for name, attributes in here.items()
                      if attribute in attributes}
            units, held_out = _units(values, genera)
            shown = {value: len({units[name] for name in values if values[name] == value})
                     for value in sorted(set(values.values()))}
            rare = [value for value, count in shown.items() if count < MIN_UNITS]
            if rare:
                notes.append(f"{super_category}, {attribute}: {', '.join(rare)} left out, shown by a single "
                             f"{held_out.replace('_', '-')}")
            if len(shown) - len(rare) < 2:
                notes.append(f"{super_category}, {attribute} is left out: no two values to distinguish")
                continue
            kept = {name: value for name, value in values.items() if value not in rare}
            rows = part[part["sub_category"].isin(kept)]
            value, unit = rows["sub_category"].map(kept), rows["sub_category"].map(units)
            folds = grouped_folds(unit, FOLDS, seed, strata=value)  # a value's units go to different folds
            planned.append(rows.assign(
                attribute=attribute, value=value, unit=unit, held_out=held_out, fold=folds))
        by_genus = any((rows["held_out"] == "genus").any() for rows in planned)
        for rows in planned:
            names = rows["sub_category"]
            parts.append(rows.assign(cluster=names.map(genera) if by_genus else names))
    plan = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(_PLAN))
    return plan[list(_PLAN)], notes


def _units(values: Mapping[str, str], genera: Mapping[str, Optional[str]]) -> tuple[dict[str, str], str]:
    """What to hold out together: whole genera, if most of those with several members have one value each.

    Otherwise one odd member would let the probe use the genus of all the others.
    """
    members: dict[Optional[str], list[str]] = {}
    for name, value in values.items():
        members.setdefault(genera[name], []).append(value)
    agree = [len(set(found)) == 1 for found in members.values() if len(found) > 1]
    if agree and 2 * sum(agree) > len(agree) and None not in members:
        return {name: str(genera[name]) for name in values}, "genus"
    return {name: name for name in values}, "sub_category"


def probe_attributes(plan: Any, states: np.ndarray, *, seed: int):
    """The plan with correct, majority, shuffled_labels (bool) and dealt, the control's values.

    Args:
        states: [N, D] of one layer, one row per image of the plan.
    """
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    found = {name: np.zeros(len(plan), dtype=bool) for name in ("correct", *CONTROLS)}
    dealt_values = np.empty(len(plan), dtype=object)
    for place in plan.groupby(["super_category", "attribute"], sort=False).indices.values():
        part = plan.iloc[place]
        x, folds, values = states[part["row"].to_numpy()], part["fold"].to_numpy(), part["value"].to_numpy()
        names, counts = np.unique(values, return_counts=True)
        own = part.drop_duplicates("unit").set_index("unit")["value"]
        dealt = dict(zip(own.index, np.random.default_rng(seed).permutation(own.to_numpy())))
        other = part["unit"].map(dealt).to_numpy()
        targets = np.hstack([values[:, None] == names, other[:, None] == names]).astype(float)
        for fold in np.unique(folds):
            train = folds != fold
            scale = StandardScaler().fit(x[train])
            fitted = Ridge(alpha=RIDGE).fit(scale.transform(x[train]), targets[train])
            scores = fitted.predict(scale.transform(x[~train]))
            read, control = (names[half.argmax(axis=1)] for half in np.split(scores, 2, axis=1))
            found["correct"][place[~train]] = read == values[~train]
            found["shuffled_labels"][place[~train]] = control == other[~train]
        dealt_values[place] = other
        found["majority"][place] = values == names[counts.argmax()]
    return plan.assign(**found, dealt=dealt_values)


def image_shares(items: Any):
    """Shares of its attributes read from each image (and by each control), by model, place and layer."""
    keys = ["model", "place", "layer", "image_id", "super_category", "sub_category", "categories", "cluster"]
    return items.groupby(keys, sort=False)[["correct", *CONTROLS]].mean().reset_index()


_TABLE = ("model", "place", "layer", "super_category", "attribute", "values", "held_out", "variant", "value",
          "low", "high", "n")


def attribute_table(items: Any, *, seed: int):
    """attributes.csv: balanced accuracy of every attribute, model, place and layer, with its control.

    `values` is their number, so that "always the commonest" has 1 / values; `variant` is None for the probe.
    """
    import pandas as pd

    rows = []
    keys = ["model", "place", "layer", "super_category", "attribute"]
    for group, part in items.groupby(keys, sort=False):
        known = {**dict(zip(keys, group)), "values": part["value"].nunique(),
                 "held_out": part["held_out"].iloc[0]}
        control = "shuffled_labels"
        for column, variant, balanced in (("correct", None, "value"), (control, control, "dealt")):
            found = clustered_mean(part[column].to_numpy(), list(part["unit"]), list(part[balanced]),
                                   seed=seed)
            rows.append({**known, "variant": variant, **found.as_row()})
    return pd.DataFrame(rows, columns=list(_TABLE))


def attribute_differences(items: Any, pairs: Sequence[tuple[str, str]], *, seed: int):
    """Attribute by attribute, first minus second of each pair: balanced accuracies at one layer.

    p_holm is corrected over the attributes of one pair and place, and decides the reading.
    """
    import pandas as pd

    rows = []
    for first, second in pairs:
        for place, here in items.groupby("place", sort=False):
            found = []
            for group, part in here.groupby(["super_category", "attribute"], sort=False):
                one, two = (part[part["model"] == model] for model in (first, second))
                sides = (side["correct"].to_numpy() for side in (one, two))
                units, values = list(one["unit"]), list(one["value"])
                known = dict(zip(("super_category", "attribute"), group))
                found.append((known, paired_difference(*sides, units, values, seed=seed)))
            for (known, e), p in zip(found, holm([e.p for _, e in found])):
                rows.append({"first": first, "second": second, "place": place, **known, "difference": e.value,
                             "low": e.low, "high": e.high, "p": e.p, "p_holm": p, "n": e.n,
                             "reading": reading(replace(e, p=p))})
    return pd.DataFrame(rows, columns=[
        "first", "second", "place", "super_category", "attribute", "difference", "low", "high", "p", "p_holm",
        "n", "reading"])
