"""What made a result: versions, commit, hardware, time and memory."""

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

OWN_FILE = Path(__file__).resolve().relative_to(project.ROOT).as_posix()  # one that every commit of the project holds

# What a result may depend on: arithmetic, data sets and their scaling, neighbours, files.
PACKAGES = ("emmeter", "numpy", "torch", "scipy", "pillow", "scikit-learn", "safetensors", "faiss-gpu", "faiss-cpu")


def provenance(key: str, started: float) -> Provenance:
    """What made a result and what it took: settings key, seconds since `started` (time.monotonic()), the most memory
    that this process has had, versions, commit, hardware."""
    return {
        "key": key,
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory_mb": round(_peak_memory() / 1e6),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit_of(),
        "versions": {"python": platform.python_version()}
        | {name: found for name in PACKAGES if (found := _version(name))},
        "platform": platform.platform(),
        "hardware": hardware(),
    }


def _peak_memory() -> int:
    """Bytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # elsewhere kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def hardware() -> str:
    """The processor's name and the number of cores that this process may use."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or an architecture without that line
    return f"{name}, {cores()} cores"


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit_of(root: Path = project.ROOT) -> str | None:
    """Commit of the project in `root` (with + when it has uncommitted changes), or None.

    None too where another repository holds the project's folder, or the files in it but not in its commit.
    """
    # The user's variables may name another repository, as in a hook of git; a root that is another user's is trusted,
    # because its code is what runs here.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    options = ["-C", str(root), "-c", f"safe.directory={root}", "-c", "core.fsmonitor=false", "--no-optional-locks"]

    def git(*words: str) -> str | None:
        done = subprocess.run(
            ["git", *options, *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=10
        )
        return None if done.returncode else os.fsdecode(done.stdout).removesuffix("\n")

    try:
        if not (root / ".git").exists() or not (top := git("rev-parse", "--show-toplevel")):
            return None
        if not os.path.samefile(top, root) or git("cat-file", "-e", f"HEAD:{OWN_FILE}") is None:
            return None
        commit, changes = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return commit + ("+" if changes != "" else "") if commit else None
