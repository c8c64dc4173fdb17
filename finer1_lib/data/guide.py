"""The miniature's one rationale writer: four tagged parts (Fine-R1, arXiv 2602.07605, Table 5) over a guide.

The teacher (images) and the pretraining data (text only) import this same writer, so that a rationale differs
from what the base has read in its evidence, not in its wording.
"""

import random
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence, Union

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import parse_json, read_text
from finer1_lib.data.rationales.filters import write_rationale

if TYPE_CHECKING:
    import numpy

Similarity = Callable[[str, str, str], float]  # super_category, one sub_category, another: larger is nearer
Shuffler = Union[random.Random, "numpy.random.Generator"]


def read_guide(path, table=None) -> dict:
    """Read a `guide.json` and check that it fits exactly the table's sub-categories, where one is given.

    It holds `super_categories` {name: {"attributes": {attribute: [values]}, "genus_attributes": [attributes
    that a genus shares]}}, `sub_categories` {name: {"super_category", "genus", "attributes": {attribute:
    value}}}, `seen` and `unseen` [names].
    Raises: UserError: unreadable, something missing or of another type, or names that do not fit the folder.
    """
    try:
        guide = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: not a readable guide ({what}); correct it or remove it") from None
    faults = _form_faults(guide)
    if not faults:
        pairs = {(entry["super_category"], name) for name, entry in guide["sub_categories"].items()}
        found = pairs if table is None else set(zip(table["super_category"], table["sub_category"]))
        faults = [f"guide and folder disagree about {name!r} of {word!r}"
                  for word, name in sorted(found ^ pairs)]
        faults = faults or _value_faults(guide)
    if faults:
        more = f" (and {len(faults) - 1} more mistakes)" if faults[1:] else ""
        raise UserError(f"{path}: {faults[0]}{more}; correct the guide (notebook 00 writes one to look at)")
    return guide


def _form_faults(guide: Any) -> list[str]:
    """What of a guide is missing or of another type, a line each."""
    from pydantic import ValidationError, conlist, create_model
    names, values = (list[str], ...), dict[str, conlist(str, min_length=1)]
    rules = create_model("Rules", attributes=(values, ...), genus_attributes=names)
    entry = create_model("Entry", super_category=(str, ...), genus=(str, ...), attributes=(dict[str, str], ...))
    form = create_model("Guide", super_categories=(dict[str, rules], ...), sub_categories=(dict[str, entry], ...),
                        seen=names, unseen=names)
    try:
        form.model_validate(guide)
        return []
    except ValidationError as error:
        return [f"{' > '.join(map(str, one['loc'])) or 'the guide'}: {one['msg'].lower()}"
                for one in error.errors()]


def _value_faults(guide: Mapping) -> list[str]:
    """Lists and attributes of a well-formed guide that do not fit together, a line each."""
    faults, seen, unseen = [], guide["seen"], guide["unseen"]
    if sorted(seen + unseen) != sorted(guide["sub_categories"]):
        faults.append("'seen' and 'unseen' must part the sub-categories in two")
    for name, entry in guide["sub_categories"].items():
        word, own = entry["super_category"], entry["attributes"]
        known = guide["super_categories"].get(word, {}).get("attributes", {})
        if not own:
            faults.append(f"{name!r} has no attributes: give some, or only genera, in taxonomy_file")
        elif not entry["genus"].strip():
            faults.append(f"{name!r} has an empty genus")
        elif word not in guide["super_categories"]:
            faults.append(f"{word!r} of {name!r} is not an entry of super_categories")
        elif odd := set(own) ^ set(known) or {key for key in own if own[key] not in known[key]}:
            faults.append(f"{sorted(odd)[0]!r} of {name!r} does not fit the attributes of {word!r}")
    for word, rules in guide["super_categories"].items():
        if odd := set(rules["genus_attributes"]) - set(rules["attributes"]):
            faults.append(f"{sorted(odd)[0]!r} of the genus_attributes of {word!r} is none of its attributes")
    return faults


def guide_similarity(guide: Mapping) -> Similarity:
    """Nearness by the guide: minus the number of attributes in which two sub-categories differ."""
    return lambda super_category, first, second: -float(distance(guide, first, second))


def describe(super_category: str, attributes: dict[str, str], rng: random.Random) -> str:
    """A description in one of several wordings, e.g. "A bird with red crown, needle bill."."""
    items = list(attributes.items())
    if rng.random() < 0.5:
        rng.shuffle(items)
    claims = analysis_text(dict(items))
    return (f"{'An' if super_category[0] in 'aeiou' else 'A'} {super_category.lower()} with {claims}.",
            f"{super_category}: {', '.join(f'{name} {value}' for name, value in items)}.",
            f"The {super_category} shows {claims}.", f"<analysis>{claims}</analysis>")[rng.randrange(4)]


def claim(attribute: str, value: str) -> str:
    """One attribute as the rationales word it: `claim("bill", "needle") == "needle bill"`."""
    return f"{value} {attribute}"


def distance(guide: Mapping, first: str, second: str) -> int:
    """In how many attributes two sub-categories of one super-category differ."""
    one, two = (guide["sub_categories"][name]["attributes"] for name in (first, second))
    return sum(one[attribute] != two.get(attribute) for attribute in one)


def nearest(guide: Mapping, sub_category: str, k: int, rng: Shuffler) -> list[str]:
    """The k (or fewer) other sub-categories of the super-category that share most attributes, nearest first.

    At equal distance the own genus comes first; remaining ties are shuffled by `rng`, which is used once per
    call.
    """
    entries = guide["sub_categories"]
    own = entries[sub_category]
    others = sorted(name for name, entry in entries.items()
                    if name != sub_category and entry["super_category"] == own["super_category"])
    rng.shuffle(others)  # sorted() below is stable: equal distances keep this order
    return sorted(others, key=lambda name: (distance(guide, sub_category, name),
                                            entries[name]["genus"] != own["genus"]))[:k]


def analysis_text(analysis: Mapping[str, str]) -> str:
    """All observed attributes, "needle bill, forked tail, ...", in the mapping's own order."""
    return ", ".join(claim(attribute, value) for attribute, value in analysis.items())


def comparison_text(analysis: Mapping[str, str], candidates: Sequence[str], guide: Mapping) -> str:
    """What the guide says of each candidate, with " (differs)" after what the analysis contradicts.

    A hidden attribute (absent from the analysis) contradicts nothing. Genus attributes are not listed: where
    they disagree, the entry ends with "other genus (differs)".
    """
    entries = []
    for name in candidates:
        sub_category = guide["sub_categories"][name]
        rules, values = guide["super_categories"][sub_category["super_category"]], sub_category["attributes"]
        differ = {attribute for attribute, value in analysis.items() if value != values.get(attribute, value)}
        claims = [claim(attribute, values[attribute]) + " (differs)" * (attribute in differ)
                  for attribute in rules["attributes"] if attribute not in rules["genus_attributes"]]
        claims += ["other genus (differs)"] * bool(differ.intersection(rules["genus_attributes"]))
        entries.append(f"{name}: {', '.join(claims)}")
    return "; ".join(entries)


def four_parts(analysis: Mapping[str, str], label: str, candidates: Sequence[str], guide: Mapping,
               rng: Shuffler) -> str:
    """A rationale (`write_rationale`) over the guide: analysis, options, comparison, prediction and answer.

    `analysis` maps observed attributes to values, without hidden ones, and is written in the guide's order.
    `candidates` are ALL names for the options (without the label, to write that mistake), ordered by one
    `rng.shuffle`.
    """
    order = guide["super_categories"][guide["sub_categories"][label]["super_category"]]["attributes"]
    analysis = {attribute: analysis[attribute] for attribute in order if attribute in analysis}
    options = sorted(candidates)
    rng.shuffle(options)
    return write_rationale(analysis_text(analysis), options, comparison_text(analysis, options, guide), label)
