"""What the doctor examines: a preset's values, and what of its data and of its run exists on the disk.

Where 01 has finished with these very values, its files are read; else the table is made by the readers of
stage 01 (not by its `data.sources`, which writes files and stops at the first mistake), and what only 01 can
make (a teacher's rationales, triplets) is `NotYet`. A mistake in one data set is a row and hides nothing of
the others; an image that cannot be read is noted and left out. Nothing is downloaded but the release's lists,
where the preset names their address.
"""

import os
import tempfile
from collections import defaultdict
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple, Optional

from finer1_lib.commands.findings import NotYet, Row, fail, judged, passed, told, warn
from finer1_lib.core.checkpoint_names import read_entry, split_adapter
from finer1_lib.core.errors import UserError
from finer1_lib.core.faces import Later
from finer1_lib.core.files import read_json, read_jsonl
from finer1_lib.data.data_sets.archives import find_archive
from finer1_lib.data.data_sets.catalogue import DATA_SETS, copies_named
from finer1_lib.data.folder import read_table
from finer1_lib.data.guide import read_guide
from finer1_lib.data.sources import read_data_sets
from finer1_lib.data.split import assign_shots, count_names, split_table
from finer1_lib.evaluation.systems.registry import find_systems
from finer1_lib.miniature.base import WEIGHTS
from finer1_lib.models import checkpoint_files as checkpoints
from finer1_lib.models.encoders import check_open_clip
from finer1_lib.models.generation import own_settings
from finer1_lib.models.loading import check_processor, load_processor
from finer1_lib.paper.release.questions import read_lists, release_items
from finer1_lib.paper.release.stage1 import rationale_records, read_stage1
from finer1_lib.runs.fingerprints import earlier_digests, is_current, is_finished, signature_of
from finer1_lib.runs.presets import Plan

pandas = Later("pandas")

DATA, WORLD, EVALUATION = "01_data", "00_miniature_world", "04_evaluation"
Values = Mapping[str, Any]
Progress = Callable[[str, int, int], None]


class Listed(NamedTuple):
    """What the sources hold."""

    table: Any  # image_id, super_category, sub_category, width, height (split); None where there is nothing
    rows: list[Row]  # what was found on the way
    broken: dict[str, str]  # {image_id: why it cannot be read}


class Subject:
    """A preset to be examined; everything is read when a check first needs it.

    `values` are those of 01_data. `quick` opens only a sample of the images; `gpu_bytes` is the memory of a
    GPU of another machine, None for this one's; `progress(what, done, total)` is called on the way.
    """

    def __init__(self, plan: Plan, *, quick: bool = False, gpu_bytes: Optional[float] = None,
                 progress: Progress = lambda what, done, total: None) -> None:
        self.plan, self.quick, self.gpu_bytes, self.progress = plan, quick, gpu_bytes, progress
        self.values: Values = plan.parameters[DATA]
        self.words: list[str] = list(self.values.get("data_sets", []))  # of the paper
        self.run_dir: Path = plan.run_dir

    def get(self, stage: str, name: str, default: Any = None) -> Any:
        """A stage's value; the default where its notebook has no such parameter."""
        return self.plan.parameters[stage].get(name, default)

    @cached_property
    def root(self) -> Path:
        """The folder that image ids are relative to."""
        named = self.values.get("data_root" if self.words else "image_root", "")
        if self.words or named:
            return Path(os.path.expanduser(named))
        if not (self.run_dir / WORLD / "stage.json").is_file():
            raise NotYet(f"notebook {WORLD} has not drawn the world yet")
        return self.run_dir / WORLD / "images"

    @cached_property
    def made(self) -> Optional[Path]:
        """01's folder in this run, if it has finished with these values and inputs; else None."""
        if not is_current(self.run_dir, DATA):
            return None
        signature = signature_of(dict(self.values), earlier_digests(self.run_dir, DATA))
        return self.run_dir / DATA if is_finished(self.run_dir / DATA, signature) else None

    @cached_property
    def checkpoint(self) -> str:
        """The base model: the one that the preset names or trains, else the shipped one."""
        if not self.get(WORLD, "pretrain"):
            return self.get(WORLD, "base_checkpoint") or str(WEIGHTS)
        known = read_json(self.run_dir / WORLD / "base.json").get("checkpoint")
        if known is None:
            raise NotYet(f"notebook {WORLD} has not trained the base yet")
        return str(self.run_dir / WORLD / known)  # an absolute path stays as it is

    @cached_property
    def folders(self) -> dict[str, str]:
        """Folders of other checkpoints that the stages would load: {path: the parameter that names it}."""
        teacher = self.values.get("teacher_checkpoint") if self.values.get("teacher") == "model" else ""
        systems = find_systems(self.get(EVALUATION, "systems", []), self.get(EVALUATION, "systems_from", ""))
        similar = (self.get(EVALUATION, "text_similarity", ""), *self.get(EVALUATION, "more_similarities", []))
        named = [
            (f"{DATA}.teacher_checkpoint", [teacher]),
            (f"{DATA}.image_encoder", [self.values.get("image_encoder")]),
            *((f"{stage}.more_models", [split_adapter(read_entry(entry)[2])[0]
                                        for entry in self.get(stage, "more_models", [])])
              for stage in (EVALUATION, "05_probing")),
            (f"{EVALUATION}.systems", [one.checkpoint for one in systems]),
            (f"{EVALUATION}.text_similarity", [word.removeprefix("encoder:") for word in similar
                                               if word.startswith("encoder:")]),
        ]
        there = {str(Path(name).expanduser()): where for where, names in named for name in names if name}
        return {name: where for name, where in there.items() if Path(name).is_dir()}

    def examine(self, folder: str) -> None:
        """Refuse a checkpoint that a stage would refuse, without loading it: files, headers, chat template.

        Its numbers are checked too, one weight at a time, unless `quick`.
        Raises: UserError: what is wrong with it.
        """
        from transformers import GenerationConfig
        path = Path(folder)
        if (path / "open_clip_config.json").exists():
            checkpoints.check_files(path)
            return check_open_clip(path, numbers=not self.quick)
        if not (path / "config.json").exists() and (path / "adapter_config.json").exists():
            return  # an adapter is checked where it is attached
        checkpoints.check_any(path)
        if checkpoints.examine(path, folder, numbers=not self.quick):
            check_processor(load_processor(folder), checkpoints.read_config(folder), folder)
        if (path / "generation_config.json").exists():
            with checkpoints.loading(folder, "read the generation_config.json of"):
                own_settings(GenerationConfig.from_pretrained(folder, local_files_only=True), folder,
                             checkpoints.vocabulary_of(checkpoints.read_config(folder)))

    @cached_property
    def table(self) -> Any:
        """The images, in the form of images.parquet."""
        if self.made:
            return pandas.read_parquet(self.made / "images.parquet")
        if self.listed.table is None:
            raise NotYet("no images to check: see the rows of `data`")
        return self.listed.table

    @cached_property
    def listed(self) -> Listed:
        """The sources, split and with shots as 01 will draw them; a mistake is among its rows."""
        found = Listed(None, [], {})
        try:
            if self.words and self.values["image_root"]:
                raise UserError("data_sets and image_root are both given; leave one of them empty")
            read = list_data_sets if self.words else list_folder
            found = read(self.root, self.values, self.progress)
            if found.table is None:
                return found
            return self._shots(found) if self.words else found._replace(table=self._split(found.table))
        except UserError as error:  # the images can be checked all the same, as if none were a shot
            table = found.table
            if table is not None:
                table = table.assign(categories="seen", split=table.get("split", "train"), shot=-1)
            return found._replace(table=table, rows=[*found.rows, told(error, DATA)])

    def _named(self, name: str) -> str:
        """A file or folder of 01's values; "" for none. `named files` reports one that does not exist."""
        value = self.values.get(name, "")
        if value and "://" not in value and not os.path.exists(os.path.expanduser(value)):
            raise NotYet(f"{name} does not exist: see the rows of `named files`")
        return value

    def _options(self, *more: str) -> dict[str, Any]:
        return {name: self.values[name] for name in ("seed", "num_shots", "seen_share", *more)}

    def _split(self, table: Any) -> Any:
        guide = self.values["guide_file"]
        if not guide and not self.values["image_root"]:
            guide = self.run_dir / WORLD / "guide.json"
        return split_table(table, **self._options("train_share"),
                           guide=read_guide(os.path.expanduser(guide), table) if guide else None)

    def _shots(self, found: Listed) -> Listed:
        there, lists = set(found.table["super_category"]), {}
        with suppress(NotYet):  # images can be opened and counted all the same
            lists = self.release.lists if self.release else {}
        draw = partial(assign_shots, found.table, {word: one for word, one in lists.items() if word in there},
                       **self._options())
        try:  # the image of a rationale that exists already is shot 0 of its sub-category
            first = {(one["super_category"], one["sub_category"]): one["image_id"]
                     for one in self._given(sorted(there), found.table)}
            return found._replace(table=draw(first=first))
        except NotYet:
            return found._replace(table=draw())
        except UserError as error:  # of the rationales: the other checks still get the images
            row = told(error, f"{DATA}.rationales_file")
            return found._replace(table=draw(), rows=[*found.rows, row])

    def _given(self, words: Any, table: Any = None) -> list[dict]:
        """The rationales of the file that the preset names, matched with a table's images; [] for none."""
        if not self._named("rationales_file"):
            return []
        return rationale_records(read_stage1(self.values["rationales_file"], words), table,
                                 allow_incomplete=self.values["allow_incomplete"])

    @cached_property
    def release(self) -> Any:
        """The release's lists of the data sets that exist; None if none are named, or 01 has read them."""
        named = self._named("release") if self.words and not self.made else ""
        if not named:
            return None
        with tempfile.TemporaryDirectory() as cache:
            return read_lists(named, words_there(self.values, self.root), cache,
                              allow_incomplete=self.values["allow_incomplete"])

    @cached_property
    def rationales(self) -> list[dict]:
        """Lines of rationales.jsonl that are trained on."""
        if self.made:
            return [one for one in read_jsonl(self.made / "rationales.jsonl") if one["kept"]]
        if self._named("rationales_file"):
            return self._given(sorted(words_there(self.values, self.root)) if self.words else None)
        raise NotYet(f"the teacher has not been queried yet: run this again when {DATA} has finished")

    @cached_property
    def items(self) -> list[dict]:
        """Lines of items.jsonl."""
        if self.made:
            return read_jsonl(self.made / "items.jsonl")
        if self.release is None:
            raise NotYet(f"{DATA} has not made the questions yet")
        return release_items(self.release, self.table, allow_incomplete=self.values["allow_incomplete"])

    @cached_property
    def triplets(self) -> Any:
        """The triplets that 01 has made; None before."""
        return pandas.read_parquet(self.made / "triplets.parquet") if self.made else None


def words_there(values: Values, root: Path) -> list[str]:
    """Those of the named data sets whose images are on the disk."""
    copies = copies_named(values["hub_copies"])
    return [word for word in values["data_sets"] if word in DATA_SETS and (
        (root / "hub" / word / "index.json").is_file() if word in copies
        else find_archive(DATA_SETS[word], root) is not None)]


def list_data_sets(root: Path, values: Values, progress: Progress) -> Listed:
    """The paper's data sets that 01's values name, each on its own."""
    broken: dict[str, str] = {}
    found = [_data_set(word, root, values, broken, progress) for word in values["data_sets"]]
    tables = [table for table, _ in found if table is not None]
    whole = pandas.concat(tables, ignore_index=True) if tables else None
    return Listed(whole, [row for _, row in found], broken)


def _data_set(word: str, root: Path, values: Values, broken: dict[str, str],
              progress: Progress) -> tuple[Any, Row]:
    """One data set's table (None where it cannot be read) and its row."""
    if word not in DATA_SETS:
        return None, fail(f"{word!r} is not a data set of the paper", "01_data.data_sets",
                          f"name some of {', '.join(DATA_SETS)}")
    there, copies = words_there(values, root), copies_named(values["hub_copies"])
    title, hub, how = DATA_SETS[word].title, DATA_SETS[word].hub, DATA_SETS[word].how
    if word not in there and word in copies:  # 01 will take it from the Hub
        if commit := copies[word] or hub.revision:
            return None, Row("skip", f"{title}: 01 will take it from the Hub", f"{hub.name}@{commit}")
        return None, warn(f"{title}: 01 will take the newest commit of {hub.name} and record it",
                          "01_data.hub_copies", f"for the same images elsewhere give {word}@COMMIT there")
    if word not in there:
        what, where = f"{title} is missing", f"01_data.data_root: {str(values['data_root'])!r}"
        if there or copies:  # then the run goes on with those
            return None, warn(what, where, f"{how}; without it every table says PARTIAL")
        return None, fail(what, where, how)
    read = partial(
        read_data_sets, [word], root, crop_banner=values["crop_banner"], broken=broken,
        hub_copies=[one for one in values["hub_copies"] if word in copies_named([one])],
        progress=lambda done, total: progress(f"{word}, sizes", done, total))
    try:
        table, found, _ = read(allow_incomplete=values["allow_incomplete"])
    except UserError as error:
        table = None
        with suppress(UserError):  # so that the other checks can read what exists
            table = read(allow_incomplete=True)[0]
        return table, told(error, str(root))
    one = found[word]
    text = (f"{title}: {one['classes']} sub-categories, {one['train']} images to train and {one['test']} to "
            f"test{', as published' if one['complete'] else ': not the official ones'}")
    mend = "complete it; until then every table says PARTIAL"
    return table, judged(one["complete"], text, one["source"], mend, warn)


def list_folder(root: Path, values: Values, progress: Progress) -> Listed:
    """A folder of folders of images; each is opened whole, as 01 does, and all mistakes are rows.

    Raises: UserError: of `read_table`, where a mistake leaves nothing to check.
    """
    broken: dict[str, str] = {}
    table = read_table(root, values["super_category"], partial(progress, "reading images"), broken=broken,
                       strip_names=values.get("strip_names", False))
    rows = [passed(f"{len(table)} images of {count_names(table)} sub-categories", str(root))]
    mistakes: dict[str, list[str]] = defaultdict(list)
    for fault in table.attrs["faults"]:
        what, _, fix = fault.rpartition("; ")
        mistakes[fix].append(what.removeprefix(f"{root}/"))
    rows += [fail(f"{len(found)} mistakes: {' | '.join(found)}", str(root), fix)
             for fix, found in mistakes.items()]
    rows += [told(note, str(root), warn) for note in table.attrs["notes"]]
    sizes, needed = table.groupby(["super_category", "sub_category"]).size(), values["num_shots"] + 1
    if thin := [f"{word}/{name} ({size})" for (word, name), size in sizes.items() if size < needed]:
        rows.append(warn(f"{len(thin)} sub-categories have fewer than {needed} images, too few where they "
                         f"are seen: {', '.join(thin)}", str(root), "add some, or lower num_shots"))
    if twice := table.attrs["duplicates"]:
        rows.append(warn(f"{len(twice)} files are left out: another file has the same bytes",
                         ", ".join(twice), "remove them"))
    return Listed(table if len(table) else None, rows, broken)
