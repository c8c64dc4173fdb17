"""States on the disk: chosen layers of many items in one file, read a layer at a time.

    save_states(path, array, "bfloat16")                  one part: [places, layers, items, hidden]
    join_parts(parts, place=0, path=path)                 one place of all parts, holding one part at a time
    states = LayerStates(path, layers=[0, 18, 36])
    states[36]                                            [items, hidden] float32

Files are plain .npy without pickle. numpy has no bfloat16, so such states lie as their 16 bits (uint16): the
upper half of a float32, rounded to the nearest. That keeps float32's range, which the activations of a few
tokens of a large model need and float16 has not, and three digits of each number. Half the room is all it
saves; float32 is the default.

Source: our choice.
"""

import io
import os
from pathlib import Path
from typing import Optional, Sequence

import numpy as np

from finer1_lib.files import TEMPORARY, atomic_write_bytes

DTYPES = ("float32", "bfloat16")


def load_array(path: Path) -> np.ndarray:
    """Map a .npy file; one with pickled objects is refused (ValueError)."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


class LayerStates:
    """States of some layers, mapped from a file: `states[layer]` is [items, hidden] float32.

    Args:
        path: of `join_parts`, [layers, items, hidden].
        layers: the model's number of each layer in the file.
        rows: items to give, in this order and possibly repeated; None for all as they lie there.
    """

    def __init__(self, path: Path, layers: Sequence[int], rows: Optional[Sequence[int]] = None) -> None:
        self._array, self.layers, self._rows = load_array(path), tuple(layers), rows

    @property
    def shape(self) -> tuple[int, int, int]:
        """(layers, items, hidden)."""
        depth, count, width = self._array.shape
        return depth, count if self._rows is None else len(self._rows), width

    def __getitem__(self, layer: int) -> np.ndarray:
        if layer not in self.layers:
            raise KeyError(f"layer {layer} was not read: there are {list(self.layers)}")
        found = self._array[self.layers.index(layer)]
        return from_bits(found if self._rows is None else found[self._rows])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.stack([self[layer] for layer in self.layers]).astype(dtype or "float32")


def to_bits(array: np.ndarray) -> np.ndarray:
    """float32 as the 16 bits of the nearest bfloat16 (of two equally near ones the even one)."""
    bits = np.ascontiguousarray(array, "float32").view("uint32")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("uint16")


def from_bits(array: np.ndarray) -> np.ndarray:
    """What lies in a file as float32 in memory."""
    if array.dtype != np.uint16:
        return np.array(array)
    return (array.astype("uint32") << 16).view("float32")


def save_states(path: Path, array: np.ndarray, dtype: str) -> None:
    """Write an array, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, to_bits(array) if dtype == "bfloat16" else array, allow_pickle=False)
    atomic_write_bytes(path, buffer.getvalue())


def join_parts(parts: Sequence[Path], place: int, path: Path) -> None:
    """Put one place of all parts into one file, whole or not at all, holding one part at a time."""
    arrays = [load_array(part)[place] for part in parts]
    shape = (len(arrays[0]), sum(array.shape[1] for array in arrays), arrays[0].shape[2])
    temporary = path.with_name(f"{TEMPORARY}{path.name}")  # swept by the stage if we are killed here
    joined = np.lib.format.open_memmap(temporary, "w+", arrays[0].dtype, shape)
    if hasattr(os, "posix_fallocate"):  # a full disk is an error here; later it would kill the kernel
        with temporary.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
    start = 0
    for array in arrays:
        joined[:, start : start + array.shape[1]] = array
        start += array.shape[1]
    joined.flush()
    del joined  # some systems rename no file that is mapped
    os.replace(temporary, path)
