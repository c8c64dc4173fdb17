"""A few SFT and TAPO steps in a process of their own, on plain TRL or on Unsloth, on a tiny checkpoint and on
the shipped base of the miniature: `parity_job.py BACKEND FOLDER`.

Run by test_unsloth_parity.py. Unsloth asks the CUDA driver for a device at import and at loading; on this CPU
those questions are answered by the stand-ins below. Nothing of Unsloth's arithmetic is replaced.
"""

import csv
import gc
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from finer1_lib.miniature.base import WEIGHTS
from finer1_lib.models.generation import generate
from finer1_lib.models.trainable import Trainable, make_trainable


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


def history(path: Path) -> list[dict[str, float]]:
    """Loss, gradient norm and the gauges that are there, step by step; seconds differ from run to run."""
    with path.open(encoding="utf-8") as file:
        return [{key: float(cell) for key, cell in row.items() if cell and "seconds" not in key}
                for row in csv.DictReader(file)]


def whose(model) -> str:
    """The module that gave the model its switch into training; "" for a model of transformers alone."""
    switch = getattr(model, "for_training", None)
    return "" if switch is None else switch.func.__module__


def signatures() -> dict[str, list[str]]:
    """What Unsloth's loader, and the trainers and settings that it rewrote, take by name."""
    import passed_keywords
    import trl
    import unsloth
    from unsloth import save
    from unsloth.models.vision import FastBaseModel

    found = {"unsloth.FastVisionModel.from_pretrained": unsloth.FastVisionModel.from_pretrained,
             "unsloth.FastVisionModel.get_peft_model": FastBaseModel.get_peft_model,  # where it forwards to
             "unsloth.save_pretrained_merged": save.unsloth_generic_save_pretrained_merged,
             "trl.SFTConfig": trl.SFTConfig.__init__, "trl.GRPOConfig": trl.GRPOConfig.__init__}
    told = {name: passed_keywords.accepted(callable_) for name, callable_ in found.items()}
    for trainer in (trl.SFTTrainer, trl.GRPOTrainer):  # the outer class of two hands all keywords on
        inner = [cls for cls in trainer.__mro__ if "Unsloth" in cls.__name__]
        told[f"trl.{trainer.__name__.removeprefix('Unsloth')}"] = sorted(
            {name for cls in inner for name in passed_keywords.accepted(cls.__init__)})
    return told


@contextmanager
def packed(decision: bool):
    """The passes with packed prompts, where they are always or never packed."""
    from finer1_lib.models import log_probabilities

    before, passes = (log_probabilities.packs_prompts, log_probabilities.states_of_packed), []
    log_probabilities.packs_prompts = lambda *given: decision
    log_probabilities.states_of_packed = lambda *given: passes.append(1) or before[1](*given)
    yield passes
    log_probabilities.packs_prompts, log_probabilities.states_of_packed = before


def run(backend: str, folder: Path, base: str) -> dict:
    """SFT with an adapter, SFT of the weights themselves and TAPO, all on one base."""
    import training_cases as cases

    from finer1_lib import models
    from finer1_lib.core.prompts import user_message
    from finer1_lib.training import sft, tapo

    # Below 512 tokens Unsloth checkpoints activations in the ordinary way; above, it moves them to pinned
    # memory, which needs a driver.
    how = dict(backend=backend, device="cpu", dtype="float32", max_seq_length=256)
    weights = WEIGHTS if base == "miniature" else folder / "base"
    out = folder / f"{base}_{backend}"
    told: dict = {}
    for case in ("sft_lora", "sft_full", "tapo_lora"):
        if case.endswith("full"):
            loaded = cases.start_full(folder, weights, **how)
        else:
            loaded = cases.start(folder, weights, adapter=f"start_{base}", **how)
        log = out / f"{case}.csv"
        if case.startswith("sft"):
            trained = sft.train_sft(loaded, cases.examples(folder), cases.sft_config(), out / case,
                                    metrics_path=log)
        else:
            config = cases.tapo_config(steps=4, learning_rate=1e-3)  # at 1e-2 the larger base falls apart
            with packed(base == "tiny") as passes:
                trained = tapo.train_tapo(loaded, cases.triplets(folder), config, out / case, metrics_path=log)
        chat = user_message(cases.QUESTION, cases.images(folder)[0])
        told[case] = {"history": history(log), "model": whose(trained.model),
                      "answer": generate(trained, [chat], max_new_tokens=8)[0].text}
        if case == "tapo_lora":
            told[case]["packed"] = len(passes)
        if case == "sft_lora":
            models.save_merged(trained, out / "merged")
    return told


def checked(folder: Path) -> dict[str, str]:
    """The checks of `finer1 gpu-check` that ask Unsloth, on the miniature: check -> level and finding."""
    from finer1_lib import models
    from tools import gpu_check
    from tools.gpu_check import Bench
    from finer1_lib.runs.presets import find_kit, make_plan

    plan = make_plan(find_kit(), "miniature", settings=["02_cot_sft.backend=unsloth"])
    bench = Bench(plan, "cpu", folder)
    bench.loaded = make_trainable(models.load(
        WEIGHTS, backend="unsloth", device="cpu", dtype="float32", max_seq_length=256), Trainable("lora", 4, 8))
    found = {}
    for check in (gpu_check.log_probabilities, gpu_check.unsloths, gpu_check.gradients):
        (row,) = check(bench)
        found[check.__name__] = f"{row.level}: {row.what}"
    return found


def main(backend: str, folder: Path) -> None:
    if backend == "unsloth":
        import_unsloth()
    import torch

    torch.set_num_threads(1)
    import training_cases as cases

    from finer1_lib.training import rewards, sft, tapo as tapo_trainer

    classes = sft.make_sft_trainer_class(), tapo_trainer.make_tapo_trainer_class()  # the imports of all
    gc.freeze()  # Unsloth collects garbage at each loading: half a second over what imports made
    rewards.accuracy_reward = cases.sometimes_right
    told = {base: run(backend, folder, base) for base in ("tiny", "miniature")}
    told |= {f"{name}_base": made.__mro__[1].__module__ for name, made in zip(("sft", "tapo"), classes)}
    told["signatures"] = signatures() if backend == "unsloth" else {}
    told["checked"] = checked(folder) if backend == "unsloth" else {}
    print("\nTOLD " + json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
