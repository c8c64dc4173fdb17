"""Teachers write rationales: the base model itself, or a larger model under structured prompts.

    teacher = PromptedTeacher(load, image_root, ["shape", "colours", "markings"])
    teacher.describe_all([Description(row, "shape", 3)])  # -> ["A round body with a short red tail."]

A new teacher is a subclass of `Teacher`. Seeds come from `draw_seed`, so a repeated query gets the same text.
An answer that reached the token limit ends in `CUT_OFF`.

Source: Fine-R1 (arXiv 2602.07605), Table 5: the teacher is Qwen2.5-VL-32B and writes four tagged parts. The
paper's prompts are not released, so their wording is this kit's.
"""

import hashlib
import re
from abc import abstractmethod
from collections import Counter
from functools import cache, partial
from typing import Any, Callable, Iterable, Mapping, NamedTuple, Optional, Protocol, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.images import ImageFile
from finer1_lib.core.prompts import PROMPTS, Prompt, user_message
from finer1_lib.data.guide import Similarity
from finer1_lib.data.rationales.filters import CUT_OFF, write_rationale
from finer1_lib.data.split import nearest_names
from finer1_lib.models.encoding import Encoder
from finer1_lib.models.endpoint import ChatEndpoint, Question

Row = Mapping[str, Any]


class Description(NamedTuple):
    """A query for a description: what to stress in the image, and the random seed."""

    row: Row
    focus: str
    seed: int


class Rationale(NamedTuple):
    """A query for a rationale on some concepts."""

    row: Row
    concepts: Sequence[str]
    question: str
    seed: int


class Teacher(Protocol):
    """A writer of rationales; all its randomness comes from `seed`. A `row` is a row of images.parquet.

    A teacher that is faster in batches sets `batch_size` (images per query) and overrides the three `.._all`.
    """

    batch_size: int = 1

    @abstractmethod
    def foci(self, row: Row) -> Sequence[str]:
        """What the descriptions of an image stress in turn."""

    @abstractmethod
    def describe(self, row: Row, focus: str, seed: int) -> str:
        """Describe the image, without its name, stressing the focus."""

    @abstractmethod
    def concepts(self, row: Row, descriptions: Sequence[str]) -> list[str]:
        """Short texts that may be true of the row's sub-category."""

    @abstractmethod
    def rationale(self, row: Row, concepts: Sequence[str], question: str, seed: int) -> str:
        """The whole assistant text for the row's label on these concepts; ends in `CUT_OFF` if truncated."""

    def describe_all(self, queries: Sequence[Description]) -> list[str]:
        return [self.describe(*query) for query in queries]

    def concepts_all(self, queries: Sequence[tuple[Row, Sequence[str]]]) -> list[list[str]]:
        """One list of concepts for each (row, descriptions)."""
        return [list(self.concepts(*one)) for one in queries]

    def rationale_all(self, queries: Sequence[Rationale]) -> list[str]:
        return [self.rationale(*one) for one in queries]


def draw_seed(*parts: Any) -> int:
    """A seed below 2**31 from anything printable, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode("utf-8")).digest()[:4], "big") >> 1


# Fields in braces are filled by `fill`.
TEACHER_PROMPTS = {name: Prompt(name, text) for name, text in {
    "teacher_describe":
        "Describe the {super_category} in this picture in two or three sentences, above all its {focus}. "
        "Write only what can be seen, and no name of any kind of {super_category}.",
    "teacher_concepts":
        "By which visible features does one know the {super_category} called {sub_category}? Write ten "
        "short phrases of two to five words, one on each line, and nothing else.",
    "teacher_rationale":
        "{question} It is certain that the answer is {sub_category}, and these features were found in "
        "the picture: {concepts}. Reason towards that answer as an expert would who has only the "
        "picture, in plain English and in exactly this form:\n"
        "<think>\n<analysis>what is seen, feature by feature</analysis>\n"
        "<options>at most four names of {super_category} it could be, parted by commas, {sub_category} "
        "somewhere among them</options>\n"
        "<comparison>each of these names against what is seen</comparison>\n"
        "<prediction>the name that fits best</prediction>\n</think>\n<answer>the same name</answer>\n"
        "Never let it show that the answer or the features were known beforehand.",
    # added to teacher_rationale where there is a limit
    "teacher_words": " Write at most {words} words in all; short phrases will do.",
}.items()}
SELF_CONCEPTS = 12  # phrases taken over from a self-teacher's descriptions


def fill(name: str, /, **values: Any) -> str:
    """A teacher prompt's text with every field replaced. Raises: ValueError: a field without a value."""
    text = TEACHER_PROMPTS[name].template
    if missing := set(re.findall(r"{(\w+)}", text)) - set(values):
        raise ValueError(f"prompt {name} lacks {sorted(missing)}")
    return re.sub(r"{(\w+)}", lambda match: values[match.group(1)], text)


def local_model(load: Callable, *, generate: Optional[Callable] = None, temperature: float = 0.7,
                **options: Any) -> Callable[[Sequence[Question]], list]:
    """A model on this machine, loaded at the first query; `generate` answers (default: the model's own).

    A batch is sampled with one seed, drawn from those of all its questions.
    """
    @cache
    def loaded() -> Callable:
        from finer1_lib.models import generation
        model = load()
        if generate is None and not isinstance(model, generation.AnyModel):
            options["encoder"] = Encoder(model.processor)  # an image's pixels serve every prompt
        return partial(generate or generation.generate, model, temperature=temperature, **options)

    def answer(questions: Sequence[Question]) -> list:
        seeds = [one.seed for one in questions]
        return loaded()([user_message(one.prompt, one.image) for one in questions],
                        seed=seeds[0] if len(seeds) == 1 else draw_seed(*seeds))

    return answer


class _BatchTeacher(Teacher):
    """A teacher that asks a model whole batches; one answer is a batch of one."""

    def __init__(self, model: Callable[[Sequence[Question]], list], image_root: Any, batch_size: int) -> None:
        self._model, self._root, self.batch_size = model, str(image_root), batch_size

    def _ask(self, queries: Iterable[tuple[str, Optional[Row], int]]) -> list[str]:
        """A text for each (prompt, row or None for no image, seed)."""
        answers = self._model([Question(prompt, row and ImageFile(self._root, row["image_id"]), seed)
                               for prompt, row, seed in queries])
        return [answer.text + CUT_OFF * answer.truncated for answer in answers]

    def describe(self, row: Row, focus: str, seed: int) -> str:
        return self.describe_all([Description(row, focus, seed)])[0]

    def concepts(self, row: Row, descriptions: Sequence[str]) -> list[str]:
        return self.concepts_all([(row, descriptions)])[0]

    def rationale(self, row: Row, concepts: Sequence[str], question: str, seed: int) -> str:
        return self.rationale_all([Rationale(row, concepts, question, seed)])[0]


class SelfTeacher(_BatchTeacher):
    """The base model describes the image; the names come from the folder. For images without a guide.

    The candidates are the label and the sub-categories whose images are nearest for the vision tower
    (`similarity`); the comparison states only what follows from that order. It teaches the format and the
    names, and no feature that distinguishes them. Descriptions are drawn `samples` times in place of foci.
    """

    def __init__(self, load: Callable, image_root, table, similarity: Similarity, *, samples: int = 3,
                 max_new_tokens: int = 256, batch_size: int = 8, **how: Any) -> None:
        model = local_model(load, max_new_tokens=max_new_tokens, batch_size=batch_size, **how)
        super().__init__(model, image_root, batch_size)
        self._samples, self._similarity = samples, similarity
        groups = table.groupby("super_category")["sub_category"]
        self._names = {super_category: sorted(set(names)) for super_category, names in groups}

    def foci(self, row: Row) -> list[str]:
        return [f"sample {number}" for number in range(1, self._samples + 1)]

    def describe_all(self, queries: Sequence[Description]) -> list[str]:
        """The model's text on each image, without analysis tags; of a truncated one, whole phrases."""
        return [_whole(text, r"[,.;\n]") for text in self._analyses(queries)]

    def concepts_all(self, queries: Sequence[tuple[Row, Sequence[str]]]) -> list[list[str]]:
        """The phrases of its own descriptions, the most frequent first."""
        found = []
        for _, descriptions in queries:
            pieces = [piece.strip() for text in descriptions for piece in re.split(r"[,.;\n]|\band\b", text)]
            found.append([phrase for phrase, _ in Counter(filter(None, pieces)).most_common(SELF_CONCEPTS)])
        return found

    def rationale_all(self, queries: Sequence[Rationale]) -> list[str]:
        """A fresh description, the nearest names, and a comparison that says what is known of each."""
        texts = []
        for (row, _, _, seed), analysis in zip(queries, self._analyses(queries)):
            label, names = row["sub_category"], self._names[row["super_category"]]
            others = nearest_names(row["super_category"], label, names, self._similarity, 3, seed)
            pieces = [f"{label}: fits this picture"]
            pieces += [f"{name}: among the nearest in looks, but another" for name in others]
            seen, cut = analysis.removesuffix(CUT_OFF), CUT_OFF * analysis.endswith(CUT_OFF)
            texts.append(write_rationale(seen, [label, *others], "; ".join(pieces), label) + cut)
        return texts

    def _analyses(self, queries: Sequence) -> list[str]:
        """The model's descriptions without their tags; a truncated one still ends in `CUT_OFF`."""
        found = []
        for text in self._ask((PROMPTS["describe"].text(), one.row, one.seed) for one in queries):
            match = re.search(r"<analysis>(.*?)(?:</analysis>|$)", text, re.DOTALL)
            text = match.group(1) if match else text
            found.append(" ".join(text.removesuffix(CUT_OFF).split()) + CUT_OFF * text.endswith(CUT_OFF))
        return found


class PromptedTeacher(_BatchTeacher):
    """A larger instruction-tuned model under the structured prompts above, as in the paper: of any family, on
    this machine. `words` limits a rationale, 0 for no limit.
    """

    def __init__(self, load: Callable, image_root, foci: Sequence[str], *, max_new_tokens: int = 1536,
                 batch_size: int = 8, words: int = 0, **how: Any) -> None:
        model = local_model(load, max_new_tokens=max_new_tokens, batch_size=batch_size, **how)
        super().__init__(model, image_root, batch_size)
        self._foci, self._words = list(foci), words

    def foci(self, row: Row) -> list[str]:
        return self._foci

    def describe_all(self, queries: Sequence[Description]) -> list[str]:
        """A description each, stressing its focus; of a truncated one, the whole sentences."""
        return [_whole(text, r"[.!?\n]") for text in self._ask(
            (fill("teacher_describe", focus=focus, **row), row, seed)
            for row, focus, seed in queries)]

    def concepts_all(self, queries: Sequence[tuple[Row, Sequence[str]]]) -> list[list[str]]:
        """The list for each sub-category, prompted without an image; without bullets and numbers."""
        bare = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])?\s*")
        lists = [[bare.sub("", line).strip(" .") for line in _whole(text, r"\n").splitlines()]
                 for text in self._ask((fill("teacher_concepts", **row), None, 0) for row, _ in queries)]
        return [list(filter(None, lines)) for lines in lists]

    def rationale_all(self, queries: Sequence[Rationale]) -> list[str]:
        """The answers to the structured prompt, as they come; the filters judge them."""
        limit = fill("teacher_words", words=str(self._words)) if self._words else ""
        return self._ask(
            (fill("teacher_rationale", question=question, concepts="; ".join(concepts), **row) + limit, row, seed)
            for row, concepts, question, seed in queries)


class EndpointTeacher(PromptedTeacher):
    """The same behind an address; as many images per batch as parallel requests."""

    def __init__(self, endpoint: ChatEndpoint, image_root, foci: Sequence[str], *, words: int = 0) -> None:
        _BatchTeacher.__init__(self, endpoint.ask, image_root, endpoint.concurrency)
        self._foci, self._words = list(foci), words


def _whole(text: str, end: str) -> str:
    """A text as it is; one that was cut off, up to the last of the signs that end a piece."""
    if not text.endswith(CUT_OFF):
        return text
    whole = re.match(rf".*{end}", text.removesuffix(CUT_OFF), re.DOTALL)
    return whole.group().strip() if whole else ""


def make_teacher(teacher: str, *, guide: Optional[Mapping], guide_teacher: Callable[[], Teacher],
                 load_base: Callable, load_large: Optional[Callable], endpoint: Callable[[], ChatEndpoint],
                 image_root, table, similarity: Similarity, foci: Sequence[str], max_new_tokens: int,
                 batch_size: int, words: int, rationales_file: str = "") -> tuple[str, Optional[Teacher]]:
    """(kind, teacher) for the parameter `teacher`; ("release", None) where a file holds the rationales. "auto" is
    "guide" where there is one, else "self"; `guide_teacher` and `endpoint` are called where they are used.
    Raises: UserError: an unknown kind, or one that lacks its guide or checkpoint (`load_large` is None).
    """
    if rationales_file:
        return "release", None
    kind = teacher if teacher != "auto" else "guide" if guide else "self"
    how = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    if kind == "guide" and guide:
        return kind, guide_teacher()
    if kind == "self":
        return kind, SelfTeacher(load_base, image_root, table, similarity, **how)
    if kind == "model" and load_large:
        return kind, PromptedTeacher(load_large, image_root, foci, words=words, **how)
    if kind == "endpoint":
        return kind, EndpointTeacher(endpoint(), image_root, foci, words=words)
    raise UserError(f"teacher {teacher!r}: use auto, self, guide (needs guide_file or the drawn world), "
                    "model (needs teacher_checkpoint) or endpoint")
