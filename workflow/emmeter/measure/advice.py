"""Advice: the setting that would give an arm an EMM with an interval."""

import math

from emmeter.measure.arms import ArmResult
from emmeter.measure.estimate import Estimate


def advice(arm: ArmResult, estimate: Estimate) -> str:
    """One sentence: what would give an arm an EMM with an interval, or why nothing would.

    Args:
        estimate: the arm's estimate.
    Returns:
        An empty text if the arm has an interval.
    """
    sizes, multiple, available = arm.record["sizes"], arm.about["multiple"], arm.about["available"]
    if arm.search.rule == "grid":
        return "rule grid gives brackets, which decide no claim; search.rule: bisection gives intervals."
    if estimate.status == "undetermined":
        return estimate.note
    if estimate.status == "at_least":
        if sizes[-1] < available:
            return f"EMM is at least {estimate.low:.0f}: raise search.n_max (to at most {available})."
        return f"EMM is at least {estimate.low:.0f}, and the data have no larger subset: train less or add images."
    if estimate.status == "below":
        lowest = math.ceil(2 / multiple) * multiple
        if sizes[0] > lowest:
            return f"EMM is below {estimate.high:.0f}: lower search.n_min (to at least {lowest}), or train longer."
        balance = "set data.balanced: false, or " if multiple > 1 else ""
        return f"EMM is below {estimate.high:.0f}, and no smaller subset exists: {balance}train longer."
    return "" if estimate.run_sd is not None else "there is no interval without fresh runs: set search.confirm: 4."
