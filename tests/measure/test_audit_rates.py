"""Rates of an audit: intervals, the excess over held-out images, and the answer."""

from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from emmeter.measure.audit import answer, by_ratio, excess, nearer, overall, rate
from emmeter.measure.proximity import Nearest


@pytest.mark.parametrize(("count", "of"), [(1, 10), (5, 10), (9, 10), (12, 1000)])
def test_intervals_are_exact(count, of):
    known = binomtest(count, of).proportion_ci(0.95, "exact")
    assert (rate(count, of).low, rate(count, of).high) == pytest.approx((known.low, known.high))


@pytest.mark.parametrize("of", [1, 30, 299, 5000])
def test_at_none_or_all_the_limit_is_one_sided(of):
    none, every = rate(0, of), rate(of, of)
    assert none.low == 0 and binom.cdf(0, of, none.high) == pytest.approx(0.05)
    assert every.high == 1 and binom.sf(of - 1, of, every.low) == pytest.approx(0.05)


def test_299_images_without_a_copy_are_the_fewest_below_one_percent():
    assert answer(rate(0, 299), 0.01) == "below"
    assert answer(rate(0, 298), 0.01) == "undecided"


def test_the_answer_follows_the_interval():
    assert answer(rate(40, 1000), 0.01) == "above"
    assert answer(rate(12, 1000), 0.01) == "undecided"
    assert answer(rate(2, 1000), 0.01) == "below"
    assert answer(rate(0, 1000), 0.0) == "undecided"
    assert overall(["below", "undecided", "below"]) == "undecided"
    assert overall(["undecided", "above"]) == "above" and overall(["below"]) == "below"


def test_with_held_out_images_the_excess_counts():
    assert answer(rate(96, 500), 0.01, rate(71, 400)) == "undecided"
    assert answer(rate(137, 500), 0.01, rate(71, 400)) == "above"
    assert answer(rate(500, 10_000), 0.01, rate(500, 10_000)) == "below"
    assert answer(rate(0, 500), 0.01, rate(0, 10)) == "below"
    assert answer(rate(15, 500), 0.01, rate(0, 10)) == "undecided"


def test_the_excess_agrees_with_newcombes_example():
    difference = excess(rate(56, 70), rate(48, 80))  # Newcombe 1998, table II, example (a), method 10
    assert difference.value == pytest.approx(0.2)
    assert (difference.low, difference.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_nearer_counts_ties_apart():
    share = nearer(np.array([1, 2, 3, 4]), np.array([2, 2, 4, 3]), 300, 100)
    assert share.share is not None and (share.share.count, share.share.of) == (2, 3)
    assert share.ties == 1 and share.expected == 0.75
    assert nearer(np.array([1]), np.array([1]), 1, 1).share is None


def test_the_ratio_is_compared_exactly():
    squared = np.array([[1, 9], [1, 10], [0, 5]])
    nearest = Nearest(np.zeros(3, int), np.ones(3, int), squared, np.zeros(3, bool))
    assert by_ratio(nearest, Fraction(1, 3)).tolist() == [False, True, True]
