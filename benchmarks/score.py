"""Scoring: nearest neighbours of 10,000 generated among 50,000 training images of 3,072 values.

`emmeter.measure.criterion.neighbours`, which is exact, against `torch.cdist` and `topk` in float32.  The training
images are random.  A quarter of the generated images are copies of training images, half are near copies (noise of up
to NOISE grey levels), and the rest are random.  If our result differs on a sample of rows from a reference in exact
integers, the benchmark fails.  The details report the engine (`emmeter.measure.engines`) and the errors of plain
float32.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks import plain, timing
from benchmarks.record import Row, make
from emmeter.command import positive
from emmeter.errors import StageError
from emmeter.files.provenance import cores
from emmeter.machine.device import select
from emmeter.measure.criterion import Neighbours, memorized, neighbours

SHAPE = (3, 32, 32)
NOISE = 3
CHECKED = 32  # rows compared with the reference
REFERENCE_BLOCK = 5000  # training images per block of the reference


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queries", type=positive, default=10_000, help="generated images")
    parser.add_argument("--train", type=positive, default=50_000, help="training images")
    parser.add_argument("--neighbours", type=positive, default=2, help="per generated image; the criterion needs 2")
    parser.add_argument("--threads", type=positive, default=cores())
    parser.add_argument("--rounds", type=positive, default=timing.ROUNDS, help="timings of each way")


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """Yield one row: seconds for all queries.

    Raises:
        StageError: our result differs from the exact reference.
    """
    device = select(args.device, args.threads)
    generated, train = images(args.queries, args.train)
    groups = np.arange(len(train))
    queries, base = torch.from_numpy(generated), torch.from_numpy(train)
    result = neighbours(generated, train, groups, args.neighbours)
    check(result, generated, train)
    values, _ = plain.nearest(queries, base, args.neighbours, device)
    with threadpool_limits(args.threads):  # also limits FAISS and numpy, which the call above has loaded
        taken = timing.alternate(
            {
                "plain": lambda: plain.nearest(queries, base, args.neighbours, device),
                "ours": lambda: neighbours(generated, train, groups, args.neighbours),
            },
            args.rounds,
            device,
        )
    truth = np.sqrt(result.squared.astype(np.float64))
    verdicts = values[:, 0].numpy() < values[:, 1].numpy() / 3
    details = {
        "engine": result.engine,
        "neighbours": args.neighbours,
        "threads": args.threads,
        "rows checked exactly": min(CHECKED, len(generated)),
        "plain: largest error of a distance": float(np.abs(values.numpy() - truth).max()),
        "plain: wrong verdicts": int((verdicts != memorized(result)).sum()),
        "rounds": args.rounds,
    }
    ours, baseline = (float(np.median(taken[name].wall)) for name in ("ours", "plain"))
    case = f"{args.queries} x {args.train} x {int(np.prod(SHAPE))}"
    compared = timing.ratios(taken["ours"], {"plain": taken["plain"]}, device)
    yield make("score", case, "s", ours, baseline, None, details, device.type, ratios=compared)


def images(queries: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Make generated and training images: uint8 (m, C, H, W) and (N, C, H, W)."""
    random = np.random.default_rng(0)
    train = random.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    generated = random.integers(0, 256, (queries, *SHAPE), dtype=np.uint8)
    copies, near = queries // 4, queries // 2
    source = random.integers(0, count, copies + near)
    generated[:copies] = train[source[:copies]]
    noise = random.integers(-NOISE, NOISE + 1, (near, *SHAPE))
    generated[copies : copies + near] = np.clip(train[source[copies:]] + noise, 0, 255).astype(np.uint8)
    return generated[random.permutation(queries)], train


def check(result: Neighbours, generated: np.ndarray, train: np.ndarray) -> None:
    """Compare some rows with the exact distances to every training image.

    Raises:
        StageError: a distance or an index differs.
    """
    rows = np.linspace(0, len(generated) - 1, min(CHECKED, len(generated))).astype(int)
    exact = squared_distances(generated[rows], train)
    k = result.squared.shape[1]
    nearest = np.argsort(exact, axis=1, kind="stable")[:, :k]  # ties in order of position, as in `neighbours`
    if not (
        np.array_equal(result.indices[rows], nearest)
        and np.array_equal(result.squared[rows], np.take_along_axis(exact, nearest, 1))
    ):
        raise StageError("emmeter.measure.criterion.neighbours: does not equal the exact reference on random images")


def squared_distances(generated: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Squared distances to all training images: (m, N) int64.

    They come from products of float64 matrices.  Every partial sum is an integer below 2^53, so nothing is rounded.
    """
    query = generated.reshape(len(generated), -1).astype(np.float64)
    parts = []
    for start in range(0, len(train), REFERENCE_BLOCK):
        base = train[start : start + REFERENCE_BLOCK].reshape(-1, query.shape[1]).astype(np.float64)
        parts.append((query**2).sum(1)[:, None] + (base**2).sum(1)[None] - 2 * query @ base.T)
    return np.concatenate(parts, axis=1).astype(np.int64)
