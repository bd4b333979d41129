"""Training subsets: which images, in which order, under which labels.

The images of a data set are put into an order for each replicate, and a subset of size N is its first N entries:
subsets of one replicate are nested, and arms that differ only in the model see the same images.

``python -m emm.subset`` is the subset stage.
"""

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from emm import checksums, datasets
from emm.datasets import DataError, Facts
from emm.files import provenance, write_json, write_npz
from emm.keys import RECORDS, key
from emm.search import ends, ladder
from emm.settings import Data, Run, SettingsError
from emm.signature import Copies
from emm.stage import arguments, command, read_settings, record_settings

# Purposes of random draws.  Part of the results: never change a number.
_ORDER, _LABELS = 1, 2


@dataclass(frozen=True)
class Subset:
    """What one run is trained on, and h images beside it for the held-out loss."""

    images: np.ndarray  # uint8 (N, C, H, W)
    labels: np.ndarray  # int64 (N,), conditioning labels below label_count; all 0 where label_count is 0
    label_count: int  # 0: unconditional
    indices: np.ndarray  # int64 (N,), positions in the data set as stored
    groups: np.ndarray  # int64 (N,), position of the first image of the subset with the same pixels
    held_out: np.ndarray  # uint8 (h, C, H, W), 0 <= h <= data.held_out
    held_out_labels: np.ndarray  # int64 (h,)


def usable(facts: Facts, data: Data) -> tuple[int, int]:
    """(multiple, available): sizes must be multiples of `multiple` and at most `available`, itself a multiple.

    The number of classes and so many times the smallest class where classes are balanced; otherwise, and without
    labels, 1 and the number of images.  In a mixture 1, and as far as both sources reach.
    """
    if facts.second is not None:
        share = mixture_share(data)
        reach = [math.floor(facts.second.images / share)]
        reach += [math.floor(facts.images / (1 - share))] if share < 1 else []
        return 1, min(reach)
    if data.balanced and facts.class_counts is not None:
        return len(facts.class_counts), len(facts.class_counts) * min(facts.class_counts)
    return 1, facts.images


def fitted(run: Run, facts: Facts) -> Run:
    """`run` with the values that its data set decides, where the settings leave them to it (null).

    ``network.attention``: at half the side of the images, where the network has that level.  ``search.n_max``: as many
    images as there are, and ``search.start`` no more.
    """
    network, search = run.network, run.search
    if network.attention is None:
        side = facts.shape[1] // 2
        network = network.model_copy(update={"attention": [side] if len(network.multipliers) > 1 else []})
    if search.n_max is None:
        available = usable(facts, run.data)[1]
        search = search.model_copy(update={"n_max": available, "start": min(search.start, available)})
    return run.model_copy(update={"network": network, "search": search})


def faults(run: Run, facts: Facts) -> list[str]:
    """One line ``key = value: what is allowed`` for each setting that the data set makes impossible."""
    found = _data_faults(run.data, facts)
    return found if found else _network_faults(run, facts) + _search_faults(run, facts)


def _data_faults(data: Data, facts: Facts) -> list[str]:
    found = datasets.selection_faults(data, facts)
    if data.labels == "true" and facts.class_counts is None:
        found.append(f"data.labels = 'true': {data.source} has no labels; use none, unique or random-K")
    return found


def _network_faults(run: Run, facts: Facts) -> list[str]:
    if run.diffusion.denoiser != "network":
        return []
    side, levels = facts.shape[1], len(run.network.multipliers)
    if side % 2 ** (levels - 1):
        rule = f"{levels} levels need a data.resolution divisible by {2 ** (levels - 1)}, which {side} is not"
        return [f"network.multipliers = {run.network.multipliers}: {rule}"]
    sides = [side >> level for level in range(levels)]
    if absent := [side for side in run.network.attention or () if side not in sides]:
        allowed = ", ".join(map(str, sides))
        return [f"network.attention = {run.network.attention}: no level has resolution {absent[0]}; allowed: {allowed}"]
    return []


def _search_faults(run: Run, facts: Facts) -> list[str]:
    """Faults of the sizes that the chosen rule uses."""
    search = run.search
    multiple, available = usable(facts, run.data)
    found = []
    if search.rule == "grid":
        if any(n % multiple for n in search.grid):
            found.append(f"search.grid = {search.grid}: sizes must be multiples of {multiple}, the number of classes")
        if search.grid[-1] > available:
            found.append(f"search.grid = {search.grid}: must be at most {_limit(run.data, facts)}")
        return found
    for name in ("n_min", "start", "n_max"):
        if (getattr(search, name) or 0) > available:
            found.append(f"search.{name} = {getattr(search, name)}: must be at most {_limit(run.data, facts)}")
    lowest, highest = ends(search, multiple, available)
    if not found and lowest >= highest:
        found.append(
            f"search.n_max = {search.n_max}: fewer than two multiples of {multiple}, the number of classes, lie "
            f"between n_min = {search.n_min} and n_max"
        )
    return found


def rounded(run: Run, facts: Facts) -> list[str]:
    """A line for the bounds of the search that class balance moves."""
    search, (multiple, available) = run.search, usable(facts, run.data)
    if search.rule == "grid":
        return []
    lowest, highest = ends(search, multiple, available)
    moved = {"n_min": lowest, "start": min(max(search.start, lowest), highest), "n_max": highest}
    given = {name: getattr(search, name) for name in moved}
    told = [f"search.{name} = {given[name]} becomes {now}" for name, now in moved.items() if given[name] != now]
    rule = f"sizes are multiples of the {multiple} classes, unless data.balanced is false"
    return [f"{', '.join(told)}: {rule}"] if told else []


def too_equal(run: Run, facts: Facts, known: Sequence[Copies | None]) -> list[str]:
    """A line where a subset that the search may ask for would not hold two different images.

    Args:
        known: which images are equal, of each source of run.data, as stored; None: all of them differ.
    """
    data, source = run.data, f"data.source = {run.data.source!r}"
    parts = [data, *([datasets.mixture(data)] if facts.second is not None else [])]
    stored = [one for one in (facts, facts.second) if one is not None]
    used = [_used(copies, part, fact) for copies, part, fact in zip(known, parts, stored, strict=True)]
    same = np.concatenate([one + (i << 32) for i, (one, _) in enumerate(used)])
    if len(np.unique(same)) < 2:
        return [f"{source}: its {len(same)} images are all the same: memorization needs two that differ"]
    lowest = ladder(run.search, *usable(facts, data))[0]
    if np.unique(same, return_counts=True)[1].max() < lowest:
        return []
    search, needed, first = run.search, lowest, None
    for replicate in range(search.replicates if search.rule == "grid" else 2 * search.confirm + 1):
        ranked = order(len(used[0][0]), used[0][1], data, run.seed, replicate)
        if used[1:]:
            second = order(len(used[1][0]), used[1][1], parts[1], run.seed, replicate)
            ranked = mixed(ranked, second, mixture_share(data))
        alike = same[ranked] == same[ranked[0]]
        count = len(ranked) if alike.all() else int(np.argmin(alike))
        if count >= lowest and first is None:
            first = replicate
        needed = max(needed, count + 1)
    if first is None:
        return []
    name = "grid" if search.rule == "grid" else "n_min"
    rule = f"replicate {first} would begin with {lowest} copies of one image"
    return [f"{source}: {rule}; search.{name} from {needed} on is large enough"]


def _used(copies: Copies | None, data: Data, facts: Facts) -> tuple[np.ndarray, np.ndarray | None]:
    """Of the images that are used: which are equal, and their labels, both int64 (n,)."""
    if copies is None:  # without a look at the data: stored class by class, as good as any order where all differ
        counts = facts.class_counts
        return np.arange(facts.images), None if counts is None else np.repeat(np.arange(len(counts)), counts)
    if copies.labels is None or data.classes is None:
        return copies.same, copies.labels
    labels = np.full(len(copies.same), -1)
    for position, label in enumerate(data.classes):
        labels[copies.labels == label] = position
    return copies.same[labels >= 0], labels[labels >= 0]


def of_one_image(data: Data, copies: Copies | None) -> list[str]:
    """A line where classes of `data.source` that are used hold copies of a single image."""
    if copies is None or copies.labels is None:
        return []
    classes = range(int(copies.labels.max()) + 1) if data.classes is None else data.classes
    members = {label: copies.same[copies.labels == label] for label in classes}
    alike = [str(label) for label, same in members.items() if len(same) > 1 and len(np.unique(same)) == 1]
    which = f"class {alike[0]} holds" if len(alike) == 1 else f"classes {', '.join(alike)} each hold"
    return [f"{data.source}: {which} copies of one image only"] if alike else []


def _limit(data: Data, facts: Facts) -> str:
    multiple, available = usable(facts, data)
    smallest = f" ({multiple} classes x {available // multiple} images of the smallest)" if multiple > 1 else ""
    return f"{available}, the largest subset of {data.source}{smallest}"


def order(images_count: int, labels: np.ndarray | None, data: Data, seed: int, replicate: int) -> np.ndarray:
    """The order in which images enter subsets: int64, a permutation of 0 .. images_count - 1.

    Balanced (with `labels` int64 (images_count,), 0 .. C-1): position k * C + c holds the k-th drawn image of class
    c, until the smallest class is exhausted; the rest of the larger classes follows in the same way.  A class is
    drawn by a permutation of its own, whatever other classes are used.  Otherwise: one permutation of all.
    ``data.draw = first`` takes file order instead of permutations, which makes all replicates equal.
    """
    if labels is None or not data.balanced:
        return _drawn(np.arange(images_count), data, seed, replicate, 0)
    queues = []
    for label in range(int(labels.max()) + 1):
        stored = data.classes[label] if data.classes is not None else label
        queues.append(_drawn(np.flatnonzero(labels == label), data, seed, replicate, stored + 1))
    members = np.concatenate(queues)
    rounds = np.concatenate([np.arange(len(queue)) for queue in queues])
    return members[np.argsort(rounds, kind="stable")]  # by round, then by class


def mixture_share(data: Data) -> Fraction:
    """The share of the second source as the number that was written: 0.2 is a fifth, and 1/3 a third."""
    exact = Fraction(str(data.mixture_share))
    return exact.limit_denominator(10**9) or exact


def mixed(first: np.ndarray, second: np.ndarray, share: Fraction) -> np.ndarray:
    """Two orders as one: int64 positions, those of `second` counted from len(first) on.

    Of the first n entries floor(n * share) are of the second source, for every n until one source is exhausted, so
    that subsets are nested and each has the share.
    """
    count = np.arange(len(first) + len(second) + 1)
    # Python's integers: no overflow, whatever the share
    of_second = np.array([n * share.numerator // share.denominator for n in count.tolist()], np.int64)
    usable = (of_second <= len(second)) & (count - of_second <= len(first))
    length = int(np.flatnonzero(usable)[-1])
    from_second = np.diff(of_second[: length + 1]).astype(bool)
    result = np.empty(length, np.int64)
    result[from_second] = second[: from_second.sum()] + len(first)
    result[~from_second] = first[: length - from_second.sum()]
    return result


def _drawn(members: np.ndarray, data: Data, seed: int, replicate: int, stratum: int) -> np.ndarray:
    if data.draw == "first":
        return members
    return members[np.argsort(_raw(_ORDER, seed, replicate, stratum, len(members)), kind="stable")]


def _raw(purpose: int, seed: int, replicate: int, stratum: int, count: int) -> np.ndarray:
    """uint64 (count,) uniform random integers; the first ones do not depend on `count`.

    The raw stream of a bit generator is the same in every version of NumPy, which its permutations need not be.
    """
    return np.random.Philox(np.random.SeedSequence([purpose, seed, replicate, stratum])).random_raw(count)


def held_out_positions(available: int, images_count: int, n: int, count: int) -> np.ndarray:
    """Positions in the order, at least `n`, of at most `count` held-out images: int64, descending.

    They come from the end of the part from which subsets are drawn (the first `available`), so that they are as
    balanced as the subsets and the same for every n up to available - count; where that part has too few left, the
    rest of the order adds to them from its end.
    """
    candidates = np.concatenate([np.arange(available - 1, n - 1, -1), np.arange(images_count - 1, available - 1, -1)])
    return candidates[:count]


def label_count(data: Data, facts: Facts, n: int) -> int:
    """Number of conditioning labels for a subset of `n` images: 0 (unconditional), classes, K, or n (unique)."""
    if data.labels == "none":
        return 0
    if data.labels == "true":
        return len(facts.class_counts or ())
    return n if data.labels == "unique" else int(data.labels.removeprefix("random-"))


def conditioning_labels(
    data: Data, seed: int, replicate: int, indices: np.ndarray, labels: np.ndarray | None, n: int
) -> np.ndarray:
    """Conditioning labels, int64 (m,), of the images at stored positions `indices` (m,) with class labels `labels`.

    none: 0.  true: `labels`.  random-K: drawn for each image of the data set as stored, so that an image keeps its
    label in every subset of a replicate.  unique: position modulo the subset's size `n`, which for the subset itself
    is 0 .. n-1; held-out images have no label of their own, so they borrow those of the subset in turn.
    Raises SettingsError for true labels that do not exist.
    """
    if data.labels == "none":
        return np.zeros(len(indices), np.int64)
    if data.labels == "unique":
        return np.arange(len(indices)) % n
    if data.labels == "true":
        if labels is None:
            raise SettingsError(f"data.labels = 'true': {data.source} has no labels")
        return labels
    drawn = _raw(_LABELS, seed, replicate, 0, int(indices.max(initial=-1)) + 1)
    return (drawn[indices] % np.uint64(int(data.labels.removeprefix("random-")))).astype(np.int64)


def duplicate_groups(images: np.ndarray) -> np.ndarray:
    """For each of n images the index of the first one with the same pixels: int64 (n,)."""
    first: dict[bytes, int] = {}
    digests = (hashlib.sha256(image.tobytes()).digest() for image in images)
    return np.fromiter((first.setdefault(digest, i) for i, digest in enumerate(digests)), np.int64, len(images))


def draw(run: Run, n: int, replicate: int, stored: datasets.Images | None = None) -> Subset:
    """The subset of `n` images of a replicate (0, 1, ...), from the data set `stored` where it has been loaded already.

    Uses run.seed and run.data alone.  Raises SettingsError for a size or setting that the data set cannot satisfy,
    DataError for data that are missing or damaged.
    """
    data = run.data
    facts = datasets.describe(data)
    if found := _data_faults(data, facts):
        raise SettingsError(*found)
    multiple, available = usable(facts, data)
    if n < 1 or n % multiple:
        raise SettingsError(f"n = {n}: must be a positive multiple of {multiple}")
    if n > available:
        raise SettingsError(f"n = {n}: must be at most {_limit(data, facts)}")
    if replicate < 0:
        raise SettingsError(f"replicate = {replicate}: must be at least 0")
    stored = datasets.load(data) if stored is None else stored
    ranked = order(len(stored.images), stored.labels, data, run.seed, replicate)
    if stored.second is not None:
        other = datasets.mixture(data)
        second = order(len(stored.second.images), stored.second.labels, other, run.seed, replicate)
        ranked = mixed(ranked, second, mixture_share(data))
        stored = _joined(stored, stored.second, facts)

    def labels(chosen: np.ndarray) -> np.ndarray:
        known = None if stored.labels is None else stored.labels[chosen]
        return conditioning_labels(data, run.seed, replicate, stored.indices[chosen], known, n)

    inside, outside = ranked[:n], ranked[held_out_positions(available, len(ranked), n, data.held_out)]
    images = stored.images[inside]
    return Subset(
        images=images,
        labels=labels(inside),
        label_count=label_count(data, facts, n),
        indices=stored.indices[inside],
        groups=duplicate_groups(images),
        held_out=stored.images[outside],
        held_out_labels=labels(outside),
    )


def _joined(first: datasets.Images, second: datasets.Images, facts: Facts) -> datasets.Images:
    """The images of both sources as one data set without labels, stored one after the other."""
    offset = sum(facts.stored_counts) if facts.stored_counts is not None else facts.images
    return datasets.Images(
        np.concatenate([first.images, second.images]), None, np.concatenate([first.indices, second.indices + offset])
    )


def save(path: Path, subset: Subset) -> None:
    """Write a subset as .npz: atomic, and equal subsets give equal bytes."""
    write_npz(path, **(vars(subset) | {"label_count": np.asarray(subset.label_count, np.int64)}))


def load(path: Path) -> Subset:
    """Read what `save` wrote.  Raises DataError, naming the file, when it is missing, damaged or another kind."""
    checksums.check([path])
    arrays = datasets.read_arrays(path, list(Subset.__dataclass_fields__))
    n, h = len(np.atleast_1d(arrays["images"])), len(np.atleast_1d(arrays["held_out"]))
    image = arrays["images"].shape[1:]
    expected = dict.fromkeys(arrays, (np.int64, (n,))) | {
        "images": (np.uint8, (n, *image)),
        "label_count": (np.int64, ()),
        "held_out": (np.uint8, (h, *image)),
        "held_out_labels": (np.int64, (h,)),
    }
    for name, array in arrays.items():
        if (array.dtype, array.shape) != expected[name] or len(image) != 3:
            raise DataError(
                f"{path}: {name!r} is {array.dtype} {array.shape}, not of a subset; delete it and run again"
            )
    labels = int(arrays.pop("label_count"))
    return Subset(label_count=labels, **arrays)


def main() -> None:
    args = arguments(__doc__, "--output").parse_args()
    started = time.monotonic()
    run = read_settings(args.settings)
    stored = datasets.load(run.data)
    subset = draw(run, args.n, args.replicate, stored)
    if not subset.groups.any():  # before a training whose images could not be scored
        side = "x".join(map(str, subset.images.shape[2:]))
        what = f"the {args.n} images of replicate {args.replicate} are all the same at {side} pixels"
        raise DataError(f"data.source = {run.data.source!r}: {what}: memorization needs two that differ")
    settings = record_settings(args.output.parent, args.settings)
    save(args.output, subset)
    record = args.output.with_name(RECORDS["subset"])
    place = {"n": args.n, "replicate": args.replicate, "seed": run.seed, "data_sha256": datasets.digest(stored)}
    write_json(record, place | provenance(args.key or key("subset", run), started))
    checksums.record(args.output, record, settings)


if __name__ == "__main__":
    command(main)
