"""The reading of collections: all images of all sets in one form, decoded by all cores."""

import hashlib
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import numpy as np

from emmeter.data import pictures
from emmeter.data.collection.manifest import Manifest
from emmeter.data.collection.sources import Archive, Array, Files, Source, header, open_archive
from emmeter.data.collection.store import Store
from emmeter.data.images import channels_first, downscale
from emmeter.data.pictures import Shape
from emmeter.errors import DataError
from emmeter.files.npz import opened

MANY = 400  # image files from which processes read faster than threads, in spite of their start
JOB_IMAGES, JOB_BYTES = 64, 2**23  # images that a worker decodes at once, at most
FAULTS_SHOWN = 20  # lines about one set
SAMPLE = 64  # images of each set whose heads show whether there are colours


@dataclass(frozen=True)
class Form:
    """The form that all images are brought to."""

    shape: Shape
    """(C, H, W)."""
    resize: int | None
    """Side to which the middle square is resampled (Lanczos); None leaves every image as it is."""
    mirrored: bool = False
    """Whether mirror images count, and therefore get digests, too."""


@dataclass(frozen=True)
class Collection:
    """A set of images that has been read."""

    path: Path
    names: Sequence[str]
    notes: dict[str, list[str]]
    """What is known of each image beside its pixels, by column; see `manifest.NOTES`."""
    store: Store
    digests: list[bytes]
    """SHA-256 of the pixels of each image in the common form; equal for equal images."""
    mirrored_digests: list[bytes]
    """SHA-256 of the pixels of each image's mirror image; empty if mirror images do not count."""
    sha256: str
    """SHA-256 of the input: of the file, or of the names and bytes of all images."""
    ignored: int
    """Files that are no images."""
    content: list[bytes] = field(default_factory=list)
    """SHA-256 of the bytes of each image file; empty for arrays and archives."""

    def __len__(self) -> int:
        return len(self.names)


class _Colour(Exception):
    """A colour image among images that were taken to be grey."""


@dataclass(frozen=True)
class _Decoded:
    """Images of one job: pixels with digests, or one line for each image that cannot be used."""

    start: int
    images: np.ndarray
    content: list[bytes]
    digests: list[bytes]
    mirrored: list[bytes]
    faults: list[str]


def common_form(sources: Sequence[Source], resize: int | None, mirrored: bool = False) -> Form:
    """The form of all images: the size of the first image, or `resize`; colour if any set's first images have colour.

    Args:
        mirrored: whether mirror images count.

    Raises:
        DataError: the sets have images of different sizes, and `resize` is None; or a first image cannot be read.
    """
    colour, sizes = False, []
    for source in sources:
        heads = _heads(source)
        colour = colour or any(head[0] == 3 for head in heads if not isinstance(head, DataError))
        sizes.append(next((head[1:] for head in heads if not isinstance(head, DataError)), None))
    known = [(source, size) for source, size in zip(sources, sizes, strict=True) if size is not None]
    if resize is not None:
        height = width = resize
    elif known:
        first, (height, width) = known[0]
        for source, (other_height, other_width) in known[1:]:
            if (other_height, other_width) != (height, width):
                ours, theirs = f"{width} x {height}", f"{other_width} x {other_height}"
                side = min(height, width, other_height, other_width)
                raise DataError(
                    f"{source.path}: its first image has {theirs} pixels, that of {first.path} {ours}; "
                    f"give one size, such as --resize {side}"
                )
    else:  # no head can be read: the reading names all faults
        height = width = 1
    return Form((3 if colour else 1, height, width), resize, mirrored)


def _heads(source: Source) -> list[Shape | DataError]:
    if isinstance(source, Array):
        return [source.shape]
    if isinstance(source, Files):
        return pictures.heads(source.files[:SAMPLE])
    with open_archive(source.path) as archive:
        return [_shape_of(source.path / name, archive.read(name)) for name in source.names[:SAMPLE]]


def _shape_of(name: Path, content: bytes) -> Shape | DataError:
    try:
        channels, height, width = pictures.decode(name, content=content).shape
    except DataError as error:
        return error
    return channels, height, width


def gather(
    sources: Sequence[Source],
    resize: int | None,
    spool: Callable[[int], Path | None],
    tick: Callable[[int], None] = lambda _: None,
    mirrored: bool = False,
    form: Form | None = None,
    whole: bool = False,
) -> list[Collection]:
    """Read all images of several sets in one form.

    Args:
        sources: the sets.
        resize: side to which the middle square of each image is resampled; None demands equal sizes.
        spool: from the bytes of all images together, the folder of a temporary file that holds them; None for memory.
        tick: called with the number of images that have been read since its last call.
        mirrored: whether mirror images count.
        form: the form of all images, if it is known.
        whole: whether sets of a known form are whole inputs, which get a digest.
    Raises:
        DataError: images cannot be used; one line per image.
        OSError: the temporary file cannot be written.
    """
    if form is not None:
        try:
            return _gathered(sources, form, spool, tick, whole)
        except _Colour:
            rule = f"has colours after its first {SAMPLE} images; begin with a colour image, or use one shard"
            raise DataError(f"{sources[-1].path}: {rule}") from None
    form = common_form(sources, resize, mirrored)
    try:
        return _gathered(sources, form, spool, tick)
    except _Colour:  # among grey images, after the first ones
        return _gathered(sources, replace(form, shape=(3, *form.shape[1:])), spool, tick)


def _gathered(
    sources: Sequence[Source],
    form: Form,
    spool: Callable[[int], Path | None],
    tick: Callable[[int], None],
    whole: bool = True,
) -> list[Collection]:
    total = sum(len(source.names) for source in sources) * int(np.prod(form.shape))
    folder = spool(total)
    collections, faults = [], []
    with _workers(sources) as pool:
        for source in sources:
            store = Store(len(source.names), form.shape, folder)
            digests, mirrored, parts, wrong = [], [], [], []
            for decoded in _decoded(source, form, pool):
                wrong += decoded.faults
                if not wrong:
                    store.write(decoded.start, decoded.images)
                    digests += decoded.digests
                    mirrored += decoded.mirrored
                parts += decoded.content
                tick(len(decoded.images) + len(decoded.faults))
            faults += wrong[:FAULTS_SHOWN]
            if wrong[FAULTS_SHOWN:]:
                faults.append(f"{source.path}: and {len(wrong) - FAULTS_SHOWN} more")
            sha = input_digest(source, parts) if whole and not wrong else ""
            files = [] if isinstance(source, Array | Archive) else parts
            collections.append(
                Collection(
                    source.path, source.names, source.notes, store, digests, mirrored, sha, source.ignored, files
                )
            )
    if faults:
        raise DataError(*faults)
    return collections


def input_digest(source: Source, content: Sequence[bytes]) -> str:
    """SHA-256 of an input: of the file, or of the names and bytes of all image files.

    Args:
        content: SHA-256 of the bytes of each image file.
    """
    if isinstance(source, Array | Archive):
        return _file_digest(source.path)
    digest = hashlib.sha256()
    for name, part in zip(source.names, content, strict=True):
        digest.update(os.fsencode(f"{name}\0") + part)
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _workers(sources: Sequence[Source]) -> Executor:
    """Processes for many image files, threads for few; one per core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores == 1 or sum(len(source.names) for source in sources if not isinstance(source, Array)) < MANY:
        return ThreadPoolExecutor(cores)
    # A fork starts at once, but is safe on Linux only, and before libraries have started threads.
    forked = sys.platform == "linux" and not {"torch", "faiss"} & set(sys.modules)
    context = multiprocessing.get_context("fork" if forked else "spawn")
    return ProcessPoolExecutor(cores, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """Let this worker end when its parent is killed, for which it would wait forever otherwise."""

    def watch() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _decoded(source: Source, form: Form, pool: Executor) -> Iterator[_Decoded]:
    """The decoded parts of a set, in order."""
    if isinstance(source, Array):
        yield from _array_parts(source, form)
        return
    pixels = int(np.prod(form.shape))
    size = max(1, min(JOB_IMAGES, JOB_BYTES // pixels, -(-len(source.names) // 8)))
    if isinstance(source, Files):
        jobs = ((start, source.files[start : start + size], None, form) for start in range(0, len(source.files), size))
        yield from _in_order(pool, jobs)
        return
    with open_archive(source.path) as archive:
        yield from _in_order(
            pool,
            (
                (start, [source.path / name for name in names], [archive.read(name) for name in names], form)
                for start in range(0, len(source.names), size)
                if (names := source.names[start : start + size])
            ),
        )


def _in_order(pool: Executor, jobs: Iterable[tuple[int, list[Path], list[bytes] | None, Form]]) -> Iterator[_Decoded]:
    """The results of `decode_part` for all jobs in order; only a few jobs are under way at once."""
    waiting: list[Future[_Decoded]] = []
    try:
        for job in jobs:
            waiting.append(pool.submit(decode_part, *job))
            if len(waiting) > 4 * (os.cpu_count() or 1):
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()


def decode_part(start: int, files: list[Path], contents: list[bytes] | None, form: Form) -> _Decoded:
    """Decode some images, in a worker.

    Args:
        start: position of the first image in its set.
        files: the image files, or the names of images whose bytes are given.
        contents: the bytes of each image, if they are not those of a file.
        form: the form of the results.
    """
    images, digests, faults = [], [], []
    for index, file in enumerate(files):
        content = None if contents is None else contents[index]
        try:
            images.append(formed(pictures.decode(file, content=content), file, form))
            digests.append(bytes.fromhex(_file_digest(file)) if content is None else hashlib.sha256(content).digest())
        except DataError as error:
            faults += error.lines
        except OSError as error:
            faults.append(f"{file}: cannot be read ({error.strerror or error})")
        except MemoryError:
            faults.append(f"{file}: is too large for the memory")
    stacked = np.ascontiguousarray(np.stack(images)) if images else np.empty((0, *form.shape), np.uint8)
    return _Decoded(start, stacked, digests, *_pixel_digests(stacked, form.mirrored), faults)


def _pixel_digests(images: np.ndarray, mirrored: bool) -> tuple[list[bytes], list[bytes]]:
    """SHA-256 of each image and, if they count, of the mirror images."""
    flipped = np.ascontiguousarray(images[..., ::-1]) if mirrored else images[:0]
    each, other = ([hashlib.sha256(image.data).digest() for image in part] for part in (images, flipped))
    return each, other


def formed(image: np.ndarray, name: Path, form: Form) -> np.ndarray:
    """Bring one image uint8 (C, H, W) to a form.

    Raises:
        DataError: its size differs, and the form does not resize.
        _Colour: it has colours, and the form is grey.
    """
    if image.shape[0] > form.shape[0]:
        raise _Colour
    if form.resize is not None:
        image = downscale(pictures.squared(image, "crop")[None], form.resize)[0]
    if image.shape[1:] != form.shape[1:]:
        (_, height, width), (_, ours, across) = image.shape, form.shape
        raise DataError(
            f"{name}: has {width} x {height} pixels, the first image {across} x {ours}; "
            f"give one size, such as --resize {min(height, width, ours, across)}"
        )
    return np.broadcast_to(image, form.shape)


def _array_parts(source: Array, form: Form) -> Iterator[_Decoded]:
    """The images of an array, read in parts.  Raises DataError for values that are no grey levels."""
    if source.array is None:
        with open(source.path, "rb") as file:
            yield from _array_rows(source, file, form)
        return
    with opened(source.path, [source.array]) as archive, archive.open(f"{source.array}.npy") as file:
        yield from _array_rows(source, file, form)


def _array_rows(source: Array, file: IO[bytes], form: Form) -> Iterator[_Decoded]:
    _, fortran, dtype = header(file)
    if fortran:
        raise DataError(f"{source.path}: is stored in Fortran's order; save numpy.ascontiguousarray(images)")
    row = int(np.prod(source.layout[1:])) * dtype.itemsize
    if source.array is None:
        file.seek(source.skipped * row, os.SEEK_CUR)
    else:
        _skip(file, source.skipped * row)
    step = max(1, JOB_BYTES // row)
    for start in range(0, source.layout[0], step):
        count = min(step, source.layout[0] - start)
        content = file.read(count * row)
        if len(content) != count * row:
            raise DataError(f"{source.path}: damaged: ends within its images")
        values = np.frombuffer(content, dtype).reshape(count, *source.layout[1:])
        images = channels_first(grey_levels(values, source))
        if images.shape[1:] != form.shape:
            names = [Path(f"{source.path}[{start + index}]") for index in range(count)]
            images = np.stack([formed(image, name, form) for image, name in zip(images, names, strict=True)])
        images = np.ascontiguousarray(images)
        yield _Decoded(start, images, [], *_pixel_digests(images, form.mirrored), [])


def _skip(file: IO[bytes], count: int) -> None:
    while count > 0:
        count -= len(file.read(min(count, JOB_BYTES))) or count


def grey_levels(values: np.ndarray, source: Array) -> np.ndarray:
    """Values as uint8: bytes as they are, floats from 0 to 1 rounded to the nearest of 256 levels.

    Raises:
        DataError: floats beyond 0 to 1, or no numbers.
    """
    if values.dtype == np.uint8:
        return values
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # NaN is not
        if low >= -1 and high <= 1:
            cure = "holds floats from -1 to 1; store (images + 1) / 2"
        elif low >= 0 and high <= 255:
            cure = "holds floats above 1; store grey levels as uint8"
        else:
            cure = "holds floats beyond 0 to 1, or no numbers; store uint8, or floats from 0 to 1"
        raise DataError(f"{source.path}: {cure}")
    return np.rint(values.astype(np.float64) * 255).astype(np.uint8)


def grouped(collection: Collection, pattern: str | None) -> list[str] | None:
    """The group of each image, empty for an image without one; None if no image has a group.

    Args:
        pattern: regular expression that is searched in the names: its first group counts, or else the whole match.
            Without a pattern the groups are those of a manifest.
    Raises:
        DataError: the pattern is none, or matches no name.
    """
    if pattern is None:
        groups = collection.notes.get("group")
        return groups if groups is not None and any(groups) else None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f"--group-pattern {pattern}: is not a regular expression ({error})") from None
    matches = [compiled.search(name) for name in collection.names]
    if not any(matches):
        raise DataError(f"{collection.path}: --group-pattern {pattern} matches no name, such as {collection.names[0]}")
    return ["" if match is None else (match[1] if compiled.groups else match[0]) or "" for match in matches]


def annotated(source: Source, rows: Manifest) -> Source:
    """A set with the notes of a manifest about its images.

    A row is about an image if it gives the image's name in the set, or the path of its file.
    """
    by_name = {path: index for index, path in enumerate(rows.paths)}
    by_file = {os.path.abspath(file): index for index, file in enumerate(rows.files())}
    files = source.files if isinstance(source, Files) else [Path()] * len(source.names)
    positions = [
        by_name.get(name, by_file.get(os.path.abspath(file), -1) if file != Path() else -1)
        for name, file in zip(source.names, files, strict=True)
    ]
    if all(position < 0 for position in positions):
        return source
    notes = {name: [cells[i] if i >= 0 else "" for i in positions] for name, cells in rows.notes.items()}
    return replace(source, notes=source.notes | notes)
