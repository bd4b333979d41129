"""The denoising stage measures the trained networks of an arm at single noise levels, along their training.

It reads subsets and snapshots of the runs of a finished search.  Nothing is trained or sampled for it.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from emmeter.command import execution_options, program, read_settings, stage_parser
from emmeter.data.subset import Subset
from emmeter.data.subset import load as load_subset
from emmeter.diffusion.denoising import denoised, squared
from emmeter.diffusion.linear import LinearDenoiser
from emmeter.diffusion.optimum import OptimalDenoiser
from emmeter.diffusion.preconditioning import to_unit
from emmeter.diffusion.sampling import Denoise
from emmeter.files import checksums, records
from emmeter.files.layout import FILES, RECORDS, record_settings, run_folder
from emmeter.files.provenance import provenance
from emmeter.files.records import DenoisingRecord, EmmRecord
from emmeter.files.tables import DENOISING_COLUMNS
from emmeter.files.writing import write_csv, write_json
from emmeter.machine.device import describe, select
from emmeter.measure.results import SearchedRun
from emmeter.settings import keys
from emmeter.settings.sections import Setup
from emmeter.stages.sample import sampler, snapshots_of

TRAINING, HELD_OUT = "training", "held-out"  # images that are denoised
COMPARABLE = ("none", "true")  # labels that mean the same to the networks of all replicates


@dataclass(frozen=True)
class Images:
    """Images of a run that are denoised, and what the closed-form denoisers of its training set make of them."""

    name: str
    """TRAINING or HELD_OUT."""
    clean: Tensor
    """(M, C, H, W) in [-1, 1]."""
    labels: Tensor | None
    optimum: Tensor
    """(L, M, C, H, W): denoised by the optimum."""
    linear: Tensor
    """The same by the linear denoiser."""


@dataclass(frozen=True)
class Earlier:
    """The first run of a size, with which the others of this size are compared."""

    replicate: int
    subset: Subset
    held_out: Images
    denoised: Tensor
    """(L, M, C, H, W): its held-out images, denoised by its last snapshot."""


def denoising(
    setup: Setup,
    *,
    record: Path,
    results: Path,
    folder: Path,
    key: str = "",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int = 1,
) -> None:
    """Measure the networks of all runs of a finished search, and write denoising.csv and denoising.json.

    Args:
        setup: settings of the arm, whose images a trained network generates.
        record: path of the arm's emm.json.
        results: folder of results, which holds the arm's runs.
        folder: folder to write to.
        key: settings key for the record; by default computed from `setup`.
        device: where to compute; "auto" takes a GPU if there is one.
        threads: CPU threads.
    Raises:
        DataError: a file has changed since it was written, or a subset is damaged.
        StageError: snapshots are damaged or of other settings, or the device is missing.
        OSError: a file cannot be read or written.
    """
    started = time.monotonic()
    runs = sorted(records.read(record, EmmRecord)["runs"], key=lambda run: (run["n"], run["replicate"]))
    chosen = select(device, threads)
    rows: list[dict[str, Any]] = []
    gone = 0
    for _, same_size in itertools.groupby(runs, key=lambda run: run["n"]):
        first: Earlier | None = None
        for run in same_size:
            files = stored(setup, results, run)
            if files is None:
                gone += 1
                continue
            measured, this = measure(setup, run, *files, chosen, first)
            rows += measured
            first = first or this
    settings = record_settings(folder, "denoising", setup)
    write_csv(folder / FILES["denoising"][0], DENOISING_COLUMNS, rows)
    content: DenoisingRecord = {
        "inputs": checksums.of(record),
        "runs": len(runs) - gone,
        "gone": gone,
        "device": describe(chosen),
        **provenance(key or keys.key("denoising", setup), started),
    }
    written = folder / RECORDS["denoising"]
    write_json(written, content)
    checksums.record(written, folder / FILES["denoising"][0], settings)


def stored(setup: Setup, results: Path, run: SearchedRun) -> tuple[Path, Path] | None:
    """Paths of the subset and of the snapshots of a run; None if the user has deleted one to save space."""

    def path(stage: keys.Stage, name: str) -> Path:
        return run_folder(results, stage, keys.key(stage, setup), run["n"], run["replicate"]) / name

    subset, snapshots = path("subset", "subset.npz"), path("train", "snapshots.safetensors")
    return (subset, snapshots) if subset.is_file() and snapshots.is_file() else None


def measure(
    setup: Setup, run: SearchedRun, subset_file: Path, snapshots: Path, device: torch.device, first: Earlier | None
) -> tuple[list[dict[str, Any]], Earlier | None]:
    """Measure one run.

    Args:
        first: the first run of this size, if it is not this one.
    Returns:
        Rows of denoising.csv, and what later runs of this size are compared with: None without held-out images.
    Raises:
        DataError: the subset or the snapshots have changed or are damaged.
        StageError: the snapshots are damaged or of other settings.
    """
    subset = load_subset(subset_file)
    shape, most = subset.images.shape[1:], setup.denoising.images
    denoiser, denoise, _ = sampler(setup, shape, subset.label_count, most, device, vectors=subset.label_vectors)
    kind = denoiser.kind
    levels = [level for level in setup.denoising.levels if kind.sigma_min <= level <= kind.sigma_max]
    sets = images_of(setup, subset, levels, device)
    rows: list[dict[str, Any]] = []
    results: list[Tensor] = []
    about = {name: run[name] for name in ("n", "replicate", "role")}
    for snapshot in snapshots_of(setup, denoiser, snapshots):
        named = about | {"progress": snapshot.share, "images_seen": snapshot.images_seen}
        results = [denoised(denoise, images.clean, images.labels, levels) for images in sets]
        for images, result in zip(sets, results, strict=True):
            rows += [named | row for row in level_rows(images, result, levels)]
    # The network has the weights of the last snapshot now, which are compared between runs.
    if first is not None and setup.data.labels in COMPARABLE:
        compared = between(denoise, subset, first, levels)
        last = [row for row in rows if row["progress"] == 1.0 and row["against"] == HELD_OUT]
        for row, distance in zip(last, compared, strict=True):
            row.update(other=first.replicate, in_common=in_common(subset, first.subset), between=distance)
    held_out = [(images, result) for images, result in zip(sets, results, strict=True) if images.name == HELD_OUT]
    return rows, Earlier(run["replicate"], subset, *held_out[0]) if held_out else None


def images_of(setup: Setup, subset: Subset, levels: Sequence[float], device: torch.device) -> list[Images]:
    """The images of a run that are denoised: the first ones of its training set, and its held-out images if any."""
    train = to_unit(torch.from_numpy(subset.images)).to(device)
    labels = torch.from_numpy(subset.labels).to(device) if subset.label_count else None
    optimum, linear = OptimalDenoiser(train, labels), LinearDenoiser(train)
    most = setup.denoising.images

    def made(name: str, clean: Tensor, of_clean: Tensor | None) -> Images:
        best = denoised(optimum, clean, of_clean, levels)
        return Images(name, clean, of_clean, best, denoised(linear, clean, None, levels))

    sets = [made(TRAINING, train[:most], None if labels is None else labels[:most])]
    if len(subset.held_out):
        others = to_unit(torch.from_numpy(subset.held_out[:most])).to(device)
        own = torch.from_numpy(subset.held_out_labels[:most]).to(device) if subset.label_count else None
        sets.append(made(HELD_OUT, others, own))
    return sets


def level_rows(images: Images, result: Tensor, levels: Sequence[float]) -> list[dict[str, Any]]:
    """One row of denoising.csv per noise level, of one snapshot and one set of images.

    Args:
        result: (L, M, C, H, W), the images denoised by the network.
    """
    clean = images.clean.to(torch.float64)
    measures = {
        "loss": squared(result, clean),
        "loss_optimum": squared(images.optimum, clean),
        "loss_linear": squared(images.linear, clean),
        "to_optimum": squared(result, images.optimum),
        "to_linear": squared(result, images.linear),
        "apart": squared(images.linear, images.optimum),
    }
    about = {"against": images.name, "images": len(clean)}
    unknown = {"other": None, "in_common": None, "between": None}
    return [
        about | {"sigma": level} | {name: values[index] for name, values in measures.items()} | unknown
        for index, level in enumerate(levels)
    ]


def between(denoise: Denoise, subset: Subset, first: Earlier, levels: Sequence[float]) -> list[float | None]:
    """Mean squared difference between two runs of one size at each level; None if no image is new to both.

    They denoise the held-out images of the first run that are not in this run's training set (Kadkhodaie et al. 2024).
    """
    known = {image.tobytes() for image in subset.images}
    held_out = first.subset.held_out[: len(first.held_out.clean)]
    new = torch.tensor([image.tobytes() not in known for image in held_out], device=first.held_out.clean.device)
    if not new.any():
        return [None] * len(levels)
    labels = first.held_out.labels
    result = denoised(denoise, first.held_out.clean, labels, levels)
    return list(squared(result[:, new], first.denoised[:, new]))


def in_common(subset: Subset, other: Subset) -> float:
    """Share of the training images of one run that are training images of the other, too."""
    return len(set(subset.indices.tolist()) & set(other.indices.tolist())) / len(set(subset.indices.tolist()))


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__, "--record", "--results", "--folder", run=False)
    execution_options(parser)
    args = parser.parse_args(argv)
    denoising(
        read_settings(args.settings),
        record=args.record,
        results=args.results,
        folder=args.folder,
        key=args.key,
        device=args.device,
        threads=args.threads,
    )


if __name__ == "__main__":
    program(main)
