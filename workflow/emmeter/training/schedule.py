"""Schedules as functions of the training images seen: length of a run, learning rate, EMA decay."""

import math
from dataclasses import dataclass

from emmeter.settings.sections import Setup
from emmeter.settings.types import Span

LOG_POINTS = 10  # rows of training.csv, evenly spaced over the budget


@dataclass(frozen=True)
class Budget:
    """The length of a run, in steps and in training images."""

    steps: int
    images: int  # training images seen in all steps
    lr_ramp: float  # images
    ema_ramp: float  # images
    snapshots: tuple[int, ...]  # steps after which the averaged weights are kept
    log: tuple[int, ...]  # steps after which a row is logged


def budget(setup: Setup, n: int) -> Budget:
    """The schedule of a run on `n` images.  The number of snapshots does not depend on n."""
    training = setup.training
    steps = max(1, math.ceil(Span.parse(training.duration).images(n) / training.batch_size))
    images = steps * training.batch_size
    snapshots = tuple(max(1, round(share * steps)) for share in training.snapshots)
    log = {max(1, round(steps * i / LOG_POINTS)) for i in range(1, LOG_POINTS + 1)} | set(snapshots)
    return Budget(
        steps=steps,
        images=images,
        lr_ramp=Span.parse(training.lr_ramp).images(n, images),
        ema_ramp=Span.parse(training.ema_ramp).images(n, images),
        snapshots=snapshots,
        log=tuple(sorted(log)),
    )


COMMON_HALF_LIFE = 500_000  # images; the warm-up of every decay under ema_warmup = "common" is that of this half-life


def learning_rate_factor(images_seen: float, ramp: float) -> float:
    """Factor of the learning rate: linear from 0 to 1 over the first `ramp` training images, then 1."""
    return min(1.0, images_seen / ramp) if ramp > 0 else 1.0


def ema_decay(images_seen: float, ramp: float, final: float, batch_size: int | None = None) -> float:
    """Decay per step of the averaged weights after `images_seen` training images.

    During the ramp the half-life grows in proportion to s = images_seen / ramp, so the average never reaches back
    beyond the start of the run.

    Args:
        ramp: length of the growth in images.
        final: decay per step after the ramp, in [0, 1).
        batch_size: None lets the decay's own half-life grow: final^(1/s).  The paper's EMA study instead gives every
            decay the warm-up of a common half-life of 500,000 images at this batch size: final * g^(1/s - 1) with
            g = 0.5^(batch_size / 500,000).
    """
    share = min(1.0, images_seen / ramp) if ramp > 0 else 1.0
    if share == 0 or final == 0:
        return 0.0
    growth = final if batch_size is None else 0.5 ** (batch_size / COMMON_HALF_LIFE)
    return final * growth ** (1 / share - 1)
