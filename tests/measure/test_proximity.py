"""Nearest images in blocks, with groups, duplicates and mirror images: the same as by comparing all with all."""

import hashlib
import weakref

import numpy as np
import pytest

from emmeter.measure import engines, proximity
from emmeter.measure.proximity import Blocks, Search, Training, first_equal, numbered


class Held:
    """Images in memory."""

    def __init__(self, images: np.ndarray):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, part: slice) -> np.ndarray:
        return self.images[part]

    def take(self, positions: np.ndarray) -> np.ndarray:
        return self.images[positions]


def digests(images: np.ndarray) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest() for image in images]


def made(seed: int, names: list[str] | None, mirrored: bool) -> tuple[np.ndarray, Training]:
    """40 generated and 60 training images of few grey levels, so that ties, duplicates and mirror images occur."""
    random = np.random.default_rng(seed)
    train = random.integers(0, 3, (60, 1, 2, 3), np.uint8)
    generated = np.concatenate([train[:10], train[10:15, ..., ::-1], random.integers(0, 3, (25, 1, 2, 3), np.uint8)])
    same = first_equal(digests(train), digests(train[..., ::-1]) if mirrored else None)
    return generated, Training(Held(train), same, numbered(names, same))


def every_distance(generated: np.ndarray, train: np.ndarray, mirrored: bool) -> np.ndarray:
    def squared(images: np.ndarray) -> np.ndarray:
        difference = images.astype(np.int64)[:, None] - train.astype(np.int64)
        return (difference**2).reshape(len(images), len(train), -1).sum(-1)

    return np.minimum(squared(generated), squared(generated[..., ::-1])) if mirrored else squared(generated)


GROUPS = {
    "none": None,
    "small": [str(index // 3) for index in range(60)],
    "two": ["a"] * 58 + ["b"] * 2,
    "some": ["a"] * 30 + [""] * 30,
}


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("names", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("sizes", [Blocks(100, 100), Blocks(7, 11), Blocks(1, 60)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_neighbours_equal_those_of_all_comparisons(names, mirrored, sizes, seed, monkeypatch):
    monkeypatch.setattr(proximity, "DEEP", 50)  # several deeper searches
    generated, training = made(seed, names, mirrored)
    search = Search(training, sizes, mirrored)
    nearest = search.nearest(Held(generated))
    distances = every_distance(generated, training.images.rows(slice(None)), mirrored)
    distances[:, training.same != np.arange(60)] = 10**9  # duplicates
    first = distances.argmin(axis=1)
    np.testing.assert_array_equal(nearest.first, first)
    np.testing.assert_array_equal(nearest.squared[:, 0], distances.min(axis=1))
    distances[training.kin[None] == training.kin[first][:, None]] = 10**9
    np.testing.assert_array_equal(nearest.second, distances.argmin(axis=1))
    np.testing.assert_array_equal(nearest.squared[:, 1], distances.min(axis=1))
    np.testing.assert_array_equal(search.distances(Held(generated)), nearest.squared[:, 0])


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("names", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("count", [1, 5, 50])
def test_surroundings_are_means_over_the_nearest_of_other_groups(names, mirrored, count):
    _, training = made(0, names, mirrored)
    train, distinct = training.images.rows(slice(None)), training.distinct
    expected = []
    for position in distinct:
        others = [other for other in distinct if training.kin[other] != training.kin[position]]
        squared = every_distance(train[[position]], train[others], mirrored)[0]
        expected.append(np.sqrt(np.sort(squared)[:count]).mean())
    means = Search(training, Blocks(9, 13), mirrored).surroundings(distinct, count)
    np.testing.assert_allclose(means, expected, rtol=1e-12)


def test_large_images_are_compared_by_the_same_engine_in_all_blocks():
    random = np.random.default_rng(0)
    train, generated = (random.integers(0, 256, (count, 3, 32, 32), np.uint8) for count in (400, 300))
    generated[:20] = train[:20]
    generated[20:40] = np.clip(train[20:40].astype(int) + random.integers(-2, 3, (20, 3, 32, 32)), 0, 255)
    alone = np.arange(400)
    results = [
        Search(Training(Held(train), alone, alone), sizes).nearest(Held(generated))
        for sizes in (Blocks(300, 400), Blocks(70, 90))
    ]
    for one, other in zip(*(vars(result).values() for result in results), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (results[0].first[:40] == alone[:40]).all() and (results[0].ratio[:40] < 0.1).all()


def test_one_group_has_no_second_neighbour():
    generated, training = made(0, ["a"] * 60, False)
    with pytest.raises(ValueError, match="fewer than two groups"):
        Search(training, Blocks(9, 9)).nearest(Held(generated))


def test_progress_counts_all_pairs():
    generated, training = made(0, None, False)
    ticks: list[int] = []
    Search(training, Blocks(7, 11), tick=ticks.append).nearest(Held(generated))
    assert sum(ticks) == len(generated) * len(training.distinct)


class Counted(Held):
    """Images that are copied when they are read, as from a file; `most` is the largest number of copies that lived."""

    def __init__(self, images: np.ndarray):
        super().__init__(images)
        self.most, self._copies = 0, weakref.WeakSet[_Copy]()

    def rows(self, part: slice) -> np.ndarray:
        copy = super().rows(part).copy().view(_Copy)
        if len(copy) > 1:  # not the one image that tells their size
            self._copies.add(copy)
            self.most = max(self.most, len(self._copies))
        return copy


class _Copy(np.ndarray):
    __hash__ = object.__hash__


@pytest.mark.parametrize("mirrored", [False, True])
def test_no_more_blocks_are_held_than_memory_was_planned_for(monkeypatch, mirrored):
    monkeypatch.setattr(engines, "SMALL", 0)  # as in large searches, which choose among engines
    random = np.random.default_rng(0)
    generated, train = (Counted(random.integers(0, 256, (count, 3, 4, 4), np.uint8)) for count in (300, 400))
    same = np.arange(len(train))
    Search(Training(train, same, same), Blocks(60, 80), mirrored).nearest(generated)
    assert (generated.most, train.most) == (1, 2)
