"""Generation by the deterministic 2nd-order sampler of Karras et al. 2022 (algorithm 1).

Image i of a run depends on its own seed alone: neither the batch it is in nor the number of images matters.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from emmeter.diffusion.preconditioning import to_pixels
from emmeter.settings.sections import Sampling

SEEDS_PER_REPLICATE = 1_000_000  # replicate 0 has the paper's seeds 0, 1, 2 ..., replicate 1 those from 10^6 on
Denoise = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def noise_levels(settings: Sampling, lowest: float = 0.0, highest: float = float("inf")) -> Tensor:
    """(steps + 1,) float64: sigma from high to low, evenly spaced in sigma^(1/rho), then 0.

    `lowest` and `highest` bound the levels that the denoiser knows (VP and VE know a range only).
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
        latents: (B, C, H, W) standard normal, float64 (the state stays in float64 whatever the denoiser's precision).
        levels: (steps + 1,) decreasing, ending in 0.
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
        if step < last:  # the last one, to sigma = 0, is Euler's: the slope there is 0/0
            euler = x + (following - sigma) * (first + slope(euler, following)) / 2
        x = euler
    return x


@dataclass(frozen=True)
class Draws:
    """What the seeds decide: latents (m, C, H, W) float64, labels (m,) int64 or None, seeds (m,) int64."""

    latents: Tensor
    labels: Tensor | None
    seeds: Tensor


def draws(count: int, shape: tuple[int, ...], labels_in_use: Tensor | None, replicate: int) -> Draws:
    """Latents, then labels uniform over the labels in use, of `count` images; each from its own generator."""
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
    """(m, C, H, W) uint8 images of all draws, `batch` at a time."""
    images = []
    for start in range(0, len(drawn.latents), batch):
        rows = slice(start, start + batch)
        labels = None if drawn.labels is None else drawn.labels[rows].to(device)
        images.append(to_pixels(heun(denoise, drawn.latents[rows].to(device), levels.to(device), labels)).cpu())
    return torch.cat(images)
