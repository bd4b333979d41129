"""What a path names: a folder, an array, an archive of images, or a manifest, with the names of its images."""

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from emmeter.data import formats, own
from emmeter.data.collection import manifest
from emmeter.data.images import channels_first
from emmeter.data.pictures import Shape
from emmeter.errors import DataError, reason
from emmeter.files.npz import array_header, header, opened
from emmeter.files.reading import regular

ARRAYS = ("images", "samples", "arr_0")  # names of the array of images, the first that there is
LARGEST_MEMBER = 2**28  # bytes of an image in an archive, unpacked


@dataclass(frozen=True)
class Files:
    """Image files of a folder or of a manifest."""

    path: Path
    """The folder, or the manifest."""
    names: list[str]
    """Path of each image, relative to the folder or as in the manifest."""
    files: list[Path]
    notes: dict[str, list[str]] = field(default_factory=dict)
    """What is known of each image; see `manifest.NOTES`."""
    ignored: int = 0
    """Files of the folder that are no images."""


@dataclass(frozen=True)
class Archive:
    """Images in a ZIP file, as EDM and StyleGAN make it."""

    path: Path
    names: list[str]
    """Members that are images."""
    notes: dict[str, list[str]] = field(default_factory=dict)
    ignored: int = 0


@dataclass(frozen=True)
class Array:
    """An array of images in an .npy or .npz file."""

    path: Path
    names: list[str]
    """Position of each image."""
    array: str | None
    """Name of the array in an .npz file; None for .npy."""
    layout: tuple[int, ...]
    """The array's shape without images of earlier snapshots."""
    skipped: int
    """Images of earlier snapshots, which come first in the file."""
    dtype: np.dtype
    shape: Shape
    """(C, H, W) of an image."""
    notes: dict[str, list[str]] = field(default_factory=dict)
    ignored: int = 0


Source = Files | Archive | Array


def find(path: Path, array: str | None = None) -> Source:
    """Find the images that a path names.

    Args:
        path: a folder, an .npz, .npy or .zip file, or a manifest (.csv or .jsonl).
        array: name of the array in an .npz file, instead of the first of ARRAYS that it holds.
    Raises:
        DataError: there is no such file, or it holds no images.
    """
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            return _folder(path)
        if not path.exists():
            raise DataError(f"{path}: no such folder or file")
        regular(path)
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read ({reason(error)})") from None
    if suffix in manifest.SUFFIXES:
        listed = manifest.read_manifest(path)
        return Files(path, listed.paths, listed.files(), listed.notes)
    if suffix == ".npz":
        return _npz(path, array)
    if suffix == ".npy":
        return _npy(path)
    if suffix == ".zip":
        return _archive(path)
    raise DataError(f"{path}: must be a folder, an .npz, .npy or .zip file, or a manifest (.csv, .jsonl)")


def _folder(root: Path) -> Files:
    """All images below a folder, each folder's files before its subfolders, both in natural order."""
    names: list[str] = []
    files: list[Path] = []
    ignored = 0
    waiting, entered = [root], set()
    while waiting:
        folder = waiting.pop()
        identity = os.stat(folder)
        if (identity.st_dev, identity.st_ino) in entered:  # a link to a folder above it, or a second link to it
            continue
        entered.add((identity.st_dev, identity.st_ino))
        images, folders, others = own.entries(folder)
        files += images
        names += [image.relative_to(root).as_posix() for image in images]
        ignored += len(others)
        waiting += folders[::-1]
    if not files:
        raise DataError(f"{root}: holds no images ({', '.join(formats.SUFFIXES)})")
    return Files(root, names, files, ignored=ignored)


def _archive(path: Path) -> Archive:
    """The images of a ZIP file in natural order, with the labels of its dataset.json."""
    with open_archive(path) as archive:
        members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        hidden = [name for name in members if any(part.startswith((".", "__")) for part in name.split("/"))]
        named = {name for name in members if formats.is_named(Path(name)) and name not in hidden}
        names = sorted(named, key=formats.natural)
        if not names:
            raise DataError(f"{path}: holds no images ({', '.join(formats.SUFFIXES)})")
        for name in names:
            if members[name].flag_bits & 1:
                raise DataError(f"{path}/{name}: is encrypted; unpack the archive to a folder")
            if members[name].file_size > LARGEST_MEMBER:
                raise DataError(f"{path}/{name}: has more than {LARGEST_MEMBER} bytes")
        notes = {}
        if (listing := "dataset.json") in members:
            notes = _labels(path, archive.read(listing), names)
        return Archive(path, names, notes, len(members) - len(names) - (listing in members))


def _labels(path: Path, text: bytes, names: list[str]) -> dict[str, list[str]]:
    """The labels of a dataset.json: pairs of a member's name and a number, or null without labels."""
    try:
        pairs = json.loads(text)["labels"]
        labels = {} if pairs is None else {str(name): json.dumps(label) for name, label in pairs}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        fault = f"must hold labels as pairs of a name and a number ({reason(error)})"
        raise DataError(f"{path}/dataset.json: {fault}") from None
    return {"label": [labels.get(name, "") for name in names]} if labels else {}


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a ZIP file of images; errors of the block become errors of the file.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (DataError, MemoryError):
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # damaged archives raise errors of many types
        raise DataError(f"{path}: damaged, or not a ZIP file ({reason(error)})") from None


def _npz(path: Path, wanted: str | None) -> Array:
    with opened(path, [wanted] if wanted else []) as archive:
        held = [name.removesuffix(".npy") for name in archive.namelist()]
        name = wanted or next((name for name in ARRAYS if name in held), held[0] if len(held) == 1 else None)
        if name is None:
            found = ", ".join(held) or "nothing"
            raise DataError(f"{path}: must hold an array {', '.join(ARRAYS[:-1])} or {ARRAYS[-1]}; it holds {found}")
        shape, dtype = array_header(path, archive, name)
    return _array(path, name, shape, dtype)


def _npy(path: Path) -> Array:
    try:
        with open(path, "rb") as file:
            shape, _, dtype = header(file)
            rest = path.stat().st_size - file.tell()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # damaged headers raise errors of many types
        raise DataError(f"{path}: damaged, or not an .npy file ({reason(error)})") from None
    if not dtype.hasobject and rest != int(np.prod(shape, dtype=object)) * dtype.itemsize:
        raise DataError(f"{path}: damaged: has {rest} bytes of values, its header says {shape} of {dtype}")
    return _array(path, None, shape, dtype)


def _array(path: Path, name: str | None, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    title = repr(name) if name else "the array"
    if dtype.hasobject:
        raise DataError(f"{path}: {title} holds pickled objects, which are never loaded; store plain numbers")
    allowed = "(N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels"
    if not (dtype == np.uint8 or dtype.kind == "f") or len(shape) not in (3, 4, 5):
        raise DataError(f"{path}: {title} must be uint8, or floats from 0 to 1, {allowed}, not {dtype} {shape}")
    if 0 in shape:
        raise DataError(f"{path}: {title} holds no images: {shape}")
    skipped, layout = 0, shape
    if len(shape) == 5:  # our own samples.npz: snapshots of one run, of which the last counts
        skipped, layout = (shape[0] - 1) * shape[1], shape[1:]
    _, channels, height, width = channels_first(np.broadcast_to(np.uint8(0), layout)).shape  # a view: no memory
    if channels not in (1, 3):
        raise DataError(f"{path}: {title} must be {allowed}, not {shape}")
    if height != width and len(layout) == 4 and layout[1] in (1, 3) and layout[3] in (1, 3):
        either = "(N, H, W, C) or (N, C, H, W)"
        raise DataError(f"{path}: {title} may be {either}, as {shape} does not tell; crop the images")
    names = [str(position) for position in range(layout[0])]
    return Array(path, names, name, layout, skipped, dtype, (channels, height, width))
