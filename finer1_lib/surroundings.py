"""What a shell or a user's settings leave around a run, kept out of its results.

`finer1 run` starts its kernels without the variables below; the set-up cell of a notebook run by hand takes
them out of its own process, before anything reads them. stage.json records which ones were left out, and the
values of those that remain and can change a number or its cost.

Source: our choice.
"""

import importlib.util
import os
import sys
import warnings
from typing import Any, Mapping

from finer1_lib.errors import UserError

# how many processes a launcher started: torchrun, accelerate launch, MPI
_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_FOREIGN = (
    *_SIZES, "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "ROLE_WORLD_SIZE",
    "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "MPLBACKEND", "MATPLOTLIBRC", "PYTHONSTARTUP",
    "PYTHONOPTIMIZE",  # it takes out the notebooks' own checks
)  # fmt: skip
_FAMILIES = (
    "ACCELERATE_", "FSDP_", "DEEPSPEED_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "TORCHELASTIC_",
    "OMPI_COMM_", "PMI_", "MV2_COMM_",
)  # fmt: skip
_RECORDED = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED",
    "NVIDIA_TF32_OVERRIDE", "HF_HUB_OFFLINE",
)  # fmt: skip
_LEFT_OUT = "FINER1_LEFT_OUT"  # their names, for the record that the kernel writes
_INLINE = "module://matplotlib_inline.backend_inline"


def check_one_process() -> None:
    """Refuse (UserError) to be one of several processes: each would write the same run."""
    for name in _SIZES:
        size = os.environ.get(name, "")
        if size.isdecimal() and int(size) > 1:
            raise UserError(
                f"{name}={size} in the environment: a launcher (torchrun, accelerate launch, mpirun) started"
                f" {size} processes, and the kit runs in one; start it without the launcher, or unset {name}"
            )


def cleaned(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what must not reach a run; the names of what is left out stay in it."""
    foreign = {name for name in environment if name in _FOREIGN or name.startswith(_FAMILIES)}
    kept = {name: value for name, value in environment.items() if name not in foreign}
    foreign |= set(filter(None, environment.get(_LEFT_OUT, "").split(",")))
    return {**kept, _LEFT_OUT: ",".join(sorted(foreign))}


def clean_this_process(figures: bool = True) -> None:
    """Do for a command, or a notebook run by hand, what `cleaned` does for a kernel.

    Args:
        figures: also give figures matplotlib's own style. A backend of another program's (MPLBACKEND) and a
            user's matplotlibrc, LaTeX for every text above all, would end the first one. They are shown in
            the notebook, where there is one.

    Raises:
        UserError: of `check_one_process`.
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
    matplotlib.rcParams["text.parse_math"] = False  # as `figure_files`, for what is drawn before
    warnings.filterwarnings("ignore", "Glyph .* missing from")  # one line says it: `figure_files`


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that holds it
        return False


def recorded() -> dict[str, Any]:
    """For stage.json: the names that were left out, and the values of what remains and shapes results."""
    left_out = list(filter(None, os.environ.get(_LEFT_OUT, "").split(",")))
    return {"left_out": left_out, **{name: os.environ[name] for name in _RECORDED if name in os.environ}}
