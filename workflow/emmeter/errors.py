"""Errors that a user can mend.  Each line of a message names a key or a file, and what was expected."""


class SettingsError(ValueError):
    """The configuration is wrong.  Each line of the message names one key, its value and what is allowed.

    Given are the lines; characters that would break one, which a key may hold, are written as escapes.
    """

    def __init__(self, *lines: str):
        super().__init__("\n".join(map(printable, lines)))


class DataError(ValueError):
    """Data are missing, damaged or of another kind than expected.  Each line begins with the file's name.

    Given are the lines; characters that would break one, which a name may hold, are written as escapes.
    """

    def __init__(self, *lines: str):
        super().__init__("\n".join(map(printable, lines)))


class StageError(RuntimeError):
    """A stage cannot do its work; the message is one line that names the file or key and what was expected."""


def printable(text: str) -> str:
    """A text in one line that any terminal can show: names of files may hold line breaks, or bytes of no character."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def reason(error: Exception) -> str:
    """An error of a library in one line without a full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
