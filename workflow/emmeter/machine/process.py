"""The process of a job: settings of its memory allocator, and requests to stop."""

import ctypes
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Environment variables of glibc: freed memory stays with the process, instead of being requested again in each step.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(2**26),
}
PR_SET_PDEATHSIG = 1  # of prctl(2)
EXIT_INTERRUPTED = 143  # 128 + SIGTERM: the status that schedulers expect of a job that ended on request


class Interrupted(Exception):
    """The process was asked to end.  What it needs to resume has been saved."""


class Stop:
    """A flag for a request to stop; `set` is a signal handler.

    A threading.Event would not do.  If a second signal arrives while the handler of the first one sets the event, its
    handler waits forever for a lock that its own thread holds.
    """

    def __init__(self) -> None:
        self._asked = False

    def set(self, *_: object) -> None:
        self._asked = True

    def is_set(self) -> bool:
        return self._asked

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for a request to stop; return True if there is one."""
        end = time.monotonic() + seconds
        while not self._asked and (rest := end - time.monotonic()) > 0:
            time.sleep(min(rest, 0.05))
        return self._asked


@contextmanager
def interruptible(saved: str) -> Iterator[Stop]:
    """Give a job the flag that SIGTERM and SIGINT set.  If it ends by Interrupted, the process exits as interrupted.

    Args:
        saved: what a user must know then, unless the exception says something else.
    Raises:
        SystemExit: the job was interrupted; the status is EXIT_INTERRUPTED.
    """
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.set)
    try:
        yield stop
    except Interrupted as error:
        print(f"interrupted: {str(error) or saved}", file=sys.stderr, flush=True)
        sys.exit(EXIT_INTERRUPTED)


def end_with_parent(number: signal.Signals) -> None:
    """Ask Linux to send this process a signal when its parent dies.  Other systems cannot, and nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
