"""The folder of a training run: its lock, its identity, and the state from which a killed run resumes.

The folder is not among the declared outputs, because Snakemake deletes the outputs of failed jobs.  It also outlives
the end of the training.  Only a job that reads the outputs (`emmeter.stages.sample`) shows that Snakemake has noted
them as complete.  Until then Snakemake may delete the outputs, for example because it was killed and restarted; the run
then writes them again from this state.
"""

import contextlib
import hashlib
import io
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from emmeter import locks
from emmeter.files.writing import remove_abandoned, replacing, write_text
from emmeter.machine.process import Interrupted

STATE, LOCK, IDENTITY = "state.pt", "lock", "identity"  # files of the folder, beside the snapshots
DELETION = 5.0  # seconds that a job's Snakemake may need to delete the outputs of a training that has failed
DIGEST = hashlib.sha256().digest_size  # bytes of the checksum at the head of STATE; the rest is written by torch.save


class RunLocked(Interrupted):
    """Another process trains this run."""


@contextlib.contextmanager
def held(folder: Path, wait: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold the exclusive lock of a state folder; the operating system frees it when the process dies.

    A Snakemake that is killed leaves its jobs running on a cluster, and the next Snakemake submits the same jobs again.
    So a second job waits for the first one.  It then waits another `DELETION` seconds before the block begins: if the
    first job has failed, its Snakemake deletes the run's outputs, and must not delete those of the block.

    Args:
        wait: called as long as another process holds the lock; lets some time pass and returns True to look again.
    Raises:
        RunLocked: another process holds the lock, and `wait` returned False.
        OSError: the lock cannot be written, or the file system has no locks.
    """
    waited = False
    while (lock := _lock(folder)) is None:
        if not wait():
            raise RunLocked(f"{folder}: {_holder(folder)} trains this run; wait for it or end it")
        if not waited:
            print(f"{folder}: {_holder(folder)} trains this run; waiting for its end", flush=True)
            waited = True
    try:
        if waited:
            time.sleep(DELETION)
        yield
    finally:
        os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder and note this process as the holder; return None if another process holds the lock."""
    path = folder / LOCK
    lock = locks.acquire(path)
    if lock is None:
        return None
    job = f", SLURM job {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else ""
    try:
        os.ftruncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {platform.node()}{job}\n".encode())
    except OSError as error:
        os.close(lock)
        raise OSError(error.errno, error.strerror, str(path)) from None
    return lock


def _holder(folder: Path) -> str:
    """The process that holds the lock, as it has described itself."""
    try:
        return (folder / LOCK).read_text(encoding="utf-8").strip() or "another process"
    except OSError:
        return "another process"


def bind(folder: Path, identity: str) -> bool:
    """Bind the folder to one run; return True if it already holds that run's state.

    State of any other run is removed, because continuing it would give the wrong model.

    Args:
        identity: settings key, subset and code version of the run.
    """
    note = folder / IDENTITY
    if note.is_file() and note.read_bytes() == identity.encode():
        remove_abandoned(folder)  # a finished run writes none of its files again, so `replacing` never cleans up here
        return True
    note.unlink(missing_ok=True)  # first, so that a kill from here on leaves nothing that another run would accept
    for path in folder.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    write_text(note, identity)
    return False


def save(folder: Path, content: dict[str, Any]) -> None:
    """Write the state atomically: tensors, numbers, strings, lists and dicts, nothing that needs pickled code.

    Raises:
        OSError: the state cannot be written; the previous state is kept.
    """
    import torch  # here, because a command of the user's needs the lock alone

    buffer = io.BytesIO()  # torch reports a full disk as an error of its own kind
    torch.save(content, buffer)
    with replacing(folder / STATE) as temporary, open(temporary, "wb") as file:
        file.write(hashlib.sha256(buffer.getbuffer()).digest())  # torch checks no checksum when it reads
        file.write(buffer.getbuffer())


def load(folder: Path) -> dict[str, Any] | None:
    """Read the last saved state; return None if there is none or it is damaged, so that training starts from step 0."""
    path = folder / STATE
    if not path.is_file():
        return None
    content = path.read_bytes()
    digest, body = content[:DIGEST], content[DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        print(f"{path}: damaged; starting this run again", flush=True)
        return None
    import torch

    return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)


def clear(folder: Path) -> None:
    """Remove the folder of a run whose results are safe, and its two parents if they are empty."""
    shutil.rmtree(folder, ignore_errors=True)
    for parent in list(folder.parents)[:2]:
        with contextlib.suppress(OSError):
            os.rmdir(parent)


def discard(folder: Path) -> None:
    """`clear` the folder of a run if it exists and no process trains the run."""
    if folder.is_dir():
        with contextlib.suppress(RunLocked), held(folder):
            clear(folder)
