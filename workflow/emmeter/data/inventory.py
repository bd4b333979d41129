"""What the user's own images hold, and which of them cannot be used."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from emmeter.data import pictures
from emmeter.data.images import mixture
from emmeter.data.own import folder_files, list_folder, npz_facts, of_classes
from emmeter.data.pictures import Shape
from emmeter.errors import DataError, printable
from emmeter.files.npz import opened
from emmeter.settings.sections import Data
from emmeter.settings.sources import expanded

_CLASSES_SHOWN = 12
_NAMES_SHOWN = 3
_FAULTS_SHOWN = 20
_ARRAYS = ("array", "arrays")


def damaged(data: Data) -> list[str]:
    """A line for each image of folders that cannot be used, each decoded if its head is right."""
    lines = []
    for one in [data, *([mixture(data)] if data.sources[1:] else [])]:
        kind, _, place = one.source.partition(":")
        if kind == "folder":
            try:
                files, labels = folder_files(expanded(place))
            except DataError as error:
                lines.append(str(error))
                continue
            paths = [files[i] for i in of_classes(labels, one) or range(len(files))]
            faults = _head_faults(paths, pictures.heads(paths), one)
            for index in set(range(len(paths))) - set(faults):
                try:
                    pictures.decode(paths[index])
                except DataError as error:
                    faults[index] = str(error)
            lines += _first(one.source, faults)
    return lines


@dataclass(frozen=True)
class Inventory:
    """What an .npz file or a folder of images of the user holds; of a folder, the head of every image has been read."""

    source: str  # as data.source names it
    images: int
    shapes: Counter[Shape]  # of images as stored, and how many have each; without faulty ones
    counts: tuple[int, ...] | None = None  # of all classes; None: no labels
    classes: Sequence[str] = ()  # names of class folders
    unused: Sequence[str] = ()  # names of files that are no images, or of arrays that are not read
    unnamed: Sequence[str] = ()  # names of files of which only the first bytes tell that they are images
    files: Sequence[Path] = ()
    labels: np.ndarray | None = None  # int64 (n,), of the files
    heads: Sequence[Shape | DataError] = field(default=(), repr=False)


def inventory(source: str) -> Inventory:
    """Look at the user's own data, ``npz:PATH`` or ``folder:PATH``, once for all settings.

    Raises DataError for what is missing or not of the documented form.
    """
    kind, _, place = source.partition(":")
    path = expanded(place)
    if kind == "npz":
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
        [str(file.relative_to(path)) for file in listed.files if not pictures.is_named(file)],
        listed.files,
        listed.labels,
        heads,
    )


def portrait(held: Inventory) -> list[str]:
    """What the user's own data hold, in one line, and a line for what of them is not used, or not as it is named."""
    lines = [f"{held.source}: {held.images} image{'s' * (held.images != 1)}{_sizes(held.shapes)}"]
    if held.counts is not None:
        names = [f" {name}" for name in held.classes] or [""] * len(held.counts)
        listed = [f"{i}{name} ({n})" for i, (name, n) in enumerate(zip(names, held.counts, strict=True))]
        if len(listed) > _CLASSES_SHOWN:
            listed = [*listed[: _CLASSES_SHOWN - 2], "...", listed[-1]]
        lines[0] += f" in {len(held.counts)} class{'es' * (len(held.counts) != 1)}: {', '.join(listed)}"
    notes = [
        (
            "used",
            held.unnamed,
            ("file that is an image by its first bytes", "files that are images by their first bytes"),
        ),
        ("ignored", held.unused, ("file that is no image", "files that are no images") if held.files else _ARRAYS),
    ]
    for what, names, (single, several) in notes:
        if names:
            more = f" and {len(names) - _NAMES_SHOWN} more" * (len(names) > _NAMES_SHOWN)
            noun = single if len(names) == 1 else several
            lines.append(f"{held.source}: {what} {len(names)} {noun} ({', '.join(names[:_NAMES_SHOWN])}{more})")
    return [printable(line) for line in lines]


def _sizes(shapes: Counter[Shape]) -> str:
    """The one size of images as "32x32x3" after a blank, or the smallest and the largest of several."""
    ordered = [f"{w}x{h}x{c}" for c, h, w in sorted(shapes, key=lambda shape: (shape[1] * shape[2], shape))]
    if ordered[1:]:
        return f" of {len(ordered)} sizes from {ordered[0]} to {ordered[-1]}"
    return "".join(f" {one}" for one in ordered)


def image_faults(data: Data, inventories: dict[str, Inventory]) -> list[str]:
    """One line ``data.source = value: file: what is wrong`` for each image of the user that `data` cannot use.

    `inventories` keeps by source what has been looked at, for other settings.
    """
    faults = []
    for key, one in [("source", data), *([("mixture", mixture(data))] if data.sources[1:] else [])]:
        if one.source.partition(":")[0] not in ("folder", "npz"):
            continue
        try:
            held = inventories.get(one.source) or inventory(one.source)
        except (DataError, OSError) as error:
            lines = [str(error)]
        else:
            inventories[one.source] = held
            chosen = of_classes(held.labels, one) or range(len(held.files))
            files, heads = [held.files[i] for i in chosen], [held.heads[i] for i in chosen]
            lines = _first(one.source, _head_faults(files, heads, one))
        faults += [f"data.{key} = {one.source!r}: {line}" for line in lines]
    return faults


def _head_faults(files: Sequence[Path], heads: Sequence[Shape | DataError], data: Data) -> dict[int, str]:
    """What is wrong with images by their heads, for each faulty one by its position; -1: with all of them."""
    faults: dict[int, str] = {}
    squares: dict[int, Shape] = {}
    for index, (path, head) in enumerate(zip(files, heads, strict=True)):
        try:
            if isinstance(head, DataError):
                raise head
            squares[index] = pictures.square(path, head, data.fit)
        except DataError as error:
            faults[index] = str(error)
    if not squares:
        return faults
    sides = {side for _, side, _ in squares.values()}
    if data.fit is not None and data.resolution is None and len(sides) > 1:
        faults[-1] = f"{data.source}: holds squares of {min(sides)} to {max(sides)} pixels a side; set data.resolution"
        data = data.model_copy(update={"resolution": min(sides)})  # one line tells of sizes
    usual = Counter(common(shape, data) for shape in squares.values()).most_common(1)[0][0]
    for index in squares:
        try:
            compare(files[index], heads[index], usual, data)  # type: ignore[arg-type]
        except DataError as error:
            faults[index] = str(error)
    return faults


def common(shape: Shape, data: Data) -> Shape:
    """What of the shape of a square image all images of a data set must have in common."""
    if data.fit is not None and data.resolution is not None:
        return shape[0], data.resolution, data.resolution
    return shape


def compare(path: Path, shape: Shape, usual: Shape, data: Data) -> None:
    """Raise DataError for an image of this shape (C, H, W), as stored, among others of which `usual` is `_common`."""
    found = pictures.square(path, shape, data.fit)
    if common(found, data) != usual:
        cure = "convert it" if found[0] != usual[0] else "set data.resolution" if data.fit else ""
        cure = cure or "set data.resolution and data.fit: crop (or pad)"
        raise DataError(f"{path}: has shape (C, H, W) = {found}, but others have {usual}; {cure}")
    if data.fit is not None and data.resolution is not None and found[1] < data.resolution:
        _, height, width = shape
        raise DataError(f"{path}: has {width} x {height} pixels, too few for data.resolution = {data.resolution}")


def _first(source: str, faults: dict[int, str]) -> list[str]:
    """The first faults in the order of the images, and how many more there are."""
    lines = [faults[index] for index in sorted(faults)]
    more = len(lines) - _FAULTS_SHOWN
    return lines if more <= 0 else [*lines[:_FAULTS_SHOWN], f"{source}: and {more} more"]
