"""The example trainers keep the contract: a few steps each, labels, and a run that goes on after an interruption."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from emmeter.data.subset import Subset, save
from emmeter.files.generated import read_written
from emmeter.settings import invocation
from emmeter.settings.configuration import load, read

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "models"
TRAINERS = ("flow_transformer.py", "vae.py", "diffusers_ddpm.py")
needs_diffusers = pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="diffusers is not installed")
EACH = [pytest.param(name, marks=[needs_diffusers] if "diffusers" in name else []) for name in TRAINERS]


def stored(folder: Path, labels: int = 0) -> Path:
    """A subset of twelve random images."""
    random = np.random.default_rng(0)
    path = folder / "subset.npz"
    subset = Subset(
        images=random.integers(0, 256, (12, 1, 8, 8), np.uint8),
        labels=np.arange(12) % labels if labels else np.zeros(12, np.int64),
        label_count=labels,
        indices=np.arange(12),
        groups=np.arange(12),
        held_out=np.zeros((0, 1, 8, 8), np.uint8),
        held_out_labels=np.zeros(0, np.int64),
    )
    save(path, subset)
    return path


def words(name: str, folder: Path, subset: Path, samples: str, seed: int = 1, train: int = 128) -> list[str]:
    (folder / "state").mkdir(exist_ok=True)
    places = {"subset": subset, "samples": folder / samples, "state": folder / "state", "seed": seed, "images": 6}
    options = [word for place, value in places.items() for word in (f"--{place}", str(value))]
    return [sys.executable, str(FOLDER / name), *options, "--train", str(train)]


def run(*arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("labels", [0, 3])
def test_a_few_steps_give_images_that_follow_the_contract(name, labels, tmp_path):
    run(*words(name, tmp_path, stored(tmp_path, labels), "samples.npz"))
    written = read_written(tmp_path / "samples.npz", 6, (1, 8, 8))
    assert written.reported["images_trained"] == 128
    assert written.reported["parameters"] > 1000


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="looks at the handlers of another process")
def test_an_interrupted_training_goes_on_to_the_same_images(tmp_path):
    for part in ("whole", "parts"):
        (tmp_path / part).mkdir()
    subset = stored(tmp_path)
    run(*words("vae.py", tmp_path / "whole", subset, "samples.npz", train=64_000))
    command = words("vae.py", tmp_path / "parts", subset, "samples.npz", train=64_000)
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while job.poll() is None:  # until it has set its handler of the signal, which it survives from then on
        time.sleep(0.2)
        lines = Path(f"/proc/{job.pid}/status").read_text().splitlines()
        caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
        if caught >> (signal.SIGTERM - 1) & 1:
            job.send_signal(signal.SIGTERM)
            break
    assert job.wait(60) == 143
    assert not (tmp_path / "parts" / "samples.npz").exists()
    run(*command)
    first, second = (read_written(tmp_path / part / "samples.npz", 6, (1, 8, 8)) for part in ("whole", "parts"))
    assert np.array_equal(first.images, second.images)


def test_the_study_of_the_examples_names_their_files(monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = read(load([FOLDER / "models.yaml"]))
    arms = {arm.name: arm.setup for arm in settings.studies[[s.name for s in settings.studies].index("models")].arms}
    commanded = {name: setup for name, setup in arms.items() if setup.kind == "command"}
    assert set(commanded) == {"flow-transformer", "vae"}
    for setup in commanded.values():
        assert not invocation.changed(setup)
        assert all(Path(name).is_file() for name in setup.model.files)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_examples_stay_short(path):
    assert len(path.read_text().splitlines()) < 80
