"""Where a result comes from: versions, commit, device, time and peak memory.

Source: our choice (DESIGN 4).
"""

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Mapping, Optional

import finer1_lib
from finer1_lib import surroundings
from finer1_lib.chain import find_checkout

KEYS = ("seconds", "opened", "peak_memory_gb", "device", "versions", "environment", "git_commit", "written")
_PACKAGES = (
    "torch", "torchvision", "transformers", "trl", "peft", "accelerate", "datasets", "numpy", "pandas",
    "scikit-learn", "pillow", "matplotlib", "papermill", "unsloth", "unsloth_zoo",
)  # fmt: skip


def collect(seconds: float, opened: int) -> dict[str, Any]:
    """The part of stage.json that says how it came about.

    Args:
        seconds: wall time of this session of the stage.
        opened: how many sessions the stage took; above 1 it was interrupted and resumed.
    """
    return {
        "seconds": round(seconds, 1),
        "opened": opened,
        "peak_memory_gb": peak_memory(),
        "device": device(),
        "versions": versions(),
        "environment": surroundings.recorded(),
        "git_commit": git_commit(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def of_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a stage.json that `collect` wrote; an older one has fewer keys."""
    return {key: record[key] for key in KEYS if key in record}


def peak_memory() -> dict[str, float]:
    """Largest memory of this process so far, in GB (10^9 bytes), and of the GPU where one was used."""
    found = {}
    try:
        import resource

        # Linux counts kilobytes, macOS bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        found["process"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3)
    except ImportError:  # Windows has no such counter in the standard library
        pass
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = round(torch.cuda.max_memory_allocated() / 1e9, 3)
    return found


def device() -> str:
    """Name of the GPU that torch sees, else kind and number of CPU cores; torch is not imported for it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"cpu {platform.machine()}, {cores} cores"


def versions() -> dict[str, str]:
    """Versions of Python, the kit and the packages that shape results."""
    found = {"python": platform.python_version(), "finer1_lib": finer1_lib.__version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> Optional[str]:
    """Commit of the checkout that the kit runs from, "+changes" where files differ, or None."""
    checkout = find_checkout(Path(finer1_lib.__file__).parent)
    if checkout is None or not (checkout / ".git").exists():
        return None

    def git(*words: str) -> Optional[str]:
        try:
            done = subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def line() -> str:
    """One line for a notebook's reader: the versions that matter most, and the device."""
    found = versions()
    names = ("python", "finer1_lib", "torch", "transformers", "trl", "peft")
    return ", ".join([*(f"{name} {found[name]}" for name in names if name in found), device()])
