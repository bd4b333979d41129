"""The audit compares generated images with training images, as files of any origin, and writes what it finds."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from emmeter.data.collection.gather import Collection, annotated, gather, grouped
from emmeter.data.collection.manifest import read_manifest
from emmeter.data.collection.sources import Source, find
from emmeter.data.collection.store import Store
from emmeter.errors import DataError
from emmeter.measure import audit as measured
from emmeter.measure import features as feature_space
from emmeter.measure.audit import SURROUNDING, THRESHOLDS, Audit, Criterion, Finding, Images
from emmeter.measure.proximity import Blocks, Nearest, Search, Training, first_equal, numbered

OVERHEAD = 700_000_000  # bytes of Python, of the libraries and of the engines' blocks
SMALLEST_MEMORY = 1_000_000_000

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Input:
    """A set of images: a path, and the name of an array if it is an .npz file with several."""

    path: Path
    array: str | None = None


@dataclass(frozen=True)
class Options:
    """Choices of an audit."""

    criteria: tuple[Criterion, ...] = (Criterion("ratio", THRESHOLDS["ratio"]),)
    features: Path | None = None
    """TorchScript file of the network for the criterion `cosine`."""
    mirrored: bool = False
    """Whether mirror images of training images count."""
    resize: int | None = None
    """Side to which the middle square of every image is resampled (Lanczos)."""
    group_pattern: str | None = None
    """Regular expression for the group of a training image in its name."""
    manifest: Path | None = None
    """CSV or JSONL file with groups, labels, prompts and seeds of images."""
    limit: float = 0.01
    """Highest rate of copies that is accepted."""
    memory: int = 4_000_000_000
    """Bytes that the audit may use."""


@dataclass(frozen=True)
class Audited:
    """An audit with the images that it compared."""

    result: Audit
    options: Options
    generated: Collection
    train: Collection
    held_out: Collection | None
    groups: list[str] | None = field(default=None)
    """Group of each training image, empty for an image without one; None without groups."""


class _Silent(AbstractContextManager[Callable[[int], None]]):
    """Progress that is not shown."""

    def __enter__(self) -> Callable[[int], None]:
        return lambda _: None

    def __exit__(self, *_: object) -> None:
        return None


def silent(_: str, __: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show no progress."""
    return _Silent()


def audit(
    generated: Input,
    train: Input,
    held_out: Input | None = None,
    options: Options | None = None,
    *,
    spool: Path = Path(),
    progress: Progress = silent,
) -> Audited:
    """Compare generated images with training images.

    Args:
        generated: the generated images.
        train: the images that the model was trained on.
        held_out: images of the same kind that the model was not trained on; they show what the criteria call copies
            among new real images.
        options: choices; the defaults are those of `emm audit`.
        spool: folder of a temporary file, for images that exceed the memory.
        progress: from a title and a number of steps, a context of a function that receives the steps done.
    Raises:
        DataError: images, manifest or network cannot be used; one line per fault.
        OSError: a file cannot be read or written.
    """
    options = options or Options()
    inputs = [generated, train, *([held_out] if held_out else [])]
    sources = _sources(inputs, options)
    available = max(options.memory - OVERHEAD, SMALLEST_MEMORY // 4)

    def folder(size: int) -> Path | None:
        return spool if size > available else None

    with progress("reading images", sum(len(source.names) for source in sources)) as tick:
        collections = gather(sources, options.resize, folder, tick)
    made, trained, *others = collections
    groups = grouped(trained, options.group_pattern)
    same = first_equal(trained.digests, trained.mirrored_digests if options.mirrored else None)
    training = Training(trained.store, same, numbered(groups, same))
    if len(np.unique(training.kin[training.distinct])) < 2:
        kind = "groups of images" if groups else "distinct images"
        raise DataError(f"{train.path}: has fewer than two {kind}, so no image has a second neighbour")
    sizes = _blocks(collections, available)
    held = others[0] if others else None
    result = _compared(made, training, held, options, sizes, progress)
    return Audited(result, options, made, trained, held, groups)


def _sources(inputs: Sequence[Input], options: Options) -> list[Source]:
    """The sets of images with the notes of the manifest."""
    sources = [find(each.path, each.array) for each in inputs]
    if options.manifest is None:
        return sources
    rows = read_manifest(options.manifest)
    noted = [annotated(source, rows) for source in sources]
    if all(each is source for each, source in zip(noted, sources, strict=True)):
        raise DataError(f"{options.manifest}: names no image of the sets, such as {sources[1].names[0]}")
    return noted


def _blocks(collections: Sequence[Collection], available: int) -> Blocks:
    """Numbers of images that are in memory at once."""
    pixels = collections[0].store.pixels
    total = sum(len(each) for each in collections) * pixels
    if total <= available:
        longest = max(len(each) for each in collections)
        return Blocks(longest, longest)
    return Blocks(max(1, available // 2 // pixels), max(1, available // 4 // pixels))


def _compared(
    generated: Collection,
    training: Training,
    held_out: Collection | None,
    options: Options,
    sizes: Blocks,
    progress: Progress,
) -> Audit:
    """Apply all criteria."""
    sets = [generated, *([held_out] if held_out else [])]
    count = sum(map(len, sets))
    pairs = len(training.distinct)
    calibrated = any(criterion.name == "calibrated" for criterion in options.criteria)
    with progress("comparing images", pairs * count + len(generated) * (len(held_out) if held_out else 0)) as tick:
        search = Search(training, sizes, options.mirrored, tick)
        nearest = [search.nearest(each.store) for each in sets]
        to_held_out = _distances(generated, held_out, sizes, options.mirrored, tick) if held_out else None
    surroundings: list[np.ndarray] = []
    if calibrated:
        matched, where = np.unique(np.concatenate([each.first for each in nearest]), return_inverse=True)
        with progress("comparing training images", pairs * len(matched)) as tick:
            search = Search(training, sizes, options.mirrored, tick)
            surroundings = np.split(search.surroundings(matched, SURROUNDING)[where], [len(generated)])
    similar: list[tuple[np.ndarray, np.ndarray]] = []
    if options.features is not None:
        similar = _similar([each.store for each in sets], training, options, progress)
    findings = []
    for criterion in options.criteria:
        images = [
            _judged(criterion, near, surroundings[i] if surroundings else None, similar[i] if similar else None)
            for i, near in enumerate(nearest)
        ]
        verdict = measured.answer(images[0].rate, options.limit)
        findings.append(Finding(criterion, images[0], images[1] if held_out else None, verdict))
    return Audit(tuple(findings), options.limit, training, nearest[0], nearest[1] if held_out else None, to_held_out)


def _judged(
    criterion: Criterion,
    nearest: Nearest,
    surroundings: np.ndarray | None,
    similar: tuple[np.ndarray, np.ndarray] | None,
) -> Images:
    """One set of images under one criterion."""
    if criterion.name == "ratio":
        return Images(nearest.ratio, nearest.first, measured.by_ratio(nearest, criterion.threshold))
    if criterion.name == "calibrated":
        assert surroundings is not None
        values = np.sqrt(nearest.squared[:, 0]) / surroundings
        return Images(values, nearest.first, values < float(criterion.threshold))
    assert similar is not None
    return Images(similar[1], similar[0], measured.by_similarity(similar[1], criterion.threshold))


def _distances(
    generated: Collection, held_out: Collection, sizes: Blocks, mirrored: bool, tick: Callable[[int], None]
) -> np.ndarray:
    """(m,) squared distance of each generated image to the nearest held-out image."""
    alone = np.arange(len(held_out))
    same = first_equal(held_out.digests, held_out.mirrored_digests if mirrored else None)
    return Search(Training(held_out.store, same, alone), sizes, mirrored, tick).distances(generated.store)


def _similar(
    sets: Sequence[Store], training: Training, options: Options, progress: Progress
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each set, the training image of the highest cosine similarity, and that similarity."""
    assert options.features is not None and isinstance(training.images, Store)
    compute = feature_space.network(options.features)
    every = [training.images, *sets]
    with progress("computing features", sum(map(len, every))) as tick:
        base, *queries = (feature_space.described(store, compute, tick) for store in every)
    results = [feature_space.most_similar(each, base) for each in queries]
    if options.mirrored:
        mirror = partial(_mirrored, compute)
        with progress("computing features of mirror images", sum(map(len, sets))) as tick:
            flipped = [feature_space.most_similar(feature_space.described(store, mirror, tick), base) for store in sets]
        results = [
            (np.where(other[1] > one[1], other[0], one[0]), np.maximum(one[1], other[1]))
            for one, other in zip(results, flipped, strict=True)
        ]
    return [(training.same[positions], values) for positions, values in results]


def _mirrored(compute: feature_space.Network, images: np.ndarray) -> np.ndarray:
    return compute(images[..., ::-1])


def parse_criterion(text: str) -> Criterion:
    """Read a criterion such as `ratio` or `calibrated=0.4`.

    Raises:
        ValueError: there is no such criterion, or the threshold is not between 0 and 1.
    """
    name, equals, number = text.partition("=")
    if name not in THRESHOLDS:
        raise ValueError(f"{text!r}: must be one of {', '.join(THRESHOLDS)}, or one with its threshold (ratio=1/4)")
    if not equals:
        return Criterion(name, THRESHOLDS[name])
    try:
        threshold = Fraction(number).limit_denominator(1_000_000)
    except (ValueError, ZeroDivisionError):
        threshold = Fraction(0)
    if not 0 < threshold < 1:
        raise ValueError(f"{text!r}: the threshold must be between 0 and 1, such as 0.25 or 1/3")
    return Criterion(name, threshold)


def parse_memory(text: str) -> int:
    """Read a size such as 4GB, 800MB or 2GiB, in bytes.

    Raises:
        ValueError: it is no size, or less than 1 GB.
    """
    units = {"gib": 2**30, "mib": 2**20, "gb": 10**9, "mb": 10**6, "g": 10**9, "m": 10**6}
    lower = text.strip().lower()
    unit = next((unit for unit in units if lower.endswith(unit)), None)
    try:
        size = int(float(lower.removesuffix(unit or "")) * units[unit or ""])
    except (ValueError, KeyError, OverflowError):
        raise ValueError(f"{text!r}: must be a size such as 4GB or 1500MB") from None
    if size < SMALLEST_MEMORY:
        raise ValueError(f"{text!r}: must be at least 1GB, of which the program itself needs most")
    return size


def output_folder(path: Path) -> None:
    """Make the folder of results.

    Raises:
        DataError: a file has its name.
    """
    if path.exists() and not path.is_dir():
        raise DataError(f"{path}: is a file; name a folder by -o")
    os.makedirs(path, exist_ok=True)
