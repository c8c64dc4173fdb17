"""From a folder of folders of images to a table, a split, a few-shot sample and evaluation items.

The drawn world is one such folder, a user's own photographs are another, and nothing here knows which it is
reading (`image_folder` does the reading; its functions are offered here as well).

Example:
    table = split_table(read_table("photos"), seed=0)
    items = evaluation_items(table, similarity, seed=0)

Source: METHOD 1 (seen and unseen sub-categories, 4 images per seen one); the release's evaluation files
(order of the options); the seeded split is our choice.
"""

import random
from typing import Any, Callable, Collection, Mapping, Optional

from finer1_lib.errors import UserError
from finer1_lib.image_folder import load_image, read_table
from finer1_lib.prompts import question_for
from finer1_lib.release.pictures import release_path
from finer1_lib.user_files import parse_json, read_text

__all__ = [
    "COLUMNS", "count_names", "evaluation_items", "guide_similarity", "load_image", "nearest_names",
    "read_guide", "read_table", "seen_names", "split_table",
]
COLUMNS = ["image_id", "super_category", "sub_category", "categories", "split", "shot", "width", "height"]
OPTIONS = 4  # closed world: the truth and three others
Similarity = Callable[[str, str, str], float]  # super_category, one sub_category, another: larger is nearer


def count_names(table) -> int:
    """Sub-categories of a table: a name that two super-categories have, as dogs and pets do, counts twice."""
    return table.groupby(["super_category", "sub_category"]).ngroups


def read_guide(path, table=None) -> dict:
    """Read a `guide.json` and check that it speaks of exactly the table's sub-categories, where one is given.

    It holds `super_categories` {name: {"attributes": {attribute: [values]}, "genus_attributes": [attributes
    that a genus shares]}}, `sub_categories` {name: {"super_category", "genus", "attributes": {attribute:
    value}}}, `seen` and `unseen` [names].

    Raises:
        UserError: unreadable, something is missing or of another type, or its names and its seen / unseen
            lists do not fit the folder.
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
    from pydantic import BaseModel, ValidationError, conlist

    class Rules(BaseModel):
        attributes: dict[str, conlist(str, min_length=1)]
        genus_attributes: list[str]

    class Entry(BaseModel):
        super_category: str
        genus: str
        attributes: dict[str, str]

    class Guide(BaseModel):
        super_categories: dict[str, Rules]
        sub_categories: dict[str, Entry]
        seen: list[str]
        unseen: list[str]

    try:
        Guide.model_validate(guide)
    except ValidationError as error:
        return [f"{' > '.join(map(str, one['loc'])) or 'the guide'}: {one['msg'].lower()}"
                for one in error.errors()]
    return []


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
            faults.append(f"{word!r} of {name!r} is no entry of super_categories")
        elif odd := set(own) ^ set(known) or {key for key in own if own[key] not in known[key]}:
            faults.append(f"{sorted(odd)[0]!r} of {name!r} does not fit the attributes of {word!r}")
    for word, rules in guide["super_categories"].items():
        if odd := set(rules["genus_attributes"]) - set(rules["attributes"]):
            faults.append(f"{sorted(odd)[0]!r} of the genus_attributes of {word!r} is none of its attributes")
    return faults


def split_table(
    table, *, seed: int, num_shots: int = 4, seen_share: float = 0.6, train_share: float = 0.5,
    guide: Optional[Mapping] = None,
):
    """Add the columns categories (seen/unseen), split (train/test) and shot.

    Sub-categories are parted per super-category: as the guide says, else by a seeded shuffle whose first
    floor(seen_share n) are seen. Images are parted per sub-category; shots come from train images of seen
    sub-categories: 0 for the rationale, 1.. for TAPO, -1 for none. Every draw has its own generator, seeded
    by the name, so that adding a folder leaves the others' draws alone.

    Raises:
        UserError: super-categories with fewer than four sub-categories, sub-categories with too few images:
            all of them are named.

    Source: METHOD 1; the floor reproduces the paper's counts (117 of 196 cars are seen); train_share is our
    choice. Data sets with a split of their own go through `data_sets.collect.assign_shots`.
    """
    if not 0 < seen_share < 1 or not 0 < train_share < 1:
        raise UserError("seen_share and train_share must lie between 0 and 1, both ends excluded")
    if num_shots < 3:
        raise UserError(f"num_shots is {num_shots}; at least 3 are needed: 1 for the rationale, 2 for TAPO")
    table, faults = table.copy(), []
    # pandas writes attrs into the parquet file, whose hash must stay that of the records that are kept
    table.attrs = {key: value for key, value in table.attrs.items() if key == "duplicates"}
    for super_category, part in table.groupby("super_category"):
        try:
            seen = seen_names(super_category, sorted(part["sub_category"].unique()), seed, seen_share, guide)
        except UserError as error:
            faults.append(str(error))
            continue
        thin: dict[str, list[str]] = {}
        for sub_category, images in part.groupby("sub_category"):
            is_seen = sub_category in seen
            needed = num_shots + 1 if is_seen else 2
            if len(images) < needed:
                kind = f"a seen one with {num_shots} shots" if is_seen else "an unseen one"
                thin.setdefault(f"{kind} needs {needed}", []).append(f"{sub_category} ({len(images)})")
                continue
            order = sorted(images.index, key=lambda index: table.at[index, "image_id"])
            random.Random(f"{seed}/images/{super_category}/{sub_category}").shuffle(order)
            train = max(num_shots if is_seen else 1, int(len(order) * train_share))
            table.loc[order, "categories"] = "seen" if is_seen else "unseen"
            table.loc[order, "split"] = ["train" if i < train else "test" for i in range(len(order))]
            table.loc[order, "shot"] = [i if is_seen and i < num_shots else -1 for i in range(len(order))]
        if thin:
            told = ", ".join(f"{need}: {', '.join(names)}" for need, names in thin.items())
            number = sum(map(len, thin.values()))
            faults.append(f"{super_category}: {number} sub-categories have too few images ({told}); add some "
                          "or take the folders out")
    if faults:
        raise UserError(" | ".join(faults))
    table["shot"] = table["shot"].astype("int64")
    return table[COLUMNS]


def seen_names(
    super_category: str, names: list[str], seed: int, seen_share: float, guide: Optional[Mapping]
) -> set[str]:
    """The seen sub-categories of one super-category: the guide's, or the first of a seeded shuffle.

    Raises:
        UserError: too few sub-categories for a question, or for one seen pair and one unseen.
    """
    if len(names) < OPTIONS:
        raise UserError(
            f"{super_category}: {len(names)} sub-categories, a question with {OPTIONS} options needs "
            f"{OPTIONS}; add folders"
        )
    if guide is not None:
        seen = set(names) & set(guide["seen"])
    else:
        order = list(names)
        random.Random(f"{seed}/seen/{super_category}").shuffle(order)
        seen = set(order[: int(seen_share * len(order) + 1e-9)])
    if len(seen) < 2 or len(seen) == len(names):
        raise UserError(
            f"{super_category}: {len(seen)} of {len(names)} sub-categories are seen; needed are 2 seen (a "
            "negative needs another one) and 1 unseen: change seen_share or add folders"
        )
    return seen


def guide_similarity(guide: Mapping) -> Similarity:
    """Nearness by the guide: minus the number of attributes in which two sub-categories differ."""

    def similarity(super_category: str, first: str, second: str) -> float:
        one, two = (guide["sub_categories"][name]["attributes"] for name in (first, second))
        return -float(sum(one[attribute] != two.get(attribute) for attribute in one))

    return similarity


def nearest_names(
    super_category: str, sub_category: str, names: list[str], similarity: Similarity, k: int, seed: int
) -> list[str]:
    """The k other names nearest to one, nearest first; ties by a seeded shuffle."""
    others = sorted(name for name in names if name != sub_category)
    random.Random(f"{seed}/nearest/{super_category}/{sub_category}").shuffle(others)
    return sorted(others, key=lambda name: -similarity(super_category, sub_category, name))[:k]


def evaluation_items(
    table, similarity: Similarity, *, seed: int, images_per_class: int = 0, official: Collection[str] = ()
) -> list[dict]:
    """One item per test image, seen and unseen, with four options in the RELEASE's order.

    That order is a trap: the truth comes first and the nearest of the other three last, so "always the first"
    scores 100 %. Whoever shows the options shuffles them (notebook 04).

    Args:
        table: from `split_table`.
        similarity: what "near" means.
        seed: of the sample and the ties.
        images_per_class: at most so many test images per sub-category; 0 for all.
        official: super-categories whose pictures are those of the paper's data set of that name.

    Returns:
        Dictionaries of item_id, image_id, super_category, sub_category, categories, question, options and, of
        official pictures, release_path.

    Source: the release's evaluation files (truth first, then the three nearest of ALL classes in ascending
    similarity).
    """
    items = []
    for super_category, part in table.groupby("super_category"):
        names = sorted(part["sub_category"].unique())
        for sub_category, images in part[part["split"] == "test"].groupby("sub_category"):
            near = nearest_names(super_category, sub_category, names, similarity, OPTIONS - 1, seed)
            order = images.sort_values("image_id").to_dict("records")
            random.Random(f"{seed}/items/{super_category}/{sub_category}").shuffle(order)
            for row in order[: images_per_class or None]:
                items.append({
                    "item_id": row["image_id"], "image_id": row["image_id"], "super_category": super_category,
                    "sub_category": sub_category, "categories": row["categories"],
                    "question": question_for(super_category), "options": [sub_category, *reversed(near)],
                    **({"release_path": release_path(super_category, row["image_id"])}
                       if super_category in official else {}),
                })
    return sorted(items, key=lambda item: item["item_id"])
