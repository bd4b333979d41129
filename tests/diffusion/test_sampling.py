"""Sampler and seeds.  test_optimum.py compares with reference vectors."""

import itertools

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from emmeter.diffusion.preconditioning import EDM, VE, VP, Denoiser, Flow
from emmeter.diffusion.sampling import SEEDS_PER_REPLICATE, draws, generate, heun, noise_levels
from emmeter.settings.sections import Sampling
from emmeter.settings.validation import read_setup
from emmeter.training.optimizer import FlatParameters
from emmeter.training.trainer import build
from networks import awake

CPU = torch.device("cpu")
SETUP = read_setup(
    {
        "network": {"channels": 8, "multipliers": [1], "blocks": 1, "attention": [], "dropout": 0.0},
        "diffusion": {"preconditioning": "edm"},
    }
)


def denoiser_for(labels: int = 0) -> Denoiser:
    """A denoiser of 8x8 images with random weights, for so many labels (0: unconditional)."""
    return awake(build(SETUP, (1, 8, 8), labels)).eval().requires_grad_(False)


# Noise levels


def test_noise_levels_run_from_high_to_low_and_end_in_zero():
    levels = noise_levels(Sampling())
    assert levels.dtype == torch.float64
    assert len(levels) == 19
    assert float(levels[0]) == pytest.approx(80, rel=1e-12)
    assert float(levels[-2]) == pytest.approx(0.002, rel=1e-12)
    assert float(levels[-1]) == 0
    assert (levels.diff() < 0).all()
    roots = levels[:-1] ** (1 / 7)
    assert (roots.diff() - roots.diff()[0]).abs().max() < 1e-12


def test_fewest_steps():
    assert noise_levels(Sampling(steps=2)).tolist() == pytest.approx([80, 0.002, 0], rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [(VP(), VP().sigma_min, VP().sigma_max), (VE(), 0.02, 100.0), (EDM(), 1e-5, 1000.0), (Flow(), 1 / 999, 999.0)],
)
def test_noise_levels_stay_within_what_the_denoiser_knows(kind, low, high):
    wide = noise_levels(Sampling(sigma_min=1e-5, sigma_max=1000.0), kind.sigma_min, kind.sigma_max)
    assert wide[[0, -2]].tolist() == pytest.approx([high, low], rel=1e-9)
    usual = noise_levels(Sampling(), kind.sigma_min, kind.sigma_max)
    assert usual[[0, -2]].tolist() == pytest.approx([80, 0.02 if isinstance(kind, VE) else 0.002], rel=1e-9)


# The sampler on an ODE with a known solution: images normal with standard deviation s around 0


def gaussian(spread: float):
    def denoise(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return x * (spread**2 / (spread**2 + sigma**2))[:, None, None, None]

    return denoise


def sampler_error(steps: int) -> float:
    """Largest relative deviation from x(0) = x(sigma_max) s / sqrt(s^2 + sigma_max^2)."""
    levels = noise_levels(Sampling(steps=steps, sigma_min=1e-4, sigma_max=20.0))
    latents = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = latents * 20 / (1 + 20**2) ** 0.5
    return float(((heun(gaussian(1.0), latents, levels) - expected) / expected).abs().max())


def test_sampler_converges_at_second_order():
    """Doubling the steps divides the error by about 4.  The last step alone adds sigma_min^2 / 2 = 5e-9."""
    errors = [sampler_error(steps) for steps in (20, 40, 80, 160)]
    for coarse, fine in itertools.pairwise(errors):
        assert 3.4 < coarse / fine < 4.8
    assert errors[-1] < 1e-3


def test_sampler_calls_the_denoiser_twice_per_step_but_once_in_the_last():
    calls = []

    def denoise(x, sigma, labels):
        assert x.dtype == torch.float64
        assert sigma.shape == (3,)
        calls.append((float(sigma[0]), labels))
        return torch.zeros_like(x, dtype=torch.float32)

    labels = torch.arange(3)
    levels = noise_levels(Sampling(steps=5))
    images = heun(denoise, torch.ones(3, 1, 2, 2, dtype=torch.float64), levels, labels)
    assert images.dtype == torch.float64
    assert len(calls) == 9
    assert [sigma for sigma, _ in calls] == levels[[0, 1, 1, 2, 2, 3, 3, 4, 4]].tolist()
    assert all(given is labels for _, given in calls)


# Seeds


def test_an_image_does_not_depend_on_how_many_are_drawn():
    in_use = torch.tensor([1, 4, 7])
    few, many = (draws(count, (1, 3, 3), in_use, 2) for count in (5, 40))
    assert torch.equal(few.latents, many.latents[:5])
    assert few.labels is not None
    assert many.labels is not None
    assert torch.equal(few.labels, many.labels[:5])
    assert many.seeds.tolist() == list(range(2 * SEEDS_PER_REPLICATE, 2 * SEEDS_PER_REPLICATE + 40))
    assert len({tuple(row.flatten().tolist()) for row in many.latents}) == 40


def test_latents_are_those_of_the_papers_seeds():
    """Replicate 0 has generators seeded 0, 1, 2, ...  Each draws the latent first, so labels do not change it."""
    plain, labelled = draws(3, (1, 4, 4), None, 0), draws(3, (1, 4, 4), torch.arange(10), 0)
    assert plain.labels is None
    assert torch.equal(plain.latents, labelled.latents)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        expected = torch.randn(1, 4, 4, generator=generator, dtype=torch.float64)
        assert torch.equal(plain.latents[seed], expected)


def test_replicates_share_no_latent():
    first, second = (draws(30, (1, 2, 2), None, replicate) for replicate in (0, 1))
    assert not set(first.seeds.tolist()) & set(second.seeds.tolist())
    assert not torch.isclose(first.latents[:, None], second.latents[None]).all(dim=(2, 3, 4)).any()


def test_labels_are_uniform_over_those_in_use():
    in_use = torch.tensor([0, 3, 5, 9])
    labels = draws(2000, (1, 1, 1), in_use, 0).labels
    assert labels is not None
    values, counts = labels.unique(return_counts=True)
    assert torch.equal(values, in_use)
    assert chisquare(counts.numpy()).pvalue > 0.01


def test_latents_are_standard_normal():
    latents = draws(500, (1, 4, 4), None, 0).latents
    assert abs(float(latents.mean())) < 0.04  # 3.6 standard errors
    assert abs(float(latents.std()) - 1) < 0.03


# Batches


@pytest.mark.slow
@pytest.mark.parametrize("labels", [0, 3])
def test_batch_size_does_not_change_images(labels):
    denoiser = denoiser_for(labels)
    drawn = draws(10, (1, 8, 8), torch.arange(labels) if labels else None, 0)
    levels = noise_levels(Sampling(steps=6))
    whole = generate(denoiser, drawn, levels, 100, CPU)
    assert whole.dtype == torch.uint8
    assert whole.shape == (10, 1, 8, 8)
    assert whole.float().std() > 20  # an image, not a constant
    for batch in (1, 3, 5):
        other = generate(denoiser, drawn, levels, batch, CPU)
        assert (whole.int() - other.int()).abs().max() <= 1


def test_labels_reach_the_network():
    denoiser = denoiser_for(3)
    drawn = draws(8, (1, 8, 8), torch.arange(3), 0)
    assert drawn.labels is not None
    changed = type(drawn)(drawn.latents, (drawn.labels + 1) % 3, drawn.seeds)
    images, others = (generate(denoiser, d, noise_levels(Sampling(steps=3)), 8, CPU) for d in (drawn, changed))
    assert (images.int() - others.int()).abs().flatten(1).amax(dim=1).min() > 1


def test_flat_parameters_do_not_change_what_a_denoiser_computes():
    """Sampling builds plain modules and training flat ones.  The same weights give the same image."""
    denoiser = denoiser_for()
    drawn, levels = draws(2, (1, 8, 8), None, 0), noise_levels(Sampling(steps=3))
    before = generate(denoiser, drawn, levels, 2, CPU)
    FlatParameters(denoiser.network)
    assert (before.int() - generate(denoiser, drawn, levels, 2, CPU).int()).abs().max() <= 1
