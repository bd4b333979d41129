"""Sampling: images per second by the Heun sampler against the plain loop, and its share of a default run.

Case ``tiny`` is the default study's network with its own number of images and steps.  The share of a default run is
the time for sampling all snapshots over the time for training and sampling, both at rates measured here, without
process start-up.  On a CPU the paper's network is sampled with few images and few steps.  Its rate is computed from the
time per evaluation, for the run's full number of steps.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks import plain, runs, timing
from benchmarks.record import Row, make
from benchmarks.train import our_steps, plain_steps, trainer
from emmeter.command import positive
from emmeter.diffusion.precision import cast, choose
from emmeter.diffusion.preconditioning import Denoiser
from emmeter.diffusion.sampling import draws, generate, noise_levels
from emmeter.settings.sections import Execution, Setup
from emmeter.settings.types import Precision
from emmeter.training.schedule import budget
from emmeter.training.trainer import build

CASES = (runs.TINY, "32x32 width 128")
REDUCED = {"sampling__images": 4, "sampling__steps": 4}  # for the paper's network on a CPU
LIMIT = 500  # images, for the paper's network on a GPU
TRAIN_SECONDS = 3.0  # for timing the training, for the share


def options(parser: argparse.ArgumentParser) -> None:
    runs.options(parser, CASES)
    parser.add_argument("--images", type=positive, help="generated images, instead of the case's number")
    parser.add_argument("--steps", type=positive, help="sampler steps, instead of the case's number")
    parser.add_argument("--batch", type=positive, default=Execution().sampling_batch, help="images generated at once")


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """Yield one row per case and precision, and the share of a default run."""
    for name, run, device, threads in runs.chosen(args):
        timed = reduced(run, name, args, device)
        yield from compare(name, run, timed, args, device, threads)


def reduced(setup: Setup, name: str, args: argparse.Namespace, device: torch.device) -> Setup:
    """Replace the run's numbers of images and steps by the timed ones."""
    changes: dict[str, object] = {}
    if name != runs.TINY:
        changes |= REDUCED if device.type == "cpu" else {"sampling__images": min(LIMIT, setup.sampling.images)}
    changes |= {"sampling__images": args.images} if args.images else {}
    changes |= {"sampling__steps": args.steps} if args.steps else {}
    return runs.adjusted(setup, **changes)


def evaluations(setup: Setup) -> int:
    """Number of network evaluations per image."""
    return 2 * setup.sampling.steps - 1


def compare(
    name: str, setup: Setup, timed: Setup, args: argparse.Namespace, device: torch.device, threads: int
) -> Iterator[Row]:
    """Time the samplers with the settings `timed`; rates are for those of `setup`."""
    shape, count = runs.shape(setup), timed.sampling.images
    torch.manual_seed(0)
    baseline = plain.denoiser(setup, shape, 0).to(device).eval().requires_grad_(False)
    levels = noise_levels(timed.sampling, baseline.kind.sigma_min, baseline.kind.sigma_max)

    def plainly() -> torch.Tensor:
        plain.arithmetic()
        return plain.sample(baseline, timed, shape, None, args.batch, device)

    def ours(denoiser: Denoiser, precision: Precision) -> torch.Tensor:
        cast(denoiser.network, choose(precision))
        return generate(denoiser, draws(count, shape, None, 0), levels, args.batch, device)

    precisions = args.precision or runs.precisions(device.type)
    work: dict[str, Callable[[], torch.Tensor]] = {"plain": plainly}
    for precision in precisions:
        torch.manual_seed(0)
        denoiser = build(setup, shape, 0).to(device).eval().requires_grad_(False)
        work[precision] = partial(ours, denoiser, precision)
    images = {way: sampler() for way, sampler in work.items()}  # also the untimed first call
    taken = timing.alternate(work, args.rounds, device)
    each = {way: statistics.median(values) / count / evaluations(timed) for way, values in taken.items()}
    rates = {way: 1 / (value * evaluations(setup)) for way, value in each.items()}
    for precision in precisions:
        details = {
            "precision": precision,
            "steps": setup.sampling.steps,
            "steps timed": timed.sampling.steps,
            "images timed": count,
            "batch": args.batch,
            "threads": threads if device.type == "cpu" else None,
            "largest difference in grey levels": int((images[precision].int() - images["plain"].int()).abs().max()),
            "rounds": args.rounds,
        }
        ratio = timing.ratio(taken["plain"], taken[precision])
        yield make("sample", name, "images/s", rates[precision], rates["plain"], ratio, details, device.type)
    if name == runs.TINY and setup.sampling.precision in precisions:
        yield share(setup, {"plain": rates["plain"], "ours": rates[setup.sampling.precision]}, threads, device)


def share(setup: Setup, rates: dict[str, float], threads: int, device: torch.device) -> Row:
    """Measure the share of sampling in the time for training and sampling one run, in percent.

    Args:
        rates: images per second in sampling.
    """
    advances = {
        "plain": partial(plain_steps, plain.Training(setup, runs.random_subset(setup), device)),
        "ours": partial(our_steps, trainer(setup, device)),
    }
    shares = {}
    for way, advance in advances.items():
        steps = timing.repeats(partial(advance, 1), TRAIN_SECONDS, device)
        training = timing.seconds(partial(advance, steps), device) / steps
        whole = training * budget(setup, runs.IMAGES).steps
        sampling = len(setup.training.snapshots) * setup.sampling.images / rates[way]
        shares[way] = 100 * sampling / (whole + sampling)
    details = {
        "precision": setup.sampling.precision,
        "steps": setup.sampling.steps,
        "threads": threads if device.type == "cpu" else None,
        "images": setup.sampling.images,
        "snapshots": len(setup.training.snapshots),
    }
    return make("sample", "default run", "% of a run", shares["ours"], shares["plain"], None, details, device.type)
