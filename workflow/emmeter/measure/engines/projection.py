"""A search among projections: far fewer pixels to multiply, and a proof that no nearer image is missed.

Images vary mostly along few directions.  The engine projects all images onto the main ones and compares the
projections, of which the last coordinate is the length of what the projection leaves out.  By Pythagoras and the
triangle inequality the distance of two projections is never above that of the images.  So only images whose projections
are near enough can be neighbours, and only these are compared pixel by pixel, in integers.

What is computed is off by rounding.  With centred images q and t, P the projections as stored (float32) and p their
number of coordinates:

* The basis Q is computed in float64 with |Q'Q - 1| <= e; an exact basis is as near to it.  Products with d pixels add
  at most sqrt(p) (d + p + 4) 2^-52 of |q|.  With a = e + that, each projection is off by at most a |q|, the last
  coordinate, which is a root, by at most sqrt(3 a) |q|, and the storing adds 2^-23 |q|.  So

      |P(q) - P(t)| <= |q - t| + n (|q| + |t|)    with n = a + sqrt(3 a) + 2^-23

* The product of matrices in float32 is off by at most g (|P(q)| + |P(t)|)^2, as in `rounding`, where g is that of p + 4
  operations.

Both together bound the computed squared distance of every image that is within a squared distance T.
"""

import numpy as np

from emmeter.measure.engines.contract import Engine, EngineError, blocks
from emmeter.measure.engines.decision import SLACK, search
from emmeter.measure.engines.exact import BYTE_PIXELS
from emmeter.measure.engines.rounding import centre

DIRECTIONS = 192  # of the projection
SAMPLE, SAMPLE_BYTES = 2**11, 2**27  # images, and their bytes in float32, from which the directions are found
PART = 2**24  # values in float64 that are projected at once
ROWS, COLUMNS = 2**10, 2**15  # projections of a block of products
SHARE, FEW = 2**-6, 64  # of all images, or so many: where more remain to be compared, the projection is no help
PAIRS = 2**21  # pixels that are compared at once
CLOSE = 2.0**-40  # largest departure of the basis from an orthonormal one
FAR = np.iinfo(np.int64).max


class Projection:
    """An engine that compares projections, and leaves to another engine what they do not decide.

    It keeps the projections of the training images that it has seen last, because they are asked for in parts.
    """

    def __init__(self, otherwise: Engine, directions: int = DIRECTIONS):
        """Prepare for a search.

        Args:
            otherwise: the engine for images whose projections decide too little.
            directions: number of directions, at most.
        """
        self._otherwise, self._directions = otherwise, directions
        self._base: np.ndarray | None = None
        self._hopeless = False

    @property
    def engine(self) -> Engine:
        """This as an engine."""
        return Engine("projections", self.propose, decides=True)

    def propose(self, query: np.ndarray, base: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest images with their squared distances, in integers; see `contract.Engine`.

        Raises:
            EngineError: products of matrices are rounded more than float32 is.
        """
        import torch

        if torch.get_float32_matmul_precision() != "highest":
            raise EngineError("products of matrices are less precise than float32")
        if self._base is not base:
            self._prepare(base)
        positions = np.empty((len(query), wanted), np.int64)
        squared = np.empty((len(query), wanted), np.int64)
        for rows in blocks(len(query), ROWS):
            found = None if self._hopeless else self._decided(query[rows], base, wanted)
            if found is None:
                self._hopeless = True
                rest = slice(rows.start, None)
                positions[rest], squared[rest] = search(self._otherwise, query[rest], base, wanted)
                break
            positions[rows], squared[rows] = found
        return positions, squared

    def _prepare(self, base: np.ndarray) -> None:
        """Find the directions of `base` and project it."""
        self._base, self._hopeless = base, False
        self._middle = centre(base)
        self._basis = directions(base, self._middle, self._directions)
        self._stored, self._lengths = self._projected(base)

    def _projected(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Projections float32 (m, p + 1) of images (m, d), and (m,) |q|."""
        projections = np.empty((len(images), self._basis.shape[1] + 1), np.float32)
        squares = np.empty(len(images))
        for rows in blocks(len(images), max(1, PART // images.shape[1])):
            centred = images[rows].astype(np.float64) - self._middle
            kept = centred @ self._basis
            squares[rows] = np.einsum("md,md->m", centred, centred)
            projections[rows, :-1] = kept
            left = squares[rows] - np.einsum("mp,mp->m", kept, kept)
            projections[rows, -1] = np.sqrt(np.maximum(left, 0))
        return projections, np.sqrt(squares)

    def _decided(self, query: np.ndarray, base: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The nearest images of a block of queries; None if the projections leave too many of them."""
        import torch

        projections, lengths = self._projected(query)
        relative, gamma = self._errors(base.shape[1])
        reach = lengths + self._lengths.max()
        own = np.einsum("mp,mp->m", projections, projections, dtype=np.float64)
        asked = torch.from_numpy(projections)
        best = np.full((len(query), wanted), -1, np.int64), np.full((len(query), wanted), FAR)
        for columns in blocks(len(base), COLUMNS):
            stored = torch.from_numpy(self._stored[columns])
            near = torch.addmm(stored.square().sum(1), asked, stored.T, alpha=-2)
            first = near.topk(min(wanted + SLACK, near.shape[1]), largest=False, sorted=False).indices
            near.scatter_(1, first, float("inf"))
            rows = np.repeat(np.arange(len(query)), first.shape[1])
            best = _joined(best, rows, first.numpy().ravel() + columns.start, query, base)
            farthest = best[1][:, -1].astype(np.float64)
            limit = (np.sqrt(farthest) + relative * reach) ** 2 + gamma * ((1 + relative) * reach) ** 2 - own
            kept = near <= torch.from_numpy(np.nextafter(limit.astype(np.float32), np.float32(np.inf)))[:, None]
            if int(kept.sum()) > max(SHARE * near.numel(), FEW * len(query)):
                return None
            rows, others = (part.numpy() for part in kept.nonzero(as_tuple=True))
            best = _joined(best, rows, others + columns.start, query, base)
        return best

    def _errors(self, pixels: int) -> tuple[float, float]:
        """`n` and `g` of the head of this module."""
        coordinates = self._basis.shape[1] + 1
        off = CLOSE + coordinates**0.5 * (pixels + coordinates + 4) * 2.0**-52
        relative = (coordinates + 4) * 2.0**-23
        return off + (3 * off) ** 0.5 + 2.0**-23, relative / (1 - relative)


def directions(base: np.ndarray, middle: np.ndarray, count: int) -> np.ndarray:
    """(d, at most `count`) float64 orthonormal directions along which images vary most, nearly.

    They come from a sample by two steps of subspace iteration (Halko, Martinsson and Tropp 2011).  Worse directions
    would cost time, not exactness.

    Raises:
        EngineError: they are not orthonormal.
    """
    most = max(1, min(SAMPLE, SAMPLE_BYTES // (4 * base.shape[1])))
    sample = base[:: -(-len(base) // most)] - middle
    count = min(count, *sample.shape)
    basis = np.random.default_rng(0).standard_normal((base.shape[1], count), np.float32)
    for _ in range(2):
        basis = np.linalg.qr((sample.T @ (sample @ basis)).astype(np.float64))[0].astype(np.float32)
    basis = np.linalg.qr(basis.astype(np.float64))[0]
    if not np.linalg.norm(basis.T @ basis - np.eye(count)) <= CLOSE:
        raise EngineError("finds no orthonormal directions")
    return basis


def _joined(
    best: tuple[np.ndarray, np.ndarray], rows: np.ndarray, columns: np.ndarray, query: np.ndarray, base: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of known neighbours (m, k) and of some pairs of a query and an image; ties by position."""
    if not len(rows):
        return best
    count, wanted = best[0].shape
    row = np.concatenate([np.repeat(np.arange(count), wanted), rows])
    position = np.concatenate([best[0].ravel(), columns])
    squared = np.concatenate([best[1].ravel(), pair_distances(query, base, rows, columns)])
    order = np.lexsort((position, squared, row))
    starts = np.searchsorted(row[order], np.arange(count))
    kept = order[starts[:, None] + np.arange(wanted)]
    return position[kept], squared[kept]


def pair_distances(query: np.ndarray, base: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(n,) int64 squared distances of the pairs `query[rows]` and `base[columns]`, in integers."""
    squared = np.zeros(len(rows), np.int64)
    for part in blocks(len(rows), max(1, PAIRS // base.shape[1])):
        difference = query[rows[part]].astype(np.int16)
        difference -= base[columns[part]]
        for pixels in blocks(base.shape[1], BYTE_PIXELS):
            some = difference[:, pixels]
            squared[part] += np.einsum("nd,nd->n", some, some, dtype=np.int32)  # below 2^31
    return squared
