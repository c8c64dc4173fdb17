"""The table of pictures as stage 01 will make it, from what lies on the disk, and what is wrong on the way.

A mistake in one data set is a row and hides nothing of the others; a picture that cannot be read is noted and
left out. Nothing is downloaded.

Source: our choice; the readers are those of stage 01 (`data_sets.collect`, `image_folder`).
"""

from collections import defaultdict
from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple, Optional

from finer1_lib.commands.doctor.rows import Row, fail, passed, refused, warn
from finer1_lib.core.errors import UserError
from finer1_lib.data.data_sets.archives import find_archive
from finer1_lib.data.data_sets.catalogue import DATA_SETS, copies_named

Values = Mapping[str, Any]
Progress = Callable[[str, int, int], None]


class Listed(NamedTuple):
    """What was found.

    Attributes:
        table: image_id, super_category, sub_category, width, height, and split for the paper's data sets;
            None where there is nothing.
        rows: what was found on the way.
        broken: {image_id: what is wrong with it}.
    """

    table: Any
    rows: list[Row]
    broken: dict[str, str]


def words_there(values: Values, root: Path) -> list[str]:
    """Those of the data sets asked for whose pictures are on the disk."""
    copies = copies_named(values["hub_copies"])
    return [word for word in values["data_sets"] if word in DATA_SETS and (
        (root / "hub" / word / "index.json").is_file() if word in copies
        else find_archive(DATA_SETS[word], root) is not None)]


def list_data_sets(values: Values, root: Path, progress: Progress) -> Listed:
    """The paper's data sets that 01's values name, each on its own."""
    import pandas

    copies = copies_named(values["hub_copies"])
    found, tables, there = Listed(None, [], {}), [], words_there(values, root)
    for word in values["data_sets"]:
        if word not in DATA_SETS:
            found.rows.append(fail(f"{word!r} is no data set of the paper", "01_data.data_sets",
                                   f"name some of {', '.join(DATA_SETS)}"))
        elif word not in there:
            found.rows.append(_remote(word, copies[word]) if word in copies else _absent(values, word, there))
        else:
            table, row = _read(values, root, word, found.broken, progress)
            found.rows.append(row)
            tables += [] if table is None else [table]
    return found._replace(table=pandas.concat(tables, ignore_index=True) if tables else None)


def _absent(values: Values, word: str, there: list[str]) -> Row:
    what, where = f"{DATA_SETS[word].title} is missing", f"01_data.data_root: {str(values['data_root'])!r}"
    if there or values["hub_copies"]:  # then the run goes on with those
        return warn(what, where, f"{DATA_SETS[word].how}; without it every table says PARTIAL")
    return fail(what, where, DATA_SETS[word].how)


def _remote(word: str, commit: Optional[str]) -> Row:
    """A copy that lies on the Hub still: 01 will take it from there."""
    hub, title = DATA_SETS[word].hub, DATA_SETS[word].title
    if commit := commit or hub.revision:
        return Row("skip", f"{title}: 01 will take it from the Hub", f"{hub.name}@{commit}")
    return warn(f"{title}: 01 will take the newest commit of {hub.name} and write it down",
                "01_data.hub_copies", f"to have the same pictures elsewhere give {word}@COMMIT there")


def _read(
    values: Values, root: Path, word: str, broken: dict[str, str], progress: Progress
) -> tuple[Any, Row]:
    """One data set's table (None where it cannot be read) and its row."""
    from finer1_lib.data.data_sets.collect import read_data_sets

    def read(allow_incomplete: bool) -> tuple:
        return read_data_sets(
            [word], root, hub_copies=[one for one in values["hub_copies"] if word in copies_named([one])],
            allow_incomplete=allow_incomplete,
            crop_banner=values["crop_banner"], broken=broken,
            progress=lambda done, total: progress(f"{word}, sizes", done, total))

    try:
        table, told, _ = read(values["allow_incomplete"])
    except UserError as error:
        row = refused(error, str(root))
        try:  # so that the other checks can look at what there is
            return read(True)[0], row
        except UserError:
            return None, row
    one, title = told[word], DATA_SETS[word].title
    counts = f"{one['classes']} sub-categories, {one['train']} pictures to train and {one['test']} to test"
    if not one["complete"]:
        return table, warn(f"{title}: {counts}: not the official ones", one["source"],
                           "complete it; until then every table says PARTIAL")
    return table, passed(f"{title}: {counts}, as published", one["source"])


def list_folder(root: Path, values: Values, progress: Progress) -> Listed:
    """A folder of folders of images; each is opened whole, as 01 does, and all mistakes are rows.

    Raises:
        UserError: of `image_folder.read_table`, where a mistake leaves nothing to look at.
    """
    from finer1_lib.data.folder import read_table
    from finer1_lib.data.split import count_names

    broken: dict[str, str] = {}
    table = read_table(root, values["super_category"],
                       lambda done, total: progress("reading pictures", done, total), broken=broken,
                       strip_names=values.get("strip_names", False))
    rows = [passed(f"{len(table)} pictures of {count_names(table)} sub-categories", str(root))]
    mistakes: dict[str, list[str]] = defaultdict(list)
    for fault in table.attrs["faults"]:
        what, _, fix = fault.rpartition("; ")
        mistakes[fix].append(what.removeprefix(f"{root}/"))
    rows += [fail(f"{len(found)} mistakes: {' | '.join(found)}", str(root), fix)
             for fix, found in mistakes.items()]
    for note in table.attrs["notes"]:
        what, _, fix = note.rpartition("; ")
        rows.append(warn(what, str(root), fix))
    sizes, needed = table.groupby(["super_category", "sub_category"]).size(), values["num_shots"] + 1
    if thin := [f"{word}/{name} ({size})" for (word, name), size in sizes.items() if size < needed]:
        rows.append(warn(f"{len(thin)} sub-categories have fewer than {needed} pictures, too few where they "
                         f"are seen: {', '.join(thin)}", str(root), "add some, or lower num_shots"))
    if twice := table.attrs["duplicates"]:
        rows.append(warn(f"{len(twice)} files are left out: the same bytes stand beside them",
                         ", ".join(twice), "remove them"))
    return Listed(table if len(table) else None, rows, broken)
