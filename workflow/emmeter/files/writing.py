"""Atomic writing of text, JSON and CSV files; equal content gives equal bytes."""

import contextlib
import csv
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emmeter import locks


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds, delete it otherwise.

    So a reader sees the old file, no file, or the whole new file, at whichever instant the writer dies.  Temporary
    files that killed writers of the same path have left are removed first.

    Raises:
        OSError: the file cannot be written, for example on a full disk; the error names `path`.
    """
    temporary, lock = None, -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent, path.name)
        temporary, lock = _temporary(path)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        temporary.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):  # users do not know the temporary name
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
            os.close(lock)


def _temporary(path: Path) -> tuple[Path, int]:
    """Make a file beside `path`; return its path and its open descriptor, whose lock marks the writer as alive."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        with contextlib.suppress(OSError):  # without locks on this file system no file is taken for abandoned
            locks.lock(descriptor, Path(name), block=True)
        if os.fstat(descriptor).st_nlink:
            return Path(name), descriptor
        os.close(descriptor)  # another writer took the file for abandoned before it was locked


def remove_abandoned(folder: Path, name: str = "") -> None:
    """Remove the temporary files of dead writers in a folder: those for the file `name`, or all of them."""
    pattern = re.compile(rf"\.{re.escape(name) or '.+'}\.[a-z0-9_]{{8}}(\.[^.]+)?")  # the names that `_temporary` gives
    for temporary in map(folder.joinpath, os.listdir(folder)):
        if not pattern.fullmatch(temporary.name):
            continue
        # The file may be gone by now.  It is opened for writing, because NFS grants an exclusive lock to nothing else.
        with contextlib.suppress(OSError), open(temporary, "r+b") as file:
            if locks.lock(file.fileno(), temporary):
                os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; undecodable bytes, which file names may contain, become escapes such as \\udce9."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically.

    Raises:
        ValueError: the content holds NaN or infinity, which JSON cannot represent.
    """
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a tidy table atomically: floats with 6 significant digits, None as an empty cell.

    Raises:
        KeyError: a row lacks one of the columns.
    """
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
