"""The contract of an engine."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

Proposer = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


class EngineError(RuntimeError):
    """An engine does not work on this machine, or gives wrong distances."""


@dataclass(frozen=True)
class Engine:
    """A way to find candidates for the nearest images.

    Attributes:
        name: as in score.json.
        propose: from (m, d) and (N, d) uint8 and a number, at most N, the candidates: (m, number) positions and their
            squared distances.  No other image may have a smaller distance, as the engine computes it.
        rounds: whether these distances may be off by up to `rounding`; otherwise they are exact.
        decides: whether the candidates are the neighbours themselves, nearest first and ties by position, so that
            nothing remains to be proven.
    """

    name: str
    propose: Proposer
    rounds: bool = False
    decides: bool = False


def blocks(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover 0 to `count`."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
