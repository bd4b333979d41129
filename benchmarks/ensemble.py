"""Several runs of one architecture as one training step: their weights are rows of one tensor, mapped by `vmap`.

A small network leaves nearly all of a GPU idle, so many runs take little longer than one.  Each run has its own
weights, batch and noise.  The runs are unconditional, and share learning rate and decays.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from emmeter.diffusion.functional import objective
from emmeter.diffusion.preconditioning import Denoiser
from emmeter.training.optimizer import BETAS, EPSILON, FlatParameters

DECAY = 0.95  # of the averaged weights


class Ensemble:
    """`runs` copies of a denoiser, trained together on batches of `batch` images.

    Attributes:
        values: (runs, P) float32, the weights.
        losses: (runs,) of the last step.
    """

    def __init__(self, denoiser: Denoiser, runs: int, batch: int, shape: tuple[int, ...], rate: float):
        parameters = FlatParameters(denoiser.network)
        device = parameters.values.device
        self.denoiser, self.layout = denoiser, parameters.layout
        self.values = parameters.values.repeat(runs, 1)
        self.averages, self.first, self.second = (self.values.clone(), *torch.zeros(2, *self.values.shape).to(device))
        self.step, self.rate = torch.zeros((), device=device), torch.tensor(rate, device=device)
        self.images, self.noise = torch.empty(2, runs, batch, *shape, device=device)
        self.draw = torch.empty(runs, batch, device=device)
        self.losses = torch.zeros(runs, device=device)

    def draw_batch(self, pixels: Tensor) -> None:
        """Draw images with replacement from (N, C, H, W) in [-1, 1], noise and noise levels, for all runs."""
        runs, batch = self.draw.shape
        index = torch.randint(len(pixels), (runs * batch,), device=pixels.device)
        self.images.copy_(pixels[index].unflatten(0, (runs, batch)))
        self.noise.normal_()
        (self.draw.uniform_ if self.denoiser.kind.draw == "uniform" else self.draw.normal_)()

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Gradients (runs, P) and losses (runs,) of the present batch."""
        sigma = self.denoiser.kind.training_sigma(self.draw.flatten())
        embedding = self.denoiser.embed(sigma).unflatten(0, self.draw.shape)
        loss = objective(self.denoiser)
        views: dict[str, Tensor] = {}
        for name, (start, shape, stride) in self.layout.places.items():
            views[name] = self.values.as_strided(
                (len(self.values), *shape), (self.layout.size, *stride), self.values.storage_offset() + start
            )
        mapped: Callable[..., tuple[dict[str, Tensor], Tensor]] = vmap(
            grad_and_value(lambda parameters, *inputs: loss(parameters, *inputs, None))
        )
        with sdpa_kernel(SDPBackend.MATH):  # the fused operators cannot be mapped over runs
            gradients, losses = mapped(views, self.images, sigma.unflatten(0, self.draw.shape), self.noise, embedding)
        return vmap(lambda parts: self.layout.flat(parts.values()))(gradients), losses

    @torch.no_grad()
    def update(self) -> None:
        """Make one step of Adam on the present batch, and update the averages."""
        gradients, losses = self.gradients()
        self.losses.copy_(losses)
        self.step += 1
        torch._fused_adam_(  # type: ignore[attr-defined]
            [self.values], [gradients], [self.first], [self.second], [], [self.step], lr=self.rate, beta1=BETAS[0],
            beta2=BETAS[1], weight_decay=0.0, eps=EPSILON, amsgrad=False, maximize=False,
        )  # fmt: skip
        self.averages.lerp_(self.values, 1 - DECAY)
