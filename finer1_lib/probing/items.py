"""From tables to probes: which images, names and questions are probed, and what comes out for each.

Every probe runs inside one super-category at a time (the paper probes birds alone), on the same items for all
checkpoints. What comes out is one line per image, name or question; rows and comparisons are computed from
these lines (`probing.rows`), so they can be recomputed without a model.

    plan_h1(table) -> images ----> states -> probe_h1 -> correct or not, per test image
    plan_h2(guide) -> names -----> states -> probe_h2 -> gap, per name
    plan_h3(table) -> questions -> states -> probe_h3 -> score, per question

A super-category with too little for a probe is left out, and the reason is returned beside the plan.

Source: METHOD 5.
"""

import random
from typing import Any, Mapping

import numpy as np

from finer1_lib.probing import probes as probing
from finer1_lib.errors import UserError

CONTROLS = ("majority", "shuffled_labels")  # of H1


def check_sizes(h1_train: int, h1_test: int, h2_repeats: int, h3_images: int, h3_folds: int) -> None:
    """Refuse (UserError), before any work, numbers of images, draws and folds that leave nothing to probe."""
    least = {"h1_train_images": (h1_train, 2), "h1_test_images": (h1_test, 1), "h2_repeats": (h2_repeats, 1),
             "h3_images": (h3_images, 1), "h3_folds": (h3_folds, 2)}
    for name, (given, fewest) in least.items():
        if given < fewest:
            raise UserError(f"{name} is {given}: give {fewest} or more")


def _shuffled(image_ids, key: str) -> list[str]:
    """Image ids in an order of their own key, whatever order they come in."""
    order = sorted(image_ids)
    random.Random(key).shuffle(order)
    return order


def plan_h1(table, *, train_images: int, test_images: int, seed: int):
    """Images to fit and to test the linear classifier of sub-categories on.

    Only images that no checkpoint was trained on (shot -1) take part, or the classifier would be fitted on
    remembered images of seen sub-categories. It is tested on the test split; what is left of that split joins
    the train split's images for fitting. At most half of a sub-category's images are for testing.

    Args:
        table: the rows of images.parquet.
        train_images, test_images: per sub-category, at most.

    Returns:
        (plan, notes): a DataFrame with image_id, super_category, sub_category, categories, role ("train" or
        "test"), and one sentence per super-category or group of sub-categories left out.

    Source: METHOD 5 (H1); fitting on images that no stage has seen is our choice.
    """
    import pandas as pd

    rows, notes = [], []
    for super_category, part in table.groupby("super_category"):
        kept = []
        for sub_category, images in part.groupby("sub_category"):
            fresh, key = images[images["shot"] < 0], f"{seed}/h1/{super_category}/{sub_category}"
            train, test = (_shuffled(fresh["image_id"][fresh["split"] == split], key)
                           for split in ("train", "test"))
            pool = train + test
            count = min(test_images, max(1, len(pool) // 2), len(test))
            train, test = pool[: min(train_images, len(pool) - count)], pool[len(pool) - count :]
            if len(train) >= 2 and test:
                known = {"super_category": super_category, "sub_category": sub_category,
                         "categories": images["categories"].iloc[0]}
                kept.append([{"image_id": image, **known, "role": role}
                             for role, ids in (("train", train), ("test", test)) for image in ids])
        total = part["sub_category"].nunique()
        if len(kept) < probing.MIN_SUB_CATEGORIES:
            notes.append(f"H1 leaves out {super_category}: {len(kept)} sub-categories have three images that "
                         f"no stage trained on, {probing.MIN_SUB_CATEGORIES} are needed")
            continue
        if len(kept) < total:
            notes.append(f"H1 leaves out {total - len(kept)} of {total} sub-categories of {super_category}: "
                         "fewer than three images that no stage trained on")
        rows += [row for group in kept for row in group]
    columns = ["image_id", "super_category", "sub_category", "categories", "role"]
    return pd.DataFrame(rows, columns=columns), notes


def probe_h1(plan, states: np.ndarray, *, seed: int):
    """Fit and test the classifier of each super-category.

    Args:
        plan: of `plan_h1`; states: [len(plan), D], one row per image of the plan.

    Returns:
        A DataFrame with one row per test image and the columns correct, majority, shuffled_labels, and
        strength and validation_accuracy of the probe that its super-category chose.
    """
    import pandas as pd

    found_here = ("correct", *CONTROLS, "strength", "validation_accuracy")
    items = [plan[:0].drop(columns="role").assign(**dict.fromkeys(found_here, 0.0))]
    for super_category in sorted(plan["super_category"].unique()):
        here = (plan["super_category"] == super_category).to_numpy()
        train, test = (here & (plan["role"] == role).to_numpy() for role in ("train", "test"))
        labels = plan["sub_category"].to_numpy()
        found = probing.linear_probe(states[train], labels[train], states[test], labels[test], seed=seed)
        items.append(plan[test].drop(columns="role").assign(**found))
    return pd.concat(items[1:] or items, ignore_index=True)


def plan_h2(guide: Mapping[str, Any], *, seed: int):
    """Names with their genus, for the super-categories whose taxonomy allows the comparison.

    Args:
        guide: guide.json as a dictionary, or {} where there is none.

    Returns:
        (plan, notes): a DataFrame with name, epithet (the name without a closing genus word, None for names
        built otherwise), genus, super_category, categories; a name without a mate in its genus serves as one
        of the others.
    """
    import pandas as pd

    rows = []
    for name, entry in guide.get("sub_categories", {}).items():
        if genus := entry.get("genus"):
            epithet = name.removesuffix(f" {genus}")
            rows.append({"name": name, "epithet": epithet if epithet != name else None, "genus": genus,
                         "super_category": entry["super_category"],
                         "categories": "seen" if name in guide["seen"] else "unseen"})
    plan = pd.DataFrame(rows, columns=["name", "epithet", "genus", "super_category", "categories"])
    notes = []
    if plan.empty:
        notes.append("H2 is left out: it compares names by genus, and there is no guide that gives genera")
    for super_category, part in plan.groupby("super_category"):
        noise = np.random.default_rng(seed).normal(size=(len(part), 2))
        has_gap = ~np.isnan(probing.genus_gaps(noise, part["genus"], seed=seed))
        if part["genus"][has_gap].nunique() < 2:
            notes.append(f"H2 leaves out {super_category}: it needs two genera of two, each with "
                         f"{probing.NUM_OTHERS} names outside it")
            plan = plan[plan["super_category"] != super_category]
    if bare := int(plan["epithet"].isna().sum()):
        notes.append(f"H2's control without the genus word is left out: {bare} of {len(plan)} names do not end"
                     " in their genus")
    return plan.reset_index(drop=True), notes


def probe_h2(plan, states: np.ndarray, *, seed: int, repeats: int):
    """The genus gap of every name that has one.

    Args:
        plan: of `plan_h2`; states: [len(plan), D].

    Returns:
        The plan with the column gap; names without one are left out.
    """
    gaps = np.full(len(plan), np.nan)
    for super_category in sorted(plan["super_category"].unique()):
        here = (plan["super_category"] == super_category).to_numpy()
        genera = plan["genus"].to_numpy()[here]
        gaps[here] = probing.genus_gaps(states[here], genera, seed=seed, repeats=repeats)
    return plan.assign(gap=gaps).dropna(subset=["gap"]).reset_index(drop=True)


def plan_h3(table, *, num_images: int, num_folds: int, seed: int):
    """Right and wrong names over test images, in swaps and folds (see `probing`).

    Args:
        table: the rows of images.parquet; only the test split is asked about.
        num_images: per sub-category, at most.

    Returns:
        (plan, notes): a DataFrame with the keys of `balanced_questions`, super_category and fold.
    """
    import pandas as pd

    parts, notes = [], []
    for super_category, part in table[table["split"] == "test"].groupby("super_category"):
        images = {key: _shuffled(group["image_id"], f"{seed}/h3/{super_category}/{key[0]}")
                  for key, group in part.groupby(["sub_category", "categories"])}
        asked = pd.DataFrame(probing.balanced_questions(images, num_images=num_images, seed=seed))
        swaps = asked["swap"].nunique() if len(asked) else 0
        if swaps < probing.MIN_SWAPS:
            notes.append(f"H3 leaves out {super_category}: {swaps} swaps of names can be made from its test "
                         f"images, {probing.MIN_SWAPS} are needed")
            continue
        folds = probing.grouped_folds(asked["swap"], num_folds, seed, strata=asked["categories"])
        parts.append(asked.assign(super_category=super_category, fold=folds))
    columns = ["image_id", "swapped_image_id", "sub_category", "name", "right", "swap", "categories",
               "super_category", "fold"]
    return (pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)), notes


def probe_h3(plan, states: np.ndarray, *, seed: int):
    """Out-of-fold scores of the right/wrong separator of each super-category.

    Args:
        plan: of `plan_h3`; states: [len(plan), D] last hidden state per question.

    Returns:
        The plan with the column score.
    """
    scores = np.empty(len(plan))
    for super_category in sorted(plan["super_category"].unique()):
        here = (plan["super_category"] == super_category).to_numpy()
        part = plan[here]
        right, swap, fold = (part[column].to_numpy() for column in ("right", "swap", "fold"))
        scores[here] = probing.cross_validated_scores(states[here], right, swap, fold, seed=seed)
    return plan.assign(score=scores)
