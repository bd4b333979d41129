"""Snapshots: the averaged weights, joined into one file of any size."""

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

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


def test_a_full_disk_names_the_file_and_keeps_the_old_one(folder, monkeypatch):
    def full(_: object, path: Path, __: object) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    output = folder / "out.safetensors"
    output.write_bytes(b"old")
    monkeypatch.setattr(snapshots, "save_file", full)
    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{output}'")) as error:
        snapshots.join(folder, output, DESCRIPTION)
    assert error.value.errno == errno.ENOSPC
    assert output.read_bytes() == b"old"
    assert not list(folder.glob(".*"))


MEMORY = """
import re, sys
from pathlib import Path
from emmeter.training import snapshots

def private():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def measured(*arguments):
    save_file(*arguments)
    print(private() - before)

save_file, snapshots.save_file = snapshots.save_file, measured
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
