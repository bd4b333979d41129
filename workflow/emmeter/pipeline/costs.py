"""Costs of runs, and the assumed course of searches.

Operations are counted on torch's meta device.  A search continues along an assumed curve.  The EMM of this curve
follows from the finished runs; without any, it is half an octave above ``search.start``, a typical error of this hint.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from emmeter.measure.outcome import Count, RunId, logit
from emmeter.measure.quality.floors import draws_of
from emmeter.measure.search import SATURATED
from emmeter.pipeline.index import Index
from emmeter.settings.keys import key
from emmeter.settings.sections import PIXELS, Setup

OFF = 0.5  # octaves from search.start to the EMM that the plan assumes
START = 3.0  # seconds of a job's start, if not measured
START_PLAIN = 1.5  # seconds of the start of a job without torch
PER_FEATURES = 0.1  # seconds per image of EfficientNet-Lite0, and of a network of the user, as far as is known
PER_RUN = 2.0  # seconds per run for Snakemake, files, evaluation and scoring


@dataclass(frozen=True)
class Cost:
    """Cost of one run."""

    images: int  # that the training sees
    train_flops: int
    sample_flops: int
    disk: int  # bytes
    seconds: float | None = 0.0  # of a command of the user's; None if nobody has said how long it takes
    external: bool = False  # True for a command, whose images and operations are not known


@dataclass(frozen=True)
class Speed:
    """Speed of a machine."""

    train: float  # operations per second of one training job
    sample: float  # operations per second of one sampling job
    start: float  # seconds of a job's start
    jobs: int  # at once
    compiled: bool = False  # whether training or sampling used a compiled package

    def training(self, cost: Cost) -> float:
        """Seconds of a run's training job."""
        return self.start + cost.train_flops / self.train + (cost.seconds or 0.0)

    def evaluation(self, cost: Cost) -> float:
        """Seconds of a run's sampling and scoring jobs."""
        return self.start + cost.sample_flops / self.sample + PER_RUN

    def seconds(self, cost: Cost) -> float:
        """Seconds of one run, whose jobs follow one another."""
        return (self.training(cost) if cost.train_flops or cost.seconds else 0.0) + self.evaluation(cost)


def throughput_speed(throughput: float, jobs: int = 1) -> Speed:
    """Speed that corresponds to a throughput in GFLOP/s per job."""
    return Speed(1e9 * throughput, 1e9 * throughput, START, jobs)


class Assumed(Mapping[RunId, Count]):
    """Counts of finished runs, and assumed counts of all others, whose logit falls by search.slope per octave of N.

    Attributes:
        emm: N at which the assumed curve crosses 1 - epsilon; infinite for the theoretical optimum, which memorizes
            everything.
    """

    def __init__(self, setup: Setup, finished: Mapping[RunId, Count] | None = None):
        self.setup, self.finished = setup, finished or {}
        self.emm = math.inf if setup.kind == "optimum" else expected_emm(setup, self.finished)

    def __getitem__(self, run: RunId) -> Count:
        if run in self.finished:
            return self.finished[run]
        images = self.setup.sampling.images
        if math.isinf(self.emm):
            return Count(images, images)
        y = logit(1 - self.setup.search.epsilon) + self.setup.search.slope * math.log2(self.emm / run.n)
        return Count(round(images / (1 + math.exp(-y))), images)

    def __iter__(self) -> Iterator[RunId]:
        return iter(self.finished)

    def __len__(self) -> int:
        return len(self.finished)

    def __contains__(self, run: object) -> bool:
        return True


def expected_emm(setup: Setup, finished: Mapping[RunId, Count]) -> float:
    """Expected N at which the ratio crosses 1 - epsilon, from finished runs and search.start."""
    line, slope = logit(1 - setup.search.epsilon), setup.search.slope
    points = [(math.log2(run.n), count.logit - line) for run, count in finished.items()]
    # A run that copies all images or none shows only on which side of it the crossing is.
    partly = [0 < count.memorized < count.images for count in finished.values()]
    if near := [x + y / slope for (x, y), part in zip(points, partly, strict=True) if part and abs(y) < SATURATED]:
        return 2.0 ** (sum(near) / len(near))
    above, below = [x for x, y in points if y > 0], [x for x, y in points if y < 0]
    if above and below:
        return 2.0 ** ((max(above) + min(below)) / 2)
    expected = math.log2(setup.search.start) + OFF
    return 2.0 ** min([max([expected, *(x + OFF for x in above)]), *(x - OFF for x in below)])


class Costs:
    """Costs of runs.  The operations and parameters of each network are counted once."""

    def __init__(self, index: Index):
        self.index = index
        self.networks: dict[str, tuple[int, int]] = {}

    def network(self, setup: Setup, shape: tuple[int, ...]) -> tuple[int, int]:
        """Operations of one forward pass per image, and number of parameters."""
        name = json.dumps([setup.network.model_dump(), shape])
        if name not in self.networks:
            from emmeter.diffusion import operations

            self.networks[name] = operations.planned(setup.network, shape)
        return self.networks[name]

    def run(self, setup: Setup, n: int, trained: bool = False) -> Cost:
        """Cost of one run on `n` images; with `trained`, of its sampling only, because another arm trains it."""
        shape, snapshots = self.index.shapes[key("subset", setup)], 1
        pixels, images = math.prod(shape), setup.sampling.images
        forward = parameters = seen = 0
        if setup.kind == "network":
            from emmeter.training.schedule import budget

            forward, parameters = self.network(setup, shape)
            seen, snapshots = budget(setup, n).images, len(setup.training.snapshots)
        evaluations = setup.evaluations * images * snapshots
        weights = 4 * parameters * snapshots * len(setup.training.ema_decays)
        neighbours = images * snapshots * (12 * min(setup.scoring.neighbours, n) + 4)
        disk = images * snapshots * pixels + neighbours
        subset = 2 * setup.data.duplicates.entries(n) * pixels
        if setup.kind == "command":
            minutes = setup.model.minutes
            return Cost(0, 0, 0, disk + subset, None if minutes is None else 60 * minutes, external=True)
        if trained:
            return Cost(0, 0, forward * evaluations, disk)
        return Cost(seen, 3 * forward * seen, forward * evaluations, disk + weights + subset)

    def quality(self, setup: Setup, runs: Iterable[RunId]) -> float:
        """Seconds of the job that measures the quality of an arm's images, on one core of 2026."""
        pixels = math.prod(self.index.shapes[key("subset", setup)])
        snapshots = len(setup.training.snapshots) if setup.kind == "network" else 1
        most = min(setup.quality.images, setup.sampling.images, setup.data.held_out)
        seconds = START_PLAIN
        networks = sum(name != PIXELS for name in setup.quality.features)
        for run in runs:
            generated, real = min(setup.quality.images, setup.sampling.images), run.n + setup.data.held_out
            seconds += PER_FEATURES * networks * (snapshots * generated + min(real, 3 * setup.quality.images))
            for count in (min(most, run.n), most // 2):  # against the training and against the held-out images
                smaller = min(count, pixels)
                once = 2e-4 + 6e-8 * count**2 + 2e-10 * count**2 * pixels + 5e-10 * count * smaller**2
                seconds += draws_of(setup.quality.draws, max(count, 1)) * (snapshots + 1) * once
        return seconds

    def denoising(self, setup: Setup, runs: Iterable[RunId]) -> Cost:
        """Cost of the job that denoises images at single noise levels with the networks of an arm."""
        forward, _ = self.network(setup, self.index.shapes[key("subset", setup)])
        settings, snapshots = setup.denoising, len(setup.training.snapshots)
        held_out = min(settings.images, setup.data.held_out)
        images = sum(min(settings.images, run.n) + held_out for run in runs)
        return Cost(0, 0, forward * len(settings.levels) * images * snapshots, 0)
