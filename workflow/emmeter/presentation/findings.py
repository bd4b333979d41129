"""The findings for readers: pages of the report, and lines on the terminal."""

import html
import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from emmeter.presentation.tables import aligned, document

if TYPE_CHECKING:
    from pandas import DataFrame

Row = Mapping[str, Any]
HEADINGS = ("study", "claim", "verdict", "ratio of EMMs (95 %)", "expected")
MARKS = {"reproduced": "#009E73", "contradicted": "#D55E00", "differs at this scale": "#D55E00", "not resolved": "#777"}


def sentence(row: Row) -> str:
    """The effect of a row of findings.csv in words.

    Such as "1.65 (1.21 to 2.24)", "at least 12" or "odds 597 (75 to > 1000)".
    """

    def number(value: float) -> str:
        if value >= 1000:
            return "> 1000"
        if value < 0.005:
            return "< 0.005"
        return f"{value:.2f}" if value < 10 else f"{value:.0f}"

    effect, low, high = row["effect"], row["effect_low"], row["effect_high"]
    odds = "" if math.isnan(row["at"]) else "odds "
    if not math.isnan(effect):
        return f"{odds}{number(effect)} ({number(low)} to {number(high)})"
    if math.isnan(low) and math.isnan(high):
        return "unknown"
    if not math.isnan(low) and not math.isnan(high):
        return f"{odds}{number(low)} to {number(high)}"
    side, limit = ("at most", number(high)) if math.isnan(low) else ("at least", number(low))
    return odds + (limit if limit[0] in "<>" else f"{side} {limit}")


def expectation(row: Row) -> str:
    """The effect that a claim predicts: "above 1", "below 1" or "within 1.25 times"."""
    if row["expect"] in ("same", "proportional", "forecast"):
        return f"within {row['margin']:g} times"
    return "below 1" if row["expect"] in ("less", "decreasing") else "above 1"


def cells(row: Row) -> list[str]:
    """The cells below `HEADINGS` for a row of findings.csv."""
    kind = {"proportional": "exponent ", "forecast": "measured over forecast "}.get(row["expect"], "")
    effect = kind + sentence(row)
    return [row["study"], row["claim"], row["verdict"], effect, expectation(row)]


def remedy(row: Row) -> str:
    """One sentence: what would decide a claim that is not resolved."""
    if row["expect"] == "forecast" and not math.isnan(row["effect"]):
        return "More confirming runs of its arms narrow both EMMs: raise search.confirm."
    if not math.isnan(row["further_runs"]):
        return f"{row['further_runs']:.0f} further runs per arm should decide (80 % chance)."
    return row["note"] or "Its arms have no interval."


def lines(findings: "DataFrame") -> str:
    """findings.csv as text: the table, the number of claims per verdict, and what would decide the open claims."""
    rows = findings.to_dict("records")
    parts = [aligned([list(HEADINGS), *(cells(row) for row in rows)]), tally(findings)]
    if open_claims := [row for row in rows if row["verdict"] == "not resolved"]:
        parts.append("\n".join(f"{row['study']}: {row['claim']}: {remedy(row)}" for row in open_claims))
    return "\n\n".join(parts)


def tally(findings: "DataFrame") -> str:
    """The number of claims per verdict, and the largest number of them that rest on the runs of one arm."""
    counts = Counter(findings["verdict"])
    shown = {verdict: counts[verdict] for verdict in MARKS if counts[verdict] or verdict != "contradicted"}
    text = ", ".join(f"{count} {verdict.replace('differs', 'differ')}" for verdict, count in shown.items())
    uses = Counter(key for keys in findings["arm_keys"] for key in set(keys.split()))
    most = max(uses.values(), default=0)
    if most > 1:
        text += f"; {most} of the {len(findings)} claims share the runs of one arm, so they are not independent"
    return text


def page(findings: "DataFrame") -> str:
    """A self-contained HTML page with one row per claim of findings.csv, verdicts in colour."""
    body = []
    for row in findings.to_dict("records"):
        decides = remedy(row) if row["verdict"] == "not resolved" else row["note"]
        texts = [html.escape(text) for text in (*cells(row), row["source"], decides)]
        texts[2] = f"<b style='color: {MARKS[row['verdict']]}'>{texts[2]}</b>"
        body.append(texts)
    note = (
        "A claim is reproduced or contradicted if the whole 95 % interval shows it; otherwise it is not resolved. A "
        "claim whose source trained longer or on other images differs at this scale instead of being contradicted. "
        "Further runs are confirming runs in addition to those that each arm has; their number assumes the same "
        "scatter. Ratios compare the EMM of the first arm with that of the second; along a row of arms, that of the "
        "last with that of the first. Odds are those of a copy at one size of the training set."
    )
    title = "Findings, judged from our intervals"
    return document(title, (*HEADINGS, "source", "note"), body, [note, tally(findings) + "."])
