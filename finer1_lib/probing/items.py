"""Which images, names and questions are probed, and what comes out for each.

    plan_h1(table) -> images    -> states -> probe_h1 -> correct or not, per test image
    plan_h2(taxonomy, table) -> names -> states -> probe_h2 -> genus gap, per name
    plan_h3(table) -> questions -> states -> probe_h3 -> score, per question

Every probe runs inside one super-category at a time (the paper probes birds alone), on the same items for all
checkpoints. Rows and comparisons are computed from the items (`rows`), without a model. A super-category with
too little for a probe is left out, and a note says why.

H2 compares names by genus: {"Laysan Albatross": {"genus": "Phoebastria"}, ...}. A name that is alone in its
genus (85 of CUB's 200 birds) has no gap and only serves as one of the others. Names of a genus often share a
word ("Albatross"), and any model puts two texts that share a word together; so a control reads only what is
before the last word ("Laysan"). Where names share other words (makers of cars come first), that control would
prove nothing and is left out.

Source: Fine-R1 (arXiv 2602.07605), Section 5.4.
"""

import random
from functools import partial
from typing import Any, Callable, Mapping, Optional

import numpy as np

from finer1_lib.core.errors import UserError
from finer1_lib.probing import probes
from finer1_lib.probing.swaps import Swap, balanced_questions, check_wrong_names, hard_negative_groups

SHARED = 0.5  # more names than this that share another word with a mate: the last word is not what they share


def plan_h2(taxonomy: Mapping[str, Mapping[str, str]], table):
    """Names with their genus, for the super-categories whose taxonomy allows the comparison.

    Args:
        taxonomy: taxonomy.json, {} where there is none; its order is that of the draws.
        table: the rows of images.parquet.

    Returns:
        (plan, notes): name, epithet (the name without its last word; None where the control cannot read it),
        genus, super_category, categories; and a sentence for everything left out.
    """
    import pandas as pd

    known: dict[str, list[tuple[str, str]]] = {}
    for row in table.drop_duplicates(["super_category", "sub_category"]).itertuples():
        known.setdefault(row.sub_category, []).append((row.super_category, row.categories))
    rows = [{"name": name, "epithet": name.rpartition(" ")[0] or None, "genus": ranks["genus"],
             "super_category": super_category, "categories": categories}
            for name, ranks in taxonomy.items() if ranks.get("genus")
            for super_category, categories in known.get(name, ())]
    plan = pd.DataFrame(rows, columns=["name", "epithet", "genus", "super_category", "categories"])
    if plan.empty:
        return plan, ["H2 is left out: it compares names by genus, and no taxonomy gives genera"]
    notes: list[str] = []
    for super_category in sorted(table["super_category"].unique()):
        part = plan[plan["super_category"] == super_category]
        names = table.loc[table["super_category"] == super_category, "sub_category"].nunique()
        if without := names - len(part):
            notes.append(f"H2 leaves out {without} names of {super_category}: no genus is known of them")
        if not _comparable(part["genus"]):
            if len(part):
                notes.append(f"H2 leaves out {super_category}: it needs two genera of two, each with "
                             f"{probes.NUM_OTHERS} names outside it")
            plan = plan.drop(part.index)
            continue
        if alone := int((~part["genus"].duplicated(keep=False)).sum()):
            notes.append(f"H2 measures no gap of {alone} of {len(part)} names of {super_category}: they are "
                         "alone in their genus and only serve as others")
        plan.loc[part.index, "epithet"], note = _epithets(part, super_category)
        notes += note
    return plan.reset_index(drop=True), notes


def _comparable(genera) -> bool:
    """Whether two genera at least have names with a gap: a mate, and enough names of other genera."""
    sizes = genera.value_counts()
    return int(((sizes > 1) & (len(genera) - sizes >= probes.NUM_OTHERS)).sum()) > 1


def _epithets(part, super_category: str) -> tuple[Any, list[str]]:
    """(the epithets that the control may read, notes) of one super-category."""
    words = [set(epithet.lower().split()) for epithet in part["epithet"].fillna("")]
    genera = list(part["genus"])
    mates = [[j for j, genus in enumerate(genera) if genus == own and j != i] for i, own in enumerate(genera)]
    share = [any(words[i] & words[j] for j in found) for i, found in enumerate(mates) if found]
    if np.mean(share) > SHARED:
        return None, [f"H2's control without the last word is left out of {super_category}: {sum(share)} of "
                      f"{len(share)} names share another word with a name of their genus"]
    several = part["epithet"].notna()
    one_word = f"{int((~several).sum())} of {len(part)} names of {super_category} are one word"
    if not _comparable(part["genus"][several]):
        return None, [f"H2's control without the last word is left out of {super_category}: {one_word}"]
    note = [f"H2's control without the last word: {one_word}, left out"]
    return part["epithet"], [] if several.all() else note


def with_epithet(plan):
    """The names that the control can read, as a plan of its own."""
    return plan[plan["epithet"].notna()].reset_index(drop=True)


def probe_h2(plan, states: np.ndarray, *, seed: int, repeats: int):
    """The plan with the column gap, from states [len(plan), D]; names without a gap are left out."""
    gaps = np.full(len(plan), np.nan)
    for super_category in sorted(plan["super_category"].unique()):
        here = (plan["super_category"] == super_category).to_numpy()
        genera = plan["genus"].to_numpy()[here]
        gaps[here] = probes.genus_gaps(states[here], genera, seed=seed, repeats=repeats)
    return plan.assign(gap=gaps).dropna(subset=["gap"]).reset_index(drop=True)


CONTROLS = ("majority", "shuffled_labels")  # of H1


def check_sizes(
    h1_train: int, h1_test: int, h2_repeats: int, h3_images: int, h3_folds: int, most: int = 0
) -> None:
    """Refuse (UserError), before any work, numbers of images, draws and folds that leave nothing to probe."""
    if most and most < 2 * probes.MIN_SWAPS:
        raise UserError(f"max_sub_categories is {most}: give 0 for all, or {2 * probes.MIN_SWAPS} or more")
    least = {"h1_train_images": (h1_train, 2), "h1_test_images": (h1_test, 1), "h2_repeats": (h2_repeats, 1),
             "h3_images": (h3_images, 1), "h3_folds": (h3_folds, 2)}
    for name, (given, fewest) in least.items():
        if given < fewest:
            raise UserError(f"{name} is {given}: give {fewest} or more")


def some_sub_categories(table, most: int, *, seed: int):
    """(rows, notes): at most `most` sub-categories of each super-category, seen and unseen in proportion."""
    if not most:
        return table, []
    kept, notes = [], []
    for super_category, part in table.groupby("super_category"):
        names = part.drop_duplicates("sub_category").set_index("sub_category")["categories"]
        seen = _shuffled(names.index[names == "seen"], f"{seed}/some/{super_category}")
        unseen = _shuffled(names.index[names != "seen"], f"{seed}/some/{super_category}")
        count = min(most, len(names))
        share = round(count * len(seen) / len(names))
        kept.append(part[part["sub_category"].isin(seen[:share] + unseen[: count - share])])
        if count < len(names):
            notes.append(f"H1 and H3 use {count} of {len(names)} sub-categories of {super_category} "
                         "(max_sub_categories)")
    return table.loc[sorted(index for part in kept for index in part.index)], notes


def _shuffled(image_ids, key: str) -> list[str]:
    """Image ids in an order of their own key, whatever order they come in."""
    order = sorted(image_ids)
    random.Random(key).shuffle(order)
    return order


def plan_h1(table, *, train_images: int, test_images: int, seed: int):
    """(plan, notes): images to fit and to test the linear classifier of sub-categories on.

    Only images that no checkpoint was trained on (shot -1) take part, or the classifier would be fitted on
    remembered images of seen sub-categories. It is tested on the test split; what is left of that split joins
    the train split's images for fitting. At most half of a sub-category's images are for testing.
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
        if len(kept) < probes.MIN_SUB_CATEGORIES:
            notes.append(f"H1 leaves out {super_category}: {len(kept)} sub-categories have three images that "
                         f"no stage trained on, {probes.MIN_SUB_CATEGORIES} are needed")
            continue
        if len(kept) < total:
            notes.append(f"H1 leaves out {total - len(kept)} of {total} sub-categories of {super_category}: "
                         "fewer than three images that no stage trained on")
        rows += [row for group in kept for row in group]
    columns = ["image_id", "super_category", "sub_category", "categories", "role"]
    return pd.DataFrame(rows, columns=columns), notes


def probe_h1(plan, states: np.ndarray, *, seed: int, fit: Callable[..., dict] = probes.linear_probe):
    """Fit and test the classifier of each super-category; a row per test image, with what `fit` returns.

    Args:
        states: [len(plan), D]; fit: the paper's own classifier is `probes.adam_probe`.
    """
    import pandas as pd

    found_here = ("correct", *CONTROLS, "strength", "validation_accuracy")
    items = [plan[:0].drop(columns="role").assign(**dict.fromkeys(found_here, 0.0))]
    for super_category in sorted(plan["super_category"].unique()):
        here = (plan["super_category"] == super_category).to_numpy()
        train, test = (here & (plan["role"] == role).to_numpy() for role in ("train", "test"))
        labels = plan["sub_category"].to_numpy()
        found = fit(states[train], labels[train], states[test], labels[test], seed=seed)
        items.append(plan[test].drop(columns="role").assign(**found))
    return pd.concat(items[1:] or items, ignore_index=True)


def plan_h3(
    table, *, num_images: int, num_folds: int, seed: int, wrong_names: str = "any",
    taxonomy: Optional[Mapping[str, Mapping[str, str]]] = None, looks: Optional[Any] = None,
):
    """(plan, notes): right and wrong names for images of the test split, in swaps (`swaps`) and folds.

    Args:
        wrong_names: "any", or "near", which needs `taxonomy` and `looks` (of `looks_of`).
    """
    import pandas as pd

    check_wrong_names(wrong_names)
    genera = {name: ranks["genus"] for name, ranks in (taxonomy or {}).items() if ranks.get("genus")}
    parts, notes = [], []
    for super_category, part in table[table["split"] == "test"].groupby("super_category"):
        images = {key: _shuffled(group["image_id"], f"{seed}/h3/{super_category}/{key[0]}")
                  for key, group in part.groupby(["sub_category", "categories"])}
        group = None
        if wrong_names == "near":
            group = partial(_near, super_category=super_category, genera=genera, looks=looks, seed=seed)
        planned = pd.DataFrame(balanced_questions(images, num_images=num_images, seed=seed, group=group))
        swaps = planned["swap"].nunique() if len(planned) else 0
        if swaps < probes.MIN_SWAPS:
            notes.append(f"H3 leaves out {super_category}: {swaps} swaps of names can be made from its test "
                         f"images, {probes.MIN_SWAPS} are needed")
            continue
        if wrong_names == "near":
            count = planned.groupby("wrong_name")["sub_category"].nunique()
            out = part["sub_category"].nunique() - planned["sub_category"].nunique()
            notes.append(f"H3, {super_category}: wrong names of the same genus for {count.get('genus', 0)} "
                         f"sub-categories, of the nearest-looking other one for {count.get('nearest', 0)}"
                         + (f"; {out} left out" if out else ""))
        folds = probes.grouped_folds(planned["swap"], num_folds, seed, strata=planned["categories"])
        parts.append(planned.assign(super_category=super_category, fold=folds))
    columns = ["image_id", "swapped_image_id", "sub_category", "name", "right", "swap", "categories",
               "wrong_name", "super_category", "fold"]
    return (pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)), notes


def _near(names: list[str], *, super_category: str, genera, looks, seed: int) -> list[Swap]:
    return hard_negative_groups(names, genera, looks and partial(looks, super_category), seed)


def looks_of(plan, states: np.ndarray):
    """looks(super_category, one, other): cosine of the mean image-token states of two sub-categories.

    -1 where one of them has no image in the plan.
    """
    from finer1_lib.data.triplets import prototypes

    found = prototypes(np.asarray(states), plan)

    def looks(super_category: str, one: str, other: str) -> float:
        vectors = [found.get((super_category, name)) for name in (one, other)]
        return -1.0 if any(vector is None for vector in vectors) else float(vectors[0] @ vectors[1])

    return looks


def probe_h3(plan, states: np.ndarray, *, seed: int):
    """The plan with the column score: out-of-fold values of the separator, from states [len(plan), D]."""
    scores = np.empty(len(plan))
    for super_category in sorted(plan["super_category"].unique()):
        here = (plan["super_category"] == super_category).to_numpy()
        part = plan[here]
        right, swap, fold = (part[column].to_numpy() for column in ("right", "swap", "fold"))
        scores[here] = probes.cross_validated_scores(states[here], right, swap, fold, seed=seed)
    return plan.assign(score=scores)
