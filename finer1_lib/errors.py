"""The one exception that means "the user can mend this", and what others' errors say in one line."""

import re

# escape sequences of terminals, control signs but tab and line end, half characters
_UNSAFE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]|[\ud800-\udfff]"
)
_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")  # they turn the rest of a line round


def printable(text: str, instead: str = "\ufffd") -> str:
    """A text of somebody else's without what a terminal would obey and no file can hold; CR LF becomes LF."""
    return _UNSAFE.sub(instead, text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """A text for a message: printable, on one line, read from left to right."""
    return " ".join(_DIRECTIONS.sub("", printable(text, " ")).split())


class UserError(Exception):
    """A mistake of the user's: the message is one line saying what is wrong, where, and how to mend it.

    The command line prints it on stderr without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(str(message)))


def first_line(error: BaseException) -> str:
    """What another library's error says first, for a line of our own; its kind where it says nothing."""
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0])
