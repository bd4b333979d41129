"""Nearest training images in blocks: exact for sets of any size in bounded memory, with groups and mirror images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from emmeter.measure import engines
from emmeter.measure.criterion import fold
from emmeter.measure.engines.contract import blocks

TICK = 2**38  # pixel differences between two signs of progress
FEWEST, PART_BYTES = 512, 2**27  # images of a part, so that products of matrices stay fast, and most bytes of a part
DEEP = 2**24  # neighbours that are held at once while a second neighbour is searched in other groups
FAR = np.iinfo(np.int64).max


class Pictures(Protocol):
    """Images that can be read in parts."""

    def __len__(self) -> int: ...
    def rows(self, part: slice) -> np.ndarray: ...
    def take(self, positions: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Training:
    """Training images, and which of them count as the same.

    Attributes:
        images: N images.
        same: (N,) int64, position of the first image that is equal to each (its own if there is none before it).
        kin: (N,) int64, equal for images of one group, which are no second neighbours of each other.
    """

    images: Pictures
    same: np.ndarray
    kin: np.ndarray

    @property
    def distinct(self) -> np.ndarray:
        """(n,) int64, positions of the images that differ from all before them."""
        return np.flatnonzero(self.same == np.arange(len(self.same)))


@dataclass(frozen=True)
class Blocks:
    """Numbers of images that are compared at once.

    Attributes:
        queries: images for which neighbours are sought.
        training: training images.
    """

    queries: int
    training: int


@dataclass(frozen=True)
class Nearest:
    """Nearest training images of m images.

    Attributes:
        first: (m,) int64, position of the nearest training image.
        second: (m,) int64, position of the nearest image of another group.
        squared: (m, 2) int64, squared distances to both, in grey levels.
        mirrored: (m,) bool, whether the mirror image of the nearest training image is meant.
    """

    first: np.ndarray
    second: np.ndarray
    squared: np.ndarray
    mirrored: np.ndarray

    @property
    def ratio(self) -> np.ndarray:
        """(m,) float64 d1/d2."""
        return np.sqrt(self.squared[:, 0] / self.squared[:, 1])


def numbered(names: list[str] | None, same: np.ndarray) -> np.ndarray:
    """(N,) int64 numbers of groups by name; an image without a name is a group of its own, with its duplicates.

    Args:
        names: name of each image's group, empty if it has none; None if no image has one.
        same: as of `Training`.
    """
    if names is None:
        return same
    first: dict[str, int] = {}
    return np.array(
        [first.setdefault(name, index) if name else int(same[index]) for index, name in enumerate(names)], np.int64
    )


def first_equal(digests: list[bytes], mirrored: list[bytes] | None = None) -> np.ndarray:
    """(N,) int64, position of the first image equal to each, from digests of the images.

    Args:
        digests: of the images.
        mirrored: of their mirror images, which count as equal; None if they do not.
    """
    if mirrored is not None:
        digests = [min(pair) for pair in zip(digests, mirrored, strict=True)]
    first: dict[bytes, int] = {}
    return np.fromiter((first.setdefault(digest, i) for i, digest in enumerate(digests)), np.int64, len(digests))


class Search:
    """Searches among the same training images, with one engine."""

    def __init__(
        self, training: Training, sizes: Blocks, mirrored: bool = False, tick: Callable[[int], None] = lambda _: None
    ):
        """Prepare searches.

        Args:
            training: the training images.
            sizes: numbers of images that are compared at once.
            mirrored: whether the nearer of a training image and its mirror image counts.
            tick: called with the number of pairs of images that have been compared since its last call.
        """
        self._training, self._blocks, self._mirrored, self._tick = training, sizes, mirrored, tick
        self._distinct = training.distinct
        self._kin = training.kin[self._distinct]
        self._sizes = dict(zip(*(part.tolist() for part in np.unique(self._kin, return_counts=True)), strict=True))
        self._grouped = len(self._sizes) < len(self._distinct)
        self._searcher: engines.Searcher | None = None

    def nearest(self, queries: Pictures) -> Nearest:
        """The nearest training image of each query, and the nearest one of another group.

        Raises:
            ValueError: there are fewer than two groups of distinct images, so that no second neighbour exists.
        """
        if len(self._sizes) < 2:
            raise ValueError("fewer than two groups of distinct training images: d2 does not exist")
        depth = min(8 if self._grouped else 2, len(self._distinct))
        indices, squared, mirrored = self._neighbours(queries, depth)
        first, own = indices[:, 0], self._kin_of(indices[:, 0])
        others, far = self._others(queries, indices, squared, own, 1)
        return Nearest(first, others[:, 0], np.stack([squared[:, 0], far[:, 0]], axis=1), mirrored[:, 0])

    def two_nearest(self, queries: Pictures) -> Nearest:
        """The two nearest distinct training images of each query, in spite of groups.

        Without a second distinct image its position is -1 and its squared distance FAR.
        """
        indices, squared, mirrored = self._neighbours(queries, min(2, len(self._distinct)))
        if indices.shape[1] == 1:
            indices = np.pad(indices, ((0, 0), (0, 1)), constant_values=-1)
            squared = np.pad(squared, ((0, 0), (0, 1)), constant_values=FAR)
        return Nearest(indices[:, 0], indices[:, 1], squared, mirrored[:, 0])

    def distances(self, queries: Pictures) -> np.ndarray:
        """(m,) int64 squared distance of each query to the nearest training image."""
        return self._neighbours(queries, 1)[1][:, 0]

    def surroundings(self, positions: np.ndarray, count: int) -> np.ndarray:
        """Mean distance of training images to their nearest `count` training images of other groups.

        Args:
            positions: (p,) int64, positions of distinct training images.
            count: number of neighbours; fewer if there are not as many images in other groups.
        Returns:
            (p,) float64, in grey levels (l2).
        """
        queries = _Part(self._training.images, positions)
        own = self._kin_of(positions)
        most = len(self._distinct) - np.array([self._sizes[kin] for kin in own.tolist()])
        count = min(count, int(most.max(initial=1)))
        indices, squared, _ = self._neighbours(queries, min(count + 1, len(self._distinct)))
        _, far = self._others(queries, indices, squared, own, count)
        present = far < FAR
        return np.where(present, np.sqrt(np.where(present, far, 0)), 0).sum(axis=1) / present.sum(axis=1)

    def _kin_of(self, positions: np.ndarray) -> np.ndarray:
        return self._training.kin[positions]

    def _others(
        self, queries: Pictures, indices: np.ndarray, squared: np.ndarray, own: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The `count` nearest images of other groups than `own`.

        Where too few of the known neighbours are of other groups, the search is repeated for as many neighbours as the
        group has images, and `count` more: these are enough.
        """
        others = np.full((len(indices), count), -1, np.int64)
        far = np.full((len(indices), count), FAR)
        missing = _keep_others(indices, squared, self._kin_of(indices) != own[:, None], others, far)
        if indices.shape[1] >= len(self._distinct):
            return others, far  # all images are known neighbours
        needed = np.array([self._sizes[kin] for kin in own[missing].tolist()], np.int64) + count
        needed = np.minimum(needed, len(self._distinct))
        order = np.argsort(needed, kind="stable")  # so that few images are searched deeply
        missing, needed = missing[order], needed[order]
        while len(missing):
            batch = max(1, int(np.searchsorted(np.cumsum(needed), DEEP, side="right")))
            part, depth = missing[:batch], int(needed[:batch][-1])
            indices, squared, _ = self._neighbours(_Part(queries, part), depth)
            found, reached = np.full((len(part), count), -1, np.int64), np.full((len(part), count), FAR)
            _keep_others(indices, squared, self._kin_of(indices) != own[part, None], found, reached)
            others[part], far[part] = found, reached
            missing, needed = missing[batch:], needed[batch:]
        return others, far

    def _neighbours(self, queries: Pictures, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The nearest distinct images: (m, k) positions, squared distances, and whether the mirror image is meant."""
        count = len(queries)
        if self._searcher is None:
            self._searcher = engines.Searcher(queries.rows(slice(0, 1)).size * count * len(self._distinct))
        kept = (np.zeros((count, k), np.int64), np.full((count, k), FAR), np.zeros((count, k), bool))
        for rows in blocks(count, self._blocks.queries):
            images = queries.rows(rows)
            most = max(1, PART_BYTES // images[0].size)
            best = [part[rows] for part in kept]
            for columns, base in self._bases():
                for part in blocks(len(images), min(most, max(FEWEST, TICK // base.size))):
                    found = self._compared(self._searcher, images[part], base, min(k, len(base)))
                    found = (columns[found[0]], *found[1:])
                    joined = [np.concatenate([mine[part], new], axis=1) for mine, new in zip(best, found, strict=True)]
                    order = np.lexsort((joined[0], joined[1]), axis=1)[:, :k]
                    for mine, values in zip(best, joined, strict=True):
                        mine[part] = np.take_along_axis(values, order, 1)
                    self._tick((part.stop - part.start) * len(base))
            del images  # before the next ones are read
        return kept

    def _bases(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Distinct training images in blocks: their positions, and the images as (n, d)."""
        for columns in blocks(len(self._training.images), self._blocks.training):
            low, high = np.searchsorted(self._distinct, (columns.start, columns.stop))
            positions = self._distinct[low:high]
            if len(positions):
                base = self._training.images.rows(columns)
                if len(positions) < len(base):
                    base = base[positions - columns.start]
                yield positions, base.reshape(len(base), -1)
                del base

    def _compared(
        self, searcher: engines.Searcher, images: np.ndarray, base: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Neighbours of images (m, C, H, W) in one block: (m, k) positions, squared distances, mirrored or not."""
        asked = np.concatenate([images, images[..., ::-1]]) if self._mirrored else images
        asked = asked.reshape(len(asked), -1)
        indices, squared, _ = searcher.nearest(asked, base, k)
        if self._mirrored:
            return fold(indices, squared)
        return indices, squared, np.zeros(indices.shape, bool)


def merged(parts: Sequence[Nearest], same: np.ndarray) -> Nearest:
    """The two nearest distinct training images of all, from the two nearest of every part of the training images.

    This is exact: an image that is not among the two nearest of its part has two nearer ones there.

    Args:
        parts: nearest images of each part, with positions among all training images, as of `Search.two_nearest`.
        same: (N,) int64, as of `Training`, of all training images.
    Raises:
        ValueError: there are fewer than two distinct images.
    """
    positions = np.concatenate([np.stack([part.first, part.second], axis=1) for part in parts], axis=1)
    squared = np.concatenate([part.squared for part in parts], axis=1)
    mirrored = np.concatenate([np.stack([part.mirrored, part.mirrored], axis=1) for part in parts], axis=1)
    positions = np.where(positions < 0, -1, same[positions])
    order = np.lexsort((positions, squared), axis=1)  # stable: of equal images that of the first part leads
    positions, squared, mirrored = (np.take_along_axis(each, order, 1) for each in (positions, squared, mirrored))
    other = (positions != positions[:, :1]) & (positions >= 0)
    if not other.any(axis=1).all():
        raise ValueError("fewer than two distinct training images: d2 does not exist")
    rows, second = np.arange(len(positions)), other.argmax(axis=1)
    distances = np.stack([squared[:, 0], squared[rows, second]], axis=1)
    return Nearest(positions[:, 0], positions[rows, second], distances, mirrored[:, 0])


def _keep_others(
    indices: np.ndarray, squared: np.ndarray, other: np.ndarray, others: np.ndarray, far: np.ndarray
) -> np.ndarray:
    """Write the first images that are `other` into `others` and `far`; return the rows that have too few of them.

    Args:
        indices, squared: (m, k) positions and squared distances, nearest first.
        other: (m, k) bool.
        others, far: (m, c), changed in place where there are as many.
    """
    rank = np.cumsum(other, axis=1) - 1
    rows, columns = np.nonzero(other & (rank < others.shape[1]))
    others[rows, rank[rows, columns]] = indices[rows, columns]
    far[rows, rank[rows, columns]] = squared[rows, columns]
    return np.flatnonzero(rank[:, -1] + 1 < others.shape[1])


@dataclass(frozen=True)
class _Part:
    """Some of many images."""

    images: Pictures
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    def rows(self, part: slice) -> np.ndarray:
        return self.images.take(self.positions[part])

    def take(self, positions: np.ndarray) -> np.ndarray:
        return self.images.take(self.positions[positions])
