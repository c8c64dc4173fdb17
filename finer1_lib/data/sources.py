"""Where a run's images come from: the drawn world of notebook 00, a user's folder, or the paper's data sets.

    source = find_source(stage, image_root, data_root, data_sets, guide_file)
    table, info = source.table(seed=0, ...)  # one row per image; what later stages must know of the source

`read_data_sets` makes one table of several data sets. One that is missing never stops the others; one whose
counts or names are not the official ones is refused. Only sizes are read, from the files' headers. The
release's lists and rationales are read by the caller and passed in.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.faces import Later
from finer1_lib.core.files import atomic_write_bytes, atomic_write_json, atomic_write_text, read_json
from finer1_lib.core.images import image_size
from finer1_lib.data.data_sets.archives import (
    BANNER, NotToBeHad, Picture, find_archive, read_archive, read_hub_copy)
from finer1_lib.data.data_sets.catalogue import DATA_SETS, DataSet, copies_named, official_names
from finer1_lib.data.folder import read_table
from finer1_lib.data.guide import read_guide
from finer1_lib.data.split import split_table
from finer1_lib.runs.parameters import nearest
from finer1_lib.runs.stage import Stage

pandas, pd = Later("pandas"), Later("pandas")

WORLD = "00_miniature_world"


@dataclass(frozen=True)
class Source:
    """The folder that holds the images, and what is known of them."""

    stage: Stage  # whose files are written
    root: Path  # image paths are relative to it
    guide_path: Optional[Path]
    data_sets: Sequence[str]  # of the paper; empty for a folder or the drawn world
    drawn: bool  # whether the images are those of notebook 00

    def __str__(self) -> str:
        name = "the drawn world" if self.drawn else ", ".join(self.data_sets) or self.root.name
        return f"images: {name} | guide: {self.guide_path.name if self.guide_path else 'none'}"

    def guide(self, table: "pandas.DataFrame") -> Optional[dict]:
        """The attribute table, checked against the images; None without one."""
        return read_guide(self.guide_path, table) if self.guide_path else None

    def table(self, *, folder: Mapping[str, Any], copies: Mapping[str, Any], allow_incomplete: bool,
              released: Optional[Callable], first_images: Callable, **split: Any) -> tuple:
        """(`images.parquet`, `sets.json`) as a table and a dictionary; read from the files where they exist.

        `folder`: options of `read_table`; `copies`: of `read_data_sets`; `split`: seed, num_shots, seen_share
        and train_share. `released`: words -> the release's lists (`lists`, `complete`), None for a seeded
        split; `first_images`: table -> records of the images that become shot 0.
        """
        path, info_path = self.stage.path("images.parquet"), self.stage.path("sets.json")
        if not path.exists():
            if self.data_sets:
                files, info, options = self._data_sets(copies, allow_incomplete, released, first_images)
            else:
                files, info, options = self._folder(**folder)
            table = split_table(files, **options, **split)
            atomic_write_json(info_path, info)
            save_table(table, path)
        return pd.read_parquet(path), read_json(info_path)

    def _folder(self, super_category: str, strip_names: bool) -> tuple:
        files = read_table(self.root, super_category, progress_every(self.stage, "images read"),
                           strip_names=strip_names)
        for duplicate in files.attrs["duplicates"]:
            print("left out, an identical file is beside it:", duplicate)
        notes = {"notes": files.attrs["notes"]} if files.attrs["notes"] else {}
        return files, notes, {"guide": self.guide(files)}

    def _data_sets(self, copies: Mapping, allow_incomplete: bool, released: Optional[Callable],
                   first_images: Callable) -> tuple:
        files, sets, missing = read_data_sets(self.data_sets, self.root, allow_incomplete=allow_incomplete,
                                              progress=progress_every(self.stage, "images listed"), **copies)
        release = released(list(sets)) if released else None
        for word, one in sets.items():
            one["split"] = "release" if release else "seeded"
            one["complete"] = one["complete"] and (not release or release.complete[word])
        first = {(row["super_category"], row["sub_category"]): row["image_id"] for row in first_images(files)}
        return files, {"data_sets": sets, "missing": missing}, {
            "lists": release.lists if release else {}, "first": first}

    def describe(self, guide: Optional[dict], names: Mapping, taxonomy: Mapping, info: Mapping) -> None:
        """Write taxonomy.json, guide.json (where there is one) and data.json for the later stages."""
        atomic_write_json(self.stage.path("taxonomy.json"), taxonomy)
        if guide:
            atomic_write_json(self.stage.path("guide.json"), guide)
        # the drawn world's folder is relative to the run, so that a run can be moved
        root = os.path.relpath(self.root, self.stage.run_dir) if self.drawn else str(self.root)
        atomic_write_json(self.stage.path("data.json"), {
            "image_root": root, "guide": "guide.json" if guide else None, "super_categories": list(names),
            **info})


def find_source(stage: Stage, image_root: str, data_root: str, data_sets: Sequence[str], guide_file: str,
                from_release: Sequence[str] = ()) -> Source:
    """The source that a run's parameters name; the drawn world where they name none.

    `from_release`: the parameters that take something from the release. Raises: UserError: two sources, or
    the release without a data set.
    """
    if data_sets and image_root:
        raise UserError("data_sets and image_root are both given: name the paper's data sets, or a folder of "
                        "your own")
    if any(from_release) and not data_sets:
        raise UserError("release, rationales_file and triplets_file speak of the paper's data sets: "
                        "name some in data_sets")
    drawn = not (image_root or data_sets)
    root = stage.input(f"{WORLD}/images") if drawn else Path(image_root or data_root).expanduser().resolve()
    own_guide = stage.input(f"{WORLD}/guide.json") if drawn and not guide_file else None
    return Source(stage, root, Path(guide_file).expanduser() if guide_file else own_guide, data_sets, drawn)


def progress_every(stage: Stage, label: str, step: int = 200) -> Callable[[int, int], Any]:
    """Reports (done, total) to the stage at every `step` images and at the end."""
    return lambda done, total: (done % step == 0 or done == total) and stage.progress(done, total, label)


def save_table(table: "pandas.DataFrame", path: Path) -> None:
    """Write a table as parquet, all of it or nothing."""
    atomic_write_bytes(path, table.to_parquet(None, index=False))


def prototype_features(path: Path, encoder: Callable, root: Path, image_ids: Sequence[str], scratch: Path,
                       progress: Optional[Callable] = None) -> Any:
    """One vector for each image, from the file if it exists; `encoder` loads the model only if not."""
    from safetensors.numpy import load_file, save

    from finer1_lib.models.encoders import cached_features
    if not path.exists():
        vectors = cached_features(encoder(), root, image_ids, scratch, progress=progress)
        atomic_write_bytes(path, save({"features": vectors}))
    return load_file(path)["features"]


def save_lines(rows: Sequence[Mapping], path: Path) -> None:
    """Write one JSON object a line, all of it or nothing."""
    atomic_write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_data_sets(words: Sequence[str], data_root: "str | Path", *, hub_copies: Sequence[str] = (),
                   crop_banner: bool = True, allow_incomplete: bool = False,
                   progress: Optional[Callable[[int, int], None]] = None,
                   broken: Optional[dict[str, str]] = None) -> "tuple[Any, dict[str, dict], dict[str, str]]":
    """(images, facts, missing) of the data sets `words` below `data_root`.

    images: DataFrame image_id (posix, below data_root; "#bottom=20" leaves out an aircraft's copyright
    notice), super_category, sub_category, split, width, height. facts: {word: {source, complete, classes,
    train, test}}. missing: {word: why}. `hub_copies`: "pet" or "pet@REVISION". With a dictionary `broken`,
    unreadable images go there. Raises: UserError: an unknown word, no data set, unofficial counts or names,
    an unreadable header.
    """
    root = Path(os.path.expanduser(data_root))
    copies = _copies(words, hub_copies)
    if not root.is_dir() and set(words) - set(copies):
        raise UserError(f"data_root {str(data_root)!r} is not a folder; give the one that holds data sets")
    found, told, missing = [], {}, {}
    for word in words:
        data_set, source = DATA_SETS[word], "archive"
        try:
            if word in copies:
                pictures, commit = read_hub_copy(data_set, root, copies[word], progress=progress)
                source = f"hub {data_set.hub.name}@{commit}"
            elif folder := find_archive(data_set, root):
                pictures = read_archive(data_set, folder, allow_incomplete)
            else:
                folders = " or ".join(data_set.folders)
                raise NotToBeHad(f"no {folders} below {root.name or root}: {data_set.how}")
        except NotToBeHad as error:
            missing[word] = str(error)
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
    """How many there are, compared with the official counts and names."""
    names, splits = {one.sub_category for one in pictures}, [one.split for one in pictures]
    found = {"classes": len(names), "train": splits.count("train"), "test": splits.count("test")}
    if foreign := sorted(names - official_names(data_set.word)):
        raise UserError(f"{data_set.title}: {foreign[0]!r} is none of its {data_set.classes} sub-categories: "
                        f"not the official data set; {data_set.how}")
    if len({picture.file for picture in pictures}) != len(pictures):
        raise UserError(f"{data_set.title}: its lists name one image twice; unpack it again")
    wanted = {key: getattr(data_set, key) for key in found}
    wrong = ", ".join(f"{found[key]} in place of {wanted[key]} ({key})" for key in found
                      if found[key] != wanted[key])
    if wrong and not allow_incomplete:
        raise UserError(f"{data_set.title}: {wrong}: not the official data set; complete it, or set "
                        "allow_incomplete to true and have every table say so")
    return {"complete": not wrong, **found}
