"""Stages in processes that start at once, forked from a server that has imported all modules.

A kill then meets a stage at its work and hardly ever at its imports.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from emmeter.training import loop
from one_run import call

PRELOADED = [
    "one_run",
    "torch._dynamo",
    "emmeter.stages.subset",
    "emmeter.stages.train",
    "emmeter.stages.sample",
    "emmeter.stages.score",
    "emmeter.stages.emm",
]
PRELOADED += [
    "emmeter.stages.study",
    "emmeter.stages.figures",
    "emmeter.stages.summary",
    "emmeter.stages.findings_table",
]

Sabotage = Callable[[], None]  # called in the process before its stage starts; must be a function of a module


@dataclass(frozen=True)
class Ended:
    """End of a stage: exit status (minus the number of the signal that killed it), output and seconds."""

    status: int
    output: str
    seconds: float


@dataclass(frozen=True)
class Forked:
    """A running stage, which writes its output to a file."""

    process: ForkServerProcess
    log: Path
    started: float

    def wait(self, seconds: float = 120.0) -> Ended | None:
        """Wait for the end of the stage; None if the stage still runs after so many seconds."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            return None
        return Ended(self.process.exitcode, self.log.read_text(), time.monotonic() - self.started)

    def end(self) -> Ended:
        ended = self.wait()
        assert ended is not None, f"still runs after two minutes: {self.log.read_text()}"
        return ended

    def kill(self) -> Ended:
        """Send SIGKILL.  A stage that has ended by itself keeps its status."""
        if self.process.pid is not None and self.process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):  # the stage has ended meanwhile
                os.kill(self.process.pid, signal.SIGKILL)
        return self.end()


def server() -> multiprocessing.context.ForkServerContext:
    """Context of the server of this test session, which the first process starts."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def start(log: Path, arguments: list[str], sabotage: Sabotage | None = None) -> Forked:
    """Start ``python -m arguments`` as a process of the server, writing its output to `log`."""
    log.unlink(missing_ok=True)
    process = server().Process(target=_child, args=(log, arguments, sabotage), daemon=True)
    process.start()
    while not log.exists() and process.exitcode is None:  # until the process has been forked
        time.sleep(0.001)
    return Forked(process, log, time.monotonic())


def _child(log: Path, arguments: list[str], sabotage: Sabotage | None) -> None:
    importlib.import_module(arguments[0])
    loop.SAVING = float("inf")  # states are saved as often as a test asks, so that its kills and faults meet them
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    if sabotage is not None:
        sabotage()
    sys.exit(call(*arguments))
