"""What every reader of a user's file checks first."""

import stat
from pathlib import Path

from emmeter.errors import DataError


def regular(path: Path) -> None:
    """Raise DataError for pipes and devices, of which a reader might wait for ever; OSError for what is not there."""
    if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
        raise DataError(f"{path}: is not a regular file")
