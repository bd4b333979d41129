"""Run a command of the user's to its end, and say in one line why it failed."""

import contextlib
import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from emmeter.errors import StageError, printable
from emmeter.machine.process import Interrupted, Stop
from emmeter.machine.slots import LOCKS
from emmeter.machine.supervise import environment

GRACE = 25.0  # seconds to save a state after SIGTERM; SLURM itself waits 30
INTERRUPTED = 128 + signal.SIGTERM  # status of a command that has ended on request, before it was finished
LINES, WIDTH = 3, 400  # of its output that an error repeats, and the characters of these
POLL = 0.1  # seconds between two looks at `stop`


def missing(program: str) -> str | None:
    """Why a program cannot be run on this machine, in a few words; None if it can."""
    if shutil.which(program, path=environment().get("PATH")) is not None:
        return None
    what = "may not be run" if "/" in program and Path(program).is_file() else "is not there"
    return f"the program {program!r} {what}: must be a program of this machine"


def run(
    words: Sequence[str], stop: Stop, *, grace: float = GRACE, show: Callable[[bytes], object] | None = None
) -> None:
    """Run a command, and end everything that it has started with it.

    Args:
        words: the command; it runs without a shell, in the working directory.
        stop: asks for the end of the command.
        grace: seconds that it then has.
        show: receives its output; by default it goes to standard output.
    Raises:
        Interrupted: `stop` was set, or the command has ended on SIGTERM.
        StageError: it cannot be started, or it has failed.
    """
    if fault := missing(words[0]):
        raise StageError(f"model.command: {fault}")
    output = b""
    reader, writer = os.pipe()
    with open(reader, "rb") as answers:
        with open(writer, "wb") as written:
            supervisor = _start(words, grace, written.fileno())
        assert supervisor.stdout is not None
        asked = False
        with supervisor.stdout as stream:
            while True:
                if stop.is_set() and not asked:
                    asked = True
                    supervisor.terminate()
                if not select.select([stream], [], [], POLL)[0]:
                    continue
                if not (chunk := os.read(stream.fileno(), 65536)):
                    break
                output = (output + chunk)[-8192:]
                (show or _print)(chunk)
        supervisor.wait()
        answer = json.loads(answers.read() or "{}")
    if asked or stop.is_set():
        raise Interrupted
    if "error" in answer:
        raise StageError(f"model.command: {words[0]!r} cannot be started: {answer['error']}")
    status = answer.get("status", -int(signal.SIGKILL))
    if status in (INTERRUPTED, -signal.SIGTERM):
        raise Interrupted
    if status:
        ended = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        raise StageError(f"model.command: {shlex.join(words[:2])} has ended {ended}{_last(output)}")
    if answer["left"]:
        left = f"{answer['left']} of its processes outlived it and were ended"
        print(f"warning: model.command: {left}", file=sys.stderr, flush=True)


def _start(words: Sequence[str], grace: float, descriptor: int) -> "subprocess.Popen[bytes]":
    """Start the supervisor of a command, which answers on a descriptor and shares the locks of the job's GPUs."""
    locks = [int(lock) for lock in os.environ.get(LOCKS, "").split(",") if lock]
    return subprocess.Popen(
        [sys.executable, "-m", "emmeter.machine.supervise", str(grace), str(os.getpid()), str(descriptor), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that it receives signals from this process alone
        pass_fds=[descriptor, *locks],
    )


def _print(chunk: bytes) -> None:
    with contextlib.suppress(ValueError):  # a stream that a test has replaced
        sys.stdout.write(chunk.decode(errors="replace"))
        sys.stdout.flush()


def _last(output: bytes) -> str:
    """The last lines of an output, for the end of a line; its bars of progress are overwritten lines."""
    lines = output.decode(errors="replace").replace("\r", "\n").splitlines()
    said = [text for line in lines if (text := printable(line.strip()))][-LINES:]
    text = " | ".join(said)
    return f": {text if len(text) <= WIDTH else '...' + text[-WIDTH:]}" if text else ", without a word"
