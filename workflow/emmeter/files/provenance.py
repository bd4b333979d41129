"""The circumstances of a result: versions, commit, hardware, time and memory."""

import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from emmeter import project
from emmeter.files.records import Provenance

OWN_FILE = Path(__file__).resolve().relative_to(project.ROOT).as_posix()  # a file of every commit of the project

COMMAND = "EMM_COMMAND"  # environment variable: the command line of the workflow that has started this process

# Packages that a result may depend on: arithmetic, data sets and their scaling, neighbours, files.
PACKAGES = ("emmeter", "numpy", "torch", "scipy", "pillow", "scikit-learn", "safetensors", "faiss-gpu", "faiss-cpu")


def provenance(key: str, started: float) -> Provenance:
    """Settings key, wall time, peak memory, commit, versions and hardware: the part that all records share.

    Args:
        key: the settings key of the stage.
        started: reading of time.monotonic() at the start; the record holds the seconds since.
    """
    return {
        "key": key,
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory_mb": round(_peak_memory() / 1e6),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "versions": versions(),
        "platform": platform.platform(),
        "hardware": hardware(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that are installed, among those that a result may depend on."""
    installed = {name: number for name in PACKAGES if (number := _version(name))}
    return {"python": platform.python_version()} | installed


def _peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def hardware() -> str:
    """The processor's name and the number of cores that this process may use."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or an architecture without this line
    return f"{name}, {cores()} cores"


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit(root: Path = project.ROOT) -> str | None:
    """The commit of the project in `root`, 12 digits, with + if there are uncommitted changes; None without a commit.

    It is also None if another repository contains the project's folder, or if the commit lacks the project's files.
    """
    # GIT_ variables may name another repository, for example in a git hook.  A folder of another user is trusted,
    # because its code runs here anyway.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    options = ["-C", str(root), "-c", f"safe.directory={root}", "-c", "core.fsmonitor=false", "--no-optional-locks"]

    def git(*words: str) -> str | None:
        answer = subprocess.run(
            ["git", *options, *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=10
        )
        return None if answer.returncode else os.fsdecode(answer.stdout).removesuffix("\n")

    try:
        if not (root / ".git").exists() or not (top := git("rev-parse", "--show-toplevel")):
            return None
        if not os.path.samefile(top, root) or git("cat-file", "-e", f"HEAD:{OWN_FILE}") is None:
            return None
        digits, changes = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return digits + ("+" if changes != "" else "") if digits else None
