"""The search of an audit: 10,000 generated against 50,000 training images, in blocks of bounded memory.

`emmeter.measure.proximity.Search`, which is exact, against `torch.cdist` and `topk` in float32, on images that resemble
photographs: their amplitudes fall with frequency, and colours agree.  A quarter of the generated images are near copies
(noise of up to NOISE grey levels).  `--noise` takes random bytes instead, of which no direction tells more than
another.  If our result differs on a sample of rows from a reference in exact integers, the benchmark fails.

`--memory` bounds the images that are held at once, of which the rest is in a temporary file, as in `emm audit`.  With
`--alone`, plain is not run: at large images it would hold all of them in float32.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks import plain, score, timing
from benchmarks.record import Row, make
from emmeter.command import positive
from emmeter.data.collection.store import Store
from emmeter.errors import StageError
from emmeter.files.provenance import cores
from emmeter.machine.device import select
from emmeter.measure.engines.contract import blocks
from emmeter.measure.proximity import Nearest, Search, Training
from emmeter.stages.audit import split

NOISE = 3
MADE = 2**24  # values that are made at once
EXPONENT = 1.9  # amplitudes fall as frequency to this power: 192 directions hold 95 % of the variance, as of CIFAR-10


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queries", type=positive, default=10_000, help="generated images")
    parser.add_argument("--train", type=positive, default=50_000, help="training images")
    parser.add_argument("--side", type=positive, default=32, help="pixels, of images with three channels")
    parser.add_argument("--noise", action="store_true", help="random bytes instead of images like photographs")
    parser.add_argument("--memory", type=positive, default=3_000_000_000, help="bytes of images in memory")
    parser.add_argument("--alone", action="store_true", help="do not time plain, which needs more memory")
    parser.add_argument("--threads", type=positive, default=cores())
    parser.add_argument("--rounds", type=positive, default=3, help="timings of each way")


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """Yield one row: seconds for all queries.

    Raises:
        StageError: our result differs from the exact reference.
    """
    device = select(args.device, args.threads)
    with tempfile.TemporaryDirectory() as folder:
        generated, train = stores(args, Path(folder))
        alone = np.arange(len(train))
        sizes = split([len(generated), len(train)], train.pixels, args.memory)

        def ours() -> Nearest:
            return Search(Training(train, alone, alone), sizes).nearest(generated)

        check(ours(), generated, train)
        contestants: dict[str, Callable[[], object]] = {"ours": ours}
        if not args.alone:
            queries, base = (torch.from_numpy(images.rows(slice(None))) for images in (generated, train))
            contestants["plain"] = lambda: plain.nearest(queries, base, 2, device)
        with threadpool_limits(args.threads):
            for work in contestants.values():
                work()
            taken = timing.alternate(contestants, args.rounds, device)
    medians = {name: float(np.median(times.wall)) for name, times in taken.items()}
    compared = {} if args.alone else timing.ratios(taken["ours"], {"plain": taken["plain"]}, device)
    details = {"images": "noise" if args.noise else "like photographs", "threads": args.threads, "rounds": args.rounds}
    case = f"{args.queries} x {args.train} x {train.pixels}"
    yield make("audit", case, "s", medians["ours"], medians.get("plain"), None, details, device.type, ratios=compared)


def stores(args: argparse.Namespace, folder: Path) -> tuple[Store, Store]:
    """Generated and training images, in a file in `folder` if they exceed the memory."""
    random, shape = np.random.default_rng(0), (3, args.side, args.side)
    large = (args.queries + args.train) * int(np.prod(shape)) > args.memory
    generated, train = (Store(count, shape, folder if large else None) for count in (args.queries, args.train))
    for store in (train, generated):
        for part in blocks(len(store), max(1, MADE // store.pixels)):
            store.write(part.start, pictures(random, part.stop - part.start, args.side, args.noise))
    copies = np.arange(min(args.queries // 4, args.train))
    for part in blocks(len(copies), max(1, MADE // train.pixels)):
        copied = train.take(copies[part]).astype(np.int16)
        copied += random.integers(-NOISE, NOISE + 1, copied.shape, np.int16)
        generated.write(part.start, np.clip(copied, 0, 255).astype(np.uint8))
    return generated, train


def pictures(random: np.random.Generator, count: int, side: int, noise: bool) -> np.ndarray:
    """(count, 3, side, side) uint8 images whose amplitudes fall with frequency, or random bytes."""
    if noise:
        return random.integers(0, 256, (count, 3, side, side), np.uint8)
    height, width = np.fft.fftfreq(side)[:, None] * side, np.fft.rfftfreq(side) * side
    falling = (1 + np.hypot(height, width)) ** -EXPONENT
    white = random.standard_normal((count, 3, side, side), np.float32)
    white += 2 * white.mean(axis=1, keepdims=True) * 3**0.5  # colours agree
    values = np.fft.irfft2(np.fft.rfft2(white) * falling, s=(side, side))
    scale = 60 / values.std(axis=(1, 2, 3), keepdims=True)
    return np.clip(values * scale + 128, 0, 255).astype(np.uint8)


def check(nearest: Nearest, generated: Store, train: Store) -> None:
    """Compare some rows with the exact distances to every training image.

    Raises:
        StageError: a distance or an index differs.
    """
    rows = np.linspace(0, len(generated) - 1, min(score.CHECKED, len(generated))).astype(int)
    some = generated.take(rows)
    step = max(1, MADE // train.pixels)
    exact = np.concatenate(
        [score.squared_distances(some, train.rows(part)) for part in blocks(len(train), step)], axis=1
    )
    true = np.argsort(exact, axis=1, kind="stable")[:, :2]
    found = np.stack([nearest.first, nearest.second], axis=1)[rows]
    if not (np.array_equal(found, true) and np.array_equal(nearest.squared[rows], np.take_along_axis(exact, true, 1))):
        raise StageError("emmeter.measure.proximity.Search: does not equal the exact reference")
