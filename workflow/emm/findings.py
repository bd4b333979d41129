"""Claims about a study, judged from intervals: reproduced, contradicted, or not resolved.

A claim is data of the study (`settings.Finding`).  It is reproduced or contradicted only where the whole 95 % interval
says so; everything else is not resolved, with the number of further confirming runs an arm that the present scatter
lets one expect to be enough.

``python -m emm.findings`` joins the findings of several studies into one table and one page.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from emm.contrasts import Contrast
from emm.onset import Growth
from emm.settings import Finding
from emm.stage import command
from emm.tables import aligned, document, join

COLUMNS = (
    "study", "finding", "claim", "source", "expect", "margin", "arms", "verdict",
    "effect", "effect_low", "effect_high", "paired", "further_runs", "note",
)  # fmt: skip
Verdict = Literal["reproduced", "contradicted", "not resolved"]
MOST = 1000  # further runs from which the number is not worth telling


@dataclass(frozen=True)
class Judgement:
    """The verdict on one claim.

    ``effect`` is the ratio of EMMs (first arm over second, last over first along a row of arms), or the exponent of
    the onset's growth with N, with its interval ``low`` to ``high`` (0 and infinity: no bound).  ``further``: runs.
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
    compare: Mapping[tuple[str, str], Contrast],
    confirm: int,
    growth: Growth | None = None,
) -> Judgement:
    """Judge one claim.

    Args:
        compare: contrast of every pair of the study's arms, by their names.
        confirm: confirming runs of an arm so far.
        growth: how the onset of the first arm grows with N, for claims of proportionality.
    """
    if finding.expect == "proportional":
        if growth is None:
            return Judgement("not resolved", None, 0.0, math.inf, note="Memorization sets in at too few sizes to tell.")
        inside = _inside(growth.low, growth.high, finding.margin)
        left_out = f"; {growth.left_out} without an onset are left out" if growth.left_out else ""
        note = f"Exponent of N, {growth.runs} runs{left_out}."
        return Judgement(inside, growth.exponent, growth.low, growth.high, note=note)
    if finding.expect in ("more", "less"):
        found = compare[finding.arms[0], finding.arms[1]]
        verdict = _direction(found, finding.expect == "more")
        return _judgement(verdict, found, _further(found, confirm, 1.0))
    if finding.expect == "same":
        found = compare[finding.arms[0], finding.arms[1]]
        return _judgement(
            _inside(found.low, found.high, finding.margin), found, _further(found, confirm, finding.margin)
        )
    return _along(finding, compare, confirm)


def _along(finding: Finding, compare: Mapping[tuple[str, str], Contrast], confirm: int) -> Judgement:
    """A row of arms: the last must differ from the first as claimed, and no neighbours the other way."""
    rises = finding.expect == "increasing"
    ends = compare[finding.arms[-1], finding.arms[0]]
    steps = list(zip(finding.arms[1:], finding.arms[:-1], strict=True))
    against = [pair for pair in steps if _direction(compare[pair], rises) == "contradicted"]
    verdict = "contradicted" if against else _direction(ends, rises)
    note = f"From {against[0][1]} to {against[0][0]} it goes the other way." if against else ""
    return _judgement(verdict, ends, _further(ends, confirm, 1.0), note)


def _judgement(verdict: Verdict, found: Contrast, further: int | None, note: str = "") -> Judgement:
    if verdict != "not resolved":
        further = None
    elif found.ratio is None:
        note = "At least one EMM is only bounded: widen search.n_min to n_max."
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


def _further(found: Contrast, confirm: int, margin: float) -> int | None:
    """Further confirming runs an arm after which the interval, narrowing as 1/sqrt(runs), is expected to decide."""
    if found.ratio is None or not 0 < found.low < found.high < math.inf or not confirm:
        return None
    half = math.log2(found.high / found.low) / 2
    gap = abs(abs(math.log2(found.ratio)) - math.log2(margin))
    if gap == 0 or (needed := math.ceil(confirm * (half / gap) ** 2)) - confirm > MOST:
        return None
    return max(needed - confirm, 1)


def sentence(judged: Mapping[str, str]) -> str:
    """The effect of one row of findings.csv in words: "1.65 (1.21 to 2.24)", "at least 12"."""

    def number(text: str) -> str:
        value = float(text)
        return f"{value:.2f}" if value < 10 else f"{value:.0f}"

    low, high = judged["effect_low"], judged["effect_high"]
    if judged["effect"]:
        return f"{number(judged['effect'])} ({number(low)} to {number(high)})"
    if low and high:
        return f"{number(low)} to {number(high)}"
    return f"at least {number(low)}" if low else (f"at most {number(high)}" if high else "unknown")


def rows(study: str, claims: Mapping[str, Finding], judged: Sequence[Judgement]) -> list[dict[str, object]]:
    """Rows of findings.csv; empty cells where there is no bound."""
    return [
        {
            "study": study,
            "finding": name,
            "claim": claim.claim,
            "source": claim.source,
            "expect": claim.expect,
            "margin": claim.margin if claim.expect in ("same", "proportional") else None,
            "arms": " ".join(claim.arms),
            "verdict": one.verdict,
            "effect": one.effect,
            "effect_low": one.low or None,
            "effect_high": one.high if one.high < math.inf else None,
            "paired": one.paired,
            "further_runs": one.further,
            "note": one.note,
        }
        for (name, claim), one in zip(claims.items(), judged, strict=True)
    ]


HEADINGS = ("study", "claim", "verdict", "ratio of EMMs (95 %)", "further runs")


def cells(row: Mapping[str, str]) -> list[str]:
    """study, claim, verdict, effect, further runs an arm."""
    further = f"+{row['further_runs']} an arm" if row["further_runs"] else ""
    effect = sentence(row) if row["expect"] != "proportional" else f"exponent {sentence(row)}"
    return [row["study"], row["claim"], row["verdict"], effect, further]


def lines(rows: Sequence[Mapping[str, str]]) -> str:
    """The findings as text, columns aligned, and how many of each verdict."""
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in MARKS}
    table = [list(HEADINGS), *(cells(row) for row in rows)]
    return aligned(table) + "\n\n" + ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


MARKS = {"reproduced": "#009E73", "contradicted": "#D55E00", "not resolved": "#777"}


def page(rows: Sequence[Mapping[str, str]]) -> str:
    """A self-contained HTML page, a row a finding, verdicts in colour."""
    body = []
    for row in rows:
        texts = [html.escape(text) for text in (*cells(row), row["source"], row["note"])]
        texts[2] = f"<b style='color: {MARKS[row['verdict']]}'>{texts[2]}</b>"
        body.append(texts)
    note = (
        "A claim is reproduced or contradicted where the whole 95 % interval says so, else not resolved; further runs "
        "are the confirming runs that every arm would need beside those it has, at the scatter seen. Ratios are of the "
        "first arm's EMM to the second's, of the last to the first along a row of arms."
    )
    title = "Findings of the paper, judged from our intervals"
    return document(title, (*HEADINGS, "source", "note"), body, [note])


def main() -> None:
    join(__doc__, COLUMNS, page)


if __name__ == "__main__":
    command(main)
