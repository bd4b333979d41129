"""What a training run must remember to go on after a kill: its folder, its lock, and its last saved state.

The folder lies outside declared outputs, because Snakemake deletes the outputs of failed jobs.  It also outlives the
end of the training: only a job that reads the outputs (`emmeter.stages.sample`) shows that Snakemake has noted them as
complete. Until then it may delete them, because it was killed and submits the run again, say; they are then written
anew.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import torch

from emmeter.files.writing import remove_abandoned, replacing, write_text

STATE = "state.pt"  # a SHA-256, then what torch.save writes
DELETION = 5.0  # seconds that a job's Snakemake may need to delete the outputs of a training that has failed
DIGEST = hashlib.sha256().digest_size  # bytes


class RunLocked(RuntimeError):
    """Another process trains this run."""


@contextlib.contextmanager
def held(folder: Path, wait: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold the exclusive lock of a state folder; the operating system frees it when the process dies.

    A Snakemake that is killed leaves its jobs running on a cluster, and the next one submits them again.  So `wait` is
    called as long as another process holds the lock: it lets a moment pass, and returns whether to look again.  Then
    some seconds pass before the block begins: if the other job has failed, its Snakemake deletes the run's outputs,
    and must not find those of the block.

    Raises:
        RunLocked: another process holds it, and `wait` gave up.
        OSError: the file system has no locks.
    """
    told = False
    while (file := _lock(folder)) is None:
        if not wait():
            raise RunLocked(f"{folder}: {_holder(folder)} trains this run; wait for it or end it")
        if not told:
            print(f"{folder}: {_holder(folder)} trains this run; waiting for its end", flush=True)
            told = True
    with file:
        if told:
            time.sleep(DELETION)
        yield


def _lock(folder: Path) -> IO[str] | None:
    """The locked file of a folder, or None where another process holds it."""
    file = _opened(folder)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(file.name).st_ino == os.fstat(file.fileno()).st_ino:
            return _signed(file)
    except (BlockingIOError, FileNotFoundError):
        pass  # held; or locked after the holder had removed the folder: then it locks nothing
    except OSError as error:
        file.close()
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # of the signature
            raise OSError(error.errno, error.strerror, file.name) from None
        raise OSError(error.errno, f"cannot be locked on this file system ({error.strerror})", file.name) from None
    file.close()
    return None


def _opened(folder: Path) -> IO[str]:
    """The lock file of a folder, both made where they are missing."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError):  # `clear` of this run, or of another one of its key, came between
            folder.mkdir(parents=True, exist_ok=True)
            return open(folder / "lock", "a+", encoding="utf-8")  # not "w": what the holder wrote must stay
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def _signed(file: IO[str]) -> IO[str]:
    """A lock file that says who holds it."""
    job = f", SLURM job {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else ""
    os.ftruncate(file.fileno(), 0)
    os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}{job}\n".encode())  # unbuffered: a full disk
    return file  # is told here, not when the file is closed


def _holder(folder: Path) -> str:
    """Who holds the lock, in its own words."""
    try:
        return (folder / "lock").read_text(encoding="utf-8").strip() or "another process"
    except OSError:
        return "another process"


def bind(folder: Path, identity: str) -> bool:
    """Bind the folder to one run (settings key, subset, code version): True if it holds that run's state already.

    State of any other run is removed: continuing it would give the wrong model.
    """
    note = folder / "identity"
    if note.is_file() and note.read_bytes() == identity.encode():
        remove_abandoned(folder)  # a finished run writes none of its files again, which would remove them
        return True
    note.unlink(missing_ok=True)  # first: a kill from here on leaves nothing that another run could take for its own
    for path in folder.iterdir():
        if path.name != "lock":
            path.unlink()
    write_text(note, identity)
    return False


def save(folder: Path, content: dict[str, Any]) -> None:
    """Write the state atomically (tensors, numbers, strings, lists and dicts: nothing that needs pickled code).

    Raises OSError where it cannot be written; the last state is then still there.
    """
    buffer = io.BytesIO()  # torch reports a full disk in an error of its own
    torch.save(content, buffer)
    with replacing(folder / STATE) as temporary, open(temporary, "wb") as file:
        file.write(hashlib.sha256(buffer.getbuffer()).digest())  # torch itself checks no checksum when it reads
        file.write(buffer.getbuffer())


def load(folder: Path) -> dict[str, Any] | None:
    """The last saved state, or None where there is none or it is damaged (training then starts anew)."""
    path = folder / STATE
    if not path.is_file():
        return None
    content = path.read_bytes()
    digest, body = content[:DIGEST], content[DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        print(f"{path}: damaged; starting this run again", flush=True)
        return None
    return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)


def clear(folder: Path) -> None:
    """Remove the folder of a run whose results are safe, and its parents while they are empty."""
    shutil.rmtree(folder, ignore_errors=True)
    for parent in list(folder.parents)[:2]:
        with contextlib.suppress(OSError):
            os.rmdir(parent)


def discard(folder: Path) -> None:
    """`clear` the folder of a run if it exists and no process trains the run."""
    if folder.is_dir():
        with contextlib.suppress(RunLocked), held(folder):
            clear(folder)
