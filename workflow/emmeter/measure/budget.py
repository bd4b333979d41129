"""EMM against the training budget: a law of what memorization costs, and its forecast for longer trainings.

The law: a training just memorizes N images, so that its EMM is N, if it sees

    images(N) = fixed + linear N + quadratic N^2

images, with coefficients that are not negative.  It is empirical.  A network first learns what the images have in
common, then something about each of them, then to tell each from all others; its EMM grows faster than the budget, in
proportion to it, and at last like its square root.  Two constants would bend too little: measured EMMs show all three.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emmeter.measure.contrasts import Contrast, mover
from emmeter.measure.estimate import Estimate

FEWEST = 3  # arms that determine the law
DRAWS = 2000  # of the parametric bootstrap
NORMAL = 1.96  # half width of a 95 % interval in standard errors


@dataclass(frozen=True)
class Law:
    """Coefficients of images(N), in images seen per power of N."""

    fixed: float
    linear: float
    quadratic: float

    def images(self, n: float) -> float:
        """Images that a training sees to memorize `n` images."""
        return self.fixed + self.linear * n + self.quadratic * n**2

    def emm(self, images: float) -> float:
        """EMM of a training that sees so many images; 0 if they do not exceed the fixed cost."""
        rest = images - self.fixed
        if rest <= 0:
            return 0.0
        if not self.linear and not self.quadratic:
            return math.inf
        # The root of the quadratic equation in the form that needs no division by a coefficient of zero.
        return 2 * rest / (self.linear + math.sqrt(self.linear**2 + 4 * self.quadratic * rest))


@dataclass(frozen=True)
class Forecast:
    """The law through some arms, and the EMMs that it gives at the budgets asked for, with 95 % intervals."""

    law: Law
    emms: tuple[Estimate, ...]


def fit(images: ArrayLike, emms: ArrayLike, errors: ArrayLike) -> Law:
    """Fit the law by least squares of the relative error of images(N), with coefficients of 0 or more.

    Args:
        images: (arms,) images that a training of each arm sees.
        emms: (arms,) their EMMs.
        errors: (arms,) standard errors of log2 EMM; arms are weighted by their inverse squares.
    Raises:
        ValueError: there are fewer than `FEWEST` arms.
    """
    from scipy.optimize import nnls

    seen, n, spread = (np.asarray(values, np.float64) for values in (images, emms, errors))
    if len(seen) < FEWEST:
        raise ValueError(f"the law has {FEWEST} coefficients, and there are only {len(seen)} arms")
    weight = 1 / spread
    columns = np.stack([np.ones_like(n), n, n**2], axis=1) / seen[:, None]
    scale = np.abs(columns).max(axis=0)  # columns differ by orders of magnitude
    solution, _ = nnls(columns / scale * weight[:, None], weight)
    return Law(*(float(value) for value in solution / scale))


def forecast(images: Sequence[float], estimates: Sequence[Estimate], budgets: Sequence[float]) -> Forecast:
    """The law through arms with intervals, and its EMMs at `budgets`.

    The interval is that of a parametric bootstrap: log2 EMM of every arm is drawn from a normal distribution as wide as
    its interval, with a fixed seed, and the law is fitted again.  It does not allow for a law that is wrong.

    Args:
        images: images that a training of each arm sees.
        estimates: EMM of each arm, with its interval.
        budgets: images seen, for each EMM asked for.
    Raises:
        ValueError: there are fewer than `FEWEST` arms.
    """
    logs = np.array([math.log2(estimate.emm or 0) for estimate in estimates])
    errors = np.array([math.log2((side.high or 0) / (side.low or 0)) / (2 * NORMAL) for side in estimates])
    law = fit(images, 2**logs, errors)
    normal = np.random.default_rng(0).standard_normal((DRAWS, len(logs)))
    drawn = [fit(images, 2**values, errors) for values in logs + errors * normal]
    return Forecast(law, tuple(_spread(law, drawn, budget) for budget in budgets))


def _spread(law: Law, drawn: Sequence[Law], budget: float) -> Estimate:
    emms: NDArray[np.float64] = np.array([each.emm(budget) for each in drawn])
    low, high = (float(value) for value in np.quantile(emms, [0.025, 0.975]))
    emm = law.emm(budget)
    return Estimate(emm, min(low, emm), max(high, emm), "estimated")


def measured_over_forecast(measured: Estimate, expected: Estimate) -> Contrast:
    """Ratio of a measured EMM to the one that was forecast without it."""
    if not expected.low:
        return Contrast(None, 0.0, math.inf, note="The budget does not exceed the fixed cost of the law.")
    return mover([(1, measured), (-1, expected)])


def exponent(contrast: Contrast, images: float, before: float) -> tuple[float, float, float] | None:
    """Local exponent of EMM between two budgets with its interval: log(ratio of EMMs) / log(ratio of images).

    Returns:
        None without a ratio.
    """
    if contrast.ratio is None:
        return None
    octaves = math.log2(images / before)
    ends = sorted(math.log2(value) / octaves for value in (contrast.low, contrast.high))
    return math.log2(contrast.ratio) / octaves, ends[0], ends[1]
