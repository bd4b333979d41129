"""Training: batches, flat parameters, optimizers, averages, budgets; and a run that survives whatever ends it."""

import csv
import errno
import importlib
import itertools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from emmeter.command import command
from emmeter.data.subset import Subset, save
from emmeter.diffusion.preconditioning import denoising_loss, to_unit
from emmeter.files import checksums
from emmeter.files.tables import LOG_COLUMNS
from emmeter.settings.sections import Setup, Training
from emmeter.settings.validation import read_setup
from emmeter.stages import train as train_stage
from emmeter.training import snapshots, state
from emmeter.training import trainer as trainer_module
from emmeter.training.batches import batches
from emmeter.training.optimizer import FlatParameters, Optimizer
from emmeter.training.schedule import budget, ema_decay, learning_rate_factor
from emmeter.training.seeds import derive
from emmeter.training.trainer import Interrupted, Trainer, TrainingError, build, start, train

CPU = torch.device("cpu")
N = 24


def settings(**changes: dict[str, Any]) -> dict[str, Any]:
    """A run of 20 steps that exercises dropout, two averages and several snapshots."""
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


def run_of(**changes: dict[str, Any]) -> Setup:
    return read_setup(settings(**changes))


def subset_of(n: int = N, labels: int = 0, held_out: int = 6) -> Subset:
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


# Batches


@pytest.mark.parametrize(("n", "size"), [(10, 5), (10, 4), (7, 3), (3, 8), (1, 4), (5, 5)])
@pytest.mark.parametrize("fixed", [False, True])
def test_every_epoch_is_a_permutation(n, size, fixed):
    steps = 6 * n
    stream = torch.cat(list(itertools.islice(batches(n, size, 7, 0, fixed), steps)))
    assert len(stream) == steps * size
    epochs = stream[: len(stream) // n * n].view(-1, n)
    assert (epochs.sort(dim=1).values == torch.arange(n)).all()
    assert len(epochs) >= 6
    if n >= 5:  # chance of equal random permutations is below 1 %
        assert bool((epochs == epochs[0]).all()) == fixed
        assert not torch.equal(epochs[0], torch.arange(n))


@pytest.mark.parametrize(("n", "size"), [(10, 4), (3, 8), (12, 4)])
@pytest.mark.parametrize("fixed", [False, True])
def test_batches_restart_at_any_step(n, size, fixed):
    whole = list(itertools.islice(batches(n, size, 3, 0, fixed), 20))
    for first in range(20):
        rest = list(itertools.islice(batches(n, size, 3, first, fixed), 20 - first))
        assert all(torch.equal(a, b) for a, b in zip(whole[first:], rest, strict=True))
    assert all(len(batch) == size for batch in whole)


def test_batches_depend_on_the_seed():
    one, two = (torch.cat(list(itertools.islice(batches(50, 10, seed, 0), 5))) for seed in (0, 1))
    assert not torch.equal(one, two)


# Flat parameters


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_flat_parameters_keep_values_shapes_and_layouts(layout):
    torch.manual_seed(0)
    module = build(run_of(), (1, 8, 8), 3).network.to(memory_format=layout)
    before = {name: (p.detach().clone(), p.stride()) for name, p in module.named_parameters()}
    flat = FlatParameters(module)
    assert flat.values.shape == (sum(value.numel() for value, _ in before.values()),)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, before[name][0])
        assert parameter.stride() == before[name][1]
        assert parameter.untyped_storage().data_ptr() == flat.values.untyped_storage().data_ptr()
    assert any(p.is_contiguous(memory_format=layout) for p in module.parameters() if p.dim() == 4)
    for name, view in flat.view(flat.values.clone()).items():
        assert torch.equal(view, before[name][0])


def test_updating_the_flat_tensor_updates_the_module():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    copy = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    copy.load_state_dict(module.state_dict())
    flat = FlatParameters(module)
    flat.values.mul_(2)
    for ours, theirs in zip(module.parameters(), copy.parameters(), strict=True):
        assert torch.equal(ours, 2 * theirs)
        theirs.data.mul_(2)
    x = torch.randn(5, 3)
    for network in (module, module, copy, copy):  # gradients add up, as everywhere in torch
        network(x).square().sum().backward()
    gradients = torch.cat([p.grad.flatten() for p in copy.parameters() if p.grad is not None])
    assert (flat.gradients - gradients).abs().max() < 1e-6 * gradients.abs().max()


# Optimizers


def torch_optimizer(kind: Training, parameters) -> torch.optim.Optimizer:
    if kind.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=1.0, momentum=kind.momentum, weight_decay=kind.weight_decay)
    form = torch.optim.AdamW if kind.decoupled else torch.optim.Adam
    return form(parameters, lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=kind.weight_decay)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weight_decay": 0.3},
        {"weight_decay": 0.3, "decoupled": True},
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.0},
        {"optimizer": "sgd", "weight_decay": 0.3, "momentum": 0.5},
    ],
    ids=str,
)
def test_optimizer_equals_torch(changes):
    kind = Training(**changes)
    torch.manual_seed(0)
    module, reference = (nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2)) for _ in range(2))
    reference.load_state_dict(module.state_dict())
    flat = FlatParameters(module)
    ours, theirs = Optimizer(kind, flat), torch_optimizer(kind, reference.parameters())
    start_values = flat.values.clone()
    for step in range(8):
        rate = 0.01 * (step + 1) / 8
        x, y = torch.randn(6, 2, 4, 4), torch.randn(6, 2)
        for network in (module, reference):
            (network(x) - y).square().mean().backward()
        ours.step(rate)
        theirs.param_groups[0]["lr"] = rate
        theirs.step()
        theirs.zero_grad()
        expected = torch.cat([p.detach().flatten() for p in reference.parameters()])
        assert (flat.values - expected).abs().max() < 1e-6
        assert not flat.gradients.any()
    assert (flat.values - start_values).abs().max() > 1e-3


def test_decoupled_decay_of_sgd_shrinks_weights_beside_the_gradient():
    kind = Training(optimizer="sgd", momentum=0.9, weight_decay=0.5, decoupled=True)
    flat = FlatParameters(nn.Linear(3, 2))
    values, momentum = flat.values.double(), torch.zeros(8, dtype=torch.float64)
    optimizer = Optimizer(kind, flat)
    for step in range(5):
        gradient = torch.linspace(-1, 1, 8) * (step + 1)
        flat.gradients.copy_(gradient)
        optimizer.step(0.1)
        momentum = 0.9 * momentum + gradient
        values = values * (1 - 0.1 * 0.5) - 0.1 * momentum
        assert (flat.values - values).abs().max() < 1e-5


# Averages


def recorded(setup: Setup, n: int = N) -> tuple[Trainer, list[torch.Tensor]]:
    """A finished trainer, and its weights at the start and after every step."""
    torch.manual_seed(0)
    trainer = Trainer(setup, n, 5, build(setup, (1, 8, 8), 0).train(), subset_of(n), CPU)
    weights = [trainer.parameters.values.double()]
    for _ in range(trainer.budget.steps):
        trainer.advance()
        weights.append(trainer.parameters.values.double())
    return trainer, weights


@pytest.mark.parametrize("warmup", ["own", "common"])
def test_averages_equal_the_recurrence_on_recorded_weights(warmup):
    decays = [0.99, 0.7, 0.0]
    setup = run_of(training={"ema_decays": decays, "ema_ramp": "100 images", "ema_warmup": warmup})
    trainer, weights = recorded(setup)
    for average, final in zip(trainer.averages, decays, strict=True):
        expected = weights[0]
        for step, value in enumerate(weights[1:]):
            decay = ema_decay(step * 10, 100.0, final, 10 if warmup == "common" else None)
            expected = decay * expected + (1 - decay) * value
        assert (average - expected).abs().max() < 1e-6
    assert torch.equal(trainer.averages[2], trainer.parameters.values)  # decay 0 is the raw weights


def test_averages_without_ramp_equal_the_closed_form():
    setup = run_of(training={"ema_decays": [0.9, 0.6], "ema_ramp": "0 images"})
    trainer, weights = recorded(setup)
    steps = trainer.budget.steps
    for average, decay in zip(trainer.averages, [0.9, 0.6], strict=True):
        expected = decay**steps * weights[0]
        expected = expected + sum((1 - decay) * decay ** (steps - s) * weights[s] for s in range(1, steps + 1))
        assert (average - expected).abs().max() < 1e-6


def test_learning_rate_is_zero_at_step_0():
    """As published: the rate of a step is that of the images seen before it."""
    _, weights = recorded(run_of())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


# Budget


def test_budget_in_epochs_images_and_shares():
    found = budget(run_of(training={"duration": "10 epochs", "batch_size": 16, "lr_ramp": "2 epochs"}), 100)
    assert (found.steps, found.images, found.lr_ramp) == (63, 1008, 200.0)
    assert found.ema_ramp == pytest.approx(0.2 * 1008)
    assert found.snapshots == (19, 32, 63)
    found = budget(run_of(training={"ema_ramp": "70 images", "lr_ramp": "5 %"}), 100)
    assert (found.steps, found.images, found.lr_ramp, found.ema_ramp) == (20, 200, 10.0, 70.0)
    assert found.snapshots == (6, 10, 20)
    assert found.log == (2, 4, 6, 8, 10, 12, 14, 16, 18, 20)


def test_papers_budget():
    found = budget(Setup(), 1000)
    assert (found.steps, found.images) == (78_125, 40_000_000)
    assert (found.lr_ramp, found.ema_ramp) == (200_000.0, 200_000.0)


def test_budget_has_as_many_snapshots_for_every_n():
    setup = run_of(training={"duration": "3 epochs", "batch_size": 64, "snapshots": [0.1, 0.25, 0.5, 1.0]})
    for n in (1, 2, 21, 64, 1000):
        found = budget(setup, n)
        assert len(found.snapshots) == 4
        assert found.snapshots[-1] == found.steps
        assert found.log[-1] == found.steps
        assert min(found.snapshots) >= 1
        assert found.images >= 3 * n


# Runs in this process


def finish(setup: Setup, subset: Subset, folder: Path, stops: tuple[int, ...] = ()) -> Trainer:
    """Train to the end as many processes would: each step of `stops` ends one of them."""
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


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def assert_same_run(one: Trainer, two: Trainer, folder_one: Path, folder_two: Path) -> None:
    assert torch.equal(one.parameters.values, two.parameters.values)
    assert all(torch.equal(a, b) for a, b in zip(one.averages, two.averages, strict=True))
    assert all(torch.equal(one.optimizer.state[name], two.optimizer.state[name]) for name in one.optimizer.state)
    assert one.rows == two.rows
    for index in range(len(one.budget.snapshots)):
        name = f"snapshot-{index}.safetensors"
        assert same(load_file(folder_one / name), load_file(folder_two / name))


@pytest.mark.parametrize("name", VARIANTS)
def test_interrupted_runs_end_with_the_same_bits(name, tmp_path):
    changes, labels = VARIANTS[name]
    setup, subset = run_of(**changes), subset_of(labels=labels)
    whole = finish(setup, subset, tmp_path / "whole")
    # after the first step, on a snapshot, in neighbouring steps, and on the last step
    for index, stops in enumerate([(1, 6), (9, 10, 17, 20)]):
        folder = tmp_path / str(index)
        assert_same_run(whole, finish(setup, subset, folder, stops), tmp_path / "whole", folder)
    assert len(whole.rows) == 10
    moved = (whole.parameters.values - start(setup, subset, N, 0, CPU, tmp_path / "none").parameters.values).abs().max()
    assert moved > 1e-4


def test_a_run_repeats_its_bits(tmp_path):
    setup, subset = run_of(training={"duration": "60 images"}), subset_of()
    one, two = (finish(setup, subset, tmp_path / name) for name in "ab")
    assert_same_run(one, two, tmp_path / "a", tmp_path / "b")


def test_seed_size_and_replicate_change_the_run(tmp_path):
    subset = subset_of()
    runs = [
        start(read_setup(settings() | {"seed": seed}), subset, n, replicate, CPU, tmp_path)
        for seed, n, replicate in [(0, 24, 0), (1, 24, 0), (0, 24, 1), (0, 23, 0)]
    ]
    firsts = [float(trainer.parameters.values.sum()) for trainer in runs]
    assert len(set(firsts)) == 4
    assert runs[0].seed == derive(0, "train", 0, 24)


def test_training_lowers_the_loss(tmp_path):
    setup = run_of(training={"duration": "800 images", "learning_rate": 1e-2}, network={"dropout": 0.0})
    flat = np.repeat(np.array([20, 90, 160, 230], np.uint8), 64).reshape(4, 1, 8, 8)  # easy: four plain grey images
    trainer = finish(setup, replace(subset_of(4), images=flat), tmp_path)
    losses = [row["train_loss"] for row in trainer.rows]
    assert losses[-1] < 0.7 * losses[0]


def test_several_averages_of_a_network_with_buffers(tmp_path):
    """Fixed Fourier frequencies belong to the snapshot of every decay."""
    setup = run_of(network={"embedding": "fourier"}, training={"duration": "10 images", "ema_decays": [0.9, 0.5]})
    trainer = finish(setup, subset_of(), tmp_path)
    tensors = load_file(tmp_path / "snapshot-2.safetensors")
    frequencies = trainer.denoiser.network.state_dict()["noise_embedding.frequencies"]
    for decay in range(2):
        assert torch.equal(tensors[f"2/{decay}/noise_embedding.frequencies"], frequencies)


def test_first_step_equals_a_plain_implementation(tmp_path):
    """Loss of step 0: the batch, the noise levels and the noise come from the seeds of that step."""
    setup, subset = run_of(network={"dropout": 0.0}), subset_of()
    trainer = start(setup, subset, N, 0, CPU, tmp_path)
    index = next(batches(N, 10, trainer.seed, 0))
    torch.manual_seed(derive(trainer.seed, "step", 0))
    images = to_unit(torch.from_numpy(subset.images)[index])
    draw, noise = torch.randn(10), torch.randn_like(images)
    expected = denoising_loss(trainer.denoiser, trainer.denoiser.kind, images, draw, noise).mean().item()
    assert trainer.advance().item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_compiled_network_is_one_graph_with_the_same_gradients(name, tmp_path, monkeypatch):
    """The graph that torch.compile captures, run without code generation; `fullgraph` refuses to split it."""
    changes, labels = VARIANTS[name]
    setup = run_of(**(changes | {"network": changes.get("network", {}) | {"dropout": 0.0}}))
    graphs, original = [], torch.compile

    def compiled(function, **options):
        def backend(graph, inputs):
            graphs.append(graph)
            return graph.forward

        return original(function, fullgraph=True, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(trainer_module, "check_compiler", lambda device: None)
    trainers = [
        start(setup, subset_of(n, labels), n, 0, CPU, tmp_path / f"{n}{when}", compiled=when)
        for n in (N, 2 * N) for when in ("never", "always")
    ]  # fmt: skip
    for trainer in trainers:
        for _ in range(3):
            trainer.advance()
        trainer.log()  # evaluation, with another batch size, is not compiled
    for eager, lowered in (trainers[:2], trainers[2:]):
        assert torch.allclose(eager.parameters.values, lowered.parameters.values, rtol=0, atol=1e-6)
    assert len(graphs) == 2  # one for each network, whatever N and however many steps


@pytest.fixture
def restored_compiler() -> Iterator[None]:
    """Puts back what "auto" sets for the process."""
    with torch._dynamo.config.patch(suppress_errors=False):
        yield


@pytest.mark.usefixtures("restored_compiler")
def test_long_trainings_go_on_without_a_compiler(tmp_path, monkeypatch):
    def broken(graph, inputs):
        tried.append(graph)
        raise RuntimeError("no compiler")

    tried, original = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: original(function, backend=broken, **options))
    monkeypatch.setattr(trainer_module, "LONG", 1)
    eager, fallen = (
        start(run_of(), subset_of(), N, 0, CPU, tmp_path / when, compiled=when) for when in ("never", "auto")
    )
    for trainer in (eager, fallen):
        trainer.advance()
        trainer.advance()
    assert tried
    assert torch.equal(eager.parameters.values, fallen.parameters.values)


def test_who_asks_for_compiling_is_told_that_there_is_no_compiler(tmp_path, monkeypatch):
    """With the real compiler, which finds nothing to compile C++ with."""
    torch._dynamo.reset()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    nothing = {"cpp.cxx": (str(tmp_path / "nothing"),)}
    told = r"^execution\.compile = 'always': this machine cannot .*; use auto or never$"
    with importlib.import_module("torch._inductor.config").patch(nothing), pytest.raises(TrainingError, match=told):
        start(run_of(), subset_of(), N, 0, CPU, tmp_path, compiled="always")


@pytest.mark.usefixtures("restored_compiler")
@pytest.mark.parametrize(("steps", "compiled"), [(19_999, False), (20_000, True)])
def test_only_long_trainings_are_compiled(steps, compiled, tmp_path):
    setup = run_of(training={"duration": f"{10 * steps} images"})
    trainer = start(setup, subset_of(), N, 0, CPU, tmp_path, compiled="auto")
    assert (trainer.denoiser.compiled is not None) == compiled


def test_rows_report_the_schedule_and_both_losses(tmp_path):
    setup = run_of()
    trainer = finish(setup, subset_of(), tmp_path)
    assert [row["images_seen"] for row in trainer.rows] == list(range(20, 201, 20))
    for row in trainer.rows:
        assert tuple(row) == LOG_COLUMNS
        assert row["progress"] == pytest.approx(row["images_seen"] / 200)
        assert row["learning_rate"] == pytest.approx(3e-3 * learning_rate_factor(row["images_seen"], 50))
        assert min(row["loss"], row["train_loss"], row["held_out_loss"]) > 0
    assert trainer.denoiser.training


def test_evaluation_changes_nothing_and_repeats(tmp_path):
    trainer = start(run_of(), subset_of(), N, 0, CPU, tmp_path)
    for _ in range(5):
        trainer.advance()
    before, random = trainer.parameters.values.clone(), torch.get_rng_state()
    assert trainer.evaluate() == trainer.evaluate()
    assert torch.equal(trainer.parameters.values, before)
    assert torch.equal(torch.get_rng_state(), random)
    without = start(run_of(), subset_of(held_out=0), N, 0, CPU, tmp_path)
    assert without.evaluate()[1] is None


def test_evaluation_uses_the_first_average(tmp_path):
    trainer = start(run_of(), subset_of(), N, 0, CPU, tmp_path)
    for _ in range(10):
        trainer.advance()
    expected = trainer.evaluate()
    trainer.averages[1].zero_()
    trainer.parameters.values.mul_(1.5)
    assert trainer.evaluate() == expected
    trainer.averages[0].mul_(1.5)
    assert trainer.evaluate() != expected


def test_snapshots_hold_the_averages(tmp_path):
    setup = run_of()
    trainer = finish(setup, subset_of(), tmp_path)
    snapshots.join(tmp_path, tmp_path / "out.safetensors", {"shares": setup.training.snapshots})
    network = build(setup, (1, 8, 8), 0).network
    tensors = load_file(tmp_path / "out.safetensors")
    assert len(tensors) == 3 * 2 * len(network.state_dict())
    for decay in range(2):
        network.load_state_dict({name: tensors[f"2/{decay}/{name}"] for name in network.state_dict()})
        flat = FlatParameters(network).values
        assert torch.equal(flat, trainer.averages[decay])


# State


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


def test_waiting_for_the_lock_ends_when_it_is_free_or_when_patience_does(tmp_path, capsys, monkeypatch):
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
        # The holder removes the folder, and with it the file that the other one waits for: a new one must be locked.
        state.clear(folder)
    ended = time.monotonic()
    waiting.join(10)
    assert entered.is_set()
    assert time.monotonic() - ended >= state.DELETION  # the holder's Snakemake may delete outputs that long
    assert (folder / "lock").is_file()
    out = capsys.readouterr().out.splitlines()
    assert out == [
        f"{folder}: process {os.getpid()} on {platform.node()}, SLURM job 17 trains this run; waiting for its end"
    ]
    patience.clear()
    with state.held(folder), pytest.raises(state.RunLocked, match="SLURM job 17"), state.held(folder, moment):
        pass


def test_a_folder_that_another_run_removes_meanwhile_is_made_again(tmp_path, monkeypatch):
    """`clear` of one run takes the empty folder of their key away before another one has made its own in it."""
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

    monkeypatch.setattr(state.fcntl, "flock", refuse)
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
    assert not state.bind(tmp_path, "one")
    (tmp_path / "state.pt").write_bytes(b"1")
    (tmp_path / "lock").touch()
    (tmp_path / ".state.pt.killed_1.pt").touch()
    assert state.bind(tmp_path, "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["identity", "lock", "state.pt"]
    assert not state.bind(tmp_path, "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["identity", "lock"]


def test_clearing_removes_empty_parents_only(tmp_path):
    one, two = tmp_path / "state" / "key" / "n1-r0", tmp_path / "state" / "key" / "n2-r0"
    for folder in (one, two):
        folder.mkdir(parents=True)
        (folder / "state.pt").touch()
    state.clear(one)
    assert not one.exists()
    assert two.exists()
    state.clear(two)
    assert not (tmp_path / "state").exists()
    assert tmp_path.exists()


# The stage as a program


class Place:
    """The files of one run in a folder, and the command line that makes them."""

    def __init__(self, folder: Path, subset: Subset, state_seconds: float = 30, /, **changes: dict[str, Any]):
        self.state_seconds = state_seconds
        self.folder, self.state = folder, folder / "state" / "key" / "n24-r0"
        self.snapshots, self.log = folder / "out" / "snapshots.safetensors", folder / "out" / "training.csv"
        self.record = folder / "out" / "training.json"
        self.subset = folder / "subset.npz"
        save(self.subset, subset)
        self.settings = json.dumps(settings(**changes))

    def arguments(self) -> list[str]:
        options = ["--settings", self.settings, "--key", "abc", "--n", str(N), "--replicate", "0", "--device", "cpu"]
        for name in ("subset", "snapshots", "log", "record", "state"):
            options += [f"--{name}", str(getattr(self, name))]
        return [*options, "--state-seconds", str(self.state_seconds)]

    def process(self) -> subprocess.Popen[str]:
        command_line = [sys.executable, "-m", "emmeter.stages.train", *self.arguments()]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def outputs(self) -> list[Path]:
        return [path for path in (self.snapshots, self.log, self.record) if path.exists()]

    def resumed_at(self) -> int:
        return json.loads(self.record.read_text())["resumed_at_image"]

    def columns(self) -> list[dict[str, str]]:
        with open(self.log, newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def program(monkeypatch):
    """Run the stage's command line in this process: its exit status, 0 where it returns."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def call(place: Place) -> int:
        monkeypatch.setattr(sys, "argv", ["train", *place.arguments()])
        try:
            command(train_stage.main)
        except SystemExit as stopped:
            return int(stopped.code or 0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return 0

    return call


SHORT = {"training": {"duration": "40 images"}}
LONG = {"training": {"duration": "1200 images", "learning_rate": 1e-3}}  # 120 steps: at least a second


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A long run that nothing disturbed."""
    place = Place(tmp_path_factory.mktemp("undisturbed"), subset_of(), **LONG)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "argv", ["train", *place.arguments()])
    train_stage.main()
    patch.undo()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return place


def test_outputs_of_a_run(undisturbed):
    place = undisturbed
    saved = state.load(place.state)  # kept, until samples show that the outputs are safe
    assert saved is not None
    assert saved["step"] == 120
    assert sorted(path.name for path in place.snapshots.parent.iterdir()) == [
        "SHA256SUMS", "settings.yaml", "snapshots.safetensors", "training.csv", "training.json",
    ]  # fmt: skip
    rows = place.columns()
    assert tuple(rows[0]) == LOG_COLUMNS
    assert [int(row["images_seen"]) for row in rows] == list(range(120, 1201, 120))
    assert all(np.isfinite([float(row[name]) for name in LOG_COLUMNS]).all() for row in rows)
    with safe_open(place.snapshots, "pt") as file:
        description = json.loads(file.metadata()["run"])
        names = list(file.keys())
    assert description["key"] == "abc"
    assert description["shares"] == [0.3, 0.5, 1.0]
    assert description["ema_decays"] == [0.9, 0.5]
    assert description["images_seen"] == [360, 600, 1200]
    network = build(read_setup(json.loads(place.settings)), (1, 8, 8), 0).network
    assert sorted(names) == sorted(f"{s}/{d}/{n}" for s in range(3) for d in range(2) for n in network.state_dict())
    record = json.loads(place.record.read_text())
    assert record["images_trained"] == 1200
    assert record["parameters"] == sum(p.numel() for p in network.parameters())
    assert record["resumed_at_image"] == 0
    assert record["images_per_second"] > 0
    assert (record["n"], record["replicate"], record["key"]) == (N, 0, "abc")


def wait_for_progress(place: Place, running: subprocess.Popen[str]) -> None:
    """Until the running process has saved its state a second time."""
    first = None
    for _ in range(6000):
        if running.poll() is not None:
            pytest.fail(f"ended before it could be disturbed: {running.communicate()}")
        try:
            now = (place.state / "state.pt").stat().st_mtime_ns
        except FileNotFoundError:
            now = None
        if first is not None and now is not None and now != first:
            return
        first = first or now
        time.sleep(0.005)
    running.kill()
    pytest.fail("no state was saved within 30 s")


def test_sigkill_and_resume(undisturbed, tmp_path):
    place = Place(tmp_path, subset_of(), 0.05, **LONG)
    running = place.process()
    wait_for_progress(place, running)
    running.send_signal(signal.SIGSTOP)
    second, third = place.process(), place.process()  # as of a Snakemake that was killed and started again
    for waiting in (second, third):
        assert waiting.stdout is not None
        assert f"process {running.pid} " in waiting.stdout.readline()
    third.terminate()
    assert third.wait(30) == 143
    assert not place.outputs()
    running.kill()
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    second.communicate(timeout=60)
    assert second.returncode == 0
    assert 0 < place.resumed_at() < 1200
    assert place.snapshots.read_bytes() == undisturbed.snapshots.read_bytes()
    assert place.log.read_bytes() == undisturbed.log.read_bytes()


def test_outputs_that_vanish_are_written_again_without_training(undisturbed, tmp_path, program):
    """Snakemake deletes them when it is killed and submits again a run that has meanwhile ended."""
    place = Place(tmp_path, subset_of(), **LONG)
    shutil.copytree(undisturbed.state, place.state)
    assert program(place) == 0
    assert place.resumed_at() == 1200
    assert place.snapshots.read_bytes() == undisturbed.snapshots.read_bytes()
    assert place.log.read_bytes() == undisturbed.log.read_bytes()
    assert json.loads(place.record.read_text())["images_per_second"] > 0


@pytest.fixture
def vanishing(undisturbed, tmp_path, monkeypatch):
    """A trained run whose outputs are removed so many times before the last of them is written."""

    def prepare(times: int) -> Place:
        place = Place(tmp_path, subset_of(), **LONG)
        shutil.copytree(undisturbed.state, place.state)
        join, left = snapshots.join, list(range(times))

        def disturbed(*arguments):
            join(*arguments)
            if left:
                left.pop()
                for path in (place.snapshots, place.log, place.record):
                    path.unlink()

        monkeypatch.setattr(snapshots, "join", disturbed)
        return place

    return prepare


def test_outputs_that_vanish_before_the_last_is_written(undisturbed, program, vanishing):
    """A Snakemake that submits this run again deletes them before its job waits for this one."""
    place = vanishing(1)
    assert program(place) == 0
    assert place.snapshots.read_bytes() == undisturbed.snapshots.read_bytes()
    assert place.log.read_bytes() == undisturbed.log.read_bytes()
    checksums.check([place.snapshots, place.log, place.record])


def test_outputs_that_vanish_again_and_again(program, vanishing, capsys):
    """Nobody does that; where somebody does, it ends."""
    assert program(vanishing(train_stage.ATTEMPTS)) == 1
    assert "No such file" in capsys.readouterr().err


def test_sigterm_and_resume(undisturbed, tmp_path, program):
    place = Place(tmp_path, subset_of(), 0.05, **LONG)
    running = place.process()
    wait_for_progress(place, running)
    running.terminate()
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 143
    assert errors.splitlines() == ["interrupted: state saved; the same command resumes"]
    assert not place.outputs()
    saved = state.load(place.state)
    assert saved is not None
    assert program(place) == 0
    assert place.resumed_at() == 10 * saved["step"]
    assert place.snapshots.read_bytes() == undisturbed.snapshots.read_bytes()
    assert place.log.read_bytes() == undisturbed.log.read_bytes()
    record = json.loads(place.record.read_text())
    assert record["seconds"] > saved["seconds"]  # the time of the process before counts


def half_way(place: Place, program) -> None:
    """Leave the state of a run that was told to stop after its first step."""
    original = train_stage.Progress.show

    def show(self):
        signal.raise_signal(signal.SIGTERM)
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_stage.Progress, "show", show)
        assert program(place) == 143
    assert (place.state / "state.pt").is_file()


def move_state(source: Place, target: Place) -> None:
    target.state.parent.mkdir(parents=True)
    source.state.rename(target.state)


def test_resuming_own_state(tmp_path, program):
    place = Place(tmp_path, subset_of(), **SHORT)
    half_way(place, program)
    assert program(place) == 0
    assert place.resumed_at() == 10


@pytest.mark.parametrize("kind", ["settings", "subset"])
def test_state_of_another_run_is_discarded(tmp_path, program, kind):
    folders = [tmp_path / name for name in ("other", "place", "clean")]
    changed = {"training": {"duration": "40 images", "learning_rate": 1e-3}} if kind == "settings" else SHORT
    subset = subset_of(labels=3) if kind == "subset" else subset_of()
    other = Place(folders[0], subset_of(), **changed)
    place, clean = (Place(folder, subset, **SHORT) for folder in folders[1:])
    half_way(other, program)
    move_state(other, place)
    assert program(place) == 0
    assert place.resumed_at() == 0
    assert program(clean) == 0
    assert place.snapshots.read_bytes() == clean.snapshots.read_bytes()


def test_truncated_state_starts_again(tmp_path, program, capsys):
    place, clean = (Place(tmp_path / name, subset_of(), **SHORT) for name in ("place", "clean"))
    half_way(place, program)
    path = place.state / "state.pt"
    path.write_bytes(path.read_bytes()[:-100])
    assert program(place) == 0
    assert "damaged; starting this run again" in capsys.readouterr().out
    assert place.resumed_at() == 0
    assert program(clean) == 0
    assert place.snapshots.read_bytes() == clean.snapshots.read_bytes()


def one_error(capsys) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def test_infinite_loss_is_one_line_and_no_output(tmp_path, program, capsys):
    place = Place(tmp_path, subset_of(), training={"optimizer": "sgd", "learning_rate": 1e30})
    assert program(place) == 1
    line = one_error(capsys)
    assert "the loss became" in line
    assert "training.learning_rate = 1e+30" in line
    assert not place.outputs()


def test_overflow_on_the_last_step_is_an_error(tmp_path, program, capsys):
    """The loss of a step is computed before its update: the last update is never looked at."""
    training = {"optimizer": "sgd", "learning_rate": 1e38, "lr_ramp": "0 images", "duration": "10 images"}
    place = Place(tmp_path, subset_of(), training=training)
    assert program(place) == 1
    assert "training.learning_rate" in one_error(capsys)
    assert not place.outputs()


def test_missing_subset_is_one_line(tmp_path, program, capsys):
    place = Place(tmp_path, subset_of())
    place.subset.unlink()
    assert program(place) == 1
    assert str(place.subset) in one_error(capsys)


def test_wrong_settings_are_one_line(tmp_path, program, capsys):
    place = Place(tmp_path, subset_of(), training={"batchsize": 3})
    assert program(place) == 1
    assert "training.batchsize: is not a key of training; did you mean 'batch_size'?" in one_error(capsys)


# Flips


def shown(monkeypatch, setup: Setup, subset: Subset, folder: Path, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The images that `steps` steps train on, as uint8, and those of the subset that the batches name."""
    seen = []

    def loss(denoiser, kind, images, draw, noise, labels):
        seen.append(((images + 1) * 127.5).round().to(torch.uint8))
        return denoising_loss(denoiser, kind, images, draw, noise, labels)

    monkeypatch.setattr("emmeter.training.trainer.denoising_loss", loss)
    trainer = start(setup, subset, len(subset.images), 0, CPU, folder)
    for _ in range(steps):
        trainer.advance()
    monkeypatch.undo()
    order = itertools.islice(batches(len(subset.images), 10, trainer.seed, 0), steps)
    return torch.cat(seen), torch.from_numpy(subset.images)[torch.cat(list(order))]


def mirrored(subset: Subset) -> Subset:
    return replace(subset, images=subset.images[..., ::-1].copy(), held_out=subset.held_out[..., ::-1].copy())


def test_no_flips_keep_every_bit_of_a_run(tmp_path):
    one, two = run_of(), run_of(training={"flip": 0.0})
    folders = tmp_path / "one", tmp_path / "two"
    trainers = [finish(run, subset_of(), folder) for run, folder in zip((one, two), folders, strict=True)]
    assert_same_run(*trainers, *folders)


@pytest.mark.parametrize(("flip", "drawn"), [(0.0, 0), (0.5, 10), (1.0, 10)])
def test_random_numbers_of_a_step(tmp_path, flip, drawn):
    """Flips are drawn after noise levels and noise, and without flips nothing is: older runs keep their bits."""
    trainer = start(run_of(network={"dropout": 0.0}, training={"flip": flip}), subset_of(), N, 0, CPU, tmp_path)
    trainer.advance()
    after = torch.get_rng_state()
    torch.manual_seed(derive(trainer.seed, "step", 0))
    torch.randn(10)
    torch.randn(10, 1, 8, 8)
    torch.rand(drawn)
    assert torch.equal(torch.get_rng_state(), after)


def test_certain_flips_are_training_on_mirror_images(tmp_path):
    """Bit for bit where no dropout draws after the flips."""
    still, flipping = (run_of(network={"dropout": 0.0}, training={"flip": flip}) for flip in (0.0, 1.0))
    flipped = finish(flipping, subset_of(), tmp_path / "flipped")
    expected = finish(still, mirrored(subset_of()), tmp_path / "mirrored")
    plain = finish(still, subset_of(), tmp_path / "plain")
    assert torch.equal(flipped.parameters.values, expected.parameters.values)
    assert all(torch.equal(a, b) for a, b in zip(flipped.averages, expected.averages, strict=True))
    assert [row["loss"] for row in flipped.rows] == [row["loss"] for row in expected.rows]
    assert not torch.equal(flipped.parameters.values, plain.parameters.values)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_all_or_no_images_are_mirrored_left_to_right(tmp_path, monkeypatch, flip):
    images, stored = shown(monkeypatch, run_of(training={"flip": flip}), subset_of(), tmp_path, 6)
    assert torch.equal(images, stored.flip(3) if flip else stored)


@pytest.mark.parametrize("flip", [0.5, 0.2])
def test_a_share_of_images_is_mirrored_afresh_each_time(tmp_path, monkeypatch, flip):
    """Within four standard deviations of 600 draws."""
    images, stored = shown(monkeypatch, run_of(training={"flip": flip}), subset_of(6), tmp_path, 60)
    turned = (images == stored.flip(3)).all(dim=(1, 2, 3))
    assert torch.equal(turned, ~(images == stored).all(dim=(1, 2, 3)))  # each is one or the other
    assert abs(turned.double().mean() - flip) < 4 * (flip * (1 - flip) / 600) ** 0.5
    kinds = stored.unique(dim=0)
    assert len(kinds) == 6
    for kind in kinds:  # no image has an orientation of its own
        assert 0 < turned[(stored == kind).all(dim=(1, 2, 3))].double().mean() < 1


def test_interrupted_runs_with_flips_end_with_the_same_bits(tmp_path):
    setup, subset = run_of(training={"flip": 0.5}), subset_of(labels=3)
    whole = finish(setup, subset, tmp_path / "whole")
    assert_same_run(whole, finish(setup, subset, tmp_path / "parts", (1, 13)), tmp_path / "whole", tmp_path / "parts")


def test_evaluation_does_not_flip(tmp_path):
    flipping, still = (
        start(run_of(training={"flip": flip}), subset_of(), N, 0, CPU, tmp_path / str(flip)) for flip in (0.5, 0.0)
    )
    assert flipping.evaluate() == still.evaluate()
