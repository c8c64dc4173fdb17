"""H2's names: with their genera, and without the word that gives a genus away.

    taxonomy  {"Laysan Albatross": {"genus": "Phoebastria"}, ...}
    plan      name, epithet ("Laysan"), genus, super_category, categories

A name that is alone in its genus has no mate to be near to: it gets no gap, and only serves as one of the
others. Of CUB's 200 birds in 123 genera, 85 are alone in theirs.

"Albatross" stands in both names, and any model puts two texts together that share a word. The control reads
what stands before the last word, whose tokens know nothing of it. Where names share other words instead
(makers of cars stand in front), that control would prove nothing and is left out.

Source: paper 5.4 (H2); METHOD 5; the control is our choice.
"""

from typing import Any, Mapping

import numpy as np

from finer1_lib.probing import probes

SHARED = 0.5  # more names than this that share another word with a mate: the last word is not what they share


def plan_h2(taxonomy: Mapping[str, Mapping[str, str]], table):
    """Names with their genus, for the super-categories whose taxonomy allows the comparison.

    Args:
        taxonomy: taxonomy.json as a dictionary, {} where there is none; its order is that of the draws.
        table: the rows of images.parquet: which names there are, in which super-category, seen or unseen.

    Returns:
        (plan, notes): a DataFrame with name, epithet (the name without its last word; None where it has no
        other, or for all names of a super-category that share other words), genus, super_category,
        categories; and a sentence for everything left out.
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
    told = f"{int((~several).sum())} of {len(part)} names of {super_category} are one word"
    if not _comparable(part["genus"][several]):
        return None, [f"H2's control without the last word is left out of {super_category}: {told}"]
    return part["epithet"], [] if several.all() else [f"H2's control without the last word: {told}, left out"]


def with_epithet(plan):
    """The names that the control can read, as a plan of its own."""
    return plan[plan["epithet"].notna()].reset_index(drop=True)


def probe_h2(plan, states: np.ndarray, *, seed: int, repeats: int):
    """The genus gap of every name that has one.

    Args:
        plan: of `plan_h2` (or `with_epithet` of it); states: [len(plan), D].
        seed: of the draws.
        repeats: draws of mate and others averaged per name.

    Returns:
        The plan with the column gap; names without one are left out.
    """
    gaps = np.full(len(plan), np.nan)
    for super_category in sorted(plan["super_category"].unique()):
        here = (plan["super_category"] == super_category).to_numpy()
        genera = plan["genus"].to_numpy()[here]
        gaps[here] = probes.genus_gaps(states[here], genera, seed=seed, repeats=repeats)
    return plan.assign(gap=gaps).dropna(subset=["gap"]).reset_index(drop=True)
