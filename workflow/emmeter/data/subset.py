"""Training subsets: which images, in which order, under which labels.

The images of a data set are put into an order for each replicate, and a subset of size N is its first N entries:
subsets of one replicate are nested, and arms that differ only in the model see the same images.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emmeter.data import datasets
from emmeter.data.feasibility import data_faults, limit, usable
from emmeter.data.images import Facts, Images, mixture
from emmeter.data.ordering import LABELS, mixed, mixture_share, order, raw
from emmeter.errors import DataError, SettingsError
from emmeter.files import checksums, npz
from emmeter.files.npz import write_npz
from emmeter.settings.sections import Data, Setup


@dataclass(frozen=True)
class Subset:
    """What one run is trained on, and h images beside it for the held-out loss."""

    images: np.ndarray  # uint8 (N, C, H, W)
    labels: np.ndarray  # int64 (N,), conditioning labels below label_count; all 0 where label_count is 0
    label_count: int  # 0: unconditional
    indices: np.ndarray  # int64 (N,), positions in the data set as stored
    groups: np.ndarray  # int64 (N,), position of the first image of the subset with the same pixels
    held_out: np.ndarray  # uint8 (h, C, H, W), 0 <= h <= data.held_out
    held_out_labels: np.ndarray  # int64 (h,)


def held_out_positions(available: int, images_count: int, n: int, count: int) -> np.ndarray:
    """Positions in the order, at least `n`, of at most `count` held-out images: int64, descending.

    They come from the end of the part from which subsets are drawn (the first `available`), so that they are as
    balanced as the subsets and the same for every n up to available - count; where that part has too few left, the
    rest of the order adds to them from its end.
    """
    candidates = np.concatenate([np.arange(available - 1, n - 1, -1), np.arange(images_count - 1, available - 1, -1)])
    return candidates[:count]


def label_count(data: Data, facts: Facts, n: int) -> int:
    """Number of conditioning labels for a subset of `n` images: 0 (unconditional), classes, K, or n (unique)."""
    if data.labels == "none":
        return 0
    if data.labels == "true":
        return len(facts.class_counts or ())
    return n if data.labels == "unique" else int(data.labels.removeprefix("random-"))


def conditioning_labels(
    data: Data, seed: int, replicate: int, indices: np.ndarray, labels: np.ndarray | None, n: int
) -> np.ndarray:
    """Conditioning labels, int64 (m,), of the images at stored positions `indices` (m,) with class labels `labels`.

    none: 0.  true: `labels`.  random-K: drawn for each image of the data set as stored, so that an image keeps its
    label in every subset of a replicate.  unique: position modulo the subset's size `n`, which for the subset itself
    is 0 .. n-1; held-out images have no label of their own, so they borrow those of the subset in turn.
    Raises SettingsError for true labels that do not exist.
    """
    if data.labels == "none":
        return np.zeros(len(indices), np.int64)
    if data.labels == "unique":
        return np.arange(len(indices)) % n
    if data.labels == "true":
        if labels is None:
            raise SettingsError(f"data.labels = 'true': {data.source} has no labels")
        return labels
    drawn = raw(LABELS, seed, replicate, 0, int(indices.max(initial=-1)) + 1)
    return (drawn[indices] % np.uint64(int(data.labels.removeprefix("random-")))).astype(np.int64)


def duplicate_groups(images: np.ndarray) -> np.ndarray:
    """For each of n images the index of the first one with the same pixels: int64 (n,)."""
    first: dict[bytes, int] = {}
    digests = (hashlib.sha256(image.tobytes()).digest() for image in images)
    return np.fromiter((first.setdefault(digest, i) for i, digest in enumerate(digests)), np.int64, len(images))


def draw(setup: Setup, n: int, replicate: int, stored: Images | None = None) -> Subset:
    """The subset of `n` images of a replicate (0, 1, ...), from the data set `stored` where it has been loaded already.

    Uses setup.seed and setup.data alone.  Raises SettingsError for a size or setting that the data set cannot satisfy,
    DataError for data that are missing or damaged.
    """
    data = setup.data
    facts = datasets.describe(data)
    if found := data_faults(data, facts):
        raise SettingsError(*found)
    multiple, available = usable(facts, data)
    if n < 1 or n % multiple:
        raise SettingsError(f"n = {n}: must be a positive multiple of {multiple}")
    if n > available:
        raise SettingsError(f"n = {n}: must be at most {limit(data, facts)}")
    if replicate < 0:
        raise SettingsError(f"replicate = {replicate}: must be at least 0")
    stored = datasets.load(data) if stored is None else stored
    ranked = order(len(stored.images), stored.labels, data, setup.seed, replicate)
    if stored.second is not None:
        other = mixture(data)
        second = order(len(stored.second.images), stored.second.labels, other, setup.seed, replicate)
        ranked = mixed(ranked, second, mixture_share(data))
        stored = _joined(stored, stored.second, facts)

    def labels(chosen: np.ndarray) -> np.ndarray:
        known = None if stored.labels is None else stored.labels[chosen]
        return conditioning_labels(data, setup.seed, replicate, stored.indices[chosen], known, n)

    inside, outside = ranked[:n], ranked[held_out_positions(available, len(ranked), n, data.held_out)]
    images = stored.images[inside]
    return Subset(
        images=images,
        labels=labels(inside),
        label_count=label_count(data, facts, n),
        indices=stored.indices[inside],
        groups=duplicate_groups(images),
        held_out=stored.images[outside],
        held_out_labels=labels(outside),
    )


def _joined(first: Images, second: Images, facts: Facts) -> Images:
    """The images of both sources as one data set without labels, stored one after the other."""
    offset = sum(facts.stored_counts) if facts.stored_counts is not None else facts.images
    return Images(
        np.concatenate([first.images, second.images]), None, np.concatenate([first.indices, second.indices + offset])
    )


def save(path: Path, subset: Subset) -> None:
    """Write a subset as .npz: atomic, and equal subsets give equal bytes."""
    write_npz(path, **(vars(subset) | {"label_count": np.asarray(subset.label_count, np.int64)}))


def load(path: Path) -> Subset:
    """Read what `save` wrote.  Raises DataError, naming the file, when it is missing, damaged or another kind."""
    checksums.check([path])
    arrays = npz.read_arrays(path, list(Subset.__dataclass_fields__))
    n, h = len(np.atleast_1d(arrays["images"])), len(np.atleast_1d(arrays["held_out"]))
    image = arrays["images"].shape[1:]
    expected = dict.fromkeys(arrays, (np.int64, (n,))) | {
        "images": (np.uint8, (n, *image)),
        "label_count": (np.int64, ()),
        "held_out": (np.uint8, (h, *image)),
        "held_out_labels": (np.int64, (h,)),
    }
    for name, array in arrays.items():
        if (array.dtype, array.shape) != expected[name] or len(image) != 3:
            raise DataError(
                f"{path}: {name!r} is {array.dtype} {array.shape}, not of a subset; delete it and run again"
            )
    labels = int(arrays.pop("label_count"))
    return Subset(label_count=labels, **arrays)
