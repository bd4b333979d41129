"""Arrays in .npz files, written reproducibly and read without unpickling."""

import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from emmeter.errors import DataError, reason
from emmeter.files import reading
from emmeter.files.writing import replacing


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays as .npz atomically; equal arrays give equal bytes, because no time is stored (numpy stores one).

    Raises:
        ValueError: an array holds Python objects.
        OSError: the file cannot be written.
    """
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array, order="C"), allow_pickle=False)


def read_arrays(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Read arrays by name, without unpickling; `optional` ones are left out where the file lacks them.

    Raises:
        DataError: the file or a required array is missing or damaged.
    """
    with opened(path, required) as archive:
        names = [*required, *(name for name in optional if f"{name}.npy" in archive.namelist())]
        arrays = {}
        for name in names:
            array_header(path, archive, name)
            with archive.open(f"{name}.npy") as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
        return arrays


@contextmanager
def opened(path: Path, required: Sequence[str]) -> Iterator[zipfile.ZipFile]:
    """Open an .npz file that holds the required arrays; errors of the block become errors of the file.

    Raises:
        DataError: the file is missing, damaged, unsafe to unpack, or lacks an array.
    """
    try:
        reading.regular(path)
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            parts = {name: name.replace("\\", "/").split("/") for name in members}
            if outside := [name for name in members if ".." in parts[name] or not parts[name][0]]:
                raise DataError(f"{path}: {outside[0]!r} would lie outside; make the file by numpy.savez")
            if len(set(members)) != len(members):
                raise DataError(f"{path}: holds two arrays of one name")
            for name in required:
                if f"{name}.npy" not in members:
                    content = ", ".join(member.removesuffix(".npy") for member in members) or "nothing"
                    raise DataError(f"{path}: must hold an array {name!r}; it holds {content}")
            yield archive
    except (DataError, MemoryError):
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:
        raise DataError(f"{path}: damaged, or not an .npz file ({reason(error)})") from None


def header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the order is Fortran's, and type of an array in NumPy's format; the file then stands at the data.

    Raises ValueError if the file is not of this format.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def array_header(path: Path, archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Read the shape and type of an array from the first bytes of its member, without its data.

    Raises:
        DataError: the array holds objects, its size differs from its header, or it is larger than the memory.
    """
    with archive.open(f"{name}.npy") as file:
        shape, _, dtype = header(file)
        if dtype.hasobject:
            raise DataError(f"{path}: {name!r} holds pickled objects, which are never loaded; store plain numbers")
        size = archive.getinfo(f"{name}.npy").file_size - file.tell()
    if size != int(np.prod(shape, dtype=object)) * dtype.itemsize:  # object: Python integers do not overflow
        raise DataError(f"{path}: damaged: {name!r} has {size} bytes, its header says {shape} of {dtype}")
    if size > (memory := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
        raise DataError(f"{path}: {name!r} has {size} bytes, more than this machine's memory of {memory}")
    return shape, dtype
