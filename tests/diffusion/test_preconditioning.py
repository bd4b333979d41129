"""Preconditionings, noise levels, losses and the conversion between pixels and [-1, 1]."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from emmeter.diffusion.optimum import OptimalDenoiser
from emmeter.diffusion.preconditioning import (
    EDM,
    VE,
    VP,
    Denoiser,
    Flow,
    denoising_loss,
    noisy,
    preconditioning,
    to_pixels,
    to_unit,
)
from emmeter.diffusion.sampling import heun, noise_levels
from emmeter.diffusion.unet import UNet
from emmeter.settings.sections import Diffusion, Network, Sampling

VECTORS = Path(__file__).parents[1] / "vectors"
KINDS = ["vp", "ve", "edm"]
SIGMAS = torch.tensor([0.002, 0.02, 0.1, 0.5, 1.0, 7.0, 80.0, 150.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    with np.load(VECTORS / "losses.npz") as archive:
        return {name: torch.from_numpy(archive[name]).double() for name in archive.files}


class StandIn(nn.Module):
    """A function that replaces a denoiser."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


def relative(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((ours - expected).abs() / expected.abs()).max())


@pytest.mark.parametrize("name", KINDS)
def test_training_noise_and_loss_equal_reference(reference, name):
    kind = preconditioning(Diffusion(preconditioning=name))
    images, noise = reference[f"{name}/images"], reference[f"{name}/noise"]
    draw = reference[f"{name}/{kind.draw}"].flatten()
    sigma = kind.training_sigma(draw)
    assert relative(sigma, reference[f"{name}/sigma"].flatten()) < 1e-10
    seen = {}

    def half(x, sigma, labels):
        seen["noisy"] = x
        return x / 2

    loss = denoising_loss(StandIn(half), kind, images, draw, noise)
    assert loss.dtype == torch.float64
    assert (seen["noisy"] - reference[f"{name}/noisy"]).abs().max() < 1e-10 * reference[f"{name}/noisy"].abs().max()
    assert relative(loss, reference[f"{name}/loss_per_image"].flatten()) < 1e-10


def test_loss_hands_labels_and_noise_levels_to_the_denoiser():
    seen = []

    def denoise(x, sigma, labels):
        seen.extend([sigma, labels])
        return torch.zeros_like(x)

    labels = torch.tensor([4, 2])
    images = torch.ones(2, 1, 2, 2)
    loss = denoising_loss(StandIn(denoise), VE(), images, torch.tensor([0.0, 1.0]), torch.zeros(2, 1, 2, 2), labels)
    assert seen[0].tolist() == pytest.approx([0.02, 100.0], rel=1e-6)
    assert seen[1] is labels
    assert loss.tolist() == pytest.approx([4 / 0.02**2, 4 / 100**2], rel=1e-5)  # |y|^2 = 4 pixels, weight 1 / sigma^2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_vp_time_inverts_sigma(dtype):
    t = torch.logspace(-5, 0, 200, dtype=torch.float64).clip(max=1)
    kind = VP()
    back = kind.time(kind.sigma(t).to(dtype)).double()
    # log(1 + sigma^2) in float32 loses digits at small sigma on purpose (see VP.time): eps / sigma^2 of t.
    tolerance = 1e-9 if dtype == torch.float64 else 6e-8 / 0.1 + 2e-6
    assert (back - t).abs().max() < tolerance


def test_vp_sigma_inverts_time():
    kind = VP()
    assert relative(kind.sigma(kind.time(SIGMAS)), SIGMAS) < 1e-8


def test_noise_ranges_are_the_papers():
    assert VP().sigma_min == pytest.approx(1.0005e-3, rel=1e-4)  # the paper's code has 0.00098: float32 rounding of t
    assert round(VP().sigma_max, 1) == 152.2
    assert (VE().sigma_min, VE().sigma_max) == (0.02, 100.0)
    assert (EDM().sigma_min, EDM().sigma_max) == (0.0, math.inf)


@pytest.mark.parametrize("name", ["vp", "ve", "flow"])
def test_uniform_draws_cover_exactly_the_range(name):
    kind = preconditioning(Diffusion(preconditioning=name, times="uniform"))
    ends = kind.training_sigma(torch.tensor([0.0, 1.0], dtype=torch.float64)).sort().values
    assert ends.tolist() == pytest.approx([kind.sigma_min, kind.sigma_max], rel=1e-9)


def test_edm_draws_are_log_normal():
    draw = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logs = EDM(p_mean=-0.7, p_std=0.4).training_sigma(draw).log()
    assert float(logs.mean()) == pytest.approx(-0.7, abs=0.01)  # 3.5 standard errors
    assert float(logs.std()) == pytest.approx(0.4, abs=0.008)


def test_vp_and_ve_coefficients_equal_the_table():
    vp, ve = VP().coefficients(SIGMAS), VE().coefficients(SIGMAS)
    assert torch.equal(vp.skip, torch.ones_like(SIGMAS))
    assert torch.equal(vp.out, -SIGMAS)
    assert relative(vp.into, 1 / (SIGMAS**2 + 1).sqrt()) < 1e-12
    assert relative(vp.noise, 999 * VP().time(SIGMAS)) < 1e-12
    assert torch.equal(ve.skip, torch.ones_like(SIGMAS))
    assert torch.equal(ve.out, SIGMAS)
    assert torch.equal(ve.into, torch.ones_like(SIGMAS))
    assert (ve.noise - (SIGMAS / 2).log()).abs().max() < 1e-12


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_edm_inputs_and_targets_have_unit_variance(sigma_data):
    """Images y with standard deviation sigma_data have Var(c_in x) = 1 and Var((y - c_skip x) / c_out) = 1."""
    c = EDM(sigma_data).coefficients(SIGMAS)
    noisy = SIGMAS**2 + sigma_data**2
    assert (c.into**2 * noisy - 1).abs().max() < 1e-12
    target = ((1 - c.skip) ** 2 * sigma_data**2 + c.skip**2 * SIGMAS**2) / c.out**2
    assert (target - 1).abs().max() < 1e-9
    # c_skip is the value that makes c_out smallest: its derivative there is 0.
    derivative = -2 * (1 - c.skip) * sigma_data**2 + 2 * c.skip * SIGMAS**2
    assert (derivative / noisy).abs().max() < 1e-12
    assert (c.noise - SIGMAS.log() / 4).abs().max() < 1e-12


def test_edm_weight_makes_the_effective_weight_one():
    kind = EDM()
    assert (kind.weight(SIGMAS) * kind.coefficients(SIGMAS).out ** 2 - 1).abs().max() < 1e-12


def test_edm_takes_its_settings():
    settings = Diffusion(preconditioning="edm", sigma_data=0.3, p_mean=-0.5, p_std=2.0)
    assert preconditioning(settings) == EDM(0.3, -0.5, 2.0)
    assert isinstance(preconditioning(Diffusion()), VP)
    assert isinstance(preconditioning(Diffusion(preconditioning="ve")), VE)
    assert preconditioning(Diffusion(preconditioning="flow")) == Flow("normal")
    assert preconditioning(Diffusion(preconditioning="flow", times="uniform")) == Flow("uniform")


# Flow matching: x_t = (1 - t) y + t n, velocity n - y


def straight(images: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    t = t[:, None, None, None]
    return (1 - t) * images + t * noise


def random_images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 4, 4, generator=generator, dtype=torch.float64) * 2 - 1
    return images, torch.randn(count, 1, 4, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("draw", ["uniform", "normal"])
def test_flow_trains_as_the_plain_formula_does(draw):
    """Loss and gradient are those of |F(x_t, t) - (n - y)|^2, written without sigma."""
    kind = Flow(draw)
    images, noise = random_images(6, 0)
    drawn = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    t = kind.t_min + (1 - 2 * kind.t_min) * drawn if draw == "uniform" else drawn.sigmoid()
    weights = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(1, 1, 4, 4).requires_grad_()

    def network(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return weights * x + (time / 999)[:, None, None, None].sin()

    plain = (network(straight(images, noise, t), 999 * t) - (noise - images)).square().flatten(1).sum(dim=1)
    (expected,) = torch.autograd.grad(plain.mean(), weights)

    def denoise(x: torch.Tensor, sigma: torch.Tensor, labels: object) -> torch.Tensor:
        c = kind.coefficients(sigma)
        skip, out, into = (value[:, None, None, None] for value in (c.skip, c.out, c.into))
        return skip * x + out * network(into * x, c.noise)

    ours = denoising_loss(denoise, kind, images, drawn, noise)
    (gradient,) = torch.autograd.grad(ours.mean(), weights)
    assert relative(ours.detach(), plain.detach()) < 1e-9
    assert (gradient - expected).abs().max() < 1e-9 * expected.abs().max()


def test_flow_knows_the_noise_of_its_path():
    images, noise = random_images(5, 1)
    t = torch.tensor([0.01, 0.3, 0.5, 0.9, 0.99], dtype=torch.float64)
    sigma = t / (1 - t)
    c = Flow().coefficients(sigma)
    scaled = c.into[:, None, None, None] * noisy(images, sigma, noise)
    assert (scaled - straight(images, noise, t)).abs().max() < 1e-12
    assert (c.noise - 999 * t).abs().max() < 1e-10
    recovered = c.skip[:, None, None, None] * noisy(images, sigma, noise) + c.out[:, None, None, None] * (
        noise - images
    )
    assert (recovered - images).abs().max() < 1e-10  # the right velocity gives the image itself
    assert relative(Flow().weight(sigma) * c.out**2, torch.ones(5, dtype=torch.float64)) < 1e-12


def test_the_optimum_is_the_mean_velocity():
    """E[n - y | x_t] over a training set, from the densities of x_t, equals the velocity of the optimal denoiser."""
    images, noise = random_images(7, 2)
    for t in (0.05, 0.4, 0.9):
        time = torch.full((7,), t, dtype=torch.float64)
        x = straight(images, noise, time)
        distance = (x[:, None] - (1 - t) * images[None]).flatten(2).square().sum(dim=2)
        share = torch.softmax(-distance / (2 * t**2), dim=1)
        expected = torch.einsum("bi,bi...->b...", share, (x[:, None] - images[None]) / t)
        denoised = OptimalDenoiser(images)(x / (1 - t), time / (1 - time))
        assert ((x - denoised) / t - expected).abs().max() < 1e-9


def test_euler_steps_along_the_flow_are_those_of_the_sampler():
    """A step of dx_t/dt = v ends where a step of the sampler's equation for x = x_t / (1 - t) ends."""
    images, noise = random_images(6, 3)
    optimum = OptimalDenoiser(images)
    x = 0.99 * noise
    for t, following in itertools.pairwise(torch.tensor([0.99, 0.8, 0.5, 0.1], dtype=torch.float64)):
        sigma, lower = t / (1 - t), following / (1 - following)
        scaled = x / (1 - t)
        denoised = optimum(scaled, sigma.expand(6))
        x = x + (following - t) * (x - denoised) / t
        scaled = scaled + (lower - sigma) * (scaled - denoised) / sigma
        assert (x - (1 - following) * scaled).abs().max() < 1e-12


def test_sampling_a_flow_with_the_right_velocity_gives_the_image():
    image = random_images(1, 4)[0]
    kind = Flow()

    def denoise(x: torch.Tensor, sigma: torch.Tensor, labels: object) -> torch.Tensor:
        c = kind.coefficients(sigma)
        velocity = (x / (1 + sigma[:, None, None, None]) - image) * (1 + 1 / sigma)[
            :, None, None, None
        ]  # (x_t - y) / t
        return c.skip[:, None, None, None] * x + c.out[:, None, None, None] * velocity

    levels = noise_levels(Sampling(), kind.sigma_min, kind.sigma_max)
    sampled = heun(denoise, torch.randn(3, 1, 4, 4, dtype=torch.float64), levels)
    assert (sampled - image).abs().max() < 1e-9


@pytest.mark.parametrize("name", [*KINDS, "flow"])
def test_denoiser_combines_image_and_network(name):
    kind = preconditioning(Diffusion(preconditioning=name))
    torch.manual_seed(0)
    network = UNet(Network(channels=8, multipliers=[1], blocks=1, attention=[], dropout=0.0), 8, 1).eval()
    torch.nn.init.normal_(network.out_conv.weight, std=0.3)
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    sigma = torch.tensor([0.05, 1.0, 50.0], dtype=torch.float64)
    c = kind.coefficients(sigma.float())
    raw = network(c.into[:, None, None, None] * x.float(), c.noise)
    expected = c.skip[:, None, None, None] * x.float() + c.out[:, None, None, None] * raw
    denoised = Denoiser(network, kind)(x, sigma)
    assert denoised.dtype == torch.float32
    assert torch.equal(denoised, expected)


def test_pixels_survive_the_way_to_unit_and_back():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_pixels(to_unit(pixels)), pixels)
    assert torch.equal(to_pixels(to_unit(pixels).double()), pixels)
    assert torch.equal(to_pixels(pixels.double() / 127.5 - 1), pixels)
    assert to_unit(pixels).aminmax() == (-1, 1)


def test_pixels_are_rounded_half_up_and_clipped():
    grey = torch.arange(255, dtype=torch.float64)
    halves = (grey + 0.5) / 127.5 - 1  # exactly between two grey levels, up to the rounding of this line
    assert torch.equal(to_pixels(halves + 1e-9).double(), grey + 1)
    assert torch.equal(to_pixels(halves - 1e-9).double(), grey)
    exact = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)  # 0.0 is 127.5 exactly: up
    assert to_pixels(exact).tolist() == [0, 128, 255]
    outside = torch.tensor([-1e6, -1.004, -1.0039, 1.0039, 1.01, 1e6], dtype=torch.float64)
    assert to_pixels(outside).tolist() == [0, 0, 0, 255, 255, 255]


# A floor of the noise levels


@pytest.mark.parametrize("name", ["vp", "ve", "edm", "flow"])
def test_noise_levels_below_the_floor_are_raised_to_it_and_others_stay(name):
    settings = Diffusion(preconditioning=name)
    kind, raised = preconditioning(settings), preconditioning(settings, 0.2)
    generator = torch.Generator().manual_seed(0)
    draw = (torch.rand if kind.draw == "uniform" else torch.randn)(1000, generator=generator)
    sigma, levels = kind.training_sigma(draw), raised.training_sigma(draw)
    low = sigma < 0.2
    assert 10 < low.sum() < 990
    assert torch.equal(levels, torch.where(low, 0.2, sigma))
    assert (raised.draw, raised.sigma_min, raised.sigma_max) == (kind.draw, 0.2, kind.sigma_max)
    assert torch.equal(raised.weight(levels), kind.weight(levels))
    assert torch.equal(raised.coefficients(levels).out, kind.coefficients(levels).out)


def test_a_floor_below_what_a_preconditioning_knows_changes_nothing():
    assert preconditioning(Diffusion(preconditioning="ve"), 0.01) == VE()
    assert preconditioning(Diffusion(preconditioning="edm"), 0.0) == EDM()
