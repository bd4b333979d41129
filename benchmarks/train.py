"""Training: images a second, and the share of the processor's peak, of the paper's basic network and of the tiny one.

One timing is a few whole optimizer steps (batch, loss, gradients, Adam, average, loss on the host) of `emm.training`
or of the plain baseline.  Operations: 3 times those of the forward pass.  Peak: a large matrix product of the same
type in the same process.  The batch is the run's own, cut where a step would take more than STEP_FLOPS operations.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks import plain, runs, timing
from benchmarks.record import Row, make
from emm.device import select
from emm.settings import Run
from emm.training import Trainer, forward_flops, start

STEP_FLOPS = {"cpu": 3e11, "cuda": 2.5e13}
SMALLEST_BATCH = 2


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", nargs="+", choices=runs.CASES, default=list(runs.CASES), metavar="CASE",
                        help=f"of {', '.join(map(repr, runs.CASES))}")  # fmt: skip
    parser.add_argument("--precision", nargs="+", choices=runs.precisions(), help="default: all that the device has")
    parser.add_argument("--batch", type=int, help="images a step, instead of one that fits")
    parser.add_argument("--threads", type=int, help="default: 1 for the tiny network, else all cores")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of timings")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one timing, at least one step")


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """A row for each case and precision."""
    for name in args.cases:
        threads = args.threads or (1 if name == runs.TINY else cores())
        device = select(args.device, threads)
        run = runs.case(name)
        flops = 3 * forward_flops(run, runs.shape(run))
        run = runs.adjusted(run, training__batch_size=args.batch or batch(run, flops, device))
        yield from compare(name, run, flops, args.precision or usual_precisions(device), args, device, threads)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batch(run: Run, flops: int, device: torch.device) -> int:
    """The run's batch size, halved until a step of `flops` operations an image is short enough."""
    size = run.training.batch_size
    while size > SMALLEST_BATCH and size * flops > STEP_FLOPS[device.type]:
        size //= 2
    return size


def usual_precisions(device: torch.device) -> list[str]:
    """Of the precisions that there are, those that differ on the device: tf32 is float32 on a CPU."""
    return [one for one in runs.precisions() if one != "tf32" or device.type == "cuda"]


def compare(
    name: str, run: Run, flops: int, precisions: list[str], args: argparse.Namespace, device: torch.device, threads: int
) -> Iterator[Row]:
    """Time plain training and ours in each precision, in turns; `flops` operations an image."""
    subset = runs.random_subset(run)
    baseline = plain.Training(run, subset, device)
    trainers = {one: trainer(runs.with_precision(run, one), device) for one in precisions}
    work: dict[str, Callable[[], object]] = {"plain": baseline.advance}
    work |= {one: trainers[one].advance for one in precisions}
    steps = {one: timing.repeats(step, args.seconds, device) for one, step in work.items()}
    taken = timing.alternate({one: _repeated(step, steps[one]) for one, step in work.items()}, args.rounds, device)
    each = {one: [value / steps[one] for value in values] for one, values in taken.items()}  # seconds a step
    rates = {one: run.training.batch_size / statistics.median(values) for one, values in each.items()}
    peaks = {one: timing.peak(device, one) for one in {"float32", *precisions}}
    for one in precisions:
        details = {
            "precision": one,
            "batch": run.training.batch_size,
            "threads": threads if device.type == "cpu" else None,
            "GFLOP an image": flops / 1e9,
            "peak TFLOP/s": peaks[one] / 1e12,
            "share of peak": rates[one] * flops / peaks[one],
            "plain's share of float32 peak": rates["plain"] * flops / peaks["float32"],
            "steps a timing": steps[one],
            "rounds": args.rounds,
        }
        ratio = timing.ratio(each["plain"], each[one])
        yield make("train", name, "images/s", rates[one], rates["plain"], ratio, details, device.type)


def trainer(run: Run, device: torch.device) -> Trainer:
    """The trainer of the first replicate of a run on random images."""
    with tempfile.TemporaryDirectory() as folder:
        return start(run, runs.random_subset(run), runs.IMAGES, 0, device, Path(folder))


def _repeated(step: Callable[[], object], times: int) -> Callable[[], None]:
    def work() -> None:
        for _ in range(times):
            step()

    return work
