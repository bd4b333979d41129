"""How learning rate and EMA decay grow at the start of training (paper's code, without its integer truncations)."""

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
