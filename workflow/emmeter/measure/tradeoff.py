"""Memorization against quality: the share of copies of each run beside the quality of its images.

Images are compared with held-out ones.  Beside the training images, a model that copies them would look best.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

METRICS = ("frechet", "precision", "recall", "coverage", "authenticity")
AGAINST = "held-out"


@dataclass(frozen=True)
class Point:
    """A run at the snapshot that counts, in one space of features.

    Attributes:
        ratio: share of copies among the generated images, 0 to 1.
        measures, floors: by the names of `METRICS`: of the generated images, and of real images in their place.
        unfinished: True if the run was not trained to the end; False also if that could not be judged.
    """

    arm: str
    features: str
    n: int
    ratio: float
    measures: Mapping[str, float]
    floors: Mapping[str, float]
    unfinished: bool

    @property
    def distance(self) -> float:
        """Fréchet distance in units of its floor; 1 for real images."""
        return self.measures["frechet"] / self.floors["frechet"]


def points(counted: Iterable[Mapping[str, Any]], quality: Iterable[Mapping[str, Any]]) -> list[Point]:
    """Join the shares of copies of runs with the quality of their images.

    Args:
        counted: the rows of curves.csv that count, one per run.
        quality: rows of quality.csv.  Snapshots of which nothing could be compared are left out.
    Returns:
        Points in the order of `counted`, and for each run in the order of its spaces of features.
    """
    measured: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in quality:
        if row["against"] == AGAINST and row["frechet_floor"] > 0:  # False for NaN, too
            measured.setdefault(_snapshot(row), []).append(row)
    return [
        Point(
            arm=run["arm"],
            features=row["features"],
            n=int(run["n"]),
            ratio=run["ratio"],
            measures={name: row[name] for name in METRICS},
            floors={name: row[f"{name}_floor"] for name in METRICS},
            unfinished=str(row["trained_to_end"]) == "False",
        )
        for run in counted
        for row in measured.get(_snapshot(run), ())
    ]


def _snapshot(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("arm", "n", "replicate", "progress"))


@dataclass(frozen=True)
class Mean:
    """The runs of an arm at one size, in one space of features.

    Attributes:
        shared: whether every arm has runs of this size.
        runs, unfinished: number of runs, and of those not trained to the end.
        ratio, measures, floors: means over the runs, as in `Point`.
    """

    arm: str
    features: str
    n: int
    shared: bool
    runs: int
    unfinished: int
    ratio: float
    measures: Mapping[str, float]
    floors: Mapping[str, float]


def means(runs: Sequence[Point]) -> Iterator[Mean]:
    """Yield the mean of the runs per space of features, arm and size, the latter in increasing order."""
    groups: dict[tuple[str, str, int], list[Point]] = {}
    for point in sorted(runs, key=lambda point: point.n):
        groups.setdefault((point.features, point.arm, point.n), []).append(point)
    arms = list(dict.fromkeys(point.arm for point in runs))
    for features in dict.fromkeys(point.features for point in runs):
        for arm in arms:
            for (_, _, n), found in ((key, found) for key, found in groups.items() if key[:2] == (features, arm)):
                yield Mean(
                    arm=arm,
                    features=features,
                    n=n,
                    shared=all((features, other, n) in groups for other in arms),
                    runs=len(found),
                    unfinished=sum(point.unfinished for point in found),
                    ratio=fmean(point.ratio for point in found),
                    measures={name: fmean(point.measures[name] for point in found) for name in METRICS},
                    floors={name: fmean(point.floors[name] for point in found) for name in METRICS},
                )
