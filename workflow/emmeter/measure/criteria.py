"""Other criteria for copies, from stored images and neighbours: would a study say the same under them?

`emmeter.measure.audit` has the functions of the calibrated criterion and of similarity; this module applies them, and a
sweep of thresholds, to the runs of a search.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from emmeter.measure.arms import ArmResult
from emmeter.measure.audit import SURROUNDING, by_similarity
from emmeter.measure.criterion import Neighbours, memorized, mirror_groups, mirrored_neighbours
from emmeter.measure.features import Network, most_similar
from emmeter.measure.outcome import count
from emmeter.measure.proximity import Blocks, Search, Training
from emmeter.settings.thresholds import Thresholds

DEFAULTS = Thresholds()


@dataclass(frozen=True)
class Counted:
    """Copies among generated images under one criterion.

    Attributes:
        criterion: `ratio`, `mirrored`, `calibrated`, `absolute` or `cosine SPACE`.
        threshold: below which an image is a copy, of a cosine: above which.
        memorized: number of copies.
    """

    criterion: str
    threshold: float
    memorized: int


@dataclass(frozen=True)
class _Images:
    """Images in memory, as `emmeter.measure.proximity` reads them."""

    images: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, part: slice) -> np.ndarray:
        return self.images[part]

    def take(self, positions: np.ndarray) -> np.ndarray:
        return self.images[positions]


class Counter:
    """Counts copies of the same training images under all criteria."""

    def __init__(
        self,
        train: np.ndarray,
        groups: np.ndarray,
        spaces: Mapping[str, Network],
        thresholds: Thresholds = DEFAULTS,
    ):
        """Prepare the training images.

        Args:
            train: (N, C, H, W) uint8.
            groups: (N,) position of the first exact duplicate of each training image (its own if it has none).
            spaces: functions from uint8 images (n, C, H, W) to features (n, d), for the cosine, by name.
            thresholds: of each criterion; `mirrored` has 1/3.
        """
        self._train, self._groups, self._spaces, self._thresholds = train, groups, spaces, thresholds
        self._features = {name: _unit(compute(train)) for name, compute in spaces.items()}
        self._mirrored = len(np.unique(mirror_groups(train, groups))) > 1  # otherwise there is no second neighbour
        size = Blocks(max(len(train), 1), max(len(train), 1))
        search, distinct = Search(Training(_Images(train), groups, groups), size), np.unique(groups)
        self._around = np.full(len(train), math.nan)
        self._around[distinct] = search.surroundings(distinct, SURROUNDING)

    def counts(self, generated: np.ndarray, near: Neighbours) -> Iterator[Counted]:
        """Yield the number of copies under each criterion and threshold.

        Args:
            generated: (m, C, H, W) uint8.
            near: their nearest training images, by pixels.
        """
        for threshold in self._thresholds.ratio:
            yield Counted("ratio", threshold, int(memorized(near, threshold).sum()))
        if self._mirrored:
            mirrored = mirrored_neighbours(generated, self._train, self._groups, 2)
            yield Counted("mirrored", 1 / 3, int(memorized(mirrored).sum()))
        first = np.sqrt(near.squared[:, 0])
        calibrated = first / self._around[near.indices[:, 0]]
        for threshold in self._thresholds.calibrated:
            yield Counted("calibrated", threshold, int((calibrated < threshold).sum()))
        absolute = first / math.sqrt(math.prod(generated.shape[1:]))
        for threshold in self._thresholds.absolute:
            yield Counted("absolute", threshold, int((absolute < threshold).sum()))
        for name, compute in self._spaces.items():
            _, similarity = most_similar(_unit(compute(generated)), self._features[name])
            for threshold in self._thresholds.cosine:
                flags = by_similarity(similarity, Fraction(threshold).limit_denominator(1000))
                yield Counted(f"cosine {name}", threshold, int(flags.sum()))


def _unit(features: np.ndarray) -> np.ndarray:
    """Features as float32 rows of length 1."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.where(norms > 0, norms, 1)).astype(np.float32)


def under(arm: ArmResult, memorized: Mapping[tuple[float, float, float], float], snapshot: str) -> ArmResult | None:
    """The finished search of an arm with the counts of another criterion; None if these lack a run.

    No run is added: the runs are those that the arm's own criterion has asked for.

    Args:
        memorized: number of copies by N, replicate and images seen.
        snapshot: "last" or "best", the snapshot that counts.
    """
    runs: list[Any] = []
    for run in arm.record["runs"]:
        found = [memorized.get((run["n"], run["replicate"], each["images_seen"])) for each in run["snapshots"]]
        if any(number is None for number in found):
            return None
        snapshots = [
            {**each, "memorized": int(number), "ratio": number / each["images"]}
            for each, number in zip(run["snapshots"], found, strict=True)
            if number is not None
        ]
        counted = count({"snapshots": snapshots}, snapshot)  # type: ignore[typeddict-item]
        runs.append({**run, "snapshots": snapshots, "memorized": counted.memorized, "images": counted.images})
    return ArmResult(arm.about, {**arm.record, "runs": runs})  # type: ignore[typeddict-item]


def rank_correlation(first: Sequence[float | None], second: Sequence[float | None]) -> float | None:
    """Kendall's tau-b of two series of EMMs over the arms that have both, -1 to 1.

    None with fewer than two such arms, or if all have the same EMM.
    """
    from scipy.stats import kendalltau

    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if len(pairs) < 2:
        return None
    value = float(kendalltau(*zip(*pairs, strict=True))[0])  # type: ignore[arg-type]
    return None if math.isnan(value) else value
