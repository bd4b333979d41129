"""The images that a command of the user's has written, checked before they count as a run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emmeter.errors import DataError, StageError
from emmeter.files.npz import read_arrays

NUMBERS = ("images_trained", "flops", "parameters")  # which a command may report


@dataclass(frozen=True)
class Written:
    """Images of a command, and what it reports about them.

    Attributes:
        images: uint8 (s, m, C, H, W), for s snapshots of m images.
        images_seen: int64 (s,), training images seen at each snapshot; 0 if the command does not say.
        reported: those of `NUMBERS` that the command reports.
    """

    images: np.ndarray
    images_seen: np.ndarray
    reported: dict[str, int]

    @property
    def shares(self) -> np.ndarray:
        """float64 (s,), share of the training of each snapshot, above 0, to 1."""
        return self.images_seen / self.images_seen[-1] if len(self.images_seen) > 1 else np.ones(1)


def read_written(path: Path, count: int, shape: tuple[int, ...]) -> Written:
    """Read and check the file of a command.

    Args:
        count: images that the command was asked for.
        shape: (C, H, W) of the training images.
    Raises:
        StageError: the file is missing, or anything in it differs from the contract.
    """
    try:
        arrays = read_arrays(path, ("images",), ("images_seen", *NUMBERS))
    except DataError as error:
        if not path.exists():
            raise StageError("model.command: has ended without writing {samples}") from None
        raise StageError(f"model.command: its {{samples}} cannot be used: {_reason(error, path)}") from None
    images = arrays["images"]
    if fault := image_fault(images, count, shape):
        raise StageError(f"model.command: images in {{samples}} {fault}")
    images = images if images.ndim == 5 else images[None]
    seen = arrays.get("images_seen", arrays.get("images_trained", np.zeros(1, np.int64)))
    seen = np.atleast_1d(seen)
    whole = seen.dtype.kind in "iu" and seen.ndim == 1 and (seen >= 0).all()
    if not whole or len(seen) != len(images) or (np.diff(seen) <= 0).any() or (len(seen) > 1 and seen[0] == 0):
        rule = f"must be {len(images)} increasing whole numbers, one per snapshot"
        raise StageError(f"model.command: images_seen in {{samples}} is {_brief(seen)}: {rule}")
    reported = {name: _number(name, arrays[name]) for name in NUMBERS if name in arrays}
    return Written(images, seen.astype(np.int64), reported)


def image_fault(images: np.ndarray, count: int, shape: tuple[int, ...]) -> str:
    """What is wrong with images, and what is allowed; empty if nothing is."""
    wanted = f"must be uint8 ({count}, {', '.join(map(str, shape))}), or (snapshots, {count}, ...)"
    found = f"are {images.dtype} {images.shape}"
    if images.dtype != np.uint8:
        if images.dtype.kind == "f" and not np.isfinite(images).all():
            return f"{found} and hold NaN or infinity: {wanted}; a diverged run must end with another status than 0"
        return f"{found}: {wanted}; round and clip to 0..255"
    last = images.shape[-3:]
    if images.ndim in (4, 5) and last == (*shape[1:], shape[0]) != shape:
        return f"{found}: {wanted}; channels come first"
    if images.ndim not in (4, 5) or not len(images) or images.shape[-4:] != (count, *shape):
        return f"{found}: {wanted}"
    final = images.reshape(-1, *images.shape[-4:])[-1]
    if count > 1 and (final == final[0]).all():
        return f"are {count} times the same image: the model has collapsed, or ignores its noise"
    if (final == final[:, :1, :1, :1]).all():
        return "are all of a single grey level: the model has collapsed, or its pixels were scaled wrongly"
    return ""


def _reason(error: DataError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _number(name: str, array: np.ndarray) -> int:
    if array.size != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all() or float(array.item()) < 0:
        rule = "must be one number from 0 on"
        raise StageError(f"model.command: {name} in {{samples}} is {_brief(array)}: {rule}")
    return int(array.item())


def _brief(array: np.ndarray) -> str:
    return str(array.tolist())[:60] if array.size < 10 else f"{array.dtype} {array.shape}"
