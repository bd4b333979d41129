"""The order in which the images of a data set enter its subsets, one per replicate."""

from fractions import Fraction

import numpy as np

from emmeter.settings.sections import Data
from emmeter.settings.types import as_fraction

# Purposes of random draws.  Results depend on these numbers: never change one.
ORDER, LABELS, REPETITIONS = 1, 2, 3


def order(images_count: int, labels: np.ndarray | None, data: Data, seed: int, replicate: int) -> np.ndarray:
    """The order in which images enter subsets: int64, a permutation of 0 .. images_count - 1.

    Balanced (with `labels` int64 (images_count,), 0 .. C-1): position k * C + c holds the k-th drawn image of class c,
    until the smallest class is exhausted.  The rest of the larger classes follows in the same way.  Each class has its
    own permutation, independent of the other classes used.  Not balanced: one permutation of all images.
    ``data.draw = first`` takes the order of the files instead of permutations, which makes all replicates equal.
    """
    if labels is None or not data.balanced:
        return _drawn(np.arange(images_count), data, seed, replicate, 0)
    queues = []
    for label in range(int(labels.max()) + 1):
        stored = data.classes[label] if data.classes is not None else label
        queues.append(_drawn(np.flatnonzero(labels == label), data, seed, replicate, stored + 1))
    members = np.concatenate(queues)
    rounds = np.concatenate([np.arange(len(queue)) for queue in queues])
    return members[np.argsort(rounds, kind="stable")]  # by round, then by class


def mixture_share(data: Data) -> Fraction:
    """The share of the second source, exactly as it was written."""
    return as_fraction(data.mixture_share)


def mixed(first: np.ndarray, second: np.ndarray, share: Fraction) -> np.ndarray:
    """Two orders as one: int64 positions, where those of `second` are counted from len(first) on.

    Of the first n entries, floor(n * share) come from the second source, for every n until one source is exhausted.
    Subsets are therefore nested, and each has the share.
    """
    count = np.arange(len(first) + len(second) + 1)
    # Python's integers cannot overflow, however long the fraction
    of_second = np.array([n * share.numerator // share.denominator for n in count.tolist()], np.int64)
    usable = (of_second <= len(second)) & (count - of_second <= len(first))
    length = int(np.flatnonzero(usable)[-1])
    from_second = np.diff(of_second[: length + 1]).astype(bool)
    result = np.empty(length, np.int64)
    result[from_second] = second[: from_second.sum()] + len(first)
    result[~from_second] = first[: length - from_second.sum()]
    return result


def repeated(data: Data, seed: int, replicate: int, indices: np.ndarray) -> np.ndarray:
    """Positions of the repeated images among those stored at `indices` (n,): int64, increasing.

    Each image of the data set as stored has a random number of its own, and those with the smallest numbers are
    repeated.  So the choice does not depend on classes, and exactly ``data.duplicates.share`` of the images are
    repeated, up to rounding.  A larger share of the same images repeats further ones.
    """
    numbers = raw(REPETITIONS, seed, replicate, 0, int(indices.max(initial=-1)) + 1)[indices]
    return np.sort(np.argsort(numbers, kind="stable")[: data.duplicates.repeated(len(indices))])


def _drawn(members: np.ndarray, data: Data, seed: int, replicate: int, stratum: int) -> np.ndarray:
    if data.draw == "first":
        return members
    return members[np.argsort(raw(ORDER, seed, replicate, stratum, len(members)), kind="stable")]


def raw(purpose: int, seed: int, replicate: int, stratum: int, count: int) -> np.ndarray:
    """Uniform random integers, uint64 (count,); a larger `count` only appends to them.

    The raw stream of a bit generator is the same in every version of NumPy.  Its permutations need not be.
    """
    return np.random.Philox(np.random.SeedSequence([purpose, seed, replicate, stratum])).random_raw(count)
