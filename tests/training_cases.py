"""The small training runs that several tests and their child processes share."""

import os
import signal
from pathlib import Path

from finer1_lib.models.trainable import Trainable, make_trainable, save_adapter

QUESTION = "What species is this bird?"
SIZES = ((84, 140), (112, 112))  # 15 and 16 image tokens: pictures of real data differ too


def prepare(folder: Path) -> Path:
    """A base, six pictures, and an adapter with both halves random (a fresh one leaves half unused)."""
    import tiny_checkpoint
    import torch

    torch.set_num_threads(1)
    tiny_checkpoint.build(folder / "base")
    (folder / "images/bird/wren").mkdir(parents=True)
    for i in range(6):
        tiny_checkpoint.picture(size=SIZES[i % 2], seed=i).save(folder / f"images/bird/wren/{i}.png")
    prepare_adapter(folder / "base", folder / "start")
    return folder


def prepare_adapter(base: Path, out: Path) -> None:
    """An adapter of a checkpoint, both halves random."""
    import torch

    from finer1_lib import models

    loaded = make_trainable(models.load(base), Trainable("lora", 4, 8), seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0.0, 0.1)
    save_adapter(loaded, out)


def start(folder: Path, base: "Path | None" = None, adapter: str = "start", **options):
    """The base with that adapter."""
    from finer1_lib import models

    return models.load(base or folder / "base", adapter=folder / adapter, **options)


def start_full(folder: Path, base: "Path | None" = None, vision_tower: bool = False, projector: bool = False,
               **options):
    """The base with its own weights freed; by default all but vision tower and projector (the release)."""
    from finer1_lib import models

    loaded = models.load(base or folder / "base", full_finetuning=True, **options)
    part = Trainable("full", vision_tower=vision_tower, projector=projector)
    return make_trainable(loaded, part)


def images(folder: Path) -> list:
    from finer1_lib.core.images import ImageFile

    return [ImageFile(str(folder / "images"), f"bird/wren/{i}.png") for i in range(6)]


def examples(folder: Path) -> list:
    """Six examples of unequal length."""
    from finer1_lib.training.sft import SftExample

    return [SftExample(image, QUESTION, "<answer>Wren</answer>" + "." * i)
            for i, image in enumerate(images(folder))]


def triplets(folder: Path) -> list:
    """Six triplets whose anchor, positive and negative differ in size."""
    from finer1_lib.training.tapo_config import TripletRow

    all_images = images(folder)
    return [TripletRow(all_images[i], all_images[(i + 1) % 6], all_images[(i + 2) % 6], QUESTION, f"Wren {i}")
            for i in range(6)]


def sometimes_right(*, completion_ids, **columns) -> list[float]:
    """A reward that differs within a group although the weights are random: whether the ids' sum is odd."""
    return [float(sum(ids) % 2) for ids in completion_ids]


def sft_config(**changes):
    from finer1_lib.training.sft import SftConfig

    return SftConfig(**{**dict(epochs=3, batch_size=4, micro_batch_size=2, warmup_steps=1, learning_rate=1e-2,
                               checkpoints_every=2), **changes})


def tapo_config(**changes):
    from finer1_lib.training.tapo_config import make_config

    return make_config(**{**dict(n_anchor=2, n_positive=2, prompts_per_step=2, micro_batch_size=4, steps=6,
                                 updates_per_rollout=2, max_new_tokens=6, learning_rate=1e-2, top_p=1.0,
                                 checkpoints_every=1), **changes})


def count_passes(model) -> list:
    """A list that grows by one whenever the first decoder layer begins (computed anew, it stops early)."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    passes: list = []
    base.model.language_model.layers[0].register_forward_pre_hook(lambda *_: passes.append(1))
    return passes


def train(kind: str, folder: Path, out: Path, progress=None, loaded=None, **changes):
    """Train one of the two cases into `out`; `sft`, or `tapo`, whose reward must be `sometimes_right`."""
    from finer1_lib.training import sft, tapo

    loaded = loaded or start(folder)
    if kind == "sft":
        return sft.train_sft(loaded, examples(folder), sft_config(**changes), out, progress=progress)
    return tapo.train_tapo(loaded, triplets(folder), tapo_config(**changes), out, progress=progress)


def kill_at(last_step: int, kind: str, folder: Path, part: str = "lora") -> Path:
    """Train in a forked process, which kills itself (SIGKILL) at the progress line of that step; what it was to write."""
    out = folder / f"killed_{kind}{'_full' if part == 'full' else ''}"

    def progress(step, total, label="", **values):
        if step >= last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    if (child := os.fork()) == 0:
        signal.alarm(300)  # it cannot hang its parent
        try:
            train(kind, folder, out, progress, loaded=start_full(folder) if part == "full" else None)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, f"{kind}, {part}"
    assert not out.exists()
    return out
