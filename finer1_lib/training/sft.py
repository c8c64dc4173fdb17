"""Stage 1: supervised fine-tuning, on rationales (CoT SFT) or on bare answers (answer-only SFT).

    <user> image, question <assistant> <think>..</think><answer>Dunen Wren</answer> <end>
    |---------- label -100 ----------|------------------- learnt -----------------------|

The loss is the mean over all learnt tokens of an optimizer step, for any micro-batch size, computed from the
backbone's hidden states like TAPO's (TRL 1.15's own is a Triton kernel and cannot run on a CPU).

Source: Fine-R1 (arXiv 2602.07605), Section 4.1; release LLaMA-Factory/cot_sft_3b.sh:21-33 (10 epochs, cosine,
6 warm-up steps, weight decay 0.1; vision tower and projector frozen by LLaMA-Factory's defaults).
"""

import dataclasses
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.images import ImageFile
from finer1_lib.core.prompts import user_message
from finer1_lib.models.encoding import Encoder, pad, vision_inputs
from finer1_lib.models.log_probabilities import score_tokens
from finer1_lib.models.trainable import LoadedModel
from finer1_lib.training import checkpoints
from finer1_lib.training.tapo_config import check_signs

LOG_COLUMNS = ("step", "epoch", "loss", "learning_rate", "grad_norm", "seconds")


class SftExample(NamedTuple):
    """One image, the prompt over it, and the assistant's whole answer."""

    image: ImageFile
    prompt: str
    completion: str


@dataclasses.dataclass(frozen=True)
class SftConfig:
    """Settings of one supervised run, checked when they are made (UserError)."""

    epochs: int = 10
    learning_rate: float = 5e-4  # peak of the cosine; the paper's 5e-6 is for all weights, LoRA needs more
    weight_decay: float = 0.1
    warmup_steps: int = 6  # linear, up to the peak
    batch_size: int = 8  # examples per optimizer step
    micro_batch_size: int = 8  # examples per forward; must divide batch_size
    max_grad_norm: float = 1.0
    checkpoints_every: int = 20  # optimizer steps
    seed: int = 0  # of the order of the examples

    def __post_init__(self) -> None:
        check_signs("SFT", self, "weight_decay warmup_steps")
        if self.batch_size % self.micro_batch_size:
            raise UserError(
                f"SFT: micro_batch_size {self.micro_batch_size} must divide batch_size {self.batch_size}")


class SftCollator:
    """Examples into one right-padded batch; images, and so prompts of one question, differ in length."""

    def __init__(self, processor: Any) -> None:
        self.encode = Encoder(processor)
        self.tokenizer = processor.tokenizer
        self.image_token_id = self.tokenizer.convert_tokens_to_ids(processor.image_token)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Rows with image_root, image_id, prompt and completion -> input_ids, attention_mask, labels (B, L;
        -100 outside completions), pixel_values, image_grid_thw, mm_token_type_ids.
        """
        prompts, completions = [], []
        for row in rows:
            image = ImageFile(row["image_root"], row["image_id"])
            prompts.append(self.encode(user_message(row["prompt"], image)))
            completions.append(self.encode.completion(row["completion"]))
        pairs = [(prompt.ids, completion) for prompt, completion in zip(prompts, completions)]
        ids, mask = pad([prompt + completion for prompt, completion in pairs], self.tokenizer.pad_token_id, "right")
        labels, _ = pad([[-100] * len(prompt) + completion for prompt, completion in pairs], -100, "right")
        return {"input_ids": ids, "attention_mask": mask, "labels": labels,
                **vision_inputs(prompts, ids, self.image_token_id)}


def completion_loss(model: Any, batch: Mapping[str, Any], items: Any = None) -> Any:
    """Negative log-likelihood of a batch's labelled tokens over `items`, by default the number of these."""
    scored = batch["labels"] != -100
    vision = {key: batch[key] for key in ("pixel_values", "image_grid_thw", "mm_token_type_ids") if key in batch}
    logp = score_tokens(model, batch["input_ids"], batch["attention_mask"], scored, vision).logp
    return -logp.sum() / (scored.sum() if items is None else items)


def make_sft_trainer_class() -> type:
    """VLSFTTrainer on the current `trl.SFTTrainer`: TRL's own, or the one Unsloth rewrote."""
    import trl

    @checkpoints.quiet
    class VLSFTTrainer(trl.SFTTrainer):
        """TRL's SFTTrainer with `completion_loss` as its loss."""

        loss_is_scaled_for_ga = True  # completion_loss divides by the tokens of the whole optimizer step

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            with self.accelerator.autocast():
                loss = completion_loss(self.accelerator.unwrap_model(model), inputs, num_items_in_batch)
            return (loss, None) if return_outputs else loss

    return VLSFTTrainer


def train_sft(loaded: LoadedModel, examples: Sequence[SftExample], config: SftConfig, out_dir: "str | Path",
              *, metrics_path: "str | Path | None" = None,
              progress: Optional[checkpoints.Progress] = None) -> LoadedModel:
    """Train what is trainable in `loaded` and write it to `out_dir`; a finished training is loaded instead. Killed
    at any moment, the same call resumes and ends with the same weights. The log is `metrics_path`, by default
    `<out_dir>_log.csv`. Raises: UserError: as `checkpoints.run_training`.
    """
    out_dir = Path(out_dir)
    return checkpoints.run_training(
        loaded, out_dir, config, [(e.image.image_id, e.prompt, e.completion) for e in examples],
        lambda folder: build_trainer(loaded, examples, config, folder), columns=LOG_COLUMNS, every=5,
        metrics_path=Path(metrics_path or out_dir.with_name(out_dir.name + "_log.csv")), progress=progress,
        divides=config.batch_size)


def build_trainer(loaded: LoadedModel, examples: Sequence[SftExample], config: SftConfig,
                  folder: Path) -> Any:
    """The trainer of one run; its checkpoints go to `folder`."""
    import trl
    from datasets import Dataset
    # Section 4.1 and release cot_sft_3b.sh:21-33: cosine, 6 warm-up steps, weight decay 0.1, 10 epochs
    rows = [{**e.image._asdict(), "prompt": e.prompt, "completion": e.completion} for e in examples]
    arguments = trl.SFTConfig(
        **checkpoints.common_arguments(loaded, folder, config, config.checkpoints_every),
        num_train_epochs=config.epochs, lr_scheduler_type="cosine",
        gradient_accumulation_steps=config.batch_size // config.micro_batch_size, packing=False,
        padding_free=False, max_length=None, completion_only_loss=True,
        dataset_kwargs={"skip_prepare_dataset": True})
    return make_sft_trainer_class()(
        model=loaded.model, args=checkpoints.one_device(arguments), train_dataset=Dataset.from_list(rows),
        data_collator=SftCollator(loaded.processor), processing_class=loaded.processor)
