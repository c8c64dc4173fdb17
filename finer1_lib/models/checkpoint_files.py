"""A checkpoint's files: fetched, and checked before a loader sees them; and its weights: complete, finite.

    folder = local_copy("owner/name@revision")           # a folder stays as it is; nothing else is downloaded
    with loading("owner/name"):                          # what a loader raises becomes one line
        model = load_model(AutoModel, folder, "owner/name")    # no weight random, none unused, none NaN
    examine(folder, "owner/name")                        # the same from the headers, without loading

A config may name code, another repository or a pickle: such a file is refused here, once, so that no loader
has to be trusted with it. Only safetensors are read.
"""

import functools
import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterable, Iterator, Optional, Sequence

from finer1_lib.core.checkpoint_names import is_folder, split_revision
from finer1_lib.core.errors import UserError, first_line
from finer1_lib.core.faces import Later

huggingface_hub, safetensors = Later("huggingface_hub"), Later("safetensors")
torch, transformers = Later("torch"), Later("transformers")
MODEL_TYPE = "qwen2_5_vl"
TRAINABLE = "trainable.json"  # beside the weights of full fine-tuning: which of them were trained
INDEX = "model.safetensors.index.json"
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
CONFIGS = tuple(f"{name}.json" for name in (
    "config generation_config processor_config preprocessor_config video_preprocessor_config "
    "tokenizer_config special_tokens_map chat_template open_clip_config audio_tokenizer_config").split())
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json")  # their keys are words, not settings
TEXTS = ("chat_template.jinja", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
         "sentencepiece.bpe.model")
WEIGHTS = ("model.safetensors", "model-*.safetensors", INDEX, *OPEN_CLIP_FILES)
AGAIN = "copy or download the checkpoint again"
# ends of keys, and what no checkpoint exceeds: more of it would be built, written or drawn for hours
_MOST = {"layers": 1000, "depth": 1000, "num_labels": 10**5, "experts": 10**4, "image_seq_len": 10**5,
         "image_seq_length": 10**5, "image_tokens": 10**5, "min_pixels": 10**8, "shortest_edge": 10**8,
         "height": 10**5, "width": 10**5, "image_size": 10**5, "hidden_size": 10**6, "embed_dim": 10**6,
         "context_length": 10**6, "vocab_size": 10**7}
_CODE = ("auto_map", "trust_remote_code", "custom_generate", "custom_pipelines", "use_kernels",
         "kernel_config", "transformers_weights", "audio_tokenizer", "audio_tokenizer_class")
# saved by older versions of transformers and computed since, or whole numbers beside the weights
_BUFFERS = (".inv_freq", ".position_ids", ".token_type_ids", ".num_batches_tracked",
            ".relative_position_index")


def local_copy(checkpoint: "str | Path", *, weights: bool = True) -> str:
    """A checkpoint's folder; of "owner/name[@revision]" downloaded. Raises: UserError: none, or unsafe."""
    name, revision = split_revision(str(checkpoint))
    folder = Path(name)
    if not is_folder(name):
        wanted = [*CONFIGS, *VOCABULARIES, *TEXTS, *(WEIGHTS if weights else ())]
        with loading(checkpoint):
            folder = Path(huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"]))
    check_files(folder, weights=weights)
    return str(folder)


@contextmanager
def loading(checkpoint: Any, doing: str = "load", fix: str = AGAIN) -> Iterator[None]:
    """Report in one line (UserError) why the block cannot load a checkpoint; `doing` is what it cannot do."""
    logging = transformers.utils.logging
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
    text, cannot = str(error), f"cannot {doing} {str(checkpoint)!r}:"
    if type(error).__name__ == "SafetensorError":  # a Rust class without an importable Python base
        return f"{checkpoint}: a weights file is damaged ({first_line(error)}); copy or download it again"
    if "trust_remote_code" in text or "custom code" in text:
        return (f"{checkpoint} would not run: it needs code of its own, which is never run here; take a "
                "checkpoint that transformers has a class for")
    if "loading state_dict" in text:
        keys = ["".join(pair) for pair in re.findall(r'"([^"]+)"|size mismatch for (\S+):', text)] or ["?"]
        return (f"{checkpoint}: {len(keys)} weights are missing, unknown or of another shape (first: "
                f"{keys[0]}); use a whole checkpoint")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = " ".join(lines[:2]) if lines and lines[0].endswith(":") else first_line(error)
    line = re.split(r"\.\s+(?=[A-Z])", line)[0]  # a library's further sentences are about calling it
    if isinstance(error, (OSError, ImportError)):
        return f"{cannot} {line}"
    kind = "" if isinstance(error, (ValueError, RuntimeError)) else f"{type(error).__name__}: "
    return f"{cannot} {kind}{line}; its files do not fit together; {fix}"


def pick_device(name: str = "auto") -> str:
    """The device itself, or for "auto" the GPU where there is one, else the CPU."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def check_files(folder: Path, *, weights: bool = True) -> None:
    """Refuse (UserError) a folder with files that are not JSON objects, or that name code or other places."""
    try:
        str(folder).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"the folder {ascii(str(folder))} has a name that is not UTF-8; rename it") from error
    if not folder.is_dir():
        raise UserError(f"checkpoint folder {folder} does not exist: give a folder or a Hub id"
                        " (owner/name or owner/name@revision)")
    for path in (folder / name for name in (*CONFIGS, *VOCABULARIES) if (folder / name).exists()):
        found = read_object(path)
        if path.name in CONFIGS:
            _refuse_code(path, found)
    if (folder / "chat_template.jinja").exists():
        _read(folder / "chat_template.jinja")
    if weights and (folder / "adapter_config.json").exists():
        raise UserError(f"{folder} holds an adapter (adapter_config.json) in place of a checkpoint or beside"
                        " it; name the checkpoint, or move the adapter into a folder of its own")
    if weights and (folder / INDEX).exists():
        weight_files(folder)


def read_object(path: Path) -> dict:
    """A JSON file that holds an object. Raises: UserError: any other."""
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
        raise UserError(f"{path} is not a file (a pipe or a device), and reading it would not end; {AGAIN}")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else "is not UTF-8 text"
        raise UserError(f"{path} {why}; {AGAIN}") from error


def _refuse_code(path: Path, config: dict) -> None:
    """Refuse a config that names code, kernels, or another repository, at any depth."""
    waiting: list[Any] = [("", config)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, (dict, list)):
            waiting += value.items() if isinstance(value, dict) else (("", one) for one in value)
        kernel = key.endswith("implementation") and "/" in str(value)
        place = key and isinstance(value, str) and value.startswith(("hf-hub:", "local-dir:"))
        if kernel or place or (key in _CODE and value not in (None, False, "", {}, [])):
            raise UserError(f"{path} sets {key}: it needs code or files of its own, which are never run or "
                            "read here; take another checkpoint, or remove the key if the model runs without")
        most = next((most for end, most in _MOST.items() if key.endswith(end)), None)
        if most is not None and isinstance(value, (int, float)) and not 0 <= value <= most:
            raise UserError(f"{path} sets {key} to {value:.9g}: no checkpoint has so many; {AGAIN}")


def weight_files(folder: Path) -> list[Path]:
    """The weights as transformers takes them: one file, else the index's. Raises: UserError: none, unsafe."""
    index, what, named = folder / INDEX, "a checkpoint without weights (safetensors)", {}
    if index.exists():
        found = read_object(index)
        named = found.get("weight_map")
        if not isinstance(named, dict) or not named or not isinstance(found.get("metadata"), dict):
            raise UserError(f"{index} names no weights (weight_map, metadata); {AGAIN}")
        for name in named.values():
            if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*\.safetensors", name):
                raise UserError(f"{index} names {name!r}: only .safetensors files beside it are read")
            need(folder, name, what)
    if named and not (folder / "model.safetensors").is_file():
        return [folder / name for name in sorted(set(named.values()))]
    need(folder, "model.safetensors", what)
    return [folder / "model.safetensors"]


def check_checkpoint(folder: Path, *, any_family: bool = False) -> None:
    """Refuse (UserError) a folder that lacks what loading a Qwen2.5-VL and generating need."""
    check_files(folder)
    need(folder, "config.json", "no checkpoint")
    kind = read_object(folder / "config.json").get("model_type")
    if kind != MODEL_TYPE and not any_family:
        raise UserError(f"{folder} holds a model of type {kind!r}: the kit needs {MODEL_TYPE!r} (Qwen2.5-VL)")
    weight_files(folder)
    if kind == MODEL_TYPE:
        need(folder, "processor_config.json|preprocessor_config.json", "a checkpoint without a processor")
        need(folder, "tokenizer.json|vocab.json", "a checkpoint without a tokenizer")


check_any = functools.partial(check_checkpoint, any_family=True)


def need(folder: Path, names: str, what: str) -> None:
    """Refuse (UserError) a folder that has none of the files "a|b"."""
    if not any((folder / name).is_file() for name in names.split("|")):
        raise UserError(f"{folder} is {what}: {' or '.join(names.split('|'))} is missing")


def read_config(checkpoint: "str | Path") -> Any:
    """A checkpoint's configuration, without its weights; named as for `local_copy`."""
    with loading(checkpoint, "read the configuration of"):
        config = transformers.AutoConfig.from_pretrained(
            local_copy(checkpoint, weights=False), local_files_only=True, trust_remote_code=False)
    config._attn_implementation = None  # the training machine's attention package may not be installed here
    return config


def refuse_some(found: Iterable[str], where: Any, what: str, fix: str = AGAIN) -> None:
    """Refuse (UserError) names of weights, if there are any; `what` is wrong has {} for their number."""
    if found := list(found):
        raise UserError(f"{where}: {what.format(len(found))} (first: {found[0]}); {fix}")


def refuse_bad_weights(named: Iterable[tuple[str, Any]], where: Any) -> None:
    """Refuse (UserError) (name, tensor) pairs with NaN or infinite numbers; they are read one by one."""
    refuse_some((name for name, tensor in named if not is_finite(tensor)), where,
                "{} weights hold NaN or infinite numbers", "copy or download it again, or train it again")


def is_finite(tensor: Any) -> bool:
    """Whether a tensor holds neither NaN nor infinite numbers."""
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return True
    if tensor.element_size() == 1:  # 8-bit numbers have no minimum of their own
        tensor = tensor.to(torch.bfloat16)
    return bool(torch.stack(tensor.aminmax()).isfinite().all())  # a NaN anywhere makes both NaN


def vocabulary_of(config: Any) -> Optional[int]:
    """Rows of a model's embedding, as its configuration has it."""
    return getattr(config.get_text_config(), "vocab_size", None)


def refuse_larger(tokenizer: Any, config: Any, where: Any) -> None:
    """Refuse (UserError) a tokenizer with tokens that the model's embedding has no row for."""
    last, rows = max(tokenizer.get_vocab().values()), vocabulary_of(config)
    if rows is not None and last >= rows:
        raise UserError(f"{where}: its tokenizer has tokens up to {last}, its embedding {rows} rows; use the "
                        "tokenizer that belongs to it")


def load_model(kind: Any, folder: Optional[str], where: Any, *, unused: Sequence[str] = (),
               whole: bool = True, **options: Any) -> Any:
    """`kind.from_pretrained(folder, **options)` with every weight from the checkpoint, or a UserError.

    `folder` is None where the options hold the weights; `unused`: beginnings of weights that are not needed;
    `whole`: all of the checkpoint must have a place, else only what belongs to the model's parts.
    """
    transformers.utils.logging.disable_progress_bar()
    if folder:
        options.setdefault("config", read_config(folder))
    model, report = kind.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, trust_remote_code=False,
        ignore_mismatched_sizes=True, output_loading_info=True, **options)
    if getattr(model, "is_quantized", False) and not torch.cuda.is_available():
        raise UserError(f"{where} has quantised weights, which need a GPU; take the checkpoint in 16 bits")

    def used(names: Iterable[Any]) -> list[str]:
        return sorted(name for name in map(str, names) if not name.startswith(tuple(unused)))

    parts = {name.split(".")[0] for name, _ in model.named_parameters()}
    shapes = {str(name): f"{name} is {tuple(found)} in place of {tuple(wanted)}"
              for name, found, wanted in report["mismatched_keys"]}
    left = [name for name in report["unexpected_keys"]
            if not name.endswith(_BUFFERS) and (whole or name.split(".")[0] in parts)]
    belongs = "use the config.json that belongs to it"
    for found, what, fix in (
        (used(report["missing_keys"]), "lacks {} of its model's weights", "use a whole checkpoint"),
        (map(shapes.get, used(shapes)), "has {} weights of another shape than its config.json says", belongs),
        (used(left), "has {} weights that its model has no place for", f"{belongs}, or merge its adapter"),
        (report.get("error_msgs") or (), "{} weights cannot be read", AGAIN),
    ):
        refuse_some(found, where, what, fix)
    refuse_bad_weights(((name, one) for name, one in model.state_dict().items()
                        if not name.startswith(tuple(unused))), where)
    if folder and Path(folder).parent.name == "snapshots":  # of the Hub's cache, which is named by its commit
        model.config._commit_hash = Path(folder).name
    return model


def examine(folder: Path, where: Any, *, numbers: bool = True) -> bool:
    """Whether a checkpoint sees; refuse from its headers what `load_model` would (NaN with `numbers`)."""
    config, headers = read_config(folder), {}
    for file in weight_files(folder):
        with open_weights(file) as weights:
            refuse_some(sorted(headers.keys() & weights.keys()), file, "{} weights that another file has too")
            headers.update({name: weights.get_slice(name) for name in weights.keys()})
            if numbers:
                refuse_bad_weights(((name, weights.get_tensor(name)) for name in weights.keys()), file)
    kind = transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    sees, unused = kind is not None, ()
    if not sees:  # of an encoder perhaps one tower alone is used
        kind, unused = transformers.MODEL_MAPPING.get(type(config), None), ("text_model.", "pooler.")
    if not isinstance(kind, type) or getattr(config, "quantization_config", None):
        return sees  # quantised weights have shapes of their own
    refuse_some((name for name, one in headers.items() if not one.get_dtype().startswith(("F", "BF"))
                 and not name.endswith(_BUFFERS)), folder, "{} weights of whole or complex numbers")
    state = {name: torch.empty(one.get_shape(), device="meta") for name, one in headers.items()}
    with loading(where, "examine"):
        load_model(kind, None, where, whole=sees, unused=unused, config=config, state_dict=state,
                   device_map="meta")
    return sees


@contextmanager
def open_weights(file: Path) -> Iterator[Any]:
    """A safetensors file, open. Raises: UserError: it is damaged, or a Git LFS pointer."""
    with loading(file, "read"):
        with file.open("rb") as head:
            if head.read(24) == b"version https://git-lfs.":
                raise UserError(f"{file} is a pointer of Git LFS, not the weights; run git lfs pull there")
        with safetensors.safe_open(str(file), "pt") as weights:
            yield weights
