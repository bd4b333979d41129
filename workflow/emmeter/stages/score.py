"""The score stage finds each generated image's nearest training images and counts copies."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emmeter.command import arguments, command, read_settings
from emmeter.data.subset import Subset
from emmeter.data.subset import load as load_subset
from emmeter.errors import StageError
from emmeter.files import checksums
from emmeter.files.layout import record_settings
from emmeter.files.npz import write_npz
from emmeter.files.provenance import provenance
from emmeter.files.scores import neighbour_arrays, read_samples
from emmeter.files.writing import write_json
from emmeter.measure.criterion import Neighbours, mean_distance, memorized, mirrored_neighbours, neighbours
from emmeter.measure.estimate import wilson
from emmeter.settings.sections import Setup

GALLERY = 16  # best and worst matches kept of each run
COST = ("images_trained", "flops", "seconds")


def main() -> None:
    parser = arguments(__doc__, "--subset", "--samples", "--score", "--neighbours", "--gallery")
    parser.add_argument(
        "--records", type=Path, nargs="+", required=True, help="records of the stages before, for the cost"
    )
    parser.add_argument("--arms", default="", help="names of the arms that this run serves, for the last line")
    args = parser.parse_args()
    started = time.monotonic()
    setup = read_settings(args.settings)
    subset = load_subset(args.subset)
    samples, spent = read_samples(args.samples), cost(args.records)
    try:
        found = nearest(samples["images"], subset, setup)
    except ValueError as error:
        raise StageError(f"{args.subset}: {error}") from None
    settings = record_settings(args.score.parent, args.settings)
    write_npz(args.neighbours, **neighbour_arrays(found))
    write_npz(args.gallery, **gallery(samples["images"][-1], subset.images, found[-1]))
    write_json(
        args.score,
        {
            "n": args.n,
            "replicate": args.replicate,
            "inputs": checksums.of(args.subset, args.samples),
            "image_shape": subset.images.shape[1:],
            "threshold": setup.scoring.threshold,
            "engine": found[-1].engine,
            "snapshots": [
                row | {"progress": float(share), "images_seen": int(seen)}
                for row, share, seen in zip(
                    rows(found, setup, subset.images[0].size), samples["shares"], samples["images_seen"], strict=True
                )
            ],
            "cost": spent,
            **provenance(args.key, started),
        },
    )
    checksums.record(args.score, args.neighbours, args.gallery, settings)
    ratio = memorized(found[-1], setup.scoring.threshold, setup.scoring.distinct).mean()
    print(f"{args.arms or args.key}: N = {args.n}, replicate {args.replicate}: {100 * ratio:.1f} % memorized")


def nearest(images: np.ndarray, subset: Subset, setup: Setup) -> list[Neighbours]:
    """Nearest training images of `images`, uint8 (snapshots, m, C, H, W), one entry a snapshot.

    All snapshots are searched at once, so that one engine serves them all.

    Raises ValueError where the subset has fewer than two distinct images.
    """
    search = mirrored_neighbours if setup.scoring.mirrored else neighbours
    every = search(images.reshape(-1, *images.shape[2:]), subset.images, subset.groups, setup.scoring.neighbours)
    indices, squared, copies = (np.split(of, len(images)) for of in (every.indices, every.squared, every.copies))
    return [Neighbours(*part, engine=every.engine) for part in zip(indices, squared, copies, strict=True)]


def cost(records: Sequence[Path]) -> dict[str, float]:
    """What a run cost, summed over the records of its stages: images trained, operations of the network, seconds."""
    read = [checksums.read_json(path) for path in records]
    return {name: sum(record.get(name, 0) for record in read) for name in COST}


def rows(found: list[Neighbours], setup: Setup, pixels: int) -> list[dict[str, Any]]:
    """One row a snapshot: memorized images, ratio with its Wilson interval (images only), mean nearest distance."""
    result = []
    for neighbour in found:
        flags = memorized(neighbour, setup.scoring.threshold, setup.scoring.distinct)
        count, images = int(flags.sum()), len(flags)
        low, high = wilson(count, images)
        result.append(
            {
                "memorized": count,
                "images": images,
                "ratio": count / images,
                "ratio_low": low,
                "ratio_high": high,
                "mean_distance": mean_distance(neighbour, pixels),
            }
        )
    return result


def gallery(generated: np.ndarray, train: np.ndarray, found: Neighbours) -> dict[str, np.ndarray]:
    """Generated images with the smallest and the largest d1/d2, and the training image nearest to each.

    No image is on both sides, as long as there are enough.  Among equal ratios (many exact copies), images of different
    nearest neighbours come first, and on the worst side those whose neighbours the best side shows last or not at all.
    """
    ratio = np.sqrt(found.squared[:, 0] / np.maximum(found.squared[:, 1], 1))
    nearest = found.indices[:, 0]
    count = min(GALLERY, len(ratio))
    order = np.lexsort((_repeated(nearest), ratio))
    best, rest = order[:count], np.sort(order[count:])
    position = {image: place for place, image in reversed(list(enumerate(nearest[best].tolist())))}
    shown = np.array([count - position.get(image, count) for image in nearest[rest].tolist()])
    worst = rest[np.lexsort((shown, _repeated(nearest[rest]), -ratio[rest]))][:count]
    worst = np.concatenate([worst, best[::-1][: count - len(worst)]])
    content = {}
    for name, rows_of in {"best": best, "worst": worst}.items():
        content |= {f"{name}_generated": generated[rows_of], f"{name}_train": train[nearest[rows_of]]}
        content[f"{name}_ratio"] = ratio[rows_of]
    return content


def _repeated(values: np.ndarray) -> np.ndarray:
    """(m,) bool: whether an equal value comes before."""
    repeated = np.ones(len(values), bool)
    repeated[np.unique(values, return_index=True)[1]] = False
    return repeated


if __name__ == "__main__":
    command(main)
