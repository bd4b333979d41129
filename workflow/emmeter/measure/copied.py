"""Both sides of copying: the share of generated images that are copies, and the training images that were copied."""

import math
from dataclasses import dataclass

import numpy as np

Z = 1.959963984540054  # two-sided 95 % of a normal variable


@dataclass(frozen=True)
class Copied:
    """Training images that generated images copy.

    Attributes:
        counts: int64 (N,), number of copies of each training image; of duplicates, the first has all of them.
        train: number of distinct training images.
        copied: number of these that were copied at least once.
        share: `copied` / `train`, 0 to 1.
        low, high: 95 % interval of the share that as many other images of the same model would show on average.
        reachable: estimate of the least number of training images that ever more images of the model would copy (Chao
            1984), from `copied` to `train`.
    """

    counts: np.ndarray
    train: int
    copied: int
    share: float
    low: float
    high: float
    reachable: float


def copied(nearest: np.ndarray, copies: np.ndarray, groups: np.ndarray) -> Copied:
    """Count the copies of each training image.

    The share depends on the number of generated images: ten images cannot copy eleven.  The interval says how it would
    vary for as many other images of the same model, not for another training.  The variance of the number of different
    images copied is at most the expected number of images copied once (Efron and Stein 1981).  The interval has the
    form of a score interval with this bound, so it is wide rather than narrow.  Downward it also allows for images that
    as many others would miss: one copied c times is missed with a chance of about 2^-c.

    Args:
        nearest: int64 (m,), position of the training image nearest to each generated one.
        copies: bool (m,), whether the generated image is a copy.
        groups: int64 (N,), position of the first image that counts as the same as each training image.
    """
    counts = np.bincount(groups[nearest[copies]], minlength=len(groups)).astype(np.int64)
    distinct, found, once = len(np.unique(groups)), int((counts > 0).sum()), int((counts == 1).sum())
    twice = int((counts == 2).sum())
    missed = min(1.0, float((2.0 ** -counts[counts > 0]).sum()))
    low = found - Z * math.sqrt(once + missed * Z**2 / 4)
    high = found + Z**2 / 2 + Z * math.sqrt(once + Z**2 / 4)
    return Copied(
        counts=counts,
        train=distinct,
        copied=found,
        share=found / distinct,
        low=max(low, 0.0) / distinct,
        high=min(high, distinct) / distinct,
        reachable=min(found + once * (once - 1) / (2 * (twice + 1)), float(distinct)),
    )
