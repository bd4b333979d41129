"""Contrasts: the ratio of two arms' EMMs, or of their odds of a copy at one size, with an interval.

Replicate r of every arm of a study is trained on nested subsets of the same draw, and part of a run's scatter comes
from the subset.  Replicates that arms share are therefore blocks.  The effect of a block cancels in a contrast if both
arms have the same slope; otherwise the part proportional to the difference of slopes remains.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emmeter.measure.estimate import Estimate, Line, fit_line, shift
from emmeter.measure.outcome import Count, RunId
from emmeter.measure.scatter import RunVariance
from emmeter.measure.search import Trail

LOG_LIMIT = 700.0  # logarithm of odds that a float still holds
PAIRS = 3  # fewest replicates at one size that are compared in pairs
FEWEST = 4  # degrees of freedom of the blocks below which their t is too wide to be of use


@dataclass(frozen=True)
class Confirmed:
    """The confirming runs of one arm.

    ``replicates`` are their numbers, ``x`` (runs,) their log2 N and ``residuals`` (runs,) their logits about the line.
    ``crossing`` is log2 of the estimated EMM.  It is None without an estimate; such an arm has no contrast, but its
    residuals still count in `blocks`.  ``variance`` is the scatter of a run's logit.  ``shift`` is the number of
    octaves by which the isotonic fit disagrees with the line (`emmeter.measure.estimate.shift`).
    """

    replicates: tuple[int, ...]
    x: NDArray[np.float64]
    residuals: NDArray[np.float64]
    line: Line
    crossing: float | None
    variance: RunVariance
    shift: float = 0.0

    @property
    def runs(self) -> tuple[object, ...]:
        """Identity of the runs, equal for arms that share them, as arms do that differ in name or epsilon only."""
        return self.replicates, self.x.tobytes(), self.residuals.tobytes(), self.line.slope, self.line.intercept

    @property
    def weights(self) -> NDArray[np.float64]:
        """(runs,) shift of the crossing, in octaves, per standard deviation of each run's logit, to first order."""
        assert self.crossing is not None
        beyond = (self.crossing - self.line.x_mean) * (self.x - self.line.x_mean) / self.line.sxx
        return (1 / self.line.runs + beyond) / -self.line.slope * math.sqrt(self.variance.variance)


@dataclass(frozen=True)
class Blocks:
    """Analysis of variance of the residuals of arms with the same replicates.

    Residuals are in units of each arm's own scatter, so arms may scatter differently.  Each residual is the sum of an
    effect of its replicate, which all arms share, and of an effect of its own.  ``own`` is the variance of the second
    on ``df`` degrees of freedom.  ``between`` is the mean square between replicates on ``df_between`` degrees of
    freedom; its expectation is own + arms * shared.
    """

    arms: int
    own: float
    df: int
    between: float
    df_between: int

    def error(self, first: Confirmed, second: Confirmed) -> tuple[float, float]:
        """Variance of the difference of two crossings (octaves squared), and its degrees of freedom.

        The variance is own (|u|^2 + |w|^2) + shared |u - w|^2 with the weights u, w of the arms.  With equal weights
        the shared effect cancels; with unequal weights, as of arms with different slopes, part of it remains.  The
        degrees of freedom are Satterthwaite's, for the two mean squares and the scatter of the two arms.
        """
        u, w = first.weights, second.weights
        of_first, of_second = float((u**2).sum()), float((w**2).sum())
        common = float(((u - w) ** 2).sum()) / self.arms
        own = self.own * (of_first + of_second - common)
        between = self.between * common
        variance = own + between
        uncertainty = (own**2 / self.df + between**2 / self.df_between) / variance**2
        share = of_first / (of_first + of_second)
        uncertainty += share**2 / first.variance.df + (1 - share) ** 2 / second.variance.df
        return variance, 1 / uncertainty


@dataclass(frozen=True)
class Contrast:
    """Ratio of one arm's EMM to another's with its interval; at one size, the ratio of their odds of a copy.

    ``ratio`` is None if one of the two is only bounded, or has no interval, as under rule grid.  Then ``low`` and
    ``high`` follow from the bounds: 0 and infinity without any.  ``paired``: whether replicates served as blocks.
    ``note`` names what is missing.
    """

    ratio: float | None
    low: float
    high: float
    paired: bool = False
    note: str = ""


def confirmed(
    trail: Trail, counts: Mapping[RunId, Count], estimate: Estimate, variance: RunVariance | None
) -> Confirmed | None:
    """The confirming runs of an arm; None if no line can be fitted to them, or their scatter is unknown."""
    line = fit_line([run.n for run in trail.confirm], [counts[run] for run in trail.confirm])
    if line is None or variance is None:
        return None
    x = np.log2([run.n for run in trail.confirm])
    y = np.array([counts[run].logit for run in trail.confirm])
    residuals = y - line.intercept - line.slope * x
    replicates = tuple(run.replicate for run in trail.confirm)
    crossing = math.log2(estimate.emm) if estimate.status == "estimated" and estimate.emm is not None else None
    return Confirmed(replicates, x, residuals, line, crossing, variance, shift(estimate))


def blocks(arms: Iterable[Confirmed]) -> Blocks | None:
    """Randomized blocks: arms x replicates, without the means and slopes of the arms.

    All arms must have the same replicates; arms on the same runs count once.  The own variance is at least that of
    counting images, and the shared variance is at least 0.  None without degrees of freedom.
    """
    arms = list({arm.runs: arm for arm in arms}.values())
    residuals = np.array([arm.residuals / math.sqrt(arm.variance.variance) for arm in arms])  # (arms, replicates)
    df_between = residuals.shape[1] - 2
    df = (len(arms) - 1) * df_between
    if df < 1:
        return None
    means = residuals.mean(axis=0)
    counting = float(np.mean([arm.line.counting_variance / arm.variance.variance for arm in arms]))
    own = max(float(((residuals - means) ** 2).sum()) / df, counting)
    return Blocks(len(arms), own, df, max(len(arms) * float((means**2).sum()) / df_between, own), df_between)


def compare(
    first: tuple[Estimate, Confirmed | None],
    second: tuple[Estimate, Confirmed | None],
    study: Sequence[Confirmed | None],
    confidence: float = 0.95,
) -> Contrast:
    """EMM of `first` over EMM of `second`, each an arm's estimate (of this confidence) with its confirming runs.

    Args:
        study: the confirming runs of all arms of the study; those with the same replicates form the blocks.
    """
    (a, runs_a), (b, runs_b) = first, second
    if runs_a is None or runs_b is None or runs_a.crossing is None or runs_b.crossing is None:
        (a_low, a_high), (b_low, b_high) = _bounds(a), _bounds(b)
        return Contrast(None, a_low / b_high if b_high < math.inf else 0.0, a_high / b_low if b_low else math.inf)
    if runs_a.runs == runs_b.runs and runs_a.crossing == runs_b.crossing:  # one arm under two names
        return Contrast(1.0, 1.0, 1.0, True)
    if runs_a.replicates == runs_b.replicates:
        shared = blocks(arm for arm in study if arm is not None and arm.replicates == runs_a.replicates)
        if shared is not None and shared.df >= FEWEST:
            variance, df = shared.error(runs_a, runs_b)
            half = _half_width(variance, df, confidence)
            middle = runs_a.crossing - runs_b.crossing
            # A curve that is not straight shifts its crossing; the interval covers every combination of the two shifts.
            moved = [runs_a.shift, -runs_b.shift, runs_a.shift - runs_b.shift, 0.0]
            low, high = middle - half + min(moved), middle + half + max(moved)
            return Contrast(2.0**middle, 2.0**low, 2.0**high, True)
    return mover(a, b)


def _half_width(variance: float, df: float, confidence: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + confidence) / 2)) * math.sqrt(variance)


@dataclass(frozen=True)
class AtSize:
    """The runs of one arm at one size: their logits by replicate, and the scatter of such runs.

    ``limit`` is 1 or -1 if the runs are of a larger or a smaller size than requested.  As the ratio falls with N,
    theirs is then a lower or an upper bound at the requested size.
    """

    logits: Mapping[int, float]
    variance: RunVariance
    limit: int = 0


def at_size(n: int, runs: Collection[RunId], counts: Mapping[RunId, Count], variance: RunVariance) -> AtSize:
    """An arm's runs at size `n`, or at the nearest other size, in any role."""
    nearest = min({run.n for run in runs}, key=lambda size: abs(math.log2(size / n)))
    logits = {run.replicate: counts[run].logit for run in runs if run.n == nearest}
    return AtSize(logits, variance, (nearest > n) - (nearest < n))


def compare_at(first: AtSize, second: AtSize, confidence: float = 0.95) -> Contrast:
    """Odds of a copy under `first` over those under `second`, at the size of both.

    If both have the same replicates, at least `PAIRS`, the runs are compared in pairs, and the differences estimate
    their own scatter.  The variance is at least half of that of unpaired runs.  An arm without a run at the size gives
    a one-sided limit, or none.
    """
    if first == second:
        return Contrast(1.0, 1.0, 1.0, True) if not first.limit else Contrast(None, 0.0, math.inf)
    means = [sum(arm.logits.values()) / len(arm.logits) for arm in (first, second)]
    parts = [arm.variance.variance / len(arm.logits) for arm in (first, second)]
    variance, paired = sum(parts), False
    df = variance**2 / sum(part**2 / arm.variance.df for part, arm in zip(parts, (first, second), strict=True))
    common = sorted(set(first.logits) & set(second.logits))
    if len(common) == len(first.logits) == len(second.logits) and len(common) >= PAIRS:
        differences = np.array([first.logits[r] - second.logits[r] for r in common])
        prior = variance * len(common)  # of one difference, without anything in common
        own_df = len(common) - 1
        # The scatter of the pairs, moderated by that of single runs.
        pooled = (df * prior + own_df * float(differences.var(ddof=1))) / (df + own_df)
        variance, df, paired = max(pooled, prior / 2) / len(common), df + own_df, True
    middle, half = means[0] - means[1], _half_width(variance, df, confidence)
    low, high = math.exp(max(middle - half, -LOG_LIMIT)), math.exp(min(middle + half, LOG_LIMIT))
    directions = {first.limit, -second.limit} - {0}  # in which the ratio of odds is open
    if not directions:
        return Contrast(math.exp(middle), low, high, paired)
    return Contrast(None, 0.0 if -1 in directions else low, math.inf if 1 in directions else high)


def mover(a: Estimate, b: Estimate) -> Contrast:
    """Ratio of two EMMs with independent intervals.

    The intervals are combined on the log2 scale by their distances from the estimates, which keeps their asymmetry
    (MOVER; Zou and Donner 2008).
    """
    (x, x_low, x_high), (y, y_low, y_high) = (
        tuple(math.log2(value) for value in (arm.emm, arm.low, arm.high) if value is not None) for arm in (a, b)
    )
    middle = x - y
    low, high = middle - math.hypot(x - x_low, y_high - y), middle + math.hypot(x_high - x, y - y_low)
    return Contrast(2.0**middle, 2.0**low, 2.0**high)


def _bounds(estimate: Estimate) -> tuple[float, float]:
    """Bounds of an EMM: its interval, or a limit on one side; 0 and infinity without either.

    A bracket of the grid does not count: for an EMM near a size of the grid, chance decides between two brackets.
    """
    if estimate.status == "estimated" and estimate.run_sd is None:
        return 0.0, math.inf
    return estimate.low or 0.0, estimate.high or math.inf
