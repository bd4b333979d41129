"""What runs cost, and how searches will go on.

Operations are counted on torch's meta device.  A search goes on along an assumed curve: its EMM is where the scores so
far have it, and without any half an octave above ``search.start``, which is as good as a hint usually is.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from emmeter.measure.outcome import Count, RunId, logit
from emmeter.measure.search import SATURATED
from emmeter.pipeline.index import Index
from emmeter.settings.keys import key
from emmeter.settings.sections import Setup

OFF = 0.5  # octaves from search.start to the EMM that the plan assumes
START = 3.0  # seconds of a job's start where it is not measured
PER_RUN = 2.0  # seconds of a run beside Python's start and the network: Snakemake, files, evaluation, scoring


@dataclass(frozen=True)
class Cost:
    """What one run takes: training images, operations of training and of sampling, bytes on disk."""

    images: int
    train_flops: int
    sample_flops: int
    disk: int


@dataclass(frozen=True)
class Speed:
    """Operations a second of one job in training and in sampling, seconds of a job's start, and jobs at once."""

    train: float
    sample: float
    start: float
    jobs: int

    def training(self, cost: Cost) -> float:
        """Seconds of a run's training job."""
        return self.start + cost.train_flops / self.train

    def evaluation(self, cost: Cost) -> float:
        """Seconds of a run's jobs after its training: sampling, scoring."""
        return self.start + cost.sample_flops / self.sample + PER_RUN

    def seconds(self, cost: Cost) -> float:
        """Seconds of one run in one job after the other."""
        return (self.training(cost) if cost.train_flops else 0.0) + self.evaluation(cost)


def throughput_speed(throughput: float, jobs: int = 1) -> Speed:
    """The speed behind a throughput that the user gives, in GFLOP/s of one job."""
    return Speed(1e9 * throughput, 1e9 * throughput, START, jobs)


class Assumed(Mapping[RunId, Count]):
    """Counts of runs as the plan assumes them: those that are known, else a logit that falls by search.slope an octave.

    ``emm`` is where the curve crosses 1 - epsilon; infinite for the theoretical optimum, which memorizes everything.
    """

    def __init__(self, setup: Setup, known: Mapping[RunId, Count] | None = None):
        self.setup, self.known = setup, known or {}
        self.emm = math.inf if setup.diffusion.denoiser == "optimum" else expected_emm(setup, self.known)

    def __getitem__(self, one: RunId) -> Count:
        if one in self.known:
            return self.known[one]
        images = self.setup.sampling.images
        if math.isinf(self.emm):
            return Count(images, images)
        y = logit(1 - self.setup.search.epsilon) + self.setup.search.slope * math.log2(self.emm / one.n)
        return Count(round(images / (1 + math.exp(-y))), images)

    def __iter__(self) -> Iterator[RunId]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)

    def __contains__(self, one: object) -> bool:
        return True


def expected_emm(setup: Setup, known: Mapping[RunId, Count]) -> float:
    """Training images at which the ratio should cross 1 - epsilon, by the runs that are known and search.start."""
    line, slope = logit(1 - setup.search.epsilon), setup.search.slope
    points = [(math.log2(one.n), count.logit - line) for one, count in known.items()]
    partly = [0 < count.memorized < count.images for count in known.values()]  # all or none tells but the side
    if near := [x + y / slope for (x, y), tells in zip(points, partly, strict=True) if tells and abs(y) < SATURATED]:
        return 2.0 ** (sum(near) / len(near))
    above, below = [x for x, y in points if y > 0], [x for x, y in points if y < 0]
    if above and below:
        return 2.0 ** ((max(above) + min(below)) / 2)
    expected = math.log2(setup.search.start) + OFF
    return 2.0 ** min([max([expected, *(x + OFF for x in above)]), *(x - OFF for x in below)])


class Costs:
    """Costs of runs, with the counts of each network made once."""

    def __init__(self, index: Index):
        self.index = index
        self.networks: dict[str, tuple[int, int]] = {}  # forward operations and parameters

    def network(self, setup: Setup, shape: tuple[int, ...]) -> tuple[int, int]:
        name = json.dumps([setup.network.model_dump(), shape])
        if name not in self.networks:
            from emmeter.diffusion import operations

            self.networks[name] = operations.planned(setup.network, shape)
        return self.networks[name]

    def of(self, setup: Setup, n: int, trained: bool = False) -> Cost:
        """What one run on `n` images takes; with `trained` only its sampling, as another arm trains it."""
        shape, snapshots = self.index.shapes[key("subset", setup)], 1
        pixels, images = math.prod(shape), setup.sampling.images
        forward = parameters = seen = 0
        if setup.diffusion.denoiser == "network":
            from emmeter.training.schedule import budget

            forward, parameters = self.network(setup, shape)
            seen, snapshots = budget(setup, n).images, len(setup.training.snapshots)
        evaluations = (2 * setup.sampling.steps - 1) * images * snapshots
        weights = 4 * parameters * snapshots * len(setup.training.ema_decays)
        neighbours = images * snapshots * (12 * min(setup.scoring.neighbours, n) + 4)
        disk = images * snapshots * pixels + neighbours
        if trained:
            return Cost(0, 0, forward * evaluations, disk)
        return Cost(seen, 3 * forward * seen, forward * evaluations, disk + weights + 2 * n * pixels)
