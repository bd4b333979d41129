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

    def error(self, terms: Sequence[tuple[float, Confirmed]]) -> tuple[float, float]:
        """Variance of a weighted sum of crossings (octaves squared), and its degrees of freedom.

        The variance is own (|u|^2 + |w|^2 + ...) + shared |u + w + ...|^2, with the weights u, w, ... of the arms times
        their factors.  In the difference of two arms of equal weights the shared effects cancel; with unequal weights,
        as of arms with different slopes, a part remains.  Degrees of freedom are Satterthwaite's, for the sum of the
        two mean squares and for the scatter of the arms.

        Args:
            terms: factor and runs of each arm.
        """
        weights = [factor * arm.weights for factor, arm in terms]
        squares = [float((weight**2).sum()) for weight in weights]
        common = float((np.sum(weights, axis=0) ** 2).sum()) / self.arms
        own = self.own * (sum(squares) - common)
        between = self.between * common
        variance = own + between
        uncertainty = (own**2 / self.df + between**2 / self.df_between) / variance**2
        for square, (_, arm) in zip(squares, terms, strict=True):
            uncertainty += (square / sum(squares)) ** 2 / arm.variance.df
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


Side = Sequence[tuple[Estimate, Confirmed | None]]  # one arm or several, each with its confirming runs


def compare(first: Side, second: Side, study: Sequence[Confirmed | None], confidence: float = 0.95) -> Contrast:
    """The ratio of two arms' EMMs, first over second.  The EMM of several arms is their geometric mean.

    Args:
        first, second: each arm's estimate at this confidence, and its confirming runs.
        study: the confirming runs of all arms of the study, from which the effects of replicates are estimated.
        confidence: coverage of the interval, 0..1.
    """
    terms: list[tuple[float, Estimate, Confirmed]] = []
    for sign, side in ((1, first), (-1, second)):
        for estimate, runs in side:
            if runs is None or runs.crossing is None:
                (a_low, a_high), (b_low, b_high) = _bounds(first), _bounds(second)
                return Contrast(
                    None, a_low / b_high if b_high < math.inf else 0.0, a_high / b_low if b_low else math.inf
                )
            terms.append((sign / len(side), estimate, runs))
    terms = _merged(terms)
    if not terms:  # the same arms under two names
        return Contrast(1.0, 1.0, 1.0, True)
    if len({runs.replicates for _, _, runs in terms}) == 1:
        shared = blocks(arm for arm in study if arm is not None and arm.replicates == terms[0][2].replicates)
        if shared is not None and shared.df >= FEWEST:
            variance, df = shared.error([(factor, runs) for factor, _, runs in terms])
            half = _half_width(variance, df, confidence)
            middle = sum(factor * float(runs.crossing or 0) for factor, _, runs in terms)
            # Curves that are not straight move the crossings, in the worst case by different amounts.
            moved = [factor * runs.shift for factor, _, runs in terms]
            low = middle - half + sum(min(move, 0.0) for move in moved)
            high = middle + half + sum(max(move, 0.0) for move in moved)
            return Contrast(2.0**middle, 2.0**low, 2.0**high, True)
    return mover([(factor, estimate) for factor, estimate, _ in terms])


def _merged(terms: Sequence[tuple[float, Estimate, Confirmed]]) -> list[tuple[float, Estimate, Confirmed]]:
    """The terms with one per set of runs: factors of arms that share runs and crossing are added, zeros left out."""
    merged: dict[object, tuple[float, Estimate, Confirmed]] = {}
    for factor, estimate, runs in terms:
        same = runs.runs, runs.crossing
        merged[same] = merged.get(same, (0.0,))[0] + factor, estimate, runs
    return [term for term in merged.values() if abs(term[0]) > 1e-9]


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


def mover(terms: Sequence[tuple[float, Estimate]]) -> Contrast:
    """Product of powers of EMMs with intervals, as if they were independent; +1 and -1 give a ratio.

    The intervals are combined on the log2 scale by their distances from the estimates (MOVER; Zou and Donner 2008),
    which preserves their asymmetry.

    Args:
        terms: power and estimate of each arm.
    """
    middle = down = up = 0.0
    for factor, side in terms:
        assert side.emm is not None and side.low is not None and side.high is not None
        below, above = math.log2(side.emm / side.low), math.log2(side.high / side.emm)
        middle += factor * math.log2(side.emm)
        down += (factor * (below if factor > 0 else above)) ** 2
        up += (factor * (above if factor > 0 else below)) ** 2
    return Contrast(2.0**middle, 2.0 ** (middle - math.sqrt(down)), 2.0 ** (middle + math.sqrt(up)))


def _bounds(side: Side) -> tuple[float, float]:
    """Limits of an EMM, or of the geometric mean of several: an interval, or a limit on one side, or 0 and infinity.

    A bracket of the grid is no limit: if an EMM is near a size of the grid, chance decides between two brackets.
    """
    low = high = 1.0
    for estimate, _ in side:
        bracket = estimate.status == "estimated" and estimate.run_sd is None
        low *= (0.0 if bracket else estimate.low or 0.0) ** (1 / len(side))
        high *= (math.inf if bracket else estimate.high or math.inf) ** (1 / len(side))
    return low, high
