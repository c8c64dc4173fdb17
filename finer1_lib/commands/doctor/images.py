"""Checks of the images: do they exist, open, leak from training to testing, and what size are they?"""

import os
import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator

from finer1_lib.commands.doctor.subject import DATA, EVALUATION, Subject
from finer1_lib.commands.findings import NotYet, Row, fail, judged, passed, shortly, told, warn
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import read_json
from finer1_lib.core.hashing import sha256_file
from finer1_lib.core.images import load_image, split_crop
from finer1_lib.core.prompts import question_for
from finer1_lib.data.data_sets.catalogue import copies_named
from finer1_lib.data.split import count_names
from finer1_lib.data.taxonomy import GENUS, read_taxonomy
from finer1_lib.evaluation.requests import coverage_of
from finer1_lib.models.encoding import pixels_named
from finer1_lib.runs.parameters import path_kind

SAMPLE = 300  # images that --quick opens
PER_TOKEN = 28 * 28  # pixels of an image token
TRAINED, TESTED = ("02_cot_sft", "03_tapo"), (EVALUATION, "05_probing")
LEAKS = {  # the first that holds of a group of equal files: what, level, how to fix it
    "the same image is trained on and tested on": (
        fail, "remove one of each, or draw other shots with another seed"),
    "the same image in train and in test": (
        warn, "no shot is among them, but probes and prototypes use them: remove one of each"),
    "the same image in two data sets": (warn, "remove one of each"),
    "the same image under two names": (warn, "one of the labels is wrong: remove that file"),
}


def named_files(subject: Subject) -> list[Row]:
    """Files and folders named by values of the preset exist; addresses and the output root are left out."""
    named: dict[str, list[str]] = defaultdict(list)
    for stage, values in subject.plan.parameters.items():
        for name, value in values.items():
            if path_kind(name) == "path" and name != "output_root" and value and "://" not in value:
                named[value].append(f"{stage}.{name}")
    if set(subject.values["data_sets"]) <= set(copies_named(subject.values["hub_copies"])):  # 01 fills it
        named = {path: names for path, names in named.items() if names != [f"{DATA}.data_root"]}
    rows = [fail(f"{path} does not exist", ", ".join(names), "correct the path, or leave it empty")
            for path, names in named.items() if not os.path.exists(os.path.expanduser(path))]
    return rows or [passed("all named files exist" if named else "none are named", ", ".join(named))]


def data(subject: Subject) -> list[Row]:
    """Folders, data sets, counts, names, the question and the user's table of genera."""
    if not subject.made:
        return [*subject.listed.rows, *_questions(subject), *_taxonomy(subject)]
    table, partial = subject.table, coverage_of(subject.run_dir)
    where, notes = f"{DATA}/data.json", read_json(subject.made / "data.json").get("notes", [])
    rows = [passed(f"{DATA} has finished with these values: {len(table)} images of {count_names(table)}"
                   " sub-categories", str(subject.made)), *(told(note, where, warn) for note in notes)]
    if partial:
        rows.append(warn(partial, where, "complete the data sets, or read every table so"))
    return rows + _questions(subject)


def _questions(subject: Subject) -> list[Row]:
    """The question as it will be put about each super-category; the release brings its own."""
    table = subject.table if subject.made else subject.listed.table
    if table is None:
        return []
    made = {one["super_category"]: one["question"] for one in subject.items} if subject.made else {}
    own = " (the release has its own)" if not subject.made and subject.values.get("release") else ""
    return [passed(f"the question about the {number} sub-categories of {word!r}: "
                   f"{made.get(word, question_for(word))}{own}")
            for word, number in table.groupby("super_category")["sub_category"].nunique().items()]


def _taxonomy(subject: Subject) -> list[Row]:
    file, table = subject.values.get("taxonomy_file", ""), subject.listed.table
    if not file or table is None or not os.path.exists(os.path.expanduser(file)):
        return []
    try:
        known = sum(GENUS in ranks for ranks in read_taxonomy(file, table).values())
    except UserError as error:
        return [told(error, f"{DATA}.taxonomy_file")]
    return [passed(f"a genus is given to {known} of {count_names(table)} names", file)]


def whole(subject: Subject) -> list[Row]:
    """Every image opens; with `quick` those of a seeded sample."""
    broken, ids = {} if subject.made else dict(subject.listed.broken), []
    try:
        ids = list(subject.table["image_id"])
    except NotYet:
        if not broken:
            raise
    chosen, part = ids, ""
    if subject.quick and len(ids) > SAMPLE:
        chosen = random.Random(f"{subject.values['seed']}/doctor").sample(ids, SAMPLE)
        part = f" (a sample of {len(ids)}; without --quick all are opened)"

    def problem_of(image_id: str) -> str:
        try:
            load_image(subject.root, image_id)
            return ""
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, (image_id, problem) in enumerate(zip(chosen, pool.map(problem_of, chosen)), start=1):
            if problem:
                broken[image_id] = problem
            subject.progress("opening images", done, len(chosen))
    if broken:
        return [fail(f"{len(broken)} images cannot be read: {broken[min(broken)]}",
                     shortly(sorted(broken), most=50),
                     "extract these files from the archive again, or remove them from the folder")]
    return [passed(f"{len(chosen)} images opened whole{part}", str(subject.root))]


def leaks(subject: Subject) -> list[Row]:
    """No file is in train and test, under two names, or in two data sets."""
    table, _ = subject.table, subject.release  # without its lists the shots are not the run's
    found: dict[str, list[str]] = defaultdict(list)
    doubles = 0
    for part in _copies(subject):
        names = sorted(set(part["super_category"] + "/" + part["sub_category"]))
        split, doubles = set(part["split"]), doubles + len(part) - 1
        holds = ((part["shot"] >= 0).any() and "test" in split, len(split) == 2,
                 part["super_category"].nunique() > 1, len(names) > 1)
        if kind := next((kind for kind, true in zip(LEAKS, holds) if true), None):
            found[kind].append(f"{' = '.join(part['image_id'])} ({', '.join(names)})")
    rows = [LEAKS[kind][0](f"{len(groups)} x {kind}", "; ".join(groups), LEAKS[kind][1])
            for kind, groups in found.items()]
    what = "shots were" if subject.quick else "images were"
    return rows or [passed(f"no image in train and test, under two names or in two data sets ({len(table)} "
                           f"{what} compared by their bytes; {doubles} harmless copies)")]


def _copies(subject: Subject) -> Iterator[Any]:
    """Rows of the table whose files have the same bytes; with `quick` only where a shot is among them."""
    paths = [subject.root / split_crop(image_id)[0] for image_id in subject.table["image_id"]]
    sizes = [path.stat().st_size if path.is_file() else None for path in paths]  # `whole` reports a missing one
    table = subject.table.assign(path=paths, size=sizes)
    groups = [group for _, group in table.groupby("size", sort=False)
              if len(group) > 1 and (not subject.quick or (group["shot"] >= 0).any())]
    total, done = sum(map(len, groups)), 0
    for group in groups:
        done += len(group)
        same = [part for _, part in group.groupby(group["path"].map(sha256_file), sort=False) if len(part) > 1]
        subject.progress("comparing images", done, total)
        yield from same


def pixels(subject: Subject) -> list[Row]:
    """How many images the processor shrinks or enlarges, and whether training and evaluation agree."""
    named = pixels_named(Path(subject.checkpoint))
    # where the checkpoint is not a folder: the bounds of Qwen2.5-VL's published processor
    own = named["min_pixels"] or 3136, named["max_pixels"] or 12845056
    budgets: dict[tuple[int, int], list[str]] = defaultdict(list)
    for stage in (*TRAINED, *TESTED):
        least, most = subject.get(stage, "min_pixels", 0), subject.get(stage, "max_pixels", 0)
        budgets[least or own[0], most or own[1]].append(stage)
    rows = [_budget(subject, *budget, stages) for budget, stages in budgets.items()]
    trained, tested = ({budget for budget, stages in budgets.items() if set(stages) & set(part)}
                       for part in (TRAINED, TESTED))
    if trained ^ tested:
        rows.append(warn("training and evaluation see images of different sizes", "min_pixels, max_pixels",
                         "give 02 to 05 the same values (common.yaml), unless that is what you study"))
    return rows


def _budget(subject: Subject, least: int, most: int, stages: list[str]) -> Row:
    where = f"{', '.join(stages)}: {least} to {most} pixels"
    if least > most:
        return fail("min_pixels is above max_pixels", where, "set both (0 is the checkpoint's own)")
    size = subject.table["width"].astype("int64") * subject.table["height"]
    large, small = int((size > most).sum()), int((size < least).sum())
    tokens = max(1, int(size.clip(least, most).quantile(0.95) / PER_TOKEN))
    changed = " and ".join(
        f"{number} are {how} {int(edge)})" for number, how, edge in (
            (large, "shrunk (the largest has", size.max()), (small, "enlarged (the smallest has", size.min()))
        if number)
    text = f"of {len(size)} images {changed}" if changed else f"all {len(size)} images keep their size"
    return judged(not changed, f"{text}; 95 of 100 images take up to {tokens} image tokens", where,
                  "wider limits keep the details and cost memory; else report it with the numbers", warn)
