"""Generation of images by the deterministic second-order sampler of Karras et al. 2022 (algorithm 1).

Each image depends on its own seed alone.  Neither its batch nor the number of images matters.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from emmeter.diffusion.layers import NO_LABEL
from emmeter.diffusion.preconditioning import to_pixels
from emmeter.settings.sections import Sampling

SEEDS_PER_REPLICATE = 1_000_000  # replicate 0 has the paper's seeds 0, 1, 2, ...; replicate 1 starts at 10^6
Denoise = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def noise_levels(settings: Sampling, lowest: float = 0.0, highest: float = float("inf")) -> Tensor:
    """Noise levels of the sampler (Karras et al. 2022, equation 5).

    Args:
        lowest, highest: range of the levels that the denoiser knows; VP and VE are limited.
    Returns:
        (steps + 1,) float64: sigma from high to low, evenly spaced in sigma^(1/rho), then 0.
    """
    root = 1 / settings.rho
    start, end = min(settings.sigma_max, highest) ** root, max(settings.sigma_min, lowest) ** root
    share = torch.arange(settings.steps, dtype=torch.float64) / (settings.steps - 1)
    return torch.cat([(start + share * (end - start)) ** settings.rho, torch.zeros(1, dtype=torch.float64)])


@torch.no_grad()
def heun(denoise: Denoise, latents: Tensor, levels: Tensor, labels: Tensor | None = None) -> Tensor:
    """Follow the probability flow ODE dx/dsigma = (x - D(x; sigma)) / sigma from noise to images.

    Args:
        denoise: D(x, sigma, labels), called 2 steps - 1 times.
        latents: (B, C, H, W) standard normal, float64.  The state stays in float64 for any precision of the denoiser.
        levels: (steps + 1,) decreasing, ending in 0.
        labels: (B,) integers, or None.
    Returns:
        (B, C, H, W) images in about [-1, 1].
    """

    def slope(x: Tensor, sigma: Tensor) -> Tensor:
        return (x - denoise(x, sigma.expand(len(x)), labels).to(x.dtype)) / sigma

    x = latents * levels[0]
    last = len(levels) - 2
    for step, (sigma, following) in enumerate(itertools.pairwise(levels)):
        first = slope(x, sigma)
        euler = x + (following - sigma) * first
        if step < last:  # the last step, to sigma = 0, is Euler's, because the slope there is 0/0
            euler = x + (following - sigma) * (first + slope(euler, following)) / 2
        x = euler
    return x


def guided(denoise: Denoise, guidance: float) -> Denoise:
    """Classifier-free guidance (Ho and Salimans 2022) with weight w: D(x) + w (D(x, label) - D(x)).

    Args:
        denoise: a denoiser that knows images without label, from a training with label dropout.
        guidance: w; 1 returns `denoise` itself, and 0 leaves all labels out.  Other values call it twice.
    """
    if guidance == 1:
        return denoise

    def run(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise ValueError("guidance needs labels")
        without = denoise(x, sigma, torch.full_like(labels, NO_LABEL)).to(x.dtype)
        return without + guidance * (denoise(x, sigma, labels).to(x.dtype) - without) if guidance else without

    return run


@dataclass(frozen=True)
class Draws:
    """Random choices for m images, each decided by the image's seed."""

    latents: Tensor  # (m, C, H, W) float64, standard normal
    labels: Tensor | None  # (m,) int64
    seeds: Tensor  # (m,) int64


def draws(count: int, shape: tuple[int, ...], labels_in_use: Tensor | None, replicate: int) -> Draws:
    """Draw the latents of `count` images, and then their labels, uniformly over the labels in use.

    Every image has a generator of its own.

    Args:
        count: number of images, m.
        shape: (C, H, W) of an image.
        labels_in_use: (k,) int64, or None for an unconditional model.
        replicate: number of the run, from 0, which decides the first seed.
    """
    seeds = torch.arange(count) + replicate * SEEDS_PER_REPLICATE
    latents = torch.empty(count, *shape, dtype=torch.float64)
    labels = None if labels_in_use is None else torch.empty(count, dtype=torch.int64)
    generator = torch.Generator()
    for row, seed in enumerate(seeds.tolist()):
        generator.manual_seed(seed)
        latents[row] = torch.randn(shape, generator=generator, dtype=torch.float64)
        if labels is not None and labels_in_use is not None:
            labels[row] = labels_in_use[torch.randint(len(labels_in_use), (), generator=generator)]
    return Draws(latents, labels, seeds)


def generate(denoise: Denoise, drawn: Draws, levels: Tensor, batch: int, device: torch.device) -> Tensor:
    """Generate the images of all draws, `batch` at a time.

    Args:
        levels: (steps + 1,) noise levels, as `noise_levels` gives them.
    Returns:
        (m, C, H, W) uint8 on the CPU.
    """
    images = []
    for start in range(0, len(drawn.latents), batch):
        rows = slice(start, start + batch)
        labels = None if drawn.labels is None else drawn.labels[rows].to(device)
        images.append(to_pixels(heun(denoise, drawn.latents[rows].to(device), levels.to(device), labels)).cpu())
    return torch.cat(images)
