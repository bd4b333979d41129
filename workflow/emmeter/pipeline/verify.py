"""Check a results folder: recompute what can be recomputed, and list every mismatch.

For each run and search, `verify` compares the key with the settings beside the results, the files with their checksums,
and the record with its inputs.  It derives the counts of each score from the stored neighbours, and the answer of each
search from its scores.  For a random sample of scores, it draws the subset from the data again, and computes the
neighbours from subset and samples.  If all of this matches, it measures the quality of one arm again.  Files that no
longer exist, such as samples deleted to save space, are counted.
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
from emmeter.errors import DataError, SettingsError, StageError, lines
from emmeter.files import checksums, records
from emmeter.files.layout import ARM_STAGES, FILES, RECORDS, RUN_FOLDERS, SETTINGS, arm_folder, run_folder
from emmeter.files.records import EmmRecord, MeasuredRecord, Provenance, QualityRecord, ScoreRecord, SubsetRecord
from emmeter.files.scores import Scores, neighbour_arrays, read_neighbours, read_samples
from emmeter.files.tables import read_cells
from emmeter.measure.quality import features
from emmeter.measure.search import replay
from emmeter.settings import sources
from emmeter.settings.keys import Stage, key
from emmeter.settings.sections import Data, Setup
from emmeter.settings.validation import read_setup
from emmeter.stages import external
from emmeter.stages.emm import describe_run
from emmeter.stages.quality import COLUMNS, measure
from emmeter.stages.score import count_copies, nearest_images
from emmeter.training.seeds import derive

_INPUTS: dict[str, Stage] = {"subset.npz": "subset", "snapshots.safetensors": "train", "samples.npz": "sample"}


_COUNTED: dict[Stage, str] = {"emm": "searches", "quality": "qualities", "denoising": "denoisings"}


@dataclass(frozen=True)
class Output:
    """Folder with the output of one stage; a search and the quality of an arm have no N and no replicate."""

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
    """Result of a check: one line ``path: what does not match`` per mismatch, and how many things were checked."""

    results: Path
    mismatches: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    data: dict[str, Images | None] = field(default_factory=dict)  # data sets by their settings as JSON; None: missing

    def summary(self) -> str:
        count = self.counts
        denoised = f"errors by noise level of {count['denoisings']}, " if count["denoisings"] else ""
        text = (
            f"verified: {count['runs']} folders of runs, {count['searches']} searches, quality of {count['qualities']} "
            f"arms, {denoised}{count['files']} checksums, {count['scores']} scores from their neighbours, "
            f"{count['rescored']} scores and quality of {count['remeasured']} arms from the samples"
        )
        skipped = [
            f"{count[name]} {what}"
            for name, what in (
                ("gone", "files that are no longer there"),
                ("elsewhere", "subsets whose data are not here"),
                ("unreplayed", "searches whose scores are no longer there"),
                ("unmeasured", "arms' quality whose samples, logs or networks are not here"),
            )
            if count[name]
        ]
        return text + (f"; not checked: {', '.join(skipped)}" if skipped else "")


def verify(results: Path, scores: int = 10, seed: int = 0) -> Verified:
    """Check a folder of results.

    Args:
        scores: number of scores that are computed again.
        seed: of the random choice of these scores.
    Raises:
        StageError: the folder holds no results.
    """
    done = Verified(results)
    sound: dict[Output, Setup] = {}
    for output in outputs(results):
        done.counts[_COUNTED.get(output.stage, "runs")] += 1
        before = len(done.mismatches)
        setup = _settings(output, done)
        _files(output, done)
        if setup is not None and output.record.is_file():
            _record(output, setup, done)
        listed = (output.folder / checksums.NAME).exists()  # earlier versions wrote none
        if setup is not None and (len(done.mismatches) == before or not listed):
            sound[output] = setup
    if not done.counts:
        raise StageError(f"{results}: holds no runs: must be a whole folder of results, as snakemake makes it")
    _data(
        {output: setup for output, setup in sound.items() if output.stage == "subset" and output.record.is_file()}, done
    )
    _seeds(sound, done)
    scored = {output: setup for output, setup in sound.items() if output.stage == "score"}
    for output, setup in scored.items():
        _attempt(output, done, _counts, output, setup, done)
    folders = {output.folder for output in sound}
    repeatable = [
        output
        for output, setup in scored.items()
        if all(path.parent in folders and path.is_file() for path in _sources(results, output, setup))
    ]
    for output in random.Random(seed).sample(repeatable, min(max(scores, 0), len(repeatable))):
        _attempt(output, done, _scored_again, output, scored[output], done)
    for output, setup in sound.items():
        if output.stage == "emm":
            _attempt(output, done, _search, output, setup, done)
    if not done.mismatches:  # otherwise a changed search or changed samples would be reported again
        measured = [output for output in sound if output.stage == "quality" and output.record.is_file()]
        chosen = random.Random(seed).sample(measured, min(max(scores, 0), len(measured), 1))
        for output, setup in sound.items():
            if output.stage in ("quality", "denoising") and output.record.is_file():
                _attempt(output, done, _measured, output, setup, done)
        for output in chosen:
            _attempt(output, done, _measured_again, output, sound[output], done)
    return done


def outputs(results: Path) -> Iterator[Output]:
    """Yield every folder below `results` that holds output of a stage, in order."""
    for stage, name in RUN_FOLDERS.items():
        for folder in sorted((results / name).glob("*/n*/r*")):
            key_of, n, replicate = folder.parts[-3:]
            if _output(stage, folder) and n[1:].isdecimal() and replicate[1:].isdecimal():
                yield Output(folder, stage, key_of, int(n[1:]), int(replicate[1:]))
    for stage in ARM_STAGES:
        for folder in sorted(arm_folder(results, stage).parent.glob("*")):
            if _output(stage, folder):
                yield Output(folder, stage, folder.name)


def _output(stage: Stage, folder: Path) -> bool:
    return any((folder / name).is_file() for name in (RECORDS[stage], *FILES[stage]))


def _attempt(output: Output, done: Verified, check: Any, *arguments: Any) -> None:
    """Run a check that reads files.  An unreadable file, or one with unexpected content, is a mismatch."""
    try:
        check(*arguments)
    except (DataError, StageError, SettingsError, OSError) as error:
        done.mismatches.append("; ".join(lines(error)))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        done.mismatches.append(f"{output.record}: does not hold what it should ({type(error).__name__}: {error})")


def _settings(output: Output, done: Verified) -> Setup | None:
    """Settings of a folder; None, with a mismatch, if the folder's name is not their key."""
    path = output.folder / SETTINGS
    try:
        setup = read_setup(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else "; ".join(lines(error))
        done.mismatches.append(f"{path}: cannot be read as settings ({reason})")
        return None
    if (actual := key(output.stage, setup)) != output.key:
        what = f"have the key {actual}, not {output.key} (settings or a stage's version have changed)"
        done.mismatches.append(f"{path}: the settings {what}")
        return None
    return setup


def _files(output: Output, done: Verified) -> None:
    """Compare every file that the stage wrote with its checksum."""
    try:
        sums = checksums.recorded(output.folder)
    except (DataError, OSError) as error:
        done.mismatches.append(str(error))
        return
    if sums is None:
        what = "is missing: the stage was not finished, or is of an earlier version"
        done.mismatches.append(f"{output.folder / checksums.NAME}: {what}")
        return
    for name in sorted({*sums, *FILES[output.stage], RECORDS[output.stage], SETTINGS}):
        path = output.folder / name
        if name not in sums:
            done.mismatches.append(f"{path}: is not among the files of {checksums.NAME}")
        elif path.is_file():
            done.counts["files"] += 1
            if checksums.sha256(path) != sums[name]:
                done.mismatches.append(f"{path}: is not the file that was written (SHA-256 differs)")
        elif name in FILES[output.stage]:
            done.counts["gone"] += 1
        elif name != SETTINGS:  # `_settings` has reported it
            done.mismatches.append(f"{path}: is missing")


def _record(output: Output, setup: Setup, done: Verified) -> None:
    """Check that the record is complete, fits the folder's name, and names the checksums of the present input files."""
    try:
        record = json.loads(output.record.read_text(encoding="utf-8"))
        missing = [name for name in Provenance.__annotations__ if name not in record]
    except (OSError, ValueError, TypeError) as error:
        done.mismatches.append(f"{output.record}: cannot be read ({error})")
        return
    if missing:
        done.mismatches.append(f"{output.record}: lacks {', '.join(missing)}")
    expected: dict[str, Any] = {"key": output.key}
    if output.n is not None and output.replicate is not None:
        expected |= {"n": output.n, "replicate": output.replicate}
        if output.stage == "subset":
            expected["seed"] = setup.seed
        if output.stage == "train":
            expected["seed"] = derive(setup.seed, "train", output.replicate, output.n)
        if output.stage == "sample" and setup.kind == "command":
            expected["seed"] = external.seed_of(setup, output.n, output.replicate)
        elif output.stage == "sample":
            from emmeter.diffusion.sampling import SEEDS_PER_REPLICATE  # loads torch, which takes seconds

            first = output.replicate * SEEDS_PER_REPLICATE
            expected["seeds"] = [first, first + setup.sampling.images - 1]
    for name, value in expected.items():
        if record.get(name) != value:
            done.mismatches.append(f"{output.record}: {name} is {record.get(name)!r}, not {value!r}")
    inputs = record.get("inputs", {})
    for name, digest in inputs.items() if isinstance(inputs, dict) else ():
        if name in _INPUTS:
            path = _folder(done.results, _INPUTS[name], output, setup) / name
            if path.is_file() and checksums.sha256(path) != digest:
                done.mismatches.append(f"{output.record}: was made from another {path}")


def _folder(results: Path, stage: Stage, output: Output, setup: Setup) -> Path:
    """Path of an earlier stage's folder for the same run."""
    assert output.n is not None and output.replicate is not None
    return run_folder(results, stage, key(stage, setup), output.n, output.replicate)


def _sources(results: Path, output: Output, setup: Setup) -> tuple[Path, Path, Path]:
    """Paths of the subset, the samples and the neighbours behind a score."""
    return (
        _folder(results, "subset", output, setup) / "subset.npz",
        _folder(results, "sample", output, setup) / "samples.npz",
        output.folder / "neighbours.npz",
    )


def _loaded(data: Data, done: Verified) -> Images | None:
    """Load a data set; None if it is not on this machine."""
    name = data.model_dump_json()
    if name not in done.data:
        try:
            files = [*data.sources, *([data.labels] if data.embedded else [])]
            own = [sources.own_path(source) for source in files if ":" in source]
            here = not named.absent(data) and all(path.exists() for path in own)
        except DataError:  # the home folder of a user unknown on this machine
            here = False
        done.data[name] = datasets.load(data) if here else None
    return done.data[name]


def _data(subsets: Mapping[Output, Setup], done: Verified) -> None:
    """Check whether data sets are still those from which the subsets were drawn."""
    drawn: dict[tuple[str, str], list[Output]] = {}
    for output, setup in subsets.items():
        try:
            recorded = records.read(output.record, SubsetRecord).get("data_sha256")
        except (DataError, OSError, AttributeError):  # `_record` has reported it
            continue
        drawn.setdefault((setup.data.model_dump_json(), str(recorded)), []).append(output)
    for (_, recorded), group in drawn.items():
        data = subsets[group[0]].data
        named = f"data.source = {data.source!r}" + (f" or data.labels = {data.labels!r}" if data.embedded else "")
        try:
            stored = _loaded(data, done)
        except (DataError, SettingsError, OSError) as error:
            done.mismatches.append(f"{named}: {'; '.join(lines(error))}")
            continue
        if stored is None:
            done.counts["elsewhere"] += len(group)
        elif images.digest(stored) != recorded:
            of = f"{group[0].folder}{f' and {len(group) - 1} more' if group[1:] else ''}"
            done.mismatches.append(f"{named}: has changed since {of} was drawn from it")


def _seeds(sound: Mapping[Output, Setup], done: Verified) -> None:
    """Check that no two runs of a command have the same images: runs must differ by their seeds."""
    seen: dict[tuple[str, str | None], Output] = {}
    for output, setup in sound.items():
        if output.stage == "sample" and setup.kind == "command":
            path = output.folder / "samples.npz"
            digest = (checksums.recorded(output.folder) or {}).get(path.name)
            if (first := seen.setdefault((output.key, digest), output)) is not output and digest:
                same = f"has the same images as {first.folder}: its command ignores {{seed}}"
                done.mismatches.append(f"{path}: {same}")


def _counts(output: Output, setup: Setup, done: Verified) -> None:
    """Check that the counts of a score follow from its neighbours."""
    path = output.folder / "neighbours.npz"
    if not path.is_file():
        return
    done.counts["scores"] += 1
    score = records.read(output.record, ScoreRecord)
    derived = count_copies(read_neighbours(path), setup, math.prod(score["image_shape"]))
    if len(derived) != len(score["snapshots"]) or not all(map(_equal, score["snapshots"], derived)):
        done.mismatches.append(f"{output.record}: its counts do not follow from {path}")


def _equal(stored: Mapping[str, Any], derived: Mapping[str, Any]) -> bool:
    """Compare counts, up to rounding: machines sum in different orders."""
    return all(math.isclose(stored[name], value, rel_tol=1e-9) for name, value in derived.items())


def _scored_again(output: Output, setup: Setup, done: Verified) -> None:
    """Draw the subset from the data again, and compute the neighbours from subset and samples."""
    assert output.n is not None and output.replicate is not None
    subset_file, samples_file, neighbours_file = _sources(done.results, output, setup)
    subset = load_subset(subset_file)
    stored = _loaded(setup.data, done)
    if stored is not None:
        again = draw(setup, output.n, output.replicate, stored)
        if not all(np.array_equal(value, getattr(subset, name)) for name, value in vars(again).items()):
            done.mismatches.append(f"{subset_file}: is not the subset that its settings draw")
            return
    derived = neighbour_arrays(nearest_images(read_samples(samples_file)["images"], subset, setup))
    kept = neighbour_arrays(read_neighbours(neighbours_file))
    done.counts["rescored"] += 1
    if not all(np.array_equal(derived[name], kept[name]) for name in derived):
        done.mismatches.append(f"{neighbours_file}: does not follow from {subset_file} and {samples_file}")


def _search(output: Output, setup: Setup, done: Verified) -> None:
    """Check that the record of a search follows from its scores."""
    record = records.read(output.record, EmmRecord)
    scores = Scores(done.results, key("score", setup), setup.scoring.snapshot)
    trail = replay(setup.search, record["sizes"], scores)
    if not trail.finished:
        if not scores.path(trail.missing[0]).is_file():  # otherwise another check reports the faulty score
            done.counts["unreplayed"] += 1
        return
    derived = [describe_run(setup, scores, trail, run) for run in trail.runs]
    if (record["status"], record["runs"]) != (trail.status, derived):
        folder = scores.path(trail.runs[0]).parents[2]
        done.mismatches.append(f"{output.record}: its runs or its answer do not follow from the scores in {folder}")


def _searched(setup: Setup, done: Verified) -> Path:
    """Path of the record of an arm's search."""
    return arm_folder(done.results, "emm", key("emm", setup)) / RECORDS["emm"]


def _measured(output: Output, setup: Setup, done: Verified) -> None:
    """Check that the quality or the denoising of an arm belongs to the present outcome of its search."""
    path = _searched(setup, done)
    digest = records.read(output.record, MeasuredRecord)["inputs"][path.name]
    if path.is_file() and checksums.sha256(path) != digest:
        done.mismatches.append(f"{output.record}: was made from another {path}")


def _measured_again(output: Output, setup: Setup, done: Verified) -> None:
    """Measure the quality of an arm's images again, if all files that were measured are still there."""
    path = _searched(setup, done)
    if not path.is_file() or any(map(features.missing, setup.quality.features)):
        done.counts["unmeasured"] += 1
        return
    measured = measure(setup, done.results, records.read(path, EmmRecord)["runs"])
    record = records.read(output.record, QualityRecord)
    if (measured.gone, measured.unlogged) != (record["gone"], record["unlogged"]):
        done.counts["unmeasured"] += 1
        return
    done.counts["remeasured"] += 1
    for name, rows in measured.tables.items():
        path = output.folder / name
        cells = read_cells([path], COLUMNS[name]).to_dict("records")
        if len(cells) != len(rows) or not all(map(_same_row, cells, rows)):
            done.mismatches.append(f"{path}: does not follow from the samples of the arm's runs")


def _same_row(cells: Mapping[str, str], row: Mapping[str, Any]) -> bool:
    """Compare the cells of a table, which have six digits, with values that a machine may round otherwise."""
    return all(
        math.isclose(float(cells[name] or "nan"), value, rel_tol=1e-4, abs_tol=1e-9)
        if isinstance(value, float)
        else cells[name] == ("" if value is None else str(value))
        for name, value in row.items()
    )
