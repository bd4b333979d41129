"""Embeddings of the user's as labels: a row of numbers per image, such as the text embedding of its caption.

A file holds one row per image of the data set as stored.  A subset keeps the distinct rows of its images as a table,
and a label is a position in this table.
"""

import hashlib
from pathlib import Path

import numpy as np

from emmeter.data.ordering import LABELS, raw
from emmeter.errors import DataError, reason
from emmeter.files import reading
from emmeter.files.npz import array_header, header, opened

NAME = "embeddings"  # the array of an .npz file that holds several


def read(path: Path, count: int) -> np.ndarray:
    """Embeddings of a data set of `count` images as stored: float (count, E), finite, and not all rows the same.

    Args:
        path: an .npy file, or an .npz file with one array or an array `embeddings`.

    Raises:
        DataError: the file is missing or damaged, or holds anything else.
    """
    try:
        reading.regular(path)
        with open(path, "rb") as file:
            magic = file.read(len(np.lib.format.MAGIC_PREFIX))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    if magic != np.lib.format.MAGIC_PREFIX and not magic.startswith(b"PK"):
        raise DataError(f"{path}: must be an .npz or .npy file")
    rows = _npz(path) if magic.startswith(b"PK") else _npy(path)
    if len(rows) != count:
        raise DataError(f"{path}: must have one row per image of the data set, {count} rows, not {len(rows)}")
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise DataError(f"{path}: must hold finite numbers; row {row} (counted from 0) has others")
    if (rows == rows[0]).all():
        raise DataError(f"{path}: has the same row for every image, which says nothing about them")
    return rows


def _npz(path: Path) -> np.ndarray:
    with opened(path, []) as archive:
        held = [name.removesuffix(".npy") for name in archive.namelist()]
        name = NAME if NAME in held else held[0] if len(held) == 1 else None
        if name is None:
            raise DataError(f"{path}: must hold one array, or one named {NAME!r}; it holds {', '.join(held) or 'none'}")
        _check(path, repr(name), *array_header(path, archive, name))
        with archive.open(f"{name}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def _npy(path: Path) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            shape, _, dtype = header(file)
            _check(path, "the array", shape, dtype)
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
    except DataError:
        raise
    except Exception as error:  # damaged files raise errors of many types
        raise DataError(f"{path}: damaged, or not an .npy file ({reason(error)})") from None


def _check(path: Path, title: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype.hasobject:
        raise DataError(f"{path}: {title} holds pickled objects, which are never loaded; store plain numbers")
    if dtype.kind != "f" or len(shape) != 2 or 0 in shape:
        raise DataError(f"{path}: {title} must be floats of shape (images, values), not {dtype} {shape}")


def signature(rows: np.ndarray) -> str:
    """16 hexadecimal digits that change with the type, the shape and the values of an array (n, E)."""
    content = hashlib.sha256(f"{rows.dtype} {rows.shape} ".encode())
    content.update(np.ascontiguousarray(rows).data)
    return content.hexdigest()[:16]


def arranged(rows: np.ndarray, classes: np.ndarray | None, mode: str, seed: int, replicate: int) -> np.ndarray:
    """The row on which each image of a data set is conditioned, float32 (n, E).

    All rows are divided by one number, so that the mean square of `rows` is 1, as that of one-hot labels is in the
    networks.  So the scale of an embedding decides nothing.

    Args:
        rows: float (n, E), of the images in stored order.
        classes: int64 (n,); needed by `mode` "class".
        mode: as `data.embeddings`: "image", "class", "fixed", or "shuffled", which depends on `seed` and `replicate`.
    """
    scaled = rows.astype(np.float64)
    if top := np.abs(scaled).max():  # rows of the used classes alone may be 0
        scaled /= top  # first, so that no square overflows
        scaled /= np.sqrt(np.square(scaled).mean())
    if mode == "fixed":
        scaled[:] = scaled.mean(axis=0)
    elif mode == "class":
        assert classes is not None  # checked by `feasibility.data_faults`
        for label in np.unique(classes):
            scaled[classes == label] = scaled[classes == label].mean(axis=0)
    elif mode == "shuffled":
        scaled = scaled[np.argsort(raw(LABELS, seed, replicate, 0, len(scaled)), kind="stable")]
    return scaled.astype(np.float32) + np.float32(0)  # -0 becomes 0


def distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions in a table of distinct rows, int64 (m,), and the table (k, E), for rows (m, E).

    The table has the rows in the order in which they first occur.
    """
    first: dict[bytes, int] = {}
    codes = np.fromiter((first.setdefault(row.tobytes(), len(first)) for row in rows), np.int64, len(rows))
    return codes, rows[np.unique(codes, return_index=True)[1]]
