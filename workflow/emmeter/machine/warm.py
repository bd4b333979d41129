"""Stages that start with torch loaded: ``python -m emmeter.machine.warm emmeter.stages.train OPTIONS`` runs a stage.

Exit rule: delete this module when it saves less than 10 % of the default study's time (``python -m benchmarks
end_to_end`` measured 121 s, and 154 s with EMM_WARM=off), or when a local executor plugin of Snakemake can do the same.

Importing torch takes a second, and many of the hundreds of processes of a study of small networks compute no longer
than that.  So the first stage of a workflow leaves a *server* behind, a process that has imported what the stages need.
Each stage is a copy (fork) of the server, made in milliseconds.  The process that Snakemake has started, the *client*,
waits for its copy.  It passes its signals on to the copy and ends with the copy's status.  If the client dies, the copy
is killed.

A workflow asks for warm starts by a name in the environment variable EMM_WARM (`fresh_name`).  The stage runs in the
client itself if the variable is missing or "off", or if anything goes wrong before the server has taken it over.  The
server belongs to one workflow and ends with it.  It computes nothing.  It never initializes a GPU, because its copies
could not use that GPU.

Nothing heavy is imported here, because this module exists to save imports.
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
MOST_LOCKS = 64  # GPUs that one stage may hold
PRELOADED = ("emmeter.stages.train", "emmeter.stages.sample", "emmeter.stages.denoising")
FORWARDED = (signal.SIGTERM, signal.SIGINT)
STARTED = b"+"  # the first answer of the server: it has taken the stage over
LARGEST = 2**17  # bytes of a request that every system accepts in one message
PATIENCE = 10.0  # seconds to reach a server, or to receive a request


def fresh_name() -> str:
    """A value of VARIABLE for the workflow of this process.

    It is OFF if the user has set it so, or if the system lacks process descriptors, which only Linux has.
    """
    if os.environ.get(VARIABLE) == OFF or sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return OFF
    return f"{os.getpid()}-{secrets.token_hex(8)}"


def main() -> None:
    # Importing torch makes a million lasting objects; garbage collection meanwhile took a sixth of start-up time.
    # A high threshold is safe, because stages leave no reference cycles.
    gc.set_threshold(100_000, 50, 50)
    if sys.argv[1:2] == ["--serve"]:
        if (request := serve(sys.argv[2])) is not None:
            become(request)
        os._exit(0)  # immediately: freeing all that torch has imported takes half a second
    module, *options = sys.argv[1:] or [""]
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # its package does not exist, or the name is empty
        spec = None
    if spec is None:
        sys.exit(
            f"error: {module!r} is no module; expected: python -m emmeter.machine.warm emmeter.stages.train OPTIONS"
        )
    status = ask(os.environ.get(VARIABLE, ""), module, options)
    if status is None:
        sys.argv = [module, *options]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit(status)


# ---- the client


def ask(name: str, module: str, options: list[str]) -> int | None:
    """Let the server of a workflow run a stage; return its exit status, or None if no server can run it."""
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
        except (OSError, ValueError):  # ValueError: the variable holds no descriptors
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
    """Connect to the server of this name, which is started if there is none; return None if that fails."""
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
            # One thread, because fork copies only one.  A copy sets its own number.
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            try:
                launched = subprocess.Popen(command, env=environment, cwd="/", start_new_session=True, **nowhere)
            except OSError:
                return None
        time.sleep(0.01)
    return None


def _address(name: str) -> str:
    """The address among Linux's abstract sockets, which leave no files behind."""
    return f"\0emm-warm-{name}"


def _user(connection: socket.socket) -> int:
    """The user id at the other end, which must be checked because abstract sockets have no permissions."""
    content = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", content)[1]


# ---- the server


@dataclass(frozen=True)
class Request:
    """A stage to run in place of its client."""

    module: str
    options: list[str]
    folder: str
    environment: dict[str, str]
    descriptors: list[int]  # standard input, output and error, then the locks of its GPUs


def serve(name: str) -> Request | None:
    """Copy this process for each request until the workflow has ended.

    Returns in several processes: the request in each copy; None in each supervisor and in the server at their ends, or
    immediately if another server has the name.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(_address(name))
        workflow = os.pidfd_open(int(name.partition("-")[0]))
    except OSError:  # another server has the name, or the workflow has ended
        return None
    listener.listen(128)  # clients may connect now; they wait no longer than their own import would take
    for module in PRELOADED:
        importlib.import_module(module)
    from emmeter.command import legible

    for stream in (sys.stdout, sys.stderr):  # now, because reconfiguring seeks, which fails in a copy with pipes
        legible(stream)
    gc.freeze()  # otherwise the collector would write to memory that all copies share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel removes ended supervisors
    while workflow not in select.select([listener, workflow], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            os.close(workflow)
            return supervise(connection)
        connection.close()
    return None


def supervise(client: socket.socket) -> Request | None:
    """Make the copy for a client and pass signals and status between the two; return the request in the copy.

    The supervisor is a separate process.  So the server keeps no record of copies and may end before they do.  The
    supervisor returns None when the copy has ended or could not be made.
    """
    from emmeter.machine.process import end_with_parent

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with client:
        if (request := _receive(client)) is None:
            return None
        client.send(STARTED)  # before the copy exists: from here on the client does not run the stage itself
        supervisor = os.getpid()
        if (copy := os.fork()) == 0:
            end_with_parent(signal.SIGKILL)
            return request if os.getppid() == supervisor else None  # otherwise the supervisor died before that call
        for number in FORWARDED:  # they may be sent to the whole group; the copy handles them
            signal.signal(number, signal.SIG_IGN)
        for descriptor in request.descriptors:
            os.close(descriptor)
        ended = os.pidfd_open(copy)
        while ended not in select.select([ended, client], [], [])[0]:
            if not (number := client.recv(1)):  # the client has died
                os.kill(copy, signal.SIGKILL)
                break
            os.kill(copy, number[0])
        status = os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])
        with contextlib.suppress(OSError):
            client.send(struct.pack("i", status if status >= 0 else 128 - status))  # as shells report a signal
    return None


def _receive(client: socket.socket) -> Request | None:
    """Receive the request of a client of the same user; None if it does not send one."""
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
    """Run a stage with the client's descriptors, environment, folder and options.  Does not return."""
    from emmeter.command import program

    for standard, descriptor in enumerate(request.descriptors[:3]):  # the locks stay open, so they stay held
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    module = importlib.import_module(request.module)
    sys.argv = [str(module.__file__), *request.options]
    program(module.main)


if __name__ == "__main__":
    main()
