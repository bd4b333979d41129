"""Loss, gradient and denoiser of a run, computed by eager PyTorch or by a compiled package.

Labels stay outside of packages, because their tables differ in size: the embedding of noise level and label is computed
here, and so is the gradient of the label table.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from emmeter.diffusion.functional import LABELS, own_step
from emmeter.diffusion.preconditioning import Denoiser
from emmeter.training.optimizer import FlatParameters
from emmeter.training.packages import Package

# (images, sigma, noise, labels) -> (loss (), gradient (P,) float32)
GradientFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def gradient_function(denoiser: Denoiser, parameters: FlatParameters, package: Package | None) -> GradientFunction:
    """The function that computes a training step's loss and its gradient with respect to all parameters.

    Arguments of the function: images (B, C, H, W) in [-1, 1], noise levels (B,), noise (B, C, H, W), labels (B,) or
    None.

    Args:
        parameters: those of the denoiser's network.
        package: of the step; None for eager PyTorch.
    """
    network = denoiser.network
    count, layout = parameters.layout.without(LABELS)
    of_labels = [parameter for name, parameter in network.named_parameters() if name.startswith(LABELS)]
    run = package or own_step(denoiser, layout)
    mask = (
        None
        if package is None
        else torch.tensor(network.skip_flags, dtype=torch.float32, device=parameters.values.device)
    )

    def gradient(images: Tensor, sigma: Tensor, noise: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        embedding = denoiser.embed(sigma, labels)
        flat = parameters.computed[count:]
        loss, gradient, of_embedding = run(flat, images, sigma, noise, embedding.detach(), mask)
        if of_labels:
            first = torch.autograd.grad(embedding, of_labels, of_embedding)
            gradient = torch.cat([*(part.flatten() for part in first), gradient])
        return loss, gradient.to(torch.float32)

    return gradient


def denoise_function(
    denoiser: Denoiser, parameters: FlatParameters, package: Package | None
) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The denoiser D(x, sigma, labels) of a sampler, by a package if there is one.

    A package takes batches of one size.  Smaller batches are filled up with copies of their last image; the results of
    these are dropped.

    Args:
        parameters: those of the denoiser's network, which may change between calls.
        package: of the denoiser; None for eager PyTorch.
    """
    if package is None:
        return denoiser
    count, _ = parameters.layout.without(LABELS)
    mask = torch.tensor(denoiser.network.skip_flags, dtype=torch.float32, device=parameters.values.device)

    def filled(values: Tensor) -> Tensor:
        missing = package.batch - len(values)
        return torch.cat([values, values[-1:].expand(missing, *values.shape[1:])]) if missing else values

    def denoise(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        embedding = denoiser.embed(sigma, labels)
        inputs = (filled(tensor) for tensor in (x.to(torch.float32), sigma.to(torch.float32), embedding))
        return package(parameters.computed[count:], *inputs, mask)[0][: len(x)]

    return denoise
