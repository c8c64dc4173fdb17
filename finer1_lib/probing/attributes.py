"""Which attributes can be read from a state, by a probe that never saw the sub-category: needs a guide.

A probe of "red crown" that saw the test bird's species in training can use the species. So whole
sub-categories are held out (where all members of a genus share an attribute, whole genera). Balanced accuracy
(the mean over values of the share read right) gives "always the commonest" 1 of the number of values; the
control deals the values anew to the same sub-categories, where remembering these gains nothing.

Source: control tasks are those of Hewitt and Liang 2019 (arXiv 1909.03368).
"""

from dataclasses import replace
from typing import Any, Mapping, Optional, Sequence

import numpy as np

from finer1_lib.core.faces import Later
from finer1_lib.core.statistics import clustered_mean, holm, paired_difference
from finer1_lib.evaluation.scores.scoring import reading
from finer1_lib.probing.items import CONTROLS
from finer1_lib.probing.probes import grouped_folds

pd = Later("pandas")
# The strength of the penalty, on standardised states, is fixed: from 1 to 30 the mean over attributes moves
# by 2 to 5 points at the image tokens and by up to 8 at the last prompt token, for all checkpoints alike
RIDGE = 10.0
FOLDS = 5
MIN_UNITS = 2   # sub-categories (genera) that must show a value: one to train on, one to test
METRICS = {"images": "attribute_image_accuracy", "prompts": "attribute_prompt_accuracy"}  # by states
_PLAN = ["row", "image_id", "super_category", "sub_category", "categories", "attribute", "value", "unit",
         "held_out", "cluster", "fold"]


def plan_attributes(images: Any, guide: Mapping[str, Any], *, seed: int) -> tuple[Any, list[str]]:
    """(plan, notes): a row for each image of `items.plan_h1` and attribute, by guide.json or {}.

    row is the image's row, by which its states are found; unit is what is held out, held_out "sub_category"
    or "genus", cluster the unit of means over attributes (the genus where one of them is held out by genus).
    """
    parts, notes, entries = [pd.DataFrame(columns=_PLAN)], [], guide.get("sub_categories", {})
    known = {name: entry["attributes"] for name, entry in entries.items() if entry.get("attributes")}
    if not known:
        return parts[0], ["the probes of single attributes are left out: no guide gives attributes"]
    numbered = images.reset_index(drop=True).rename_axis("row").reset_index()
    for super_category, part in numbered.groupby("super_category"):
        here = {name: known[name] for name in sorted(part["sub_category"].unique()) if name in known}
        genera = {name: entries[name].get("genus") for name in here}
        planned = []
        for attribute in dict.fromkeys(key for attributes in here.values() for key in attributes):
            shown = pd.Series({name: str(attributes[attribute]) for name, attributes in here.items()
                               if attribute in attributes})  # by sub-category
            units, held_out = _units(shown, genera)
            counts = units.groupby(shown).nunique()  # of each value, sorted
            rare = list(counts.index[counts < MIN_UNITS])
            if rare:
                notes.append(f"{super_category}, {attribute}: {', '.join(rare)} left out, shown by a single "
                             f"{held_out.replace('_', '-')}")
            if len(counts) - len(rare) < 2:
                notes.append(f"{super_category}, {attribute} is left out: no two values to distinguish")
                continue
            rows = part[part["sub_category"].isin(shown.index[~shown.isin(rare)])]
            value, unit = rows["sub_category"].map(shown), rows["sub_category"].map(units)
            folds = grouped_folds(unit, FOLDS, seed, strata=value)  # a value's units go to different folds
            planned.append(rows.assign(
                attribute=attribute, value=value, unit=unit, held_out=held_out, fold=folds))
        by_genus = any((rows["held_out"] == "genus").any() for rows in planned)
        parts += [rows.assign(cluster=rows["sub_category"].map(genera) if by_genus else rows["sub_category"])
                  for rows in planned]
    return pd.concat(parts[1:] or parts, ignore_index=True)[_PLAN], notes


def _units(shown: Any, genera: Mapping[str, Optional[str]]) -> tuple[Any, str]:
    """What to hold out together: whole genera, if most of those with several members have one value each.
    Otherwise one odd member would let the probe use the genus of all the others.
    """
    own = pd.Series({name: genera[name] for name in shown.index}, dtype=object)
    several = shown.groupby(own).agg(["size", "nunique"]).query("size > 1")
    if len(several) and (several["nunique"] == 1).mean() > 0.5 and own.notna().all():
        return own, "genus"
    return pd.Series(shown.index, shown.index), "sub_category"


def probe_attributes(plan: Any, states: np.ndarray, *, seed: int) -> Any:
    """The plan with correct, majority, shuffled_labels (bool) and dealt, the control's values, from states
    [N, D] of one layer, a row per image.

    Least squares on one-hot values (Ridge): 20 ms an attribute and layer, less than half of logistic
    regression, and better on held-out sub-categories here (crown, image tokens: 0.98 against 0.75).
    """
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
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
            fitted = make_pipeline(StandardScaler(), Ridge(alpha=RIDGE)).fit(x[train], targets[train])
            scores = np.split(fitted.predict(x[~train]), 2, axis=1)
            read, control = (names[half.argmax(axis=1)] for half in scores)
            found["correct"][place[~train]] = read == values[~train]
            found["shuffled_labels"][place[~train]] = control == other[~train]
        dealt_values[place] = other
        found["majority"][place] = values == names[counts.argmax()]
    return plan.assign(**found, dealt=dealt_values)


def image_shares(items: Any) -> Any:
    """Shares of its attributes read from each image (and by each control), by model, place and layer."""
    keys = ["model", "place", "layer", "image_id", "super_category", "sub_category", "categories", "cluster"]
    return items.groupby(keys, sort=False)[["correct", *CONTROLS]].mean().reset_index()


def attribute_table(items: Any, *, seed: int) -> Any:
    """attributes.csv: balanced accuracy of every attribute, model, place and layer, with its control.

    `values` is their number, so that "always the commonest" has 1 / values; `variant` is None for the probe.
    """
    rows, keys = [], ["model", "place", "layer", "super_category", "attribute"]
    for group, part in items.groupby(keys, sort=False):
        known = {"values": part["value"].nunique(), "held_out": part["held_out"].iloc[0]}
        for column, variant, balanced in (("correct", None, "value"),
                                          ("shuffled_labels", "shuffled_labels", "dealt")):
            found = clustered_mean(part[column].to_numpy(), list(part["unit"]), list(part[balanced]),
                                   seed=seed)
            rows.append({**dict(zip(keys, group)), **known, "variant": variant, **found.as_row()})
    return pd.DataFrame(rows, columns=[*keys, "values", "held_out", "variant", "value", "low", "high", "n"])


def attribute_differences(items: Any, pairs: Sequence[tuple[str, str]], *, seed: int) -> Any:
    """Attribute by attribute, first minus second of each pair: balanced accuracies at one layer.

    p_holm is corrected over the attributes of one pair and place, and decides the reading.
    """
    rows, keys = [], ["super_category", "attribute"]
    for first, second in pairs:
        for place, here in items.groupby("place", sort=False):
            found = []
            for group, part in here.groupby(keys, sort=False):
                one, two = (part[part["model"] == model] for model in (first, second))
                sides = (side["correct"].to_numpy() for side in (one, two))
                e = paired_difference(*sides, list(one["unit"]), list(one["value"]), seed=seed)
                found.append((group, e))
            rows += [{"first": first, "second": second, "place": place, **dict(zip(keys, group)),
                      "difference": e.value, **e.as_row(), "p": e.p, "p_holm": p,
                      "reading": reading(replace(e, p=p))}
                     for (group, e), p in zip(found, holm([e.p for _, e in found]))]
    return pd.DataFrame(rows, columns=["first", "second", "place", *keys, "difference", "low", "high", "p",
                                       "p_holm", "n", "reading"])
