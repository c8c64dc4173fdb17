"""Where a result comes from (versions, commit, device, time, peak memory), and a clean environment for a run.

`finer1 run` starts its kernels without the variables below; the set-up cell of a notebook run by hand removes
them from its own process before anything reads them. stage.json records the names of those that were left
out, and the values of those that remain and can change a number or its cost.
"""

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Mapping, Optional

import finer1_lib
from finer1_lib.core.errors import UserError
from finer1_lib.runs.chain import find_checkout

KEYS = ("seconds", "opened", "peak_memory_gb", "device", "versions", "environment", "git_commit", "written")
_PACKAGES = ("torch", "torchvision", "transformers", "trl", "peft", "accelerate", "datasets", "numpy",
             "pandas", "scikit-learn", "pillow", "matplotlib", "papermill", "unsloth", "unsloth_zoo")


def collect(seconds: float, opened: int) -> dict[str, Any]:
    """The part of stage.json about how it was made: `seconds` of this session, the number of sessions."""
    return {"seconds": round(seconds, 1), "opened": opened, "peak_memory_gb": peak_memory(),
            "device": device(), "versions": versions(), "environment": recorded(), "git_commit": git_commit(),
            "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def of_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a stage.json that `collect` wrote; an older one has fewer keys."""
    return {key: record[key] for key in KEYS if key in record}


def peak_memory() -> dict[str, float]:
    """Largest memory of this process so far, in GB (10^9 bytes), and of the GPU where one was used."""
    found = {}
    try:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
        found["process"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3)
    except ImportError:  # Windows has no such counter in the standard library
        pass
    if cuda := _cuda():
        found["gpu"] = round(cuda.max_memory_allocated() / 1e9, 3)
    return found


def _cuda() -> Any:
    """torch.cuda where there is a GPU and torch was imported; it is not imported for this."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def device() -> str:
    """Name of the GPU, else kind and number of CPU cores."""
    if cuda := _cuda():
        return cuda.get_device_name(0)
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

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True, timeout=20,
                              check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def line() -> str:
    """The most important versions and the device, in one line."""
    found = versions()
    names = ("python", "finer1_lib", "torch", "transformers", "trl", "peft")
    return ", ".join([*(f"{name} {found[name]}" for name in names if name in found), device()])


# how many processes a launcher started: torchrun, accelerate launch, MPI
_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_FOREIGN = (
    *_SIZES, "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "ROLE_WORLD_SIZE",
    "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "MPLBACKEND", "MATPLOTLIBRC", "PYTHONSTARTUP",
    "PYTHONOPTIMIZE",  # it removes the notebooks' own checks
)
_FAMILIES = ("ACCELERATE_", "FSDP_", "DEEPSPEED_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "TORCHELASTIC_",
             "OMPI_COMM_", "PMI_", "MV2_COMM_")
_RECORDED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG",
             "PYTHONHASHSEED", "NVIDIA_TF32_OVERRIDE", "HF_HUB_OFFLINE")
_LEFT_OUT = "FINER1_LEFT_OUT"  # their names, for the record that the kernel writes
_INLINE = "module://matplotlib_inline.backend_inline"


def check_one_process() -> None:
    """Refuse (UserError) to be one of several processes, each of which would write the same run."""
    for name in _SIZES:
        size = os.environ.get(name, "")
        if size.isdecimal() and int(size) > 1:
            raise UserError(f"{name}={size} in the environment: a launcher (torchrun, accelerate launch, mpirun)"
                            f" started {size} processes, and the kit runs in one; start it without the launcher,"
                            f" or unset {name}")


def cleaned(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what must not reach a run; it keeps the names of what was left out."""
    foreign = {name for name in environment if name in _FOREIGN or name.startswith(_FAMILIES)}
    kept = {name: value for name, value in environment.items() if name not in foreign}
    foreign |= set(filter(None, environment.get(_LEFT_OUT, "").split(",")))
    return {**kept, _LEFT_OUT: ",".join(sorted(foreign))}


def clean_this_process(figures: bool = True) -> None:
    """Do for a command, or a notebook run by hand, what `cleaned` does for a kernel.

    With `figures` they get matplotlib's own style and a backend that works here: an unknown MPLBACKEND or a
    user's matplotlibrc (LaTeX for every text) would make the first figure fail.
    """
    check_one_process()
    backend = os.environ.get("MPLBACKEND", "")
    module = backend.removeprefix("module://")
    if module != backend and _is_installed(module):  # ipykernel names its own, and so does Colab
        del os.environ["MPLBACKEND"]
    else:
        backend = _INLINE if "ipykernel" in sys.modules else "agg"
    clean = cleaned(os.environ)
    for name in os.environ.keys() - clean.keys():
        del os.environ[name]
    os.environ |= clean
    if not figures:
        return
    os.environ["MPLBACKEND"] = backend
    import matplotlib
    matplotlib.use(backend)
    matplotlib.rcdefaults()
    matplotlib.rcParams["text.parse_math"] = False  # as core.plots, for what is drawn before
    warnings.filterwarnings("ignore", "Glyph .* missing from")  # core.plots reports it in one line


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the parent package
        return False


def recorded() -> dict[str, Any]:
    """For stage.json: the names that were left out, and the values that remain and shape results."""
    left_out = list(filter(None, os.environ.get(_LEFT_OUT, "").split(",")))
    return {"left_out": left_out, **{name: os.environ[name] for name in _RECORDED if name in os.environ}}
