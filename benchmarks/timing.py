"""Timing of several ways to do the same work, in turns in one process, and the peak of the processor."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F

from emmeter.diffusion.precision import choose
from emmeter.settings.types import Precision

PEAK_SIZE = {"cpu": 2048, "cuda": 8192}  # rows of the square matrices whose product measures the peak
PEAK_BATCH = {"cpu": 8, "cuda": 512}  # images of 32 x 32 pixels and 256 channels whose convolution does
PEAK_REPEATS = 8
Name = TypeVar("Name")


@dataclass(frozen=True)
class Ratio:
    """Median and extremes of a quotient over the rounds of a measurement."""

    median: float
    low: float
    high: float


def synchronize(device: torch.device) -> None:
    """Wait for the device: work on a GPU is only queued when a call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, with everything that it queued on the device."""
    synchronize(device)
    begun = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - begun


def alternate(
    contestants: Mapping[Name, Callable[[], object]], rounds: int, device: torch.device
) -> dict[Name, list[float]]:
    """Seconds of each contestant in each round.

    All are called once in every round, every other round in reverse order, so that a machine that grows slower or
    faster treats them alike.  What must happen once (compilation, choice of algorithms) should have happened before.
    """
    taken: dict[Name, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        order = list(contestants) if turn % 2 == 0 else list(contestants)[::-1]
        for name in order:
            taken[name].append(seconds(contestants[name], device))
    return taken


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Ratio:
    """How many times as long `slow` took as `fast`, from the quotient of each round."""
    quotients = [one / other for one, other in zip(slow, fast, strict=True)]
    return Ratio(statistics.median(quotients), min(quotients), max(quotients))


def repeats(work: Callable[[], object], wanted: float, device: torch.device) -> int:
    """How often to call `work` so that it takes about `wanted` seconds; calls it twice, the first time untimed."""
    work()
    return max(1, round(wanted / max(seconds(work, device), 1e-6)))


def peak(device: torch.device, precision: Precision) -> float:
    """Operations per second of a large product, the best of several: what the processor can do.

    The product is that of two matrices or a convolution, whichever is faster: on a CPU they come from different
    libraries, of which MKL leaves half the width of some processors unused.  Leaves torch with the arithmetic of
    `precision`, as `emmeter.diffusion.precision.choose` does.
    """
    size, dtype = PEAK_SIZE[device.type], choose(precision)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    images, filters = (
        torch.randn(*shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        for shape in ((PEAK_BATCH[device.type], 256, 32, 32), (256, 256, 3, 3))
    )
    products: list[tuple[Callable[[], object], int]] = [
        (lambda: torch.mm(left, right), 2 * size**3),
        (lambda: F.conv2d(images, filters, padding=1), 2 * images.numel() * filters[0].numel()),
    ]
    rates = []
    for work, operations in products:
        work()  # untimed: torch chooses its algorithms
        rates.append(operations / min(seconds(work, device) for _ in range(PEAK_REPEATS)))
    return max(rates)
