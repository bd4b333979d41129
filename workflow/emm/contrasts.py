"""How far apart the EMMs of two arms are, with an interval.

Replicate r of every arm of a study is trained on (nested) subsets of the same draw, and part of a run's scatter comes
with the subset.  Where arms share their confirming replicates, these are therefore blocks, and what all arms of a
replicate have in common drops out of their contrasts as far as the arms fall alike.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emm.search import Count, RunId, Trail
from emm.statistics import Estimate, Line, fit_line

FEWEST = 4  # degrees of freedom of the blocks below which their t is too wide to be of use


@dataclass(frozen=True)
class Confirmed:
    """The confirming runs of one arm.

    ``replicates`` are their numbers, ``x`` (runs,) their log2 N, ``residuals`` (runs,) their logits about the line,
    ``crossing`` log2 of the estimated EMM, None where there is no estimate: such an arm can be compared with none, but
    tells of the scatter all the same.
    """

    replicates: tuple[int, ...]
    x: NDArray[np.float64]
    residuals: NDArray[np.float64]
    line: Line
    crossing: float | None

    @property
    def runs(self) -> tuple[object, ...]:
        """The same for the very same runs, which arms may share that differ in name or in epsilon alone."""
        return self.replicates, self.x.tobytes(), self.residuals.tobytes(), self.line.slope, self.line.intercept

    @property
    def weights(self) -> NDArray[np.float64]:
        """(runs,) octaves by which the crossing moves for each logit of a run, to first order."""
        assert self.crossing is not None
        beyond = (self.crossing - self.line.x_mean) * (self.x - self.line.x_mean) / self.line.sxx
        return (1 / self.line.runs + beyond) / -self.line.slope


@dataclass(frozen=True)
class Blocks:
    """What the residuals of arms with the same replicates tell of the scatter between runs, in squared logits.

    A residual is the sum of an effect of its replicate, shared by all arms, and one of its own.  ``own`` is the
    variance of the latter on ``df`` degrees of freedom, ``between`` the mean square between replicates on
    ``df_between``, whose expectation is own + arms * shared.
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
        Satterthwaite's degrees of freedom for the sum of the two mean squares.
        """
        u, w = first.weights, second.weights
        common = float(((u - w) ** 2).sum()) / self.arms
        own = self.own * (float((u**2).sum() + (w**2).sum()) - common)
        between = self.between * common
        variance = own + between
        return variance, variance**2 / (own**2 / self.df + between**2 / self.df_between)


@dataclass(frozen=True)
class Contrast:
    """Ratio of one arm's EMM to another's with its 95 % interval.

    ``ratio`` is None where one of the two is only bounded, or has no interval, as under the grid of the paper's
    rule; ``low`` and ``high`` then follow from the bounds, 0 and infinity where there is none.  ``paired``: replicates
    served as blocks.
    """

    ratio: float | None
    low: float
    high: float
    paired: bool = False


def confirmed(trail: Trail, counts: Mapping[RunId, Count], found: Estimate) -> Confirmed | None:
    """The confirming runs of an arm; None where no line can be fitted to them."""
    line = fit_line([run.n for run in trail.confirm], [counts[run] for run in trail.confirm])
    if line is None:
        return None
    x = np.log2([run.n for run in trail.confirm])
    y = np.array([counts[run].logit for run in trail.confirm])
    residuals = y - line.intercept - line.slope * x
    replicates = tuple(run.replicate for run in trail.confirm)
    crossing = math.log2(found.emm) if found.status == "estimated" and found.emm is not None else None
    return Confirmed(replicates, x, residuals, line, crossing)


def blocks(arms: Sequence[Confirmed]) -> Blocks | None:
    """Randomized blocks: arms x replicates, without the means and slopes of the arms.

    All arms must have the same replicates; arms on the very same runs count once.  The own variance is at least that of
    counting images, and replicates share nothing negative.  None without degrees of freedom.
    """
    arms = list({arm.runs: arm for arm in arms}.values())
    residuals = np.array([arm.residuals for arm in arms])  # (arms, replicates)
    df_between = residuals.shape[1] - 2
    df = (len(arms) - 1) * df_between
    if df < 1:
        return None
    means = residuals.mean(axis=0)
    counting = float(np.mean([arm.line.counting_variance for arm in arms]))
    own = max(float(((residuals - means) ** 2).sum()) / df, counting)
    return Blocks(len(arms), own, df, max(len(arms) * float((means**2).sum()) / df_between, own), df_between)


def compare(
    first: tuple[Estimate, Confirmed | None],
    second: tuple[Estimate, Confirmed | None],
    study: Sequence[Confirmed | None],
    confidence: float = 0.95,
) -> Contrast:
    """EMM of `first` over EMM of `second`, each an arm's estimate with its confirming runs.

    Args:
        study: the confirming runs of all arms of the study, which share the estimate of the scatter.
    """
    (a, runs_a), (b, runs_b) = first, second
    if runs_a is None or runs_b is None or runs_a.crossing is None or runs_b.crossing is None:
        (a_low, a_high), (b_low, b_high) = _bounds(a), _bounds(b)
        return Contrast(None, a_low / b_high if b_high < math.inf else 0.0, a_high / b_low if b_low else math.inf)
    if runs_a.runs == runs_b.runs and runs_a.crossing == runs_b.crossing:  # one arm under two names
        return Contrast(1.0, 1.0, 1.0, True)
    if runs_a.replicates == runs_b.replicates:
        shared = blocks([arm for arm in study if arm is not None and arm.replicates == runs_a.replicates])
        if shared is not None and shared.df >= FEWEST:
            from scipy.special import stdtrit

            middle = runs_a.crossing - runs_b.crossing
            variance, df = shared.error(runs_a, runs_b)
            half = float(stdtrit(df, (1 + confidence) / 2)) * math.sqrt(variance)
            return Contrast(2.0**middle, 2.0 ** (middle - half), 2.0 ** (middle + half), True)
    return mover(a, b)


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
