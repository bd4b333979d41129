"""Which generated images are copies: nearest neighbours among the training images, and the criterion on them.

A generated image is memorized if its nearest training image is closer than `threshold` (1/3) times its second nearest,
in l2 distance on uint8 pixels (Yoon et al. 2023; paper, section 2).  Distances are computed in integers throughout:
float32 loses the digits of near copies, which decide the criterion.  Small sets are compared pixel by pixel; large ones
by products of bytes on a CPU, or by FAISS on a GPU, which proposes candidates in float32 whose distances are then
recomputed.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce

import numpy as np

SLACK = 6  # candidates beyond those asked for, so that rounding and ties seldom hide a true neighbour
BYTE_PIXELS = 2**15  # pixels up to which |b|^2 - 2 q b of signed bytes fits int32
SMALL = 2**28  # pixel differences that take less time than to import torch

Proposer = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


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

    Mirroring the generated images instead gives the same distances.  Training images that are each other's mirror image
    are duplicates here: the second would be the second neighbour of every copy of the first.
    """
    groups = mirror_groups(train, groups)
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


def mirror_groups(train: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(N,) position of the first image that equals each training image or its mirror image.

    Args:
        groups: (N,) the same of exact duplicates.
    """
    first: dict[bytes, int] = {}
    merged = np.array(groups)
    for position in np.unique(groups).tolist():
        image = train[position]
        either = min(image.tobytes(), image[..., ::-1].tobytes())
        merged[position] = first.setdefault(hashlib.sha256(either).digest(), position)
    return merged[groups]


def _nearest(query: np.ndarray, base: np.ndarray, candidates: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(m, k) nearest of the candidates and their exact squared distances; ties by position: the same everywhere."""
    squared = _squared_distances(query, base, candidates)
    order = np.lexsort((candidates, squared), axis=1)[:, :k]
    return np.take_along_axis(candidates, order, 1), np.take_along_axis(squared, order, 1)


def _candidates(query: np.ndarray, base: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Images near each query.

    Returns:
        (m, wanted or N) positions in `base`, in no promised order; and (m,) a squared distance below which no other
        image lies.
    """
    if wanted == len(base) or query.size * len(base) < SMALL:
        return np.broadcast_to(np.arange(len(base)), (len(query), len(base))).copy(), np.full(len(query), np.inf)
    return _proposer()(query, base, wanted)


def _proposer() -> Proposer:
    """The fastest way through a large set on this machine."""
    import torch

    return _by_faiss if torch.cuda.is_available() else _by_products


def _by_products(query: np.ndarray, base: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Candidates by |b|^2 - 2 q b, exact: products of bytes summed in int32, for which CPUs have instructions.

    On a CPU with AVX-512 VNNI six times as fast as the float32 product that `torch.cdist` and FAISS use.
    """
    import torch

    # Differences stay the same when both sides move from 0..255 to -128..127, the range of a signed byte.
    asked, stored = (torch.from_numpy(np.bitwise_xor(images, 128).view(np.int8)) for images in (query, base))
    wide = torch.int32 if query.shape[1] <= BYTE_PIXELS else torch.int64
    squares = torch.cat([part.to(wide).square_().sum(dim=1, dtype=wide) for part in stored.split(1024)])
    positions, last = [], []
    for rows in asked.split(max(1, 2**25 // len(base))):
        pairs = zip(rows.split(BYTE_PIXELS, dim=1), stored.split(BYTE_PIXELS, dim=1), strict=True)
        products = reduce(torch.add, (torch.ops.aten._int_mm(q, b.T).to(wide) for q, b in pairs))
        found = products.mul_(-2).add_(squares).topk(wanted, largest=False)
        positions.append(found.indices)
        last.append(found.values[:, -1].to(torch.int64) + rows.to(torch.int64).square_().sum(dim=1))
    return torch.cat(positions).numpy(), torch.cat(last).numpy()


def _by_faiss(query: np.ndarray, base: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Candidates by float32 distance, with a bound that allows for its rounding."""
    import faiss

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
