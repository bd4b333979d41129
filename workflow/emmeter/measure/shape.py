"""Comparison with published curves by shape: where networks, images and budgets differ, and so does every EMM.

Two things can be equal nevertheless: the factor between the EMMs of two arms, and the ratio of an arm at sizes that are
the same multiples of the EMM of a common baseline.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emmeter.measure.contrasts import AtSize, Confirmed, Contrast, mover
from emmeter.measure.estimate import Estimate
from emmeter.measure.outcome import logit

# Noise of a published ratio beside the error of reading it.  The paper repeats no run.  Three pairs of its runs are
# equivalent (no labels, and one label for all images): they differ by 1.2, 0.2 and 0.25 percentage points.
RUN_NOISE = 0.01
EDGE = 0.001  # smallest distance from 0 and 1 at which a ratio has a place on a curve
FARTHEST = 1.0  # octaves outside the confirming sizes beyond which a line says nothing

Order = Literal["same", "opposite", "open"]


@dataclass(frozen=True)
class Point:
    """A published ratio.

    Attributes:
        n: training images.
        ratio: share of memorized images, 0..1.
        error: half-width of its interval.
    """

    n: int
    ratio: float
    error: float

    @property
    def low(self) -> float:
        return max(self.ratio - self.error, 0.0)

    @property
    def high(self) -> float:
        return min(self.ratio + self.error, 1.0)


@dataclass(frozen=True)
class Share:
    """Share of memorized images with its interval, 0..1.

    Attributes:
        beyond: octaves by which the size is outside the confirming sizes; 0 within them.
    """

    ratio: float
    low: float
    high: float
    beyond: float = 0.0


def emm(curve: Sequence[Point], level: float) -> Estimate:
    """EMM of a published curve: its crossing with `level` (0..1), interpolated in the logit against log2 N.

    The interval is that of curves that are higher or lower by the error of each point.  A curve that stays above or
    below the level by more than that error leaves a limit.

    Args:
        curve: at least one point, with increasing n.
    """
    above = [index for index, point in enumerate(curve) if point.ratio >= level]
    if not above:
        clear = curve[0].high < level
        return Estimate(None, None, float(curve[0].n), "below") if clear else _UNDETERMINED
    if above[-1] == len(curve) - 1:
        clear = curve[-1].low >= level
        return Estimate(None, float(curve[-1].n), None, "at_least") if clear else _UNDETERMINED
    a, b = curve[above[-1]], curve[above[-1] + 1]

    def crossed(first: float, second: float) -> float:
        above, below = (_logit(min(max(ratio, EDGE), 1 - EDGE)) - logit(level) for ratio in (first, second))
        return a.n * (b.n / a.n) ** (above / (above - below))

    return Estimate(crossed(a.ratio, b.ratio), crossed(a.low, b.low), crossed(a.high, b.high), "estimated")


_UNDETERMINED = Estimate(None, None, None, "undetermined")


def ratio(first: Estimate, second: Estimate) -> Contrast:
    """The ratio of two published EMMs, first over second; of bounds the limits that they leave."""
    if first.emm is not None and second.emm is not None:
        return mover([(1, first), (-1, second)])
    low = (first.low or 0.0) / second.high if second.high else 0.0
    return Contrast(None, low, first.high / second.low if first.high and second.low else math.inf)


def odds_ratio(first: Point, second: Point) -> Contrast:
    """The ratio of the odds of a copy at two published points, first over second.

    Errors are combined in logits as if they were independent.  A ratio of 0 or 1 has no odds, but leaves a limit.
    """
    (a_low, a, a_high), (b_low, b, b_high) = (
        [_logit(ratio) for ratio in (point.low, point.ratio, point.high)] for point in (first, second)
    )
    if math.isinf(a) or math.isinf(b):
        return Contrast(None, _exp(a_low - b_high), _exp(a_high - b_low))
    down, up = math.hypot(a - a_low, b_high - b), math.hypot(a_high - a, b - b_low)
    return Contrast(math.exp(a - b), _exp(a - b - down), _exp(a - b + up))


def share_at(octaves: float, arm: Confirmed, baseline: Confirmed, confidence: float = 0.95) -> Share:
    """The ratio of `arm` at a multiple of the EMM of `baseline`, from the arm's line.

    The interval combines the scatter of both arms' runs: of the line at this size, and of the EMM that sets the size.
    The two are taken as independent unless both arms have the very same runs.

    Args:
        octaves: log2 of the multiple.
        baseline: runs with a crossing.
    """
    from scipy.special import expit, stdtrit

    assert baseline.crossing is not None
    x = baseline.crossing + octaves
    line, sd = arm.line, math.sqrt(arm.variance.variance)
    own: NDArray[np.float64] = (1 / line.runs + (x - line.x_mean) * (arm.x - line.x_mean) / line.sxx) * sd
    moved = line.slope * baseline.weights  # logits per standard deviation of each run of the baseline
    same = arm.runs == baseline.runs
    weights = [(own + moved, arm)] if same else [(own, arm), (moved, baseline)]
    parts = [(float((weight**2).sum()), runs.variance.df) for weight, runs in weights]
    variance = sum(part for part, _ in parts)
    df = variance**2 / sum(part**2 / df for part, df in parts) if variance else math.inf
    half = float(stdtrit(df, (1 + confidence) / 2)) * math.sqrt(variance) if variance else 0.0
    middle = line.intercept + line.slope * x
    low, ratio, high = (float(expit(middle + shift)) for shift in (-half, 0, half))
    return Share(ratio, low, high, max(float(arm.x.min()) - x, x - float(arm.x.max()), 0.0))


def mean_share(arm: AtSize, confidence: float = 0.95) -> Share:
    """The ratio of an arm at one size: that of the mean logit of its runs, with their scatter."""
    from scipy.special import expit, stdtrit

    middle = sum(arm.logits.values()) / len(arm.logits)
    half = math.sqrt(arm.variance.variance / len(arm.logits)) * float(stdtrit(arm.variance.df, (1 + confidence) / 2))
    low, ratio, high = (float(expit(middle + shift)) for shift in (-half, 0, half))
    return Share(ratio, low, high)


def order(published: Contrast, ours: Contrast) -> Order:
    """Compare the order of two arms: "open" unless both intervals exclude a ratio of 1."""
    signs = [(contrast.low > 1) - (contrast.high < 1) for contrast in (published, ours)]
    if 0 in signs:
        return "open"
    return "same" if signs[0] == signs[1] else "opposite"


def _logit(ratio: float) -> float:
    """The logit of a ratio, infinite at 0 and 1."""
    if 0 < ratio < 1:
        return logit(ratio)
    return math.inf if ratio else -math.inf


def _exp(value: float) -> float:
    """The exponential of a value that may be infinite."""
    return math.exp(min(value, 700.0)) if value < math.inf else math.inf
