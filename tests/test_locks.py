"""Locks on files and folders: exclusive, checked against their path, and inherited by children."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from emmeter import locks

KINDS = pytest.mark.parametrize("opened", [locks.open_file, locks.open_folder])


@KINDS
def test_a_lock_is_exclusive_until_it_is_closed(tmp_path: Path, opened: Callable[[Path], int]):
    before = set(os.listdir("/proc/self/fd"))
    first = locks.acquire(tmp_path / "lock", opened)
    assert first is not None
    assert locks.acquire(tmp_path / "lock", opened) is None
    assert not os.get_inheritable(first)
    os.close(first)
    second = locks.acquire(tmp_path / "lock", opened)
    assert second is not None
    os.close(second)
    assert set(os.listdir("/proc/self/fd")) == before


@KINDS
@pytest.mark.parametrize("instant", ["before the lock", "after the lock"])
def test_a_path_that_is_removed_meanwhile_is_locked_again(monkeypatch, tmp_path, opened, instant):
    """A program that cleans /tmp, for example, may remove a free lock just before it is taken."""
    path, real, calls = tmp_path / "lock", locks.fcntl.flock, []

    def remove() -> None:
        if len(calls) == 1:
            path.rmdir() if path.is_dir() else path.unlink()

    def flock(descriptor: int, operation: int) -> None:
        calls.append(descriptor)
        if instant == "before the lock":
            remove()
        real(descriptor, operation)
        if instant == "after the lock":
            remove()

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    descriptor = locks.acquire(path, opened)
    assert descriptor is not None and len(calls) == 2
    assert os.path.samestat(os.fstat(descriptor), path.stat())
    assert locks.acquire(path, opened) is None
    os.close(descriptor)


def test_a_path_that_is_removed_every_time_is_given_up(tmp_path):
    def opened(path: Path) -> int:
        descriptor = locks.open_file(path)
        path.unlink()
        return descriptor

    with pytest.raises(FileNotFoundError, match=r"lock"):
        locks.acquire(tmp_path / "lock", opened)


def test_a_child_that_inherits_a_lock_holds_it_until_it_dies(tmp_path):
    descriptor = locks.acquire(tmp_path / "lock")
    assert descriptor is not None
    child = subprocess.Popen(["sleep", "600"], pass_fds=[descriptor])
    os.close(descriptor)
    assert locks.acquire(tmp_path / "lock") is None
    child.kill()
    child.wait()
    again = locks.acquire(tmp_path / "lock")
    assert again is not None
    os.close(again)


def test_a_file_keeps_its_content_while_another_process_tries(tmp_path):
    descriptor = locks.acquire(tmp_path / "a" / "lock")
    assert descriptor is not None
    os.write(descriptor, b"the holder")
    assert locks.acquire(tmp_path / "a" / "lock") is None
    os.close(descriptor)
    assert (tmp_path / "a" / "lock").read_text() == "the holder"


def test_a_block_waits_for_its_turn_and_announces_it_once(tmp_path):
    calls: list[str] = []
    with locks.held(tmp_path / "lock", waiting=lambda: calls.append("waiting")):
        assert calls == []
        code = (
            "import sys; from pathlib import Path; from emmeter import locks\n"
            "with locks.held(Path(sys.argv[1]), waiting=lambda: print('waiting', flush=True)): print('held')"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "lock")]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "waiting\n"
    assert child.communicate(timeout=60)[0] == "held\n"


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.raises(OSError, match=r"cannot be locked on this file system \(No locks available\): .*lock'$"):
        locks.acquire(tmp_path / "lock")
