"""The score stage finds each generated image's nearest training images and counts copies."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emmeter.command import command, end, head, read_settings, stage_parser
from emmeter.data.subset import Subset
from emmeter.data.subset import load as load_subset
from emmeter.errors import StageError
from emmeter.files import checksums
from emmeter.files.layout import record_settings, state_folder
from emmeter.files.npz import write_npz
from emmeter.files.provenance import provenance
from emmeter.files.records import Cost, ScoreRecord
from emmeter.files.scores import neighbour_arrays, read_samples
from emmeter.files.writing import write_json
from emmeter.measure.criterion import Neighbours, mean_distance, memorized, mirrored_neighbours, neighbours
from emmeter.measure.estimate import wilson
from emmeter.measure.results import Copies, Snapshot, total
from emmeter.measure.trained import farther_words, is_farther
from emmeter.settings import keys
from emmeter.settings.sections import Setup
from emmeter.training import state as run_state

GALLERY = 16  # generated images kept per run with their neighbours


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
    parts = [f"nearest of {n} training images", f"threshold {setup.scoring.threshold:.3g}"]
    head("score", n, replicate, *parts, f"key {key or keys.key('score', setup)}")
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
    copies = memorized(nearest[-1], setup.scoring.threshold, setup.scoring.distinct)
    examples = even_ranks(generated["images"][-1], train.images, nearest[-1], copies)
    write_npz(gallery, **examples, n=np.array(n), replicate=np.array(replicate))
    content: ScoreRecord = {
        "n": n,
        "replicate": replicate,
        "inputs": checksums.of(subset, samples),
        "image_shape": list(train.images.shape[1:]),
        "threshold": setup.scoring.threshold,
        "engine": nearest[-1].engine,
        "snapshots": snapshots,
        "held_out_distance": held_out_distance(train, setup),
        "cost": spent,
        **provenance(key or keys.key("score", setup), started),
    }
    write_json(output, content)
    checksums.record(output, neighbours, gallery, settings)
    if setup.kind == "command":  # its images have served, so nothing needs to be written again
        run_state.discard(state_folder(samples.parents[4], samples.parents[2].name, n, replicate))
    last, held_out = counts[-1], content["held_out_distance"]
    if is_farther(last["mean_distance"], held_out) and held_out is not None:
        print(f"warning: {farther_words(last['mean_distance'], held_out)}", file=sys.stderr, flush=True)
    end(f"{100 * last['ratio']:.1f} % copies ({last['memorized']} of {last['images']})", time.monotonic() - started)
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


def held_out_distance(subset: Subset, setup: Setup) -> float | None:
    """Mean distance of the held-out images to the nearest training image, in grey levels; None if there are none."""
    if not len(subset.held_out):
        return None
    return mean_distance(nearest_images(subset.held_out[None], subset, setup)[0], subset.images[0].size)


def cost(records: Sequence[Path]) -> Cost:
    """Sum the cost of a run over the records of its stages.  A record without a key adds nothing to it."""
    contents = [checksums.read_json(path) for path in records]
    return {
        "images_trained": total(content.get("images_trained", 0) for content in contents),
        "flops": total(content.get("flops", 0) for content in contents),
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


def even_ranks(generated: np.ndarray, train: np.ndarray, neighbours: Neighbours, copies: np.ndarray) -> dict[str, Any]:
    """Choose generated images at even ranks of d1/d2, up to `GALLERY`, from the best match to the worst.

    So about the same share of them are copies as of all.  No image is chosen twice.

    Args:
        generated: uint8 (m, C, H, W).
        train: uint8 (N, C, H, W), the training images.
        neighbours: neighbours of the generated images.
        copies: bool (m,), which of them are copies.
    Returns:
        For g images: `generated`, `nearest` and `second` uint8 (g, C, H, W), the latter two training images; `d1` and
        `d2` float64 (g,), their distances as root mean square over the pixels, in grey levels; `copy` bool (g,);
        `rank` int64 (g,), from 0 for the smallest d1/d2; `index` int64 (g,), positions among the generated images.
        `copies` and `images`: numbers of copies and of all images.
    """
    ratio = np.sqrt(neighbours.squared[:, 0] / np.maximum(neighbours.squared[:, 1], 1))
    order = np.argsort(ratio, kind="stable")
    rank = np.round(np.linspace(0, len(order) - 1, min(GALLERY, len(order)))).astype(np.int64)
    index = order[rank]
    first, second = (np.sqrt(neighbours.squared[index, column] / generated[0].size) for column in (0, 1))
    return {
        "generated": generated[index],
        "nearest": train[neighbours.indices[index, 0]],
        "second": train[neighbours.indices[index, 1]],
        "d1": first,
        "d2": second,
        "copy": copies[index],
        "rank": rank,
        "index": index,
        "copies": int(copies.sum()),
        "images": len(copies),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__, "--subset", "--samples", "--score", "--neighbours", "--gallery")
    parser.add_argument(
        "--records", type=Path, nargs="+", required=True, help="records of training and sampling, for the cost"
    )
    args = parser.parse_args(argv)
    score(
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


if __name__ == "__main__":
    command(main)
