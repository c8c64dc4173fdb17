"""Prompts into texts: a model on this machine, or one behind an address, asked the same way.

    ask = LocalAsker(lambda: any_model.load("folder"), image_root, max_new_tokens=256)
    ask([("Describe the bird.", row, 3)])  # (prompt, row of images.parquet or None, seed) -> ["A red crown."]

A picture is handed over as a file's name: it is opened when it is needed. An answer that reached the limit of
tokens ends in `CUT_OFF`.

Source: our choice.
"""

from typing import Any, Callable, Optional, Sequence

from finer1_lib.chat_endpoint import ChatEndpoint, Question
from finer1_lib.encoding import Encoder, ImageFile, user_message
from finer1_lib.rationale_filters import CUT_OFF
from finer1_lib.teaching import Row, draw_seed

Asked = Sequence[tuple[str, Optional[Row], int]]
Generate = Callable[..., list]  # as `generation.generate`


class LocalAsker:
    """Asks in batches a model that is loaded when first needed.

    Args:
        load: gives the model (`models.LoadedModel` or `any_model.AnyModel`).
        image_root: where the images lie.
        generate: what answers; the model's own by default.
    """

    def __init__(
        self, load: Callable, image_root: Any, *, max_new_tokens: int, temperature: float = 0.7,
        batch_size: int = 8, generate: Optional[Generate] = None,
    ) -> None:
        self._load, self._root, self._generate = load, str(image_root), generate
        self._loaded: Any = None
        self._options: dict[str, Any] = {
            "max_new_tokens": max_new_tokens, "temperature": temperature, "batch_size": batch_size,
        }  # fmt: skip

    def __call__(self, asked: Asked) -> list[str]:
        """Answer (prompt, row or None, seed) each; the batch's chance comes from all its seeds."""
        if self._loaded is None:
            self._start()
        prompts = [user_message(prompt, _picture(self._root, row)) for prompt, row, _ in asked]
        seed = asked[0][2] if len(asked) == 1 else draw_seed(*(one[2] for one in asked))
        answers = self._generate(self._loaded, prompts, seed=seed, **self._options)
        return [answer.text + CUT_OFF * answer.truncated for answer in answers]

    def _start(self) -> None:
        from finer1_lib import any_model, generation

        self._loaded = self._load()
        if self._generate is None and isinstance(self._loaded, any_model.AnyModel):
            self._generate = any_model.generate
        elif self._generate is None:  # the pixels of a picture serve every prompt about it
            self._generate, self._options["encoder"] = generation.generate, Encoder(self._loaded.processor)


class EndpointAsker:
    """Asks a model behind an address, every prompt with a seed of its own."""

    def __init__(self, endpoint: ChatEndpoint, image_root: Any) -> None:
        self._endpoint, self._root = endpoint, str(image_root)

    def __call__(self, asked: Asked) -> list[str]:
        """Answer (prompt, row or None, seed) each."""
        questions = [Question(prompt, _picture(self._root, row), seed) for prompt, row, seed in asked]
        return [answer.text + CUT_OFF * answer.truncated for answer in self._endpoint.ask(questions)]


def _picture(root: str, row: Optional[Row]) -> Optional[ImageFile]:
    return None if row is None else ImageFile(root, row["image_id"])
