"""The loop of a training: steps, log, snapshots and saved states until the budget is used up."""

import time
from collections.abc import Iterator
from pathlib import Path

from emmeter.machine.device import fastest_convolutions
from emmeter.machine.process import Interrupted, Stop
from emmeter.training import log, snapshots, state
from emmeter.training.trainer import Trainer

SAVING = 0.02  # share of the time that saving states may take


def train(trainer: Trainer, folder: Path, state_seconds: float, stop: Stop) -> Iterator[int]:
    """Train to the end of the budget, yielding the number of each step.

    The process that writes saves the state every `state_seconds`, or less often if saving takes long (`pause`), and
    immediately when `stop` is set.

    Args:
        folder: the run's state folder.
    Raises:
        Interrupted: `stop` was set; the state has been saved.
        Diverged: the loss is no longer finite.
        OSError: state or snapshots cannot be written.
    """
    last_save, wait, processes = time.monotonic(), state_seconds, trainer.processes
    batches = trainer.budget.steps - trainer.step
    # On one CPU process a loss costs nothing to read.  A GPU's loss is read when a snapshot, a row or the state is due.
    on_host = trainer.device.type == "cpu" and processes.size == 1
    while trainer.step < trainer.budget.steps:
        with fastest_convolutions(batches):  # not in evaluations, which are few and have another batch size
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
        stopping, due = stop.is_set(), time.monotonic() - last_save > wait
        # One exchange for both values: all processes follow the first one.
        stopping, due = divmod(processes.first(2 * stopping + (due or stopping)), 2)
        if due:
            trainer.check(trainer.mean_loss())
            begun = time.monotonic()
            if processes.writes:
                state.save(folder, trainer.state())
            last_save = time.monotonic()
            wait = pause(state_seconds, last_save - begun)
        if stopping:
            raise Interrupted


def pause(state_seconds: float, seconds: float) -> float:
    """Seconds between the end of a save that took `seconds` and the next one.

    They are at least `state_seconds`, and so many that saving takes at most the share SAVING of the time.
    """
    return max(state_seconds, seconds / SAVING)
