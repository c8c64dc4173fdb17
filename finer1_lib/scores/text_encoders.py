"""Sim(a, b) by a text encoder: the cosine of two embeddings, each text embedded once and in batches.

    SigLIP, SigLIP 2  the text tower's pooled output; texts padded to all 64 tokens, which it attends to
    CLIP              the projected text embedding
    any other         the mean of the last layer's states over the tokens, as sentence encoders are read

The release embeds one text at a time, four for each answer, and remembers none (audit B2).

Source: release eval/evaluation.py, SigLIPTextSimilarity (which ignores weights of other sizes: refused here);
second encoders: audit B2, F4; that others are mean-pooled is our choice, after Reimers and Gurevych 2019.
"""

from collections import OrderedDict
from typing import Any, Callable, Iterable

from finer1_lib.checkpoint_files import loading, local_copy, read_config
from finer1_lib.checkpoint_weights import load_model, refuse_larger
from finer1_lib.errors import UserError

SIGLIP = "google/siglip-base-patch16-256"  # [P] Section 4.1
SIGLIP_LENGTH = 64  # [R] every text is padded to 64 tokens, as in SigLIP's training
LONGEST = 512  # tokens of any other encoder
KEPT = 16_384  # embeddings: of 768 numbers each 50 MB, far more than a data set has names
AHEAD = 16  # batches embedded at a time


class EncoderSimilarity:
    """Cosine of two texts' embeddings by a checkpoint that transformers has a class for.

    What `prepare` is told waits, and is embedded in long batches as soon as the first of it is asked for, in
    the order told: a file of any length needs the memory of `KEPT` embeddings and no more.

    Args:
        checkpoint: folder, "owner/name" or "owner/name@revision".
        batch_size: texts a forward pass.
        lower_case: whether texts are put into small letters first.
        device: a torch device.
        kept: embeddings remembered, the least recently used forgotten first.

    Raises:
        UserError: the checkpoint cannot be loaded, leaves weights newly initialised, has no tokenizer or is
            no text encoder; a SigLIP that reads fewer than 64 tokens.
    """

    def __init__(
        self, checkpoint: str, *, batch_size: int = 64, lower_case: bool = False, device: str = "cpu",
        kept: int = KEPT,
    ) -> None:  # fmt: skip
        self.name = f"encoder{'_lower' if lower_case else ''}:{checkpoint}"
        self._embed = _open(checkpoint, device)
        self._batch_size, self._lower_case = batch_size, lower_case
        self._kept = max(kept, 4 * AHEAD * batch_size)  # what was embedded ahead must still be there
        self._vectors: OrderedDict[str, Any] = OrderedDict()
        self._waiting: dict[str, None] = {}

    def prepare(self, texts: Iterable[str]) -> None:
        """Note texts that will be asked for."""
        for text in texts:
            key = self._key(text)
            if key not in self._vectors:
                self._waiting[key] = None

    def __call__(self, a: str, b: str) -> float:
        """Cosine of the two embeddings, in [-1, 1]; exactly 1 for equal texts."""
        one, two = self._key(a), self._key(b)
        return 1.0 if one == two else float(self._vector(one) @ self._vector(two))

    def _key(self, text: str) -> str:
        return text.lower() if self._lower_case else text

    def _vector(self, key: str) -> Any:
        if key not in self._vectors:
            self._embed_with_next(key)
        self._vectors.move_to_end(key)
        return self._vectors[key]

    def _embed_with_next(self, key: str) -> None:
        """Embed a text together with those that wait in front, and forget the oldest."""
        self._waiting.pop(key, None)
        chosen = [key]
        for _ in range(min(len(self._waiting), AHEAD * self._batch_size - 1)):
            chosen.append(next(iter(self._waiting)))
            del self._waiting[chosen[-1]]
        alike = sorted(chosen, key=lambda text: (len(text), text))  # in length: little padding
        for start in range(0, len(alike), self._batch_size):
            batch = alike[start : start + self._batch_size]
            self._vectors.update(zip(batch, self._embed(batch)))
        for text in chosen:  # the order in which they will be asked for, so in which they may be forgotten
            self._vectors.move_to_end(text)
        while len(self._vectors) > self._kept:
            self._vectors.popitem(last=False)


class SiglipSimilarity(EncoderSimilarity):
    """`EncoderSimilarity` by the paper's text tower.

    Args:
        checkpoint: another SigLIP in its place.
        lower_case: SigLIP was trained on lower-cased text; the release does not lower-case, so False is its
            way.
        options: as for `EncoderSimilarity`.
    """

    def __init__(self, checkpoint: str = SIGLIP, *, lower_case: bool = False, **options: Any) -> None:
        super().__init__(checkpoint, lower_case=lower_case, **options)
        self.name = "siglip_lower" if lower_case else "siglip"


def _open(checkpoint: str, device: str) -> Callable[[list[str]], Any]:
    """texts -> (texts, width) float32 unit vectors on the CPU."""
    config = read_config(checkpoint)
    kind = config.model_type.removesuffix("_text_model")
    read, tower, pool = _READ.get(kind, (_mean_pooled, "AutoModel", False))
    if pool and hasattr(config, "text_config"):
        if kind == "clip":  # the tower alone looks for the width of its projection in its own part
            config.text_config.projection_dim = config.projection_dim
        config = config.text_config
    tokenizer, model = _load(checkpoint, tower, config, ignored=() if pool else ("pooler.",))
    length = _length(checkpoint, kind, tokenizer, model.config)
    refuse_larger(tokenizer, model.config, checkpoint)
    model.eval().to(device)

    def embed(texts: list[str]) -> Any:
        import torch

        with torch.inference_mode():
            return torch.nn.functional.normalize(read(model, tokenizer, texts, length).float(), dim=-1).cpu()

    try:
        embed(["a"])  # a decoder of pictures or a model that wants more than text says so now
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"{checkpoint!r} is no text encoder ({type(error).__name__} at the first text): "
                        f"take a CLIP, a SigLIP or a sentence encoder") from error  # fmt: skip
    return embed


def _load(checkpoint: str, tower: str, config: Any, ignored: tuple[str, ...]) -> tuple[Any, Any]:
    """(tokenizer, text tower), every weight of which was in the checkpoint."""
    import transformers

    with loading(checkpoint):
        folder = local_copy(checkpoint)
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False)
        return tokenizer, load_model(getattr(transformers, tower), folder, checkpoint, config=config,
                                     unused=ignored, whole=False)  # fmt: skip


def _length(checkpoint: str, kind: str, tokenizer: Any, config: Any) -> int:
    """Tokens that the tower reads."""
    read = getattr(getattr(config, "text_config", config), "max_position_embeddings", None) or LONGEST
    if kind.startswith("siglip"):
        if read < SIGLIP_LENGTH:
            raise UserError(f"{checkpoint!r} reads {read} tokens, the metric needs {SIGLIP_LENGTH}: "
                            f"use {SIGLIP}")  # fmt: skip
        return SIGLIP_LENGTH
    return min(read, tokenizer.model_max_length, LONGEST)


def _padded(model: Any, tokenizer: Any, texts: list[str], length: int) -> Any:
    """SigLIP attends to its padding: no attention mask, as in the release."""
    inputs = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return model(input_ids=inputs["input_ids"].to(model.device)).pooler_output


def _projected(model: Any, tokenizer: Any, texts: list[str], length: int) -> Any:
    return model(**_tokens(model, tokenizer, texts, length)).text_embeds


def _mean_pooled(model: Any, tokenizer: Any, texts: list[str], length: int) -> Any:
    inputs = _tokens(model, tokenizer, texts, length)
    states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
    return (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def _tokens(model: Any, tokenizer: Any, texts: list[str], length: int) -> Any:
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
    return inputs.to(model.device)


# how a tower is read, transformers' class of it, and whether its pooling has weights that we use
_READ: dict[str, tuple[Callable[..., Any], str, bool]] = {
    "siglip": (_padded, "SiglipTextModel", True),
    "siglip2": (_padded, "Siglip2TextModel", True),
    "clip": (_projected, "CLIPTextModelWithProjection", True),
}
