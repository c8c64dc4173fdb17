"""Training that survives a kill: checkpoints, a metrics file, and trained weights that are whole or absent.

    folder/checkpoints/<name>/checkpoint-20/   Trainer's own: weights, optimizer, schedule, random states, step
                              training.json    what is being trained, from what, on what
    folder/<name>/                             the finished weights, with the same training.json
    folder/<name>_log.csv                      one row a step

A checkpoint counts once its `complete` marker is written, after all else in it; two are kept, so one is always
whole. Rows of the metrics file after it are dropped on resuming: a kill costs one interval at most.
"""

import csv
import dataclasses
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import atomic_directory, atomic_write_json, atomic_write_text, read_json, sweep
from finer1_lib.models.encoding import KEY, TRAINING as IDENTITY, pixels_of
from finer1_lib.models.out_of_memory import memory_advice
from finer1_lib.models.trainable import LoadedModel, has_trainable, load_trained, load_weights, save_trained

MARKER = "complete"
Progress = Callable[..., None]


class MetricsFile:
    """A CSV with one row a step; rows after step `keep`, and a torn last line, are removed."""

    def __init__(self, path: Path, columns: Sequence[str], keep: int) -> None:
        self.path, self.columns = Path(path), list(columns)
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        rows = [row for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
                if list(row) == self.columns and None not in row.values() and int(row["step"]) <= keep]
        lines = [",".join(self.columns)] + [",".join(row[name] for name in self.columns) for row in rows]
        atomic_write_text(self.path, "\n".join(lines) + "\n")

    def add(self, values: Mapping[str, Any]) -> None:
        """Append one row; a missing value stays blank."""
        cells = [values.get(name, "") for name in self.columns]
        texts = [f"{cell:.8g}" if isinstance(cell, float) else str(cell) for cell in cells]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(",".join(texts) + "\n")


def identity_of(loaded: Any, config: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """What decides a training's result: settings, data, starting weights, the image size limit."""
    start = hashlib.sha256()
    for name, parameter in sorted(loaded.model.named_parameters()):
        if parameter.requires_grad:
            start.update(name.encode() + parameter.detach().float().cpu().numpy().tobytes())
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, default=str)
    identity = {"config": dict(config), "data": hashlib.sha256(text.encode()).hexdigest(),
                "start": start.hexdigest(), KEY: pixels_of(loaded.processor)}
    return json.loads(json.dumps(identity))  # as it will be read back


def scratch(out_dir: Path) -> Path:
    """The folder of a training's checkpoints."""
    return Path(out_dir).parent / "checkpoints" / Path(out_dir).name


def latest_checkpoint(folder: Path, identity: Mapping[str, Any]) -> Optional[Path]:
    """The last whole checkpoint; torn ones are removed. Raises: UserError: those of another training."""
    _left_by(identity, folder)
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    atomic_write_json(folder / IDENTITY, identity)
    for checkpoint in list(folder.glob("checkpoint-*")):
        if not (checkpoint / MARKER).exists():
            shutil.rmtree(checkpoint)
    return max(folder.glob("checkpoint-*"), key=step_of, default=None)


def step_of(checkpoint: Optional[Path]) -> int:
    """Steps done at a checkpoint; 0 for none."""
    return 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])


def _left_by(identity: Mapping[str, Any], folder: Path) -> bool:
    """Whether this training left its identity in the folder. Raises: UserError: another one did."""
    if not (folder / IDENTITY).exists():
        return False
    found = read_json(folder / IDENTITY)
    differing = [key for key in identity if found.get(key) != identity[key]]
    if differing == ["config"]:
        old, new = found.get("config", {}), identity["config"]
        differing = [f"config.{key}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if differing:
        raise UserError(
            f"{folder} was trained with another {', '.join(differing)}: reload the starting weights"
            " if they have been trained since, or delete that folder, or choose another run_name")
    return True


def quiet(trainer: type) -> type:
    """A trainer's class without model cards (a checkpoint is scratch) and pings."""
    trainer.create_model_card = trainer._send_telemetry = lambda self, *args, **kwargs: None
    return trainer


def run_training(loaded: LoadedModel, out_dir: Path, config: Any, data: Sequence, build: Callable[[Path], Any], *,
                 columns: Sequence[str], metrics_path: Path, progress: Optional[Progress] = None,
                 shown: Sequence[str] = ("loss",), every: int = 1, **sizes: int) -> LoadedModel:
    """Train `loaded` to the end, from the last checkpoint if there is one, and write the trained weights to
    `out_dir`; a finished training is loaded instead.

    `build(folder)` makes the trainer with its checkpoints in the folder; it logs every step. `columns` of its
    logs ("step" first) go to the metrics file, those `shown` to progress(step, total, name, **values) every
    `every` steps; `sizes` are for `memory_advice`. Raises: UserError: no data, nothing trainable, a folder of
    another training, or no memory left.
    """
    from transformers import PrinterCallback

    if os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1"):  # each would train a model of its own
        raise UserError(f"training runs in one process, and WORLD_SIZE is {os.environ['WORLD_SIZE']}: start it"
                        " without torchrun or accelerate launch")
    if not data:
        raise UserError(f"{out_dir.name}: there is nothing to train on")
    if not has_trainable(loaded):
        raise UserError(f"{out_dir.name}: the model has no part to train; load what was trained before, or call"
                        " models.make_trainable first")
    identity, folder = identity_of(loaded, dataclasses.asdict(config), data), scratch(out_dir)
    if _left_by(identity, out_dir):
        shutil.rmtree(folder, ignore_errors=True)  # left by a kill before it was removed
    else:
        with memory_advice("training", loaded, training=True, micro_batch_size=config.micro_batch_size, **sizes):
            trainer = with_adapters_kept(loaded.model, lambda: build(folder))
            trainer.remove_callback(PrinterCallback)
            checkpoint = latest_checkpoint(folder, identity)
            metrics = MetricsFile(metrics_path, columns, keep=step_of(checkpoint))
            trainer.add_callback(_recorder(metrics, out_dir.name, progress, shown, every))
            if not hasattr(loaded.model, "peft_config"):
                # Trainer's own way compares the file's names with the model's, which differ for Qwen2.5-VL
                # (transformers 5.17): it warns of missing keys and continues from the base's weights.
                trainer._load_from_checkpoint = lambda folder, model=None: load_weights(loaded, folder)
            try:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            finally:
                loaded.model.eval()
            with atomic_directory(out_dir) as temporary:
                save_trained(loaded, temporary)
                atomic_write_json(temporary / IDENTITY, identity)
            shutil.rmtree(folder)
    return load_trained(loaded, out_dir)


def with_adapters_kept(model: Any, build: Callable[[], Any]) -> Any:
    """What `build` returns, the model's adapters as before, in float32: TRL casts those of a 4-bit model to
    bfloat16, whose rounding swallows most of a small update.
    """
    adapters = [weight for name, weight in model.named_parameters() if weight.requires_grad and "lora_" in name]
    kept = [weight.detach().float().clone() for weight in adapters]
    trainer = build()
    for weight, before in zip(adapters, kept):
        weight.data = before
    return trainer


def one_device(arguments: Any) -> Any:
    """Trainer's arguments with one GPU, said if there are more: several in one process are DataParallel."""
    if arguments.n_gpu > 1:
        print(f"{arguments.n_gpu} GPUs are visible, one is used; CUDA_VISIBLE_DEVICES chooses which", flush=True)
        arguments._n_gpu = 1
    return arguments


def _recorder(metrics: MetricsFile, name: str, progress: Optional[Progress], shown: Sequence[str],
              every: int) -> Any:
    """The callback that writes rows, progress lines and the markers of whole checkpoints."""
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):
        began = 0.0

        def on_step_begin(self, args, state, control, **kwargs):
            self.began = time.monotonic()

        def on_log(self, args, state, control, logs=None, **kwargs):
            if not logs or "loss" not in logs:
                return  # the summary at the end of training
            values = {**logs, "step": state.global_step, "seconds": time.monotonic() - self.began}
            metrics.add(values)
            if progress and (state.global_step % every == 0 or state.global_step == state.max_steps):
                logged = {key: float(values[key]) for key in shown if key in values}
                progress(state.global_step, state.max_steps, name, **logged)

        def on_save(self, args, state, control, **kwargs):
            # The last thing to be written: what lacks it was torn by a kill.
            marker = Path(args.output_dir) / f"checkpoint-{state.global_step}" / MARKER
            atomic_write_text(marker, "")

    return Recorder()


def common_arguments(loaded: Any, folder: Path, config: Any, save_steps: int) -> dict[str, Any]:
    """Trainer arguments that SFT and TAPO share, each explicit: Unsloth gives omitted ones other defaults."""
    import torch
    cuda, dtype = loaded.device.startswith("cuda"), loaded.dtype
    checkpointing = loaded.gradient_checkpointing and loaded.backend == "transformers"  # Unsloth has its own
    return dict(
        output_dir=str(folder), use_cpu=not cuda, bf16=cuda and dtype == torch.bfloat16,
        fp16=cuda and dtype == torch.float16, seed=config.seed, data_seed=config.seed,
        learning_rate=config.learning_rate, weight_decay=config.weight_decay,
        warmup_steps=config.warmup_steps, max_grad_norm=config.max_grad_norm,
        per_device_train_batch_size=config.micro_batch_size, optim="adamw_torch", adam_beta1=0.9,
        adam_beta2=0.999, adam_epsilon=1e-8, logging_strategy="steps", logging_steps=1,
        logging_first_step=False, save_strategy="steps", save_steps=save_steps, save_total_limit=2,
        eval_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False,
        gradient_checkpointing=checkpointing, gradient_checkpointing_kwargs={"use_reentrant": False},
        dataloader_num_workers=0, dataloader_pin_memory=cuda, push_to_hub=False, auto_find_batch_size=False)
