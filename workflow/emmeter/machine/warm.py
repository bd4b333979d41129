"""Stages that start with torch loaded: ``python -m emmeter.machine.warm emmeter.stages.train OPTIONS`` runs a stage.

Importing torch takes a second, and a study of small networks starts hundreds of processes that do nothing longer.  So
the first stage of a workflow leaves a *server* behind, a process that has imported what the stages need; each stage is
a copy of it (fork), made in milliseconds.  The process that was started stays while its copy works: signals that it
gets go on to the copy, the copy is killed when it dies, and it ends with the copy's status.

A workflow asks for this by a name in the environment variable EMM_WARM (`fresh_name`).  Without it, where its user has
set it to "off", and where anything is in the way, the stage runs in the process that was started.  The server belongs
to one workflow and ends with it.  It computes nothing and never initializes a GPU, which a copy could not use.

Nothing heavy is imported here: that is what this module is for.
"""

import contextlib
import gc
import importlib.util
import json
import os
import runpy
import secrets
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from emmeter.machine.slots import LOCKS

VARIABLE, OFF = "EMM_WARM", "off"
MOST_LOCKS = 64  # GPUs that one stage may have
PRELOADED = ("emmeter.stages.train", "emmeter.stages.sample")
FORWARDED = (signal.SIGTERM, signal.SIGINT)
STARTED = b"+"  # the first answer: the stage is taken over
LARGEST = 2**17  # bytes of a request: what every system takes in one message
PATIENCE = 10.0  # seconds for a server to be reached, or for a request to arrive


def fresh_name() -> str:
    """A value of VARIABLE for the workflow that this process runs; OFF if the user has said so, or the system lacks
    what it takes."""
    if os.environ.get(VARIABLE) == OFF or sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return OFF
    return f"{os.getpid()}-{secrets.token_hex(8)}"


def main() -> None:
    # torch brings a million objects that stay; garbage collection while they come took a sixth of a stage's start-up.
    gc.set_threshold(100_000, 50, 50)  # what stages compute leaves no cycles
    if sys.argv[1:2] == ["--serve"]:
        if (request := serve(sys.argv[2])) is not None:
            become(request)
        os._exit(0)  # at once: taking Python apart, with all that torch has brought, takes half a second
    module, *options = sys.argv[1:] or [""]
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # its package is unknown, or there is no name
        found = None
    if found is None:
        sys.exit(
            f"error: {module!r} is no module; expected: python -m emmeter.machine.warm emmeter.stages.train OPTIONS"
        )
    status = ask(os.environ.get(VARIABLE, ""), module, options)
    if status is None:
        sys.argv = [module, *options]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit(status)


# ---- the process that was started


def ask(name: str, module: str, options: list[str]) -> int | None:
    """Let the server of a workflow run a stage, and return its exit status; None where no server can."""
    if name in ("", OFF) or module not in PRELOADED:
        return None
    request = {"module": module, "options": options, "folder": os.getcwd(), "environment": dict(os.environ)}
    content = json.dumps(request).encode()
    if len(content) > LARGEST:
        return None
    server = _connect(name)
    if server is None:
        return None
    with server:
        try:
            locks = [int(lock) for lock in os.environ.get(LOCKS, "").split(",") if lock]
            socket.send_fds(server, [content], [0, 1, 2, *locks])
            if server.recv(1) != STARTED:
                return None
        except (OSError, ValueError):  # also locks that are none
            return None

        def forward(number: int, _: object) -> None:
            with contextlib.suppress(OSError):  # the copy has just ended
                server.send(bytes([number]))

        for number in FORWARDED:
            signal.signal(number, forward)
        with contextlib.suppress(OSError):
            if answer := server.recv(4):
                return struct.unpack("i", answer)[0]
    print(f"error: {module}: was killed, with the process that watches it; the same command resumes", file=sys.stderr)
    return 1


def _connect(name: str) -> socket.socket | None:
    """A connection to the server of this name, which is started where there is none."""
    end, launched = time.monotonic() + PATIENCE, None
    while time.monotonic() < end:
        gone = launched is not None and launched.poll() is not None  # another was faster, or the workflow has ended
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(_address(name))
            if _user(connection) == os.geteuid():
                return connection
            connection.close()
            return None
        except ConnectionRefusedError:
            connection.close()
        except OSError:
            connection.close()
            return None
        if gone:
            return None
        if launched is None:
            nowhere: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
            command = [sys.executable, "-m", "emmeter.machine.warm", "--serve", name]
            # One thread: a process that has several cannot be copied.  A copy sets the number of its own.
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            try:
                launched = subprocess.Popen(command, env=environment, cwd="/", start_new_session=True, **nowhere)
            except OSError:
                return None
        time.sleep(0.01)
    return None


def _address(name: str) -> str:
    """A name among Linux's abstract sockets: no file to leave behind."""
    return f"\0emm-warm-{name}"


def _user(connection: socket.socket) -> int:
    """The user at the other end: abstract sockets have no permissions."""
    content = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", content)[1]


# ---- the server


@dataclass(frozen=True)
class Request:
    """A stage to run in the place of the process that asks for it."""

    module: str
    options: list[str]
    folder: str
    environment: dict[str, str]
    descriptors: list[int]  # its standard input, output and error, and its locks


def serve(name: str) -> Request | None:
    """Copy this process for each request until the workflow has ended.  Returns many times:

    in every copy with its request; in the server at its end, or at once where another has the name, with None.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(_address(name))
        workflow = os.pidfd_open(int(name.partition("-")[0]))
    except OSError:  # another server has the name, or nobody needs one any more
        return None
    listener.listen(128)  # stages wait from here on, and no longer than if they imported themselves
    for module in PRELOADED:
        importlib.import_module(module)
    from emmeter.command import legible

    for stream in (sys.stdout, sys.stderr):  # here, as a copy's may be pipes, in which Python would look for its place
        legible(stream)
    gc.freeze()  # the collector would write into memory that all copies share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a supervisor
    while workflow not in select.select([listener, workflow], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            os.close(workflow)
            return supervise(connection)
        connection.close()
    return None


def supervise(client: socket.socket) -> Request | None:
    """Make the copy that a process asks for, and stand between the two.  Returns the request in the copy.

    The supervisor is a process of its own, so that the server has nothing to remember, and may end before a copy does.
    It returns None when the copy has ended, or could not be made.
    """
    from emmeter.machine.process import end_with_parent

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with client:
        if (request := _receive(client)) is None:
            return None
        client.send(STARTED)  # before there is a copy: from here on the process will not run the stage itself
        supervisor = os.getpid()
        if (copy := os.fork()) == 0:
            end_with_parent(signal.SIGKILL)
            return request if os.getppid() == supervisor else None  # else it died before that call
        for number in FORWARDED:  # where all processes get them at once; the copy ends as it should, and is waited for
            signal.signal(number, signal.SIG_IGN)
        for descriptor in request.descriptors:
            os.close(descriptor)
        ended = os.pidfd_open(copy)
        while ended not in select.select([ended, client], [], [])[0]:
            if not (told := client.recv(1)):  # the process that waits for the copy has died
                os.kill(copy, signal.SIGKILL)
                break
            os.kill(copy, told[0])
        status = os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])
        with contextlib.suppress(OSError):
            client.send(struct.pack("i", status if status >= 0 else 128 - status))  # as a shell says it
    return None


def _receive(client: socket.socket) -> Request | None:
    """The request of a process of the same user; None where there is none."""
    if _user(client) != os.geteuid():
        return None
    client.settimeout(PATIENCE)
    try:
        content, descriptors, *_ = socket.recv_fds(client, LARGEST, 3 + MOST_LOCKS)
    except OSError:
        return None
    client.settimeout(None)
    return Request(**json.loads(content), descriptors=descriptors) if len(descriptors) >= 3 else None


def become(request: Request) -> None:
    """Run a stage as the process would that asked for it.  Does not return."""
    from emmeter.command import program

    for place, descriptor in enumerate(request.descriptors[:3]):  # the locks stay open, and so held
        os.dup2(descriptor, place)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    module = importlib.import_module(request.module)
    sys.argv = [str(module.__file__), *request.options]
    program(module.main)


if __name__ == "__main__":
    main()
