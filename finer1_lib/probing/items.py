"""Which images, names and questions are probed, and what comes out for each.

    plan_h1(table) -> images -> states -> probe_h1 -> correct or not, per test image
    plan_h2(taxonomy, table) -> names -> states -> probe_h2 -> genus gap, per name
    plan_h3(table) -> questions -> states -> probe_h3 -> score, per question

Every probe runs inside one super-category at a time (the paper probes birds alone), on the same items for all
checkpoints. A super-category with too little for a probe is left out, and a note says why.
Source: Fine-R1 (arXiv 2602.07605), Section 5.4.
"""

import random
from functools import partial
from typing import Any, Callable, Mapping, Optional

import numpy as np

from finer1_lib.core.errors import UserError
from finer1_lib.core.faces import Later
from finer1_lib.probing import probes
from finer1_lib.probing.swaps import balanced_questions, check_wrong_names, hard_negative_groups

pd = Later("pandas")
CONTROLS = ("majority", "shuffled_labels")  # of H1
SHARED = 0.5  # more names than this that share another word with a mate: the last word is not what they share
H1_COLUMNS = ("image_id", "super_category", "sub_category", "categories", "role")
H3_COLUMNS = ("image_id", "swapped_image_id", "sub_category", "name", "right", "swap", "categories",
              "wrong_name", "super_category", "fold")


def check_sizes(h1_train: int, h1_test: int, h2_repeats: int, h3_images: int, h3_folds: int,
                most: int = 0) -> None:
    """Refuse (UserError), before any work, numbers of images, draws and folds that leave nothing to probe."""
    if most and most < 2 * probes.MIN_SWAPS:
        raise UserError(f"max_sub_categories is {most}: give 0 for all, or {2 * probes.MIN_SWAPS} or more")
    least = {"h1_train_images": (h1_train, 2), "h1_test_images": (h1_test, 1), "h2_repeats": (h2_repeats, 1),
             "h3_images": (h3_images, 1), "h3_folds": (h3_folds, 2)}
    for name, (given, fewest) in least.items():
        if given < fewest:
            raise UserError(f"{name} is {given}: give {fewest} or more")


def some_sub_categories(table: Any, most: int, *, seed: int) -> tuple[Any, list[str]]:
    """(rows, notes): at most `most` sub-categories of each super-category, seen and unseen in proportion."""
    if not most:
        return table, []
    kept, notes = [], []
    for super_category, part in table.groupby("super_category"):
        names = part.drop_duplicates("sub_category").set_index("sub_category")["categories"]
        seen, unseen = (_shuffled(names.index[here], f"{seed}/some/{super_category}")
                        for here in (names == "seen", names != "seen"))
        count = min(most, len(names))
        share = round(count * len(seen) / len(names))
        kept += part.index[part["sub_category"].isin(seen[:share] + unseen[: count - share])].tolist()
        if count < len(names):
            notes.append(f"H1 and H3 use {count} of {len(names)} sub-categories of {super_category} "
                         "(max_sub_categories)")
    return table.loc[sorted(kept)], notes


def _shuffled(image_ids: Any, key: str) -> list[str]:
    """Image ids in an order of their own key, whatever order they come in."""
    order = sorted(image_ids)
    random.Random(key).shuffle(order)
    return order


def plan_h1(table: Any, *, train_images: int, test_images: int, seed: int) -> tuple[Any, list[str]]:
    """(plan, notes): images to fit and to test the linear classifier of sub-categories on.

    Only images that no checkpoint was trained on (shot -1) take part, or the classifier would be fitted on
    remembered images of seen sub-categories. It is tested on the test split; what is left of that split joins
    the train split's images for fitting. At most half of a sub-category's images are for testing.
    """
    rows, notes = [], []
    for super_category, part in table.groupby("super_category"):
        kept, groups = [], part.groupby("sub_category")
        for sub_category, images in groups:
            fresh, key = images[images["shot"] < 0], f"{seed}/h1/{super_category}/{sub_category}"
            train, test = (_shuffled(fresh["image_id"][fresh["split"] == split], key)
                           for split in ("train", "test"))
            pool = train + test
            count = min(test_images, max(1, len(pool) // 2), len(test))
            train, test = pool[: min(train_images, len(pool) - count)], pool[len(pool) - count :]
            if len(train) >= 2 and test:
                known = (super_category, sub_category, images["categories"].iloc[0])
                kept.append([(image, *known, role) for role, ids in (("train", train), ("test", test))
                             for image in ids])
        if len(kept) < probes.MIN_SUB_CATEGORIES:
            notes.append(f"H1 leaves out {super_category}: {len(kept)} sub-categories have three images that "
                         f"no stage trained on, {probes.MIN_SUB_CATEGORIES} are needed")
            continue
        if len(kept) < len(groups):
            notes.append(f"H1 leaves out {len(groups) - len(kept)} of {len(groups)} sub-categories of "
                         f"{super_category}: fewer than three images that no stage trained on")
        rows += sum(kept, [])
    return pd.DataFrame(rows, columns=list(H1_COLUMNS)), notes


def probe_h1(plan: Any, states: np.ndarray, *, seed: int,
             fit: Callable[..., dict] = probes.linear_probe) -> Any:
    """Fit and test the classifier of each super-category on states [len(plan), D]; a row per test image, with
    what `fit` returns (the paper's own classifier is `probes.adam_probe`).
    """
    found_here = ("correct", *CONTROLS, "strength", "validation_accuracy")
    found, labels = [], plan["sub_category"].to_numpy()
    for _, part in plan.reset_index(drop=True).groupby("super_category"):
        train, test = (part.index[part["role"] == role].to_numpy() for role in ("train", "test"))
        read = fit(states[train], labels[train], states[test], labels[test], seed=seed)
        found.append(plan.iloc[test].drop(columns="role").assign(**read))
    empty = plan[:0].drop(columns="role").assign(**dict.fromkeys(found_here, 0.0))
    return pd.concat(found or [empty], ignore_index=True)


def plan_h2(taxonomy: Mapping[str, Mapping[str, str]], table: Any) -> tuple[Any, list[str]]:
    """(plan, notes): names of images.parquet with their genus, in the taxonomy's order (that of the draws).

    The taxonomy is {"Laysan Albatross": {"genus": "Phoebastria"}, ...} or {}. A name that is alone in its
    genus (85 of CUB's 200 birds) has no gap and only serves as one of the others. `epithet` is the name
    without its last word: names of a genus often share that one, and any model puts two texts that share a
    word together, so a control reads only "Laysan"; None where it cannot.
    """
    genera = [(name, name.rpartition(" ")[0] or None, ranks["genus"])
              for name, ranks in taxonomy.items() if ranks.get("genus")]
    known = table.drop_duplicates(["super_category", "sub_category"]).rename(columns={"sub_category": "name"})
    plan = pd.DataFrame(genera, columns=["name", "epithet", "genus"]).merge(
        known[["name", "super_category", "categories"]], on="name")
    if plan.empty:
        return plan, ["H2 is left out: it compares names by genus, and no taxonomy gives genera"]
    notes: list[str] = []
    for super_category, names in known.groupby("super_category"):
        part = plan[plan["super_category"] == super_category]
        if without := len(names) - len(part):
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


def _comparable(genera: Any) -> bool:
    """Whether two genera at least have names with a gap: a mate, and enough names of other genera."""
    sizes = genera.value_counts()
    return int(((sizes > 1) & (len(genera) - sizes >= probes.NUM_OTHERS)).sum()) > 1


def _epithets(part: Any, super_category: str) -> tuple[Any, list[str]]:
    """(the epithets that the control may read, notes) of one super-category.
    Where names share other words (makers of cars come first), the control would prove nothing.
    """
    words = [set(epithet.lower().split()) for epithet in part["epithet"].fillna("")]
    genera = list(part["genus"])
    mates = [[j for j, genus in enumerate(genera) if genus == own and j != i] for i, own in enumerate(genera)]
    share = [any(words[i] & words[j] for j in found) for i, found in enumerate(mates) if found]
    several, control = part["epithet"].notna(), "H2's control without the last word"
    one_word = f"{int((~several).sum())} of {len(part)} names of {super_category} are one word"
    if np.mean(share) > SHARED:
        return None, [f"{control} is left out of {super_category}: {sum(share)} of {len(share)} names share "
                      "another word with a name of their genus"]
    if not _comparable(part["genus"][several]):
        return None, [f"{control} is left out of {super_category}: {one_word}"]
    return part["epithet"], [] if several.all() else [f"{control}: {one_word}, left out"]


def with_epithet(plan: Any) -> Any:
    """The names that the control can read, as a plan of its own."""
    return plan[plan["epithet"].notna()].reset_index(drop=True)


def probe_h2(plan: Any, states: np.ndarray, *, seed: int, repeats: int) -> Any:
    """The plan with the column gap, from states [len(plan), D]; names without a gap are left out."""
    gaps, genera = np.full(len(plan), np.nan), plan["genus"].to_numpy()
    for here in plan.groupby("super_category").indices.values():
        gaps[here] = probes.genus_gaps(states[here], genera[here], seed=seed, repeats=repeats)
    return plan.assign(gap=gaps).dropna(subset=["gap"]).reset_index(drop=True)


def plan_h3(table: Any, *, num_images: int, num_folds: int, seed: int, wrong_names: str = "any",
            taxonomy: Optional[Mapping[str, Mapping[str, str]]] = None,
            looks: Optional[Callable] = None) -> tuple[Any, list[str]]:
    """(plan, notes): right and wrong names for images of the test split, in swaps (`swaps`) and folds.

    `wrong_names` is "any", or "near", which needs the taxonomy and `looks` (of `looks_of`).
    """
    check_wrong_names(wrong_names)
    genera = {name: ranks["genus"] for name, ranks in (taxonomy or {}).items() if ranks.get("genus")}
    parts, notes = [pd.DataFrame(columns=list(H3_COLUMNS))], []
    for super_category, part in table[table["split"] == "test"].groupby("super_category"):
        images = {key: _shuffled(group["image_id"], f"{seed}/h3/{super_category}/{key[0]}")
                  for key, group in part.groupby(["sub_category", "categories"])}
        group = partial(hard_negative_groups, genera=genera, seed=seed,
                        looks=looks and partial(looks, super_category)) if wrong_names == "near" else None
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
    return pd.concat(parts[1:] or parts, ignore_index=True), notes


def looks_of(plan: Any, states: np.ndarray) -> Callable[[str, str, str], float]:
    """looks(super_category, one, other): cosine of the mean image-token states of two sub-categories; -1
    where one of them has no image in H1's plan.
    """
    from finer1_lib.data.triplets import prototypes
    found = prototypes(np.asarray(states), plan)

    def looks(super_category: str, one: str, other: str) -> float:
        vectors = [found.get((super_category, name)) for name in (one, other)]
        return -1.0 if any(vector is None for vector in vectors) else float(vectors[0] @ vectors[1])

    return looks


def probe_h3(plan: Any, states: np.ndarray, *, seed: int) -> Any:
    """The plan with the column score: out-of-fold values of the separator, from states [len(plan), D]."""
    scores = np.empty(len(plan))
    for here in plan.groupby("super_category").indices.values():
        columns = (plan[name].to_numpy()[here] for name in ("right", "swap", "fold"))
        scores[here] = probes.cross_validated_scores(states[here], *columns, seed=seed)
    return plan.assign(score=scores)
