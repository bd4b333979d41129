"""Schedules in training images seen: the length of a run, its learning rate and its EMA decay."""

import math
from dataclasses import dataclass

from emmeter.settings.sections import Setup
from emmeter.settings.types import Span

LOG_POINTS = 10  # rows of training.csv, evenly spaced over the budget


@dataclass(frozen=True)
class Budget:
    """The length of a run, in steps and in training images."""

    steps: int
    images: int
    lr_ramp: float
    ema_ramp: float
    snapshots: tuple[int, ...]  # steps after which the averaged weights are kept
    log: tuple[int, ...]  # steps after which a row is logged


def budget(setup: Setup, n: int) -> Budget:
    """The schedule of a run on `n` images.  Snapshots are shares of it, so their number does not depend on n."""
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


COMMON_HALF_LIFE = 500_000  # images: the half-life whose warm-up `ema_decay` gives every decay under "common"


def learning_rate_factor(images_seen: float, ramp: float) -> float:
    """Linear from 0 to 1 over the first `ramp` training images, then 1."""
    return min(1.0, images_seen / ramp) if ramp > 0 else 1.0


def ema_decay(images_seen: float, ramp: float, final: float, batch_size: int | None = None) -> float:
    """Decay per step of the averaged weights after `images_seen` training images.

    During the ramp the half-life h grows in proportion to s = images_seen / ramp, so that the average never reaches
    back further than the run is old.

    Args:
        ramp: length of the growth in images.
        final: decay per step after the ramp, in [0, 1).
        batch_size: None lets the decay's own half-life grow: final^(1/s).  The paper's EMA study instead
            gives every decay the warm-up of one common half-life of 500,000 images at its batch size:
            final * g^(1/s - 1) with g = 0.5^(batch_size / 500,000).
    """
    share = min(1.0, images_seen / ramp) if ramp > 0 else 1.0
    if share == 0 or final == 0:
        return 0.0
    growth = final if batch_size is None else 0.5 ** (batch_size / COMMON_HALF_LIFE)
    return final * growth ** (1 / share - 1)
