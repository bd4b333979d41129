"""measure.onset"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emmeter.measure.results import Snapshot

LEVEL = 0.5  # half of the images are copies: where the ratio rises fastest, so that its onset is best determined


@dataclass(frozen=True)
class Growth:
    """Least squares of log2 onset on log2 N: ``exponent`` with its 95 % interval, over ``runs`` runs.

    ``left_out`` runs had no onset: they set in before their first snapshot, or never.
    """

    exponent: float
    low: float
    high: float
    runs: int
    left_out: int = 0


def onset(snapshots: Sequence[Snapshot], level: float = LEVEL) -> tuple[float | None, str]:
    """Training images seen when the ratio first crosses `level`, and why there is none.

    Args:
        snapshots: of one run in the order of training, with ``images_seen`` and ``ratio``.
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
    """How the onset grows with N, from the runs that have one; None with onsets at fewer than three sizes."""
    known = [(n, images) for n, images in zip(sizes, onsets, strict=True) if images is not None]
    if len({n for n, _ in known}) < 3:
        return None
    from scipy.special import stdtrit

    x, y = np.log2(known).T
    sxx = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * y).sum()) / sxx
    residual = y - y.mean() - slope * (x - x.mean())
    df = len(x) - 2
    half = float(stdtrit(df, 0.975)) * math.sqrt(float((residual**2).sum()) / df / sxx)
    return Growth(slope, slope - half, slope + half, len(x), len(sizes) - len(x))
