"""Preconditioned denoisers, training noise and losses: VP, VE and EDM (Karras et al. 2022, table 1), and flow matching.

A denoiser is D(x; sigma) = c_skip x + c_out F(c_in x; c_noise), with images scaled to [-1, 1] and x = y + sigma n.
Noise levels and coefficients are (B,) tensors.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from emmeter.diffusion.networks import ScoreNetwork
from emmeter.settings.sections import Diffusion


@dataclass(frozen=True)
class Coefficients:
    """The factors c_skip, c_out, c_in and the noise coordinate c_noise, each (B,)."""

    skip: Tensor
    out: Tensor
    into: Tensor
    noise: Tensor


class Preconditioning(Protocol):
    """Choices of a preconditioning: coefficients, noise levels in training, weight of the loss, usable range."""

    @property
    def sigma_min(self) -> float:
        """Smallest noise level that the denoiser knows."""
        ...

    @property
    def sigma_max(self) -> float:
        """Largest noise level that the denoiser knows."""
        ...

    @property
    def draw(self) -> str:
        """Distribution that `training_sigma` expects: "uniform" on [0, 1) or "normal"."""
        ...

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Coefficients at noise levels (B,)."""
        ...

    def training_sigma(self, draw: Tensor) -> Tensor:
        """Noise levels (B,) in training, from random numbers (B,) of the distribution `draw`."""
        ...

    def weight(self, sigma: Tensor) -> Tensor:
        """Weights (B,) of the loss at noise levels (B,)."""
        ...


@dataclass(frozen=True)
class VP:
    """Variance preserving: beta linear in t on [0, 1] (Song et al. 2021), predicting the noise."""

    beta_d: float = 19.9
    beta_min: float = 0.1
    t_min: float = 1e-5
    timesteps: int = 1000
    draw: str = "uniform"

    @property
    def sigma_min(self) -> float:
        return float(self.sigma(torch.tensor(self.t_min, dtype=torch.float64)))

    @property
    def sigma_max(self) -> float:
        return float(self.sigma(torch.tensor(1.0, dtype=torch.float64)))

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1); expm1 keeps the digits at small t."""
        return torch.expm1(0.5 * self.beta_d * t**2 + self.beta_min * t).sqrt()

    def time(self, sigma: Tensor) -> Tensor:
        """Inverse of `sigma`.

        In float32, log(1 + x) and log1p differ by up to 0.1 % of t at small sigma.  The published networks were
        trained with log(1 + x), and the tests compare with these networks.
        """
        return ((self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt() - self.beta_min) / self.beta_d

    def coefficients(self, sigma: Tensor) -> Coefficients:
        noise = (self.timesteps - 1) * self.time(sigma)
        return Coefficients(torch.ones_like(sigma), -sigma, (sigma**2 + 1).rsqrt(), noise)

    def training_sigma(self, draw: Tensor) -> Tensor:
        return self.sigma(1 + draw * (self.t_min - 1))  # t from 1 down to t_min

    def weight(self, sigma: Tensor) -> Tensor:
        return 1 / sigma**2


@dataclass(frozen=True)
class VE:
    """Variance exploding: sigma geometric in t (Song et al. 2021), predicting the scaled residual."""

    sigma_min: float = 0.02
    sigma_max: float = 100.0
    draw: str = "uniform"

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return Coefficients(torch.ones_like(sigma), sigma, torch.ones_like(sigma), (0.5 * sigma).log())

    def training_sigma(self, draw: Tensor) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** draw

    def weight(self, sigma: Tensor) -> Tensor:
        return 1 / sigma**2


@dataclass(frozen=True)
class EDM:
    """Unit-variance inputs and targets, log-normal noise levels (Karras et al. 2022, section 5)."""

    sigma_data: float = 0.5
    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_min: float = 0.0
    sigma_max: float = math.inf
    draw: str = "normal"

    def coefficients(self, sigma: Tensor) -> Coefficients:
        total = sigma**2 + self.sigma_data**2
        return Coefficients(
            self.sigma_data**2 / total, sigma * self.sigma_data * total.rsqrt(), total.rsqrt(), sigma.log() / 4
        )

    def training_sigma(self, draw: Tensor) -> Tensor:
        return (self.p_mean + self.p_std * draw).exp()

    def weight(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


@dataclass(frozen=True)
class Flow:
    """Flow matching along straight paths (Lipman et al. 2023; rectified flow of Liu et al. 2023).

    The network predicts the velocity v = n - y of x_t = (1 - t) y + t n, from x_t and t in (0, 1).  In the terms of a
    denoiser, sigma = t / (1 - t) and x = x_t / (1 - t).  So y = x_t - t v gives the coefficients, and the loss
    |F - v|^2 is |D - y|^2 / c_out^2.  The sampler's equation for x is that of the flow for x_t.

    Args:
        draw: "normal": ln(sigma), the logit of t, is standard normal in training (Esser et al. 2024); "uniform": t is
            uniform between `t_min` and 1 - `t_min`.
    """

    draw: str = "normal"
    t_min: float = 1e-3
    timesteps: int = 1000

    @property
    def sigma_min(self) -> float:
        return self.t_min / (1 - self.t_min)

    @property
    def sigma_max(self) -> float:
        return (1 - self.t_min) / self.t_min

    def coefficients(self, sigma: Tensor) -> Coefficients:
        into = 1 / (1 + sigma)
        return Coefficients(into, -sigma * into, into, (self.timesteps - 1) * sigma * into)

    def training_sigma(self, draw: Tensor) -> Tensor:
        if self.draw == "normal":
            return draw.exp()
        t = self.t_min + (1 - 2 * self.t_min) * draw
        return t / (1 - t)

    def weight(self, sigma: Tensor) -> Tensor:
        return ((1 + sigma) / sigma) ** 2


@dataclass(frozen=True)
class Raised:
    """A preconditioning whose noise levels in training are at least `lowest`: lower ones are raised to it.

    A network that is never trained at low noise cannot learn the details that tell an image from its like.
    """

    kind: Preconditioning
    lowest: float

    @property
    def sigma_min(self) -> float:
        return max(self.kind.sigma_min, self.lowest)

    @property
    def sigma_max(self) -> float:
        return self.kind.sigma_max

    @property
    def draw(self) -> str:
        return self.kind.draw

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return self.kind.coefficients(sigma)

    def training_sigma(self, draw: Tensor) -> Tensor:
        return self.kind.training_sigma(draw).clamp_min(self.lowest)

    def weight(self, sigma: Tensor) -> Tensor:
        return self.kind.weight(sigma)


def preconditioning(settings: Diffusion, lowest: float = 0.0) -> Preconditioning:
    """Build the preconditioning that the settings name, with noise levels in training of at least `lowest`."""
    kind = _preconditioning(settings)
    return Raised(kind, lowest) if lowest > kind.sigma_min else kind


def _preconditioning(settings: Diffusion) -> Preconditioning:
    if settings.preconditioning == "edm":
        assert settings.sigma_data is not None  # resolved when the data were read
        return EDM(settings.sigma_data, settings.p_mean, settings.p_std)
    if settings.preconditioning == "flow":
        return Flow("normal" if settings.times == "logit-normal" else "uniform")
    return VP() if settings.preconditioning == "vp" else VE()


class Denoiser(nn.Module):
    """D(x; sigma, label): an estimate of the clean image, made of a network and a preconditioning."""

    def __init__(self, network: ScoreNetwork, kind: Preconditioning):
        super().__init__()
        self.network = network
        self.kind = kind

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Denoise (B, C, H, W) images of noise levels (B,), with labels (B,) or None: (B, C, H, W) float32."""
        return self.denoise(x, sigma, self.embed(sigma, labels))

    def embed(self, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Embed noise levels (B,) and labels (B,) or None: (B, E0), in the weights' type."""
        return self.network.embed(self.kind.coefficients(sigma.to(torch.float32)).noise, labels)

    def denoise(self, x: Tensor, sigma: Tensor, embedding: Tensor, mask: Tensor | None = None) -> Tensor:
        """Denoise as `forward` does, with an embedding from `embed` and a skip mask as in `UNet.body`."""
        x = x.to(torch.float32)
        c = self.kind.coefficients(sigma.to(torch.float32))
        skip, out, into = (value[:, None, None, None] for value in (c.skip, c.out, c.into))
        return skip * x + out * self.network.body(into * x, embedding, mask).to(torch.float32)


def denoising_loss(
    denoiser: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    kind: Preconditioning,
    images: Tensor,
    draw: Tensor,
    noise: Tensor,
    labels: Tensor | None = None,
) -> Tensor:
    """Weighted denoising error of each image, summed over its pixels (Karras et al. 2022, section 5).

    Args:
        denoiser: D(x; sigma, labels).
        kind: preconditioning of the denoiser.
        images: (B, C, H, W) in [-1, 1].
        draw: (B,) random numbers of the distribution `kind.draw`, which give the noise levels.
        noise: (B, C, H, W) standard normal.
        labels: (B,) integers, or None.
    Returns:
        (B,) values of weight(sigma) |D(y + sigma n; sigma) - y|^2.
    """
    sigma = kind.training_sigma(draw)
    return weighted_error(kind, images, sigma, denoiser(noisy(images, sigma, noise), sigma, labels))


def noisy(images: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """y + sigma n, for images and noise (B, C, H, W) and noise levels (B,)."""
    return images + sigma[:, None, None, None] * noise


def weighted_error(kind: Preconditioning, images: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    """weight(sigma) |D - y|^2 of each image: (B,), from images y and their denoised versions D, (B, C, H, W) each."""
    return kind.weight(sigma) * (denoised - images).square().flatten(1).sum(dim=1)


def to_unit(images: Tensor) -> Tensor:
    """Scale uint8 pixels to [-1, 1], float32."""
    return images.to(torch.float32) / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """Convert values in [-1, 1] to uint8 pixels, clipped and rounded half up, as in the paper."""
    return (images * 127.5 + 128).clip(0, 255).to(torch.uint8)
