"""Contestants in fresh processes: seconds to the first result, seconds of compiling, peak memory.

A contestant starts in a process of its own, in which nothing else is loaded.  Its first call makes one training step,
or the first images.  The *start* is the time from the start of the process to the end of this call.  *Compiling* is the
time of all calls before the speed is steady, beyond that of as many steady calls.  For a package, which only its first
process builds, it is the start of this process beyond later ones, and *start* is that of later ones.  *Memory* is the
peak during one steady call: of the tensors on a GPU, of the whole process on a CPU.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import torch

from benchmarks import runs, timing
from benchmarks.record import Row, make
from emmeter.errors import StageError
from emmeter.machine.device import select
from emmeter.settings.sections import Setup
from emmeter.settings.validation import read_setup
from emmeter.training import packages

# Environment variables that name the folders of torch's compiler and of our packages.
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", packages.VARIABLE)
Way = TypeVar("Way")


@dataclass(frozen=True)
class Start:
    """One start of a contestant: seconds to its first result, seconds of compiling, peak bytes of memory."""

    seconds: float
    compiling: float
    memory: int | None


@contextmanager
def compiler_caches() -> Iterator[None]:
    """Begin without anything compiled; this process and those that it starts share what they compile."""
    before = {name: os.environ.get(name) for name in CACHES}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ.update({name: os.path.join(folder, name) for name in CACHES})
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def alternate(
    contestants: Mapping[Way, Callable[[], Start | None]], once: Collection[Way], starts: int
) -> dict[Way, list[Start]]:
    """Start each contestant several times, in reverse order in every other round.

    Args:
        once: contestants that are started a single time, because later starts find what the first one has compiled.
    Returns:
        The starts of each contestant; none if it does not fit into the memory of the GPU.
    """
    made: dict[Way, list[Start]] = {way: [] for way in contestants}
    for turn in range(starts):
        for way in list(contestants) if turn % 2 == 0 else list(contestants)[::-1]:
            if (turn == 0 or (way not in once and made[way])) and (start := contestants[way]()):
                made[way].append(start)
    return made


def launch(
    benchmark: str, way: object, setup: Setup, device: torch.device, threads: int, **options: object
) -> Start | None:
    """Start a contestant of `benchmark` in a fresh process; return None if it does not fit into the GPU's memory.

    Args:
        way: the name of a baseline, or a `benchmarks.train.Mode`.
        options: further arguments of the module's `contestant`.
    Raises:
        StageError: the process failed; the message ends with the last line of its errors.
    """
    request = {
        "benchmark": benchmark, "way": way if isinstance(way, str) else vars(way),
        "setup": setup.model_dump(mode="json"), "device": device.type, "threads": threads, "options": options,
    }  # fmt: skip
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fresh"], input=json.dumps(request), cwd=runs.ROOT, capture_output=True,
        text=True,
    )  # fmt: skip
    if done.returncode:
        reason = done.stderr.strip().splitlines() or ["no reason given"]
        raise StageError(f"benchmarks.fresh: {benchmark} {request['way']} failed: {reason[-1]}")
    reply = json.loads(done.stdout.splitlines()[-1])
    return None if reply is None else Start(reply["ready"] - begun, reply["compiling"], reply["memory"])


def rows(
    benchmark: str,
    case: str,
    details: Mapping[Any, dict[str, Any]],
    made: Mapping[Any, list[Start]],
    compiling: Mapping[Any, float | None],
    device: torch.device,
) -> Iterator[Row]:
    """Yield rows of start, compiling and memory for each of our ways, which are the keys of `details`.

    Args:
        compiling: seconds of each way that compiles.
    """
    plain, tuned = made["plain"], made["tuned"]
    for way, conditions in details.items():
        ours = made[way]
        ratios = {name: _ratio(made[name], ours) for name in ("plain", "tuned") if made[name] and ours}
        described = {**conditions, "starts": len(ours)}
        seconds, memory = (partial(median, field=field) for field in ("seconds", "memory"))
        yield make(
            benchmark, f"{case}: start", "s", seconds(ours), seconds(plain), None, described, device.type,
            tuned=seconds(tuned), ratios=ratios,
        )  # fmt: skip
        if way in compiling or "tuned" in compiling:
            yield make(
                benchmark, f"{case}: compiling", "s", compiling.get(way), None, None, described, device.type,
                tuned=compiling.get("tuned"),
            )  # fmt: skip
        yield make(
            benchmark, f"{case}: memory", "MB", memory(ours), memory(plain), None, described, device.type,
            tuned=memory(tuned),
        )  # fmt: skip


def _ratio(slow: list[Start], fast: list[Start]) -> timing.Ratio:
    """Seconds of `slow` over those of `fast`, start by start, as far as both were started."""
    count = min(len(slow), len(fast))
    return timing.ratio([start.seconds for start in slow[:count]], [start.seconds for start in fast[:count]])


def excess(first: Start | None, later: list[Start]) -> float | None:
    """Seconds that the first start took beyond the median of later ones; None without both."""
    return None if first is None or not later else first.seconds - statistics.median(start.seconds for start in later)


def median(starts: list[Start], field: Literal["seconds", "compiling", "memory"]) -> float | None:
    """Median of a field over the starts, memory in MB; None without a value."""
    values = [value for start in starts if (value := asdict(start)[field]) is not None]
    return statistics.median(values) / (1e6 if field == "memory" else 1) if values else None


def answer(request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Do what a process of `launch` is asked: make the contestant, and call it until its speed is steady."""
    # Both modules import this one.
    module, train = (importlib.import_module(f"benchmarks.{name}") for name in (request["benchmark"], "train"))
    device = select(request["device"], request["threads"])
    setup, way = read_setup(request["setup"]), train.way_of(request["way"])
    try:
        work = module.contestant(way, setup, device, **request["options"])
        first = timing.seconds(work, device)
        ready = time.monotonic()
        others = [timing.seconds(work, device) for _ in range(timing.UNTIMED[device.type] - 1)]
        steady: list[float] = []
        memory = timing.peak_memory(lambda: steady.append(timing.seconds(work, device)), device)
    except torch.OutOfMemoryError:
        return None
    untimed = [first, *others]
    return {"ready": ready, "compiling": sum(untimed) - len(untimed) * steady[0], "memory": memory}


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))
