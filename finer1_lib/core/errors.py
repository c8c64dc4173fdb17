"""The one exception that means "the user can fix this", and other errors in one line."""

import re


class UserError(Exception):
    """A user's mistake, in one line: what is wrong, where, and how to fix it; the command exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(str(message).split())))

    def _render_traceback_(self) -> list[str]:
        """A notebook shows the line alone, without a traceback."""
        return [f"{type(self).__name__}: {self}"]


def printable(text: str) -> str:
    """A text for a terminal or a file: control and direction characters, and bytes that are not UTF-8, as
    escapes."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def first_line(error: BaseException) -> str:
    """The first line of another library's error, or its type where it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # in a label it would reach terminals and break tables
