"""Completions from a model, for evaluation and for rollouts alike: batches, left padding, greedy or sampled.

    generate(loaded, [user_message("Describe the bird.", ImageFile(root, "bird/a.jpg"))], max_new_tokens=256)
        -> [Generation(text="A small bird with ...", tokens=61, truncated=False)]

Each distinct image and prompt is read once (`encoding.Encoder`, `sharing`). Another family than Qwen2.5-VL
(`AnyModel`) answers through its own processor and chat template. Source: sampling: release
TAPO/examples/configs/config_tapo.yaml:85; other families: Fine-R1 (arXiv 2602.07605), Tables 1, 2 and 7.
"""

import copy
import hashlib
from collections import defaultdict
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Iterator, NamedTuple, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.faces import Later
from finer1_lib.core.images import ImageFile, fitted
from finer1_lib.models.encoding import Encoded, Encoder, bounded, pad, vision_inputs
from finer1_lib.models.out_of_memory import memory_advice
from finer1_lib.models.sharing import (forget_positions, preallocated_cache, read_prompts, shares_prompts,
                                       unwrap_base)
from finer1_lib.models.trainable import LoadedModel

torch, transformers = Later("torch"), Later("transformers")
# so many prompts of one length are worth their own batch: it has no attention mask, which spares transformers
EQUAL_LENGTH_ROWS = 16  # a copy of every key and value
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "bad_words_ids",
             "suppress_tokens", "begin_suppress_tokens")
# never sampled: no image belongs to one inside a completion, so every later forward would fail
PLACEHOLDERS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


class Generation(NamedTuple):
    text: str  # without special tokens
    tokens: int  # with the ending one
    truncated: bool  # the limit was reached before an ending token
    no_text: str = ""  # an endpoint's empty answer: a key of `endpoint_replies.NO_TEXT`


@dataclass(frozen=True)
class AnyModel:
    """A vision-language model of any family, for generation only (`loading.load_any`)."""

    model: Any
    processor: Any
    device: str
    checkpoint: str
    max_pixels: int = 0  # larger images are reduced; 0 leaves them to the processor


def generate(loaded: "LoadedModel | AnyModel", prompts: Sequence[Sequence[dict]], *, max_new_tokens: int,
             temperature: float = 0.0, top_p: float = 1.0, seed: int = 0, batch_size: Optional[int] = None,
             encoder: Optional[Encoder] = None) -> list[Generation]:
    """Answer chat prompts: one completion a prompt, in their order; torch's own generators stay as they were.

    An image is {"type": "image", "image": PIL image or ImageFile}; temperature 0 is greedy; `batch_size` (32,
    another family 8) is part of the result when sampling; `encoder`: one that already holds the images.
    Raises: UserError: memory ran out, a limit below 1, an unreadable image.
    """
    check_length(max_new_tokens)
    size = (8 if isinstance(loaded, AnyModel) else 32) if batch_size is None else batch_size
    tokenizer, now = loaded.processor.tokenizer, {"max_new_tokens": max_new_tokens}
    sampling = {**now, "temperature": temperature, "top_p": top_p}
    if isinstance(loaded, AnyModel):  # prompts with an image and prompts without one go apart
        seeing = [any(part["type"] == "image" for turn in prompt if not isinstance(turn["content"], str)
                      for part in turn["content"]) for prompt in prompts]
        groups = [[i for i, sees in enumerate(seeing) if sees is kind] for kind in (True, False)]
        batches = [group[k : k + size] for group in groups for k in range(0, len(group), size)]
        now["max_pixels"] = loaded.max_pixels
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
                                     seed=(seed, number), **sampling)
        for i, row in zip(batch, ids):
            completions[i] = row
    return as_generations(loaded, completions)


def as_generations(loaded: Any, completions: Sequence[Sequence[int]]) -> list[Generation]:
    """Completions as token ids, with their texts."""
    tokenizer = loaded.processor.tokenizer
    ends, texts = ending_ids(loaded.model, tokenizer), tokenizer.batch_decode(completions, skip_special_tokens=True)
    return [Generation(text, len(row), not row or row[-1] not in ends) for text, row in zip(texts, completions)]


def cut_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches: prompts of one length together where there are enough, the others by length."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: it must be positive")
    by_length = defaultdict(list)
    for i, length in enumerate(lengths):
        by_length[length].append(i)
    groups, mixed = [], []
    for _, group in sorted(by_length.items()):
        if len(group) >= min(EQUAL_LENGTH_ROWS, batch_size):
            groups.append(group)
        else:
            mixed += group
    return [g[k : k + batch_size] for g in [*groups, mixed] for k in range(0, len(g), batch_size)]


def sample_ids(model: Any, tokenizer: Any, rows: Sequence[Encoded], *, max_new_tokens: int,
               temperature: float, top_p: float, seed: tuple[int, ...]) -> list[list[int]]:
    """Token ids of completions, up to and with their ending token; rows of one `Encoded` object share it."""
    check_length(max_new_tokens)
    device = next(model.parameters()).device
    ids, mask = (t.to(device) for t in pad([row.ids for row in rows], tokenizer.pad_token_id, "left"))
    ends, known = ending_ids(model, tokenizer), tokenizer.get_vocab()
    sampling = dict(temperature=temperature, top_p=top_p, top_k=0) if temperature > 0 else {}
    config = transformers.GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=temperature > 0, num_beams=1, repetition_penalty=1.0,
        eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, use_cache=True, disable_compile=True,
        suppress_tokens=sorted({known[one] for one in PLACEHOLDERS if one in known}), **sampling)
    with evaluating(model), _seeded(device, mix(*seed)):
        base = unwrap_base(model)
        if shares_prompts(base):
            read = read_prompts(base, rows, tokenizer.pad_token_id, preallocated_cache())
            given = {"past_key_values": read.cache}
        else:
            given = vision_inputs(rows, ids, model.config.image_token_id)
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **given)
    return _until_end(out[:, ids.shape[1] :], ends)


@contextmanager
def _seeded(device: Any, seed: int) -> Iterator[None]:
    """No gradients, and torch's generators seeded; they are put back afterwards."""
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
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "big") >> 1


def in_half(loaded: LoadedModel) -> Any:
    """A context in which a model trained in full (float32 weights) computes in half precision."""
    half = loaded.full_finetuning and loaded.dtype in (torch.float16, torch.bfloat16)
    return torch.autocast(loaded.device.partition(":")[0], loaded.dtype) if half else nullcontext()


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Hold a model in evaluation mode (Unsloth's has a switch of its own); no M-RoPE offsets stay behind."""
    training = model.training
    forget_positions(model)
    model.for_inference() if hasattr(model, "for_inference") else model.eval()
    try:
        yield
    finally:
        forget_positions(model)
        model.for_training() if training and hasattr(model, "for_training") else model.train(training)


def own_settings(config: Any, where: Any, vocabulary: Optional[int] = None) -> Any:
    """A checkpoint's settings without its way of sampling: token ids. Raises: UserError: what is none."""
    def ids(value: Any) -> bool:
        return isinstance(value, (list, tuple)) and all(type(one) is int and 0 <= one < most for one in value)

    found = {name: value for name in TOKEN_IDS if (value := getattr(config, name, None)) not in (None, [])}
    for name, value in found.items():
        most = 2**31 if name in ("pad_token_id", "bos_token_id") or vocabulary is None else vocabulary
        lists = [value if isinstance(value, (list, tuple)) else [value]]
        if name == "bad_words_ids":
            lists = value if isinstance(value, (list, tuple)) else [None]
        if not all(one and ids(one) for one in lists):
            raise UserError(f"{where}: generation_config.json sets {name} to {repr(value)[:60]}; give token "
                            f"ids, which are whole numbers below {most}")
    return transformers.GenerationConfig(**found)


def check_length(max_new_tokens: int) -> None:
    """Refuse (UserError) a limit at which no token could be generated."""
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens!r}; give a whole number of 1 or more")


def ending_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every id that ends a turn: the generation configuration's and the tokenizer's."""
    named = model.generation_config.eos_token_id
    named = [] if named is None else [named] if isinstance(named, int) else list(named)
    return sorted({*named, tokenizer.eos_token_id})


def _sample_any(loaded: AnyModel, prompts: Sequence[Sequence[dict]], *, max_new_tokens: int,
                temperature: float, top_p: float, seed: tuple[int, ...]) -> list[list[int]]:
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
    """A copy with its images read, and bare texts as one part: most templates would leave them out."""
    def read(part: dict) -> dict:
        if part["type"] != "image":
            return dict(part)
        image = part["image"]
        image = image.open() if isinstance(image, ImageFile) else image.convert("RGB")
        return {**part, "image": fitted(image, max_pixels)}

    def parts(content: Any) -> list[dict]:
        return [{"type": "text", "text": content}] if isinstance(content, str) else [read(p) for p in content]

    return [{**turn, "content": parts(turn["content"])} for turn in prompt]
