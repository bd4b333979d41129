"""Data sets known by name: scikit-learn's digits, the glyphs of a font, and those that torchvision fetches."""

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emmeter import locks
from emmeter.data import glyphs
from emmeter.data.images import channels_first, parts
from emmeter.data.pictures import Shape
from emmeter.errors import DataError, reason
from emmeter.settings.sections import Data
from emmeter.settings.sources import expanded


@dataclass(frozen=True)
class Named:
    """A data set whose facts are known without its files."""

    shape: Shape
    """(C, H, W) of one image."""
    counts: tuple[int, ...]
    """Images per class."""
    title: str
    """Title for readers."""
    licence: str | None
    """Licence; None if the authors state none."""
    name: str = ""
    """Name of torchvision's class; empty for digits and glyphs."""
    files: str = ""
    """File or folder below data.root that torchvision reads; empty for digits and glyphs."""
    note: str = ""
    """Instructions to obtain `files` by hand."""


_IDX = "/raw/train-images-idx3-ubyte"
_IDX_NOTE = "its four .gz files, decompressed, in that folder"
NAMED = {
    "digits": Named(
        (1, 8, 8),
        (178, 182, 177, 183, 181, 182, 181, 179, 174, 180),
        *("Optical Recognition of Handwritten Digits (Alpaydin and Kaynak), test set", "CC BY 4.0"),
    ),
    "glyphs": Named(
        (1, glyphs.SIDE, glyphs.SIDE),
        glyphs.COUNTS,
        *("Glyphs of the font DejaVu Sans", "licences of the fonts Bitstream Vera and Arev"),
    ),
    "cifar10": Named(
        (3, 32, 32),
        (5000,) * 10,
        *("CIFAR-10 (Krizhevsky), training set", None),
        *("CIFAR10", "cifar-10-batches-py", "cifar-10-python.tar.gz, extracted"),
    ),
    "cifar100": Named(
        (3, 32, 32),
        (500,) * 100,
        *("CIFAR-100 (Krizhevsky), training set", None),
        *("CIFAR100", "cifar-100-python", "cifar-100-python.tar.gz, extracted"),
    ),
    "svhn": Named(
        (3, 32, 32),
        (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
        *("Street View House Numbers (Netzer et al.), training set", "non-commercial use only"),
        *("SVHN", "train_32x32.mat", "train_32x32.mat (format 2 of the data set)"),
    ),
    "fashion_mnist": Named(
        (1, 28, 28),
        (6000,) * 10,
        *("Fashion-MNIST (Xiao et al.), training set", "MIT"),
        *("FashionMNIST", "FashionMNIST" + _IDX, _IDX_NOTE),
    ),
    "mnist": Named(
        (1, 28, 28),
        (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
        *("MNIST (LeCun et al.), training set", "CC BY-SA 3.0"),
        *("MNIST", "MNIST" + _IDX, _IDX_NOTE),
    ),
}


def identity(data: Data) -> tuple[str, str | None]:
    """Title and licence of a data set: of the user's own, the name of the file or folder, and no licence.

    Titles of a mixture are joined by " + ".  Its licence is None unless both are known.
    """
    known = [NAMED.get(source) for source in data.sources]
    names = [
        named.title if named else Path(source.partition(":")[2]).name
        for named, source in zip(known, data.sources, strict=True)
    ]
    licences = [named.licence if named else None for named in known]
    stated = [licence for licence in licences if licence is not None]
    return " + ".join(names), "; ".join(dict.fromkeys(stated)) if len(stated) == len(licences) else None


def absent(data: Data) -> str | None:
    """One line that says how to obtain the files that `load` would miss, or None if it would miss none.

    None as well for sources that may be downloaded, .npz files and folders.
    """
    for part in reversed(parts(data)):
        if part.source == "glyphs":
            try:
                glyphs.font()
            except DataError as error:
                return str(error)
        named = NAMED.get(part.source)
        if named and named.files and not part.download and not (path := _root(part) / named.files).exists():
            return f"{path}: not found; set data.download: true, or put there {named.note}"
    return None


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits: images uint8 (1797, 1, 8, 8) and labels int64 (1797,).

    The grey levels 0 .. 16 become floor(x * 255 / 16 + 1/2), 0 .. 255.

    Raises:
        DataError: scikit-learn is missing or damaged.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError("digits: not found; install scikit-learn, which ships them")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:  # reading the file saves the second that importing scikit-learn takes
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


def read_torchvision(data: Data, named: Named) -> tuple[np.ndarray, np.ndarray]:
    """A data set of torchvision's: images uint8 (n, C, H, W) and labels int64 (n,), downloaded if data.download allows.

    Raises:
        DataError: the files are missing or damaged, hold other images, or cannot be downloaded.
    """
    if missing := absent(data):
        raise DataError(missing)
    path = _root(data) / named.files
    try:
        images, labels = _open_torchvision(_root(data), named, download=False)
    except Exception as error:
        if not data.download:
            raise DataError(f"{path}: damaged ({reason(error)}); delete it and set data.download: true") from None
        try:
            with locks.held(_root(data) / ".download.lock"):  # jobs that start together must not write the same files
                images, labels = _open_torchvision(_root(data), named, download=True)
        except Exception as failure:
            raise DataError(f"{path}: download failed ({reason(failure)}); put there {named.note}") from None
    counts = tuple(np.bincount(labels, minlength=len(named.counts)).tolist())
    if images.dtype != np.uint8 or images.shape[1:] != named.shape or counts != named.counts:
        raise DataError(
            f"{path}: holds {len(images)} images of shape {images.shape[1:]}, expected the {sum(named.counts)} of "
            f"shape {named.shape} of {named.name}; delete it and set data.download: true"
        )
    return images, labels


def _open_torchvision(root: Path, named: Named, download: bool) -> tuple[np.ndarray, np.ndarray]:
    from torchvision import datasets  # not at the top, because it takes seconds and few runs need it

    split = {"split": "train"} if named.name == "SVHN" else {"train": True}
    opened = getattr(datasets, named.name)(str(root), download=download, **split)
    labels = opened.labels if named.name == "SVHN" else opened.targets
    return channels_first(np.asarray(opened.data)), np.asarray(labels).astype(np.int64)
