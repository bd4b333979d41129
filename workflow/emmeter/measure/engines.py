"""Engines: ways of finding the images nearest to each of many, and which of them this machine computes rightly.

An engine proposes candidates and tells their squared distances, exactly or within a proven error.  Their distances are
then recomputed in integers, which decide; where the proposal does not prove that no other image is as near, the image
is compared with all others.  So every engine gives the same neighbours, and they differ in speed alone:

pixels            differences of pixels, in integers; for small sets
float32 products  products of matrices of float32 whose every sum is an integer below 2^24: exact in any order
faiss             FAISS's flat index in float32, on the CPU
faiss-gpu         the same on a GPU
integer products  products of bytes, by instructions that not all processors have

An engine serves only where a test in the same process finds it right: libraries have products of bytes that overflow on
processors without the instructions for them, and tell nobody.
"""

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np

SLACK = 6  # candidates beyond those asked for, so that rounding and ties seldom hide a true neighbour
SMALL = 2**28  # pixel differences that take less time than to import FAISS and torch
LARGE = 2**36  # pixel differences that take longer than to test and time products of bytes
BYTE_PIXELS = 2**15  # pixels up to which |b|^2 - 2 q b of signed bytes fits int32
FLOAT_PIXELS = 2**10  # pixels up to which q b of signed bytes is an integer of at most 2^24: exact in float32
ROWS, COLUMNS = 2**10, 2**12  # images of a block of float32 products
BLOCK = 2**22  # pixel differences at once
FAISS_BLOCK = 2**25  # float32 pixels that FAISS holds at once
CENTRE_IMAGES = 2**10
GPU_SCRATCH = 2**28  # bytes of FAISS's own on a GPU, which jobs may share
RACE = 2**30  # pixel differences of a lap
Proposer = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


class EngineError(RuntimeError):
    """An engine does not work on this machine, or gives distances that are wrong."""


@dataclass(frozen=True)
class Engine:
    """name: as in score.json.

    propose: from (m, d) and (N, d) uint8 and a number, at most N, the candidates: (m, number) positions and their
        squared distances, such that no other image's, as the engine computes it, is smaller.
    rounds: whether these distances may be off by `rounding`; otherwise they are exact.
    """

    name: str
    propose: Proposer
    rounds: bool = False


def nearest(query: np.ndarray, base: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, str]:
    """The `k` images nearest to each of `query`, exactly, by the fastest engine that is right.

    Args:
        query: (m, d) uint8.
        base: (N, d) uint8.
        k: at most N.
    Returns:
        (m, k) int64 positions in `base`, nearest first, ties by position; (m, k) int64 squared distances; and the name
        of the engine, which is the same for all images.
    """
    failed, failure = "", Exception()
    for engine in engines(query, base, k):
        if failed:
            reason = str(failure).strip().splitlines() or [type(failure).__name__]
            print(f"note: scored by {engine.name}, as {failed} does not work here: {reason[-1]}", file=sys.stderr)
        try:
            return *search(engine, query, base, k), engine.name
        except Exception as error:  # whatever libraries raise where memory or a GPU fails them
            failed, failure = engine.name, error
    raise failure


def engines(query: np.ndarray, base: np.ndarray, k: int) -> Iterator[Engine]:
    """The engines that are right on this machine, the one to use first; the next serves if one fails after all."""
    if query.size * len(base) < SMALL or k + SLACK >= len(base):
        yield PIXELS
        return
    if gpu_present():
        yield FAISS_GPU  # tests itself, in a process of its own
    pixels = base.shape[1]
    # On macOS torch and FAISS must not meet in one process: each brings an OpenMP library, and the second ends it.
    apart = sys.platform == "darwin"
    sure = FAISS if not (apart and "torch" in sys.modules) and fault(FAISS, pixels) is None else FLOATS
    large = query.size * len(base) >= LARGE
    if large and not apart and fault(PRODUCTS, pixels) is None and faster(PRODUCTS, sure, query, base):
        yield PRODUCTS
    yield sure
    if sure is not FLOATS:
        yield FLOATS


def search(engine: Engine, query: np.ndarray, base: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """What an engine proposes, decided in integers; as `nearest`.

    Raises:
        EngineError: a candidate is no image, comes twice, or is not as far away as the engine says.
    """
    wanted = min(k + SLACK, len(base))
    candidates, values = engine.propose(query, base, wanted)
    ordered = np.sort(candidates, axis=1)
    if ordered.min() < 0 or ordered.max() >= len(base) or (ordered[:, 1:] == ordered[:, :-1]).any():
        raise EngineError("proposes images that there are not, or one image twice")
    squared = squared_distances(query, base, candidates)
    values = values.astype(np.float64)
    norms = _centred_norms(query, base) if engine.rounds else None
    if not (np.abs(values - squared) <= _error(norms, squared, base.shape[1])).all():  # not: NaN
        raise EngineError("its distances are wrong")
    order = np.lexsort((candidates, squared), axis=1)[:, :k]
    candidates, squared = np.take_along_axis(candidates, order, 1), np.take_along_axis(squared, order, 1)
    if wanted < len(base):
        farthest = squared[:, -1:]
        proven = values.max(axis=1, keepdims=True) - _error(norms, farthest, base.shape[1]) > farthest
        rows = np.flatnonzero(~proven[:, 0])
        if len(rows):
            candidates[rows], squared[rows] = by_floats(query[rows], base, k)
    return candidates, squared


def _error(norms: np.ndarray | None, squared: np.ndarray, pixels: int) -> np.ndarray:
    """What `rounding` allows each distance; nothing without norms, of an engine that is exact."""
    return np.zeros(squared.shape) if norms is None else rounding(norms, squared, pixels)


def rounding(norms: np.ndarray, squared: np.ndarray, pixels: int) -> np.ndarray:
    """How far a squared distance in float32 may be off, for images at most so far away.

    Let q and b be the pixels of two images less those of a centre of whole grey levels.  They are integers of 8 bits
    and a sign, which float32 holds as they are (as do the shorter types that GPUs may use instead), and D = |q - b|^2
    is the true squared distance.  FAISS computes it as |q|^2 + |b|^2 - 2 q b, each part by d products and their sum
    (d pixels), in an order that depends on the processor.  In any order, blocked or not, with fused multiplications or
    without, each product goes through at most d + 2 roundings: its own, d - 1 of sums, and two where the three parts
    are put together, in whatever order.  So the result is sum_i t_i (1 + e_i) over the terms t_i of D, with
    |e_i| <= gamma = n eps / (1 - n eps) for n = d + 2 (Higham, Accuracy and Stability of Numerical Algorithms,
    section 3.1; eps = 2^-23 is twice the rounding error of float32, and covers sums that are cut instead of rounded),
    and

        |result - D| <= gamma sum_i |t_i| <= gamma (|q|^2 + |b|^2 + 2 sum_i |q_i b_i|) <= gamma (|q| + |b|)^2

    by Cauchy and Schwarz.  A sum of squared differences, which FAISS forms of few images, has fewer roundings of terms
    that add up to D <= (|q| + |b|)^2, and a negative result that is set to 0 comes nearer to D >= 0.  With
    |b| <= |q| + sqrt(D) the bound needs no other image's norm:

        |result - D| <= gamma (2 |q| + sqrt(D))^2

    So if every result that is not among the candidates is at least v, and T + gamma (2 |q| + sqrt(T))^2 < v, then no
    image outside the candidates has D <= T.

    Args:
        norms: (m,) |q| of each image.
        squared: (m, c) D, or T.
        pixels: d; infinity is returned where n eps is not below 1, from 8 million pixels on.
    """
    relative = (pixels + 2) * float(np.finfo(np.float32).eps)
    if relative >= 1:
        return np.full(squared.shape, np.inf)
    return relative / (1 - relative) * (2 * norms[:, None] + np.sqrt(squared)) ** 2


def _centre(base: np.ndarray) -> np.ndarray:
    """(d,) float32 whole grey levels near the mean of `base`: centring shrinks the squares that cancel."""
    step = -(-len(base) // CENTRE_IMAGES)
    return np.rint(base[::step].mean(axis=0, dtype=np.float64)).astype(np.float32)


def _centred_norms(query: np.ndarray, base: np.ndarray) -> np.ndarray:
    """(m,) |q| of `rounding`."""
    centre = _centre(base)
    norms = np.empty(len(query))
    for rows in _blocks(len(query), max(1, BLOCK // query.shape[1])):
        centred = (query[rows] - centre).astype(np.float64)
        norms[rows] = np.sqrt(np.einsum("md,md->m", centred, centred))
    return norms


def _blocks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def squared_distances(query: np.ndarray, base: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(m, c) int64 squared distances to the candidates, in integers.

    At most 255^2 a pixel, so int32 would hold 33,000 pixels.
    """
    squared = np.empty(candidates.shape, np.int64)
    columns = max(1, BLOCK // base.shape[1])
    for rows in _blocks(len(query), max(1, columns // max(1, candidates.shape[1]))):
        images = query[rows, None, :].astype(np.int32)
        for part in _blocks(candidates.shape[1], columns):
            difference = images - base[candidates[rows, part]]
            squared[rows, part] = np.einsum("mcd,mcd->mc", difference, difference, dtype=np.int64)
    return squared


# The engines


def by_pixels(query: np.ndarray, base: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """All images compared pixel by pixel."""
    kept = np.empty((len(query), wanted), np.int64)
    for rows in _blocks(len(query), max(1, BLOCK // len(base))):
        every = np.broadcast_to(np.arange(len(base)), (rows.stop - rows.start, len(base)))
        kept[rows] = _smallest(squared_distances(query[rows], base, every) * len(base) + every, wanted)
    return kept % len(base), kept // len(base)


def by_floats(query: np.ndarray, base: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact distances |q|^2 + |b|^2 - 2 q b from products of float32 matrices, nearest first, ties by position.

    Both sides move from 0..255 to -128..127, which leaves differences as they are.  Then the products of FLOAT_PIXELS
    pixels and all their partial sums are integers of at most 2^24, which float32 holds: nothing is rounded, whatever
    the order, and even where a library rounds the factors to 8 bits.  Sums over more pixels are formed in float64.
    """
    count = len(base)
    kept = np.empty((len(query), wanted), np.int64)
    for rows in _blocks(len(query), ROWS):
        best = np.empty((rows.stop - rows.start, 0), np.int64)
        for columns in _blocks(count, COLUMNS):
            squared = np.zeros((rows.stop - rows.start, columns.stop - columns.start))
            for pixels in _blocks(base.shape[1], FLOAT_PIXELS):
                q, b = (of.astype(np.float32) - 128 for of in (query[rows, pixels], base[columns, pixels]))
                squared += np.einsum("md,md->m", q, q)[:, None]
                squared += np.einsum("nd,nd->n", b, b)
                squared -= 2 * np.matmul(q, b.T)
            # One integer holds distance and position: at most 2^16 d N, below 2^63 where `base` has below 2^47 bytes.
            keys = squared.astype(np.int64) * count + np.arange(columns.start, columns.stop)
            best = _smallest(np.concatenate([best, keys], axis=1), wanted)
        kept[rows] = best
    return kept % count, kept // count


def _smallest(keys: np.ndarray, wanted: int) -> np.ndarray:
    """(m, at most `wanted`) the smallest of each row, sorted."""
    if wanted < keys.shape[1]:
        keys = np.partition(keys, wanted - 1, axis=1)[:, :wanted]
    return np.sort(keys, axis=1)


def by_products(query: np.ndarray, base: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """By |b|^2 - 2 q b: products of bytes summed in int32, for which some processors have instructions.

    With AVX-512 VNNI they are several times as fast as float32.  Without, oneDNN adds pairs of products in 16 bits,
    where they overflow, and without oneDNN torch has but a loop.
    """
    import torch

    # Differences stay the same when both sides move from 0..255 to -128..127, the range of a signed byte.
    asked, stored = (torch.from_numpy(np.bitwise_xor(images, 128).view(np.int8)) for images in (query, base))
    wide = torch.int32 if query.shape[1] <= BYTE_PIXELS else torch.int64
    squares = torch.from_numpy(_signed_squares(base)).to(wide)
    norms = torch.from_numpy(_signed_squares(query))[:, None]
    positions, values = [], []
    for rows, own in zip(*(of.split(max(1, 2**25 // len(base))) for of in (asked, norms)), strict=True):
        pairs = zip(rows.split(BYTE_PIXELS, dim=1), stored.split(BYTE_PIXELS, dim=1), strict=True)
        products = reduce(torch.add, (torch.ops.aten._int_mm(q, b.T).to(wide) for q, b in pairs))
        found = products.mul_(-2).add_(squares).topk(wanted, largest=False)
        positions.append(found.indices)
        values.append(found.values.to(torch.int64) + own)
    return torch.cat(positions).numpy(), torch.cat(values).numpy()


def _signed_squares(images: np.ndarray) -> np.ndarray:
    """(m,) int64 |image|^2 of (m, d) uint8 moved to -128..127, in float32, which holds FLOAT_PIXELS of them exactly."""
    squares = np.zeros(len(images), np.int64)
    for rows in _blocks(len(images), ROWS):
        for pixels in _blocks(images.shape[1], FLOAT_PIXELS):
            signed = images[rows, pixels].astype(np.float32) - 128
            squares[rows] += np.einsum("md,md->m", signed, signed).astype(np.int64)
    return squares


def by_faiss(query: np.ndarray, base: np.ndarray, wanted: int, gpu: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """By FAISS's flat index in float32, on pixels less those of a centre; see `rounding`.

    Args:
        gpu: FAISS's resources of the GPU to use, if any.
    """
    pixels = base.shape[1]
    index, centre = _flat_index(pixels, gpu), _centre(base)
    candidates = np.full((len(query), wanted), -1, np.int64)
    values = np.full((len(query), wanted), np.inf, np.float32)
    size = max(1, FAISS_BLOCK // pixels)
    for columns in _blocks(len(base), size):
        index.reset()
        index.add(base[columns] - centre)
        for rows in _blocks(len(query), size):
            found, positions = index.search(query[rows] - centre, min(wanted, columns.stop - columns.start))
            found = np.concatenate([values[rows], found], axis=1)
            positions = np.concatenate([candidates[rows], positions + columns.start], axis=1)
            order = np.argsort(found, axis=1, kind="stable")[:, :wanted]
            values[rows], candidates[rows] = (np.take_along_axis(of, order, 1) for of in (found, positions))
    return candidates, values


def _flat_index(pixels: int, gpu: Any) -> Any:
    import faiss

    if gpu is None:
        return faiss.IndexFlatL2(pixels)
    config = faiss.GpuIndexFlatConfig()
    config.device = 0  # of those that the job sees
    config.use_cuvs = False  # which rounds otherwise
    return faiss.GpuIndexFlatL2(gpu, pixels, config)


# FAISS on a GPU


def gpu_present() -> bool:
    """Whether torch sees a GPU for CUDA.  FAISS must not be asked: it may end the process where the driver is old."""
    if sys.platform == "darwin":
        return False
    import torch

    return torch.cuda.is_available()


def by_faiss_gpu(query: np.ndarray, base: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """As `by_faiss`, in a process of its own: FAISS ends its process where a call of CUDA fails (a GPU that it was not
    built for, no memory left).

    Raises:
        EngineError: that process has failed, or found FAISS's distances on the GPU wrong.
    """
    code = "from emmeter.measure.engines import serve; serve()"
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    sizes = np.array([len(query), len(base), base.shape[1], wanted], np.int64)
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=answer, stderr=complaints,
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        assert process.stdin is not None
        try:
            with process.stdin as pipe:
                pipe.write(sizes.tobytes())
                for images in (query, base):
                    pipe.write(np.ascontiguousarray(images).data)
        except BrokenPipeError:
            pass  # it has ended: the status tells
        finally:
            status = process.wait()
        answer.seek(0)
        complaints.seek(0)
        content = answer.read()
        shape, count = (len(query), wanted), len(query) * wanted
        if status != 0 or len(content) != 12 * count:
            lines = complaints.read().decode(errors="replace").strip().splitlines()
            raise EngineError(f"its process has ended with status {status}{f', {lines[-1]}' if lines else ''}")
    candidates = np.frombuffer(content, np.int64, count).reshape(shape)
    return candidates.copy(), np.frombuffer(content, np.float32, count, 8 * count).reshape(shape)


def serve() -> None:
    """The other side of `by_faiss_gpu`: images from standard input, candidates and distances to standard output."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no part of the answer
    count, stored, pixels, wanted = np.frombuffer(sys.stdin.buffer.read(32), np.int64).tolist()
    query, base = (
        np.frombuffer(sys.stdin.buffer.read(rows * pixels), np.uint8).reshape(rows, pixels) for rows in (count, stored)
    )
    import faiss

    gpu = faiss.StandardGpuResources()
    gpu.setTempMemory(GPU_SCRATCH)
    on_gpu = Engine("faiss-gpu", partial(by_faiss, gpu=gpu), rounds=True)
    if (reason := fault(on_gpu, pixels)) is not None:
        sys.exit(reason)
    candidates, values = on_gpu.propose(query, base, wanted)
    with answer:
        answer.write(np.ascontiguousarray(candidates, np.int64).tobytes())
        answer.write(np.ascontiguousarray(values, np.float32).tobytes())


PIXELS = Engine("pixels", by_pixels)
FLOATS = Engine("float32 products", by_floats)
PRODUCTS = Engine("integer products", by_products)
FAISS = Engine("faiss", by_faiss, rounds=True)
FAISS_GPU = Engine("faiss-gpu", by_faiss_gpu, rounds=True)


# Whether they are right, and fast


def fault(engine: Engine, pixels: int) -> str | None:
    """What is wrong with an engine on this machine, by `trials` of images with so many pixels among others.

    None where all its distances are as exact as it promises, and its neighbours exact.
    """
    try:
        for query, base in trials(pixels):
            every = _exact_squared(query, base)
            candidates, values = engine.propose(query, base, len(base))
            norms = _centred_norms(query, base) if engine.rounds else None
            told = np.take_along_axis(every, candidates, 1)
            if not (np.abs(values.astype(np.float64) - told) <= _error(norms, told, base.shape[1])).all():
                return "its distances are wrong"
            k = min(3, len(base))
            order = np.argsort(every, axis=1, kind="stable")[:, :k]
            candidates, squared = search(engine, query, base, k)
            if not (np.array_equal(candidates, order) and np.array_equal(squared, np.take_along_axis(every, order, 1))):
                return "its neighbours are wrong"
    except Exception as error:  # not installed, not built for this machine, no memory: whatever libraries raise
        return f"{type(error).__name__}: {error}"
    return None


def trials(pixels: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Query and base, (m, d) and (N, d) uint8, of several shapes: random, and of the extreme bytes only.

    Products of extremes overflow first.  Odd sizes have rests that libraries treat apart, and there are more pixels
    than a block of any engine has.
    """
    random = np.random.default_rng(0)
    shapes = [(1, 9, 1), (33, 67, 3), (19, 130, 257), (32, 100, 768), (3, 13, 4099), (2, 12, BYTE_PIXELS + 1)]
    own = max(4, min(130, BLOCK // 8 // pixels))
    for count, stored, width in (*shapes, (max(2, own // 5), own, pixels)):
        size = (count + stored, width)
        images = random.integers(0, 256, size, np.uint8)
        yield images[:count], images[count:]
        for share in (0.1, 0.5):  # of 255, among 0
            images = np.uint8(255) * (random.random(size, np.float32) < share)
            images[0], images[count - 1], images[count::7], images[-1] = 0, 255, 0, 255
            yield images[:count], images[count:]


def _exact_squared(query: np.ndarray, base: np.ndarray) -> np.ndarray:
    """(m, N) int64 squared distances, from products of float64: integers below 2^53, nothing is rounded."""
    q, b = query.astype(np.float64), base.astype(np.float64)
    return ((q**2).sum(1)[:, None] + (b**2).sum(1) - 2 * q @ b.T).astype(np.int64)


def faster(engine: Engine, other: Engine, query: np.ndarray, base: np.ndarray) -> bool:
    """Whether an engine is faster than another on a part of these images; results are the same with either."""
    images = max(2 * SLACK, math.isqrt(RACE // base.shape[1]))  # of both: each is prepared once and compared with all
    part = query[:images], base[:images], min(2 * SLACK, len(base))
    best = {one: min(_seconds(one, *part) for _ in range(2)) for one in (other, engine)}
    return best[engine] < best[other]


def _seconds(engine: Engine, query: np.ndarray, base: np.ndarray, wanted: int) -> float:
    started = time.perf_counter()
    engine.propose(query, base, wanted)
    return time.perf_counter() - started
