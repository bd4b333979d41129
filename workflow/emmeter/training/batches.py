"""Batches: the training images of each step."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from emmeter.training.seeds import derive

AHEAD = 64  # steps whose indices are sent to the device together


def batches(n: int, batch_size: int, seed: int, first_step: int, fixed: bool = False) -> Iterator[Tensor]:
    """Yield the indices of the training images of step `first_step`, `first_step` + 1, ...: (batch_size,) int64 each.

    The stream joins one permutation of the training set per pass.  Batches cross the borders of passes, so all batches
    have the same size for every n.

    Args:
        n: number of entries of the training set.
        seed: of the run.
        fixed: use the same permutation in each pass, as the paper does.
    """
    permutations: dict[int, Tensor] = {}
    step = first_step
    while True:
        position = step * batch_size
        parts = []
        while position < (step + 1) * batch_size:
            number, offset = divmod(position, n)
            if number not in permutations:
                generator = torch.Generator().manual_seed(derive(seed, "order", 0 if fixed else number))
                permutations = {number: torch.randperm(n, generator=generator)}
            take = min(n - offset, (step + 1) * batch_size - position)
            parts.append(permutations[number][offset : offset + take])
            position += take
        yield torch.cat(parts)
        step += 1


def ahead(stream: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Yield the same tensors on the device, sent in stacks of `AHEAD`, so that the host waits only once per stack."""
    if device.type == "cpu":
        yield from stream
    while stack := list(islice(stream, AHEAD)):
        yield from torch.stack(stack).to(device)
