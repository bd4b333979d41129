"""The scatter of the logits of an arm's runs, estimated from that arm and from all others of the same scale.

Four confirming runs determine their own scatter poorly (two degrees of freedom).  Other arms add information, but arms
need not scatter alike.  The variance of an arm is therefore *moderated* (Smyth 2004).  Variances of arms are taken as
draws from a scaled inverse chi-squared distribution.  Its scale and degrees of freedom are fitted to all distinct arms
of the configuration that have finished.  Each arm's own variance is averaged with that scale, weighted by degrees of
freedom.  Arms that scatter alike thus share one variance; arms that do not each keep their own.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from emmeter.measure.outcome import Count, RunId
from emmeter.measure.search import Trail

# Largest variance of a logit from counting: that of ln(K + 1/2) is never larger for a Poisson count K.  The usual
# estimate, used up to this limit, is four times as large for a run without a single copy.
MOST_COUNTING = 0.52
# Degrees of freedom that a prior may have; infinity means that all arms scatter alike.
CANDIDATES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0, 40.0, math.inf)
# With fewer degrees of freedom in total than ENOUGH, the prior is a guess: the variance that small networks on small
# images commonly have, on as few degrees of freedom as one arm has.
ENOUGH, GUESS, GUESS_DF = 4, 0.5, 2.0
# Share of the likelihood at which the degrees of freedom are taken.  The median (0.5) makes arms look alike too easily:
# with eight arms, intervals of noisy arms then held EMM in only 0.91 of cases.
CAUTION = 0.3


@dataclass(frozen=True)
class Own:
    """Scatter of the runs of one arm.

    Attributes:
        rss: residual sum of squares, in logits squared.
        df: its degrees of freedom, at least 1.
        counting: mean variance of the runs' logits from counting images alone.
    """

    rss: float
    df: int
    counting: float

    @property
    def variance(self) -> float:
        """Residual variance of a run's logit, at least that of counting."""
        return max(self.rss / self.df, self.counting)


@dataclass(frozen=True)
class Prior:
    """The distribution of the variance of a run's logit over arms.

    Attributes:
        variance: its scale, in logits squared.
        df: its degrees of freedom; infinite if all arms scatter alike.
        evidence: sum of the degrees of freedom to which it was fitted; the variance of no arm can have more.
    """

    variance: float
    df: float
    evidence: int


@dataclass(frozen=True)
class RunVariance:
    """Variance of a run's logit about its line, with its degrees of freedom.

    Attributes:
        variance: in logits squared, counting of images included.
        df: its degrees of freedom.
        floored: whether runs scatter less than counting allows, so that `variance` is the variance of counting.
    """

    variance: float
    df: float
    floored: bool


def counting_variance(counts: Sequence[Count]) -> float:
    """Mean variance of the logits of `counts` from counting images alone."""
    return sum(min(count.variance, MOST_COUNTING) for count in counts) / len(counts)


def own(trail: Trail, counts: Mapping[RunId, Count]) -> Own | None:
    """Scatter of confirming runs about a line in log2 N, or of the runs of a grid about the mean of each size.

    Runs that located a crossing are left out, because the outcomes of other runs decided on their sizes.

    Returns:
        None if there is no degree of freedom.
    """
    runs = trail.confirm or trail.locate
    sizes = {run.n for run in runs}
    df = len(runs) - (min(len(sizes), 2) if trail.confirm else len(sizes))
    if df < 1:
        return None
    y = {run: counts[run].logit for run in runs}
    if not trail.confirm or len(sizes) == 1:
        groups = [[y[run] for run in runs if run.n == n] for n in sizes]
        rss = sum(sum((value - sum(group) / len(group)) ** 2 for value in group) for group in groups)
    else:
        x = {run: math.log2(run.n) for run in runs}
        x_mean, y_mean = sum(x.values()) / len(runs), sum(y.values()) / len(runs)
        sxx = sum((x[run] - x_mean) ** 2 for run in runs)
        slope = sum((x[run] - x_mean) * (y[run] - y_mean) for run in runs) / sxx
        rss = sum((y[run] - y_mean - slope * (x[run] - x_mean)) ** 2 for run in runs)
    return Own(rss, df, counting_variance([counts[run] for run in runs]))


def distinct(arms: Iterable[tuple[Hashable, Trail, Mapping[RunId, Count]]]) -> list[Own]:
    """The scatter of each arm from which a prior can be fitted; arms with the very same runs count once.

    Arms whose runs are at the end of the ladder, beyond the line, are used only if there are no others.  If all or none
    of the images are copies, the logit hardly varies.

    Args:
        arms: per arm the key of its scores, its finished search, and the counts of its runs.
    """
    near: dict[Hashable, Own] = {}
    beyond: dict[Hashable, Own] = {}
    for key, trail, counts in arms:
        if (scatter := own(trail, counts)) is not None:
            informative = trail.status == "crossing" or not trail.confirm
            (near if informative else beyond)[key, trail.confirm or trail.locate] = scatter
    return list((near or beyond).values())


def fit(arms: Sequence[Own]) -> Prior | None:
    """Fit the prior to `arms`, no two of which may share runs (see `distinct`).

    The marginal likelihood of each candidate's degrees of freedom, at their most likely scale, is summed from the
    smallest candidate upward.  The first candidate at which the sum reaches `CAUTION` of the total is taken.

    Returns:
        None without arms.
    """
    if not arms:
        return None
    evidence = sum(arm.df for arm in arms)
    if evidence < ENOUGH:
        return Prior(GUESS, GUESS_DF, evidence + int(GUESS_DF))
    fits = [(_scale(arms, df), df) for df in CANDIDATES]
    logs = [_log_likelihood(arms, scale, df) for scale, df in fits]
    weights = [math.exp(log - max(logs)) for log in logs]
    reached = 0.0
    for (scale, df), weight in zip(fits, weights, strict=True):
        reached += weight / sum(weights)
        if reached >= CAUTION:
            return Prior(scale, df, evidence)
    raise AssertionError("the weights sum to one")


def moderated(arm: Own | None, prior: Prior | None) -> RunVariance | None:
    """The variance of one arm's runs: its own and that of the prior, weighted by their degrees of freedom.

    Args:
        arm: None for an arm without confirming runs, whose variance is that of the prior.
        prior: None without other arms, when the variance is the arm's own.
    Returns:
        None if both are None.
    """
    if prior is None:
        return None if arm is None else RunVariance(arm.variance, arm.df, arm.rss / arm.df < arm.counting)
    if arm is None:
        return RunVariance(prior.variance, min(prior.df, prior.evidence), False)
    if math.isinf(prior.df):
        variance = prior.variance
    else:
        variance = (prior.df * prior.variance + arm.df * arm.variance) / (prior.df + arm.df)
    df = min(prior.df + arm.df, prior.evidence)
    return RunVariance(max(variance, arm.counting), df, variance < arm.counting)


def _scale(arms: Sequence[Own], df: float) -> float:
    """The most likely scale of a prior with `df` degrees of freedom."""
    total = sum(arm.df for arm in arms)
    pooled = sum(arm.df * arm.variance for arm in arms) / total
    if math.isinf(df):
        return pooled
    # The derivative of the likelihood by log scale falls with the scale; it is zero between these ends.
    low, high = math.log(pooled) - 20, math.log(pooled) + 20
    for _ in range(60):
        middle = (low + high) / 2
        terms = [arm.df * arm.variance / (df * math.exp(middle)) for arm in arms]
        slope = sum((arm.df + df) * term / (1 + term) - arm.df for arm, term in zip(arms, terms, strict=True))
        low, high = (middle, high) if slope > 0 else (low, middle)
    return math.exp((low + high) / 2)


def _log_likelihood(arms: Sequence[Own], scale: float, df: float) -> float:
    """Log likelihood of the arms' variances (F distributed on arm.df and df, times the scale), up to a constant."""
    total = 0.0
    for arm in arms:
        ratio = arm.df * arm.variance / scale
        if math.isinf(df):
            total += -arm.df / 2 * math.log(2 * scale) - ratio / 2
        else:
            gammas = math.lgamma((arm.df + df) / 2) - math.lgamma(df / 2)
            total += gammas - arm.df / 2 * math.log(df * scale) - (arm.df + df) / 2 * math.log1p(ratio / df)
    return total
