"""Contrasts: the ratio of two arms' EMMs, or of their odds of a copy at one size, with an interval.

Replicate r of every arm of a study is trained on (nested) subsets of the same draw, and part of a run's scatter comes
from the subset.  Arms with the same confirming replicates therefore form randomized blocks.  The shared effect of a
replicate cancels in their contrasts if both arms have the same slope; otherwise the part proportional to the difference
of slopes remains.
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

LOG_LIMIT = 700.0  # largest logarithm of odds whose exponential fits a float
PAIRS = 3  # smallest number of common replicates at one size that are treated as pairs
FEWEST = 4  # smallest number of degrees of freedom of blocks; with fewer, their t is too large to be useful


@dataclass(frozen=True)
class Confirmed:
    """The confirming runs of one arm.

    Attributes:
        replicates: numbers of their replicates.
        x: (runs,) log2 N.
        residuals: (runs,) logits about the line.
        line: the line through them.
        crossing: log2 of the estimated EMM; None without an estimate.  Such an arm has no ratio to another, but it
            contributes to the scatter of the blocks.
        variance: variance of a run's logit.
        shift: octaves from the line's crossing to that of the isotonic fit (`estimate.shift`).
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
        """Identity of the runs: equal for arms that share them, because they differ only in name or in epsilon."""
        return self.replicates, self.x.tobytes(), self.residuals.tobytes(), self.line.slope, self.line.intercept

    @property
    def weights(self) -> NDArray[np.float64]:
        """(runs,) octaves by which the crossing moves per standard deviation of each run's logit, to first order."""
        assert self.crossing is not None
        beyond = (self.crossing - self.line.x_mean) * (self.x - self.line.x_mean) / self.line.sxx
        return (1 / self.line.runs + beyond) / -self.line.slope * math.sqrt(self.variance.variance)


@dataclass(frozen=True)
class Blocks:
    """Shared and own scatter of arms with the same replicates.

    Residuals are in units of each arm's own standard deviation, so that arms need not scatter alike.  A residual is the
    sum of an effect of its replicate, which all arms share, and an effect of its own.

    Attributes:
        arms: number of arms.
        own: variance of the own effects.
        df: degrees of freedom of `own`.
        between: mean square between replicates, with the expectation own + arms * shared.
        df_between: degrees of freedom of `between`.
    """

    arms: int
    own: float
    df: int
    between: float
    df_between: int

    def error(self, first: Confirmed, second: Confirmed) -> tuple[float, float]:
        """Variance of the difference of two crossings (octaves squared), and its degrees of freedom.

        The variance is own (|u|^2 + |w|^2) + shared |u - w|^2 with the weights u and w of the arms.  With equal weights
        the shared effects cancel; with unequal weights, as of arms with different slopes, a part remains.  Degrees of
        freedom are Satterthwaite's, for the sum of the two mean squares and for the scatter of the two arms.
        """
        u, w = first.weights, second.weights
        u_squared, w_squared = float((u**2).sum()), float((w**2).sum())
        common = float(((u - w) ** 2).sum()) / self.arms
        own = self.own * (u_squared + w_squared - common)
        between = self.between * common
        variance = own + between
        uncertainty = (own**2 / self.df + between**2 / self.df_between) / variance**2
        share = u_squared / (u_squared + w_squared)
        uncertainty += share**2 / first.variance.df + (1 - share) ** 2 / second.variance.df
        return variance, 1 / uncertainty


@dataclass(frozen=True)
class Contrast:
    """Ratio of one arm's EMM to another's, or of their odds of a copy at one size.

    Attributes:
        ratio: None if one of the two is only bounded or has no interval, as under the paper's rule (a grid).
        low, high: the interval, or the limits that bounds leave; 0 and infinity without a limit.
        paired: whether replicates served as blocks or pairs.
        note: what is missing.
    """

    ratio: float | None
    low: float
    high: float
    paired: bool = False
    note: str = ""


def confirmed(
    trail: Trail, counts: Mapping[RunId, Count], estimate: Estimate, variance: RunVariance | None
) -> Confirmed | None:
    """The confirming runs of an arm; None if no line can be fitted to them, or if `variance` is None."""
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

    Arms with the very same runs count once.  The own variance is at least that of counting images, and the shared
    variance is at least 0.

    Args:
        arms: arms that all have the same replicates.
    Returns:
        None if there is no degree of freedom.
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
    """The ratio of two arms' EMMs, first over second.

    Args:
        first, second: each arm's estimate at this confidence, and its confirming runs.
        study: the confirming runs of all arms of the study, from which the effects of replicates are estimated.
        confidence: coverage of the interval, 0..1.
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
            # Curves that are not straight move the two crossings, in the worst case by different amounts.
            moved = [runs_a.shift, -runs_b.shift, runs_a.shift - runs_b.shift, 0.0]
            low, high = middle - half + min(moved), middle + half + max(moved)
            return Contrast(2.0**middle, 2.0**low, 2.0**high, True)
    return mover(a, b)


def _half_width(variance: float, df: float, confidence: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + confidence) / 2)) * math.sqrt(variance)


@dataclass(frozen=True)
class AtSize:
    """The runs of one arm at one size.

    Attributes:
        logits: of each run, by replicate.
        variance: variance of a run's logit.
        limit: 1 or -1 if the arm has runs only at a larger or at a smaller size than the one asked for.  The ratio at
            that size is then at least or at most theirs, because it falls with N.
    """

    logits: Mapping[int, float]
    variance: RunVariance
    limit: int = 0


def at_size(n: int, runs: Collection[RunId], counts: Mapping[RunId, Count], variance: RunVariance) -> AtSize:
    """An arm's runs at size `n`, or at the nearest other size; runs of all roles count."""
    nearest = min({run.n for run in runs}, key=lambda size: abs(math.log2(size / n)))
    logits = {run.replicate: counts[run].logit for run in runs if run.n == nearest}
    return AtSize(logits, variance, (nearest > n) - (nearest < n))


def compare_at(first: AtSize, second: AtSize, confidence: float = 0.95) -> Contrast:
    """The ratio of two arms' odds of a copy at one size, first over second.

    If both have the same replicates, at least `PAIRS`, these are pairs, and the scatter of their differences is used as
    well.  The variance is at least half of that of runs that share nothing.  An arm without a run at the size leaves a
    limit, or nothing.
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
        prior = variance * len(common)  # of one difference between runs that share nothing
        own_df = len(common) - 1
        # The scatter of the pairs, moderated by that of single runs.
        pooled = (df * prior + own_df * float(differences.var(ddof=1))) / (df + own_df)
        variance, df, paired = max(pooled, prior / 2) / len(common), df + own_df, True
    middle, half = means[0] - means[1], _half_width(variance, df, confidence)
    low, high = math.exp(max(middle - half, -LOG_LIMIT)), math.exp(min(middle + half, LOG_LIMIT))
    directions = {first.limit, -second.limit} - {0}  # in which the ratio of odds has no limit
    if not directions:
        return Contrast(math.exp(middle), low, high, paired)
    return Contrast(None, 0.0 if -1 in directions else low, math.inf if 1 in directions else high)


def mover(a: Estimate, b: Estimate) -> Contrast:
    """Ratio of two EMMs with intervals, first over second, as if they were independent.

    The intervals are combined on the log2 scale by their distances from the estimates (MOVER; Zou and Donner 2008),
    which preserves their asymmetry.
    """
    (x, x_low, x_high), (y, y_low, y_high) = (
        tuple(math.log2(value) for value in (side.emm, side.low, side.high) if value is not None) for side in (a, b)
    )
    middle = x - y
    low, high = middle - math.hypot(x - x_low, y_high - y), middle + math.hypot(x_high - x, y - y_low)
    return Contrast(2.0**middle, 2.0**low, 2.0**high)


def _bounds(estimate: Estimate) -> tuple[float, float]:
    """Limits of an EMM: its interval, or a limit on one side, or 0 and infinity.

    A bracket of the grid is no limit: if an EMM is near a size of the grid, chance decides between two brackets.
    """
    if estimate.status == "estimated" and estimate.run_sd is None:
        return 0.0, math.inf
    return estimate.low or 0.0, estimate.high or math.inf
