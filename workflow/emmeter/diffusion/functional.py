"""The training step and the denoiser as functions of tensors alone.

A compiler, a CUDA graph and eager PyTorch all run these functions.  Weights are one flat tensor, and their gradient is
one flat tensor of the same layout.  What differs between runs of one architecture is an input: the embedding of noise
level and label (label tables differ in size, Fourier frequencies in value) and the mask of the skip connections.
Therefore one traced function serves all training sizes, label counts and skip masks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from emmeter.diffusion.preconditioning import Denoiser, Preconditioning
from emmeter.diffusion.unet import UNet

LABELS = "label_embedding."  # parameters of this prefix act on the embedding, outside of the traced functions


@dataclass(frozen=True)
class Layout:
    """Where each parameter is stored in a flat tensor: start, shape and stride by name."""

    places: Mapping[str, tuple[int, torch.Size, tuple[int, ...]]]
    size: int

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor]) -> "Layout":
        """The layout in which parameters follow one another in their own memory order."""
        places: dict[str, tuple[int, torch.Size, tuple[int, ...]]] = {}
        size = 0
        for name, parameter in parameters.items():
            places[name] = (size, parameter.shape, parameter.stride())
            size += parameter.numel()
        return cls(places, size)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """A flat tensor (size,) as named parameters, without copies."""
        offset = flat.storage_offset()
        return {
            name: flat.as_strided(shape, stride, offset + start) for name, (start, shape, stride) in self.places.items()
        }

    def flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """One tensor (size,) that holds named tensors in this layout; the inverse of `views`."""
        parts = []
        for name, (_, shape, stride) in self.places.items():
            order = sorted(range(len(shape)), key=lambda axis: -stride[axis])
            parts.append(tensors[name].permute(order).reshape(-1))
        return torch.cat(parts)

    def without(self, prefix: str) -> tuple[int, "Layout"]:
        """The layout without the parameters of a prefix, which must come first, and how many values they hold."""
        kept = {name: place for name, place in self.places.items() if not name.startswith(prefix)}
        start = min(place[0] for place in kept.values())
        if start + sum(shape.numel() for _, shape, _ in kept.values()) != self.size:
            raise ValueError(f"parameters {prefix}*: must come before all others")
        moved = {name: (first - start, shape, stride) for name, (first, shape, stride) in kept.items()}
        return start, Layout(moved, self.size - start)


def denoise(
    network: UNet, kind: Preconditioning, x: Tensor, sigma: Tensor, embedding: Tensor, mask: Tensor | None = None
) -> Tensor:
    """D(x; sigma) for an embedding that has been computed: (B, C, H, W) float32.

    Args:
        x: (B, C, H, W) noisy images.
        sigma: (B,) noise levels.
        embedding: (B, E) from `UNet.embed`.
        mask: (skips,) of 0 and 1, one per skip connection in encoder order; None: the network's own.
    """
    x = x.to(torch.float32)
    c = kind.coefficients(sigma.to(torch.float32))
    skip, out, into = (value[:, None, None, None] for value in (c.skip, c.out, c.into))
    return skip * x + out * network.body(into * x, embedding, mask).to(torch.float32)


def loss(
    network: UNet,
    kind: Preconditioning,
    images: Tensor,
    sigma: Tensor,
    noise: Tensor,
    embedding: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean over the batch of the weighted denoising error, as `denoising_loss`: a tensor ().

    Args:
        images: (B, C, H, W) in [-1, 1].
        sigma: (B,) noise levels.
        noise: (B, C, H, W) standard normal.
        embedding, mask: see `denoise`.
    """
    denoised = denoise(network, kind, images + sigma[:, None, None, None] * noise, sigma, embedding, mask)
    return (kind.weight(sigma) * (denoised - images).square().flatten(1).sum(dim=1)).mean()


class _Bound(nn.Module):
    """A function of a network as a module, so that `functional_call` can replace the network's parameters."""

    def __init__(self, network: UNet, function: Callable[..., Tensor]):
        super().__init__()
        self.network, self.function = network, function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self.network, *inputs)


def step(denoiser: Denoiser, layout: Layout) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """The training step of a denoiser as a function of (flat, images, sigma, noise, embedding, mask).

    The function returns the loss (), its gradient with respect to `flat` (size,), and that with respect to the
    embedding (B, E).  `layout` is that of the network's parameters without `LABELS`.
    """
    kind = denoiser.kind
    bound = _Bound(denoiser.network, lambda network, *inputs: loss(network, kind, *inputs))

    def run(
        flat: Tensor, images: Tensor, sigma: Tensor, noise: Tensor, embedding: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            flat, embedding = flat.detach().requires_grad_(), embedding.detach().requires_grad_()
            views = layout.views(flat)
            parameters = {f"network.{name}": view for name, view in views.items()}
            value = functional_call(bound, parameters, (images, sigma, noise, embedding, mask))
            *gradients, of_embedding = torch.autograd.grad(value, [*views.values(), embedding])
        return value.detach(), layout.flat(dict(zip(views, gradients, strict=True))), of_embedding

    return run


def denoising(denoiser: Denoiser, layout: Layout) -> Callable[..., Tensor]:
    """The denoiser as a function of (flat, x, sigma, embedding, mask), which returns D (B, C, H, W) float32."""
    kind = denoiser.kind
    bound = _Bound(denoiser.network, lambda network, *inputs: denoise(network, kind, *inputs))

    def run(flat: Tensor, x: Tensor, sigma: Tensor, embedding: Tensor, mask: Tensor) -> Tensor:
        parameters = {f"network.{name}": view for name, view in layout.views(flat).items()}
        return functional_call(bound, parameters, (x, sigma, embedding, mask))

    return run
