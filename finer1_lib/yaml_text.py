"""YAML as people save it: whatever is wrong with a file is one line that names it and says where.

Source: our choice, on PyYAML's SafeLoader.
"""

import re
from pathlib import Path
from typing import Any

from finer1_lib.errors import UserError


def read_yaml(path: Path, where: str) -> Any:
    """The value of a YAML file.

    Args:
        path: the file.
        where: what the message names.

    Raises:
        UserError: it cannot be read, is no UTF-8, or is what `parse_yaml` refuses.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{where} is not UTF-8 (line {line}): save it with the encoding UTF-8") from error
    return parse_yaml(text, where)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Raises:
        UserError: no YAML, a key that stands twice (PyYAML takes the last without a word), or values nested
            too deep to be read.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
            seen: set = set()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    line = key.start_mark.line + 1
                    raise UserError(f"{where} has the key {key.value!r} twice (line {line}): remove one")
                seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
            return super().construct_mapping(node, deep=deep)

        def construct_scalar(self, node: Any) -> Any:
            number = node.tag.endswith((":int", ":float"))
            if number and re.fullmatch(r"[-+]?(0[0-9_]+|.*:.*)", str(node.value)):
                line = node.start_mark.line + 1
                raise UserError(f"{where}: {node.value} (line {line}) is another number in YAML, of base 8 or 60:"
                                " write it without the leading 0 or the colon, or put text into quotes")
            return super().construct_scalar(node)

    try:
        return yaml.load(text, Loader=Loader)
    except RecursionError:
        raise UserError(f"{where} is nested too deep to be read") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist, say
        mark = getattr(error, "problem_mark", None)
        why = getattr(error, "problem", None) or str(error)
        raise UserError(f"{where} is not YAML{f' (line {mark.line + 1})' if mark else ''}: {why}") from error
