"""The check that precedes every reading of a user's file."""

import stat
from pathlib import Path

from emmeter.errors import DataError


def regular(path: Path) -> None:
    """Check that a path is a regular file or a folder: reading a pipe or a device might never end.

    Raises:
        DataError: it is neither.
        OSError: it does not exist or cannot be examined.
    """
    if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
        raise DataError(f"{path}: is not a regular file")
