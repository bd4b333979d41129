"""Cost of an EMM: the adaptive search against the paper's procedure, in a simulation of known truth.

**The curve.**  The logit of a run's memorization ratio falls by `slope` per doubling of N and passes 0.9 at the true
EMM; runs scatter about it with standard deviation `run_sd`; generated images are counted binomially.  Slope and
scatter are those of the digits: medians and pooled residuals (less the counting of images) over the arms with an EMM
in the tables of results/reference/laptop, read at every call.  The true EMM of an arm is drawn from OFF octaves about
the hint `search.start`, where the searches and the grid begin.

**The paper's procedure** (baseline): a grid of five sizes an octave apart, one run each, all trained to the end,
16 snapshots of each sampled in 10,000 images with 18 steps; EMM is the largest size whose ratio reaches 0.9.  As
ratios grow along training, the best of the snapshots is the last.  ``interpolated`` reads EMM off the same runs by
the isotonic fit of `emmeter.measure.estimate` instead.

**Ours**: `emmeter.measure.search` and `emmeter.measure.estimate` at the configuration's settings, intervals pooled over
four arms as in the default study.  Options: 250, 500 or 2,000 images an evaluation; *shared*: the first locating run
has been trained and sampled for another arm and costs nothing; *early stop*: a locating run whose half-way snapshot is
surely above the line (lower end of the Wilson interval) stops there, and that snapshot's count is taken.  It assumes
that a ratio never falls along training; the details count the digits' runs above the line half-way, and those of them
below it at the end.  Half-way logits lie below the final ones by a gap with the mean and scatter of the runs near the
line, and never above.

**Scales.**  The digits (config.yaml) and the paper's network (config/paper.yaml, whose runs last 40,000 epochs, so
that a large N costs more); both with the curve of the digits, for nothing else has been measured.

**Reported** for an arm: operations (the row's numbers, training as 3 times the forward pass), images trained and
sampled, root mean square of log2(estimate / truth), median quotient of the interval's ends, its coverage, the share of
arms without an estimate; and how many repetitions of the grid, interpolated, have that error, at what cost.
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
OFF = (-0.5, 1.0)  # octaves of the true EMM from the hint
POOLED = 4  # arms of a study
GRID = (1 / 2, 1, 2, 4, 8)  # sizes of the paper's procedure, times the hint
GRID_SNAPSHOTS, GRID_IMAGES, GRID_STEPS = 16, 10_000, 18
IMAGES = (250, 500, 2000)
REPETITIONS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
PARTS = 10  # of the simulated arms, for the spread of the ratio
EPSILON = 0.1


@dataclass(frozen=True)
class Curve:
    """What the digits say of runs: slope in logits an octave, scatter of a run's logit without the counting of images,
    mean and scatter of the growth of a run's logit from half-way to the end; runs above the line half-way, and those of
    them that end below it."""

    slope: float
    run_sd: float
    gap: float
    gap_sd: float
    above: int
    fallen: int


@dataclass(frozen=True)
class Scale:
    """What the searches have in common: settings, ladder, operations of one image through the network."""

    setup: Setup
    sizes: list[int]
    forward: int

    def truths(self, arms: int, seed: int) -> np.ndarray:
        """(arms,) the true EMM of each arm in octaves (log2 N)."""
        return math.log2(self.setup.search.start) + np.random.default_rng([seed, 0]).uniform(*OFF, arms)


@dataclass(frozen=True)
class Variant:
    """A way to search: images of an evaluation, and the two savings."""

    name: str
    images: int
    shared: bool = False
    early: bool = False


@dataclass
class Spent:
    """What one arm took: images trained and sampled, operations."""

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
    """One arm: error in octaves (None without an estimate), interval's quotient and whether it held the truth."""

    error: float | None
    width: float | None
    covered: bool | None
    spent: Spent


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arms", type=positive, default=2000, help="simulated, of each variant")
    parser.add_argument("--scales", nargs="+", choices=list(SCALES), default=list(SCALES))
    parser.add_argument("--seed", type=int, default=0)


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """A row for each scale and way to search."""
    curve = reference(REFERENCE)
    for scale in args.scales:
        yield from compare(scale, curve, args.arms, args.seed)


def reference(folder: Path) -> Curve:
    """The curve of the runs in the tables of `folder`, each distinct run counted once.

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
        for of_arm in confirming.values():
            line = fit_line([n for n, _ in of_arm], [count for _, count in of_arm])
            if line is not None:
                lines[tuple(of_arm)] = line
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
    """The rows of one scale: the paper's procedure, then each of our ways."""
    scale = scale_of(name)
    paper, interpolated = grid(scale, curve, arms, seed, 1)
    base = mean_flops(paper)
    facts = {"slope": curve.slope, "run sd": curve.run_sd, "arms": arms}
    for title, outcomes in (("paper's procedure", paper), ("paper's procedure, interpolated", interpolated)):
        yield make("search", f"{name}: {title}", "FLOP", None, base, None, facts | summary(outcomes), "")
    repeated = Repeated(scale, curve, arms, seed)
    for index, variant in enumerate(variants(scale.setup.sampling.images)):
        outcomes = adaptive(scale, curve, variant, arms, seed, index)
        found = summary(outcomes)
        repetitions = None if found["error, octaves"] is None else repeated.until(found["error, octaves"])
        equal = None if repetitions is None else repetitions * base / mean_flops(outcomes)
        if variant.early:
            found["above half-way, below at the end"] = f"{curve.fallen} of {curve.above}"
        details = (
            facts | found | {"grid repetitions of this error": repetitions, "times as cheap at equal error": equal}
        )
        ratio = quotient(paper, outcomes)
        yield make("search", f"{name}: {variant.name}", "FLOP", mean_flops(outcomes), base, ratio, details, "")


def scale_of(name: str) -> Scale:
    """The settings of a scale, and what follows from them."""
    setup = configured.adjusted(configured.configuration(SCALES[name]).base, search__epsilon=EPSILON)
    sizes = ladder(setup.search, *feasibility.usable(datasets.describe(setup.data), setup.data))
    return Scale(setup, sizes, operations.planned(setup.network, configured.shape(setup))[0])


def variants(images: int) -> list[Variant]:
    """Our ways to search where the configuration evaluates `images` images."""
    others = [Variant(f"{count} images", count) for count in IMAGES if count != images]
    return [
        Variant(f"default ({images} images)", images),
        *others,
        Variant("first run shared", images, shared=True),
        Variant("early stop", images, early=True),
        Variant("500 images, first run shared, early stop", 500, shared=True, early=True),
    ]


def ratio_of(y: float) -> float:
    """The ratio whose logit lies `y` above the line."""
    return 1 / (1 + math.exp(-(y + logit(1 - EPSILON))))


def adaptive(scale: Scale, curve: Curve, variant: Variant, arms: int, seed: int, index: int) -> list[Outcome]:
    """Search `arms` arms; `index` tells the random numbers of the variants apart."""
    random = np.random.default_rng([seed, 1, index])
    truths = scale.truths(arms, seed)
    outcomes = []
    for first in range(0, arms, POOLED):
        searched = [(truth, *search(scale, curve, variant, truth, random)) for truth in truths[first : first + POOLED]]
        prior = scatter.fit(scatter.distinct((truth, trail, counts) for truth, trail, counts, _ in searched))
        for truth, trail, counts, spent in searched:
            variance = scatter.moderated(scatter.own(trail, counts), prior)
            found = estimate(scale.setup.search, trail, counts, scale.sizes, variance)
            outcomes.append(outcome(found.emm, found, truth, spent))
    return outcomes


def search(
    scale: Scale, curve: Curve, variant: Variant, truth: float, random: np.random.Generator
) -> tuple[Trail, dict[RunId, Count], Spent]:
    """One search to its end on a curve whose EMM is 2^`truth`."""
    setup, counts, spent = scale.setup, {}, Spent()
    shares = setup.training.snapshots
    while not (trail := replay(setup.search, scale.sizes, counts)).finished:
        for one in trail.missing:
            y = curve.slope * (truth - math.log2(one.n)) + curve.run_sd * random.standard_normal()
            count = drawn(y, variant.images, random)
            images, snapshots = float(budget(setup, one.n).images), len(shares)
            if variant.early and one not in trail.confirm:
                half = drawn(y - max(curve.gap + curve.gap_sd * random.standard_normal(), 0.0), variant.images, random)
                if wilson(half.memorized, half.images)[0] > 1 - EPSILON:
                    count, images, snapshots = half, images / 2, sum(share <= 0.5 for share in shares)
            counts[one] = count
            if not (variant.shared and one == trail.locate[0]):
                spent.add(scale.forward, images, snapshots * variant.images, setup.sampling.steps)
    return trail, counts, spent


def drawn(y: float, images: int, random: np.random.Generator) -> Count:
    """The count of a run whose logit lies `y` above the line."""
    return Count(int(random.binomial(images, ratio_of(y))), images)


def grid(scale: Scale, curve: Curve, arms: int, seed: int, repetitions: int) -> tuple[list[Outcome], list[Outcome]]:
    """The paper's procedure with so many runs at each size: its own reading, and the interpolated one."""
    multiple, _ = feasibility.usable(datasets.describe(scale.setup.data), scale.setup.data)
    sizes = [round(scale.setup.search.start * factor / multiple) * multiple for factor in GRID]
    search = Search(rule="grid", grid=sizes, replicates=repetitions)
    runs = [RunId(n, replicate) for n in sizes for replicate in range(repetitions)]
    images = {n: budget(scale.setup, n).images for n in sizes}
    random = np.random.default_rng([seed, 2, repetitions])
    own, interpolated = [], []
    for truth in scale.truths(arms, seed):
        counts, spent = {}, Spent()
        for one in runs:
            y = curve.slope * (truth - math.log2(one.n)) + curve.run_sd * random.standard_normal()
            counts[one] = drawn(y, GRID_IMAGES, random)
            spent.add(scale.forward, images[one.n], GRID_SNAPSHOTS * GRID_IMAGES, GRID_STEPS)
        found = estimate(search, replay(search, sizes, counts), counts, sizes, None)
        own.append(outcome(found.emm, found, truth, spent))
        interpolated.append(outcome(found.interpolated, found, truth, spent))
    return own, interpolated


class Repeated:
    """Error of the interpolated grid by its number of repetitions, simulated as far as asked."""

    def __init__(self, scale: Scale, curve: Curve, arms: int, seed: int):
        self.error = cache(lambda repetitions: error(grid(scale, curve, arms, seed, repetitions)[1]))

    def until(self, wanted: float) -> int | None:
        """The fewest repetitions whose error is at most `wanted` octaves; None: more than the most of REPETITIONS."""
        for repetitions in REPETITIONS:
            found = self.error(repetitions)
            if found is not None and found <= wanted:
                return repetitions
        return None


def outcome(emm: float | None, found: Estimate, truth: float, spent: Spent) -> Outcome:
    """An arm's estimate beside the truth (log2 N)."""
    if emm is None:
        return Outcome(None, None, None, spent)
    if found.low is None or found.high is None:
        return Outcome(math.log2(emm) - truth, None, None, spent)
    return Outcome(math.log2(emm) - truth, found.high / found.low, found.low <= 2**truth <= found.high, spent)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Means over the arms, as the columns of the table."""
    widths = [one.width for one in outcomes if one.width is not None]
    covered = [one.covered for one in outcomes if one.covered is not None]
    return {
        "images trained": round(float(np.mean([one.spent.trained for one in outcomes]))),
        "images sampled": round(float(np.mean([one.spent.sampled for one in outcomes]))),
        "error, octaves": error(outcomes),
        "high / low": float(np.median(widths)) if widths else None,
        "coverage": float(np.mean(covered)) if covered else None,
        "without estimate": float(np.mean([one.error is None for one in outcomes])),
    }


def error(outcomes: Sequence[Outcome]) -> float | None:
    """Root mean square error in octaves, of the arms that have an estimate."""
    errors = [one.error for one in outcomes if one.error is not None]
    return float(np.sqrt(np.mean(np.square(errors)))) if errors else None


def mean_flops(outcomes: Sequence[Outcome]) -> float:
    return float(np.mean([one.spent.flops for one in outcomes]))


def quotient(dear: Sequence[Outcome], cheap: Sequence[Outcome]) -> Ratio:
    """How many times as many operations `dear` takes, with the extremes over parts of the arms."""
    parts = [mean_flops(dear[i::PARTS]) / mean_flops(cheap[i::PARTS]) for i in range(min(PARTS, len(dear)))]
    return Ratio(mean_flops(dear) / mean_flops(cheap), min(parts), max(parts))
