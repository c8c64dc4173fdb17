"""The one exception that means "the user can mend this", and what others' errors say in one line."""

import re


class UserError(Exception):
    """A mistake of the user's: the message is one line saying what is wrong, where, and how to mend it.

    The command line prints it on stderr without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(str(message).split())))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows below the cell: the line alone, as the command does."""
        return [f"{type(self).__name__}: {self}"]


def printable(text: str) -> str:
    """A text for a terminal or a file: control signs, signs that turn the direction and bytes that are no
    UTF-8 (a file's name may hold them) as escapes."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def first_line(error: BaseException) -> str:
    """What another library's error says first, for a line of our own; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # in a label it would reach terminals and break tables
