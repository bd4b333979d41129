"""Processes as Linux tells of them in /proc, and waiting for what they do."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], seconds: float, what: str) -> T:
    """The first true value of `condition`, asked again and again.  Raises TimeoutError after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"after {seconds:g} s still not: {what}")
        time.sleep(0.2)
    return value


def status(process: int) -> str:
    """R (runs), S (sleeps), T (stopped by SIGSTOP), Z (has ended, nobody has asked how), ...; "" if there is none."""
    fields = _fields(process)
    return fields[0] if fields else ""


def parent(process: int) -> int:
    return int(_fields(process)[1])


def lives(process: int) -> bool:
    return status(process) not in ("", "Z")


def _fields(process: int) -> list[str]:
    """What follows the name of the program."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
