"""Trials of engines on this machine: whether they are right, and which of two is faster."""

import math
import time
from collections.abc import Iterator

import numpy as np

from emmeter.measure.engines.contract import Engine
from emmeter.measure.engines.decision import SLACK, search
from emmeter.measure.engines.exact import BLOCK, BYTE_PIXELS
from emmeter.measure.engines.rounding import allowance, centred_norms

RACE = 2**30  # pixel differences of one lap


def fault(engine: Engine, pixels: int) -> str | None:
    """The fault of an engine on this machine; None if its neighbours are exact and its distances as good as promised.

    Args:
        pixels: pixels of the images in one of the `trials`.
    """
    try:
        for query, base in trials(pixels):
            every = _exact_squared(query, base)
            candidates, values = engine.propose(query, base, len(base))
            norms = centred_norms(query, base) if engine.rounds else None
            true = np.take_along_axis(every, candidates, 1)
            if not (np.abs(values.astype(np.float64) - true) <= allowance(norms, true, base.shape[1])).all():
                return "its distances are wrong"
            k = min(3, len(base))
            order = np.argsort(every, axis=1, kind="stable")[:, :k]
            candidates, squared = search(engine, query, base, k)
            if not (np.array_equal(candidates, order) and np.array_equal(squared, np.take_along_axis(every, order, 1))):
                return "its neighbours are wrong"
    except Exception as error:  # libraries raise errors of many types: not installed, not built for this machine
        return f"{type(error).__name__}: {error}"
    return None


def trials(pixels: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of query and base, (m, d) and (N, d) uint8: random bytes, and only the extreme bytes, in several shapes.

    Products of extreme bytes overflow first.  Odd sizes leave remainders that libraries treat separately.  The largest
    shape has more pixels than a block of any engine.
    """
    random = np.random.default_rng(0)
    shapes = [(1, 9, 1), (33, 67, 3), (19, 130, 257), (32, 100, 768), (3, 13, 4099), (2, 12, BYTE_PIXELS + 1)]
    own = max(4, min(130, BLOCK // 8 // pixels))
    for count, stored, width in (*shapes, (max(2, own // 5), own, pixels)):
        size = (count + stored, width)
        images = random.integers(0, 256, size, np.uint8)
        yield images[:count], images[count:]
        for share in (0.1, 0.5):  # of bytes that are 255; the others are 0
            images = np.uint8(255) * (random.random(size, np.float32) < share)
            images[0], images[count - 1], images[count::7], images[-1] = 0, 255, 0, 255
            yield images[:count], images[count:]


def _exact_squared(query: np.ndarray, base: np.ndarray) -> np.ndarray:
    """(m, N) int64 squared distances by products of float64; all are integers below 2^53, so nothing is rounded."""
    q, b = query.astype(np.float64), base.astype(np.float64)
    return ((q**2).sum(1)[:, None] + (b**2).sum(1) - 2 * q @ b.T).astype(np.int64)


def racing(query: np.ndarray, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Copies of the first images of both, for `faster`."""
    # Equally many of both, because each image is prepared once and compared with all others.
    images = max(2 * SLACK, math.isqrt(RACE // base.shape[1]))
    return query[:images].copy(), base[:images].copy()


def faster(engine: Engine, other: Engine, query: np.ndarray, base: np.ndarray) -> bool:
    """Whether an engine is faster than another on these images, as of `racing`; both give the same results."""
    part = query, base, min(2 * SLACK, len(base))
    seconds = {racer: min(_seconds(racer, *part) for _ in range(2)) for racer in (other, engine)}
    return seconds[engine] < seconds[other]


def _seconds(engine: Engine, query: np.ndarray, base: np.ndarray, wanted: int) -> float:
    started = time.perf_counter()
    engine.propose(query, base, wanted)
    return time.perf_counter() - started
