"""Several data sets as one table, and the few-shot split of it.

    table, told, missing = read_data_sets(["bird", "pet"], "data")
    table = assign_shots(table, lists, seed=0)        # lists: the release's seen and unseen names
    told["bird"]   -> {"source": "archive", "complete": True, "classes": 200, "train": 5994, "test": 5794}

A data set that is not there never stops the others; one whose counts or names are not the official ones is
refused, because numbers of another set of images must not go by its name. Only sizes are read here, from
the files' headers (`finer1 doctor` opens every image whole).

Source: Fine-R1 (arXiv 2602.07605), Section 5.1 (4 images per seen sub-category, official splits); the data
sets' own lists.
"""

import os
import random
from pathlib import Path
from typing import Any, Callable, Collection, Mapping, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.images import image_size
from finer1_lib.data.data_sets.archives import BANNER, Picture, find_archive, read_archive
from finer1_lib.data.data_sets.catalogue import DATA_SETS, DataSet, copies_named
from finer1_lib.data.data_sets.hub_copies import NotToBeHad, read_hub_copy
from finer1_lib.data.data_sets.names import official_names
from finer1_lib.data.split import COLUMNS, seen_names
from finer1_lib.runs.parameters import nearest


def read_data_sets(
    words: Sequence[str], data_root: "str | Path", *, hub_copies: Sequence[str] = (),
    crop_banner: bool = True, allow_incomplete: bool = False,
    progress: Optional[Callable[[int, int], None]] = None, broken: Optional[dict[str, str]] = None,
) -> "tuple[Any, dict[str, dict], dict[str, str]]":
    """(images, facts, missing) of the data sets `words` below `data_root`.

    images: DataFrame image_id (posix, below data_root; "#bottom=20" at its end leaves out 20 rows),
    super_category, sub_category, split, width, height. facts: {word: {source, complete, classes, train,
    test}}. missing: {word: why}.

    Args:
        hub_copies: those of `words` to take from the Hub, "pet" or "pet@REVISION".
        crop_banner: leave out the copyright notice below every aircraft (20 pixel rows).
        allow_incomplete: take a data set that lacks images, and report it.
        broken: where given, images that cannot be read are noted in it (image_id -> why) and left out.

    Raises: UserError: an unknown word, no data set at all, other counts or names than the official ones, or
    an image whose header cannot be read.
    """
    import pandas

    root = Path(os.path.expanduser(data_root))
    copies = _copies(words, hub_copies)
    if not root.is_dir() and set(words) - set(copies):
        raise UserError(f"data_root {str(data_root)!r} is not a folder; give the one that holds data sets")
    found, told, missing = [], {}, {}
    for word in words:
        data_set = DATA_SETS[word]
        if word in copies:
            try:
                pictures, commit = read_hub_copy(data_set, root, copies[word], progress=progress)
            except NotToBeHad as error:
                missing[word] = str(error)
                continue
            source = f"hub {data_set.hub.name}@{commit}"
        elif (folder := find_archive(data_set, root)) is not None:
            pictures, source = read_archive(data_set, folder, allow_incomplete), "archive"
        else:
            missing[word] = f"no {' or '.join(data_set.folders)} below {root.name or root}: {data_set.how}"
            continue
        told[word] = {"source": source, **_counted(data_set, pictures, allow_incomplete)}
        found += [(word, picture) for picture in pictures]
    if not found:
        raise UserError("no data set: " + "; ".join(f"{word}: {why}" for word, why in missing.items()))
    rows = []
    for done, (word, picture) in enumerate(found, start=1):
        image_id = picture.file.relative_to(root).as_posix()
        image_id += f"#bottom={BANNER}" * (word == "aircraft" and crop_banner)
        try:
            rows.append((image_id, word, picture.sub_category, picture.split, *image_size(root, image_id)))
        except UserError as error:
            if broken is None:
                raise
            broken[image_id] = str(error)
        if progress:
            progress(done, len(found))
    columns = ["image_id", "super_category", "sub_category", "split", "width", "height"]
    return pandas.DataFrame(rows, columns=columns).sort_values("image_id", ignore_index=True), told, missing


def assign_shots(
    table, lists: Mapping[str, Mapping[str, Collection[str]]], *, seed: int, num_shots: int = 4,
    seen_share: float = 0.6, first: Optional[Mapping[tuple[str, str], str]] = None,
):
    """The official split with the columns categories (seen/unseen) and shot, in the form of images.parquet.

    Shots are drawn from the official training images of seen sub-categories: 0 for the rationale, 1.. for
    TAPO. Each sub-category has its own generator, so that one more data set does not change the other draws.

    Args:
        lists: the release's {word: {"seen": names, "unseen": names}}; a word that is not in it is split by a
        seeded
            shuffle, the first floor(seen_share n) being seen.
        first: {(super_category, sub_category): image_id} of rationales that exist: that image is shot 0.

    Raises: UserError: names that the lists or the table lack, too few training images, or a first image that
    is not a training image of its sub-category.

    Source: Fine-R1 (arXiv 2602.07605), Section 5.1 (60 % seen).
    """
    if num_shots < 3:
        raise UserError(f"num_shots is {num_shots}; at least 3 are needed: 1 for the rationale, 2 for TAPO")
    table, first, thin = table.copy(), dict(first or {}), []
    table["categories"], table["shot"] = "unseen", -1
    for word, part in table.groupby("super_category"):
        names = sorted(part["sub_category"].unique())
        given = lists.get(word)
        guide = {"seen": _listed(word, names, given)} if given else None
        seen = seen_names(word, names, seed, seen_share, guide)
        for name, images in part[part["sub_category"].isin(seen)].groupby("sub_category"):
            table.loc[images.index, "categories"] = "seen"
            train = images[images["split"] == "train"].sort_values("image_id")
            order = list(train.index)
            random.Random(f"{seed}/images/{word}/{name}").shuffle(order)
            if (wanted := first.pop((word, name), None)) is not None:
                at = [index for index in order if table.at[index, "image_id"] == wanted]
                if not at:
                    raise UserError(f"{word}/{name}: its rationale's image is not a training image of it")
                order = at + [index for index in order if index != at[0]]
            if len(order) < num_shots:
                thin.append(f"{word}/{name} ({len(order)})")
                continue
            table.loc[order[:num_shots], "shot"] = range(num_shots)
    if thin:
        raise UserError(f"{len(thin)} sub-categories have too few training images for {num_shots} shots: "
                        f"{', '.join(thin)}; lower num_shots or complete the data set")
    if first:
        word, name = sorted(first)[0]
        raise UserError(f"a rationale speaks of {word}/{name}, which is not a seen sub-category here")
    table["shot"] = table["shot"].astype("int64")
    return table[COLUMNS]


def _copies(words: Sequence[str], hub_copies: Sequence[str]) -> dict[str, Optional[str]]:
    """{word: revision or None}, everything known."""
    for word in words:
        if word not in DATA_SETS:
            raise UserError(f"data_sets: no data set {word!r}{nearest(word, DATA_SETS, 'they are')}")
    if len(set(words)) != len(words):
        raise UserError("data_sets names one twice")
    copies = copies_named(hub_copies)
    if extra := sorted(set(copies) - set(words)):
        raise UserError(f"hub_copies names {extra[0]!r}, which data_sets does not")
    return copies


def _counted(data_set: DataSet, pictures: Sequence[Picture], allow_incomplete: bool) -> dict[str, Any]:
    """How many there are, held against the official counts and names."""
    splits = [picture.split for picture in pictures]
    found = {"classes": len({picture.sub_category for picture in pictures}),
             "train": splits.count("train"), "test": splits.count("test")}
    wanted = {"classes": data_set.classes, "train": data_set.train, "test": data_set.test}
    if foreign := sorted({picture.sub_category for picture in pictures} - official_names(data_set.word)):
        raise UserError(f"{data_set.title}: {foreign[0]!r} is none of its {data_set.classes} sub-categories: "
                        f"not the official data set; {data_set.how}")
    if len({picture.file for picture in pictures}) != len(pictures):
        raise UserError(f"{data_set.title}: its lists name one image twice; unpack it again")
    wrong = ", ".join(f"{found[key]} in place of {wanted[key]} ({key})" for key in wanted
                      if found[key] != wanted[key])
    if wrong and not allow_incomplete:
        raise UserError(f"{data_set.title}: {wrong}: not the official data set; complete it, or set "
                        "allow_incomplete to true and have every table say so")
    return {"complete": not wrong, **found}


def _listed(word: str, names: Sequence[str], given: Mapping[str, Collection[str]]) -> set[str]:
    """The seen names of a list that must part the table's names in two."""
    seen, unseen = set(given["seen"]), set(given["unseen"])
    if both := sorted(seen & unseen):
        raise UserError(f"{word}: {both[0]!r} is both seen and unseen in the lists")
    if odd := sorted(set(names) - seen - unseen):
        raise UserError(f"{word}: {odd[0]!r} is neither seen nor unseen in the lists: take its own lists")
    return seen
