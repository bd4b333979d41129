"""The law of the training budget: identities, recovery of a known law, and the coverage of its forecasts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emmeter.measure.budget import Law, exponent, fit, forecast, measured_over_forecast
from emmeter.measure.contrasts import Contrast
from emmeter.measure.estimate import Estimate

LAW = Law(8000.0, 600.0, 12.0)
IMAGES = [24_000.0, 48_000.0, 96_000.0, 192_000.0, 384_000.0, 768_000.0]
coefficients = st.just(0.0) | st.floats(1e-3, 1e5)


def interval(emm: float, error: float) -> Estimate:
    """An EMM whose log2 has a standard error of `error`."""
    return Estimate(emm, emm * 2 ** (-1.96 * error), emm * 2 ** (1.96 * error), "estimated")


@given(fixed=coefficients, linear=coefficients, quadratic=coefficients, n=st.floats(2, 1e5))
def test_emm_inverts_images(fixed, linear, quadratic, n):
    law = Law(fixed, linear, quadratic)
    rest = law.images(n) - fixed
    if rest > 1e-6 * fixed:  # otherwise rounding leaves nothing beside the fixed cost
        assert law.emm(law.images(n)) == pytest.approx(n, rel=1e-5)


def test_a_law_of_a_fixed_cost_alone_has_no_limit():
    assert Law(100, 0, 0).emm(101) == math.inf


def test_a_budget_below_the_fixed_cost_memorizes_nothing():
    assert LAW.emm(8000) == LAW.emm(100) == 0


def local(law: Law, images: float) -> float:
    """Slope of log EMM against log images."""
    return math.log(law.emm(1.01 * images) / law.emm(images)) / math.log(1.01)


def test_the_local_exponent_is_that_of_the_largest_term():
    assert local(Law(0, 500, 0), 1e5) == pytest.approx(1)
    assert local(Law(0, 0, 3), 1e5) == pytest.approx(0.5)
    assert local(Law(8000, 500, 0), 1e5) > 1.05  # a fixed cost weighs less, the larger the budget
    slopes = [local(LAW, images) for images in IMAGES]
    assert slopes == sorted(slopes, reverse=True) and slopes[0] > 1 > slopes[-1] > 0.5


@pytest.mark.parametrize("law", [LAW, Law(0, 700, 9), Law(5000, 0, 20), Law(5000, 900, 0)])
def test_an_exact_curve_gives_its_law(law):
    found = fit(IMAGES, [law.emm(images) for images in IMAGES], [0.1] * 6)
    assert [found.fixed, found.linear, found.quadratic] == pytest.approx(
        [law.fixed, law.linear, law.quadratic], rel=1e-6, abs=1e-6
    )


def test_coefficients_are_never_negative():
    law = fit(IMAGES[:4], [10, 40, 160, 640], [0.1] * 4)  # EMM grows with the square of the budget
    assert min(law.fixed, law.linear, law.quadratic) == 0


def test_an_arm_with_a_wide_interval_counts_less():
    emms = [LAW.emm(images) for images in IMAGES[:5]]
    emms[2] *= 1.5
    narrow, wide = (fit(IMAGES[:5], emms, [0.1, 0.1, error, 0.1, 0.1]) for error in (0.1, 10))
    truth = LAW.emm(IMAGES[5])
    assert abs(wide.emm(IMAGES[5]) - truth) < 0.01 * truth < abs(narrow.emm(IMAGES[5]) - truth)


def test_too_few_arms_determine_no_law():
    with pytest.raises(ValueError, match="3 coefficients, and there are only 2 arms"):
        fit(IMAGES[:2], [10, 20], [0.1, 0.1])


def test_a_forecast_is_repeatable_and_wider_further_away():
    arms = [interval(LAW.emm(images), 0.08) for images in IMAGES[:4]]
    first, again = (forecast(IMAGES[:4], arms, IMAGES) for _ in range(2))
    assert first == again
    inside, next_, after = (first.emms[i] for i in (1, 4, 5))
    assert [side.emm for side in first.emms] == pytest.approx([LAW.emm(images) for images in IMAGES], rel=1e-6)
    widths = [math.log2((side.high or 0) / (side.low or 1)) for side in (inside, next_, after)]
    assert widths == sorted(widths)


def test_forecasts_cover_the_truth():
    """95 % intervals of forecasts from noisy EMMs; over 120 repetitions the share lies above 0.88 (3 errors)."""
    rng = np.random.default_rng(5)
    held = []
    for _ in range(120):
        arms = [interval(LAW.emm(images) * 2 ** rng.normal(0, 0.1), 0.1) for images in IMAGES[:5]]
        expected = forecast(IMAGES[:5], arms, IMAGES[5:]).emms[0]
        held.append((expected.low or 0) <= LAW.emm(IMAGES[5]) <= (expected.high or 0))
    assert 0.88 <= np.mean(held) <= 1


def test_measured_over_forecast_combines_both_intervals():
    ratio = measured_over_forecast(interval(120, 0.05), interval(100, 0.12))
    half = 1.96 * math.hypot(0.05, 0.12)
    assert ratio.ratio == pytest.approx(1.2)
    assert (ratio.low, ratio.high) == pytest.approx((1.2 * 2**-half, 1.2 * 2**half))


def test_a_forecast_of_nothing_has_no_ratio():
    assert measured_over_forecast(interval(120, 0.05), Estimate(0.0, 0.0, 1.0, "estimated")).ratio is None


def test_local_exponent():
    assert exponent(Contrast(2.0, 1.5, 4.0), 96_000, 24_000) == pytest.approx((0.5, math.log2(1.5) / 2, 1.0))
    assert exponent(Contrast(2.0, 1.5, 4.0), 24_000, 96_000) == pytest.approx((-0.5, -1.0, -math.log2(1.5) / 2))
    assert exponent(Contrast(None, 1.0, math.inf), 96_000, 24_000) is None
