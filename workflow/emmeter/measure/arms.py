"""An arm with its finished search: its estimate, its comparison with other arms, and what it lacks."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from emmeter.measure import claims, scatter
from emmeter.measure.contrasts import Contrast, at_size, compare, compare_at, confirmed
from emmeter.measure.estimate import Estimate, estimate
from emmeter.measure.outcome import Count, RunId, count
from emmeter.measure.results import FinishedSearch
from emmeter.measure.scatter import Prior, RunVariance
from emmeter.measure.search import Trail
from emmeter.settings.sections import Search
from emmeter.settings.types import Span


def counts_of(record: FinishedSearch) -> dict[RunId, Count]:
    """The counts of a record, as the search saw them."""
    return {RunId(run["n"], run["replicate"]): Count(run["memorized"], run["images"]) for run in record["runs"]}


def trail_of(record: FinishedSearch) -> Trail:
    """The finished search of a record."""

    def ids(*roles: str) -> tuple[RunId, ...]:
        return tuple(RunId(run["n"], run["replicate"]) for run in record["runs"] if run["role"] in roles)

    return Trail(locate=ids("locate", "grid"), confirm=ids("confirm"), missing=(), status=record["status"])


def best_counts(record: FinishedSearch) -> dict[RunId, Count]:
    """Counts under the paper's rule: each run's highest ratio over its snapshots."""
    return {RunId(run["n"], run["replicate"]): count(run, "best") for run in record["runs"]}


@dataclass(frozen=True)
class ArmResult:
    """An arm with its record and its finished search.  `about`: what `description` tells of it."""

    name: str
    about: Mapping[str, Any]
    search: Search
    record: FinishedSearch
    trail: Trail

    def variance(self, counts: Mapping[RunId, Count], prior: Prior | None) -> RunVariance | None:
        return scatter.moderated(scatter.own(self.trail, counts), prior)

    def estimate(self, counts: Mapping[RunId, Count], prior: Prior | None, confidence: float = 0.95) -> Estimate:
        sizes = self.record["sizes"]
        return estimate(self.search, self.trail, counts, sizes, self.variance(counts, prior), confidence)


def prior_of(arms: Sequence[ArmResult]) -> Prior | None:
    """What the arms of one study tell of the scatter of runs, where nothing is known of other studies."""
    return scatter.fit(scatter.distinct((arm.about["key"], arm.trail, counts_of(arm.record)) for arm in arms))


def epochs(budget: str, n: float | None) -> float | None:
    """Passes over `n` training images that a budget such as "16000 images" allows; None where one is not known."""
    if not budget or n is None:
        return None
    return Span.parse(budget).images(1) / (n if Span.parse(budget).unit == "images" else 1)


def comparison(arms: Sequence[ArmResult], prior: Prior | None, at: int | None = None) -> claims.Compare:
    """Contrasts of the arms by their names: ratios of EMMs, or with `at` odds of a copy at so many training images."""
    by_name = {arm.name: arm for arm in arms}
    counts = {arm.name: counts_of(arm.record) for arm in arms}

    @functools.cache
    def known(confidence: float) -> dict[str, tuple[Estimate, Any]]:
        result = {}
        for arm in arms:
            found = arm.estimate(counts[arm.name], prior, confidence)
            variance = arm.variance(counts[arm.name], prior)
            result[arm.name] = found, confirmed(arm.trail, counts[arm.name], found, variance)
        return result

    def of_emm(first: str, second: str, confidence: float) -> Contrast:
        estimates = known(confidence)
        return compare(estimates[first], estimates[second], [runs for _, runs in estimates.values()], confidence)

    def of_size(first: str, second: str, confidence: float) -> Contrast:
        assert at is not None
        known = []
        for name in (first, second):
            variance = by_name[name].variance(counts[name], prior)
            if variance is None:
                note = "Nothing tells how much runs scatter: set search.replicates to at least 2."
                return Contrast(None, 0.0, math.inf, note=note)
            known.append(at_size(at, by_name[name].trail.runs, counts[name], variance))
        found = compare_at(known[0], known[1], confidence)
        without = [name for name, runs in zip((first, second), known, strict=True) if runs.limit]
        note = f"No run of {' and '.join(without)} on {at} images: put {at} into search.grid, or move `at`."
        return replace(found, note=note) if without else found

    return of_emm if at is None else of_size


def wanting(arm: ArmResult, found: Estimate) -> str:
    """What would give an arm an EMM with an interval, or why nothing would; empty where it has one."""
    sizes, multiple, available = arm.record["sizes"], arm.about["multiple"], arm.about["available"]
    if arm.search.rule == "grid":
        return "rule grid gives brackets, which decide no claim; search.rule: bisection gives intervals."
    if found.status == "undetermined":
        return found.note
    if found.status == "at_least":
        if sizes[-1] < available:
            return f"EMM is at least {found.low:.0f}: raise search.n_max (to at most {available})."
        return f"EMM is at least {found.low:.0f}, and the data have no larger subset: train less or add images."
    if found.status == "below":
        lowest = math.ceil(2 / multiple) * multiple
        if sizes[0] > lowest:
            return f"EMM is below {found.high:.0f}: lower search.n_min (to at least {lowest}), or train longer."
        balance = "set data.balanced: false, or " if multiple > 1 else ""
        return f"EMM is below {found.high:.0f}, and no smaller subset exists: {balance}train longer."
    return "" if found.run_sd is not None else "there is no interval without fresh runs: set search.confirm: 4."
