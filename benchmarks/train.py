"""Training: images per second and share of the processor's peak, for the paper's basic network and the tiny one.

One timing is a few whole optimizer steps (batch, loss, gradients, Adam, average, loss on the host) of
`emmeter.training.trainer`, of the plain baseline or of the tuned one, which leaves the loss on a GPU.  Operations are
3 times those of the forward pass.  The peak is that of a large matrix product of the same type in the same process.
The batch size is the run's own; on a CPU it is smaller if a step would take more than STEP_FLOPS operations.  What does
not fit into a GPU's memory has no value.

Each case also has rows of its start, compiling and memory, measured in fresh processes (`benchmarks.fresh`).
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from benchmarks import fresh, plain, runs, timing, tuned
from benchmarks.record import Row, make
from emmeter.command import positive
from emmeter.diffusion import operations
from emmeter.diffusion.precision import choose
from emmeter.settings.sections import Setup
from emmeter.settings.types import Precision
from emmeter.training.trainer import Trainer, start

STEP_FLOPS = 3.2e11  # of a step on a CPU, at most
SMALLEST_BATCH = 2
BASELINES = ("plain", "tuned")
Kind = Literal["eager", "package"]  # how a step is computed: by eager PyTorch, or by a package compiled ahead of time
COMPILE: dict[Kind, Literal["never", "always"]] = {"eager": "never", "package": "always"}  # argument of `start`


@dataclass(frozen=True)
class Mode:
    """One of our ways to train."""

    precision: Precision
    kind: Kind = "eager"


Way = Mode | Literal["plain", "tuned"]


def options(parser: argparse.ArgumentParser) -> None:
    runs.options(parser, runs.CASES)
    parser.add_argument("--compile", action="store_true", help="also by compiled packages")
    parser.add_argument("--batch", type=positive, help="images per step, instead of the run's number or one that fits")
    parser.add_argument("--seconds", type=float, default=1.0, help="per timing, at least one step")
    parser.add_argument("--tuned-mode", choices=get_args(tuned.Mode),
                        help="of torch.compile for the tuned baseline on a GPU (default: reduce-overhead for the tiny"
                        " network, otherwise default)")  # fmt: skip


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """Yield one row per case and mode."""
    with fresh.compiler_caches():
        yield from _measure(args)


def _measure(args: argparse.Namespace) -> Iterator[Row]:
    for name, setup, device, threads in runs.chosen(args):
        flops = 3 * operations.planned(setup.network, runs.shape(setup))[0]
        timed = runs.adjusted(setup, training__batch_size=args.batch or batch(setup, flops, device))
        chosen = modes(args, device)
        with timing.compiling(device.type == "cuda"):
            yield from compare(name, timed, flops, chosen, args, device, threads)


def modes(args: argparse.Namespace, device: torch.device) -> list[Mode]:
    """Every requested precision, then the packages if they are requested."""
    chosen: list[Precision] = args.precision or runs.precisions(device.type)
    packages: list[Precision] = list(chosen) if args.compile else []
    return [Mode(precision) for precision in chosen] + [Mode(precision, "package") for precision in packages]


def batch(setup: Setup, flops: int, device: torch.device) -> int:
    """The run's batch size.  On a CPU, it is halved until a step of `flops` operations per image is short enough."""
    size = setup.training.batch_size
    while device.type == "cpu" and size > SMALLEST_BATCH and size * flops > STEP_FLOPS:
        size //= 2
    return size


def compare(
    name: str, setup: Setup, flops: int, modes: list[Mode], args: argparse.Namespace, device: torch.device, threads: int
) -> Iterator[Row]:
    """Time the baselines and each of our modes in turns; `flops` is operations per image."""
    tuning: tuned.Mode = args.tuned_mode or tuned_mode(name)
    conditions = {
        mode: {
            "precision": mode.precision,
            "kind": mode.kind,
            "batch": setup.training.batch_size,
            "threads": threads if device.type == "cpu" else None,
        }
        for mode in modes
    }
    if args.starts:
        yield from starts("train", name, setup, conditions, args.starts, device, threads, mode=tuning)
    work: dict[Way, Callable[..., None]] = {}
    for way in (*BASELINES, *modes):
        several = contestant(way, setup, device, tuning)
        if timing.warm_up(several, device):
            work[way] = several
        del several  # what did not fit must leave the memory before the next one comes
    steps = {way: timing.repeats(several, args.seconds, device) for way, several in work.items()}
    taken = timing.alternate({way: partial(several, steps[way]) for way, several in work.items()}, args.rounds, device)
    each = {way: times.over(steps[way]) for way, times in taken.items()}  # seconds per step
    rates = {way: setup.training.batch_size / statistics.median(times.wall) for way, times in each.items()}
    plain_precision: Precision = "tf32" if device.type == "cuda" else "float32"
    precisions: list[Precision] = [plain_precision, *(mode.precision for mode in modes)]
    peaks = {precision: timing.peak(device, precision) for precision in dict.fromkeys(precisions)}
    baselines = {way: each[way] for way in BASELINES if way in each}
    for mode in modes:
        details = {
            **conditions[mode],
            "GFLOP per image": flops / 1e9,
            "peak TFLOP/s": peaks[mode.precision] / 1e12,
            "share of peak": rates[mode] * flops / peaks[mode.precision] if mode in rates else None,
            f"plain's share of {plain_precision} peak": (
                rates["plain"] * flops / peaks[plain_precision] if "plain" in rates else None
            ),
            "steps per timing": steps.get(mode),
            "rounds": args.rounds,
        }
        yield make(
            "train", name, "images/s", rates.get(mode), rates.get("plain"), None, details, device.type,
            tuned=rates.get("tuned"), ratios=timing.ratios(each[mode], baselines, device) if mode in each else {},
        )  # fmt: skip


def starts(
    benchmark: str,
    name: str,
    setup: Setup,
    conditions: Mapping[Mode, dict[str, object]],
    count: int,
    device: torch.device,
    threads: int,
    **options: object,
) -> Iterator[Row]:
    """Start the baselines and each of our modes in fresh processes, before this process uses much memory.

    Args:
        conditions: details of the rows of each mode.
        count: number of starts of each way; the tuned baseline on a GPU, which compiles, starts once.
        options: further arguments of the module's `contestant`.
    """  # fmt: skip
    ways: Sequence[Way] = (*BASELINES, *conditions)
    launches = {way: partial(fresh.launch, benchmark, way, setup, device, threads, **options) for way in ways}
    # The first start of a package builds it.  The later ones find it, as all jobs of a workflow do but one.
    building = {mode: launches[mode]() for mode in conditions if mode.kind == "package"}
    compiled: tuple[Way, ...] = ("tuned",) if device.type == "cuda" else ()
    made = fresh.alternate(launches, compiled, count)
    compiling = {way: fresh.median(made[way], "compiling") for way in compiled}
    compiling |= {mode: fresh.excess(first, made[mode]) for mode, first in building.items()}
    yield from fresh.rows(benchmark, name, conditions, made, compiling, device)


def way_of(written: str | Mapping[str, Any]) -> Way:
    """Read a way from JSON: the name of a baseline, or the fields of a mode."""
    return Mode(**written) if isinstance(written, Mapping) else "tuned" if written == "tuned" else "plain"


def tuned_mode(name: str) -> tuned.Mode:
    """The mode of torch.compile that suits a case on a GPU: steps of the tiny network are mostly launches."""
    return "reduce-overhead" if name == runs.TINY else "default"


def contestant(way: Way, setup: Setup, device: torch.device, mode: tuned.Mode) -> Callable[..., None]:
    """Make a training; the result makes a number of its steps, by default one."""
    if way == "plain":
        return partial(plain_steps, plain.Training(setup, runs.random_subset(setup), device))
    if way == "tuned":
        return partial(tuned_steps, tuned.Training(setup, runs.random_subset(setup), device, mode))
    return partial(our_steps, trainer(runs.adjusted(setup, training__precision=way.precision), device, way.kind))


def trainer(setup: Setup, device: torch.device, kind: Kind = "eager") -> Trainer:
    """Make the trainer of the first replicate of a run on random images."""
    with tempfile.TemporaryDirectory() as folder:
        return start(
            setup, runs.random_subset(setup), runs.IMAGES, 0, device, Path(folder), compiled=COMPILE[kind]
        )  # fmt: skip


def our_steps(trainer: Trainer, steps: int = 1) -> None:
    """Make `steps` steps; the loss is read in every step on a CPU, as in `emmeter.training.loop.train`."""
    choose(trainer.setup.training.precision)  # torch's arithmetic on a GPU is global, and other modes take turns
    for _ in range(steps):
        loss = trainer.advance()
        if trainer.device.type == "cpu":
            trainer.check(loss.item())


def plain_steps(training: plain.Training, steps: int = 1) -> None:
    """Make `steps` steps of the plain baseline."""
    plain.arithmetic()
    for _ in range(steps):
        training.advance()


def tuned_steps(training: tuned.Training, steps: int = 1) -> None:
    """Make `steps` steps of the tuned baseline."""
    tuned.arithmetic()
    for _ in range(steps):
        training.advance()
