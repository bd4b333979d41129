"""Sampling: images per second by the Heun sampler against the baselines, and its share of a default run.

Case ``tiny`` is the default study's network with its own number of images and steps.  The share of a default run is
the time for sampling all snapshots over the time for training and sampling, both at rates measured here, without
process start-up.  On a CPU the paper's network is sampled with few images and few steps.  Its rate is computed from the
time per evaluation, for the run's full number of steps.

Each case also has rows of its start, compiling and memory, measured in fresh processes (`benchmarks.fresh`).
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks import fresh, plain, runs, timing, tuned
from benchmarks.record import Row, make
from benchmarks.train import BASELINES, COMPILE, Mode, Way, modes, starts, tuned_mode
from benchmarks.train import contestant as training
from emmeter.command import positive
from emmeter.diffusion.precision import choose
from emmeter.diffusion.sampling import Denoise, draws, generate, noise_levels
from emmeter.settings.sections import Execution, Setup
from emmeter.settings.types import Precision
from emmeter.stages.sample import sampler
from emmeter.training.schedule import budget

CASES = (runs.TINY, "32x32 width 128")
REDUCED = {"sampling__images": 4, "sampling__steps": 4}  # for the paper's network on a CPU
LIMIT = 500  # images, for the paper's network on a GPU
TRAIN_SECONDS = 3.0  # for timing the training, for the share


def options(parser: argparse.ArgumentParser) -> None:
    runs.options(parser, CASES)
    parser.add_argument("--compile", action="store_true", help="also by compiled packages")
    parser.add_argument("--images", type=positive, help="generated images, instead of the case's number")
    parser.add_argument("--steps", type=positive, help="sampler steps, instead of the case's number")
    parser.add_argument("--batch", type=positive, default=Execution().sampling_batch, help="images generated at once")


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """Yield one row per case and precision, and the share of a default run."""
    with fresh.compiler_caches():
        yield from _measure(args)


def _measure(args: argparse.Namespace) -> Iterator[Row]:
    for name, run, device, threads in runs.chosen(args):
        timed = reduced(run, name, args, device)
        with timing.compiling(device.type == "cuda"):
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
    count = timed.sampling.images
    chosen = modes(args, device)
    conditions = {
        mode: {
            "precision": mode.precision,
            "kind": mode.kind,
            "steps": setup.sampling.steps,
            "steps timed": timed.sampling.steps,
            "images timed": count,
            "batch": args.batch,
            "threads": threads if device.type == "cpu" else None,
        }
        for mode in chosen
    }
    options = {"batch": args.batch, "mode": tuned_mode(name)}
    if args.starts:
        yield from starts("sample", name, timed, conditions, args.starts, device, threads, **options)
    work: dict[Way, Callable[[], torch.Tensor]] = {}
    images: dict[Way, torch.Tensor] = {}

    def first(way: Way, sampler: Callable[[], torch.Tensor]) -> None:
        images[way] = sampler()

    for way in (*BASELINES, *chosen):
        sampler = contestant(way, timed, device, **options)
        if timing.warm_up(partial(first, way, sampler), device):
            work[way] = sampler
        del sampler  # what did not fit must leave the memory before the next one comes
    taken = timing.alternate(work, args.rounds, device)
    each = {way: statistics.median(times.wall) / count / evaluations(timed) for way, times in taken.items()}
    rates = {way: 1 / (value * evaluations(setup)) for way, value in each.items()}

    def difference(way: Way) -> int | None:
        if way not in work or "plain" not in work:
            return None
        return int((images[way].int() - images["plain"].int()).abs().max())

    for mode in chosen:
        details = {
            **conditions[mode],
            "largest difference in grey levels": difference(mode),
            "tuned's difference": difference("tuned"),
            "rounds": args.rounds,
        }
        baselines = {way: taken[way] for way in BASELINES if way in taken}
        yield make(
            "sample", name, "images/s", rates.get(mode), rates.get("plain"), None, details, device.type,
            tuned=rates.get("tuned"), ratios=timing.ratios(taken[mode], baselines, device) if mode in taken else {},
        )  # fmt: skip
    own = Mode(setup.sampling.precision)
    if name == runs.TINY and own in rates:
        yield share(setup, {way: rates[way] for way in (*BASELINES, own) if way in rates}, threads, device)


def contestant(
    way: Way, setup: Setup, device: torch.device, mode: tuned.Mode, batch: int
) -> Callable[[], torch.Tensor]:
    """Make a sampler of a run's unconditional network, with the same initial weights for all ways."""
    shape = runs.shape(setup)
    torch.manual_seed(0)
    if way == "plain":
        baseline = plain.denoiser(setup, shape, 0).to(device).eval().requires_grad_(False)
        return partial(plainly, baseline, setup, batch, device)
    if way == "tuned":
        competent = tuned.denoiser(setup, shape, 0, device, mode).eval().requires_grad_(False)
        return partial(tunedly, competent, setup, batch, device)
    own = runs.adjusted(setup, sampling__precision=way.precision)
    denoiser, denoise, _ = sampler(own, shape, 0, batch, device, COMPILE[way.kind])
    levels = noise_levels(setup.sampling, denoiser.kind.sigma_min, denoiser.kind.sigma_max)
    return partial(ours, denoise, levels, way.precision, setup, batch, device)


def plainly(denoiser: plain.Denoiser, setup: Setup, batch: int, device: torch.device) -> torch.Tensor:
    """Sample as the plain baseline."""
    plain.arithmetic()
    return plain.sample(denoiser, setup, runs.shape(setup), None, batch, device)


def tunedly(denoiser: plain.Denoiser, setup: Setup, batch: int, device: torch.device) -> torch.Tensor:
    """Sample as the tuned baseline."""
    tuned.arithmetic()
    with tuned.autocast(device):
        return plain.sample(denoiser, setup, runs.shape(setup), None, batch, device)


def ours(
    denoise: Denoise, levels: torch.Tensor, precision: Precision, setup: Setup, batch: int, device: torch.device
) -> torch.Tensor:
    """Sample as `emmeter.stages.sample` does."""
    choose(precision)
    return generate(denoise, draws(setup.sampling.images, runs.shape(setup), None, 0), levels, batch, device)


def share(setup: Setup, rates: dict[Way, float], threads: int, device: torch.device) -> Row:
    """Measure the share of sampling in the time for training and sampling one run, in percent.

    Args:
        rates: images per second in sampling.
    """
    shares = {}
    for way, rate in rates.items():
        advance = training(way, setup, device, tuned_mode(runs.TINY))
        timing.warm_up(partial(advance, 1), device)
        steps = timing.repeats(partial(advance, 1), TRAIN_SECONDS, device)
        trained = timing.seconds(partial(advance, steps), device) / steps
        whole = trained * budget(setup, runs.IMAGES).steps
        sampling = len(setup.training.snapshots) * setup.sampling.images / rate
        shares[way] = 100 * sampling / (whole + sampling)
    details = {
        "precision": setup.sampling.precision,
        "steps": setup.sampling.steps,
        "threads": threads if device.type == "cpu" else None,
        "images": setup.sampling.images,
        "snapshots": len(setup.training.snapshots),
    }
    return make(
        "sample", "default run", "% of a run", shares[Mode(setup.sampling.precision)], shares.get("plain"), None,
        details, device.type, tuned=shares.get("tuned"),
    )  # fmt: skip
