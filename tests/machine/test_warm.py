"""Stages as copies of a process that has torch loaded: outputs, statuses, signals and ends as in a cold start."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from emmeter.machine import warm
from one_run import Pipeline
from processes import lives, parent, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(warm.fresh_name() == warm.OFF, reason="needs Linux")]

# A stage that prints its process, folder, environment and options.
PROBE = """
import os, signal, sys, time

def main():
    print(os.getpid(), os.getcwd(), os.environ.get("PROBED"), *sys.argv[1:])
    action = sys.argv[1]
    if action == "read":
        print(sys.stdin.read())
    elif action == "exit":
        sys.exit(int(sys.argv[2]))
    elif action == "explain":
        sys.exit("the reason")
    elif action == "raise":
        raise ZeroDivisionError("of the probe")
    elif action == "kill":
        sys.stdout.flush()
        os.kill(os.getpid(), int(sys.argv[2]))
    elif action == "wait":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        sys.stdout.flush()
        time.sleep(60)
"""
WARM = "import sys; from emmeter.machine import warm; warm.PRELOADED += ('probe',); sys.argv[0] = 'warm'; warm.main()"


@dataclass
class Workflow:
    """A process in place of Snakemake, and the jobs that it starts."""

    folder: Path
    process: "subprocess.Popen[bytes]"

    @property
    def name(self) -> str:
        return f"{self.process.pid}-{self.folder.name}"

    def start(self, *arguments: str, code: str = "", **environment: str) -> "subprocess.Popen[str]":
        program = ["-c", code] if code else ["-m", "emmeter.machine.warm"]
        paths = os.pathsep.join([str(self.folder), *sys.path])
        given = {**os.environ, "PYTHONPATH": paths, warm.VARIABLE: self.name, **environment}
        return subprocess.Popen(
            [sys.executable, *program, *arguments], cwd=self.folder, env=given, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def probe(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        return self.start("probe", *arguments, code=WARM, **environment)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def workflow(tmp_path: Path) -> Iterator[Workflow]:
    (tmp_path / "probe.py").write_text(PROBE)
    sleeping = Workflow(tmp_path, subprocess.Popen(["sleep", "600"]))
    yield sleeping
    sleeping.end()


def first_line(started: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    """The process that computes, and the rest of the probe's first line."""
    assert started.stdout is not None
    process, *rest = started.stdout.readline().split()
    return int(process), rest


def test_a_copy_has_the_streams_folder_and_environment_of_its_client(workflow):
    started = workflow.probe("read", "a b", "", PROBED="yes")
    out, errors = started.communicate("words", timeout=60)
    assert (started.returncode, errors) == (0, "")
    process, rest = out.split("\n", 1)[0].split()[0], out.split(" ", 1)[1]
    assert int(process) != started.pid
    assert rest == f"{workflow.folder} yes read a b \nwords\n"


def test_all_stages_are_copies_of_one_process_that_ends_with_the_workflow(workflow):
    started = [workflow.probe("wait") for _ in range(5)]
    copies = [first_line(client)[0] for client in started]
    (server,) = {parent(parent(copy)) for copy in copies}
    assert len(os.listdir(f"/proc/{server}/task")) == 1  # fork copies one thread only
    assert workflow.probe("exit", "0").wait(30) == 0
    workflow.end()
    wait_until(lambda: not lives(server), 30, "the server ends")
    assert all(lives(copy) for copy in copies)
    for client in started:
        client.terminate()
    assert [client.wait(30) for client in started] == [143] * 5
    wait_until(lambda: not any(lives(copy) for copy in copies), 30, "the copies end")


@pytest.mark.parametrize(
    ("arguments", "status", "errors"),
    [
        (["exit", "0"], 0, ""),
        (["exit", "3"], 3, ""),
        (["explain"], 1, "the reason\n"),
        (["raise"], 1, "ZeroDivisionError: of the probe\n"),
        (["kill", str(int(signal.SIGKILL))], 128 + 9, ""),
        (["kill", str(int(signal.SIGTERM))], 128 + 15, ""),
    ],
)
def test_statuses(workflow, arguments, status, errors):
    started = workflow.probe(*arguments)
    out, reported = started.communicate(timeout=60)
    assert started.returncode == status
    assert out.split()[2:] == ["None", *arguments]
    assert reported.endswith(errors)
    assert bool(reported) == bool(errors)


def test_a_copy_dies_with_its_client_and_with_its_supervisor(workflow):
    started = workflow.probe("wait")
    copy, _ = first_line(started)
    started.kill()
    wait_until(lambda: not lives(copy), 30, "the copy ends")
    started = workflow.probe("wait")
    copy, _ = first_line(started)
    os.kill(parent(copy), signal.SIGKILL)
    _, errors = started.communicate(timeout=30)
    assert (started.returncode, errors) == (
        1, "error: probe: was killed, with the process that watches it; the same command resumes\n",
    )  # fmt: skip
    wait_until(lambda: not lives(copy), 30, "the copy ends")


def test_a_copy_holds_the_gpus_of_its_client(workflow):
    """So no other job gets these GPUs before the copy has ended, even if the client dies first."""
    locks = workflow.folder / "locks"
    claim = ["--devices", "0,1", "--count", "2", "--folder", str(locks), "--", sys.executable, "-c", WARM]
    started = workflow.start(*claim, "probe", "wait", code="from emmeter.machine import slots; slots.main()")
    copy, _ = first_line(started)
    assert copy != started.pid

    def held(process: int) -> int:
        """The number of the two locks that a process has open."""
        names = set()
        for entry in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                names.add(os.readlink(entry))
        return len({str(locks / "0-0"), str(locks / "1-0")} & names)

    assert (held(started.pid), held(copy)) == (2, 2)
    wait_until(lambda: not held(parent(copy)), 30, "the supervisor closes them")
    started.terminate()
    assert started.wait(30) == 143


def test_a_server_that_was_killed_is_started_again(workflow):
    started = workflow.probe("wait")
    copy, _ = first_line(started)
    server = parent(parent(copy))
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: not lives(server), 30, "the server ends")
    again = workflow.probe("wait")
    other, _ = first_line(again)
    assert parent(parent(other)) != server
    for client in (started, again):
        client.terminate()
        assert client.wait(30) == 143


@pytest.mark.parametrize("reason", ["no name", "off", "another module", "no workflow", "a request too long"])
def test_without_a_server_the_client_runs_the_stage_itself(workflow, reason):
    changes = {}
    if reason == "no name":
        changes = {warm.VARIABLE: ""}
    elif reason == "off":
        changes = {warm.VARIABLE: warm.OFF}
    elif reason == "no workflow":
        workflow.end()
    elif reason == "a request too long":
        changes = {
            f"LONG{i}": "x" * (warm.LARGEST // 2) for i in range(2)
        }  # a single variable must be shorter than that
    code = WARM.replace("+= ('probe',)", "+= ()") if reason == "another module" else WARM
    with_main = (workflow.folder / "probe.py").read_text() + "\nif __name__ == '__main__':\n    main()\n"
    (workflow.folder / "probe.py").write_text(with_main)
    started = workflow.start("probe", "exit", "4", code=code + "\n", PROBED="yes", **changes)
    process, rest = first_line(started)
    assert process == started.pid
    assert rest == [str(workflow.folder), "yes", "exit", "4"]
    assert started.wait(30) == 4


@pytest.mark.parametrize("arguments", [[], ["emmeter.nothing"], ["nothing.train", "--n", "3"]])
def test_an_unknown_module_is_one_line(workflow, arguments):
    started = workflow.start(*arguments)
    _, errors = started.communicate(timeout=30)
    name = arguments[0] if arguments else ""
    assert started.returncode == 1
    assert (
        errors
        == f"error: {name!r} is no module; expected: python -m emmeter.machine.warm emmeter.stages.train OPTIONS\n"
    )


def test_other_users_are_not_served(monkeypatch):
    own, other = warm.socket.socketpair(warm.socket.AF_UNIX, warm.socket.SOCK_SEQPACKET)
    with own, other:
        warm.socket.send_fds(
            other, [b'{"module": "probe", "options": [], "folder": "/", "environment": {}}'], [0, 1, 2]
        )
        monkeypatch.setattr(warm.os, "geteuid", lambda: 12345)
        assert warm._receive(own) is None
        monkeypatch.undo()
        request = warm._receive(own)
    assert request is not None
    assert (request.module, request.folder) == ("probe", "/")
    for descriptor in request.descriptors:
        os.close(descriptor)


def test_a_copy_computes_the_same_bits(workflow):
    cold, copied = Pipeline(workflow.folder / "cold"), Pipeline(workflow.folder / "copied")
    for pipeline in (cold, copied):
        assert pipeline.call("subset") == 0
    for stage in ("train", "sample"):
        assert cold.call(stage) == 0
        started = workflow.start(*copied.arguments(stage))
        _, errors = started.communicate(timeout=120)
        last = errors.splitlines()[-1]
        assert (started.returncode, last[:5]) == (0, "end: "), errors
        assert copied.file(stage).read_bytes() == cold.file(stage).read_bytes()
