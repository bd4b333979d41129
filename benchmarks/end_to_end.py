"""The default study from a fresh folder to the report: wall time and its parts.

The project's tracked files are copied to a new folder, and `snakemake` makes everything there.  A small script precedes
Python on the PATH and notes wall time and module of every job.  A job's start-up is the time in which its module prints
its help, measured afterwards.  The rest is the job's work.  Modules that `emmeter.machine.warm` starts in the workflow
are started in the same way here, and as many of its jobs as there are cores wait until it has loaded torch.  Shares
refer to cores times wall time, so they include time that no job used, such as Snakemake's own work.

The baselines make the same runs one after another, without Snakemake and files (`benchmarks.script`): training,
sampling of each snapshot, and `torch.cdist`.  All runs train on and generate the same numbers of images.  So one run is
made on each core at once, and its time is multiplied by the number of runs.  On a GPU one process makes one run.

Workflow and baselines take turns, in reverse order in every other round.  ``whole`` compares the wall time of the
workflow with that of the baselines' computations, spread over the cores.  ``same computations`` compares the core
seconds of training, sampling and scoring alone.  ``measures`` is what the stages quality and
denoising compute of finished runs, and ``of_training`` its share of the core seconds of their training.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import project, script, timing
from benchmarks.record import Row, make
from emmeter.command import positive
from emmeter.data import datasets, feasibility
from emmeter.errors import StageError
from emmeter.files.provenance import cores
from emmeter.machine import warm
from emmeter.machine.device import select
from emmeter.settings.configuration import load, read
from emmeter.settings.sections import Setup

ROUNDS = 3  # whole executions
STARTS = 3  # starts of each module, for its start-up time
LOADING = "loading torch"  # among the start-up times: seconds until the server of warm processes has loaded torch
BASELINES: tuple[script.Baseline, ...] = ("plain", "tuned")
PARTS = {
    "train": "training",
    "sample": "sampling",
    "score": "scoring",
    "emm": "search",
    "quality": "image quality",
    "denoising": "errors by noise level",
}  # others: tables
MEASURES = ("image quality", "errors by noise level")  # what is measured of finished runs


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cores", type=positive, default=cores())
    parser.add_argument("--overlay", type=Path, nargs="*", default=[], help="configuration files over config.yaml")
    parser.add_argument("--rounds", type=positive, default=ROUNDS, help="whole executions")
    parser.add_argument("--no-baselines", action="store_true", help="only the workflow")


@dataclass(frozen=True)
class Whole:
    """An execution of the workflow: wall seconds, core seconds of each part, numbers of runs and jobs."""

    seconds: float
    parts: Mapping[str, float]
    runs: int
    jobs: int


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """Yield one row for the whole, one for the computations that the baselines make too, then one row per part.

    Raises:
        StageError: the configuration makes no run, or the workflow fails.
    """
    overlays = [path.resolve() for path in args.overlay]
    device = select(args.device, 1)
    setup = read(load(overlays, project.ROOT)).base
    processes = args.cores if device.type == "cpu" else 1
    starts: dict[str, float] = {}  # start-up seconds of each module, measured after the first execution
    works: dict[str, Callable[[], object]] = {"ours": partial(execute, args.cores, overlays, device, starts)}
    if not args.no_baselines:
        n = size(setup)
        for name in BASELINES:
            works[name] = partial(script.side_by_side, name, setup, n, device, processes)
    results: dict[str, list[Any]] = {name: [] for name in works}
    for turn in range(args.rounds):
        for name in list(works) if turn % 2 == 0 else list(works)[::-1]:
            results[name].append(works[name]())
    yield from rows(results.pop("ours"), results, args.cores, processes, device.type)


def rows(
    executions: Sequence[Whole],
    baselines: Mapping[str, Sequence[Mapping[str, float]]],
    cores: int,
    processes: int,
    device: str,
) -> Iterator[Row]:
    """Yield the rows of all rounds.

    Args:
        baselines: seconds of each part of one run, by the baseline's name and round.
        processes: that make the runs of a baseline at once.
    """
    runs = executions[0].runs

    def row(
        case: str, units: str, ours: Sequence[float], theirs: Mapping[str, Sequence[float]], **details: object
    ) -> Row:
        medians = {name: statistics.median(values) for name, values in theirs.items()}
        described = {"runs": runs, "jobs": executions[0].jobs, "cores": cores, "rounds": len(executions), **details}
        return make(
            "end_to_end", case, units, statistics.median(ours), medians.get("plain"), None, described, device,
            tuned=medians.get("tuned"), ratios={name: timing.ratio(values, ours) for name, values in theirs.items()},
        )  # fmt: skip

    def scaled(parts: Sequence[str], factor: float) -> dict[str, list[float]]:
        return {
            name: [factor * sum(taken[part] for part in parts) for taken in turns] for name, turns in baselines.items()
        }

    walls = [execution.seconds for execution in executions]
    low, high = timing.quartiles(walls).low, timing.quartiles(walls).high
    yield row("whole", "s", walls, scaled(script.PARTS, runs / processes), quartiles=f"{low:.4g} to {high:.4g}")
    computed = [sum(execution.parts[part] for part in script.PARTS) for execution in executions]
    yield row("same computations", "core seconds", computed, scaled(script.PARTS, runs))
    for part in executions[0].parts:
        seconds = [execution.parts[part] for execution in executions]
        share = statistics.median(100 * execution.parts[part] / (cores * execution.seconds) for execution in executions)
        theirs = scaled([part], runs) if part in script.PARTS else {}
        yield row(part, "core seconds", seconds, theirs, share=f"{share:.1f} %")
    measured = [sum(execution.parts[part] for part in MEASURES) for execution in executions]
    trained = [execution.parts["training"] for execution in executions]
    of_training = statistics.median(100 * m / t for m, t in zip(measured, trained, strict=True))
    yield row("measures", "core seconds", measured, {}, of_training=f"{of_training:.1f} %")


def execute(cores: int, overlays: Sequence[Path], device: torch.device, starts: dict[str, float]) -> Whole:
    """Execute the workflow in a fresh copy of the project.

    Args:
        starts: start-up seconds of each module; measured and entered if it is empty.
    Raises:
        StageError: the configuration makes no run, or the workflow fails.
    """
    os.environ[warm.VARIABLE] = warm.fresh_name()
    with tempfile.TemporaryDirectory() as name:
        folder, programs, log = Path(name, "project"), Path(name, "programs"), Path(name, "jobs")
        project.copy(folder)
        project.stopwatch(programs, log, sys.executable)
        arguments = ["--cores", cores, *(["--configfile", *overlays] if overlays else [])]
        arguments += ["--config", f"execution={{device: {device.type}}}"]
        done = project.snakemake(folder, programs, log, arguments)
        if not starts:
            # This starts the server that the next processes are copies of.
            loading = start_up("train", folder, 1)
            starts |= {module: start_up(module, folder) for module in {job.module for job in done.jobs}}
            starts[LOADING] = loading - starts["train"]
    if not (runs := sum(job.module == "score" for job in done.jobs)):
        raise StageError("end_to_end: the configuration made no run")
    waiting = min(cores, sum(job.module == "train" for job in done.jobs))
    parts = split(done, starts, waiting * starts[LOADING], cores * done.seconds)
    return Whole(done.seconds, parts, runs, len(done.jobs))


def split(done: project.Execution, starts: Mapping[str, float], loading: float, capacity: float) -> dict[str, float]:
    """Split the capacity into core seconds: the work of each part, start-ups, Snakemake's processor time, the rest.

    Args:
        starts: start-up seconds of each module.
        loading: core seconds in which the first trainings wait until the server has loaded torch.
        capacity: cores times wall seconds.
    """
    counts = Counter(job.module for job in done.jobs)
    parts = dict.fromkeys([*PARTS.values(), "subsets, tables, figures, report"], 0.0)
    for module, count in counts.items():
        part = PARTS.get(module, "subsets, tables, figures, report")
        parts[part] += sum(job.seconds for job in done.jobs if job.module == module) - count * starts[module]
    parts["training"] -= loading
    parts["process start-up"] = loading + sum(count * starts[module] for module, count in counts.items())
    parts["Snakemake's own processor time"] = done.processor_seconds
    parts["idle and waiting"] = capacity - sum(parts.values())
    return parts


def start_up(module: str, folder: Path, starts: int = STARTS) -> float:
    """Median seconds of a process that only prints the module's help: its imports and its end."""
    taken = []
    for _ in range(starts):
        begun = time.perf_counter()
        launcher = ["-m", "emmeter.machine.warm"] if f"emmeter.stages.{module}" in warm.PRELOADED else ["-m"]
        help_only = [sys.executable, *launcher, f"emmeter.stages.{module}", "--help"]
        subprocess.run(help_only, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def size(setup: Setup) -> int:
    """The number of images nearest to search.start on which a run may train."""
    multiple, available = feasibility.usable(datasets.describe(setup.data), setup.data)
    return min(max(setup.search.start // multiple, 1) * multiple, available)
