"""Batches: every epoch is a permutation, and the stream can start at any step."""

import itertools

import pytest
import torch

from emmeter.training.batches import batches


@pytest.mark.parametrize(("n", "size"), [(10, 5), (10, 4), (7, 3), (3, 8), (1, 4), (5, 5)])
@pytest.mark.parametrize("fixed", [False, True])
def test_every_epoch_is_a_permutation(n, size, fixed):
    steps = 6 * n
    stream = torch.cat(list(itertools.islice(batches(n, size, 7, 0, fixed), steps)))
    assert len(stream) == steps * size
    epochs = stream[: len(stream) // n * n].view(-1, n)
    assert (epochs.sort(dim=1).values == torch.arange(n)).all()
    assert len(epochs) >= 6
    if n >= 5:  # the chance of equal random permutations is below 1 %
        assert bool((epochs == epochs[0]).all()) == fixed
        assert not torch.equal(epochs[0], torch.arange(n))


@pytest.mark.parametrize(("n", "size"), [(10, 4), (3, 8), (12, 4)])
@pytest.mark.parametrize("fixed", [False, True])
def test_batches_restart_at_any_step(n, size, fixed):
    whole = list(itertools.islice(batches(n, size, 3, 0, fixed), 20))
    for first in range(20):
        rest = list(itertools.islice(batches(n, size, 3, first, fixed), 20 - first))
        assert all(torch.equal(a, b) for a, b in zip(whole[first:], rest, strict=True))
    assert all(len(batch) == size for batch in whole)


def test_batches_depend_on_the_seed():
    first, second = (torch.cat(list(itertools.islice(batches(50, 10, seed, 0), 5))) for seed in (0, 1))
    assert not torch.equal(first, second)
