"""Images of every supported source in one form: uint8 (n, C, H, W), square, with C = 1 or 3.

`describe` tells counts and shapes without reading pixels, cheaply enough for every start of the workflow; `load`
reads.  Both see the data set after ``data.classes`` and ``data.resolution``.
"""

import gzip
import hashlib
import importlib.util
import os
import stat
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from emm.settings import Data, SettingsError

Shape = tuple[int, int, int]  # (channels, height, width)


class DataError(ValueError):
    """Data are missing, damaged or of another kind than expected.  One line that begins with the file's name."""


@dataclass(frozen=True)
class Facts:
    """What is known of a data set before its pixels are read."""

    images: int  # of the used classes
    shape: Shape  # of one image after downscaling
    class_counts: tuple[int, ...] | None  # images of each used class, in the order of data.classes; None: no labels
    stored_shape: Shape  # before downscaling
    stored_counts: tuple[int, ...] | None  # of all classes
    second: "Facts | None" = None  # of data.mixture, where it has a share; all else is of data.source


@dataclass(frozen=True)
class Images:
    """A data set after class selection and downscaling."""

    images: np.ndarray  # uint8 (n, C, H, W)
    labels: np.ndarray | None  # int64 (n,), 0 .. used classes - 1 in the order of data.classes; None: no labels
    indices: np.ndarray  # int64 (n,), positions in the data set as stored (all classes)
    second: "Images | None" = None  # of data.mixture, where it has a share


@dataclass(frozen=True)
class _Named:
    """A data set whose facts are known without its files; `files` is what torchvision looks for under data.root."""

    shape: Shape
    counts: tuple[int, ...]
    name: str = ""  # torchvision's class
    files: str = ""
    note: str = ""  # how to get `files` by hand


_IDX = "/raw/train-images-idx3-ubyte"
_IDX_NOTE = "its four .gz files, decompressed, in that folder"
_NAMED = {
    "digits": _Named((1, 8, 8), (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)),
    "cifar10": _Named((3, 32, 32), (5000,) * 10, "CIFAR10", "cifar-10-batches-py", "cifar-10-python.tar.gz, extracted"),
    "cifar100": _Named((3, 32, 32), (500,) * 100, "CIFAR100", "cifar-100-python", "cifar-100-python.tar.gz, extracted"),
    "svhn": _Named(
        (3, 32, 32),
        (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
        *("SVHN", "train_32x32.mat", "train_32x32.mat (format 2 of the data set)"),
    ),
    "fashion_mnist": _Named((1, 28, 28), (6000,) * 10, "FashionMNIST", "FashionMNIST" + _IDX, _IDX_NOTE),
    "mnist": _Named(
        (1, 28, 28), (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949), "MNIST", "MNIST" + _IDX, _IDX_NOTE
    ),
}


def describe(data: Data) -> Facts:
    """Facts about a data set: constants, array headers and labels of an .npz, or file names and the first image.

    Settings that the data cannot satisfy are `selection_faults`' to tell: a class that does not exist counts 0
    images here, and a resolution above the stored one stands in `shape`.
    Raises DataError for an .npz or folder that is missing or not of the documented form.
    """
    second = describe(mixture(data)) if data.sources[1:] else None
    kind, _, place = data.source.partition(":")
    labels: np.ndarray | None
    if kind == "npz":
        shape, labels, images = _npz_facts(Path(place).expanduser())
        counts = None if labels is None else tuple(np.bincount(labels).tolist())
    elif kind == "folder":
        files, labels = folder_files(Path(place).expanduser())
        with _opened(files[0]) as image:
            shape, images = _image_shape(files[0], image), len(files)
        counts = None if labels is None else tuple(np.bincount(labels).tolist())
    else:
        shape, counts = _NAMED[kind].shape, _NAMED[kind].counts
        images = sum(counts)
    used, side = counts, data.resolution or shape[1]
    if counts is not None and data.classes is not None:
        used = tuple(counts[c] if c < len(counts) else 0 for c in data.classes)
        images = sum(used)
    return Facts(images, (shape[0], side, side), used, shape, counts, second)


def mixture(data: Data) -> Data:
    """The second source of a mixture, as a data set of its own."""
    assert data.mixture is not None
    return data.model_copy(
        update={"source": data.mixture, "classes": data.mixture_classes, "mixture": None, "mixture_share": 0.0}
    )


def selection_faults(data: Data, facts: Facts) -> list[str]:
    """One line ``key = value: what is allowed`` for each selection that the data set cannot satisfy."""
    faults = []
    if data.mixture_share and not data.mixture:
        faults.append(f"data.mixture_share = {data.mixture_share:g}: needs a second source in data.mixture")
    if facts.second is not None:
        faults += [
            line.replace("data.classes", "data.mixture_classes").replace("data.source", "data.mixture")
            for line in selection_faults(mixture(data), facts.second)
        ]
        if facts.second.shape != facts.shape:
            rule = (
                f"its images have shape {facts.second.shape}, those of {data.source} {facts.shape}; set data.resolution"
            )
            faults.append(f"data.mixture = {data.mixture!r}: {rule}")
        if data.labels == "true":
            faults.append("data.labels = 'true': the classes of a mixture are those of two data sets; use another mode")
    counts, stored = facts.stored_counts, facts.stored_shape[1]
    if data.resolution is not None and data.resolution > stored:
        faults.append(f"data.resolution = {data.resolution}: must be at most {stored}, as {data.source} is stored")
    if data.classes is not None:
        if counts is None:
            faults.append(f"data.classes = {data.classes}: {data.source} has no labels to select by")
        elif not data.classes or len(set(data.classes)) != len(data.classes):
            faults.append(f"data.classes = {data.classes}: must name at least one class, and none twice")
        elif max(data.classes) >= len(counts):
            faults.append(f"data.classes = {data.classes}: must be among 0 to {len(counts) - 1} for {data.source}")
    counted = facts.class_counts or ()
    if not faults and 0 in counted and (data.balanced or data.labels == "true" or not any(counted)):
        empty = (data.classes or range(len(counted)))[counted.index(0)]
        faults.append(f"data.classes = {data.classes}: must list only classes that hold images; class {empty} is empty")
    return faults


def absent(data: Data) -> str | None:
    """How to get the files that `load` will miss (one line), or None.  Never for data.download, .npz or folders."""
    if data.sources[1:] and (missing := absent(mixture(data))):
        return missing
    named = _NAMED.get(data.source)
    if named is None or not named.files or data.download or (path := _root(data) / named.files).exists():
        return None
    return f"{path}: not found; set data.download: true, or put there {named.note}"


def load(data: Data) -> Images:
    """All images of the used classes, in stored order, downscaled to data.resolution.

    Raises DataError for missing or damaged files, SettingsError for classes or a resolution that do not exist.
    """
    facts = describe(data)
    if faults := selection_faults(data, facts):
        raise SettingsError(*faults)
    kind, _, place = data.source.partition(":")
    files: list[Path] = []
    stored: np.ndarray = np.empty(0)
    labels: np.ndarray | None
    if kind == "folder":
        files, labels = folder_files(Path(place).expanduser())
    elif kind == "npz":
        arrays = read_arrays(Path(place).expanduser(), ["images"], ["labels"])
        labels = arrays["labels"].astype(np.int64) if "labels" in arrays else None
        stored = _channels_first(arrays["images"])
    else:
        stored, labels = _digits() if kind == "digits" else _torchvision(data, _NAMED[kind])
    indices = np.arange(len(files) or len(stored))
    if labels is not None and data.classes is not None:
        position = np.full(len(facts.stored_counts or ()), -1)
        position[data.classes] = np.arange(len(data.classes))
        indices = np.flatnonzero(position[labels] >= 0)
        labels = position[labels[indices]]
    if files:  # decode only what is used, and downscale one by one: the originals may not fit in memory
        images = np.empty((len(indices), *facts.shape), np.uint8)
        for row, index in zip(images, indices, strict=True):
            row[:] = downscale(_decode(files[index], facts.stored_shape)[None], facts.shape[1])[0]
    else:
        images = downscale(stored[indices], facts.shape[1])
    second = load(mixture(data)) if facts.second is not None else None
    return Images(images, labels, indices, second)


def digest(images: Images) -> str:
    """SHA-256 of a data set as it is used: pixels, labels and positions of all images, of a mixture's second source
    too."""
    content = hashlib.sha256()
    for array in (images.images, images.labels, images.indices):
        if array is not None:
            content.update(f"{array.dtype} {array.shape} ".encode())
            content.update(np.ascontiguousarray(array).data)
    if images.second is not None:
        content.update(digest(images.second).encode())
    return content.hexdigest()


def downscale(images: np.ndarray, side: int) -> np.ndarray:
    """Resample uint8 (n, C, H, H) to (n, C, side, side) by Pillow's Lanczos filter, as the paper does."""
    if images.shape[2] == side:
        return np.ascontiguousarray(images)
    small = np.empty((*images.shape[:2], side, side), np.uint8)
    for target, image in zip(small, images, strict=True):
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        resized = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))
        target[:] = resized if len(image) == 1 else resized.transpose(2, 0, 1)
    return small


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 digits; 0 .. 16 becomes 0 .. 255 as floor(x * 255 / 16 + 1/2)."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError("digits: not found; install scikit-learn, which ships them")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:  # reading the file spares the second that importing scikit-learn takes
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",").astype(np.int64)
        pixels, labels = table[:, :-1], table[:, -1]
    except FileNotFoundError:
        from sklearn.datasets import load_digits

        values, classes = load_digits(return_X_y=True)
        pixels, labels = np.asarray(values, np.int64), np.asarray(classes, np.int64)
    except Exception as error:
        raise DataError(f"{path}: damaged ({_reason(error)}); install scikit-learn again") from None
    return ((pixels * 255 + 8) // 16).astype(np.uint8).reshape(-1, 1, 8, 8), labels


def _root(data: Data) -> Path:
    return Path(data.root).expanduser()


def _torchvision(data: Data, named: _Named) -> tuple[np.ndarray, np.ndarray]:
    if missing := absent(data):
        raise DataError(missing)
    path = _root(data) / named.files
    try:
        images, labels = _open_torchvision(_root(data), named, download=False)
    except Exception as error:
        if not data.download:
            raise DataError(f"{path}: damaged ({_reason(error)}); delete it and set data.download: true") from None
        try:
            with _locked(_root(data)):  # jobs that start together must not write the same files
                images, labels = _open_torchvision(_root(data), named, download=True)
        except Exception as failure:
            raise DataError(f"{path}: download failed ({_reason(failure)}); put there {named.note}") from None
    found = tuple(np.bincount(labels, minlength=len(named.counts)).tolist())
    if images.dtype != np.uint8 or images.shape[1:] != named.shape or found != named.counts:
        raise DataError(
            f"{path}: holds {len(images)} images of shape {images.shape[1:]}, expected the {sum(named.counts)} of "
            f"shape {named.shape} of {named.name}; delete it and set data.download: true"
        )
    return images, labels


def _open_torchvision(root: Path, named: _Named, download: bool) -> tuple[np.ndarray, np.ndarray]:
    from torchvision import datasets  # here, because it takes seconds and few runs need it

    split = {"split": "train"} if named.name == "SVHN" else {"train": True}
    opened = getattr(datasets, named.name)(str(root), download=download, **split)
    labels = opened.labels if named.name == "SVHN" else opened.targets
    return _channels_first(np.asarray(opened.data)), np.asarray(labels).astype(np.int64)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".download.lock", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_arrays(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Arrays of an .npz file, never unpickling.  Raises DataError for a missing or damaged file or array."""
    with _archive(path, required) as archive:
        names = [*required, *(name for name in optional if f"{name}.npy" in archive.namelist())]
        arrays = {}
        for name in names:
            _header(path, archive, name)
            with archive.open(f"{name}.npy") as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
        return arrays


@contextmanager
def _archive(path: Path, required: Sequence[str]) -> Iterator[zipfile.ZipFile]:
    try:
        _regular(path)
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            parts = {name: name.replace("\\", "/").split("/") for name in members}
            if outside := [name for name in members if ".." in parts[name] or not parts[name][0]]:
                raise DataError(f"{path}: {outside[0]!r} would lie outside; make the file by numpy.savez")
            if len(set(members)) != len(members):
                raise DataError(f"{path}: holds two arrays of one name")
            for name in required:
                if f"{name}.npy" not in members:
                    found = ", ".join(n.removesuffix(".npy") for n in members) or "nothing"
                    raise DataError(f"{path}: must hold an array {name!r}; it holds {found}")
            yield archive
    except (DataError, MemoryError):
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:
        raise DataError(f"{path}: damaged, or not an .npz file ({_reason(error)})") from None


def _regular(path: Path) -> None:
    """Raise DataError for pipes and devices, of which a reader might wait for ever; OSError for what is not there."""
    if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
        raise DataError(f"{path}: is not a regular file")


def _header(path: Path, archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array, from the first bytes of its member."""
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise DataError(f"{path}: {name!r} holds pickled objects, which are never loaded; store plain numbers")
        size = archive.getinfo(f"{name}.npy").file_size - file.tell()
    if size != int(np.prod(shape, dtype=object)) * dtype.itemsize:  # object: Python integers do not overflow
        raise DataError(f"{path}: damaged: {name!r} has {size} bytes, its header says {shape} of {dtype}")
    if size > (memory := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
        raise DataError(f"{path}: {name!r} has {size} bytes, more than this machine's memory of {memory}")
    return shape, dtype


def _npz_facts(path: Path) -> tuple[Shape, np.ndarray | None, int]:
    """Shape of one image (C, H, W), labels int64 (n,) or None, and the number n of images."""
    with _archive(path, ["images"]) as archive:
        shape, dtype = _header(path, archive, "images")
        if dtype != np.uint8 or len(shape) not in (3, 4) or 0 in shape:
            allowed = "uint8 (N, H, W), (N, H, W, C) or (N, C, H, W)"
            raise DataError(f"{path}: 'images' must be {allowed}, not {dtype} {shape}")
        _, *stored = _channels_first(np.broadcast_to(np.uint8(0), shape)).shape  # a view: no memory is taken
        if stored[0] not in (1, 3) or stored[1] != stored[2]:
            raise DataError(f"{path}: 'images' must be square with 1 or 3 channels, not {shape}")
        form = (stored[0], stored[1], stored[2])
        if "labels.npy" not in archive.namelist():
            return form, None, shape[0]
        label_shape, label_dtype = _header(path, archive, "labels")
        if label_dtype.kind not in "iu" or label_shape != shape[:1]:
            raise DataError(f"{path}: 'labels' must be integers ({shape[0]},), not {label_dtype} {label_shape}")
        with archive.open("labels.npy") as file:
            labels = np.lib.format.read_array(file, allow_pickle=False)
        # An upper bound on the classes keeps identity numbers and the like from becoming millions of empty classes.
        if labels.min() < 0 or labels.max() >= shape[0]:
            found = f"{labels.min()} .. {labels.max()}"
            raise DataError(f"{path}: 'labels' must be 0 .. K-1 with K at most the {shape[0]} images, not {found}")
        return form, labels.astype(np.int64), shape[0]


def _channels_first(images: np.ndarray) -> np.ndarray:
    """(N, C, H, W) for any layout.  Squareness tells (N, H, W, C) from (N, C, H, W); (N, 3, 3, 3) is channels last."""
    if images.ndim == 3:
        return images[:, None]
    last = images.shape[3] in (1, 3) and images.shape[1] == images.shape[2]
    return images.transpose(0, 3, 1, 2) if last else images


_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_OTHER_SUFFIXES = (".gif", ".tif", ".tiff", ".avif", ".heic", ".jp2", ".ppm", ".pgm", ".tga", ".npy", ".npz")


def folder_files(root: Path) -> tuple[list[Path], np.ndarray | None]:
    """Image files sorted by class folder and name (by code point), and their labels, or None for a flat folder.

    Hidden entries and files of other kinds are ignored; no folder below a class folder is entered, so that links
    in a circle end in an error.
    """
    files, folders = _entries(root)
    if files and folders:
        raise DataError(f"{root}: must hold images or class folders, not both ({files[0].name}, {folders[0].name}/)")
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found, nested = _entries(folder)
        if nested:
            raise DataError(f"{nested[0]}: a class folder must hold images only, not another folder")
        if not found:
            raise DataError(f"{folder}: holds no images ({', '.join(_SUFFIXES)}); remove it if it is not a class")
        files += found
        labels += [label] * len(found)
    if not files:
        raise DataError(f"{root}: holds no images ({', '.join(_SUFFIXES)}) and no class folders")
    return files, np.array(labels, np.int64) if folders else None


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    try:
        paths = [folder / name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read as a folder ({error.strerror})") from None
    folders = [path for path in paths if os.path.isdir(path)]  # False, not an error, for a link to itself
    others = sorted(set(paths) - set(folders))
    for path in others:
        if path.suffix.lower() in _OTHER_SUFFIXES:  # ignoring images would shrink the data without a word
            raise DataError(f"{path}: images must be {', '.join(_SUFFIXES)}")
    return [path for path in others if path.suffix.lower() in _SUFFIXES], folders


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image of which only the header is read yet.  Raises DataError for everything that Pillow cannot read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            _regular(path)
            with Image.open(path, formats=("PNG", "JPEG", "WEBP", "BMP")) as image:
                yield image
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError:
        fault = "is empty" if path.stat().st_size == 0 else f"is not a {', '.join(_SUFFIXES)} image"
        raise DataError(f"{path}: {fault}") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(f"{path}: has more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except Exception as error:
        raise DataError(f"{path}: damaged, or cannot be read ({_reason(error)})") from None


def _image_shape(path: Path, image: Image.Image) -> Shape:
    """(C, H, W) of an opened image.  Raises DataError for what has no faithful uint8 form or is not square."""
    deep = any(
        "16" in str(tile[3]) for tile in getattr(image, "tile", ())
    )  # Pillow cuts 16-bit colour to 8 bits without a word
    if image.mode not in ("L", "RGB") or deep or "transparency" in image.info:
        found = "16 bits a channel" if deep or image.mode.startswith("I") else f"mode {image.mode}"
        found += " with transparency" if "transparency" in image.info else ""
        raise DataError(f"{path}: must be 8-bit grey or RGB without transparency, found {found}; convert it")
    if getattr(image, "n_frames", 1) > 1:
        raise DataError(f"{path}: must be a single image, found {image.n_frames} frames")  # type: ignore[attr-defined]
    if image.width != image.height:
        raise DataError(f"{path}: must be square, found {image.width} x {image.height} pixels; crop it")
    return (1 if image.mode == "L" else 3, image.height, image.width)


def _decode(path: Path, expected: Shape) -> np.ndarray:
    """uint8 (C, H, W); the shape is checked before any pixel is decoded."""
    with _opened(path) as image:
        if (shape := _image_shape(path, image)) != expected:
            raise DataError(f"{path}: has shape (C, H, W) = {shape}, but the folder's first image has {expected}")
        pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
