"""Sentences about a study's results: the title of its figure and the headline of its part of the page."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emmeter.presentation.tables import answer

if TYPE_CHECKING:
    from pandas import DataFrame

Row = Mapping[str, Any]
BOUNDS = {"≥": "at least", "<": "below"}


def finding(emm: "DataFrame", contrasts: "DataFrame", curves: "DataFrame") -> str:
    """State the result of a study in a sentence without a full stop, such as "EMM rises from 17 (none) to 38 (unique)".

    The contrasts decide: an arm counts as higher or lower only if the interval of its ratio to the first arm excludes
    1.  A study at one size is stated by its shares of copies.

    Args:
        emm: emm.csv of the study.
        contrasts: contrasts.csv of the study; it may be empty.
        curves: curves.csv of the study.
    """
    arms = {row["arm"]: row for row in emm.to_dict("records")}
    if len(set(curves["n"])) == 1:
        return share_finding(curves, [str(arm) for arm in arms])
    first, *others = arms.values()
    if not others:
        text = told(first)
        return f"EMM is {text} training images" if first["status"] != "undetermined" else "EMM is not determined"
    sides = {row["arm"]: side(row) for row in contrasts.to_dict("records")}
    higher, lower = ([arms[name] for name, where in sides.items() if where == way] for way in (1, -1))
    top, bottom = max(higher, key=size, default=None), min(lower, key=size, default=None)
    if top is not None and bottom is not None:
        return f"EMM ranges from {named(bottom)} to {named(top)}, with {named(first)}"
    if top is not None:
        return f"EMM rises from {named(first)} to {named(top)}"
    if bottom is not None:
        return f"EMM falls from {named(first)} to {named(bottom)}"
    known = [row for row in arms.values() if row["status"] != "undetermined"]
    if not known:
        return "EMM is not determined"
    if first["status"] == "undetermined":
        return f"EMM of {first['arm']} is not determined; the others are not compared with it"
    if first["status"] == "estimated":
        return f"No arm differs clearly from {named(first)}"
    return f"EMM of {first['arm']} is {told(first)}; no arm differs clearly"


def share_finding(curves: "DataFrame", arms: Sequence[str]) -> str:
    """State the shares of copies of a study at one size: the range over its arms."""
    last = curves.loc[curves.groupby(["arm", "replicate"], sort=False)["progress"].idxmax()]
    sums = last.groupby("arm")[["memorized", "images"]].sum()
    share = {arm: sums.loc[arm, "memorized"] / sums.loc[arm, "images"] for arm in arms if arm in sums.index}
    low, high = min(share, key=lambda arm: share[arm]), max(share, key=lambda arm: share[arm])
    n = f"{last['n'].iloc[0]:,.0f}"
    if percent(share[low]) == percent(share[high]):
        return (
            f"At N = {n}, {percent(share[low])} of the generated images are copies{' in every arm' * (len(share) > 1)}"
        )
    return f"At N = {n}, copies range from {percent(share[low])} ({low}) to {percent(share[high])} ({high})"


def side(contrast: Row) -> int:
    """1 if an arm's EMM is clearly above that of the first arm, -1 if clearly below, 0 if neither is certain."""
    return int(contrast["ratio_low"] > 1) - int(contrast["ratio_high"] < 1)


def size(arm: Row) -> float:
    """EMM of an arm, or its bound; 0 without either."""
    return next((arm[end] for end in ("emm", "emm_low", "emm_high") if not math.isnan(arm[end])), 0.0)


def named(arm: Row) -> str:
    """EMM of an arm with its name, such as "17 (unconditional)"."""
    return f"{told(arm)} ({arm['arm']})"


def told(arm: Row) -> str:
    """EMM of an arm in words: "17", "at least 640", "below 10" or "not determined"."""
    text = answer(arm)[0]
    sign, _, rest = text.partition(" ")
    return f"{BOUNDS[sign]} {rest}" if sign in BOUNDS else text


def percent(share: float) -> str:
    """A share 0..1 as per cent, with a decimal where it is within one per cent of 0 or 1 but not equal."""
    close = 0 < min(share, 1 - share) < 0.01
    return f"{100 * share:.1f} %" if close else f"{100 * share:.0f} %"
