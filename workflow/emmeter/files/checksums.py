"""Checksums of the files of each stage, and the refusal of files that have changed since.

Otherwise a flipped bit in weights, images or counts would pass for a result.  The list of a folder has the format of
``sha256sum``, so that command can check it too.  A folder without a list was written by an earlier version: its files
are accepted as they are, and `emmeter.pipeline.verify` reports it.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from emmeter.errors import DataError
from emmeter.files.writing import write_text

NAME = "SHA256SUMS"


def sha256(path: Path) -> str:
    """The checksum of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of(*paths: Path) -> dict[str, str]:
    """The checksum of each file, by file name."""
    return {path.name: sha256(path) for path in paths}


def record(*paths: Path) -> None:
    """Write the list of a stage's files into their folder; a stage does this last."""
    for folder in {path.parent for path in paths}:
        sums = of(*sorted(path for path in paths if path.parent == folder))
        write_text(folder / NAME, "".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def recorded(folder: Path) -> dict[str, str] | None:
    """Read the list of a folder: checksums by file name, or None if the folder has no list.

    Raises:
        DataError: the list is damaged.
    """
    path = folder / NAME
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        lines = []
    entries = [re.fullmatch(r"([0-9a-f]{64})  ([^/]+)", line) for line in lines]
    if not entries or not all(entries):
        raise DataError(f"{path}: is not a list of checksums; delete {folder} and run again")
    return {entry[2]: entry[1] for entry in entries if entry}


def check(paths: Iterable[Path]) -> None:
    """Compare files with the lists of their folders.  A missing file is left to its reader, which reports it.

    Raises:
        DataError: a file differs from its list; the error names the file.
    """
    for path in paths:
        sums = recorded(path.parent)
        if sums is not None and path.is_file() and sums.get(path.name) != sha256(path):
            raise DataError(f"{path}: has changed since it was written ({NAME} beside it); delete it and run again")


def read_json(path: Path) -> dict[str, Any]:
    """Read the record of a stage.

    Raises:
        DataError: the file has changed since it was written, or is not a JSON object.
        OSError: the file cannot be read.
    """
    check([path])
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error}); delete it and run again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: is not a record; delete it and run again")
    return content
