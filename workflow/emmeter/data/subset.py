"""Training subsets: their images, the order of these, and their labels.

Each replicate puts the images of a data set into an order, and a subset of size N is the first N of them.  Subsets of
one replicate are therefore nested, and arms that differ only in the model see the same images.  With
``data.duplicates`` some of the N images stand in the training set several times: it has more entries than images.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emmeter.data import datasets, embeddings
from emmeter.data.feasibility import data_faults, limit, repetition_faults, usable
from emmeter.data.images import Facts, Images, parts
from emmeter.data.ordering import LABELS, mixed, mixture_share, order, raw, repeated
from emmeter.errors import DataError, Fault, SettingsError
from emmeter.files import checksums, npz
from emmeter.files.npz import write_npz
from emmeter.settings.sections import Data, Setup

VECTORS = "label_vectors"  # the array that only subsets with embeddings have


@dataclass(frozen=True)
class Subset:
    """The training set of one run, and h further images for the held-out loss.

    The training set has E entries: the N images of the subset, and after them the repetitions of some.  Without
    ``data.duplicates`` E is N.
    """

    images: np.ndarray
    """uint8 (E, C, H, W)."""
    labels: np.ndarray
    """int64 (E,), conditioning labels below label_count; all 0 if label_count is 0.  A repetition has the label of its
    image."""
    label_count: int
    """Number of conditioning labels; 0: unconditional."""
    indices: np.ndarray
    """int64 (E,), positions in the data set as stored."""
    groups: np.ndarray
    """int64 (E,), position of the first entry with the same pixels, below N."""
    held_out: np.ndarray
    """uint8 (h, C, H, W), 0 <= h <= data.held_out."""
    held_out_labels: np.ndarray
    """int64 (h,), conditioning labels of the held-out images."""
    label_vectors: np.ndarray | None = None
    """float32 (label_count, E), the row of embeddings behind each label; None unless embeddings are the labels."""


def held_out_positions(available: int, images_count: int, n: int, count: int) -> np.ndarray:
    """Positions of at most `count` held-out images in the order: int64, descending, all at least `n`.

    Held-out images come from the end of the first `available` positions, from which subsets are drawn.  So they are as
    balanced as the subsets, and the same for every n up to available - count.  If too few of these positions are left,
    the rest of the order adds to them from its end.
    """
    candidates = np.concatenate([np.arange(available - 1, n - 1, -1), np.arange(images_count - 1, available - 1, -1)])
    return candidates[:count]


def label_count(data: Data, facts: Facts, n: int) -> int:
    """Number of conditioning labels for a subset of `n` images: 0 (unconditional), classes, K, or n (unique).

    Embeddings have as many as they have distinct rows, which only `draw` knows.
    """
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
    label in every subset of a replicate.  unique: position modulo the subset's size `n`.  For the subset itself this is
    0 .. n-1, one per different image.  Held-out images have no unique label, so each takes one of the subset's in turn.

    Raises:
        SettingsError: true labels do not exist.
    """
    if data.labels == "none":
        return np.zeros(len(indices), np.int64)
    if data.labels == "unique":
        return np.arange(len(indices)) % n
    if data.labels == "true":
        if labels is None:
            raise SettingsError(Fault("data.labels", "'true'", f"{data.source} has no labels"))
        return labels
    drawn = raw(LABELS, seed, replicate, 0, int(indices.max(initial=-1)) + 1)
    return (drawn[indices] % np.uint64(int(data.labels.removeprefix("random-")))).astype(np.int64)


def duplicate_groups(images: np.ndarray) -> np.ndarray:
    """For each of n images, the position of the first image with the same pixels: int64 (n,)."""
    first: dict[bytes, int] = {}
    digests = (hashlib.sha256(image.tobytes()).digest() for image in images)
    return np.fromiter((first.setdefault(digest, i) for i, digest in enumerate(digests)), np.int64, len(images))


def draw(setup: Setup, n: int, replicate: int, stored: Images | None = None) -> Subset:
    """The subset of `n` different images of a replicate (0, 1, ...).  Depends on setup.seed and setup.data alone.

    Args:
        stored: the data set, if it has been loaded already.

    Raises:
        SettingsError: the data set cannot satisfy the size or a setting.
        DataError: data are missing or damaged.
    """
    data = setup.data
    facts = datasets.describe(data)
    if faults := data_faults(data, facts):
        raise SettingsError(*faults)
    multiple, available = usable(facts, data)
    if n < 1 or n % multiple:
        raise SettingsError(Fault("n", str(n), f"must be a positive multiple of {multiple}"))
    if n > available:
        raise SettingsError(Fault("n", str(n), f"must be at most {limit(data, facts)}"))
    if replicate < 0:
        raise SettingsError(Fault("replicate", str(replicate), "must be at least 0"))
    if faults := repetition_faults(data, n):
        raise SettingsError(*faults)
    stored = datasets.load(data) if stored is None else stored
    sources = [source for source in (stored, stored.second) if source is not None]
    ranked, *others = (
        order(len(source.images), source.labels, part, setup.seed, replicate)
        for source, part in zip(sources, parts(data), strict=True)
    )
    if stored.second is not None:
        ranked = mixed(ranked, others[0], mixture_share(data))
        stored = _joined(stored, stored.second, facts)

    inside, outside = ranked[:n], ranked[held_out_positions(available, len(ranked), n, data.held_out)]
    more = repeated(data, setup.seed, replicate, stored.indices[inside])
    entries = np.concatenate([np.arange(n), np.repeat(more, data.duplicates.times - 1)])  # positions in `inside`
    images, vectors = stored.images[inside[entries]], None
    if stored.rows is not None:
        rows = embeddings.arranged(stored.rows, stored.labels, data.embeddings, setup.seed, replicate)
        codes, vectors = embeddings.distinct(rows[np.concatenate([inside, outside])])
        labels, held_out_labels, count = codes[:n], codes[n:], len(vectors)
    else:
        labels, held_out_labels = (
            conditioning_labels(
                data, setup.seed, replicate, stored.indices[chosen],
                None if stored.labels is None else stored.labels[chosen], n,
            )
            for chosen in (inside, outside)
        )  # fmt: skip
        count = label_count(data, facts, n)
    return Subset(
        images=images,
        labels=labels[entries],
        label_count=count,
        indices=stored.indices[inside[entries]],
        groups=duplicate_groups(images[:n])[entries],
        held_out=stored.images[outside],
        held_out_labels=held_out_labels,
        label_vectors=vectors,
    )


def _joined(first: Images, second: Images, facts: Facts) -> Images:
    """The images of both sources as one data set without labels, stored one after the other."""
    indices = np.concatenate([first.indices, second.indices + facts.stored_images])
    return Images(np.concatenate([first.images, second.images]), None, indices)


def save(path: Path, subset: Subset) -> None:
    """Write a subset as .npz, atomically.  Equal subsets give equal bytes."""
    arrays = {name: value for name, value in vars(subset).items() if value is not None}
    write_npz(path, **(arrays | {"label_count": np.asarray(subset.label_count, np.int64)}))


def load(path: Path) -> Subset:
    """Read a subset that `save` wrote.

    Raises:
        DataError: the file is missing, damaged or of another kind.
    """
    checksums.check([path])
    arrays = npz.read_arrays(path, [name for name in Subset.__dataclass_fields__ if name != VECTORS], [VECTORS])
    entries, h = len(np.atleast_1d(arrays["images"])), len(np.atleast_1d(arrays["held_out"]))
    image = arrays["images"].shape[1:]
    expected = dict.fromkeys(arrays, (np.int64, (entries,))) | {
        "images": (np.uint8, (entries, *image)),
        "label_count": (np.int64, ()),
        "held_out": (np.uint8, (h, *image)),
        "held_out_labels": (np.int64, (h,)),
    }
    if VECTORS in arrays:
        width = np.atleast_1d(arrays[VECTORS]).shape[-1]
        expected[VECTORS] = (np.float32, (int(arrays["label_count"].sum()), width))
    for name, array in arrays.items():
        if (array.dtype, array.shape) != expected[name] or len(image) != 3:
            raise DataError(
                f"{path}: {name!r} is {array.dtype} {array.shape}, not of a subset; delete it and run again"
            )
    labels = int(arrays.pop("label_count"))
    return Subset(label_count=labels, **arrays)
