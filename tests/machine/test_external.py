"""Commands of the user's as processes: they end as a whole, and their failures are said in one line."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from emmeter import project
from emmeter.errors import StageError
from emmeter.machine import external
from emmeter.machine.process import Interrupted, Stop
from emmeter.machine.supervise import environment

PYTHON = [sys.executable, "-c"]
SLEEP = "import time; time.sleep(60)"
# A launcher whose worker leaves the process group, ignores SIGTERM, and outlives it.
WORKER = (
    "import os, signal, sys, time; os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
)
LAUNCHER = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {WORKER!r}, sys.argv[1]])
while not os.path.exists(sys.argv[1]) or not open(sys.argv[1]).read():
    time.sleep(0.02)
time.sleep(float(sys.argv[2]))
"""


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return False
    return state not in "ZX"


def gone(process: int, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while alive(process) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(process)


def written(path: Path, seconds: float = 10.0) -> int:
    """The process id in a file, as soon as it is there."""
    end = time.monotonic() + seconds
    while not (path.is_file() and path.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    return int(path.read_text())


def test_a_command_that_ends_well_shows_its_output(capsys):
    external.run([*PYTHON, "print('trained')"], Stop())
    assert capsys.readouterr().out == "trained\n"


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("import sys; print('a'); print('b'); sys.exit(3)", "has ended with status 3: a | b"),
        ("raise SystemExit('no GPU here')", "has ended with status 1: no GPU here"),
        ("import os; os.kill(os.getpid(), 11)", "has ended by SIGSEGV, without a word"),
        ("import os; os.kill(os.getpid(), 9)", "has ended by SIGKILL"),
        ("print('1 %\\r2 %\\r3 %', end=''); raise SystemExit(2)", "with status 2: 1 % | 2 % | 3 %"),
        ("print('x' * 5000); raise SystemExit(2)", "with status 2: ...xxx"),
    ],
)
def test_a_failure_repeats_the_last_words_in_one_line(program, expected):
    with pytest.raises(StageError) as error:
        external.run([*PYTHON, program], Stop(), show=lambda chunk: None)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


def test_a_missing_program_is_named():
    with pytest.raises(StageError, match=r"the program 'no-such-trainer' is not there"):
        external.run(["no-such-trainer", "x"], Stop())


def test_a_file_that_may_not_be_run_is_named(tmp_path):
    (tmp_path / "trainer").write_text("no program")
    with pytest.raises(StageError, match="may not be run"):
        external.run([str(tmp_path / "trainer")], Stop())


def test_a_program_that_the_system_cannot_start_is_named(tmp_path):
    path = tmp_path / "trainer"
    path.write_text("\0no program")
    path.chmod(0o755)
    with pytest.raises(StageError, match="cannot be started: Exec format error"):
        external.run([str(path)], Stop())


@pytest.mark.parametrize("status", [143, -15])
def test_a_command_that_ends_on_sigterm_is_unfinished(status):
    end = "sys.exit(143)" if status > 0 else "os.kill(os.getpid(), 15)"
    with pytest.raises(Interrupted):
        external.run([*PYTHON, f"import os, sys; {end}"], Stop())


def test_a_request_to_stop_reaches_the_command(tmp_path):
    saved = tmp_path / "saved"
    program = (
        "import signal, sys, time\n"
        f"def save(*_): open({str(saved)!r}, 'w').write('1'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save); print('ready', flush=True); time.sleep(60)"
    )
    stop = Stop()
    with pytest.raises(Interrupted):
        external.run([*PYTHON, program], stop, show=lambda chunk: stop.set())
    assert saved.read_text() == "1"


def test_a_command_that_ignores_the_request_is_killed_after_its_grace():
    stop = Stop()
    program = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); {SLEEP}"
    begun = time.monotonic()
    with pytest.raises(Interrupted):
        external.run([*PYTHON, program], stop, grace=0.3, show=lambda chunk: stop.set())
    assert time.monotonic() - begun < 20


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")
def test_workers_that_outlive_their_launcher_are_ended(tmp_path, capsys):
    note = tmp_path / "worker"
    external.run([*PYTHON, LAUNCHER, str(note), "0"], Stop())
    assert gone(written(note))
    assert "1 of its processes outlived it and were ended" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")
def test_workers_end_with_a_job_that_is_killed(tmp_path):
    note = tmp_path / "worker"
    run = "external.run(sys.argv[1:], process.Stop(), grace=0.3)"
    program = f"import sys; from emmeter.machine import external, process; {run}"
    words = [*PYTHON, program, *PYTHON, LAUNCHER, str(note), "60"]
    job = subprocess.Popen(words, env=os.environ | project.child_environment(), stdout=subprocess.DEVNULL)
    worker = written(note)
    assert alive(worker)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert gone(worker)


def test_a_script_finds_the_modules_beside_it(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("WORD = 'found'\n")
    (tmp_path / "script.py").write_text("import beside; print(beside.WORD)\n")
    for name, value in project.child_environment().items():  # as the workflow sets it for its jobs
        monkeypatch.setenv(name, value)
    said = []
    external.run([sys.executable, str(tmp_path / "script.py")], Stop(), show=said.append)
    assert b"".join(said) == b"found\n"


def test_a_command_keeps_the_users_own_variables():
    own = project.child_environment()
    kept = environment({**own, "EMM_WARM": "x", "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "1"})
    assert kept == {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "1"}


def test_a_long_output_does_not_block(tmp_path):
    size = []
    thread = threading.Thread(
        target=external.run,
        args=([*PYTHON, "print('x' * 3_000_000)"], Stop()),
        kwargs={"show": lambda chunk: size.append(len(chunk))},
    )
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert sum(size) == 3_000_001
