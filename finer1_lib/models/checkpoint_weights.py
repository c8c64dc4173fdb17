"""What a checkpoint's weights hold: every weight of the model, no other, all numbers finite.

    model = load_model(AutoModel, folder, checkpoint)    # no weight random, none unused, none NaN
    examine(folder, checkpoint)                          # the same from the headers, without loading (doctor)

Source: our choice; safetensors only.
"""

from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterable, Iterator, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.models.checkpoint_files import AGAIN, loading, read_config, weight_files

# saved by older versions of transformers and computed since, or whole numbers beside the weights
_BUFFERS = (".inv_freq", ".position_ids", ".token_type_ids", ".num_batches_tracked",
            ".relative_position_index")  # fmt: skip


def refuse_bad_weights(named: Iterable[tuple[str, Any]], where: Any) -> None:
    """Refuse weights with NaN or infinite numbers: a model of them answers nothing, without an error.

    Time linear in the weights; no copy of a tensor is made.

    Args:
        named: (name, tensor) pairs, e.g. `model.state_dict().items()`; a generator is read one by one.
        where: folder, file or Hub id, for the message.

    Raises:
        UserError: with their number and the first name.
    """
    bad = [name for name, tensor in named if not is_finite(tensor)]
    if bad:
        raise UserError(f"{where}: {len(bad)} weights hold NaN or infinite numbers (first: {bad[0]});"
                        " copy or download it again, or train it again")


def is_finite(tensor: Any) -> bool:
    """Whether a tensor holds neither NaN nor infinite numbers."""
    import torch

    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return True
    if tensor.element_size() == 1:  # 8-bit numbers have no minimum of their own
        tensor = tensor.to(torch.bfloat16)
    return bool(torch.stack(tensor.aminmax()).isfinite().all())  # a NaN anywhere makes both NaN


def refuse_partial(
    report: Any, where: Any, *, unused: Sequence[str] = (), parts: "Optional[Iterable[str]]" = None
) -> None:
    """Refuse a model that was not loaded whole from its checkpoint, by transformers' loading report.

    Args:
        report: of `from_pretrained`, with ignore_mismatched_sizes and output_loading_info; tied weights are
            not among its missing keys.
        where: folder or Hub id, for the message.
        unused: beginnings of keys that nobody will use.
        parts: the model's own parts, where the checkpoint may rightly hold more; None refuses all that is
            left over.

    Raises:
        UserError: weights are missing, of another shape, or have no place, with their number and first name.
    """
    def told(keys: Iterable[Any]) -> list[str]:
        return sorted(str(key) for key in keys if not str(key).startswith(tuple(unused)))

    left = [key for key in report["unexpected_keys"] if not key.endswith(_BUFFERS)
            and (parts is None or key.split(".")[0] in parts)]  # fmt: skip
    shapes = {str(key): f"{key} is {tuple(found)} in place of {tuple(wanted)}"
              for key, found, wanted in report["mismatched_keys"]}  # fmt: skip
    if missing := told(report["missing_keys"]):
        raise UserError(f"{where} lacks {len(missing)} of its model's weights (first: {missing[0]}), which"
                        " would be random; use a whole checkpoint")
    if other := told(shapes):
        raise UserError(f"{where} has {len(other)} weights of another shape than its config.json says "
                        f"(first: {shapes[other[0]]}); use the config.json that belongs to it")  # fmt: skip
    if left := told(left):
        raise UserError(f"{where} has {len(left)} weights that its model has no place for (first: {left[0]}),"
                        " so they would not be used; use the config.json that belongs to it, or merge its"
                        " adapter")
    if errors := list(report.get("error_msgs") or ()):
        raise UserError(f"{where}: {len(errors)} weights cannot be read (first: {errors[0]}); {AGAIN}")


def vocabulary_of(config: Any) -> Optional[int]:
    """Rows of a model's embedding, as its configuration has it."""
    return getattr(config.get_text_config(), "vocab_size", None)


def refuse_larger(tokenizer: Any, config: Any, where: Any) -> None:
    """Refuse a tokenizer with tokens that the model's embedding has no row for."""
    last, rows = max(tokenizer.get_vocab().values()), vocabulary_of(config)
    if rows is not None and last >= rows:
        raise UserError(f"{where}: its tokenizer has tokens up to {last}, its embedding {rows} rows; use the "
                        "tokenizer that belongs to it")  # fmt: skip


def load_model(
    kind: Any, folder: Optional[str], where: Any, *, unused: Sequence[str] = (), whole: bool = True,
    **options: Any,
) -> Any:
    """`kind.from_pretrained(folder)` with every weight from the checkpoint.

    Args:
        kind: a model class or Auto class of transformers.
        folder: of `local_copy`; None where the options hold the weights.
        where: the checkpoint as given, for messages.
        unused: of `refuse_partial`.
        whole: whether all of the checkpoint must have a place in the model.
        options: further ones of `from_pretrained`.

    Raises:
        UserError: of `refuse_partial` and `refuse_bad_weights`.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    if folder:
        options.setdefault("config", read_config(folder))
    model, report = kind.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, trust_remote_code=False,
        ignore_mismatched_sizes=True, output_loading_info=True, **options)
    if getattr(model, "is_quantized", False) and not torch.cuda.is_available():
        raise UserError(f"{where} has quantised weights, which need a GPU; take the checkpoint in 16 bits")
    parts = None if whole else {name.split(".")[0] for name, _ in model.named_parameters()}
    refuse_partial(report, where, unused=unused, parts=parts)
    refuse_bad_weights(((name, one) for name, one in model.state_dict().items()
                        if not name.startswith(tuple(unused))), where)  # fmt: skip
    if folder and Path(folder).parent.name == "snapshots":  # of the Hub's cache, which is named by its commit
        model.config._commit_hash = Path(folder).name
    return model


def examine(folder: Path, where: Any, *, numbers: bool = True) -> bool:
    """Refuse what `load_model` would refuse of a checkpoint, from its files' headers.

    Args:
        folder: of `local_copy`.
        where: the checkpoint as given, for messages.
        numbers: whether to look for NaN too, which reads every weight once (one at a time).

    Returns:
        Whether it is a vision-language model, whose processor can be looked at too.

    Raises:
        UserError: as `load_model`; a damaged file.
    """
    import torch
    import transformers

    config, headers = read_config(folder), {}
    for file in weight_files(folder):
        with open_weights(file) as weights:
            if twice := sorted(headers.keys() & weights.keys()):
                raise UserError(f"{file} has {len(twice)} weights that another file has too (first: "
                                f"{twice[0]}); {AGAIN}")  # fmt: skip
            headers.update({name: weights.get_slice(name) for name in weights.keys()})
            if numbers:
                refuse_bad_weights(((name, weights.get_tensor(name)) for name in weights.keys()), file)
    kind = transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    sees, unused = kind is not None, ()
    if not sees:  # of an encoder perhaps one tower alone is used
        kind, unused = transformers.MODEL_MAPPING.get(type(config), None), ("text_model.", "pooler.")
    if not isinstance(kind, type) or getattr(config, "quantization_config", None):
        return sees  # quantised weights have shapes of their own
    other = [name for name, one in headers.items()
             if not one.get_dtype().startswith(("F", "BF")) and not name.endswith(_BUFFERS)]
    if other:
        raise UserError(f"{folder} has {len(other)} weights of whole or complex numbers (first: {other[0]});"
                        f" {AGAIN}")
    state = {name: torch.empty(one.get_shape(), device="meta") for name, one in headers.items()}
    with loading(where, "examine"):
        load_model(kind, None, where, whole=sees, unused=unused, config=config, state_dict=state,
                   device_map="meta")  # fmt: skip
    return sees


@contextmanager
def open_weights(file: Path) -> Iterator[Any]:
    """A safetensors file, open: names and shapes cost nothing, tensors are read one by one.

    Raises:
        UserError: it is damaged, or the pointer of Git LFS in its place.
    """
    from safetensors import safe_open

    with loading(file, "read"):
        with file.open("rb") as head:
            if head.read(24) == b"version https://git-lfs.":
                raise UserError(f"{file} is a pointer of Git LFS, not the weights; run git lfs pull there")
        with safe_open(str(file), "pt") as weights:
            yield weights
