"""Other criteria for copies: what each counts, searches under them, and the rank correlation of arms."""

import numpy as np
import pytest

from emmeter.measure.criteria import DEFAULTS, Counter, rank_correlation, under
from emmeter.measure.criterion import neighbours
from emmeter.settings.thresholds import Thresholds
from tests import made_up

RANDOM = np.random.default_rng(0)
TRAIN = RANDOM.integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)
FRESH = np.random.default_rng(1).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
GROUPS = np.arange(20)


def counted(generated, train=TRAIN, spaces=None) -> dict[tuple[str, float], int]:
    near = neighbours(generated, train, GROUPS[: len(train)], 2)
    found = list(Counter(train, GROUPS[: len(train)], spaces or {}).counts(generated, near))
    return {(each.criterion, each.threshold): each.memorized for each in found}


def test_copies_count_under_every_criterion_and_noise_under_none():
    assert set(counted(TRAIN[:7]).values()) == {7}
    assert set(counted(FRESH).values()) == {0}


def test_a_mirror_image_counts_only_where_mirror_images_do():
    counts = counted(TRAIN[:3, ..., ::-1])
    assert counts.pop(("mirrored", 1 / 3)) == 3
    assert set(counts.values()) == {0}


@pytest.mark.parametrize("shift", [10, 20])
def test_an_absolute_distance_is_the_root_mean_square_over_pixels(shift):
    train = np.clip(TRAIN, 0, 200)
    counts = counted(train[:4] + np.uint8(shift), train)
    assert [counts["absolute", threshold] for threshold in DEFAULTS.absolute] == [
        4 if shift < t else 0 for t in DEFAULTS.absolute
    ]


def test_thresholds_of_the_users_choice_are_counted_and_no_others():
    near = neighbours(FRESH, TRAIN, GROUPS, 2)
    wanted = Thresholds(ratio=[0.999], calibrated=[], absolute=[1.0, 255.0], cosine=[])
    found = list(Counter(TRAIN, GROUPS, {"raw": lambda x: x.reshape(len(x), -1) / 1.0}, wanted).counts(FRESH, near))
    assert [(each.criterion, each.threshold) for each in found] == [
        ("ratio", 0.999), ("mirrored", 1 / 3), ("absolute", 1.0), ("absolute", 255.0)
    ]  # fmt: skip
    assert found[0].memorized == sum(near.squared[:, 0] < 0.999**2 * near.squared[:, 1])
    assert [each.memorized for each in found[2:]] == [0, 5]


def test_a_calibrated_distance_is_relative_to_the_surroundings_of_the_match():
    """Training images on a line, 100 grey levels apart."""
    train = np.zeros((3, 1, 8, 8), np.uint8)
    train[1, 0, 0, 0], train[2, 0, 0, 0] = 100, 200
    generated = np.zeros((1, 1, 8, 8), np.uint8)
    generated[0, 0, 0, 0] = 140  # 40 from image 1, whose neighbours are 100 away on average
    counts = counted(generated, train)
    assert [counts["calibrated", threshold] for threshold in (0.3, 0.4, 0.5)] == [0, 0, 1]


def test_the_cosine_sees_what_its_features_see():
    """A network that ignores brightness calls darkened images copies; distances of pixels do not."""

    def centred(images):
        values = images.reshape(len(images), -1).astype(np.float64)
        return values - values.mean(axis=1, keepdims=True)

    train = TRAIN // 2
    counts = counted(train[:4] + np.uint8(100), train, {"centred": centred})
    assert counts["cosine centred", 0.95] == 4
    assert counts["absolute", 32.0] == 0


def test_a_search_under_its_own_counts_is_the_same_search():
    arm = made_up.arm("small", 30.0, 0)
    same = {
        (run["n"], run["replicate"], each["images_seen"]): each["memorized"]
        for run in arm.record["runs"]
        for each in run["snapshots"]
    }
    assert under(arm, same, "last").counts == arm.counts
    none = under(arm, dict.fromkeys(same, 0), "last")
    assert {count.memorized for count in none.counts.values()} == {0}
    assert under(arm, dict(list(same.items())[:-1]), "last") is None


@pytest.mark.parametrize(
    ("second", "expected"),
    [([2, 4, 9], 1), ([9, 4, 2], -1), ([2, None, 9], 1), ([None, 4, None], None), ([5, 5, 5], None)],
)
def test_the_rank_correlation_compares_arms_that_have_both_emms(second, expected):
    assert rank_correlation([10, 20, 30], second) == (None if expected is None else pytest.approx(expected))
