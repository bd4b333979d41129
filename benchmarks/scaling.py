"""Scaling: images per second of the tiny training with several threads in a process, and several processes at once.

Case ``K threads`` trains one run in one process.  Case ``K processes`` trains K runs in processes of one thread each,
as the workflow does; on a GPU, all of them share it.  K is 1, 2, 4 and so on, up to all cores.  The processes stay
ready between the timings, and all cases take turns.  A rate is the sum over the processes of a case, each of which
makes the same number of steps.  ``/ one`` is the speed over that of one process with one thread; with several kinds of
steps, of the first kind.  The share of perfect scaling compares with one process of the same kind.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import partial
from typing import Any, Self

from benchmarks import runs, timing, train
from benchmarks.record import Row, make
from emmeter.command import positive
from emmeter.errors import StageError
from emmeter.files.provenance import cores
from emmeter.machine.device import select
from emmeter.settings.validation import read_setup


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cores", type=positive, default=cores(), help="the largest number of threads or processes")
    parser.add_argument("--precision", choices=runs.PRECISIONS, default="float32")
    parser.add_argument(
        "--kinds", nargs="+", choices=list(train.COMPILE), default=["eager"], help="how steps are computed, in turns"
    )
    parser.add_argument("--batch", type=positive, help="images per step, instead of the run's number")
    parser.add_argument("--seconds", type=float, default=1.0, help="per timing, at least one step")
    parser.add_argument("--rounds", type=positive, default=timing.ROUNDS, help="timings of each case")


class Worker:
    """A process that makes training steps on request."""

    def __init__(self, request: Mapping[str, Any]):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scaling"], cwd=runs.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, bufsize=1,
        )  # fmt: skip
        self.send(request)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already
            self.process.stdin.close()  # it ends
        self.process.wait()

    def send(self, message: object) -> None:
        """Ask for something; `receive` waits for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")

    def receive(self) -> float:
        """Wait for the answer, in seconds.

        Raises:
            StageError: the process has ended; its errors are on standard error.
        """
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise StageError("scaling: a worker has failed; its error is above")
        return json.loads(line)


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """Yield one row per number of processes, then one per number of threads.

    Raises:
        StageError: a worker failed.
    """
    device = select(args.device, 1)
    setup = runs.case(runs.TINY)
    setup = runs.adjusted(setup, training__batch_size=args.batch or setup.training.batch_size)
    counts = numbers(args.cores)
    with ExitStack() as stack:

        def worker(kind: train.Kind, threads: int) -> Worker:
            request = {"setup": setup.model_dump(mode="json"), "way": asdict(train.Mode(args.precision, kind))}
            return stack.enter_context(Worker({**request, "device": device.type, "threads": threads}))

        teams: dict[str, list[Worker]] = {}
        for kind in args.kinds:
            single = [worker(kind, 1) for _ in range(args.cores)]
            teams |= {named(count, "process", kind): single[:count] for count in counts}
            if device.type == "cpu":  # the threads of one process hardly matter to a GPU
                teams |= {named(count, "thread", kind): [worker(kind, count)] for count in counts if count > 1}
        for process in {id(process): process for team in teams.values() for process in team}.values():
            process.receive()  # it is warm
        first = named(1, "process", args.kinds[0])
        steps = max(1, round(args.seconds / work(teams[first], 1)[0]))
        taken = rounds(teams, steps, args.rounds)
    cases = list(compared(taken, first, steps * setup.training.batch_size))
    rates = {case: rate for case, rate, _ in cases}
    for case, rate, ratio in cases:
        kind = case.partition(", ")[2] or "eager"
        details = {
            "precision": args.precision,
            "batch": setup.training.batch_size,
            "share of perfect scaling": rate / rates[named(1, "process", kind)] / int(case.split()[0]),
            "steps per timing": steps,
            "rounds": args.rounds,
        }
        yield make("scaling", case, "images/s", rate, details=details, device=device.type, ratios={"one": ratio})


def named(count: int, what: str, kind: str) -> str:
    """Name a case, such as "2 processes" or "1 process, package"."""
    plural = what if count == 1 else {"process": "processes", "thread": "threads"}[what]
    return f"{count} {plural}" + (f", {kind}" if kind != "eager" else "")


def compared(
    taken: Mapping[str, Sequence[Sequence[float]]], first: str, images: int
) -> Iterator[tuple[str, float, timing.Ratio]]:
    """Yield name, images per second and speed over the team `first` of each team, from seconds by round and worker.

    Args:
        images: number of images that each worker processes per round.
    """
    rates = {name: [sum(images / value for value in team) for team in turns] for name, turns in taken.items()}
    for name, values in rates.items():
        yield name, timing.quartiles(values).median, timing.ratio(values, rates[first])


def numbers(largest: int) -> list[int]:
    """1, 2, 4 and so on, and the largest number."""
    return [*(2**power for power in range(largest.bit_length()) if 2**power < largest), largest]


def rounds(teams: Mapping[str, Sequence[Worker]], steps: int, count: int) -> dict[str, list[list[float]]]:
    """Let each team work in each round, in reverse order in every other one; return seconds by team and worker."""
    taken: dict[str, list[list[float]]] = {name: [] for name in teams}
    for turn in range(count):
        for name in list(teams) if turn % 2 == 0 else list(teams)[::-1]:
            taken[name].append(work(teams[name], steps))
    return taken


def work(team: Sequence[Worker], steps: int) -> list[float]:
    """Let all workers of a team make `steps` steps at once; return the seconds of each."""
    for worker in team:
        worker.send(steps)
    return [worker.receive() for worker in team]


def serve() -> None:
    """Be a worker: make the training of the first line, then the steps of each further line, and write the seconds."""
    request = json.loads(sys.stdin.readline())
    device = select(request["device"], request["threads"])
    setup = read_setup(request["setup"])
    several = train.contestant(train.way_of(request["way"]), setup, device, "default")
    timing.warm_up(several, device)
    print(timing.seconds(several, device), flush=True)
    for line in sys.stdin:
        print(timing.seconds(partial(several, json.loads(line)), device), flush=True)


if __name__ == "__main__":
    serve()
