"""Comparison by shape: identities and worked examples, and the coverage of shares at matched positions."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import t as student

from emmeter.measure.contrasts import AtSize, Confirmed, Contrast
from emmeter.measure.estimate import Estimate, fit_line
from emmeter.measure.outcome import Count, logit
from emmeter.measure.scatter import RunVariance
from emmeter.measure.shape import Point, emm, mean_share, odds_ratio, order, ratio, share_at

LEVEL = 0.9


def straight(crossing: float, slope: float, sizes: list[int], error: float = 0.0) -> list[Point]:
    """Points on a curve that is straight in the logit against log2 N."""
    return [Point(n, float(expit(logit(LEVEL) + slope * math.log2(n / crossing))), error) for n in sizes]


# EMM of a published curve


@given(st.floats(600, 4500), st.floats(-4, -0.5))
def test_a_straight_curve_crosses_where_it_should(crossing, slope):
    found = emm(straight(crossing, slope, [500, 1000, 2000, 5000]), LEVEL)
    assert found.status == "estimated"
    assert (found.emm, found.low, found.high) == pytest.approx((crossing,) * 3)


def test_the_crossing_is_interpolated_in_the_logit():
    """From 95 % at 1,000 to 80 % at 4,000 images: logits 2.944 and 1.386, the level 2.197."""
    found = emm([Point(1000, 0.95, 0.01), Point(4000, 0.8, 0.01)], LEVEL)
    share = (2.94444 - 2.19722) / (2.94444 - 1.38629)
    assert found.emm == pytest.approx(1000 * 4**share, rel=1e-4)
    lower, higher = ([Point(1000, 0.95 + e, 0), Point(4000, 0.8 + e, 0)] for e in (-0.01, 0.01))
    assert found.low == pytest.approx(emm(lower, LEVEL).emm)
    assert found.high == pytest.approx(emm(higher, LEVEL).emm)


def test_an_error_across_the_level_extends_the_line_beyond_its_points():
    found = emm([Point(1000, 0.905, 0.01), Point(2000, 0.6, 0.01)], LEVEL)
    assert found.low is not None and found.emm is not None
    assert found.low < 1000 < found.emm


def test_the_last_size_above_the_level_counts():
    assert emm([Point(1, 0.8, 0), Point(2, 0.95, 0), Point(4, 0.9, 0), Point(8, 0.5, 0)], LEVEL).emm == pytest.approx(4)


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([0.95, 0.92], Estimate(None, 2000.0, None, "at_least")),
        ([0.88, 0.70], Estimate(None, None, 1000.0, "below")),
        ([0.95, 0.905], Estimate(None, None, None, "undetermined")),
        ([0.895, 0.7], Estimate(None, None, None, "undetermined")),
    ],
)
def test_a_curve_on_one_side_leaves_a_limit_if_it_is_clear(ratios, expected):
    assert emm([Point(n, r, 0.01) for n, r in zip((1000, 2000), ratios, strict=True)], LEVEL) == expected


def test_a_ratio_of_one_has_a_place_on_the_curve():
    found = emm([Point(1000, 1.0, 0.01), Point(2000, 0.6, 0.01)], LEVEL)
    assert found.low is not None and found.emm is not None and found.high is not None
    assert 1000 < found.low < found.emm < found.high < 2000


# Ratios


def test_ratios_of_bounds_are_limits():
    one, two = Estimate(1000.0, 900.0, 1100.0, "estimated"), Estimate(2000.0, 1800.0, 2200.0, "estimated")
    above, below = Estimate(None, 5000.0, None, "at_least"), Estimate(None, None, 500.0, "below")
    assert ratio(two, one).ratio == pytest.approx(2)
    assert ratio(above, one) == Contrast(None, 5000 / 1100, math.inf)
    assert ratio(one, above) == Contrast(None, 0.0, 1100 / 5000)
    assert ratio(below, one) == Contrast(None, 0.0, 500 / 900)
    assert ratio(one, below) == Contrast(None, 900 / 500, math.inf)
    assert ratio(above, below) == Contrast(None, 10.0, math.inf)
    assert ratio(above, above) == Contrast(None, 0.0, math.inf)


def test_odds_by_hand():
    """Odds of 1 (0.5) and 3 (0.75); errors of 0.1 reach odds of 2/3 to 3/2, and 0.65/0.35 to 0.85/0.15."""
    found = odds_ratio(Point(10, 0.5, 0.1), Point(10, 0.75, 0.1))
    assert found.ratio == pytest.approx(1 / 3)
    down = math.hypot(math.log(3 / 2), math.log(0.85 / 0.15 / 3))
    up = math.hypot(math.log(3 / 2), math.log(3 / (0.65 / 0.35)))
    assert (found.low, found.high) == pytest.approx((math.exp(-down) / 3, math.exp(up) / 3))


@given(st.floats(0.02, 0.98), st.floats(0.02, 0.98), st.floats(0.001, 0.05))
def test_odds_the_other_way_round_are_the_inverse(a, b, error):
    found, inverse = (odds_ratio(Point(9, x, error), Point(9, y, error)) for x, y in ((a, b), (b, a)))
    assert found.ratio is not None
    assert inverse.ratio == pytest.approx(1 / found.ratio)
    assert inverse.low == pytest.approx(1 / found.high if found.high < math.inf else 0)


def test_no_copies_leave_a_limit():
    none, some, all_ = Point(10, 0.0, 0.02), Point(10, 0.5, 0.1), Point(10, 1.0, 0.02)
    found = odds_ratio(none, some)
    assert (found.ratio, found.low) == (None, 0.0)
    assert found.high == pytest.approx(0.02 / 0.98 / (0.4 / 0.6))
    found = odds_ratio(all_, some)
    assert (found.ratio, found.high) == (None, math.inf)
    assert found.low == pytest.approx(0.98 / 0.02 / (0.6 / 0.4))
    assert odds_ratio(some, none).high == math.inf
    assert odds_ratio(Point(10, 0.01, 0.02), some).low == 0.0


MORE, LESS, EQUAL = Contrast(2.0, 1.5, 2.5), Contrast(None, 0.0, 0.8), Contrast(1.1, 0.9, 1.4)


@pytest.mark.parametrize(
    ("published", "ours", "expected"),
    [
        (MORE, MORE, "same"), (LESS, LESS, "same"), (MORE, LESS, "opposite"), (LESS, MORE, "opposite"),
        (MORE, EQUAL, "open"), (EQUAL, LESS, "open"), (EQUAL, EQUAL, "open"),
    ],
)  # fmt: skip
def test_order_is_open_unless_both_tell_the_arms_apart(published, ours, expected):
    assert order(published, ours) == expected


# Shares at matched positions


def arm(sizes: list[int], logits: list[float], variance: float = 0.25, df: float = 1e9) -> Confirmed:
    """An arm with these runs, up to the rounding of its counts."""
    counts = [Count(round(1e6 * expit(value)), 1_000_000) for value in logits]
    line = fit_line(sizes, counts)
    assert line is not None
    crossing = (logit(LEVEL) - line.intercept) / line.slope
    x = np.log2(sizes)
    residuals = np.array([count.logit for count in counts]) - line.intercept - line.slope * x
    return Confirmed(tuple(range(len(sizes))), x, residuals, line, crossing, RunVariance(variance, df, False))


def runs(crossing: float, slope: float, noise=(0.0,) * 4, sizes=(16, 16, 64, 64)) -> Confirmed:
    values = [logit(LEVEL) + slope * math.log2(n / crossing) + e for n, e in zip(sizes, noise, strict=True)]
    return arm(list(sizes), values)


@given(st.floats(-2, 2), st.floats(16, 64), st.floats(16, 64), st.floats(-3, -1))
def test_a_straight_arm_has_its_share_at_the_multiple(octaves, baseline, crossing, slope):
    share = share_at(octaves, runs(crossing, slope), runs(baseline, -2.0))
    assert share.ratio == pytest.approx(
        expit(logit(LEVEL) + slope * (math.log2(baseline / crossing) + octaves)), abs=1e-3
    )
    assert share.low <= share.ratio <= share.high  # equal where an arm is its own baseline


def test_the_first_arm_has_exactly_the_level_at_its_own_emm():
    baseline = runs(30, -2.5, (0.3, -0.2, 0.1, 0.4))
    share = share_at(0.0, baseline, baseline)
    assert (share.ratio, share.low, share.high) == pytest.approx((LEVEL,) * 3)


def test_the_first_arm_away_from_its_emm_has_only_the_error_of_its_slope():
    """At two octaves; the slope's variance is 0.25 / 4, since the sizes are one octave from their mean."""
    baseline = runs(30, -2.5, (0.3, -0.2, 0.1, 0.4))
    share = share_at(2.0, baseline, baseline)
    half = student.ppf(0.975, 1e9) * 2 * math.sqrt(0.25 / 4)
    assert logit(share.high) - logit(share.ratio) == pytest.approx(half, rel=1e-3)
    assert logit(share.ratio) - logit(share.low) == pytest.approx(half, rel=1e-3)


def test_another_arm_adds_the_error_of_the_position():
    """At the mean size of both arms: 0.25 / 4 for the line, and the same times the squared ratio of slopes."""
    share = share_at(0.0, runs(32, -3.0), runs(32, -2.0))
    half = student.ppf(0.975, 1e9) * math.sqrt(0.25 / 4 * (1 + (3 / 2) ** 2))
    assert logit(share.high) - logit(share.ratio) == pytest.approx(half, rel=1e-3)


def test_degrees_of_freedom_are_satterthwaites():
    one, other = (replace(runs(32, -2.0), variance=RunVariance(0.25, df, False)) for df in (4.0, 12.0))
    other = replace(other, replicates=(7, 8, 9, 10))  # not the very same runs
    share = share_at(0.0, one, other)
    df = 4 / (1 / 4 + 1 / 12)  # two equal parts
    half = student.ppf(0.975, df) * math.sqrt(0.25 / 4 * 2)
    assert logit(share.high) - logit(share.ratio) == pytest.approx(half, rel=1e-3)


def test_intervals_cover_the_share():
    """Runs with known scatter: 95 % intervals hold the true share in 93 to 98 % of cases, also off the sizes."""
    generator = np.random.default_rng(0)
    truth = float(expit(logit(LEVEL) - 3.0 * (math.log2(30 / 40) + 1.0)))
    held = 0
    for _ in range(1000):
        shares = share_at(1.0, runs(40, -3.0, generator.normal(0, 0.5, 4)), runs(30, -2.5, generator.normal(0, 0.5, 4)))
        held += shares.low <= truth <= shares.high
    assert 0.93 <= held / 1000 <= 0.98


@pytest.mark.parametrize(("octaves", "beyond"), [(0.0, 0.0), (1.0, 0.0), (1.5, 0.5), (-2.0, 1.0)])
def test_distance_from_the_confirming_sizes(octaves, beyond):
    """The EMM of the first arm is 32, the confirming sizes are 16 and 64."""
    assert share_at(octaves, runs(20, -2.0), runs(32, -2.0)).beyond == pytest.approx(beyond, abs=1e-4)


def test_the_share_at_one_size_by_hand():
    share = mean_share(AtSize({0: 1.0, 1: 2.0}, RunVariance(0.5, 6.0, False)))
    half = student.ppf(0.975, 6) * math.sqrt(0.5 / 2)
    assert (share.low, share.ratio, share.high) == pytest.approx(tuple(expit([1.5 - half, 1.5, 1.5 + half])))
    assert share.beyond == 0
