"""What a denoiser makes of noisy images at single noise levels, and how far it is from other denoisers there.

Squared differences are means over the values of all images, which lie in [-1, 1].
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from emmeter.diffusion.preconditioning import noisy
from emmeter.diffusion.sampling import Denoise

SEED = 1_717_003  # of the noise, which is the same for all levels, snapshots and runs, so that differences are paired


def noise_for(images: Tensor) -> Tensor:
    """Standard normal noise of the shape of images (M, C, H, W), float32, on their device; the same in every call."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(images.shape, generator=generator).to(images.device)


@torch.no_grad()
def denoised(denoise: Denoise, images: Tensor, labels: Tensor | None, levels: Sequence[float]) -> Tensor:
    """Denoise images with noise of several levels.

    Args:
        denoise: D(x, sigma, labels).
        images: (M, C, H, W) in [-1, 1].
        labels: (M,) integers, or None.
        levels: L noise levels sigma, above 0.
    Returns:
        (L, M, C, H, W) float64.
    """
    noise, results = noise_for(images), []
    for level in levels:
        sigma = torch.full((len(images),), level, dtype=torch.float32, device=images.device)
        results.append(denoise(noisy(images, sigma, noise), sigma, labels).to(torch.float64))
    return torch.stack(results) if results else images.new_zeros((0, *images.shape), dtype=torch.float64)


def squared(first: Tensor, second: Tensor) -> list[float]:
    """Mean squared difference at each level, of (L, M, C, H, W) and of the same or (M, C, H, W): L numbers."""
    return (first - second).square().flatten(1).mean(dim=1).tolist()
