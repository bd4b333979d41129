"""Images of every supported source in one form.

`describe` returns counts and shapes without reading pixels, cheaply enough for every start of the workflow; `load`
reads.  Both see the data set after ``data.classes`` and ``data.resolution``.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from emmeter.data import embeddings, pictures
from emmeter.data.defects import compare, damaged, shared_shape
from emmeter.data.feasibility import selection_faults
from emmeter.data.glyphs import read_glyphs
from emmeter.data.images import Facts, Images, channels_first, downscale, parts
from emmeter.data.named import NAMED, read_digits, read_torchvision
from emmeter.data.own import folder_files, npz_facts, used_positions
from emmeter.errors import DataError, SettingsError
from emmeter.files.npz import read_arrays
from emmeter.settings.sections import Data
from emmeter.settings.sources import own_path


def describe(data: Data) -> Facts:
    """Facts about a data set: constants, array headers and labels of an .npz, or file names and the first used image.

    `image_faults` checks that the other images of a folder are like the first.  `selection_faults` reports settings
    that the data cannot satisfy: here, a class that does not exist counts 0 images, and a resolution above the stored
    one is the side in `shape`.

    Raises:
        DataError: an .npz file or a folder is missing, or is not of the documented form.
    """
    first, *others = parts(data)
    facts = _describe(first)
    return replace(facts, second=_describe(others[0])) if others else facts


def _describe(data: Data) -> Facts:
    """Facts about a data set of one source."""
    kind = data.source.partition(":")[0]
    labels: np.ndarray | None
    if kind == "npz":
        path = own_path(data.source)
        form, labels, images = npz_facts(path, data)
        shape = pictures.square(path, form, data.fit)
        counts = None if labels is None else tuple(np.bincount(labels).tolist())
    elif kind == "folder":
        files, labels = folder_files(own_path(data.source))
        first = files[min(used_positions(labels, data), default=0)]
        shape, images = pictures.square(first, pictures.head(first), data.fit), len(files)
        counts = None if labels is None else tuple(np.bincount(labels).tolist())
    else:
        shape, counts = NAMED[kind].shape, NAMED[kind].counts
        images = sum(counts)
    used, side = counts, data.resolution or shape[1]
    if counts is not None and data.classes is not None:
        used = tuple(counts[c] if c < len(counts) else 0 for c in data.classes)
        images = sum(used)
    return Facts(images, (shape[0], side, side), used, shape, counts)


def load(data: Data) -> Images:
    """All images of the used classes, in stored order, downscaled to data.resolution.

    Raises:
        DataError: files are missing or damaged; one line per image of a folder that cannot be used.
            Also if the embeddings that are the labels do not fit.
        SettingsError: classes do not exist, or the resolution is above the stored one.
    """
    try:
        facts = describe(data)
        if faults := selection_faults(data, facts):
            raise SettingsError(*faults)
        first, *others = parts(data)
        images = _load(first, facts)
        if facts.second is not None:
            images = replace(images, second=_load(others[0], facts.second))
        if data.embedded:
            rows = embeddings.read(own_path(data.labels), facts.stored_images)
            images = replace(images, rows=rows[images.indices])
        return images
    except DataError as error:
        raise (DataError(*lines) if (lines := damaged(data)) else error) from None


def _load(data: Data, facts: Facts) -> Images:
    """The images of one source, whose facts are known."""
    kind = data.source.partition(":")[0]
    files: list[Path] = []
    stored: np.ndarray = np.empty(0)
    labels: np.ndarray | None
    if kind == "folder":
        files, labels = folder_files(own_path(data.source))
    elif kind == "npz":
        arrays = read_arrays(own_path(data.source), ["images"], ["labels"])
        labels = arrays["labels"].astype(np.int64) if "labels" in arrays else None
        stored = channels_first(arrays["images"])
    else:
        embedded = {"digits": read_digits, "glyphs": read_glyphs}.get(kind)
        stored, labels = embedded() if embedded else read_torchvision(data, NAMED[kind])
    indices = np.arange(len(files) or len(stored))
    if labels is not None and data.classes is not None:
        position = np.full(len(facts.stored_counts or ()), -1)
        position[data.classes] = np.arange(len(data.classes))
        indices = np.flatnonzero(position[labels] >= 0)
        labels = position[labels[indices]]
    if files:  # decode only used images, and downscale each at once: the originals may not fit into memory
        images = _read([files[index] for index in indices], data, facts)
    else:
        images = downscale(pictures.squared(stored[indices], data.fit), facts.shape[1])
    return Images(images, labels, indices)


def _read(paths: Sequence[Path], data: Data, facts: Facts) -> np.ndarray:
    """uint8 (n, C, H, W) from image files.  Raises DataError for the first that cannot be used."""
    images = np.empty((len(paths), *facts.shape), np.uint8)
    usual = shared_shape(facts.stored_shape, data)
    for row, path in zip(images, paths, strict=True):
        pixels = pictures.decode(path, lambda shape, path=path: compare(path, shape, usual, data))
        row[:] = downscale(pictures.squared(pixels, data.fit)[None], facts.shape[1])[0]
    return images
