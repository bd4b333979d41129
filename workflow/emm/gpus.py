"""Which GPUs of this machine jobs share out.  `slots` is how one job gets its own."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from emm.settings import GPU_NAME, Execution, SettingsError


def devices(
    execution: Execution, environ: Mapping[str, str] = os.environ, nodes: Path = Path("/dev")
) -> tuple[str, ...]:
    """The devices that jobs share out, as CUDA_VISIBLE_DEVICES names them; none where jobs need not claim any.

    What CUDA_VISIBLE_DEVICES hides from this process (a scheduler's allocation, say) is left to others.

    Args:
        environ: the environment of this process.
        nodes: where NVIDIA's driver has a file for each GPU.
    Raises:
        SettingsError: CUDA_VISIBLE_DEVICES does not show what execution.gpus asks for.
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
    """What CUDA makes of CUDA_VISIBLE_DEVICES: all up to the first that is no device."""
    names: list[str] = []
    for name in map(str.strip, text.split(",")):
        if not re.fullmatch(GPU_NAME, name):
            break
        names.append(name)
    return tuple(dict.fromkeys(names))


def device(execution: Execution) -> str:
    """The device option of stages: no job falls back to the CPU where execution.gpus tells how many GPUs there are."""
    named = execution.device == "auto" and execution.gpus not in ("auto", "none")
    return "cuda" if named else execution.device


def claim(devices: tuple[str, ...], execution: Execution, count: int = 1, python: str = "python") -> list[str]:
    """Words to put before a command, so that it waits for `count` of the devices and sees them alone.

    Under execution.device = cpu it sees none: scoring takes a GPU where it sees one.

    Raises:
        SettingsError: there are fewer devices.
    """
    if execution.device == "cpu":
        return ["env", "CUDA_VISIBLE_DEVICES="]
    if not devices:
        return []
    if count > len(devices):
        raise SettingsError(f"training.gpus = {count}: must be at most {len(devices)}, the GPUs of execution.gpus here")
    options = ["--devices", ",".join(devices), "--jobs-per-gpu", str(execution.jobs_per_gpu), "--count", str(count)]
    return [python, "-m", "emm.slots", *options, "--"]
