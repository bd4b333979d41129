"""Images of every supported source in one form: uint8 (n, C, H, W), square, with C = 1 or 3.

`describe` tells counts and shapes without reading pixels, cheaply enough for every start of the workflow; `load`
reads.  Both see the data set after ``data.classes`` and ``data.resolution``.
"""

import gzip
import hashlib
import importlib.util
import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from emm import pictures
from emm.pictures import DataError, Shape, printable, reason
from emm.settings import Data, SettingsError

_CLASSES_SHOWN = 12
_NAMES_SHOWN = 3
_FAULTS_SHOWN = 20
_ARRAYS = ("array", "arrays")


@dataclass(frozen=True)
class Facts:
    """What is known of a data set before its pixels are read."""

    images: int  # of the used classes
    shape: Shape  # of one image after data.fit and downscaling
    class_counts: tuple[int, ...] | None  # images of each used class, in the order of data.classes; None: no labels
    stored_shape: Shape  # before downscaling; of a folder whose images differ in size, that of the first
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


def expanded(text: str) -> Path:
    """A path with the home folder for a leading `~` or `~user`.  Raises DataError where that is not known."""
    found = os.path.expanduser(text)
    if text.startswith("~") and found == text:
        home = text.split("/")[0]
        raise DataError(f"{text}: the home folder {home} is not known on this machine; write the path in full")
    return Path(found)


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
        form, labels, images = _npz_facts(path, data)
        shape = pictures.square(path, form, data.fit)
        counts = None if labels is None else tuple(np.bincount(labels).tolist())
    elif kind == "folder":
        files, labels = folder_files(expanded(place))
        first = files[min(_chosen(labels, data), default=0)]
        shape, images = pictures.square(first, pictures.head(first), data.fit), len(files)
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
    sizes = data.fit is not None and data.source.startswith(
        "folder:"
    )  # may differ: `image_faults` names the small ones
    if data.resolution is not None and data.resolution > stored and not sizes:
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

    Raises DataError for missing or damaged files, with a line for each image of a folder that cannot be used, and
    SettingsError for classes or a resolution that do not exist.
    """
    try:
        return _load(data)
    except DataError as error:
        raise (DataError(*lines) if (lines := _damaged(data)) else error) from None


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
        images = _read([files[index] for index in indices], data, facts)
    else:
        images = downscale(pictures.squared(stored[indices], data.fit), facts.shape[1])
    second = _load(mixture(data)) if facts.second is not None else None
    return Images(images, labels, indices, second)


def _read(paths: Sequence[Path], data: Data, facts: Facts) -> np.ndarray:
    """uint8 (n, C, H, W) from files of images.  Raises DataError for the first that cannot be used."""
    images = np.empty((len(paths), *facts.shape), np.uint8)
    usual = _common(facts.stored_shape, data)
    for row, path in zip(images, paths, strict=True):
        pixels = pictures.decode(path, lambda shape, path=path: _compare(path, shape, usual, data))
        row[:] = downscale(pictures.squared(pixels, data.fit)[None], facts.shape[1])[0]
    return images


def _damaged(data: Data) -> list[str]:
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
            paths = [files[i] for i in _chosen(labels, one) or range(len(files))]
            faults = _head_faults(paths, pictures.heads(paths), one)
            for index in set(range(len(paths))) - set(faults):
                try:
                    pictures.decode(paths[index])
                except DataError as error:
                    faults[index] = str(error)
            lines += _first(one.source, faults)
    return lines


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
        raise DataError(f"{path}: damaged ({reason(error)}); install scikit-learn again") from None
    return ((pixels * 255 + 8) // 16).astype(np.uint8).reshape(-1, 1, 8, 8), labels


def _root(data: Data) -> Path:
    return expanded(data.root)


def _torchvision(data: Data, named: _Named) -> tuple[np.ndarray, np.ndarray]:
    if missing := absent(data):
        raise DataError(missing)
    path = _root(data) / named.files
    try:
        images, labels = _open_torchvision(_root(data), named, download=False)
    except Exception as error:
        if not data.download:
            raise DataError(f"{path}: damaged ({reason(error)}); delete it and set data.download: true") from None
        try:
            with _locked(_root(data)):  # jobs that start together must not write the same files
                images, labels = _open_torchvision(_root(data), named, download=True)
        except Exception as failure:
            raise DataError(f"{path}: download failed ({reason(failure)}); put there {named.note}") from None
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
        pictures.regular(path)
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
        raise DataError(f"{path}: damaged, or not an .npz file ({reason(error)})") from None


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


def _npz_facts(path: Path, data: Data) -> tuple[Shape, np.ndarray | None, int]:
    """Shape of one image as stored (C, H, W), labels int64 (n,) or None, and the number n of images."""
    with _archive(path, ["images"]) as archive:
        shape, dtype = _header(path, archive, "images")
        if dtype != np.uint8 or len(shape) not in (3, 4) or 0 in shape:
            allowed = "uint8 (N, H, W), (N, H, W, C) or (N, C, H, W)"
            raise DataError(f"{path}: 'images' must be {allowed}, not {dtype} {shape}")
        _, *stored = _channels_first(np.broadcast_to(np.uint8(0), shape)).shape  # a view: no memory is taken
        if stored[0] not in (1, 3) or (stored[1] != stored[2] and data.fit is None):
            raise DataError(f"{path}: 'images' must be square with 1 or 3 channels, not {shape}")
        if stored[1] != stored[2] and len(shape) == 4 and shape[1] in (1, 3) and shape[3] in (1, 3):
            raise DataError(
                f"{path}: 'images' may be (N, H, W, C) or (N, C, H, W), as {shape} does not tell; crop them"
            )
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
    """(N, C, H, W) for any layout.

    The number of channels tells (N, H, W, C) from (N, C, H, W), and where both ends could be one, squareness;
    (N, 3, 3, 3) is channels last.
    """
    if images.ndim == 3:
        return images[:, None]
    last = images.shape[3] in (1, 3) and (images.shape[1] == images.shape[2] or images.shape[1] not in (1, 3))
    return images.transpose(0, 3, 1, 2) if last else images


def folder_files(root: Path) -> tuple[list[Path], np.ndarray | None]:
    """Image files of a folder in natural order of class folder and name, and their labels, or None for a flat folder.

    What is no image, by suffix and first bytes, and hidden entries are ignored; no folder below a class folder is
    entered, so that links in a circle end in an error.  Raises DataError for a folder of another form.
    """
    listed = _listed(root)
    return listed.files, listed.labels


@dataclass(frozen=True)
class _Listed:
    """The entries of a folder of images."""

    files: list[Path]  # images
    labels: np.ndarray | None  # int64 (n,); None: no class folders
    classes: list[str]  # names of the class folders, in the order of their numbers
    others: list[Path]  # files that are no images


def _listed(root: Path) -> _Listed:
    files, folders, others = _entries(root)
    if files and folders:
        raise DataError(f"{root}: must hold images or class folders, not both ({files[0].name}, {folders[0].name}/)")
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found, nested, ignored = _entries(folder)
        if nested:
            raise DataError(f"{nested[0]}: a class folder must hold images only, not another folder")
        if not found:
            raise DataError(
                f"{folder}: holds no images ({', '.join(pictures.SUFFIXES)}); remove it if it is not a class"
            )
        files += found
        labels += [label] * len(found)
        others += ignored
    if not files:
        raise DataError(f"{root}: holds no images ({', '.join(pictures.SUFFIXES)}) and no class folders")
    return _Listed(files, np.array(labels, np.int64) if folders else None, [path.name for path in folders], others)


def _entries(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Images, folders and other files of a folder, each in natural order; hidden ones are left out."""
    try:
        with os.scandir(folder) as entries:
            found = {entry.name: _is_folder(entry) for entry in entries if not entry.name.startswith(".")}
    except OSError as error:
        raise DataError(f"{folder}: cannot be read as a folder ({error.strerror})") from None
    images: list[Path] = []
    folders: list[Path] = []
    others: list[Path] = []
    for name in sorted(found, key=pictures.natural):
        path = folder / name
        (folders if found[name] else images if pictures.is_picture(path) else others).append(path)
    return images, folders, others


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _chosen(labels: np.ndarray | None, data: Data) -> list[int]:
    """Positions of the images of the used classes among those with these labels; none without labels or classes."""
    if labels is None or data.classes is None:
        return []
    classes = set(data.classes)
    return [index for index, label in enumerate(labels.tolist()) if label in classes]


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
        shape, labels, images = _npz_facts(path, Data(source=source, fit="crop"))
        with _archive(path, ["images"]) as archive:
            arrays = [name.removesuffix(".npy") for name in archive.namelist()]
        counts = None if labels is None else tuple(np.bincount(labels).tolist())
        unused = [name for name in arrays if name not in ("images", "labels")]
        return Inventory(source, images, Counter({shape: images}), counts, unused=unused)
    listed = _listed(path)
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
            chosen = _chosen(held.labels, one) or range(len(held.files))
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
    usual = Counter(_common(shape, data) for shape in squares.values()).most_common(1)[0][0]
    for index in squares:
        try:
            _compare(files[index], heads[index], usual, data)  # type: ignore[arg-type]
        except DataError as error:
            faults[index] = str(error)
    return faults


def _common(shape: Shape, data: Data) -> Shape:
    """What of the shape of a square image all images of a data set must have in common."""
    if data.fit is not None and data.resolution is not None:
        return shape[0], data.resolution, data.resolution
    return shape


def _compare(path: Path, shape: Shape, usual: Shape, data: Data) -> None:
    """Raise DataError for an image of this shape (C, H, W), as stored, among others of which `usual` is `_common`."""
    found = pictures.square(path, shape, data.fit)
    if _common(found, data) != usual:
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
