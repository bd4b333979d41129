"""Onset of memorization: where a run crosses the level, and the exponent of its growth with N."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import linregress
from scipy.stats import t as student

from emmeter.measure.onset import LEVEL, Growth, growth, onset


def snapshots(*points: tuple[int, float]) -> list[dict[str, float]]:
    return [{"images_seen": seen, "ratio": ratio} for seen, ratio in points]


# Onset of one run


@pytest.mark.parametrize(
    ("points", "level", "expected"),
    [
        ([(1000, 0.0), (4000, 1.0)], 0.5, 2000),  # halfway in log images
        ([(1000, 0.25), (2000, 0.75)], 0.5, 1000 * math.sqrt(2)),
        ([(1000, 0.4), (8000, 0.8)], 0.5, 1000 * 8**0.25),
        ([(1000, 0.0), (4000, 1.0)], 0.25, 1000 * 4**0.25),
        ([(500, 0.0), (1000, 0.2), (2000, 0.5), (4000, 0.9)], 0.5, 2000),  # reached at a snapshot itself
        ([(1000, 0.1), (2000, 0.9), (4000, 0.3), (8000, 0.9)], 0.5, 1000 * 2**0.5),  # the first crossing counts
    ],
)
def test_onset_is_interpolated_in_log_images(points, level, expected):
    images, note = onset(snapshots(*points), level)
    assert images == pytest.approx(expected)
    assert note == ""


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 100), min_size=2, max_size=8), st.integers(1, 10**6))
def test_onset_lies_between_the_snapshots_around_it(percents, first):
    points = [(first * 2**i, percent / 100) for i, percent in enumerate(percents)]
    images, note = onset(snapshots(*points))
    reaching = [i for i, percent in enumerate(percents) if percent >= 100 * LEVEL]
    assert (images is None) == bool(note) == (not reaching or reaching[0] == 0)
    if images is not None:
        assert points[reaching[0] - 1][0] * (1 - 1e-9) < images <= points[reaching[0]][0] * (1 + 1e-9)


@pytest.mark.parametrize("points", [[(500, 0.6), (1000, 1.0)], [(500, 0.5)], [(0, 0.0), (1000, 1.0)], [(0, 1.0)]])
def test_onset_before_the_first_snapshot_is_no_number(points):
    assert onset(snapshots(*points)) == (None, "set in before the first snapshot")


@pytest.mark.parametrize("points", [[], [(500, 0.49)], [(500, 0.0), (1000, 0.3)]])
def test_onset_that_never_comes_is_no_number(points):
    assert onset(snapshots(*points)) == (None, "has not set in by the end")


# Growth with N


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.7, -0.3])
def test_an_exact_power_law_gives_its_exponent(exponent):
    sizes = [250, 500, 500, 1000, 2000]
    fit = growth(sizes, [7.0 * n**exponent for n in sizes])
    assert fit == Growth(*[pytest.approx(exponent, abs=1e-7)] * 3, 5)


def test_growth_is_least_squares_with_its_t_interval():
    sizes, onsets = [250, 250, 500, 1000, 2000], [900.0, 1100.0, 2300.0, 3500.0, 8100.0]
    expected = linregress(np.log2(sizes), np.log2(onsets))
    half = student.ppf(0.975, 3) * expected.stderr
    fit = growth(sizes, onsets)
    assert fit is not None
    assert (fit.exponent, fit.low, fit.high) == pytest.approx(
        (expected.slope, expected.slope - half, expected.slope + half)
    )


def test_runs_without_an_onset_are_left_out_and_counted():
    fit = growth([100, 250, 500, 1000, 4000], [None, 250.0, 500.0, 1000.0, None])
    assert fit == Growth(*[pytest.approx(1.0)] * 3, 3, 2)
    assert growth([100, 250, 500], [None, 250.0, 500.0]) is None


@pytest.mark.parametrize("sizes", [[], [250], [250, 500], [250, 250, 500, 500]])
def test_no_growth_from_fewer_than_three_sizes(sizes):
    assert growth(sizes, [1000.0] * len(sizes)) is None


@pytest.mark.parametrize(("sizes", "exponent"), [([250, 500, 1000, 2000], 1.0), ([100, 200, 400], 0.7)])
def test_growth_interval_covers_the_exponent(sizes, exponent):
    """1,000 simulated studies, two runs per size: 95 % within 0.93..0.97 (standard error 0.007)."""
    rng = np.random.default_rng(3)
    sizes = sorted(sizes * 2)
    held = []
    for _ in range(1000):
        onsets = 20 * np.asarray(sizes) ** exponent * 2 ** rng.normal(0, 0.3, len(sizes))
        fit = growth(sizes, onsets.tolist())
        assert fit is not None
        held.append(fit.low <= exponent <= fit.high)
    print(exponent, np.mean(held))
    assert 0.93 <= np.mean(held) <= 0.97
