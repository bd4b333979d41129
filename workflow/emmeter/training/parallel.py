"""Data-parallel training on several devices of one machine: one process per device, started by torchrun.

Every process draws the same batch, noise levels and noise, and computes its share of the batch.  The gradients are one
tensor and are averaged in one operation.  The result equals that of one process up to rounding, except with dropout:
each process draws the masks of its own images.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from emmeter.machine.process import end_with_parent


@dataclass(frozen=True)
class Processes:
    """The processes that train one run together; `rank` 0 of them writes its files."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """True in the process that writes files."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch, whose size is a multiple of the number of processes."""
        if self.size == 1:
            return batch
        each = len(batch) // self.size
        return batch[self.rank * each : (self.rank + 1) * each]

    def average(self, values: Tensor) -> None:
        """Replace a tensor by its mean over all processes, with the same bits in each."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
            values /= self.size

    def first(self, value: int) -> int:
        """The value of rank 0, in all processes: if each acted on its own clock or signals, they would diverge."""
        if self.size == 1:
            return value
        shared = torch.tensor([value])
        torch.distributed.broadcast(shared, 0)  # a CPU tensor is sent by gloo, without waiting for the device
        return int(shared.item())


ALONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """Connect the processes that torchrun has started, according to its environment variables; alone without torchrun.

    On Linux the processes get SIGTERM when torchrun is killed: torchrun holds the slots of their devices, which are
    free from then on.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    end_with_parent(signal.SIGTERM)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend)
    try:
        yield Processes(int(os.environ["RANK"]), size)
    finally:
        torch.distributed.destroy_process_group()
