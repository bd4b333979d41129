"""Findings in words: cells, lines on the terminal, and the page."""

import html
import math
import re
from typing import Any

import pandas as pd
import pytest

from emmeter.files.tables import FINDING_COLUMNS, frame
from emmeter.presentation.findings import MARKS, cells, lines, page, remedy, sentence, tally

NAN = math.nan


@pytest.mark.parametrize(
    ("effect", "low", "high", "expected"),
    [
        (1.649, 1.2149, 2.236, "1.65 (1.21 to 2.24)"),
        (12.4, 9.5, 16.2, "12 (9.50 to 16)"),
        (NAN, 12.8, NAN, "at least 13"),
        (NAN, NAN, 0.3125, "at most 0.31"),
        (NAN, 0.5, 2, "0.50 to 2.00"),
        (NAN, NAN, NAN, "unknown"),
        (0.95, 0.81, 2, "0.95 (0.81 to 2.00)"),
    ],
)
def test_effects_in_words(effect, low, high, expected):
    assert sentence({"effect": effect, "effect_low": low, "effect_high": high, "at": NAN}) == expected


def test_small_limits_need_no_words():
    assert sentence({"effect": NAN, "effect_low": NAN, "effect_high": 0.0001, "at": 10}) == "odds < 0.005"


def test_odds_are_called_odds():
    row = {"effect": 12.4, "effect_low": 0.0012, "effect_high": 123456, "at": 1000}
    assert sentence(row) == "odds 12 (< 0.005 to > 1000)"


ROW = dict.fromkeys(FINDING_COLUMNS, "") | {
    "study": "made_up", "claim": "It does", "expect": "more", "margin": None, "at": None, "effect": None,
    "effect_low": None, "effect_high": None, "further_runs": None,
}  # fmt: skip
ROWS: list[dict[str, Any]] = [
    ROW | {
        "claim": "Wider <b>& deeper</b>", "verdict": "reproduced", "effect": 2.0, "effect_low": 1.5, "effect_high": 2.5,
        "source": "Figure 1", "arm_keys": "0a0a0a0a0a 0b0b0b0b0b",
    },
    ROW | {
        "expect": "same", "margin": 1.5, "verdict": "not resolved", "note": "A <note>",
        "arm_keys": "0a0a0a0a0a 0b0b0b0b0b",
    },
    ROW | {
        "expect": "proportional", "margin": 1.3, "verdict": "contradicted", "effect": 0.5, "effect_low": 0.4,
        "effect_high": 0.6, "arm_keys": "0a0a0a0a0a",
    },
]  # fmt: skip


def table(*changes: dict[str, Any]) -> pd.DataFrame:
    """findings.csv of `ROWS`, of which the first ones are changed."""
    return frame([row | change for row, change in zip(ROWS, [*changes, {}, {}, {}], strict=False)], FINDING_COLUMNS)


def test_a_forecast_is_shown_with_its_margin_and_what_would_decide_it():
    change = {
        "expect": "forecast", "margin": 1.25, "verdict": "not resolved", "effect": 0.85, "effect_low": 0.72,
        "effect_high": 0.99, "note": "",
    }  # fmt: skip
    row = table(change).to_dict("records")[0]
    assert cells(row)[3:] == ["measured over forecast 0.85 (0.72 to 0.99)", "within 1.25 times"]
    assert "search.confirm" in remedy(row)
    without = table(change | dict.fromkeys(["effect", "effect_low", "effect_high"]) | {"note": "No law."})
    assert remedy(without.to_dict("records")[0]) == "No law."


def test_cells_and_lines_show_verdict_effect_and_further_runs():
    open_claim = {"verdict": "not resolved", "effect": 1.4, "effect_low": 0.7, "effect_high": 2.8, "further_runs": 12}
    findings = table(open_claim)
    first, second, third = findings.to_dict("records")
    assert cells(first) == ["made_up", "Wider <b>& deeper</b>", "not resolved", "1.40 (0.70 to 2.80)", "above 1"]
    assert cells(second)[3:] == ["unknown", "within 1.5 times"]
    assert cells(third)[3:] == ["exponent 0.50 (0.40 to 0.60)", "within 1.3 times"]
    shown, counted, opened = lines(findings).split("\n\n")
    assert len(shown.splitlines()) == 1 + 3
    assert counted == tally(findings)
    assert opened.splitlines() == [
        "made_up: Wider <b>& deeper</b>: 12 further runs per arm should decide (80 % chance).",
        "made_up: It does: A <note>",
    ]
    assert lines(frame([], FINDING_COLUMNS)).endswith("0 reproduced, 0 differ at this scale, 0 not resolved")


def test_claims_that_share_runs_are_counted_beside_the_verdicts():
    assert tally(table()) == (
        "1 reproduced, 1 contradicted, 0 differ at this scale, 1 not resolved; 3 of the 3 claims share the runs of "
        "one arm, so they are not independent"
    )
    assert "share" not in tally(table({"arm_keys": "x y"}, {"arm_keys": "z w"}))
    assert remedy(table().to_dict("records")[1]) == "A <note>"


def test_page_colours_verdicts_and_escapes_everything_else():
    text = page(table())
    colours = dict(re.findall(r"<b style='color: (#[0-9A-Fa-f]{3,6})'>([^<]+)</b>", text))
    assert {verdict: colour for colour, verdict in colours.items()} == {
        name: MARKS[name] for name in ("reproduced", "contradicted", "not resolved")
    }
    assert "<b>&" not in text and "<note>" not in text
    assert html.escape("Wider <b>& deeper</b>") in text and html.escape("A <note>") in text
    assert text.count("<tr>") == 1 + len(ROWS)
    assert "<script" not in text and "http" not in text
