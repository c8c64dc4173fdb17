"""The two towers of a CLIP-like checkpoint: pictures and texts as vectors of one space.

CLIP, SigLIP and SigLIP 2 are read by transformers, EVA-CLIP (of which it has no class) by open_clip, the
extra "clip". Both in float32, both from safetensors weights only.

Source: SigLIP's texts are lower-cased and padded on the right to all its 64 tokens, as in its training (audit
B2; big_vision); the rest is our choice.
"""

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

from finer1_lib.checkpoint_files import OPEN_CLIP_FILES, loading, local_copy, need, read_object
from finer1_lib.checkpoint_weights import open_weights, refuse_bad_weights
from finer1_lib.errors import UserError
from finer1_lib.image_encoders import image_features, load_encoder

if TYPE_CHECKING:
    import numpy


class TransformersTowers:
    """Both towers of a CLIP- or SigLIP-like checkpoint that transformers has a class for.

    Raises:
        UserError: as `image_encoders.load_encoder`, or no text tower.
    """

    def __init__(self, checkpoint: str, device: str, batch_size: int) -> None:
        self._loaded = load_encoder(checkpoint, device=device, texts=True)
        self._batch_size = batch_size
        # SigLIP attends to its padding, so the padding is part of what it reads; CLIP's is never looked at
        self._siglip = self._loaded.model.config.model_type.startswith("siglip")
        _try(self, checkpoint)

    def pictures(self, images: Sequence[Any]) -> "numpy.ndarray":
        """(images, width) float32, not normalised."""
        return image_features(self._loaded, images, self._batch_size)

    def texts(self, texts: Sequence[str]) -> "numpy.ndarray":
        """(texts, width) float32, not normalised."""
        import torch

        tower = self._loaded.model.config.text_config
        if self._siglip:
            texts, padding = [text.lower() for text in texts], "max_length"
        else:
            padding = True
        inputs = self._loaded.tokenizer(
            list(texts), padding=padding, padding_side="right", truncation=True,
            max_length=tower.max_position_embeddings, return_tensors="pt")  # fmt: skip
        inputs = inputs.to(self._loaded.device)
        read = {"input_ids": inputs["input_ids"]}
        if not self._siglip:
            read["attention_mask"] = inputs["attention_mask"]
        with torch.inference_mode():
            pooled = self._loaded.model.get_text_features(**read, return_dict=True).pooler_output
        return pooled.float().cpu().numpy()


class OpenClipTowers:
    """Both towers of a checkpoint in open_clip's own format, with its preprocessing and tokenizer.

    Only `open_clip_config.json`, safetensors weights and the tokenizer are fetched or read: open_clip itself
    would take pickled weights where it finds no others.

    Raises:
        UserError: open_clip is not installed, nothing there, or no safetensors weights.
    """

    def __init__(self, checkpoint: str, device: str, batch_size: int) -> None:
        import torch

        if importlib.util.find_spec("open_clip") is None:
            raise UserError(f'{checkpoint} is read by open_clip: install the kit with its extra "clip"')
        folder = local_copy(checkpoint)
        check_open_clip(Path(folder))
        import open_clip

        self._device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._batch_size = batch_size
        with loading(checkpoint):
            self._model, _, self._prepare = open_clip.create_model_and_transforms(
                f"local-dir:{folder}", device=self._device, require_pretrained=True)
            refuse_bad_weights(self._model.state_dict().items(), checkpoint)
            self._tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self._model.eval()
        _try(self, checkpoint)

    def pictures(self, images: Sequence[Any]) -> "numpy.ndarray":
        """(images, width) float32, not normalised."""
        import torch

        found = []
        for start in range(0, len(images), self._batch_size):
            batch = torch.stack([self._prepare(image) for image in images[start : start + self._batch_size]])
            with torch.inference_mode():
                found.append(self._model.encode_image(batch.to(self._device)).float().cpu())
        return torch.cat(found).numpy()

    def texts(self, texts: Sequence[str]) -> "numpy.ndarray":
        """(texts, width) float32, not normalised."""
        import torch

        with torch.inference_mode():
            found = self._model.encode_text(self._tokenizer(list(texts)).to(self._device))
        return found.float().cpu().numpy()


def _try(towers: Any, checkpoint: str) -> None:
    """One image and one text, so that preprocessing that cannot work is refused before any question."""
    from PIL import Image

    with loading(checkpoint, "encode an image and a text with"):
        towers.pictures([Image.new("RGB", (64, 64))])
        towers.texts(["a wren"])


def check_open_clip(folder: Path, *, numbers: bool = False) -> None:
    """Refuse a config of open_clip's with anything but numbers and words of the two towers.

    open_clip hands what it finds on: to a tokenizer's loader, to timm, to other repositories. With `numbers`
    its weights are looked at too, one by one.

    Raises:
        UserError: a file is missing, or naming the first key that is not on the list.
    """
    for names in (("open_clip_config.json",), OPEN_CLIP_FILES):
        need(folder, "|".join(names), "no checkpoint of open_clip's that can be read safely")
    path = folder / "open_clip_config.json"
    config = read_object(path)
    model = _known(path, config.get("model_cfg"), "model_cfg", _MODEL)
    _known(path, config.get("preprocess_cfg", {}), "preprocess_cfg", _PREPROCESS)
    _known(path, model.get("vision_cfg"), "vision_cfg", _VISION)
    text = _known(path, model.get("text_cfg"), "text_cfg", _TEXT)
    _known(path, text.get("tokenizer_kwargs", {}), "tokenizer_kwargs", _TOKENIZER)
    for part in ("vision_cfg", "text_cfg"):
        for kind in ("act_kwargs", "norm_kwargs"):
            _known(path, model[part].get(kind) or {}, kind, _LAYER)
    timm = model["vision_cfg"].get("timm_model_name", "")
    if timm is not None and not re.fullmatch(r"[\w.]*", str(timm)):
        raise UserError(f"{path} sets timm_model_name to {timm!r}; the name of a model of timm's is wanted")
    file = next(folder / name for name in OPEN_CLIP_FILES if (folder / name).is_file())
    if numbers:
        with open_weights(file) as weights:
            refuse_bad_weights(((name, weights.get_tensor(name)) for name in weights.keys()), file)


def _known(path: Path, part: Any, name: str, keys: str) -> dict:
    """A part of the config, with known keys alone."""
    if not isinstance(part, dict):
        raise UserError(f"{path} has no object {name}; copy or download the checkpoint again")
    if foreign := sorted(set(part) - set(keys.split())):
        raise UserError(f"{path} sets {foreign[0]} in {name}, which is not read here; take a checkpoint"
                        " whose towers open_clip builds itself")
    return part


# What of a config open_clip may see. Left out: towers of transformers' (hf_model_name) and decoders.
_MODEL = ("embed_dim vision_cfg text_cfg quick_gelu custom_text init_logit_scale init_logit_bias "
          "nonscalar_logit_scale output_dict")  # fmt: skip
_PREPROCESS = "size mode mean std interpolation resize_mode fill_color"
_BLOCK = ("layers width mlp_ratio ls_init_value pool_type output_tokens act_kwargs norm_kwargs block_type "
          "qk_norm scaled_cosine_attn scale_heads scale_attn_inner scale_attn scale_fc "
          "final_ln_after_pool ")  # fmt: skip
_VISION = _BLOCK + (
    "head_width patch_size image_size patch_dropout attentional_pool attn_pooler_queries attn_pooler_heads "
    "no_ln_pre pos_embed_type timm_model_name timm_model_pretrained timm_pool timm_proj timm_proj_bias "
    "timm_drop timm_drop_path")
_TEXT = _BLOCK + (
    "context_length vocab_size hf_tokenizer_name tokenizer_mode tokenizer_kwargs heads embed_cls pad_id eos_id "
    "no_causal_mask proj_bias proj_type")
_TOKENIZER = "clean strip_sep_token language lower reduction_mask"
_LAYER = "eps elementwise_affine bias approximate"

TOWERS = {"transformers": TransformersTowers, "open_clip": OpenClipTowers}
