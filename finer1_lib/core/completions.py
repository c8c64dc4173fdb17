"""The format of a completion and the comparison of names, shared by rewards, scorers and traces.

    <think>THINKING</think> <answer>NAME</answer>
    THINKING</think> <answer>NAME</answer>          the chat template opened the thinking
    <answer>NAME</answer>

`strict` asks for one well-formed answer that is the label and nothing else. Fine-R1 (arXiv 2602.07605)
accepts the label anywhere in the response, its release anywhere in the answer.

Source: release TAPO/examples/reward_function/cls_thinking.py:18-34 (format and accuracy rewards).
"""

import re
import unicodedata
from functools import lru_cache
from itertools import accumulate, groupby
from typing import NamedTuple, Optional

WELL_FORMED = "well_formed"
_APOSTROPHES = re.compile("['’‘ʼʹ`´]")
_JOINERS = re.compile("[-‐‑‒–—−_]")
_SIGNS = "\"'“”„‟‘’‚‛«»‹›「」『』`´*_$"  # quotes, emphasis, and the dollars of a formula
_OPENING = re.compile(rf"(?:[{_SIGNS}\s]+|\\(?:boxed|text\w*|math\w+)\s?\{{)*")
_CLOSING = _SIGNS + "} \t\r\n\xa0"
_LEADING_ARTICLE = re.compile(r"(?:an?|the)\s", re.IGNORECASE)


@lru_cache(maxsize=4096)  # names come again record after record; prose passes through
def normalise(text: str) -> str:
    """Fold the spellings of a name: case and space; hyphens and underscores to spaces; no apostrophes."""
    text = _APOSTROPHES.sub("", _composed(text).casefold())
    # composed once more: a removed apostrophe may leave a letter beside its accent
    return " ".join(_JOINERS.sub(" ", _composed(text)).split())


def _composed(text: str) -> str:
    """NFKC with sorted marks: Python sorts a run of marks by insertion, quadratic in its length."""
    if not text.isascii():
        signs = (part for sign in text for part in unicodedata.normalize("NFKD", sign))
        runs = (sorted(run, key=unicodedata.combining)
                for _, run in groupby(signs, lambda sign: unicodedata.combining(sign) > 0))
        text = "".join(sign for run in runs for sign in run)
    return unicodedata.normalize("NFKC", text)


def forms(answer: str) -> tuple[str, ...]:
    """An answer unchanged, without its wrapping (quotes, stars, backticks, `\\boxed{}`), without one final
    stop, and without an article; nothing inside it is changed."""
    text = _opened(answer).rstrip(_CLOSING)
    whole = text[:-1].rstrip(_CLOSING) if text.endswith((".", "。")) else text
    article = _LEADING_ARTICLE.match(whole)
    name = _opened(whole[article.end() :]) if article else whole
    has_one = name[:1].isalpha() and len(name) > 1  # "A 380" and "A B" have no article
    return answer, text, whole, name if has_one else whole


def _opened(text: str) -> str:
    return text[_OPENING.match(text).end() :]


def says(answer: str, label: str) -> bool:
    """Whether one of an answer's `forms` is the label after normalisation."""
    known = normalise(label)
    return any(normalise(form) == known for form in dict.fromkeys(forms(answer)))


def read_tag(text: str, tag: str) -> tuple[Optional[str], str]:
    """(stripped content, "well_formed") of the one `<tag>..</tag>` of a text, else (None, reason): "missing",
    "empty", "unclosed", "repeated" or "nested"."""
    marks = [match.group() for match in re.finditer(f"</?{re.escape(tag)}>", text)]
    opening, closing = f"<{tag}>", f"</{tag}>"
    if not marks:
        return None, "missing"
    if marks != [opening, closing]:
        if marks == [opening, closing] * (len(marks) // 2):
            return None, "repeated"
        balanced = marks.count(opening) == marks.count(closing) and marks[0] == opening
        return None, "nested" if balanced else "unclosed"
    content = text.split(opening, 1)[1].split(closing, 1)[0].strip()
    return (content, WELL_FORMED) if content else (None, "empty")


class Reading(NamedTuple):
    """The parts of a completion."""

    thinking: Optional[str]  # None without thinking, or where its tags are broken
    before: str  # the text around the thinking; without thinking all is after
    after: str
    answer: Optional[str]  # the one well-formed answer
    # "well_formed", or why there is no answer: the reasons of `read_tag`, "misplaced" for an answer inside or
    # before the thinking, "unclosed" where the thinking's own tags are broken
    problem: str


@lru_cache(maxsize=16)  # every metric of a record reads it again
def read_completion(completion: str) -> Reading:
    """Split a completion into thinking and answer.

    The thinking may hold anything, also tags of answers and pairs of its own; only what is outside counts as
    the answer. After thinking that the chat template opened, the model may add a pair of its own.
    """
    tags = list(re.finditer("</?think>", completion))
    steps = [1 if tag.group() == "<think>" else -1 for tag in tags]
    begun = -sum(steps)  # 1 where the chat template opened the thinking
    depths = list(accumulate(steps, initial=begun))
    broken = begun not in (0, 1) or min(depths) < 0 or depths[1:].count(0) > 1 + begun
    if broken or (begun and completion.lstrip().startswith("<think>")):
        problem = read_tag(completion, "answer")[1]
        return Reading(None, "", completion, None, "unclosed" if problem == WELL_FORMED else problem)
    opening = [tag for tag, depth in zip(tags, depths) if depth == 0]
    closing = [tag for tag, depth in zip(tags, depths[1:]) if depth == 0]
    thinking, before, after = None, "", completion
    if closing:
        after = completion[closing[-1].end() :]
        thinking = completion[opening[0].end() if opening else 0 : closing[-1].start()]
        before = completion[closing[0].end() if begun else 0 : opening[0].start()] if opening else ""
    answer, problem = read_tag(after, "answer")
    stray = read_tag(before, "answer")[1] != "missing"
    if stray or (problem == "missing" and "<answer>" in (thinking or "")):
        answer, problem = None, "repeated" if problem == WELL_FORMED else "misplaced"
    return Reading(thinking, before, after, answer, problem)


def one_answer(completion: str) -> tuple[Optional[str], str]:
    """(answer, problem) of `read_completion`."""
    return read_completion(completion)[3:]


def strict(completion: str, label: str) -> float:
    """1.0 for exactly one well-formed answer that is the label (`says`), else 0.0."""
    answer, _ = one_answer(completion)  # cls_thinking.py:25 takes the first pair of tags
    return float(answer is not None and says(answer, label))


def _alone(text: str) -> bool:
    """Nothing but the answer's tags and what is between them."""
    return text.strip().startswith("<answer>") and text.strip().endswith("</answer>")


def well_formatted(completion: str) -> float:
    """1.0 for thinking and then one answer, neither empty, nothing around them but white space.

    The release's pattern (TAPO/examples/reward_function/cls_thinking.py:19) also accepts empty and repeated
    tags.
    """
    reading = read_completion(completion)
    whole = reading.answer is not None and (reading.thinking or "").strip() and not reading.before.strip()
    return float(bool(whole) and _alone(reading.after))


def is_target(text: str) -> bool:
    """Whether a text can be trained on: `well_formatted`, with each of the four tags once."""
    once = all(text.count(mark) == 1 for mark in ("<think>", "</think>", "<answer>", "</answer>"))
    return once and bool(well_formatted(text))
