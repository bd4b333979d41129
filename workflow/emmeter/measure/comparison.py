"""Comparisons between the arms of one study, by their names."""

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

from emmeter.measure.arms import ArmResult
from emmeter.measure.claims import Compare, Side
from emmeter.measure.contrasts import AtSize, Confirmed, Contrast, at_size, compare, compare_at, confirmed
from emmeter.measure.estimate import Estimate
from emmeter.measure.scatter import Prior


def compare_emms(arms: Sequence[ArmResult], prior: Prior | None) -> Compare:
    """A function that gives the ratio of two EMMs, with the confirming runs of all arms as blocks.

    A side may be several arms; its EMM is then their geometric mean.
    """

    @functools.cache
    def estimates(confidence: float) -> dict[str, tuple[Estimate, Confirmed | None]]:
        result = {}
        for arm in arms:
            estimate = arm.estimate(prior, confidence=confidence)
            result[arm.name] = estimate, confirmed(arm.trail, arm.counts, estimate, arm.variance(prior))
        return result

    def ratio(first: Side, second: Side, confidence: float) -> Contrast:
        study = estimates(confidence)
        blocks = [runs for _, runs in study.values()]
        return compare([study[arm] for arm in first], [study[arm] for arm in second], blocks, confidence)

    return ratio


def compare_odds(arms: Sequence[ArmResult], prior: Prior | None, n: int) -> Compare:
    """A function that gives the ratio of two arms' odds of a copy at `n` training images; each side is one arm."""
    by_name = {arm.name: arm for arm in arms}

    def ratio(first: Side, second: Side, confidence: float) -> Contrast:
        sides: list[AtSize] = []
        for arm in (by_name[name] for name in (*first, *second)):
            variance = arm.variance(prior)
            if variance is None:
                note = "Nothing tells how much runs scatter: set search.replicates to at least 2."
                return Contrast(None, 0.0, math.inf, note=note)
            sides.append(at_size(n, arm.trail.runs, arm.counts, variance))
        contrast = compare_at(sides[0], sides[1], confidence)
        without = [name for name, side in zip((*first, *second), sides, strict=True) if side.limit]
        note = f"No run of {' and '.join(without)} on {n} images: put {n} into search.grid, or move `at`."
        return replace(contrast, note=note) if without else contrast

    return ratio
