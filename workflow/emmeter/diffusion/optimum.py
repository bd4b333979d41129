"""The theoretical optimum: the closed-form minimum of the denoising loss, which perfect training would reach.

For a finite training set {x_n}, the optimal denoiser is a weighted mean of training images,
D*(z; sigma) = sum_n w_n x_n with w = softmax_n(-|z - x_n|^2 / 2 sigma^2).  Given a label, the sum runs over the images
with that label (Gu et al., section 2 and appendix B.1).  A label that no training image has says nothing, so the sum
runs over all images.  Sampling from this denoiser replays the training set.
"""

import torch
from torch import Tensor, nn


class OptimalDenoiser(nn.Module):
    """D*(z; sigma, label) of a training set.

    Args:
        images: (N, C, H, W) in [-1, 1].
        labels: (N,) integers for the class-conditional optimum, or None.
        block: number of training images per step; memory is O(B x block) for any N.
        dtype: type of distances and weights; float64 resolves sigma = 0.002 without loss.
    """

    images: Tensor
    labels: Tensor | None

    def __init__(
        self, images: Tensor, labels: Tensor | None = None, block: int = 4096, dtype: torch.dtype = torch.float64
    ):
        super().__init__()
        self.shape = images.shape[1:]
        self.block = block
        self.register_buffer("images", images.to(dtype).flatten(1))
        self.register_buffer("labels", labels)

    @torch.no_grad()
    def forward(self, z: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Denoise (B, C, H, W) images of noise levels (B,), with labels (B,) or None.

        Returns:
            (B, C, H, W) weighted means of training images, in the optimum's type.
        Raises:
            ValueError: labels are missing for a class-conditional optimum, or given to another one.
        """
        if (labels is None) != (self.labels is None):
            raise ValueError("labels must be given to a class-conditional optimum, and to no other")
        query = z.to(self.images.dtype).flatten(1)
        scale = (-0.5 / sigma.to(query.dtype) ** 2)[:, None]
        # A softmax over blocks keeps the largest exponent so far, and the sums relative to this exponent.
        top = torch.full_like(scale, torch.finfo(query.dtype).min)
        total, mean = torch.zeros_like(scale), torch.zeros_like(query)
        for start in range(0, len(self.images), self.block):
            images = self.images[start : start + self.block]
            # Expanded squares would cancel digits, and dividing by sigma^2 would magnify the error.
            distance = torch.cdist(query, images, compute_mode="donot_use_mm_for_euclid_dist")
            exponent = scale * distance.square()
            if labels is not None and self.labels is not None:
                other = labels[:, None] != self.labels[None, start : start + self.block]
                known = torch.isin(labels, self.labels)[:, None]
                exponent = exponent.masked_fill(other & known, -torch.inf)
            new_top = torch.maximum(top, exponent.amax(dim=1, keepdim=True))
            weight = (exponent - new_top).exp()
            shrink = (top - new_top).exp()
            total = total * shrink + weight.sum(dim=1, keepdim=True)
            mean = mean * shrink + weight @ images
            top = new_top
        return (mean / total).unflatten(1, self.shape)
