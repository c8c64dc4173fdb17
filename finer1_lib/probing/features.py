"""The states that the probes read: which prompt, which tokens, and a file for each, so nothing runs twice.

    images     image, then the open-world question    mean over the image tokens (H1, attributes)
    prompts    the same forward                       last token of the prompt, before anything is thought
    names      the bare name                          mean over the name's tokens (H2)
    epithets   the bare name                          mean over its tokens but the genus word (control)
    questions  image, then "Is the species NAME?"     last token of the prompt (H3, with its two controls)

The image stands before the question, and a token sees only what stands before it: the image tokens' states
are the same under every question, which is why one forward serves for both of the first two.

A checkpoint's states lie in `features/MODEL/WHAT_QUESTIONS.npy`, [layers, items, hidden] float32, every layer
from one forward, without pickle. Not float16: the activations of a few tokens of a large model go beyond its
range. A 3B model (37 layers of 2048) takes 0.3 MB an item, about 0.8 GB for 2,700 items. Files are mapped,
not read: a probe holds one layer at a time (the text-only control all, spread over its questions). The
stage's folder belongs to one set of parameters and inputs (see `stage`), so a file found there is the right
one; an interrupted notebook repeats at most `CHUNK` prompts.

Source: paper section 5.4 (what is read where); the prompts are the kit's own (METHOD 5, audit 1.F).
"""

import io
import os
import shutil
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

import numpy as np

from finer1_lib.encoding import ImageFile, user_message
from finer1_lib.files import TEMPORARY, atomic_write_bytes
from finer1_lib.hashing import digest
from finer1_lib.prompts import PROMPTS, question_for

CHUNK = 64  # prompts whose pixels and states are held in memory at a time, and that a kill may cost


def load_array(path: Path) -> np.ndarray:
    """Map a .npy file; one with pickled objects is refused (ValueError)."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


class Probed:
    """One checkpoint under the probes: gives states of all layers, from file where they are there.

    Args:
        model: name in tables and of the folder.
        folder: where the states are kept, e.g. `stage.path("features")`.
        image_root: folder that image ids are relative to.
        load: returns the LoadedModel; called only if a file is missing.
        progress: called as progress(done, total, label) after each chunk.
        pooled_states: `finer1_lib.models.pooled_states` unless given.
    """

    def __init__(
        self, model: str, folder: Path, image_root: Path, load: Callable[[], Any], *,
        progress: Optional[Callable[..., None]] = None, pooled_states: Optional[Callable] = None,
    ) -> None:
        self.model, self.folder, self.image_root = model, Path(folder) / model, Path(image_root)
        self._load, self._progress, self._pooled, self._loaded = load, progress, pooled_states, None

    def image_states(self, images: Any) -> tuple[np.ndarray, np.ndarray]:
        """[L, N, D] mean state of the image tokens, and state of the open-world question's last token.

        Args:
            images: DataFrame with image_id and super_category, e.g. of `plan_h1`.
        """
        def prompt(pair: tuple[str, str]) -> list[dict]:
            text = PROMPTS["cot_open"].text(question=question_for(pair[1]))
            return user_message(text, self._picture(pair[0]))

        pairs = list(zip(images["image_id"], images["super_category"]))
        return tuple(self._states({"images": "image", "prompts": "last"}, pairs, prompt))

    def name_states(self, names: Sequence[str], spans: Optional[Sequence[str]] = None) -> np.ndarray:
        """H2: [L, S, D] mean state of the name's tokens, the name standing alone in the user's turn.

        Args:
            spans: the part of each name to read instead of all of it (the control without the genus word).
        """
        what = {"names" if spans is None else "epithets": "span"}
        return self._states(what, list(names), user_message, list(names if spans is None else spans))[0]

    def question_states(self, questions: Any, image_column: Optional[str] = "image_id") -> np.ndarray:
        """H3: [L, N, D] state of the last token of "Is the species NAME?".

        Args:
            questions: DataFrame of `plan_h3`.
            image_column: "image_id"; "swapped_image_id" or None (no image) for the two controls.
        """
        if image_column is None:
            names = sorted(set(questions["name"]))
            what = {"questions_text_only": "last"}
            (states,) = self._states(what, names, lambda name: self._question(name, None))
            return states[:, [names.index(name) for name in questions["name"]]]
        pairs = list(zip(questions["name"], questions[image_column]))
        what = {f"questions_{image_column}": "last"}
        return self._states(what, pairs, lambda pair: self._question(*pair))[0]

    def everything(self, h1_plan: Any, h2_plan: Any, h3_plan: Any) -> dict[str, np.ndarray]:
        """All states that the plans of `probing.items` ask of this checkpoint; an empty plan gives none."""
        found = {}
        if len(h1_plan):
            found["images"], found["prompts"] = self.image_states(h1_plan)
        if len(h2_plan):
            found["names"] = self.name_states(h2_plan["name"])
            if h2_plan["epithet"].notna().all():
                found["epithets"] = self.name_states(h2_plan["name"], h2_plan["epithet"])
        if len(h3_plan):
            found["questions"] = self.question_states(h3_plan)
            found["text_only"] = self.question_states(h3_plan, None)
            found["swapped_image"] = self.question_states(h3_plan, "swapped_image_id")
        return found

    def _question(self, name: str, image_id: Optional[str]) -> list[dict]:
        image = None if image_id is None else self._picture(image_id)
        return user_message(PROMPTS["species_yes_no"].text(question=name), image)

    def _picture(self, image_id: str) -> Any:
        return ImageFile(str(self.image_root), image_id)

    def _states(
        self, places: Mapping[str, str], items: list, prompt: Callable[[Any], list[dict]],
        spans: Optional[list[str]] = None,
    ) -> list[np.ndarray]:
        """The arrays of {file stem: where}, from file, or computed in parts that are joined at the end."""
        words = [PROMPTS[name].text(question="?") for name in ("cot_open", "species_yes_no")]
        asked = digest([repr(item) for item in [*words, *items, *(spans or [])]])[:10]  # others: other states
        paths = [self.folder / f"{what}_{asked}.npy" for what in places]
        parts = self.folder / f"{'_'.join(places)}_{asked}.parts"
        if not all(path.exists() for path in paths):
            files = self._parts(parts, list(places.values()), items, prompt, spans)
            for place, path in enumerate(paths):
                _join(files, place, path)
        shutil.rmtree(parts, ignore_errors=True)
        return [load_array(path) for path in paths]

    def _parts(self, folder: Path, where: list[str], items: list, prompt, spans) -> list[Path]:
        """Files of [places, L, up to CHUNK, D], in order; those that lie there are kept."""
        files = []
        for start in range(0, len(items), CHUNK):
            files.append(folder / f"{start:07d}.npy")
            if files[-1].exists():
                continue
            if self._pooled is None:
                from finer1_lib.models import pooled_states

                self._pooled = pooled_states
            if self._loaded is None:
                self._loaded = self._load()
            chunk = items[start : start + CHUNK]
            # without the assistant's turn a span cannot be looked for in the word "assistant"
            text = {"spans": spans[start : start + CHUNK], "add_generation_prompt": False} if spans else {}
            states = self._pooled(self._loaded, [prompt(item) for item in chunk], where=where, **text)
            _save(files[-1], np.asarray(states))
            if self._progress:
                what = folder.name.rpartition("_")[0]
                self._progress(start + len(chunk), len(items), f"{self.model} {what}")
        return files


def _save(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    atomic_write_bytes(path, buffer.getvalue())


def _join(parts: list[Path], place: int, path: Path) -> None:
    """Put one place of all parts into one file, whole or not at all, holding one part at a time."""
    arrays = [load_array(part)[place] for part in parts]
    shape = (len(arrays[0]), sum(array.shape[1] for array in arrays), arrays[0].shape[2])
    temporary = path.with_name(f"{TEMPORARY}{path.name}")  # swept by the stage if we are killed here
    joined = np.lib.format.open_memmap(temporary, "w+", arrays[0].dtype, shape)
    start = 0
    for array in arrays:
        joined[:, start : start + array.shape[1]] = array
        start += array.shape[1]
    joined.flush()
    del joined  # some systems rename no file that is mapped
    os.replace(temporary, path)
