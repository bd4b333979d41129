"""What a data set makes possible: sizes of subsets, settings that it decides, and those that it rules out."""

import math
from collections.abc import Sequence

import numpy as np

from emmeter.data import images
from emmeter.data.images import Copies, Facts, mixture
from emmeter.data.ordering import mixed, mixture_share, order
from emmeter.measure.search import ends, ladder
from emmeter.settings.sections import Data, Setup


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


def fitted(setup: Setup, facts: Facts) -> Setup:
    """`setup` with the values that its data set decides, where the settings leave them to it (null).

    ``network.attention``: at half the side of the images, where the network has that level.  ``search.n_max``: as many
    images as there are, and ``search.start`` no more.
    """
    network, search = setup.network, setup.search
    if network.attention is None:
        side = facts.shape[1] // 2
        network = network.model_copy(update={"attention": [side] if len(network.multipliers) > 1 else []})
    if search.n_max is None:
        available = usable(facts, setup.data)[1]
        search = search.model_copy(update={"n_max": available, "start": min(search.start, available)})
    return setup.model_copy(update={"network": network, "search": search})


def faults(setup: Setup, facts: Facts) -> list[str]:
    """One line ``key = value: what is allowed`` for each setting that the data set makes impossible."""
    found = data_faults(setup.data, facts)
    return found if found else _network_faults(setup, facts) + _search_faults(setup, facts)


def data_faults(data: Data, facts: Facts) -> list[str]:
    found = selection_faults(data, facts)
    if data.labels == "true" and facts.class_counts is None:
        found.append(f"data.labels = 'true': {data.source} has no labels; use none, unique or random-K")
    return found


def _network_faults(setup: Setup, facts: Facts) -> list[str]:
    if setup.diffusion.denoiser != "network":
        return []
    side, levels = facts.shape[1], len(setup.network.multipliers)
    if side % 2 ** (levels - 1):
        rule = f"{levels} levels need a data.resolution divisible by {2 ** (levels - 1)}, which {side} is not"
        return [f"network.multipliers = {setup.network.multipliers}: {rule}"]
    sides = [side >> level for level in range(levels)]
    if absent := [side for side in setup.network.attention or () if side not in sides]:
        allowed = ", ".join(map(str, sides))
        return [
            f"network.attention = {setup.network.attention}: no level has resolution {absent[0]}; allowed: {allowed}"
        ]
    return []


def _search_faults(setup: Setup, facts: Facts) -> list[str]:
    """Faults of the sizes that the chosen rule uses."""
    search = setup.search
    multiple, available = usable(facts, setup.data)
    found = []
    if search.rule == "grid":
        if any(n % multiple for n in search.grid):
            found.append(f"search.grid = {search.grid}: sizes must be multiples of {multiple}, the number of classes")
        if search.grid[-1] > available:
            found.append(f"search.grid = {search.grid}: must be at most {limit(setup.data, facts)}")
        return found
    for name in ("n_min", "start", "n_max"):
        if (getattr(search, name) or 0) > available:
            found.append(f"search.{name} = {getattr(search, name)}: must be at most {limit(setup.data, facts)}")
    lowest, highest = ends(search, multiple, available)
    if not found and lowest >= highest:
        found.append(
            f"search.n_max = {search.n_max}: fewer than two multiples of {multiple}, the number of classes, lie "
            f"between n_min = {search.n_min} and n_max"
        )
    return found


def rounded(setup: Setup, facts: Facts) -> list[str]:
    """A line for the bounds of the search that class balance moves."""
    search, (multiple, available) = setup.search, usable(facts, setup.data)
    if search.rule == "grid":
        return []
    lowest, highest = ends(search, multiple, available)
    moved = {"n_min": lowest, "start": min(max(search.start, lowest), highest), "n_max": highest}
    given = {name: getattr(search, name) for name in moved}
    told = [f"search.{name} = {given[name]} becomes {now}" for name, now in moved.items() if given[name] != now]
    rule = f"sizes are multiples of the {multiple} classes, unless data.balanced is false"
    return [f"{', '.join(told)}: {rule}"] if told else []


def too_equal(setup: Setup, facts: Facts, known: Sequence[Copies | None]) -> list[str]:
    """A line where a subset that the search may ask for would not hold two different images.

    Args:
        known: which images are equal, of each source of setup.data, as stored; None: all of them differ.
    """
    data, source = setup.data, f"data.source = {setup.data.source!r}"
    parts = [data, *([images.mixture(data)] if facts.second is not None else [])]
    stored = [one for one in (facts, facts.second) if one is not None]
    used = [_used(copies, part, fact) for copies, part, fact in zip(known, parts, stored, strict=True)]
    same = np.concatenate([one + (i << 32) for i, (one, _) in enumerate(used)])
    if len(np.unique(same)) < 2:
        return [f"{source}: its {len(same)} images are all the same: memorization needs two that differ"]
    lowest = ladder(setup.search, *usable(facts, data))[0]
    if np.unique(same, return_counts=True)[1].max() < lowest:
        return []
    search, needed, first = setup.search, lowest, None
    for replicate in range(search.replicates if search.rule == "grid" else 2 * search.confirm + 1):
        ranked = order(len(used[0][0]), used[0][1], data, setup.seed, replicate)
        if used[1:]:
            second = order(len(used[1][0]), used[1][1], parts[1], setup.seed, replicate)
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


def limit(data: Data, facts: Facts) -> str:
    multiple, available = usable(facts, data)
    smallest = f" ({multiple} classes x {available // multiple} images of the smallest)" if multiple > 1 else ""
    return f"{available}, the largest subset of {data.source}{smallest}"


def selection_faults(data: Data, facts: Facts) -> list[str]:
    """One line ``key = value: what is allowed`` for each selection that the data set cannot satisfy."""
    faults = []
    if data.mixture_share and not data.mixture:
        faults.append(f"data.mixture_share = {data.mixture_share:g}: needs a second source in data.mixture")
    if facts.second is not None:
        faults += [
            line.replace("data.classes", "data.mixture_classes").replace("data.source", "data.mixture")
            for line in selection_faults(mixture(data), facts.second)
        ]
        if facts.second.shape != facts.shape:
            rule = (
                f"its images have shape {facts.second.shape}, those of {data.source} {facts.shape}; set data.resolution"
            )
            faults.append(f"data.mixture = {data.mixture!r}: {rule}")
        if data.labels == "true":
            faults.append("data.labels = 'true': the classes of a mixture are those of two data sets; use another mode")
    counts, stored = facts.stored_counts, facts.stored_shape[1]
    sizes = data.fit is not None and data.source.startswith(
        "folder:"
    )  # may differ: `image_faults` names the small ones
    if data.resolution is not None and data.resolution > stored and not sizes:
        faults.append(f"data.resolution = {data.resolution}: must be at most {stored}, as {data.source} is stored")
    if data.classes is not None:
        if counts is None:
            faults.append(f"data.classes = {data.classes}: {data.source} has no labels to select by")
        elif not data.classes or len(set(data.classes)) != len(data.classes):
            faults.append(f"data.classes = {data.classes}: must name at least one class, and none twice")
        elif max(data.classes) >= len(counts):
            faults.append(f"data.classes = {data.classes}: must be among 0 to {len(counts) - 1} for {data.source}")
    counted = facts.class_counts or ()
    if not faults and 0 in counted and (data.balanced or data.labels == "true" or not any(counted)):
        empty = (data.classes or range(len(counted)))[counted.index(0)]
        faults.append(f"data.classes = {data.classes}: must list only classes that hold images; class {empty} is empty")
    return faults
