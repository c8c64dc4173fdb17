"""A few SFT and TAPO steps in a process of their own, on plain TRL or on Unsloth: `parity_job.py BACKEND
FOLDER`.

Run by test_unsloth_parity.py. Unsloth asks the CUDA driver for a device at import and at loading; on this CPU
those questions are answered by the stand-ins below. Nothing of Unsloth's arithmetic is replaced.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace


def answer_device_questions() -> None:
    """Let torch.cuda describe a device that is never used."""
    import torch

    gigabytes = 16 * 2**30
    device = SimpleNamespace(name="none", total_memory=gigabytes, major=8, minor=0, multi_processor_count=1,
                             is_integrated=0)
    answers = {"get_device_properties": device, "get_device_capability": (8, 0), "get_device_name": "none",
               "mem_get_info": (gigabytes, gigabytes), "max_memory_reserved": 0, "memory_reserved": 0,
               "memory_allocated": 0, "max_memory_allocated": 0, "empty_cache": None, "synchronize": None,
               "reset_peak_memory_stats": None}
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *args, _answer=answer, **kwargs: _answer)


def import_unsloth() -> None:
    """Import it, and rewrite TRL's trainers as it does on a GPU (it leaves that out where it finds none)."""
    os.environ["UNSLOTH_ALLOW_CPU"] = "1"
    os.environ["UNSLOTH_COMPILE_DISABLE"] = "1"
    import unsloth  # noqa: F401  must come before trl

    answer_device_questions()
    from unsloth.models import rl
    from unsloth.trainer import _patch_trl_trainer

    rl.patch_trl_disable_gradient_checkpointing()
    for trainer in ("sft_trainer", "grpo_trainer"):
        rl._patch_trl_rl_trainers(trainer)
    _patch_trl_trainer()


def history(trainer) -> list[list[float]]:
    """Loss, gradient norm and the gauges that are there, step by step."""
    keys = ("loss", "grad_norm", "reward", "accuracy", "divergence", "entropy", "entropy_negative", "length")
    return [[row[key] for key in keys if key in row] for row in trainer.state.log_history if "loss" in row]


def main(backend: str, folder: Path) -> None:
    if backend == "unsloth":
        import_unsloth()
    import torch

    torch.set_num_threads(1)
    import training_cases as cases
    from finer1_lib import rewards, sft, tapo_trainer

    rewards.accuracy_reward = cases.sometimes_right
    told: dict = {}
    # Below 512 tokens Unsloth checkpoints activations in the ordinary way; above, it moves them to pinned
    # memory, which needs a driver.
    how = dict(backend=backend, device="cpu", dtype="float32", max_seq_length=256)
    trainer = sft.build_trainer(cases.start(folder, **how), cases.examples(folder), cases.sft_config(),
                                folder / f"sft_{backend}")
    told["sft_base"] = type(trainer).__mro__[1].__module__
    trainer.train()
    told["sft"] = history(trainer)
    trainer = tapo_trainer.build_trainer(cases.start(folder, **how), cases.triplets(folder),
                                         cases.tapo_config(steps=4), folder / f"tapo_{backend}")
    told["tapo_base"] = type(trainer).__mro__[1].__module__
    trainer.train()
    told["tapo"] = history(trainer)
    print("\nTOLD " + json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
