"""Rewards of stage 2: the accuracy reward with its three variants, and the format reward.

    >>> strict("<answer>House Wren, Rock Wren</answer>", "Rock Wren")  # one well-formed answer, the label alone
    0.0
    >>> contains_answer("<answer>House Wren, Rock Wren</answer>", "Rock Wren")
    1.0

Containment, which the paper and the release use, rewards listing every name (reward hacking); it stays a switch
so that the difference can be shown.

Source: Fine-R1 (arXiv 2602.07605), Section 4.2; release TAPO/examples/reward_function/cls_thinking.py:18-54.
"""

import re
from typing import Any, Callable, Mapping, Optional, Sequence

from finer1_lib.core.completions import _alone, read_completion, strict, well_formatted

ACCURACY_WEIGHT, FORMAT_WEIGHT = 0.9, 0.1  # release cls_thinking.py:37, 48


def contains_answer(completion: str, label: str) -> float:
    """1.0 if the FIRST answer (non-greedy) contains the label, case ignored: the release's reward (release
    cls_thinking.py:23-43), which removes white space around `<`, `>` and `/` first; in time linear in the text.
    """
    folded = "".join(map(str.strip, re.split("([<>/])", completion)))
    _, opening, rest = folded.partition("<answer>")
    said, closing, _ = rest.partition("</answer>")
    return float(bool(opening and closing) and label.lower() in said.lower())


def contains_response(completion: str, label: str) -> float:
    """1.0 if the response contains the label anywhere, case ignored: the paper's definition (Section 4.2)."""
    return float(label.lower() in completion.lower())


ACCURACY: Mapping[str, Callable[[str, str], float]] = {
    "strict": strict, "contains_answer": contains_answer, "contains_response": contains_response}


def answer_only_formatted(completion: str) -> float:
    """1.0 for one `<answer>..</answer>`, not empty, and nothing around it: the format of No-Thinking RL. (CLS-RL,
    arXiv 2503.16188, drops its format reward there; keeping it keeps the scale of all rewards equal.)
    """
    reading = read_completion(completion)
    return float(reading.answer is not None and reading.thinking is None and _alone(completion))


FORMATS: Mapping[str, Callable[[str], float]] = {"thinking": well_formatted, "answer_only": answer_only_formatted}


def completion_text(completion: Any) -> str:
    """The text of one completion: a string, or a message list as TRL passes it (text parts joined)."""
    if isinstance(completion, str):
        return completion
    contents = [message["content"] for message in completion]
    return "".join(content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
                   for content in contents)


def accuracy_reward(prompts: Optional[Sequence] = None, completions: Sequence = (),
                    completion_ids: Optional[Sequence] = None, *, sub_category: Sequence[str],
                    accuracy: str = "strict", **columns: Any) -> list[float]:
    """Accuracy of every completion (a string or a message list) by a key of `ACCURACY`; a reward function for
    TRL's GRPOTrainer. `sub_category` has their labels. Raises: ValueError: another number of labels.
    """
    if len(sub_category) != len(completions):
        raise ValueError(f"{len(completions)} completions but {len(sub_category)} labels in `sub_category`")
    judge = ACCURACY[accuracy]
    return [judge(completion_text(c), label) for c, label in zip(completions, sub_category)]


def format_reward(prompts: Optional[Sequence] = None, completions: Sequence = (),
                  completion_ids: Optional[Sequence] = None, *, form: str = "thinking",
                  **columns: Any) -> list[float]:
    """Format of every completion, by a key of `FORMATS`; a reward function for TRL's GRPOTrainer."""
    return [FORMATS[form](completion_text(completion)) for completion in completions]


def reward_functions(accuracy: str = "strict",
                     form: str = "thinking") -> tuple[list[Callable[..., list[float]]], list[float]]:
    """(accuracy and format reward, their weights) as GRPOConfig and GRPOTrainer take them.

    Raises: ValueError: `accuracy` is not a key of `ACCURACY`, or `form` not one of `FORMATS`.
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
