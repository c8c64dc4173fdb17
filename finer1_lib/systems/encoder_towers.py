"""The two towers of a CLIP-like checkpoint: pictures and texts as vectors of one space.

CLIP, SigLIP and SigLIP 2 are read by transformers, EVA-CLIP (of which it has no class) by open_clip, the
extra "clip". Both in float32, both from safetensors weights only.

Source: SigLIP's texts are lower-cased and padded on the right to all its 64 tokens, as in its training (audit
B2; big_vision); the rest is our choice.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

from finer1_lib.checkpoint_files import is_folder, loading, split_revision
from finer1_lib.errors import UserError, first_line
from finer1_lib.image_encoders import image_features, load_encoder

if TYPE_CHECKING:
    import numpy

OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")


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
        folder = _open_clip_folder(checkpoint)
        import open_clip

        self._device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._batch_size = batch_size
        with loading(checkpoint):
            try:
                self._model, _, self._prepare = open_clip.create_model_and_transforms(
                    f"local-dir:{folder}", device=self._device, require_pretrained=True)
                self._tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
            except (RuntimeError, TypeError, AttributeError) as error:  # weights or a config that do not fit
                raise UserError(f"cannot load {checkpoint!r}: {first_line(error)}") from error
        self._model.eval()

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


def _open_clip_folder(checkpoint: str) -> Path:
    """The folder of a checkpoint in open_clip's format, downloaded without anything pickled."""
    name, revision = split_revision(checkpoint)
    if is_folder(checkpoint):
        folder = Path(checkpoint)
    else:
        from huggingface_hub import snapshot_download

        wanted = ["open_clip_config.json", *OPEN_CLIP_FILES, "tokenizer*", "vocab.json", "merges.txt",
                  "special_tokens_map.json"]  # fmt: skip
        with loading(checkpoint):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    for names in (("open_clip_config.json",), OPEN_CLIP_FILES):
        if not any((folder / one).is_file() for one in names):
            raise UserError(f"{checkpoint} is no checkpoint of open_clip's that can be read safely: "
                            f"{' or '.join(names)} is missing")  # fmt: skip
    return folder


TOWERS = {"transformers": TransformersTowers, "open_clip": OpenClipTowers}
