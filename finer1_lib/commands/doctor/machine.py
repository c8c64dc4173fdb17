"""Checks of the machine and of what is loaded: checkpoints, memory, disk, versions, the teacher's key.

Memory and disk are estimates, from `finer1_lib.training.memory` and the shapes of the checkpoints.
"""

import importlib.metadata
import os
import shutil
import urllib.parse
from collections import Counter
from pathlib import Path
from typing import Iterator, Optional

from finer1_lib.commands.doctor.subject import DATA, EVALUATION, WORLD, Subject
from finer1_lib.commands.findings import NotYet, Row, fail, judged, passed, shortly, told, warn
from finer1_lib.core.checkpoint_names import is_folder, split_adapter, split_revision
from finer1_lib.core.errors import UserError
from finer1_lib.core.network import client_options, is_local
from finer1_lib.evaluation.entries import FIXED, Entry, problem_of, weights_at, with_more, with_systems
from finer1_lib.evaluation.systems.registry import find_systems
from finer1_lib.models.adapter_files import other_base, read_adapter
from finer1_lib.models.checkpoint_files import check_checkpoint
from finer1_lib.models.endpoint import ChatEndpoint
from finer1_lib.training.memory import lines, plan, total, work_of
from finer1_lib.training.model_shapes import shape_of

GIB = 2**30
SFT, TAPO, PROBING = "02_cot_sft", "03_tapo", "05_probing"
STAGES = (SFT, TAPO, EVALUATION, PROBING)
KIT = "finer1-lib"
RESERVE = 0.2 * GIB  # below that `finer1 run` starts no stage
KEPT = 3  # checkpoints of a stage on the disk at a time: two, and the one that is being written
TEACHER = {  # a large teacher reads and writes as a model that is evaluated does: 04's parameter -> 01's
    "batch_size": "teacher_batch", "max_new_tokens": "teacher_max_tokens", "load_in_4bit": "teacher_4bit",
    "max_pixels": "max_pixels", "min_pixels": "min_pixels"}


def systems(subject: Subject) -> list[Row]:
    """Every system and every one of more_models is known, would run, and has what it needs."""
    named = find_systems(subject.get(EVALUATION, "systems", []), subject.get(EVALUATION, "systems_from", ""))
    more = dict.fromkeys(
        one for stage in (EVALUATION, PROBING) for one in subject.get(stage, "more_models", []))
    found = with_systems(with_more(FIXED, list(more)), named)[len(FIXED) :]
    if not found:
        raise NotYet("no other models are evaluated beside the run's own")
    on_base = any(one.checkpoint and split_adapter(one.checkpoint)[0] is None for one in found)
    base, rows = subject.checkpoint if on_base else "", []
    for one in found:
        where = f"{EVALUATION}.{'systems' if one.system else 'more_models'}"
        problem = problem_of(one, base, reach=False)
        own = [told(problem, where, mark=": ")] if problem else [
            warn(f"it {what}", where, fix) for what, fix in _doubts(one, base)]
        rows += [row._replace(what=f"{one.model}: {row.what}") for row in own]
    return rows or [passed(f"{len(found)} other models, each with what it needs", EVALUATION)]


def _doubts(one: Entry, base: str) -> Iterator[tuple[str, str]]:
    """(what may be wrong with a row, how to fix it)."""
    if one.system is not None and one.system.ambiguous:
        yield f"may not be the paper's: {one.system.ambiguous}", "report it with its numbers"
    if one.system is not None and one.system.kind == "endpoint":
        return
    checkpoint, adapter = weights_at(one, base)
    if adapter is not None and (other := other_base(read_adapter(adapter).base, checkpoint)):
        what, _, fix = other.partition(": ")
        yield f"is an adapter on another base: {what}", fix
    if not is_folder(checkpoint) and split_revision(checkpoint)[1] is None:
        yield f"is taken at the newest commit of {checkpoint}", "pin it as owner/name@revision"


def base(subject: Subject) -> list[Row]:
    """The base model's files are complete or can be downloaded; those of other folders are complete."""
    checkpoint, where, rows = subject.checkpoint, f"{WORLD}.base_checkpoint", []
    for folder, named in {checkpoint: where, **subject.folders}.items():
        try:
            if folder == checkpoint and is_folder(folder):
                check_checkpoint(Path(folder))
            if is_folder(folder):
                subject.examine(folder)
        except UserError as error:
            rows.append(told(error, named))
    if is_folder(checkpoint):
        return rows or [passed("the base is a folder with everything that is needed", checkpoint)]
    if cached_file(checkpoint, "config.json"):
        return [*rows, passed(f"{checkpoint} is in the Hub's cache", where)]
    return [*rows, warn(f"{checkpoint} will be downloaded", where, "download it beforehand where the machine "
                        "has no network; pin it as owner/name@revision")]


def cached_file(checkpoint: str, name: str) -> Optional[Path]:
    """A file of a checkpoint, a folder or a Hub id, if it is on this machine."""
    if Path(checkpoint).is_dir():
        file = Path(checkpoint) / name
        return file if file.is_file() else None
    from huggingface_hub import try_to_load_from_cache
    repository, revision = split_revision(checkpoint)
    found = try_to_load_from_cache(repository, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def key(subject: Subject) -> list[Row]:
    """A teacher behind an address has that address, and its key in the environment."""
    values = subject.values
    if values.get("teacher") != "endpoint":
        raise NotYet(f"the teacher is {values.get('teacher')!r}, not an endpoint")
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
    how = f"its key is in {variable}" if variable else "without a key"
    return rows or [passed(f"{endpoint.model} at {endpoint.address}, {how}")]


def versions(subject: Subject) -> list[Row]:
    """The installed packages are within the kit's ranges, and those that it was tested with."""
    from packaging.requirements import Requirement
    if _version(KIT) is None:
        return [fail("the kit itself is not installed", KIT, "pip install -e . -c constraints.txt")]
    four_bit = [subject.get(DATA, "teacher_4bit"), *(subject.get(stage, "load_in_4bit") for stage in STAGES)]
    wanted = {"bitsandbytes"} if any(four_bit) else set()  # of the extra "gpu"
    if any(subject.get(stage, "backend") == "unsloth" for stage in STAGES):
        wanted = {"unsloth", "unsloth_zoo", "bitsandbytes"}
    rows, seen = [], {}
    for one in map(Requirement, importlib.metadata.requires(KIT) or []):
        extra = one.marker is not None and "extra" in str(one.marker)
        if extra and one.name not in wanted:
            continue
        found = seen[one.name] = _version(one.name)
        if found is None:
            rows.append(fail(f"{one.name} is not installed", one.name,
                             'install the kit with its extra "gpu"' if extra else "install the kit again"))
        elif not one.specifier.contains(found, prereleases=True):
            rows.append(fail(f"{one.name} {found} is outside the kit's range {one.specifier}", one.name,
                             "install with -c constraints.txt"))
    file = next(iter(subject.plan.notebooks.values())).parent.parent / "constraints.txt"
    pins = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    tested = dict(line.split("==") for line in pins if "==" in line and not line.startswith("#"))
    other = [f"{name} {found} (tested: {tested[name]})" for name, found in sorted(seen.items())
             if found is not None and found != tested.get(name, found)]
    if other:
        rows.append(warn(f"{len(other)} packages differ from those that the kit was tested with",
                         shortly(other, most=6),
                         "install with -c constraints.txt, or report them with the numbers"))
    return rows or [passed(f"{len(seen)} packages, all as tested", "constraints.txt" if tested else "")]


def _version(package: str) -> Optional[str]:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def disk(subject: Subject) -> list[Row]:
    """Room for the weights that are downloaded, kept, and written while training."""
    shape = shape_of(subject.checkpoint)
    if shape is None:
        raise NotYet(f"no estimate: the shape of {subject.checkpoint} is not known without a download")
    needs: Counter = Counter()
    for name in filter(None, (subject.checkpoint, _teacher(subject))):
        known = shape_of(name)
        if known is not None and not Path(name).is_dir() and not cached_file(name, "config.json"):
            from huggingface_hub.constants import HF_HUB_CACHE

            needs[_existing(Path(HF_HUB_CACHE))] += 2 * known.parameters
    trainable = work_of(SFT, subject.plan.parameters[SFT]).trainable
    trained = shape.trained(trainable)
    each = 2 * shape.parameters if trainable.full else 4 * trained  # all weights in 16 bits, or an adapter
    lists = [(SFT, "settings_compared"), (TAPO, "methods"), (TAPO, "wrong_turns")]
    models = 2 + sum(len(subject.get(stage, name, [])) for stage, name in lists)
    # of a checkpoint: weights and two moments in float32
    needs[_existing(subject.run_dir)] += models * each + KEPT * 12 * trained
    rows = []
    for folder, need in needs.items():
        free, ours = shutil.disk_usage(folder).free, os.access(folder, os.W_OK)
        what = f"{free / GIB:.1f} GiB free, about {need / GIB:.1f} needed" if ours else "no permission to write"
        fix = "make room (HF_HOME: for downloads)" if ours else "ask its owner"
        rows.append(judged(ours and free >= need + RESERVE, what, str(folder),
                           f"{fix}, or name another --output-root"))
    return rows


def _teacher(subject: Subject) -> str:
    """The checkpoint that 01 will query for rationales; "" for none."""
    queried = subject.get(DATA, "teacher") == "model" and not subject.get(DATA, "rationales_file")
    return subject.get(DATA, "teacher_checkpoint", "") if queried else ""


def _existing(path: Path) -> Path:
    """The nearest folder that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def memory(subject: Subject) -> list[Row]:
    """The memory plan of every stage against the GPU (or, for a small model without one, main memory)."""
    rows, values = [], subject.plan.parameters
    if teacher := _teacher(subject):
        found = plan(EVALUATION, {name: subject.get(DATA, own) for name, own in TEACHER.items()}, teacher)
        rows.append(_fits(subject, DATA, found) if found else Row(
            "skip", f"no estimate of the teacher: the shape of {teacher} is not known", DATA))
    for stage in STAGES:
        found = plan(stage, values[stage], subject.checkpoint, trained=None if stage == SFT else values[SFT])
        if found is None:
            raise NotYet(f"no estimate: the shape of {subject.checkpoint} is not known without a download")
        rows.append(_fits(subject, stage, found))
    return rows


def _fits(subject: Subject, stage: str, found: list) -> Row:
    room, what = _room(subject, stage)
    need = total(found, gpu=what == "GPU")
    peak = f"about {need / GIB:.1f} GiB at the peak (estimated)"
    if room is None:
        return fail(f"{peak}, and no GPU here", stage,
                    "run it where the GPU is, or give its memory as --gpu-gib to see whether it would fit")
    return judged(need <= room, f"{peak}, the {what} has {room / GIB:.1f}", stage,
                  "a smaller micro-batch, max_pixels or max_new_tokens, 4 bits, a smaller model")


def _room(subject: Subject, stage: str) -> tuple[Optional[float], str]:
    """(bytes, of what) that a stage has; (None, ...) where it needs a GPU and there is none."""
    import torch
    if subject.gpu_bytes is not None:
        return subject.gpu_bytes, "GPU"
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory, "GPU"
    if subject.get(stage, "backend") == "unsloth" or subject.get(stage, "load_in_4bit"):
        return None, "GPU"
    if not hasattr(os, "sysconf"):  # Windows
        raise NotYet("this system does not report its memory")
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "main memory"


def memory_lines(subject: Subject) -> list[str]:
    """The plans of the two stages that train, part by part; [] where `memory` reports why there is none."""
    values = subject.plan.parameters
    try:
        return [line for stage, trained in ((SFT, None), (TAPO, values[SFT]))
                for line in lines(stage, values[stage], subject.checkpoint, room=subject.gpu_bytes,
                                  trained=trained)]
    except (NotYet, UserError):
        return []
