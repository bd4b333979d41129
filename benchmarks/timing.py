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
PEAK_BATCH = {"cpu": 8, "cuda": 512}  # images of 32 x 32 pixels and 256 channels whose convolution measures the peak
PEAK_REPEATS = 8
Name = TypeVar("Name")


@dataclass(frozen=True)
class Ratio:
    """Median and extremes of a quotient over the rounds of a measurement."""

    median: float
    low: float
    high: float


def synchronize(device: torch.device) -> None:
    """Wait for the device: when a call returns, its work on a GPU is only queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, including the work that it queues on the device."""
    synchronize(device)
    begun = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - begun


def alternate(
    contestants: Mapping[Name, Callable[[], object]], rounds: int, device: torch.device
) -> dict[Name, list[float]]:
    """Time each contestant in each round, in seconds.

    All contestants are called once per round, in reverse order in every other round.  So a machine that becomes slower
    or faster treats them alike.  Work that is done once (compilation, choice of algorithms) must be done before.
    """
    taken: dict[Name, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        order = list(contestants) if turn % 2 == 0 else list(contestants)[::-1]
        for name in order:
            taken[name].append(seconds(contestants[name], device))
    return taken


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Ratio:
    """The time of `slow` over that of `fast`, from the quotient of each round."""
    quotients = [dividend / divisor for dividend, divisor in zip(slow, fast, strict=True)]
    return Ratio(statistics.median(quotients), min(quotients), max(quotients))


def repeats(work: Callable[[], object], wanted: float, device: torch.device) -> int:
    """The number of calls of `work` that take about `wanted` seconds.  Calls it twice, the first time untimed."""
    work()
    return max(1, round(wanted / max(seconds(work, device), 1e-6)))


def peak(device: torch.device, precision: Precision) -> float:
    """Measure the peak of the processor: operations per second of a large product, the best of several calls.

    The product is a matrix product or a convolution, whichever is faster.  On a CPU they come from different libraries,
    and one of them (MKL) leaves half the width of some processors unused.  Torch's arithmetic is then that of
    `precision`, as after `emmeter.diffusion.precision.choose`.
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
