"""The GPUs of this machine that jobs share.  `slots` gives each job its own among them."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from emmeter.errors import SettingsError
from emmeter.settings.sections import GPU_NAME, Execution


def devices(
    execution: Execution, environ: Mapping[str, str] = os.environ, nodes: Path = Path("/dev")
) -> tuple[str, ...]:
    """List the devices that jobs share, as CUDA_VISIBLE_DEVICES names them; empty if jobs need not claim any.

    Devices that CUDA_VISIBLE_DEVICES hides from this process, for example under a scheduler, belong to other users.

    Args:
        environ: the environment of this process.
        nodes: the folder in which NVIDIA's driver has one file per GPU.
    Raises:
        SettingsError: CUDA_VISIBLE_DEVICES hides a device of execution.gpus.
    """
    wanted = execution.gpus
    if execution.device == "cpu" or wanted == "none":
        return ()
    shown = environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        if isinstance(wanted, list):
            return tuple(map(str, wanted))
        return tuple(map(str, range(len(list(nodes.glob("nvidia[0-9]*"))) if wanted == "auto" else int(wanted))))
    visible = _visible(shown)
    if wanted == "auto":
        return visible
    missing = set(map(str, wanted)) - set(visible) if isinstance(wanted, list) else int(wanted) > len(visible)
    if missing:
        raise SettingsError(f"execution.gpus = {wanted!r}: CUDA_VISIBLE_DEVICES = {shown!r} does not show them")
    return tuple(map(str, wanted)) if isinstance(wanted, list) else visible[: int(wanted)]


def _visible(text: str) -> tuple[str, ...]:
    """The devices that CUDA reads from CUDA_VISIBLE_DEVICES: all names before the first invalid one."""
    names: list[str] = []
    for name in map(str.strip, text.split(",")):
        if not re.fullmatch(GPU_NAME, name):
            break
        names.append(name)
    return tuple(dict.fromkeys(names))


def device(execution: Execution) -> str:
    """The device option of stages.  No job falls back to the CPU if execution.gpus gives a number or a list of GPUs."""
    named = execution.device == "auto" and execution.gpus not in ("auto", "none")
    return "cuda" if named else execution.device


# A program that asks the driver.  It is a separate process without torch, because importing torch takes a second and
# would burden Snakemake's own process from then on.
# It prints the number of devices that CUDA sees, or the reason why torch can use none, or nothing if it cannot know.
PROBE = """
import ctypes, importlib.util, os, re
spec = importlib.util.find_spec("torch")
build = open(os.path.join(os.path.dirname(spec.origin), "version.py")).read() if spec and spec.origin else ""
if not re.search("^hip.*= *[^N ]", build, re.M):
    if re.search("^cuda.*= *None", build, re.M):
        print("the installed torch is built without CUDA")
    else:
        count = ctypes.c_int(0)
        try:
            cuda = ctypes.CDLL("libcuda.so.1")
            ready = cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
        except OSError:
            pass
        print(count.value)
"""


def missing(execution: Execution, python: str = "python", environ: Mapping[str, str] = os.environ) -> list[str]:
    """Report, in at most one line, that jobs on this machine would not find the GPUs of execution.gpus.

    The driver is asked, which takes a tenth of a second, only if execution needs a GPU.  If it cannot be asked, nothing
    is reported.

    Args:
        python: the command that starts the jobs' Python.
        environ: the environment of this process.
    """
    if device(execution) != "cuda":
        return []
    named = execution.gpus if execution.device != "cuda" or execution.gpus not in ("auto", "none") else None
    setting = "execution.device = 'cuda'" if named is None else f"execution.gpus = {named!r}"
    shown = environ.get("CUDA_VISIBLE_DEVICES")
    among = "" if shown is None else f" (CUDA_VISIBLE_DEVICES = {shown!r})"
    advice = "use device auto or cpu, or a profile that submits jobs to machines with GPUs"
    try:
        probe = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=60, env=dict(environ))
    except (OSError, subprocess.TimeoutExpired):
        return []
    answer = probe.stdout.strip()
    if answer and not answer.isdecimal():
        return [f"{setting}: {answer}; {advice}"]
    if answer == "0":
        return [f"{setting}: this machine has no GPU that CUDA sees{among}; {advice}"]
    if answer and named is not None and shown is None:  # otherwise `devices` has compared them
        numbers = [int(gpu) for gpu in named if str(gpu).isdecimal()] if isinstance(named, list) else [int(named) - 1]
        if numbers and max(numbers) >= int(answer):
            return [f"{setting}: this machine has {answer}, numbered from 0"]
    return []


def claim(devices: tuple[str, ...], execution: Execution, count: int = 1, python: str = "python") -> list[str]:
    """Words to put before a command, so that it waits for `count` of the devices and sees only those.

    Under execution.device = cpu the command sees no device, because scoring uses a GPU whenever it sees one.

    Raises:
        SettingsError: there are fewer than `count` devices.
    """
    if execution.device == "cpu":
        return ["env", "CUDA_VISIBLE_DEVICES="]
    if not devices:
        return []
    if count > len(devices):
        raise SettingsError(f"training.gpus = {count}: must be at most {len(devices)}, the GPUs of execution.gpus here")
    options = ["--devices", ",".join(devices), "--jobs-per-gpu", str(execution.jobs_per_gpu), "--count", str(count)]
    return [python, "-m", "emmeter.machine.slots", *options, "--"]
