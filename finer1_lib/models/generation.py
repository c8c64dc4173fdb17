"""Completions from a model, for evaluation and for rollouts alike: batches, left padding, greedy or sampled.

What keeps it quick on two CPU cores (measured on one: 3.7 M parameters, 63 tokens of prompt, 110 new):
* large batches: 16 rows cost 1.3 s, 64 rows 2.6 s;
* rows of equal prompt length together: a batch without padding has no attention mask, and that spares
  transformers a copy of every key and value for each query head (2.6 s against 3.9 s);
* each distinct picture goes through the image processor once (`encoding.Encoder`), and each distinct prompt
  through the model (`sharing.read_prompts`): of 64 rollouts of 16 prompts, a tenth of the time.
* a cache with room to grow (`sharing.preallocated_cache`): another tenth.

transformers' own `generate` does the rest: what remains in its profile is arithmetic, not its loop.

Source: our choice; sampling values METHOD 3 [R]. Placeholder ids are never sampled: one image token inside a
completion makes every later forward fail, because no picture belongs to it.
"""

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Iterator, NamedTuple, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.models.encoding import Encoded, Encoder, pad, vision_inputs
from finer1_lib.models.out_of_memory import mended
from finer1_lib.models.sharing import (
    forget_positions,
    preallocated_cache,
    read_prompts,
    shares_prompts,
    unwrap_base,
)

if TYPE_CHECKING:
    from finer1_lib.models.trainable import LoadedModel

EQUAL_LENGTH_ROWS = 16  # so many prompts of one length are worth their own batch; fewer are padded together
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "bad_words_ids",
             "suppress_tokens", "begin_suppress_tokens")  # fmt: skip
PLACEHOLDERS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


class Generation(NamedTuple):
    """One completion.

    Attributes:
        text: without special tokens.
        tokens: how many tokens were generated, the ending one included.
        truncated: the limit was reached before an ending token.
        no_text: of an endpoint's answer without text why (a key of `chat_replies.NO_TEXT`).
    """

    text: str
    tokens: int
    truncated: bool
    no_text: str = ""


def in_half(loaded: "LoadedModel") -> Any:
    """A context in which a model trained in full, whose weights are float32, computes in its half precision.

    Else its rows would be asked in another precision than the base's beside them, and much slower.
    """
    import torch

    half = loaded.full_finetuning and loaded.dtype in (torch.float16, torch.bfloat16)
    return torch.autocast(loaded.device.partition(":")[0], loaded.dtype) if half else nullcontext()


def generate(
    loaded: "LoadedModel", prompts: Sequence[Sequence[dict]], *, max_new_tokens: int,
    temperature: float = 0.0, top_p: float = 1.0, seed: int = 0, batch_size: int = 32,
    encoder: Optional[Encoder] = None,
) -> list[Generation]:
    """Answer chat prompts.

    Args:
        loaded: of `models.load`.
        prompts: conversations; a picture is {"type": "image", "image": PIL image or ImageFile}.
        max_new_tokens: longest completion.
        temperature: 0 is greedy.
        top_p: nucleus of the sampled distribution.
        seed: of the sampling; torch's own generators are left as they were.
        batch_size: prompts a forward; part of the result when sampling, and of its last digits when greedy.
        encoder: one that already holds the pictures; a new one by default.

    Returns:
        One completion a prompt, in the order of the prompts.

    Raises:
        UserError: memory ran out, a limit below 1.
    """
    check_length(max_new_tokens)
    encode = encoder or Encoder(loaded.processor)
    each = {id(messages): messages for messages in prompts}  # several samples of one prompt are one prompt
    rows = {key: encode(messages) for key, messages in each.items()}
    encoded = [rows[id(messages)] for messages in prompts]
    completions: list[Any] = [None] * len(encoded)
    for number, batch in enumerate(cut_batches([len(row.ids) for row in encoded], batch_size)):
        with mended("answering", loaded, prompts=len(batch), max_new_tokens=max_new_tokens), in_half(loaded):
            ids = sample_ids(
                loaded.model, loaded.processor.tokenizer, [encoded[i] for i in batch], seed=(seed, number),
                max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
        for i, row in zip(batch, ids):
            completions[i] = row
    ends = set(ending_ids(loaded.model, loaded.processor.tokenizer))
    texts = loaded.processor.tokenizer.batch_decode(completions, skip_special_tokens=True)
    cut = [not row or row[-1] not in ends for row in completions]
    return [Generation(text, len(row), truncated) for text, row, truncated in zip(texts, completions, cut)]


def cut_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches: prompts of one length together where there are enough of them, the others by
    length.

    Raises:
        ValueError: a batch size below 1.
    """
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
    (`finer1_lib.models.sharing`); what is drawn is the same with and without.

    Args:
        model: the (PEFT) model; its train or eval mode is restored.
        rows: encoded prompts.
        temperature, top_p: as for `generate`.
        seed: whole numbers; transformers draws from torch's global generator, which is seeded here and put
            back.
    """
    import torch

    check_length(max_new_tokens)
    device = next(model.parameters()).device
    ids, mask = pad([row.ids for row in rows], tokenizer.pad_token_id, "left")
    ids, mask = ids.to(device), mask.to(device)
    ends = ending_ids(model, tokenizer)
    config = _generation_config(model, tokenizer, ends, max_new_tokens, temperature, top_p)
    devices = [device] if device.type == "cuda" else []
    with evaluating(model), torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(mix(*seed))
        base = unwrap_base(model)
        if shares_prompts(base):
            read = read_prompts(base, rows, tokenizer.pad_token_id, preallocated_cache(base))
            given = {"past_key_values": read.cache}
        else:
            given = vision_inputs(rows, ids, model.config.image_token_id)
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **given)
    return [_until_end(row, set(ends)) for row in out[:, ids.shape[1] :].tolist()]


def mix(*numbers: int) -> int:
    """One seed out of several: different for (1, 0) and (0, 1), the same on every machine."""
    import hashlib

    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "big") >> 1


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Hold a model in evaluation mode, as it is then found again; no M-RoPE offsets come in or stay behind.

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
    """Of a checkpoint's generation configuration what is read here: its token ids.

    The rest (sampling, penalties, several answers a prompt, methods that are code on the Hub) would fill what
    a caller leaves out, so it is not kept.

    Args:
        config: transformers' GenerationConfig.
        where: the checkpoint as given, for messages.
        vocabulary: of the model; padding alone may lie outside of it.

    Raises:
        UserError: what is no token id, or no list of them.
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
    """Refuse a limit at which no token could be generated."""
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


def _until_end(ids: list[int], ends: set[int]) -> list[int]:
    """A row up to and with its first ending token; what follows is padding."""
    for position, token in enumerate(ids):
        if token in ends:
            return ids[: position + 1]
    return ids
