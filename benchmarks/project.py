"""A fresh copy of the project, and Snakemake run in it with a stopwatch on every job."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.runs import ROOT
from emmeter.errors import StageError

# A script that precedes Python on the PATH of the jobs and notes the module and time of each job.  It does not note
# other calls, such as that by which the workflow finds out whether this is the Python of its environment.
STOPWATCH = """#!/bin/sh
begun=$(date +%s.%N)
{python} "$@"
status=$?
for word in "$@"; do
    case $word in
        emmeter.machine.warm) ;;
        emmeter.*) echo "$word $begun $(date +%s.%N)" >> {log}; break ;;
    esac
done
exit $status
"""

# Snakemake in a process that writes parts of its own processor time at the end, without that of its jobs.
SNAKEMAKE = """
import atexit, json, pathlib, sys, time
import snakemake.cli, snakemake.rules, snakemake.workflow

parts = {"imports": time.process_time(), "rules": 0.0, "functions": 0.0}

def timed(owner, name, part):
    original, depth = getattr(owner, name), [0]
    def call(*args, **options):
        depth[0] += 1
        begun = time.process_time()
        try:
            return original(*args, **options)
        finally:
            depth[0] -= 1
            if not depth[0]:  # rules include further ones
                parts[part] += time.process_time() - begun
    setattr(owner, name, call)

def note(path):
    total = time.process_time()
    path.write_text(json.dumps({**parts, "graph": total - sum(parts.values())}))

timed(snakemake.workflow.Workflow, "include", "rules")
timed(snakemake.rules.Rule, "apply_input_function", "functions")
atexit.register(note, pathlib.Path(sys.argv.pop(1)))
snakemake.cli.main()
"""


@dataclass(frozen=True)
class Job:
    """A finished job: its module, and its wall seconds including the start of Python."""

    module: str
    seconds: float


@dataclass(frozen=True)
class Execution:
    """One call of Snakemake: wall seconds, processor seconds of its own process, its jobs, its output.

    Attributes:
        parts: the processor seconds of Python and imports (`imports`), of reading the rules and the configuration with
            the imports that this needs (`rules`), of the functions in rules (`functions`), and of all else (`graph`).
    """

    seconds: float
    processor_seconds: float
    jobs: Sequence[Job]
    output: str
    parts: Mapping[str, float] = field(default_factory=dict)


def copy(folder: Path) -> None:
    """Copy the project's tracked files in their present state to a new folder.

    Raises:
        StageError: the project is not a git checkout.
    """
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode:
        raise StageError(f"{ROOT}: must be a git checkout, because its tracked files are copied")
    for name in filter(None, listed.stdout.split("\0")):
        if (source := ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)


def stopwatch(folder: Path, log: Path, python: str) -> None:
    """Write a script `python` into a folder; it runs `python` and notes each call's module and time in `log`."""
    program(folder / "python", STOPWATCH.format(python=python, log=log))


def program(path: Path, text: str) -> None:
    """Write an executable script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def snakemake(folder: Path, programs: Path, log: Path, arguments: Sequence[object]) -> Execution:
    """Run Snakemake in a project, with the folder `programs` first on the PATH.

    Raises:
        StageError: Snakemake failed; the message ends with the last lines of its output.
    """
    used = log.with_suffix(".processor")
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "TQDM_DISABLE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else the first start compiles all modules, and so do the others
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", SNAKEMAKE, str(used), *map(str, arguments)],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise StageError(f"snakemake failed in {folder}: {' | '.join(done.stdout.splitlines()[-5:])}")
    parts = json.loads(used.read_text())
    return Execution(seconds, sum(parts.values()), jobs(log), done.stdout, parts)


def jobs(log: Path) -> list[Job]:
    """Read the jobs of a log.  `emmeter.machine.slots` is left out, because it becomes the job for which it waits."""
    rows = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    finished = [Job(module.rpartition(".")[2], float(end) - float(begun)) for module, begun, end in rows]
    return [job for job in finished if job.module != "slots"]
