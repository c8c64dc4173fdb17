"""Checkpoints: a Qwen2.5-VL of any size, or another family, loaded by one call; saved and merged.

    loaded = load("Qwen/Qwen2.5-VL-3B-Instruct")             # or owner/name@revision, or a folder
    loaded = make_trainable(loaded, Trainable("lora", rank=8, alpha=16), seed=0)
    save_trained(loaded, folder)                             # an adapter, or (full) a whole checkpoint
    loaded = load("Qwen/Qwen2.5-VL-3B-Instruct", folder)     # either of them
    save_merged(loaded, folder)                              # base and adapter as one checkpoint
    load_any("llava-hf/llava-onevision-qwen2-7b-ov-hf")      # any family, for generation only

`backend="unsloth"` gives the same object from Unsloth's FastVisionModel; it is never a silent default.
Source: Fine-R1 (arXiv 2602.07605), Section 5.1; the other families are those of its Tables 1, 2 and 7; four
bits as in QLoRA (arXiv 2305.14314).
"""

import dataclasses
import gc
import importlib.util
import json
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, Sequence

from finer1_lib.core.checkpoint_names import is_folder, split_revision
from finer1_lib.core.errors import UserError, first_line
from finer1_lib.core.faces import Later
from finer1_lib.models.adapter_files import check_trained
from finer1_lib.models.checkpoint_files import (AGAIN, MODEL_TYPE, check_checkpoint, examine, is_finite,
                                                load_model, loading, local_copy, pick_device, read_config,
                                                refuse_bad_weights, refuse_larger, vocabulary_of)
from finer1_lib.models.encoding import OWN, bounded, pixels_of, set_pixels, trained_with_other_pixels
from finer1_lib.models.generation import AnyModel, own_settings
from finer1_lib.models.out_of_memory import memory_advice
from finer1_lib.models.trainable import (LoadedModel, attach_adapter, make_trainable, read_trainable,
                                         save_adapter, save_whole)

Image, torch, transformers = Later("PIL.Image"), Later("torch"), Later("transformers")
BACKENDS = ("transformers", "unsloth")
DTYPES = ("float32", "bfloat16", "float16")
# The modules that see, in the usual families: like the head they keep 16 bits.
_UNQUANTIZED = ("lm_head", r".*(?:vision|visual|image|projector|connector|merger|resampler|perceiver)")
SECONDS = 20  # a template takes a thousandth of one; this process has to start first
MEMORY = 2**30
IMAGE, WORDS = {"type": "image"}, "What is seen here?"
QUERY = [{"role": "user", "content": [IMAGE, {"type": "text", "text": WORDS}]}]
REPLY = {"role": "assistant", "content": [{"type": "text", "text": "A wren."}]}
SYSTEM = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
CONVERSATIONS = (QUERY, [*QUERY, REPLY, *QUERY], [SYSTEM, *QUERY])
# What a template may not do without end, with all that transformers gives it: a template that finds something
# missing here would stop before its bomb. Its mistakes are left to transformers' own environment afterwards.
_TRIAL = """
import datetime, json, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (%d, %d))
except ImportError:
    pass  # Windows: the clock alone
import jinja2, jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment
class Generation(jinja2.ext.Extension):
    tags = {"generation"}
    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)
    def _inside(self, caller):
        return caller()
def stop(message):
    raise jinja2.TemplateError(message)
def to_json(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
given = json.load(sys.stdin)
more = [Generation, jinja2.ext.loopcontrols]
rooms = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=more)
rooms.filters["tojson"] = to_json
rooms.globals["raise_exception"] = stop
rooms.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
for messages in given["conversations"]:
    try:
        rooms.from_string(given["template"]).render(
            messages=messages, tools=None, documents=None, add_generation_prompt=True, **given["tokens"])
    except MemoryError:
        sys.exit(3)
    except Exception:
        pass  # another conversation may be refused or may fail by itself
""" % (MEMORY, MEMORY)


def pick_dtype(name: str, device: str) -> Any:
    """The torch type; "auto" is float32 on a CPU, on a GPU bfloat16, or float16 where it only emulates that.

    A T4 (compute capability 7.5) emulates bfloat16, so torch calls it supported: slow, and no convolution.
    """
    if name == "auto" and device.startswith("cuda"):
        native = bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)
        name = "bfloat16" if native else "float16"
    name = "float32" if name == "auto" else name
    if name not in DTYPES:
        raise UserError(f"dtype {name!r}: one of auto, {', '.join(DTYPES)}")
    return getattr(torch, name)


def load(checkpoint: "str | Path", adapter: "str | Path | None" = None, *, backend: str = "transformers",
         device: str = "auto", dtype: str = "auto", load_in_4bit: bool = False, full_finetuning: bool = False,
         max_seq_length: int = 4096, min_pixels: int = 0, max_pixels: int = 0,
         gradient_checkpointing: bool = False) -> LoadedModel:
    """Load a Qwen2.5-VL, and what was trained from it, in evaluation mode.

    `checkpoint`: a folder (read without network) or a Hub id, "owner/name" or "owner/name@revision".
    `adapter`: a folder of `save_trained` (or PEFT): an adapter, or a whole checkpoint, which is loaded in
    place of `checkpoint`; the same weights are trainable as before. `load_in_4bit`: NF4 weights; needs a GPU,
    and an adapter to train. `full_finetuning`: prepare for `make_trainable` with all weights.
    `max_seq_length`: tokens that Unsloth prepares for. Image bounds of 0 are the checkpoint's own.
    Raises: UserError: a missing or incomplete folder, an adapter of another model, impossible settings.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend {backend!r}: one of {', '.join(BACKENDS)}")
    checkpoint, adapter = str(checkpoint), None if adapter is None else str(adapter)
    if is_folder(checkpoint):
        check_checkpoint(Path(checkpoint))
    whole = adapter is not None and check_trained(Path(adapter)) == "full"
    free_memory()
    device, full_finetuning = pick_device(device), full_finetuning or whole
    read = adapter if whole else checkpoint
    if load_in_4bit and full_finetuning:
        raise UserError("full fine-tuning has no 4-bit weights: set load_in_4bit to false")
    where = dict(device=device, dtype=pick_dtype(dtype, device))
    can = device.startswith("cuda") and not full_finetuning
    with loading(read), memory_advice(f"loading {read}", load_in_4bit=load_in_4bit, can_4bit=can):
        if backend == "unsloth":
            model, processor = _load_unsloth(read, max_seq_length=max_seq_length, load_in_4bit=load_in_4bit,
                                             full_finetuning=full_finetuning, **where)
        else:
            # in 4 bits the head and the vision tower keep 16, as in Unsloth's checkpoints
            model = _complete(read, **where, in_16_bits=("lm_head", "visual") if load_in_4bit else ())
            model, processor = model if load_in_4bit else model.to(device), load_processor(read)
    check_processor(processor, model.config, read)
    model.generation_config = own_settings(model.generation_config, read, vocabulary_of(model.config))
    if whole and not (min_pixels and max_pixels):  # models compared see one size
        own = pixels_of(load_processor(checkpoint))
        min_pixels, max_pixels = min_pixels or own["min_pixels"], max_pixels or own["max_pixels"]
    set_pixels(processor, min_pixels, max_pixels)
    if adapter is not None and (line := trained_with_other_pixels(adapter, processor)):
        print(line, flush=True)
    loaded = LoadedModel(model.eval(), processor, device, backend, checkpoint, dtype=where["dtype"],
                         full_finetuning=full_finetuning, gradient_checkpointing=gradient_checkpointing)
    if whole:
        return dataclasses.replace(make_trainable(loaded, read_trainable(adapter)), adapter=adapter)
    return attach_adapter(loaded, adapter) if adapter is not None else loaded


def free_memory() -> None:
    """Free what is no longer referenced: models and trainers are full of reference cycles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _complete(checkpoint: str, device: str, dtype: Any, in_16_bits: Sequence[str], **options: Any) -> Any:
    """A model, checked before large tensors are made; if modules `in_16_bits` are named, the rest are NF4."""
    if in_16_bits and not device.startswith("cuda"):
        raise UserError(f"4-bit weights need a CUDA GPU, the device is {device!r}: set load_in_4bit (a "
                        "teacher's is teacher_4bit) to false")
    if in_16_bits:
        options |= dict(device_map={"": device}, quantization_config=transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=list(in_16_bits)))
    folder = local_copy(checkpoint)
    examine(Path(folder), checkpoint, numbers=False)
    return load_model(transformers.AutoModelForImageTextToText, folder, checkpoint, dtype=dtype, **options)


def _load_unsloth(checkpoint: str, *, device: str, dtype: Any, max_seq_length: int, load_in_4bit: bool,
                  full_finetuning: bool) -> tuple:
    if importlib.util.find_spec("unsloth") is None:
        raise UserError('backend "unsloth" needs the package unsloth: install the extra "gpu"')
    try:
        from unsloth import FastVisionModel
    except NotImplementedError as error:
        raise UserError(f'backend "unsloth" needs a GPU: {first_line(error)}') from error
    name, revision = split_revision(checkpoint)
    if is_folder(name):  # Unsloth does not report what it left random
        examine(Path(name), name, numbers=False)
    model, processor = FastVisionModel.from_pretrained(
        name, dtype=dtype, load_in_4bit=load_in_4bit, full_finetuning=full_finetuning,
        max_seq_length=max_seq_length, float32_mixed_precision=True, device_map={"": device},
        local_files_only=is_folder(name), use_gradient_checkpointing="unsloth", offload_embedding=False,
        # a revision belongs to the repository that was named, not to Unsloth's copy of it in 4 bits
        revision=revision, use_exact_model_name=revision is not None)
    refuse_bad_weights(model.state_dict().items(), checkpoint)
    return model, processor


def is_qwen(checkpoint: str) -> bool:
    """Whether a checkpoint is a Qwen2.5-VL, which `load` takes."""
    return read_config(checkpoint).model_type == MODEL_TYPE


def load_any(checkpoint: str, *, load_in_4bit: bool = False, max_pixels: int = 0,
             device: str = "auto") -> "LoadedModel | AnyModel":
    """Load a vision-language model of any family, a Qwen2.5-VL by `load`. Raises: UserError: it cannot be."""
    checkpoint = str(checkpoint)
    config = read_config(checkpoint)
    if config.model_type == MODEL_TYPE:
        return load(checkpoint, load_in_4bit=load_in_4bit, max_pixels=max_pixels, device=device)
    if type(config) not in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise UserError(f"{checkpoint} holds a model of type {config.model_type!r}, which takes no images:"
                        " take a vision-language model")
    device = pick_device(device)
    gpu = device.startswith("cuda")
    processor = load_processor(checkpoint)
    check_processor(processor, config, checkpoint)
    free_memory()
    with loading(checkpoint), memory_advice(f"loading {checkpoint}", load_in_4bit=load_in_4bit, can_4bit=gpu):
        in_16_bits = _UNQUANTIZED if load_in_4bit else ()
        model = _complete(checkpoint, device, pick_dtype("auto", device), in_16_bits,
                          device_map={"": device} if gpu else None)
    model.generation_config = own_settings(model.generation_config, checkpoint, vocabulary_of(config))
    processor.tokenizer.padding_side = "left"  # in a batch every prompt ends where its answer begins
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return AnyModel(model.eval(), processor, device, checkpoint, max_pixels)


def save_merged(loaded: LoadedModel, folder: "str | Path") -> None:
    """Write base and adapter as one checkpoint with its processor; the model in memory stays as it is.

    The base is read once more in float32, merged, and rounded once to the dtype in use (Unsloth: to 16 bits);
    so a 4-bit model is merged into the weights it was quantised from. Raises: UserError: it has no adapter.
    """
    if not hasattr(loaded.model, "peft_config"):
        if getattr(loaded.model, "is_loaded_in_4bit", False):
            raise UserError(f"{loaded.checkpoint} is loaded in 4 bits and has no adapter: nothing to merge")
        return save_whole(loaded, loaded.model, folder)
    if loaded.backend == "unsloth":
        # None, not True: on two cores True would still write a pickle
        loaded.model.save_pretrained_merged(
            str(folder), loaded.processor, save_method="merged_16bit", safe_serialization=None)
        return loaded.processor.save_pretrained(folder)

    with tempfile.TemporaryDirectory() as temporary:
        save_adapter(loaded, temporary)
        again = load(loaded.checkpoint, temporary, device="cpu", dtype="float32")
    save_whole(loaded, again.model.merge_and_unload(), folder)


def load_processor(checkpoint: "str | Path") -> Any:
    """A checkpoint's processor (tokenizer and image processor) without its weights; named as for `load`."""
    with loading(checkpoint):
        processor = transformers.AutoProcessor.from_pretrained(
            local_copy(checkpoint, weights=False), local_files_only=True, trust_remote_code=False)
    if getattr(processor, "chat_template", None) is None:  # some checkpoints have it in tokenizer_config.json
        processor.chat_template = getattr(getattr(processor, "tokenizer", None), "chat_template", None)
    return processor


def check_processor(processor: Any, config: Any, where: Any) -> None:
    """Refuse (UserError) a processor with which a model (of this config) would not see, stop, or answer."""
    def refuse(when: Any, what: str, fix: str = OWN) -> None:
        if when:
            raise UserError(f"{where}: {what}; {fix}")

    tokenizer, mark = getattr(processor, "tokenizer", None), getattr(processor, "image_token", None)
    refuse(tokenizer is None, "it has no tokenizer in its processor's files", AGAIN)
    refuse(tokenizer.eos_token_id is None, "it has no eos_token in its processor's files", AGAIN)
    template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    refuse(not template, "it has no chat template",
           "add its chat_template.jinja, or take a model that follows instructions")
    refuse_larger(tokenizer, config, where)
    for one in template.values() if isinstance(template, dict) else [template]:
        refuse(not isinstance(one, str), f"its chat template is a {type(one).__name__}, not a text")
        refuse(not _ends(one, json.dumps(tokenizer.special_tokens_map)),
               f"its chat template takes more than {SECONDS} s or {MEMORY >> 20} MiB")
    image = {**IMAGE, "image": Image.new("RGB", (112, 112))}
    blind, seen, whole = ([{**QUERY[0], "content": [*parts, QUERY[0]["content"][1]]}]
                          for parts in ((), (IMAGE,), (image,)))
    with bounded(where):
        blind, seen = (processor.apply_chat_template(one, add_generation_prompt=True, tokenize=False)
                       for one in (blind, seen))
    places = seen.count(mark) - blind.count(mark) if mark else int(seen != blind)
    refuse(places > 1, f"its chat template has {places} places for one image")
    refuse(places < 1, "its chat template leaves the image out")
    refuse(WORDS not in seen, "its chat template leaves the text out")
    with loading(where, "process an image with"):
        made = processor.apply_chat_template(
            [whole], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
    refuse(not all(is_finite(one) for one in made.values() if hasattr(one, "is_floating_point")),
           "its processor's files make an image of NaN or infinite numbers", AGAIN)
    named, own = getattr(config, "image_token_id", None), tokenizer.convert_tokens_to_ids(mark or "")
    refuse(None not in (named, own) and named != own,
           f"its config.json says that token {named} is an image, its processor writes {own}", AGAIN)


@lru_cache(maxsize=64)
def _ends(template: str, tokens: str) -> bool:
    """Whether a template, a program of its own, ends within bounds in a process that can be killed."""
    given = json.dumps({"template": template, "conversations": CONVERSATIONS, "tokens": json.loads(tokens)})
    try:
        done = subprocess.run([sys.executable, "-I", "-c", _TRIAL], input=given, text=True,
                              capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
