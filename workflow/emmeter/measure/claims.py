"""Claims about a study, judged from intervals: reproduced, contradicted, or not resolved.

A claim is data of the study (`settings.studies.Finding`).  It is reproduced or contradicted only where the whole 95 %
interval says so; everything else is not resolved, with what would decide it.  A claim of a source that was made under
another training budget or on other images is not contradicted by ours: it *differs at this scale*.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from emmeter.measure.contrasts import Contrast
from emmeter.measure.onset import Growth
from emmeter.settings.studies import Finding

Verdict = Literal["reproduced", "contradicted", "differs at this scale", "not resolved"]
Compare = Callable[[str, str, float], Contrast]  # first arm against second, at a confidence
CONFIDENCE = 0.95
POWER = 0.84 / 1.96  # standard errors beyond the interval's own at which a study decides with a chance of 80 %
MOST = 1000  # further runs from which the number is not worth telling
OWN = "our own"  # the source of claims that nobody else has made


@dataclass(frozen=True)
class Judgement:
    """The verdict on one claim.

    ``effect`` is the ratio of EMMs (first arm over second, last over first along a row of arms), or of the odds of a
    copy at one size, or the exponent of the onset's growth with N, with its interval ``low`` to ``high`` (0 and
    infinity: no bound).  ``further``: confirming runs per arm.
    """

    verdict: Verdict
    effect: float | None
    low: float
    high: float
    paired: bool = False
    further: int | None = None
    note: str = ""


def judge(
    finding: Finding,
    compare: Compare,
    runs: int,
    growth: Growth | None = None,
    missing: Mapping[str, str] | None = None,
) -> Judgement:
    """Judge one claim.

    Args:
        compare: contrast of two of the study's arms, by their names, at a confidence.
        runs: runs of an arm so far that the comparison rests on.
        growth: how the onset of the first arm grows with N, for claims of proportionality.
        missing: of each arm without an EMM what would give it one.
    """
    if finding.expect == "proportional":
        if growth is None:
            return Judgement("not resolved", None, 0.0, math.inf, note="Memorization sets in at too few sizes to tell.")
        inside = _inside(growth.low, growth.high, finding.margin)
        left_out = f"; {growth.left_out} without an onset are left out" if growth.left_out else ""
        note = f"Exponent of N, {growth.runs} runs{left_out}."
        return Judgement(inside, growth.exponent, growth.low, growth.high, note=note)
    if finding.expect in ("increasing", "decreasing"):
        judged = _along(finding, compare, runs)
    else:
        found = compare(finding.arms[0], finding.arms[1], CONFIDENCE)
        if finding.expect == "same":
            judged = _judgement(_inside(found.low, found.high, finding.margin), found, runs, finding.margin)
        else:
            judged = _judgement(_direction(found, finding.expect == "more"), found, runs)
    if judged.verdict == "not resolved" and judged.effect is None:
        wanting = [f"{arm}: {missing[arm]}" for arm in finding.arms if missing and arm in missing]
        judged = replace(judged, note=" ".join(wanting) or judged.note)
    return judged


def _along(finding: Finding, compare: Compare, runs: int) -> Judgement:
    """A row of arms: the last must differ from the first as claimed, and no neighbours the other way.

    Each of k steps may contradict by chance, so that each is tested at 1 - 0.05/k (the first step of Holm's procedure,
    which is all that "any of them" needs).
    """
    rises = finding.expect == "increasing"
    ends = compare(finding.arms[-1], finding.arms[0], CONFIDENCE)
    steps = list(zip(finding.arms[1:], finding.arms[:-1], strict=True))
    confidence = 1 - (1 - CONFIDENCE) / len(steps)
    against = [pair for pair in steps if _direction(compare(*pair, confidence), rises) == "contradicted"]
    verdict = "contradicted" if against else _direction(ends, rises)
    note = f"From {against[0][1]} to {against[0][0]} it goes the other way." if against else ""
    return _judgement(verdict, ends, runs, note=note)


def _judgement(verdict: Verdict, found: Contrast, runs: int, margin: float = 1.0, note: str = "") -> Judgement:
    further = None
    if verdict == "not resolved":
        further = _further(found, runs, margin)
        note = found.note or note
        if further is None and found.ratio is not None and runs:
            edge = f"on the margin of {margin:g}" if margin > 1 else "at 1"
            note = f"The ratio lies too near to {edge}: more than {MOST} further runs per arm would be needed."
    return Judgement(verdict, found.ratio, found.low, found.high, found.paired, further, note)


def _direction(found: Contrast, more: bool) -> Verdict:
    above, below = found.low > 1, found.high < 1
    if found.ratio is None:  # limits that meet, such as >= 640 and < 640, leave one order only
        above, below = found.low >= 1 and found.high > 1, found.high <= 1 and found.low < 1
    if not above and not below:
        return "not resolved"
    return "reproduced" if above == more else "contradicted"


def _inside(low: float, high: float, margin: float) -> Verdict:
    if 1 / margin < low and high < margin:
        return "reproduced"
    return "contradicted" if low > margin or high < 1 / margin else "not resolved"


def _further(found: Contrast, runs: int, margin: float) -> int | None:
    """Further runs per arm after which the interval, narrowing as 1/sqrt(runs), decides with a chance of 80 %."""
    if found.ratio is None or not 0 < found.low < found.high < math.inf or not runs:
        return None
    half = math.log2(found.high / found.low) / 2
    gap = abs(abs(math.log2(found.ratio)) - math.log2(margin))
    if gap == 0 or (needed := math.ceil(runs * (half * (1 + POWER) / gap) ** 2)) - runs > MOST:
        return None
    return max(needed - runs, 1)


def worded(verdict: Verdict, source: str, as_published: bool) -> Verdict:
    """`contradicted` only where the claim was made under our budget and on our images, or is our own."""
    if verdict == "contradicted" and source not in ("", OWN) and not as_published:
        return "differs at this scale"
    return verdict
