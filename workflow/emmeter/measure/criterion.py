"""The criterion for copies: nearest neighbours among the training images, and the ratio of their distances.

A generated image is memorized if its nearest training image is closer than `threshold` (1/3) times its second nearest,
in l2 distance on uint8 pixels (Yoon et al. 2023; paper, section 2).  Distances are integers throughout, because float32
loses the digits of near copies, and these decide the criterion.  `emmeter.measure.engines` computes them.
"""

import hashlib
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from emmeter.measure import engines


@dataclass(frozen=True)
class Neighbours:
    """Nearest distinct training images of each generated image, nearest first.

    Attributes:
        indices: (m, k) int64, positions in the training set (the first of a group of duplicates).
        squared: (m, k) int64, squared l2 distances in grey levels.
        copies: (m,) int64, number of times that the nearest image occurs in the training set.
        engine: name of the engine that found them; the other attributes do not depend on it.
    """

    indices: np.ndarray
    squared: np.ndarray
    copies: np.ndarray
    engine: str = ""


def neighbours(generated: np.ndarray, train: np.ndarray, groups: np.ndarray, k: int) -> Neighbours:
    """Find the `k` nearest distinct training images of every generated image, exactly.

    Args:
        generated: (m, C, H, W) uint8.
        train: (N, C, H, W) uint8.
        groups: (N,) position of the first exact duplicate of each training image (its own if it has none).
        k: number of neighbours; fewer are returned if the set has fewer distinct images.
    Raises:
        ValueError: fewer than two distinct training images, so that no second neighbour exists.
    """
    distinct, counts = np.unique(groups, return_counts=True)
    if len(distinct) < 2:
        raise ValueError("the training set has fewer than two distinct images: d2 does not exist")
    base, query = (images.reshape(len(images), -1) for images in (train[distinct], generated))
    positions, squared, engine = engines.nearest(query, base, min(k, len(distinct)))
    return Neighbours(distinct[positions], squared, counts[positions[:, 0]], engine)


def mirrored_neighbours(generated: np.ndarray, train: np.ndarray, groups: np.ndarray, k: int) -> Neighbours:
    """Find neighbours as `neighbours` does, where the nearer of a training image and its mirror image counts.

    Mirroring the generated images instead gives the same distances.  Training images that are mirror images of each
    other count as duplicates here.  Otherwise the second would be the second neighbour of every copy of the first.
    """
    groups = mirror_groups(train, groups)
    both = neighbours(np.concatenate([generated, generated[..., ::-1]]), train, groups, k)
    indices, squared, _ = fold(both.indices, both.squared)
    sizes = dict(zip(*np.unique(groups, return_counts=True), strict=True))
    return Neighbours(indices, squared, np.array([sizes[i] for i in indices[:, 0]], np.int64), both.engine)


def fold(indices: np.ndarray, squared: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join the neighbours of images with those of their mirror images.

    Args:
        indices: (2m, k) int64, positions of the nearest training images, first of m images, then of their mirror
            images.
        squared: (2m, k) int64, squared distances to them.
    Returns:
        (m, k) positions and squared distances of the nearer of each training image and its mirror image, nearest first,
        ties by position; and (m, k) bool, whether the mirror image is the nearer one.
    """
    width = indices.shape[1]
    indices, squared = (np.hstack(np.split(array, 2)) for array in (indices, squared))
    mirrored = np.broadcast_to(np.arange(2 * width) >= width, indices.shape)
    order = np.lexsort((mirrored, indices, squared), axis=1)
    indices, squared, mirrored = (np.take_along_axis(array, order, 1) for array in (indices, squared, mirrored))
    repeated = np.zeros(indices.shape, bool)  # the farther of an image's two distances
    for column in range(1, indices.shape[1]):
        repeated[:, column] = (indices[:, :column] == indices[:, column, None]).any(axis=1)
    keep = np.argsort(repeated, axis=1, kind="stable")[:, :width]
    indices, squared, mirrored = (np.take_along_axis(array, keep, 1) for array in (indices, squared, mirrored))
    return indices, squared, mirrored


def mirror_groups(train: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(N,) position of the first image that equals each training image or its mirror image.

    Args:
        groups: (N,) position of the first exact duplicate of each training image.
    """
    first: dict[bytes, int] = {}
    merged = np.array(groups)
    for position in np.unique(groups).tolist():
        image = train[position]
        either = min(image.tobytes(), image[..., ::-1].tobytes())
        merged[position] = first.setdefault(hashlib.sha256(either).digest(), position)
    return merged[groups]


def memorized(neighbours: Neighbours, threshold: float = 1 / 3, distinct: bool = True) -> np.ndarray:
    """(m,) bool: d1 < threshold * d2, compared exactly in integers.

    Args:
        threshold: between 0 and 1; taken as the nearest fraction with a denominator of at most 1,000,000.
        distinct: False selects the paper's rule, under which an exact duplicate of the nearest image is the second
            nearest.  A copy of a duplicated image then never counts (0/0 included).
    """
    ratio = Fraction(threshold).limit_denominator(1_000_000)
    first, second = neighbours.squared[:, :2].T.astype(object)  # Python's integers do not overflow
    flags = (first * ratio.denominator**2 < second * ratio.numerator**2).astype(bool)
    return flags if distinct else flags & (neighbours.copies == 1)


def mean_distance(neighbours: Neighbours, pixels: int) -> float:
    """Mean distance to the nearest training image: root mean square over `pixels` values, in grey levels (0-255)."""
    return float(np.sqrt(neighbours.squared[:, 0] / pixels).mean())
