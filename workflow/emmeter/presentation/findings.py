"""Findings for readers: pages in the report, and lines on the terminal."""

import html
from collections import Counter
from collections.abc import Mapping, Sequence

from emmeter.presentation.tables import aligned, document


def sentence(judged: Mapping[str, str]) -> str:
    """The effect of one row of findings.csv in words: "1.65 (1.21 to 2.24)", "at least 12"; odds are named."""

    def number(text: str) -> str:
        value = float(text)
        if value >= 1000:
            return "> 1000"
        if value < 0.005:
            return "< 0.005"
        return f"{value:.2f}" if value < 10 else f"{value:.0f}"

    low, high = judged["effect_low"], judged["effect_high"]
    odds = "odds " if judged["at"] else ""
    if judged["effect"]:
        return f"{odds}{number(judged['effect'])} ({number(low)} to {number(high)})"
    if low and high:
        return f"{odds}{number(low)} to {number(high)}"
    if not low and not high:
        return "unknown"
    limit = number(low or high)
    return odds + (limit if limit[0] in "<>" else f"at least {limit}" if low else f"at most {limit}")


def expectation(row: Mapping[str, str]) -> str:
    """What a claim expects of the effect, in words: "above 1", "within 1.25 times"."""
    if row["expect"] in ("same", "proportional"):
        return f"within {float(row['margin']):g} times"
    return "below 1" if row["expect"] in ("less", "decreasing") else "above 1"


HEADINGS = ("study", "claim", "verdict", "ratio of EMMs (95 %)", "expected")
MARKS = {"reproduced": "#009E73", "contradicted": "#D55E00", "differs at this scale": "#D55E00", "not resolved": "#777"}


def cells(row: Mapping[str, str]) -> list[str]:
    """study, claim, verdict, effect, what was expected of it."""
    effect = sentence(row) if row["expect"] != "proportional" else f"exponent {sentence(row)}"
    return [row["study"], row["claim"], row["verdict"], effect, expectation(row)]


def remedy(row: Mapping[str, str]) -> str:
    """What would decide a claim that is not resolved: one sentence."""
    if row["further_runs"]:
        return f"{int(row['further_runs'])} further runs per arm should decide (80 % chance)."
    return row["note"] or "Its arms have no interval."


def lines(rows: Sequence[Mapping[str, str]]) -> str:
    """The findings as text, columns aligned, how many there are of each verdict, and what would decide the others."""
    table = aligned([list(HEADINGS), *(cells(row) for row in rows)])
    parts = [table, tally(rows)]
    if open_claims := [row for row in rows if row["verdict"] == "not resolved"]:
        parts.append("\n".join(f"{row['study']}: {row['claim']}: {remedy(row)}" for row in open_claims))
    return "\n\n".join(parts)


def tally(rows: Sequence[Mapping[str, str]]) -> str:
    """How many claims there are of each verdict, and how many of them rest on the runs of one and the same arm."""
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in MARKS}
    shown = {verdict: count for verdict, count in counts.items() if count or verdict != "contradicted"}
    text = ", ".join(f"{count} {verdict.replace('differs', 'differ')}" for verdict, count in shown.items())
    uses = Counter(key for row in rows for key in set(row["arm_keys"].split()))
    most = max(uses.values(), default=0)
    if most > 1:
        text += f"; {most} of the {len(rows)} claims share the runs of one arm, so they are not independent"
    return text


def page(rows: Sequence[Mapping[str, str]]) -> str:
    """A self-contained HTML page, a row a finding, verdicts in colour."""
    body = []
    for row in rows:
        decides = remedy(row) if row["verdict"] == "not resolved" else row["note"]
        texts = [html.escape(text) for text in (*cells(row), row["source"], decides)]
        texts[2] = f"<b style='color: {MARKS[row['verdict']]}'>{texts[2]}</b>"
        body.append(texts)
    note = (
        "A claim is reproduced or contradicted where the whole 95 % interval says so, else not resolved; it differs at "
        "this scale where its source trained longer or on other images. Further runs are confirming runs beside those "
        "that each arm has, at the scatter seen. Ratios are of the first arm's EMM to the second's, of the last to the "
        "first along a row of arms; odds are those of a copy at one size of the training set."
    )
    title = "Findings, judged from our intervals"
    return document(title, (*HEADINGS, "source", "note"), body, [note, tally(rows) + "."])
