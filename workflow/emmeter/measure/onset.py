"""The onset of memorization: how many images a run has seen when copies appear, and how that grows with N."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emmeter.measure.results import Snapshot

LEVEL = 0.5  # ratio of the onset: at one half the ratio rises fastest, so the onset is determined best


@dataclass(frozen=True)
class Growth:
    """Least squares of log2 onset on log2 N.

    Attributes:
        exponent: the slope; 1 is growth in proportion to N.
        low, high: its 95 % interval.
        runs: number of runs with an onset.
        left_out: number of runs without one, whose onset came before the first snapshot or not at all.
    """

    exponent: float
    low: float
    high: float
    runs: int
    left_out: int = 0


def onset(snapshots: Sequence[Snapshot], level: float = LEVEL) -> tuple[float | None, str]:
    """Training images seen when the ratio first crosses `level`, interpolated between snapshots in log2 images.

    Args:
        snapshots: those of one run in the order of training.
        level: ratio of the onset, 0..1.
    Returns:
        The number of images and an empty text, or None and the reason.
    """
    before: tuple[float, float] | None = None
    for row in snapshots:
        seen, ratio = float(row["images_seen"]), float(row["ratio"])
        if ratio >= level:
            if before is None or not before[0]:
                return None, "set in before the first snapshot"
            share = (level - before[1]) / (ratio - before[1])
            return float(2 ** (math.log2(before[0]) * (1 - share) + math.log2(seen) * share)), ""
        before = seen, ratio
    return None, "has not set in by the end"


def growth(sizes: Sequence[int], onsets: Sequence[float | None]) -> Growth | None:
    """Fit the growth of the onset with N over the runs that have one.

    Args:
        sizes: N of each run.
        onsets: onset of each run in images, None where it has none.
    Returns:
        None if there are onsets at fewer than three sizes.
    """
    points = [(n, images) for n, images in zip(sizes, onsets, strict=True) if images is not None]
    if len({n for n, _ in points}) < 3:
        return None
    from scipy.special import stdtrit

    x, y = np.log2(points).T
    sxx = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * y).sum()) / sxx
    residual = y - y.mean() - slope * (x - x.mean())
    df = len(x) - 2
    half = float(stdtrit(df, 0.975)) * math.sqrt(float((residual**2).sum()) / df / sxx)
    return Growth(slope, slope - half, slope + half, len(x), len(sizes) - len(x))
