"""A model of any family, for asking: whatever vision-language checkpoint transformers has a class for.

    loaded = load("llava-hf/llava-onevision-qwen2-7b-ov-hf")
    generate(loaded, [user_message("Describe the bird.", ImageFile(root, "bird/a.jpg"))], max_new_tokens=256)
        -> [Generation(text="A small bird with ...", tokens=61, truncated=False)]

It teaches (notebook 01) and it is compared (notebook 04: LLaVA, Idefics, InternVL and others of the
paper's tables). The model's own processor renders the chat and prepares the pictures; nothing here knows an
architecture. A Qwen2.5-VL is loaded by `models.load` and answers by `generation.generate`, which are quicker.

Source: METHOD 2.1 (the paper's teacher is Qwen2.5-VL-32B; other teachers are our choice) and paper Tables
1, 2 and 7 (the families compared).
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.images import ImageFile, fitted
from finer1_lib.models import loading as models
from finer1_lib.models.chat_templates import bounded, check_processor
from finer1_lib.models.checkpoint_files import MODEL_TYPE, loading, local_copy, read_config
from finer1_lib.models.checkpoint_weights import examine, load_model, vocabulary_of
from finer1_lib.models.generation import Generation, check_length, ending_ids, mix, own_settings
from finer1_lib.models.loading import four_bits, pick_device, pick_dtype
from finer1_lib.models.out_of_memory import mended
from finer1_lib.models.trainable import LoadedModel

# What sees, in the usual families: with the head it keeps 16 bits, as everywhere in the kit.
_KEPT_WHOLE = ("lm_head", r".*(?:vision|visual|image|projector|connector|merger|resampler|perceiver)")


@dataclass(frozen=True)
class AnyModel:
    """A vision-language model of any family, for asking only.

    Attributes:
        model: in evaluation mode.
        processor: its own, with a chat template.
        device: "cpu", "cuda", ...
        checkpoint: folder or Hub id, as given.
        max_pixels: larger pictures are made smaller; 0 leaves them to the processor.
    """

    model: Any
    processor: Any
    device: str
    checkpoint: str
    max_pixels: int = 0


def is_qwen(checkpoint: str) -> bool:
    """Whether it is a Qwen2.5-VL, which `models.load` takes.

    Raises:
        UserError: no such checkpoint, or one that transformers does not know without foreign code.
    """
    return read_config(checkpoint).model_type == MODEL_TYPE


def load(
    checkpoint: str, *, load_in_4bit: bool = False, max_pixels: int = 0, device: str = "auto"
) -> "LoadedModel | AnyModel":
    """Load a model: in float32 on a CPU, in bfloat16 (or float16 where that is unknown) on a GPU.

    Args:
        checkpoint: a folder (read without network) or a Hub id, "owner/name" or "owner/name@revision".
        load_in_4bit: quantise all but what sees and the head; needs a CUDA GPU.
        max_pixels: bound of a picture's size; 0 for the checkpoint's own.
        device: "auto" takes CUDA if there is one.

    Raises:
        UserError: no such checkpoint, none that transformers knows without foreign code, none that sees and
        chats, no safetensors, weights that lack a part of the model, no GPU for 4 bits, too little memory.
    """
    import transformers

    checkpoint = str(checkpoint)
    config = read_config(checkpoint)
    if config.model_type == MODEL_TYPE:
        return models.load(checkpoint, load_in_4bit=load_in_4bit, max_pixels=max_pixels, device=device)
    if type(config) not in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise UserError(f"{checkpoint} holds a model of type {config.model_type!r}, which takes no pictures:"
                        " take a vision-language model")
    device = pick_device(device)
    dtype, gpu, options = pick_dtype("auto", device), device.startswith("cuda"), {}
    if load_in_4bit:
        options["quantization_config"] = four_bits(device, dtype, _KEPT_WHOLE)
    processor = models.load_processor(checkpoint)
    check_processor(processor, config, checkpoint)
    tokenizer = processor.tokenizer
    models.free_memory()
    with loading(checkpoint), mended(f"loading {checkpoint}", load_in_4bit=load_in_4bit, can_4bit=gpu):
        folder = local_copy(checkpoint)
        examine(Path(folder), checkpoint, numbers=False)
        model = load_model(transformers.AutoModelForImageTextToText, folder, checkpoint,
                           dtype=dtype, device_map={"": device} if gpu else None, **options)  # fmt: skip
    model.generation_config = own_settings(model.generation_config, checkpoint, vocabulary_of(config))
    tokenizer.padding_side = "left"  # in a batch every prompt ends where its answer begins
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return AnyModel(model.eval(), processor, device, str(checkpoint), max_pixels)


def generate(
    loaded: AnyModel, prompts: Sequence[Sequence[dict]], *, max_new_tokens: int, temperature: float = 0.0,
    seed: int = 0, batch_size: int = 8,
) -> list[Generation]:
    """Answer chat prompts, as `generation.generate` does for Qwen2.5-VL.

    Args:
        loaded: of `load`.
        prompts: conversations of one or more turns; a picture is {"type": "image", "image": PIL image or
            ImageFile}, and a turn may hold several.
        max_new_tokens: longest answer.
        temperature: 0 is greedy.
        seed: of the sampling; torch's own generators are left as they were.
        batch_size: prompts a forward, with pictures and without apart; part of the result when sampling.

    Returns:
        One answer a prompt, in the order of the prompts.

    Raises:
        UserError: memory ran out, or a picture cannot be read.
    """
    check_length(max_new_tokens)
    seeing = [any(_pictures(prompt)) for prompt in prompts]
    groups = [[i for i, sees in enumerate(seeing) if sees is kind] for kind in (True, False)]
    batches = [group[k : k + batch_size] for group in groups for k in range(0, len(group), batch_size)]
    answers: dict[int, Generation] = {}
    for number, batch in enumerate(batches):
        with mended("answering", prompts=len(batch), max_pixels=loaded.max_pixels,
                    max_new_tokens=max_new_tokens):
            asked = [prompts[i] for i in batch]
            made = _answer(loaded, asked, max_new_tokens, temperature, mix(seed, number))
        answers.update(zip(batch, made))
    return [answers[i] for i in range(len(prompts))]


def _answer(
    loaded: AnyModel, prompts: Sequence[Sequence[dict]], max_new_tokens: int, temperature: float, seed: int
) -> list[Generation]:
    """One batch."""
    import torch

    model, tokenizer = loaded.model, loaded.processor.tokenizer
    with bounded(loaded.checkpoint):
        inputs = loaded.processor.apply_chat_template(
            [_opened(prompt, loaded.max_pixels) for prompt in prompts], add_generation_prompt=True,
            tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"padding": True})
    inputs = {name: value.to(model.device, model.dtype if value.is_floating_point() else None)
              for name, value in inputs.items() if hasattr(value, "to")}
    ends = set(ending_ids(model, tokenizer))
    config = copy.deepcopy(model.generation_config)  # a family's own token ids; how it samples is ours
    config.update(
        do_sample=temperature > 0, num_beams=1, repetition_penalty=1.0, max_length=None,
        max_new_tokens=max_new_tokens, eos_token_id=sorted(ends), pad_token_id=tokenizer.pad_token_id,
        **(dict(temperature=temperature, top_p=1.0, top_k=0) if temperature > 0 else
           dict(temperature=None, top_p=None, top_k=None)))
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        out = model.generate(**inputs, generation_config=config)
    rows = [_until(row, ends) for row in out[:, inputs["input_ids"].shape[1] :].tolist()]
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    return [Generation(text, len(row), not row or row[-1] not in ends) for text, row in zip(texts, rows)]


def _pictures(prompt: Sequence[dict]) -> list[dict]:
    return [part for turn in prompt if not isinstance(turn["content"], str)
            for part in turn["content"] if part["type"] == "image"]


def _opened(prompt: Sequence[dict], max_pixels: int) -> list[dict]:
    """The conversation with its pictures read; a copy, for a processor may write into it.

    A turn that is a bare text becomes a list of one part: most families' templates go through the parts of a
    turn and would leave such a text out without a word.
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


def _until(row: list[int], ends: set[int]) -> list[int]:
    """Up to and with the first ending token; what follows is padding."""
    return row[: next((place + 1 for place, token in enumerate(row) if token in ends), len(row))]
