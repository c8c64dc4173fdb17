"""What answers a batch of requests: a model on this machine, an endpoint, or an encoder.

    answerer = open_answerer(entry, base, image_root, adapter=..., batch_size=64, ...)
    answerer.answer(requests, max_new_tokens=256, seed=0)  ->  [Generation("<think>...", 63, False), ...]

`records.collect_records` needs nothing else, so that every row of a table comes from one loop.
"""

from functools import partial
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

from finer1_lib.evaluation.entries import Entry, weights_at
from finer1_lib.evaluation.records import WINDOW_PIXELS
from finer1_lib.evaluation.systems.strategies import STRATEGIES, messages_for
from finer1_lib.models.generation import Generation

PIXEL_BYTES = 24  # of a prepared image: two frames of three colours in float32
SLACK = 2  # a processor rounds sizes; a store a little too small for its window would hold nothing in time


class ChatAnswerer:
    """A vision-language model in memory (`LoadedModel` or `AnyModel`); temperature 0 is greedy.

    generate: a replacement for `generation.generate`.
    """

    def __init__(self, loaded: Any, image_root: "str | Path", temperature: float = 0.0,
                 generate: Optional[Callable[..., list[Generation]]] = None) -> None:
        from finer1_lib.models import generation, vllm_engine
        from finer1_lib.models.encoding import Encoder
        self._loaded, self._root, self._options = loaded, image_root, {"temperature": temperature}
        self._generate = generate or generation.generate
        by_vllm = generate is vllm_engine.generate
        self.engine = vllm_engine.engine_version("vllm" if by_vllm else "transformers")
        if (by_vllm or generate is None) and not isinstance(loaded, generation.AnyModel):
            # the images of a window stay prepared, and so do a frozen tower's features of them
            self._options["encoder"] = Encoder(loaded.processor, SLACK * WINDOW_PIXELS * PIXEL_BYTES)

    def answer(self, requests: Sequence[Mapping], *, max_new_tokens: int, seed: int) -> list[Generation]:
        """One completion a request, in order; samples of a question share its messages, and so a forward pass."""
        asked = [tuple(request[name] for name in ("setting", "option_order", "rotation", "item_id"))
                 for request in requests]
        messages = {question: messages_for(request, self._root) for question, request in zip(asked, requests)}
        prompts = [messages[question] for question in asked]
        return self._generate(self._loaded, prompts, max_new_tokens=max_new_tokens, seed=seed,
                              batch_size=len(prompts), **self._options)


class EndpointAnswerer:
    """A model behind an address; its answers are kept in the `.jsonl` file `answers` as they arrive.

    An answer without text (filtered, refused, all reasoning) is empty: it counts as no answer, and its record
    states why.
    """

    def __init__(self, system: Any, image_root: "str | Path", answers: Path, temperature: float = 0.0) -> None:
        self._system, self._root, self._answers, self._temperature = system, image_root, answers, temperature
        self._endpoints: dict[int, Any] = {}
        self.engine = "endpoint"

    def answer(self, requests: Sequence[Mapping], *, max_new_tokens: int, seed: int) -> list[Generation]:
        """One completion a request, in order; a sample's seed is its number, so that each is queried once."""
        from finer1_lib.core.images import ImageFile
        from finer1_lib.models.endpoint import Question
        image = partial(ImageFile, str(self._root))
        questions = []
        for request in requests:
            earlier = tuple((request["example_prompt"], image(image_id), f"<answer>{name}</answer>")
                            for image_id, name in request.get("examples", ()))
            questions.append(Question(request["prompt"], image(request["image_id"]),
                                      request["seed"] + request.get("sample", 0), earlier))
        return [Generation(answer.text, answer.tokens, answer.truncated, answer.no_text)
                for answer in self._endpoint(max_new_tokens).ask(questions)]

    def _endpoint(self, max_new_tokens: int) -> Any:
        from finer1_lib.models.endpoint import ChatEndpoint
        if max_new_tokens not in self._endpoints:
            one = self._system
            self._endpoints[max_new_tokens] = ChatEndpoint(
                one.url, one.checkpoint, self._answers, key_variable=one.key_variable, max_tokens=max_new_tokens,
                temperature=self._temperature, max_pixels=one.max_pixels, concurrency=one.concurrency,
                requests_per_minute=one.requests_per_minute)
        return self._endpoints[max_new_tokens]


def open_answerer(entry: Entry, base: str, image_root: "str | Path", *, adapter: "str | Path | None" = None,
                  temperature: float = 1.0, batch_size: int = 16, backend: str = "transformers",
                  load_in_4bit: bool = False, min_pixels: int = 0, max_pixels: int = 0,
                  labels: Mapping[str, Sequence[str]] = {},
                  answers: "str | Path" = "endpoint_answers.jsonl", engine: str = "transformers") -> Any:
    """What answers for an entry, its weights (the run's `base` with `adapter`, or the entry's own) loaded.

    temperature: of strategies that draw several answers; all others are greedy. batch_size: images in a
    forward pass of an encoder, whose names are `labels`, {super_category: its sub-categories}. Models of
    other families take only load_in_4bit and max_pixels. answers: `.jsonl` file of an endpoint's answers.
    engine: "vllm" answers for Qwen2.5-VLs, base and adapter merged; for another family transformers does, and says so.
    Raises: UserError: weights that cannot be loaded, or an endpoint whose address or key is wrong.
    """
    from finer1_lib.models import loading as models, vllm_engine
    vllm_engine.check_engine(engine, load_in_4bit=load_in_4bit)
    several = entry.strategy != "zero_shot" and STRATEGIES[entry.strategy].samples
    heat = temperature if several else 0.0
    kind = entry.system.kind if entry.system is not None else "chat"
    if kind == "encoder":
        from finer1_lib.evaluation.systems.encoders import open_encoder

        return open_encoder(entry.system, image_root, labels, batch_size=batch_size)
    if kind == "endpoint":
        return EndpointAnswerer(entry.system, image_root, Path(answers), heat)
    checkpoint, adapter = weights_at(entry, base, adapter)
    if entry.checkpoint and adapter is None and not models.is_qwen(checkpoint):
        if engine == "vllm":
            print(f"{entry.model}: no Qwen2.5-VL, so transformers answers and not vllm", flush=True)
            engine = "transformers"
        loaded = models.load_any(checkpoint, load_in_4bit=load_in_4bit, max_pixels=max_pixels)
    else:
        loaded = models.load(checkpoint, adapter, backend=backend, load_in_4bit=load_in_4bit,
                             min_pixels=min_pixels, max_pixels=max_pixels)
        loaded.model.requires_grad_(False)  # the image features of a frozen tower are cached
    return ChatAnswerer(loaded, image_root, heat, vllm_engine.generate if engine == "vllm" else None)
