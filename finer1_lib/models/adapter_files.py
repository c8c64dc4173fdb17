"""An adapter's folder, read before a model is touched: LoRA alone, safetensors alone, no pattern that hangs.

Of adapter_config.json only the fields of `Config` reach PEFT: others can import a module, prompt on the
terminal whether to run code, or load another model. Source: PEFT's LoraConfig; LoRA: arXiv 2106.09685.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Mapping, NamedTuple, Optional, Sequence, Union

from pydantic import ConfigDict, Field, FiniteFloat, ValidationError, create_model

from finer1_lib.core.checkpoint_names import CONFIG, HUB_ID, is_folder, split_revision
from finer1_lib.core.errors import CONTROL, UserError
from finer1_lib.core.faces import Later
from finer1_lib.models.checkpoint_files import (check_checkpoint, open_weights, read_object,
                                                refuse_bad_weights, refuse_some, weight_files)

peft = Later("peft")
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # before every name in a file of PEFT's
PATTERN_SECONDS = 10.0  # that all patterns of a configuration may take on all modules
# transformers before 4.52, and before it took over that layout: name of a module there -> here
_LAYOUTS = (("language_model.model.", "model.language_model."), ("language_model.lm_head", "lm_head"),
            ("visual.", "model.visual."), ("model.", "model.language_model."))
# they change what the adapter computes, or import what they name
_NOT_READ = ("layer_replication", "megatron_config", "alora_invocation_tokens", "arrow_config", "kasa_config",
             "velora_config", "monteclora_config", "use_bdlora", "use_qalora")
_RANK, _ALPHA = Annotated[int, Field(ge=1, le=8192)], Annotated[FiniteFloat, Field(gt=0)]
# of those that are left out, some run anew when an adapter is read, for hours or on files that they name
_START = Annotated[str, Field(pattern=r"^(gaussian|orthogonal|eva|olora|pissa(_niter_[0-9]{1,2})?)$")]
# of a model's modules one by one there are some hundreds; PEFT compares each with each
_NAMES = Union[str, Annotated[list[str], Field(max_length=4096)]]
# what is read of adapter_config.json; what else it holds is left out
Config = create_model("Config", __config__=ConfigDict(strict=True, extra="ignore"), **{
    name: (kind, None) for names, kind in {
        "r": _RANK, "lora_alpha": _ALPHA, "lora_dropout": Annotated[FiniteFloat, Field(ge=0, le=1)],
        "rank_pattern": dict[str, _RANK], "alpha_pattern": dict[str, _ALPHA],
        "target_modules exclude_modules layers_pattern": _NAMES,
        "target_parameters modules_to_save": list[str], "layers_to_transform": Union[int, list[int]],
        "trainable_token_indices": Union[list[int], dict[str, list[int]]],
        "lora_bias use_rslora use_dora fan_in_fan_out ensure_weight_tying": bool,
        "bias": Literal["none", "all", "lora_only"], "peft_type task_type": str,
        "init_lora_weights": Union[bool, _START],  # PiSSA and OLoRA change the base's weights by it
    }.items() for name in names.split()})


class Adapter(NamedTuple):
    """An adapter as its files have it."""

    folder: Path
    config: dict[str, Any]  # the fields of `Config` that are set
    base: str  # folder name or "owner/name[@revision]"; "" if not recorded
    weights: dict[str, Any]  # {name as PEFT writes it: torch tensor}


def read_adapter(folder: "str | Path") -> Adapter:
    """An adapter's configuration and weights. Raises: UserError: none there, or not a sound LoRA adapter."""
    folder = Path(folder).expanduser()
    path = folder / CONFIG
    if not folder.is_dir():
        hub = re.fullmatch(HUB_ID, str(folder))
        how = f"download it (hf download {folder} --local-dir adapter) and name that folder" if hub else (
            "run the notebook that trains it first, or name a folder that is there")
        raise UserError(f"adapter folder {folder} does not exist: {how}")
    if not path.is_file():
        below = sorted(one.parent for one in folder.glob(f"*/{CONFIG}"))
        give = f"; give {below[-1]}" if below else ""
        raise UserError(f"{folder} is not an adapter: {CONFIG} is missing{give}")
    raw = read_object(path)
    base, revision = raw.get("base_model_name_or_path"), raw.get("revision")
    base = CONTROL.sub("?", base) if isinstance(base, str) else ""
    if base and isinstance(revision, str) and revision and "@" not in base:
        base = f"{base}@{revision}"
    adapter = Adapter(folder, _config(path, raw), base, _read_weights(folder))
    check_patterns(adapter, sorted({module_of(name) for name in adapter.weights}))
    return adapter


def _config(path: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    merge, kind = "merge it into its base, and name the merged checkpoint", raw.get("peft_type")
    if kind is None:
        raise UserError(f"{path} names no peft_type: save the adapter again with PEFT")
    if kind != "LORA":
        kind = repr(str(kind)[:40])
        raise UserError(f"{path.parent} is an adapter of the kind {kind}, LORA alone is read: {merge}")
    if used := [name for name in _NOT_READ if raw.get(name)]:
        raise UserError(f"{path} sets {used[0]}, which is not read: {merge}")
    config = {name: raw[name] for name in Config.model_fields if raw.get(name) is not None}
    try:
        Config(**config)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise UserError(f"{path}: {name} is {str(config[name])[:60]!r} ({first['msg']}): save the adapter "
                        "again with PEFT, or write the right value") from error
    return config


def _read_weights(folder: Path) -> dict[str, Any]:
    """{name: tensor}, the names as PEFT writes them."""
    path, again = folder / WEIGHTS, "copy or download the adapter again"
    if not path.is_file():
        pickled = (" (adapter_model.bin is a pickle, which could run code and is never read: save it again as"
                   " safetensors)") if (folder / "adapter_model.bin").exists() else ""
        raise UserError(f"{folder} is not an adapter: {WEIGHTS} is missing{pickled}")
    with open_weights(path) as file:
        held = {name: file.get_tensor(name) for name in file.keys()}
    refuse_some((name for name, tensor in held.items() if not tensor.is_floating_point()), path,
                "{} weights hold whole or complex numbers", again)
    weights = {PREFIX + name.removeprefix(PREFIX).replace(".default.", "."): tensor
               for name, tensor in held.items()}
    if len(weights) < len(held):
        raise UserError(f"{path} holds a weight under two names: {again}")
    if not any(".lora_" in name for name in weights):
        raise UserError(f"{path} holds no LoRA weights: {again}")
    refuse_bad_weights(weights.items(), path)
    return weights


def module_of(name: str) -> str:
    """The module that a weight belongs to: "model.visual.blocks.0.attn.qkv" of its lora_A."""
    return re.split(r"\.lora_", name.removeprefix(PREFIX), maxsplit=1)[0]


def check_patterns(adapter: Adapter, modules: Sequence[str]) -> None:
    """Refuse (UserError) patterns that are invalid, or take too long in a process that can be killed."""
    def patterns(*names: str) -> list[str]:
        found = (adapter.config.get(name) or [] for name in names)
        return [one for some in found for one in ([some] if isinstance(some, str) else some)]

    lists = ("target_modules", "exclude_modules")
    whole = patterns(*(name for name in lists if isinstance(adapter.config.get(name), str)))
    begun = [form.format(one) for form, *names in (
        (r"(^|.*\.){}($|\..*)", "modules_to_save"), (r"(?:^|.*?\.){}\.(?P<idx>\d+)\.", "layers_pattern"),
        (r"(.*\.)?({})$", "rank_pattern", "alpha_pattern")) for one in patterns(*names)]
    if not whole and not begun:
        return
    code = ("import json, re, sys\nwhole, begun, names = json.load(sys.stdin)\n"
            "for kind, patterns in (('fullmatch', whole), ('match', begun)):\n"
            "    for one in map(re.compile, patterns):\n        [getattr(one, kind)(n) for n in names]")
    wrong, path = "", adapter.folder / CONFIG
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", code], input=json.dumps([whole, begun, list(modules)]),
            capture_output=True, text=True, timeout=PATTERN_SECONDS)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no match"])[-1]
            wrong = f"a pattern of modules' names is wrong ({why})"
    except subprocess.TimeoutExpired:
        wrong = f"its patterns of modules' names take longer than {PATTERN_SECONDS:g} s to match"
    if wrong:
        raise UserError(f"{path}: {wrong}: write the names as a list")


def in_layout(adapter: Adapter, modules: Sequence[str], checkpoint: str) -> Adapter:
    """The adapter by the names that modules have here. Raises: UserError: modules that are not there."""
    known = set(modules)
    named = {module_of(name) for name in adapter.weights if ".lora_" in name}
    if named <= known:
        check_patterns(adapter, modules)
        return adapter
    if strangers := sorted(name for name in named if _new_name(name) not in known):
        raise misfit(adapter, checkpoint, f"it has weights for {len(strangers)} modules that are not there "
                                          f"(first: {strangers[0]})")
    weights = {PREFIX + _new_name(name.removeprefix(PREFIX)): tensor
               for name, tensor in adapter.weights.items()}
    older = any(name.startswith("language_model.") for name in named)
    pairs = [(now, was) for was, now in (_LAYOUTS[:3] if older else _LAYOUTS[2:])]
    old = {_renamed(module, pairs): module for module in modules}
    check_patterns(adapter, list(old))
    config, lora = dict(adapter.config), peft.PeftConfig.from_peft_type(**adapter.config)
    if config.get("target_modules") != "all-linear":  # as its patterns read the old names
        matches = peft.tuners.tuners_utils.check_target_module_exists
        targets = {was: now for was, now in old.items() if matches(lora, was)}
        config["target_modules"] = sorted(targets.values())
        for name in ("exclude_modules", "layers_to_transform", "layers_pattern"):
            config.pop(name, None)
        for name in ("rank_pattern", "alpha_pattern"):
            given = config.get(name) or {}
            keys = {now: peft.utils.other.get_pattern_key(given, was) for was, now in targets.items()}
            config[name] = {f"^{re.escape(now)}": given[key] for now, key in keys.items() if key in given}
    return adapter._replace(config=config, weights=weights)


def check_base(adapter: Adapter, folder: "str | Path", checkpoint: str) -> None:
    """Refuse (UserError) an adapter whose modules or widths the headers of its base do not have."""
    shapes: dict[str, Any] = {"lm_head": None}  # often tied to the embeddings and left out
    for file in weight_files(Path(folder)):
        with open_weights(file) as weights:
            for name in weights.keys():
                here = weights.get_slice(name)
                whole = here.get_dtype().startswith(("F", "BF"))  # quantised ones have shapes of their own
                shapes[_new_name(name.removesuffix(".weight"))] = here.get_shape() if whole else None
    for name, tensor in sorted(adapter.weights.items()):
        side = 0 if ".lora_B." in name else 1 if ".lora_A." in name else None
        module = _new_name(module_of(name))
        if side is None or shapes.get(module, 0) is None:
            continue
        if module not in shapes:
            raise misfit(adapter, checkpoint, f"it has weights for {module_of(name)}, which is not there")
        if len(shapes[module]) == 2 and tensor.shape[side] != shapes[module][side]:
            raise misfit(adapter, checkpoint, f"{name} is of the width {tensor.shape[side]}, where "
                                              f"{shapes[module][side]} is needed")


def misfit(adapter: Adapter, checkpoint: str, reason: str) -> UserError:
    """The error for an adapter that is not for this checkpoint."""
    whose = f"it was trained on {adapter.base or 'a model that it does not name'}"
    if adapter.base and not other_base(adapter.base, checkpoint):
        whose = f"{adapter.base} has another size by now, or adapter_config.json is of other weights"
    return UserError(f"adapter {adapter.folder} does not fit {checkpoint}: {reason}; {whose}")


def _renamed(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    """A name with another beginning, by the first of the pairs (beginning, new one) that fits."""
    return next((new + name.removeprefix(old) for old, new in pairs if name.startswith(old)), name)


def _new_name(name: str) -> str:
    now = name.startswith(("model.language_model.", "model.visual.", "lm_head"))
    return name if now else _renamed(name, _LAYOUTS)


def other_base(recorded: str, checkpoint: str) -> str:
    """A warning where an adapter was trained on another base; "" where on the same, or a copy of it."""
    (mine, my_revision), (given, revision) = _plain_base(recorded), _plain_base(checkpoint)
    if not recorded or (mine == given and (None in (my_revision, revision) or my_revision == revision)):
        return ""
    return (f"it was trained on {recorded} and is put on {checkpoint}: unless that is a copy of it, name its "
            "own base (BASE+ADAPTER)")


def _plain_base(text: str) -> tuple[str, Optional[str]]:
    """(lower-case name, revision) of a Hub id, a folder, or a folder in the Hub's cache."""
    name, revision = split_revision(text) if re.fullmatch(HUB_ID, text) else (text, None)
    parts = [part for part in re.split(r"[/\\]", name) if part]
    cached = [part.split("--")[-1] for part in parts if part.startswith("models--")]
    last = (cached or parts or [""])[-1].lower()
    return re.sub(r"(-unsloth)?-bnb-4bit$", "", last), None if is_folder(text) else revision


def check_trained(folder: Path) -> str:
    """"lora" for a folder with an adapter, "full" for a whole checkpoint; refuse (UserError) any other."""
    if (folder / "config.json").is_file() and not (folder / "adapter_config.json").exists():
        check_checkpoint(folder)
        return "full"
    read_adapter(folder)
    return "lora"
