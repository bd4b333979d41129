"""Both sides of copying: the share of generated images that are copies, and the training images that were copied."""

import math
from dataclasses import dataclass

import numpy as np

Z = 1.959963984540054  # two-sided 95 % of a normal variable


@dataclass(frozen=True)
class Part:
    """Some of the distinct training images, and how they were copied.

    Attributes:
        images: their number.
        share: share of them that was copied at least once, 0 to 1; None if there are none.
        copies: mean number of copies of each; None if there are none.
    """

    images: int
    share: float | None
    copies: float | None


def _part(counts: np.ndarray) -> Part:
    """Summarize the numbers of copies (n,) of some distinct training images."""
    if not len(counts):
        return Part(0, None, None)
    return Part(len(counts), float((counts > 0).mean()), float(counts.mean()))


@dataclass(frozen=True)
class Copied:
    """Training images that generated images copy.

    Attributes:
        counts: int64 (E,), number of copies of the image of each entry; of duplicates, the first has all of them.
        times: int64 (E,), how often the image stands in the training set; of duplicates, the first has their number.
        train: number of distinct training images.
        copied: number of these that were copied at least once.
        share: `copied` / `train`, 0 to 1.
        low, high: 95 % interval of the share that as many other images of the same model would show on average.
        reachable: estimate of the least number of training images that ever more images of the model would copy (Chao
            1984), from `copied` to `train`.
        repeated: the images that stand in the training set several times.
        once: all others.
    """

    counts: np.ndarray
    times: np.ndarray
    train: int
    copied: int
    share: float
    low: float
    high: float
    reachable: float
    repeated: Part
    once: Part


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
        groups: int64 (E,), position of the first entry whose image counts as the same, for each entry of the training
            set.
    """
    counts = np.bincount(groups[nearest[copies]], minlength=len(groups)).astype(np.int64)
    times = np.bincount(groups, minlength=len(groups)).astype(np.int64)
    distinct, found, once = int((times > 0).sum()), int((counts > 0).sum()), int((counts == 1).sum())
    twice = int((counts == 2).sum())
    missed = min(1.0, float((2.0 ** -counts[counts > 0]).sum()))
    low = found - Z * math.sqrt(once + missed * Z**2 / 4)
    high = found + Z**2 / 2 + Z * math.sqrt(once + Z**2 / 4)
    return Copied(
        counts=counts,
        times=times,
        train=distinct,
        copied=found,
        share=found / distinct,
        low=max(low, 0.0) / distinct,
        high=min(high, distinct) / distinct,
        reachable=min(found + once * (once - 1) / (2 * (twice + 1)), float(distinct)),
        repeated=_part(counts[times > 1]),
        once=_part(counts[times == 1]),
    )
