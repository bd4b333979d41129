"""Snapshots of the averaged weights: kept beside the training's state as it goes, joined into one file at its end."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from emmeter.errors import StageError
from emmeter.files import checksums
from emmeter.files.writing import replacing


def tensor_name(snapshot: int, decay: int, parameter: str) -> str:
    """Name of a tensor in snapshots.safetensors: snapshots and decays are counted as in the settings."""
    return f"{snapshot}/{decay}/{parameter}"


def keep(folder: Path, index: int, averages: Sequence[Mapping[str, Tensor]]) -> str:
    """Write one snapshot, the weights under every decay, to the state folder; return its checksum.

    A resumed run that passes the same step writes the same bits again.
    """
    tensors = {
        tensor_name(index, decay, name): value
        for decay, weights in enumerate(averages)
        for name, value in weights.items()
    }
    path = _path(folder, index)
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors))  # the library's own writer reports a full disk in an error of its own
    return checksums.sha256(path)


def _path(folder: Path, index: int) -> Path:
    return folder / f"snapshot-{index}.safetensors"


def intact(folder: Path, kept: Mapping[int, str]) -> bool:
    """Whether the snapshots kept so far, with their checksums by index, are still those that were written."""
    paths = {_path(folder, index): digest for index, digest in kept.items()}
    return all(path.is_file() and checksums.sha256(path) == digest for path, digest in paths.items())


def join(folder: Path, output: Path, description: dict[str, Any]) -> None:
    """Join the snapshots of a finished run into one file.

    Their data are copied as they are: a wide network's snapshots may be larger than the memory.  A safetensors file is
    the length of its header (8 bytes, little-endian), the header in JSON with the place of every tensor, and the data.

    Args:
        description: of the run, with the ``shares`` of its snapshots; becomes the file's metadata ``run``.
    Raises:
        StageError: a snapshot is missing or damaged.
    """
    header: dict[str, Any] = {"__metadata__": {"run": json.dumps(description)}}
    bodies: list[tuple[Path, int]] = []  # a file, and where its data begin
    length = 0  # of all data so far
    for index in range(len(description["shares"])):
        path = _path(folder, index)
        try:
            with safe_open(path, "pt"):  # checks the header against the file's size
                pass
            with open(path, "rb") as file:
                start = 8 + int.from_bytes(file.read(8), "little")
                entries = json.loads(file.read(start - 8))
        except (SafetensorError, OSError) as error:
            raise StageError(f"{path}: cannot be read ({error}); delete {folder} to train this run again") from None
        for name, entry in entries.items():
            header[name] = entry | {"data_offsets": [length + offset for offset in entry["data_offsets"]]}
        bodies.append((path, start))
        length += path.stat().st_size - start
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(output) as temporary, open(temporary, "wb") as joined:
        joined.write(len(text).to_bytes(8, "little") + text)
        for path, start in bodies:
            with open(path, "rb") as file:
                file.seek(start)
                shutil.copyfileobj(file, joined)
