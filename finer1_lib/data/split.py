"""From a folder of folders of images to a split, a few-shot sample and evaluation items.

    table = split_table(read_table("photos"), seed=0)
    items = evaluation_items(table, similarity, seed=0)

Source: Fine-R1 (arXiv 2602.07605), Section 5.1 (seen and unseen sub-categories, 4 images per seen one);
release eval/data/ (order of the options).
"""

import random
from collections import defaultdict
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


def split_table(table, lists: Optional[Mapping[str, Mapping]] = None, *, seed: int, num_shots: int = 4,
                seen_share: float = 0.6, train_share: float = 0.5, guide: Optional[Mapping] = None,
                first: Optional[Mapping[tuple[str, str], str]] = None):
    """Add the columns categories (seen/unseen), shot, and split (train/test) where there is no official one.

    Per super-category the sub-categories of `lists` ({word: {"seen": names, "unseen": names}}) or of `guide`
    are seen, else the first floor(seen_share n) of a seeded shuffle; images are split per sub-category. Shots
    are training images of seen ones: 0 for the rationale (`first`: {(super_category, sub_category):
    image_id}), 1.. for TAPO, -1 for none. Every draw has its own generator: a new folder leaves others alone.
    Raises: UserError: names that do not fit, all sub-categories that are too small, a wrong first.
    """
    if not 0 < seen_share < 1 or not 0 < train_share < 1:
        raise UserError("seen_share and train_share must lie between 0 and 1, both ends excluded")
    if num_shots < 3:
        raise UserError(f"num_shots is {num_shots}; at least 3 are needed: 1 for the rationale, 2 for TAPO")
    table, lists, first, faults = table.copy(), lists or {}, dict(first or {}), []
    # pandas writes attrs into the parquet file, whose hash must stay that of the records that are kept
    table.attrs = {key: value for key, value in table.attrs.items() if key == "duplicates"}
    official = "split" in table
    table["categories"], table["shot"] = "unseen", -1
    for word, part in table.groupby("super_category"):
        try:
            seen = seen_names(word, sorted(part["sub_category"].unique()), seed, seen_share,
                              guide or lists.get(word))
        except UserError as error:
            faults.append(str(error))
            continue
        thin = defaultdict(list)
        for name, images in part.groupby("sub_category"):
            is_seen = name in seen
            drawn = images[images["split"] == "train"] if official else images
            order = sorted(drawn.index, key=lambda index: table.at[index, "image_id"])
            random.Random(f"{seed}/images/{word}/{name}").shuffle(order)
            if is_seen and (wanted := first.pop((word, name), None)) is not None:
                order.sort(key=lambda index: table.at[index, "image_id"] != wanted)  # stable: the others stay
                if not order or table.at[order[0], "image_id"] != wanted:
                    raise UserError(f"{word}/{name}: its rationale's image is not a training image of it")
            needed = num_shots * is_seen if official else (num_shots + 1 if is_seen else 2)
            if len(order) < needed:
                kind = f"a seen one with {num_shots} shots" if is_seen else "an unseen one"
                thin[f"{kind} needs {needed}{' to train on' * official}"].append(f"{name} ({len(order)})")
                continue
            if is_seen:
                table.loc[images.index, "categories"] = "seen"
                table.loc[order[:num_shots], "shot"] = range(num_shots)
            if not official:
                train = max(num_shots if is_seen else 1, int(len(order) * train_share))
                table.loc[order, "split"] = ["train"] * train + ["test"] * (len(order) - train)
        if thin:
            told = ", ".join(f"{need}: {', '.join(names)}" for need, names in thin.items())
            number = sum(map(len, thin.values()))
            fix = "complete it or lower num_shots" if official else "add some or take the folders out"
            faults.append(f"{word}: {number} sub-categories have too few images ({told}); {fix}")
    if faults:
        raise UserError(" | ".join(faults))
    if first:
        raise UserError(f"a rationale speaks of {'/'.join(min(first))}, which is not a seen sub-category here")
    return table[COLUMNS]


assign_shots = split_table  # of a table with the official split


def seen_names(super_category: str, names: list[str], seed: int, seen_share: float,
               given: Optional[Mapping]) -> set[str]:
    """The seen sub-categories of one super-category: those `given`, or the first of a seeded shuffle.
    Raises: UserError: too few sub-categories for a question, or for one seen pair and one unseen; given ones
    that do not part the names in two.
    """
    if len(names) < OPTIONS:
        raise UserError(f"{super_category}: {len(names)} sub-categories, a question with {OPTIONS} options "
                        f"needs {OPTIONS}; add folders")
    if given is not None:
        seen, unseen = set(given["seen"]), set(given["unseen"])
        if both := sorted(seen & unseen):
            raise UserError(f"{super_category}: {both[0]!r} is both seen and unseen in the lists")
        if odd := sorted(set(names) - seen - unseen):
            raise UserError(f"{super_category}: {odd[0]!r} is neither seen nor unseen in the lists: take its "
                            "own lists")
        seen &= set(names)
    else:
        order = list(names)
        random.Random(f"{seed}/seen/{super_category}").shuffle(order)
        seen = set(order[: int(seen_share * len(order) + 1e-9)])
    if len(seen) < 2 or len(seen) == len(names):
        raise UserError(f"{super_category}: {len(seen)} of {len(names)} sub-categories are seen; needed are "
                        "2 seen (a negative needs another one) and 1 unseen: change seen_share or add folders")
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

    That order is a trap: the truth is first and the nearest of the other three last; notebook 04 shuffles the
    options. Super-categories in `official` (the paper's data sets) get a release_path. At most
    `images_per_class` test images per sub-category, 0 for all.
    """
    items = []
    for super_category, part in table.groupby("super_category"):
        names = sorted(part["sub_category"].unique())
        for sub_category, images in part[part["split"] == "test"].groupby("sub_category"):
            near = nearest_names(super_category, sub_category, names, similarity, OPTIONS - 1, seed)
            order = images.sort_values("image_id").to_dict("records")
            random.Random(f"{seed}/items/{super_category}/{sub_category}").shuffle(order)
            for row in order[: images_per_class or None]:
                item = {"item_id": row["image_id"], "image_id": row["image_id"],
                        "super_category": super_category, "sub_category": sub_category,
                        "categories": row["categories"], "question": question_for(super_category),
                        "options": [sub_category, *reversed(near)]}
                if super_category in official:
                    item["release_path"] = release_path(super_category, row["image_id"])
                items.append(item)
    return sorted(items, key=lambda item: item["item_id"])
