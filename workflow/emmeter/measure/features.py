"""Features of images by the user's own network, and the training images that are most similar in them."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from emmeter.errors import DataError, reason
from emmeter.measure.engines.contract import blocks

BATCH = 2**23  # pixel values that the network receives at once
ROWS, COLUMNS = 2**10, 2**14  # images of a block of similarities

Network = Callable[[np.ndarray], np.ndarray]


class Pictures(Protocol):
    """Images that can be read in parts."""

    def __len__(self) -> int: ...
    def rows(self, part: slice) -> np.ndarray: ...


def network(path: Path) -> Network:
    """Load a network from a TorchScript file, as `torchscript` does.

    Returns:
        A function from uint8 (n, C, H, W) to float32 (n, f), each row of length 1.
    Raises:
        DataError: the file is missing or no TorchScript.
    """
    compute = torchscript(path)

    def features(images: np.ndarray) -> np.ndarray:
        rows = compute(images)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(norms > 0, norms, 1)

    return features


def torchscript(path: Path) -> Network:
    """Load a network from a TorchScript file.

    The network receives float32 (n, 3, H, W) from 0 to 1 and returns (n, f), or more axes, which are flattened.

    Returns:
        A function from uint8 (n, C, H, W) to float32 (n, f).
    Raises:
        DataError: the file is missing or no TorchScript.
    """
    import torch

    if not path.is_file():
        raise DataError(f"{path}: no such file: must be a TorchScript file (torch.jit.save)")
    try:
        with warnings.catch_warnings():  # torch plans to replace the format
            warnings.simplefilter("ignore", FutureWarning)
            module = torch.jit.load(str(path), map_location="cpu").eval()
    except Exception as error:  # torch raises errors of many types
        raise DataError(f"{path}: is not a TorchScript file ({reason(error)}); save one by torch.jit.save") from None

    def features(images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).float().div(255)
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        try:
            with torch.inference_mode():
                values = module(pixels)
            rows = values.float().reshape(len(images), -1).numpy().astype(np.float32)
        except Exception as error:  # of the user's network
            shape = tuple(pixels.shape[1:])
            raise DataError(f"{path}: fails on images of shape {shape} ({_last(error)}); see docs/audit.md") from None
        if not np.isfinite(rows).all():
            raise DataError(f"{path}: gives values that are no numbers")
        return rows

    return features


def _last(error: Exception) -> str:
    """The last line of an error, which in TorchScript's errors names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__


def described(images: Pictures, compute: Network, tick: Callable[[int], None] = lambda _: None) -> np.ndarray:
    """Features float32 (n, f) of all images, each row of length 1.

    Args:
        tick: called with the number of images that have been computed since its last call.
    """
    parts = []
    size = max(1, BATCH // images.rows(slice(0, 1)).size)
    for part in blocks(len(images), size):
        parts.append(compute(images.rows(part)))
        tick(part.stop - part.start)
    return np.concatenate(parts)


def most_similar(queries: np.ndarray, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most similar row of `base` for each query, by the cosine.

    Args:
        queries: (m, f) float32, rows of length 1.
        base: (N, f) float32, rows of length 1.
    Returns:
        (m,) int64 positions, ties by position, and (m,) float64 similarities from -1 to 1.
    """
    positions, values = np.zeros(len(queries), np.int64), np.full(len(queries), -np.inf)
    for rows in blocks(len(queries), ROWS):
        for columns in blocks(len(base), COLUMNS):
            similar = queries[rows] @ base[columns].T
            best = similar.argmax(axis=1)
            reached = similar[np.arange(len(best)), best].astype(np.float64)
            nearer = reached > values[rows]
            positions[rows] = np.where(nearer, best + columns.start, positions[rows])
            values[rows] = np.where(nearer, reached, values[rows])
    return positions, np.clip(values, -1, 1)
