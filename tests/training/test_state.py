"""The state of a run: its folder, its lock, and damage."""

import errno
import os
import platform
import threading
import time
from pathlib import Path

import pytest
import torch

from emmeter import locks
from emmeter.training import state


def test_state_survives_saving(tmp_path):
    content = {"step": 3, "x": torch.arange(4.0), "rows": [{"a": 1.5, "b": None}], "list": [torch.ones(2)]}
    state.save(tmp_path, content)
    loaded = state.load(tmp_path)
    assert loaded is not None
    assert torch.equal(loaded["x"], content["x"])
    assert loaded["rows"] == content["rows"]
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_no_state_is_none(tmp_path):
    assert state.load(tmp_path) is None


@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage"])
def test_damaged_state_is_none(tmp_path, capsys, damage):
    state.save(tmp_path, {"x": torch.arange(1000.0)})
    path = tmp_path / "state.pt"
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2], "garbage": b"x" * len(whole)}[damage])
    assert state.load(tmp_path) is None
    assert str(path) in capsys.readouterr().out


def test_lock_is_exclusive_and_ends_with_its_holder(tmp_path):
    folder = tmp_path / "a" / "b"
    with state.held(folder), pytest.raises(state.RunLocked, match=str(folder)), state.held(folder):
        pass
    with state.held(folder):
        pass


def test_waiting_for_the_lock_ends_when_it_is_free_or_when_the_caller_gives_up(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setattr(state, "DELETION", 0.3)
    folder, patience, entered = tmp_path / "run", threading.Event(), threading.Event()
    patience.set()

    def moment():
        time.sleep(0.01)
        return patience.is_set()

    def wait():
        with state.held(folder, moment):
            entered.set()

    with state.held(folder):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not entered.wait(0.2)
        # The holder removes the folder with the lock file for which the other thread waits.  A new file must be locked.
        state.clear(folder)
        ended = time.monotonic()  # before the lock is free: this thread may be held up afterwards
    waiting.join(60)
    assert entered.is_set()
    assert time.monotonic() - ended >= state.DELETION  # meanwhile the holder's Snakemake may delete outputs
    assert (folder / "lock").is_file()
    out = capsys.readouterr().out.splitlines()
    assert out == [
        f"{folder}: process {os.getpid()} on {platform.node()}, SLURM job 17 trains this run; waiting for its end"
    ]
    patience.clear()
    with state.held(folder), pytest.raises(state.RunLocked, match="SLURM job 17"), state.held(folder, moment):
        pass


def test_a_folder_that_another_run_removes_meanwhile_is_made_again(tmp_path, monkeypatch):
    """`clear` of one run removes the empty folder of its key before another run has made its own folder there."""
    folder, mkdir, removals = tmp_path / "key" / "n20" / "r1", Path.mkdir, []

    def removed(path, *arguments, **options):
        mkdir(path, *arguments, **options)
        if path == folder and len(removals) < 2:
            removals.append(path)
            state.clear(folder)

    monkeypatch.setattr(Path, "mkdir", removed)
    with state.held(folder):
        assert (folder / "lock").is_file()
    assert len(removals) == 2


def test_a_removed_folder_locks_nothing(tmp_path):
    folder = tmp_path / "run"
    with state.held(folder):
        state.clear(folder)
        with state.held(folder), pytest.raises(state.RunLocked), state.held(folder):
            pass


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with (
        pytest.raises(OSError, match=r"cannot be locked on this file system \(No locks available\): .*lock"),
        state.held(tmp_path),
    ):
        pass


def test_discarding_leaves_a_run_that_is_trained(tmp_path):
    folder = tmp_path / "state" / "key" / "n1-r0"
    state.discard(folder)  # nothing there
    assert list(tmp_path.iterdir()) == []
    with state.held(folder):
        (folder / "state.pt").touch()
        state.discard(folder)
        assert (folder / "state.pt").exists()
    state.discard(folder)
    assert list(tmp_path.iterdir()) == []


def test_binding_keeps_own_state_and_removes_any_other(tmp_path):
    assert not state.bind(tmp_path, "this run")
    (tmp_path / "state.pt").write_bytes(b"1")
    (tmp_path / "lock").touch()
    (tmp_path / ".state.pt.killed_1.pt").touch()
    assert state.bind(tmp_path, "this run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["identity", "lock", "state.pt"]
    assert not state.bind(tmp_path, "another run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["identity", "lock"]


def test_clearing_removes_empty_parents_only(tmp_path):
    first, second = tmp_path / "state" / "key" / "n1-r0", tmp_path / "state" / "key" / "n2-r0"
    for folder in (first, second):
        folder.mkdir(parents=True)
        (folder / "state.pt").touch()
    state.clear(first)
    assert not first.exists()
    assert second.exists()
    state.clear(second)
    assert not (tmp_path / "state").exists()
    assert tmp_path.exists()
