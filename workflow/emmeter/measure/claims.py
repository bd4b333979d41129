"""Claims about a study, judged from intervals: reproduced, contradicted, or not resolved.

A claim is part of the study's settings (`emmeter.settings.studies.Finding`).  It is reproduced or contradicted only if
the whole 95 % interval shows it.  Everything else is not resolved, with what would decide it.  A claim whose source
used another training budget or other images is not contradicted by our result: it *differs at this scale*.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from emmeter.measure.contrasts import Contrast
from emmeter.measure.onset import Growth
from emmeter.settings.studies import Finding

Verdict = Literal["reproduced", "contradicted", "differs at this scale", "not resolved"]
Side = tuple[str, ...]  # names of the arm, or of the arms whose mean is meant, on one side of a comparison
Compare = Callable[[Side, Side, float], Contrast]  # first side against second, at a confidence
CONFIDENCE = 0.95
POWER = 0.84 / 1.96  # half widths to add to the interval's own for a decision with a chance of 80 %
MOST = 1000  # largest number of further runs per arm that is reported
OWN = "our own"  # source of claims that have no other source


@dataclass(frozen=True)
class Judgement:
    """The verdict on one claim.

    Attributes:
        effect: the ratio of EMMs (first arm over second; along a row of arms, last over first), the ratio of the odds
            of a copy at one size, or the exponent with which the onset grows with N; None if only limits are known.
        low, high: its 95 % interval or its limits; 0 and infinity where there is none.
        paired: whether replicates served as blocks or pairs.
        further: further runs per arm that should decide a claim that is not resolved; None if unknown or above `MOST`.
        note: what is missing, or where a row of arms goes the other way.
    """

    verdict: Verdict
    effect: float | None
    low: float
    high: float
    paired: bool = False
    further: int | None = None
    note: str = ""


def judge_growth(finding: Finding, growth: Growth | None) -> Judgement:
    """Judge a claim that the onset of memorization grows in proportion to N.

    Args:
        growth: the growth of the onset of the claim's arm; None if there are too few onsets.
    """
    if growth is None:
        return Judgement("not resolved", None, 0.0, math.inf, note="Memorization sets in at too few sizes to tell.")
    left_out = f"; {growth.left_out} without an onset are left out" if growth.left_out else ""
    note = f"Exponent of N, {growth.runs} runs{left_out}."
    verdict = _within(growth.low, growth.high, finding.margin)
    return Judgement(verdict, growth.exponent, growth.low, growth.high, note=note)


def judge(finding: Finding, compare: Compare, runs: int, advices: Mapping[str, str] | None = None) -> Judgement:
    """Judge a claim about ratios: of EMMs, or of the odds of a copy at one size.

    Args:
        compare: contrast of two of the study's arms.
        runs: runs per arm so far on which the comparison rests.
        advices: what would give an EMM to each arm that has none, by the arm's name.
    """
    if finding.expect in ("increasing", "decreasing"):
        judgement = _judge_row(finding, compare, runs)
    else:
        first, second = finding.sides
        contrast = compare(first, second, CONFIDENCE)
        if finding.expect == "same":
            verdict = _within(contrast.low, contrast.high, finding.margin)
            judgement = _judgement(verdict, contrast, runs, finding.margin)
        else:
            judgement = _judgement(_direction(contrast, finding.expect == "more"), contrast, runs)
    if judgement.verdict == "not resolved" and judgement.effect is None:
        lacking = [f"{arm}: {advices[arm]}" for arm in finding.names if advices and arm in advices]
        judgement = replace(judgement, note=" ".join(lacking) or judgement.note)
    return judgement


def _judge_row(finding: Finding, compare: Compare, runs: int) -> Judgement:
    """Judge a row of arms: the last must differ from the first as claimed, and no neighbours the other way.

    Each of k steps may contradict by chance.  Each is therefore tested at 1 - 0.05/k, the first step of Holm's
    procedure, which suffices to find out whether any step contradicts.
    """
    rises = finding.expect == "increasing"
    sides = finding.sides
    ends = compare(sides[-1], sides[0], CONFIDENCE)
    steps = list(zip(sides[1:], sides[:-1], strict=True))
    confidence = 1 - (1 - CONFIDENCE) / len(steps)
    against = [pair for pair in steps if _direction(compare(*pair, confidence), rises) == "contradicted"]
    verdict = "contradicted" if against else _direction(ends, rises)
    note = f"From {named(against[0][1])} to {named(against[0][0])} it goes the other way." if against else ""
    return _judgement(verdict, ends, runs, note=note)


def named(side: Side) -> str:
    """A side in words: the arm, or "mean of a, b and c"."""
    return side[0] if len(side) == 1 else f"mean of {', '.join(side[:-1])} and {side[-1]}"


def judge_forecast(finding: Finding, contrast: Contrast) -> Judgement:
    """Judge a claim that the law of the budget forecasts EMM of the last arm from the others.

    Args:
        contrast: measured over forecast EMM.
    """
    if contrast.ratio is None:
        return Judgement("not resolved", None, contrast.low, contrast.high, note=contrast.note)
    verdict = _within(contrast.low, contrast.high, finding.margin)
    return Judgement(verdict, contrast.ratio, contrast.low, contrast.high, note=contrast.note)


def _judgement(verdict: Verdict, contrast: Contrast, runs: int, margin: float = 1.0, note: str = "") -> Judgement:
    further = None
    if verdict == "not resolved":
        further = _further(contrast, runs, margin)
        note = contrast.note or note
        if further is None and contrast.ratio is not None and runs:
            edge = f"the margin of {margin:g}" if margin > 1 else "1"
            note = f"The ratio lies too near to {edge}: more than {MOST} further runs per arm would be needed."
    return Judgement(verdict, contrast.ratio, contrast.low, contrast.high, contrast.paired, further, note)


def _direction(contrast: Contrast, more: bool) -> Verdict:
    above, below = contrast.low > 1, contrast.high < 1
    if contrast.ratio is None:  # limits that meet, such as >= 640 and < 640, leave one order only
        above, below = contrast.low >= 1 and contrast.high > 1, contrast.high <= 1 and contrast.low < 1
    if not above and not below:
        return "not resolved"
    return "reproduced" if above == more else "contradicted"


def _within(low: float, high: float, margin: float) -> Verdict:
    if 1 / margin < low and high < margin:
        return "reproduced"
    return "contradicted" if low > margin or high < 1 / margin else "not resolved"


def _further(contrast: Contrast, runs: int, margin: float) -> int | None:
    """Further runs per arm after which the interval, narrowing as 1/sqrt(runs), decides with a chance of 80 %."""
    if contrast.ratio is None or not 0 < contrast.low < contrast.high < math.inf or not runs:
        return None
    half = math.log2(contrast.high / contrast.low) / 2
    gap = abs(abs(math.log2(contrast.ratio)) - math.log2(margin))
    if gap == 0 or (needed := math.ceil(runs * (half * (1 + POWER) / gap) ** 2)) - runs > MOST:
        return None
    return max(needed - runs, 1)


def worded(verdict: Verdict, source: str, as_published: bool) -> Verdict:
    """The verdict as it is reported: `contradicted` becomes `differs at this scale` if the scales differ.

    Args:
        source: the source of the claim; our own claims can be contradicted at any scale.
        as_published: whether images and budget are those of the published studies.
    """
    if verdict == "contradicted" and source not in ("", OWN) and not as_published:
        return "differs at this scale"
    return verdict
