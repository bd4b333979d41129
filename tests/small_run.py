"""A run of 20 steps on random 8x8 images, for tests of the training."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from emmeter.data.subset import Subset
from emmeter.machine.process import Interrupted
from emmeter.settings.sections import Setup
from emmeter.settings.validation import read_setup
from emmeter.training.loop import train
from emmeter.training.trainer import Trainer, start

CPU = torch.device("cpu")
N = 24  # training images


def settings(**changes: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run of 20 steps with dropout, two averages and several snapshots."""
    content: dict[str, dict[str, Any]] = {
        "data": {"source": "digits", "held_out": 6},
        "network": {"channels": 8, "multipliers": [1], "blocks": 1, "attention": [], "dropout": 0.2},
        "diffusion": {"preconditioning": "edm"},
        "training": {
            "duration": "200 images",
            "batch_size": 10,
            "learning_rate": 3e-3,
            "lr_ramp": "50 images",
            "ema_decays": [0.9, 0.5],
            "ema_ramp": "20 %",
            "snapshots": [0.3, 0.5, 1.0],  # steps 6, 10, 20
        },
    }
    for section, values in changes.items():
        content[section] = content.get(section, {}) | values
    return content


def setup_with(**changes: dict[str, Any]) -> Setup:
    """The setup of `settings` with some values changed, by section."""
    return read_setup(settings(**changes))


def subset_of(n: int = N, labels: int = 0, held_out: int = 6) -> Subset:
    """A subset of `n` random images with `labels` classes, or without labels."""
    random = np.random.default_rng(0)
    return Subset(
        images=random.integers(0, 256, (n, 1, 8, 8), np.uint8),
        labels=random.integers(0, labels, n) if labels else np.zeros(n, np.int64),
        label_count=labels,
        indices=np.arange(n),
        groups=np.arange(n),
        held_out=random.integers(0, 256, (held_out, 1, 8, 8), np.uint8),
        held_out_labels=random.integers(0, labels, held_out) if labels else np.zeros(held_out, np.int64),
    )


# Changes of the settings, and the number of classes.
VARIANTS: dict[str, tuple[dict[str, dict[str, Any]], int]] = {
    "edm, adam": ({}, 0),
    "vp, labels, sgd, fixed order": (
        {
            "diffusion": {"preconditioning": "vp"},
            "training": {"optimizer": "sgd", "learning_rate": 1e-4, "order": "fixed", "weight_decay": 0.1},
        },
        5,
    ),
    "ve, ncsnpp, adamw, common": (
        {
            "network": {"architecture": "ncsnpp", "multipliers": [1, 1], "attention": [4]},
            "diffusion": {"preconditioning": "ve"},
            "training": {"weight_decay": 0.1, "decoupled": True, "ema_decays": [0.99], "ema_warmup": "common"},
        },
        0,
    ),
}  # fmt: skip


def finish(setup: Setup, subset: Subset, folder: Path, stops: tuple[int, ...] = ()) -> Trainer:
    """Train to the end as several processes in turn would; each step of `stops` ends one process."""
    folder.mkdir(parents=True, exist_ok=True)
    left = set(stops)
    while True:
        trainer, stop = start(setup, subset, len(subset.images), 0, CPU, folder), threading.Event()
        try:
            for _ in train(trainer, folder, 1e9, stop):
                if trainer.step in left:
                    left.remove(trainer.step)
                    stop.set()
            assert not left
            return trainer
        except Interrupted:
            assert (folder / "state.pt").is_file()


def assert_same_run(first: Trainer, second: Trainer, first_folder: Path, second_folder: Path) -> None:
    """Weights, averages, optimizer, log and snapshots have the same bits."""
    assert torch.equal(first.parameters.values, second.parameters.values)
    assert all(torch.equal(a, b) for a, b in zip(first.averages, second.averages, strict=True))
    assert all(torch.equal(first.optimizer.state[name], second.optimizer.state[name]) for name in first.optimizer.state)
    assert first.rows == second.rows
    for index in range(len(first.budget.snapshots)):
        ours, theirs = (load_file(folder / f"snapshot-{index}.safetensors") for folder in (first_folder, second_folder))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
