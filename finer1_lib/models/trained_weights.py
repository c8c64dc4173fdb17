"""Trained weights on the disk: an adapter (LoRA) or a whole checkpoint (full fine-tuning), and both merged.

    folder/adapter_config.json, adapter_model.safetensors    LoRA: plain PEFT
    folder/config.json, model.safetensors, trainable.json    full: a checkpoint, and what of it was trained
    folder/processor_config.json, tokenizer.json, ...        either: the processor

`models.load(checkpoint, folder)` reads either, so no later stage needs to know which of them it was.

Source: our choice; safetensors only.
"""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finer1_lib.core.checkpoint_names import is_folder, split_revision
from finer1_lib.core.errors import UserError
from finer1_lib.models.adapter_files import Misfit, check_trained, in_layout, misfit, other_base, read_adapter
from finer1_lib.models.checkpoint_files import TRAINABLE, loading
from finer1_lib.models.checkpoint_weights import load_model
from finer1_lib.models.trainable import PROJECTOR, VISION, Trainable, wrap_in_lora

if TYPE_CHECKING:
    from finer1_lib.models.trainable import LoadedModel


def save_trained(loaded: "LoadedModel", folder: "str | Path") -> None:
    """Write what was trained: an adapter, or the whole checkpoint with `trainable.json`.

    Raises:
        UserError: nothing was made trainable.
    """
    if loaded.trainable is None:
        raise UserError(f"{loaded.checkpoint} has nothing trained to save: call models.make_trainable first")
    if not loaded.trainable.full:
        return save_adapter(loaded, folder)
    save_whole(loaded, loaded.model, folder)
    text = json.dumps(dataclasses.asdict(loaded.trainable), indent=2) + "\n"
    (Path(folder) / TRAINABLE).write_text(text, encoding="utf-8")


def load_trained(loaded: "LoadedModel", folder: "str | Path") -> "LoadedModel":
    """Read what `save_trained` wrote into a model: an adapter's weights, or all weights.

    Args:
        loaded: for an adapter a bare model or one with an adapter of the same shape; for a whole checkpoint a
            bare model.
        folder: of `save_trained`.

    Raises:
        UserError: the folder holds neither, or what does not fit the model.
    """
    if check_trained(Path(folder)) == "lora":
        return attach_adapter(loaded, folder)
    if hasattr(loaded.model, "peft_config"):
        raise UserError(f"{folder} holds a whole checkpoint: load the base without an adapter first")
    load_weights(loaded, folder)
    return dataclasses.replace(loaded, model=loaded.model.eval(), adapter=str(folder))


def load_weights(loaded: "LoadedModel", folder: "str | Path") -> None:
    """Read all weights of a checkpoint into a bare model, in place.

    Raises:
        UserError: they do not fit.
    """
    import torch
    import transformers

    with loading(folder):
        read = load_model(transformers.AutoModelForImageTextToText, str(folder), folder, dtype=torch.float32)
    try:
        loaded.model.load_state_dict(read.state_dict())
    except RuntimeError as error:
        whose = "its weights are another model's"
        raise UserError(f"{folder} does not fit {loaded.checkpoint}: {whose}") from error


def read_trainable(folder: "str | Path") -> Trainable:
    """What `save_trained` noted of a whole checkpoint; for one made elsewhere, the release's frozen parts."""
    file = Path(folder) / TRAINABLE
    if not file.exists():
        return Trainable("full")
    try:
        return Trainable(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is damaged: train again, or copy the folder again") from error


def attach_adapter(loaded: "LoadedModel", folder: "str | Path") -> "LoadedModel":
    """Load an adapter's weights onto a model: onto its adapter if it has one, else onto a new one of the same
    shape.

    Raises:
        UserError: the folder holds no adapter, or one that does not fit the model.
    """
    import torch
    from peft import PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict

    folder = Path(folder)
    if check_trained(folder) != "lora":
        raise UserError(f"{folder} holds a whole checkpoint, not an adapter")
    adapter = read_adapter(folder)
    with loading(folder, f"put on {loaded.checkpoint} the adapter"):
        if not hasattr(loaded.model, "peft_config"):
            try:
                adapter = in_layout(adapter, [name for name, _ in loaded.model.named_modules()])
            except Misfit as error:
                raise misfit(adapter, loaded.checkpoint, str(error)) from error
            loaded = _wrapped(loaded, PeftConfig.from_peft_type(**adapter.config))
            if told := other_base(adapter.base, loaded.checkpoint):
                print(f"{folder}: {told}", flush=True)
        wanted = get_peft_model_state_dict(loaded.model, save_embedding_layers=False)
        weights = adapter.weights
        if lacking := sorted(set(wanted) - set(weights)):
            raise UserError(f"{folder} lacks {len(lacking)} of its {len(wanted)} weights (first: {lacking[0]})"
                            ": its file is cut short; copy or download it again")  # fmt: skip
        sizes = [(name, *(" x ".join(map(str, one[name].shape)) for one in (weights, wanted)))
                 for name in sorted(wanted) if weights[name].shape != wanted[name].shape]
        if sizes:
            name, there, here = sizes[0]
            raise misfit(adapter, loaded.checkpoint, f"{len(sizes)} weights have another size (first: {name}, {there} "
                                           f"where {here} is needed)")  # fmt: skip
        with torch.no_grad():
            result = set_peft_model_state_dict(loaded.model, weights)
    if result.unexpected_keys:
        left = result.unexpected_keys
        raise misfit(adapter, loaded.checkpoint, f"it has {len(left)} weights that nothing takes (first: {left[0]})")
    return dataclasses.replace(loaded, model=loaded.model.eval(), adapter=str(folder))


def _wrapped(loaded: "LoadedModel", config: Any) -> "LoadedModel":
    """A bare model inside a fresh adapter of this configuration."""
    loaded = wrap_in_lora(loaded, config, seed=0)
    names = [name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad]
    parts = dict(projector=any(PROJECTOR in name for name in names),
                 vision_tower=any(VISION in name and PROJECTOR not in name for name in names))
    return dataclasses.replace(loaded, trainable=Trainable("lora", config.r, config.lora_alpha, **parts))


def save_adapter(loaded: "LoadedModel", folder: "str | Path") -> None:
    """Write the adapter (PEFT safetensors) and the processor; PEFT, `load` and Unsloth read it alike."""
    loaded.model.save_pretrained(folder, safe_serialization=True)
    loaded.processor.save_pretrained(folder)
    file = Path(folder) / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if is_folder(loaded.checkpoint):  # a folder's place on this machine says nothing elsewhere
        config["base_model_name_or_path"] = Path(loaded.checkpoint).name
    else:
        config["base_model_name_or_path"], config["revision"] = split_revision(loaded.checkpoint)
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (Path(folder) / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def save_whole(loaded: "LoadedModel", model: Any, folder: "str | Path") -> None:
    """Write a model as a checkpoint, in the dtype that `loaded` computes in, and its processor."""
    state = {name: tensor.to(loaded.dtype) if tensor.is_floating_point() else tensor
             for name, tensor in model.state_dict().items()}
    model.save_pretrained(str(folder), state_dict=state)
    # transformers writes the dtype that the model has in memory; vLLM would take the folder at its word
    path, name = Path(folder) / "config.json", str(loaded.dtype).removeprefix("torch.")
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if "dtype" in part:
            part["dtype"] = name
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    loaded.processor.save_pretrained(folder)
