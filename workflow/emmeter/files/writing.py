"""Files as stages write them: atomic, and reproducible to the byte."""

import contextlib
import csv
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
