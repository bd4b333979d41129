"""What of a folder of results can be derived again, and what of it does not match.

Of every run and search: the key from the settings beside it, the checksums, the record and what it was made from, the
counts of a score from its neighbours, the answer of a search from its scores.  Of a random few: the subset from the
data, and the neighbours from subset and samples.  Files that are no longer there (a user may delete samples to save
space) are counted, as nothing can be said of them.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from emmeter.data import datasets, images, named
from emmeter.data.images import Images
from emmeter.data.subset import draw
from emmeter.data.subset import load as load_subset
from emmeter.errors import DataError, SettingsError, StageError
from emmeter.files import checksums, records
from emmeter.files.layout import FILES, RECORDS, RUN_FOLDERS, SETTINGS, run_folder
from emmeter.files.records import EmmRecord, Provenance, ScoreRecord, SubsetRecord
from emmeter.files.scores import Scores, neighbour_arrays, read_neighbours, read_samples
from emmeter.measure.search import replay
from emmeter.settings import sources
from emmeter.settings.keys import Stage, key
from emmeter.settings.sections import Data, Setup
from emmeter.settings.validation import read_setup
from emmeter.stages.emm import describe_run
from emmeter.stages.score import count_copies, nearest_images
from emmeter.training.seeds import derive

_INPUTS: dict[str, Stage] = {"subset.npz": "subset", "snapshots.safetensors": "train", "samples.npz": "sample"}


@dataclass(frozen=True)
class Place:
    """The folder of one stage's output; a search has no size and no replicate."""

    folder: Path
    stage: Stage
    key: str
    n: int | None = None
    replicate: int | None = None

    @property
    def record(self) -> Path:
        return self.folder / RECORDS[self.stage]


@dataclass(frozen=True)
class Verified:
    """Lines ``path: what does not match``, and how much was looked at."""

    results: Path
    mismatches: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    data: dict[str, Images | None] = field(default_factory=dict)  # data sets by their settings as JSON; None: not here

    def summary(self) -> str:
        count = self.counts
        text = (
            f"verified: {count['runs']} folders of runs, {count['searches']} searches, {count['files']} checksums, "
            f"{count['scores']} scores from their neighbours, {count['rescored']} from their samples"
        )
        skipped = [
            f"{count[name]} {what}"
            for name, what in (
                ("gone", "files that are no longer there"),
                ("elsewhere", "subsets whose data are not here"),
                ("unreplayed", "searches whose scores are no longer there"),
            )
            if count[name]
        ]
        return text + (f"; not checked: {', '.join(skipped)}" if skipped else "")


def verify(results: Path, scores: int = 10, seed: int = 0) -> Verified:
    """Verify a folder of results, computing `scores` scores again that `seed` chooses.

    Raises StageError where the folder holds no results.
    """
    done = Verified(results)
    sound: dict[Place, Setup] = {}
    for place in places(results):
        done.counts["searches" if place.stage == "emm" else "runs"] += 1
        before = len(done.mismatches)
        setup = _settings(place, done)
        _files(place, done)
        if setup is not None and place.record.is_file():
            _record(place, setup, done)
        listed = (place.folder / checksums.NAME).exists()  # without it, of an earlier version: derived all the same
        if setup is not None and (len(done.mismatches) == before or not listed):
            sound[place] = setup
    if not done.counts:
        raise StageError(f"{results}: holds no runs: must be a whole folder of results, as snakemake makes it")
    _data({place: setup for place, setup in sound.items() if place.stage == "subset" and place.record.is_file()}, done)
    scored = {place: setup for place, setup in sound.items() if place.stage == "score"}
    for place, setup in scored.items():
        _attempt(place, done, _counts, place, setup, done)
    folders = {place.folder for place in sound}
    able = [
        place
        for place, setup in scored.items()
        if all(path.parent in folders and path.is_file() for path in _sources(results, place, setup))
    ]
    for place in random.Random(seed).sample(able, min(max(scores, 0), len(able))):
        _attempt(place, done, _scored_again, place, scored[place], done)
    for place, setup in sound.items():
        if place.stage == "emm":
            _attempt(place, done, _search, place, setup, done)
    return done


def places(results: Path) -> Iterator[Place]:
    """Every folder below `results` that holds output of a stage, in order."""
    for stage, name in RUN_FOLDERS.items():
        for folder in sorted((results / name).glob("*/n*/r*")):
            key_of, n, replicate = folder.parts[-3:]
            if _output(stage, folder) and n[1:].isdecimal() and replicate[1:].isdecimal():
                yield Place(folder, stage, key_of, int(n[1:]), int(replicate[1:]))
    for folder in sorted(results.glob("emm/*")):
        if _output("emm", folder):
            yield Place(folder, "emm", folder.name)


def _output(stage: Stage, folder: Path) -> bool:
    return any((folder / name).is_file() for name in (RECORDS[stage], *FILES[stage]))


def _attempt(place: Place, done: Verified, check: Any, *arguments: Any) -> None:
    """A check that reads files: one that cannot be read or does not hold what it should is a mismatch."""
    try:
        check(*arguments)
    except (DataError, StageError, SettingsError, OSError) as error:
        done.mismatches.append("; ".join(str(error).splitlines()))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        done.mismatches.append(f"{place.record}: does not hold what it should ({type(error).__name__}: {error})")


def _settings(place: Place, done: Verified) -> Setup | None:
    """The settings of a folder, if the folder is named by them."""
    path = place.folder / SETTINGS
    try:
        setup = read_setup(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else "; ".join(str(error).splitlines())
        done.mismatches.append(f"{path}: cannot be read as settings ({reason})")
        return None
    if (found := key(place.stage, setup)) != place.key:
        what = f"have the key {found}, not {place.key} (settings or a stage's version have changed)"
        done.mismatches.append(f"{path}: the settings {what}")
        return None
    return setup


def _files(place: Place, done: Verified) -> None:
    """Checksums of every file that the stage wrote."""
    try:
        sums = checksums.recorded(place.folder)
    except (DataError, OSError) as error:
        done.mismatches.append(str(error))
        return
    if sums is None:
        what = "is missing: the stage was not finished, or is of an earlier version"
        done.mismatches.append(f"{place.folder / checksums.NAME}: {what}")
        return
    for name in sorted({*sums, *FILES[place.stage], RECORDS[place.stage], SETTINGS}):
        path = place.folder / name
        if name not in sums:
            done.mismatches.append(f"{path}: is not among the files of {checksums.NAME}")
        elif path.is_file():
            done.counts["files"] += 1
            if checksums.sha256(path) != sums[name]:
                done.mismatches.append(f"{path}: is not the file that was written (SHA-256 differs)")
        elif name in FILES[place.stage]:
            done.counts["gone"] += 1
        elif name != SETTINGS:  # told already, with what it is needed for
            done.mismatches.append(f"{path}: is missing")


def _record(place: Place, setup: Setup, done: Verified) -> None:
    """What made the output is told, and is what the folder says; and it was made from the files that are there."""
    try:
        record = json.loads(place.record.read_text(encoding="utf-8"))
        missing = [name for name in Provenance.__annotations__ if name not in record]
    except (OSError, ValueError, TypeError) as error:
        done.mismatches.append(f"{place.record}: cannot be read ({error})")
        return
    if missing:
        done.mismatches.append(f"{place.record}: does not tell {', '.join(missing)}")
    expected: dict[str, Any] = {"key": place.key}
    if place.n is not None and place.replicate is not None:
        expected |= {"n": place.n, "replicate": place.replicate}
        if place.stage == "subset":
            expected["seed"] = setup.seed
        if place.stage == "train":
            expected["seed"] = derive(setup.seed, "train", place.replicate, place.n)
        if place.stage == "sample":
            from emmeter.diffusion.sampling import SEEDS_PER_REPLICATE  # brings torch, which takes seconds

            first = place.replicate * SEEDS_PER_REPLICATE
            expected["seeds"] = [first, first + setup.sampling.images - 1]
    for name, value in expected.items():
        if record.get(name) != value:
            done.mismatches.append(f"{place.record}: {name} is {record.get(name)!r}, not {value!r}")
    inputs = record.get("inputs", {})
    for name, digest in inputs.items() if isinstance(inputs, dict) else ():
        if name in _INPUTS:
            path = _folder(done.results, _INPUTS[name], place, setup) / name
            if path.is_file() and checksums.sha256(path) != digest:
                done.mismatches.append(f"{place.record}: was made from another {path}")


def _folder(results: Path, stage: Stage, place: Place, setup: Setup) -> Path:
    """Folder of an earlier stage of the same run."""
    assert place.n is not None and place.replicate is not None
    return run_folder(results, stage, key(stage, setup), place.n, place.replicate)


def _sources(results: Path, place: Place, setup: Setup) -> tuple[Path, Path, Path]:
    """Subset, samples and neighbours of a score."""
    return (
        _folder(results, "subset", place, setup) / "subset.npz",
        _folder(results, "sample", place, setup) / "samples.npz",
        place.folder / "neighbours.npz",
    )


def _loaded(data: Data, done: Verified) -> Images | None:
    """A data set as it is now, or None where it is not on this machine."""
    name = data.model_dump_json()
    if name not in done.data:
        try:
            own = [sources.expanded(source.partition(":")[2]) for source in data.sources if ":" in source]
            here = not named.absent(data) and all(path.exists() for path in own)
        except DataError:  # the home folder of somebody who is unknown here
            here = False
        done.data[name] = datasets.load(data) if here else None
    return done.data[name]


def _data(subsets: Mapping[Place, Setup], done: Verified) -> None:
    """Whether data sets are still those that the subsets were drawn from."""
    drawn: dict[tuple[str, str], list[Place]] = {}
    for place, setup in subsets.items():
        try:
            recorded = records.read(place.record, SubsetRecord).get("data_sha256")
        except (DataError, OSError, AttributeError):  # `_record` has told it
            continue
        drawn.setdefault((setup.data.model_dump_json(), str(recorded)), []).append(place)
    for (_, recorded), group in drawn.items():
        data = subsets[group[0]].data
        try:
            stored = _loaded(data, done)
        except (DataError, SettingsError, OSError) as error:
            done.mismatches.append(f"data.source = {data.source!r}: {'; '.join(str(error).splitlines())}")
            continue
        if stored is None:
            done.counts["elsewhere"] += len(group)
        elif images.digest(stored) != recorded:
            of = f"{group[0].folder}{f' and {len(group) - 1} more' if group[1:] else ''}"
            done.mismatches.append(f"data.source = {data.source!r}: has changed since {of} was drawn from it")


def _counts(place: Place, setup: Setup, done: Verified) -> None:
    """The counts of a score follow from its neighbours."""
    path = place.folder / "neighbours.npz"
    if not path.is_file():
        return
    done.counts["scores"] += 1
    score = records.read(place.record, ScoreRecord)
    derived = count_copies(read_neighbours(path), setup, math.prod(score["image_shape"]))
    if len(derived) != len(score["snapshots"]) or not all(map(_equal, score["snapshots"], derived)):
        done.mismatches.append(f"{place.record}: its counts do not follow from {path}")


def _equal(stored: Mapping[str, Any], derived: Mapping[str, Any]) -> bool:
    """Equal up to the order in which another machine sums."""
    return all(math.isclose(stored[name], value, rel_tol=1e-9) for name, value in derived.items())


def _scored_again(place: Place, setup: Setup, done: Verified) -> None:
    """Subset from the data, neighbours from subset and samples."""
    assert place.n is not None and place.replicate is not None
    subset_file, samples_file, neighbours_file = _sources(done.results, place, setup)
    subset = load_subset(subset_file)
    stored = _loaded(setup.data, done)
    if stored is not None:
        again = draw(setup, place.n, place.replicate, stored)
        if not all(np.array_equal(value, getattr(subset, name)) for name, value in vars(again).items()):
            done.mismatches.append(f"{subset_file}: is not the subset that its settings draw")
            return
    derived = neighbour_arrays(nearest_images(read_samples(samples_file)["images"], subset, setup))
    kept = neighbour_arrays(read_neighbours(neighbours_file))
    done.counts["rescored"] += 1
    if not all(np.array_equal(derived[name], kept[name]) for name in derived):
        done.mismatches.append(f"{neighbours_file}: does not follow from {subset_file} and {samples_file}")


def _search(place: Place, setup: Setup, done: Verified) -> None:
    """The record of a search follows from its scores."""
    record = records.read(place.record, EmmRecord)
    scores = Scores(done.results, key("score", setup), setup.scoring.snapshot)
    trail = replay(setup.search, record["sizes"], scores)
    if not trail.finished:
        if not scores.path(trail.missing[0]).is_file():  # else what is wrong with it has been told
            done.counts["unreplayed"] += 1
        return
    derived = [describe_run(setup, scores, trail, run) for run in trail.runs]
    if (record["status"], record["runs"]) != (trail.status, derived):
        folder = scores.path(trail.runs[0]).parents[2]
        done.mismatches.append(f"{place.record}: its runs or its answer do not follow from the scores in {folder}")
