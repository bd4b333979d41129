"""Consequences of a data set: sizes of subsets, values that are left to it, and settings that it makes impossible.

All of this is computed from the settings, the facts of the data set and, if its images were compared, their copies.
`emmeter.data.survey` reads these from the data.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from emmeter.data.images import Copies, Facts, parts
from emmeter.data.ordering import mixed, mixture_share, order
from emmeter.errors import Fault
from emmeter.measure.quality import features
from emmeter.measure.search import ends, ladder
from emmeter.settings.duplicates import least_share
from emmeter.settings.sections import Data, Quality, Setup
from emmeter.settings.sources import is_own

MOST_BYTES = 2**35  # of the images of a training set, which has to fit into memory
NEAR = 1.15  # factor by which sigma_data may differ from that of the images without a notice


@dataclass(frozen=True)
class Notice:
    """Something that the user should know about an arm, and that stops no run."""

    text: str
    of_arm: bool
    """True if it depends on the arm, False if it is about the data alone."""


def usable(facts: Facts, data: Data) -> tuple[int, int]:
    """(multiple, available): sizes must be multiples of `multiple` and at most `available`, itself a multiple.

    Balanced classes: the number of classes, and this number times the size of the smallest class.  Otherwise, and
    without labels: 1 and the number of images.  Mixture: 1, and the largest size for which both sources suffice.
    """
    if facts.second is not None:
        share = mixture_share(data)
        reach = [math.floor(facts.second.images / share)]
        reach += [math.floor(facts.images / (1 - share))] if share < 1 else []
        return 1, min(reach)
    if data.balanced and facts.class_counts is not None:
        return len(facts.class_counts), len(facts.class_counts) * min(facts.class_counts)
    return 1, facts.images


def limit(data: Data, facts: Facts) -> str:
    """The largest size of a subset, and where it comes from, for the end of a line."""
    multiple, available = usable(facts, data)
    smallest = f" ({multiple} classes x {available // multiple} images of the smallest)" if multiple > 1 else ""
    return f"{available}, the largest subset of {data.source}{smallest}"


def fitted(setup: Setup, facts: Facts) -> Setup:
    """`setup` with the values that the settings leave to the data set (null), as far as facts decide them.

    ``network.attention``: half the side of the images, if the network has that level.  ``search.n_max``: the number of
    images, and ``search.start`` at most as many.
    """
    network, search = setup.network, setup.search
    if network.attention is None:
        side = facts.shape[1] // 2
        network = network.model_copy(update={"attention": [side] if len(network.multipliers) > 1 else []})
    if search.n_max is None:
        available = usable(facts, setup.data)[1]
        search = search.model_copy(update={"n_max": available, "start": min(search.start, available)})
    return setup.model_copy(update={"network": network, "search": search})


def faults(setup: Setup, facts: Facts) -> list[Fault]:
    """One fault per setting that the data set makes impossible."""
    of_data = data_faults(setup.data, facts) or [*_network_faults(setup, facts), *_search_faults(setup, facts)]
    return of_data + _quality_faults(setup.quality)


def _quality_faults(quality: Quality) -> list[Fault]:
    """Faults of spaces of features whose networks are not on this machine."""
    names = quality.features if quality.enabled else []
    return [Fault("quality.features", repr(name), lack) for name in names if (lack := features.missing(name))]


def data_faults(data: Data, facts: Facts) -> list[Fault]:
    """One fault per setting of `data` that the data set cannot satisfy."""
    impossible = selection_faults(data, facts)
    if data.labels == "true" and facts.class_counts is None:
        rule = f"{data.source} has no labels; use none, unique or random-K"
        impossible.append(Fault("data.labels", "'true'", rule))
    if data.embedded and data.embeddings == "class" and facts.class_counts is None:
        rule = f"{data.source} has no classes; use image, fixed or shuffled"
        impossible.append(Fault("data.embeddings", "'class'", rule))
    return impossible


def selection_faults(data: Data, facts: Facts) -> list[Fault]:
    """One fault per selection of images that the data set cannot satisfy: classes, resolution, mixture."""
    impossible = []
    if data.mixture_share and not data.mixture:
        rule = "needs a second source in data.mixture"
        impossible.append(Fault("data.mixture_share", f"{data.mixture_share:g}", rule))
    first, *others = parts(data)
    for second in others if facts.second is not None else ():
        assert facts.second is not None
        chosen = _source_faults(second, facts.second) or _empty_classes(second, facts.second)
        impossible += [
            replace(fault, key="data.mixture_classes") if fault.key == "data.classes" else fault for fault in chosen
        ]
        if facts.second.shape != facts.shape:
            shapes = f"its images have shape {facts.second.shape}, those of {data.source} {facts.shape}"
            impossible.append(Fault("data.mixture", repr(data.mixture), f"{shapes}; set data.resolution"))
        if data.labels == "true":
            rule = "the classes of a mixture are those of two data sets; use another mode"
            impossible.append(Fault("data.labels", "'true'", rule))
        if data.embedded:
            rule = "a mixture has images of two data sets, embeddings those of one; use another mode"
            impossible.append(Fault("data.labels", repr(data.labels), rule))
    impossible += _source_faults(first, facts)
    return impossible or _empty_classes(first, facts)


def _source_faults(data: Data, facts: Facts) -> list[Fault]:
    """Faults of the resolution and the classes that are selected from one source."""
    impossible = []
    counts, stored = facts.stored_counts, facts.stored_shape[1]
    # The sizes of a folder's images may differ: `image_faults` names the small ones.
    differ = data.fit is not None and data.source.startswith("folder:")
    if data.resolution is not None and data.resolution > stored and not differ:
        rule = f"must be at most {stored}, as {data.source} is stored"
        impossible.append(Fault("data.resolution", str(data.resolution), rule))
    if data.classes is not None:
        rule = ""
        if counts is None:
            rule = f"{data.source} has no labels to select by"
        elif not data.classes or len(set(data.classes)) != len(data.classes):
            rule = "must name at least one class, and none twice"
        elif max(data.classes) >= len(counts):
            rule = f"must be among 0 to {len(counts) - 1} for {data.source}"
        if rule:
            impossible.append(Fault("data.classes", str(data.classes), rule))
    return impossible


def _empty_classes(data: Data, facts: Facts) -> list[Fault]:
    """A fault if a class without images is used, and balance or labels need images of every class."""
    counts = facts.class_counts or ()
    if 0 not in counts or not (data.balanced or data.labels == "true" or not any(counts)):
        return []
    empty = (data.classes or range(len(counts)))[counts.index(0)]
    rule = f"must list only classes that hold images; class {empty} is empty"
    return [Fault("data.classes", str(data.classes), rule)]


def _network_faults(setup: Setup, facts: Facts) -> list[Fault]:
    """Faults of the levels and of the attention, given the size of the images."""
    if setup.kind != "network":
        return []
    network, side, levels = setup.network, facts.shape[1], len(setup.network.multipliers)
    if network.architecture == "dit":
        rule = f"must divide the side of the images, {side} pixels"
        return [Fault("network.patch", str(network.patch), rule)] if side % network.patch else []
    if side % 2 ** (levels - 1):
        rule = f"{levels} levels need a data.resolution divisible by {2 ** (levels - 1)}, which {side} is not"
        return [Fault("network.multipliers", str(network.multipliers), rule)]
    sides = [side >> level for level in range(levels)]
    if absent := [side for side in network.attention or () if side not in sides]:
        rule = f"no level has resolution {absent[0]}; allowed: {', '.join(map(str, sides))}"
        return [Fault("network.attention", str(network.attention), rule)]
    return []


def _search_faults(setup: Setup, facts: Facts) -> list[Fault]:
    """Faults of the sizes that the rule of the search uses."""
    search = setup.search
    multiple, available = usable(facts, setup.data)
    most = f"must be at most {limit(setup.data, facts)}"
    if search.rule == "grid":
        rules = [f"sizes must be multiples of {multiple}, the number of classes"]
        rules = rules if any(n % multiple for n in search.grid) else []
        rules += [most] if search.grid[-1] > available else []
        impossible = [Fault("search.grid", str(search.grid), rule) for rule in rules]
        return impossible or _repetitions(setup, facts, search.grid[0], search.grid[-1])
    sizes = {"n_min": search.n_min, "start": search.start, "n_max": search.n_max or 0}
    impossible = [Fault(f"search.{name}", str(size), most) for name, size in sizes.items() if size > available]
    lowest, highest = ends(search, multiple, available)
    if not impossible and lowest >= highest:
        between = f"fewer than two multiples of {multiple}, the number of classes, lie between"
        rule = f"{between} n_min = {search.n_min} and n_max"
        impossible.append(Fault("search.n_max", str(search.n_max), rule))
    return impossible or _repetitions(setup, facts, lowest, highest)


def _repetitions(setup: Setup, facts: Facts, lowest: int, highest: int) -> list[Fault]:
    """Faults of ``data.duplicates`` at the smallest and the largest size of the search."""
    times, entries = setup.data.duplicates.times, setup.data.duplicates.entries(highest)
    size = entries * math.prod(facts.shape)
    if times > 1 and size > MOST_BYTES:
        rule = f"makes {entries:,} entries of N = {highest:,} images, {size / 2**30:,.0f} GiB of pixels"
        rule += f": at most {MOST_BYTES / 2**30:.0f} GiB are allowed"
        return [Fault("data.duplicates.times", str(times), rule)]
    return repetition_faults(setup.data, lowest)


def repetition_faults(data: Data, n: int) -> list[Fault]:
    """A fault if ``data.duplicates`` repeats none of `n` images, although it has a share."""
    share = data.duplicates.share
    if not share or data.duplicates.repeated(n):
        return []
    rule = f"repeats none of N = {n} images: must be at least {least_share(n):.3g}"
    return [Fault("data.duplicates.share", f"{share:g}", rule)]


def too_equal(setup: Setup, facts: Facts, copies: Sequence[Copies | None]) -> list[Fault]:
    """A fault if a subset that the search may ask for would not hold two different images.

    Args:
        copies: the equal images of each source of setup.data, as stored.  None: all images of the source differ.
    """
    data = setup.data
    key, source = "data.source", repr(data.source)
    sources = parts(data)
    stored = [part for part in (facts, facts.second) if part is not None]
    used = [_used(equal, part, fact) for equal, part, fact in zip(copies, sources, stored, strict=True)]
    same = np.concatenate([positions + (i << 32) for i, (positions, _) in enumerate(used)])
    if len(np.unique(same)) < 2:
        rule = f"its {len(same)} images are all the same: memorization needs two that differ"
        return [Fault(key, source, rule)]
    lowest = ladder(setup.search, *usable(facts, data))[0]
    if np.unique(same, return_counts=True)[1].max() < lowest:
        return []
    search, needed, first = setup.search, lowest, None
    for replicate in range(search.replicates if search.rule == "grid" else 2 * search.confirm + 1):
        ranked, *others = (
            order(len(positions), labels, part, setup.seed, replicate)
            for (positions, labels), part in zip(used, sources, strict=True)
        )
        if others:
            ranked = mixed(ranked, others[0], mixture_share(data))
        alike = same[ranked] == same[ranked[0]]
        count = len(ranked) if alike.all() else int(np.argmin(alike))
        if count >= lowest and first is None:
            first = replicate
        needed = max(needed, count + 1)
    if first is None:
        return []
    name = "grid" if search.rule == "grid" else "n_min"
    rule = f"replicate {first} would begin with {lowest} copies of one image"
    return [Fault(key, source, f"{rule}; search.{name} from {needed} on is large enough")]


def _used(copies: Copies | None, data: Data, facts: Facts) -> tuple[np.ndarray, np.ndarray | None]:
    """Groups of equal images among the used ones, and their labels or None; both int64 (n,)."""
    if copies is None:  # all differ, so their order does not matter: as if stored class by class
        counts = facts.class_counts
        return np.arange(facts.images), None if counts is None else np.repeat(np.arange(len(counts)), counts)
    if copies.labels is None or data.classes is None:
        return copies.same, copies.labels
    labels = np.full(len(copies.same), -1)
    for position, label in enumerate(data.classes):
        labels[copies.labels == label] = position
    return copies.same[labels >= 0], labels[labels >= 0]


def notices(setup: Setup, facts: Facts, copies: Copies | None, sigma_data: float | None) -> list[Notice]:
    """Moved bounds of the search, and peculiarities of the user's own images.

    Args:
        copies: the equal images of data.source.  None: all differ, or they have not been compared.
        sigma_data: standard deviation of the images in [-1, 1]; None if it has not been measured.
    """
    about_data = [*single_image_classes(setup.data, copies), *_differences(setup, facts, sigma_data)]
    return [Notice(line, True) for line in rounded(setup, facts)] + [Notice(line, False) for line in about_data]


def rounded(setup: Setup, facts: Facts) -> list[str]:
    """A line on the bounds of the search that class balance moves, if any."""
    search, (multiple, available) = setup.search, usable(facts, setup.data)
    if search.rule == "grid":
        return []
    lowest, highest = ends(search, multiple, available)
    moved = {"n_min": lowest, "start": min(max(search.start, lowest), highest), "n_max": highest}
    given = {name: getattr(search, name) for name in moved}
    changes = [f"search.{name} = {given[name]} becomes {now}" for name, now in moved.items() if given[name] != now]
    rule = f"sizes are multiples of the {multiple} classes, unless data.balanced is false"
    return [f"{', '.join(changes)}: {rule}"] if changes else []


def single_image_classes(data: Data, copies: Copies | None) -> list[str]:
    """A line on the used classes of data.source that hold copies of a single image, if any."""
    if copies is None or copies.labels is None:
        return []
    classes = range(int(copies.labels.max()) + 1) if data.classes is None else data.classes
    members = {label: copies.same[copies.labels == label] for label in classes}
    alike = [str(label) for label, same in members.items() if len(same) > 1 and len(np.unique(same)) == 1]
    which = f"class {alike[0]} holds" if len(alike) == 1 else f"classes {', '.join(alike)} each hold"
    return [f"{data.source}: {which} copies of one image only"] if alike else []


def _differences(setup: Setup, facts: Facts, sigma_data: float | None) -> list[str]:
    """A line on own images that are used at another size, or with another sigma_data than theirs, if any."""
    if not is_own(setup.data.source):
        return []
    stored, used = (f"{height}x{width}" for _, height, width in (facts.stored_shape, facts.shape))
    changes = [f"images of {stored} pixels are used at {used}"] if stored != used else []
    given = setup.diffusion.sigma_data
    if sigma_data is not None and given and not 1 / NEAR < sigma_data / given < NEAR:
        changes.append(f"diffusion.sigma_data = {given:g} is not theirs, which is {sigma_data:g} (null measures it)")
    return [f"{setup.data.source}: {'; '.join(changes)}"] if changes else []
