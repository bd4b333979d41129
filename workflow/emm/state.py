"""What a training run must remember to go on after a kill: its folder, its lock, and its last saved state.

The folder lies outside declared outputs, because Snakemake deletes the outputs of failed jobs.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from emm.files import replacing, write_text


class RunLocked(RuntimeError):
    """Another process trains this run."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the exclusive lock of a state folder; the operating system frees it when the process dies.

    Raises:
        RunLocked: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunLocked(f"{folder}: another process trains this run; wait for it or end it") from None
        yield


def bind(folder: Path, identity: str) -> bool:
    """Bind the folder to one run (settings key, subset, code version): True if it holds that run's state already.

    State of any other run is removed: continuing it would give the wrong model.
    """
    note = folder / "identity"
    if note.is_file() and note.read_text() == identity:
        return True
    note.unlink(missing_ok=True)  # first: a kill from here on leaves nothing that another run could take for its own
    for path in folder.iterdir():
        if path.name != "lock":
            path.unlink()
    write_text(note, identity)
    return False


def save(folder: Path, content: dict[str, Any]) -> None:
    """Write the state atomically (tensors, numbers, strings, lists and dicts: nothing that needs pickled code)."""
    with replacing(folder / "state.pt") as temporary:
        torch.save(content, temporary)


def load(folder: Path) -> dict[str, Any] | None:
    """The last saved state, or None where there is none or it cannot be read (training then starts anew)."""
    path = folder / "state.pt"
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        print(f"{path}: cannot be read ({type(error).__name__}); starting this run again", flush=True)
        return None


def clear(folder: Path) -> None:
    """Remove the folder of a finished run, and its parents while they are empty."""
    shutil.rmtree(folder, ignore_errors=True)
    for parent in list(folder.parents)[:2]:
        with contextlib.suppress(OSError):
            os.rmdir(parent)
