"""Speed of training and sampling on this machine, from a short calibration on made-up images."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from emmeter import project
from emmeter.data import datasets, feasibility, subset
from emmeter.errors import DataError, SettingsError
from emmeter.files import provenance
from emmeter.machine import warm
from emmeter.machine.process import ENVIRONMENT
from emmeter.pipeline.costs import Speed
from emmeter.settings.sections import Execution, Setup
from emmeter.settings.studies import Settings

if TYPE_CHECKING:
    from emmeter.training.trainer import Trainer


CALIBRATION = 10.0  # seconds
PROBE = 4  # images of the first timed step, from which the batch of the following steps is chosen
MADE_UP = 1024  # training images of a calibration, at most


def calibrate(setup: Setup, device: str, execution: Execution, jobs: int, claim: Sequence[str] = ()) -> Speed:
    """Measure the speed of a network on this machine, in as many processes at once as jobs will run.

    Compiled packages are used where they exist, unless execution.compile is "never".  None is built.

    Args:
        claim: words before a command that give it a GPU of its own (`gpus.claim`).
    Raises:
        SettingsError: a process failed.
    """
    threads = execution.threads
    options = ["--calibrate", setup.model_dump_json(), "--device", device, "--threads", str(threads)]
    options += ["--batch", str(execution.sampling_batch)] if execution.compile != "never" else []
    command_line = [*claim, sys.executable, "-m", "emmeter.pipeline.plan", *options]
    environment = ENVIRONMENT | os.environ | {"OMP_NUM_THREADS": str(threads)}  # as a workflow's jobs have it
    pipe = {"env": environment | project.child_environment(), "stdout": subprocess.PIPE, "encoding": "utf-8"}
    processes = [subprocess.Popen(command_line, **pipe) for _ in range(jobs)]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SettingsError("plan: the calibration failed; give --throughput GFLOP/s instead")
    rates = [json.loads(output) for output in outputs]

    def mean(name: str) -> float:
        return sum(rate[name] for rate in rates) / jobs

    return Speed(mean("train"), mean("sample"), mean("start"), jobs, all(rate["packages"] for rate in rates))


def rates(
    setup: Setup, device_name: str, threads: int, started: float, sampling_batch: int | None = None
) -> dict[str, float]:
    """Measure one process: seconds of a job's start, operations per second of training steps and of sampling.

    The images are made up, in the shape of the data set's.  A step or sample that would take too long here has fewer.

    Args:
        started: time at which this process started, in seconds since the epoch.
        sampling_batch: images per batch of sampling, of which a compiled package is used if it exists; None: no
            packages.
    Returns:
        The key "packages" tells how many of training and sampling used one: 0, 1 or 2.
    """
    import torch

    from emmeter.diffusion import operations
    from emmeter.diffusion.precision import cast, choose
    from emmeter.diffusion.sampling import draws, generate, noise_levels
    from emmeter.machine.device import select
    from emmeter.training import architecture, packages
    from emmeter.training.functions import denoise_function
    from emmeter.training.optimizer import FlatParameters
    from emmeter.training.trainer import Trainer, build

    if warm.fresh_name() != warm.OFF:  # then jobs start with all this loaded
        started = time.time()
    device = select(device_name, threads)
    drawn = made_up(setup)
    shape = drawn.images.shape[1:]
    denoiser = build(setup, shape, drawn.label_count).to(device).train()
    forward = operations.forward(denoiser.network, shape)

    def package(wanted: architecture.Architecture) -> "packages.Package | None":
        return packages.provided(packages.here(wanted, device), "never" if sampling_batch is None else "auto")

    def trainer(batch: int) -> "Trainer":
        training = setup.training.model_copy(update={"batch_size": batch})
        other = setup.model_copy(update={"training": training})
        of_step = package(architecture.of_step(other, shape))
        begun = Trainer(other, len(drawn.images), 0, denoiser, drawn, device, package=of_step)
        begun.advance().item()  # not timed, because torch chooses its algorithms
        return begun

    def rate(flops: int, work, seconds: float) -> float:  # type: ignore[no-untyped-def]
        begun, times = time.perf_counter(), 0
        while times == 0 or time.perf_counter() - begun < seconds:
            work()
            times += 1
        return flops * times / (time.perf_counter() - begun)

    probe = min(PROBE, setup.training.batch_size)
    first = trainer(probe)
    start = time.time() - started
    fast = rate(3 * forward * probe, lambda: first.advance().item(), 0.0)
    batch = int(0.25 * CALIBRATION * fast / (3 * forward))
    batch = min(max(batch, probe), setup.training.batch_size)
    begun = trainer(batch)
    trained = rate(3 * forward * batch, lambda: begun.advance().item(), 0.7 * CALIBRATION)
    denoiser.eval()
    cast(denoiser.network, choose(setup.sampling.precision))
    of_denoiser = package(architecture.of_denoiser(setup, shape, sampling_batch or 1))
    fitting = max(1, min(setup.sampling.images, 250, int(0.2 * CALIBRATION * trained / (3 * forward))))
    count = of_denoiser.batch if of_denoiser else fitting  # a package always computes whole batches
    latents = draws(count, shape, None, 0)
    parameters = FlatParameters(denoiser.network, choose(setup.sampling.precision))
    denoise = denoise_function(denoiser, parameters, of_denoiser)
    levels = noise_levels(setup.sampling, denoiser.kind.sigma_min, denoiser.kind.sigma_max)[-3:]
    with torch.no_grad():
        sample = rate(forward * count * 3, lambda: generate(denoise, latents, levels, count, device), 0.2 * CALIBRATION)
    used = sum(each is not None for each in (begun.package, of_denoiser))
    return {"start": start, "train": trained, "sample": sample, "packages": used}


def made_up(setup: Setup) -> subset.Subset:
    """A training set of random images, with the shape and the labels of the run's.  No file of a named set is read.

    Raises:
        DataError: the user's own file or folder is missing, so that the shape of its images is unknown.
    """
    facts = datasets.describe(setup.data)
    multiple, available = feasibility.usable(facts, setup.data)
    n = min(max(setup.search.start // multiple, 1) * multiple, available, MADE_UP)
    images = np.random.default_rng(0).integers(0, 256, (n, *facts.shape), np.uint8)
    nothing = np.zeros(n, np.int64)
    labels = subset.label_count(setup.data, facts, n)
    return subset.Subset(images, nothing, labels, nothing, nothing, images[:0], nothing[:0])


def jobs_at_once(cores: int | None, threads: int) -> int:
    """Number of jobs that run at once on `cores` (None: those of this machine)."""
    return max(1, (cores or provenance.cores()) // threads)


def calibrated(settings: Settings) -> Setup | None:
    """Settings of the network that is timed: the base settings, or the first arm if these do not fit their data.

    Labels are left out, because they change no speed.  None if no selected study trains a network.
    """
    arms = [arm.setup for study in settings.studies if study.name in settings.selected for arm in study.arms]
    for setup in (settings.base, *arms):
        plain = setup.model_copy(update={"data": setup.data.model_copy(update={"labels": "none", "held_out": 0})})
        if setup.kind == "network" and _fits(plain):
            return plain
    return None


def _fits(setup: Setup) -> bool:
    try:
        return not feasibility.faults(setup, datasets.describe(setup.data))
    except (DataError, OSError):  # a missing file or folder, perhaps of a study that is not selected
        return False
