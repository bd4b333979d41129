"""Training images that were copied: counts, and the interval of their share."""

import numpy as np
import pytest

from emmeter.measure.copied import copied


def test_copies_are_counted_per_training_image():
    nearest = np.array([0, 0, 2, 3, 3])
    result = copied(nearest, np.array([True, True, False, True, False]), np.arange(5))
    assert result.counts.tolist() == [2, 0, 0, 1, 0]
    assert (result.train, result.copied, result.share) == (5, 2, 0.4)


def test_duplicates_count_as_one_training_image():
    result = copied(np.array([0, 2, 3]), np.ones(3, bool), np.array([0, 1, 0, 1]))
    assert result.counts.tolist() == [2, 1, 0, 0]
    assert (result.train, result.copied, result.share) == (2, 2, 1.0)


def test_images_that_are_repeated_are_counted_apart_from_the_others():
    """Image 0 stands three times in the training set and has three copies, image 1 twice and none, 2 and 4 once."""
    groups = np.array([0, 1, 2, 0, 4, 1, 0])
    result = copied(np.array([0, 3, 6, 2, 4, 1]), np.array([True, True, True, True, False, False]), groups)
    assert result.times.tolist() == [3, 2, 1, 0, 1, 0, 0]
    assert (result.repeated.images, result.repeated.share, result.repeated.copies) == (2, 0.5, 1.5)
    assert (result.once.images, result.once.share, result.once.copies) == (2, 0.5, 0.5)
    assert result.train == result.repeated.images + result.once.images


def test_without_repeated_images_their_part_is_empty():
    result = copied(np.array([0, 1]), np.ones(2, bool), np.arange(4))
    assert (result.repeated.images, result.repeated.share, result.repeated.copies) == (0, None, None)
    assert (result.once.images, result.once.share, result.once.copies) == (4, 0.5, 0.5)


def test_without_copies_the_interval_still_leaves_room():
    result = copied(np.zeros(50, int), np.zeros(50, bool), np.arange(100))
    assert (result.share, result.low, result.reachable) == (0, 0, 0)
    assert result.high == pytest.approx(0.0384, abs=1e-3)  # the upper limit for 0 events of a Poisson variable


def test_if_every_image_is_copied_often_the_share_is_certain():
    result = copied(np.arange(1000) % 20, np.ones(1000, bool), np.arange(20))
    assert (result.share, result.high, result.reachable) == (1, 1, 20)
    assert result.low == pytest.approx(1, abs=1e-6)


def test_images_that_more_samples_would_copy_are_estimated():
    once = copied(np.arange(30), np.ones(30, bool), np.arange(1000))
    assert once.reachable == 30 + 30 * 29 / 2
    often = copied(np.arange(300) % 30, np.ones(300, bool), np.arange(1000))
    assert often.reachable == 30


@pytest.mark.parametrize("m", [50, 250])
@pytest.mark.parametrize("kind", ["alike", "few", "one", "skewed", "rare"])
def test_the_interval_holds_the_mean_share_in_at_least_95_percent_of_simulations(kind, m):
    random, train = np.random.default_rng(7), 40
    rates = {
        "alike": np.full(train, 0.9 / train),
        "few": np.where(np.arange(train) < 4, 0.2, 0.0),
        "one": np.where(np.arange(train) < 1, 4 / m, 0.0),
        "skewed": 0.9 * (weights := 1 / np.arange(1, train + 1) ** 1.5) / weights.sum(),
        "rare": np.full(train, 0.02 / train),
    }[kind]
    truth = (1 - (1 - rates) ** m).mean()
    images = np.append(rates, 1 - rates.sum())  # the last: no copy
    held = 0
    for _ in range(400):
        drawn = random.choice(train + 1, m, p=images)
        result = copied(np.minimum(drawn, train - 1), drawn < train, np.arange(train))
        held += result.low - 1e-9 <= truth <= result.high + 1e-9
    assert held >= 0.95 * 400 - 9  # 9: two standard deviations of the count
