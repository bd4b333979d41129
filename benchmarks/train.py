"""Training: images per second and share of the processor's peak, for the paper's basic network and the tiny one.

One timing is a few whole optimizer steps (batch, loss, gradients, Adam, average, loss on the host) of
`emmeter.training.trainer` or of the plain baseline.  Operations are 3 times those of the forward pass.  The peak is
that of a large matrix product of the same type in the same process.  The batch size is the run's own, or smaller if a
step would take more than STEP_FLOPS operations.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks import plain, runs, timing
from benchmarks.record import Row, make
from emmeter.command import positive
from emmeter.diffusion import operations
from emmeter.diffusion.precision import choose
from emmeter.settings.sections import Setup
from emmeter.settings.types import Precision
from emmeter.training.trainer import Trainer, start

STEP_FLOPS = {"cpu": 3.2e11, "cuda": 2.5e13}
SMALLEST_BATCH = 2


@dataclass(frozen=True)
class Mode:
    """One of our ways to train."""

    precision: Precision
    compiled: bool = False


def options(parser: argparse.ArgumentParser) -> None:
    runs.options(parser, runs.CASES)
    parser.add_argument("--compile", action="store_true", help="also compile (default: on a GPU, the last precision)")
    parser.add_argument("--batch", type=positive, help="images per step, instead of a number that fits")
    parser.add_argument("--seconds", type=float, default=3.0, help="per timing, at least one step")


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """Yield one row per case and mode."""
    for name, setup, device, threads in runs.chosen(args):
        flops = 3 * operations.planned(setup.network, runs.shape(setup))[0]
        timed = runs.adjusted(setup, training__batch_size=args.batch or batch(setup, flops, device))
        yield from compare(name, timed, flops, modes(args, device), args, device, threads)


def modes(args: argparse.Namespace, device: torch.device) -> list[Mode]:
    """Every requested precision, then the compiled ones."""
    chosen = args.precision or runs.precisions(device.type)
    compiled = chosen if args.compile else chosen[-1:] if device.type == "cuda" else []
    return [Mode(precision) for precision in chosen] + [Mode(precision, True) for precision in compiled]


def batch(setup: Setup, flops: int, device: torch.device) -> int:
    """The run's batch size, halved until a step of `flops` operations per image is short enough."""
    size = setup.training.batch_size
    while size > SMALLEST_BATCH and size * flops > STEP_FLOPS[device.type]:
        size //= 2
    return size


def compare(
    name: str, setup: Setup, flops: int, modes: list[Mode], args: argparse.Namespace, device: torch.device, threads: int
) -> Iterator[Row]:
    """Time plain training and each of our modes in turns; `flops` is operations per image."""
    baseline = plain.Training(setup, runs.random_subset(setup), device)
    work: dict[Mode | None, Callable[[int], None]] = {None: partial(plain_steps, baseline)}  # None: plain
    for mode in modes:
        own = trainer(runs.adjusted(setup, training__precision=mode.precision), device, mode.compiled)
        work[mode] = partial(our_steps, own)
    steps = {mode: timing.repeats(partial(several, 1), args.seconds, device) for mode, several in work.items()}
    taken = timing.alternate(
        {mode: partial(several, steps[mode]) for mode, several in work.items()}, args.rounds, device
    )
    each = {mode: [value / steps[mode] for value in values] for mode, values in taken.items()}  # seconds per step
    rates = {mode: setup.training.batch_size / statistics.median(values) for mode, values in each.items()}
    plain_precision: Precision = "tf32" if device.type == "cuda" else "float32"
    precisions: list[Precision] = [plain_precision, *(mode.precision for mode in modes)]
    peaks = {precision: timing.peak(device, precision) for precision in dict.fromkeys(precisions)}
    for mode in modes:
        details = {
            "precision": mode.precision,
            "compiled": "yes" if mode.compiled else "no",
            "batch": setup.training.batch_size,
            "threads": threads if device.type == "cpu" else None,
            "GFLOP per image": flops / 1e9,
            "peak TFLOP/s": peaks[mode.precision] / 1e12,
            "share of peak": rates[mode] * flops / peaks[mode.precision],
            f"plain's share of {plain_precision} peak": rates[None] * flops / peaks[plain_precision],
            "steps per timing": steps[mode],
            "rounds": args.rounds,
        }
        ratio = timing.ratio(each[None], each[mode])
        yield make("train", name, "images/s", rates[mode], rates[None], ratio, details, device.type)


def trainer(setup: Setup, device: torch.device, compiled: bool = False) -> Trainer:
    """Make the trainer of the first replicate of a run on random images."""
    with tempfile.TemporaryDirectory() as folder:
        return start(
            setup, runs.random_subset(setup), runs.IMAGES, 0, device, Path(folder),
            compiled="always" if compiled else "never",
        )  # fmt: skip


def our_steps(trainer: Trainer, steps: int) -> None:
    """Make `steps` steps; the loss is read in every step on a CPU, as in `emmeter.training.loop.train`."""
    choose(trainer.setup.training.precision)  # torch's arithmetic on a GPU is global, and other modes take turns
    for _ in range(steps):
        loss = trainer.advance()
        if trainer.device.type == "cpu":
            trainer.check(loss.item())


def plain_steps(training: plain.Training, steps: int) -> None:
    """Make `steps` steps of the baseline."""
    plain.arithmetic()
    for _ in range(steps):
        training.advance()
