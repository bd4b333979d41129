"""Sentences about a study: what the contrasts decide, bounds, one size."""

from typing import Any

import pytest

from emmeter.files.tables import CONTRAST_COLUMNS, CURVE_COLUMNS, EMM_COLUMNS, frame
from emmeter.presentation import sentences


def arm(name: str, emm: float | None, status: str = "estimated", **ends: float) -> dict[str, Any]:
    limits = {"emm_low": emm and emm * 0.9, "emm_high": emm and emm * 1.1} | ends
    return dict.fromkeys(EMM_COLUMNS) | {"arm": name, "emm": emm, "status": status} | limits


def contrast(name: str, low: float | None, high: float | None) -> dict[str, Any]:
    return dict.fromkeys(CONTRAST_COLUMNS) | {"arm": name, "baseline": "base", "ratio_low": low, "ratio_high": high}


def run(name: str, n: int, copies: int, images: int = 100) -> dict[str, Any]:
    counts = {"memorized": copies, "images": images, "ratio": copies / images}
    return dict.fromkeys(CURVE_COLUMNS) | {"arm": name, "n": n, "replicate": 0, "progress": 1.0} | counts


def told(arms: list[dict[str, Any]], contrasts: list[dict[str, Any]]) -> str:
    curves = [run(row["arm"], n, 50) for row in arms for n in (10, 20)]
    return sentences.finding(frame(arms, EMM_COLUMNS), frame(contrasts, CONTRAST_COLUMNS), frame(curves, CURVE_COLUMNS))


BASE, HIGH, LOW = arm("base", 20), arm("high", 40), arm("low", 10)


@pytest.mark.parametrize(
    ("arms", "contrasts", "expected"),
    [
        ([BASE, HIGH], [contrast("high", 1.5, 2.5)], "EMM rises from 20 (base) to 40 (high)"),
        ([BASE, LOW], [contrast("low", 0.3, 0.8)], "EMM falls from 20 (base) to 10 (low)"),
        (
            [BASE, HIGH, LOW],
            [contrast("high", 1.5, 2.5), contrast("low", 0.3, 0.8)],
            "EMM ranges from 10 (low) to 40 (high), with 20 (base)",
        ),
        ([BASE, HIGH], [contrast("high", 0.9, 2.5)], "No arm differs clearly from 20 (base)"),
        ([BASE, HIGH], [contrast("high", None, None)], "No arm differs clearly from 20 (base)"),
        (
            [BASE, arm("open", None, "at_least", emm_low=640)],
            [contrast("open", 30.0, None)],
            "EMM rises from 20 (base) to at least 640 (open)",
        ),
        (
            [BASE, arm("none", None, "below", emm_high=5)],
            [contrast("none", None, 0.25)],
            "EMM falls from 20 (base) to below 5.0 (none)",
        ),
        (
            [arm("base", None, "below", emm_high=12), LOW],
            [contrast("low", None, None)],
            "EMM of base is below 12; no arm differs clearly",
        ),
        ([BASE], [], "EMM is 20 training images"),
        ([arm("base", None, "undetermined")], [], "EMM is not determined"),
        ([arm("base", None, "undetermined"), arm("x", None, "undetermined")], [], "EMM is not determined"),
        ([arm("base", None, "undetermined"), HIGH], [], "EMM of base is not determined"),
    ],
)  # fmt: skip
def test_contrasts_decide_what_is_said(arms, contrasts, expected):
    assert told(arms, contrasts).startswith(expected)


def test_the_highest_of_the_clear_arms_is_named_not_the_highest_of_all():
    arms = [BASE, HIGH, arm("wide", 60)]
    assert told(arms, [contrast("high", 1.5, 2.5), contrast("wide", 0.8, 9.0)]).endswith("to 40 (high)")


def test_a_study_at_one_size_is_stated_by_its_shares():
    arms = [arm(name, None, "undetermined") for name in ("all", "none")]
    curves = [run("all", 60, 399, 400), run("none", 60, 0)]
    text = sentences.finding(frame(arms, EMM_COLUMNS), frame([], CONTRAST_COLUMNS), frame(curves, CURVE_COLUMNS))
    assert text == "At N = 60, copies range from 0 % (none) to 99.8 % (all)"


def test_equal_shares_are_stated_once():
    arms, curves = [BASE, HIGH], [run(name, 60, 0) for name in ("base", "high")]
    text = sentences.finding(frame(arms, EMM_COLUMNS), frame([], CONTRAST_COLUMNS), frame(curves, CURVE_COLUMNS))
    assert text == "At N = 60, 0 % of the generated images are copies in every arm"


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (1, "100 %"), (0.004, "0.4 %"), (0.996, "99.6 %"), (0.5, "50 %")]
)
def test_shares_near_the_ends_are_not_rounded_to_them(share, text):
    assert sentences.percent(share) == text
