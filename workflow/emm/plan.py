"""What a configuration will cost, from the configuration alone: runs, images, operations, time and disk.

The search is replayed on a made-up curve whose EMM lies half an octave above ``search.start``, which is as good as a
hint usually is.  Operations are counted on torch's meta device; time follows from a short calibration on this machine,
or from a throughput that the user gives.  ``emm plan`` and the rule ``plan`` print it.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emm import allocator, files, gpus, warm
from emm.configuration import read
from emm.dag import Dag, index
from emm.keys import key
from emm.search import Count, RunId, logit, replay
from emm.settings import Run, Settings, SettingsError
from emm.stage import command, read_settings
from emm.tables import aligned

OFF = 0.5  # octaves from search.start to the EMM that the plan assumes
CALIBRATION = 10.0  # seconds
START = 3.0  # seconds of a job's start where it is not measured
PER_RUN = 2.0  # seconds of a run beside Python's start and the network: Snakemake, files, evaluation, scoring
PER_WORKFLOW = 10.0  # seconds of Snakemake's start, tables, figures and report


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
    """Counts of runs as the plan assumes them: a logit that falls by search.slope an octave."""

    def __init__(self, run: Run):
        self.run = run
        self.emm = math.inf if run.diffusion.denoiser == "optimum" else run.search.start * 2.0**OFF

    def __getitem__(self, one: RunId) -> Count:
        images = self.run.sampling.images
        if math.isinf(self.emm):
            return Count(images, images)
        y = logit(1 - self.run.search.epsilon) + self.run.search.slope * math.log2(self.emm / one.n)
        return Count(round(images / (1 + math.exp(-y))), images)

    def __iter__(self) -> Iterator[RunId]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __contains__(self, one: object) -> bool:
        return True


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


@dataclass(frozen=True)
class Planned:
    """The plan of one study: ``new`` are its runs that no study before it makes, by sample key and place."""

    study: str
    arms: int
    runs: int
    new: Mapping[tuple[str, RunId], Cost]
    longest: list[list[Cost]]  # of each arm the runs that must follow one another


def plan(settings: Settings, dag: Dag) -> list[Planned]:
    """Plan the selected studies in order."""
    costs = Costs(dag)
    made: set[tuple[str, RunId]] = set()
    trained: set[tuple[str, RunId]] = set()
    result = []
    for study in (dag.study(name) for name in settings.selected):
        asked: dict[tuple[str, RunId], Cost] = {}
        chains = []
        for arm in study.arms:
            run = arm.run
            trail = replay(run.search, dag.sizes[key("emm", run)], Assumed(run))
            for one in trail.runs:
                # Arms that differ only in sampling share their trainings, those that differ only in scoring all.
                training, sampled = (key("train", run), one), (key("sample", run), one)
                asked.setdefault(sampled, costs.of(run, one.n, training in trained))
                trained.add(training)
            in_turn = [*trail.locate, *trail.confirm[:1]] if run.search.rule == "bisection" else trail.locate[-1:]
            chains.append([costs.of(run, one.n) for one in in_turn])
        new = {place: cost for place, cost in asked.items() if place not in made}
        made |= set(asked)
        result.append(Planned(study.name, len(study.arms), len(asked), new, chains))
    return result


def duration(planned: Sequence[Planned], speed: Speed) -> float:
    """Expected seconds: all runs over the jobs at once, but at least the longest search, whose runs wait in turn."""
    work = sum(speed.seconds(cost) for one in planned for cost in one.new.values())
    chains = (sum(map(speed.seconds, chain)) for one in planned for chain in one.longest)
    return PER_WORKFLOW + max(work / speed.jobs, max(chains, default=0.0))


def text(planned: Sequence[Planned], speed: Speed) -> str:
    """The plan as a table, a line a study, and a line of what it rests on."""
    table = [["study", "arms", "runs", "new runs", "images trained", "PFLOP", "hours", "GB"]]
    for one in planned:
        costs = list(one.new.values())
        table.append([one.study, str(one.arms), str(one.runs), *_amounts(costs, duration([one], speed))])
    everything = [cost for one in planned for cost in one.new.values()]
    arms, runs = (str(sum(getattr(one, name) for one in planned)) for name in ("arms", "runs"))
    table.append(["all", arms, runs, *_amounts(everything, duration(planned, speed))])
    speeds = f"{speed.train / 1e9:.3g} GFLOP/s in training and {speed.sample / 1e9:.3g} in sampling"
    rests = f"{speed.jobs} jobs at once, each with {speeds}, {speed.start:.1f} s to start."
    return f"{aligned(table)}\n\nnew runs: not made by a study above.  Time: {rests}"


def _amounts(costs: Sequence[Cost], seconds: float) -> list[str]:
    flops = sum(cost.train_flops + cost.sample_flops for cost in costs)
    return [
        str(len(costs)),
        f"{sum(cost.images for cost in costs):,}",
        f"{flops / 1e15:.3g}",
        f"{seconds / 3600:.3g}",
        f"{sum(cost.disk for cost in costs) / 1e9:.2g}",
    ]


def calibrate(run: Run, device: str, threads: int, jobs: int, claim: Sequence[str] = ()) -> Speed:
    """Measure the base network on this machine, in as many processes at once as jobs will run.

    `claim` are the words before a command that give it a GPU of its own (`gpus.claim`).
    """
    options = ["--calibrate", run.model_dump_json(), "--device", device, "--threads", str(threads)]
    command_line = [*claim, sys.executable, "-m", "emm.plan", *options]
    environment = allocator.ENVIRONMENT | os.environ | {"OMP_NUM_THREADS": str(threads)}  # as a workflow's jobs have it
    started = [subprocess.Popen(command_line, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(jobs)]
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SettingsError("plan: the calibration failed; give --throughput GFLOP/s instead")
    rates = [json.loads(output) for output in outputs]

    def mean(name: str) -> float:
        return sum(rate[name] for rate in rates) / jobs

    return Speed(mean("train"), mean("sample"), mean("start"), jobs)


def measure(run: Run, device_name: str, threads: int, started: float) -> dict[str, float]:
    """Rates of one process: seconds of a job's start, operations a second of training steps and of sampling.

    `started`: when this process was.
    """
    import torch

    from emm import datasets, operations, subset
    from emm.device import select
    from emm.precision import cast, choose
    from emm.sampling import draws, generate, noise_levels
    from emm.training import Trainer, build

    if warm.fresh_name() != warm.OFF:  # jobs start with all this loaded
        started = time.time()
    device = select(device_name, threads)
    multiple, available = subset.usable(datasets.describe(run.data), run.data)
    drawn = subset.draw(run, min(max(run.search.start // multiple, 1) * multiple, available), 0)
    shape = drawn.images.shape[1:]
    denoiser = build(run, shape, drawn.label_count).to(device).train()
    trainer = Trainer(run, len(drawn.images), 0, denoiser, drawn, device)
    trainer.advance()  # untimed: torch chooses its algorithms
    start, forward = time.time() - started, operations.forward(denoiser.network, shape)

    def rate(flops: int, work, seconds: float) -> float:  # type: ignore[no-untyped-def]
        begun, times = time.perf_counter(), 0
        while times == 0 or time.perf_counter() - begun < seconds:
            work()
            times += 1
        return flops * times / (time.perf_counter() - begun)

    train = rate(3 * forward * run.training.batch_size, lambda: trainer.advance().item(), 0.7 * CALIBRATION)
    count = min(run.sampling.images, 250)
    latents = draws(count, shape, None, 0)
    denoiser.eval()
    cast(denoiser.network, choose(run.sampling.precision))
    levels = noise_levels(run.sampling, denoiser.kind.sigma_min, denoiser.kind.sigma_max)[-3:]
    with torch.no_grad():
        sample = rate(
            forward * count * 3, lambda: generate(denoiser, latents, levels, count, device), 0.2 * CALIBRATION
        )
    return {"start": start, "train": train, "sample": sample}


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
    settings = dag.settings  # with what the data decide
    planned = plan(settings, dag)
    execution = settings.execution
    jobs = jobs_at_once(cores, execution.threads)
    if throughput is not None:
        return text(planned, throughput_speed(throughput, jobs))
    base = settings.base.model_copy(
        update={"data": settings.base.data.model_copy(update={"labels": "none", "held_out": 0})}
    )
    if shared := gpus.devices(execution):
        jobs = min(jobs, len(shared) * execution.jobs_per_gpu)
    claim = gpus.claim(shared, execution, python=sys.executable)
    return text(planned, calibrate(base, gpus.device(execution), execution.threads, jobs, claim))


def main() -> None:
    started = time.time()
    parser = argparse.ArgumentParser(description=__doc__)
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
