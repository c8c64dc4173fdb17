"""The hidden states that the probes read: which prompt, which tokens, and a file for each.

    images     image, then the open-world question    mean over the image tokens (H1, attributes)
    prompts    the same forward                       last token of the prompt, before any reasoning
    names      the bare name                          mean over the name's tokens (H2)
    epithets   the bare name                          mean over the tokens before its last word (control)
    questions  image, then "Is the species NAME?"     last token of the prompt (H3, with its two controls)

Source: Fine-R1 (arXiv 2602.07605), Section 5.4, which does not say the embedding of a name that H2 takes.
"""

import io
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

import numpy as np

from finer1_lib.core.errors import UserError
from finer1_lib.core.faces import Later
from finer1_lib.core.files import TEMPORARY, atomic_write_bytes
from finer1_lib.core.hashing import digest
from finer1_lib.core.images import ImageFile
from finer1_lib.core.prompts import PROMPTS, question_for, user_message
from finer1_lib.probing.items import with_epithet

pd = Later("pandas")
DTYPES = ("float32", "bfloat16")
CHUNK = 64  # prompts whose pixels and states are in memory at a time, and lost by an interruption at most


def load_array(path: Path) -> np.ndarray:
    """Map a .npy file; one with pickled objects is refused (ValueError)."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


class LayerStates:
    """States of some layers, mapped from a file of `join_parts`: `states[layer]` is [items, hidden] float32.

    `layers` are the model's numbers of the layers in the file; `rows` the items to return, in this order and
    possibly repeated, None for all.
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
    """float32 as the 16 bits of the nearest bfloat16 (of two equally near ones the even one), which numpy
    lacks: float32's range, unlike float16, and three digits.
    """
    bits = np.ascontiguousarray(array, "float32").view("uint32")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("uint16")


def from_bits(array: np.ndarray) -> np.ndarray:
    """The content of a file as float32."""
    return np.array(array) if array.dtype != np.uint16 else (array.astype("uint32") << 16).view("float32")


def save_states(path: Path, array: np.ndarray, dtype: str) -> None:
    """Write an array, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, to_bits(array) if dtype == "bfloat16" else array, allow_pickle=False)
    atomic_write_bytes(path, buffer.getvalue())


def join_parts(parts: Sequence[Path], place: int, path: Path) -> None:
    """Put one place of all parts into one file, whole or not at all, holding one part at a time."""
    arrays = [load_array(part)[place] for part in parts]
    shape = (len(arrays[0]), sum(array.shape[1] for array in arrays), arrays[0].shape[2])
    temporary = path.with_name(f"{TEMPORARY}{path.name}")  # removed by the stage after an interruption
    joined = np.lib.format.open_memmap(temporary, "w+", arrays[0].dtype, shape)
    if hasattr(os, "posix_fallocate"):  # a full disk is an error here; later it would kill the kernel
        with temporary.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
    np.concatenate(arrays, axis=1, out=joined)
    joined.flush()
    del joined  # some systems rename no file that is mapped
    os.replace(temporary, path)


class Probed:
    """One checkpoint under the probes: states of the chosen layers, from file where they exist.

    States are in `features/MODEL/WHAT_QUESTIONS.npy`, [layers, items, hidden], plain .npy without pickle. The
    stage's folder belongs to one set of parameters and inputs, so a file found there is the right one. A 3B
    model (hidden 2048) on CUB with 30 + 30 images of 200 birds, 5 of 37 layers, two places: 1.0 GB (half as
    bfloat16), twice that while parts are joined.

    `load` returns the LoadedModel and is called only if a file is missing; progress(done, total, label) follows
    each chunk. Raises: UserError: an unknown dtype (of the disk), a batch size below 1.
    """

    def __init__(self, model: str, folder: Path, image_root: Path, load: Callable[[], Any], *,
                 layers: Sequence[int], dtype: str = "float32", batch_size: int = 32,
                 progress: Optional[Callable[..., None]] = None,
                 pooled_states: Optional[Callable] = None) -> None:
        if dtype not in DTYPES:
            raise UserError(f"state_dtype is {dtype!r}: give one of {', '.join(DTYPES)}")
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: give a positive number")
        self.model, self.folder, self.image_root = model, Path(folder) / model, Path(image_root)
        self.layers, self.dtype, self.batch_size = list(layers), dtype, batch_size
        self._load, self._progress, self._pooled, self._loaded = load, progress, pooled_states, None

    def image_states(self, images: Any) -> list[LayerStates]:
        """[L, N, D] mean state of the image tokens, and state of the open-world question's last token.

        The image comes before the question, and a token sees only what is before it: one forward serves both.
        """
        pairs = zip(images["image_id"], images["super_category"])
        return self._states({"images": "image", "prompts": "last"}, pairs,
                            lambda pair: self._ask("cot_open", question_for(pair[1]), pair[0]))

    def name_states(self, names: Sequence[str], spans: Optional[Sequence[str]] = None) -> LayerStates:
        """H2: [L, S, D] mean state of the tokens of a bare name, or of its part in `spans`."""
        what = {"names" if spans is None else "epithets": "span"}
        return self._states(what, names, user_message, list(names if spans is None else spans))[0]

    def question_states(self, questions: Any, image_column: Optional[str] = "image_id") -> LayerStates:
        """H3: [L, N, D] state of the last token of "Is the species NAME?".

        `image_column` is "image_id", or "swapped_image_id" or None (no image) for the two controls.
        """
        if image_column is None:
            names = sorted(set(questions["name"]))  # each is asked once
            rows = pd.Index(names).get_indexer(questions["name"]).tolist()
            return self._states({"questions_text_only": "last"}, names,
                                partial(self._ask, "species_yes_no"), rows=rows)[0]
        pairs = zip(questions["name"], questions[image_column])
        return self._states({f"questions_{image_column}": "last"}, pairs,
                            lambda pair: self._ask("species_yes_no", *pair))[0]

    def everything(self, h1_plan: Any, h2_plan: Any, h3_plan: Any) -> dict[str, LayerStates]:
        """All states that the plans of `items` need of this checkpoint; an empty plan needs none."""
        found, several = {}, with_epithet(h2_plan)
        if len(h1_plan):
            found["images"], found["prompts"] = self.image_states(h1_plan)
        if len(h2_plan):
            found["names"] = self.name_states(h2_plan["name"])
        if len(several):
            found["epithets"] = self.name_states(several["name"], several["epithet"])
        if len(h3_plan):
            found["questions"] = self.question_states(h3_plan)
            found["text_only"] = self.question_states(h3_plan, None)
            found["swapped_image"] = self.question_states(h3_plan, "swapped_image_id")
        return found

    def _ask(self, prompt: str, question: str, image_id: Optional[str] = None) -> list[dict]:
        image = None if image_id is None else ImageFile(str(self.image_root), image_id)
        return user_message(PROMPTS[prompt].text(question=question), image)

    def _states(self, places: Mapping[str, str], items: Any, prompt: Callable[[Any], list[dict]],
                spans: Optional[list[str]] = None, rows: Optional[list[int]] = None) -> list[LayerStates]:
        """The states of {file stem: where}, from file, or computed in parts that are joined at the end."""
        asked = [PROMPTS[name].text(question="?") for name in ("cot_open", "species_yes_no")]
        items = list(items)
        key = digest([repr(item) for item in [*asked, self.dtype, *self.layers, *items, *(spans or [])]])[:10]
        paths = [self.folder / f"{what}_{key}.npy" for what in places]
        parts = self.folder / f"{'_'.join(places)}_{key}.parts"
        if not all(path.exists() for path in paths):
            files = self._parts(parts, list(places.values()), items, prompt, spans)
            for place, path in enumerate(paths):
                join_parts(files, place, path)
        shutil.rmtree(parts, ignore_errors=True)
        return [LayerStates(path, self.layers, rows) for path in paths]

    def _parts(self, folder: Path, where: list[str], items: list, prompt, spans) -> list[Path]:
        """Files of [places, L, up to CHUNK, D], in order; existing ones are kept."""
        starts = range(0, len(items), CHUNK)
        files = [folder / f"{start:07d}.npy" for start in starts]
        for start, file in zip(starts, files):
            if file.exists():
                continue
            if self._pooled is None:
                from finer1_lib.models.hidden_states import pooled_states

                self._pooled = pooled_states
            if self._loaded is None:
                self._loaded = self._load()
            chunk = items[start : start + CHUNK]
            # without the assistant's turn a span cannot be looked for in the word "assistant"
            text = {"spans": spans[start : start + CHUNK], "add_generation_prompt": False} if spans else {}
            states = np.asarray(self._pooled(self._loaded, [prompt(item) for item in chunk], where=where,
                                             layers=self.layers, batch_size=self.batch_size, **text))
            if not np.isfinite(states).all():
                raise UserError(f"{self.model}: hidden states are not finite; a GPU without bfloat16 computes "
                                "in float16, whose range is too small for some models: take another GPU")
            save_states(file, states, self.dtype)
            if self._progress:
                what = folder.name.rpartition("_")[0]
                self._progress(start + len(chunk), len(items), f"{self.model} {what}")
        return files
