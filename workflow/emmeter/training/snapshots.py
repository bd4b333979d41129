"""Snapshots of the averaged weights: kept in the state folder during the training, joined into one file at its end."""

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from emmeter.errors import StageError
from emmeter.files import checksums
from emmeter.files.writing import replacing

_DTYPES = {torch.float64: "F64", torch.float32: "F32"}


def tensor_name(snapshot: int, decay: int, parameter: str) -> str:
    """Name of a tensor in snapshots.safetensors; snapshots and decays are counted from 0, in the settings' order."""
    return f"{snapshot}/{decay}/{parameter}"


def keep(folder: Path, index: int, averages: Sequence[Mapping[str, Tensor]]) -> str:
    """Write one snapshot, the weights under every decay, to the state folder; return its SHA-256.

    A resumed run that passes the same step writes the same bits again.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = {
        tensor_name(index, decay, name): value
        for decay, weights in enumerate(averages)
        for name, value in weights.items()
    }
    path = _path(folder, index)
    _write(path, tensors)
    return checksums.sha256(path)


def _path(folder: Path, index: int) -> Path:
    return folder / f"snapshot-{index}.safetensors"


def intact(folder: Path, kept: Mapping[int, str]) -> bool:
    """Check that the kept snapshots, checksums by index, are still in the folder and unchanged."""
    paths = {_path(folder, index): digest for index, digest in kept.items()}
    return all(path.is_file() and checksums.sha256(path) == digest for path, digest in paths.items())


def join(folder: Path, output: Path, description: dict[str, Any]) -> None:
    """Join the snapshots of a finished run into one file.

    The snapshots of a wide network may be larger than the memory.  So their tensors are memory-mapped and written from
    there: the kernel reads each page when it is written, and can drop it afterwards.

    Args:
        description: of the run, with the ``shares`` of its snapshots; becomes the file's metadata ``run``.
    Raises:
        StageError: a snapshot is missing or damaged.
        OSError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for index in range(len(description["shares"])):
        path = _path(folder, index)
        try:
            tensors |= load_file(path)
        except (SafetensorError, OSError) as error:
            raise StageError(f"{path}: cannot be read ({error}); delete {folder} to train this run again") from None
    _write(output, tensors, {"run": json.dumps(description)})


@dataclass(frozen=True)
class Snapshot:
    """The averaged weights of a run at one point of its training."""

    share: float
    """Of the training budget, above 0, to 1."""
    images_seen: int
    """Training images seen."""
    weights: Mapping[str, Tensor]
    """By the names of the network's state."""


def read(path: Path, key: str, decay: float, decays: int, names: Collection[str]) -> Iterator[Snapshot]:
    """Yield the snapshots of a finished run under one EMA decay, in the order of training.

    Args:
        path: the file that `join` wrote.
        key: of the stage `train`, which a file that names one must have.
        decay: the EMA decay.
        decays: how many of them the run has tracked.
        names: of the tensors of the network.
    Raises:
        DataError: the file has changed since it was written.
        StageError: the file is damaged, or belongs to other settings or to another network.
    """
    checksums.check([path])
    try:
        with safe_open(path, "pt") as file:
            description = json.loads(file.metadata()["run"])
            if description["key"] not in ("", key):
                raise ValueError("its settings are others")
            index = description["ema_decays"].index(decay)
            shares, images_seen = description["shares"], description["images_seen"]
            tensors = itertools.product(range(len(shares)), range(decays), names)
            if set(file.keys()) != {tensor_name(*tensor) for tensor in tensors}:
                raise ValueError("its tensors are those of another network")
            for number, (share, seen) in enumerate(zip(shares, images_seen, strict=True)):
                weights = {name: file.get_tensor(tensor_name(number, index, name)) for name in names}
                yield Snapshot(share, seen, weights)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise StageError(f"{path}: is not a complete file of snapshots of this run ({error}); delete it") from None


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors atomically in the format of safetensors, from where they are in memory or in mapped files.

    The package's own `save_file` renames a file of its own to the path that it is given.  A kill would leave that file,
    and the file that `replacing` has locked would be gone.  The bytes are those of `safetensors.torch.save`.
    """
    entries: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    head = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for _, tensor in ordered:
            file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
