"""The default study from a fresh folder to the report: wall time and its parts.

The project's tracked files are copied to a new folder, and `snakemake` makes everything there.  A small script precedes
Python on the PATH and notes wall time and module of every job.  A job's start-up is the time in which its module prints
its help, measured afterwards.  The rest is the job's work.  Modules that `emmeter.machine.warm` starts in the workflow
are started in the same way here, and as many of its jobs as there are cores wait until it has loaded torch.  Shares
refer to cores times wall time, so they include time that no job used, such as Snakemake's own work.

The plain baseline makes the same runs one after another in one process, without Snakemake and files: plain training,
sampling of each snapshot, and `torch.cdist`.  All runs train on and generate the same numbers of images.  So one run is
made, and its time is multiplied by the number of runs.  As it uses one core, the time is also divided by the number of
cores.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from benchmarks import plain, project
from benchmarks.record import Row, make
from emmeter.command import positive
from emmeter.data import datasets, feasibility, subset
from emmeter.errors import StageError
from emmeter.files.provenance import cores
from emmeter.machine import warm
from emmeter.machine.device import select
from emmeter.settings.configuration import load, read
from emmeter.settings.sections import Setup
from emmeter.training.schedule import budget

STARTS = 3  # starts of each module, for its start-up time
PARTS = {
    "train": "training",
    "sample": "sampling",
    "score": "scoring",
    "emm": "search",
}  # others: tables


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cores", type=positive, default=cores())
    parser.add_argument("--overlay", type=Path, nargs="*", default=[], help="configuration files over config.yaml")
    parser.add_argument("--no-plain", action="store_true", help="skip the baseline")


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """Yield one row for the whole, then one row per part.

    Raises:
        StageError: the configuration makes no run, or the workflow fails.
    """
    overlays = [path.resolve() for path in args.overlay]
    device = select(args.device, 1)
    settings = read(load(overlays, project.ROOT))
    os.environ[warm.VARIABLE] = warm.fresh_name()
    with tempfile.TemporaryDirectory() as name:
        folder, programs, log = Path(name, "project"), Path(name, "programs"), Path(name, "jobs")
        project.copy(folder)
        project.stopwatch(programs, log, sys.executable)
        arguments = ["--cores", args.cores, *(["--configfile", *overlays] if overlays else [])]
        arguments += ["--config", f"execution={{device: {device.type}}}"]
        done = project.snakemake(folder, programs, log, arguments)
        loading = start_up("train", folder, 1)  # starts the server that the next processes are copies of
        starts = {module: start_up(module, folder) for module in {job.module for job in done.jobs}}
    runs = sum(job.module == "score" for job in done.jobs)
    if not runs:
        raise StageError("end_to_end: the configuration made no run")
    baseline = None if args.no_plain else plain_seconds(settings.base, device) * runs / args.cores
    details = {"runs": runs, "jobs": len(done.jobs), "cores": args.cores, "share": None}
    yield make(
        "end_to_end", "whole", "s", done.seconds, baseline, _single(baseline, done.seconds), details, device.type
    )
    capacity = args.cores * done.seconds
    for part, seconds in split(done, starts, args.cores * (loading - starts["train"]), capacity).items():
        share = {**details, "share": f"{100 * seconds / capacity:.1f} %"}
        yield make("end_to_end", part, "core seconds", seconds, details=share, device=device.type)


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


def plain_seconds(setup: Setup, device: torch.device) -> float:
    """Time one run of the plain baseline on search.start images, in seconds."""
    multiple, available = feasibility.usable(datasets.describe(setup.data), setup.data)
    n = min(max(setup.search.start // multiple, 1) * multiple, available)
    begun = time.perf_counter()
    drawn = subset.draw(setup, n, 0)
    training = plain.Training(setup, drawn, device)
    labels = torch.unique(torch.from_numpy(drawn.labels)) if drawn.label_count else None
    kept = budget(setup, n).snapshots
    for step in range(1, budget(setup, n).steps + 1):
        training.advance()
        for _ in range(kept.count(step)):
            denoiser = plain.Denoiser(training.averages[0].eval(), training.denoiser.kind)
            images = plain.sample(denoiser, setup, drawn.images.shape[1:], labels, setup.sampling.images, device)
            plain.nearest(images, torch.from_numpy(drawn.images), 2, device)
    return time.perf_counter() - begun


def _single(slow: float | None, fast: float):  # type: ignore[no-untyped-def]
    from benchmarks.timing import ratio

    return None if slow is None else ratio([slow], [fast])
