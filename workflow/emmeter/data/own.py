"""The user's own images: an .npz file, or a folder of image files."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emmeter.data import formats
from emmeter.data.images import channels_first
from emmeter.data.pictures import Shape
from emmeter.errors import DataError
from emmeter.files.npz import array_header, opened
from emmeter.settings.sections import Data


def npz_facts(path: Path, data: Data) -> tuple[Shape, np.ndarray | None, int]:
    """Shape of one image as stored (C, H, W), labels int64 (n,) or None, and the number n of images.

    Raises:
        DataError: the file is missing, damaged or not of the documented form.
    """
    with opened(path, ["images"]) as archive:
        shape, dtype = array_header(path, archive, "images")
        if dtype != np.uint8 or len(shape) not in (3, 4) or 0 in shape:
            allowed = "uint8 (N, H, W), (N, H, W, C) or (N, C, H, W)"
            raise DataError(f"{path}: 'images' must be {allowed}, not {dtype} {shape}")
        _, *stored = channels_first(np.broadcast_to(np.uint8(0), shape)).shape  # a view, which takes no memory
        if stored[0] not in (1, 3) or (stored[1] != stored[2] and data.fit is None):
            raise DataError(f"{path}: 'images' must be square with 1 or 3 channels, not {shape}")
        if stored[1] != stored[2] and len(shape) == 4 and shape[1] in (1, 3) and shape[3] in (1, 3):
            raise DataError(
                f"{path}: 'images' may be (N, H, W, C) or (N, C, H, W), as {shape} does not tell; crop them"
            )
        form = (stored[0], stored[1], stored[2])
        if "labels.npy" not in archive.namelist():
            return form, None, shape[0]
        label_shape, label_dtype = array_header(path, archive, "labels")
        if label_dtype.kind not in "iu" or label_shape != shape[:1]:
            raise DataError(f"{path}: 'labels' must be integers ({shape[0]},), not {label_dtype} {label_shape}")
        with archive.open("labels.npy") as file:
            labels = np.lib.format.read_array(file, allow_pickle=False)
        # Without this upper bound, identity numbers would become millions of empty classes.
        if labels.min() < 0 or labels.max() >= shape[0]:
            span = f"{labels.min()} .. {labels.max()}"
            raise DataError(f"{path}: 'labels' must be 0 .. K-1 with K at most the {shape[0]} images, not {span}")
        return form, labels.astype(np.int64), shape[0]


def folder_files(root: Path) -> tuple[list[Path], np.ndarray | None]:
    """Image files of a folder in natural order of class folder and name, and their labels int64 (n,).

    The labels of a folder without class folders are None.  Hidden entries are ignored, and files that are no images by
    suffix and first bytes.  Folders below a class folder are not entered, so that circular links end in an error.

    Raises:
        DataError: the folder has another form.
    """
    listed = list_folder(root)
    return listed.files, listed.labels


@dataclass(frozen=True)
class Listing:
    """The entries of a folder of images."""

    files: list[Path]
    """Images."""
    labels: np.ndarray | None
    """int64 (n,), of the files; None without class folders."""
    classes: list[str]
    """Names of the class folders, in the order of their numbers."""
    others: list[Path]
    """Files that are no images."""


def list_folder(root: Path) -> Listing:
    """The entries of a folder of images, as `folder_files` reads it.

    Raises:
        DataError: the folder has another form.
    """
    files, folders, others = entries(root)
    if files and folders:
        raise DataError(f"{root}: must hold images or class folders, not both ({files[0].name}, {folders[0].name}/)")
    labels: list[int] = []
    for label, folder in enumerate(folders):
        images, nested, ignored = entries(folder)
        if nested:
            raise DataError(f"{nested[0]}: a class folder must hold images only, not another folder")
        if not images:
            raise DataError(
                f"{folder}: holds no images ({', '.join(formats.SUFFIXES)}); remove it if it is not a class"
            )
        files += images
        labels += [label] * len(images)
        others += ignored
    if not files:
        raise DataError(f"{root}: holds no images ({', '.join(formats.SUFFIXES)}) and no class folders")
    return Listing(files, np.array(labels, np.int64) if folders else None, [path.name for path in folders], others)


def entries(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Images, folders and other files of a folder, each in natural order, without hidden entries."""
    try:
        with os.scandir(folder) as entries:
            names = {entry.name: _is_folder(entry) for entry in entries if not entry.name.startswith(".")}
    except OSError as error:
        raise DataError(f"{folder}: cannot be read as a folder ({error.strerror})") from None
    images: list[Path] = []
    folders: list[Path] = []
    others: list[Path] = []
    for name in sorted(names, key=formats.natural):
        path = folder / name
        (folders if names[name] else images if formats.is_picture(path) else others).append(path)
    return images, folders, others


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def used_positions(labels: np.ndarray | None, data: Data) -> list[int]:
    """Positions of the images of the used classes, given the labels of all images; [] without labels or classes."""
    if labels is None or data.classes is None:
        return []
    classes = set(data.classes)
    return [index for index, label in enumerate(labels.tolist()) if label in classes]
