"""The loop of a training: steps, log, snapshots and saved states until the budget is used up."""

import time
from collections.abc import Iterator
from pathlib import Path

from emmeter.machine.process import Stop
from emmeter.training import log, snapshots, state
from emmeter.training.trainer import Trainer


class Interrupted(Exception):
    """The process was asked to end.  The state has been saved."""


def train(trainer: Trainer, folder: Path, state_seconds: float, stop: Stop) -> Iterator[int]:
    """Train to the end of the budget, yielding the number of each step.

    The process that writes saves the state every `state_seconds`, and immediately when `stop` is set.

    Args:
        folder: the run's state folder.
    Raises:
        Interrupted: `stop` was set; the state has been saved.
        Diverged: the loss is no longer finite.
        OSError: state or snapshots cannot be written.
    """
    last_save, processes = time.monotonic(), trainer.processes
    # On one CPU process a loss costs nothing to read.  A GPU's loss is read when a snapshot, a row or the state is due.
    on_host = trainer.device.type == "cpu" and processes.size == 1
    while trainer.step < trainer.budget.steps:
        loss = trainer.advance()
        if on_host:
            trainer.check(loss.item())
        if trainer.step in trainer.budget.log:  # which has the step of every snapshot
            log.append(trainer)
        if processes.writes:
            for index, step in enumerate(trainer.budget.snapshots):
                if step == trainer.step:
                    trainer.kept[index] = snapshots.keep(folder, index, trainer.averaged())
        yield trainer.step
        stopping, due = stop.is_set(), time.monotonic() - last_save > state_seconds
        # One exchange for both values: all processes follow the first one.
        stopping, due = divmod(processes.first(2 * stopping + (due or stopping)), 2)
        if due:
            trainer.check(trainer.mean_loss())
            if processes.writes:
                state.save(folder, trainer.state())
            last_save = time.monotonic()
        if stopping:
            raise Interrupted
