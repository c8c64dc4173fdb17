"""Where a model computes and in which numbers: device, floating-point type, and weights of four bits.

    device = pick_device("auto")           # "cuda" where there is a GPU, else "cpu"
    dtype = pick_dtype("auto", device)     # torch.float32 on a CPU

Source: our choice; four bits as QLoRA has them (arXiv 2305.14314): NF4, its scales quantised once more.
"""

from typing import Any, Sequence

from finer1_lib.errors import UserError

DTYPES = ("float32", "bfloat16", "float16")


def pick_device(name: str = "auto") -> str:
    """The device itself, or for "auto" the GPU where there is one, else the CPU."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def pick_dtype(name: str, device: str) -> Any:
    """The torch type; "auto" is float32 on a CPU, on a GPU bfloat16, or float16 where it has no bfloat16.

    Raises:
        UserError: another name.
    """
    import torch

    if name == "auto":
        name = "float32" if not device.startswith("cuda") else (
            "bfloat16" if torch.cuda.is_bf16_supported() else "float16")
    if name not in DTYPES:
        raise UserError(f"dtype {name!r}: one of auto, {', '.join(DTYPES)}")
    return getattr(torch, name)


def four_bits(device: str, dtype: Any, kept_whole: Sequence[str]) -> Any:
    """transformers' settings for NF4 weights.

    Args:
        device: where the weights go.
        dtype: torch type that is computed in.
        kept_whole: modules that keep 16 bits: the head and what sees, as in Unsloth's 4-bit checkpoints.

    Raises:
        UserError: the device is no CUDA GPU.
    """
    import transformers

    if not device.startswith("cuda"):
        raise UserError(f"4-bit weights need a CUDA GPU, the device is {device!r}: set load_in_4bit (a "
                        "teacher's is teacher_4bit) to false")  # fmt: skip
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=list(kept_whole))
