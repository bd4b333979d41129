"""Timing of several ways to do the same work, in turns in one process; peaks of the memory and of the processor."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F

from emmeter.diffusion.precision import choose
from emmeter.settings.types import Precision

ROUNDS = 9  # many short rounds tell the median and the quartiles of a ratio better than few long ones
# Untimed calls before the first timing.  A GPU's first calls compile, choose algorithms and capture graphs.
UNTIMED = {"cpu": 1, "cuda": 3}
PEAK_SIZE = {"cpu": 2048, "cuda": 8192}  # rows of the square matrices whose product measures the peak
PEAK_BATCH = {"cpu": 8, "cuda": 512}  # images of 32 x 32 pixels and 256 channels whose convolution measures the peak
PEAK_REPEATS = 8
RESET_PEAK = "5"  # written to clear_refs, it sets the peak resident memory to the present one (proc(5))
Name = TypeVar("Name")


@dataclass(frozen=True)
class Ratio:
    """Median and quartiles of a quotient over the rounds of a measurement."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Times:
    """Seconds of a contestant in each round: wall time, and processor time of all threads of this process."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def over(self, calls: int) -> "Times":
        """The times of one of `calls` equal calls."""
        return Times([value / calls for value in self.wall], [value / calls for value in self.processor])


def synchronize(device: torch.device) -> None:
    """Wait for the device: when a call returns, its work on a GPU is only queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, including the work that it queues on the device."""
    return _timed(work, device)[0]


def _timed(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    synchronize(device)
    begun, used = time.perf_counter(), time.process_time()
    work()
    synchronize(device)
    return time.perf_counter() - begun, time.process_time() - used


def warm_up(work: Callable[[], object], device: torch.device) -> bool:
    """Call `work` as often as the device needs before its speed is steady.

    Returns:
        Whether the work fits into the memory of the GPU.
    """
    try:
        for _ in range(UNTIMED[device.type]):
            work()
        synchronize(device)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    return True


@contextmanager
def compiling(compiled: bool) -> Iterator[None]:
    """Let the networks of one case compile, if any do.

    Dynamo's limit of compilations counts those of earlier cases too, and beyond it a network would silently run
    uncompiled.  So each case starts from none, and reaching the limit is an error.
    """
    if not compiled:
        yield
        return
    from torch import _dynamo

    _dynamo.reset()
    with _dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield


def alternate(contestants: Mapping[Name, Callable[[], object]], rounds: int, device: torch.device) -> dict[Name, Times]:
    """Time each contestant in each round.

    All contestants are called once per round, in reverse order in every other round.  So a machine that becomes slower
    or faster treats them alike.  Work that is done once (compilation, choice of algorithms) must be done before, as by
    `warm_up`.
    """
    taken: dict[Name, Times] = {name: Times() for name in contestants}
    for turn in range(rounds):
        order = list(contestants) if turn % 2 == 0 else list(contestants)[::-1]
        for name in order:
            wall, processor = _timed(contestants[name], device)
            taken[name].wall.append(wall)
            taken[name].processor.append(processor)
    return taken


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Ratio:
    """The time of `slow` over that of `fast`, from the quotient of each round."""
    return quartiles([dividend / divisor for dividend, divisor in zip(slow, fast, strict=True)])


def quartiles(values: Sequence[float]) -> Ratio:
    """Median and quartiles of at least one value."""
    if len(values) == 1:
        return Ratio(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Ratio(median, low, high)


def ratios(ours: Times, baselines: Mapping[str, Times], device: torch.device) -> dict[str, Ratio]:
    """The speed of `ours` over that of each baseline, by the baseline's name.

    On a CPU, "NAME CPU" is the same ratio in processor time, which other processes disturb less than wall time.
    """
    compared: dict[str, Ratio] = {}
    for name, baseline in baselines.items():
        compared[name] = ratio(baseline.wall, ours.wall)
        if device.type == "cpu":
            compared[f"{name} CPU"] = ratio(baseline.processor, ours.processor)
    return compared


def repeats(work: Callable[[], object], wanted: float, device: torch.device) -> int:
    """The number of calls of `work`, which must be warm, that take about `wanted` seconds.  Calls it once."""
    return max(1, round(wanted / max(seconds(work, device), 1e-6)))


def peak_memory(work: Callable[[], object], device: torch.device) -> int | None:
    """Peak memory in bytes during one call of `work`, or None where the system does not tell.

    On a GPU these are the tensors of this process.  On a CPU it is the resident memory of this whole process, which
    includes Python, torch and everything that is already in memory.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    except OSError:
        return None
    work()
    return _peak_resident()


def _peak_resident() -> int | None:
    """The largest resident memory of this process since the last reset, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    kilobytes = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(kilobytes[0]) if kilobytes else None


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
