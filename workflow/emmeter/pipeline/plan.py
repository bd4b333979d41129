"""What a configuration will still cost, before anything runs: time, runs, images, disk and operations.

The search is replayed on the scores that exist, and goes on along an assumed curve: its EMM is where those scores have
it, and without any half an octave above ``search.start``, which is as good as a hint usually is.  Operations are
counted on torch's meta device; time follows from a short calibration on this machine, with made-up images, or from a
throughput that the user gives.  So no data are needed.  ``emm plan`` and the rule ``plan`` print it.
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
from emmeter.files.layout import RECORDS, run_folder
from emmeter.machine import gpus
from emmeter.measure.outcome import Count, RunId
from emmeter.measure.search import Trail, replay
from emmeter.pipeline.calibration import CALIBRATION, calibrate, calibrated, jobs_at_once, rates
from emmeter.pipeline.costs import START, Assumed, Cost, Costs, Speed, throughput_speed
from emmeter.pipeline.index import Index, index_of
from emmeter.presentation.tables import aligned
from emmeter.settings.configuration import read
from emmeter.settings.keys import Stage, key
from emmeter.settings.sections import Setup
from emmeter.settings.studies import Settings

PER_WORKFLOW = 10.0  # seconds of Snakemake's start, tables, figures and report
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


def plan(settings: Settings, index: Index) -> list[Planned]:
    """Plan the selected studies in order."""
    costs = Costs(index)
    made: set[Place] = set()
    trained: set[Place] = set()
    result = []
    for study in (index.study(name) for name in settings.selected):
        asked: dict[Place, Cost] = {}
        scored: set[Place] = set()
        chains = []
        for arm in study.arms:
            setup, known = arm.setup, found(arm.setup, index)
            trail = replay(setup.search, index.sizes[key("emm", setup)], Assumed(setup, known))
            for one in trail.runs:
                # Arms that differ only in sampling share their trainings, those that differ only in scoring all.
                training, sampled = (key("train", setup), one), (key("sample", setup), one)
                if one in known:
                    scored.add(sampled)
                elif sampled not in asked:
                    asked[sampled] = remaining(costs, setup, one, training in trained)
                trained.add(training)
            in_turn = [one for one in _in_turn(setup, trail) if one not in known]
            chains.append([remaining(costs, setup, one) for one in in_turn])
        new = {place: cost for place, cost in asked.items() if place not in made}
        done = frozenset(scored - set(asked))  # another arm may want another score of the same samples
        made |= set(asked)
        result.append(Planned(study.name, len(study.arms), len(asked) + len(done), new, chains, done))
    return result


def found(setup: Setup, index: Index) -> dict[RunId, Count]:
    """The runs that the search of an arm has used so far."""
    scores = index.scores(key("emm", setup))
    trail = replay(setup.search, index.sizes[key("emm", setup)], scores)
    return {one: scores[one] for one in trail.runs if one in scores}


def _in_turn(setup: Setup, trail: Trail) -> Sequence[RunId]:
    """Of a search the runs that must follow one another."""
    return [*trail.locate, *trail.confirm[:1]] if setup.search.rule == "bisection" else trail.locate[-1:]


def remaining(costs: "Costs", setup: Setup, one: RunId, trained: bool = False) -> Cost:
    """What is left of a run without a score; with `trained` another arm trains it."""

    def there(stage: Stage) -> bool:
        folder = run_folder(costs.index.results, stage, key(stage, setup), one.n, one.replicate)
        return (folder / RECORDS[stage]).is_file()

    cost = costs.of(setup, one.n, trained or there("train"))
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


def show(settings: Settings, index: Index, cores: int | None = None, throughput: float | None = None) -> str:
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
    settings = index.settings  # with what the data decide
    planned = plan(settings, index)
    execution = settings.execution
    jobs = jobs_at_once(cores, execution.threads)
    if throughput is not None:
        return text(planned, throughput_speed(throughput, jobs))
    costs = [cost for one in planned for cost in one.new.values()]
    setup = calibrated(settings)
    if setup is None or not any(cost.train_flops + cost.sample_flops for cost in costs):
        return text(planned, Speed(math.inf, math.inf, START, jobs))
    if shared := gpus.devices(execution):
        jobs = min(jobs, len(shared) * execution.jobs_per_gpu)
    claim = gpus.claim(shared, execution, python=sys.executable)
    return text(planned, calibrate(setup, gpus.device(execution), execution.threads, jobs, claim))


def main(argv: Sequence[str] | None = None) -> None:
    started = time.time()
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--config", help="plan this configuration, as JSON")
    asked.add_argument("--calibrate", help="print the rates of this run's network, as JSON")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    if args.calibrate:
        print(json.dumps(rates(read_settings(args.calibrate), args.device, args.threads, started)))
        return
    settings = read(json.loads(args.config))
    print(show(settings, index_of(settings, Path("results"), data_needed=False, looked=False)))


if __name__ == "__main__":
    command(main)
