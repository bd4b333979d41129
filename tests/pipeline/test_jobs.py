"""The processes of jobs: the Python on their PATH, and the command that starts them."""

import os
import sys
from pathlib import Path

import pytest

from emmeter.machine import process
from emmeter.pipeline import jobs

BESIDE = str(Path(sys.executable).parent)


def python(folder: Path, body: str) -> str:
    folder.mkdir()
    (folder / "python").write_text(f"#!/bin/sh\n{body}\n")
    (folder / "python").chmod(0o755)
    return str(folder)


def test_a_path_with_this_python_stays():
    assert "PATH" not in jobs.environment({"PATH": os.pathsep.join([BESIDE, "/bin"])})


def test_a_script_around_this_python_serves(tmp_path):
    assert "PATH" not in jobs.environment({"PATH": python(tmp_path / "a", f'exec {sys.executable} "$@"')})


@pytest.mark.parametrize("body", ["echo another", "exit 3", None])
def test_the_folder_of_this_python_comes_before_another_one(tmp_path, body):
    path = str(tmp_path) if body is None else python(tmp_path / "a", body)
    assert jobs.environment({"PATH": path})["PATH"] == os.pathsep.join([BESIDE, path])


def test_the_allocator_is_set_unless_the_user_has_set_it():
    name = next(iter(process.ENVIRONMENT))
    variables = jobs.environment({"PATH": BESIDE, name: "7"})
    assert variables == process.ENVIRONMENT | {name: "7"}


def test_several_processes_are_started_by_torchrun():
    assert jobs.launcher(1) == "-m emmeter.machine.warm"
    assert jobs.launcher(3) == "-m torch.distributed.run --standalone --nproc-per-node 3 -m --"
