"""Exact nearest neighbours: engines that find the images nearest to each of many, and the choice among them.

An engine proposes candidates with their squared distances, exactly or within a proven error (`contract`, `rounding`).
The distances are then recomputed in integers, and these decide (`decision`).  Where the proposal does not prove that
no other image is as near, the image is compared with all others.  All engines therefore give the same neighbours, and
they differ only in speed:

=========================  ====================================================================================
pixels                     differences of pixels, in integers; for small sets (`exact`)
float32 products           products of float32 matrices whose every sum is an integer of at most 2^24 (`exact`)
integer products           products of bytes, with instructions that not all processors have (`exact`)
integer products on a GPU  the same on the first GPU that the process sees (`exact`)
faiss                      FAISS's flat index in float32, on the CPU (`flat`)
projections                distances along the main directions of the images exclude nearly all (`projection`)
=========================  ====================================================================================

An engine is used only if a test in the same process finds it right (`trials`).  On processors without the instructions
for products of bytes, for example, libraries overflow without an error.
"""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from emmeter.measure.engines.contract import Engine, EngineError
from emmeter.measure.engines.decision import SLACK, search
from emmeter.measure.engines.exact import FLOATS, PIXELS, PRODUCTS, PRODUCTS_GPU
from emmeter.measure.engines.flat import FAISS
from emmeter.measure.engines.projection import DIRECTIONS, Projection
from emmeter.measure.engines.trials import faster, fault, racing

SMALL = 2**28  # pixel differences that take less time than the import of FAISS and torch
LARGE = 2**36  # pixel differences that take longer than testing and timing products of bytes


class Searcher:
    """A search for nearest images that may be done in parts: all parts use the engine that is chosen for the first.

    Prints a note on standard error if an engine fails and another one replaces it.
    """

    def __init__(self, work: int = 0):
        """Prepare a search.

        Args:
            work: pixel differences of all parts together, if there are several.
        """
        self._work = work
        self._engine: Engine | None = None
        self._others: Iterator[Engine] = iter(())

    def nearest(self, query: np.ndarray, base: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, str]:
        """The `k` images nearest to each of `query`, exactly, by the fastest engine that is right.

        Args:
            query: (m, d) uint8.
            base: (N, d) uint8.
            k: at most N.
        Returns:
            (m, k) int64 positions in `base`, nearest first, ties by position; (m, k) int64 squared distances; and the
            name of the engine, which is the same for all images.
        Raises:
            Exception: the error of the last engine, if all have failed.
        """
        if self._engine is None:
            self._others = engines(query, base, k, self._work)
            self._engine = next(self._others)
        while True:
            engine = self._engine
            try:
                return *search(engine, query, base, k), engine.name
            except Exception as error:  # libraries raise errors of many types when memory or a GPU fails
                self._engine = next(self._others, None)
                if self._engine is None:
                    raise
                reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                text = f"note: scored by {self._engine.name}, as {engine.name} does not work here: {reason}"
                print(text, file=sys.stderr)


def nearest(query: np.ndarray, base: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, str]:
    """The `k` images nearest to each of `query`, in one part; see `Searcher.nearest`."""
    return Searcher().nearest(query, base, k)


def engines(query: np.ndarray, base: np.ndarray, k: int, work: int = 0) -> Iterator[Engine]:
    """The engines that are right on this machine: first the one to use, then those that replace it if it fails.

    Args:
        work: pixel differences of the whole search, if `query` and `base` are a part of it.
    """
    work = max(work, query.size * len(base))
    if work < SMALL or k + SLACK >= len(base):
        yield PIXELS
        return
    queries, stored, pixels = len(query), len(base), base.shape[1]
    some = racing(query, base)
    del query, base  # this generator lives as long as the search, and would hold its first images
    if gpu_present():
        yield tested(PRODUCTS_GPU, pixels)
    # On macOS torch and FAISS must not be loaded together: each brings an OpenMP library, and the second ends the
    # process.
    apart = sys.platform == "darwin"
    sure = FAISS if not (apart and "torch" in sys.modules) and fault(FAISS, pixels) is None else FLOATS
    large = work >= LARGE
    if large and not apart and fault(PRODUCTS, pixels) is None and faster(PRODUCTS, sure, *some):
        yield PRODUCTS
    elif large and not apart and projection_pays(queries, pixels, stored):
        projection = Projection(sure).engine
        if fault(projection, pixels) is None:
            yield projection
    yield sure
    if sure is not FLOATS:
        yield FLOATS


def projection_pays(queries: int, pixels: int, stored: int) -> bool:
    """Whether products with the main directions, in float64, take far less time than those of all images."""
    return pixels >= 4 * DIRECTIONS and 8 * DIRECTIONS * (queries + stored) <= queries * stored


def tested(engine: Engine, pixels: int) -> Engine:
    """The engine, which tests itself before it proposes candidates; so a fault is reported as the reason of a failure.

    Args:
        pixels: of the images that it will serve.
    Raises:
        EngineError: when it proposes candidates, and its test finds a fault.
    """

    def propose(query: np.ndarray, base: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        if (reason := fault(engine, pixels)) is not None:
            raise EngineError(reason)
        return engine.propose(query, base, wanted)

    return replace(engine, propose=propose)


def preload() -> None:
    """Import the libraries of the engines for large sets, so that a search afterwards starts at once."""
    if sys.platform != "darwin":  # where they must not be loaded together
        with contextlib.suppress(ImportError, OSError):
            import faiss  # noqa: F401
            import torch  # noqa: F401


def gpu_present() -> bool:
    """Whether torch sees a GPU for CUDA."""
    if sys.platform == "darwin":
        return False
    import torch

    return torch.cuda.is_available()
