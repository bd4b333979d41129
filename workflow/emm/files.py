"""Files as stages write them: atomic, reproducible to the byte, and with a note of what made them."""

import contextlib
import csv
import fcntl
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from emm import project


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and vanishes when not.

    A reader therefore sees the old file, no file, or the whole new file, whatever instant the writer dies at.  What a
    writer that was killed has left is removed.
    Raises:
        OSError: the file cannot be written (a full disk, say); the error names `path`.
    """
    temporary, lock = None, -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent, path.name)
        temporary, lock = _temporary(path)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files for their owner alone
        temporary.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):  # no reader knows the temporary name
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
            os.close(lock)


def _temporary(path: Path) -> tuple[Path, int]:
    """A new file beside `path`, and the open file whose lock tells others that its writer lives."""
    while True:
        lock, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        with contextlib.suppress(OSError):  # a file system without locks, where nothing is taken for abandoned
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return Path(name), lock
        os.close(lock)  # another writer took it for abandoned before it was locked


def remove_abandoned(folder: Path, of: str = "") -> None:
    """Remove temporary files in a folder, of the file named `of` or of every one, whose writers are dead."""
    temporary = re.compile(rf"\.{re.escape(of) or '.+'}\.[a-z0-9_]{{8}}(\.[^.]+)?")  # as `_temporary` names them
    for name in os.listdir(folder):
        if not temporary.fullmatch(name):
            continue
        # Locked, or gone meanwhile.  For writing: NFS gives an exclusive lock to nothing else.
        with contextlib.suppress(OSError), open(folder / name, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(folder / name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; bytes of a file's name that are no text as escapes."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically.  Raises ValueError for NaN or infinity, which JSON cannot hold."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a tidy table atomically: None is an empty cell, a missing column an error (KeyError)."""
    with (
        replacing(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row[column]) for column in columns])


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays as .npz atomically; equal arrays give equal bytes (numpy's own writer stamps the time)."""
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array, order="C"), allow_pickle=False)


OWN_FILE = Path(__file__).resolve().relative_to(project.ROOT).as_posix()  # one that every commit of the project holds

# What a result may depend on: arithmetic, data sets and their scaling, neighbours, files.
PACKAGES = ("emm", "numpy", "torch", "scipy", "pillow", "scikit-learn", "safetensors", "faiss-gpu", "faiss-cpu")


def provenance(key: str, started: float) -> dict[str, Any]:
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
