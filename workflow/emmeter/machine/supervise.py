"""A command and everything that it starts, as one unit: it ends as a whole, and never outlives the job.

``python -m emmeter.machine.supervise GRACE PARENT STATUS WORD...`` runs a command.  This process adopts the processes
whose parents die, such as the workers of a launcher, so it can find and end all of them.  It ends them when

- the command has ended, because nobody would wait for them;
- it receives SIGTERM or SIGINT: it hands SIGTERM on, and kills after GRACE seconds what is still there;
- its own parent dies, even by SIGKILL, of which Linux informs it.

It writes one line of JSON to the descriptor STATUS: ``{"status": ..., "left": ...}``, the exit status of the command
(negative for a signal) and the number of processes that had to be ended, or ``{"error": ...}`` if it cannot start.
Only the standard library is imported, because each run starts this module.  On other systems than Linux it ends the
process group of the command.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from emmeter import project
from emmeter.machine.process import Stop, end_with_parent

PR_SET_CHILD_SUBREAPER = 36  # of prctl(2)
TICK = 0.05  # seconds between two looks at the processes
LAST = 2.0  # seconds for processes that outlive their command to end by themselves


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a command: that of the job, without what serves the Python of the pipeline alone.

    With PYTHONSAFEPATH, for example, a script would not find the modules beside it.
    """
    own = project.child_environment()
    kept = {name: value for name, value in environ.items() if name not in own and not name.startswith("EMM_")}
    path = own["PYTHONPATH"].split(os.pathsep)[1:]
    return kept | ({"PYTHONPATH": os.pathsep.join(path)} if path else {})


def adopt() -> None:
    """Become the parent of all descendants whose own parent dies; on other systems than Linux nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def descendants(root: int) -> list[int]:
    """Ids of the living processes below `root`; empty where the system has no /proc."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                state, parent = file.read().rpartition(b") ")[2].split()[:2]
                if state not in (b"Z", b"X"):
                    parents[int(name)] = int(parent)
    found, front = [], [root]
    while front:
        front = [child for child, parent in parents.items() if parent in front]
        found += front
    return found


def send(number: signal.Signals, group: int) -> None:
    """Send a signal to the process group of the command and to all descendants of this process."""
    with contextlib.suppress(OSError):
        os.killpg(group, number)
    for process in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            os.kill(process, number)


def reap(status: dict[int, int]) -> None:
    """Collect the statuses of children that have ended, by their ids."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            status[ended[0]] = os.waitstatus_to_exitcode(ended[1])


def finish(group: int, status: dict[int, int], seconds: float) -> int:
    """Wait some seconds for what is left of a command, then kill it; return the number of processes killed."""
    end = time.monotonic() + seconds
    while (left := descendants(os.getpid())) and time.monotonic() < end:
        time.sleep(TICK)
        reap(status)
    killed = len(left)
    while descendants(os.getpid()):  # again, because a process may start another one meanwhile
        send(signal.SIGKILL, group)
        time.sleep(TICK)
        reap(status)
    return killed


def run(words: Sequence[str], grace: float, stop: Stop) -> tuple[int, int]:
    """Run a command to its end, and end everything that it has started.

    Args:
        grace: seconds between SIGTERM and SIGKILL after a request to stop.
        stop: asks for the end.
    Returns:
        Exit status of the command, negative for a signal, and the number of processes that were killed after it.
    Raises:
        OSError: the command cannot be started.
    """
    process = subprocess.Popen(
        words, env=environment(), start_new_session=True, preexec_fn=lambda: end_with_parent(signal.SIGKILL)
    )
    status: dict[int, int] = {}
    asked = None
    while process.pid not in status:
        if stop.is_set() and asked is None:
            asked = time.monotonic()
            send(signal.SIGTERM, process.pid)
        if asked is not None and time.monotonic() - asked > grace:
            send(signal.SIGKILL, process.pid)
        time.sleep(TICK)
        reap(status)
    process.returncode = status[process.pid]  # it has been collected, so that Popen does not wait for it
    rest = LAST if asked is None else max(grace - (time.monotonic() - asked), 0.0)
    return process.returncode, finish(process.pid, status, rest)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line that the module describes."""
    grace, parent, descriptor, *words = sys.argv[1:] if argv is None else argv
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.set)
    end_with_parent(signal.SIGTERM)
    adopt()
    if os.getppid() != int(parent):  # it died before it could be watched
        return
    os.set_inheritable(int(descriptor), False)
    try:
        status, left = run(words, float(grace), stop)
        answer = {"status": status, "left": left}
    except (OSError, ValueError) as error:
        answer = {"error": getattr(error, "strerror", None) or str(error)}
    with contextlib.suppress(OSError):
        os.write(int(descriptor), json.dumps(answer).encode())


if __name__ == "__main__":
    main()
