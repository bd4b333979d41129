"""The train stage trains one run and writes its snapshots, log and record."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tqdm import tqdm

from emmeter.command import end, execution_options, head, program, read_settings, stage_parser
from emmeter.data.subset import load as load_subset
from emmeter.diffusion import operations
from emmeter.errors import StageError
from emmeter.files import checksums
from emmeter.files.layout import record_settings
from emmeter.files.provenance import provenance
from emmeter.files.records import TrainingRecord
from emmeter.files.tables import LOG_COLUMNS
from emmeter.files.writing import write_csv, write_json
from emmeter.machine.device import describe, select
from emmeter.machine.process import Stop, interruptible
from emmeter.settings import keys
from emmeter.settings.sections import Setup
from emmeter.training import loop
from emmeter.training import snapshots as stored_snapshots
from emmeter.training import state as training_state
from emmeter.training.packages import When
from emmeter.training.parallel import Processes, joined
from emmeter.training.trainer import Diverged, Trainer, start

POLL = 1.0  # seconds between two attempts to take a lock that another job holds
GO, WAIT = 0, 1  # messages of the first of several processes to the others
ATTEMPTS = 3  # at writing the outputs, in case another Snakemake removes them meanwhile


@dataclass(frozen=True)
class Outputs:
    """Paths of the files that a training writes into its folder."""

    snapshots: Path
    log: Path
    record: Path


def train(
    setup: Setup,
    subset: Path,
    outputs: Outputs,
    *,
    n: int,
    replicate: int,
    state: Path,
    key: str = "",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int = 1,
    compiled: When = "auto",
    state_seconds: float = 30.0,
    log_seconds: float = 20.0,
    stop: Stop | None = None,
) -> None:
    """Train one run to its end, from its saved state if there is one, and write its outputs.

    Under torchrun, every process calls this function; the first one writes.  While another job trains the same run,
    the function waits.  The saved state remains: `emmeter.training.state` explains why.

    Args:
        setup: settings of the run, with all values that depend on the data.
        subset: path of subset.npz.
        n: number of training images.
        replicate: number of the training seed, from 0.
        state: folder of the training state.
        key: settings key for the record; by default computed from `setup`.
        device: where to train; "auto" takes a GPU if there is one.
        threads: CPU threads of each process.
        compiled: whether to use a compiled package, as for `emmeter.training.packages.provided`.
        state_seconds: time between two saves of the state.
        log_seconds: time between two lines of progress.
        stop: when set, the function saves the state and raises Interrupted.
    Raises:
        Interrupted: `stop` was set; the state has been saved.
        RunLocked: `stop` was set while another job trained this run.
        DataError: the subset has changed, or is missing or damaged.
        StageError: the loss diverged, a snapshot is damaged, or the device or compiler is missing.
        OSError: a file cannot be written.
    """
    images = load_subset(subset)
    chosen = select(device, threads)
    key = key or keys.key("train", setup)
    stop = stop or Stop()
    with joined() as processes, _locked(state, processes, stop):
        started = time.monotonic()
        if processes.writes:
            training_state.bind(state, _identity(setup, subset, n, replicate))
            processes.first(GO)  # the other processes read the state folder only now
        trainer = start(setup, images, n, replicate, chosen, state, processes, compiled, stop)
        if processes.writes:
            _head(trainer, n, replicate, describe(chosen), key)
        resumed_at, rate = _run(trainer, state, state_seconds, log_seconds, stop)
        if processes.writes:
            forward = operations.forward(trainer.denoiser.network, images.images.shape[1:])
            record: TrainingRecord = {
                "n": n,
                "replicate": replicate,
                "seed": trainer.seed,
                "inputs": checksums.of(subset),
                "images_trained": trainer.budget.images,
                "flops": 3 * forward * trainer.budget.images,  # the gradients cost twice the forward pass
                "parameters": trainer.parameters.values.numel(),
                "processes": processes.size,
                "package": trainer.package.key if trainer.package else None,
                "device": describe(chosen),
                "images_per_second": round(rate, 1),
                "resumed_at_image": resumed_at,
                **provenance(key, started - trainer.seconds_before),
            }
            _write(trainer, outputs, record, state)
            outcome = f"{trainer.budget.images} images, {rate:.0f} images/s, loss {trainer.rows[-1]['loss']:.4g}"
            end(outcome, record["seconds"])


def _head(trainer: Trainer, n: int, replicate: int, device: str, key: str) -> None:
    """Begin the log of an attempt at this training."""
    training, done = trainer.setup.training, trainer.step * trainer.setup.training.batch_size
    head(
        "train", n, replicate, f"{trainer.budget.images} images", f"batch {training.batch_size}",
        f"learning rate {training.learning_rate:g}", f"{trainer.parameters.values.numel()} parameters",
        f"device {device}", f"key {key}", *([f"resumed at {done} images"] if done else []),
    )  # fmt: skip


@contextmanager
def _locked(folder: Path, processes: Processes, stop: Stop) -> Iterator[None]:
    """Hold the lock of a run in the process that writes.  The other processes wait until that process sends GO.

    Raises:
        RunLocked: `stop` was set while another job held the lock.
    """

    def wait() -> bool:
        processes.first(WAIT)
        return not stop.wait(POLL)

    if processes.writes:
        with training_state.held(folder, wait):
            yield
    else:
        while processes.first(WAIT) != GO:
            pass
        yield


def _identity(setup: Setup, subset: Path, n: int, replicate: int) -> str:
    """Text that saved state must match: these settings on this subset, under this version of the stage."""
    run_key = keys.key("train", setup)
    return json.dumps([keys.VERSIONS["train"], run_key, n, replicate, checksums.sha256(subset)])


def _run(trainer: Trainer, state: Path, state_seconds: float, log_seconds: float, stop: Stop) -> tuple[int, float]:
    """Train to the end of the budget.  In the process that writes, save the final state.

    Returns:
        Training images seen at the start, and the speed in training images per second.
    """
    batch, first_step, clock = trainer.setup.training.batch_size, trainer.step, time.monotonic()
    try:
        with Progress(trainer, log_seconds) as progress:
            for _ in loop.train(trainer, state, state_seconds, stop):
                progress.show()
    except Diverged:  # weights may have been saved before their loss was computed, and would diverge again
        if trainer.processes.writes:
            training_state.clear(state)
        raise
    steps, seconds = trainer.step - first_step, time.monotonic() - clock
    if trainer.processes.writes and steps:
        training_state.save(state, trainer.state())
    if not steps:  # an earlier job made all of them
        steps, seconds = trainer.step, trainer.seconds_before
    return first_step * batch, steps * batch / max(seconds, 1e-9)


def _write(trainer: Trainer, outputs: Outputs, record: TrainingRecord, state: Path) -> None:
    """Write the outputs of a finished training: snapshots, log, record, settings and checksums."""
    setup = trainer.setup
    description = {
        "key": record["key"],
        "shares": setup.training.snapshots,
        "ema_decays": setup.training.ema_decays,
        "images_seen": [step * setup.training.batch_size for step in trainer.budget.snapshots],
    }
    if not stored_snapshots.intact(state, trainer.kept):
        raise StageError(f"{state}: a snapshot is damaged; the same command trains this run again")
    settings = record_settings(outputs.record.parent, "train", setup)
    for attempt in range(ATTEMPTS):
        write_csv(outputs.log, LOG_COLUMNS, trainer.rows)
        write_json(outputs.record, record)
        stored_snapshots.join(state, outputs.snapshots, description)
        try:
            checksums.record(outputs.snapshots, outputs.log, outputs.record, settings)
        except FileNotFoundError:
            # Another Snakemake has submitted this run again.  Before its job waited for this one, that Snakemake
            # removed the outputs.
            if attempt == ATTEMPTS - 1:
                raise
        else:
            return


class Progress:
    """Progress of a training: a bar on a terminal, elsewhere a line every `log_seconds`, so that logs stay short."""

    def __init__(self, trainer: Trainer, log_seconds: float):
        self.trainer, self.log_seconds = trainer, log_seconds
        self.batch = trainer.setup.training.batch_size
        done = trainer.step * self.batch
        self.last, self.begun, self.first = time.monotonic(), time.monotonic(), done
        quiet = not trainer.processes.writes or not sys.stderr.isatty()
        self.bar = tqdm(total=trainer.budget.images, initial=done, unit="img", disable=quiet)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def show(self) -> None:
        """Count one step."""
        self.bar.update(self.batch)
        now = time.monotonic()
        if self.trainer.processes.writes and self.bar.disable and now - self.last > self.log_seconds:
            trainer = self.trainer
            # If a row of the log has just been written, that row has the mean up to here.
            loss = trainer.loss_sum.item() / trainer.loss_steps if trainer.loss_steps else trainer.rows[-1]["loss"]
            done, total = trainer.step * self.batch, trainer.budget.images
            rate = (done - self.first) / (now - self.begun)
            print(
                f"{done}/{total} images, {rate:.0f} images/s, {(total - done) / rate:.0f} s left, loss {loss:.4g}",
                flush=True,
            )
            self.last = now


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__, "--subset", "--snapshots", "--log", "--record", "--state")
    execution_options(parser)
    parser.add_argument("--compile", default="auto", choices=get_args(When))
    parser.add_argument("--state-seconds", type=float, default=30.0, help="seconds between two saves of the state")
    parser.add_argument("--log-seconds", type=float, default=20.0, help="seconds between two lines of progress")
    args = parser.parse_args(argv)
    setup = read_settings(args.settings)
    with interruptible("state saved; the same command resumes") as stop:
        train(
            setup,
            args.subset,
            Outputs(args.snapshots, args.log, args.record),
            n=args.n,
            replicate=args.replicate,
            state=args.state,
            key=args.key,
            device=args.device,
            threads=args.threads,
            compiled=args.compile,
            state_seconds=args.state_seconds,
            log_seconds=args.log_seconds,
            stop=stop,
        )


if __name__ == "__main__":
    program(main)
