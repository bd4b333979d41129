"""Claims: verdicts from intervals and limits, and the number of further runs."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import norm

from emmeter.measure.claims import POWER, Compare, Side, judge, judge_forecast, judge_growth, worded
from emmeter.measure.contrasts import Contrast
from emmeter.measure.onset import Growth
from emmeter.settings.studies import Finding

INF = math.inf


def claim(expect: str, *arms: str | list[str], margin: float = 1.25, **rest: Any) -> Finding:
    return Finding.model_validate({"claim": "It does", "expect": expect, "arms": list(arms), "margin": margin} | rest)


def fixed(contrasts: dict[tuple[str, str], Contrast]) -> Compare:
    """A comparison with the same contrasts at every confidence."""
    return lambda first, second, confidence: contrasts["+".join(first), "+".join(second)]


def verdict(expect: str, low: float, high: float, ratio: float | None = 1.0, margin: float = 1.25) -> str:
    """The verdict on a claim about two arms, a over b."""
    return judge(claim(expect, "a", "b", margin=margin), fixed({("a", "b"): Contrast(ratio, low, high)}), 4).verdict


# Verdicts


@pytest.mark.parametrize(
    ("low", "high", "more", "less"),
    [
        (1.01, 2, "reproduced", "contradicted"),
        (0.5, 0.99, "contradicted", "reproduced"),
        (0.9, 2, "not resolved", "not resolved"),
        (1, 2, "not resolved", "not resolved"),  # an interval that touches 1 holds it
        (0.5, 1, "not resolved", "not resolved"),
    ],
)
def test_more_and_less(low, high, more, less):
    assert verdict("more", low, high) == more
    assert verdict("less", low, high) == less


@pytest.mark.parametrize(
    ("low", "high", "more"),
    [
        (12.8, INF, "reproduced"),
        (1, INF, "reproduced"),  # >= 640 against < 640
        (0, 1, "contradicted"),
        (0, 0.3, "contradicted"),
        (0.25, 1, "contradicted"),  # < 1000 against >= 1000
        (1, 4, "reproduced"),
        (0.5, 2, "not resolved"),
        (0.8, INF, "not resolved"),
        (0, INF, "not resolved"),
        (1, 1, "not resolved"),
    ],
)
def test_limits_decide_where_they_leave_one_order(low, high, more):
    assert verdict("more", low, high, None) == more
    opposite = {"reproduced": "contradicted", "contradicted": "reproduced"}.get(more, more)
    assert verdict("less", low, high, None) == opposite


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.9, 1.2, "reproduced"),
        (1.05, 1.2, "reproduced"),  # different, but by less than the margin
        (0.7, 1.1, "not resolved"),
        (0.9, 1.25, "not resolved"),  # touches the margin
        (0.8, 1.1, "not resolved"),
        (1.3, 2, "contradicted"),
        (0.3, 0.79, "contradicted"),
        (1.25, 2, "not resolved"),
    ],
)
def test_same_within_a_margin(low, high, expected):
    assert verdict("same", low, high) == expected


def test_limits_may_contradict_but_hardly_show_sameness():
    assert verdict("same", 1.3, INF, None) == "contradicted"
    assert verdict("same", 0, 0.5, None) == "contradicted"
    assert verdict("same", 0, INF, None) == "not resolved"
    assert verdict("same", 0.8, 1.4, margin=1.5) == "reproduced"


def row_of_arms(*steps: tuple[float, float], ends: tuple[float, float]) -> dict[tuple[str, str], Contrast]:
    """Contrasts of arms a, b, c, ...: each with the one before, and the last with the first."""
    names = "abcdef"[: len(steps) + 1]
    middle = [Contrast(math.sqrt(low * high), low, high, True) for low, high in (*steps, ends)]
    pairs = [*zip(names[1:], names, strict=False), (names[-1], names[0])]
    return dict(zip(pairs, middle, strict=True))


@pytest.mark.parametrize(
    ("steps", "ends", "increasing", "decreasing"),
    [
        ([(1.1, 2), (1.1, 2)], (1.5, 3), "reproduced", "contradicted"),
        ([(0.9, 2), (0.8, 2)], (1.2, 3), "reproduced", "contradicted"),  # neighbours may be too close to differ
        ([(1.5, 4), (0.6, 0.9)], (1.1, 3), "contradicted", "contradicted"),  # up and down: neither claim holds
        ([(0.8, 1.3), (0.8, 1.3)], (0.7, 1.6), "not resolved", "not resolved"),
        ([(0.5, 0.9), (0.5, 0.9)], (0.3, 0.8), "contradicted", "reproduced"),
    ],
)
def test_along_a_row_of_arms(steps, ends, increasing, decreasing):
    compare = row_of_arms(*steps, ends=ends)
    judgement = judge(claim("increasing", "a", "b", "c"), fixed(compare), 4)
    assert judgement.verdict == increasing
    assert (judgement.low, judgement.high, judgement.paired) == (*ends, True)  # the effect is that of the ends
    assert judge(claim("decreasing", "a", "b", "c"), fixed(compare), 4).verdict == decreasing


def test_many_steps_are_tested_more_strictly():
    """Each of nine steps at 1 - 0.05/9, the ends at 0.95."""
    asked = []

    def compare(first: Side, second: Side, confidence: float) -> Contrast:
        asked.append((*first, *second, round(confidence, 6)))
        return Contrast(1.0, 0.5, 2.0)

    names = [f"arm-{i}" for i in range(10)]
    judge(claim("increasing", *names), compare, 4)
    assert asked[0] == (names[-1], names[0], 0.95)
    assert asked[1:] == [(b, a, round(1 - 0.05 / 9, 6)) for a, b in itertools.pairwise(names)]


def test_equal_arms_in_a_row_are_seldom_called_reversed():
    """Ten arms of one true EMM, independent estimates: contradicted in 2 to 5 %, not in 19 %."""
    rng, contradicted = np.random.default_rng(5), 0
    names = [f"arm-{i}" for i in range(10)]
    for _ in range(1000):
        logs = dict(zip(names, 0.2 * rng.standard_normal(10), strict=True))

        def compare(first: Side, second: Side, confidence: float, logs=logs) -> Contrast:
            middle, half = logs[first[0]] - logs[second[0]], 0.2 * math.sqrt(2) * norm.ppf((1 + confidence) / 2)
            return Contrast(2**middle, 2 ** (middle - half), 2 ** (middle + half))

        contradicted += judge(claim("increasing", *names), compare, 4).verdict == "contradicted"
    assert contradicted <= 60  # the ends alone contradict in 2.5 %


def test_a_neighbour_that_goes_the_other_way_is_named():
    compare = row_of_arms((1.5, 4), (0.6, 0.9), (1.2, 4), ends=(1.1, 3))
    judgement = judge(claim("increasing", "a", "b", "c", "d"), fixed(compare), 4)
    assert judgement.verdict == "contradicted"
    assert judgement.note == "From b to c it goes the other way."
    assert judgement.further is None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.85, 1.2, "reproduced"),
        (0.7, 1.2, "not resolved"),
        (1.4, 1.9, "contradicted"),
        (-0.2, 0.5, "contradicted"),
        (-0.2, 1.1, "not resolved"),
    ],
)
def test_proportional_from_the_growth_of_the_onset(low, high, expected):
    judgement = judge_growth(claim("proportional", "a", margin=1.3), Growth((low + high) / 2, low, high, 8))
    assert (judgement.verdict, judgement.effect, judgement.low, judgement.high) == (
        expected,
        (low + high) / 2,
        low,
        high,
    )
    assert judgement.note == "Exponent of N, 8 runs."


def test_runs_without_an_onset_are_reported():
    judgement = judge_growth(claim("proportional", "a", margin=1.3), Growth(1.0, 0.9, 1.1, 8, left_out=3))
    assert judgement.note == "Exponent of N, 8 runs; 3 without an onset are left out."


def test_proportional_without_growth_is_not_resolved():
    judgement = judge_growth(claim("proportional", "a"), None)
    assert (judgement.verdict, judgement.effect, judgement.low, judgement.high) == ("not resolved", None, 0, INF)
    assert judgement.note


# Forecasts


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.9, 1.1, "reproduced"), (0.7, 1.1, "not resolved"), (1.3, 1.9, "contradicted"), (0.4, 0.7, "contradicted")],
)
def test_a_forecast_from_measured_over_forecast(low, high, expected):
    middle = math.sqrt(low * high)
    judgement = judge_forecast(claim("forecast", "a", "b", "c", "d"), Contrast(middle, low, high))
    assert (judgement.verdict, judgement.effect, judgement.low, judgement.high) == (expected, middle, low, high)


def test_a_forecast_without_a_ratio_is_not_resolved():
    judgement = judge_forecast(claim("forecast", "a", "b", "c", "d"), Contrast(None, 0, INF, note="none"))
    assert (judgement.verdict, judgement.effect, judgement.note) == ("not resolved", None, "none")


# Means of arms


def test_a_mean_of_arms_is_judged_and_named():
    contrasts = {("a+b+c", "d"): Contrast(1.5, 1.2, 1.8), ("d", "a+b+c"): Contrast(0.7, 0.6, 0.8)}
    assert judge(claim("more", ["a", "b", "c"], "d"), fixed(contrasts), 4).verdict == "reproduced"
    falling = judge(claim("increasing", ["a", "b", "c"], "d"), fixed(contrasts), 4)
    assert falling.note == "From mean of a, b and c to d it goes the other way."


# Further runs


def further(expect: str, ratio: float, half: float, confirm: int = 4, margin: float = 1.25) -> int | None:
    """Further runs for an interval of `half` octaves (a touch less, against rounding) either side of `ratio`."""
    half *= 1 - 1e-9
    contrast = Contrast(ratio, ratio * 2**-half, ratio * 2**half)
    return judge(claim(expect, "a", "b", margin=margin), fixed({("a", "b"): contrast}), confirm).further


@pytest.mark.parametrize(
    ("expect", "ratio", "half", "expected"),
    [
        ("more", 2**0.5, 1.0, 29),  # twice the distance from 1: four times the runs, and twice that for the chance
        ("less", 2**0.5, 1.0, 29),
        ("more", 2**0.5, 0.75, 15),
        ("more", 2**0.5, 0.501, 5),
        ("more", 2**0.01, 1.0, None),  # 40,000 runs
        ("more", 1.0, 1.0, None),
        ("same", 1.0, 1.0, 29),  # the margin of sqrt 2 is half an octave away
        ("same", 2**0.25, 0.5, 29),
        ("same", 2**1.0, 1.0, 29),  # as far outside the margin
        ("more", 2**0.5, 0.25, None),  # resolved
    ],
)
def test_further_runs_narrow_the_interval_by_their_root(expect, ratio, half, expected):
    assert further(expect, ratio, half, margin=math.sqrt(2)) == expected


@hypothesis_settings(max_examples=100, deadline=None, derandomize=True)
@given(
    ratio=st.floats(1.05, 4), excess=st.floats(1.001, 5), confirm=st.integers(4, 20), down=st.booleans()
)  # half width over distance
def test_further_runs_are_the_fewest_that_decide(ratio, excess, confirm, down):
    half = excess * math.log2(ratio)
    number = further("more", 1 / ratio if down else ratio, half, confirm)
    assert number is not None

    def narrowed(runs: int) -> float:
        """Half width, plus the distance by which the estimate may be nearer by chance in one of five cases."""
        return half * (1 + POWER) * math.sqrt(confirm / runs)

    assert narrowed(confirm + number) <= math.log2(ratio) * (1 + 1e-9)
    assert number == 1 or narrowed(confirm + number - 1) > math.log2(ratio) * (1 - 1e-9)


def test_further_runs_decide_with_a_chance_of_80_percent():
    """A true ratio at the estimated one: of 4,000 repetitions with so many runs, 0.78 to 0.83 exclude 1."""
    rng, half, middle = np.random.default_rng(8), 1.0, 0.5
    number = further("more", 2**middle, half, 4)
    assert number is not None
    narrow = half * math.sqrt(4 / (4 + number))
    means = middle + narrow / 1.96 * rng.standard_normal(4000)
    assert np.mean(means > narrow) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("contrast", [Contrast(None, 0.5, 2), Contrast(None, 0, INF)])
def test_the_note_holds_the_advice_for_arms_without_an_emm(contrast):
    """Only arms of the claim count."""
    advices = {"b": "lower search.n_min.", "c": "not asked for."}
    judgement = judge(claim("more", "a", "b"), fixed({("a", "b"): contrast}), 4, advices)
    assert (judgement.further, judgement.note) == (None, "b: lower search.n_min.")


def test_a_ratio_on_the_margin_needs_too_many_runs():
    judgement = judge(claim("same", "a", "b"), fixed({("a", "b"): Contrast(1.25, 1.03, 1.53)}), 4)
    assert judgement.further is None
    assert "margin of 1.25" in judgement.note


@pytest.mark.parametrize(
    ("verdict", "source", "as_published", "expected"),
    [
        ("contradicted", "Figure 2a", False, "differs at this scale"),
        ("contradicted", "Figure 2a", True, "contradicted"),
        ("contradicted", "our own", False, "contradicted"),
        ("contradicted", "", False, "contradicted"),
        ("reproduced", "Figure 2a", False, "reproduced"),
        ("not resolved", "Figure 2a", False, "not resolved"),
    ],
)
def test_a_claim_is_not_contradicted_at_another_scale(verdict, source, as_published, expected):
    assert worded(verdict, source, as_published) == expected


def test_no_number_of_further_runs_without_confirming_runs():
    assert further("more", 2**0.5, 1.0, confirm=0) is None
