"""Remaining cost of a configuration, before anything runs: time, runs, images, disk and operations.

The search is replayed on the scores that exist, and continues along an assumed curve (`costs.Assumed`).  Operations are
counted on torch's meta device.  Time follows from a short calibration on this machine, with made-up images, or from a
throughput that the user gives.  Therefore no data are needed.  ``emm plan`` and the rule ``plan`` print the result.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from emmeter.command import command, read_settings
from emmeter.errors import SettingsError
from emmeter.files.layout import RECORDS, arm_folder, run_folder
from emmeter.machine import gpus
from emmeter.measure.outcome import RunId
from emmeter.measure.search import Trail, replay
from emmeter.pipeline.calibration import CALIBRATION, calibrate, calibrated, jobs_at_once, rates
from emmeter.pipeline.costs import START, Assumed, Cost, Costs, Speed, throughput_speed
from emmeter.pipeline.index import Index, index_of
from emmeter.presentation.tables import aligned
from emmeter.settings.configuration import read
from emmeter.settings.keys import Stage, key, measures
from emmeter.settings.sections import Setup
from emmeter.settings.studies import Settings

PER_WORKFLOW = 10.0  # seconds of Snakemake's start, tables, figures and report
Sample = tuple[str, RunId]  # samples of one run: its sample key, and N with the replicate


@dataclass(frozen=True)
class Planned:
    """Plan of one study."""

    study: str
    arms: int
    runs: int
    new: Mapping[Sample, Cost]  # runs that are still to be made, except those that an earlier study makes
    longest: list[list[Cost]]  # for each arm, the runs to be made that must follow one another
    done: frozenset[Sample] = field(default_factory=frozenset)  # runs that have a score already
    quality: float = 0.0  # seconds of the jobs that measure quality, except those that an earlier study makes
    denoising: Sequence[Cost] = ()  # of the jobs of this stage, except those that an earlier study makes


def plan(settings: Settings, index: Index) -> list[Planned]:
    """Plan the selected studies in order."""
    costs = Costs(index)
    made: set[Sample] = set()
    trained: set[tuple[str, RunId]] = set()  # by train key
    measured: set[str] = set()  # keys of `quality` and `denoising`
    plans = []
    for study in (index.study(name) for name in settings.selected):
        required: dict[Sample, Cost] = {}
        scored: set[Sample] = set()
        chains = []
        quality, denoising = 0.0, []
        for arm in study.arms:
            setup, counts = arm.setup, index.finished(key("emm", arm.setup))
            trail = replay(setup.search, index.sizes[key("emm", setup)], Assumed(setup, counts))
            for run in trail.runs:
                # Arms that differ only in sampling share trainings; arms that differ only in scoring share samples too.
                training, sample = (key("train", setup), run), (key("sample", setup), run)
                if run in counts:
                    scored.add(sample)
                elif sample not in required:
                    required[sample] = remaining(costs, setup, run, training in trained)
                trained.add(training)
            if needed(index, "quality", setup, measured):
                quality += costs.quality(setup, trail.runs)
            if needed(index, "denoising", setup, measured):
                denoising.append(costs.denoising(setup, trail.runs))
            chain = [run for run in in_turn(setup, trail) if run not in counts]
            chains.append([remaining(costs, setup, run) for run in chain])
        new = {sample: cost for sample, cost in required.items() if sample not in made}
        done = frozenset(scored - set(required))  # another arm may need another score of the same samples
        made |= set(required)
        runs = len(required) + len(done)
        plans.append(Planned(study.name, len(study.arms), runs, new, chains, done, quality, denoising))
    return plans


def needed(index: Index, stage: Stage, setup: Setup, measured: set[str]) -> bool:
    """Check whether an arm is still to be measured by `quality` or `denoising`; `measured` gets the key of the job."""
    name = key(stage, setup)
    new = name not in measured and not (arm_folder(index.results, stage, name) / RECORDS[stage]).is_file()
    measured.add(name)
    return new and measures(stage, setup)


def in_turn(setup: Setup, trail: Trail) -> Sequence[RunId]:
    """Runs of a search that must follow one another."""
    return [*trail.locate, *trail.confirm[:1]] if setup.search.rule == "bisection" else trail.locate[-1:]


def remaining(costs: Costs, setup: Setup, run: RunId, trained: bool = False) -> Cost:
    """Remaining cost of a run without a score; with `trained`, another arm trains it."""

    def has_record(stage: Stage) -> bool:
        folder = run_folder(costs.index.results, stage, key(stage, setup), run.n, run.replicate)
        return (folder / RECORDS[stage]).is_file()

    cost = costs.run(setup, run.n, trained or has_record("train"))
    return replace(cost, sample_flops=0, seconds=0.0, external=False) if has_record("sample") else cost


def duration(planned: Sequence[Planned], speed: Speed) -> float:
    """Expected seconds: the work of all runs divided by the jobs at once, but at least the longest search.

    Runs of one search that depend on one another cannot run at once.
    """
    work = sum(speed.seconds(cost) for study in planned for cost in study.new.values())
    work += sum(study.quality for study in planned)
    work += sum(speed.evaluation(cost) for study in planned for cost in study.denoising)
    chains = (sum(map(speed.seconds, chain)) for study in planned for chain in study.longest)
    return PER_WORKFLOW + max(work / speed.jobs, max(chains, default=0.0))


def text(planned: Sequence[Planned], speed: Speed) -> str:
    """Plan for readers: the time, a table with one row per study, and a line with the assumptions."""
    table = [["study", "time", "arms", "runs", "done", "new runs", "images trained", "disk", "PFLOP"]]
    for study in planned:
        counts = (study.arms, study.runs, len(study.done))
        table.append([study.study, *_amounts(counts, list(study.new.values()), duration([study], speed))])
    new = [cost for study in planned for cost in study.new.values()]
    made = frozenset[Sample]().union(*(study.new for study in planned))
    done = len(frozenset[Sample]().union(*(study.done for study in planned)) - made)
    seconds = duration(planned, speed)
    counts = (sum(study.arms for study in planned), len(new) + done, done)
    cells = _amounts(counts, new, seconds)
    table.append(["all", *cells])
    ready = f", {done} already done" if done else ""
    head = f"{len(new) + done} runs{ready}: {f'about {cells[0]}' if new else 'nothing is left to train or sample'}"
    rests = "new runs: neither done nor made by a study above."
    if any(cost.external for cost in new):
        rests += "  ?: only the command of an arm knows; model.minutes gives its time."
    if math.isfinite(speed.train):
        speeds = f"{speed.train / 1e9:.3g} GFLOP/s in training and {speed.sample / 1e9:.3g} in sampling"
        rests += f"  Time: {speed.jobs} jobs at once, each with {speeds}, {speed.start:.1f} s to start"
        rests += ", with the compiled packages of this machine." if speed.compiled else "."
    return f"{head}\n\n{aligned(table)}\n\n{rests}"


def _amounts(counts: Sequence[int], costs: Sequence[Cost], seconds: float) -> list[str]:
    """Cells of a row: time; `counts` of arms, runs and done; number, images, disk and operations of new runs."""
    flops = sum(cost.train_flops + cost.sample_flops for cost in costs)
    own = [cost for cost in costs if not cost.external]

    def known(text: str, some: int) -> str:
        return text if some == len(costs) else f"{text} + ?" if some else "?"

    return [
        known(span(seconds), sum(cost.seconds is not None for cost in costs)) if costs else "none",
        *map(str, counts),
        str(len(costs)),
        known(f"{sum(cost.images for cost in costs):,}", len(own)),
        amount(sum(cost.disk for cost in costs)),
        known(f"{flops / 1e15:.3g}", len(own)),
    ]


def span(seconds: float) -> str:
    """A time in two digits with its usual unit: "45 seconds", "2.3 minutes", "19 minutes", "120 days"."""
    day = 86400.0
    sizes = (
        ("seconds", 1.0, 90), ("minutes", 60.0, 90), ("hours", 3600.0, 48), ("days", day, 730),
        ("years", 365.25 * day, math.inf),
    )  # fmt: skip
    unit, size, _ = next((unit, size, limit) for unit, size, limit in sizes if seconds / size < limit)
    value = float(f"{seconds / size:.2g}")
    return f"{value:,.0f} {unit}" if value >= 10 else f"{value:g} {unit}"


def amount(size: float) -> str:
    """Bytes in two digits: "0 MB", "26 MB", "1.8 GB"."""
    unit, scale = ("MB", 1e6) if size < 1e9 else ("GB", 1e9) if size < 1e12 else ("TB", 1e12)
    return f"{float(f'{size / scale:.2g}'):g} {unit}"


def show(settings: Settings, index: Index, cores: int | None = None, throughput: float | None = None) -> str:
    """Plan the selected studies.

    Args:
        cores: number of cores; None: those of this machine.
        throughput: GFLOP/s of one job; None: measured on this machine.
    Raises:
        SettingsError: cores or throughput are not positive, or execution.gpus names GPUs that are hidden here.
    """
    for option, value in (("--cores", cores), ("--throughput", throughput)):
        if value is not None and not 0 < value < math.inf:
            raise SettingsError(f"{option} {value:g}: must be positive")
    if throughput is None:  # first of all, because counting networks and calibrating take a while
        notice = f"plan: counts operations, then calibrates on this machine for about {CALIBRATION:.0f} seconds ..."
        print(notice, file=sys.stderr, flush=True)
    settings = index.settings  # with the values that depend on the data
    planned = plan(settings, index)
    execution = settings.execution
    jobs = jobs_at_once(cores, execution.threads)
    if throughput is not None:
        return text(planned, throughput_speed(throughput, jobs))
    costs = [cost for study in planned for cost in study.new.values()]
    setup = calibrated(settings)
    if setup is None or not any(cost.train_flops + cost.sample_flops for cost in costs):
        return text(planned, Speed(math.inf, math.inf, START, jobs))
    if shared := gpus.devices(execution):
        jobs = min(jobs, len(shared) * execution.jobs_per_gpu)
    claim = gpus.claim(shared, execution, python=sys.executable)
    return text(planned, calibrate(setup, gpus.device(execution), execution, jobs, claim))


def main(argv: Sequence[str] | None = None) -> None:
    started = time.time()
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    actions = parser.add_mutually_exclusive_group(required=True)
    actions.add_argument("--config", help="plan this configuration, as JSON")
    actions.add_argument("--calibrate", help="print the rates of this run's network, as JSON")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, help="images per batch of sampling; leave to use no compiled packages")
    args = parser.parse_args(argv)
    if args.calibrate:
        print(json.dumps(rates(read_settings(args.calibrate), args.device, args.threads, started, args.batch)))
        return
    settings = read(json.loads(args.config))
    print(show(settings, index_of(settings, args.results, data_needed=False, looked=False)))


if __name__ == "__main__":
    command(main)
