"""The quality stage compares the generated images of an arm with real ones, and lists the training images copied.

It reads what the runs of a finished search have stored.  Nothing is trained or sampled again.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emmeter.command import command, read_settings, stage_parser
from emmeter.data.subset import Subset
from emmeter.data.subset import load as load_subset
from emmeter.files import checksums, records
from emmeter.files.layout import FILES, RECORDS, record_settings, run_folder
from emmeter.files.provenance import provenance
from emmeter.files.records import EmmRecord, QualityRecord
from emmeter.files.scores import read_neighbours, read_samples
from emmeter.files.tables import (
    ARM_CRITERIA_COLUMNS,
    COPIED_COLUMNS,
    COPIED_IMAGE_COLUMNS,
    LOG_COLUMNS,
    QUALITY_COLUMNS,
    read_cells,
)
from emmeter.files.writing import write_csv, write_json
from emmeter.measure.copied import Copied, copied
from emmeter.measure.criteria import Counter
from emmeter.measure.criterion import Neighbours, memorized, mirror_groups
from emmeter.measure.features import Network
from emmeter.measure.quality.features import space, weights
from emmeter.measure.quality.floors import METRICS, Compared, against_held_out, against_train
from emmeter.measure.results import SearchedRun
from emmeter.measure.trained import judge
from emmeter.settings import keys
from emmeter.settings.sections import PIXELS, Setup

HELD_OUT, TRAINING = "held-out", "training"  # what generated images are compared with
TABLE_COLUMNS = (QUALITY_COLUMNS, COPIED_COLUMNS, COPIED_IMAGE_COLUMNS, ARM_CRITERIA_COLUMNS)
COLUMNS = dict(zip(FILES["quality"], TABLE_COLUMNS, strict=True))
FEW = "too few images, or all the same"
GONE = "its samples, subset or neighbours are no longer there"
POOL = 20_101_003  # seed of the choice of images, if there are more than `quality.images`


@dataclass(frozen=True)
class Stored:
    """What a run has stored: its subset, the generated images of each snapshot, and their neighbours."""

    subset: Subset
    samples: np.ndarray
    """uint8 (s, m, C, H, W)."""
    neighbours: list[Neighbours]
    """One entry per snapshot."""
    losses: list[tuple[float, float]]
    """Training images seen and held-out loss, in the order of training; empty if there is no log."""


@dataclass
class Measured:
    """Rows of the tables of an arm, by file name, and the numbers of runs whose files are gone (`QualityRecord`)."""

    tables: dict[str, list[dict[str, Any]]]
    gone: int = 0
    unlogged: int = 0


def quality(setup: Setup, *, record: Path, results: Path, folder: Path, key: str = "") -> None:
    """Measure the images of all runs of a finished search, and write its tables and quality.json.

    Args:
        setup: settings of the arm.
        record: path of the arm's emm.json.
        results: folder of results, which holds the arm's runs.
        folder: folder to write to.
        key: settings key for the record; by default computed from `setup`.
    Raises:
        DataError: a file has changed since it was written, a subset is damaged, or a network cannot be loaded.
        StageError: samples, neighbours or a training log are damaged.
        OSError: a file cannot be read or written.
    """
    started = time.monotonic()
    runs = records.read(record, EmmRecord)["runs"]
    measured = measure(setup, results, runs)
    settings = record_settings(folder, "quality", setup)
    for name, rows in measured.tables.items():
        write_csv(folder / name, COLUMNS[name], rows)
    content: QualityRecord = {
        "inputs": checksums.of(record, *filter(None, map(weights, setup.quality.features))),
        "runs": len(runs) - measured.gone,
        "gone": measured.gone,
        "unlogged": measured.unlogged,
        **provenance(key or keys.key("quality", setup), started),
    }
    written = folder / RECORDS["quality"]
    write_json(written, content)
    checksums.record(written, *(folder / name for name in FILES["quality"]), settings)


def measure(setup: Setup, results: Path, runs: Sequence[SearchedRun]) -> Measured:
    """Measure the images of runs; errors as for `quality`."""
    measured = Measured({name: [] for name in FILES["quality"]})
    rows, shares, images, criteria = measured.tables.values()
    spaces = {name: space(name) for name in setup.quality.features}
    for run in runs:
        stored = read_run(setup, results, run)
        if stored is None:
            measured.gone += 1
            rows += [unmeasured(snapshot, GONE) for snapshot in snapshots_of(run)]
            continue
        measured.unlogged += not stored.losses
        rows += quality_rows(setup, run, stored, spaces)
        found = copied_at(setup, stored)
        shares += copied_rows(run, found)
        images += copied_image_rows(run, stored.subset, found)
        criteria += criteria_rows(setup, run, stored, spaces)
    return measured


def read_run(setup: Setup, results: Path, run: SearchedRun) -> Stored | None:
    """Read what a run has stored; None if a file is no longer there, because the user has deleted it to save space.

    Raises:
        DataError: a file has changed since it was written, or the subset is damaged.
        StageError: samples, neighbours or the training log are damaged.
    """

    def path(stage: keys.Stage, name: str) -> Path:
        return run_folder(results, stage, keys.key(stage, setup), run["n"], run["replicate"]) / name

    subset, samples = path("subset", "subset.npz"), path("sample", "samples.npz")
    neighbours = path("score", "neighbours.npz")
    if not all(path.is_file() for path in (subset, samples, neighbours)):
        return None
    losses = held_out_losses(path("train", "training.csv"))
    return Stored(load_subset(subset), read_samples(samples)["images"], read_neighbours(neighbours), losses)


def held_out_losses(log: Path) -> list[tuple[float, float]]:
    """Training images seen and held-out loss of the rows of training.csv that have one; empty if it is not there.

    Raises:
        DataError: the file has changed since it was written.
        StageError: it has other columns.
    """
    if not log.is_file():
        return []
    checksums.check([log])
    rows = read_cells([log], LOG_COLUMNS).to_dict("records")
    return [(float(row["images_seen"]), float(row["held_out_loss"])) for row in rows if row["held_out_loss"]]


def snapshots_of(run: SearchedRun) -> Iterator[dict[str, Any]]:
    """Yield the columns that name a snapshot of a run (`RUN_COLUMNS`), in the order of training."""
    about = {name: run[name] for name in ("n", "replicate", "role")}
    for snapshot in run["snapshots"]:
        yield {**about, "progress": snapshot["progress"], "images_seen": snapshot["images_seen"]}


def unmeasured(about: Mapping[str, Any], note: str) -> dict[str, Any]:
    """A row of quality.csv without measures."""
    return {**dict.fromkeys(QUALITY_COLUMNS), **about, "note": note}


def quality_rows(setup: Setup, run: SearchedRun, stored: Stored, spaces: Mapping[str, Network]) -> list[dict[str, Any]]:
    """Rows of quality.csv of a run: snapshots times feature spaces times what they are compared with."""
    most, draws, k = setup.quality.images, setup.quality.draws, setup.quality.neighbours
    generated = pool(np.moveaxis(stored.samples, 0, 1), most)
    # Repetitions are left out: of an image that stands more often than there are neighbours, all neighbours are itself.
    real = {TRAINING: pool(stored.subset.images[: run["n"]], most), HELD_OUT: pool(stored.subset.held_out, 2 * most)}
    rows = []
    for name, compute in spaces.items():
        every = compute(generated.reshape(-1, *generated.shape[2:]))
        sets = list(np.moveaxis(every.reshape(*generated.shape[:2], -1), 1, 0))
        train, held_out = compute(real[TRAINING]), compute(real[HELD_OUT])
        compared = {
            TRAINING: against_train(sets, train, held_out, k=k, most=most, draws=draws),
            HELD_OUT: against_held_out(sets, held_out, k=k, most=most, draws=draws),
        }
        for number, about in enumerate(snapshots_of(run)):
            beside = compared[TRAINING]
            losses = [(seen, loss) for seen, loss in stored.losses if seen <= about["images_seen"]]
            distances = run["snapshots"][number]["mean_distance"], run.get("held_out_distance")
            trained = judge(None if beside is None else beside[number], losses, *distances)
            for against, results in compared.items():
                named = {**about, "features": name, "against": against, "trained_to_end": trained.to_end}
                note = "" if trained.to_end is not False else "; ".join(trained.signs)
                rows.append(
                    unmeasured(named, FEW) if results is None else {**named, **cells(results[number]), "note": note}
                )
    return rows


def pool(images: np.ndarray, most: int) -> np.ndarray:
    """At most `most` images, chosen at random with a fixed seed, in their order."""
    chosen = np.random.default_rng(POOL).permutation(len(images))[:most]
    return images[np.sort(chosen)]


def cells(compared: Compared) -> dict[str, Any]:
    """Cells of a comparison, by the columns of quality.csv."""
    row: dict[str, Any] = {"images": compared.images, "k": compared.k, "bandwidth": compared.bandwidth}
    parts = {"": compared.generated, "_floor": compared.floor, "_floor_sd": compared.floor_sd}
    for end, measures in parts.items():
        values = asdict(measures)
        row |= {f"{metric}{end}": values[metric] for metric in METRICS}
    return row


def copied_at(setup: Setup, stored: Stored) -> list[Copied]:
    """Training images that were copied, at each snapshot."""
    groups = stored.subset.groups
    if setup.scoring.mirrored:
        groups = mirror_groups(stored.subset.images, groups)
    flags = [memorized(near, setup.scoring.threshold, setup.scoring.distinct) for near in stored.neighbours]
    return [copied(near.indices[:, 0], flag, groups) for near, flag in zip(stored.neighbours, flags, strict=True)]


def copied_rows(run: SearchedRun, found: Sequence[Copied]) -> list[dict[str, Any]]:
    """Rows of copied.csv: one per snapshot of a run."""
    return [
        {
            **about,
            "images": snapshot["images"],
            "memorized": snapshot["memorized"],
            "train": copied.train,
            "copied": copied.copied,
            "share": copied.share,
            "share_low": copied.low,
            "share_high": copied.high,
            "reachable": copied.reachable,
            "repeated": copied.repeated.images,
            "repeated_share": copied.repeated.share,
            "repeated_copies": copied.repeated.copies,
            "once_share": copied.once.share,
            "once_copies": copied.once.copies,
        }
        for about, snapshot, copied in zip(snapshots_of(run), run["snapshots"], found, strict=True)
    ]


def copied_image_rows(run: SearchedRun, subset: Subset, found: Sequence[Copied]) -> list[dict[str, Any]]:
    """Rows of copied_images.csv: one per training image that was copied at some snapshot, the first ones first."""
    counts, times = np.stack([copied.counts for copied in found]), found[0].times  # (s, E), (E,)
    first = (counts > 0).argmax(axis=0)
    chosen = np.flatnonzero(counts.any(axis=0))
    order = chosen[np.lexsort((chosen, -counts[-1, chosen], first[chosen]))]
    return [
        {
            "n": run["n"],
            "replicate": run["replicate"],
            "position": position,
            "index": int(subset.indices[position]),
            "label": int(subset.labels[position]) if subset.label_count else None,
            "times": int(times[position]),
            "copies": int(counts[-1, position]),
            "first_progress": run["snapshots"][first[position]]["progress"],
            "first_images_seen": run["snapshots"][first[position]]["images_seen"],
        }
        for position in order.tolist()
    ]


def criteria_rows(
    setup: Setup, run: SearchedRun, stored: Stored, spaces: Mapping[str, Network]
) -> list[dict[str, Any]]:
    """Rows of criteria.csv: copies at each snapshot of a run, per criterion and threshold."""
    learned = {
        name: compute for name, compute in spaces.items() if name != PIXELS
    }  # bright images are similar in pixels
    subset, n = stored.subset, run["n"]  # repetitions count as their images under every criterion
    counter = Counter(subset.images[:n], subset.groups[:n], learned, setup.quality.thresholds)
    return [
        {**about, "images": len(images), **asdict(counted)}
        for about, images, near in zip(snapshots_of(run), stored.samples, stored.neighbours, strict=True)
        for counted in counter.counts(images, near)
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__, "--record", "--results", "--folder", run=False)
    args = parser.parse_args(argv)
    quality(read_settings(args.settings), record=args.record, results=args.results, folder=args.folder, key=args.key)


if __name__ == "__main__":
    command(main)
