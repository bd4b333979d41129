"""What a configuration will still cost, before anything runs: time, runs, images, disk and operations.

The search is replayed on the scores that exist, and goes on along an assumed curve: its EMM is where those scores have
it, and without any half an octave above ``search.start``, which is as good as a hint usually is.  Operations are
counted on torch's meta device; time follows from a short calibration on this machine, with made-up images, or from a
throughput that the user gives.  So no data are needed.  ``emm plan`` and the rule ``plan`` print it.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emm import allocator, datasets, files, gpus, project, subset, warm
from emm.configuration import read
from emm.dag import Dag, index
from emm.datasets import DataError
from emm.keys import RECORDS, Stage, key, run_folder
from emm.search import SATURATED, Count, RunId, Trail, logit, replay
from emm.settings import Run, Settings, SettingsError
from emm.stage import command, read_settings
from emm.tables import aligned

if TYPE_CHECKING:  # training brings torch, which a plan at a given throughput needs for its networks alone
    from emm.training import Trainer

OFF = 0.5  # octaves from search.start to the EMM that the plan assumes
CALIBRATION = 10.0  # seconds
START = 3.0  # seconds of a job's start where it is not measured
PER_RUN = 2.0  # seconds of a run beside Python's start and the network: Snakemake, files, evaluation, scoring
PER_WORKFLOW = 10.0  # seconds of Snakemake's start, tables, figures and report
PROBE = 4  # images of the first step of a calibration, which tells how many a step can have
MADE_UP = 1024  # images at most that a calibration trains on


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

    def __init__(self, run: Run, known: Mapping[RunId, Count] | None = None):
        self.run, self.known = run, known or {}
        self.emm = math.inf if run.diffusion.denoiser == "optimum" else expected_emm(run, self.known)

    def __getitem__(self, one: RunId) -> Count:
        if one in self.known:
            return self.known[one]
        images = self.run.sampling.images
        if math.isinf(self.emm):
            return Count(images, images)
        y = logit(1 - self.run.search.epsilon) + self.run.search.slope * math.log2(self.emm / one.n)
        return Count(round(images / (1 + math.exp(-y))), images)

    def __iter__(self) -> Iterator[RunId]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)

    def __contains__(self, one: object) -> bool:
        return True


def expected_emm(run: Run, known: Mapping[RunId, Count]) -> float:
    """Training images at which the ratio should cross 1 - epsilon, by the runs that are known and search.start."""
    line, slope = logit(1 - run.search.epsilon), run.search.slope
    points = [(math.log2(one.n), count.logit - line) for one, count in known.items()]
    partly = [0 < count.memorized < count.images for count in known.values()]  # all or none tells but the side
    if near := [x + y / slope for (x, y), tells in zip(points, partly, strict=True) if tells and abs(y) < SATURATED]:
        return 2.0 ** (sum(near) / len(near))
    above, below = [x for x, y in points if y > 0], [x for x, y in points if y < 0]
    if above and below:
        return 2.0 ** ((max(above) + min(below)) / 2)
    expected = math.log2(run.search.start) + OFF
    return 2.0 ** min([max([expected, *(x + OFF for x in above)]), *(x - OFF for x in below)])


class Costs:
    """Costs of runs, with the counts of each network made once."""

    def __init__(self, dag: Dag):
        self.dag = dag
        self.networks: dict[str, tuple[int, int]] = {}  # forward operations and parameters

    def network(self, run: Run, shape: tuple[int, ...]) -> tuple[int, int]:
        name = json.dumps([run.network.model_dump(), shape])
        if name not in self.networks:
            from emm import operations

            self.networks[name] = operations.planned(run.network, shape)
        return self.networks[name]

    def of(self, run: Run, n: int, trained: bool = False) -> Cost:
        """What one run on `n` images takes; with `trained` only its sampling, as another arm trains it."""
        shape, snapshots = self.dag.shapes[key("subset", run)], 1
        pixels, images = math.prod(shape), run.sampling.images
        forward = parameters = seen = 0
        if run.diffusion.denoiser == "network":
            from emm.training import budget

            forward, parameters = self.network(run, shape)
            seen, snapshots = budget(run, n).images, len(run.training.snapshots)
        evaluations = (2 * run.sampling.steps - 1) * images * snapshots
        weights = 4 * parameters * snapshots * len(run.training.ema_decays)
        neighbours = images * snapshots * (12 * min(run.scoring.neighbours, n) + 4)
        disk = images * snapshots * pixels + neighbours
        if trained:
            return Cost(0, 0, forward * evaluations, disk)
        return Cost(seen, 3 * forward * seen, forward * evaluations, disk + weights + 2 * n * pixels)


Place = tuple[str, RunId]  # of a run among all: its sample key, and which run of this


@dataclass(frozen=True)
class Planned:
    """The plan of one study: ``new`` are its runs that are still to be made, and that no study before it makes."""

    study: str
    arms: int
    runs: int
    new: Mapping[Place, Cost]
    longest: list[list[Cost]]  # of each arm the runs to be made that must follow one another
    done: frozenset[Place] = field(default_factory=frozenset)  # its runs that have a score already


def plan(settings: Settings, dag: Dag) -> list[Planned]:
    """Plan the selected studies in order."""
    costs = Costs(dag)
    made: set[Place] = set()
    trained: set[Place] = set()
    result = []
    for study in (dag.study(name) for name in settings.selected):
        asked: dict[Place, Cost] = {}
        scored: set[Place] = set()
        chains = []
        for arm in study.arms:
            run, known = arm.run, found(arm.run, dag)
            trail = replay(run.search, dag.sizes[key("emm", run)], Assumed(run, known))
            for one in trail.runs:
                # Arms that differ only in sampling share their trainings, those that differ only in scoring all.
                training, sampled = (key("train", run), one), (key("sample", run), one)
                if one in known:
                    scored.add(sampled)
                elif sampled not in asked:
                    asked[sampled] = remaining(costs, run, one, training in trained)
                trained.add(training)
            in_turn = [one for one in _in_turn(run, trail) if one not in known]
            chains.append([remaining(costs, run, one) for one in in_turn])
        new = {place: cost for place, cost in asked.items() if place not in made}
        done = frozenset(scored - set(asked))  # another arm may want another score of the same samples
        made |= set(asked)
        result.append(Planned(study.name, len(study.arms), len(asked) + len(done), new, chains, done))
    return result


def found(run: Run, dag: Dag) -> dict[RunId, Count]:
    """The runs that the search of an arm has used so far."""
    scores = dag.scores(key("emm", run))
    trail = replay(run.search, dag.sizes[key("emm", run)], scores)
    return {one: scores[one] for one in trail.runs if one in scores}


def _in_turn(run: Run, trail: Trail) -> Sequence[RunId]:
    """Of a search the runs that must follow one another."""
    return [*trail.locate, *trail.confirm[:1]] if run.search.rule == "bisection" else trail.locate[-1:]


def remaining(costs: "Costs", run: Run, one: RunId, trained: bool = False) -> Cost:
    """What is left of a run without a score; with `trained` another arm trains it."""

    def there(stage: Stage) -> bool:
        folder = run_folder(costs.dag.results, stage, key(stage, run), one.n, one.replicate)
        return (folder / RECORDS[stage]).is_file()

    cost = costs.of(run, one.n, trained or there("train"))
    return replace(cost, sample_flops=0) if there("sample") else cost


def duration(planned: Sequence[Planned], speed: Speed) -> float:
    """Expected seconds: all runs over the jobs at once, but at least the longest search, whose runs wait in turn."""
    work = sum(speed.seconds(cost) for one in planned for cost in one.new.values())
    chains = (sum(map(speed.seconds, chain)) for one in planned for chain in one.longest)
    return PER_WORKFLOW + max(work / speed.jobs, max(chains, default=0.0))


def text(planned: Sequence[Planned], speed: Speed) -> str:
    """The plan for readers: how long it takes, a table with a line a study, and a line of what it rests on."""
    table = [["study", "time", "arms", "runs", "done", "new runs", "images trained", "disk", "PFLOP"]]
    for one in planned:
        counts = (one.arms, one.runs, len(one.done))
        table.append([one.study, *_amounts(counts, list(one.new.values()), duration([one], speed))])
    new = [cost for one in planned for cost in one.new.values()]
    done = len(
        frozenset[Place]().union(*(one.done for one in planned)) - {place for one in planned for place in one.new}
    )
    seconds = duration(planned, speed)
    counts = (sum(one.arms for one in planned), len(new) + done, done)
    table.append(["all", *_amounts(counts, new, seconds)])
    ready = f", {done} already done" if done else ""
    head = f"{len(new) + done} runs{ready}: {f'about {span(seconds)}' if new else 'nothing is left to train or sample'}"
    rests = "new runs: neither done nor made by a study above."
    if math.isfinite(speed.train):
        speeds = f"{speed.train / 1e9:.3g} GFLOP/s in training and {speed.sample / 1e9:.3g} in sampling"
        rests += f"  Time: {speed.jobs} jobs at once, each with {speeds}, {speed.start:.1f} s to start."
    return f"{head}\n\n{aligned(table)}\n\n{rests}"


def _amounts(counts: Sequence[int], costs: Sequence[Cost], seconds: float) -> list[str]:
    """Cells of a line: time; arms, runs and done, as `counts`; new runs with their images, disk and operations."""
    flops = sum(cost.train_flops + cost.sample_flops for cost in costs)
    return [
        span(seconds) if costs else "none",
        *map(str, counts),
        str(len(costs)),
        f"{sum(cost.images for cost in costs):,}",
        amount(sum(cost.disk for cost in costs)),
        f"{flops / 1e15:.3g}",
    ]


def span(seconds: float) -> str:
    """A time as one says it, in two digits: "45 seconds", "2.3 minutes", "19 minutes", "120 days"."""
    day = 86400.0
    sizes = (
        ("seconds", 1.0, 90), ("minutes", 60.0, 90), ("hours", 3600.0, 48), ("days", day, 730),
        ("years", 365.25 * day, math.inf),
    )  # fmt: skip
    unit, size, _ = next(one for one in sizes if seconds / one[1] < one[2])
    value = float(f"{seconds / size:.2g}")
    return f"{value:,.0f} {unit}" if value >= 10 else f"{value:g} {unit}"


def amount(size: float) -> str:
    """Bytes in two digits: "0 MB", "26 MB", "1.8 GB"."""
    unit, scale = ("MB", 1e6) if size < 1e9 else ("GB", 1e9) if size < 1e12 else ("TB", 1e12)
    return f"{float(f'{size / scale:.2g}'):g} {unit}"


def calibrate(run: Run, device: str, threads: int, jobs: int, claim: Sequence[str] = ()) -> Speed:
    """Measure the base network on this machine, in as many processes at once as jobs will run.

    `claim` are the words before a command that give it a GPU of its own (`gpus.claim`).
    """
    options = ["--calibrate", run.model_dump_json(), "--device", device, "--threads", str(threads)]
    command_line = [*claim, sys.executable, "-m", "emm.plan", *options]
    environment = allocator.ENVIRONMENT | os.environ | {"OMP_NUM_THREADS": str(threads)}  # as a workflow's jobs have it
    pipe = {"env": environment | project.child_environment(), "stdout": subprocess.PIPE, "encoding": "utf-8"}
    started = [subprocess.Popen(command_line, **pipe) for _ in range(jobs)]
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SettingsError("plan: the calibration failed; give --throughput GFLOP/s instead")
    rates = [json.loads(output) for output in outputs]

    def mean(name: str) -> float:
        return sum(rate[name] for rate in rates) / jobs

    return Speed(mean("train"), mean("sample"), mean("start"), jobs)


def measure(run: Run, device_name: str, threads: int, started: float) -> dict[str, float]:
    """Rates of one process: seconds of a job's start, operations a second of training steps and of sampling.

    On made-up images of the data set's shape.  A step or a sample that would take too long here has fewer images.
    `started`: when this process was.
    """
    import torch

    from emm import operations
    from emm.device import select
    from emm.precision import cast, choose
    from emm.sampling import draws, generate, noise_levels
    from emm.training import Trainer, build

    if warm.fresh_name() != warm.OFF:  # jobs start with all this loaded
        started = time.time()
    device = select(device_name, threads)
    drawn = made_up(run)
    shape = drawn.images.shape[1:]
    denoiser = build(run, shape, drawn.label_count).to(device).train()
    forward = operations.forward(denoiser.network, shape)

    def trainer(batch: int) -> "Trainer":
        training = run.training.model_copy(update={"batch_size": batch})
        other = run.model_copy(update={"training": training})
        begun = Trainer(other, len(drawn.images), 0, denoiser, drawn, device)
        begun.advance().item()  # untimed: torch chooses its algorithms
        return begun

    def rate(flops: int, work, seconds: float) -> float:  # type: ignore[no-untyped-def]
        begun, times = time.perf_counter(), 0
        while times == 0 or time.perf_counter() - begun < seconds:
            work()
            times += 1
        return flops * times / (time.perf_counter() - begun)

    def train(batch: int, seconds: float) -> float:
        begun = trainer(batch)
        return rate(3 * forward * batch, lambda: begun.advance().item(), seconds)

    probe = min(PROBE, run.training.batch_size)
    first = trainer(probe)
    start = time.time() - started
    fast = rate(3 * forward * probe, lambda: first.advance().item(), 0.0)
    batch = int(0.25 * CALIBRATION * fast / (3 * forward))
    trained = train(min(max(batch, probe), run.training.batch_size), 0.7 * CALIBRATION)
    count = max(1, min(run.sampling.images, 250, int(0.2 * CALIBRATION * trained / (3 * forward))))
    latents = draws(count, shape, None, 0)
    denoiser.eval()
    cast(denoiser.network, choose(run.sampling.precision))
    levels = noise_levels(run.sampling, denoiser.kind.sigma_min, denoiser.kind.sigma_max)[-3:]
    with torch.no_grad():
        sample = rate(
            forward * count * 3, lambda: generate(denoiser, latents, levels, count, device), 0.2 * CALIBRATION
        )
    return {"start": start, "train": trained, "sample": sample}


def made_up(run: Run) -> subset.Subset:
    """A training set of random images, of the shape and with the labels of the run's; no file of a named set is read.

    Raises DataError for a file or folder of the user's that is not there: nothing else tells the shape of its images.
    """
    facts = datasets.describe(run.data)
    multiple, available = subset.usable(facts, run.data)
    n = min(max(run.search.start // multiple, 1) * multiple, available, MADE_UP)
    images = np.random.default_rng(0).integers(0, 256, (n, *facts.shape), np.uint8)
    nothing = np.zeros(n, np.int64)
    labels = subset.label_count(run.data, facts, n)
    return subset.Subset(images, nothing, labels, nothing, nothing, images[:0], nothing[:0])


def jobs_at_once(cores: int | None, threads: int) -> int:
    """How many jobs run at once on this machine, or on `cores`."""
    return max(1, (cores or files.cores()) // threads)


def show(settings: Settings, dag: Dag, cores: int | None = None, throughput: float | None = None) -> str:
    """Plan the selected studies: with a given throughput (GFLOP/s of one job), or one measured here.

    Raises:
        SettingsError: cores or throughput are not positive, or execution.gpus names GPUs that are hidden here.
    """
    for option, value in (("--cores", cores), ("--throughput", throughput)):
        if value is not None and not 0 < value < math.inf:
            raise SettingsError(f"{option} {value:g}: must be positive")
    if throughput is None:  # at once: counting networks and calibrating take a while
        told = f"plan: counts operations, then calibrates on this machine for about {CALIBRATION:.0f} seconds ..."
        print(told, file=sys.stderr, flush=True)
    settings = dag.settings  # with what the data decide
    planned = plan(settings, dag)
    execution = settings.execution
    jobs = jobs_at_once(cores, execution.threads)
    if throughput is not None:
        return text(planned, throughput_speed(throughput, jobs))
    costs = [cost for one in planned for cost in one.new.values()]
    run = calibrated(settings)
    if run is None or not any(cost.train_flops + cost.sample_flops for cost in costs):
        return text(planned, Speed(math.inf, math.inf, START, jobs))
    if shared := gpus.devices(execution):
        jobs = min(jobs, len(shared) * execution.jobs_per_gpu)
    claim = gpus.claim(shared, execution, python=sys.executable)
    return text(planned, calibrate(run, gpus.device(execution), execution.threads, jobs, claim))


def calibrated(settings: Settings) -> Run | None:
    """The run whose network is timed: the base settings', or where these do not fit their data the first arm's.

    Without labels, as their number changes nothing.  None where no selected study has a network.
    """
    arms = [arm.run for study in settings.studies if study.name in settings.selected for arm in study.arms]
    for run in (settings.base, *arms):
        plain = run.model_copy(update={"data": run.data.model_copy(update={"labels": "none", "held_out": 0})})
        if run.diffusion.denoiser == "network" and _fits(plain):
            return plain
    return None


def _fits(run: Run) -> bool:
    try:
        return not subset.faults(run, datasets.describe(run.data))
    except (DataError, OSError):  # a file or folder that is not here, of a study that is not selected
        return False


def main() -> None:
    started = time.time()
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--config", help="plan this configuration, as JSON")
    asked.add_argument("--calibrate", help="print the rates of this run's network, as JSON")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.calibrate:
        print(json.dumps(measure(read_settings(args.calibrate), args.device, args.threads, started)))
        return
    settings = read(json.loads(args.config))
    print(show(settings, index(settings, Path("results"), data_needed=False, looked=False)))


if __name__ == "__main__":
    command(main)
