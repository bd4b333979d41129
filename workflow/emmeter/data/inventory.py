"""Contents of the user's own image data: counts, sizes, classes, and files that are ignored."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from emmeter.data import formats, pictures
from emmeter.data.own import list_folder, npz_facts
from emmeter.data.pictures import Shape
from emmeter.errors import DataError, printable
from emmeter.files.npz import opened
from emmeter.settings.sections import Data
from emmeter.settings.sources import own_path

_CLASSES_SHOWN = 12
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class Inventory:
    """Contents of the user's .npz file or folder of images; of a folder, the head of every image has been read."""

    source: str
    """The source as data.source names it."""
    images: int
    """Number of images, faulty ones included."""
    shapes: Counter[Shape]
    """Number of images per shape (C, H, W) as stored, without faulty images."""
    counts: tuple[int, ...] | None = None
    """Images of all classes; None without labels."""
    classes: Sequence[str] = ()
    """Names of class folders."""
    unused: Sequence[str] = ()
    """Names of files that are no images, or of arrays that are not read."""
    unnamed: Sequence[str] = ()
    """Names of files that only their first bytes identify as images."""
    files: Sequence[Path] = ()
    """The image files of a folder, in stored order."""
    labels: np.ndarray | None = None
    """int64 (n,), of `files`; None without class folders."""
    heads: Sequence[Shape | DataError] = field(default=(), repr=False)
    """The shape of each of `files`, or what is wrong with it."""


def inventory(source: str) -> Inventory:
    """List the contents of a source ``npz:PATH`` or ``folder:PATH``, once for all settings.

    Raises:
        DataError: the source is missing, or is not of the documented form.
    """
    path = own_path(source)
    if source.startswith("npz:"):
        shape, labels, images = npz_facts(path, Data(source=source, fit="crop"))
        with opened(path, ["images"]) as archive:
            arrays = [name.removesuffix(".npy") for name in archive.namelist()]
        counts = None if labels is None else tuple(np.bincount(labels).tolist())
        unused = [name for name in arrays if name not in ("images", "labels")]
        return Inventory(source, images, Counter({shape: images}), counts, unused=unused)
    listed = list_folder(path)
    heads = pictures.heads(listed.files)
    return Inventory(
        source,
        len(listed.files),
        Counter(head for head in heads if not isinstance(head, DataError)),
        None if listed.labels is None else tuple(np.bincount(listed.labels).tolist()),
        listed.classes,
        [str(other.relative_to(path)) for other in listed.others],
        [str(file.relative_to(path)) for file in listed.files if not formats.is_named(file)],
        listed.files,
        listed.labels,
        heads,
    )


def portrait(held: Inventory) -> list[str]:
    """One line on the contents, then one line each on entries that are ignored, and on images with other suffixes."""
    lines = [f"{held.source}: {held.images} image{'s' * (held.images != 1)}{_sizes(held.shapes)}"]
    if held.counts is not None:
        names = [f" {name}" for name in held.classes] or [""] * len(held.counts)
        listed = [f"{i}{name} ({n})" for i, (name, n) in enumerate(zip(names, held.counts, strict=True))]
        if len(listed) > _CLASSES_SHOWN:
            listed = [*listed[: _CLASSES_SHOWN - 2], "...", listed[-1]]
        lines[0] += f" in {len(held.counts)} class{'es' * (len(held.counts) != 1)}: {', '.join(listed)}"
    unnamed = ("file that is an image by its first bytes", "files that are images by their first bytes")
    unused = ("file that is no image", "files that are no images") if held.files else ("array", "arrays")
    for verb, names, nouns in (("used", held.unnamed, unnamed), ("ignored", held.unused, unused)):
        if names:
            more = f" and {len(names) - _NAMES_SHOWN} more" * (len(names) > _NAMES_SHOWN)
            noun = nouns[len(names) > 1]
            lines.append(f"{held.source}: {verb} {len(names)} {noun} ({', '.join(names[:_NAMES_SHOWN])}{more})")
    return [printable(line) for line in lines]


def _sizes(shapes: Counter[Shape]) -> str:
    """The size of the images, such as " 32x32x3", or the smallest and the largest of several sizes."""
    ordered = [f"{w}x{h}x{c}" for c, h, w in sorted(shapes, key=lambda shape: (shape[1] * shape[2], shape))]
    if ordered[1:]:
        return f" of {len(ordered)} sizes from {ordered[0]} to {ordered[-1]}"
    return "".join(f" {size}" for size in ordered)
