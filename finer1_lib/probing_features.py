"""The states that the probes read: which prompt, which tokens, and a file for each, so nothing runs twice.

    H1  image, then the description prompt        mean over the image tokens
    H2  the bare name                             mean over the name's tokens (control: over its epithet's)
    H3  image, then "Is the species NAME?"        last token of the prompt

A checkpoint's states lie in `features/MODEL/WHAT_layerK_QUESTIONS.npy`, a plain array without pickle. The stage's
folder belongs to one set of parameters and inputs (see `stage`), so a file found there is the right one; an
interrupted notebook repeats one file at most.

Source: paper section 5.4 (what is read where); the prompts are the kit's own (METHOD 5, audit 1.F).
"""

import io
from pathlib import Path
from typing import Any, Callable, Optional, Sequence

import numpy as np

from finer1_lib.encoding import ImageFile, user_message
from finer1_lib.files import atomic_write_bytes
from finer1_lib.hashing import digest
from finer1_lib.prompts import PROMPTS

CHUNK = 64  # prompts whose pixels are held in memory at a time


def save_array(path: Path, array: np.ndarray) -> None:
    """Write one array as .npy, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    atomic_write_bytes(Path(path), buffer.getvalue())


def load_array(path: Path) -> np.ndarray:
    """Read what `save_array` wrote; a file with pickled objects is refused (ValueError)."""
    return np.load(path, allow_pickle=False)


class Probed:
    """One checkpoint under the probes: gives states by layer, from file where they are there.

    Args:
        model: name in tables and of the folder.
        folder: where the states are kept, e.g. `stage.path("features")`.
        image_root: folder that image ids are relative to.
        load: returns the LoadedModel; called only if a file is missing.
        layer: as `pooled_states` counts; -1 is the last.
        progress: called as progress(done, total, label) after each chunk.
        pooled_states: `finer1_lib.models.pooled_states` unless given.
    """

    def __init__(
        self, model: str, folder: Path, image_root: Path, load: Callable[[], Any], *, layer: int = -1,
        progress: Optional[Callable[..., None]] = None, pooled_states: Optional[Callable] = None,
    ) -> None:
        self.model, self.folder, self.image_root, self.layer = model, Path(folder), Path(image_root), layer
        self._load, self._progress, self._pooled, self._loaded = load, progress, pooled_states, None

    def image_states(self, image_ids: Sequence[str]) -> np.ndarray:
        """H1: [N, D] mean state of the image tokens."""
        text = PROMPTS["describe"].text()
        return self._states("images", list(image_ids),
                            lambda image_id: user_message(text, self._picture(image_id)), "image")

    def name_states(self, names: Sequence[str], spans: Optional[Sequence[str]] = None) -> np.ndarray:
        """H2: [S, D] mean state of the name's tokens, the name standing alone in the user's turn.

        Args:
            spans: the part of each name to read instead of all of it (the control without the genus word).
        """
        return self._states("names" if spans is None else "epithets", list(names), user_message, "span",
                            spans=list(names if spans is None else spans))

    def question_states(self, questions: Any, image_column: Optional[str] = "image_id") -> np.ndarray:
        """H3: [N, D] state of the last token of "Is the species NAME?".

        Args:
            questions: DataFrame of `plan_h3`.
            image_column: "image_id"; "swapped_image_id" or None (no image) for the two controls.
        """
        if image_column is None:
            names = sorted(set(questions["name"]))
            states = self._states("questions_text_only", names, lambda name: self._question(name, None),
                                  "last")
            return states[[names.index(name) for name in questions["name"]]]
        pairs = list(zip(questions["name"], questions[image_column]))
        return self._states(f"questions_{image_column}", pairs, lambda pair: self._question(*pair), "last")

    def everything(self, h1_plan: Any, h2_plan: Any, h3_plan: Any) -> dict[str, np.ndarray]:
        """All states that the plans of `probing_items` ask of this checkpoint; an empty plan gives none."""
        found = {}
        if len(h1_plan):
            found["images"] = self.image_states(h1_plan["image_id"])
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
        self, what: str, items: list, prompt: Callable[[Any], list[dict]], where: str,
        spans: Optional[list[str]] = None,
    ) -> np.ndarray:
        """States of all items, from file or computed chunk by chunk and then filed."""
        asked = digest([repr(item) for item in [*items, *(spans or [])]])[:10]  # other questions, other states
        path = self.folder / self.model / f"{what}_layer{self.layer}_{asked}.npy"
        if path.exists():
            return load_array(path)
        if self._pooled is None:
            from finer1_lib.models import pooled_states

            self._pooled = pooled_states
        if self._loaded is None:
            self._loaded = self._load()
        parts = []
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            # without the assistant's turn a span cannot be looked for in the word "assistant"
            text = {"spans": spans[start : start + CHUNK], "add_generation_prompt": False} if spans else {}
            states = self._pooled(self._loaded, [prompt(item) for item in chunk], layers=[self.layer],
                                  where=where, **text)
            parts.append(np.asarray(states)[0])
            if self._progress:
                self._progress(start + len(chunk), len(items), f"{self.model} {what}")
        states = np.concatenate(parts)
        save_array(path, states)
        return states
