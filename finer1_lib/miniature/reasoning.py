"""The miniature's one rationale writer: four tagged parts over the guide's attributes.

The teacher (images) and the pretraining diet (text only) import this same writer, so that a rationale differs
from what the base has read in its evidence, not in its wording.

The guide is the dictionary of `guide.json`:
`{"super_categories": {name: {"attributes": {attr: [values]}, "genus_attributes": [attr]}}, "sub_categories":
{name: {"super_category", "genus", "attributes": {attr: value}}}, "seen": [names], "unseen": [names]}`.

Source: METHOD 2 (target format of the kit, four parts); the wording is our choice.
"""

from typing import Mapping, Protocol, Sequence

from finer1_lib.rationales import write_rationale


class Shuffler(Protocol):
    """What we ask of a random source: `random.Random` and `numpy.random.Generator` both have it."""

    def shuffle(self, x: list) -> None: ...


def claim(attribute: str, value: str) -> str:
    """One attribute as the rationales word it: `claim("bill", "needle") == "needle bill"`."""
    return f"{value} {attribute}"


def distance(guide: Mapping, first: str, second: str) -> int:
    """In how many attributes two sub-categories of one super-category differ.

    Source: our choice (every attribute counts alike; a genus shares some, so its members come out nearest).
    """
    one, two = (guide["sub_categories"][name]["attributes"] for name in (first, second))
    return sum(one[attribute] != two.get(attribute) for attribute in one)


def nearest(guide: Mapping, sub_category: str, k: int, rng: Shuffler) -> list[str]:
    """The k other sub-categories of the same super-category that share most attributes, nearest first.

    At equal distance the own genus comes first, as in a field guide; what is still equal is shuffled.

    Args:
        guide: the field guide.
        sub_category: whose neighbours; never among the result.
        k: how many at most (fewer where the super-category has fewer).
        rng: breaks ties; consumed once per call.

    Source: METHOD 2 (candidates of the same super-category); ties by seeded shuffle are our choice.
    """
    own = guide["sub_categories"][sub_category]
    super_category, genus = own["super_category"], own["genus"]
    others = [
        name
        for name in sorted(guide["sub_categories"])
        if name != sub_category and guide["sub_categories"][name]["super_category"] == super_category
    ]
    rng.shuffle(others)  # sorted() below is stable: equal distances keep this order

    def rank(name: str) -> tuple[int, bool]:
        return distance(guide, sub_category, name), guide["sub_categories"][name]["genus"] != genus

    return sorted(others, key=rank)[:k]


def analysis_text(analysis: Mapping[str, str]) -> str:
    """All observed attributes, "needle bill, forked tail, ...", in the mapping's own order."""
    return ", ".join(claim(attribute, value) for attribute, value in analysis.items())


def comparison_text(analysis: Mapping[str, str], candidates: Sequence[str], guide: Mapping) -> str:
    """What the guide says of each candidate, with " (differs)" after what the analysis contradicts.

    A hidden attribute (absent from the analysis) contradicts nothing. Genus attributes are not listed: a
    candidate whose genus attributes disagree with the analysis ends with "other genus (differs)" instead.
    """
    return "; ".join(f"{name}: {_entry(analysis, name, guide)}" for name in candidates)


def four_parts(
    analysis: Mapping[str, str], label: str, candidates: Sequence[str], guide: Mapping, rng: Shuffler
) -> str:
    """Write a rationale: analysis, options (shuffled), comparison, prediction, and the answer.

    Args:
        analysis: observed attributes, any order; written in the guide's attribute order. A hidden attribute
            is left out by not being here.
        label: the name predicted and answered.
        candidates: ALL names for the options, the label included (leave it out to write the mistake of a
            missing candidate); the caller's order does not matter.
        guide: the field guide.
        rng: shuffles the options (one `shuffle` call).

    Returns:
        `<think>\\n<analysis>..</analysis>\\n<options>..</options>\\n<comparison>..</comparison>\\n`
        `<prediction>..</prediction>\\n</think>\\n<answer>..</answer>`.

    Source: METHOD 2, target format of the kit.
    """
    entry = guide["sub_categories"][label]
    order = guide["super_categories"][entry["super_category"]]["attributes"]
    analysis = {attribute: analysis[attribute] for attribute in order if attribute in analysis}
    options = sorted(candidates)
    rng.shuffle(options)
    comparison = comparison_text(analysis, options, guide)
    return write_rationale(analysis_text(analysis), options, comparison, label)


def _entry(analysis: Mapping[str, str], name: str, guide: Mapping) -> str:
    """One candidate's claims, joined by commas."""
    sub_category = guide["sub_categories"][name]
    rules = guide["super_categories"][sub_category["super_category"]]
    values, genus = sub_category["attributes"], rules["genus_attributes"]

    def differs(attribute: str) -> bool:
        return attribute in analysis and analysis[attribute] != values[attribute]

    claims = [
        claim(attribute, values[attribute]) + (" (differs)" if differs(attribute) else "")
        for attribute in rules["attributes"]
        if attribute not in genus
    ]
    if any(differs(attribute) for attribute in genus):
        claims.append("other genus (differs)")
    return ", ".join(claims)
