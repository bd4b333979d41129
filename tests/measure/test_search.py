"""The search: termination, replay, ladder, and where it puts its runs."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from emmeter.measure.outcome import Count, RunId, logit
from emmeter.measure.search import Trail, ladder, replay
from emmeter.settings.sections import Search

STATUSES = {"crossing", "above", "below", "undetermined"}


def drive(search, sizes, draw):
    """Run a search to its end; `draw(run)` gives the Count of a run.  Returns the trail and the counts."""
    counts = {}
    for _ in range(500):
        trail = replay(search, sizes, counts)
        if trail.finished:
            return trail, counts
        counts |= {run: draw(run) for run in trail.missing}
    raise AssertionError("the search does not end")


def logistic(emm, slope=2.9, sd=0.0, images=500, seed=0):
    """Oracle: logit of the ratio falls by `slope` per doubling of N through 0.9 at `emm`, runs scatter by `sd`."""
    rng = np.random.default_rng(seed)

    def draw(run):
        y = logit(0.9) + slope * (math.log2(emm) - math.log2(run.n)) + sd * rng.standard_normal()
        return Count(int(rng.binomial(images, 1 / (1 + math.exp(-y)))), images)

    return draw


def constant(ratio, images=500):
    return lambda run: Count(round(ratio * images), images)


searches = st.builds(
    Search,
    n_min=st.integers(2, 300),
    n_max=st.integers(600, 60_000),
    start=st.integers(300, 600),
    epsilon=st.sampled_from([0.02, 0.1, 0.5]),
    steps_per_octave=st.integers(1, 10),
    locate=st.integers(1, 9),
    confirm=st.sampled_from([0, 4, 5, 6]),
    parallel=st.integers(1, 5),
    spread=st.sampled_from([0.3, 1.0, 3.0]),
    slope=st.sampled_from([0.5, 2.5, 6.0]),
)


@st.composite
def oracles(draw):
    """Outcomes of every kind: logistic, flat, rising, or anything; a function of the run alone."""
    kind = draw(st.sampled_from(["logistic", "rising", "flat", "noise"]))
    seed = draw(st.integers(0, 10**6))
    images = draw(st.sampled_from([20, 500]))
    height, centre = draw(st.floats(0, 1)), draw(st.floats(1, 18))
    sd = draw(st.sampled_from([0.0, 0.5, 3.0]))

    def outcome(run):
        rng = np.random.default_rng([seed, run.n, run.replicate])
        slope = {"logistic": 2.9, "rising": -2.0}.get(kind, 0.0)
        y = slope * (centre - math.log2(run.n)) + sd * rng.standard_normal()
        ratio = {"flat": height, "noise": rng.uniform()}.get(kind, 1 / (1 + math.exp(-y)))
        return Count(int(rng.binomial(images, ratio)), images)

    return outcome


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    search=searches, outcome=oracles(), multiple=st.sampled_from([1, 2, 10]), order=st.randoms(use_true_random=False)
)
def test_every_search_ends_and_replays(search, outcome, multiple, order):
    sizes = ladder(search, multiple, 50_000)
    # Two rounds at most, before which fresh runs may have refuted a bound.
    most = search.locate + 2 * search.confirm + (max(search.confirm // 2, 2) if search.confirm else 0)
    counts, before = {}, ()
    while not (trail := replay(search, sizes, counts)).finished:
        assert trail.status == "open"
        assert len(trail.runs) <= most
        assert trail.runs[: len(before)] == before, "a trail only grows"
        assert set(trail.missing) == set(trail.runs) - set(counts)
        # A part of a round leaves the rest of it missing, and nothing else changes.
        if len(trail.missing) > 1:
            part = order.sample(trail.missing, len(trail.missing) - 1)
            partial = replay(search, sizes, counts | {run: outcome(run) for run in part})
            assert partial.runs == trail.runs
            assert set(partial.missing) == set(trail.missing) - set(part)
        before = trail.runs
        counts |= {run: outcome(run) for run in trail.missing}
    assert trail.status in STATUSES
    assert trail.runs[: len(before)] == before
    assert len(set(trail.runs)) == len(trail.runs) <= most
    assert {run.n for run in trail.runs} <= set(sizes)
    assert len(trail.locate) >= 1
    assert len({run.n for run in trail.confirm}) <= 3
    fresh = [run.replicate for run in trail.runs if run.replicate]
    assert len(set(fresh)) == len(fresh), "no confirming run shares its subset or seed with another"
    # Counts that the search does not ask for are ignored, and the order of the mapping does not matter.
    others = {RunId(n, replicate): Count(1, 2) for n in sizes for replicate in (0, 1, 2, 50)}
    assert replay(search, sizes, others | dict(reversed(counts.items()))) == trail


@given(
    n_min=st.integers(2, 500),
    span=st.floats(1.01, 1000),
    steps=st.integers(1, 64),
    multiple=st.integers(1, 100),
    available=st.integers(2, 60_000),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_ladder(n_min, span, steps, multiple, available):
    n_max = math.ceil(n_min * span)
    search = Search(n_min=n_min, n_max=n_max, start=n_min, steps_per_octave=steps)
    admissible = range(math.ceil(n_min / multiple) * multiple, min(n_max, available) + 1, multiple)
    assume(len(admissible) >= 2)  # the contract of `ladder`
    sizes = ladder(search, multiple, available)
    assert sizes == sorted(set(sizes))
    assert set(sizes) <= set(admissible)
    assert sizes[0] == admissible[0]
    assert sizes[-1] == admissible[-1]
    # Geometric: neighbours are a step apart, and rounding to multiples adds at most one multiple.
    assert all(b <= a * 2 ** (1 / steps) + 2 * multiple for a, b in itertools.pairwise(sizes))


def test_ladder_keeps_its_sizes_when_bounds_move():
    narrow = ladder(Search(n_min=200, n_max=10_000), 10, 50_000)
    wide = ladder(Search(n_min=50, n_max=50_000), 10, 50_000)
    assert set(narrow[1:-1]) <= set(wide)  # all but the bounds themselves


def test_the_ladder_of_a_grid_is_the_grid():
    search = Search(rule="grid", grid=[500, 1000, 2000])
    assert ladder(search, 10, 50_000) == [500, 1000, 2000]


def test_count():
    count = Count(450, 500)
    assert count.ratio == 0.9
    assert count.logit == pytest.approx(math.log(450.5 / 50.5))
    assert math.sqrt(count.variance) == pytest.approx(0.149, abs=0.001)  # 500 images at 0.9
    for memorized, images in ((-1, 10), (11, 10), (0, 0)):
        with pytest.raises(ValueError, match="impossible"):
            Count(memorized, images)


def test_nothing_known_asks_for_the_start():
    search = Search(start=1000)
    trail = replay(search, ladder(search, 1, 50_000), {})
    assert trail == Trail((RunId(1024, 0),), (), (RunId(1024, 0),), "open")


@pytest.mark.parametrize("parallel", [1, 2, 3, 4])
def test_confirming_sizes_hold_the_crossing(parallel):
    search = Search(parallel=parallel)
    sizes = ladder(search, 10, 50_000)
    for seed in range(40):
        emm = 2 ** np.random.default_rng(seed).uniform(8, 14)
        trail, _ = drive(search, sizes, logistic(emm, seed=seed))
        assert trail.status == "crossing"
        assert [run.replicate for run in trail.confirm] == [1, 2, 3, 4]
        low, middle, high = sorted({run.n for run in trail.confirm})
        assert [run.n for run in trail.confirm] == [low, high, middle, middle]
        assert low < emm < high < 4 * low


def test_few_locating_runs_from_a_start_within_an_octave():
    used = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        emm = 2 ** rng.uniform(8, 14)
        search = Search(start=min(round(emm * 2 ** rng.uniform(-1, 1)), 50_000))
        trail, _ = drive(search, ladder(search, 1, 50_000), logistic(emm, sd=0.4, seed=seed))
        used.append(len(trail.locate))
    assert np.mean(used) <= 3.0
    assert max(used) <= 8


@pytest.mark.parametrize(
    ("ratio", "status"), [(0.0, "below"), (0.5, "below"), (0.98, "above"), (1.0, "above"), (0.9, "crossing")]
)
@pytest.mark.parametrize("confirm", [0, 4])
def test_flat_curves(ratio, status, confirm):
    search = Search(confirm=confirm)
    trail, _ = drive(search, ladder(search, 1, 50_000), constant(ratio))
    assert trail.status == status or (confirm == 0 and ratio == 0.9)
    if status != "crossing":
        assert len(trail.confirm) == confirm // 2  # fresh runs at the end of the ladder
        assert {run.n for run in trail.confirm} <= {50_000 if status == "above" else 100}
        assert len(trail.locate) <= 7


@pytest.mark.parametrize(("emm", "status", "bound"), [(120_000, "above", 50_000), (40, "below", 100)])
def test_censored_curves_end_at_the_bound(emm, status, bound):
    search = Search()
    for seed in range(20):
        trail, _ = drive(search, ladder(search, 1, 50_000), logistic(emm, sd=0.2, seed=seed))
        assert trail.status == status
        assert bound in {run.n for run in trail.runs}


def test_a_crossing_near_the_bound_is_confirmed_on_the_ladder():
    search = Search()
    sizes = ladder(search, 1, 50_000)
    trail, _ = drive(search, sizes, logistic(48_000))
    assert trail.status == "crossing"
    assert max(run.n for run in trail.confirm) == sizes[-1]


def test_coarse_ladder_separates_the_confirming_sizes():
    search = Search(n_min=10, n_max=640, start=40)
    sizes = ladder(search, 10, 1797)
    for emm in range(25, 101, 5):
        trail, _ = drive(search, sizes, logistic(emm, sd=0.3, seed=emm))
        low, *between, high = sorted({run.n for run in trail.confirm})
        assert between == [] if sizes.index(high) == sizes.index(low) + 1 else len(between) == 1
        assert trail.status == "crossing"


@pytest.mark.parametrize("emm", [300, 500, 2000, 4000])
def test_wrong_location_costs_one_more_round_and_no_third(emm):
    """An accidental locating run far from the truth: the first confirming round shows it, the second is re-centred."""
    search = Search(start=1024)
    sizes = ladder(search, 1, 50_000)
    truth = logistic(emm)

    def draw(run):
        return Count(450, 500) if run.replicate == 0 else truth(run)

    trail, counts = drive(search, sizes, draw)
    assert trail.status == "crossing"
    assert [run.replicate for run in trail.confirm] == [5, 6, 7, 8]
    assert [run.replicate for run in trail.locate[-4:]] == [1, 2, 3, 4]
    low, _, high = sorted({run.n for run in trail.confirm})
    assert low < emm < high
    assert len(counts) == len(trail.runs)


def test_confirming_runs_may_prove_a_bound():
    """The locating run at the top is near the line by accident; the fresh runs are clearly above it."""
    search = Search(start=50_000)
    trail, _ = drive(search, ladder(search, 1, 50_000), lambda r: Count(455 if r.replicate == 0 else 495, 500))
    assert trail.status == "above"
    assert len(trail.confirm) == search.confirm


@pytest.mark.parametrize(("confirm", "fresh"), [(4, 2), (10, 5)])
def test_fresh_runs_refute_a_bound(confirm, fresh):
    """The locating runs lie clearly below the line at the smallest size, by accident; the fresh ones do not."""
    search = Search(start=100, confirm=confirm)
    truth = logistic(120)
    trail, _ = drive(search, ladder(search, 1, 50_000), lambda r: Count(200, 500) if r.replicate == 0 else truth(r))
    assert trail.status == "crossing"
    assert trail.locate[-fresh:] == tuple(RunId(100, r) for r in range(1, fresh + 1))
    assert [run.replicate for run in trail.confirm] == list(range(fresh + 1, fresh + 1 + confirm))


def test_budget_without_a_bracket_is_undetermined():
    search = Search(start=100, locate=2)
    trail, _ = drive(search, ladder(search, 1, 50_000), logistic(20_000))
    assert trail.status == "undetermined"
    assert len(trail.runs) == 2


def test_without_confirming_runs_the_bracket_shrinks_to_a_step():
    search = Search(confirm=0)
    sizes = ladder(search, 1, 50_000)
    trail, counts = drive(search, sizes, logistic(1500))
    assert trail.status == "crossing"
    assert trail.confirm == ()
    below = max(run.n for run in trail.runs if counts[run].ratio >= 0.9)
    above = min(run.n for run in trail.runs if counts[run].ratio < 0.9)
    assert sizes.index(above) - sizes.index(below) == 1


def test_parallel_rounds_come_from_complete_rounds():
    search = Search(parallel=3, locate=5)
    sizes = ladder(search, 1, 50_000)
    first = replay(search, sizes, {})
    assert [run.n for run in first.missing] == [512, 1024, 2048]
    assert replay(search, sizes, {first.missing[0]: Count(500, 500)}).missing == first.missing[1:]
    trail, _ = drive(search, sizes, constant(1.0))
    assert len(trail.locate) == 5  # the second round is cut to the budget


def test_grid_asks_for_everything_at_once():
    search = Search(rule="grid", grid=[500, 1000, 2000], replicates=2)
    runs = tuple(RunId(n, r) for n in (500, 1000, 2000) for r in (0, 1))
    trail = replay(search, [500, 1000, 2000], {})
    assert trail == Trail(runs, (), runs, "open")
    for ratios, status in (((1, 0.9, 0.2), "crossing"), ((0.8, 0.5, 0.2), "below"), ((1, 1, 0.95), "above")):
        by_size: dict[int, float] = dict(zip(search.grid, ratios, strict=True))
        counts = {run: Count(round(500 * by_size[run.n]), 500) for run in runs}
        trail = replay(search, [500, 1000, 2000], counts)
        assert (trail.runs, trail.missing, trail.status) == (runs, (), status)
        partial = {run: count for run, count in counts.items() if run.replicate == 0}
        assert replay(search, [500, 1000, 2000], partial).missing == tuple(run for run in runs if run.replicate)


def test_import_is_light():
    """The workflow imports the module at every start: neither numpy nor scipy nor pydantic may come with it."""
    code = "import sys, emmeter.measure.search; assert not {'numpy', 'scipy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
