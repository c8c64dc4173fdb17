"""The same SFT and TAPO steps on plain TRL and on Unsloth give the same numbers: the GPU path, on a CPU."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import training_cases

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("unsloth") is None or sys.platform != "linux" or platform.machine() != "x86_64",
    reason="Unsloth is not installed here (the extra `gpu`, Linux x86-64 only)")

HERE = Path(__file__).parent


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
        output, _ = process.communicate(timeout=600)
        lines = [line for line in output.splitlines() if line.startswith("TOLD ")]
        assert process.returncode == 0 and lines, output[-4000:]
        told[backend] = json.loads(lines[-1][5:])
    return told


def test_plain_and_unsloth_agree(tmp_path):
    training_cases.prepare(tmp_path)
    told = _run(tmp_path)
    plain, unsloth = told["transformers"], told["unsloth"]
    for stage in ("sft", "tapo"):
        assert plain[f"{stage}_base"].startswith("trl."), "the plain process must have TRL's own class"
        assert "Unsloth" in unsloth[f"{stage}_base"], "the other must sit on the class that Unsloth rewrote"
        assert len(plain[stage]) == len(unsloth[stage]) > 1
        for step, (ours, theirs) in enumerate(zip(plain[stage], unsloth[stage])):
            assert len(ours) > 1
            assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5), f"{stage}, step {step + 1}"
    losses = [row[0] for row in plain["tapo"]]
    assert len(set(losses)) == len(losses), "losses must move, or the comparison says nothing"
