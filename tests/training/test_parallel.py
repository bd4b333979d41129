"""Training by two processes against training by one: the same batches, the same weights up to rounding."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from emmeter.data.subset import draw, save
from emmeter.errors import SettingsError
from emmeter.settings.validation import read_setup
from emmeter.training import state
from emmeter.training.parallel import ALONE, Processes, joined

pytestmark = pytest.mark.slow

N = 24


def settings(**training: Any) -> str:
    content = {
        "data": {"source": "digits", "resolution": 8, "balanced": False, "held_out": 6, "labels": "random-3"},
        "network": {"channels": 8, "multipliers": [1], "blocks": 1, "attention": [8]},
        "diffusion": {"preconditioning": "edm"},
        "training": {
            "duration": "400 images", "batch_size": 10, "learning_rate": 1e-3, "lr_ramp": "50 images", "flip": 0.5,
            "ema_decays": [0.9], "ema_ramp": "20 %", "snapshots": [0.5, 1.0],
        },
    }  # fmt: skip
    content["training"] |= training
    return json.dumps(content)


# With Adam, the rounding error of a gradient that is exactly zero would become a step as large as any other.  Long
# training with large steps is chaotic.  Both would amplify rounding errors without bound.
SGD = {"optimizer": "sgd", "learning_rate": 1e-5, "duration": "100 images"}


class Training:
    """The command line of one run in a folder, for any number of processes."""

    def __init__(self, folder: Path, processes: int, state_seconds: float = 30, **training: Any):
        self.folder, self.state = folder, folder / "state" / "key" / "n24-r0"
        self.snapshots, self.record = folder / "snapshots.safetensors", folder / "training.json"
        folder.mkdir(exist_ok=True)
        text = settings(**training)
        save(folder / "subset.npz", draw(read_setup(json.loads(text)), N, 0))
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "--"]
        self.command = [sys.executable, *(launcher if processes > 1 else ["-m"]), "emmeter.stages.train"]
        self.command += ["--settings", text, "--n", str(N), "--replicate", "0", "--device", "cpu"]
        self.command += ["--state-seconds", str(state_seconds), "--state", str(self.state), "--log-seconds", "0.2"]
        for name in ("subset.npz", "snapshots.safetensors", "training.csv", "training.json"):
            option = {"training.csv": "log", "training.json": "record"}.get(name, name.split(".")[0])
            self.command += [f"--{option}", str(folder / name)]

    def process(self) -> subprocess.Popen[str]:
        # Without bytecode files each process would compile the modules of torch again.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
        return subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def run(self) -> subprocess.CompletedProcess[str]:
        # Without bytecode files each process would compile the modules of torch again.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
        return subprocess.run(self.command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Training:
    training = Training(tmp_path_factory.mktemp("alone"), 1, **SGD)
    done = training.run()
    assert done.returncode == 0, done.stderr
    return training


def assert_near(path: Path, other: Path) -> None:
    """The tensors differ by at most a thousandth of their largest change between the two snapshots."""
    first, second = load_file(path), load_file(other)
    assert first.keys() == second.keys()
    moved = max((first[name] - first[name.replace("1/", "0/", 1)]).abs().max().item() for name in first)
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-3 * moved


def assert_logs_near(training: Training, other: Training, tolerance: float) -> None:
    """The rows of training.csv are equal within a relative tolerance."""
    first, second = ((run.folder / "training.csv").read_text().splitlines() for run in (training, other))
    assert len(first) == len(second)
    for row, expected in zip(first[1:], second[1:], strict=True):
        values, close = ([float(x) for x in line.split(",")] for line in (row, expected))
        assert values == pytest.approx(close, rel=tolerance)


def test_two_processes_give_the_weights_of_one(alone, tmp_path):
    two = Training(tmp_path, 2, **SGD)
    done = two.run()
    assert done.returncode == 0, done.stderr
    assert_near(alone.snapshots, two.snapshots)
    record = json.loads(two.record.read_text())
    assert (record["processes"], json.loads(alone.record.read_text())["processes"]) == (2, 1)
    assert (two.state / "state.pt").exists()  # until the run is sampled
    assert_logs_near(alone, two, 1e-3)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "fault",
    [
        signal.SIGTERM,  # torchrun sends it to its processes
        pytest.param(signal.SIGKILL, marks=pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")),
    ],
)
def test_two_processes_stop_together_and_resume(tmp_path, fault):
    two = Training(tmp_path, 2, 0.02, duration="1500 images")
    running = two.process()
    for _ in range(12000):
        if (two.state / "state.pt").exists():
            break
        assert running.poll() is None, running.communicate()
        time.sleep(0.005)
    running.send_signal(fault)
    running.communicate(timeout=60)  # until its processes have ended, which share its output
    assert running.returncode != 0
    assert not two.snapshots.exists()
    saved = state.load(two.state)
    assert saved is not None
    assert 0 < saved["step"] < 150
    done = two.run()
    assert done.returncode == 0, done.stderr
    assert json.loads(two.record.read_text())["resumed_at_image"] == 10 * saved["step"]
    undisturbed = Training(tmp_path / "undisturbed", 2, duration="1500 images")
    assert undisturbed.run().returncode == 0
    assert two.snapshots.read_bytes() == undisturbed.snapshots.read_bytes()
    assert_logs_near(two, undisturbed, 1e-5)


@pytest.mark.exhaustive
def test_infinite_loss_ends_all_processes(tmp_path):
    two = Training(tmp_path, 2, learning_rate=1e30)
    done = two.run()
    assert done.returncode != 0
    assert "error: the loss became" in done.stderr
    assert not two.snapshots.exists()


def test_shares_are_a_partition():
    batch = torch.arange(12).reshape(6, 2)
    shares = [Processes(rank, 3).share(batch) for rank in range(3)]
    assert torch.equal(torch.cat(shares), batch)
    assert ALONE.share(batch) is batch


def test_alone_nothing_is_exchanged():
    values = torch.tensor([1.0, 2.0])
    ALONE.average(values)
    assert values.tolist() == [1.0, 2.0]
    assert ALONE.first(3) == 3
    with joined() as processes:
        assert processes == ALONE
        assert not torch.distributed.is_initialized()


def test_devices_must_divide_the_batch():
    with pytest.raises(SettingsError, match=r"gpus = 3: must divide batch_size = 10"):
        read_setup(json.loads(settings(gpus=3)))
