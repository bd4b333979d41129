"""One run, step by step: averages, random numbers, flips."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emmeter.data.subset import Subset
from emmeter.diffusion.preconditioning import denoising_loss, to_unit
from emmeter.diffusion.sampling import noise_levels
from emmeter.settings.sections import Setup
from emmeter.settings.validation import read_setup
from emmeter.training import log
from emmeter.training.batches import batches
from emmeter.training.schedule import ema_decay
from emmeter.training.seeds import derive
from emmeter.training.trainer import Trainer, build, start
from networks import awake
from small_run import CPU, N, assert_same_run, finish, settings, setup_with, subset_of


def recorded(setup: Setup, n: int = N) -> tuple[Trainer, list[torch.Tensor]]:
    """A finished trainer, and its weights at the start and after each step."""
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
    setup = setup_with(training={"ema_decays": decays, "ema_ramp": "100 images", "ema_warmup": warmup})
    trainer, weights = recorded(setup)
    for average, final in zip(trainer.averages, decays, strict=True):
        expected = weights[0]
        for step, value in enumerate(weights[1:]):
            decay = ema_decay(step * 10, 100.0, final, 10 if warmup == "common" else None)
            expected = decay * expected + (1 - decay) * value
        assert (average - expected).abs().max() < 1e-6
    assert torch.equal(trainer.averages[2], trainer.parameters.values)  # decay 0 gives the raw weights


def test_averages_without_ramp_equal_the_closed_form():
    setup = setup_with(training={"ema_decays": [0.9, 0.6], "ema_ramp": "0 images"})
    trainer, weights = recorded(setup)
    steps = trainer.budget.steps
    for average, decay in zip(trainer.averages, [0.9, 0.6], strict=True):
        expected = decay**steps * weights[0]
        expected = expected + sum((1 - decay) * decay ** (steps - s) * weights[s] for s in range(1, steps + 1))
        assert (average - expected).abs().max() < 1e-6


def test_learning_rate_is_zero_at_step_0():
    """As in the paper's code, the rate of a step is that of the images seen before the step."""
    _, weights = recorded(setup_with())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_first_step_equals_a_plain_implementation(tmp_path):
    """The loss of step 0, with batch, noise levels and noise from the seeds of that step."""
    setup, subset = setup_with(network={"dropout": 0.0}), subset_of()
    trainer = start(setup, subset, N, 0, CPU, tmp_path)
    index = next(batches(N, 10, trainer.seed, 0))
    torch.manual_seed(derive(trainer.seed, "step", 0))
    images = to_unit(torch.from_numpy(subset.images)[index])
    draw, noise = torch.randn(10), torch.randn_like(images)
    expected = denoising_loss(trainer.denoiser, trainer.denoiser.kind, images, draw, noise).mean().item()
    assert trainer.advance().item() == pytest.approx(expected, rel=1e-6)


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
    setup = setup_with(training={"duration": "800 images", "learning_rate": 1e-2}, network={"dropout": 0.0})
    flat = np.repeat(np.array([20, 90, 160, 230], np.uint8), 64).reshape(
        4, 1, 8, 8
    )  # an easy task: four uniform grey images
    trainer = finish(setup, replace(subset_of(4), images=flat), tmp_path)
    losses = [row["train_loss"] for row in trainer.rows]
    assert losses[-1] < 0.7 * losses[0]


# Flips


def trained_images(
    monkeypatch, setup: Setup, subset: Subset, folder: Path, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The images on which `steps` steps train, as uint8, and the images of the subset that the batches name."""
    seen = []

    trainer = start(setup, subset, len(subset.images), 0, CPU, folder)
    update = trainer.update

    def noted(images, draw, noise, labels):
        seen.append(((images + 1) * 127.5).round().to(torch.uint8))
        return update(images, draw, noise, labels)

    monkeypatch.setattr(trainer, "update", noted)
    for _ in range(steps):
        trainer.advance()
    monkeypatch.undo()
    order = itertools.islice(batches(len(subset.images), 10, trainer.seed, 0), steps)
    return torch.cat(seen), torch.from_numpy(subset.images)[torch.cat(list(order))]


def mirrored(subset: Subset) -> Subset:
    return replace(subset, images=subset.images[..., ::-1].copy(), held_out=subset.held_out[..., ::-1].copy())


def test_no_flips_keep_every_bit_of_a_run(tmp_path):
    setups = setup_with(), setup_with(training={"flip": 0.0})
    folders = tmp_path / "default", tmp_path / "none"
    trainers = [finish(setup, subset_of(), folder) for setup, folder in zip(setups, folders, strict=True)]
    assert_same_run(*trainers, *folders)


@pytest.mark.parametrize(("flip", "drawn"), [(0.0, 0), (0.5, 10), (1.0, 10)])
def test_random_numbers_of_a_step(tmp_path, flip, drawn):
    """Flips are drawn after noise levels and noise.  Without flips nothing is drawn, so older runs keep their bits."""
    trainer = start(setup_with(network={"dropout": 0.0}, training={"flip": flip}), subset_of(), N, 0, CPU, tmp_path)
    trainer.advance()
    after = torch.get_rng_state()
    torch.manual_seed(derive(trainer.seed, "step", 0))
    torch.randn(10)
    torch.randn(10, 1, 8, 8)
    torch.rand(drawn)
    assert torch.equal(torch.get_rng_state(), after)


def test_certain_flips_are_training_on_mirror_images(tmp_path):
    """The bits are equal, because without dropout no random number follows the flips."""
    still, flipping = (setup_with(network={"dropout": 0.0}, training={"flip": flip}) for flip in (0.0, 1.0))
    flipped = finish(flipping, subset_of(), tmp_path / "flipped")
    expected = finish(still, mirrored(subset_of()), tmp_path / "mirrored")
    plain = finish(still, subset_of(), tmp_path / "plain")
    assert torch.equal(flipped.parameters.values, expected.parameters.values)
    assert all(torch.equal(a, b) for a, b in zip(flipped.averages, expected.averages, strict=True))
    assert [row["loss"] for row in flipped.rows] == [row["loss"] for row in expected.rows]
    assert not torch.equal(flipped.parameters.values, plain.parameters.values)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_all_or_no_images_are_mirrored_left_to_right(tmp_path, monkeypatch, flip):
    images, stored = trained_images(monkeypatch, setup_with(training={"flip": flip}), subset_of(), tmp_path, 6)
    assert torch.equal(images, stored.flip(3) if flip else stored)


@pytest.mark.parametrize("flip", [0.5, 0.2])
def test_a_share_of_images_is_mirrored_afresh_each_time(tmp_path, monkeypatch, flip):
    """Within four standard deviations of 600 draws."""
    images, stored = trained_images(monkeypatch, setup_with(training={"flip": flip}), subset_of(6), tmp_path, 60)
    turned = (images == stored.flip(3)).all(dim=(1, 2, 3))
    assert torch.equal(turned, ~(images == stored).all(dim=(1, 2, 3)))  # each image is either turned or not
    assert abs(turned.double().mean() - flip) < 4 * (flip * (1 - flip) / 600) ** 0.5
    kinds = stored.unique(dim=0)
    assert len(kinds) == 6
    for kind in kinds:  # each image appears in both orientations
        assert 0 < turned[(stored == kind).all(dim=(1, 2, 3))].double().mean() < 1


# Embeddings


def test_the_gradient_of_the_layer_behind_rows_of_embeddings_is_that_of_autograd():
    setup, subset = setup_with(network={"dropout": 0.0}), subset_of(labels=5)
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    denoiser = awake(build(setup, (1, 8, 8), 5, vectors)).train()
    trainer = Trainer(setup, N, 5, denoiser, replace(subset, label_vectors=vectors), CPU)
    images, noise = to_unit(torch.from_numpy(subset.images)), torch.randn(N, 1, 8, 8)
    labels, draw = torch.from_numpy(subset.labels), torch.randn(N)
    sigma = denoiser.kind.training_sigma(draw)
    loss, gradient = trainer.gradient(images, sigma, noise, labels)
    expected = denoising_loss(denoiser, denoiser.kind, images, draw, noise, labels).mean()
    expected.backward()
    assert torch.allclose(loss, expected.detach(), rtol=1e-6)
    for name, part in trainer.parameters.view(gradient).items():
        own = denoiser.network.get_parameter(name).grad
        assert own is not None and own.abs().max() > 0
        assert (part - own).abs().max() <= 1e-5 * own.abs().max()


# Noise floor


def test_training_and_its_losses_use_no_noise_level_below_the_floor(tmp_path, monkeypatch):
    setup = setup_with(training={"sigma_min": 0.3})
    trainer = start(setup, subset_of(), N, 0, CPU, tmp_path)
    levels, gradient = [], trainer.gradient

    def noted(images, sigma, noise, labels):
        levels.append(sigma)
        return gradient(images, sigma, noise, labels)

    monkeypatch.setattr(trainer, "gradient", noted)
    denoise = trainer.denoiser.forward
    monkeypatch.setattr(trainer.denoiser, "forward", lambda x, sigma, *a: levels.append(sigma) or denoise(x, sigma, *a))
    for _ in range(6):
        trainer.advance()
    log.append(trainer)
    drawn = torch.cat(levels)
    assert len(drawn) == 6 * 10 + 2 * 6
    assert drawn.min() == torch.tensor(0.3) and drawn.max() > 0.5
    lowest = noise_levels(setup.sampling, trainer.denoiser.kind.sigma_min, trainer.denoiser.kind.sigma_max)[-2]
    assert lowest == pytest.approx(0.3)


def test_no_floor_keeps_every_bit_of_a_run(tmp_path):
    first = finish(setup_with(), subset_of(), tmp_path / "first")
    other = finish(setup_with(training={"sigma_min": 0.0}), subset_of(), tmp_path / "other")
    assert_same_run(first, other, tmp_path / "first", tmp_path / "other")
