"""What `gpu_check` tries things on: a preset's model with its settings, and batches as large as they get.

    bench = Bench(plan, device="cuda", folder=Path("/tmp/x"))
    bench.loaded                       # the preset's checkpoint ready for training, loaded when asked for
    bench.largest("03_tapo")           # one micro-batch of stage 2 with the largest pictures and completions

Source: our choice.
"""

import math
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, NamedTuple

from finer1_lib.presets import Plan

WORLD, SFT, TAPO = "00_miniature_world", "02_cot_sft", "03_tapo"
SIDE = 28  # pixels of an image token
ANSWER = "<think> red crown, black back </think><answer> Dunen Wren </answer>"


class Update(NamedTuple):
    """One micro-batch.

    Attributes:
        backward: runs forward and backward.
        completion: tokens of its completions.
    """

    backward: Callable[[], Any]
    completion: int


class Bench:
    """A preset on a device.

    Attributes:
        plan: the preset's values.
        device: "cuda", or another for tests.
        folder: scratch for pictures and small trainings.
        vllm: whether vLLM is to be looked at.
    """

    def __init__(self, plan: Plan, device: str, folder: Path, vllm: bool = False) -> None:
        self.plan, self.device, self.folder, self.vllm = plan, device, Path(folder), vllm

    def get(self, stage: str, name: str, default: Any) -> Any:
        """A stage's value."""
        return self.plan.parameters[stage].get(name, default)

    @property
    def checkpoint(self) -> str:
        """The preset's base."""
        from finer1_lib.miniature.base import WEIGHTS

        return str(self.get(WORLD, "base_checkpoint", "") or WEIGHTS)

    def load(self, checkpoint: str) -> Any:
        """A checkpoint as stage 02 trains it."""
        from finer1_lib import models

        full = self.get(SFT, "finetuning", "lora") == "full"
        loaded = models.load(
            checkpoint, backend=self.get(SFT, "backend", "transformers"), device=self.device,
            load_in_4bit=self.get(SFT, "load_in_4bit", False), full_finetuning=full,
            gradient_checkpointing=self.get(SFT, "gradient_checkpointing", False))
        part = models.Trainable(
            "full" if full else "lora", self.get(SFT, "lora_rank", 8), self.get(SFT, "lora_alpha", 16),
            self.get(SFT, "train_vision_tower", False), self.get(SFT, "train_projector", False))
        return models.make_trainable(loaded, part)

    @cached_property
    def loaded(self) -> Any:
        """The preset's model; held from its first use on."""
        return self.load(self.checkpoint)

    def picture(self, stage: str, seed: int = 0) -> Any:
        """A picture of noise, square, as large as a stage lets through (of the world's photographs)."""
        from PIL import Image

        from finer1_lib.memory_plan import LARGEST_PICTURE
        from finer1_lib.pixel_budget import pixels_of, set_pixels

        set_pixels(self.loaded.processor, self.get(stage, "min_pixels", 0), self.get(stage, "max_pixels", 0))
        most = min(pixels_of(self.loaded.processor)["max_pixels"], LARGEST_PICTURE)
        side = max(1, math.isqrt(most) // SIDE) * SIDE
        return Image.effect_noise((side, side), 40 + seed).convert("RGB")

    def prompt(self, stage: str, seed: int = 0) -> Any:
        """That picture with the question that asks for reasoning, encoded."""
        from finer1_lib.encoding import Encoder, user_message
        from finer1_lib.prompts import PROMPTS, question_for

        text = PROMPTS["cot_open"].text(question=question_for("bird"))
        return Encoder(self.loaded.processor)(user_message(text, self.picture(stage, seed)))

    def completions(self, rows: int, tokens: int) -> tuple:
        """(ids, mask), (rows, tokens) each: one letter again and again.

        The last of several rows is a token shorter, as real ones are unequal: rows without padding need no
        mask, and attention without one takes less memory.
        """
        import torch

        letter = self.loaded.processor.tokenizer(" a", add_special_tokens=False)["input_ids"][-1]
        ids = torch.full((rows, tokens), letter, device=self.loaded.device)
        mask = torch.ones_like(ids)
        mask[-1, -1] = int(rows == 1)
        return ids, mask

    def autocast(self) -> Any:
        """The precision that training computes in."""
        import torch

        half = self.loaded.dtype != torch.float32
        return torch.autocast(self.loaded.device.partition(":")[0], dtype=self.loaded.dtype, enabled=half)

    def scored(self, prompts: list, ids: Any, mask: Any) -> Any:
        """`policy.score_completions` under `autocast`."""
        from finer1_lib.policy import score_completions

        pad = self.loaded.processor.tokenizer.pad_token_id
        with self.autocast():
            return score_completions(self.loaded.model, prompts, ids, mask, pad_token_id=pad)

    def training(self, checkpointing: bool) -> None:
        """Switch the model to training, with gradient checkpointing (Unsloth's own, if it is its) or not."""
        model = self.loaded.model
        if hasattr(model, "for_training"):
            return model.for_training(use_gradient_checkpointing="unsloth" if checkpointing else False)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            model.gradient_checkpointing_disable()
        model.train()

    def largest(self, stage: str) -> Update:
        """The largest micro-batch of a stage: all its rows with full completions, as the plan counts them."""
        from finer1_lib.memory_plan import RATIONALE_TOKENS

        rows = self.get(stage, "micro_batch_size", 8)
        if stage == SFT:
            ids, mask = self.completions(rows, RATIONALE_TOKENS)
            own, other = [self.prompt(stage, seed) for seed in range(rows)], []
        else:
            group = self.get(stage, "n_anchor", 5) + self.get(stage, "n_positive", 5)
            ids, mask = self.completions(rows, self.get(stage, "max_new_tokens", 256))
            together = math.gcd(group, rows)  # rows of one group, as `sharing.bundle` keeps them
            pictures = [self.prompt(stage, seed) for seed in range(2 * rows // together)]
            own, other = ([p for p in half for _ in range(together)]
                          for half in (pictures[::2], pictures[1::2]))

        def backward() -> None:
            parts = [self.scored(prompts, ids, mask) for prompts in (own, other) if prompts]
            sum(part.logp.sum() + part.entropy.sum() for part in parts).backward()

        return Update(backward, ids.shape[1])

    def peak(self, work: Callable[[], Any]) -> int:
        """Bytes of the GPU that were in use at most while `work` ran."""
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()


def answer(loaded: Any) -> tuple:
    """(ids, mask), (1, tokens) each, of `ANSWER` with its end."""
    import torch

    from finer1_lib.encoding import Encoder

    ids = torch.tensor([Encoder(loaded.processor).completion(ANSWER)], device=loaded.device)
    return ids, torch.ones_like(ids)


def examples(folder: Path) -> tuple[list, list]:
    """Six pictures of noise as examples of SFT and as triplets of TAPO."""
    from PIL import Image

    from finer1_lib.encoding import ImageFile
    from finer1_lib.sft import SftExample
    from finer1_lib.tapo import TripletRow

    prompt, files = "What species is this bird?", []
    for number in range(6):
        files.append(ImageFile(str(folder), f"{number}.png"))
        Image.effect_noise((112, 112), 20 + 10 * number).convert("RGB").save(folder / f"{number}.png")
    return [SftExample(file, prompt, ANSWER) for file in files], [
        TripletRow(files[k], files[k - 1], files[k - 2], prompt, "Dunen Wren") for k in range(6)]
