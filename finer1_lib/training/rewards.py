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
from typing import Any, Callable, Mapping, Optional, Sequence

from finer1_lib.core.completions import _alone, read_completion, strict, well_formatted

ACCURACY_WEIGHT, FORMAT_WEIGHT = 0.9, 0.1  # [R] config_tapo.yaml, cls_thinking.py


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
