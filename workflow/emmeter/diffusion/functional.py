"""The training step and the denoiser as functions of tensors alone.

A compiler, a CUDA graph and eager PyTorch all run these functions.  Weights are one flat tensor, and their gradient is
one flat tensor of the same layout.  What differs between runs of one architecture is an input: the embedding of noise
level and label (label tables differ in size, Fourier frequencies in value) and the mask of the skip connections.
Therefore one traced function serves all training sizes, label counts and skip masks.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from emmeter.diffusion.preconditioning import Denoiser, noisy, weighted_error

Step = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor]]
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

    def flat(self, tensors: Iterable[Tensor]) -> Tensor:
        """One tensor (size,) that holds the parameters, given in order; the inverse of `views`."""
        places = zip(tensors, self.places.values(), strict=True)
        return torch.cat([tensor.permute(_order(stride)).reshape(-1) for tensor, (_, _, stride) in places])

    def without(self, prefix: str) -> tuple[int, "Layout"]:
        """The layout without the parameters of a prefix, which must come first, and how many values they hold."""
        kept = {name: place for name, place in self.places.items() if not name.startswith(prefix)}
        start = min(place[0] for place in kept.values())
        if start + sum(shape.numel() for _, shape, _ in kept.values()) != self.size:
            raise ValueError(f"parameters {prefix}*: must come before all others")
        moved = {name: (first - start, shape, stride) for name, (first, shape, stride) in kept.items()}
        return start, Layout(moved, self.size - start)


def _order(stride: tuple[int, ...]) -> list[int]:
    """The axes of a parameter from the slowest to the fastest in memory."""
    return sorted(range(len(stride)), key=lambda axis: -stride[axis])


def objective(denoiser: Denoiser) -> Callable[..., Tensor]:
    """The training loss () as a function of (parameters, images, sigma, noise, embedding, mask).

    `parameters` are the network's by name, without `LABELS`; the other arguments are those of `step`.
    """
    return _Bound(denoiser, partial(_loss, denoiser)).call


def own_step(denoiser: Denoiser, layout: Layout) -> Step:
    """The training step of `step`, by eager PyTorch and with the network's own weights, which `flat` must hold.

    To replace the parameters of a network in each step would cost as much as the optimizer does.

    Args:
        layout: of the network's parameters without `LABELS`.
    """
    parameters = [parameter for name, parameter in denoiser.network.named_parameters() if name in layout.places]

    def run(
        flat: Tensor, images: Tensor, sigma: Tensor, noise: Tensor, embedding: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        embedding = embedding.detach().requires_grad_()
        loss = _loss(denoiser, images, sigma, noise, embedding, mask)
        *gradients, of_embedding = torch.autograd.grad(loss, [*parameters, embedding])
        return loss.detach(), layout.flat(gradients), of_embedding

    return run


def step(denoiser: Denoiser, layout: Layout) -> Step:
    """The training step of a denoiser as a function of tensors.

    Its arguments are

    - flat (P,), the network's parameters without `LABELS`, in `layout`,
    - images (B, C, H, W) in [-1, 1], noise levels sigma (B,) and standard normal noise (B, C, H, W),
    - the embedding (B, E0) from `Denoiser.embed`, and the skip mask (skips,) of `UNet.body`.

    It returns the mean over the batch of the weighted denoising error (), and its gradients with respect to `flat` (P,)
    and to the embedding (B, E0).
    """
    loss_of = objective(denoiser)

    def run(
        flat: Tensor, images: Tensor, sigma: Tensor, noise: Tensor, embedding: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            flat, embedding = flat.detach().requires_grad_(), embedding.detach().requires_grad_()
            views = layout.views(flat)
            loss = loss_of(views, images, sigma, noise, embedding, mask)
            *gradients, of_embedding = torch.autograd.grad(loss, [*views.values(), embedding])
        return loss.detach(), layout.flat(gradients), of_embedding

    return run


def denoising(denoiser: Denoiser, layout: Layout) -> Callable[..., Tensor]:
    """The denoiser as a function of (flat, x, sigma, embedding, mask), arguments as in `step`.

    It returns D(x; sigma), (B, C, H, W) float32, for noisy images x (B, C, H, W).
    """
    bound = _Bound(denoiser, denoiser.denoise)

    def run(flat: Tensor, x: Tensor, sigma: Tensor, embedding: Tensor, mask: Tensor) -> Tensor:
        return bound.call(layout.views(flat), x, sigma, embedding, mask)

    return run


def _loss(
    denoiser: Denoiser, images: Tensor, sigma: Tensor, noise: Tensor, embedding: Tensor, mask: Tensor | None
) -> Tensor:
    denoised = denoiser.denoise(noisy(images, sigma, noise), sigma, embedding, mask)
    return weighted_error(denoiser.kind, images, sigma, denoised).mean()


class _Bound(nn.Module):
    """A function of a denoiser as a module, so that `functional_call` can replace the network's parameters."""

    def __init__(self, denoiser: Denoiser, function: Callable[..., Tensor]):
        super().__init__()
        self.denoiser, self.function = denoiser, function

    def forward(self, *inputs: Tensor | None) -> Tensor:
        return self.function(*inputs)

    def call(self, parameters: Mapping[str, Tensor], *inputs: Tensor | None) -> Tensor:
        """The function's value if the network had these parameters."""
        return functional_call(self, {f"denoiser.network.{name}": view for name, view in parameters.items()}, inputs)
