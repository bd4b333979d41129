"""The theoretical optimum and the sampler: reference vectors, and exact copies as the theory predicts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from emmeter.diffusion.layers import NO_LABEL
from emmeter.diffusion.optimum import OptimalDenoiser
from emmeter.diffusion.preconditioning import to_unit
from emmeter.diffusion.sampling import draws, generate, heun, noise_levels
from emmeter.measure.criterion import memorized, neighbours
from emmeter.settings.sections import Sampling

VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    with np.load(VECTORS / "optimal_digits64.npz") as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


def unit(images: torch.Tensor) -> torch.Tensor:
    return images.double() / 127.5 - 1


def test_denoiser_equals_reference(reference):
    ours = OptimalDenoiser(unit(reference["train_uint8"]))(reference["noisy"], reference["sigma"])
    assert (ours - reference["optimal_denoised"]).abs().max() < 1e-8


@pytest.mark.parametrize("steps", [18, 5])
def test_sampler_equals_reference(reference, steps):
    ours = heun(
        OptimalDenoiser(unit(reference["train_uint8"])), reference["latents"], noise_levels(Sampling(steps=steps))
    )
    assert (ours - reference[f"heun{steps}"]).abs().max() < 1e-8


def test_blocks_do_not_change_the_result(reference):
    whole = OptimalDenoiser(unit(reference["train_uint8"]))(reference["noisy"], reference["sigma"])
    parts = OptimalDenoiser(unit(reference["train_uint8"]), block=7)(reference["noisy"], reference["sigma"])
    assert (whole - parts).abs().max() < 1e-12


def test_extreme_noise_levels_stay_finite(reference):
    denoiser = OptimalDenoiser(unit(reference["train_uint8"]))
    noisy = reference["noisy"]
    tiny = denoiser(noisy, torch.full((16,), 1e-6, dtype=torch.float64))
    huge = denoiser(noisy, torch.full((16,), 1e6, dtype=torch.float64))
    assert torch.isfinite(tiny).all()
    assert (huge - unit(reference["train_uint8"]).mean(dim=0)).abs().max() < 1e-6


@pytest.mark.parametrize("copies", [0, 20])
def test_sampling_the_optimum_replays_the_training_set(reference, copies):
    """The ratio is exactly 1 and copies are exact to the bit, also if training images occur twice."""
    train = torch.cat([reference["train_uint8"], reference["train_uint8"][:copies]])
    drawn = draws(100, (1, 8, 8), None, replicate=0)
    images = generate(OptimalDenoiser(to_unit(train)), drawn, noise_levels(Sampling()), 64, torch.device("cpu"))
    groups = np.concatenate([np.arange(64), np.arange(copies)])
    nearest = neighbours(images.numpy(), train.numpy(), groups, 2)
    assert memorized(nearest).all()
    assert (nearest.squared[:, 0] == 0).all()
    if copies:
        paper = memorized(nearest, distinct=False)
        assert 0 < paper.mean() < 1  # the paper's rule is blind to copies of duplicated images
        assert (paper == (nearest.indices[:, 0] >= copies)).all()


def test_conditional_optimum_copies_an_image_of_its_label(reference):
    train = reference["train_uint8"]
    classes = torch.arange(64) % 4
    drawn = draws(40, (1, 8, 8), torch.arange(4), replicate=3)
    denoiser = OptimalDenoiser(to_unit(train), classes, block=10)
    images = generate(denoiser, drawn, noise_levels(Sampling()), 16, torch.device("cpu"))
    nearest = neighbours(images.numpy(), train.numpy(), np.arange(64), 2)
    assert (nearest.squared[:, 0] == 0).all()
    assert (classes[nearest.indices[:, 0]] == drawn.labels).all()


def test_unique_labels_give_the_labelled_image_at_any_noise(reference):
    train = unit(reference["train_uint8"])
    denoiser = OptimalDenoiser(train, torch.arange(64))
    out = denoiser(torch.randn(64, 1, 8, 8, dtype=torch.float64), torch.full((64,), 50.0), torch.arange(64))
    assert torch.equal(out, train)


def test_a_label_that_no_image_has_is_none(reference):
    train, noisy, sigma = unit(reference["train_uint8"]), reference["noisy"], reference["sigma"]
    labelled = OptimalDenoiser(train, torch.arange(64) % 4, block=10)
    labels = torch.arange(16) % 4
    out = labelled(noisy, sigma, torch.where(labels == 2, torch.where(torch.arange(16) < 8, NO_LABEL, 7), labels))
    assert torch.equal(out[labels == 2], OptimalDenoiser(train, block=10)(noisy, sigma)[labels == 2])
    assert torch.equal(out[labels != 2], labelled(noisy, sigma, labels)[labels != 2])


def test_labels_must_match_the_kind_of_optimum(reference):
    train = unit(reference["train_uint8"])
    with pytest.raises(ValueError, match="labels"):
        OptimalDenoiser(train)(reference["noisy"], reference["sigma"], torch.zeros(16, dtype=torch.int64))
