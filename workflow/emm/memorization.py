"""Which generated images are copies: nearest neighbours among the training images, and the criterion on them.

A generated image is memorized if its nearest training image is closer than `threshold` (1/3) times its second nearest,
in l2 distance on uint8 pixels (Yoon et al. 2023; paper, section 2).  FAISS proposes candidates in float32; distances
are then recomputed in integers, because float32 loses the digits of near copies, which decide the criterion.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

SLACK = 6  # candidates beyond those asked for, so that float32 rounding cannot hide a true neighbour


@dataclass(frozen=True)
class Neighbours:
    """Nearest distinct training images of each generated image, nearest first.

    indices: (m, k) int64, positions in the training set (the first of a group of duplicates).
    squared: (m, k) int64, squared l2 distances in grey levels.
    copies: (m,) int64, how often the nearest image occurs in the training set.
    """

    indices: np.ndarray
    squared: np.ndarray
    copies: np.ndarray


def neighbours(generated: np.ndarray, train: np.ndarray, groups: np.ndarray, k: int) -> Neighbours:
    """The `k` nearest distinct training images of every generated image, exactly.

    Args:
        generated: (m, C, H, W) uint8.
        train: (N, C, H, W) uint8.
        groups: (N,) position of the first exact duplicate of each training image (its own where it has none).
        k: neighbours wanted; fewer come back if the set has fewer distinct images.
    Raises:
        ValueError: fewer than two distinct training images, so that no second neighbour exists.
    """
    distinct, counts = np.unique(groups, return_counts=True)
    if len(distinct) < 2:
        raise ValueError("the training set has fewer than two distinct images: d2 does not exist")
    base = train[distinct].reshape(len(distinct), -1)
    query = generated.reshape(len(generated), -1)
    k = min(k, len(distinct))
    wanted = min(k + SLACK, len(distinct))
    candidates, beyond = _candidates(query, base, wanted)
    candidates, squared = _nearest(query, base, candidates, k)
    for row in np.flatnonzero(squared[:, -1] >= beyond):  # an image that is no candidate may be as near: compare all
        every = np.arange(len(base))[None]
        candidates[row], squared[row] = (found[0] for found in _nearest(query[row : row + 1], base, every, k))
    return Neighbours(distinct[candidates], squared, counts[candidates[:, 0]])


def mirrored_neighbours(generated: np.ndarray, train: np.ndarray, groups: np.ndarray, k: int) -> Neighbours:
    """As `neighbours`, where a training image is as near as the nearer of itself and its mirror image.

    Mirroring the generated images instead gives the same distances.
    """
    found = [neighbours(images, train, groups, k) for images in (generated, generated[..., ::-1])]
    indices, squared = (
        np.concatenate([getattr(one, name) for one in found], axis=1) for name in ("indices", "squared")
    )
    order = np.lexsort((indices, squared), axis=1)
    indices, squared = np.take_along_axis(indices, order, 1), np.take_along_axis(squared, order, 1)
    repeated = np.zeros(indices.shape, bool)  # the farther of an image's two distances
    for column in range(1, indices.shape[1]):
        repeated[:, column] = (indices[:, :column] == indices[:, column, None]).any(axis=1)
    keep = np.argsort(repeated, axis=1, kind="stable")[:, : found[0].indices.shape[1]]
    indices, squared = np.take_along_axis(indices, keep, 1), np.take_along_axis(squared, keep, 1)
    sizes = dict(zip(*np.unique(groups, return_counts=True), strict=True))
    return Neighbours(indices, squared, np.array([sizes[i] for i in indices[:, 0]], np.int64))


def _nearest(query: np.ndarray, base: np.ndarray, candidates: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(m, k) nearest of the candidates and their exact squared distances; ties by position: the same everywhere."""
    squared = _squared_distances(query, base, candidates)
    order = np.lexsort((candidates, squared), axis=1)[:, :k]
    return np.take_along_axis(candidates, order, 1), np.take_along_axis(squared, order, 1)


def _candidates(query: np.ndarray, base: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Images near each query by float32 distance.

    Returns:
        (m, wanted) positions in `base`, in no promised order; and (m,) a squared distance below which no other
        image lies, rounding allowed for.
    """
    if wanted == len(base):
        return np.broadcast_to(np.arange(wanted), (len(query), wanted)).copy(), np.full(len(query), np.inf)
    import faiss  # slow to import, and not needed for the smallest sets

    mean = base.mean(axis=0, dtype=np.float64).astype(np.float32)  # centring shrinks the squares that cancel
    index = faiss.IndexFlatL2(base.shape[1])
    if hasattr(faiss, "get_num_gpus") and faiss.get_num_gpus() > 0:
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    centred, asked = np.ascontiguousarray(base - mean), np.ascontiguousarray(query - mean)
    index.add(centred)
    found, candidates = index.search(asked, wanted)
    largest = (asked**2).sum(axis=1) + (centred**2).sum(axis=1).max()  # what cancels in |q|^2 + |b|^2 - 2 q b
    return candidates, found[:, -1] - 32 * np.finfo(np.float32).eps * largest


def _squared_distances(query: np.ndarray, base: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(m, c) exact squared distances; at most 255^2 a pixel, so int32 holds 33,000 pixels and int64 the rest."""
    squared = np.empty(candidates.shape, np.int64)
    block = max(1, 2**24 // (candidates.shape[1] * base.shape[1]))
    for start in range(0, len(query), block):
        rows = slice(start, start + block)
        difference = query[rows, None, :].astype(np.int32) - base[candidates[rows]]
        squared[rows] = np.einsum("mcd,mcd->mc", difference, difference, dtype=np.int64)
    return squared


def memorized(found: Neighbours, threshold: float = 1 / 3, distinct: bool = True) -> np.ndarray:
    """(m,) bool: d1 < threshold * d2, compared exactly in integers.

    Args:
        distinct: False is the paper's rule, under which an exact duplicate of the nearest image is the second nearest:
            a copy of a duplicated image then never counts (0/0 included).
    """
    ratio = Fraction(threshold).limit_denominator(1_000_000)
    first, second = found.squared[:, :2].T.astype(object)  # Python's integers: no overflow
    flags = (first * ratio.denominator**2 < second * ratio.numerator**2).astype(bool)
    return flags if distinct else flags & (found.copies == 1)


def mean_distance(found: Neighbours, pixels: int) -> float:
    """Mean distance to the nearest training image: root mean square over `pixels` values, in grey levels (0-255)."""
    return float(np.sqrt(found.squared[:, 0] / pixels).mean())
