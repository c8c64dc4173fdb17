"""Presets: values in params/, checked against the notebooks before anything runs.

A preset is a folder params/PRESET/ with `common.yaml` and at most one file per notebook, e.g. `03_tapo.yaml`.
Order, later wins: the notebook's parameters cell, common.yaml, the notebook's file, `--run-name`,
`--output-root` and `--seed`, then `--set`. A line `extends: OTHER` in common.yaml puts every file of another
preset below the one of the same name here, so that a preset contains only its differences; the other's
run_name is not inherited, and the other may not extend a third.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Sequence

from finer1_lib.core.checkpoint_names import read_entry, split_adapter
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import read_yaml
from finer1_lib.runs.chain import STAGES, find_run, kit_folder
from finer1_lib.runs.parameters import (Parameter, check_parameters, check_utf8, from_text, nearest,
                                        parse_parameters, path_kind)

_RUN_WIDE = ("notebook", "run_name", "output_root")  # not to be set for one notebook alone


@dataclass(frozen=True)
class Plan:
    """What a command is going to run."""

    notebooks: dict[str, Path]  # of each stage
    given: dict[str, dict[str, Any]]  # stage -> the values for papermill
    parameters: dict[str, dict[str, Any]]  # stage -> all values
    run_dir: Path  # absolute


def find_kit() -> Path:
    """The folder with notebooks/ and params/ (`chain.kit_folder`); UserError if there is none."""
    named, found = os.environ.get("FINER1_KIT"), kit_folder()
    if found is None or not (found / "notebooks").is_dir() or not (found / "params").is_dir():
        raise UserError(f"no notebooks/ and params/ {'in FINER1_KIT=' + named if named else 'here'}:"
                        " run finer1 from a checkout of the kit, or set FINER1_KIT to one")
    check_utf8(str(found), "the kit's folder")
    return found


def list_presets(kit: Path) -> list[str]:
    """Names of the folders in params/."""
    return sorted(one.name for one in (kit / "params").iterdir() if one.is_dir() and one.name[0] != ".")


def read_cells(notebook: Path) -> list[dict[str, Any]]:
    """The cells of a notebook file, each with "source" as one text and a set of "tags"; else UserError."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return [{**cell, "source": "".join(cell["source"]), "tags": set(cell.get("metadata", {}).get("tags", ()))}
                for cell in cells]
    except FileNotFoundError:
        raise UserError(f"notebook {notebook} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{notebook} is not a notebook") from None


def read_parameters(notebook: Path) -> dict[str, Parameter]:
    """The parameters cell of a notebook file; UserError if it is not a notebook with exactly one."""
    tagged = [cell for cell in read_cells(notebook) if "parameters" in cell["tags"]]
    if len(tagged) != 1:
        raise UserError(f"{notebook.name} has {len(tagged)} cells tagged `parameters`: it needs exactly one")
    try:
        return parse_parameters(tagged[0]["source"])
    except UserError as error:
        raise UserError(f"{notebook.name}: {error}") from None


def read_preset(kit: Path, preset: str) -> dict[str, dict[str, Any]]:
    """The files of a preset, {"common" or stage: values}, merged with those it extends; else UserError."""
    values, below = _read_folder(kit, preset), {}
    if "extends" in values["common"]:
        other, where = values["common"].pop("extends"), f"params/{preset}/common.yaml: extends"
        presets = list_presets(kit)
        if other not in presets:
            raise UserError(f"{where}: no preset {other!r}{nearest(str(other), presets, 'the presets are')}")
        below = _read_folder(kit, other)
        if "extends" in below["common"]:
            third = below["common"]["extends"]
            raise UserError(f"{where} {other}, which extends {third} itself: name a preset that extends none")
        below["common"].pop("run_name", None)  # two presets must not share a folder
    return {name: {**below.get(name, {}), **mine} for name, mine in values.items()}


def _read_folder(kit: Path, preset: str) -> dict[str, dict[str, Any]]:
    """The files of one folder, unmerged."""
    presets = list_presets(kit)
    if preset not in presets:
        raise UserError(f"unknown preset {preset!r}{nearest(preset, presets, 'the presets are')}")
    values: dict[str, dict[str, Any]] = {name: {} for name in ("common", *STAGES)}
    for file in sorted((kit / "params" / preset).iterdir()):
        if file.suffix not in (".yaml", ".yml") or file.name.startswith("."):  # macOS leaves "._common.yaml"
            continue
        where = f"params/{preset}/{file.name}"
        if file.stem not in values or file.suffix != ".yaml":
            raise UserError(f"{where} belongs to no notebook{nearest(file.stem, values)}")
        found = read_yaml(file, where)
        found = {} if found is None else found
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise UserError(f"{where} must hold lines `key: value`")
        values[file.stem] = found
    return values


def make_plan(kit: Path, preset: str, run_name: Optional[str] = None, output_root: Optional[str] = None,
              seed: Optional[int] = None, settings: Sequence[str] = ()) -> Plan:
    """Merge a preset with the command line; UserError for the first name or type that the notebooks lack.

    `run_name` is by default the preset's own, else its name; `output_root` counts from the current folder, by
    default the preset's, else `outputs` in the checkout; `settings` are "STAGE.KEY=VALUE".
    """
    values, other = read_preset(kit, preset), _read_folder(kit, preset)["common"].get("extends")
    also = f" (or params/{other}, which it extends)" if other else ""
    places = {name: f"params/{preset}/{name}.yaml{also}" for name in values}
    notebooks = {stage: kit / "notebooks" / f"{stage}.ipynb" for stage in STAGES}
    cells = {stage: read_parameters(file) for stage, file in notebooks.items()}
    common = values.pop("common")
    every = {name: one for cell in cells.values() for name, one in cell.items() if name != "notebook"}
    check_parameters(common, every, places["common"])
    typed = _read_settings(settings, cells)
    wide: dict[str, Any] = {} if seed is None else {"seed": seed}
    wide["run_name"] = run_name if run_name is not None else common.get("run_name", preset)
    root = output_root or os.path.join(kit, os.path.expanduser(common.get("output_root") or "outputs"))
    run_dir = find_run(os.path.abspath(os.path.expanduser(root)), wide["run_name"])
    wide["output_root"] = str(run_dir.parent)
    given, merged = {}, {}
    for stage, cell in cells.items():
        for name in _RUN_WIDE:
            if name in values[stage]:
                raise UserError(f"{places[stage]}: {name} is the same for all notebooks:"
                                f" set it in params/{preset}/common.yaml")
            if name not in cell:
                raise UserError(f"{stage}.ipynb: the parameters cell does not set {name!r}")
        shared = {name: value for name, value in common.items() if name in cell}
        mine = check_parameters(shared, cell, places["common"])
        mine |= check_parameters(values[stage], cell, places[stage])
        mine |= check_parameters(wide, cell, f"the command line, for {stage}") | typed[stage]
        given[stage] = {name: _absolute(name, value, kit) for name, value in mine.items()}
        for name, value in given[stage].items():
            check_utf8(str(value), f"{stage}.{name}")  # the current folder may be in a path now
        merged[stage] = {name: parameter.default for name, parameter in cell.items()} | given[stage]
    return Plan(notebooks, given, merged, run_dir)


def _read_settings(settings: Sequence[str], cells: dict[str, dict[str, Parameter]]) -> dict[str, dict]:
    """Parse `--set STAGE.KEY=VALUE` by the types of the parameters cells."""
    typed: dict[str, dict] = {stage: {} for stage in cells}
    for setting in settings:
        left, equals, text = setting.partition("=")
        stage, dot, name = left.strip().partition(".")
        if not (equals and dot and stage and name):
            raise UserError(f"--set {setting}: write STAGE.KEY=VALUE, for example --set 03_tapo.seed=1")
        if stage not in cells:
            hint = nearest(stage, cells, "the stages are")
            raise UserError(f"--set {setting}: unknown stage {stage!r}{hint}")
        if name in _RUN_WIDE:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"--set {setting}: {name} is the same for all notebooks: use {option}")
        value = from_text(text, cells[stage].get(name), f"--set {left}")
        typed[stage] |= check_parameters({name: value}, cells[stage], f"--set {stage}")
        named = path_kind(name) == "path" and value and "://" not in value
        if named and not os.path.exists(where := os.path.abspath(os.path.expanduser(value))):
            raise UserError(f"--set {setting}: {where} does not exist")
    return typed


def _absolute(name: str, value: Any, kit: Path) -> Any:
    """Make a path to the user's files absolute, since kernels run elsewhere.
    A relative one counts from the current folder, else from the kit; what exists in neither (a Hub id) is
    unchanged, except a folder that is still to be filled.
    """
    if isinstance(value, list) and path_kind(name) == "entries":
        return [_absolute_entry(str(entry), kit) for entry in value]
    if name == "output_root" or not path_kind(name) or not isinstance(value, str) or not value:
        return value
    for folder in (Path.cwd(), kit):
        path = folder / os.path.expanduser(value)
        if os.path.exists(path):
            return os.path.abspath(path)
    return os.path.abspath(os.path.expanduser(value)) if name.endswith("_root") else value


def _absolute_entry(entry: str, kit: Path) -> str:
    """`_absolute` of the CHECKPOINT, ADAPTER or BASE+ADAPTER at the end of an entry."""
    where = read_entry(entry)[2]
    cuts = [split_adapter(where, root) for root in (Path.cwd(), kit)]
    parts = next((cut for cut in cuts if None not in cut), (where, None))
    return entry.removesuffix(where) + "+".join(_absolute("checkpoint", part, kit) for part in parts if part)
