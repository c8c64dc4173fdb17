"""Checks of the machine: versions, disk, memory against the plan, and the teacher's key.

Source: our choice; sizes are estimates of `finer1_lib.training.memory`.

Check of the rows from elsewhere that 04 and 05 will ask: whether they can be had, and are the paper's.

Source: our choice; the entries are `systems.registry`'s.
"""

import importlib.metadata
import os
import shutil
import urllib.parse
from pathlib import Path
from typing import Optional

from finer1_lib.commands.doctor.rows import NotYet, Row, fail, passed, refused, shortly, warn
from finer1_lib.commands.doctor.subject import DATA, WORLD, Subject
from finer1_lib.core.errors import UserError
from finer1_lib.evaluation.entries import FIXED, Entry

STAGE, PROBING = "04_evaluation", "05_probing"


def systems(subject: Subject) -> list[Row]:
    """Every system and every one of more_models is known, would run, and has what it needs."""
    from finer1_lib.core.checkpoint_names import split_adapter
    from finer1_lib.evaluation.entries import problem_of, with_more, with_systems
    from finer1_lib.evaluation.systems.registry import find_systems

    named = find_systems(subject.get(STAGE, "systems", []), subject.get(STAGE, "systems_from", ""))
    more = dict.fromkeys([*subject.get(STAGE, "more_models", []), *subject.get(PROBING, "more_models", [])])
    found = with_systems(with_more(FIXED, list(more)), named)[len(FIXED) :]
    if not found:
        raise NotYet("no rows from elsewhere are asked beside the run's own")
    on_base = any(one.checkpoint and split_adapter(one.checkpoint)[0] is None for one in found)
    base = subject.checkpoint if on_base else ""
    rows = []
    for one in found:
        where = f"{STAGE}.{'systems' if one.system else 'more_models'}"
        if problem := problem_of(one, base, reach=False):
            what, _, fix = problem.rpartition(": ")
            rows.append(fail(f"{one.model}: {what or fix}", where, fix if what else "as it says"))
        else:
            rows += [warn(f"{one.model} {what}", where, fix) for what, fix in _doubts(one, base)]
    return rows or [passed(f"{len(found)} rows from elsewhere, each with what it needs", STAGE)]


def _doubts(one: Entry, base: str) -> list[tuple[str, str]]:
    """(what may be wrong with a row, how to fix it)."""
    from finer1_lib.core.checkpoint_names import is_folder, split_revision
    from finer1_lib.evaluation.entries import weights_at
    from finer1_lib.models.adapter_files import other_base, read_adapter

    found = []
    if one.system is not None and one.system.ambiguous:
        found.append((f"may not be the paper's: {one.system.ambiguous}", "say so with its numbers"))
    if one.system is not None and one.system.kind == "endpoint":
        return found
    checkpoint, adapter = weights_at(one, base)
    if adapter is not None and (told := other_base(read_adapter(adapter).base, checkpoint)):
        what, _, fix = told.partition(": ")
        found.append((f"is an adapter on another base: {what}", fix))
    if not is_folder(checkpoint) and split_revision(checkpoint)[1] is None:
        found.append((f"is taken at the newest commit of {checkpoint}", "pin it as owner/name@revision"))
    return found


GIB = 2**30
STAGES = ("02_cot_sft", "03_tapo", "04_evaluation", "05_probing")
KIT = "finer1-lib"
RESERVE = 0.2 * GIB  # below that `finer1 run` begins no stage
KEPT = 3  # a stage's checkpoints on the disk at a time: two, and the one that is being written


def versions(subject: Subject) -> list[Row]:
    """What is installed is what the kit asks for, and what it was tested with."""
    from packaging.requirements import Requirement

    if _version(KIT) is None:
        return [fail("the kit itself is not installed", KIT, "pip install -e . -c constraints.txt")]
    wanted = _gpu_packages(subject)
    rows, seen = [], {}
    for text in importlib.metadata.requires(KIT) or []:
        one = Requirement(text)
        extra = one.marker is not None and "extra" in str(one.marker)
        if extra and one.name not in wanted:
            continue
        found = seen[one.name] = _version(one.name)
        if found is None:
            mend = 'install the kit with its extra "gpu"' if extra else "install the kit again"
            rows.append(fail(f"{one.name} is not installed", one.name, mend))
        elif not one.specifier.contains(found, prereleases=True):
            rows.append(fail(f"{one.name} {found} is outside the kit's range {one.specifier}", one.name,
                             "install with -c constraints.txt"))
    tested = _constraints(subject)
    other = [f"{name} {seen[name]} (tested: {tested[name]})" for name in sorted(seen)
             if name in tested and seen[name] not in (None, tested[name])]
    if other:
        rows.append(warn(
            f"{len(other)} packages differ from those that the kit was tested with", shortly(other, most=6),
            "install with -c constraints.txt, or say so with the numbers"))
    return rows or [passed(f"{len(seen)} packages, all as tested", "constraints.txt" if tested else "")]


def _gpu_packages(subject: Subject) -> set[str]:
    """Packages of the extra that the preset's values call for."""
    four_bit = [subject.get(DATA, "teacher_4bit"), *(subject.get(stage, "load_in_4bit") for stage in STAGES)]
    unsloth = [subject.get(stage, "backend") == "unsloth" for stage in STAGES]
    if any(unsloth):
        return {"unsloth", "unsloth_zoo", "bitsandbytes"}
    return {"bitsandbytes"} if any(four_bit) else set()


def _version(package: str) -> Optional[str]:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _constraints(subject: Subject) -> dict[str, str]:
    """Package -> the version of constraints.txt beside the notebooks; {} where there is none."""
    file = next(iter(subject.plan.notebooks.values())).parent.parent / "constraints.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def base(subject: Subject) -> list[Row]:
    """The base model's files are whole, or can be had; so are those of other checkpoints in folders."""
    from finer1_lib.core.checkpoint_names import is_folder
    from finer1_lib.models.checkpoint_files import check_checkpoint

    checkpoint = subject.checkpoint
    where = f"{WORLD}.base_checkpoint"
    rows = []
    for folder, named in {checkpoint: where, **subject.folders}.items():
        try:
            if folder == checkpoint and is_folder(folder):
                check_checkpoint(Path(folder))
            if is_folder(folder):
                subject.examine(folder)
        except UserError as error:
            rows.append(refused(error, named))
    if is_folder(checkpoint):
        return rows or [passed("the base is a folder with everything that is needed", checkpoint)]
    if _cached(checkpoint):
        return [*rows, passed(f"{checkpoint} is in the Hub's cache", where)]
    return [*rows, warn(f"{checkpoint} will be downloaded", where,
                 "download it beforehand where the machine has no network; pin it as owner/name@revision")]


def _cached(checkpoint: str) -> bool:
    """Whether some file of a Hub id lies in the cache."""
    from huggingface_hub import try_to_load_from_cache

    from finer1_lib.core.checkpoint_names import split_revision

    name, revision = split_revision(checkpoint)
    return isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str)


def disk(subject: Subject) -> list[Row]:
    """Room for the weights that are downloaded, kept, and written while training."""
    from finer1_lib.training.model_shapes import shape_of

    checkpoint = subject.checkpoint
    shape = shape_of(checkpoint)
    if shape is None:
        raise NotYet(f"no estimate: the shape of {checkpoint} is not known without a download")
    needs: dict[Path, float] = {}
    for name in filter(None, (checkpoint, _teacher(subject))):
        known = shape_of(name)
        if known is not None and not Path(name).is_dir() and not _cached(name):
            from huggingface_hub.constants import HF_HUB_CACHE

            cache = _there(Path(HF_HUB_CACHE))
            needs[cache] = needs.get(cache, 0) + 2 * known.parameters
    trained = shape.trained(_trainable(subject, "02_cot_sft"))
    full = subject.get("02_cot_sft", "finetuning") == "full"
    each = 2 * shape.parameters if full else 4 * trained  # a whole checkpoint in 16 bits, or an adapter
    lists = [("02_cot_sft", "settings_compared"), ("03_tapo", "methods"), ("03_tapo", "wrong_turns")]
    models = 2 + sum(len(subject.get(stage, name, [])) for stage, name in lists)
    room = _there(subject.run_dir)
    state = 12 * trained  # of a checkpoint: weights and two moments in float32
    needs[room] = needs.get(room, 0) + models * each + KEPT * state
    rows = []
    for folder, need in needs.items():
        free = shutil.disk_usage(folder).free
        told = f"{free / GIB:.1f} GiB free, about {need / GIB:.1f} needed"
        if not os.access(folder, os.W_OK):
            rows.append(fail("you may not write there", str(folder), "ask its owner, or name another --output-root"))
            continue
        rows.append(passed(told, str(folder)) if free >= need + RESERVE else fail(
            told, str(folder), "make room, or name another --output-root (HF_HOME for downloads)"))
    return rows


def _teacher(subject: Subject) -> str:
    """The checkpoint that 01 will ask for rationales; "" for none."""
    asked = subject.get(DATA, "teacher") == "model" and not subject.get(DATA, "rationales_file")
    return subject.get(DATA, "teacher_checkpoint", "") if asked else ""


def _there(path: Path) -> Path:
    """The nearest folder that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def _trainable(subject: Subject, stage: str) -> "Trainable":  # noqa: F821
    from finer1_lib.models.trainable import Trainable

    get = lambda name, default: subject.get(stage, name, default)  # noqa: E731
    return Trainable(get("finetuning", "lora"), get("lora_rank", 8), get("lora_alpha", 16),
                     bool(get("train_vision_tower", False)), bool(get("train_projector", False)))


def memory(subject: Subject) -> list[Row]:
    """The memory plan of every stage against the GPU (or, for a small model without one, main memory)."""
    from finer1_lib.training.memory import plan, total

    rows = []
    for stage in (DATA, *STAGES):
        if stage == DATA:  # a large teacher, which reads and writes as a model that is evaluated
            if not (teacher := _teacher(subject)):
                continue
            asks = {"batch_size": "teacher_batch", "max_new_tokens": "teacher_max_tokens",
                    "load_in_4bit": "teacher_4bit", "max_pixels": "max_pixels", "min_pixels": "min_pixels"}
            values = {name: subject.get(DATA, own) for name, own in asks.items()}
            found = plan("04_evaluation", values, teacher)
            if found is None:
                what = f"no estimate of the teacher: the shape of {teacher} is not known"
                rows.append(Row("skip", what, stage))
                continue
        else:
            trained = None if stage == "02_cot_sft" else subject.plan.parameters["02_cot_sft"]
            found = plan(stage, subject.plan.parameters[stage], subject.checkpoint, trained=trained)
        if found is None:
            raise NotYet(f"no estimate: the shape of {subject.checkpoint} is not known without a download")
        room, what = _room(subject, stage)
        need = total(found, gpu=what == "GPU")
        told = f"about {need / GIB:.1f} GiB at the peak (estimated)"
        if room is None:
            rows.append(fail(f"{told}, and no GPU here", stage,
                             "run it where the GPU is, or say --gpu-gib to be told whether it would fit"))
        elif need > room:
            rows.append(fail(f"{told}, the {what} has {room / GIB:.1f}", stage,
                             "a smaller micro-batch, max_pixels or max_new_tokens, 4 bits, a smaller model"))
        else:
            rows.append(passed(f"{told}, the {what} has {room / GIB:.1f}", stage))
    return rows


def memory_lines(subject: Subject) -> list[str]:
    """The plans of the two stages that train, part by part; [] where `memory` has told why there is none."""
    from finer1_lib.training.memory import lines

    values = subject.plan.parameters
    try:
        return [
            line for stage in STAGES[:2]
            for line in lines(stage, values[stage], subject.checkpoint, room=subject.gpu_bytes,
                              trained=values["02_cot_sft"] if stage == "03_tapo" else None)
        ]  # fmt: skip
    except (NotYet, UserError):
        return []


def _room(subject: Subject, stage: str) -> tuple[Optional[float], str]:
    """(bytes, of what) that a stage has; (None, ...) where it needs a GPU and there is none."""
    import torch

    if subject.gpu_bytes is not None:
        return subject.gpu_bytes, "GPU"
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory, "GPU"
    if subject.get(stage, "backend") == "unsloth" or subject.get(stage, "load_in_4bit"):
        return None, "GPU"
    return _main_memory(), "main memory"


def _main_memory() -> float:
    if not hasattr(os, "sysconf"):  # Windows
        raise NotYet("this system does not tell how much memory it has")
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def key(subject: Subject) -> list[Row]:
    """A teacher behind an address has that address, and its key in the environment."""
    values = subject.values
    if values.get("teacher") != "endpoint":
        raise NotYet(f"the teacher is {values.get('teacher')!r}, no endpoint")
    from finer1_lib.core.network import client_options, is_local
    from finer1_lib.models.endpoint import ChatEndpoint

    variable, rows = values["teacher_key_variable"], []
    # it refuses, without showing it, a key that was given in place of a variable's name
    endpoint = ChatEndpoint(
        values["teacher_url"], values["teacher_name"], subject.run_dir, key_variable=variable)
    if variable and not os.environ.get(variable, "").strip():
        rows.append(fail(f"the environment variable {variable} is not set", f"{DATA}.teacher_key_variable",
                         "export it in the shell that runs the kit; never write a key into a file"))
    client_options(endpoint.address)  # refuses proxies and certificates of the shell that cannot work
    address = urllib.parse.urlsplit(endpoint.address)
    if variable and address.scheme == "http" and not is_local(address.hostname):
        rows.append(warn("the key would travel unencrypted", f"{DATA}.teacher_url", "use https://"))
    told = f"its key is in {variable}" if variable else "without a key"
    return rows or [passed(f"{endpoint.model} at {endpoint.address}, {told}")]
