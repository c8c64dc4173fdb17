"""One model's answers by the release's method and by the kit's, with where the seconds go.

    preprocessing   images opened and cut into patches, prompts into tokens
    vision          the vision tower
    prefill         the language model over whole prompts
    decoding        over single new tokens
    rest            choosing tokens, files, everything between

Source: release eval/evaluation.py:103 (batches) and eval/eval_closed.sh:9 (two questions a batch).
"""

import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence

RELEASE_BATCH = 2  # release eval/eval_closed.sh:9
PARTS = ("preprocessing", "vision", "prefill", "decoding")
Say = Callable[[str], None]


def now() -> float:
    """Seconds, after the GPU has finished its queued work (where there is one)."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Clock:
    """Seconds by part; time of no part is the rest."""

    def __init__(self) -> None:
        self.seconds: Counter = Counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside."""
        began = now()
        try:
            yield
        finally:
            self.seconds[name] += now() - began

    def parts(self) -> dict[str, float]:
        """`PARTS`, "rest" and "total"."""
        parts = {name: self.seconds[name] for name in PARTS}
        return {**parts, "rest": self.seconds["total"] - sum(parts.values()), "total": self.seconds["total"]}


@contextmanager
def watched(model: Any, clock: Clock) -> Iterator[None]:
    """Count the passes of the vision tower, of prompts and of single tokens through the language model."""
    from finer1_lib.models.sharing import unwrap_base

    base = unwrap_base(model)
    began: dict[str, float] = {}
    reading = {"part": "prefill"}

    def before(name: str) -> Callable[..., None]:
        def start(module: Any, args: tuple, kwargs: dict) -> None:
            if name == "language":
                reading["part"] = "prefill" if kwargs["inputs_embeds"].shape[1] > 1 else "decoding"
            began[name] = now()
        return start

    def after(name: str) -> Callable[..., None]:
        def stop(module: Any, args: tuple, kwargs: dict, out: Any) -> None:
            part = "vision" if name == "vision" else reading["part"]
            clock.seconds[part] += now() - began[name]
        return stop

    hooks = []
    for name, module in (("vision", base.model.visual), ("language", base.model.language_model),
                         ("head", base.lm_head)):
        hooks.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
        hooks.append(module.register_forward_hook(after(name), with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def release_answers(
    loaded: Any, asked: Sequence[Sequence[Mapping]], *, image_root: "str | Path", max_new_tokens: int,
    clock: Clock,
) -> list[str]:
    """The completions of all requests, queried two at a time in their order (the code is the kit's own)."""
    from transformers import GenerationConfig

    from finer1_lib.core.images import ImageFile
    from finer1_lib.evaluation.systems.strategies import messages_for
    from finer1_lib.models.generation import PLACEHOLDERS, ending_ids, evaluating

    processor, said = loaded.processor, []
    tokenizer = processor.tokenizer
    known = tokenizer.get_vocab()
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, repetition_penalty=1.0,
        eos_token_id=ending_ids(loaded.model, tokenizer), pad_token_id=tokenizer.pad_token_id,
        use_cache=True, disable_compile=True,
        suppress_tokens=[known[token] for token in PLACEHOLDERS if token in known])
    batches = [requests[start : start + RELEASE_BATCH] for requests in asked
               for start in range(0, len(requests), RELEASE_BATCH)]
    for batch in batches:
        with clock.part("preprocessing"):
            texts = [processor.apply_chat_template(messages_for(request, image_root), tokenize=False,
                                                   add_generation_prompt=True) for request in batch]
            pictures = [ImageFile(str(image_root), request["image_id"]).open() for request in batch]
            inputs = processor(text=texts, images=pictures, padding=True, padding_side="left",
                               return_tensors="pt").to(loaded.device)
        with evaluating(loaded.model):
            out = loaded.model.generate(**inputs, generation_config=config)
        said += tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return said


def kit_records(
    loaded: Any, asked: Sequence[Sequence[Mapping]], *, image_root: "str | Path", max_new_tokens: int,
    batch_size: int, clock: Clock,
) -> list[dict]:
    """The records of the notebook's loop, written to a file as there."""
    from finer1_lib.evaluation.records import WINDOW_PIXELS, collect_records
    from finer1_lib.evaluation.systems.answering import PIXEL_BYTES, SLACK, ChatAnswerer
    from finer1_lib.models.encoding import Encoder
    from finer1_lib.models.generation import generate

    class TimedEncoder(Encoder):
        def __call__(self, *args: Any, **options: Any) -> Any:
            with clock.part("preprocessing"):
                return super().__call__(*args, **options)

    encoder = TimedEncoder(loaded.processor, SLACK * WINDOW_PIXELS * PIXEL_BYTES)
    answerer = ChatAnswerer(loaded, image_root, generate=partial(generate, encoder=encoder))
    with tempfile.TemporaryDirectory() as folder:
        return collect_records(asked, Path(folder) / "records.jsonl", lambda: answerer,
                               max_new_tokens=max_new_tokens, batch_size=batch_size)


def measure_answers(
    load: Callable[[], Any], asked: Sequence[Sequence[Mapping]], image_root: "str | Path", *,
    max_new_tokens: int, batch_size: int, splits: int = 0, say: Optional[Say] = None,
) -> dict[str, Any]:
    """Both ways' seconds for one model.

    `asked` is of `all_requests`; the release's way takes one list after the other and would load the model
    `splits` times. Ready for JSON but for `records`, the kit's: seconds of `release` and `kit` by part, `ratio`
    of their totals, `same_answers` as a share, `loading` in seconds and `loads` of each way, and what was
    asked. `processor_ratio` is of the processor's seconds, which others' work on the machine changes less.
    """
    from finer1_lib.models.sharing import unwrap_base

    load()  # the first load also imports libraries
    began = now()
    loaded = load()
    loaded.model.requires_grad_(False)  # as notebook 04 has it, so that what the tower saw is kept
    result: dict[str, Any] = {"loading": now() - began, "loads": {"release": splits, "kit": 1}}
    base, flat = unwrap_base(loaded.model), [request for requests in asked for request in requests]
    result |= {"parameters": sum(weight.numel() for weight in loaded.model.parameters()),
               "attention": base.config._attn_implementation, "dtype": str(base.dtype).removeprefix("torch."),
               "questions": len(flat), "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    options = dict(image_root=image_root, max_new_tokens=max_new_tokens)
    ways = {"release": partial(release_answers, loaded, **options),
            "kit": partial(kit_records, loaded, batch_size=batch_size, **options)}
    found, processor = {}, {}
    for name, way in ways.items():
        way([asked[0][:RELEASE_BATCH]], clock=Clock())  # to warm up
        clock, spent = Clock(), time.process_time()
        with watched(loaded.model, clock), clock.part("total"):
            found[name] = way(asked, clock=clock)
        processor[name] = time.process_time() - spent
        result[name] = clock.parts()
        if say:
            say(f"{name}: {len(flat)} questions in {result[name]['total']:.1f} s")
    records = found["kit"]
    alike = [one == record["completion"] for one, record in zip(found["release"], records)]
    result |= {"tokens": sum(record["tokens"] for record in records), "same_answers": sum(alike) / len(alike),
               "ratio": result["release"]["total"] / result["kit"]["total"], "processor_seconds": processor,
               "processor_ratio": processor["release"] / processor["kit"], "records": records}
    return result
