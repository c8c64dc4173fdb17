"""The same SFT and TAPO steps on plain TRL and on Unsloth give the same numbers: the GPU path, on a CPU.

Not covered, because it needs a GPU: 4 bits, half precision, Triton kernels, torch.compile, activations moved
to pinned memory, vLLM.
"""

import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import passed_keywords
import pytest
import training_cases

from finer1_lib.miniature.base import WEIGHTS
from finer1_lib.models.log_probabilities import score_completions

pytestmark = [pytest.mark.long, pytest.mark.skipif(
    importlib.util.find_spec("unsloth") is None or sys.platform != "linux" or platform.machine() != "x86_64",
    reason="Unsloth is not installed here (the extra `gpu`, Linux x86-64 only)")]

HERE = Path(__file__).parents[1]


def _run(folder: Path) -> dict[str, dict]:
    """Both jobs at once, each in its own process and folder (Unsloth writes a cache where it runs)."""
    started = {}
    for backend in ("transformers", "unsloth"):
        work = folder / f"work_{backend}"
        work.mkdir()
        paths = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        started[backend] = subprocess.Popen(
            [sys.executable, str(HERE / "parity_job.py"), backend, str(folder)], cwd=work, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    told = {}
    for backend, process in started.items():
        output, _ = process.communicate(timeout=540)
        lines = [line for line in output.splitlines() if line.startswith("TOLD ")]
        assert process.returncode == 0 and lines, output[-4000:]
        told[backend] = json.loads(lines[-1][5:])
    return told


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = training_cases.prepare(tmp_path_factory.mktemp("parity"))
    training_cases.prepare_adapter(folder / "base", folder / "start_tiny")
    training_cases.prepare_adapter(WEIGHTS, folder / "start_miniature")
    return folder


@pytest.fixture(scope="module")
def told(folder):
    return _run(folder)


CASES = [(base, case) for base in ("tiny", "miniature") for case in ("sft_lora", "sft_full", "tapo_lora")]


def test_each_process_ran_on_its_own_trainers_and_models(told):
    """A failed rewrite of Unsloth's only warns, and would compare TRL with itself."""
    for stage in ("sft", "tapo"):
        assert told["transformers"][f"{stage}_base"].startswith("trl.")
        assert "Unsloth" in told["unsloth"][f"{stage}_base"]
    for base, case in CASES:
        assert told["transformers"][base][case]["model"] == ""
        assert told["unsloth"][base][case]["model"].startswith("unsloth.")


def test_unsloth_takes_every_keyword_that_we_pass(told):
    passed, taken = passed_keywords.passed(), told["unsloth"]["signatures"]
    assert len(taken) == 7
    for target, names in taken.items():
        unknown = passed[target]["keywords"] - set(names) - {"engine", "tapo", "triplets"}  # the kit's own three
        assert not unknown, f"{target} has no {', '.join(sorted(unknown))}"


def test_unsloth_is_compared_with_packed_prompts_and_without(told):
    """The plain model continues from a cache; Unsloth's packs on the tiny base, and has rows apart on the other."""
    passes = {(backend, base): told[backend][base]["tapo_lora"]["packed"]
              for backend in ("transformers", "unsloth") for base in ("tiny", "miniature")}
    assert passes.pop(("unsloth", "tiny")) > 4 and set(passes.values()) == {0}


@pytest.mark.parametrize("base, case", CASES)
def test_plain_and_unsloth_agree(told, base, case):
    plain, unsloth = told["transformers"][base][case], told["unsloth"][base][case]
    assert len(plain["history"]) == len(unsloth["history"]) >= 4
    for ours, theirs in zip(plain["history"], unsloth["history"]):
        assert {"loss", "grad_norm"} <= ours.keys() == theirs.keys()
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5), f"step {ours['step']:.0f}"
    losses = [row["loss"] for row in plain["history"]]
    assert len(set(losses)) == len(losses), "losses must move, or the comparison says nothing"
    assert all(row["grad_norm"] > 1e-3 for row in plain["history"])
    assert plain["answer"] == unsloth["answer"]


def test_the_checklist_for_gpus_knows_unsloth(told):
    """Its own log-probabilities and checkpointing, asked for as on a GPU."""
    found = told["unsloth"]["checked"]
    assert len(found) == 3 and all(line.startswith("pass: ") for line in found.values()), found
    assert "Unsloth's log-probabilities" in found["unsloths"] and "16 tokens" in found["unsloths"]


@pytest.mark.parametrize("base", ["tiny", "miniature"])
def test_what_unsloth_trained_loads_plainly_and_merges_alike(told, folder, base):
    """Adapters, whole and merged checkpoints of both (Unsloth's merged one is rounded to 16 bits)."""
    import torch

    from finer1_lib import models
    from finer1_lib.core.prompts import user_message
    from finer1_lib.models.encoding import Encoder, pad

    weights = WEIGHTS if base == "miniature" else folder / "base"
    out = {backend: folder / f"{base}_{backend}" for backend in ("transformers", "unsloth")}
    scores = {}
    for name, (checkpoint, adapter) in {"plain": (weights, out["transformers"] / "sft_lora"),
                                        "unsloth": (weights, out["unsloth"] / "sft_lora"),
                                        "plain full": (weights, out["transformers"] / "sft_full"),
                                        "unsloth full": (weights, out["unsloth"] / "sft_full"),
                                        "plain merged": (out["transformers"] / "merged", None),
                                        "unsloth merged": (out["unsloth"] / "merged", None),
                                        "base": (weights, None)}.items():
        loaded = models.load(checkpoint, adapter)
        encode = Encoder(loaded.processor)
        row = encode(user_message(training_cases.QUESTION, training_cases.images(folder)[0]))
        ids, mask = pad([encode.completion("<answer>Wren</answer>")], 0, "right")
        scores[name] = score_completions(loaded.model, [row], ids, mask, pad_token_id=0).logp.detach()[0]
    torch.testing.assert_close(scores["plain"], scores["unsloth"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores["plain full"], scores["unsloth full"], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(scores["plain"], scores["plain merged"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores["unsloth"], scores["unsloth merged"], atol=0.1, rtol=0.05)
    assert (scores["plain"] - scores["base"]).abs().max() > 0.5, "training must matter, or this says nothing"
