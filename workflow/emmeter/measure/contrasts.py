"""How far apart the EMMs of two arms are, or their memorization ratios at one size, with an interval.

Replicate r of every arm of a study is trained on (nested) subsets of the same draw, and part of a run's scatter comes
with the subset.  Where arms share their confirming replicates, these are therefore blocks, and what all arms of a
replicate have in common drops out of their contrasts as far as the arms fall alike.
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
PAIRS = 3  # replicates at one size from which their differences tell of what they share
FEWEST = 4  # degrees of freedom of the blocks below which their t is too wide to be of use


@dataclass(frozen=True)
class Confirmed:
    """The confirming runs of one arm.

    ``replicates`` are their numbers, ``x`` (runs,) their log2 N, ``residuals`` (runs,) their logits about the line,
    ``crossing`` log2 of the estimated EMM, None where there is no estimate: such an arm can be compared with none, but
    tells of the scatter all the same.  ``variance``: scatter of a run's logit.  ``shift``: octaves by which the
    isotonic fit disagrees with the line (`statistics.shift`).
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
        """The same for the very same runs, which arms may share that differ in name or in epsilon alone."""
        return self.replicates, self.x.tobytes(), self.residuals.tobytes(), self.line.slope, self.line.intercept

    @property
    def weights(self) -> NDArray[np.float64]:
        """(runs,) octaves by which the crossing moves for a standard deviation of each run's logit, to first order."""
        assert self.crossing is not None
        beyond = (self.crossing - self.line.x_mean) * (self.x - self.line.x_mean) / self.line.sxx
        return (1 / self.line.runs + beyond) / -self.line.slope * math.sqrt(self.variance.variance)


@dataclass(frozen=True)
class Blocks:
    """What the residuals of arms with the same replicates tell of the scatter that they share.

    Residuals are taken in units of each arm's own scatter, so that arms need not scatter alike.  One is the sum of an
    effect of its replicate, shared by all arms, and one of its own.  ``own`` is the variance of the latter on ``df``
    degrees of freedom, ``between`` the mean square between replicates on ``df_between``, whose expectation is
    own + arms * shared.
    """

    arms: int
    own: float
    df: int
    between: float
    df_between: int

    def error(self, first: Confirmed, second: Confirmed) -> tuple[float, float]:
        """Variance of the difference of two crossings (octaves squared), and its degrees of freedom.

        own (|u|^2 + |w|^2) + shared |u - w|^2 with the weights u, w of the arms: equal weights rid the difference of
        all that replicates share; unequal ones, as of arms that fall at different rates, leave some of it in.
        Satterthwaite's degrees of freedom for the sum of the two mean squares and the scatter of the two arms.
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

    ``ratio`` is None where one of the two is only bounded, or has no interval, as under the grid of the paper's
    rule; ``low`` and ``high`` then follow from the bounds, 0 and infinity where there is none.  ``paired``: replicates
    served as blocks.  ``note`` says what is missing.
    """

    ratio: float | None
    low: float
    high: float
    paired: bool = False
    note: str = ""


def confirmed(
    trail: Trail, counts: Mapping[RunId, Count], found: Estimate, variance: RunVariance | None
) -> Confirmed | None:
    """The confirming runs of an arm; None where no line can be fitted to them, or their scatter is not known."""
    line = fit_line([run.n for run in trail.confirm], [counts[run] for run in trail.confirm])
    if line is None or variance is None:
        return None
    x = np.log2([run.n for run in trail.confirm])
    y = np.array([counts[run].logit for run in trail.confirm])
    residuals = y - line.intercept - line.slope * x
    replicates = tuple(run.replicate for run in trail.confirm)
    crossing = math.log2(found.emm) if found.status == "estimated" and found.emm is not None else None
    return Confirmed(replicates, x, residuals, line, crossing, variance, shift(found))


def blocks(arms: Iterable[Confirmed]) -> Blocks | None:
    """Randomized blocks: arms x replicates, without the means and slopes of the arms.

    All arms must have the same replicates; arms on the very same runs count once.  The own variance is at least that of
    counting images, and replicates share nothing negative.  None without degrees of freedom.
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
        study: the confirming runs of all arms of the study, which share what replicates add.
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
            # Curves that are not straight move the two crossings, in the worst case not alike.
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

    ``limit`` 1 or -1: the runs are of a larger or of a smaller size, so that the ratio at the size that was asked for
    is at least or at most theirs, because it falls with N.
    """

    logits: Mapping[int, float]
    variance: RunVariance
    limit: int = 0


def at_size(n: int, runs: Collection[RunId], counts: Mapping[RunId, Count], variance: RunVariance) -> AtSize:
    """An arm's runs at size `n`, or at the nearest other size, whatever the search made them for."""
    nearest = min({run.n for run in runs}, key=lambda size: abs(math.log2(size / n)))
    logits = {run.replicate: counts[run].logit for run in runs if run.n == nearest}
    return AtSize(logits, variance, (nearest > n) - (nearest < n))


def compare_at(first: AtSize, second: AtSize, confidence: float = 0.95) -> Contrast:
    """Odds of a copy under `first` over those under `second`, at the size of both.

    Where both have the same replicates, at least `PAIRS`, these are pairs, whose differences tell their own scatter;
    the variance is never taken below half of what runs without anything in common would have.  An arm without a run
    at the size leaves a limit, or nothing.
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
        # The scatter of the pairs, moderated by that of runs: both tell of it.
        pooled = (df * prior + own_df * float(differences.var(ddof=1))) / (df + own_df)
        variance, df, paired = max(pooled, prior / 2) / len(common), df + own_df, True
    middle, half = means[0] - means[1], _half_width(variance, df, confidence)
    low, high = math.exp(max(middle - half, -LOG_LIMIT)), math.exp(min(middle + half, LOG_LIMIT))
    directions = {first.limit, -second.limit} - {0}  # in which the ratio of odds is open
    if not directions:
        return Contrast(math.exp(middle), low, high, paired)
    return Contrast(None, 0.0 if -1 in directions else low, math.inf if 1 in directions else high)


def mover(a: Estimate, b: Estimate) -> Contrast:
    """Ratio of two EMMs with intervals, taken as independent.

    The intervals are combined on the log2 scale by their distances from the estimates (MOVER; Zou and Donner 2008),
    which keeps their asymmetry.
    """
    (x, x_low, x_high), (y, y_low, y_high) = (
        tuple(math.log2(value) for value in (one.emm, one.low, one.high) if value is not None) for one in (a, b)
    )
    middle = x - y
    low, high = middle - math.hypot(x - x_low, y_high - y), middle + math.hypot(x_high - x, y - y_low)
    return Contrast(2.0**middle, 2.0**low, 2.0**high)


def _bounds(found: Estimate) -> tuple[float, float]:
    """What is surely known of an EMM: its interval, or a limit on one side; else nothing.

    A bracket of the grid is neither: where an EMM lies near a size, chance alone decides between two brackets.
    """
    if found.status == "estimated" and found.run_sd is None:
        return 0.0, math.inf
    return found.low or 0.0, found.high or math.inf
