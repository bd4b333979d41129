"""Scores of finished runs, as they are stored."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emmeter.errors import DataError, StageError
from emmeter.files import checksums
from emmeter.files.layout import run_folder
from emmeter.files.npz import read_arrays
from emmeter.measure.criterion import Neighbours
from emmeter.measure.outcome import Count, RunId, count


@dataclass(frozen=True)
class Scores(Mapping[RunId, Count]):
    """Counts of the finished runs of one score key, read from their files when asked for.

    A file that is missing, damaged or changed since it was written counts as a run that has not been made.
    """

    results: Path
    key: str
    snapshot: str  # "last" or "best"

    def path(self, run: RunId) -> Path:
        return run_folder(self.results, "score", self.key, run.n, run.replicate) / "score.json"

    def __getitem__(self, run: RunId) -> Count:
        try:
            return count(checksums.read_json(self.path(run)), self.snapshot)
        except (OSError, ValueError, KeyError, TypeError):
            raise KeyError(run) from None

    def __iter__(self) -> Iterator[RunId]:
        for path in sorted((self.results / "scores" / self.key).glob("n*/r*/score.json")):
            yield RunId(int(path.parts[-3][1:]), int(path.parts[-2][1:]))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def run_files(scores: Scores, run: RunId) -> tuple[Path, Path]:
    """What one run contributes to its arm: its score and its gallery."""
    path = scores.path(run)
    return path, path.with_name("gallery.npz")


def read_samples(path: Path) -> dict[str, np.ndarray]:
    """The arrays of samples.npz that scores need.  Raises DataError or StageError where it is missing or damaged."""
    return _read(path, ("images", "shares", "images_seen"), "a complete file of generated images", "; delete it")


def _read(path: Path, names: Sequence[str], kind: str, advice: str = "") -> dict[str, np.ndarray]:
    """Arrays of a stage's file.  Raises DataError where it has changed, StageError where it is not of its kind."""
    checksums.check([path])
    try:
        return read_arrays(path, names)
    except DataError as error:
        raise StageError(f"{path}: is not {kind} ({str(error).removeprefix(f'{path}: ')}){advice}") from None


def neighbour_arrays(found: Sequence[Neighbours]) -> dict[str, np.ndarray]:
    """What neighbours.npz holds: indices and squared (snapshots, m, k), copies (snapshots, m)."""
    return {
        "indices": np.stack([f.indices for f in found]).astype(np.int32),
        "squared": np.stack([f.squared for f in found]),
        "copies": np.stack([f.copies for f in found]).astype(np.int32),
    }


def read_neighbours(path: Path) -> list[Neighbours]:
    """Read `arrays` back.  Raises DataError or StageError where the file is missing or damaged."""
    stored = _read(path, ("indices", "squared", "copies"), "a neighbours.npz of a scored run")
    return [Neighbours(*rows) for rows in zip(*(array.astype(np.int64) for array in stored.values()), strict=True)]
