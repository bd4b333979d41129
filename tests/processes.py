"""States of processes, from Linux's /proc, and waiting for them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], seconds: float, what: str) -> T:
    """Call `condition` until its value is true, and return that value.  Raises TimeoutError after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"after {seconds:g} s still not: {what}")
        time.sleep(0.2)
    return value


def status(process: int) -> str:
    """State of a process: R (runs), S (sleeps), T (stopped by SIGSTOP), Z (ended, not yet waited for), ...

    Empty if there is no such process.
    """
    fields = _fields(process)
    return fields[0] if fields else ""


def parent(process: int) -> int:
    return int(_fields(process)[1])


def lives(process: int) -> bool:
    return status(process) not in ("", "Z")


def _fields(process: int) -> list[str]:
    """Fields of /proc/<process>/stat after the name of the program; empty if there is no such process."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
