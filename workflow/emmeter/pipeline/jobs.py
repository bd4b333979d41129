"""The processes of jobs: which Python starts them, and with which environment variables."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from emmeter.machine.process import ENVIRONMENT


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that jobs need in addition to, or instead of, those in `environ`.

    If `python` on the PATH is not that of this process's environment, the folder of this Python is put before the
    others.  This happens if Snakemake is called by its path, or while another environment is active.
    """
    variables = {name: environ.get(name, value) for name, value in ENVIRONMENT.items()}
    path = environ.get("PATH", os.defpath)
    python = shutil.which("python", path=path)
    if python is None or not _is_ours(python):
        variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), path])
    return variables


def _is_ours(python: str) -> bool:
    """Check whether a command starts the Python of this process's environment, perhaps through a script around it."""
    if os.path.dirname(python) == str(Path(sys.executable).parent):
        return True
    command = [python, "-c", "import sys; print(sys.prefix)"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip() == sys.prefix
    except (OSError, subprocess.TimeoutExpired):
        return False


def launcher(processes: int) -> str:
    """Words that start a training: by a process that has torch loaded, or by torchrun with one process per GPU."""
    # The last -- keeps torchrun from taking --n for one of its own options.
    several = f"-m torch.distributed.run --standalone --nproc-per-node {processes} -m --"
    return several if processes > 1 else "-m emmeter.machine.warm"
