"""Text and JSON that a user wrote: whatever keeps it from being read is a ValueError of one line.

Source: our choice.
"""

import json
from pathlib import Path
from typing import Any


def read_text(path: "str | Path") -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        ValueError: a line that is no UTF-8, by its number.
        OSError: missing, a folder, not readable.
    """
    content = Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is no UTF-8: save it as UTF-8, in Excel as CSV UTF-8") from None


def parse_json(text: str) -> Any:
    """The value of a JSON text; nothing of it is lost, and all of it can be written again.

    Raises:
        ValueError: no JSON, a key twice in one object, nested too deeply, or half a sign (a lone surrogate).
    """
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"{max(keys, key=keys.count)!r} stands there twice")
        return found

    try:
        value = json.loads(text, object_pairs_hook=once)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError(r"holds half a sign, as \ud800") from None
    return value
