"""The search over N: a pure function, replayed on the scores that exist.

EMM is the number of training images N at which the memorization ratio crosses the line at 1 - epsilon.  `replay`
follows the search from its beginning, reads the counts that exist and stops where one is missing.  Settings and scores
alone therefore determine the runs of a search.

Rule ``bisection`` first *locates* the crossing with few runs, each of which only decides on the size of the next.  Then
it *confirms* the crossing with fresh runs at two sizes, one on either side, and at one between.  Only these enter the
estimate (`emmeter.measure.estimate`): runs whose size was chosen by their own outcome would make its interval too
narrow.  If the ratio stays above or below the line up to the end of the ladder, fresh runs at that end confirm this.

In this module, x is log2 N, and y is the distance of a run's logit from the line, positive where the ratio is above
1 - epsilon.  y falls with x.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from emmeter.measure.outcome import Count, RunId, logit
from emmeter.measure.results import Answer

if TYPE_CHECKING:
    from emmeter.settings.sections import Search


SATURATED = 2.5  # |y| from which a run determines the side of the line but not the distance
NEAR = 0.7  # |y| up to which a single run locates the crossing: less than 0.3 octaves away at slope 2.5
BESIDE = 1.2  # |y| of an end of a bracket up to which the crossing in the bracket is located
NARROW = 0.5  # octaves of a bracket up to which its middle is good enough
CLEAR = 1.0  # |y| from which a run is clearly on its side of the line
FEWEST_AT_END = 2  # fresh runs that confirm a bound, unless half of search.confirm is more
JUMP = 1.5  # octaves to the next size while every run is saturated
REACH = 2.0  # largest number of octaves to the next size
PRIOR = 0.2  # weight of search.slope relative to the slope of the runs, as a sum of squares in x
Status = Literal["open"] | Answer


@dataclass(frozen=True)
class Trail:
    """The state of a search.

    Attributes:
        locate: the locating runs in the order in which the search asked for them; all runs of rule grid.
        confirm: the fresh runs of the estimate, from the last confirming round; an abandoned round counts as locating.
        missing: the runs that the search has asked for and that have no count yet; empty if it is finished.
        status: "open", or the outcome.  The ratio crosses the line on the ladder ("crossing"), stays "above" or "below"
            it throughout, or the search ended before it came near the line ("undetermined").
    """

    locate: tuple[RunId, ...]
    confirm: tuple[RunId, ...]
    missing: tuple[RunId, ...]
    status: Status

    @property
    def finished(self) -> bool:
        """Whether no run is missing."""
        return not self.missing

    @property
    def runs(self) -> tuple[RunId, ...]:
        """All runs in the order in which the search asked for them."""
        return self.locate + self.confirm


def repeats(search: "Search") -> bool:
    """Whether a search makes several runs at one size or along a line, from which their scatter can be estimated."""
    return search.replicates > 1 if search.rule == "grid" else search.confirm > 0


def ends(search: "Search", multiple: int, available: int) -> tuple[int, int]:
    """The smallest and the largest admissible size of rule bisection; a ladder exists only if the first is smaller."""
    highest = available if search.n_max is None else min(search.n_max, available)
    return math.ceil(search.n_min / multiple) * multiple, highest // multiple * multiple


def ladder(search: "Search", multiple: int, available: int) -> list[int]:
    """The sizes that a search may ask for, increasing.

    Rule bisection: the powers 2^(i / steps_per_octave), rounded to multiples of `multiple` (the number of
    classes, else class balance would vary along the ladder), between n_min and the smaller of n_max and
    `available` (images in the data set), with the smallest and the largest admissible multiple.  Moving
    n_min or n_max keeps the sizes between them, so runs that exist serve again.  Rule grid: the grid.

    The search must fit the data, as `emmeter.data.feasibility.faults` checks: at least two sizes remain
    (`ends`), and all sizes of a grid are multiples of `multiple` and at most `available`.
    """
    if search.rule == "grid":
        return list(search.grid)
    lowest, highest = ends(search, multiple, available)
    steps = range(math.ceil(math.log2(highest) * search.steps_per_octave) + 1)
    rounded = {round(2 ** (i / search.steps_per_octave) / multiple) * multiple for i in steps}
    return sorted({n for n in rounded if lowest < n < highest} | {lowest, highest})


def replay(search: "Search", sizes: Sequence[int], counts: Mapping[RunId, Count]) -> Trail:
    """Follow the search as far as the counts permit.

    Args:
        sizes: the ladder, increasing, at least two sizes (not used by rule grid).
        counts: outcomes so far; those of runs that the search does not ask for are ignored.
    Returns:
        The trail.  Further counts only extend its ``runs``, and the search asks for no run twice.
    """
    if search.rule == "grid":
        return _grid(search, counts)
    located: list[RunId] = []
    while asked := [RunId(n, 0) for n in _locating(search, sizes, located, counts)]:
        located += asked
        if missing := _missing(asked, counts):
            return Trail(tuple(located), (), missing, "open")
    bound = _bound(search, sizes, located, counts)
    if search.confirm == 0 or bound == "undetermined":
        lower, upper = _bracket(_points(search, located, counts))
        crossed = lower is not None and upper is not None
        return Trail(tuple(located), (), (), bound or ("crossing" if crossed else "undetermined"))
    # Each replicate number is used once, so that no two runs of the estimate share their subset or seed.
    fresh = 1
    confirming: list[RunId] = []
    if bound is not None:
        end, sign = (sizes[-1], 1) if bound == "above" else (sizes[0], -1)
        confirming = [RunId(end, fresh + i) for i in range(max(search.confirm // 2, FEWEST_AT_END))]
        fresh += len(confirming)
        if missing := _missing(confirming, counts):
            return Trail(tuple(located), tuple(confirming), missing, "open")
        if sign * _mean([y for _, y in _points(search, confirming, counts)]) >= CLEAR:
            return Trail(tuple(located), tuple(confirming), (), bound)
    for first in (fresh, fresh + search.confirm):
        located += confirming  # empty at first, then the abandoned round
        fresh_sizes = _confirming_sizes(search, sizes, _points(search, located, counts))
        confirming = [RunId(fresh_sizes[i % len(fresh_sizes)], first + i) for i in range(search.confirm)]
        if missing := _missing(confirming, counts):
            return Trail(tuple(located), tuple(confirming), missing, "open")
        pair = min(fresh_sizes), max(fresh_sizes)
        means = [_mean([y for x, y in _points(search, confirming, counts) if x == math.log2(n)]) for n in pair]
        if min(means) < CLEAR and max(means) > -CLEAR:
            break  # the line is between or near the two sizes
        if means[0] > 0 and pair[1] == sizes[-1]:
            return Trail(tuple(located), tuple(confirming), (), "above")
        if means[0] < 0 and pair[0] == sizes[0]:
            return Trail(tuple(located), tuple(confirming), (), "below")
    return Trail(tuple(located), tuple(confirming), (), "crossing")


def reached(search: "Search", counts: Mapping[RunId, Count]) -> list[bool]:
    """For each size of rule grid, whether the mean ratio over the replicates is at least 1 - epsilon."""
    ratios = [_mean([counts[RunId(n, r)].ratio for r in range(search.replicates)]) for n in search.grid]
    return [ratio >= 1 - search.epsilon - 1e-9 for ratio in ratios]  # rounding errors of the mean must not matter


def _grid(search: "Search", counts: Mapping[RunId, Count]) -> Trail:
    runs = tuple(RunId(n, replicate) for n in search.grid for replicate in range(search.replicates))
    if missing := _missing(runs, counts):
        return Trail(runs, (), missing, "open")
    reach = reached(search, counts)
    return Trail(runs, (), (), "above" if reach[-1] else "crossing" if any(reach) else "below")


def _locating(
    search: "Search", sizes: Sequence[int], located: Sequence[RunId], counts: Mapping[RunId, Count]
) -> list[int]:
    """The sizes of the next locating round; empty if the crossing is located, a bound reached or the budget spent."""
    wanted = min(search.parallel, search.locate - len(located))
    if not located:
        start = math.log2(search.start)
        return _nearest(sizes, [start + i - (wanted - 1) / 2 for i in range(wanted)])
    points = _points(search, located, counts)
    lower, upper = _bracket(points)
    if search.confirm and _is_located(points, lower, upper):
        return []
    allowed = [n for n in sizes if (lower is None or math.log2(n) > lower) and (upper is None or math.log2(n) < upper)]
    centre, _ = _fit(search, points)
    if lower is not None and upper is not None:
        section = [lower + (upper - lower) * (i + 1) / (wanted + 1) for i in range(wanted)]
        return _nearest(allowed, [centre] if wanted == 1 else section)
    edge, sign = (lower, 1) if lower is not None else (upper, -1)
    assert edge is not None  # at least one run is on one side of the line
    # Doubling the least step follows a curve that is flat near the line within the budget.
    least = min(REACH, 2.0 ** (len(located) - 3))
    informative = any(abs(y) < SATURATED for _, y in points)
    step = min(max(sign * (centre - edge), least), REACH) if informative else JUMP
    return _nearest(allowed, [edge + sign * (step + i) for i in range(wanted)])


def _is_located(points: Sequence[tuple[float, float]], lower: float | None, upper: float | None) -> bool:
    """Whether the crossing is determined well enough to choose the sizes of the confirming runs."""
    if min(abs(y) for _, y in points) <= NEAR:
        return True
    if lower is None or upper is None:
        return False
    return upper - lower <= NARROW or min(abs(y) for x, y in points if x in (lower, upper)) <= BESIDE


def _bound(
    search: "Search", sizes: Sequence[int], located: Sequence[RunId], counts: Mapping[RunId, Count]
) -> Status | None:
    """The side ("above", "below") if the crossing is beyond an end of the ladder as far as locating runs show.

    "undetermined" if they never came near the line; None if fresh runs can confirm a crossing.
    """
    points = _points(search, located, counts)
    lower, upper = _bracket(points)
    if lower is not None and upper is not None:
        return None
    sign, last, status = (1, sizes[-1], "above") if upper is None else (-1, sizes[0], "below")
    at_last = [counts[run] for run in located if run.n == last]
    if at_last:
        y = sign * (at_last[0].logit - logit(1 - search.epsilon))
        agree = all(sign * other > -CLEAR for _, other in points)
        clear = agree and y >= CLEAR and y >= 2 * math.sqrt(at_last[0].variance)
        return status if clear or search.confirm == 0 else None
    return None if any(abs(y) < SATURATED for _, y in points) else "undetermined"


def _confirming_sizes(search: "Search", sizes: Sequence[int], points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """The sizes of the confirming runs in turn: two around the crossing, then twice the nearest size between them.

    For four runs the outer sizes are `search.spread` logits from the crossing, as far as the ladder permits.  For more
    runs they are nearer, by the root of the number of runs, and determine the slope equally well.  The size between
    determines the crossing even if the curve is not straight; a coarse ladder has none.
    """
    centre, slope = _fit(search, points)
    first, last = math.log2(sizes[0]), math.log2(sizes[-1])
    delta = min(search.spread * math.sqrt(4 / search.confirm) / slope, (last - first) / 2)
    centre = min(max(centre, first + delta), last - delta)
    index, other = (sizes.index(_nearest(sizes, [centre + d])[0]) for d in (-delta, delta))
    if index == other:  # a coarse ladder: take the neighbour beyond the crossing
        index -= 1 if index and (centre < math.log2(sizes[index]) or index == len(sizes) - 1) else 0
        other = index + 1
    between = _nearest(sizes[index + 1 : other], [centre]) * 2
    return sizes[index], sizes[other], *between


def _fit(search: "Search", points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The crossing (x, within the bracket if there is one) and the slope there (logits per octave, positive).

    They are those of a line through the runs that are not saturated.  Its slope is drawn towards search.slope and kept
    within a factor of two of it, because runs at neighbouring sizes determine it poorly.  A saturated run is included
    if the fitted line predicts a |y| below `SATURATED` for it.  If all runs are saturated, the crossing is the middle
    of the bracket.
    """
    lower, upper = _bracket(points)
    low, high = (-math.inf if lower is None else lower), (math.inf if upper is None else upper)
    used = [(x, y) for x, y in points if abs(y) < SATURATED]
    if not used:
        return (low + high) / 2, search.slope
    centre, slope = math.nan, search.slope
    for _ in range(2):
        x_mean, y_mean = _mean([x for x, _ in used]), _mean([y for _, y in used])
        sxx = sum((x - x_mean) ** 2 for x, _ in used)
        fall = -sum((x - x_mean) * (y - y_mean) for x, y in used)
        slope = min(max((PRIOR * search.slope + fall) / (PRIOR + sxx), search.slope / 2), search.slope * 2)
        centre = x_mean + y_mean / slope
        used = [(x, y) for x, y in points if abs(y) < SATURATED or slope * (centre - x) / y < 1]
    return min(max(centre, low), high), slope


def _bracket(points: Sequence[tuple[float, float]]) -> tuple[float | None, float | None]:
    """The neighbouring sizes (x) between which y changes its sign; None on a side that no run has reached.

    Noise may make y change its sign several times.  The passage with the least sum of |y| on the wrong side is taken,
    so that y >= 0 at the size just below it and y < 0 just above it.
    """
    xs = sorted({x for x, _ in points})
    wrong = [sum(max(-y, 0) for x, y in points if x in xs[:i]) + sum(max(y, 0) for x, y in points if x in xs[i:])
             for i in range(len(xs) + 1)]  # fmt: skip
    i = min(range(len(wrong)), key=wrong.__getitem__)
    return (xs[i - 1] if i else None), (xs[i] if i < len(xs) else None)


def _points(search: "Search", runs: Sequence[RunId], counts: Mapping[RunId, Count]) -> list[tuple[float, float]]:
    line = logit(1 - search.epsilon)
    return [(math.log2(r.n), min(max(counts[r].logit - line, -SATURATED), SATURATED)) for r in runs]


def _missing(runs: Sequence[RunId], counts: Mapping[RunId, Count]) -> tuple[RunId, ...]:
    return tuple(run for run in runs if run not in counts)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _nearest(sizes: Sequence[int], targets: Sequence[float]) -> list[int]:
    """For each target (x) in turn, the nearest size that is not taken yet, until all are taken."""
    taken: list[int] = []
    for target in targets:
        free = [n for n in sizes if n not in taken]
        if free:
            taken.append(min(free, key=lambda n: abs(math.log2(n) - target)))
    return taken
