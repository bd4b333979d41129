"""Options of jobs that are too long for a command line.

Linux accepts 131,072 characters per argument, and Snakemake 65,535 per command.  A longer value goes into a file, whose
name the job gets as ``@FILE``; argparse then reads the file.
"""

import hashlib
import re
from collections.abc import Iterable

from emmeter.files.layout import CACHE
from emmeter.files.writing import write_text

FOLDER = CACHE
LONGEST = 8192  # characters
NAME = re.compile("[0-9a-f]{16}")  # the cache of images in the same folder has names that end in .json


def handed(text: str, write: bool = True) -> str:
    """An option's value, or ``@FILE`` if it is long.

    The name of the file is a hash of the value, so that Snakemake notices every change.

    Args:
        text: one line of ASCII.
        write: write the file; a dry run does not.
    """
    if len(text) <= LONGEST:
        return text
    path = FOLDER / hashlib.sha256(text.encode()).hexdigest()[:16]
    if write and not path.exists():
        write_text(path, f"{text}\n")
    return f"@{path}"


def handed_files(files: Iterable[object], write: bool = True) -> list[str] | str:
    """Names of files as arguments, or one ``@FILE`` with one name per line if they are long."""
    names = list(map(str, files))
    text = "\n".join(names)
    return names if len(text) <= LONGEST else handed(text, write)


def clear() -> None:
    """Delete the files of options.  The cache of images beside them stays for the next start."""
    if FOLDER.is_dir():
        for path in list(FOLDER.iterdir()):
            if NAME.fullmatch(path.name):
                path.unlink(missing_ok=True)
