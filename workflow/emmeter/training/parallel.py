"""Data-parallel training on several devices of one machine: one process a device, started by torchrun.

Every process draws the same batch, noise levels and noise, and computes its share of the batch; the gradients, which
are one tensor, are averaged in one operation.  The result is that of one process up to rounding (dropout apart, whose
masks each process draws for its own images).
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
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """The rows of a batch that this process computes.  The batch size is a multiple of the number of processes."""
        if self.size == 1:
            return batch
        each = len(batch) // self.size
        return batch[self.rank * each : (self.rank + 1) * each]

    def average(self, values: Tensor) -> None:
        """Replace a tensor by its mean over all processes, the same bits in each."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
            values /= self.size

    def first(self, value: int) -> int:
        """The value of rank 0, for all: processes that each looked at the clock or at a signal would part."""
        if self.size == 1:
            return value
        said = torch.tensor([value])
        torch.distributed.broadcast(said, 0)  # a CPU tensor goes through gloo: no wait for the device
        return int(said.item())


ALONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """All processes that torchrun started (its environment variables tell), connected; alone without it.

    On Linux they get SIGTERM when torchrun is killed: it holds the slots of their devices, which are free from then on.
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
