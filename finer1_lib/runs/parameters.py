"""A notebook's parameters cell, read without running it, and the check of given values against it.

papermill injects a misspelt key with no more than a warning, and YAML reads `5e-6` as text. So every value,
from a preset, from `--set` or from papermill's own command line, is checked against the names and types of
the parameters cell, and a mistake is one clear line. papermill's own reader (`inspect_notebook`) is not used:
it skips what is not a plain assignment, which must be refused here because a record has to state every value,
and importing it takes three seconds in every notebook.

    >>> defaults = parse_parameters('seed = 0  # random seed\\nrate = 5.0e-6  # learning rate')
    >>> check_parameters({"rate": 1}, defaults, "params/mine/03_tapo.yaml")
    {'rate': 1.0}
"""

import ast
import difflib
import json
import math
import re
import reprlib
from dataclasses import dataclass
from typing import Any, Iterable, Optional

from finer1_lib.core.errors import UserError

_KINDS = {"bool": bool, "int": int, "float": float, "str": str, "list": list}
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}
_RULES = (  # (in words, test, the parameters of any notebook that it is for); every other number is 0 or more
    ("a number", lambda value: True, "layer layers"),
    ("from 0 to 2147483647", lambda value: 0 <= value < 2**31, "seed"),  # what numpy and torch both take
    ("1 or more", lambda value: value >= 1,
     "images_per_sub_category card_wordings look_steps tell_steps num_shots prototype_images teacher_batch"
     " teacher_max_tokens descriptions_per_focus attempts quality_draws lora_rank lora_alpha cot_epochs"
     " answer_epochs batch_size micro_batch_size checkpoints_every gauge_pictures max_new_tokens"
     " generation_batch_size steps prompts_per_step updates_per_rollout max_sampling_rounds wrong_turn_steps"
     " wrong_turn_prompts samples examples h1_train_images h1_test_images h2_repeats h3_images"),
    ("2 or more", lambda value: value >= 2, "h3_folds"),
    ("above 0", lambda value: value > 0,
     "learning_rate full_learning_rate wrong_turn_learning_rate temperature"),
    ("above 0 and below 1", lambda value: 0 < value < 1, "seen_share train_share"),
    ("above 0 and at most 1", lambda value: 0 < value <= 1, "top_p"),
    ("from 0 to 1", lambda value: 0 <= value <= 1,
     "wrong_attribute hidden_attribute wrong_concept wrong_prediction missing_candidate language_slip"
     " prompt_leak broken_tag cut_off foreign_candidate wide_punctuation label_first noise mask_share"),
)
_BOUNDS = {name: (words, test) for words, test, names in _RULES for name in names.split()}
_BELOW = ": write a plain value there, and put what is computed or run into a cell below the parameters cell"

_PATHS = {  # endings of parameters' names
    **dict.fromkeys(("_root", "_file", "release", "_from"), "path"),
    **dict.fromkeys(("_model", "checkpoint", "encoder"), "checkpoint"),
    "more_models": "entries",
}


def path_kind(name: str) -> str:
    """By a parameter's name: "path" (a file or folder of the user's), "checkpoint" (a folder or a Hub id),
    "entries" (a list of LABEL=CHECKPOINT), or "" for nothing outside the run."""
    return next((kind for ending, kind in _PATHS.items() if name.endswith(ending)), "")


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell: its default, its type, and the comment that explains it."""

    default: Any
    kind: Optional[type]  # bool, int, float, str, list; None where the default None says nothing
    optional: bool = False  # may be None
    item: Optional[type] = None  # of a list's items, where the default shows it
    help: str = ""


def parse_parameters(source: str) -> dict[str, Parameter]:
    """Read lines `name = literal  # help`, annotated or not; UserError for anything else."""
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError) as error:
        fault = f"{error.msg} in line {error.lineno}" if isinstance(error, SyntaxError) else str(error)
        hint = "; a %magic belongs into a cell of its own" if "%" in source else ""
        raise UserError(f"the parameters cell is not Python: {fault}{hint}") from error
    found: dict[str, Parameter] = {}
    lines = source.splitlines()
    for statement in statements:
        text = lines[statement.lineno - 1].partition("#")[0].strip()
        place = f"the parameters cell's line {statement.lineno} ({text[:60]})"
        bare = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if bare or isinstance(statement, (ast.Import, ast.ImportFrom)):
            continue  # a text, or `from typing import Optional`
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, annotation = statement.targets[0], ""
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, annotation = statement.target, ast.unparse(statement.annotation)
        else:
            raise UserError(f"{place} is not `name = value`{_BELOW}")
        try:
            default = ast.literal_eval(statement.value)
            json.dumps(default)  # a record is JSON
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{place} is not a plain value{_BELOW}") from error
        if not isinstance(target, ast.Name):
            raise UserError(f"{place} does not assign one name: write a line for each")
        _, _, help_text = lines[statement.end_lineno - 1][statement.end_col_offset :].partition("#")
        found[target.id] = _parameter(default, annotation, help_text.strip())
    return found


def _parameter(default: Any, annotation: str, help_text: str) -> Parameter:
    optional = annotation.startswith("Optional[")
    inner = annotation.removeprefix("Optional[")[:-1] if optional else annotation
    kind = _KINDS.get(inner.partition("[")[0]) or (type(default) if default is not None else None)
    items = {type(item) for item in default} if isinstance(default, list) else set()
    item = float if items == {int, float} else items.pop() if len(items) == 1 else None
    if kind is list and item is None and "[" in inner:
        item = _KINDS.get(inner.partition("[")[2].removesuffix("]"))
    return Parameter(default, kind, optional or default is None, item, help_text)


def nearest(name: str, known: Iterable[str], words: str = "there are") -> str:
    """The end of a message about an unknown name: the one that was probably meant, or all there are."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f": did you mean {close[0]}?" if close else f": {words} {', '.join(known)}" if known else ""


def from_text(text: str, parameter: Optional[Parameter], where: str) -> Any:
    """A value typed on the command line ("5e-6", "true", "a,b" or "[a, b]") as the parameter's type.

    `parameter` is None for a name that `check_parameters` will refuse; `where` is what a message names.
    """
    check_utf8(str(text), where)
    if parameter is None or parameter.kind is str and not (parameter.optional and text == "null"):
        return text
    if parameter.optional and text == "null":
        return None
    try:
        if parameter.kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if parameter.kind in (int, float):
            return parameter.kind(text)
    except (KeyError, ValueError, TypeError, AttributeError):  # the last two: a list within a list
        raise UserError(f"{where} must be {_WORDS[parameter.kind]}, not {text[:200]!r}") from None
    import yaml
    try:
        if parameter.kind is list:
            items = yaml.load(text if text.startswith("[") else f"[{text}]", Loader=yaml.BaseLoader)
            single = Parameter(None, parameter.item or str)
            return [from_text(item, single, f"{where}[{number}]") for number, item in enumerate(items)]
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"{where}: {text[:200]!r} is not a value: write a list as [a, b]") from None


def check_parameters(given: dict[str, Any], parameters: dict[str, Parameter], where: str) -> dict[str, Any]:
    """The values, whole numbers as floats where the cell has a float; UserError (naming `where`) if wrong.

    Names and types are those of the parameters cell; numbers must be within their bounds.
    """
    for name in given:
        if name not in parameters:
            hint = nearest(name, parameters, "it has")
            raise UserError(f"{where}: the notebook has no parameter {name!r}{hint}")
        if name.endswith("_variable") and not re.fullmatch(r"[A-Z][A-Z0-9_]*|", str(given[name])):
            # a key that was pasted by mistake must not reach a record or a message
            raise UserError(f"{where}: {name} takes the NAME of an environment variable (capitals, digits, "
                            "_), never the secret in it")
    checked = {name: _checked(value, parameters[name], f"{where}: {name}") for name, value in given.items()}
    for name, value in checked.items():
        for item in value if isinstance(value, list) else [value]:
            _check_value(item, name, f"{where}: {name}")
    return checked


def _check_value(value: Any, name: str, where: str) -> None:
    """Refuse a number out of its bounds, and text that is not UTF-8."""
    if isinstance(value, str) and not value.isascii():
        check_utf8(value, where)
    if type(value) in (int, float):
        words, test = _BOUNDS.get(name, ("0 or more", lambda number: number >= 0))
        if value != value or abs(value) == math.inf or not test(value):
            raise UserError(f"{where} must be {words}, not {value!r}")
        if type(value) is int and abs(value) >= 2**31:  # torch and numpy do not count further everywhere
            raise UserError(f"{where} must be at most 2147483647, not {reprlib.repr(value)}")


def check_utf8(text: str, where: str) -> None:
    """Refuse (UserError) text that is not UTF-8, e.g. a folder's name made under another encoding."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{where}: {text!r} is not UTF-8: rename the file or folder") from None


def _checked(value: Any, parameter: Parameter, where: str) -> Any:
    if parameter.kind is None or (value is None and parameter.optional):
        return value
    if parameter.kind is list and isinstance(value, (list, tuple)):
        return [_typed(item, parameter.item, f"{where}[{number}]") for number, item in enumerate(value)]
    return _typed(value, parameter.kind, where)


def _typed(value: Any, kind: Optional[type], where: str) -> Any:
    if kind is None or type(value) is kind:  # `is`: True is not a whole number
        return value
    if kind is float and type(value) is int and abs(value) < 1e300:
        return float(value)
    hint = ""
    if kind in (int, float) and isinstance(value, str):
        try:
            hint = f"; write {_yaml_number(float(value), kind)}"
        except ValueError:
            pass
    elif kind and hasattr(value, "item") or kind is str and hasattr(value, "__fspath__"):  # of numpy, a Path
        hint = f"; write {kind.__name__}(...) around it"
    raise UserError(f"{where} must be {_WORDS.get(kind, kind.__name__)}, not {_shown(value)}{hint}")


def _yaml_number(number: float, kind: type) -> str:
    """A number as YAML reads it back: with a point before the exponent."""
    if kind is int and number.is_integer():
        return str(int(number))
    text = repr(number)
    mantissa, separator, exponent = text.partition("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent)}" if separator else text


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "nothing (null)"
    return f"the text {value!r}" if isinstance(value, str) else reprlib.repr(value)
