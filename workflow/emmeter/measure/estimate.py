"""Estimates of EMM and their uncertainty.

The primary estimate is the crossing of a straight line with the level 1 - epsilon.  The line is fitted to the
empirical logits of the confirming runs on log2 N.  Its interval is Fieller's, with the scatter between runs from
`emmeter.measure.scatter`, because runs differ by subset and seed far more than by the count of images.  The second
estimate is centred isotonic regression, which assumes only that the ratio falls with N.  If the two disagree, the
interval is widened by their distance.  A bound (the ratio is above or below the level up to the end of the ladder) is
tested against the same scatter.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emmeter.measure.outcome import Count, RunId, logit
from emmeter.measure.scatter import RunVariance, counting_variance, moderated, own
from emmeter.measure.search import Trail, reached

if TYPE_CHECKING:
    from emmeter.settings.sections import Search


DISAGREEMENT = 0.1  # octaves between line and isotonic fit beyond which the interval is widened
MOST_RUNS = 40  # largest number of confirming runs that a note advises
WIDEST = 4.0  # octaves of the widest interval that is reported: a factor of 16 between its ends
BEYOND = 0.5  # octaves outside the confirming sizes from which an estimate is called extrapolated


@dataclass(frozen=True)
class Line:
    """Least squares of the empirical logit on x = log2 N over the runs of one arm.

    Attributes:
        slope: in logits per octave.
        intercept: the logit at N = 1.
        runs: number of runs.
        x_mean: mean of x.
        sxx: sum of squares of x about its mean.
        rss: sum of squares of the residuals, in logits squared.
        df: runs - 2.
        counting_variance: mean variance of the runs' logits from counting images alone.
    """

    slope: float
    intercept: float
    runs: int
    x_mean: float
    sxx: float
    rss: float
    df: int
    counting_variance: float


@dataclass(frozen=True)
class Crossing:
    """The crossing of a line with a level, in log2 N, with Fieller's interval.

    Attributes:
        log2_n: the crossing; NaN for a slope of zero.
        low, high: the interval.
        bounded: False if the slope does not differ significantly from zero.  One end is then infinite if the data
            still exclude the sizes on the other side, otherwise both.
    """

    log2_n: float
    low: float
    high: float
    bounded: bool


@dataclass(frozen=True)
class Estimate:
    """EMM of one arm, or the reason why there is none.

    Attributes:
        emm: training images, if `status` is "estimated".
        low, high: the interval of "estimated", or the limit: EMM >= low of "at_least", EMM < high of "below".
        status: "undetermined" if there is neither an estimate nor a limit.
        slope: logits per doubling of N.
        run_sd: standard deviation of a run's logit, counting included.  An `emm` without it has no confidence
            interval; `low` and `high`, if any, are then a bracket of the grid.
        df: degrees of freedom of `run_sd`.
        isotonic: second estimate from the isotonic fit to all runs, in images.
        interpolated: estimate without confirming runs, in images.
        note: plain sentences, or empty.
    """

    emm: float | None
    low: float | None
    high: float | None
    status: Literal["estimated", "at_least", "below", "undetermined"]
    slope: float | None = None
    run_sd: float | None = None
    df: float | None = None
    isotonic: float | None = None
    interpolated: float | None = None
    note: str = ""


def wilson(memorized: int, images: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927), 0..1, from counting images alone, without scatter between runs."""
    from scipy.special import ndtri

    z2 = float(ndtri((1 + confidence) / 2)) ** 2
    centre = (memorized + z2 / 2) / (images + z2)
    half = math.sqrt(z2) / (images + z2) * math.sqrt(memorized * (images - memorized) / images + z2 / 4)
    ratio = memorized / images  # at 0 and 1, rounding could put the ratio outside of its interval
    return max(min(centre - half, ratio), 0.0), min(max(centre + half, ratio), 1.0)


def empirical_logit(memorized: ArrayLike, images: ArrayLike) -> NDArray[np.float64]:
    """ln((k + 1/2) / (m - k + 1/2)) element by element, for k memorized of m images; `Count.logit` for arrays."""
    k, m = np.asarray(memorized, dtype=float), np.asarray(images, dtype=float)
    return np.log((k + 0.5) / (m - k + 0.5))


def fit_line(sizes: Sequence[int], counts: Sequence[Count]) -> Line | None:
    """Fit a line to one arm's runs.

    Every run has the same weight, because scatter between runs outweighs that of counting.

    Args:
        sizes: N of each run.
        counts: outcome of each run.
    Returns:
        None if there are fewer than three runs, or runs at one size only.
    """
    x = np.log2(np.asarray(sizes, dtype=float))
    if len(x) < 3 or len(set(sizes)) < 2:
        return None
    y = np.array([count.logit for count in counts])
    sxx = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / sxx
    rss = float(((y - y.mean() - slope * (x - x.mean())) ** 2).sum())
    intercept = float(y.mean() - slope * x.mean())
    return Line(slope, intercept, len(x), float(x.mean()), sxx, rss, len(x) - 2, counting_variance(counts))


def crossing(line: Line, level: float, variance: RunVariance, confidence: float = 0.95) -> Crossing:
    """The crossing of `line` with the ratio `level` (0..1), with Fieller's interval (Fieller 1954).

    The interval holds every x at which the line's logit does not differ significantly from that of `level`:
    (a + b d)^2 <= t^2 v (1/runs + d^2/sxx).  Here d = x - x_mean, b is the slope, a is the line's logit at x_mean minus
    that of `level`, v is the variance of a run, and t the quantile of Student's distribution.
    """
    from scipy.special import stdtrit

    limit = float(stdtrit(variance.df, (1 + confidence) / 2)) ** 2 * variance.variance
    a, b = line.intercept + line.slope * line.x_mean - logit(level), line.slope
    centre = line.x_mean - a / b if b else math.nan
    # A d^2 + 2 B d + C <= 0
    A, B, C = b * b - limit / line.sxx, a * b, a * a - limit / line.runs
    discriminant = B * B - A * C
    if A == 0 or discriminant <= 0:  # the whole axis, up to a set of measure zero
        return Crossing(centre, -math.inf, math.inf, False)
    low, high = sorted(line.x_mean + (-B + sign * math.sqrt(discriminant)) / A for sign in (-1, 1))
    if A > 0:
        return Crossing(centre, low, high, True)
    # The confidence set is the complement of (low, high).  Keep the ray that holds the line's own crossing.
    return Crossing(centre, high, math.inf, False) if centre >= high else Crossing(centre, -math.inf, low, False)


def centred_isotonic(sizes: Sequence[int], counts: Sequence[Count]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centred isotonic regression of the ratio on x = log2 N, falling (Oron and Flournoy 2017).

    Runs are weighted by their images.  Stretches where the ratio does not fall are collapsed to their weighted centre,
    except at ratios of 0 and 1, where several sizes may have the same ratio.

    Args:
        sizes: N of each run.
        counts: outcome of each run.
    Returns:
        x (increasing) and the logit of the ratio (not increasing), with one value per stretch.
    """
    blocks: list[list[float]] = []  # images, images * x, memorized
    for n in sorted(set(sizes)):
        same_size = [count for size, count in zip(sizes, counts, strict=True) if size == n]
        images = float(sum(count.images for count in same_size))
        blocks.append([images, images * math.log2(n), float(sum(count.memorized for count in same_size))])
        while len(blocks) > 1:
            (m0, _, k0), (m1, _, k1) = blocks[-2:]
            if k0 * m1 > k1 * m0 or (k0 * m1 == k1 * m0 and k1 in (0, m1)):
                break
            last = blocks.pop()
            blocks[-1] = [u + v for u, v in zip(blocks[-1], last, strict=True)]
    images, weighted, memorized = np.array(blocks).T
    return weighted / images, empirical_logit(memorized, images)


def isotonic_crossing(sizes: Sequence[int], counts: Sequence[Count], level: float) -> float | None:
    """log2 N at which the centred isotonic fit falls through the ratio `level` (0..1); None if it does not.

    Between stretches the logit is interpolated.  The ratio itself bends so much at 0.9 that a straight line through
    confirming runs at 0.95 and 0.80 would cross 0.08 octaves too early.
    """
    x, y = centred_isotonic(sizes, counts)
    y = y - logit(level)
    if len(x) < 2 or not y[0] >= 0 > y[-1]:
        return None
    i = int(np.flatnonzero(y >= 0)[-1])
    return float(x[i] + (x[i + 1] - x[i]) * y[i] / (y[i] - y[i + 1]))


def estimate(
    search: "Search",
    trail: Trail,
    counts: Mapping[RunId, Count],
    sizes: Sequence[int],
    variance: RunVariance | None,
    confidence: float = 0.95,
) -> Estimate:
    """EMM from a finished search.

    Args:
        trail: the result of `search.replay` for `counts` and the ladder `sizes`.
        counts: outcome of every run of the trail.
        sizes: the ladder, increasing.
        variance: scatter of the arm's runs from `scatter.moderated`; None: use that of its confirming runs alone.
        confidence: coverage of the interval, 0..1.
    Raises:
        ValueError: the search is not finished.
    """
    if trail.missing:
        raise ValueError(f"the search is not finished: {len(trail.missing)} runs are missing, first {trail.missing[0]}")
    level = 1 - search.epsilon
    isotonic = isotonic_crossing([run.n for run in trail.runs], [counts[run] for run in trail.runs], level)
    second = None if isotonic is None else 2.0**isotonic
    if search.rule == "grid":
        return _bracketed(search, counts, second)
    if variance is None:
        variance = moderated(own(trail, counts), None)
    if trail.status in ("above", "below"):
        return replace(_bounded(search, trail, counts, variance, confidence), isotonic=second)
    if trail.status == "undetermined":
        note = "The locating runs ended before any came near the line; raise search.locate or move search.start."
        return Estimate(None, None, None, "undetermined", isotonic=second, note=note)
    line = fit_line([run.n for run in trail.confirm], [counts[run] for run in trail.confirm])
    if line is None:
        if second is None:
            note = "The ratio does not fall through the line over the sizes tried."
            return Estimate(None, None, None, "undetermined", note=note)
        note = "Interpolated between single runs, without fresh replicates: there is no interval."
        return Estimate(second, None, None, "estimated", isotonic=second, interpolated=second, note=note)
    assert variance is not None  # a line has at least one degree of freedom
    return _crossed(line, level, sizes, [run.n for run in trail.confirm], isotonic, variance, confidence)


def _bounded(
    search: "Search", trail: Trail, counts: Mapping[RunId, Count], variance: RunVariance | None, confidence: float
) -> Estimate:
    """The limit from the runs at the end of the ladder, if they are beyond the level by more than their scatter.

    The fresh runs there decide, or the locating run if there are none.  The limit remains untested without a
    `variance`, and if the settings ask for no fresh runs.
    """
    sign, name, side = (1, "largest", "above") if trail.status == "above" else (-1, "smallest", "below")
    end = sign * max(sign * run.n for run in trail.runs)
    level = 1 - search.epsilon
    fresh = [counts[run] for run in trail.confirm if run.n == end]
    at_end = fresh or [counts[run] for run in trail.locate if run.n == end]
    beyond = sign * (sum(count.logit for count in at_end) / len(at_end) - logit(level))
    blank = Estimate(None, None, None, "undetermined")
    if variance is not None:
        from scipy.special import stdtrit

        blank = replace(blank, run_sd=math.sqrt(variance.variance), df=variance.df)
        half = float(stdtrit(variance.df, (1 + confidence) / 2)) * math.sqrt(variance.variance / len(at_end))
        if search.confirm and beyond <= half:
            note = (
                f"At the {name} size, {end}, the ratio is {side} {level:g}, but by less than runs scatter: raise "
                f"search.confirm."
            )
            return replace(blank, note=note)
    word = "still" if sign > 0 else "already"
    note = f"At the {name} size, {end}, the ratio is {word} clearly {side} {level:g}."
    if not search.confirm:
        note += " One run says so: there are no fresh replicates."
    limit = {"status": "at_least", "low": float(end)} if sign > 0 else {"status": "below", "high": float(end)}
    return replace(blank, **limit, note=note)


def shift(estimate: Estimate) -> float:
    """Octaves from the estimated EMM to the crossing of the isotonic fit; 0 unless they exceed `DISAGREEMENT`."""
    if estimate.emm is None or estimate.isotonic is None or estimate.run_sd is None:
        return 0.0
    distance = math.log2(estimate.isotonic / estimate.emm)
    return distance if abs(distance) > DISAGREEMENT else 0.0


def _crossed(
    line: Line,
    level: float,
    sizes: Sequence[int],
    confirmed: Sequence[int],
    isotonic: float | None,
    variance: RunVariance,
    confidence: float,
) -> Estimate:
    """The estimate from the line through the confirming runs; `isotonic` is in log2 N."""
    fit = crossing(line, level, variance, confidence)
    second = None if isotonic is None else 2.0**isotonic
    blank = Estimate(None, None, None, "undetermined", line.slope, math.sqrt(variance.variance), variance.df, second)
    if line.slope >= 0:
        note = "The ratio does not fall with N over the confirming runs: raise search.confirm or search.spread."
        return replace(blank, note=note)
    if not fit.bounded or fit.high - fit.low > WIDEST:
        return replace(blank, note=_scattered(line, variance, confidence))
    low, high = 2.0**fit.low, 2.0**fit.high
    if fit.log2_n > math.log2(sizes[-1]):
        note = "The fit crosses beyond the largest size; the limit is that size or the lower end of the interval."
        return replace(blank, status="at_least", low=min(low, float(sizes[-1])), note=note)
    if fit.log2_n < math.log2(sizes[0]):
        note = "The fit crosses below the smallest size; the limit is that size or the upper end of the interval."
        return replace(blank, status="below", high=max(high, float(sizes[0])), note=note)
    result = replace(blank, emm=2.0**fit.log2_n, low=low, high=high, status="estimated")
    notes = []
    if moved := shift(result):
        assert second is not None
        # The curve is not straight, or noise makes it look so: widen the interval by the difference.
        result = replace(result, low=low * 2 ** min(moved, 0.0), high=high * 2 ** max(moved, 0.0))
        notes.append(f"The isotonic fit to all runs crosses at {second:.0f}: the interval is wider by the difference.")
    if not math.log2(min(confirmed)) - BEYOND <= fit.log2_n <= math.log2(max(confirmed)) + BEYOND:
        notes.append("The crossing is extrapolated beyond the confirming sizes.")
    if variance.floored:
        notes.append("Runs scatter less than counting images allows, so the counting variance is used.")
    return replace(result, note=" ".join(notes))


def _scattered(line: Line, variance: RunVariance, confidence: float) -> str:
    """Note on a line whose slope differs too little from zero: what would give the interval two ends."""
    from scipy.special import stdtrit

    # The slope over its standard error grows with the root of the number of runs.  The interval has two ends if it
    # exceeds t.  Twice t is asked for, at which Fieller's interval is a third wider than the usual one.
    t = float(stdtrit(variance.df, (1 + confidence) / 2))
    needed = math.ceil(line.runs * variance.variance * (2 * t) ** 2 / (line.slope**2 * line.sxx) / 2) * 2
    fault = "The confirming runs scatter too much for their slope (no end to the interval)"
    if needed > MOST_RUNS:
        return f"{fault}: train longer, or raise search.spread."
    return f"{fault}: search.confirm: {max(needed, line.runs + 2)} should be enough."


def _bracketed(search: "Search", counts: Mapping[RunId, Count], interpolated: float | None) -> Estimate:
    """The estimate under the paper's rule: the largest size whose mean ratio reaches 1 - epsilon."""
    level = 1 - search.epsilon
    reaching = [i for i, reaches in enumerate(reached(search, counts)) if reaches]
    if not reaching:
        note = f"No size of the grid reaches a ratio of {level:g}."
        return Estimate(None, None, float(search.grid[0]), "below", note=note)
    last = reaching[-1]
    uneven = "" if len(reaching) == last + 1 else f" Smaller sizes of the grid fall below {level:g}."
    if last == len(search.grid) - 1:
        note = f"The largest size of the grid still reaches a ratio of {level:g}.{uneven}"
        return Estimate(None, float(search.grid[last]), None, "at_least", interpolated=interpolated, note=note)
    low, high = float(search.grid[last]), float(search.grid[last + 1])
    note = f"Low and high are neighbouring sizes of the grid, a bracket and not a confidence interval.{uneven}"
    return Estimate(low, low, high, "estimated", interpolated=interpolated, note=note)
