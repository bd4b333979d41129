"""Results of runs and searches as plain mappings, the form in which ``score.json`` and ``emm.json`` store them."""

from collections.abc import Iterable
from typing import Literal, NotRequired, TypedDict

Answer = Literal["crossing", "above", "below", "undetermined"]


def total(amounts: Iterable[int | None]) -> int | None:
    """The sum of amounts; None if one of them is not known."""
    known = list(amounts)
    return None if None in known else sum(amount for amount in known if amount is not None)


class Copies(TypedDict):
    """Copies among generated images."""

    memorized: int
    """Number of near copies, 0 to `images`."""
    images: int
    """Number of generated images, from 1."""
    ratio: float
    """`memorized` / `images`, 0 to 1."""
    ratio_low: float
    """Lower end of the ratio's 95 % Wilson interval, from counting images alone, 0 to 1."""
    ratio_high: float
    """Upper end of the same interval, 0 to 1."""
    mean_distance: float
    """Mean distance to the nearest training image: root mean square over pixels, 0 to 255 grey levels."""


class Snapshot(Copies):
    """Copies among the images of one snapshot of a run."""

    progress: float
    """Share of the training budget at this snapshot, above 0, to 1."""
    images_seen: int
    """Training images seen so far; 0 for the optimum, and if a command does not say."""


class Scored(TypedDict):
    """A run whose generated images have been compared with its training images."""

    snapshots: list[Snapshot]
    """Counts of each snapshot, in the order of training."""


class SearchedRun(Scored):
    """A run of a search, with its outcome and its cost."""

    n: int
    """Number of training images, N."""
    replicate: int
    """Number of the subset and training seed, from 0."""
    role: Literal["locate", "confirm", "grid"]
    """Purpose of the run in the search."""
    memorized: int
    """Number of near copies at the snapshot that enters the search."""
    images: int
    """Number of generated images at that snapshot."""
    images_trained: int | None
    """Training images seen, repetitions included; None if a command of the user's does not say."""
    held_out_distance: NotRequired[float | None]
    """Mean distance of held-out images to the nearest training image, as `Copies.mean_distance`; None without any."""
    flops: int | None
    """Floating-point operations of the network in training and sampling; None if a command does not say."""
    seconds: float
    """Duration of the training and sampling jobs, in seconds."""


class FinishedSearch(TypedDict):
    """A search that needs no further run."""

    rule: Literal["bisection", "grid"]
    """Rule of the search."""
    epsilon: float
    """EMM is the N at which the ratio crosses 1 - epsilon; above 0, below 1."""
    threshold: float
    """Threshold of the criterion on d1/d2, above 0, below 1."""
    snapshot: Literal["last", "best"]
    """Snapshot that enters the search: the last one, or the one with the highest ratio."""
    status: Answer
    """Answer of the search: the ratio crosses 1 - epsilon on the ladder, stays above it, stays below it, or neither."""
    sizes: list[int]
    """Sizes that the search may ask for, increasing: the ladder, or the grid."""
    runs: list[SearchedRun]
    """Every run in the order in which the search asked for it."""
    images_trained: int | None
    """Sum over the runs; None if it is not known of a run."""
    flops: int | None
    """Sum over the runs; None if it is not known of a run."""
    run_seconds: float
    """Sum of the runs' `seconds`."""
