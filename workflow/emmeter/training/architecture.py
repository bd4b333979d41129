"""What runs have in common that can share a compiled package.  This module loads no torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from emmeter.settings.sections import Diffusion, Network, Setup
from emmeter.settings.types import Precision

Kind = Literal["step", "denoiser"]  # loss and gradients of a training step, or the denoiser of a sampler


@dataclass(frozen=True)
class Architecture:
    """A function that a package computes.

    Training sizes, label counts and skip masks are not part of it: they are inputs of the function, or do not matter.

    Attributes:
        network: without skip mask; the denoiser's is without dropout.
        shape: (C, H, W) of the images.
        batch: images per call.
        precision: in which the network computes.
    """

    kind: Kind
    network: Network
    diffusion: Diffusion
    shape: tuple[int, int, int]
    batch: int
    precision: Precision

    def text(self) -> str:
        """The architecture as JSON, which `read` reads back."""
        settings = {"network": self.network.model_dump(), "diffusion": self.diffusion.model_dump()}
        return json.dumps({**vars(self), **settings}, sort_keys=True)


def read(text: str) -> Architecture:
    """Read the text of an architecture."""
    content: dict[str, Any] = json.loads(text)
    network, diffusion = Network(**content.pop("network")), Diffusion(**content.pop("diffusion"))
    return Architecture(network=network, diffusion=diffusion, shape=tuple(content.pop("shape")), **content)


def of_step(setup: Setup, shape: Sequence[int], processes: int = 1) -> Architecture:
    """The architecture of a run's training step, in each of the processes that train it together."""
    batch = setup.training.batch_size // processes
    return _made("step", setup, {"skips": None}, shape, batch, setup.training.precision)


def of_denoiser(setup: Setup, shape: Sequence[int], batch: int) -> Architecture:
    """The architecture of a run's denoiser in sampling, of at most `batch` images at once."""
    batch = min(batch, setup.sampling.images)
    return _made("denoiser", setup, {"skips": None, "dropout": 0.0}, shape, batch, setup.sampling.precision)


def _made(
    kind: Kind, setup: Setup, changes: dict[str, Any], shape: Sequence[int], batch: int, precision: Precision
) -> Architecture:
    channels, height, width = shape
    network = setup.network.model_copy(update=changes)
    return Architecture(kind, network, setup.diffusion, (channels, height, width), batch, precision)
