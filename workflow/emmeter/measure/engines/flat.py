"""FAISS's flat index."""

import numpy as np

from emmeter.measure.engines.contract import Engine, blocks
from emmeter.measure.engines.rounding import centre

FAISS_BLOCK = 2**25  # float32 pixels that FAISS holds at once


def by_faiss(query: np.ndarray, base: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Search with FAISS's flat index in float32, on pixels minus those of a centre; `rounding` bounds its error."""
    import faiss

    pixels = base.shape[1]
    index, middle = faiss.IndexFlatL2(pixels), centre(base)
    candidates = np.full((len(query), wanted), -1, np.int64)
    values = np.full((len(query), wanted), np.inf, np.float32)
    size = max(1, FAISS_BLOCK // pixels)
    for columns in blocks(len(base), size):
        index.reset()
        index.add(base[columns] - middle)
        for rows in blocks(len(query), size):
            distances, positions = index.search(query[rows] - middle, min(wanted, columns.stop - columns.start))
            distances = np.concatenate([values[rows], distances], axis=1)
            positions = np.concatenate([candidates[rows], positions + columns.start], axis=1)
            order = np.argsort(distances, axis=1, kind="stable")[:, :wanted]
            values[rows], candidates[rows] = (np.take_along_axis(part, order, 1) for part in (distances, positions))
    return candidates, values


FAISS = Engine("faiss", by_faiss, rounds=True)
