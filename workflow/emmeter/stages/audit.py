"""The audit compares generated images with training images, as files of any origin, and writes what it finds."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import numpy as np

from emmeter.data.audited import Audited, Input, Options
from emmeter.data.collection.gather import Collection, annotated, gather, grouped
from emmeter.data.collection.manifest import read_manifest
from emmeter.data.collection.sources import Source, find
from emmeter.data.collection.store import Store
from emmeter.errors import DataError, SettingsError
from emmeter.files import checksums
from emmeter.files.tables import AUDIT_IMAGE_COLUMNS, AUDIT_TRAINING_COLUMNS
from emmeter.files.writing import write_csv, write_json, write_text
from emmeter.measure import audit as measured
from emmeter.measure import engines
from emmeter.measure import features as feature_space
from emmeter.measure.audit import SURROUNDING, Audit, Criterion, Finding, Images
from emmeter.measure.proximity import Blocks, Nearest, Search, Training, first_equal, numbered
from emmeter.presentation.audit_page import page
from emmeter.presentation.audit_tables import held_out_rows, image_rows, record, training_rows

RECORD, PAGE = "audit.json", "audit.html"
OVERHEAD = 1_250_000_000  # bytes of Python, of the libraries and of the engines' blocks
SMALL_IMAGE = 64  # values of an image, at least
LEAST = 250_000_000  # bytes of images in memory

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


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
        SettingsError: options contradict each other.
        DataError: images, manifest or network cannot be used; one line per fault.
        OSError: a file cannot be read or written.
    """
    options = options or Options()
    check(options)
    inputs = [generated, train, *([held_out] if held_out else [])]
    sources = sources_of(inputs, options)
    available = max(options.memory - OVERHEAD, LEAST)

    def folder(size: int) -> Path | None:
        return spool if size > available else None

    with progress("reading images", sum(len(source.names) for source in sources)) as tick:
        collections = gather(sources, options.resize, folder, _preloading(sources, tick), options.mirrored)
    made, trained, *others = collections
    groups = grouped(trained, options.group_pattern)
    same = first_equal(trained.digests, trained.mirrored_digests if options.mirrored else None)
    training = Training(trained.store, same, numbered(groups, same))
    if len(np.unique(training.kin[training.distinct])) < 2:
        kind = "groups of images" if groups else "distinct images"
        raise DataError(f"{train.path}: has fewer than two {kind}, so no image has a second neighbour")
    sizes = split([len(each) for each in collections], trained.store.pixels, available)
    held = others[0] if others else None
    result = compared(made, training, held, options, sizes, progress)
    return Audited(result, options, made, trained, held, groups)


def _preloading(sources: Sequence[Source], tick: Callable[[int], None]) -> Callable[[int], None]:
    """A `tick` that at its first call begins to import the libraries of large searches, beside the reading.

    By then the processes that read have been forked, which must not happen with these libraries loaded.
    """
    generated, train = (len(source.names) for source in sources[:2])
    waiting = [threading.Thread(target=engines.preload)] if generated * train * SMALL_IMAGE >= engines.SMALL else []

    def first(count: int) -> None:
        if waiting:
            waiting.pop().start()
        tick(count)

    return first


def check(options: Options) -> None:
    """Compare options with each other.  Raises SettingsError if they contradict each other."""
    names = [criterion.name for criterion in options.criteria]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise SettingsError(f"--criterion: names {repeated[0]} twice; give it one threshold")
    if "cosine" in names and options.features is None:
        raise SettingsError("--features: the criterion cosine needs a network; name its TorchScript file")
    if "cosine" not in names and options.features is not None:
        raise SettingsError("--features: serves the criterion cosine alone; add --criterion cosine")


def sources_of(inputs: Sequence[Input], options: Options) -> list[Source]:
    """The sets of images with the notes of the manifest."""
    sources = [find(each.path, each.array) for each in inputs]
    if options.manifest is None:
        return sources
    rows = read_manifest(options.manifest)
    noted = [annotated(source, rows) for source in sources]
    if all(each is source for each, source in zip(noted, sources, strict=True)):
        raise DataError(f"{options.manifest}: names no image of the sets, such as {sources[1].names[0]}")
    return noted


def split(counts: Sequence[int], pixels: int, available: int) -> Blocks:
    """Numbers of images that are in memory at once.

    Args:
        counts: images of each set.
        pixels: values of an image.
        available: bytes of images that may be in memory.
    """
    if sum(counts) * pixels <= available:
        return Blocks(max(counts), max(counts))
    return Blocks(max(1, available // 2 // pixels), max(1, available // 4 // pixels))


def compared(
    generated: Collection,
    training: Training,
    held_out: Collection | None,
    options: Options,
    sizes: Blocks,
    progress: Progress = silent,
    known: Sequence[Nearest] = (),
) -> Audit:
    """Apply all criteria.

    Args:
        known: nearest training images of the generated and of the held-out images, if they have been found already.
    """
    sets = [generated, *([held_out] if held_out else [])]
    count = sum(map(len, sets))
    pairs = len(training.distinct)
    calibrated = any(criterion.name == "calibrated" for criterion in options.criteria)
    with progress("comparing images", pairs * count + len(generated) * (len(held_out) if held_out else 0)) as tick:
        search = Search(training, sizes, options.mirrored, tick)
        nearest = known or [search.nearest(each.store) for each in sets]
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
        verdict = measured.answer(images[0].rate, options.limit, images[1].rate if held_out else None)
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


def write(audited: Audited, folder: Path, *, redact: bool = False) -> None:
    """Write the tables, the page and the record of an audit into a folder.

    The record `audit.json` is written last and is absent until all other files are complete.

    Args:
        redact: whether hashes of pixels replace names, and prompts, labels, seeds and paths are left out.
    Raises:
        OSError: a file cannot be written.
    """
    tables = {
        "images.csv": (AUDIT_IMAGE_COLUMNS, image_rows(audited, redact)),
        "training.csv": (AUDIT_TRAINING_COLUMNS, training_rows(audited, redact)),
        "held_out.csv": (AUDIT_IMAGE_COLUMNS, held_out_rows(audited, redact)),
    }
    for name in (RECORD, PAGE, *tables):
        (folder / name).unlink(missing_ok=True)
    written = []
    for name, (columns, rows) in tables.items():
        if rows:
            write_csv(folder / name, columns, rows)
            written.append(folder / name)
    write_text(folder / PAGE, page(audited, redact))
    write_json(folder / RECORD, record(audited, redact))
    checksums.record(*written, folder / PAGE, folder / RECORD)
