"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake of the user's: the message is one line saying what is wrong, where, and how to mend it.

    The command line prints it on stderr without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))
