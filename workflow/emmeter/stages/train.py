"""The train stage trains one run and writes its snapshots, log and record."""

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from emmeter.command import arguments, execution_options, program, read_settings
from emmeter.data.subset import load as load_subset
from emmeter.diffusion import operations
from emmeter.errors import StageError
from emmeter.files import checksums
from emmeter.files.layout import record_settings
from emmeter.files.provenance import provenance
from emmeter.files.tables import LOG_COLUMNS
from emmeter.files.writing import write_csv, write_json
from emmeter.machine.device import describe, select
from emmeter.machine.process import Stop
from emmeter.settings.keys import VERSIONS, key
from emmeter.settings.sections import Setup
from emmeter.training import snapshots, state
from emmeter.training.loop import Interrupted, train
from emmeter.training.parallel import Processes, joined
from emmeter.training.trainer import Diverged, Trainer, TrainingError, start

POLL = 1.0  # seconds between two looks at a lock that another job holds
GO, WAIT = 0, 1  # what the first of several processes tells the others
ATTEMPTS = 3  # to write the outputs, where others remove them meanwhile
EXIT_INTERRUPTED = 143  # 128 + SIGTERM: what a scheduler expects of a process that ended because it was told to


def main() -> None:
    parser = arguments(__doc__, "--subset", "--snapshots", "--log", "--record", "--state")
    execution_options(parser)
    parser.add_argument("--compile", default="auto", choices=("auto", "never", "always"))
    parser.add_argument("--state-seconds", type=float, default=30.0, help="between two saves of the training state")
    parser.add_argument("--log-seconds", type=float, default=20.0, help="between two lines of progress")
    args = parser.parse_args()
    setup = read_settings(args.settings)
    subset = load_subset(args.subset)
    device = select(args.device, args.threads)
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.set)
    try:
        with joined() as processes, _locked(args.state, processes, stop):
            started = time.monotonic()
            if processes.writes:
                state.bind(args.state, _identity(args))
                processes.first(GO)  # the others read the state folder only now
            trainer = start(
                setup, subset, args.n, args.replicate, device, args.state, processes=processes, compiled=args.compile
            )
            first_step, clock = trainer.step, time.monotonic()
            try:
                with Progress(trainer, args.log_seconds) as progress:
                    for _ in train(trainer, args.state, args.state_seconds, stop):
                        progress.show()
            except Diverged:  # weights may have been saved before their loss was seen, and would diverge again
                if processes.writes:
                    state.clear(args.state)
                raise
            steps, seconds = trainer.step - first_step, time.monotonic() - clock
            if processes.writes and steps:
                state.save(args.state, trainer.state())  # not cleared: `emmeter.training.state` says why
            if not steps:  # an earlier job made all of them
                steps, seconds = trainer.step, trainer.seconds_before
            rate = steps * setup.training.batch_size / max(seconds, 1e-9)
            if processes.writes:
                finish(
                    args,
                    setup,
                    trainer,
                    {
                        "images_per_second": round(rate, 1),
                        "resumed_at_image": first_step * setup.training.batch_size,
                        **provenance(args.key, started - trainer.seconds_before),
                    },
                )
    except Interrupted:
        print("interrupted: state saved; the same command resumes", file=sys.stderr, flush=True)
        sys.exit(EXIT_INTERRUPTED)
    except state.RunLocked as error:
        print(f"interrupted: {error}", file=sys.stderr, flush=True)
        sys.exit(EXIT_INTERRUPTED)
    except TrainingError as error:
        raise StageError(str(error)) from None


@contextmanager
def _locked(folder: Path, processes: Processes, stop: Stop) -> Iterator[None]:
    """The lock of a run, in the process that writes; the others wait with it, until it tells them to GO.

    Raises:
        RunLocked: `stop` was set while another job held it.
    """

    def wait() -> bool:
        processes.first(WAIT)
        return not stop.wait(POLL)

    if processes.writes:
        with state.held(folder, wait):
            yield
    else:
        while processes.first(WAIT) != GO:
            pass
        yield


def finish(args: argparse.Namespace, setup: Setup, trainer: Trainer, course: dict[str, Any]) -> None:
    """Write the outputs of a finished training.  `course`: how the computation went."""
    forward = operations.forward(trainer.denoiser.network, trainer.subset.images.shape[1:])
    record = {
        "n": args.n,
        "replicate": args.replicate,
        "seed": trainer.seed,
        "inputs": checksums.of(args.subset),
        "images_trained": trainer.budget.images,
        # The gradients cost twice the forward pass.
        "flops": 3 * forward * trainer.budget.images,
        "parameters": trainer.parameters.values.numel(),
        "processes": trainer.processes.size,
        "device": describe(trainer.device),
        **course,
    }
    description = {
        "key": args.key,
        "shares": setup.training.snapshots,
        "ema_decays": setup.training.ema_decays,
        "images_seen": [step * setup.training.batch_size for step in trainer.budget.snapshots],
    }
    if not snapshots.intact(args.state, trainer.kept):
        raise TrainingError(f"{args.state}: a snapshot is damaged; the same command trains this run again")
    settings = record_settings(args.record.parent, args.settings)
    for attempt in range(ATTEMPTS):
        write_csv(args.log, LOG_COLUMNS, trainer.rows)
        write_json(args.record, record)
        snapshots.join(args.state, args.snapshots, description)
        try:
            checksums.record(args.snapshots, args.log, args.record, settings)
        except FileNotFoundError:
            # Another Snakemake has submitted this run again and, before its job waited for this one, removed outputs.
            if attempt == ATTEMPTS - 1:
                raise
        else:
            return


def _identity(args: argparse.Namespace) -> str:
    """What saved state must belong to: these settings on exactly this subset, under this version of the stage."""
    run_key = key("train", read_settings(args.settings))
    return json.dumps([VERSIONS["train"], run_key, args.n, args.replicate, checksums.sha256(args.subset)])


class Progress:
    """A bar on a terminal; elsewhere a line now and then, so that logs stay short."""

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
        self.bar.update(self.batch)
        now = time.monotonic()
        if self.trainer.processes.writes and self.bar.disable and now - self.last > self.log_seconds:
            trainer = self.trainer
            # Where a row of the log has just been written, it has the mean up to here.
            loss = trainer.loss_sum.item() / trainer.loss_steps if trainer.loss_steps else trainer.rows[-1]["loss"]
            done, total = self.trainer.step * self.batch, self.trainer.budget.images
            rate = (done - self.first) / (now - self.begun)
            print(
                f"{done}/{total} images, {rate:.0f} images/s, {(total - done) / rate:.0f} s left, loss {loss:.4g}",
                flush=True,
            )
            self.last = now


if __name__ == "__main__":
    program(main)
