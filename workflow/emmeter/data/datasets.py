"""Images of every supported source in one form.

`describe` tells counts and shapes without reading pixels, cheaply enough for every start of the workflow; `load`
reads.  Both see the data set after ``data.classes`` and ``data.resolution``.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emmeter.data import pictures
from emmeter.data.feasibility import selection_faults
from emmeter.data.images import Facts, Images, channels_first, downscale, mixture
from emmeter.data.inventory import common, compare, damaged
from emmeter.data.named import NAMED, read_digits, read_torchvision
from emmeter.data.own import folder_files, npz_facts, of_classes
from emmeter.errors import DataError, SettingsError
from emmeter.files.npz import read_arrays
from emmeter.settings.sections import Data
from emmeter.settings.sources import expanded


def describe(data: Data) -> Facts:
    """Facts about a data set: constants, array headers and labels of an .npz, or file names and the first used image.

    Whether the other images of a folder are like the first is `image_faults`' to tell, settings that the data cannot
    satisfy are `selection_faults`': a class that does not exist counts 0 images here, and a resolution above the
    stored one stands in `shape`.
    Raises DataError for an .npz or folder that is missing or not of the documented form.
    """
    second = describe(mixture(data)) if data.sources[1:] else None
    kind, _, place = data.source.partition(":")
    labels: np.ndarray | None
    if kind == "npz":
        path = expanded(place)
        form, labels, images = npz_facts(path, data)
        shape = pictures.square(path, form, data.fit)
        counts = None if labels is None else tuple(np.bincount(labels).tolist())
    elif kind == "folder":
        files, labels = folder_files(expanded(place))
        first = files[min(of_classes(labels, data), default=0)]
        shape, images = pictures.square(first, pictures.head(first), data.fit), len(files)
        counts = None if labels is None else tuple(np.bincount(labels).tolist())
    else:
        shape, counts = NAMED[kind].shape, NAMED[kind].counts
        images = sum(counts)
    used, side = counts, data.resolution or shape[1]
    if counts is not None and data.classes is not None:
        used = tuple(counts[c] if c < len(counts) else 0 for c in data.classes)
        images = sum(used)
    return Facts(images, (shape[0], side, side), used, shape, counts, second)


def load(data: Data) -> Images:
    """All images of the used classes, in stored order, downscaled to data.resolution.

    Raises DataError for missing or damaged files, with a line for each image of a folder that cannot be used, and
    SettingsError for classes or a resolution that do not exist.
    """
    try:
        return _load(data)
    except DataError as error:
        raise (DataError(*lines) if (lines := damaged(data)) else error) from None


def _load(data: Data) -> Images:
    facts = describe(data)
    if faults := selection_faults(data, facts):
        raise SettingsError(*faults)
    kind, _, place = data.source.partition(":")
    files: list[Path] = []
    stored: np.ndarray = np.empty(0)
    labels: np.ndarray | None
    if kind == "folder":
        files, labels = folder_files(expanded(place))
    elif kind == "npz":
        arrays = read_arrays(expanded(place), ["images"], ["labels"])
        labels = arrays["labels"].astype(np.int64) if "labels" in arrays else None
        stored = channels_first(arrays["images"])
    else:
        stored, labels = read_digits() if kind == "digits" else read_torchvision(data, NAMED[kind])
    indices = np.arange(len(files) or len(stored))
    if labels is not None and data.classes is not None:
        position = np.full(len(facts.stored_counts or ()), -1)
        position[data.classes] = np.arange(len(data.classes))
        indices = np.flatnonzero(position[labels] >= 0)
        labels = position[labels[indices]]
    if files:  # decode only what is used, and downscale one by one: the originals may not fit in memory
        images = _read([files[index] for index in indices], data, facts)
    else:
        images = downscale(pictures.squared(stored[indices], data.fit), facts.shape[1])
    second = _load(mixture(data)) if facts.second is not None else None
    return Images(images, labels, indices, second)


def _read(paths: Sequence[Path], data: Data, facts: Facts) -> np.ndarray:
    """uint8 (n, C, H, W) from files of images.  Raises DataError for the first that cannot be used."""
    images = np.empty((len(paths), *facts.shape), np.uint8)
    usual = common(facts.stored_shape, data)
    for row, path in zip(images, paths, strict=True):
        pixels = pictures.decode(path, lambda shape, path=path: compare(path, shape, usual, data))
        row[:] = downscale(pictures.squared(pixels, data.fit)[None], facts.shape[1])[0]
    return images
