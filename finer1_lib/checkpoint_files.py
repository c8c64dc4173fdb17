"""What a folder must hold to be a checkpoint or an adapter, said in one line where it does not.

Looked at before anything is loaded: transformers reports a missing processor as a failed download. What goes
wrong nevertheless is told by `loading`.

Source: our choice; safetensors only, never pickled weights.
"""

import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from finer1_lib.errors import UserError, first_line

MODEL_TYPE = "qwen2_5_vl"
TRAINABLE = "trainable.json"  # beside the weights of full fine-tuning: which of them were trained


HUB_ID = r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w.-]+(?:/[\w.-]+)*))?"  # owner/name or owner/name@revision


def is_folder(checkpoint: str) -> bool:
    """Whether a checkpoint is meant as a folder: it exists, or it does not look like a Hub id."""
    return Path(checkpoint).is_dir() or not re.fullmatch(HUB_ID, checkpoint)


def split_revision(checkpoint: str) -> "tuple[str, str | None]":
    """ "owner/name@revision" as (owner/name, revision); no revision for a folder or where none is named.

    A revision is a branch, a tag or (best: it never moves) a commit.
    """
    found = None if is_folder(checkpoint) else re.fullmatch(HUB_ID, checkpoint)
    return (checkpoint, None) if found is None else (found[1], found[2])


@contextmanager
def loading(checkpoint: Any, doing: str = "load") -> Iterator[None]:
    """Tell in one line why a checkpoint cannot be loaded by the block.

    Args:
        checkpoint: folder or Hub id, as given.
        doing: what cannot be done, "load" or the like.

    Raises:
        UserError: there is none, its files are no checkpoint, its weights are damaged, or it would run only
            with code of its own.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        told = f"cannot {doing} {str(checkpoint)!r}: {first_line(error)}"
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            told = (f"{checkpoint} would not run: it needs code of its own, which is never run here; take a "
                    "checkpoint that transformers has a class for")  # fmt: skip
        raise UserError(told) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # a Rust class without an importable Python base
            raise
        damaged = f"{checkpoint}: a weights file is damaged ({error}); copy or download it again"
        raise UserError(damaged) from error


def check_checkpoint(folder: Path) -> None:
    """Refuse a folder that lacks what loading and generating need.

    Raises:
        UserError: naming the first missing piece.
    """
    if not folder.is_dir():
        raise UserError(f"checkpoint folder {folder} does not exist: give a folder or a Hub id"
                        " (owner/name or owner/name@revision)")
    _need(folder, "config.json", "no checkpoint")
    kind = _read_json(folder / "config.json").get("model_type")
    if kind != MODEL_TYPE:
        raise UserError(f"{folder} holds a model of type {kind!r}: the kit needs {MODEL_TYPE!r} (Qwen2.5-VL)")
    index = folder / "model.safetensors.index.json"
    shards = set(_read_json(index)["weight_map"].values()) if index.exists() else {"model.safetensors"}
    for name in sorted(shards):
        _need(folder, name, "a checkpoint without weights (safetensors)")
    _need(folder, "processor_config.json|preprocessor_config.json", "a checkpoint without a processor")
    _need(folder, "tokenizer.json|vocab.json", "a checkpoint without a tokenizer")


def check_any(folder: Path) -> None:
    """Refuse a folder that holds no checkpoint of whatever family; a Qwen2.5-VL is looked at more closely.

    Raises:
        UserError: naming what is missing.
    """
    if not folder.is_dir():
        raise UserError(f"checkpoint folder {folder} does not exist: give a folder or a Hub id"
                        " (owner/name or owner/name@revision)")
    _need(folder, "config.json", "no checkpoint")
    if _read_json(folder / "config.json").get("model_type") == MODEL_TYPE:
        return check_checkpoint(folder)
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} is a checkpoint without weights (safetensors): copy or download it whole")


def check_trained(folder: Path) -> str:
    """What a training's folder holds; refuse one that is neither a PEFT adapter nor a whole checkpoint.

    Returns:
        "lora" for an adapter, "full" for a whole checkpoint.

    Raises:
        UserError: naming what is missing.
    """
    from finer1_lib.adapter_files import read_adapter

    if (folder / "config.json").is_file() and not (folder / "adapter_config.json").exists():
        check_checkpoint(folder)
        return "full"
    read_adapter(folder)
    return "lora"


def _need(folder: Path, names: str, what: str) -> None:
    if not any((folder / name).is_file() for name in names.split("|")):
        raise UserError(f"{folder} is {what}: {' or '.join(names.split('|'))} is missing")


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: copy or download the checkpoint again") from error
