"""The decision between an engine's candidates, in integers."""

import numpy as np

from emmeter.measure.engines.contract import Engine, EngineError
from emmeter.measure.engines.exact import by_floats, squared_distances
from emmeter.measure.engines.rounding import allowance, centred_norms

SLACK = 6  # candidates beyond those wanted, so that rounding and ties seldom hide a true neighbour


def search(engine: Engine, query: np.ndarray, base: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` images nearest to each of `query`, from an engine's candidates; the decision is made in integers.

    Args:
        query: (m, d) uint8.
        base: (N, d) uint8.
        k: at most N.
    Returns:
        (m, k) int64 positions in `base`, nearest first, ties by position, and (m, k) int64 squared distances.
    Raises:
        EngineError: a candidate is not an image, occurs twice, or has another distance than the engine reports.
    """
    wanted = k if engine.decides else min(k + SLACK, len(base))
    candidates, values = engine.propose(query, base, wanted)
    ordered = np.sort(candidates, axis=1)
    if ordered.min() < 0 or ordered.max() >= len(base) or (ordered[:, 1:] == ordered[:, :-1]).any():
        raise EngineError("proposes images that there are not, or one image twice")
    squared = squared_distances(query, base, candidates)
    values = values.astype(np.float64)
    norms = centred_norms(query, base) if engine.rounds else None
    near = np.abs(values - squared) <= allowance(norms, squared, base.shape[1])
    if not near.all():  # NaN is not near
        raise EngineError("its distances are wrong")
    order = np.lexsort((candidates, squared), axis=1)[:, :k]
    candidates, squared = np.take_along_axis(candidates, order, 1), np.take_along_axis(squared, order, 1)
    if wanted < len(base) and not engine.decides:
        farthest = squared[:, -1:]
        proven = values.max(axis=1, keepdims=True) - allowance(norms, farthest, base.shape[1]) > farthest
        rows = np.flatnonzero(~proven[:, 0])
        if len(rows):
            candidates[rows], squared[rows] = by_floats(query[rows], base, k)
    return candidates, squared
