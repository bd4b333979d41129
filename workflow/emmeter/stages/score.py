"""The score stage finds each generated image's nearest training images and counts copies."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emmeter.command import command, read_settings, stage_parser
from emmeter.data.subset import Subset
from emmeter.data.subset import load as load_subset
from emmeter.errors import StageError
from emmeter.files import checksums
from emmeter.files.layout import record_settings
from emmeter.files.npz import write_npz
from emmeter.files.provenance import provenance
from emmeter.files.records import Cost, ScoreRecord
from emmeter.files.scores import neighbour_arrays, read_samples
from emmeter.files.writing import write_json
from emmeter.measure.criterion import Neighbours, mean_distance, memorized, mirrored_neighbours, neighbours
from emmeter.measure.estimate import wilson
from emmeter.measure.results import Copies, Snapshot
from emmeter.settings import keys
from emmeter.settings.sections import Setup

GALLERY = 16  # best and worst matches kept per run


def score(
    setup: Setup,
    subset: Path,
    samples: Path,
    records: Sequence[Path],
    *,
    n: int,
    replicate: int,
    output: Path,
    neighbours: Path,
    gallery: Path,
    key: str = "",
) -> ScoreRecord:
    """Find each generated image's nearest training images, count the copies, and write both.

    Args:
        setup: settings of the run.
        subset: path of subset.npz.
        samples: path of samples.npz.
        records: paths of the records of training and sampling, for the cost.
        n: number of training images, for the record.
        replicate: number of the run, from 0, for the record.
        output: path of score.json.
        neighbours: path of neighbours.npz, in the same folder.
        gallery: path of gallery.npz, in the same folder.
        key: settings key for the record; by default computed from `setup`.
    Returns:
        The content of score.json.
    Raises:
        DataError: an input has changed since it was written, or the subset is missing or damaged.
        StageError: the samples are missing or damaged, or fewer than two training images differ.
        OSError: a record cannot be read, or a file cannot be written.
    """
    started = time.monotonic()
    train, generated, spent = load_subset(subset), read_samples(samples), cost(records)
    try:
        nearest = nearest_images(generated["images"], train, setup)
    except ValueError as error:
        raise StageError(f"{subset}: {error}") from None
    counts = count_copies(nearest, setup, train.images[0].size)
    snapshots: list[Snapshot] = [
        {**copies, "progress": float(share), "images_seen": int(seen)}
        for copies, share, seen in zip(counts, generated["shares"], generated["images_seen"], strict=True)
    ]
    settings = record_settings(output.parent, "score", setup)
    write_npz(neighbours, **neighbour_arrays(nearest))
    write_npz(gallery, **best_and_worst(generated["images"][-1], train.images, nearest[-1]))
    content: ScoreRecord = {
        "n": n,
        "replicate": replicate,
        "inputs": checksums.of(subset, samples),
        "image_shape": list(train.images.shape[1:]),
        "threshold": setup.scoring.threshold,
        "engine": nearest[-1].engine,
        "snapshots": snapshots,
        "cost": spent,
        **provenance(key or keys.key("score", setup), started),
    }
    write_json(output, content)
    checksums.record(output, neighbours, gallery, settings)
    return content


def nearest_images(images: np.ndarray, subset: Subset, setup: Setup) -> list[Neighbours]:
    """Find the nearest training images of generated images.

    All snapshots are searched at once, so that one engine serves all of them.

    Args:
        images: uint8 (s, m, C, H, W), for s snapshots of m images.
    Returns:
        One entry per snapshot, for m images each.
    Raises:
        ValueError: the subset has fewer than two distinct images.
    """
    search = mirrored_neighbours if setup.scoring.mirrored else neighbours
    every = search(images.reshape(-1, *images.shape[2:]), subset.images, subset.groups, setup.scoring.neighbours)
    arrays = (np.split(array, len(images)) for array in (every.indices, every.squared, every.copies))
    return [Neighbours(*parts, engine=every.engine) for parts in zip(*arrays, strict=True)]


def cost(records: Sequence[Path]) -> Cost:
    """Sum the cost of a run over the records of its stages.  A record without a key adds nothing to it."""
    contents = [checksums.read_json(path) for path in records]
    return {
        "images_trained": sum(content.get("images_trained", 0) for content in contents),
        "flops": sum(content.get("flops", 0) for content in contents),
        "seconds": sum(content.get("seconds", 0) for content in contents),
    }


def count_copies(nearest: Sequence[Neighbours], setup: Setup, pixels: int) -> list[Copies]:
    """Count the copies of each snapshot from the neighbours of its images.

    Args:
        pixels: number of values of an image, C x H x W.
    """
    counts: list[Copies] = []
    for snapshot in nearest:
        flags = memorized(snapshot, setup.scoring.threshold, setup.scoring.distinct)
        copies, images = int(flags.sum()), len(flags)
        low, high = wilson(copies, images)
        counts.append(
            {
                "memorized": copies,
                "images": images,
                "ratio": copies / images,
                "ratio_low": low,
                "ratio_high": high,
                "mean_distance": mean_distance(snapshot, pixels),
            }
        )
    return counts


def best_and_worst(generated: np.ndarray, train: np.ndarray, neighbours: Neighbours) -> dict[str, np.ndarray]:
    """Choose the generated images with the smallest and the largest d1/d2, up to `GALLERY` of each.

    No image is on both sides, as long as there are enough.  Equal ratios are common, because many images are exact
    copies.  Among these, images of different nearest neighbours come first.  On the worst side, images whose
    neighbours the best side shows last, or not at all, come before.

    Args:
        generated: uint8 (m, C, H, W).
        train: uint8 (N, C, H, W), the training images.
        neighbours: neighbours of the generated images.
    Returns:
        For `best` and `worst`, each with g images: `_generated` uint8 (g, C, H, W), `_train` of the same shape (the
        nearest training image of each) and `_ratio` float64 (g,), d1/d2.
    """
    ratio = np.sqrt(neighbours.squared[:, 0] / np.maximum(neighbours.squared[:, 1], 1))
    nearest = neighbours.indices[:, 0]
    count = min(GALLERY, len(ratio))
    order = np.lexsort((_repeated(nearest), ratio))
    best, rest = order[:count], np.sort(order[count:])
    position = {image: index for index, image in reversed(list(enumerate(nearest[best].tolist())))}
    shown = np.array([count - position.get(image, count) for image in nearest[rest].tolist()])
    worst = rest[np.lexsort((shown, _repeated(nearest[rest]), -ratio[rest]))][:count]
    worst = np.concatenate([worst, best[::-1][: count - len(worst)]])
    arrays = {}
    for name, chosen in {"best": best, "worst": worst}.items():
        arrays |= {f"{name}_generated": generated[chosen], f"{name}_train": train[nearest[chosen]]}
        arrays[f"{name}_ratio"] = ratio[chosen]
    return arrays


def _repeated(values: np.ndarray) -> np.ndarray:
    """Mark values that an equal value precedes: bool (m,)."""
    repeated = np.ones(len(values), bool)
    repeated[np.unique(values, return_index=True)[1]] = False
    return repeated


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__, "--subset", "--samples", "--score", "--neighbours", "--gallery")
    parser.add_argument(
        "--records", type=Path, nargs="+", required=True, help="records of training and sampling, for the cost"
    )
    parser.add_argument("--arms", default="", help="names of the arms that this run serves, for the last line")
    args = parser.parse_args(argv)
    record = score(
        read_settings(args.settings),
        args.subset,
        args.samples,
        args.records,
        n=args.n,
        replicate=args.replicate,
        output=args.score,
        neighbours=args.neighbours,
        gallery=args.gallery,
        key=args.key,
    )
    ratio = 100 * record["snapshots"][-1]["ratio"]
    print(f"{args.arms or args.key}: N = {args.n}, replicate {args.replicate}: {ratio:.1f} % memorized")


if __name__ == "__main__":
    command(main)
