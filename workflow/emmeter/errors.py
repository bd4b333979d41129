"""Errors that the user can mend.  Each line of a message names a key or a file, and what was expected."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One setting that cannot be used.  Printed as ``where: key = value: rule``, without the parts that are empty."""

    key: str
    """Dotted name of the setting, such as ``network.blocks``; empty if the rule names it."""
    value: str | None
    """The value as it is shown; None if the key itself is the fault."""
    rule: str
    """What is allowed, or what is wrong and how to mend it."""
    where: str = ""
    """The part of a study that sets the key, such as ``studies.width.arms.w16``; empty for base settings."""

    @property
    def text(self) -> str:
        """The line without `where`: equal for all arms that have the same fault."""
        shown = f"{self.key} = {self.value}" if self.value is not None else self.key
        return f"{shown}: {self.rule}" if shown else self.rule

    def __str__(self) -> str:
        return printable(f"{self.where}: {self.text}" if self.where else self.text)


class SettingsError(ValueError):
    """Settings that are wrong.  The message has one line per fault.

    A text is a fault whose key is part of the text.  Keys may hold characters that break a line: the message shows
    these as escapes.
    """

    def __init__(self, *faults: Fault | str):
        super().__init__(*faults)
        self.faults = tuple(Fault("", None, fault) if isinstance(fault, str) else fault for fault in faults)

    @property
    def lines(self) -> list[str]:
        """One line per fault."""
        return [str(fault) for fault in self.faults]

    def __str__(self) -> str:
        return "\n".join(self.lines)


class DataError(ValueError):
    """Data that are missing, damaged or of another kind than expected.  Each line begins with the name of a file.

    Names may hold characters that break a line: the message shows these as escapes.
    """

    def __init__(self, *lines: str):
        super().__init__(*lines)
        self.lines = [printable(line) for line in lines]

    def __str__(self) -> str:
        return "\n".join(self.lines)


class StageError(RuntimeError):
    """Work that a stage cannot do.  The message is one line that names the file or key and what was expected."""


def lines(error: Exception) -> list[str]:
    """The lines of an error's message; none if the message is empty."""
    return error.lines if isinstance(error, SettingsError | DataError) else str(error).splitlines()


def printable(text: str) -> str:
    """`text` in one line that every terminal can show.

    File names may hold line breaks, or bytes that are no characters; both become escapes.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def reason(error: Exception) -> str:
    """An error of a library in one line without a full stop."""
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__
