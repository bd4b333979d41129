"""Images of a collection, in memory or in a temporary file."""

import tempfile
from pathlib import Path
from typing import IO

import numpy as np

from emmeter.data.pictures import Shape
from emmeter.errors import DataError


class Store:
    """Images as uint8 (n, C, H, W), written once in parts and read in parts.

    A temporary file has no name, so nothing is left of it when the process ends, however it ends.
    """

    def __init__(self, count: int, shape: Shape, folder: Path | None = None):
        """Make room for `count` images.

        Args:
            count: number of images.
            shape: (C, H, W) of each.
            folder: where the temporary file is made; None holds the images in memory.
        Raises:
            OSError: the file cannot be made, or there is not enough space for it.
        """
        self.shape = shape
        self.pixels = int(np.prod(shape))
        self._count = count
        self._file: IO[bytes] | None = None
        if folder is None:
            self._array = np.empty((count, *shape), np.uint8)
        else:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (open as long as the store)

    def __len__(self) -> int:
        return self._count

    def write(self, start: int, images: np.ndarray) -> None:
        """Store images uint8 (m, C, H, W) from position `start` on."""
        if self._file is None:
            self._array[start : start + len(images)] = images
            return
        content = memoryview(np.ascontiguousarray(images).data).cast("B")
        self._file.seek(start * self.pixels)
        while content:
            content = content[self._file.write(content) :]

    def rows(self, part: slice) -> np.ndarray:
        """Images uint8 (m, C, H, W) of a slice without a step, not to be changed."""
        start, stop, _ = part.indices(self._count)
        if self._file is None:
            return self._array[start:stop]
        images = np.empty((stop - start, *self.shape), np.uint8)
        self._file.seek(start * self.pixels)
        content = memoryview(images.data).cast("B")
        while content:
            if not (count := self._file.readinto(content)):  # type: ignore[attr-defined]
                raise DataError("the temporary file of images has been cut; run again")
            content = content[count:]
        return images

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Images uint8 (m, C, H, W) at `positions`."""
        if self._file is None:
            return self._array[positions]
        images = [self.rows(slice(position, position + 1)) for position in np.asarray(positions).tolist()]
        return np.concatenate(images) if images else np.empty((0, *self.shape), np.uint8)
