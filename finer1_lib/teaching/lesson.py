"""A lesson without training: notebooks 04 and 05 on this machine, from the records of a kept run.

`finer1 lesson` runs 00 and 01 (a minute), imports what takes a quarter of an hour from outputs/reference (the
adapters of 02 and 03, every answer of 04), and writes copies of notebooks 04 and 05 that are ready to be
opened: outputs/lesson/04_evaluation_lesson.ipynb and 05_probing_lesson.ipynb.

An answer belongs to an image, so nothing is imported unless the images and questions made here have the
sha256 of the records. What 02 and 03 alone read may differ: the base wrote it, and another processor's
rounding can change its words.
"""

import gzip
import os
from pathlib import Path
from typing import Callable

from finer1_lib.core import files, hashing
from finer1_lib.core.errors import UserError
from finer1_lib.runs.fingerprints import UNREAD, earlier_digests, is_current, made_by, signature_of
from finer1_lib.runs.presets import Plan, read_parameters
from finer1_lib.runs.provenance import of_record, versions
from finer1_lib.runs.runner import chosen_stages, run_chain
from finer1_lib.runs.stage import recorded, set_aside
from finer1_lib.teaching.student_copy import clear

PRESET = "miniature"
MADE, TRAINED = ("00_miniature_world", "01_data"), ("02_cot_sft", "03_tapo")
EVALUATION, PROBING = "04_evaluation", "05_probing"
ANSWERS = "records.jsonl"
NEEDED = ("02_cot_sft/cot_sft", "03_tapo/cot_sft_tapo", "03_tapo/models.json", f"{EVALUATION}/{ANSWERS}.gz",
          *(f"{stage}/stage.json" for stage in (*MADE, *TRAINED, EVALUATION)))
# These two hold a path of the machine (of the base model, of the images) and cannot be equal elsewhere.
OF_ONE_MACHINE = ("00_miniature_world/base.json", "01_data/data.json")
_CHANGED = "is not what its stage.json says: take the records again"
_FIX = "install the versions of constraints.txt, or make your own records: finer1 run miniature"


def make_lesson(plan: Plan, reference: Path, say: Callable[[str], None]) -> list[Path]:
    """Make a run ready for notebooks 04 and 05, which are returned; what is ready is left as it is.

    `plan` is of the preset `miniature` under the lesson's run name; `say` gets each progress line.
    Raises: UserError: records that are incomplete, were made with other parameters of 04, or belong to other
    images; a run of this name that trained itself.
    """
    _check_reference(plan, reference)
    with files.one_line_for_the_system(plan.run_dir):
        return _make(plan, reference, say)


def _make(plan: Plan, reference: Path, say: Callable[[str], None]) -> list[Path]:
    for stage in TRAINED:
        if (plan.run_dir / stage).exists() and not _imported(plan.run_dir, stage):
            raise UserError(f"run {plan.run_dir.name!r} has its own {stage}, which a lesson would replace: "
                            "choose another --run-name")
    run_chain(plan, chosen_stages(None, MADE[-1]), say)
    held = files.lock(plan.run_dir / ".run.lock", f"run {plan.run_dir.name!r}", patience=2.0)
    try:
        if different := differences(plan.run_dir, reference):
            raise UserError(_explain(different[0], reference))
        for stage in TRAINED:
            if not (_imported(plan.run_dir, stage) and is_current(plan.run_dir, stage)):
                _import_stage(plan.run_dir, reference, stage)
                say(f"{stage} imported from {_origin(reference, stage)}")
        if _import_answers(plan, reference):
            for stage in (EVALUATION, PROBING):  # notebooks of other answers may have other parameters
                if (old := _copy_of(plan, stage)).exists():
                    os.replace(old, old.with_name(f"{old.stem}.previous.ipynb"))
            say(f"the answers of {EVALUATION} imported from {_origin(reference, EVALUATION)}")
        return [_ready_copy(plan, stage) for stage in (EVALUATION, PROBING)]
    finally:
        files.unlock(held)


def _record(run_dir: Path, stage: str) -> dict:
    return files.read_json(run_dir / stage / "stage.json")


def differences(run_dir: Path, reference: Path) -> list[str]:
    """What 00 and 01 made here and the records were not made from, e.g. ["01_data/items.jsonl"]."""
    here = {f"{stage}/{name}": sha256 for stage in MADE
            for name, sha256 in _record(run_dir, stage)["outputs"].items()}
    # not what training alone read
    there = _record(reference, MADE[-1])["inputs"] | _record(reference, EVALUATION)["inputs"]
    found = (name for name in there if name.startswith(MADE) and name not in OF_ONE_MACHINE
             and here.get(name) != there[name])
    # the images first: where they differ, everything else differs because of them
    return sorted(found, key=lambda name: (name[-1] != "/", name))


def _explain(name: str, reference: Path) -> str:
    """One line about the first difference, with the versions that may be behind it."""
    here, there = versions(), _record(reference, MADE[-1])["versions"]
    other = [f"{package} {there[package]} there, {here.get(package, 'none')} here" for package in there
             if package in ("numpy", "pandas", "pillow", "scikit-learn", "torch")
             and here.get(package) != there[package]]
    what = "the images drawn here are" if name.endswith("/") else f"{name} as made here is"
    why = f" ({'; '.join(other)})" if other else ""
    return f"{what} not what the records in {reference} were made from: {name} differs{why}; {_FIX}"


def _check_reference(plan: Plan, reference: Path) -> None:
    for name in NEEDED:
        if not (reference / name).exists():
            raise UserError(f"{reference / name} is missing: a lesson needs the records of a whole run")
    wanted, known = plan.parameters[EVALUATION], read_parameters(plan.notebooks[EVALUATION])
    # a parameter that is newer than the records was at its default
    given = {name: one.default for name, one in known.items()} | _record(reference, EVALUATION)["parameters"]
    for name in sorted((wanted.keys() | given.keys()) - {"notebook", "run_name", "output_root"}):
        if wanted.get(name) != given.get(name):
            raise UserError(f"the records were made with {name} = {given.get(name)!r} in 04_evaluation, and "
                            f"the preset {PRESET} has {wanted.get(name)!r}: answers would be missing; take "
                            "this version's records")


def _imported(run_dir: Path, stage: str) -> bool:
    return "imported_from" in _record(run_dir, stage)


def _origin(reference: Path, stage: str) -> str:
    record = _record(reference, stage)
    return f"{_shown(reference)} (made on {record['written'][:10]}, {record['device']})"


def _shown(reference: Path) -> str:
    return "/".join(reference.parts[-2:])


def _import_stage(run_dir: Path, reference: Path, stage: str) -> None:
    """Copy a stage's records and write a stage.json that fits this run: present outputs, this run's needs.
    No parameters give its signature: `finer1 run` never takes the stage for its own, moves it aside and
    trains.
    """
    record = _record(reference, stage)
    with files.atomic_directory(run_dir / stage) as folder:
        for file in sorted((reference / stage).rglob("*")):  # content alone: rights are those of new files
            if file.is_file() and file.name != "stage.json":
                files.atomic_write_bytes(folder / file.relative_to(reference / stage), file.read_bytes())
        outputs = hashing.recorded_hashes(folder)
        kept = {name: sha256 for name, sha256 in outputs.items() if not name.startswith(UNREAD)}
        changed = [name for name, sha256 in kept.items() if record["outputs"].get(name, sha256) != sha256]
        if changed:
            raise UserError(f"{reference / stage / changed[0]} {_CHANGED}")
        files.atomic_write_json(folder / "stage.json", {
            **{key: record[key] for key in ("stage", "parameters", "inputs", "seed")}, **of_record(record),
            "signature": f"imported {record['signature']}", "needs": earlier_digests(run_dir, stage),
            "outputs": outputs, "digest": hashing.digest(kept), "imported_from": _shown(reference)})


def _import_answers(plan: Plan, reference: Path) -> bool:
    """Put the answers where notebook 04 looks for them, under the signature it will open; False if there."""
    record = _record(reference, EVALUATION)
    folder, parameters = plan.run_dir / EVALUATION, plan.parameters[EVALUATION]
    signature = signature_of(parameters, earlier_digests(plan.run_dir, EVALUATION))
    if files.read_json(folder / "started.json").get("signature") == signature:
        return False
    content = gzip.decompress((reference / EVALUATION / f"{ANSWERS}.gz").read_bytes())
    if folder.exists():  # of another state of this run: set aside, as a stage does
        set_aside(folder)
    with files.atomic_directory(folder) as new:
        (new / ANSWERS).write_bytes(content)
        sha256 = record["outputs"][ANSWERS]
        if hashing.sha256_file(new / ANSWERS) != sha256:
            raise UserError(f"{reference / EVALUATION / ANSWERS}.gz {_CHANGED}")
        files.atomic_write_json(new / "imported.json", {
            "imported_from": _shown(reference), "files": {ANSWERS: sha256}, **of_record(record)})
        files.atomic_write_json(new / "started.json", {
            "signature": signature, "parameters": recorded(parameters), "opened": 1,
            "made_by": made_by(EVALUATION)})
    return True


def _copy_of(plan: Plan, stage: str) -> Path:
    """The lesson's notebook; not the path of `finer1 run`, which would replace it."""
    return plan.run_dir / f"{stage}_lesson.ipynb"


def _ready_copy(plan: Plan, stage: str) -> Path:
    """The notebook with the lesson's values in a `# Parameters` cell, no outputs; one that is there stays."""
    import nbformat
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook
    target, source = _copy_of(plan, stage), plan.notebooks[stage]
    if not target.exists():
        given = dict(plan.given[stage])
        if plan.run_dir.parent == source.parent.parent / "outputs":
            given["output_root"] = "outputs"  # counts from the checkout: the copy is good on another machine
        notebook = parameterize_notebook(load_notebook_node(str(source)), given, kernel_name="python3",
                                         language="python")
        files.atomic_write_text(target, nbformat.writes(clear(notebook)) + "\n")
    return target
