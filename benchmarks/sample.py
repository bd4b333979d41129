"""Sampling: images a second by the Heun sampler against the plain loop, and its share of a default run.

Case ``tiny`` is the default study's network with its own number of images and steps; the share of a default run sets
its sampling of all snapshots beside its training, both at rates measured here, without process start-up.  The
paper's network is sampled in few images and few steps on a CPU; its rate is per image at the run's full number of
steps, from the time of an evaluation.
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
REDUCED = {"sampling__images": 4, "sampling__steps": 4}  # of the paper's network on a CPU
LIMIT = 500  # images of the paper's network on a GPU
TRAIN_SECONDS = 3.0  # of the timing of training, for the share


def options(parser: argparse.ArgumentParser) -> None:
    runs.options(parser, CASES)
    parser.add_argument("--images", type=positive, help="instead of the case's own")
    parser.add_argument("--steps", type=positive, help="of the sampler, instead of the case's own")
    parser.add_argument("--batch", type=positive, default=Execution().sampling_batch, help="images generated at once")


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """A row for each case and precision, and the share of a default run."""
    for name, run, device, threads in runs.chosen(args):
        timed = reduced(run, name, args, device)
        yield from compare(name, run, timed, args, device, threads)


def reduced(setup: Setup, name: str, args: argparse.Namespace, device: torch.device) -> Setup:
    """The run with as many images and steps as are timed."""
    changes: dict[str, object] = {}
    if name != runs.TINY:
        changes |= REDUCED if device.type == "cpu" else {"sampling__images": min(LIMIT, setup.sampling.images)}
    changes |= {"sampling__images": args.images} if args.images else {}
    changes |= {"sampling__steps": args.steps} if args.steps else {}
    return runs.adjusted(setup, **changes)


def evaluations(setup: Setup) -> int:
    """Evaluations of the network for one image."""
    return 2 * setup.sampling.steps - 1


def compare(
    name: str, setup: Setup, timed: Setup, args: argparse.Namespace, device: torch.device, threads: int
) -> Iterator[Row]:
    """Time the samplers as `timed` asks; rates are of `setup`."""
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
    made = {one: sampler() for one, sampler in work.items()}  # also the untimed first call
    taken = timing.alternate(work, args.rounds, device)
    each = {one: statistics.median(values) / count / evaluations(timed) for one, values in taken.items()}
    rates = {one: 1 / (value * evaluations(setup)) for one, value in each.items()}
    for precision in precisions:
        details = {
            "precision": precision,
            "steps": setup.sampling.steps,
            "steps timed": timed.sampling.steps,
            "images timed": count,
            "batch": args.batch,
            "threads": threads if device.type == "cpu" else None,
            "largest difference in grey levels": int((made[precision].int() - made["plain"].int()).abs().max()),
            "rounds": args.rounds,
        }
        ratio = timing.ratio(taken["plain"], taken[precision])
        yield make("sample", name, "images/s", rates[precision], rates["plain"], ratio, details, device.type)
    if name == runs.TINY and setup.sampling.precision in precisions:
        yield share(setup, {"plain": rates["plain"], "ours": rates[setup.sampling.precision]}, threads, device)


def share(setup: Setup, rates: dict[str, float], threads: int, device: torch.device) -> Row:
    """What share of training and sampling together sampling takes in one run, in percent.

    `rates` are images a second in sampling.
    """
    advances = {
        "plain": partial(plain_steps, plain.Training(setup, runs.random_subset(setup), device)),
        "ours": partial(our_steps, trainer(setup, device)),
    }
    shares = {}
    for one, advance in advances.items():
        steps = timing.repeats(partial(advance, 1), TRAIN_SECONDS, device)
        training = timing.seconds(partial(advance, steps), device) / steps
        whole = training * budget(setup, runs.IMAGES).steps
        sampling = len(setup.training.snapshots) * setup.sampling.images / rates[one]
        shares[one] = 100 * sampling / (whole + sampling)
    details = {
        "precision": setup.sampling.precision,
        "steps": setup.sampling.steps,
        "threads": threads if device.type == "cpu" else None,
        "images": setup.sampling.images,
        "snapshots": len(setup.training.snapshots),
    }
    return make("sample", "default run", "% of a run", shares["ours"], shares["plain"], None, details, device.type)
