"""Rewards of Stage 2: normalisation, the accuracy reward with its three readings, and the format reward.

The default reading, `strict`, pays for exactly one well-formed answer that equals the label after
normalisation. Containment, which the paper and the release use, pays for listing every name; it stays
available as a switch so that the difference can be shown.

Example:
    >>> strict("<think>..</think><answer>red-winged blackbird</answer>", "Red Winged Blackbird")
    1.0
    >>> strict("<answer>House Wren, Rock Wren</answer>", "Rock Wren")
    0.0
    >>> contains_answer("<answer>House Wren, Rock Wren</answer>", "Rock Wren")
    1.0

Source: METHOD 3 (switch table, reward = 0.9 accuracy + 0.1 format); release:
TAPO/examples/reward_function/cls_thinking.py.
"""

import re
import unicodedata
from functools import lru_cache
from itertools import accumulate, groupby
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

ACCURACY_WEIGHT, FORMAT_WEIGHT = 0.9, 0.1  # [R] config_tapo.yaml, cls_thinking.py
WELL_FORMED = "well_formed"

_APOSTROPHES = re.compile("['’‘ʼʹ`´]")
_JOINERS = re.compile("[-‐‑‒–—−_]")
_SIGNS = "\"'“”„‟‘’‚‛«»‹›「」『』`´*_$"  # quotes, emphasis, and the dollars of a formula
_OPENING = re.compile(rf"(?:[{_SIGNS}\s]+|\\(?:boxed|text\w*|math\w+)\s?\{{)*")
_CLOSING = _SIGNS + "} \t\r\n\xa0"
_ARTICLE = re.compile(r"(?:an?|the)\s", re.IGNORECASE)


@lru_cache(maxsize=4096)  # names come again record after record; prose passes through
def normalise(text: str) -> str:
    """Fold what spellings of one name differ in: case, hyphens, underscores, apostrophes, white space.

    Hyphens and underscores become spaces, apostrophes vanish; every other sign stays.

    Source: METHOD 2 ("normalise hyphens, case and underscores before matching"); apostrophes: our choice.
    """
    text = _APOSTROPHES.sub("", _composed(text).casefold())
    # composed once more: a vanished apostrophe may leave a letter beside its accent
    return " ".join(_JOINERS.sub(" ", _composed(text)).split())


def _composed(text: str) -> str:
    """NFKC. Python orders a run of marks by insertion, quadratic in its length; here they come in order."""
    if not text.isascii():
        signs = (part for sign in text for part in unicodedata.normalize("NFKD", sign))
        runs = (sorted(run, key=unicodedata.combining)
                for _, run in groupby(signs, lambda sign: unicodedata.combining(sign) > 0))
        text = "".join(sign for run in runs for sign in run)
    return unicodedata.normalize("NFKC", text)


def forms(answer: str) -> tuple[str, ...]:
    """An answer as it stands, then ever barer: what is taken off gives nothing away.

    First what stands around it (quotes, stars, underscores, backticks, `\\boxed{}`), then one final stop,
    then an article. Nothing inside it is touched.
    """
    text = _opened(answer).rstrip(_CLOSING)
    whole = text[:-1].rstrip(_CLOSING) if text.endswith((".", "。")) else text
    article = _ARTICLE.match(whole)
    name = _opened(whole[article.end() :]) if article else whole
    has_one = name[:1].isalpha() and len(name) > 1  # "A 380" and "A B" have no article
    return answer, text, whole, name if has_one else whole


def _opened(text: str) -> str:
    return text[_OPENING.match(text).end() :]


def says(answer: str, label: str) -> bool:
    """Whether an answer is the label after normalisation, in one of its `forms`."""
    known = normalise(label)
    return any(normalise(form) == known for form in dict.fromkeys(forms(answer)))


def read_tag(text: str, tag: str) -> tuple[Optional[str], str]:
    """The content of the one `<tag>..</tag>` of a text, or why there is none.

    Returns:
        (content stripped, "well_formed"), else (None, reason): "missing", "empty", "unclosed", "repeated" or
        "nested".
    """
    marks = [match.group() for match in re.finditer(f"</?{re.escape(tag)}>", text)]
    opening, closing = f"<{tag}>", f"</{tag}>"
    if not marks:
        return None, "missing"
    if marks != [opening, closing]:
        pairs = marks == [opening, closing] * (len(marks) // 2)
        if pairs:
            return None, "repeated"
        return None, "nested" if marks.count(opening) == marks.count(closing) and marks[
            0
        ] == opening else "unclosed"
    content = text.split(opening, 1)[1].split(closing, 1)[0].strip()
    return (content, WELL_FORMED) if content else (None, "empty")


class Reading(NamedTuple):
    """A completion taken apart.

    Attributes:
        thinking: what stands in the thinking; None where there is none or its tags are broken.
        before, after: what stands outside it; without thinking all is after.
        answer: the one well-formed answer, else None.
        problem: "well_formed", or why there is no answer: the reasons of `read_tag`, "misplaced" for an
            answer inside or before the thinking, "unclosed" where the thinking's own tags are broken.
    """

    thinking: Optional[str]
    before: str
    after: str
    answer: Optional[str]
    problem: str


@lru_cache(maxsize=16)  # every metric of a record reads it anew
def read_completion(completion: str) -> Reading:
    """The one reading of a completion that the rewards, the scorers and the traces share.

        <think>THINKING</think> <answer>NAME</answer>
        THINKING</think> <answer>NAME</answer>          the chat template opened the thinking
        <answer>NAME</answer>

    Thinking may hold anything, tags of answers and pairs of its own too: what it says is no answer, and only
    what stands outside is looked at. After a thinking that the template opened, the model may have one of its
    own.

    Source: our choice.
    """
    tags = list(re.finditer("</?think>", completion))
    steps = [1 if tag.group() == "<think>" else -1 for tag in tags]
    begun = -sum(steps)  # 1 where the template opened
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
    reading = read_completion(completion)
    return reading.answer, reading.problem


def strict(completion: str, label: str) -> float:
    """1.0 for exactly one well-formed answer that is the label (`says`), else 0.0.

    Source: our choice; the paper asks for the label anywhere in the response (`contains_response`).
    """
    answer, _ = one_answer(completion)
    return float(answer is not None and says(answer, label))


def contains_answer(completion: str, label: str) -> float:
    """1.0 if the FIRST answer (non-greedy) contains the label, case aside: the release's reward.

    White space around `<`, `>` and `/` is folded first, as the release does; in time linear in the text.

    Source: release TAPO/examples/reward_function/cls_thinking.py.
    """
    folded = "".join(map(str.strip, re.split("([<>/])", completion)))
    _, opening, rest = folded.partition("<answer>")
    said, closing, _ = rest.partition("</answer>")
    return float(bool(opening and closing) and label.lower() in said.lower())


def contains_response(completion: str, label: str) -> float:
    """1.0 if the label stands anywhere in the response, case aside: the paper's words.

    Source: METHOD 3, column `paper_text`.
    """
    return float(label.lower() in completion.lower())


ACCURACY: Mapping[str, Callable[[str, str], float]] = {
    "strict": strict,
    "contains_answer": contains_answer,
    "contains_response": contains_response,
}


def _alone(text: str) -> bool:
    """Nothing stands around the answer."""
    return text.strip().startswith("<answer>") and text.strip().endswith("</answer>")


def well_formatted(completion: str) -> float:
    """1.0 for thinking and then one answer, neither empty, nothing around them but white space.

    The thinking's `<think>` may be the chat template's (`read_completion`).

    Source: release, the format reward's pattern; once each and not empty: our choice.
    """
    reading = read_completion(completion)
    whole = reading.answer is not None and (reading.thinking or "").strip() and not reading.before.strip()
    return float(bool(whole) and _alone(reading.after))


def is_target(text: str) -> bool:
    """Whether a text can be trained on: `well_formatted`, and each of the four tags stands in it once."""
    once = all(text.count(mark) == 1 for mark in ("<think>", "</think>", "<answer>", "</answer>"))
    return once and bool(well_formatted(text))


def answer_only_formatted(completion: str) -> float:
    """1.0 for one `<answer>..</answer>`, not empty, and nothing around it: the form of No-Thinking RL.

    Source: METHOD 3 ("No-Thinking RL = the same, answer only"); CLS-RL (arXiv 2503.16188) drops its format
    reward there, ours keeps the scale of both rewards equal.
    """
    reading = read_completion(completion)
    return float(reading.answer is not None and reading.thinking is None and _alone(completion))


FORMATS: Mapping[str, Callable[[str], float]] = {
    "thinking": well_formatted,
    "answer_only": answer_only_formatted,
}


def completion_text(completion: Any) -> str:
    """The text of one completion: a string, or a message list as TRL passes it (text parts joined)."""
    if isinstance(completion, str):
        return completion
    contents = [message["content"] for message in completion]
    parts = [
        [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        for content in contents
    ]
    return "".join(text for part in parts for text in part)


def accuracy_reward(
    prompts: Optional[Sequence] = None,
    completions: Sequence = (),
    completion_ids: Optional[Sequence] = None,
    *,
    sub_category: Sequence[str],
    accuracy: str = "strict",
    **columns: Any,
) -> list[float]:
    """Accuracy of every completion; callable by TRL's GRPOTrainer as a reward function.

    Args:
        prompts: unused; TRL passes them.
        completions: strings or message lists.
        completion_ids: unused; TRL passes them.
        sub_category: the label of each completion (a column of the data set).
        accuracy: a key of `ACCURACY`.
        columns: every other column, unused.

    Raises:
        ValueError: as many labels as completions are not given.
    """
    if len(sub_category) != len(completions):
        raise ValueError(f"{len(completions)} completions but {len(sub_category)} labels in `sub_category`")
    judge = ACCURACY[accuracy]
    return [judge(completion_text(c), label) for c, label in zip(completions, sub_category)]


def format_reward(
    prompts: Optional[Sequence] = None,
    completions: Sequence = (),
    completion_ids: Optional[Sequence] = None,
    *,
    form: str = "thinking",
    **columns: Any,
) -> list[float]:
    """Format of every completion, by a key of `FORMATS`; callable by TRL's GRPOTrainer as a reward."""
    return [FORMATS[form](completion_text(completion)) for completion in completions]


def reward_functions(
    accuracy: str = "strict", form: str = "thinking"
) -> tuple[list[Callable[..., list[float]]], list[float]]:
    """(accuracy and format reward, their weights) as GRPOConfig and GRPOTrainer take them.

    Args:
        accuracy: a key of `ACCURACY`; the reading that the accuracy reward then uses.
        form: a key of `FORMATS`.

    Raises:
        ValueError: another key.

    Source: METHOD 3 [R] (0.9 accuracy + 0.1 format).
    """
    if accuracy not in ACCURACY or form not in FORMATS:
        raise ValueError(f"accuracy reward {accuracy!r}, format {form!r}: of {', '.join(ACCURACY)} and of"
                         f" {', '.join(FORMATS)}")

    def chosen_accuracy_reward(*args: Any, **kwargs: Any) -> list[float]:
        return accuracy_reward(*args, **{**kwargs, "accuracy": accuracy})

    def chosen_format_reward(*args: Any, **kwargs: Any) -> list[float]:
        return format_reward(*args, **{**kwargs, "form": form})

    chosen_accuracy_reward.__name__ = "accuracy_reward"  # TRL's log names the column after the function
    chosen_format_reward.__name__ = "format_reward"
    return [chosen_accuracy_reward, chosen_format_reward], [ACCURACY_WEIGHT, FORMAT_WEIGHT]
