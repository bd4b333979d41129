"""Label dropout: which images lose their label, on one process or several, and runs without it keep their bits."""

import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from emmeter.diffusion import functional
from emmeter.diffusion.layers import NO_LABEL, LabelEmbedding
from emmeter.training.batches import batches
from emmeter.training.functions import gradient_function
from emmeter.training.packages import Package
from emmeter.training.parallel import ALONE, Processes
from emmeter.training.seeds import derive
from emmeter.training.trainer import start
from small_run import CPU, N, assert_same_run, finish, setup_with, subset_of

LABELS = 5
LABELLED = {"data": {"labels": f"random-{LABELS}"}}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def used(folder: Path, share: float, steps: int, processes: Processes = ALONE) -> torch.Tensor:
    """The labels on which `steps` steps train, (steps, images)."""
    setup = setup_with(**LABELLED, training={"label_dropout": share})
    trainer = start(setup, subset_of(labels=LABELS), N, 0, CPU, folder)
    trainer.processes = processes
    seen: list[torch.Tensor] = []

    def noted(images, draw, noise, labels):
        seen.append(labels)
        return torch.zeros(())

    trainer.update = noted  # type: ignore[method-assign]
    for _ in range(steps):
        trainer.advance()
    return torch.stack(seen)


def stored(folder: Path, steps: int) -> torch.Tensor:
    """The labels of the images of the first steps."""
    setup = setup_with(**LABELLED)
    trainer = start(setup, subset_of(labels=LABELS), N, 0, CPU, folder)
    order = itertools.islice(batches(N, 10, trainer.seed, 0), steps)
    return torch.from_numpy(subset_of(labels=LABELS).labels)[torch.stack(list(order))]


def test_without_label_dropout_a_run_has_the_bits_of_a_network_that_knows_no_missing_labels(tmp_path, monkeypatch):
    now = finish(setup_with(**LABELLED, training={"label_dropout": 0.0}), subset_of(labels=LABELS), tmp_path / "now")

    def before(self: LabelEmbedding, labels: torch.Tensor) -> torch.Tensor:
        return F.embedding(labels, self.weight) * self.scale + self.bias

    monkeypatch.setattr(LabelEmbedding, "forward", before)
    earlier = finish(setup_with(**LABELLED), subset_of(labels=LABELS), tmp_path / "before")
    assert_same_run(now, earlier, tmp_path / "now", tmp_path / "before")


@pytest.mark.parametrize(("share", "drawn"), [(0.0, 0), (0.1, 10), (1.0, 10)])
def test_labels_to_leave_out_are_drawn_after_noise_and_flips(tmp_path, share, drawn):
    setup = setup_with(**LABELLED, network={"dropout": 0.0}, training={"label_dropout": share, "flip": 0.5})
    trainer = start(setup, subset_of(labels=LABELS), N, 0, CPU, tmp_path)
    trainer.advance()
    after = torch.get_rng_state()
    torch.manual_seed(derive(trainer.seed, "step", 0))
    torch.randn(10)
    torch.randn(10, 1, 8, 8)
    torch.rand(10)
    torch.rand(drawn)
    assert torch.equal(torch.get_rng_state(), after)


def test_a_share_of_labels_is_left_out_afresh_each_time(tmp_path):
    labels, whole = used(tmp_path / "used", 0.3, 60), stored(tmp_path / "stored", 60)
    out = labels == NO_LABEL
    assert torch.equal(labels[~out], whole[~out])
    assert abs(out.double().mean() - 0.3) < 0.06  # three standard deviations of 600 draws
    assert len({tuple(row.tolist()) for row in out}) > 50


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_labels_or_none_are_left_out(tmp_path, share):
    labels, whole = used(tmp_path / "used", share, 6), stored(tmp_path / "stored", 6)
    assert torch.equal(labels, torch.full_like(whole, NO_LABEL) if share else whole)


def test_several_processes_leave_out_the_labels_of_one(tmp_path):
    alone = used(tmp_path / "alone", 0.3, 4)
    parts = [used(tmp_path / str(rank), 0.3, 4, Processes(rank, 2)) for rank in range(2)]
    assert torch.equal(torch.cat(parts, dim=1), alone)


def test_labels_that_are_never_used_are_not_trained(tmp_path):
    setup = setup_with(**LABELLED, training={"label_dropout": 1.0})
    first = start(setup, subset_of(labels=LABELS), N, 0, CPU, tmp_path / "first").denoiser.network.label_embedding
    last = finish(setup, subset_of(labels=LABELS), tmp_path / "last").denoiser.network.label_embedding
    assert first is not None and last is not None
    assert torch.equal(first.weight, last.weight)
    assert not torch.equal(first.bias, last.bias)


def test_an_interrupted_run_leaves_out_the_same_labels(tmp_path):
    setup = setup_with(**LABELLED, training={"label_dropout": 0.3})
    whole = finish(setup, subset_of(labels=LABELS), tmp_path / "whole")
    parts = finish(setup, subset_of(labels=LABELS), tmp_path / "parts", stops=(3, 11))
    assert_same_run(whole, parts, tmp_path / "whole", tmp_path / "parts")


def test_a_package_trains_on_images_without_labels_as_eager_pytorch_does(tmp_path):
    """The function that is compiled into packages stands for a package."""
    setup = setup_with(**LABELLED, network={"dropout": 0.0}, training={"label_dropout": 0.3})
    trainer = start(setup, subset_of(labels=LABELS), N, 0, CPU, tmp_path)
    for _ in range(4):
        trainer.advance()
    _, layout = trainer.parameters.layout.without(functional.LABELS)
    compiled = functional.step(trainer.denoiser, layout)
    package = Package("made up", 10, lambda inputs: list(compiled(*inputs)))
    labels = torch.tensor([0, NO_LABEL, 3, 4, NO_LABEL, 1, 1, NO_LABEL, 2, 0])
    batch = torch.rand(10, 1, 8, 8), torch.rand(10) + 0.1, torch.randn(10, 1, 8, 8), labels
    (loss, gradient), (own_loss, own_gradient) = (
        gradient_function(trainer.denoiser, trainer.parameters, used)(*batch) for used in (package, None)
    )
    assert torch.allclose(loss, own_loss, rtol=1e-6)
    assert (gradient - own_gradient).abs().max() <= 1e-5 * own_gradient.abs().max()
