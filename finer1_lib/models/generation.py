"""Completions from a model, for evaluation and for rollouts alike: batches, left padding, greedy or sampled.

    generate(loaded, [user_message("Describe the bird.", ImageFile(root, "bird/a.jpg"))], max_new_tokens=256)
        -> [Generation(text="A small bird with ...", tokens=61, truncated=False)]

What keeps Qwen2.5-VL quick on two CPU cores (measured on one: 3.7 M parameters, 63 tokens of prompt, 110
new):
* large batches: 16 rows cost 1.3 s, 64 rows 2.6 s;
* rows of equal prompt length together: a batch without padding has no attention mask, and that spares
  transformers a copy of every key and value for each query head (2.6 s against 3.9 s);
* each distinct image goes through the image processor once (`encoding.Encoder`), and each distinct prompt
  through the model (`sharing.read_prompts`): of 64 rollouts of 16 prompts, a tenth of the time;
* a cache with room to grow (`sharing.preallocated_cache`): another tenth.

transformers' own `generate` does the rest: what remains in its profile is arithmetic, not its loop. A model
of another family (`AnyModel`) answers through its own processor and chat template; nothing here knows its
architecture. Placeholder ids are never sampled: one image token inside a completion makes every later forward
fail, because no image belongs to it.

Source: the release's rollouts sample with temperature 1.0 and top-p 0.99
(TAPO/examples/configs/config_tapo.yaml:85); the other families are those of Fine-R1 (arXiv 2602.07605),
Tables 1, 2 and 7.
"""

import copy
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Iterator, NamedTuple, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.images import ImageFile, fitted
from finer1_lib.models.encoding import Encoded, Encoder, bounded, pad, vision_inputs
from finer1_lib.models.out_of_memory import memory_advice
from finer1_lib.models.sharing import (
    forget_positions,
    preallocated_cache,
    read_prompts,
    shares_prompts,
    unwrap_base,
)
from finer1_lib.models.trainable import LoadedModel

EQUAL_LENGTH_ROWS = 16  # so many prompts of one length are worth their own batch; fewer are padded together
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "bad_words_ids",
             "suppress_tokens", "begin_suppress_tokens")  # fmt: skip
PLACEHOLDERS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


class Generation(NamedTuple):
    """One completion: text without special tokens, its number of tokens with the ending one, whether the
    limit was reached before an ending token, and for an endpoint's empty answer a key of
    `endpoint_replies.NO_TEXT`."""

    text: str
    tokens: int
    truncated: bool
    no_text: str = ""


@dataclass(frozen=True)
class AnyModel:
    """A vision-language model of any family, for generation only (`loading.load_any`).

    Its processor has a chat template; larger images than `max_pixels` are reduced, 0 leaves them to it.
    """

    model: Any
    processor: Any
    device: str
    checkpoint: str
    max_pixels: int = 0


def generate(
    loaded: "LoadedModel | AnyModel", prompts: Sequence[Sequence[dict]], *, max_new_tokens: int,
    temperature: float = 0.0, top_p: float = 1.0, seed: int = 0, batch_size: Optional[int] = None,
    encoder: Optional[Encoder] = None,
) -> list[Generation]:
    """Answer chat prompts: one completion a prompt, in their order.

    Args:
        prompts: conversations; an image is {"type": "image", "image": PIL image or ImageFile}.
        temperature: 0 is greedy.
        seed: of the sampling; torch's own generators are left as they were.
        batch_size: prompts a forward (default 32, another family 8); part of the result when sampling, and of
            its last digits when greedy.
        encoder: one that already holds the images, of a Qwen2.5-VL.

    Raises: UserError: memory ran out, a limit below 1, an unreadable image.
    """
    check_length(max_new_tokens)
    size = (8 if isinstance(loaded, AnyModel) else 32) if batch_size is None else batch_size
    tokenizer, now = loaded.processor.tokenizer, {"max_new_tokens": max_new_tokens}
    sampling = {**now, "temperature": temperature, "top_p": top_p}
    if isinstance(loaded, AnyModel):
        batches, now["max_pixels"] = _by_sight(prompts, size), loaded.max_pixels
    else:
        encode = encoder or Encoder(loaded.processor)
        each = {id(messages): messages for messages in prompts}  # samples of one prompt share its encoding
        rows = {key: encode(messages) for key, messages in each.items()}
        encoded = [rows[id(messages)] for messages in prompts]
        batches, now["loaded"] = cut_batches([len(row.ids) for row in encoded], size), loaded
    completions: list[list[int]] = [[]] * len(prompts)
    for number, batch in enumerate(batches):
        with memory_advice("answering", prompts=len(batch), **now):
            if isinstance(loaded, AnyModel):
                ids = _sample_any(loaded, [prompts[i] for i in batch], seed=(seed, number), **sampling)
            else:
                with in_half(loaded):
                    ids = sample_ids(loaded.model, tokenizer, [encoded[i] for i in batch],
                                     seed=(seed, number), **sampling)  # fmt: skip
        for i, row in zip(batch, ids):
            completions[i] = row
    ends, texts = set(ending_ids(loaded.model, tokenizer)), tokenizer.batch_decode(
        completions, skip_special_tokens=True)
    return [Generation(text, len(row), not row or row[-1] not in ends)
            for text, row in zip(texts, completions)]  # fmt: skip


def cut_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches: prompts of one length together where there are enough, the others by length."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: it must be positive")
    by_length: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        by_length.setdefault(length, []).append(i)
    groups, mixed = [], []
    for _, group in sorted(by_length.items()):
        if len(group) >= min(EQUAL_LENGTH_ROWS, batch_size):
            groups.append(group)
        else:
            mixed += group
    return [g[k : k + batch_size] for g in [*groups, mixed] for k in range(0, len(g), batch_size)]


def sample_ids(
    model: Any, tokenizer: Any, rows: Sequence[Encoded], *, max_new_tokens: int, temperature: float,
    top_p: float, seed: tuple[int, ...],
) -> list[list[int]]:
    """Token ids of one batch of completions, each up to and with its ending token.

    Rows that share one `Encoded` object share its pass through the vision tower and the language model
    (`sharing`); what is drawn is the same with and without. The model's mode and torch's generator, which
    transformers draws from, are restored.
    """

    check_length(max_new_tokens)
    device = next(model.parameters()).device
    ids, mask = pad([row.ids for row in rows], tokenizer.pad_token_id, "left")
    ids, mask = ids.to(device), mask.to(device)
    ends = ending_ids(model, tokenizer)
    config = _generation_config(model, tokenizer, ends, max_new_tokens, temperature, top_p)
    with evaluating(model), _seeded(device, mix(*seed)):
        base = unwrap_base(model)
        if shares_prompts(base):
            read = read_prompts(base, rows, tokenizer.pad_token_id, preallocated_cache(base))
            given = {"past_key_values": read.cache}
        else:
            given = vision_inputs(rows, ids, model.config.image_token_id)
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **given)
    return _until_end(out[:, ids.shape[1] :], ends)


@contextmanager
def _seeded(device: Any, seed: int) -> Iterator[None]:
    """No gradients, and torch's generators seeded; they are put back afterwards."""
    import torch

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed)
        yield


def _until_end(rows: Any, ends: Sequence[int]) -> list[list[int]]:
    """Each row of ids up to and with its first ending token; what follows is padding."""
    ends = set(ends)
    return [row[: next((place + 1 for place, token in enumerate(row) if token in ends), len(row))]
            for row in rows.tolist()]


def mix(*numbers: int) -> int:
    """One seed out of several: different for (1, 0) and (0, 1), the same on every machine."""
    import hashlib

    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "big") >> 1


def in_half(loaded: LoadedModel) -> Any:
    """A context in which a model trained in full, whose weights are float32, computes in its half precision.

    Else its rows would be evaluated in another precision than the base's beside them, and much slower.
    """
    import torch

    half = loaded.full_finetuning and loaded.dtype in (torch.float16, torch.bfloat16)
    return torch.autocast(loaded.device.partition(":")[0], loaded.dtype) if half else nullcontext()


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Hold a model in evaluation mode and restore it; no M-RoPE offsets come in or stay behind.

    A model of Unsloth's also has its own switch, which stops gradient checkpointing and allows the cache.
    """
    training = model.training
    forget_positions(model)
    model.for_inference() if hasattr(model, "for_inference") else model.eval()
    try:
        yield
    finally:
        forget_positions(model)
        model.for_training() if training and hasattr(model, "for_training") else model.train(training)


def own_settings(config: Any, where: Any, vocabulary: Optional[int] = None) -> Any:
    """The token ids of a checkpoint's generation configuration.

    The rest (sampling, penalties, several answers a prompt, methods that are code on the Hub) would fill what
    a caller leaves out, so it is not kept. Ids lie below `vocabulary`, but for padding.

    Raises: UserError: what is not a token id, or a list of them.
    """
    from transformers import GenerationConfig

    def ids(value: Any, most: int) -> bool:
        if isinstance(value, (list, tuple)):
            return all(isinstance(one, int) and ids(one, most) for one in value)
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < most

    found = {name: value for name in TOKEN_IDS if (value := getattr(config, name, None)) not in (None, [])}
    for name, value in found.items():
        several = value if name == "bad_words_ids" and isinstance(value, (list, tuple)) else [value]
        most = 2**31 if name in ("pad_token_id", "bos_token_id") or vocabulary is None else vocabulary
        lists = all(isinstance(one, list) and one for one in several) if name == "bad_words_ids" else True
        if not lists or not all(ids(one, most) for one in several):
            raise UserError(f"{where}: generation_config.json sets {name} to {repr(value)[:60]}; give token "
                            f"ids, which are whole numbers below {most}")  # fmt: skip
    return GenerationConfig(**found)


def check_length(max_new_tokens: int) -> None:
    """Refuse (UserError) a limit at which no token could be generated."""
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens!r}; give a whole number of 1 or more")


def ending_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every id that ends a turn: the generation configuration's and the tokenizer's."""
    named = model.generation_config.eos_token_id
    named = [] if named is None else [named] if isinstance(named, int) else list(named)
    return sorted({*named, tokenizer.eos_token_id})


def _generation_config(model: Any, tokenizer: Any, ends: list[int], max_new_tokens: int, temperature: float,
                       top_p: float) -> Any:
    """A complete configuration; transformers fills what is left out from the model's own (`own_settings`)."""
    from transformers import GenerationConfig

    known = tokenizer.get_vocab()
    suppressed = sorted({known[token] for token in PLACEHOLDERS if token in known})
    sampling = dict(temperature=temperature, top_p=top_p, top_k=0) if temperature > 0 else {}
    return GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=temperature > 0, num_beams=1, repetition_penalty=1.0,
        eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, suppress_tokens=suppressed, use_cache=True,
        disable_compile=True, **sampling)


# Other families ----------------------------------------------


def _by_sight(prompts: Sequence[Sequence[dict]], batch_size: int) -> list[list[int]]:
    """Indices in batches, prompts with and without images in batches of their own."""
    seeing = [any(part["type"] == "image" for turn in prompt if not isinstance(turn["content"], str)
                  for part in turn["content"]) for prompt in prompts]
    groups = [[i for i, sees in enumerate(seeing) if sees is kind] for kind in (True, False)]
    return [group[k : k + batch_size] for group in groups for k in range(0, len(group), batch_size)]


def _sample_any(
    loaded: AnyModel, prompts: Sequence[Sequence[dict]], *, max_new_tokens: int, temperature: float,
    top_p: float, seed: tuple[int, ...],
) -> list[list[int]]:
    """As `sample_ids`, of conversations."""
    model, tokenizer = loaded.model, loaded.processor.tokenizer
    with bounded(loaded.checkpoint):
        inputs = loaded.processor.apply_chat_template(
            [_opened(prompt, loaded.max_pixels) for prompt in prompts], add_generation_prompt=True,
            tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"padding": True})
    inputs = {name: value.to(model.device, model.dtype if value.is_floating_point() else None)
              for name, value in inputs.items() if hasattr(value, "to")}
    ends, hot = ending_ids(model, tokenizer), temperature > 0
    config = copy.deepcopy(model.generation_config)  # the family's own token ids; how it samples is set here
    config.update(
        do_sample=hot, num_beams=1, repetition_penalty=1.0, max_length=None, max_new_tokens=max_new_tokens,
        eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, temperature=temperature if hot else None,
        top_p=top_p if hot else None, top_k=0 if hot else None)
    with _seeded(model.device, mix(*seed)):
        out = model.generate(**inputs, generation_config=config)
    return _until_end(out[:, inputs["input_ids"].shape[1] :], ends)


def _opened(prompt: Sequence[dict], max_pixels: int) -> list[dict]:
    """The conversation with its images read; a copy, for a processor may write into it.

    A turn that is a bare text becomes a list of one part: most families' templates iterate over the parts of
    a turn and would silently leave such a text out.
    """
    def read(part: dict) -> dict:
        if part["type"] != "image":
            return dict(part)
        image = part["image"]
        image = image.open() if isinstance(image, ImageFile) else image.convert("RGB")
        return {**part, "image": fitted(image, max_pixels)}

    def parts(content: Any) -> list[dict]:
        return [{"type": "text", "text": content}] if isinstance(content, str) else [read(p) for p in content]

    return [{**turn, "content": parts(turn["content"])} for turn in prompt]
