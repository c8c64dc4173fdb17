"""The states that the probes read: which prompt, which tokens, and a file for each, so nothing runs twice.

    images     image, then the open-world question    mean over the image tokens (H1, attributes)
    prompts    the same forward                       last token of the prompt, before anything is thought
    names      the bare name                          mean over the name's tokens (H2)
    epithets   the bare name                          mean over the tokens before its last word (control)
    questions  image, then "Is the species NAME?"     last token of the prompt (H3, with its two controls)

The image stands before the question, and a token sees only what stands before it: the image tokens' states
are the same under every question, which is why one forward serves for both of the first two.

A checkpoint's states lie in `features/MODEL/WHAT_QUESTIONS.npy`, [layers, items, hidden], the chosen layers
from one forward (`probing.states`). The stage's folder belongs to one set of parameters and inputs (see
`stage`), so a file found there is the right one; an interrupted notebook repeats at most `CHUNK` prompts.

What it costs. Disk: items x layers x hidden x 4 bytes (2 as bfloat16), and as much again while parts are
joined. A 3B model (hidden 2048) and CUB with 30 + 30 images of 200 birds, 5 of its 37 layers: 12,000 images in
two places take 1.0 GB a checkpoint, all 37 layers 7.3 GB. Memory: the pixels of `CHUNK` prompts, the states of
one part, and for a probe one layer of one place (12,000 x 2048 float32: 98 MB). The GPU holds the states of
all layers for `hidden_states.FORWARD_TOKENS` tokens, whichever are kept. Time on one CPU core, on planted
states of that size: H1 12 s a layer and place, H3 3 s a layer and variant, the paper's 500 epochs of Adam a
quarter of an hour a checkpoint (they take the GPU where there is one).

Source: paper section 5.4 (what is read where); the prompts are the kit's own (METHOD 5, audit 1.F).
"""

import shutil
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

import numpy as np

from finer1_lib.encoding import ImageFile, user_message
from finer1_lib.errors import UserError
from finer1_lib.hashing import digest
from finer1_lib.probing.names import with_epithet
from finer1_lib.probing.states import DTYPES, LayerStates, join_parts, save_states
from finer1_lib.prompts import PROMPTS, question_for

CHUNK = 64  # prompts whose pixels and states are held in memory at a time, and that a kill may cost


class Probed:
    """One checkpoint under the probes: gives states of the chosen layers, from file where they are there.

    Args:
        model: name in tables and of the folder.
        folder: where the states are kept, e.g. `stage.path("features")`.
        image_root: folder that image ids are relative to.
        load: returns the LoadedModel; called only if a file is missing.
        layers: numbers of the layers to keep, counted from 0.
        dtype: how they lie on the disk, "float32" or "bfloat16".
        batch_size: prompts a forward, at most.
        progress: called as progress(done, total, label) after each chunk.
        pooled_states: `finer1_lib.models.pooled_states` unless given.

    Raises:
        UserError: an unknown dtype, no prompt a forward.
    """

    def __init__(
        self, model: str, folder: Path, image_root: Path, load: Callable[[], Any], *,
        layers: Sequence[int], dtype: str = "float32", batch_size: int = 32,
        progress: Optional[Callable[..., None]] = None, pooled_states: Optional[Callable] = None,
    ) -> None:
        if dtype not in DTYPES:
            raise UserError(f"state_dtype is {dtype!r}: give one of {', '.join(DTYPES)}")
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: give a positive number")
        self.model, self.folder, self.image_root = model, Path(folder) / model, Path(image_root)
        self.layers, self.dtype, self.batch_size = list(layers), dtype, batch_size
        self._load, self._progress, self._pooled, self._loaded = load, progress, pooled_states, None

    def image_states(self, images: Any) -> tuple[LayerStates, LayerStates]:
        """[L, N, D] mean state of the image tokens, and state of the open-world question's last token.

        Args:
            images: DataFrame with image_id and super_category, e.g. of `plan_h1`.
        """
        def prompt(pair: tuple[str, str]) -> list[dict]:
            text = PROMPTS["cot_open"].text(question=question_for(pair[1]))
            return user_message(text, self._picture(pair[0]))

        pairs = list(zip(images["image_id"], images["super_category"]))
        return tuple(self._states({"images": "image", "prompts": "last"}, pairs, prompt))

    def name_states(self, names: Sequence[str], spans: Optional[Sequence[str]] = None) -> LayerStates:
        """H2: [L, S, D] mean state of the name's tokens, the name standing alone in the user's turn.

        Args:
            spans: the part of each name to read instead of all of it (the control without the genus word).
        """
        what = {"names" if spans is None else "epithets": "span"}
        return self._states(what, list(names), user_message, list(names if spans is None else spans))[0]

    def question_states(self, questions: Any, image_column: Optional[str] = "image_id") -> LayerStates:
        """H3: [L, N, D] state of the last token of "Is the species NAME?".

        Args:
            questions: DataFrame of `plan_h3`.
            image_column: "image_id"; "swapped_image_id" or None (no image) for the two controls.
        """
        if image_column is None:
            names = sorted(set(questions["name"]))
            what = {"questions_text_only": "last"}
            place = {name: number for number, name in enumerate(names)}
            rows = [place[name] for name in questions["name"]]
            return self._states(what, names, lambda name: self._question(name, None), rows=rows)[0]
        pairs = list(zip(questions["name"], questions[image_column]))
        what = {f"questions_{image_column}": "last"}
        return self._states(what, pairs, lambda pair: self._question(*pair))[0]

    def everything(self, h1_plan: Any, h2_plan: Any, h3_plan: Any) -> dict[str, LayerStates]:
        """All states that the plans of `probing.items` ask of this checkpoint; an empty plan gives none."""
        found = {}
        if len(h1_plan):
            found["images"], found["prompts"] = self.image_states(h1_plan)
        if len(h2_plan):
            found["names"] = self.name_states(h2_plan["name"])
            several = with_epithet(h2_plan)
            if len(several):
                found["epithets"] = self.name_states(several["name"], several["epithet"])
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
        spans: Optional[list[str]] = None, rows: Optional[list[int]] = None,
    ) -> list[LayerStates]:
        """The states of {file stem: where}, from file, or computed in parts that are joined at the end."""
        words = [PROMPTS[name].text(question="?") for name in ("cot_open", "species_yes_no")]
        kept = [self.dtype, *self.layers]
        asked = digest([repr(item) for item in [*words, *kept, *items, *(spans or [])]])[:10]
        paths = [self.folder / f"{what}_{asked}.npy" for what in places]
        parts = self.folder / f"{'_'.join(places)}_{asked}.parts"
        if not all(path.exists() for path in paths):
            files = self._parts(parts, list(places.values()), items, prompt, spans)
            for place, path in enumerate(paths):
                join_parts(files, place, path)
        shutil.rmtree(parts, ignore_errors=True)
        return [LayerStates(path, self.layers, rows) for path in paths]

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
            states = np.asarray(self._pooled(self._loaded, [prompt(item) for item in chunk], where=where,
                                             layers=self.layers, batch_size=self.batch_size, **text))
            if not np.isfinite(states).all():
                raise UserError(f"{self.model}: hidden states are not finite; a GPU without bfloat16 computes "
                                "in float16, whose range is too small for some models: take another GPU")
            save_states(files[-1], states, self.dtype)
            if self._progress:
                what = folder.name.rpartition("_")[0]
                self._progress(start + len(chunk), len(items), f"{self.model} {what}")
        return files
