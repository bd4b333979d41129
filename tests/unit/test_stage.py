"""How a stage's process ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Something that only the teardown of Python prints, then a stage: buffered output shows whether it was flushed.
PROGRAM = """
import atexit
from emm.stage import StageError, program

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
        ("raise SystemExit('told why')", 1, "told why\n"),
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_that_cannot_be_written_fails_the_stage():
    with open("/dev/full", "w") as full:
        assert run("pass", full.fileno()).returncode != 0
