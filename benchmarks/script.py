"""One run of a baseline as a script makes it: training, sampling of each snapshot, neighbours, without files."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks import plain, runs, timing, tuned
from emmeter.data import subset
from emmeter.data.subset import Subset
from emmeter.errors import StageError
from emmeter.machine.device import select
from emmeter.settings.sections import Setup
from emmeter.settings.validation import read_setup
from emmeter.training.schedule import budget

Baseline = Literal["plain", "tuned"]
Sampler = Callable[[Tensor | None], Tensor]  # images from labels in use
PARTS = ("training", "sampling", "scoring")
MODE: tuned.Mode = "reduce-overhead"  # of torch.compile on a GPU: the default study's network is tiny


class Clock:
    """Seconds spent in each part."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        timing.synchronize(self.device)
        begun = time.perf_counter()
        yield
        timing.synchronize(self.device)
        self.seconds[part] += time.perf_counter() - begun


def run(baseline: Baseline, setup: Setup, drawn: Subset, device: torch.device) -> dict[str, float]:
    """Make a run on a subset; return the seconds of each part."""
    labels = torch.unique(torch.from_numpy(drawn.labels)) if drawn.label_count else None
    kept, clock = budget(setup, len(drawn.images)).snapshots, Clock(device)
    with clock("training"):
        advance, sampler = MAKERS[baseline](setup, drawn, device)
    for step in range(1, budget(setup, len(drawn.images)).steps + 1):
        with clock("training"):
            advance()
        for _ in range(kept.count(step)):
            with clock("sampling"):
                images = sampler(labels)
            with clock("scoring"):
                plain.nearest(images, torch.from_numpy(drawn.images), 2, device)
    return clock.seconds


def _plain(setup: Setup, drawn: Subset, device: torch.device) -> tuple[Callable[[], object], Sampler]:
    plain.arithmetic()
    training = plain.Training(setup, drawn, device)

    def sample(labels: Tensor | None) -> Tensor:
        denoiser = plain.Denoiser(training.averages[0].eval(), training.denoiser.kind)
        return plain.sample(denoiser, setup, drawn.images.shape[1:], labels, setup.sampling.images, device)

    return training.advance, sample


def _tuned(setup: Setup, drawn: Subset, device: torch.device) -> tuple[Callable[[], object], Sampler]:
    tuned.arithmetic()
    training = tuned.Training(setup, drawn, device, MODE)
    shape = drawn.images.shape[1:]
    denoiser = tuned.denoiser(setup, shape, drawn.label_count, device, MODE).eval().requires_grad_(False)

    def sample(labels: Tensor | None) -> Tensor:
        for parameter, mean in zip(denoiser.parameters(), training.averages[0], strict=True):
            parameter.copy_(mean)
        with tuned.autocast(device):
            return plain.sample(denoiser, setup, shape, labels, setup.sampling.images, device)

    return training.advance, sample


MAKERS = {"plain": _plain, "tuned": _tuned}


def side_by_side(baseline: Baseline, setup: Setup, n: int, device: torch.device, processes: int) -> dict[str, float]:
    """Make the same run in several processes of one thread at once; return the mean seconds of each part.

    Raises:
        StageError: a process failed; its errors are on standard error.
    """
    request = {"baseline": baseline, "setup": setup.model_dump(mode="json"), "n": n, "device": device.type}
    command = [sys.executable, "-m", "benchmarks.script", json.dumps(request)]
    started = [subprocess.Popen(command, cwd=runs.ROOT, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise StageError(f"end_to_end: a run of the {baseline} baseline failed; its error is above")
    taken = [json.loads(output.splitlines()[-1]) for output in outputs]
    return {part: sum(seconds[part] for seconds in taken) / processes for part in PARTS}


def answer(request: Mapping[str, Any]) -> dict[str, float]:
    """Do what a process of `side_by_side` is asked."""
    setup, device, baseline = read_setup(request["setup"]), select(request["device"], 1), request["baseline"]
    drawn = subset.draw(setup, request["n"], 0)
    # A script makes all runs in one process, so the seconds that torch takes to load its optimizer do not count.
    advance, _ = MAKERS[baseline](setup, drawn, device)
    advance()
    return run(baseline, setup, drawn, device)


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(sys.argv[1]))))
