"""Teachers that need no attribute table: the model itself, and a larger model under structured prompts, on
this machine or behind an address.

Source: METHOD 2.1 and 2.2 (the paper's teacher is Qwen2.5-VL-32B; its Table 5 asks for four tagged parts).
The prompts are worded here; the self-teacher is our choice for pictures nobody has described.

What a teacher is asked, one image at a time or in batches.

A teacher is written by subclassing `Teacher`: what to stress in turn (`foci`), a description, a list of
concepts and a rationale. Seeds are drawn by `draw_seed`, so that whoever asks again gets the same text.

Source: METHOD 2.1 and 2.2 (descriptions, a list of concepts, the structured prompt); the interface is ours.

Prompts into texts: a model on this machine, or one behind an address, asked the same way.

    ask = LocalAsker(lambda: models.load_any("folder"), image_root, max_new_tokens=256)
    ask([("Describe the bird.", row, 3)])  # (prompt, row of images.parquet or None, seed) -> ["A red crown."]

A picture is handed over as a file's name: it is opened when it is needed. An answer that reached the limit of
tokens ends in `CUT_OFF`.

Source: our choice.
"""

import hashlib
import re
from abc import abstractmethod
from collections import Counter
from typing import Any, Callable, Mapping, NamedTuple, Optional, Protocol, Sequence

from finer1_lib.core.images import ImageFile
from finer1_lib.core.prompts import PROMPTS, Prompt, user_message
from finer1_lib.data.guide import Similarity
from finer1_lib.data.rationales.filters import CUT_OFF, write_rationale
from finer1_lib.data.split import nearest_names
from finer1_lib.models.encoding import Encoder
from finer1_lib.models.endpoint import ChatEndpoint, Question

Row = Mapping[str, Any]
Asked = Sequence[tuple[str, Optional[Row], int]]
Generate = Callable[..., list]  # as `generation.generate`


class Description(NamedTuple):
    """A description asked for: which image, what it is to stress, and the seed of its chance."""

    row: Row
    focus: str
    seed: int


class Rationale(NamedTuple):
    """A rationale asked for: which image, on which concepts, for which question, and its seed."""

    row: Row
    concepts: Sequence[str]
    question: str
    seed: int


class Teacher(Protocol):
    """Whoever writes rationales. A `row` is one row of `01_data/images.parquet` as a dictionary.

    `describe`, `concepts` and `rationale` give one answer each; the same arguments give the same answer: all
    chance comes from `seed`. A teacher that is quicker in batches raises `batch_size` and overrides the three
    `.._all`, where the same list gives the same answers.

    Attributes:
        batch_size: images asked for together.
    """

    batch_size: int = 1

    @abstractmethod
    def foci(self, row: Row) -> Sequence[str]:
        """What the descriptions of an image are to stress in turn."""

    @abstractmethod
    def describe(self, row: Row, focus: str, seed: int) -> str:
        """Describe the image, without its name, stressing the focus."""

    @abstractmethod
    def concepts(self, row: Row, descriptions: Sequence[str]) -> list[str]:
        """Short texts that may be true of the row's sub-category."""

    @abstractmethod
    def rationale(self, row: Row, concepts: Sequence[str], question: str, seed: int) -> str:
        """The whole assistant text for the row's label on these concepts; `CUT_OFF` at its end if it was."""

    def describe_all(self, asked: Sequence[Description]) -> list[str]:
        """One description each."""
        return [self.describe(*one) for one in asked]

    def concepts_all(self, asked: Sequence[tuple[Row, Sequence[str]]]) -> list[list[str]]:
        """One list of concepts for each (row, descriptions)."""
        return [list(self.concepts(*one)) for one in asked]

    def rationale_all(self, asked: Sequence[Rationale]) -> list[str]:
        """One text each."""
        return [self.rationale(*one) for one in asked]


def draw_seed(*parts: Any) -> int:
    """A seed below 2**31 from anything printable, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode("utf-8")).digest()[:4], "big") >> 1


# Fields in braces are filled by `fill`.
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
        # added to teacher_rationale where there is a limit
        Prompt("teacher_words", " Write at most {words} words in all; short phrases will do."),
    )
}
SELF_CONCEPTS = 12  # phrases taken over from a self-teacher's descriptions


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


class _BatchTeacher(Teacher):
    """A teacher that answers whole batches; one answer is a batch of one."""

    def describe(self, row: Row, focus: str, seed: int) -> str:
        """A description stressing the focus."""
        return self.describe_all([Description(row, focus, seed)])[0]

    def concepts(self, row: Row, descriptions: Sequence[str]) -> list[str]:
        """Short texts about the row's sub-category."""
        return self.concepts_all([(row, descriptions)])[0]

    def rationale(self, row: Row, concepts: Sequence[str], question: str, seed: int) -> str:
        """The whole assistant text."""
        return self.rationale_all([Rationale(row, concepts, question, seed)])[0]


class SelfTeacher(_BatchTeacher):
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
        samples: foci, that is how many samples make up set D (times the descriptions per focus): the base's
            prompt has no place for a focus.
        temperature: of the descriptions.
        max_new_tokens: of one description.
        batch_size: images asked together.
        generate: `models.generate` or, in a test, something that answers like it.
    """

    def __init__(
        self, load: Callable, image_root, table, similarity: Similarity, *, samples: int = 3,
        temperature: float = 0.7, max_new_tokens: int = 256, batch_size: int = 8,
        generate: Optional[Generate] = None,
    ) -> None:
        self._ask = LocalAsker(load, image_root, max_new_tokens=max_new_tokens, temperature=temperature,
                               batch_size=batch_size, generate=generate)
        self._samples, self._similarity, self.batch_size = samples, similarity, batch_size
        groups = table.groupby("super_category")["sub_category"]
        self._names = {super_category: sorted(set(names)) for super_category, names in groups}

    def foci(self, row: Row) -> list[str]:
        """Sample numbers in the place of foci."""
        return [f"sample {number}" for number in range(1, self._samples + 1)]

    def describe_all(self, asked: Sequence[Description]) -> list[str]:
        """What the model says of each picture, its analysis tags taken off; of one cut off, whole phrases."""
        return [_whole(text, r"[,.;\n]") for text in self._analyses([(one.row, one.seed) for one in asked])]

    def concepts_all(self, asked: Sequence[tuple[Row, Sequence[str]]]) -> list[list[str]]:
        """The phrases of its own descriptions, the most frequent first."""
        return [_phrases(descriptions) for _, descriptions in asked]

    def rationale_all(self, asked: Sequence[Rationale]) -> list[str]:
        """A fresh description, the nearest names, and a comparison that says what is known of each."""
        texts = []
        analyses = self._analyses([(one.row, one.seed) for one in asked])
        for (row, _, _, seed), analysis in zip(asked, analyses):
            label, names = row["sub_category"], self._names[row["super_category"]]
            others = nearest_names(row["super_category"], label, names, self._similarity, 3, seed)
            pieces = [f"{label}: fits this picture"]
            pieces += [f"{name}: among the nearest in looks, but another" for name in others]
            seen, cut = analysis.removesuffix(CUT_OFF), CUT_OFF * analysis.endswith(CUT_OFF)
            texts.append(write_rationale(seen, [label, *others], "; ".join(pieces), label) + cut)
        return texts

    def _analyses(self, asked: Sequence[tuple[Row, int]]) -> list[str]:
        """The model's descriptions without their tags; one that was cut off still ends in `CUT_OFF`."""
        texts = self._ask([(PROMPTS["describe"].text(), row, seed) for row, seed in asked])
        found = [re.search(r"<analysis>(.*?)(?:</analysis>|$)", text, re.DOTALL) for text in texts]
        return [_joined(match.group(1) if match else text) for match, text in zip(found, texts)]


class _LargeTeacher(_BatchTeacher):
    """A larger instruction-tuned model asked by the structured prompts above (the paper's way)."""

    def __init__(
        self, ask: Callable[[Asked], list[str]], foci: Sequence[str], batch_size: int, words: int
    ) -> None:
        self._ask, self._foci, self.batch_size, self._words = ask, list(foci), batch_size, words

    def foci(self, row: Row) -> list[str]:
        """The same for every picture."""
        return self._foci

    def describe_all(self, asked: Sequence[Description]) -> list[str]:
        """A description each, stressing its focus; of one that was cut off, the whole sentences."""
        prompts = [
            (fill("teacher_describe", super_category=row["super_category"], focus=focus), row, seed)
            for row, focus, seed in asked
        ]
        return [_whole(text, r"[.!?\n]") for text in self._ask(prompts)]

    def concepts_all(self, asked: Sequence[tuple[Row, Sequence[str]]]) -> list[list[str]]:
        """The teacher's list for each sub-category, asked without a picture; bullets, numbers taken off."""
        prompts = [
            (fill("teacher_concepts", super_category=row["super_category"], sub_category=row["sub_category"]),
             None, 0)
            for row, _ in asked
        ]  # fmt: skip
        lists = [_whole(text, r"\n").splitlines() for text in self._ask(prompts)]
        return [[line for line in map(_bare, lines) if line] for lines in lists]

    def rationale_all(self, asked: Sequence[Rationale]) -> list[str]:
        """The answers to the structured prompt, as they come; the filters judge them."""
        prompts = []
        for row, concepts, question, seed in asked:
            names = {"super_category": row["super_category"], "sub_category": row["sub_category"]}
            filled = fill("teacher_rationale", question=question, concepts="; ".join(concepts), **names)
            limit = fill("teacher_words", words=str(self._words)) if self._words else ""
            prompts.append((filled + limit, row, seed))
        return self._ask(prompts)


class PromptedTeacher(_LargeTeacher):
    """A larger model on this machine, of any family.

    Args: as for `SelfTeacher`, and
        load: gives the model (`models.load_any`) when first asked.
        foci: what the descriptions stress in turn, e.g. ["shape", "colours", "markings"].
        words: longest rationale that is asked for, 0 for no limit; the filter `too_long` holds it to that.
    """

    def __init__(
        self, load: Callable, image_root, foci: Sequence[str], *, temperature: float = 0.7,
        max_new_tokens: int = 1536, batch_size: int = 8, words: int = 0, generate: Optional[Generate] = None,
    ) -> None:
        ask = LocalAsker(load, image_root, max_new_tokens=max_new_tokens, temperature=temperature,
                         batch_size=batch_size, generate=generate)
        super().__init__(ask, foci, batch_size, words)


class EndpointTeacher(_LargeTeacher):
    """A larger model behind an address (`chat_endpoint`); as many images together as requests.

    Args:
        endpoint: which model, and how it is asked.
        image_root: where the images lie.
        foci, words: as for `PromptedTeacher`.
    """

    def __init__(self, endpoint: ChatEndpoint, image_root, foci: Sequence[str], *, words: int = 0) -> None:
        super().__init__(EndpointAsker(endpoint, image_root), foci, endpoint.concurrency, words)


def _phrases(descriptions: Sequence[str]) -> list[str]:
    """The phrases of some descriptions, the most frequent first."""
    pieces = [piece.strip() for text in descriptions for piece in re.split(r"[,.;\n]|\band\b", text)]
    phrases = [piece for piece in pieces if piece]
    return [phrase for phrase, _ in Counter(phrases).most_common(SELF_CONCEPTS)]


def _bare(line: str) -> str:
    """A line of a list without its bullet or number and its full stop."""
    return re.sub(r"^\s*(?:[-*•]|\d{1,2}[.)])?\s*", "", line).strip(" .")


def _joined(text: str) -> str:
    """On one line; what was cut off stays marked."""
    return " ".join(text.removesuffix(CUT_OFF).split()) + CUT_OFF * text.endswith(CUT_OFF)


def _whole(text: str, end: str) -> str:
    """A text as it is; one that was cut off, up to the last of the signs that end a piece."""
    if not text.endswith(CUT_OFF):
        return text
    found = list(re.finditer(end, text.removesuffix(CUT_OFF)))
    return text[: found[-1].end()].strip() if found else ""




class LocalAsker:
    """Asks in batches a model that is loaded when first needed.

    Args:
        load: gives the model (`models.LoadedModel` or `generation.AnyModel`).
        image_root: where the images lie.
        generate: what answers; the model's own by default.
    """

    def __init__(
        self, load: Callable, image_root: Any, *, max_new_tokens: int, temperature: float = 0.7,
        batch_size: int = 8, generate: Optional[Generate] = None,
    ) -> None:
        self._load, self._root, self._generate = load, str(image_root), generate
        self._loaded: Any = None
        self._options: dict[str, Any] = {
            "max_new_tokens": max_new_tokens, "temperature": temperature, "batch_size": batch_size,
        }  # fmt: skip

    def __call__(self, asked: Asked) -> list[str]:
        """Answer (prompt, row or None, seed) each; the batch's chance comes from all its seeds."""
        if self._loaded is None:
            self._start()
        prompts = [user_message(prompt, _picture(self._root, row)) for prompt, row, _ in asked]
        seed = asked[0][2] if len(asked) == 1 else draw_seed(*(one[2] for one in asked))
        answers = self._generate(self._loaded, prompts, seed=seed, **self._options)
        return [answer.text + CUT_OFF * answer.truncated for answer in answers]

    def _start(self) -> None:
        from finer1_lib.models import generation

        self._loaded = self._load()
        if self._generate is None:
            self._generate = generation.generate
            if not isinstance(self._loaded, generation.AnyModel):  # an image's pixels serve every prompt about it
                self._options["encoder"] = Encoder(self._loaded.processor)


class EndpointAsker:
    """Asks a model behind an address, every prompt with a seed of its own."""

    def __init__(self, endpoint: ChatEndpoint, image_root: Any) -> None:
        self._endpoint, self._root = endpoint, str(image_root)

    def __call__(self, asked: Asked) -> list[str]:
        """Answer (prompt, row or None, seed) each."""
        questions = [Question(prompt, _picture(self._root, row), seed) for prompt, row, seed in asked]
        return [answer.text + CUT_OFF * answer.truncated for answer in self._endpoint.ask(questions)]


def _picture(root: str, row: Optional[Row]) -> Optional[ImageFile]:
    return None if row is None else ImageFile(root, row["image_id"])
