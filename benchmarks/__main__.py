"""``python -m benchmarks NAME`` runs one benchmark and prints one JSON row per case; ``all`` writes RESULTS.md."""

import argparse
import dataclasses
import importlib
import os
import subprocess
import sys
from collections.abc import Mapping
from types import ModuleType

from benchmarks import record, results
from benchmarks.record import Row, read
from emmeter.command import command
from emmeter.errors import StageError
from emmeter.machine.process import ENVIRONMENT

NAMES = (*results.TIMED, *results.WORKFLOW, *results.SIMULATED)
GPU = "gpu"  # runs by parts, and is not one of "all"
ALLOCATED = "EMM_BENCHMARKS_ALLOCATOR"  # marks a process that has the requested allocator


def parser(modules: Mapping[str, ModuleType]) -> argparse.ArgumentParser:
    """The command line of the benchmarks, from their modules by name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    for name, module in modules.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command_parser = commands.add_parser(name, help=summary, description=module.__doc__)
        module.options(command_parser)
        if name in results.TIMED:
            command_parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
        _common(command_parser)
    everything = commands.add_parser("all", help="every benchmark on this machine")
    everything.add_argument("--device", nargs="+", choices=("cpu", "cuda"), help="default: all of the machine")
    everything.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--write", action="store_true", help="enter the rows into benchmarks/RESULTS.md")
    parser.add_argument(
        "--allocator", choices=("workflow", "default"), default="workflow",
        help="settings of the memory allocator for both sides: those of the workflow's jobs, or glibc's own",
    )  # fmt: skip


def allocate(which: str) -> None:
    """Restart this process with the allocator's settings, which glibc reads only when a process starts."""
    if os.environ.get(ALLOCATED) == which:
        return
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    environment |= ENVIRONMENT if which == "workflow" else {}
    os.execve(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]], environment | {ALLOCATED: which})


def run(args: argparse.Namespace, module: ModuleType) -> list[Row]:
    """Run one benchmark and print each row when it is measured."""
    rows = []
    for row in module.measure(args):
        print(row.json(), flush=True)
        rows.append(row)
    return rows


def everything(args: argparse.Namespace) -> None:
    """Run each benchmark on each device in a separate process, and enter its rows into RESULTS.md.

    Raises:
        StageError: a benchmark failed; the rows of all others have been entered.
    """
    import torch

    commit = record.commit()  # before RESULTS.md changes
    devices = args.device or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    failed = []
    for name in args.only:
        for device in devices if name in results.TIMED else [""]:
            rows, code = _apart([name, *(["--device", device] if device else [])])
            if rows:
                results.update([dataclasses.replace(row, commit=commit) for row in rows])
            if code:
                failed.append(f"{name} {device}".strip())
    if failed:
        raise StageError(f"benchmarks failed: {', '.join(failed)}; RESULTS.md holds the others")


def _apart(arguments: list[str]) -> tuple[list[Row], int]:
    """Run one benchmark in a separate process and pass its output on; return its rows and exit status."""
    print(f"# {' '.join(arguments)}", file=sys.stderr, flush=True)
    rows = []
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if row := read(line):
                rows.append(row)
    return rows, process.returncode


def main() -> None:
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in (*NAMES, GPU)}
    args = parser(modules).parse_args()
    if args.name == "all":
        everything(args)
        return
    allocate(args.allocator)
    rows = run(args, modules[args.name])
    if args.write and rows:
        results.update(rows)


if __name__ == "__main__":
    command(main)
