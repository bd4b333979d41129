"""The audit of generated images: rates of copies with intervals, beside real images that the model never saw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from emmeter.measure.copied import Copied, copied
from emmeter.measure.criterion import Neighbours, memorized
from emmeter.measure.estimate import wilson
from emmeter.measure.proximity import Nearest, Training

CONFIDENCE = 0.95
SURROUNDING = 50  # nearest training images of a match that calibrate its distance (Carlini et al. 2023)
Name = Literal["ratio", "calibrated", "cosine"]
THRESHOLDS: dict[Name, Fraction] = {"ratio": Fraction(1, 3), "calibrated": Fraction(1, 2), "cosine": Fraction(19, 20)}
Answer = Literal["below", "above", "undecided"]


@dataclass(frozen=True)
class Criterion:
    """A rule that calls an image a copy.

    Attributes:
        name: `ratio` (d1/d2 below the threshold), `calibrated` (d1 over the mean distance of the match to its 50
            nearest training images, below the threshold) or `cosine` (similarity of features above the threshold).
        threshold: above 0 and below 1.
    """

    name: Name
    threshold: Fraction


@dataclass(frozen=True)
class Rate:
    """A share with its interval.

    Attributes:
        count, of: so many of so many images.
        low, high: 95 % interval, exact; at 0 or all of them the one-sided limit, beside 0 or 1.
    """

    count: int
    of: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.count / self.of


def rate(count: int, of: int) -> Rate:
    """The share `count` / `of` with its exact interval (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    one_sided = 1 - CONFIDENCE
    tail = one_sided / 2
    low = 0.0 if count == 0 else float(betaincinv(count, of - count + 1, one_sided if count == of else tail))
    high = 1.0 if count == of else float(betaincinv(count + 1, of - count, 1 - (one_sided if count == 0 else tail)))
    return Rate(count, of, low, high)


@dataclass(frozen=True)
class Excess:
    """The difference of two rates with its 95 % interval (Newcombe 1998, method 10)."""

    value: float
    low: float
    high: float


def excess(generated: Rate, held_out: Rate) -> Excess:
    """The rate of generated images less that of held-out ones."""
    value = generated.share - held_out.share
    (low, high), (low_other, high_other) = (wilson(each.count, each.of, CONFIDENCE) for each in (generated, held_out))
    below = math.hypot(generated.share - low, high_other - held_out.share)
    above = math.hypot(high - generated.share, held_out.share - low_other)
    return Excess(value, max(value - below, -1.0), min(value + above, 1.0))


def answer(generated: Rate, limit: float, held_out: Rate | None = None) -> Answer:
    """Whether copies are above or below a limit, by the interval; undecided if the interval contains the limit.

    A criterion calls some new real images copies, too.  With the rate of held-out images, the excess over it is
    therefore compared with the limit.  A rate that is below the limit itself needs no comparison.
    """
    if generated.high <= limit:
        return "below"
    compared = generated if held_out is None else excess(generated, held_out)
    if compared.low > limit:
        return "above"
    return "below" if compared.high <= limit else "undecided"


def overall(answers: Sequence[Answer]) -> Answer:
    """The worst of several answers."""
    return max(answers, key=("below", "undecided", "above").index)


@dataclass(frozen=True)
class Nearer:
    """How many generated images are nearer to training images than to held-out ones.

    Attributes:
        share: images that are nearer to training images, of all that are nearer to one side.
        ties: images that are equally near to both.
        expected: the share if generated images were as independent of both sets as new real images are: the share of
            training images among both.
    """

    share: Rate | None
    ties: int
    expected: float


def nearer(to_train: np.ndarray, to_held_out: np.ndarray, train: int, held_out: int) -> Nearer:
    """Compare squared distances int64 (m,) to the nearest of `train` training and of `held_out` held-out images."""
    closer, ties = int((to_train < to_held_out).sum()), int((to_train == to_held_out).sum())
    decided = len(to_train) - ties
    return Nearer(rate(closer, decided) if decided else None, ties, train / (train + held_out))


def by_ratio(nearest: Nearest, threshold: Fraction) -> np.ndarray:
    """(m,) bool: d1 < threshold * d2, exactly."""
    pairs = np.stack([nearest.first, nearest.second], axis=1)
    return memorized(Neighbours(pairs, nearest.squared, np.ones(len(pairs), np.int64)), float(threshold))


def by_similarity(values: np.ndarray, threshold: Fraction) -> np.ndarray:
    """(m,) bool: similarity above the threshold."""
    return values > float(threshold)


@dataclass(frozen=True)
class Images:
    """The images of one set beside the training images, under one criterion.

    Attributes:
        values: (m,) float64, what the criterion compares with its threshold.
        matches: (m,) int64, position of the training image that each resembles most under this criterion.
        flags: (m,) bool, which of them are copies.
    """

    values: np.ndarray
    matches: np.ndarray
    flags: np.ndarray

    def copied(self, training: Training) -> Copied:
        """The training images that were copied."""
        return copied(self.matches, self.flags, training.same)

    @property
    def rate(self) -> Rate:
        """The share of copies."""
        return rate(int(self.flags.sum()), len(self.flags))


@dataclass(frozen=True)
class Finding:
    """The result of one criterion.

    Attributes:
        criterion: the criterion.
        generated: the generated images.
        held_out: the held-out images; None without them.
        answer: whether the rate of copies is above or below the limit.
    """

    criterion: Criterion
    generated: Images
    held_out: Images | None
    answer: Answer

    @property
    def excess(self) -> Excess | None:
        """The rate of copies beyond that of held-out images."""
        return None if self.held_out is None else excess(self.generated.rate, self.held_out.rate)


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        findings: results of all criteria.
        limit: the highest rate of copies that is accepted, 0 to 1.
        training: the training images, and which of them count as the same.
        nearest: nearest training images of the generated images, by pixels.
        held_out: nearest training images of the held-out images, by pixels; None without them.
        to_held_out: (m,) int64, squared distance of each generated image to the nearest held-out image; None without.
    """

    findings: tuple[Finding, ...]
    limit: float
    training: Training
    nearest: Nearest
    held_out: Nearest | None
    to_held_out: np.ndarray | None

    @property
    def answer(self) -> Answer:
        """The worst answer of all criteria."""
        return overall([finding.answer for finding in self.findings])

    @property
    def nearer(self) -> Nearer | None:
        """How many generated images are nearer to training images than to held-out ones."""
        if self.to_held_out is None or self.held_out is None:
            return None
        distinct = len(self.training.distinct)
        return nearer(self.nearest.squared[:, 0], self.to_held_out, distinct, len(self.held_out.first))

    @property
    def leaked(self) -> int:
        """Number of held-out images that equal a training image in every pixel, so that they are none."""
        return 0 if self.held_out is None else int((self.held_out.squared[:, 0] == 0).sum())

    @property
    def equal(self) -> int:
        """Number of generated images that equal a training image in every pixel."""
        return int((self.nearest.squared[:, 0] == 0).sum())

    @property
    def copies(self) -> np.ndarray:
        """(m,) bool, generated images that any criterion calls copies."""
        return np.any([finding.generated.flags for finding in self.findings], axis=0)
