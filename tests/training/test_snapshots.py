"""Snapshots: the averaged weights, joined into one file of any size."""

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from emmeter.errors import StageError
from emmeter.training import snapshots
from emmeter.training.optimizer import FlatParameters
from emmeter.training.trainer import build
from small_run import finish, setup_with, subset_of


def test_snapshots_hold_the_averages(tmp_path):
    setup = setup_with()
    trainer = finish(setup, subset_of(), tmp_path)
    snapshots.join(tmp_path, tmp_path / "out.safetensors", {"shares": setup.training.snapshots})
    network = build(setup, (1, 8, 8), 0).network
    tensors = load_file(tmp_path / "out.safetensors")
    assert len(tensors) == 3 * 2 * len(network.state_dict())
    for decay in range(2):
        network.load_state_dict({name: tensors[f"2/{decay}/{name}"] for name in network.state_dict()})
        flat = FlatParameters(network).values
        assert torch.equal(flat, trainer.averages[decay])


def test_several_averages_of_a_network_with_buffers(tmp_path):
    """The fixed Fourier frequencies are part of the snapshot of every decay."""
    setup = setup_with(network={"embedding": "fourier"}, training={"duration": "10 images", "ema_decays": [0.9, 0.5]})
    trainer = finish(setup, subset_of(), tmp_path)
    tensors = load_file(tmp_path / "snapshot-2.safetensors")
    frequencies = trainer.denoiser.network.state_dict()["noise_embedding.frequencies"]
    for decay in range(2):
        assert torch.equal(tensors[f"2/{decay}/noise_embedding.frequencies"], frequencies)


DESCRIPTION = {"shares": [0.5, 1.0], "key": "abc"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state folder with two snapshots of two averages each."""
    for index in range(2):
        averages = [{"w": torch.full((3, 2), 10.0 * index + decay), "scale": torch.tensor(2.0)} for decay in range(2)]
        snapshots.keep(tmp_path, index, averages)
    return tmp_path


def test_the_joined_file_has_every_tensor_and_the_description(folder):
    snapshots.join(folder, folder / "out.safetensors", DESCRIPTION)
    with safe_open(folder / "out.safetensors", "pt") as file:
        assert json.loads(file.metadata()["run"]) == DESCRIPTION
        assert set(file.keys()) == {f"{s}/{d}/{name}" for s in range(2) for d in range(2) for name in ("w", "scale")}
        assert torch.equal(file.get_tensor("1/1/w"), torch.full((3, 2), 11.0))
        assert file.get_tensor("0/1/scale").item() == 2.0
    first = (folder / "out.safetensors").read_bytes()
    snapshots.join(folder, folder / "out.safetensors", DESCRIPTION)
    assert (folder / "out.safetensors").read_bytes() == first


def test_changed_snapshots_are_not_intact(folder):
    averages = [{"w": torch.zeros(2)}]
    kept = {0: snapshots.keep(folder, 0, averages), 1: snapshots.keep(folder, 1, averages)}
    assert snapshots.intact(folder, kept) and snapshots.intact(folder, {})
    assert snapshots.keep(folder, 1, averages) == kept[1]  # the same bits again
    path = folder / "snapshot-1.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert not snapshots.intact(folder, kept)
    path.unlink()
    assert not snapshots.intact(folder, kept)


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "garbage"])
def test_a_damaged_snapshot_is_named_and_nothing_is_joined(folder, damage):
    path = folder / "snapshot-1.safetensors"
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "truncated": whole[:-1], "garbage": b"x" * len(whole)}[damage])
    line = rf"^{re.escape(str(path))}: cannot be read \(.*\); delete {re.escape(str(folder))} to train this run again$"
    with pytest.raises(StageError, match=line):
        snapshots.join(folder, folder / "out.safetensors", DESCRIPTION)
    assert not (folder / "out.safetensors").exists()


def test_a_full_disk_names_the_file_and_keeps_the_old_one(folder):
    output = folder / "out.safetensors"
    output.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match=re.escape(f"File too large: '{output}'")) as error:
            snapshots.join(folder, output, DESCRIPTION)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG
    assert output.read_bytes() == b"old"
    assert not list(folder.glob(".*"))


def test_the_bytes_are_those_of_the_package(tmp_path):
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 2, 4, generator=generator)
    tensors = {
        "b": weights,
        "a": weights.permute(2, 0, 1),
        "ä/0": torch.tensor(2.0),
        "double": weights.double(),
        "none": torch.zeros(0, 3),
    }
    for metadata in (None, {"run": '{"shares": [1.0]}'}):
        snapshots._write(tmp_path / "ours", tensors, metadata)
        assert (tmp_path / "ours").read_bytes() == save(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, metadata
        )


def test_the_file_that_is_locked_is_the_file_that_is_written(tmp_path, monkeypatch):
    """Otherwise another writer takes it for abandoned, and a kill leaves a file that no writer removes."""
    made, mkstemp = [], tempfile.mkstemp

    def noted(**options: Any) -> tuple[int, str]:
        descriptor, name = mkstemp(**options)
        made.append(os.fstat(descriptor).st_ino)
        return descriptor, name

    monkeypatch.setattr(tempfile, "mkstemp", noted)
    snapshots.keep(tmp_path, 0, [{"w": torch.zeros(2)}])
    assert made == [(tmp_path / "snapshot-0.safetensors").stat().st_ino]


MEMORY = """
import re, sys
from pathlib import Path
from emmeter.training import snapshots

def private():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def measured(*arguments):
    write(*arguments)
    print(private() - before)

write, snapshots._write = snapshots._write, measured
folder, before = Path(sys.argv[1]), private()
snapshots.join(folder, folder / "out.safetensors", {"shares": [0.5, 1.0]})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_joining_keeps_no_snapshot_in_memory(tmp_path):
    """Only pages of the snapshots' own files are mapped, which the kernel can drop at any time."""
    for index in range(2):
        snapshots.keep(tmp_path, index, [{"w": torch.zeros(16 * 2**20)}])  # 64 MiB
    ended = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(ended.stdout) < 16  # MiB
    assert (tmp_path / "out.safetensors").stat().st_size > 2 * 2**26
