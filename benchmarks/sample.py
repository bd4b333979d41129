"""Sampling: images a second by the Heun sampler against the plain loop, and its share of a default run.

Case ``tiny`` is the default study's network with its own number of images and steps; the share of a default run sets
its sampling of all snapshots beside its training, both at rates measured here, without process start-up.  The
paper's network is sampled in few images and few steps on a CPU; its rate is per image at the run's full number of
steps, from the time of an evaluation.
"""

import argparse
import statistics
from collections.abc import Iterator

import torch

from benchmarks import plain, runs, timing
from benchmarks.record import Row, make
from benchmarks.train import cores, trainer
from emm.device import select
from emm.sampling import draws, generate, noise_levels
from emm.settings import Execution, Run
from emm.training import budget, build

CASES = (runs.TINY, "32x32 width 128")
REDUCED = {"sampling__images": 4, "sampling__steps": 4}  # of the paper's network on a CPU
LIMIT = 500  # images of the paper's network on a GPU
TRAIN_SECONDS = 3.0  # of the timing of training, for the share


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE",
                        help=f"of {', '.join(map(repr, CASES))}")  # fmt: skip
    parser.add_argument("--images", type=int, help="instead of the case's own")
    parser.add_argument("--steps", type=int, help="of the sampler, instead of the case's own")
    parser.add_argument("--batch", type=int, default=Execution().sampling_batch, help="images generated at once")
    parser.add_argument("--threads", type=int, help="default: 1 for the tiny network, else all cores")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of timings")


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """A row for each case, and for the tiny network the share of a default run."""
    for name in args.cases:
        threads = args.threads or (1 if name == runs.TINY else cores())
        device = select(args.device, threads)
        run = runs.case(name)
        timed = reduced(run, name, args, device)
        yield from compare(name, run, timed, args, device, threads)


def reduced(run: Run, name: str, args: argparse.Namespace, device: torch.device) -> Run:
    """The run with as many images and steps as are timed."""
    changes: dict[str, object] = {}
    if name != runs.TINY:
        changes |= REDUCED if device.type == "cpu" else {"sampling__images": min(LIMIT, run.sampling.images)}
    changes |= {"sampling__images": args.images} if args.images else {}
    changes |= {"sampling__steps": args.steps} if args.steps else {}
    return runs.adjusted(run, **changes)


def evaluations(run: Run) -> int:
    """Evaluations of the network for one image."""
    return 2 * run.sampling.steps - 1


def compare(
    name: str, run: Run, timed: Run, args: argparse.Namespace, device: torch.device, threads: int
) -> Iterator[Row]:
    """Time both samplers as `timed` asks; rates are of `run`."""
    shape, count = runs.shape(run), timed.sampling.images
    torch.manual_seed(0)
    ours = build(run, shape, 0).to(device).eval().requires_grad_(False)
    torch.manual_seed(0)
    baseline = plain.denoiser(run, shape, 0).to(device).eval().requires_grad_(False)
    levels = noise_levels(timed.sampling, ours.kind.sigma_min, ours.kind.sigma_max)
    work = {
        "plain": lambda: plain.sample(baseline, timed, shape, None, args.batch, device),
        "ours": lambda: generate(ours, draws(count, shape, None, 0), levels, args.batch, device),
    }
    different = work["plain"]().int() - work["ours"]().int()  # also the untimed first call
    taken = timing.alternate(work, args.rounds, device)
    each = {one: statistics.median(values) / count / evaluations(timed) for one, values in taken.items()}
    rates = {one: 1 / (value * evaluations(run)) for one, value in each.items()}
    ratio = timing.ratio(taken["plain"], taken["ours"])
    details = {
        "steps": run.sampling.steps,
        "steps timed": timed.sampling.steps,
        "images timed": count,
        "batch": args.batch,
        "threads": threads if device.type == "cpu" else None,
        "largest difference in grey levels": int(different.abs().max()),
        "rounds": args.rounds,
    }
    yield make("sample", name, "images/s", rates["ours"], rates["plain"], ratio, details, device.type)
    if name == runs.TINY:
        yield share(run, rates, details, device)


def share(run: Run, rates: dict[str, float], details: dict[str, object], device: torch.device) -> Row:
    """What share of training and sampling together sampling takes in one run, in percent.

    `rates` are images a second in sampling.
    """
    advances = {
        "plain": plain.Training(run, runs.random_subset(run), device).advance,
        "ours": trainer(run, device).advance,
    }
    shares = {}
    for one, advance in advances.items():
        steps = timing.repeats(advance, TRAIN_SECONDS, device)
        training = timing.seconds(lambda: [advance() for _ in range(steps)], device) / steps  # noqa: B023
        whole = training * budget(run, runs.IMAGES).steps
        sampling = len(run.training.snapshots) * run.sampling.images / rates[one]
        shares[one] = 100 * sampling / (whole + sampling)
    return make("sample", "default run", "% of a run", shares["ours"], shares["plain"], None,
                {**details, "images": run.sampling.images, "snapshots": len(run.training.snapshots)},
                device.type)  # fmt: skip
