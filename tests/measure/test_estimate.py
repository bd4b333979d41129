"""Estimates: identities, worked examples, and the calibration of the whole search against known truth."""

import math
import re

import numpy as np
import pytest
from scipy.stats import binom, binomtest, linregress
from scipy.stats import t as student

from emmeter.measure.estimate import (
    Line,
    centred_isotonic,
    crossing,
    empirical_logit,
    estimate,
    fit_line,
    isotonic_crossing,
    shift,
    wilson,
)
from emmeter.measure.outcome import Count, RunId, logit
from emmeter.measure.scatter import MOST_COUNTING, RunVariance, distinct, fit, moderated, own
from emmeter.measure.search import Trail, ladder, replay
from emmeter.settings.sections import Search

SEARCH = Search()
SIZES = ladder(SEARCH, 1, 50_000)


def number(value: float | None) -> float:
    """A part of an estimate that must be there."""
    assert value is not None
    return value


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_is_scipys(confidence):
    for memorized, images in ((0, 20), (1, 20), (450, 500), (500, 500)):
        expected = binomtest(memorized, images).proportion_ci(confidence, method="wilson")
        assert wilson(memorized, images, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_empirical_logit_agrees_with_count():
    k, m = np.array([0, 450, 500]), 500
    assert empirical_logit(k, m) == pytest.approx([Count(int(i), m).logit for i in k], rel=1e-14)


def test_line_is_least_squares():
    sizes = [800, 1200, 800, 1200, 1000]
    counts = [Count(k, 500) for k in (480, 410, 470, 425, 450)]
    x, y = np.log2(sizes), [count.logit for count in counts]
    line, expected = fit_line(sizes, counts), linregress(x, y)  # slope, intercept, r, p, standard error
    assert line is not None
    assert (line.slope, line.intercept) == pytest.approx(expected[:2])
    assert math.sqrt(line.rss / line.df / line.sxx) == pytest.approx(expected[4])
    assert (line.runs, line.df) == (5, 3)
    assert line.counting_variance == pytest.approx(np.mean([count.variance for count in counts]))


def test_no_line_from_two_runs_or_one_size():
    assert fit_line([800, 1200], [Count(4, 5)] * 2) is None
    assert fit_line([800] * 4, [Count(4, 5)] * 4) is None


def _line(slope, a, runs=4, sxx=0.5, rss=0.1, counting=0.02):
    """A line through log2 N = 10 whose mean lies `a` logits above 0.9."""
    return Line(slope, logit(0.9) + a - 10 * slope, runs, 10.0, sxx, rss, runs - 2, counting)


@pytest.mark.parametrize("images", [50, 250, 2000])
def test_counting_adds_no_more_than_its_most(images):
    """Against the exact variance of the empirical logit, where it is largest and where the usual estimate is good."""
    counts = np.arange(images + 1)
    logits = empirical_logit(counts, images)

    def exact(ratio: float) -> float:
        weights = binom.pmf(counts, images, ratio)
        return float(weights @ logits**2 - (weights @ logits) ** 2)

    assert max(exact(ratio) for ratio in np.linspace(0.5, 0.9999, 2000)) == pytest.approx(MOST_COUNTING, rel=0.05)
    line = fit_line([100, 200, 100, 200], [Count(images // 2, images), Count(0, images)] * 2)
    assert line is not None
    assert line.counting_variance == pytest.approx((exact(0.5) + MOST_COUNTING) / 2, rel=0.03)


@pytest.mark.parametrize(
    ("slope", "a", "kind"),
    [(-3, 0.2, "bounded"), (-3, -1.5, "bounded"), (-0.9, 1.0, "above"), (-0.9, -1.0, "below"), (-0.3, 0.1, "all")],
)
def test_fieller_inverts_the_test(slope, a, kind):
    """Against brute force: every x at which the line does not differ significantly from the level."""
    line, variance = _line(slope, a), RunVariance(0.12, 8, False)
    found = crossing(line, 0.9, variance)
    x = np.linspace(-10, 30, 400_001)  # steps of 1e-4 octave
    height = line.intercept + line.slope * x - logit(0.9)
    limit = student.ppf(0.975, 8) ** 2 * 0.12 * (1 / line.runs + (x - line.x_mean) ** 2 / line.sxx)
    inside = height**2 <= limit
    assert found.log2_n == pytest.approx(10 - a / slope)
    assert found.bounded == (kind == "bounded") == (not inside[0] and not inside[-1])
    if kind == "bounded":
        assert (found.low, found.high) == pytest.approx((x[inside][0], x[inside][-1]), abs=2e-4)
    elif kind == "all":
        assert inside.all()
        assert (found.low, found.high) == (-math.inf, math.inf)
    else:  # two rays; the one kept holds the falling line's crossing
        outside = x[~inside]
        ends = (outside[-1], math.inf) if kind == "above" else (-math.inf, outside[0])
        assert (found.low, found.high) == pytest.approx(ends, abs=2e-4)
        assert found.low < found.log2_n < found.high


def test_level_line_crosses_nowhere():
    found = crossing(_line(0.0, 0.5), 0.9, RunVariance(0.1, 8, False))
    assert math.isnan(found.log2_n)
    assert not found.bounded


def test_centred_isotonic_by_hand():
    """Sizes 2, 4, 8, 16, 32: 0.7 and 0.9 violate and pool with weights 100 : 300, 0.5 and 0.5 are flat."""
    counts = [Count(70, 100), Count(270, 300), Count(50, 100), Count(50, 100), Count(10, 100)]
    x, y = centred_isotonic([2, 4, 8, 16, 32], counts)
    assert x == pytest.approx([(1 * 100 + 2 * 300) / 400, 3.5, 5.0])
    assert y == pytest.approx(empirical_logit([340, 100, 10], [400, 200, 100]))


def test_centred_isotonic_keeps_the_ends_of_the_range():
    """Full memorization at two sizes is two points: their centre would pull the crossing towards small N."""
    x, _ = centred_isotonic([2, 4, 8, 16], [Count(100, 100), Count(100, 100), Count(0, 100), Count(0, 100)])
    assert x == pytest.approx([1, 2, 3, 4])


def test_isotonic_crossing():
    counts = [Count(480, 500), Count(400, 500)]
    y = empirical_logit([480, 400], 500) - logit(0.9)
    expected = 10 + y[0] / (y[0] - y[1])
    assert isotonic_crossing([1024, 2048], counts, 0.9) == pytest.approx(expected)
    assert isotonic_crossing([2048, 1024], counts[::-1], 0.9) == pytest.approx(expected)  # order of runs
    assert isotonic_crossing([1024, 2048], counts, 0.99) is None
    assert isotonic_crossing([1024, 2048], counts, 0.5) is None
    assert isotonic_crossing([1024, 2048], counts[::-1], 0.9) is None  # rises: one stretch
    assert isotonic_crossing([1024], counts[:1], 0.9) is None


def _confirmed(ratios, sizes=(900, 1100), search=SEARCH, locate=(), images=500):
    """Trail and counts of a finished search whose confirming runs alternate between two sizes."""
    confirm = tuple(RunId(sizes[i % 2], i + 1) for i in range(len(ratios)))
    counts = {run: Count(round(images * ratio), images) for run, ratio in zip(confirm, ratios, strict=True)}
    located = tuple(RunId(n, 0) for n, _ in locate)
    counts |= {RunId(n, 0): Count(round(images * ratio), images) for n, ratio in locate}
    return Trail(located, confirm, (), "crossing"), counts


def test_estimate_from_confirming_runs():
    trail, counts = _confirmed([0.95, 0.82, 0.94, 0.84])
    result = estimate(SEARCH, trail, counts, SIZES, None)
    line = fit_line([run.n for run in trail.confirm], [counts[run] for run in trail.confirm])
    assert result.status == "estimated"
    assert 900 < number(result.low) < number(result.emm) < number(result.high) < 1100
    assert line is not None
    assert result.slope == line.slope < 0
    assert result.df == 2
    assert result.isotonic == pytest.approx(result.emm, rel=0.01)  # two sizes: both are the secant
    # Here residuals are below what counting allows; a study's own scatter takes their place.
    assert "counting" in result.note
    wide = estimate(SEARCH, trail, counts, SIZES, RunVariance(0.16, 8, False))
    assert wide.emm == result.emm
    assert (wide.run_sd, wide.df, wide.note) == (0.4, 8, "")


def test_interval_grows_by_what_the_isotonic_fit_disagrees():
    trail, counts = _confirmed([0.95, 0.85, 0.95, 0.85], sizes=(800, 1250), locate=[(1150, 0.99)])
    variance = RunVariance(0.02, 8, False)
    result = estimate(SEARCH, trail, counts, SIZES, variance)
    line = fit_line([run.n for run in trail.confirm], [counts[run] for run in trail.confirm])
    assert line is not None
    plain = crossing(line, 0.9, variance)
    moved = math.log2(number(result.isotonic) / number(result.emm))
    assert moved > 0.1
    assert shift(result) == pytest.approx(moved)
    assert math.log2(number(result.low)) == pytest.approx(plain.low)
    assert math.log2(number(result.high)) == pytest.approx(plain.high + moved)
    assert "wider" in result.note


@pytest.mark.parametrize(("status", "sign"), [("above", 1), ("below", -1)])
def test_bounds_are_tested_against_the_scatter_of_runs(status, sign):
    """Fresh runs at the end of the ladder 1 logit beyond the line: a limit where they scatter little, else none."""
    end = SIZES[-1] if sign > 0 else SIZES[0]
    runs = tuple(RunId(end, r) for r in (1, 2))
    ratio = 1 / (1 + math.exp(-logit(0.9) - sign))
    counts = {run: Count(round(5000 * ratio), 5000) for run in runs} | {RunId(end, 0): Count(round(5000 * ratio), 5000)}
    trail = Trail((RunId(end, 0),), runs, (), status)
    for sd, decided in ((0.3, True), (0.6, True), (0.75, False), (1.5, False)):  # 1 / (1.96 / sqrt(2)) = 0.72, less t
        result = estimate(SEARCH, trail, counts, SIZES, RunVariance(sd**2, 40, False))
        limit = result.low if sign > 0 else result.high
        assert (result.status != "undetermined") == decided
        assert limit == (end if decided else None)
        assert "clearly" in result.note if decided else "search.confirm" in result.note
    # One locating run alone, as of searches without fresh runs at the end, has the whole scatter.
    alone = Trail((RunId(end, 0),), (), (), status)
    assert estimate(SEARCH, alone, counts, SIZES, RunVariance(0.09, 40, False)).status != "undetermined"
    assert estimate(SEARCH, alone, counts, SIZES, RunVariance(0.36, 40, False)).status == "undetermined"


def test_undetermined_says_how_many_runs_would_do():
    trail, counts = _confirmed([0.95, 0.85, 0.95, 0.85])
    result = estimate(SEARCH, trail, counts, SIZES, RunVariance(0.5, 8, False))
    assert result.status == "undetermined"
    told = re.search(r"search\.confirm: (\d+) should be enough", result.note)
    assert told is not None
    many, of_many = _confirmed([0.95, 0.85] * (int(told[1]) // 2))
    assert estimate(SEARCH, many, of_many, SIZES, RunVariance(0.5, 8, False)).status == "estimated"
    hopeless = estimate(SEARCH, trail, counts, SIZES, RunVariance(50.0, 8, False))
    assert "train longer" in hopeless.note


@pytest.mark.parametrize("ratios", [[0.85, 0.95, 0.85, 0.95], [0.9, 0.9, 0.9, 0.9], [0.93, 0.9, 0.9, 0.92]])
def test_no_number_without_a_slope(ratios):
    trail, counts = _confirmed(ratios)
    result = estimate(SEARCH, trail, counts, SIZES, RunVariance(0.1, 8, False))
    assert result.status == "undetermined"
    assert result.note
    assert result.emm is result.low is result.high is None


def test_fits_that_cross_beyond_the_ladder():
    variance = RunVariance(0.03, 8, False)
    trail, counts = _confirmed([0.99, 0.93, 0.99, 0.93], sizes=(700, 1000))
    result = estimate(SEARCH, trail, counts, [100, 700, 1000], variance)
    assert (result.status, result.emm, result.high) == ("at_least", None, None)
    assert number(result.low) <= 1000
    trail, counts = _confirmed([0.85, 0.6, 0.85, 0.6], sizes=(700, 1000))
    result = estimate(SEARCH, trail, counts, [700, 1000, 5000], variance)
    assert (result.status, result.emm, result.low) == ("below", None, None)
    assert number(result.high) >= 700


def test_censored_and_unfollowed_trails():
    runs = (RunId(1000, 0), RunId(50_000, 0))
    counts = {run: Count(500, 500) for run in runs}
    above = estimate(SEARCH, Trail(runs, (), (), "above"), counts, SIZES, None)
    assert (above.status, above.low, above.emm, above.high) == ("at_least", 50_000, None, None)
    below = estimate(SEARCH, Trail(runs, (), (), "below"), counts, SIZES, None)
    assert (below.status, below.low, below.emm, below.high) == ("below", None, None, 1000)
    lost = estimate(SEARCH, Trail(runs, (), (), "undetermined"), counts, SIZES, None)
    assert lost.status == "undetermined"
    assert lost.emm is None
    assert "search.locate" in lost.note
    with pytest.raises(ValueError, match="not finished: 2 runs are missing"):
        estimate(SEARCH, Trail(runs, (), runs, "open"), counts, SIZES, None)


def test_without_confirming_runs():
    search = Search(confirm=0)
    runs = (RunId(1000, 0), RunId(1100, 0))
    counts = {runs[0]: Count(460, 500), runs[1]: Count(440, 500)}
    result = estimate(search, Trail(runs, (), (), "crossing"), counts, SIZES, None)
    assert result.status == "estimated"
    assert 1000 < number(result.emm) < 1100
    assert result.emm == result.interpolated
    assert result.low is result.high is None
    assert "no interval" in result.note


@pytest.mark.parametrize(
    ("ratios", "expected", "words"),
    [
        ((1.0, 0.9, 0.4), ("estimated", 1000, 1000, 2000), "not a confidence interval"),
        ((0.8, 0.92, 0.4), ("estimated", 1000, 1000, 2000), "Smaller sizes"),
        ((0.8, 0.5, 0.4), ("below", None, None, 500), "No size"),
        ((1.0, 0.98, 0.92), ("at_least", None, 2000, None), "still reaches"),
    ],
)
def test_grid_rule(ratios, expected, words):
    search = Search(rule="grid", grid=[500, 1000, 2000], replicates=2)
    counts = {
        RunId(n, r): Count(round(500 * (ratio + (0.002 if r else -0.002) * (0 < ratio < 1))), 500)
        for n, ratio in zip(search.grid, ratios, strict=True)
        for r in (0, 1)
    }
    trail = replay(search, search.grid, counts)
    result = estimate(search, trail, counts, search.grid, None)
    assert (result.status, result.emm, result.low, result.high) == expected
    assert words in result.note
    if ratios[0] == 1.0 and expected[0] == "estimated":
        assert 950 < number(result.interpolated) < 2000


# Calibration: the whole search against a synthetic truth.


def _searched(search, sizes, ratio, rng, images=500):
    """A finished search; `ratio(run)` draws the probability of a copy in one run."""
    counts = {}
    while not (trail := replay(search, sizes, counts)).finished:
        counts |= {run: Count(int(rng.binomial(images, ratio(run))), images) for run in trail.missing}
    return trail, counts


def _calibrate(search, sizes, slope, sd, emms, offset, repeats, seed, arms=4, shared=0.0):
    """Repeat a study of `arms` arms, whose scatter is all that is known; shares and medians over all arms.

    `sd` and `shared` are in logits: the scatter of every run, and that of what a replicate adds to all arms.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(repeats):
        study, effects = [], shared * rng.standard_normal(20)
        for _ in range(arms):
            centre = rng.uniform(*np.log2(emms))
            start = int(np.clip(2 ** (centre + rng.uniform(-offset, offset)), search.n_min, search.n_max))
            started = search.model_copy(update={"start": start})

            def ratio(run, centre=centre, effects=effects):
                y = logit(0.9) + slope * (centre - math.log2(run.n)) + effects[run.replicate]
                return 1 / (1 + math.exp(-y - sd * rng.standard_normal()))

            trail, counts = _searched(started, sizes, ratio, rng)
            study.append((centre, trail, counts))
        prior = fit(distinct((centre, trail, counts) for centre, trail, counts in study))
        for centre, trail, counts in study:
            variance = moderated(own(trail, counts), prior)
            rows.append((centre, len(trail.runs), estimate(search, trail, counts, sizes, variance)))
    found = [(2**centre, result) for centre, _, result in rows if result.status == "estimated"]
    censored = [(2**centre, r) for centre, _, r in rows if r.status in ("at_least", "below")]
    held = [emm >= r.low if r.status == "at_least" else emm < r.high for emm, r in censored]
    return {
        "coverage": float(np.mean([r.low <= emm <= r.high for emm, r in found])) if found else math.nan,
        "half": float(np.median([math.log2(r.high / r.low) / 2 for _, r in found])) if found else math.nan,
        "bias": float(np.mean([math.log2(r.emm / emm) for emm, r in found])) if found else math.nan,
        "runs": float(np.mean([runs for _, runs, _ in rows])),
        "undetermined": float(np.mean([r.status == "undetermined" for *_, r in rows])),
        "censored": float(len(censored) / len(rows)),
        "held": float(np.mean(held)) if held else math.nan,
    }


@pytest.mark.slow
@pytest.mark.parametrize("slope", [2.5, 3, 4])
@pytest.mark.parametrize(("sd", "undetermined", "half"), [(0.2, 0.01, 0.16), (0.4, 0.12, 0.28), (0.6, 0.4, 0.42)])
def test_calibration(slope, sd, undetermined, half):
    """200 studies of 4 arms: coverage of the 95 % interval within 0.90..0.985 (standard error 0.008).

    The bounds of the half width (octaves) and of the undetermined share are a third above the values at the
    gentlest slope; steeper curves are easier.
    """
    result = _calibrate(SEARCH, SIZES, slope, sd, (200, 25_000), 2, repeats=200, seed=round(10 * slope + 100 * sd))
    print(slope, sd, result)
    assert 0.90 <= result["coverage"] <= 0.985
    assert result["half"] <= half
    assert abs(result["bias"]) <= 0.02
    assert result["runs"] <= 7
    assert result["undetermined"] <= undetermined
    assert result["censored"] <= 0.01


@pytest.mark.slow
def test_calibration_on_a_coarse_ladder():
    """The 8x8 digits: multiples of 10 from 10 to 640, EMM of 25 to 100, where a step is up to an octave."""
    search = SEARCH.model_copy(update={"n_min": 10, "n_max": 640, "start": 40})
    result = _calibrate(search, ladder(search, 10, 1797), 2.9, 0.4, (25, 100), 1, repeats=200, seed=5)
    print(result)
    assert 0.90 <= result["coverage"] <= 0.985
    assert result["half"] <= 0.27
    assert result["runs"] <= 7
    assert result["undetermined"] <= 0.12


@pytest.mark.slow
@pytest.mark.parametrize(("shared", "sd", "least"), [(0.3, 0.3, 0.93), (0.5, 0.3, 0.88), (0.5, 0.1, 0.88)])
def test_calibration_where_arms_share_their_scatter(shared, sd, least):
    """Pooling counts what is shared once an arm: the coverage is known to fall short (docs/methods.md says so)."""
    result = _calibrate(SEARCH, SIZES, 2.9, sd, (200, 25_000), 1, repeats=300, seed=9, shared=shared)
    print(shared, sd, result)
    assert least <= result["coverage"] <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("emms", [(50, 200), (25_000, 100_000)])
def test_calibration_at_the_bounds(emms):
    """EMM within an octave of n_min or n_max: censored answers hold in at least 97 %, intervals in 90 %."""
    result = _calibrate(SEARCH, SIZES, 2.9, 0.4, emms, 2, repeats=120, seed=6)
    print(emms, result)
    assert result["held"] >= 0.97
    assert result["coverage"] >= 0.90
    assert 0.3 <= result["censored"] <= 0.7


@pytest.mark.parametrize("emms", [(5, 40), (130_000, 10**6)])
def test_beyond_the_ladder_is_always_censored(emms):
    result = _calibrate(SEARCH, SIZES, 2.9, 0.4, emms, 0, repeats=25, seed=7)
    assert (result["censored"], result["held"]) == (1, 1)


@pytest.mark.parametrize(("confirm", "least"), [(4, 0.88), (6, 0.86)])
@pytest.mark.parametrize("shared", [0.0, 0.35])
def test_curves_that_level_off_below_one(confirm, least, shared):
    """Ratios that rise to 0.97 only, on the ladder and with the settings of the 8x8 digits.

    A straight line through two sizes 1.5 logits either side of the crossing held EMM in 0.71 of cases.
    """
    search = SEARCH.model_copy(update={"n_min": 10, "n_max": 640, "start": 20, "spread": 2, "confirm": confirm})
    sizes = ladder(search, 10, 1797)
    rng, plateau = np.random.default_rng(12), 0.97
    held = []
    for _ in range(250):
        study, effects = [], shared * rng.standard_normal(20)
        for centre in np.log2([16, 20, 26, 36]) + rng.uniform(-0.15, 0.15, 4):

            def ratio(run, centre=centre, effects=effects):
                y = logit(0.9 / plateau) + 3 * (centre - math.log2(run.n))
                straight = logit(plateau / (1 + math.exp(-y)))
                return 1 / (1 + math.exp(-straight - effects[run.replicate] - 0.49 * rng.standard_normal()))

            study.append((2**centre, *_searched(search, sizes, ratio, rng, 250)))
        prior = fit(distinct((centre, trail, counts) for centre, trail, counts in study))
        for emm, trail, counts in study:
            result = estimate(search, trail, counts, sizes, moderated(own(trail, counts), prior))
            if result.status == "estimated":
                held.append(number(result.low) <= emm <= number(result.high))
    print(confirm, shared, np.mean(held), len(held))
    assert np.mean(held) >= least


@pytest.mark.parametrize("sd", [0.36, 0.6, 1.0, 1.5])
@pytest.mark.parametrize("emm", [10.5, 12])
def test_bounds_are_seldom_wrong(emm, sd):
    """EMM just above the smallest size: "< 10" is wrong, and nominally said of 2.5 % of arms (600: error 0.7 %).

    By locating runs alone it was said of 2 to 20 % at a scatter of 0.6 to 1.5.
    """
    search = SEARCH.model_copy(update={"n_min": 10, "n_max": 640, "start": 20, "spread": 2})
    result = _calibrate(search, ladder(search, 10, 1797), 2.5, sd, (emm, emm), 1, repeats=150, seed=13)
    wrong = result["censored"] * (1 - result["held"]) if result["censored"] else 0.0
    print(emm, sd, wrong, result)
    assert wrong <= 0.045


def _increasing(log2_n, rng):
    return 1 / (1 + math.exp(-logit(0.9) - 3 * (log2_n - 10)))


@pytest.mark.parametrize(
    ("curve", "made_up"),
    [
        (lambda x, rng: 0.5, 0),
        (lambda x, rng: 0.95, 0.02),
        (lambda x, rng: 0.9, 0.02),
        (_increasing, 0),
        (lambda x, rng: rng.uniform(), 0.05),
    ],
    ids=["flat at 0.5", "flat at 0.95", "flat at 0.9", "increasing", "noise"],
)
def test_no_number_is_made_up(curve, made_up):
    """Where ratio does not fall through the line, at most the stated share of 200 searches gives a number."""
    rng = np.random.default_rng(8)
    statuses = []
    for _ in range(200):
        search = SEARCH.model_copy(update={"start": int(2 ** rng.uniform(7, 15))})
        trail, counts = _searched(search, SIZES, lambda run: curve(math.log2(run.n), rng), rng)
        statuses.append(estimate(search, trail, counts, SIZES, None).status)
    print({status: statuses.count(status) for status in set(statuses)})
    assert statuses.count("estimated") <= 200 * made_up
