"""The rows of shape.csv: our results beside the published ones, at whatever scale.

A row compares one *quantity* of one or two arms: "emm", "emm_ratio", "odds_ratio", or "percent" (the share of copies).
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from emmeter.files.tables import SHAPE_COLUMNS
from emmeter.measure import shape
from emmeter.measure.arms import ArmResult
from emmeter.measure.claims import CONFIDENCE, Compare
from emmeter.measure.comparison import compare_emms, compare_odds
from emmeter.measure.contrasts import Confirmed, Contrast, at_size, confirmed
from emmeter.measure.estimate import Estimate
from emmeter.measure.scatter import Prior
from emmeter.measure.shape import Point, Share
from emmeter.settings.published import Number

Row = dict[str, Any]


def shape_rows(
    study: str, arms: Sequence[ArmResult], prior: Prior | None, published: Mapping[str, Sequence[Number]]
) -> list[Row]:
    """Rows of shape.csv for one study.

    A study of ours at one size (a grid of one) is compared by the odds of a copy, any other by EMM.

    Args:
        study: its name.
        arms: all its arms, in order; those without published numbers help to estimate the scatter of runs.
        published: the published numbers by arm, as `emmeter.settings.published.counterparts` gives them.
    """
    compared = [arm for arm in arms if arm.name in published]
    figures = {
        name: "; ".join(dict.fromkeys(number.figure for number in numbers)) for name, numbers in published.items()
    }
    curves = {
        name: [Point(number.n, number.percent / 100, number.error / 100 + shape.RUN_NOISE) for number in numbers]
        for name, numbers in published.items()
    }
    size = _one_size(compared)
    if size is None:
        rows = _emm_rows(compared, prior, curves, compare_emms(arms, prior))
    else:
        rows = _odds_rows(compared, prior, curves, compare_odds(arms, prior, size), size)
    blank = dict.fromkeys(SHAPE_COLUMNS) | {"against": "", "extrapolated": "", "order": "", "note": ""}
    return [blank | {"study": study, "figure": figures[row["arm"]]} | row for row in rows]


def _one_size(arms: Sequence[ArmResult]) -> int | None:
    """The only size at which all these arms have runs; None if they have runs at several."""
    grids = {tuple(arm.search.grid) if arm.search.rule == "grid" else () for arm in arms}
    (grid, *others) = grids
    return grid[0] if not others and len(grid) == 1 else None


def _emm_rows(
    arms: Sequence[ArmResult], prior: Prior | None, curves: Mapping[str, Sequence[Point]], compare: Compare
) -> list[Row]:
    """EMM of each arm, ratios of all pairs of arms, and the share of copies at multiples of the first arm's EMM."""
    theirs = {arm.name: shape.emm(curves[arm.name], 1 - arm.search.epsilon) for arm in arms}
    ours = {arm.name: arm.estimate(prior) for arm in arms}
    rows = [
        {"quantity": "emm", "arm": arm.name}
        | _columns("published", theirs[arm.name].emm, theirs[arm.name].low, theirs[arm.name].high)
        | _columns("ours", ours[arm.name].emm, ours[arm.name].low, ours[arm.name].high)
        | {"note": ours[arm.name].note}
        for arm in arms
    ]
    ratios = {
        (arm.name, against.name): shape.ratio(theirs[arm.name], theirs[against.name])
        for against, arm in itertools.combinations(arms, 2)
    }
    rows += _pair_rows("emm_ratio", ratios, compare)
    baseline = arms[0].name
    lines = {arm.name: confirmed(arm.trail, arm.counts, ours[arm.name], arm.variance(prior)) for arm in arms}
    if (unit := theirs[baseline].emm) is not None:
        for arm in arms:
            for point in curves[arm.name]:
                position = point.n / unit
                share, note = _matched(position, lines[arm.name], lines[baseline], ours[baseline])
                row = {"quantity": "percent", "arm": arm.name, "against": baseline, "position": position}
                size = ours[baseline].emm
                rows.append(row | {"n": size and position * size, "note": note} | _percents(point, share))
    return rows


def _matched(
    position: float, arm: Confirmed | None, baseline: Confirmed | None, unit: Estimate
) -> tuple[Share | None, str]:
    """The share of copies of an arm at a multiple of the first arm's EMM, or the reason why there is none."""
    if baseline is None or baseline.crossing is None:
        return None, "The first arm has no EMM with an interval."
    if arm is None or arm.line.slope >= 0:
        return None, "No falling line through confirming runs."
    share = shape.share_at(math.log2(position), arm, baseline, CONFIDENCE)
    if share.beyond > shape.FARTHEST:
        return None, f"The size is {share.beyond:.1f} octaves outside the confirming sizes."
    return share, ""


def _odds_rows(
    arms: Sequence[ArmResult], prior: Prior | None, curves: Mapping[str, Sequence[Point]], compare: Compare, size: int
) -> list[Row]:
    """The share of copies of each arm at one size, and ratios of the odds of all pairs of arms."""
    frequent = Counter(point.n for arm in arms for point in curves[arm.name])
    published_n = min(frequent, key=lambda n: (-frequent[n], n))
    points = {arm.name: point for arm in arms for point in curves[arm.name] if point.n == published_n}
    rows: list[Row] = []
    for arm in (arm for arm in arms if arm.name in points):
        variance = arm.variance(prior)
        share = None if variance is None else shape.mean_share(at_size(size, arm.trail.runs, arm.counts, variance))
        row = {"quantity": "percent", "arm": arm.name, "n": float(size)}
        rows.append(row | _percents(points[arm.name], share))
    ratios = {
        (arm, against): shape.odds_ratio(points[arm], points[against])
        for against, arm in itertools.combinations(points, 2)
    }
    sizes = {"published_n": published_n, "n": float(size)}
    return rows + [row | sizes for row in _pair_rows("odds_ratio", ratios, compare)]


def _pair_rows(quantity: str, published: Mapping[tuple[str, str], Contrast], compare: Compare) -> list[Row]:
    """One row per pair of arms, which is the ratio of the later arm to the earlier one."""
    rows = []
    for (arm, against), theirs in published.items():
        if theirs.low == 0 and math.isinf(theirs.high):
            continue  # the published numbers do not compare these arms
        ours = compare((arm,), (against,), CONFIDENCE)
        rows.append(
            {"quantity": quantity, "arm": arm, "against": against, "order": shape.order(theirs, ours)}
            | _columns("published", theirs.ratio, theirs.low, theirs.high)
            | _columns("ours", ours.ratio, ours.low, ours.high)
            | {"note": ours.note}
        )
    return rows


def _percents(point: Point, share: Share | None) -> Row:
    row: Row = {"published_n": point.n} | _hundredfold("published", point)
    return row if share is None else row | _hundredfold("ours", share) | {"extrapolated": share.beyond > 0}


def _hundredfold(side: str, share: Point | Share) -> Row:
    return {side: 100 * share.ratio, f"{side}_low": 100 * share.low, f"{side}_high": 100 * share.high}


def _columns(side: str, value: float | None, low: float | None, high: float | None) -> Row:
    """The three columns of one side, with empty cells (None) in place of limits that are none."""
    unlimited = high is not None and math.isinf(high)
    return {side: value, f"{side}_low": low or None, f"{side}_high": None if unlimited else high}
