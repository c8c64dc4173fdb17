"""A checkpoint's files: fetched, and looked at before a loader sees them (`checkpoint_weights`).

    folder = local_copy("owner/name@revision")       # a folder stays as it is; nothing else is downloaded
    with loading("owner/name"):                      # what a loader raises becomes one line
        ...

A config may name code, another repository or a pickle: such a file is refused here, once, so no loader has to
be trusted with it. What goes wrong in a loader nevertheless is reported in one line by `loading`.

Source: our choice; safetensors only, never pickled weights, never code of a checkpoint's own.
"""

import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from finer1_lib.core.checkpoint_names import is_folder, split_revision
from finer1_lib.core.errors import UserError, first_line

MODEL_TYPE = "qwen2_5_vl"
TRAINABLE = "trainable.json"  # beside the weights of full fine-tuning: which of them were trained
INDEX = "model.safetensors.index.json"
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
CONFIGS = (
    "config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json",
    "video_preprocessor_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.json", "open_clip_config.json", "audio_tokenizer_config.json",
)  # fmt: skip
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json")  # their keys are words, not settings
TEXTS = ("chat_template.jinja", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
         "sentencepiece.bpe.model")  # fmt: skip
WEIGHTS = ("model.safetensors", "model-*.safetensors", INDEX, *OPEN_CLIP_FILES)
AGAIN = "copy or download the checkpoint again"
# ends of keys, and what no checkpoint exceeds: more of it would be built, written or drawn for hours
_MOST = {"layers": 1000, "depth": 1000, "num_labels": 10**5, "experts": 10**4, "image_seq_len": 10**5,
         "image_seq_length": 10**5, "image_tokens": 10**5, "min_pixels": 10**8, "shortest_edge": 10**8,
         "height": 10**5, "width": 10**5, "image_size": 10**5, "hidden_size": 10**6, "embed_dim": 10**6,
         "context_length": 10**6, "vocab_size": 10**7}  # fmt: skip
_CODE = ("auto_map", "trust_remote_code", "custom_generate", "custom_pipelines", "use_kernels",
         "kernel_config", "transformers_weights", "audio_tokenizer", "audio_tokenizer_class")  # fmt: skip


def local_copy(checkpoint: "str | Path", *, weights: bool = True) -> str:
    """The folder of a checkpoint whose files a loader may read; a Hub id is downloaded, or cached already.

    Args:
        checkpoint: a folder, or a Hub id "owner/name" or "owner/name@revision".
        weights: whether its weights are needed too.

    Raises:
        UserError: nothing there, or what `check_files` refuses.
    """
    name, revision = split_revision(str(checkpoint))
    folder = Path(name)
    if not is_folder(name):
        from huggingface_hub import snapshot_download

        wanted = [*CONFIGS, *VOCABULARIES, *TEXTS, *(WEIGHTS if weights else ())]
        with loading(checkpoint):
            folder = Path(snapshot_download(
                name, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"]))
    check_files(folder, weights=weights)
    return str(folder)


@contextmanager
def loading(checkpoint: Any, doing: str = "load", fix: str = AGAIN) -> Iterator[None]:
    """Report in one line why a checkpoint cannot be loaded by the block; the loader's own reports are silent.

    Args:
        checkpoint: folder or Hub id, as given.
        doing: what cannot be done, "load" or the like.
        fix: what to do where the files do not fit together.

    Raises:
        UserError: there is none, its files are no checkpoint, its weights are damaged, or it would run only
            with code of its own.
    """
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    except UserError:
        raise
    except BaseException as error:  # a panic of a Rust library is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(_why(checkpoint, doing, error, fix)) from error
    finally:
        logging.set_verbosity(level)


def _why(checkpoint: Any, doing: str, error: BaseException, fix: str) -> str:
    """One line for what a loader raised."""
    text = str(error)
    if type(error).__name__ == "SafetensorError":  # a Rust class without an importable Python base
        return f"{checkpoint}: a weights file is damaged ({first_line(error)}); copy or download it again"
    if "trust_remote_code" in text or "custom code" in text:
        return (f"{checkpoint} would not run: it needs code of its own, which is never run here; take a "
                "checkpoint that transformers has a class for")  # fmt: skip
    if "loading state_dict" in text:
        keys = re.findall(r'"([^"]+)"|size mismatch for (\S+):', text) or [("", "?")]
        return (f"{checkpoint}: {len(keys)} weights are missing, unknown or of another shape (first: "
                f"{keys[0][0] or keys[0][1]}); use a whole checkpoint")  # fmt: skip
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = " ".join(lines[:2]) if lines and lines[0].endswith(":") else first_line(error)
    line = re.split(r"\.\s+(?=[A-Z])", line)[0]  # a library's further sentences are about calling it
    if isinstance(error, (OSError, ImportError)):
        return f"cannot {doing} {str(checkpoint)!r}: {line}"
    kind = "" if isinstance(error, (ValueError, RuntimeError)) else f"{type(error).__name__}: "
    return f"cannot {doing} {str(checkpoint)!r}: {kind}{line}; its files do not fit together; {fix}"


# What lies in the folder -------------------------------------


def check_files(folder: Path, *, weights: bool = True) -> None:
    """Refuse a folder with files that no loader may see: not JSON objects, or that name code or other places.

    Args:
        folder: of a checkpoint.
        weights: whether its weights will be loaded too.

    Raises:
        UserError: naming the file and what in it.
    """
    try:
        str(folder).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"the folder {ascii(str(folder))} has a name that is not UTF-8; rename it") from error
    if not folder.is_dir():
        raise UserError(f"checkpoint folder {folder} does not exist: give a folder or a Hub id"
                        " (owner/name or owner/name@revision)")
    for name in (*CONFIGS, *VOCABULARIES):
        if (folder / name).exists():
            found = read_object(folder / name)
            if name in CONFIGS:
                _refuse_code(folder / name, found)
    if (folder / "chat_template.jinja").exists():
        _read(folder / "chat_template.jinja")
    if weights and (folder / "adapter_config.json").exists():
        raise UserError(f"{folder} holds an adapter (adapter_config.json) in place of a checkpoint or beside"
                        " it; name the checkpoint, or move the adapter into a folder of its own")
    if weights and (folder / INDEX).exists():
        _shards(folder / INDEX)


def read_object(path: Path) -> dict:
    """A JSON file that holds an object.

    Raises:
        UserError: it cannot be read, is not JSON (or too deep), or holds something else.
    """
    try:
        found = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        why = "is nested too deeply" if isinstance(error, RecursionError) else "is not JSON"
        raise UserError(f"{path} {why}; {AGAIN}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__} in place of an object; {AGAIN}")
    return found


def _read(path: Path) -> str:
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is no file (a pipe or a device), and reading it would not end; {AGAIN}")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {AGAIN}") from error
    except ValueError as error:
        raise UserError(f"{path} is not UTF-8 text; {AGAIN}") from error


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of every object inside a value, at any depth."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one.items()
        if isinstance(one, (dict, list)):
            waiting += one.values() if isinstance(one, dict) else one


def _refuse_code(path: Path, config: dict) -> None:
    """Refuse a config that names code, kernels, or another repository, wherever in it."""
    for key, value in _pairs(config):
        kernel = key.endswith("implementation") and "/" in str(value)
        place = isinstance(value, str) and value.startswith(("hf-hub:", "local-dir:"))
        if kernel or place or (key in _CODE and value not in (None, False, "", {}, [])):
            raise UserError(f"{path} sets {key}: it needs code or files of its own, which are never run or "
                            "read here; take another checkpoint, or remove the key if the model runs "
                            "without")  # fmt: skip
        most = next((most for end, most in _MOST.items() if key.endswith(end)), None)
        if most is not None and isinstance(value, (int, float)) and not 0 <= value <= most:
            raise UserError(f"{path} sets {key} to {value:.9g}: no checkpoint has so many; {AGAIN}")


def _shards(index: Path) -> list[str]:
    """The files that an index names: safetensors beside it.

    Raises:
        UserError: another kind of file or place, one that is missing, or no index.
    """
    found = read_object(index)
    named = found.get("weight_map")
    if not isinstance(named, dict) or not named or not isinstance(found.get("metadata"), dict):
        raise UserError(f"{index} names no weights (weight_map, metadata); {AGAIN}")
    for name in named.values():
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*\.safetensors", name):
            raise UserError(f"{index} names {name!r}: only .safetensors files beside it are read")
    shards = sorted(set(named.values()))
    for name in shards:
        need(index.parent, name, "a checkpoint without weights (safetensors)")
    return shards


def weight_files(folder: Path) -> list[Path]:
    """The weights of a checkpoint as transformers takes them: one file, else those of the index."""
    if (folder / "model.safetensors").is_file() or not (folder / INDEX).exists():
        need(folder, "model.safetensors", "a checkpoint without weights (safetensors)")
        return [folder / "model.safetensors"]
    return [folder / name for name in _shards(folder / INDEX)]


def check_checkpoint(folder: Path) -> None:
    """Refuse a folder that lacks what loading a Qwen2.5-VL and generating need.

    Raises:
        UserError: naming the first missing piece.
    """
    check_files(folder)
    need(folder, "config.json", "no checkpoint")
    kind = read_object(folder / "config.json").get("model_type")
    if kind != MODEL_TYPE:
        raise UserError(f"{folder} holds a model of type {kind!r}: the kit needs {MODEL_TYPE!r} (Qwen2.5-VL)")
    weight_files(folder)
    need(folder, "processor_config.json|preprocessor_config.json", "a checkpoint without a processor")
    need(folder, "tokenizer.json|vocab.json", "a checkpoint without a tokenizer")


def check_any(folder: Path) -> None:
    """Refuse a folder that holds no checkpoint of whatever family; a Qwen2.5-VL is looked at more closely.

    Raises:
        UserError: naming what is missing.
    """
    check_files(folder)
    need(folder, "config.json", "no checkpoint")
    if read_object(folder / "config.json").get("model_type") == MODEL_TYPE:
        return check_checkpoint(folder)
    weight_files(folder)


def need(folder: Path, names: str, what: str) -> None:
    """Refuse a folder that has none of the files "a|b"."""
    if not any((folder / name).is_file() for name in names.split("|")):
        raise UserError(f"{folder} is {what}: {' or '.join(names.split('|'))} is missing")


def read_config(checkpoint: "str | Path") -> Any:
    """A checkpoint's configuration, without its weights; named as for `local_copy`."""
    from transformers import AutoConfig

    with loading(checkpoint, "read the configuration of"):
        config = AutoConfig.from_pretrained(
            local_copy(checkpoint, weights=False), local_files_only=True, trust_remote_code=False)
    config._attn_implementation = None  # whose package the machine of a training had says nothing of this one
    return config
