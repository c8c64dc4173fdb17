"""Training that survives a kill: checkpoints, a metrics file, and trained weights that are whole or absent.

    folder/checkpoints/<name>/checkpoint-20/   Trainer's own: adapter or weights, optimizer, schedule, random
                                               states, step
                              training.json    what is being trained, from what, on what
    folder/<name>/                             the finished adapter or checkpoint, with the same training.json
    folder/<name>_log.csv                      one row a step

A checkpoint counts only once its `complete` marker is written, after everything else in it; two are kept, so
one whole checkpoint exists at every moment. Rows of the metrics file after the checkpoint are dropped on
resuming: a kill costs one checkpoint interval at most.
"""

import csv
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import atomic_directory, atomic_write_json, atomic_write_text, read_json, sweep
from finer1_lib.models.encoding import KEY, TRAINING, pixels_of
from finer1_lib.models.trainable import load_weights, save_trained

MARKER = "complete"
IDENTITY = TRAINING
Progress = Callable[..., None]


class MetricsFile:
    """A CSV with one row a step ("step" is its first column) that can be cut back to a step.

    Rows up to step `keep` stay; later ones (and a torn last line) are removed.
    """

    def __init__(self, path: Path, columns: Sequence[str], keep: int) -> None:
        self.path, self.columns = Path(path), list(columns)
        rows = [row for row in self._rows() if int(row["step"]) <= keep]
        lines = [",".join(self.columns)] + [",".join(row[name] for name in self.columns) for row in rows]
        atomic_write_text(self.path, "\n".join(lines) + "\n")

    def _rows(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
        return [row for row in rows if list(row) == self.columns and None not in row.values()]

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
    identity = {
        "config": dict(config), "data": hashlib.sha256(text.encode()).hexdigest(), "start": start.hexdigest(),
        KEY: pixels_of(loaded.processor)}
    return json.loads(json.dumps(identity))  # as it will be read back


def finished(out_dir: Path, identity: Mapping[str, Any]) -> bool:
    """Whether the trained weights exist. Raises: UserError: they were trained with another identity."""
    if not (Path(out_dir) / IDENTITY).exists():
        return False
    _refuse_other(Path(out_dir) / IDENTITY, identity)
    shutil.rmtree(scratch(out_dir), ignore_errors=True)  # left by a kill before it was removed
    return True


def scratch(out_dir: Path) -> Path:
    """The folder of a training's checkpoints."""
    return Path(out_dir).parent / "checkpoints" / Path(out_dir).name


def latest_checkpoint(folder: Path, identity: Mapping[str, Any]) -> Optional[Path]:
    """The last whole checkpoint; torn ones are removed. Raises: UserError: those of another training."""
    folder = Path(folder)
    if (folder / IDENTITY).exists():
        _refuse_other(folder / IDENTITY, identity)
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


def _refuse_other(file: Path, identity: Mapping[str, Any]) -> None:
    found = read_json(file)
    differing = [key for key in identity if found.get(key) != identity[key]]
    if differing:
        if differing == ["config"]:
            old, new = found.get("config", {}), identity["config"]
            differing = [f"config.{key}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        raise UserError(
            f"{file.parent} was trained with another {', '.join(differing)}: reload the starting weights"
            " if they have been trained since, or delete that folder, or choose another run_name")


def run_training(
    trainer: Any, loaded: Any, out_dir: Path, identity: Mapping[str, Any], *, columns: Sequence[str],
    metrics_path: Path, progress: Optional[Progress] = None, shown: Sequence[str] = ("loss",), every: int = 1,
) -> None:
    """Train to the end, from the last checkpoint if there is one, and write the trained weights.

    `trainer` trains the model of `loaded`, its output_dir is `scratch(out_dir)`, and it logs every step;
    `columns` of its logs ("step" first) go to the metrics file, those `shown` to progress(step, total, name,
    **values) every `every` steps.
    """
    out_dir, folder = Path(out_dir), scratch(out_dir)
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


def _recorder(
    metrics: MetricsFile, name: str, progress: Optional[Progress], shown: Sequence[str], every: int
) -> Any:
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


def refuse_processes() -> None:
    """Refuse (UserError) to train in one of several processes: each would train a model of its own."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size not in ("", "0", "1"):
        raise UserError(f"training runs in one process, and WORLD_SIZE is {size}: start it without torchrun or "
                        "accelerate launch")


def made(make: Callable[[], Any], loaded: Any) -> Any:
    """The trainer that `make` makes, its adapters in float32 as they were, its logs in the metrics file alone.

    TRL casts the adapters of a 4-bit model to bfloat16, whose rounding swallows most of a small update.
    """
    from transformers import PrinterCallback

    adapters = {name: weight for name, weight in loaded.model.named_parameters()
                if weight.requires_grad and "lora_" in name}
    kept = {name: weight.detach().float().clone() for name, weight in adapters.items()}
    trainer = make()
    for name, weight in adapters.items():
        weight.data = kept[name]
    trainer.remove_callback(PrinterCallback)
    return trainer


def one_device(arguments: Any) -> Any:
    """Trainer's arguments with one GPU, said if there are more: several in one process are DataParallel."""
    if arguments.n_gpu > 1:
        print(f"{arguments.n_gpu} GPUs are visible, one is used; CUDA_VISIBLE_DEVICES chooses which", flush=True)
        arguments._n_gpu = 1
    return arguments


def common_arguments(loaded: Any, folder: Path, *, seed: int, save_steps: int) -> dict[str, Any]:
    """Trainer arguments that SFT and TAPO share, each explicit: Unsloth gives omitted ones other defaults."""
    import torch

    cuda, dtype = loaded.device.startswith("cuda"), loaded.dtype
    checkpointing = loaded.gradient_checkpointing and loaded.backend == "transformers"  # Unsloth has its own
    return dict(
        output_dir=str(folder), use_cpu=not cuda, bf16=cuda and dtype == torch.bfloat16,
        fp16=cuda and dtype == torch.float16, seed=seed, data_seed=seed, optim="adamw_torch", adam_beta1=0.9,
        adam_beta2=0.999, adam_epsilon=1e-8, logging_strategy="steps", logging_steps=1,
        logging_first_step=False, save_strategy="steps", save_steps=save_steps, save_total_limit=2,
        eval_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False,
        gradient_checkpointing=checkpointing, gradient_checkpointing_kwargs={"use_reentrant": False},
        dataloader_num_workers=0, dataloader_pin_memory=cuda, push_to_hub=False,
        auto_find_batch_size=False)
