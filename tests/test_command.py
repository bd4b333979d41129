"""The end of a stage's process."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emmeter.machine.process import Stop

# The first line is printed only by the teardown of Python.  The stage's own output is buffered, so that a missing flush
# would lose it.
PROGRAM = """
import atexit
from emmeter.command import StageError, program

atexit.register(print, "taken apart")

def main():
    print("begun")
    {body}

program(main)
"""


def run(body: str, stdout: int | None = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-c", PROGRAM.format(body=body)]
    return subprocess.run(command, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True)


def test_a_stage_that_succeeds_ends_at_once_with_all_that_it_printed():
    done = run("print('done')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "begun\ndone\n", "")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("raise StageError('n: must be positive')", 1, "error: n: must be positive\n"),
        ("raise SystemExit(143)", 143, ""),
        ("raise SystemExit('a reason')", 1, "a reason\n"),
    ],
)
def test_a_stage_that_fails_keeps_its_status_and_message(body: str, status: int, message: str):
    done = run(body)
    assert (done.returncode, done.stderr) == (status, message)
    assert done.stdout == "begun\ntaken apart\n"


def test_an_unexpected_error_keeps_its_traceback():
    done = run("1 / 0")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_a_command_whose_status_1_is_an_answer_ends_with_another_after_an_unexpected_error():
    program = "from emmeter.command import command\ncommand(lambda: 1 / 0, failure=2)"
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_that_cannot_be_written_fails_the_stage():
    with open("/dev/full", "w") as full:
        assert run("pass", full.fileno()).returncode != 0


TEXT = "≥ 3 × caf\u00e9 \u540d \udce9"  # the last character is a byte of a file's name


@pytest.mark.parametrize("error", [False, True])
@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", b">= 3 x caf\\xe9 \\u540d \\xe9"),
        ("ascii:strict", b">= 3 x caf\\xe9 \\u540d \\xe9"),
        ("latin-1", b">= 3 \xd7 caf\xe9 \\u540d \\xe9"),
        ("cp1252", b">= 3 \xd7 caf\xe9 \\u540d \\xe9"),
        ("koi8-r", "≥ 3 x caf\\xe9 \\u540d \\xe9".encode("koi8-r")),
        ("utf-8", "≥ 3 × café 名 \\xe9".encode()),
        ("", b">= 3 x caf\\xe9 \\u540d \\xe9"),  # the locale's
    ],
)
def test_every_terminal_gets_the_text(encoding: str, expected: bytes, error: bool):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": encoding}
    body = f"raise StageError({TEXT!a})" if error else f"print({TEXT!a})"
    command = [sys.executable, "-c", PROGRAM.format(body=body)]
    done = subprocess.run(command, env=os.environ | locale, capture_output=True)
    if error:
        assert (done.returncode, done.stderr) == (1, b"error: " + expected + b"\n")
    else:
        assert (done.returncode, done.stdout) == (0, b"begun\n" + expected + b"\n")


def test_a_file_that_the_locale_cannot_name_is_one_line():
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", PROGRAM.format(body="open(chr(0x540d))")]
    done = subprocess.run(command, env=os.environ | locale, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: '\\u540d': the encoding ascii of this locale cannot name it; set PYTHONUTF8=1\n"


def test_a_stage_without_standard_output_ends_well():
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", PROGRAM.format(body="print('done')")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


INTERRUPTED = """
import sys
{flag}

def interrupt(frame, event, argument):
    if event == "line":
        flag.set(15, None)  # as a second signal that comes at this line
    return interrupt if frame.f_code.co_name == "set" else None

sys.settrace(interrupt)
flag.set(15, None)
sys.settrace(None)
sys.exit(0 if flag.is_set() else 1)
"""


def test_a_signal_that_comes_while_another_is_handled_does_not_hang_a_stage():
    """As when a scheduler's SIGTERM and that of a dying parent meet; a threading.Event would wait for itself."""
    code = INTERRUPTED.format(flag="from emmeter.machine.process import Stop\nflag = Stop()")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_waiting_ends_when_asked_to_stop():
    stop = Stop()
    started = time.monotonic()
    assert not stop.wait(0.1)
    assert 0.1 <= time.monotonic() - started < 5
    stop.set(15, None)
    assert stop.is_set() and stop.wait(60)
    assert time.monotonic() - started < 5
