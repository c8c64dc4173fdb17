"""Images and texts as vectors by encoders: CLIP, SigLIP and their like, a VLM's own tower, text encoders.

    encoder = load_encoder("google/siglip-base-patch16-256")            # or a Qwen2.5-VL by loading.load
    features = cached_features(encoder, image_root, image_ids, folder)  # (images, width) float32, resumable
    towers = TOWERS["transformers"]("google/siglip-base-patch16-256", "cpu", 16)    # .pictures(), .texts()
    SiglipSimilarity()("House Wren", "Rock Wren")                       # cosine of two texts

Source: release eval/evaluation.py:36 (SigLIPTextSimilarity), which ignores weights of other sizes (refused
here). SigLIP (arXiv 2303.15343) lower-cases its texts. All in float32, from safetensors alone.
"""

import importlib.util
import re
import shutil
from collections import OrderedDict
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterable, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.faces import Later
from finer1_lib.core.files import atomic_write_bytes, atomic_write_json, read_json
from finer1_lib.core.hashing import digest, listing_digest
from finer1_lib.core.images import load_image
from finer1_lib.models.checkpoint_files import (OPEN_CLIP_FILES, load_model, loading, local_copy, need,
                                                open_weights, pick_device, read_config, read_object,
                                                refuse_bad_weights, refuse_larger)

numpy, torch, transformers = Later("numpy"), Later("torch"), Later("transformers")
Image, safetensors = Later("PIL.Image"), Later("safetensors.numpy")


BATCH = 16  # images of one forward pass
CHUNK = 32 * BATCH  # images of one file: whole batches, so that a resumed run cuts the same ones
SIGLIP = "google/siglip-base-patch16-256"  # the paper's, Section 4.1
SIGLIP_LENGTH = 64  # tokens that every text is padded to, as in SigLIP's training and in the release
LONGEST = 512  # tokens of any other encoder
KEPT = 16_384  # embeddings: of 768 numbers each 50 MB, far more than a data set has names
AHEAD = 16  # batches embedded at a time


def load_encoder(checkpoint: str, *, device: str = "auto", texts: bool = False) -> SimpleNamespace:
    """A SigLIP- or CLIP-like checkpoint of transformers: what `image_features` needs of a `LoadedModel`.

    `texts`: its text tower and tokenizer too. Raises: UserError: nothing there, not an image encoder, or
    weights that the checkpoint does not have.
    """
    device, where = pick_device(device), {"local_files_only": True, "trust_remote_code": False}
    with loading(checkpoint, "use as image_encoder"):
        folder = local_copy(checkpoint)
        model = load_model(transformers.AutoModel, folder, f"image_encoder {checkpoint!r}", dtype="float32",
                           whole=False, unused=() if texts else ("text_model.",))
        processor = transformers.AutoImageProcessor.from_pretrained(folder, **where)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **where) if texts else None
    for what in ("image", "text") if texts else ("image",):
        if not hasattr(model, f"get_{what}_features"):
            raise UserError(f"image_encoder {checkpoint!r} is a {type(model).__name__}, which has no {what} "
                            "features of its own; use SigLIP, CLIP or the like")
    if tokenizer is not None:
        refuse_larger(tokenizer, model.config, checkpoint)
    loaded = SimpleNamespace(
        model=model.eval().to(device), processor=SimpleNamespace(image_processor=processor), device=device,
        checkpoint=checkpoint, adapter=None, tokenizer=tokenizer)
    with loading(checkpoint, "encode an image with"):
        image_features(loaded, [Image.new("RGB", (64, 64))])
    return loaded


def image_features(loaded: Any, images: Iterable, batch_size: int = BATCH) -> "numpy.ndarray":
    """(images, width) float32, not normalised, by `load_encoder` or a `LoadedModel`; a batch in memory.

    Each image is the pooled vector, or of a `LoadedModel` the mean of its merged patch features. Raises:
    UserError: the features are not finite (a broken checkpoint), or not one per image.
    """
    rows, waiting, training = [], iter(images), loaded.model.training
    loaded.model.eval()
    try:
        while batch := list(islice(waiting, batch_size)):
            inputs = loaded.processor.image_processor(images=batch, return_tensors="pt").to(loaded.device)
            with torch.inference_mode():
                pooled = loaded.model.get_image_features(**inputs, return_dict=True).pooler_output
            if len(pooled) != len(batch):
                raise UserError(f"{loaded.checkpoint}: {len(pooled)} image features for {len(batch)} images; "
                                "choose another checkpoint")
            for one in pooled:  # a vision-language model gives every image's tokens, CLIP and SigLIP a vector
                rows.append((one.float().mean(0) if one.ndim == 2 else one.float()).cpu().numpy())
    finally:
        loaded.model.train(training)
    features = numpy.stack(rows).astype("float32") if rows else numpy.zeros((0, 0), "float32")
    if not numpy.isfinite(features).all():
        raise UserError(f"{loaded.checkpoint}: its vision features are not finite; choose another checkpoint")
    return features


def cached_features(loaded: Any, image_root, image_ids: Sequence[str], folder, *,
                    progress: Optional[Callable] = None) -> "numpy.ndarray":
    """`image_features` of files, bit for bit, kept in chunks of a folder of their own (`stored_rows`)."""
    def compute(start: int, stop: int) -> "numpy.ndarray":
        def images():
            for done, image_id in enumerate(image_ids[start:stop], start + 1):
                yield load_image(image_root, image_id)
                if progress:
                    progress(done, len(image_ids))

        return image_features(loaded, images())

    image_ids = list(image_ids)
    return stored_rows(folder, feature_key(loaded, image_ids), len(image_ids), compute)


def feature_key(loaded: Any, image_ids: Sequence[str]) -> str:
    """sha256 of what decides the features: weights, arithmetic, the processor with its pixel budget, ids."""
    def weights(name: Optional[str]) -> Optional[str]:
        return listing_digest(Path(name), deep=False) if name and Path(name).exists() else name

    return digest({
        "checkpoint": weights(loaded.checkpoint), "adapter": weights(loaded.adapter),
        "commit": getattr(loaded.model.config, "_commit_hash", None),  # of a Hub id
        "arithmetic": [str(loaded.device).split(":")[0], str(next(loaded.model.parameters()).dtype)],
        "processor": loaded.processor.image_processor.to_json_string(), "images": list(image_ids)})


def stored_rows(folder, key: str, count: int, compute: Callable[[int, int], Any]) -> "numpy.ndarray":
    """(count, width) rows of `compute(start, stop)`, in chunks; those that `folder` holds are not computed.

    A folder under another key is deleted, so nothing else may lie in it.
    """
    folder, rows = Path(folder), numpy.zeros((0, 0), "float32")
    if read_json(folder / "about.json").get("key") != key:
        shutil.rmtree(folder, ignore_errors=True)
        atomic_write_json(folder / "about.json", {"key": key, "images": count, "chunk": CHUNK})
    for start in range(0, count, CHUNK):
        stop, path = min(start + CHUNK, count), folder / f"{start:08d}.safetensors"
        if not path.exists():
            atomic_write_bytes(path, safetensors.save({"features": compute(start, stop)}))
        chunk = safetensors.load_file(path)["features"]
        rows = rows if start else numpy.empty((count, chunk.shape[1]), chunk.dtype)
        rows[start:stop] = chunk
    return rows


def transformers_towers(checkpoint: str, device: str, batch_size: int) -> SimpleNamespace:
    """Both towers of a CLIP or SigLIP of transformers; `pictures` and `texts` are float32, not normalised."""
    loaded = load_encoder(checkpoint, device=device, texts=True)
    model, length = loaded.model, loaded.model.config.text_config.max_position_embeddings

    def texts(names: Sequence[str]) -> "numpy.ndarray":
        lower = model.config.model_type.startswith("siglip")
        names = [name.lower() if lower else name for name in names]
        return _text_features(model, loaded.tokenizer, names, length, both=True).float().cpu().numpy()

    return _tried(checkpoint, lambda images: image_features(loaded, images, batch_size), texts)


def open_clip_towers(checkpoint: str, device: str, batch_size: int) -> SimpleNamespace:
    """The same in open_clip's own format. Raises: UserError: not installed, or no such checkpoint."""
    if importlib.util.find_spec("open_clip") is None:
        raise UserError(f'{checkpoint} is read by open_clip: install the kit with its extra "clip"')
    folder, device = local_copy(checkpoint), pick_device(device)
    check_open_clip(Path(folder))  # without safetensors open_clip would take pickled weights
    import open_clip
    with loading(checkpoint):
        model, _, prepare = open_clip.create_model_and_transforms(
            f"local-dir:{folder}", device=device, require_pretrained=True)
        refuse_bad_weights(model.state_dict().items(), checkpoint)
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()

    @torch.inference_mode()
    def pictures(images: Sequence[Any]) -> "numpy.ndarray":
        batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        found = [model.encode_image(torch.stack([prepare(image) for image in batch]).to(device)).float().cpu()
                 for batch in batches]
        return torch.cat(found).numpy()

    @torch.inference_mode()
    def texts(names: Sequence[str]) -> "numpy.ndarray":
        return model.encode_text(tokenizer(list(names)).to(device)).float().cpu().numpy()

    return _tried(checkpoint, pictures, texts)


def _tried(checkpoint: str, pictures: Callable, texts: Callable) -> SimpleNamespace:
    """Two towers, tried at once, so that preprocessing that cannot work is refused."""
    with loading(checkpoint, "encode an image and a text with"):
        pictures([Image.new("RGB", (64, 64))])
        texts(["a wren"])
    return SimpleNamespace(pictures=pictures, texts=texts)


def check_open_clip(folder: Path, *, numbers: bool = False) -> None:
    """Refuse (UserError) a config of open_clip's with anything but numbers and words of the two towers.

    open_clip passes what it finds on: to a tokenizer's loader, to timm, to other repositories. `numbers`: its
    weights are checked too, one by one.
    """
    path = folder / "open_clip_config.json"
    for names in (path.name, "|".join(OPEN_CLIP_FILES)):
        need(folder, names, "no checkpoint of open_clip's that can be read safely")

    def check(parent: dict, name: str) -> None:
        part = parent.get(name)
        if part is None and name not in ("model_cfg", "vision_cfg", "text_cfg"):
            return
        if not isinstance(part, dict):
            raise UserError(f"{path} has no object {name}; copy or download the checkpoint again")
        known = _KNOWN[name].split()
        if foreign := sorted(set(part) - set(known)):
            raise UserError(f"{path} sets {foreign[0]} in {name}, which is not read here; take a checkpoint"
                            " whose towers open_clip builds itself")
        for inner in known:
            if inner in _KNOWN:
                check(part, inner)

    config = read_object(path)
    for name in ("model_cfg", "preprocess_cfg"):
        check(config, name)
    timm = config["model_cfg"]["vision_cfg"].get("timm_model_name", "")
    if timm is not None and not re.fullmatch(r"[\w.]*", str(timm)):
        raise UserError(f"{path} sets timm_model_name to {timm!r}; the name of a model of timm's is wanted")
    if numbers:
        file = next(folder / name for name in OPEN_CLIP_FILES if (folder / name).is_file())
        with open_weights(file) as weights:
            refuse_bad_weights(((name, weights.get_tensor(name)) for name in weights.keys()), file)


_BLOCK = ("layers width mlp_ratio ls_init_value pool_type output_tokens act_kwargs norm_kwargs block_type "
          "qk_norm scaled_cosine_attn scale_heads scale_attn_inner scale_attn scale_fc final_ln_after_pool ")
_LAYER = "eps elementwise_affine bias approximate"
# What of a config open_clip may see. Left out: towers of transformers' (hf_model_name) and decoders.
_KNOWN = {
    "model_cfg": "embed_dim vision_cfg text_cfg quick_gelu custom_text init_logit_scale init_logit_bias "
                 "nonscalar_logit_scale output_dict",
    "preprocess_cfg": "size mode mean std interpolation resize_mode fill_color",
    "vision_cfg": _BLOCK + "head_width patch_size image_size patch_dropout attentional_pool "
                  "attn_pooler_queries attn_pooler_heads no_ln_pre pos_embed_type timm_model_name "
                  "timm_model_pretrained timm_pool timm_proj timm_proj_bias timm_drop timm_drop_path",
    "text_cfg": _BLOCK + "context_length vocab_size hf_tokenizer_name tokenizer_mode tokenizer_kwargs heads "
                "embed_cls pad_id eos_id no_causal_mask proj_bias proj_type",
    "tokenizer_kwargs": "clean strip_sep_token language lower reduction_mask",
    "act_kwargs": _LAYER, "norm_kwargs": _LAYER}
TOWERS = {"transformers": transformers_towers, "open_clip": open_clip_towers}
_TEXT_TOWERS = {
    "siglip": "SiglipTextModel", "siglip2": "Siglip2TextModel", "clip": "CLIPTextModelWithProjection"}


class EncoderSimilarity:
    """Cosine of two texts' embeddings by a checkpoint that transformers has a class for.

    What `prepare` receives is embedded in long batches when the first of it is needed; the `kept` embeddings
    used last stay in memory. Raises: UserError: it cannot be loaded, leaves weights newly initialised, is not
    a text encoder, or is a SigLIP that reads fewer than 64 tokens.
    """

    def __init__(self, checkpoint: str, *, batch_size: int = 64, lower_case: bool = False,
                 device: str = "cpu", kept: int = KEPT) -> None:
        self.name = f"encoder{'_lower' if lower_case else ''}:{checkpoint}"
        self._embed = _open(checkpoint, device)
        self._batch_size, self._key = batch_size, str.lower if lower_case else str
        self._kept = max(kept, 4 * AHEAD * batch_size)  # what was embedded ahead must still be there
        self._vectors: OrderedDict[str, Any] = OrderedDict()
        self._waiting: dict[str, None] = {}

    def prepare(self, texts: Iterable[str]) -> None:
        """Note texts that will be needed."""
        self._waiting.update((key, None) for key in map(self._key, texts) if key not in self._vectors)

    def __call__(self, a: str, b: str) -> float:
        """Cosine of the two embeddings, in [-1, 1]; exactly 1 for equal texts."""
        one, two = map(self._key, (a, b))
        return 1.0 if one == two else float(self._vector(one) @ self._vector(two))

    def _vector(self, key: str) -> Any:
        """A text's embedding; a new one is embedded with those that wait, and the oldest are forgotten."""
        if key not in self._vectors:
            self._waiting.pop(key, None)
            chosen = [key, *islice(self._waiting, AHEAD * self._batch_size - 1)]
            alike = sorted(chosen, key=lambda text: (len(text), text))  # in length: little padding
            for start in range(0, len(alike), self._batch_size):
                batch = alike[start : start + self._batch_size]
                self._vectors.update(zip(batch, self._embed(batch)))
            for text in chosen:  # the order in which they will be needed, so in which they may be forgotten
                self._waiting.pop(text, None)
                self._vectors.move_to_end(text)
            while len(self._vectors) > self._kept:
                self._vectors.popitem(last=False)
        self._vectors.move_to_end(key)
        return self._vectors[key]


class SiglipSimilarity(EncoderSimilarity):
    """By the paper's text tower. It was trained on lower case, which the release does not give it."""

    def __init__(self, checkpoint: str = SIGLIP, *, lower_case: bool = False, **options: Any) -> None:
        super().__init__(checkpoint, lower_case=lower_case, **options)
        self.name = "siglip_lower" if lower_case else "siglip"


def _open(checkpoint: str, device: str) -> Callable[[list[str]], Any]:
    """texts -> (texts, width) float32 unit vectors on the CPU."""
    config = read_config(checkpoint)
    kind = config.model_type.removesuffix("_text_model")
    tower = _TEXT_TOWERS.get(kind)
    if tower and hasattr(config, "text_config"):
        if kind == "clip":  # the tower alone looks for the width of its projection in its own part
            config.text_config.projection_dim = config.projection_dim
        config = config.text_config
    with loading(checkpoint):
        folder = local_copy(checkpoint)
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False)
        model = load_model(getattr(transformers, tower or "AutoModel"), folder, checkpoint, config=config,
                           whole=False, unused=() if tower else ("pooler.",))
    text_config = getattr(model.config, "text_config", model.config)
    most, siglip = getattr(text_config, "max_position_embeddings", 0) or LONGEST, kind.startswith("siglip")
    if siglip and most < SIGLIP_LENGTH:
        raise UserError(f"{checkpoint!r} reads {most} tokens, the metric needs {SIGLIP_LENGTH}: use {SIGLIP}")
    length = SIGLIP_LENGTH if siglip else min(most, tokenizer.model_max_length, LONGEST)
    refuse_larger(tokenizer, model.config, checkpoint)
    model.eval().to(device)

    def embed(texts: list[str]) -> Any:
        vectors = _text_features(model, tokenizer, texts, length).float()
        return torch.nn.functional.normalize(vectors, dim=-1).cpu()

    try:
        embed(["a"])  # a decoder of images or a model that wants more than text fails now
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"{checkpoint!r} is not a text encoder ({type(error).__name__} at the first text): "
                        f"take a CLIP, a SigLIP or a sentence encoder") from error
    return embed


def _text_features(model: Any, tokenizer: Any, texts: list[str], length: int, *, both: bool = False) -> Any:
    """(texts, width) of a model with both towers, of a text tower alone, or of a sentence encoder."""
    # SigLIP attends to its padding (as in the release), so it gets no mask; CLIP's is masked
    siglip = model.config.model_type.startswith("siglip")
    inputs = tokenizer(texts, padding="max_length" if siglip else True, truncation=True, max_length=length,
                       padding_side="right" if both else None, return_tensors="pt").to(model.device)
    names = ("input_ids",) if siglip else ("input_ids", "attention_mask") if both else tuple(inputs)
    given = {name: inputs[name] for name in names}
    with torch.inference_mode():
        if both:
            return model.get_text_features(**given, return_dict=True).pooler_output
        read = model(**given)
        if siglip or "text_embeds" in read:
            return read.pooler_output if siglip else read.text_embeds
        # any other: the mean of the last layer's states over the tokens (Sentence-BERT, arXiv 1908.10084)
        mask = inputs["attention_mask"].unsqueeze(-1)
        return (read.last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
