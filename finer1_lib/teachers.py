"""Teachers that need no attribute table: the model itself, and a larger model under structured prompts.

Source: METHOD 2.1 and 2.2 (the paper's teacher is Qwen2.5-VL-32B; its Table 5 asks for four tagged parts).
The prompts are worded here; the self-teacher is our choice for pictures nobody has described.
"""

import re
from typing import Any, Callable, Mapping, Optional, Sequence

from finer1_lib.fgvr_data import Similarity, load_image, nearest_names
from finer1_lib.prompts import PROMPTS, Prompt
from finer1_lib.rationales import write_rationale

# Fields in braces are filled by `fill`; each record of a real teacher's run names the hash.
TEACHER_PROMPTS = {
    prompt.name: prompt
    for prompt in (
        Prompt(
            "teacher_describe",
            "Describe the {super_category} in this picture in two or three sentences, above all its {focus}. "
            "Write only what can be seen, and no name of any kind of {super_category}.",
        ),
        Prompt(
            "teacher_concepts",
            "By which visible features does one know the {super_category} called {sub_category}? Write ten "
            "short phrases of two to five words, one on each line, and nothing else.",
        ),
        Prompt(
            "teacher_rationale",
            "{question} It is certain that the answer is {sub_category}, and these features were found in "
            "the picture: {concepts}. Reason towards that answer as an expert would who has only the "
            "picture, in plain English and in exactly this form:\n"
            "<think>\n<analysis>what is seen, feature by feature</analysis>\n"
            "<options>at most four names of {super_category} it could be, parted by commas, {sub_category} "
            "somewhere among them</options>\n"
            "<comparison>each of these names against what is seen</comparison>\n"
            "<prediction>the name that fits best</prediction>\n</think>\n<answer>the same name</answer>\n"
            "Never let it show that the answer or the features were known beforehand.",
        ),
    )
}
SELF_CONCEPTS = 12  # phrases taken over from a self-teacher's descriptions

Generate = Callable[..., list]  # as `models.generate`


def fill(name: str, **values: str) -> str:
    """A teacher prompt's text, every field replaced.

    Raises:
        ValueError: a field without a value.
    """
    text = TEACHER_PROMPTS[name].template
    missing = set(re.findall(r"{(\w+)}", text)) - set(values)
    if missing:
        raise ValueError(f"prompt {name} lacks {sorted(missing)}")
    return re.sub(r"{(\w+)}", lambda match: values[match.group(1)], text)


class SelfTeacher:
    """The base model describes the picture; the names come from the folder. Nothing else is claimed.

    The analysis is the model's own description; the candidates are the label and the sub-categories whose
    pictures lie nearest for the model's vision tower; the comparison says only what follows from the label
    and from that order. It teaches the format and the names, and no feature that tells them apart: a
    student's numbers are to be read with that in mind.

    Args:
        load: gives the base model (`models.LoadedModel`) when first asked; a finished stage never asks.
        image_root: where the images lie.
        table: `images.parquet`, for the names of each super-category.
        similarity: of two sub-categories' pictures (`triplets.prototype_similarity`).
        descriptions: how many samples make up set D; the base's prompt has no place for a focus.
        temperature: of the descriptions.
        max_new_tokens: of one description.
        generate: `models.generate` or, in a test, something that answers like it.
    """

    def __init__(
        self, load: Callable, image_root, table, similarity: Similarity, *, descriptions: int = 3,
        temperature: float = 0.7, max_new_tokens: int = 96, generate: Optional[Generate] = None,
    ) -> None:
        self._ask = _Asker(load, image_root, max_new_tokens, temperature, generate)
        self._descriptions, self._similarity = descriptions, similarity
        groups = table.groupby("super_category")["sub_category"]
        self._names = {super_category: sorted(set(names)) for super_category, names in groups}

    def foci(self, row: Mapping[str, Any]) -> list[str]:
        """Sample numbers in the place of foci."""
        return [f"sample {number}" for number in range(1, self._descriptions + 1)]

    def describe(self, row: Mapping[str, Any], focus: str, seed: int) -> str:
        """What the model says of the picture, its analysis tags taken off."""
        text = self._ask(PROMPTS["describe"].text(), row, seed)
        found = re.search(r"<analysis>(.*?)(?:</analysis>|$)", text, re.DOTALL)
        return " ".join((found.group(1) if found else text).split())

    def concepts(self, row: Mapping[str, Any], descriptions: Sequence[str]) -> list[str]:
        """The phrases of its own descriptions, the most frequent first."""
        phrases = [
            phrase.strip() for text in descriptions for phrase in re.split(r"[,.;\n]|\band\b", text)
            if phrase.strip()
        ]
        return sorted(dict.fromkeys(phrases), key=lambda phrase: -phrases.count(phrase))[:SELF_CONCEPTS]

    def rationale(self, row: Mapping[str, Any], concepts: Sequence[str], question: str, seed: int) -> str:
        """A fresh description, the nearest names, and a comparison that says what is known of each."""
        label, names = row["sub_category"], self._names[row["super_category"]]
        others = nearest_names(row["super_category"], label, names, self._similarity, 3, seed)
        pieces = [f"{label}: fits this picture"]
        pieces += [f"{name}: among the nearest in looks, but another" for name in others]
        return write_rationale(self.describe(row, "", seed), [label, *others], "; ".join(pieces), label)


class PromptedTeacher:
    """A larger instruction-tuned model asked by the structured prompts above (the paper's way).

    Args: as for `SelfTeacher`, and
        foci: what the descriptions stress in turn, e.g. ["shape", "colours", "markings"].
    """

    def __init__(
        self, load: Callable, image_root, foci: Sequence[str], *, temperature: float = 0.7,
        max_new_tokens: int = 768, generate: Optional[Generate] = None,
    ) -> None:
        self._ask = _Asker(load, image_root, max_new_tokens, temperature, generate)
        self._foci = list(foci)

    def foci(self, row: Mapping[str, Any]) -> list[str]:
        """The same for every picture."""
        return self._foci

    def describe(self, row: Mapping[str, Any], focus: str, seed: int) -> str:
        """A description stressing the focus."""
        prompt = fill("teacher_describe", super_category=row["super_category"], focus=focus)
        return self._ask(prompt, row, seed)

    def concepts(self, row: Mapping[str, Any], descriptions: Sequence[str]) -> list[str]:
        """The teacher's list for the sub-category, asked without a picture; bullets and numbers taken off."""
        names = {"super_category": row["super_category"], "sub_category": row["sub_category"]}
        lines = self._ask(fill("teacher_concepts", **names), None, 0).splitlines()
        cleaned = [re.sub(r"^\s*(?:[-*•]|\d{1,2}[.)])?\s*", "", line).strip(" .") for line in lines]
        return [line for line in cleaned if line]

    def rationale(self, row: Mapping[str, Any], concepts: Sequence[str], question: str, seed: int) -> str:
        """The answer to the structured prompt, as it comes; the filters judge it."""
        names = {"super_category": row["super_category"], "sub_category": row["sub_category"]}
        prompt = fill("teacher_rationale", question=question, concepts="; ".join(concepts), **names)
        return self._ask(prompt, row, seed)


class _Asker:
    """One prompt, one picture or none, one answer."""

    def __init__(self, load: Callable, image_root, max_new_tokens: int, temperature: float, generate) -> None:
        self._load, self._root, self._generate, self._loaded = load, image_root, generate, None
        self._options = {"max_new_tokens": max_new_tokens, "temperature": temperature}

    def __call__(self, prompt: str, row: Optional[Mapping[str, Any]], seed: int) -> str:
        if self._generate is None:
            from finer1_lib.generation import generate

            self._generate = generate
        if self._loaded is None:
            self._loaded = self._load()
        content = [] if row is None else [{"type": "image", "image": load_image(self._root, row["image_id"])}]
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}]
        return self._generate(self._loaded, [messages], seed=seed, **self._options)[0].text
