"""Prompts that the user points to: the release's own, or a YAML file of templates; nothing is executed.

The kit's wordings are in `finer1_lib.core.prompts`. Another wording is not retyped here but read from its
file, and takes the place of the kit's prompt of the same name:

    checkout of the release     eval/evaluation.py  -> cot_closed, cot_open
                                cls_thinking.jinja  -> tapo_open (the wording that its TAPO trains under)
    cls_thinking.jinja alone                        -> cot_open
    my_prompts.yaml             answer_open: "{question} Only the name, in <answer></answer>."
"""

import ast
import re
import string
from pathlib import Path
from typing import Any

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import parse_yaml
from finer1_lib.core.prompts import Prompt

NAMES = ("cot_open", "cot_closed", "answer_open", "answer_closed", "step_open", "step_closed", "letter_open",
         "letter_closed", "tapo_open")
EVALUATION_FILE = "eval/evaluation.py"
TRAINING_FILE = "TAPO/examples/format_prompt/cls_thinking.jinja"
_CONTENT = re.compile(r"\{\{-?\s*content\s*(?:\|\s*trim\s*)?-?\}\}")
_FIELDS = {"Question": "{question}", "Options": "{options_list}"}


def read_prompts(source: "str | Path") -> dict[str, Prompt]:
    """The prompts of a checkout, of its evaluation.py, of a .jinja file or of a YAML file {name: template}.

    {name: prompt}, of `NAMES`, to be used in place of the kit's; their hashes differ.
    Raises: UserError: nothing there, an unknown name, a template with unknown fields, or one for the closed
    world that shows no options (or the other way round).
    """
    path = Path(source).expanduser()
    if not path.is_dir() and not path.is_file():
        raise UserError(f"prompts_from: {path} is neither a file nor a folder; give a checkout of the release, its "
                        "evaluation.py or .jinja file, or a YAML file {name: template}")
    readers = {".py": _of_python, ".jinja": _of_jinja, ".j2": _of_jinja, ".yaml": _of_yaml, ".yml": _of_yaml}
    reader = _of_checkout if path.is_dir() else readers.get(path.suffix)
    if reader is None:
        raise UserError(f"prompts_from: {path}: not a .py, .jinja or .yaml file")
    prompts = {name: Prompt(name, template) for name, template in reader(path).items()}
    for name, prompt in prompts.items():
        closed = name.endswith("_closed")
        problems = {"must have the field {question} once": prompt.template.count("{question}") != 1,
                    f"must {'' if closed else 'not '}show {'{options}' if closed else 'options'}":
                        prompt.takes_options != closed}
        if problem := next((problem for problem, there in problems.items() if there), ""):
            raise UserError(f"{path}: prompt {name!r} {problem}; fix it there")
    return prompts


def _of_checkout(folder: Path) -> dict[str, str]:
    """What a checkout holds; the evaluation's prompts must be there, the training's may."""
    evaluation = folder / EVALUATION_FILE
    if not evaluation.is_file():
        raise UserError(f"prompts_from: {folder} has no {EVALUATION_FILE}; give a checkout of the release")
    training = folder / TRAINING_FILE
    return {**_of_python(evaluation), **(_of_jinja(training, "tapo_open") if training.is_file() else {})}


def _of_python(path: Path) -> dict[str, str]:
    """The texts with {Question} that are assigned to a name: with {Options} closed world, without open."""
    try:
        tree = ast.parse(_text(path))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not Python ({error}); give the release's evaluation.py") from None
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            fields = _template(node.value.value) if isinstance(node.value, ast.Constant) else ""
            if "{question}" not in fields:
                continue
            name = "cot_closed" if "{options_list}" in fields else "cot_open"
            if found.setdefault(name, fields) != fields:
                raise UserError(f"{path}: two prompts for {name}; put the one you mean into a YAML file")
    if len(found) != 2:
        raise UserError(f"{path}: found prompts for {', '.join(found) or 'nothing'}, not for cot_open and "
                        "cot_closed; give the release's evaluation.py")
    return found


def _template(text: Any) -> str:
    """A text for `str.format` with the release's fields, as one of ours; "" if it is no such text."""
    try:
        return "".join(literal + (_FIELDS[field] if field is not None else "")
                       for literal, field, _, _ in string.Formatter().parse(text))
    except (ValueError, KeyError, TypeError):
        return ""


def _of_jinja(path: Path, name: str = "cot_open") -> dict[str, str]:
    """The one-field template; the trainer strips it, as here."""
    text, count = _CONTENT.subn("{question}", _text(path).strip())
    if count != 1 or "{{" in text or "{%" in text:
        raise UserError(f"{path}: more than one field {{{{ content }}}}; write it into a YAML file by hand")
    return {name: text}


def _of_yaml(path: Path) -> dict[str, str]:
    found = parse_yaml(_text(path), str(path))
    if not isinstance(found, dict) or not found or not all(isinstance(text, str) for text in found.values()):
        raise UserError(f"{path}: give lines `name: \"template\"`, names of {', '.join(NAMES)}")
    if unknown := [name for name in found if name not in NAMES]:
        raise UserError(f"{path}: {unknown[0]!r} is no prompt; there are {', '.join(NAMES)}")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
