"""The GPUs that jobs share: those of the settings, limited by the environment and the machine."""

import sys
from pathlib import Path
from typing import Any

import pytest

from emmeter.errors import SettingsError
from emmeter.machine.gpus import claim, device, devices, missing
from emmeter.settings.sections import Execution
from emmeter.settings.validation import validate

MIG = "MIG-GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f/7/0"


def execution(**values: Any) -> Execution:
    return validate(Execution, values)


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    """The device files of a machine with three GPUs."""
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia-modeset", "null"):
        (tmp_path / name).touch()
    (tmp_path / "nvidia-caps").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("gpus", "shown", "expected"),
    [
        # all of the machine, or all visible ones
        ("auto", None, ("0", "1", "2")),
        ("auto", "2,0", ("2", "0")),
        ("auto", f"GPU-8f6b, {MIG}", ("GPU-8f6b", MIG)),
        ("auto", "1,-1,0", ("1",)),  # CUDA stops at the first invalid name
        ("auto", "", ()),
        ("auto", "NoDevFiles", ()),  # SLURM's word for none
        # a count
        (2, None, ("0", "1")),
        ("2", None, ("0", "1")),
        (8, None, tuple("01234567")),  # more than there are device files: some systems have none
        (2, "3,1,0", ("3", "1")),
        # a list
        ([3, 1], None, ("3", "1")),
        (["GPU-8f6b", MIG], None, ("GPU-8f6b", MIG)),
        ([1, "03"], "0,3,1", ("1", "3")),
        # not shared
        ("none", None, ()),
        (None, "0,1", ()),
    ],
)
def test_devices(gpus, shown, expected, nodes):
    environ = {} if shown is None else {"CUDA_VISIBLE_DEVICES": shown}
    assert devices(execution(gpus=gpus), environ, nodes) == expected
    assert devices(execution(gpus=gpus, device="cpu"), environ, nodes) == ()


def test_a_machine_without_gpus_has_none_to_share(tmp_path):
    assert devices(execution(), {}, tmp_path) == ()


@pytest.mark.parametrize(("gpus", "shown"), [(3, "0,1"), (1, ""), ([0, 2], "0,1"), (["GPU-8f6b"], "0")])
def test_hidden_gpus_are_reported(gpus, shown):
    with pytest.raises(SettingsError) as error:
        devices(execution(gpus=gpus), {"CUDA_VISIBLE_DEVICES": shown})
    (line,) = str(error.value).splitlines()
    assert line.startswith("execution.gpus = ")
    assert f"CUDA_VISIBLE_DEVICES = {shown!r}" in line


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "auto"),
        ({"gpus": "none"}, "auto"),
        ({"gpus": 1}, "cuda"),  # explicit, so a missing GPU is an error
        ({"gpus": ["GPU-8f6b"]}, "cuda"),
        ({"gpus": 1, "device": "cpu"}, "cpu"),
        ({"device": "cuda"}, "cuda"),
    ],
)
def test_device(values, expected):
    assert device(execution(**values)) == expected


def test_claim():
    assert claim((), execution()) == []
    assert claim((), execution(device="cpu")) == ["env", "CUDA_VISIBLE_DEVICES="]
    words = claim(("0", MIG), execution(jobs_per_gpu=3), 2)
    assert words[:3] == ["python", "-m", "emmeter.machine.slots"]
    assert words[3:] == ["--devices", f"0,{MIG}", "--jobs-per-gpu", "3", "--count", "2", "--"]
    with pytest.raises(SettingsError, match=r"^training\.gpus = 3: must be at most 2"):
        claim(("0", "1"), execution(), 3)


# Missing GPUs


def python(folder: Path, answer: str) -> str:
    """A stand-in for Python that always prints `answer`."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("values", "answer", "start", "part"),
    [
        ({"device": "cuda"}, "0", "execution.device = 'cuda': ", "no GPU that CUDA sees"),
        ({"gpus": 1}, "0", "execution.gpus = 1: ", "no GPU that CUDA sees"),
        ({"gpus": [0, 3]}, "2", "execution.gpus = ['0', '3']: ", "this machine has 2"),
        ({"device": "cuda", "gpus": 3}, "2", "execution.gpus = 3: ", "this machine has 2"),
        (
            {"device": "cuda"},
            "the installed torch is built without CUDA",
            "execution.device = 'cuda': ",
            "built without",
        ),
    ],
)
def test_gpus_that_are_missing_are_one_line(values, answer, start, part, tmp_path):
    (line,) = missing(execution(**values), python(tmp_path, answer), {})
    assert line.startswith(start)
    assert part in line


@pytest.mark.parametrize(
    ("values", "answer", "shown"),
    [
        ({"device": "cuda"}, "1", None),
        ({"device": "cuda", "gpus": "none"}, "1", None),
        ({"gpus": [0, 1]}, "2", None),
        ({"gpus": 2}, "2", None),
        ({"gpus": [3]}, "1", "3"),  # `devices` compares them with the visible ones
        ({"gpus": ["GPU-8f6b", MIG]}, "1", None),
        ({"device": "cuda"}, "", None),  # the driver cannot be asked
        ({}, "0", None),  # may use a CPU
        ({"device": "cpu", "gpus": 2}, "0", None),
    ],
)
def test_present_gpus_are_not_reported(values, answer, shown, tmp_path):
    environ = {} if shown is None else {"CUDA_VISIBLE_DEVICES": shown}
    assert missing(execution(**values), python(tmp_path, answer), environ) == []


def test_without_need_of_a_gpu_the_driver_is_not_asked():
    assert missing(execution(), "/no/such/python", {}) == []


def test_the_driver_answers_as_torch_does():
    """On this machine, with or without GPUs."""
    import torch

    lines = missing(execution(device="cuda"), sys.executable)
    assert (lines == []) == torch.cuda.is_available()
