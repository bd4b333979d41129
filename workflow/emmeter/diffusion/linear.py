"""The linear denoiser: the closed-form minimum of the denoising loss among linear functions.

It is the optimum for a Gaussian with mean and covariance of the training images, the Wiener filter
D(z; sigma) = mu + C (C + sigma^2)^-1 (z - mu).  It knows two moments of the training set, and no single image: at high
noise, trained networks are close to it (Wang and Vastola 2024; Li et al. 2024).
"""

import torch
from torch import Tensor, nn


class LinearDenoiser(nn.Module):
    """D(z; sigma) of the mean and the covariance of images, whatever their labels.

    Args:
        images: (N, C, H, W) in [-1, 1], N >= 1.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor

    def __init__(self, images: Tensor):
        super().__init__()
        self.shape = images.shape[1:]
        flat = images.to(torch.float64).flatten(1)
        mean = flat.mean(dim=0)
        # The covariance has at most N - 1 axes, and is never formed.
        _, singular, axes = torch.linalg.svd(flat - mean, full_matrices=False)
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)
        self.register_buffer("variances", singular.square() / len(flat))

    @torch.no_grad()
    def forward(self, z: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Denoise (B, C, H, W) images of noise levels (B,): (B, C, H, W) float64.  Labels are ignored."""
        coordinates = (z.to(torch.float64).flatten(1) - self.mean) @ self.axes.T
        kept = self.variances / (self.variances + sigma.to(torch.float64)[:, None] ** 2)
        return (self.mean + (kept * coordinates) @ self.axes).unflatten(1, self.shape)
