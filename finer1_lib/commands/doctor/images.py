"""Checks of the pictures: are they there, whole, apart (train and test, one name, one set), of what size.

Source: our choice; METHOD 1 (training and test pictures are disjoint).
"""

import os
import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator

from finer1_lib.commands.doctor.rows import NotYet, Row, fail, passed, refused, shortly, warn
from finer1_lib.commands.doctor.subject import DATA, Subject
from finer1_lib.core.errors import UserError
from finer1_lib.data.data_sets.catalogue import copies_named
from finer1_lib.runs.parameters import path_kind

SAMPLE = 300  # pictures that --quick opens
PER_TOKEN = 28 * 28  # pixels of an image token
TRAINED, TESTED = ("02_cot_sft", "03_tapo"), ("04_evaluation", "05_probing")


def data(subject: Subject) -> list[Row]:
    """Folders, data sets, counts and names."""
    from finer1_lib.core.files import read_json
    from finer1_lib.data.split import count_names
    from finer1_lib.evaluation.items import coverage_of

    if not subject.made:
        return [*subject.listed.rows, *_questions(subject), *_taxonomy(subject)]
    table, partial = subject.table, coverage_of(subject.run_dir)
    told = f"{len(table)} pictures of {count_names(table)} sub-categories"
    rows = [passed(f"{DATA} has finished with these values: {told}", str(subject.made))]
    notes = [note.rpartition("; ") for note in read_json(subject.made / "data.json").get("notes", [])]
    rows += [warn(what, f"{DATA}/data.json", fix) for what, _, fix in notes]
    if partial:
        rows.append(warn(partial, f"{DATA}/data.json", "complete the data sets, or read every table so"))
    return rows + _questions(subject)


def _questions(subject: Subject) -> list[Row]:
    """The question as it will be put about each super-category; the release brings its own."""
    from finer1_lib.core.prompts import question_for

    table = subject.table if subject.made else subject.listed.table
    if table is None:
        return []
    asked = {one["super_category"]: one["question"] for one in subject.items} if subject.made else {}
    own = " (the release has its own)" if not subject.made and subject.values.get("release") else ""
    return [passed(f"the question about the {part['sub_category'].nunique()} sub-categories of {word!r}: "
                   f"{asked.get(word, question_for(word))}{own}")
            for word, part in table.groupby("super_category")]


def _taxonomy(subject: Subject) -> list[Row]:
    """The user's table of genera fits the names; one that is not there is among the named files."""
    from finer1_lib.data.split import count_names
    from finer1_lib.data.taxonomy import GENUS, read_taxonomy

    file, table = subject.values.get("taxonomy_file", ""), subject.listed.table
    if not file or table is None or not os.path.exists(os.path.expanduser(file)):
        return []
    try:
        known = sum(GENUS in ranks for ranks in read_taxonomy(file, table).values())
    except UserError as error:
        return [refused(error, f"{DATA}.taxonomy_file")]
    return [passed(f"a genus is given to {known} of {count_names(table)} names", file)]


def named_files(subject: Subject) -> list[Row]:
    """Files and folders that values of the preset name are there."""
    named: dict[str, list[str]] = defaultdict(list)
    from_hub = set(copies_named(subject.values["hub_copies"]))
    filled = set(subject.values["data_sets"]) <= from_hub  # then 01 makes data_root
    for stage, values in subject.plan.parameters.items():
        for name, value in values.items():
            if name == "data_root" and filled:
                continue
            if path_kind(name) == "path" and name != "output_root" and value and "://" not in value:
                named[value].append(f"{stage}.{name}")
    absent = [path for path in named if not os.path.exists(os.path.expanduser(path))]
    rows = [fail(f"{path} is not there", ", ".join(named[path]), "correct the path, or leave it empty")
            for path in absent]
    return rows or [passed("all that is named is there" if named else "none are named", ", ".join(named))]


def whole(subject: Subject) -> list[Row]:
    """Every picture opens; with `quick` those of a seeded sample."""
    from finer1_lib.core.images import load_image

    broken = {} if subject.made else dict(subject.listed.broken)
    try:
        ids = list(subject.table["image_id"])
    except NotYet:
        if not broken:
            raise
        ids = []
    chosen = ids
    if subject.quick and len(ids) > SAMPLE:
        chosen = random.Random(f"{subject.values['seed']}/doctor").sample(ids, SAMPLE)

    def opened(image_id: str) -> str:
        try:
            load_image(subject.root, image_id)
            return ""
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, (image_id, problem) in enumerate(zip(chosen, pool.map(opened, chosen)), start=1):
            if problem:
                broken[image_id] = problem
            subject.progress("opening pictures", done, len(chosen))
    if broken:
        first = broken[min(broken)]
        return [fail(f"{len(broken)} pictures cannot be read: {first}", shortly(sorted(broken), most=50),
                     "take these files from the archive again, or out of the folder")]
    part = "" if len(chosen) == len(ids) else f" (a sample of {len(ids)}; without --quick all are opened)"
    return [passed(f"{len(chosen)} pictures opened whole{part}", str(subject.root))]


def apart(subject: Subject) -> list[Row]:
    """No file stands in train and test, under two names, or in two data sets."""
    table, _ = subject.table, subject.release  # without its lists the shots are not the run's
    found: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    twins = 0
    for group in _copies(subject):
        part, twins = table.iloc[group], twins + len(group) - 1
        names = sorted({f"{row.super_category}/{row.sub_category}" for row in part.itertuples()})
        split = set(part["split"])
        if (part["shot"] >= 0).any() and "test" in split:
            kind = (fail, "the same picture is trained on and tested on",
                    "take one of each out, or draw other shots with another seed")
        elif len(split) == 2:
            kind = (warn, "the same picture in train and in test",
                    "no shot is among them, but probes and prototypes use them: take one of each out")
        elif part["super_category"].nunique() > 1:
            kind = warn, "the same picture in two data sets", "take one of each out"
        elif len(names) > 1:
            kind = warn, "the same picture under two names", "one of the labels is wrong: take that file out"
        else:
            continue
        found[kind].append(f"{' = '.join(part['image_id'])} ({', '.join(names)})")
    rows = [level(f"{len(groups)} x {what}", "; ".join(groups), fix)
            for (level, what, fix), groups in found.items()]
    what = "shots were" if subject.quick else "pictures were"
    return rows or [passed(f"no picture in train and test, under two names or in two data sets ({len(table)} "
                           f"{what} compared by their bytes; {twins} harmless copies)")]


def _copies(subject: Subject) -> Iterator[list[int]]:
    """Positions in the table of files with the same bytes; with `quick` only those that a shot is among."""
    from finer1_lib.core.hashing import sha256_file
    from finer1_lib.core.images import split_crop

    table = subject.table
    paths = [subject.root / split_crop(image_id)[0] for image_id in table["image_id"]]
    sizes = defaultdict(list)
    for place, path in enumerate(paths):
        if path.is_file():  # a missing one is the business of `whole`
            sizes[path.stat().st_size].append(place)
    shots = set(table.index[table["shot"] >= 0]) if subject.quick else None
    groups = [group for group in sizes.values() if len(group) > 1 and (shots is None or shots & set(group))]
    total, done = sum(map(len, groups)), 0
    for group in groups:
        same = defaultdict(list)
        for place in group:
            same[sha256_file(paths[place])].append(place)
        done += len(group)
        subject.progress("comparing pictures", done, total)
        yield from (places for places in same.values() if len(places) > 1)


def pixels(subject: Subject) -> list[Row]:
    """How many pictures the processor shrinks or enlarges, and whether training and evaluation agree."""
    budgets = {}
    for stage in (*TRAINED, *TESTED):
        least, most = subject.get(stage, "min_pixels", 0), subject.get(stage, "max_pixels", 0)
        own = _own_pixels(subject.checkpoint)
        budgets.setdefault((least or own[0], most or own[1]), []).append(stage)
    rows = [_budget(subject, *budget, stages) for budget, stages in budgets.items()]
    trained = [budget for budget, stages in budgets.items() if set(stages) & set(TRAINED)]
    tested = [budget for budget, stages in budgets.items() if set(stages) & set(TESTED)]
    if set(trained) ^ set(tested):
        rows.append(warn("training and evaluation see pictures of different sizes", "min_pixels, max_pixels",
                         "give 02 to 05 the same values (common.yaml), unless that is what you study"))
    return rows


def _budget(subject: Subject, least: int, most: int, stages: list[str]) -> Row:
    where = f"{', '.join(stages)}: {least} to {most} pixels"
    if least > most:
        return fail("min_pixels is above max_pixels", where, "set both (0 is the checkpoint's own)")
    size = subject.table["width"].astype("int64") * subject.table["height"]
    large, small = int((size > most).sum()), int((size < least).sum())
    tokens = int(size.clip(least, most).quantile(0.95) / PER_TOKEN)
    told = f"95 of 100 pictures take up to {max(tokens, 1)} image tokens"
    if not large and not small:
        return passed(f"all {len(size)} pictures keep their size; {told}", where)
    parts = [f"{large} are shrunk (the largest has {int(size.max())})"] if large else []
    parts += [f"{small} are enlarged (the smallest has {int(size.min())})"] if small else []
    return warn(f"of {len(size)} pictures {' and '.join(parts)}; {told}", where,
                "wider limits keep the details and cost memory; else say so beside the numbers")


def _own_pixels(checkpoint: str) -> tuple[int, int]:
    """A checkpoint's own limits; those of Qwen2.5-VL's published processor where it is no folder.

    Source: data.md 4.1.
    """
    from finer1_lib.models.encoding import pixels_named

    named = pixels_named(Path(checkpoint))
    return named["min_pixels"] or 3136, named["max_pixels"] or 12845056
