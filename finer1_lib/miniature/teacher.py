"""The miniature's teacher: it answers from the field guide, in varied words and with mistakes at set rates.

A large teacher model makes such mistakes too: it misreads, answers with the wrong name, forgets the label
among the candidates, slips into another language, reveals its prompt, breaks a tag. Here their rates are
known, and which text carries which mistake (`planted`), so that a notebook can say what the filters catch.
(A misread attribute is the one no filter sees.)

Source: Fine-R1 (arXiv 2602.07605), Section 4.1 (teacher Qwen2.5-VL-32B); the kinds of mistakes are those of
the release's 404 rationales.
"""

import random
from dataclasses import dataclass, fields
from typing import Any, Mapping, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.data.guide import claim, four_parts, nearest
from finer1_lib.data.rationales.filters import CUT_OFF
from finer1_lib.data.rationales.teachers import Teacher

CANDIDATES = 3  # beside the label
_PHRASES = ("{value} {part}", "{article}{value} {part}", "the {part} {is_} {value}",
            "its {part} {look} {value}")
_STRESSES = ("Most of all, {phrase}.", "What strikes first: {phrase}.", "{phrase}, plainly {value}.")
_SLIPS = ("羽毛很漂亮", "это видно", "모양")
_WIDE = str.maketrans({",": "\uff0c", ";": "\uff1b"})  # full-width punctuation
_LEAKS = ("as mentioned in the question, ", "the provided description says ", "going by the given label, ")


@dataclass(frozen=True)
class Rates:
    """How often the teacher errs (0 to 1): the first three per attribute, the others per text."""

    wrong_attribute: float = 0.03    # in descriptions and analyses
    hidden_attribute: float = 0.02   # left out of the analysis
    wrong_concept: float = 0.25      # a false concept beside the true one
    wrong_prediction: float = 0.10
    missing_candidate: float = 0.05  # the label is not among the candidates
    language_slip: float = 0.05
    prompt_leak: float = 0.05
    broken_tag: float = 0.03
    cut_off: float = 0.02            # the text reaches the limit of tokens before its end
    foreign_candidate: float = 0.03  # a candidate of another super-category
    wide_punctuation: float = 0.05   # full-width commas in the analysis (fixed later, so never a flaw)
    label_first: float = 0.90        # the label leads the candidates (the release: 349 of 373)

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) <= 1:
                raise UserError(f"teacher rate {field.name} is {getattr(self, field.name)}; give 0 to 1")


class GuideTeacher(Teacher):
    """A teacher that knows the guide. It never reads an image: the guide is the truth."""

    def __init__(self, guide: Mapping, rates: Rates = Rates()) -> None:
        self.guide, self.rates = guide, rates

    def foci(self, row: Mapping[str, Any]) -> list[str]:
        """One description per attribute, each stressing it."""
        return list(self._values(row["super_category"]))

    def describe(self, row: Mapping[str, Any], focus: str, seed: int) -> str:
        """The focus first, then about half of the other attributes, worded at random, some misread."""
        rng = random.Random(f"describe/{row['image_id']}/{focus}/{seed}")
        reading = self._read(row, rng)
        others = [attribute for attribute in reading if attribute != focus and rng.random() < 0.5]
        rng.shuffle(others)
        phrases = [_phrase(rng, attribute, reading[attribute]) for attribute in others]
        phrase = _phrase(rng, focus, reading[focus])
        stress = rng.choice(_STRESSES).format(phrase=phrase, value=reading[focus])
        return stress + (f" Also {', '.join(phrases)}." if phrases else "")

    def concepts(self, row: Mapping[str, Any], descriptions: Sequence[str]) -> list[str]:
        """What the teacher believes of the sub-category: every true claim, and some false ones.

        Seeded by the name alone: a belief does not change from image to image.
        """
        rng = random.Random(f"concepts/{row['super_category']}/{row['sub_category']}")
        found = []
        for attribute, value in self._truth(row).items():
            found.append(claim(attribute, value))
            if rng.random() < self.rates.wrong_concept:
                found.append(claim(attribute, self._other_value(row, attribute, rng)))
        rng.shuffle(found)
        return found

    def rationale(self, row: Mapping[str, Any], concepts: Sequence[str], question: str, seed: int) -> str:
        """The four parts over what it reads; a kept concept is trusted more than its own reading."""
        return self._write(row, concepts, seed)[0]

    def planted(self, row: Mapping[str, Any], concepts: Sequence[str], seed: int) -> frozenset[str]:
        """The flaws (of `filters.REASONS`) that this text was given on purpose, and should be found."""
        return self._write(row, concepts, seed)[1]

    def _write(self, row: Mapping, concepts: Sequence[str], seed: int) -> tuple[str, frozenset[str]]:
        rng = random.Random(f"rationale/{row['image_id']}/{seed}")
        rates, label, planted = self.rates, row["sub_category"], set()

        def errs(rate: float, flaw: str = "") -> bool:
            happens = rng.random() < rate
            planted.update({flaw} if happens and flaw else ())
            return happens

        analysis = self._analysis(row, concepts, rng)
        others = nearest(self.guide, label, CANDIDATES + 1, rng)
        prediction = others[0] if errs(rates.wrong_prediction, "wrong_prediction") else label
        candidates = [label, *others[:CANDIDATES]]
        if errs(rates.missing_candidate, "label_not_a_candidate"):
            candidates = others
        entries = self.guide["sub_categories"]
        strangers = sorted(n for n in entries if entries[n]["super_category"] != row["super_category"])
        if errs(rates.foreign_candidate if strangers else 0.0, "foreign_candidate"):
            candidates = [*candidates[:-1], rng.choice(strangers)]
        shuffler = _LabelFirst(label, rng) if errs(rates.label_first) else rng
        text = four_parts(analysis, prediction, candidates, self.guide, shuffler)
        if errs(rates.language_slip, "mixed_language"):
            text = text.replace("</analysis>", f" {rng.choice(_SLIPS)}</analysis>")
        if errs(rates.wide_punctuation):
            head, end, rest = text.partition("</analysis>")
            text = head.replace(", ", ",").translate(_WIDE) + end + rest
        if errs(rates.prompt_leak, "prompt_leak"):
            text = text.replace("<analysis>", f"<analysis>{rng.choice(_LEAKS)}")
        if "<analysis></analysis>" in text:  # every attribute was left out
            planted.add("not_well_formed")
        if errs(rates.broken_tag, "not_well_formed"):
            text = text.replace(rng.choice(["</options>", "<comparison>", "</think>"]), "")
        if errs(rates.cut_off, "cut_off"):
            text = text[: rng.randrange(len(text) // 2, len(text))] + CUT_OFF
        return text, frozenset(planted)

    def _analysis(self, row: Mapping, concepts: Sequence[str], rng: random.Random) -> dict[str, str]:
        """Attribute -> value as it is read, or as a concept says; some are left out."""
        analysis = {attribute: value for attribute, value in self._read(row, rng).items()
                    if rng.random() >= self.rates.hidden_attribute}
        for attribute, values in self._values(row["super_category"]).items():
            claims = {claim(attribute, value): value for value in values}
            if trusted := [claims[concept] for concept in concepts if concept in claims]:
                analysis[attribute] = trusted[0]
        return analysis

    def _truth(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The guide's attributes of the row's sub-category, in the guide's order."""
        truth = self.guide["sub_categories"][row["sub_category"]]["attributes"]
        return {attribute: truth[attribute] for attribute in self._values(row["super_category"])}

    def _values(self, super_category: str) -> Mapping[str, Sequence[str]]:
        return self.guide["super_categories"][super_category]["attributes"]

    def _read(self, row: Mapping[str, Any], rng: random.Random) -> dict[str, str]:
        """Every attribute, some misread."""
        return {attribute: self._other_value(row, attribute, rng)
                if rng.random() < self.rates.wrong_attribute else value
                for attribute, value in self._truth(row).items()}

    def _other_value(self, row: Mapping[str, Any], attribute: str, rng: random.Random) -> str:
        """A value that the sub-category does not have."""
        truth, values = self._truth(row)[attribute], self._values(row["super_category"])[attribute]
        return rng.choice([value for value in values if value != truth])


class _LabelFirst:
    """Shuffles, and then puts the label in front: the habit of large teachers."""

    def __init__(self, label: str, rng: random.Random) -> None:
        self._label, self._rng = label, rng

    def shuffle(self, x: list) -> None:
        self._rng.shuffle(x)
        x.sort(key=lambda name: name != self._label)  # stable: the others keep their order


def _phrase(rng: random.Random, attribute: str, value: str) -> str:
    """One attribute in one of several wordings; parts like "wings" are plural."""
    plural = attribute.endswith("s")
    article = "" if plural else "an " if value[0] in "aeiou" else "a "
    is_, look = ("are", "look") if plural else ("is", "looks")
    return rng.choice(_PHRASES).format(value=value, part=attribute, article=article, is_=is_, look=look)
