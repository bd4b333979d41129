"""The table of EMMs in words."""

import math

import pytest

from emmeter.measure.estimate import Estimate
from emmeter.presentation.tables import answer, brief


@pytest.mark.parametrize(
    ("status", "emm", "low", "high", "expected"),
    [
        ("estimated", 26.7, 20.2, 33.8, ("27", "20 to 34")),
        ("estimated", 4.56, math.nan, math.nan, ("4.6", "none")),
        ("at_least", math.nan, 640.0, math.nan, ("≥ 640", "")),
        ("below", math.nan, math.nan, 10.0, ("< 10", "")),
        ("undetermined", math.nan, math.nan, math.nan, ("not determined", "")),
    ],
)
def test_answer_for_readers(status, emm, low, high, expected):
    assert answer({"status": status, "emm": emm, "emm_low": low, "emm_high": high}) == expected


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        (Estimate(26.7, 20.2, 33.8, "estimated"), "27 (20 to 34)"),
        (Estimate(4.56, None, None, "estimated"), "4.6"),
        (Estimate(None, 640.0, None, "at_least"), "≥ 640"),
        (Estimate(None, None, None, "undetermined"), "not determined"),
    ],
)
def test_brief_answer_of_one_arm(estimate, expected):
    assert brief(estimate) == expected
