"""Scores of finished runs, as stored."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emmeter.errors import DataError, StageError
from emmeter.files import checksums, records
from emmeter.files.layout import RECORDS, run_folder
from emmeter.files.npz import read_arrays
from emmeter.files.records import ScoreRecord
from emmeter.measure.criterion import Neighbours
from emmeter.measure.outcome import Count, RunId, count

GALLERY = (
    *("generated", "nearest", "second", "d1", "d2", "copy", "rank", "index"),
    *("copies", "images", "n", "replicate"),
)  # arrays of a gallery.npz


@dataclass(frozen=True)
class Scores(Mapping[RunId, Count]):
    """Counts of the finished runs of one score key, read from their files on each access.

    A run counts as not yet made if its file is missing, damaged or changed since it was written.

    Args:
        results: the folder of results.
        key: key of the stage `score`.
        snapshot: "last" or "best": the snapshot that counts.
    """

    results: Path
    key: str
    snapshot: str

    def path(self, run: RunId) -> Path:
        """Path of a run's score.json, whether it exists or not."""
        return run_folder(self.results, "score", self.key, run.n, run.replicate) / RECORDS["score"]

    def __getitem__(self, run: RunId) -> Count:
        try:
            return count(records.read(self.path(run), ScoreRecord), self.snapshot)
        except (OSError, ValueError, KeyError, TypeError):
            raise KeyError(run) from None

    def __iter__(self) -> Iterator[RunId]:
        for path in sorted((self.results / "scores" / self.key).glob("n*/r*/score.json")):
            yield RunId(int(path.parts[-3][1:]), int(path.parts[-2][1:]))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def run_files(scores: Scores, run: RunId) -> tuple[Path, Path]:
    """Paths of the files that a run contributes to its arm: score.json and gallery.npz."""
    path = scores.path(run)
    return path, path.with_name("gallery.npz")


def read_samples(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of samples.npz that scoring needs.

    Returns:
        `images` uint8 (s, m, C, H, W), `shares` float64 (s,) and `images_seen` int64 (s,), for s snapshots of m
        images.
    Raises:
        DataError: the file has changed since it was written.
        StageError: the file is missing or damaged.
    """
    return _read(path, ("images", "shares", "images_seen"), "a complete file of generated images", "; delete it")


def _read(path: Path, names: Sequence[str], kind: str, advice: str = "") -> dict[str, np.ndarray]:
    """Read arrays of a stage's file.  Raises DataError if the file has changed, StageError if it is no `kind`."""
    checksums.check([path])
    try:
        return read_arrays(path, names)
    except DataError as error:
        raise StageError(f"{path}: is not {kind} ({str(error).removeprefix(f'{path}: ')}){advice}") from None


def read_gallery(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a gallery.npz, of a run or of an arm; `emmeter.stages.score.even_ranks` describes them.

    Raises:
        DataError: the file has changed since it was written.
        StageError: the file is damaged, or was written by an earlier version.
    """
    return _read(path, GALLERY, "a gallery of this version", "; delete it and run again")


def neighbour_arrays(snapshots: Sequence[Neighbours]) -> dict[str, np.ndarray]:
    """Arrays of neighbours.npz, for s snapshots of m images with k neighbours each.

    Returns:
        `indices` int32 (s, m, k), `squared` int64 (s, m, k) and `copies` int32 (s, m).
    """
    return {
        "indices": np.stack([neighbours.indices for neighbours in snapshots]).astype(np.int32),
        "squared": np.stack([neighbours.squared for neighbours in snapshots]),
        "copies": np.stack([neighbours.copies for neighbours in snapshots]).astype(np.int32),
    }


def read_neighbours(path: Path) -> list[Neighbours]:
    """Read a file of `neighbour_arrays` back, one entry per snapshot.

    Raises:
        DataError: the file has changed since it was written.
        StageError: the file is missing or damaged.
    """
    arrays = _read(path, ("indices", "squared", "copies"), "a neighbours.npz of a scored run")
    return [Neighbours(*parts) for parts in zip(*(array.astype(np.int64) for array in arrays.values()), strict=True)]
