"""Claims about a study, judged from intervals: reproduced, contradicted, or not resolved.

A claim is data of the study (`settings.Finding`).  It is reproduced or contradicted only where the whole 95 % interval
says so; everything else is not resolved, with what would decide it.  A claim of a source that was made under another
training budget or on other images is not contradicted by ours: it *differs at this scale*.

``python -m emm.findings`` joins the findings of several studies into one table and one page.
"""

import html
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from emm.contrasts import Contrast
from emm.onset import Growth
from emm.settings import Finding
from emm.stage import command
from emm.tables import aligned, document, join

COLUMNS = (
    "study", "finding", "claim", "source", "expect", "margin", "at", "arms", "verdict",
    "effect", "effect_low", "effect_high", "paired", "further_runs", "note", "setting", "arm_keys",
)  # fmt: skip
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


def rows(
    study: str,
    claims: Mapping[str, Finding],
    judged: Sequence[Judgement],
    arms: Mapping[str, tuple[str, str]],
    as_published: bool,
) -> list[dict[str, object]]:
    """Rows of findings.csv; empty cells where there is no bound.

    Args:
        arms: of each arm the key of its scores, the same for arms that share their runs, and its images and budget.
        as_published: whether budget and images are those of the published studies.
    """
    return [
        {
            "study": study,
            "finding": name,
            "claim": claim.claim,
            "source": claim.source,
            "expect": claim.expect,
            "margin": claim.margin if claim.expect in ("same", "proportional") else None,
            "at": claim.at,
            "arms": " ".join(claim.arms),
            "verdict": worded(one.verdict, claim.source, as_published),
            "effect": one.effect,
            "effect_low": one.low or None,
            "effect_high": one.high if one.high < math.inf else None,
            "paired": one.paired,
            "further_runs": one.further,
            "note": one.note,
            "setting": "; ".join(dict.fromkeys(arms[arm][1] for arm in claim.arms)),
            "arm_keys": " ".join(arms[arm][0] for arm in claim.arms),
        }
        for (name, claim), one in zip(claims.items(), judged, strict=True)
    ]


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


def main() -> None:
    join(__doc__, COLUMNS, page)


if __name__ == "__main__":
    command(main)
