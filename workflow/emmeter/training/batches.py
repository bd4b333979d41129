"""Batches: which training images each step sees."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from emmeter.training.seeds import derive

AHEAD = 64  # steps whose indices go to the device at once


def batches(n: int, batch_size: int, seed: int, first_step: int, fixed: bool = False) -> Iterator[Tensor]:
    """Indices of the training images of step `first_step`, `first_step` + 1, ...: (batch_size,) int64 each.

    The stream is one permutation of the subset after the other (the same one again with `fixed`, as in the paper);
    batches straddle epochs, so that they have one size whatever n.
    """
    permutations: dict[int, Tensor] = {}
    step = first_step
    while True:
        position = step * batch_size
        parts = []
        while position < (step + 1) * batch_size:
            epoch, offset = divmod(position, n)
            if epoch not in permutations:
                generator = torch.Generator().manual_seed(derive(seed, "order", 0 if fixed else epoch))
                permutations = {epoch: torch.randperm(n, generator=generator)}
            take = min(n - offset, (step + 1) * batch_size - position)
            parts.append(permutations[epoch][offset : offset + take])
            position += take
        yield torch.cat(parts)
        step += 1


def ahead(stream: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """The same tensors on the device, sent in stacks of `AHEAD`: one transfer that the host has to wait for, not 64."""
    if device.type == "cpu":
        yield from stream
    while stack := list(islice(stream, AHEAD)):
        yield from torch.stack(stack).to(device)
