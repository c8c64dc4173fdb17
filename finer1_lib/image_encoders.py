"""Images as vectors: any checkpoint whose model has `get_image_features`, and a store that survives a kill.

    encoder = load_encoder("google/siglip-base-patch16-256")   # SigLIP, CLIP, ... or a Qwen2.5-VL
    features = cached_features(encoder, image_root, image_ids, folder)          # (images, width) float32

A `models.LoadedModel` is an encoder as it stands: its own vision tower, each image the mean of the merged
patch features that the tower hands to the language model. Of a CLIP-like checkpoint the pooled vector is
taken. Time is linear in the images; in memory are one batch of pictures and the vectors.

Source: audit.md C4, C5 (the release names no encoder); all of this is our choice.
"""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Optional, Sequence

from finer1_lib.checkpoint_files import loading, local_copy
from finer1_lib.checkpoint_weights import load_model, refuse_larger
from finer1_lib.errors import UserError
from finer1_lib.files import atomic_write_bytes, atomic_write_json, read_json
from finer1_lib.hashing import digest, listing_digest
from finer1_lib.image_folder import load_image

if TYPE_CHECKING:
    import numpy

BATCH = 16  # images of one forward pass
CHUNK = 32 * BATCH  # images of one file: whole batches, so that a resumed run cuts the same ones


def load_encoder(checkpoint: str, *, device: str = "auto", texts: bool = False) -> SimpleNamespace:
    """A SigLIP- or CLIP-like checkpoint of transformers as an image encoder, in float32.

    Args:
        checkpoint: a folder, or a Hub id "owner/name" or "owner/name@revision".
        device: "auto" is the GPU where there is one, else the CPU.
        texts: whether its text tower is needed too, with a tokenizer.

    Returns:
        What `image_features` needs of a `models.LoadedModel`: model, processor, device, checkpoint, adapter;
        and tokenizer, None unless `texts`.

    Raises:
        UserError: nothing there, no image encoder, or weights of it that the checkpoint does not have.
    """
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    where = {"local_files_only": True, "trust_remote_code": False}
    with loading(checkpoint, "use as image_encoder"):
        folder = local_copy(checkpoint)
        model = load_model(AutoModel, folder, f"image_encoder {checkpoint!r}", dtype=torch.float32,
                           whole=False, unused=() if texts else ("text_model.",))  # fmt: skip
        processor = AutoImageProcessor.from_pretrained(folder, **where)
        tokenizer = AutoTokenizer.from_pretrained(folder, **where) if texts else None
    for what in ("image", "text") if texts else ("image",):
        if not hasattr(model, f"get_{what}_features"):
            raise UserError(f"image_encoder {checkpoint!r} is a {type(model).__name__}, which has no {what} "
                            "features of its own; use SigLIP, CLIP or the like")  # fmt: skip
    if tokenizer is not None:
        refuse_larger(tokenizer, model.config, checkpoint)
    loaded = SimpleNamespace(
        model=model.eval().to(device), processor=SimpleNamespace(image_processor=processor), device=device,
        checkpoint=checkpoint, adapter=None, tokenizer=tokenizer)  # fmt: skip
    with loading(checkpoint, "encode an image with"):
        image_features(loaded, [Image.new("RGB", (64, 64))])
    return loaded


def image_features(loaded: Any, images: Iterable, batch_size: int = BATCH) -> "numpy.ndarray":
    """One vector per image, in batches: time linear in the images, memory bounded by one batch.

    Args:
        loaded: from `load_encoder`, or a `models.LoadedModel`; its processor resizes.
        images: RGB images; an iterator is read batch by batch, so nobody need hold them all.
        batch_size: images per batch; it does not change the result beyond rounding.

    Returns:
        (images, width) float32, not normalised.

    Raises:
        UserError: the features are not finite (a broken checkpoint), or not one per image.
    """
    import numpy
    import torch

    rows, batch = [], []

    def encode() -> None:
        inputs = loaded.processor.image_processor(images=batch, return_tensors="pt").to(loaded.device)
        with torch.inference_mode():
            pooled = loaded.model.get_image_features(**inputs, return_dict=True).pooler_output
        if len(pooled) != len(batch):
            raise UserError(f"{loaded.checkpoint}: {len(pooled)} image features for {len(batch)} images; "
                            "choose another checkpoint")  # fmt: skip
        for one in pooled:  # a vision-language model gives every image's tokens, CLIP and SigLIP a vector
            rows.append((one.float().mean(0) if one.ndim == 2 else one.float()).cpu().numpy())
        batch.clear()

    training = loaded.model.training
    loaded.model.eval()
    try:
        for image in images:
            batch.append(image)
            if len(batch) == batch_size:
                encode()
        if batch:
            encode()
    finally:
        loaded.model.train(training)
    features = numpy.stack(rows).astype("float32") if rows else numpy.zeros((0, 0), "float32")
    if not numpy.isfinite(features).all():
        raise UserError(f"{loaded.checkpoint}: its vision features are not finite; choose another checkpoint")
    return features


def cached_features(
    loaded: Any, image_root, image_ids: Sequence[str], folder, *, progress: Optional[Callable] = None
) -> "numpy.ndarray":
    """`image_features` of files, stored in chunks: after a kill at most one chunk is encoded again.

    The store is known by everything that decides its numbers (`feature_key`); one of other images, another
    encoder or another pixel budget is thrown away.

    Args:
        loaded: as for `image_features`.
        image_root: folder that the ids count from.
        image_ids: in the order of the rows wanted.
        folder: of the store, e.g. `stage.path("checkpoints/features")`; nothing else may lie in it.
        progress: called as `progress(done, total)` after each image.

    Returns:
        (images, width) float32, bit for bit those of `image_features` in one go.

    Raises:
        UserError: of `load_image` and `image_features`.
    """
    image_ids = list(image_ids)

    def pictures(start: int, stop: int) -> Iterator:
        for done, image_id in enumerate(image_ids[start:stop], start + 1):
            yield load_image(image_root, image_id)
            if progress:
                progress(done, len(image_ids))

    return stored_rows(folder, feature_key(loaded, image_ids), len(image_ids),
                       lambda start, stop: image_features(loaded, pictures(start, stop)))  # fmt: skip


def feature_key(loaded: Any, image_ids: Sequence[str]) -> str:
    """sha256 of what decides the features: weights, arithmetic, the processor with its pixel budget, ids."""
    def weights(name: Optional[str]) -> Optional[str]:
        return listing_digest(Path(name), deep=False) if name and Path(name).exists() else name

    return digest({
        "checkpoint": weights(loaded.checkpoint), "adapter": weights(loaded.adapter),
        "commit": getattr(loaded.model.config, "_commit_hash", None),  # of a Hub id
        "arithmetic": [str(loaded.device).split(":")[0], str(next(loaded.model.parameters()).dtype)],
        "processor": loaded.processor.image_processor.to_json_string(), "images": list(image_ids),
    })


def stored_rows(
    folder, key: str, count: int, compute: Callable[[int, int], "numpy.ndarray"]
) -> "numpy.ndarray":
    """(count, width) rows that `compute(start, stop)` gives chunk by chunk, each written when it is there."""
    import numpy
    from safetensors.numpy import load_file, save

    folder, rows = Path(folder), numpy.zeros((0, 0), "float32")
    if read_json(folder / "about.json").get("key") != key:
        shutil.rmtree(folder, ignore_errors=True)
        atomic_write_json(folder / "about.json", {"key": key, "images": count, "chunk": CHUNK})
    for start in range(0, count, CHUNK):
        stop, path = min(start + CHUNK, count), folder / f"{start:08d}.safetensors"
        if not path.exists():
            atomic_write_bytes(path, save({"features": compute(start, stop)}))
        chunk = load_file(path)["features"]
        rows = rows if start else numpy.empty((count, chunk.shape[1]), chunk.dtype)
        rows[start:stop] = chunk
    return rows
