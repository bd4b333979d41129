"""The linear denoiser beside its formula, and errors at single noise levels beside what theory says."""

import pytest
import torch

from emmeter.diffusion.denoising import denoised, noise_for, squared
from emmeter.diffusion.linear import LinearDenoiser
from emmeter.diffusion.optimum import OptimalDenoiser

LEVELS = [0.05, 0.5, 5.0]


def images(count: int, seed: int = 0) -> torch.Tensor:
    """Images (count, 1, 3, 3) whose values are correlated."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(9, 9, generator=torch.Generator().manual_seed(99), dtype=torch.float64) / 9
    return (torch.randn(count, 9, generator=generator, dtype=torch.float64) @ mix).unflatten(1, (1, 3, 3)) + 0.1


@pytest.mark.parametrize("count", [1, 2, 5, 40])
@pytest.mark.parametrize("sigma", LEVELS)
def test_the_linear_denoiser_is_the_wiener_filter_of_mean_and_covariance(count, sigma):
    train, noisy = images(count), images(6, seed=1) * 2
    flat = train.flatten(1)
    covariance = (flat - flat.mean(0)).T @ (flat - flat.mean(0)) / count
    filter_ = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(9, dtype=torch.float64))
    expected = flat.mean(0) + (noisy.flatten(1) - flat.mean(0)) @ filter_.T
    ours = LinearDenoiser(train)(noisy, torch.full((6,), sigma))
    assert ours.flatten(1).sub(expected).abs().max() < 1e-6 * max(1, 1 / sigma)


def test_no_linear_function_has_a_smaller_loss_on_the_training_images():
    train = images(12)
    flat, sigma = train.flatten(1), 0.3
    centred = flat - flat.mean(0)
    covariance = centred.T @ centred / len(flat)

    def loss(matrix: torch.Tensor) -> float:
        """Expected |mu + A (y - mu + sigma n) - y|^2."""
        rest = matrix - torch.eye(9, dtype=torch.float64)
        return float((rest @ covariance @ rest.T).trace() + sigma**2 * (matrix @ matrix.T).trace())

    best = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(9, dtype=torch.float64))
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        other = best + 0.05 * torch.randn(9, 9, generator=generator, dtype=torch.float64)
        assert loss(best) < loss(other)
    of_ours = LinearDenoiser(train)(train + 0 * train, torch.full((12,), sigma)).flatten(1) - flat.mean(0)
    assert (of_ours - centred @ best.T).abs().max() < 1e-7


def test_a_denoiser_that_does_nothing_has_the_loss_of_the_noise():
    clean = images(4).float()
    result = denoised(lambda x, sigma, labels: x, clean, None, LEVELS)
    assert result.shape == (3, 4, 1, 3, 3)
    power = noise_for(clean).square().mean().item()
    assert squared(result, clean) == pytest.approx([level**2 * power for level in LEVELS], rel=1e-4)


def test_all_levels_have_the_same_noise():
    clean = images(4).float()
    result = denoised(lambda x, sigma, labels: (x - clean) / sigma[0], clean, None, LEVELS)
    assert (result - noise_for(clean)).abs().max() < 1e-4


def test_on_its_training_images_the_optimum_has_the_smallest_loss():
    train = images(10)
    optimum, linear = (
        denoised(kind(train), train, None, [0.1, 0.4, 2.0]) for kind in (OptimalDenoiser, LinearDenoiser)
    )
    assert all(best <= other for best, other in zip(squared(optimum, train), squared(linear, train), strict=True))
    assert squared(optimum, train)[0] < 1e-6  # it returns the image itself


def test_without_levels_there_is_nothing():
    clean = images(2).float()
    assert denoised(lambda x, sigma, labels: x, clean, None, []).shape == (0, 2, 1, 3, 3)
    assert squared(denoised(lambda x, sigma, labels: x, clean, None, []), clean) == []
