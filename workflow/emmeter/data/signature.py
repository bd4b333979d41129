"""Signatures of the user's own images, and properties of their pixels.  Both depend on content alone.

Every start of the workflow asks for both, so a cache keeps them: the digest of each image file beside the file's size,
times and inode, and the result of a look at all pixels beside the signature.  The cache only saves time.  A cache that
is missing, damaged or cannot be written changes no answer.
"""

import contextlib
import hashlib
import json
import os
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emmeter.data import datasets, own
from emmeter.data.images import Copies
from emmeter.errors import DataError
from emmeter.files import reading
from emmeter.files.writing import write_text
from emmeter.settings.duplicates import Duplicates
from emmeter.settings.sections import Data
from emmeter.settings.sources import own_path

VERSION = 1  # of the cache
RACY = 3.0  # seconds: a file that changed so shortly before it is read may change again without a new time
CHUNK = 1000  # images counted at once
# Settings that change no pixel of a source as it is stored and downscaled.
SELECTION: dict[str, Any] = {
    "root": "", "download": False, "classes": None, "balanced": False, "draw": "random", "labels": "none",
    "embeddings": "image",
    "held_out": 0, "mixture": None, "mixture_classes": None, "mixture_share": 0.0,
    "duplicates": Duplicates(),
}  # fmt: skip


@dataclass(frozen=True)
class Own:
    """The user's own images as they are now."""

    signature: str
    """16 hexadecimal digits that change with the images, their names, their order and their labels."""
    digests: tuple[str, ...] | None
    """SHA-256 of each image file in stored order; None for images in one .npz file."""


@dataclass(frozen=True)
class Look:
    """Properties of the pixels of all images of a source, at the resolution at which they are used."""

    sigma_data: float
    """Standard deviation of pixels in [-1, 1], to two digits."""
    copies: Copies | None
    """Groups of equal images; None if all images differ."""


def sign(source: str, cache: Path) -> Own:
    """Sign the present images of a source ``npz:PATH`` or ``folder:PATH``.

    Args:
        cache: folder of the caches.

    Raises:
        DataError, OSError: the source cannot be read.
    """
    path = own_path(source)
    return _folder(path, _cache(cache, source)) if source.startswith("folder:") else Own(_npz(path), None)


def _npz(path: Path) -> str:
    """Signature from the sums and sizes that the file keeps of its arrays: independent of compression and times."""
    content = hashlib.sha256()
    reading.regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in sorted(archive.infolist(), key=lambda info: info.filename):
                if member.filename in ("images.npy", "labels.npy"):
                    content.update(f"{member.filename} {member.file_size} {member.CRC:08x}\n".encode())
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: damaged, or not an .npz file ({error})") from None
    return content.hexdigest()[:16]


def _folder(folder: Path, cache: Path) -> Own:
    """Signature from the names and bytes of all images, in stored order."""
    files, labels = own.folder_files(folder)
    kept = _read(cache)
    cached = kept.get("files", {}) if isinstance(kept.get("files"), dict) else {}
    entries: dict[str, list[Any]] = {}
    digests: list[str] = []
    content = hashlib.sha256()
    for number, file in enumerate(files):
        name = str(file.relative_to(folder))
        entries[name] = _entry(file, cached.get(name))
        digests.append(entries[name][-1])
        label = "" if labels is None else labels[number]
        content.update(os.fsencode(f"{name}\0{label}\0{digests[-1]}\0"))
    if entries != cached:
        _write(cache, kept | {"files": entries})
    return Own(content.hexdigest()[:16], tuple(digests))


def _entry(path: Path, cached: object) -> list[Any]:
    """The cache's entry of an image file: size, times (ns), inode and SHA-256, which is read only if the rest differs.

    The times include the last change of the inode, which neither copying nor `touch` can set back.
    """
    reading.regular(path)
    started = time.time()
    status = os.stat(path)
    now = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    if isinstance(cached, list) and cached[:-1] == now and isinstance(cached[-1], str):
        return cached
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    racy = status.st_ctime > started - RACY
    return [*([None] if racy else now), digest]


def look(data: Data, signature: str, cache: Path) -> Look:
    """Look at all images of data.source, of used and unused classes.

    Args:
        signature: names the present content of the source.
        cache: folder of the caches.

    Raises:
        DataError, OSError: an image cannot be read.
        SettingsError: the resolution is above the stored one.
    """
    data = data.model_copy(update=SELECTION | {"root": data.root})
    path = _cache(cache, data.source)
    name = f"{signature} {json.dumps(data.model_dump(exclude=set(SELECTION)), sort_keys=True)}"
    kept = _read(path)
    looks = kept.get("looks", {}) if isinstance(kept.get("looks"), dict) else {}
    if (cached := _cached_look(looks.get(name))) is not None:
        return cached
    stored = datasets.load(data)
    seen = Look(sigma_data(stored.images), copies(_digests(stored.images), stored.labels))
    present = {key: value for key, value in looks.items() if key.startswith(f"{signature} ")}
    entry = {"sigma_data": seen.sigma_data, "same": None, "labels": None}
    if seen.copies is not None:
        entry["same"] = seen.copies.same.tolist()
        entry["labels"] = None if seen.copies.labels is None else seen.copies.labels.tolist()
    _write(path, kept | {"looks": present | {name: entry}})
    return seen


def _cached_look(entry: object) -> Look | None:
    if not isinstance(entry, dict):
        return None
    same, labels = (None if entry[n] is None else np.array(entry[n], np.int64) for n in ("same", "labels"))
    return Look(entry["sigma_data"], None if same is None else Copies(same, labels))


def sigma_data(images: np.ndarray) -> float:
    """Standard deviation of uint8 images (n, C, H, W) with pixels scaled to [-1, 1], to two digits, at least 0.01."""
    counts = np.zeros(256, np.int64)
    for first in range(0, len(images), CHUNK):
        counts += np.bincount(images[first : first + CHUNK].ravel(), minlength=256)
    levels, total = np.arange(256), counts.sum()
    mean = (counts * levels).sum() / total
    deviation = float(np.sqrt((counts * (levels - mean) ** 2).sum() / total)) / 127.5
    return max(float(f"{deviation:.2g}"), 0.01)


def copies(digests: Sequence[Any], labels: np.ndarray | None) -> Copies | None:
    """Groups of equal images among n, from a digest and a label int64 (n,) of each; None if all images differ."""
    first: dict[Any, int] = {}
    same = np.fromiter((first.setdefault(digest, i) for i, digest in enumerate(digests)), np.int64, len(digests))
    return Copies(same, labels) if len(first) < len(digests) else None


def _digests(images: np.ndarray) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest() for image in images]


def _cache(folder: Path, source: str) -> Path:
    return folder / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.json"


def _read(path: Path) -> dict[str, Any]:
    """The content of a source's cache; empty if it is missing, damaged or of another version."""
    try:
        digest, _, body = path.read_text(encoding="utf-8").partition("\n")
        content = json.loads(body) if hashlib.sha256(body.encode()).hexdigest() == digest else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and content.get("version") == VERSION else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    body = json.dumps(content | {"version": VERSION})
    with contextlib.suppress(OSError):  # a folder that cannot be written, or a full disk
        write_text(path, f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}")
