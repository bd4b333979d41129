"""The outcome of a run: the number of its generated images that are copies."""

import math
from dataclasses import dataclass

from emmeter.measure.results import Scored


@dataclass(frozen=True, order=True)
class RunId:
    """One run: `n` training images, drawn and trained with the seeds of `replicate` (0, 1, 2, ...)."""

    n: int
    replicate: int


@dataclass(frozen=True)
class Count:
    """The outcome of one run: `memorized` of `images` generated images.

    Raises:
        ValueError: the numbers are impossible.
    """

    memorized: int
    images: int

    def __post_init__(self) -> None:
        if not 0 <= self.memorized <= self.images or self.images < 1:
            raise ValueError(f"{self.memorized} memorized of {self.images} images: impossible")

    @property
    def ratio(self) -> float:
        """Share of memorized images, 0..1."""
        return self.memorized / self.images

    @property
    def logit(self) -> float:
        """Empirical logit of the ratio, finite also for 0 and 1 (Haldane 1956; Anscombe 1956)."""
        return math.log((self.memorized + 0.5) / (self.images - self.memorized + 0.5))

    @property
    def variance(self) -> float:
        """Variance of `logit` from counting images alone, in logits squared (Gart and Zweifel 1967)."""
        return 1 / (self.memorized + 0.5) + 1 / (self.images - self.memorized + 0.5)


def logit(ratio: float) -> float:
    """ln(ratio / (1 - ratio)) of a ratio between 0 and 1, ends excluded."""
    return math.log(ratio / (1 - ratio))


def count(score: Scored, snapshot: str) -> Count:
    """The count that enters the search.

    Args:
        score: the content of a run's score.json, of which the list ``snapshots`` is used.
        snapshot: "last", or "best" for the snapshot with the highest ratio (the paper's rule).
    """
    rows = score["snapshots"]
    row = rows[-1] if snapshot == "last" else max(rows, key=lambda row: row["memorized"] / row["images"])
    return Count(row["memorized"], row["images"])
