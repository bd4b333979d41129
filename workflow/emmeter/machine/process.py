"""A job's process: its memory allocator, and how it is asked to end."""

import ctypes
import signal
import sys
import time

ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(2**26),
}
PR_SET_PDEATHSIG = 1  # of prctl(2)


class Stop:
    """Whether this process has been asked to stop; `set` is a signal handler.

    A threading.Event is none: a second signal that comes while the first one sets it waits for a lock that its own
    thread holds, for ever.
    """

    def __init__(self) -> None:
        self._asked = False

    def set(self, *_: object) -> None:
        self._asked = True

    def is_set(self) -> bool:
        return self._asked

    def wait(self, seconds: float) -> bool:
        """Wait until asked to stop, at most so long; whether it has been."""
        end = time.monotonic() + seconds
        while not self._asked and (rest := end - time.monotonic()) > 0:
            time.sleep(min(rest, 0.05))
        return self._asked


def end_with_parent(number: signal.Signals) -> None:
    """Let this process get a signal when the one that has started it dies; on Linux, elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
