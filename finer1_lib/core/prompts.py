"""Every prompt of the kit, in one registry, each with a hash that is written into every record.

Evaluation, CoT SFT and TAPO share them: a model trained under one wording and tested under another measures
the wording (the release uses three). The wordings are the kit's own; the four parts of the thinking are those
of Fine-R1's stage 1 (arXiv 2602.07605).
"""

import hashlib
import re
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Optional, Sequence

PROMPT_KINDS = ("cot", "answer", "letter", "step")  # 02 and 03 train for the first two
TRAINED_KINDS = PROMPT_KINDS[:2]


def user_message(text: str, image: Any = None) -> list[dict]:
    """One user turn: the image, then the text."""
    content = [] if image is None else [{"type": "image", "image": image}]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


FOUR_PARTS = ("analysis", "options", "comparison", "prediction")  # of a rationale, stage 1


@dataclass(frozen=True)
class Prompt:
    """A named template with the fields `{question}` and, in the closed world, `{options}`.

    `{options}` shows the names with commas between; `{options_list}` as a Python list, as the release does;
    `{options_lettered}` a line each, "A. Rock Wren".
    """

    name: str
    template: str

    def text(self, question: str = "", options: Optional[Sequence[str]] = None) -> str:
        """Fill the template; `options` are the names offered in the closed world, in the order shown.

        ValueError for options without a field or the other way round, or more options than letters.
        """
        if self.takes_options != (options is not None):
            raise ValueError(f"prompt {self.name!r} {'needs' if options is None else 'takes no'} options")
        shown = list(options or [])
        if self.lettered and len(shown) > len(ascii_uppercase):
            raise ValueError(f"prompt {self.name!r} has 26 letters for {len(shown)} options")
        lettered = "\n".join(f"{letter}. {option}" for letter, option in zip(ascii_uppercase, shown))
        values = {"{question}": question, "{options}": ", ".join(shown), "{options_list}": str(shown),
                  "{options_lettered}": lettered}
        # in one go: a question may itself contain braces
        return re.sub("|".join(map(re.escape, values)), lambda field: values[field[0]], self.template)

    @property
    def takes_options(self) -> bool:
        """Whether this is a closed-world prompt."""
        return any(f"{{options{kind}}}" in self.template for kind in ("", "_list", "_lettered"))

    @property
    def lettered(self) -> bool:
        """Whether the options have letters, so that a letter is an answer."""
        return "{options_lettered}" in self.template

    @property
    def hash(self) -> str:
        """First 12 hexadecimal digits of the template's sha256, written into every record."""
        return hashlib.sha256(self.template.encode("utf-8")).hexdigest()[:12]


_COT = ("Think in <think></think> with <analysis>, <options>, <comparison> and <prediction>, then give the "
        "name in <answer></answer>.")
_ANSWER = "Give only the name in <answer></answer>."
_STEP = "Think step by step, then give the name in <answer></answer>."
_LETTER = "Give only its letter or its name in <answer></answer>."
PROMPTS = {
    prompt.name: prompt
    for prompt in (
        Prompt("cot_open", "{question} " + _COT),
        Prompt("cot_closed", "{question} Choose from: {options}. " + _COT),
        Prompt("answer_open", "{question} " + _ANSWER),
        Prompt("answer_closed", "{question} Choose from: {options}. " + _ANSWER),
        Prompt("step_open", "{question} " + _STEP),
        Prompt("step_closed", "{question} Choose from: {options}. " + _STEP),
        Prompt("letter_open", "{question} " + _ANSWER),  # without options there are no letters
        Prompt("letter_closed", "{question}\n{options_lettered}\n" + _LETTER),
        Prompt("describe", "Describe the image in <analysis></analysis>."),
        Prompt("species_yes_no", "Is the species {question}?"),
    )
}


def question_for(super_category: str) -> str:
    """The species question about one super-category word ("bird", "aircraft").

    Source: release eval/data/*.jsonl, whose questions it words in one way.
    """
    return f"What species is this {super_category}?"
