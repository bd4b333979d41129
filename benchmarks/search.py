"""Cost of an EMM: the adaptive search against the paper's procedure, in a simulation with known truth.

**The curve.**  The logit of a run's memorization ratio falls by `slope` per doubling of N and passes 0.9 at the true
EMM.  Runs scatter about the line with standard deviation `run_sd`, and generated images are counted binomially.  Slope
and scatter are those of the digits.  They are medians and pooled residuals (less the variance of counting images) over
the arms with an EMM in the tables of results/reference/laptop, which are read at every call.  The true EMM of an arm is
drawn within OFF octaves of the hint `search.start`, where the searches and the grid begin.

**The paper's procedure** (baseline).  A grid of five sizes an octave apart has one run per size.  All runs are trained
to the end, and 16 snapshots of each are sampled with 10,000 images and 18 steps.  EMM is the largest size whose ratio
reaches 0.9.  As ratios grow during training, the best snapshot is the last one.  ``interpolated`` instead estimates EMM
from the same runs by the isotonic fit of `emmeter.measure.estimate`.

**Ours**: `emmeter.measure.search` and `emmeter.measure.estimate` with the configuration's settings, and intervals
pooled over four arms as in the default study.  The variants are:

- 250, 500 or 2,000 images per evaluation;
- *shared*: the first locating run has been trained and sampled for another arm and costs nothing;
- *early stop*: a locating run stops half-way if its snapshot is surely above the line (lower end of the Wilson
  interval), and the count of this snapshot is used.  This assumes that a ratio never falls during training.  The
  details report how many of the digits' runs were above the line half-way, and how many of these ended below it.
  Half-way logits are below the final ones by a gap with the mean and scatter of the runs near the line, never above.

**Scales.**  The digits (config.yaml) and the paper's network (config/paper.yaml).  The paper's runs last 40,000 epochs,
so a large N costs more.  Both use the curve of the digits, because no other has been measured.

**Reported** per arm: operations (the row's numbers; training counts 3 times the forward pass), images trained and
sampled, root mean square of log2(estimate / truth), median quotient of the interval's ends, coverage, and the share of
arms without an estimate.  Also reported is the number of interpolated repetitions of the grid that have the same error,
and their cost.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import runs as configured
from benchmarks.record import Row, make
from benchmarks.timing import Ratio
from emmeter.command import positive
from emmeter.data import datasets, feasibility
from emmeter.diffusion import operations
from emmeter.errors import StageError
from emmeter.files.tables import CURVE_COLUMNS, EMM_COLUMNS
from emmeter.files.tables import read as read_table
from emmeter.measure import scatter
from emmeter.measure.estimate import Estimate, Line, estimate, fit_line, wilson
from emmeter.measure.outcome import Count, RunId, logit
from emmeter.measure.search import SATURATED, Trail, ladder, replay
from emmeter.settings.sections import Search, Setup
from emmeter.training.schedule import budget

REFERENCE = configured.ROOT / "results" / "reference" / "laptop"
SCALES = {"digits": None, "paper": "paper.yaml"}
OFF = (-0.5, 1.0)  # octaves from the hint to the true EMM
POOLED = 4  # arms of a study
GRID = (1 / 2, 1, 2, 4, 8)  # sizes of the paper's procedure, times the hint
GRID_SNAPSHOTS, GRID_IMAGES, GRID_STEPS = 16, 10_000, 18
IMAGES = (250, 500, 2000)
REPETITIONS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
PARTS = 10  # of the simulated arms, for the spread of the ratio
EPSILON = 0.1


@dataclass(frozen=True)
class Curve:
    """The curve of the digits, from their reference results."""

    slope: float  # logits per octave, positive
    run_sd: float  # scatter of a run's logit, without the counting of images
    gap: float  # mean growth of a run's logit from half-way to the end
    gap_sd: float  # scatter of this growth
    above: int  # runs above the line half-way
    fallen: int  # runs among these that end below the line


@dataclass(frozen=True)
class Scale:
    """The common part of all searches: settings, ladder, operations of the network per image."""

    setup: Setup
    sizes: list[int]
    forward: int

    def truths(self, arms: int, seed: int) -> np.ndarray:
        """Draw the true EMM of each arm in octaves (log2 N): (arms,)."""
        return math.log2(self.setup.search.start) + np.random.default_rng([seed, 0]).uniform(*OFF, arms)


@dataclass(frozen=True)
class Variant:
    """A way to search: images per evaluation, and the two ways to save cost."""

    name: str
    images: int
    shared: bool = False
    early: bool = False


@dataclass
class Spent:
    """The cost of one arm: images trained and sampled, operations."""

    trained: float = 0.0
    sampled: float = 0.0
    flops: float = 0.0

    def add(self, forward: int, trained: float, sampled: float, steps: int) -> None:
        """Add one run whose samples took `steps` steps each."""
        self.trained += trained
        self.sampled += sampled
        self.flops += forward * (3 * trained + (2 * steps - 1) * sampled)


@dataclass(frozen=True)
class Outcome:
    """The result of one arm."""

    error: float | None  # octaves; None without an estimate
    width: float | None  # quotient of the interval's ends; None without an interval
    covered: bool | None  # True if the interval holds the truth; None without an interval
    spent: Spent


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arms", type=positive, default=2000, help="simulated arms per variant")
    parser.add_argument("--scales", nargs="+", choices=list(SCALES), default=list(SCALES))
    parser.add_argument("--seed", type=int, default=0)


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """Yield one row per scale and way to search."""
    curve = reference(REFERENCE)
    for scale in args.scales:
        yield from compare(scale, curve, args.arms, args.seed)


def reference(folder: Path) -> Curve:
    """Fit the curve to the runs in the tables of `folder`, each distinct run once.

    Raises:
        StageError: the tables are missing or have no arm with an EMM.
    """
    lines: dict[tuple[tuple[int, Count], ...], Line] = {}  # by content, because arms of several studies share runs
    runs: set[tuple[int, int, Count, Count]] = set()
    for path in sorted(folder.glob("*/curves.csv")):
        emm = read_table([path.with_name("emm.csv")], EMM_COLUMNS)
        estimated = set(emm.loc[emm["status"] == "estimated", "arm"])
        confirming: dict[str, list[tuple[int, Count]]] = {arm: [] for arm in estimated}
        half: Count | None = None  # of the run whose rows are being read, in the order of training
        for row in read_table([path], CURVE_COLUMNS).to_dict("records"):
            progress, count = row["progress"], Count(int(row["memorized"]), int(row["images"]))
            if progress == 0.5:
                half = count
            if progress == 1:
                if half is not None:
                    runs.add((int(row["n"]), int(row["replicate"]), half, count))
                if row["role"] == "confirm" and row["arm"] in estimated:
                    confirming[row["arm"]].append((int(row["n"]), count))
                half = None
        for counts in confirming.values():
            line = fit_line([n for n, _ in counts], [count for _, count in counts])
            if line is not None:
                lines[tuple(counts)] = line
    line_at = 1 - EPSILON
    gaps = [end.logit - half.logit for _, _, half, end in sorted(runs, key=str)
            if abs(end.logit - logit(line_at)) < SATURATED]  # fmt: skip
    above = [end for _, _, half, end in runs if half.ratio >= line_at]
    prior = scatter.fit([scatter.Own(line.rss, line.df, line.counting_variance) for line in lines.values()])
    if prior is None or len(gaps) < 2:
        raise StageError(f"{folder}: must hold the tables of studies (curves.csv, emm.csv) with estimated arms")
    counting = np.mean([count.variance for own in lines for _, count in own])
    return Curve(
        slope=-float(np.median([line.slope for line in lines.values()])),
        run_sd=math.sqrt(max(prior.variance - float(counting), 0.0)),
        gap=float(np.mean(gaps)),
        gap_sd=float(np.std(gaps, ddof=1)),
        above=len(above),
        fallen=sum(end.ratio < line_at for end in above),
    )


def compare(name: str, curve: Curve, arms: int, seed: int) -> Iterator[Row]:
    """Yield the rows of one scale: the paper's procedure, then each of our variants."""
    scale = configured_scale(name)
    paper, interpolated = grid(scale, curve, arms, seed, 1)
    base = mean_flops(paper)
    facts = {"slope": curve.slope, "run sd": curve.run_sd, "arms": arms}
    for title, outcomes in (("paper's procedure", paper), ("paper's procedure, interpolated", interpolated)):
        yield make("search", f"{name}: {title}", "FLOP", None, base, None, facts | summary(outcomes), "")
    repeated = Repeated(scale, curve, arms, seed)
    for index, variant in enumerate(variants(scale.setup.sampling.images)):
        outcomes = adaptive(scale, curve, variant, arms, seed, index)
        means = summary(outcomes)
        repetitions = None if means["error, octaves"] is None else repeated.until(means["error, octaves"])
        equal = None if repetitions is None else repetitions * base / mean_flops(outcomes)
        if variant.early:
            means["above half-way, below at the end"] = f"{curve.fallen} of {curve.above}"
        details = (
            facts | means | {"grid repetitions of this error": repetitions, "times as cheap at equal error": equal}
        )
        ratio = quotient(paper, outcomes)
        yield make("search", f"{name}: {variant.name}", "FLOP", mean_flops(outcomes), base, ratio, details, "")


def configured_scale(name: str) -> Scale:
    """Read the settings of a scale and derive its ladder and operations."""
    setup = configured.adjusted(configured.configuration(SCALES[name]).base, search__epsilon=EPSILON)
    sizes = ladder(setup.search, *feasibility.usable(datasets.describe(setup.data), setup.data))
    return Scale(setup, sizes, operations.planned(setup.network, configured.shape(setup))[0])


def variants(images: int) -> list[Variant]:
    """Our ways to search, for a configuration that evaluates `images` images."""
    others = [Variant(f"{count} images", count) for count in IMAGES if count != images]
    return [
        Variant(f"default ({images} images)", images),
        *others,
        Variant("first run shared", images, shared=True),
        Variant("early stop", images, early=True),
        Variant("500 images, first run shared, early stop", 500, shared=True, early=True),
    ]


def memorization_ratio(y: float) -> float:
    """The memorization ratio whose logit is `y` above the line."""
    return 1 / (1 + math.exp(-(y + logit(1 - EPSILON))))


def adaptive(scale: Scale, curve: Curve, variant: Variant, arms: int, seed: int, index: int) -> list[Outcome]:
    """Search `arms` arms; `index` gives each variant its own random numbers."""
    random = np.random.default_rng([seed, 1, index])
    truths = scale.truths(arms, seed)
    outcomes = []
    for first in range(0, arms, POOLED):
        searched = [(truth, *search(scale, curve, variant, truth, random)) for truth in truths[first : first + POOLED]]
        prior = scatter.fit(scatter.distinct((truth, trail, counts) for truth, trail, counts, _ in searched))
        for truth, trail, counts, spent in searched:
            variance = scatter.moderated(scatter.own(trail, counts), prior)
            estimated = estimate(scale.setup.search, trail, counts, scale.sizes, variance)
            outcomes.append(outcome(estimated.emm, estimated, truth, spent))
    return outcomes


def search(
    scale: Scale, curve: Curve, variant: Variant, truth: float, random: np.random.Generator
) -> tuple[Trail, dict[RunId, Count], Spent]:
    """Run one search to its end on a curve whose EMM is 2^`truth`."""
    setup, counts, spent = scale.setup, {}, Spent()
    shares = setup.training.snapshots
    while not (trail := replay(setup.search, scale.sizes, counts)).finished:
        for run in trail.missing:
            y = curve.slope * (truth - math.log2(run.n)) + curve.run_sd * random.standard_normal()
            count = drawn(y, variant.images, random)
            images, snapshots = float(budget(setup, run.n).images), len(shares)
            if variant.early and run not in trail.confirm:
                half = drawn(y - max(curve.gap + curve.gap_sd * random.standard_normal(), 0.0), variant.images, random)
                if wilson(half.memorized, half.images)[0] > 1 - EPSILON:
                    count, images, snapshots = half, images / 2, sum(share <= 0.5 for share in shares)
            counts[run] = count
            if not (variant.shared and run == trail.locate[0]):
                spent.add(scale.forward, images, snapshots * variant.images, setup.sampling.steps)
    return trail, counts, spent


def drawn(y: float, images: int, random: np.random.Generator) -> Count:
    """Draw the count of a run whose logit is `y` above the line."""
    return Count(int(random.binomial(images, memorization_ratio(y))), images)


def grid(scale: Scale, curve: Curve, arms: int, seed: int, repetitions: int) -> tuple[list[Outcome], list[Outcome]]:
    """The paper's procedure with `repetitions` runs per size: its own estimates, and the interpolated ones."""
    multiple, _ = feasibility.usable(datasets.describe(scale.setup.data), scale.setup.data)
    sizes = [round(scale.setup.search.start * factor / multiple) * multiple for factor in GRID]
    search = Search(rule="grid", grid=sizes, replicates=repetitions)
    runs = [RunId(n, replicate) for n in sizes for replicate in range(repetitions)]
    images = {n: budget(scale.setup, n).images for n in sizes}
    random = np.random.default_rng([seed, 2, repetitions])
    own, interpolated = [], []
    for truth in scale.truths(arms, seed):
        counts, spent = {}, Spent()
        for run in runs:
            y = curve.slope * (truth - math.log2(run.n)) + curve.run_sd * random.standard_normal()
            counts[run] = drawn(y, GRID_IMAGES, random)
            spent.add(scale.forward, images[run.n], GRID_SNAPSHOTS * GRID_IMAGES, GRID_STEPS)
        estimated = estimate(search, replay(search, sizes, counts), counts, sizes, None)
        own.append(outcome(estimated.emm, estimated, truth, spent))
        interpolated.append(outcome(estimated.interpolated, estimated, truth, spent))
    return own, interpolated


class Repeated:
    """Errors of the interpolated grid by number of repetitions, simulated on request."""

    def __init__(self, scale: Scale, curve: Curve, arms: int, seed: int):
        self.error = cache(lambda repetitions: error(grid(scale, curve, arms, seed, repetitions)[1]))

    def until(self, wanted: float) -> int | None:
        """The fewest repetitions whose error is at most `wanted` octaves; None if REPETITIONS has no such number."""
        for repetitions in REPETITIONS:
            octaves = self.error(repetitions)
            if octaves is not None and octaves <= wanted:
                return repetitions
        return None


def outcome(emm: float | None, interval: Estimate, truth: float, spent: Spent) -> Outcome:
    """Compare an arm's estimate `emm` and the ends of `interval` with the truth (log2 N)."""
    if emm is None:
        return Outcome(None, None, None, spent)
    if interval.low is None or interval.high is None:
        return Outcome(math.log2(emm) - truth, None, None, spent)
    return Outcome(
        math.log2(emm) - truth, interval.high / interval.low, interval.low <= 2**truth <= interval.high, spent
    )


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Average over the arms: the columns of the table."""
    widths = [arm.width for arm in outcomes if arm.width is not None]
    covered = [arm.covered for arm in outcomes if arm.covered is not None]
    return {
        "images trained": round(float(np.mean([arm.spent.trained for arm in outcomes]))),
        "images sampled": round(float(np.mean([arm.spent.sampled for arm in outcomes]))),
        "error, octaves": error(outcomes),
        "high / low": float(np.median(widths)) if widths else None,
        "coverage": float(np.mean(covered)) if covered else None,
        "without estimate": float(np.mean([arm.error is None for arm in outcomes])),
    }


def error(outcomes: Sequence[Outcome]) -> float | None:
    """Root mean square error in octaves over the arms that have an estimate; None if there are none."""
    errors = [arm.error for arm in outcomes if arm.error is not None]
    return float(np.sqrt(np.mean(np.square(errors)))) if errors else None


def mean_flops(outcomes: Sequence[Outcome]) -> float:
    return float(np.mean([arm.spent.flops for arm in outcomes]))


def quotient(dear: Sequence[Outcome], cheap: Sequence[Outcome]) -> Ratio:
    """Operations of `dear` over those of `cheap`, with the extremes over PARTS parts of the arms."""
    parts = [mean_flops(dear[i::PARTS]) / mean_flops(cheap[i::PARTS]) for i in range(min(PARTS, len(dear)))]
    return Ratio(mean_flops(dear) / mean_flops(cheap), min(parts), max(parts))
