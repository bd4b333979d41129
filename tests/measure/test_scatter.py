"""Scatter of runs: identities, worked examples, and the calibration of intervals where arms scatter unlike."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize_scalar

from emmeter.measure import scatter
from emmeter.measure.estimate import estimate, fit_line
from emmeter.measure.outcome import Count, RunId, logit
from emmeter.measure.scatter import CANDIDATES, Own, Prior, RunVariance, distinct, fit, moderated, own
from emmeter.measure.search import Trail, ladder, replay
from emmeter.settings.sections import Search

RUNS = tuple(RunId(n, r) for r, n in enumerate((900, 1100, 1000, 1000), 1))
COUNTS = dict(zip(RUNS, (Count(480, 500), Count(400, 500), Count(455, 500), Count(430, 500)), strict=True))


def known(arm: Own | None) -> Own:
    assert arm is not None
    return arm


def prior_of(arms) -> Prior:
    prior = fit(arms)
    assert prior is not None
    return prior


def test_own_scatter_is_about_the_line():
    line = fit_line([run.n for run in RUNS], list(COUNTS.values()))
    arm = known(own(Trail((), RUNS, (), "crossing"), COUNTS))
    assert line is not None
    assert (arm.rss, arm.df, arm.counting) == pytest.approx((line.rss, line.df, line.counting_variance))
    # The locating runs were placed by what others showed: they do not count.
    located = Trail((RunId(5000, 0),), RUNS, (), "crossing")
    assert own(located, COUNTS | {RunId(5000, 0): Count(0, 500)}) == arm


def test_own_scatter_of_one_size_is_about_its_mean():
    runs = tuple(RunId(10, r) for r in (1, 2, 3))
    counts = dict(zip(runs, (Count(100, 250), Count(140, 250), Count(90, 250)), strict=True))
    arm = known(own(Trail((RunId(10, 0),), runs, (), "below"), counts))
    assert arm.df == 2
    assert arm.variance == pytest.approx(np.var([count.logit for count in counts.values()], ddof=1))


def test_own_scatter_of_a_grid_is_about_the_mean_of_each_size():
    runs = tuple(RunId(n, r) for n in (500, 1000) for r in (0, 1))
    ratios = (0.95, 0.85, 0.6, 0.4)
    counts = {run: Count(round(500 * ratio), 500) for run, ratio in zip(runs, ratios, strict=True)}
    arm = known(own(Trail(runs, (), (), "crossing"), counts))
    y = np.array([counts[run].logit for run in runs]).reshape(2, 2)
    assert (arm.rss, arm.df) == (pytest.approx(((y - y.mean(axis=1, keepdims=True)) ** 2).sum()), 2)


@pytest.mark.parametrize("runs", [RUNS[:2], (), RUNS[:1]])
def test_no_scatter_without_degrees_of_freedom(runs):
    assert (
        own(
            Trail((RunId(500, 0), RunId(700, 0)), runs, (), "open"),
            COUNTS | {RunId(500, 0): Count(1, 2), RunId(700, 0): Count(1, 2)},
        )
        is None
    )


def test_the_very_same_runs_count_once():
    trail = Trail((), RUNS, (), "crossing")
    assert distinct([("a", trail, COUNTS)] * 3) == [own(trail, COUNTS)]
    assert len(distinct([("a", trail, COUNTS), ("b", trail, COUNTS)])) == 2


def test_arms_beyond_the_ladder_serve_only_where_there_is_no_other():
    trail, runs = Trail((), RUNS, (), "crossing"), (RunId(10, 1), RunId(10, 2))
    beyond, none = Trail((), runs, (), "below"), dict.fromkeys(runs, Count(0, 500))
    assert distinct([("a", trail, COUNTS), ("b", beyond, none)]) == [own(trail, COUNTS)]
    assert distinct([("b", beyond, none)]) == [own(beyond, none)]


def test_a_guess_stands_beside_little_evidence():
    arm = Own(0.1, 2, 0.01)
    prior = fit([arm])
    assert prior == Prior(scatter.GUESS, scatter.GUESS_DF, 4)
    assert moderated(arm, prior) == RunVariance(pytest.approx((2 * scatter.GUESS + 0.1) / 4), 4, False)
    assert prior_of([arm, arm]).variance < scatter.GUESS


def test_counting_is_the_least():
    assert Own(0.0, 2, 0.04).variance == 0.04
    result = moderated(Own(0.0, 2, 0.04), None)
    assert result == RunVariance(0.04, 2, True)
    assert moderated(Own(0.0, 2, 0.5), Prior(0.1, math.inf, 20)) == RunVariance(0.5, 20, True)


def test_moderated_by_hand():
    assert moderated(Own(0.6, 2, 0.01), Prior(0.1, 4.0, 40)) == RunVariance(
        pytest.approx((4 * 0.1 + 0.6) / 6), 6, False
    )
    assert moderated(Own(0.6, 2, 0.01), Prior(0.1, math.inf, 40)) == RunVariance(0.1, 40, False)  # arms alike: pooled
    assert moderated(None, Prior(0.1, 4.0, 40)) == RunVariance(0.1, 4, False)
    assert moderated(None, None) is None


def test_no_arm_has_more_degrees_of_freedom_than_all_together():
    arm = Own(0.2, 2, 0.01)
    together = moderated(arm, fit([arm] * 3))
    assert together is not None
    assert together.df == 6


def test_likelihood_is_that_of_the_variances_given_the_prior():
    """Against scipy: rss / df is `scale` times an F variable; differences between candidates, up to a constant."""
    arms = [Own(0.5, 2, 0.0), Own(1.2, 4, 0.0), Own(0.02, 2, 0.0), Own(3.0, 6, 0.0)]
    for scale, df in ((0.3, 1.5), (0.2, 8.0)):
        exact = sum(stats.f.logpdf(arm.variance / scale, arm.df, df) - math.log(scale) for arm in arms)
        at_one = sum(stats.f.logpdf(arm.variance, arm.df, 3.0) for arm in arms)
        ours = scatter._log_likelihood(arms, scale, df) - scatter._log_likelihood(arms, 1.0, 3.0)
        assert ours == pytest.approx(exact - at_one)
    alike = sum(stats.chi2.logpdf(arm.rss / 0.3, arm.df) - math.log(0.3) for arm in arms)
    nearly = scatter._log_likelihood(arms, 0.3, 1e7) - scatter._log_likelihood(arms, 0.3, math.inf)
    assert nearly == pytest.approx(0, abs=1e-4)
    assert alike == pytest.approx(
        sum(stats.f.logpdf(arm.variance / 0.3, arm.df, 1e9) + math.log(arm.df) - math.log(0.3) for arm in arms)
        - sum(2 * math.log(arm.df) for arm in arms), abs=1e-4,
    )  # fmt: skip


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), df=st.sampled_from(CANDIDATES))
def test_scale_is_the_likeliest(seed, df):
    rng = np.random.default_rng(seed)
    arms = [Own(float(rng.chisquare(2) * rng.uniform(0.1, 2)), 2, 1e-6) for _ in range(6)]
    best = minimize_scalar(
        lambda log: -scatter._log_likelihood(arms, math.exp(log), df), bounds=(-12, 8), method="bounded",
        options={"xatol": 1e-9},
    )  # fmt: skip
    assert math.log(scatter._scale(arms, df)) == pytest.approx(best.x, abs=1e-4)


def test_arms_that_scatter_alike_are_pooled_and_others_are_not():
    rng = np.random.default_rng(3)
    alike = [Own(float(0.2 * rng.chisquare(2)), 2, 0.001) for _ in range(60)]
    prior = prior_of(alike)
    assert prior.df >= 12
    assert prior.variance == pytest.approx(0.2, rel=0.3)
    unlike = [Own(float(0.2 * math.exp(1.8 * rng.standard_normal()) * rng.chisquare(2)), 2, 0.001) for _ in range(60)]
    assert prior_of(unlike).df <= 3
    assert prior_of(alike).evidence == 120
    assert fit([]) is None


def test_the_order_of_arms_does_not_matter():
    rng = np.random.default_rng(4)
    arms = [Own(float(rng.chisquare(2)), 2, 0.01) for _ in range(9)]
    forward, backward = prior_of(arms), prior_of(arms[::-1])
    assert (forward.df, forward.evidence) == (backward.df, backward.evidence)
    assert forward.variance == pytest.approx(backward.variance)


# Calibration: arms whose scatter differs, the whole search, a prior of 40 arms.


def calibrated(unlike: float, seed: int, confirm: int = 4) -> dict[str, list[float]]:
    """Coverage of the 95 % interval by quarter: of the scatter that arms show, and of the scatter that they have.

    Args:
        unlike: standard deviation between arms of the logarithm of a run's standard deviation, whose median is 0.4.
    """
    rng = np.random.default_rng(seed)
    search = Search(n_min=10, n_max=2000, start=100, spread=1.5, confirm=confirm)
    sizes = ladder(search, 2, 5000)
    rows = []
    for _ in range(30):
        arms = []
        for _ in range(40):
            emm, sd = 2 ** rng.uniform(5.9, 7), 0.4 * math.exp(unlike * rng.standard_normal())
            own_search = search.model_copy(update={"start": round(emm * 2 ** rng.uniform(-1, 1))})
            counts: dict[RunId, Count] = {}
            while missing := (trail := replay(own_search, sizes, counts)).missing:
                for run in missing:
                    y = logit(0.9) + 3 * math.log2(emm / run.n) + sd * rng.standard_normal()
                    counts[run] = Count(int(rng.binomial(250, 1 / (1 + math.exp(-y)))), 250)
            arms.append((emm, sd, trail, counts))
        prior = fit(distinct((emm, trail, counts) for emm, _, trail, counts in arms))
        for emm, sd, trail, counts in arms:
            shown = own(trail, counts)
            found = estimate(search, trail, counts, sizes, moderated(shown, prior))
            if found.low is not None and found.high is not None and shown is not None:
                rows.append((found.low <= emm <= found.high, shown.variance, sd))
    held, shown, true = np.array(rows, dtype=float).T
    return {
        name: [float(part.mean()) for part in np.array_split(held[np.argsort(by, kind="stable")], 4)]
        for name, by in (("shown", shown), ("true", true))
    } | {"all": [float(held.mean())]}


@pytest.mark.slow
@pytest.mark.parametrize("unlike", [0.0, 0.5, 0.9])
def test_intervals_hold_whether_arms_scatter_alike_or_not(unlike):
    """1,200 arms, about 280 intervals a quarter: standard error 0.013 at 0.95.

    By the scatter that arms show, no quarter falls short, and none is much too wide.  By the scatter that they have,
    which nobody knows, quiet arms are held more often and noisy ones less: four runs do not tell which they are.
    """
    result = calibrated(unlike, seed=11)
    print(unlike, result)
    assert 0.93 <= result["all"][0] <= 0.985
    assert all(0.92 <= coverage <= 0.995 for coverage in result["shown"])
    assert result["true"][-1] >= (0.94, 0.89, 0.84)[[0.0, 0.5, 0.9].index(unlike)]
