"""From a folder of folders of images to a split, a few-shot sample and evaluation items.

    table = split_table(read_table("photos"), seed=0)
    items = evaluation_items(table, similarity, seed=0)

Source: Fine-R1 (arXiv 2602.07605), Section 5.1 (seen and unseen sub-categories, 4 images per seen one);
release eval/data/ (order of the options).
"""

import random
from typing import Collection, Mapping, Optional

from finer1_lib.core.errors import UserError
from finer1_lib.core.prompts import question_for
from finer1_lib.data.data_sets.catalogue import release_path
from finer1_lib.data.guide import Similarity

COLUMNS = ["image_id", "super_category", "sub_category", "categories", "split", "shot", "width", "height"]
OPTIONS = 4  # closed world: the truth and three others


def count_names(table) -> int:
    """Sub-categories of a table: a name that two super-categories have, as dogs and pets do, counts twice."""
    return table.groupby(["super_category", "sub_category"]).ngroups


def split_table(table, *, seed: int, num_shots: int = 4, seen_share: float = 0.6, train_share: float = 0.5,
                guide: Optional[Mapping] = None):
    """Add the columns categories (seen/unseen), split (train/test) and shot.

    Sub-categories are split per super-category: as the guide says, else the first floor(seen_share n) of a
    seeded shuffle are seen (Fine-R1, arXiv 2602.07605, Section 5.1: 117 of 196 cars). Images are split per
    sub-category; shots come from train images of seen ones: 0 for the rationale, 1.. for TAPO, -1 for none.
    Every draw has its own generator, so that a new folder leaves other draws alone. The paper's data sets:
    `sources.assign_shots`. Raises: UserError: names all super-categories and sub-categories that are too
    small.
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


def seen_names(super_category: str, names: list[str], seed: int, seen_share: float,
               guide: Optional[Mapping]) -> set[str]:
    """The seen sub-categories of one super-category: the guide's, or the first of a seeded shuffle.
    Raises: UserError: too few sub-categories for a question, or for one seen pair and one unseen.
    """
    if len(names) < OPTIONS:
        raise UserError(f"{super_category}: {len(names)} sub-categories, a question with {OPTIONS} options "
                        f"needs {OPTIONS}; add folders")
    if guide is not None:
        seen = set(names) & set(guide["seen"])
    else:
        order = list(names)
        random.Random(f"{seed}/seen/{super_category}").shuffle(order)
        seen = set(order[: int(seen_share * len(order) + 1e-9)])
    if len(seen) < 2 or len(seen) == len(names):
        raise UserError(f"{super_category}: {len(seen)} of {len(names)} sub-categories are seen; needed are "
                        "2 seen (a negative needs another one) and 1 unseen: change seen_share or add "
                        "folders")
    return seen


def nearest_names(super_category: str, sub_category: str, names: list[str], similarity: Similarity, k: int,
                  seed: int) -> list[str]:
    """The k other names nearest to one, nearest first; ties by a seeded shuffle."""
    others = sorted(name for name in names if name != sub_category)
    random.Random(f"{seed}/nearest/{super_category}/{sub_category}").shuffle(others)
    return sorted(others, key=lambda name: -similarity(super_category, sub_category, name))[:k]


def evaluation_items(table, similarity: Similarity, *, seed: int, images_per_class: int = 0,
                     official: Collection[str] = ()) -> list[dict]:
    """One item per test image, seen and unseen, with four options in the RELEASE's order (eval/data/*.jsonl).

    That order is a trap: the truth comes first and the nearest of the other three last, so "always the first"
    scores 100 %; notebook 04 shuffles the options. An item has item_id, image_id, super_category,
    sub_category, categories, question, options and, for super-categories in `official` (the paper's data
    sets), release_path. At most `images_per_class` test images per sub-category, 0 for all.
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
