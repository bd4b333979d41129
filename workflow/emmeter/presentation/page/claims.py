"""Claims on the page: the verdict, the evidence in a sentence, and what would decide an open claim."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from emmeter.presentation.findings import remedy, sentence
from emmeter.presentation.page.intervals import Axis
from emmeter.presentation.page.words import listed

if TYPE_CHECKING:
    from pandas import DataFrame

Row = Mapping[str, Any]
TONES = {"reproduced": "ok", "contradicted": "no", "differs at this scale": "no", "not resolved": "open"}
KINDS = {"proportional": "exponent of N", "forecast": "measured over forecast"}  # what the effect is, beside ratios
FEW = 6  # claims up to which each has a sentence at the head of the page


@dataclass(frozen=True)
class Claim:
    """A claim of a study, judged.

    Attributes:
        anchor: id on the page.
        tone: class of the verdict's colour and mark.
        evidence: the numbers behind the verdict, as a sentence.
        effect, interval: the number, and its interval in brackets or nothing.
        kind: what the number is, if it is no ratio of EMMs.
        plot: the interval against what the claim predicts.
        decide: what would decide the claim, if it is open; else what there is to note.
    """

    anchor: str
    study: str
    claim: str
    source: str
    verdict: str
    tone: str
    evidence: Markup
    effect: str
    interval: str
    kind: str
    plot: Markup
    decide: Markup


def claims(findings: "DataFrame", emm: "DataFrame", axis: Axis) -> list[Claim]:
    """The claims of a study.

    Args:
        findings: its findings.csv.
        emm: its emm.csv.
        axis: the axis of the effects of all claims of the page.
    """
    arms = {row["arm"]: row for row in emm.to_dict("records")}
    judged = []
    for number, row in enumerate(findings.to_dict("records"), 1):
        effect, _, interval = sentence(row).removeprefix("odds ").partition(" (")
        odds = "" if math.isnan(row["at"]) else f"ratio of odds at N = {row['at']:,.0f}"
        judged.append(
            Claim(
                anchor=f"claim-{row['study']}-{number}",
                study=row["study"],
                claim=row["claim"],
                source=row["source"],
                verdict=row["verdict"],
                tone=TONES[row["verdict"]],
                evidence=evidence(row, arms),
                effect=effect,
                interval=interval.removesuffix(")"),
                kind=KINDS.get(row["expect"], odds),
                plot=axis.draw(*ends(row), predicted=predicted(row)),
                decide=decision(row, arms) if row["verdict"] == "not resolved" else Markup("{}").format(row["note"]),
            )
        )
    return judged


def ends(row: Row) -> list[float | None]:
    """Effect and ends of its interval; None where there is none."""
    return [None if math.isnan(row[name]) else row[name] for name in ("effect", "effect_low", "effect_high")]


def predicted(row: Row) -> tuple[float, float]:
    """The effects that a claim predicts, from 0 to infinity."""
    if row["expect"] in ("same", "proportional", "forecast"):
        return 1 / row["margin"], row["margin"]
    return (0.0, 1.0) if row["expect"] in ("less", "decreasing") else (1.0, math.inf)


def sides(row: Row, names: Sequence[str]) -> list[list[str]]:
    """The arms that a claim compares, in its order; several for a mean of arms.  Names may contain blanks."""
    name = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    entries = re.findall(rf"(?:{name})(?:\+(?:{name}))*", row["arms"])
    return [re.findall(name, entry) for entry in entries]


def evidence(row: Row, arms: Mapping[str, Row]) -> Markup:
    """The numbers behind a verdict as a sentence; along a row of arms, the last is compared with the first."""
    effect = sentence(row).removeprefix("odds ")
    effect = re.sub("^> ", "more than ", re.sub("^< ", "less than ", effect))
    number, _, interval = effect.partition(" (")
    span = f" ({interval}" if interval else ""
    if row["expect"] == "proportional":
        return Markup("The onset of memorization grows as N to the power {}.").format(effect)
    compared = [_mean(side) for side in sides(row, list(arms))]
    if row["expect"] == "forecast":
        return Markup("The EMM of {} is {} times the forecast{}.").format(compared[-1], number, span)
    along = row["expect"] in ("increasing", "decreasing")
    first, second = (compared[-1], compared[0]) if along else (compared[0], compared[-1])
    if not math.isnan(row["at"]):
        what = Markup("At N = {:,.0f}, the odds of a copy of {}").format(row["at"], first)
        return what + Markup(" are {} times those of {}{}.").format(number, second, span)
    if number == "unknown":
        return Markup("The EMMs of {} and {} are known too poorly for a ratio.").format(first, second)
    return Markup("The EMM of {} is {} times that of {}{}.").format(first, number, second, span)


def _mean(side: Sequence[str]) -> Markup:
    text = listed([Markup("<i>{}</i>").format(name) for name in side])
    return text if len(side) == 1 else Markup("the mean of ") + text


def decision(row: Row, arms: Mapping[str, Row]) -> Markup:
    """What would decide an open claim: a setting and its cost, where further runs would do; else a sentence."""
    compared = [arms[name] for side in sides(row, list(arms)) for name in side]
    further, confirm = row["further_runs"], max((arm["confirm_runs"] for arm in compared), default=0)
    if math.isnan(further) or not confirm or row["expect"] == "forecast":
        return Markup("{}").format(remedy(row))
    minutes = further * sum(arm["seconds"] / arm["runs"] for arm in compared) / 60
    return Markup(
        "{:.0f} further {} of each of its {} arms should decide (80 % chance): <code>search.confirm: {:.0f}</code>, "
        "about {} more."
    ).format(further, "runs" if further > 1 else "run", len(compared), confirm + further, duration(minutes))


def duration(minutes: float) -> str:
    """A duration on one core in words."""
    if minutes < 100:
        return f"{max(minutes, 1):.0f} core minute" + ("s" if round(max(minutes, 1)) > 1 else "")
    return f"{minutes / 60:,.0f} core hours"


def head(judged: Sequence[Claim]) -> list[tuple[str, Markup]]:
    """Sentences on the claims for the head of the page, each with its tone.

    A few claims have a sentence each.  Of many, those that were not reproduced have one, and the others are counted.
    """
    told = list(judged) if len(judged) <= FEW else [claim for claim in judged if claim.tone == "no"]
    lines = []
    if len(judged) > FEW:
        lines.append(("ok", Markup("<b>{}</b>").format(tally(judged))))
    for claim in told:
        prefix = "" if claim.verdict == "reproduced" else f"{claim.verdict.capitalize()}: "
        text = Markup('<b>{}<a href="#{}">{}</a>.</b> {}').format(prefix, claim.anchor, claim.claim, claim.evidence)
        lines.append((claim.tone, text))
    opened = [claim for claim in judged if claim.tone == "open"]
    if opened and len(judged) > FEW:
        counted = f"{len(opened)} claims are" if len(opened) > 1 else "One claim is"
        text = '<b>{} not resolved.</b> The <a href="#claims">table of claims</a> says what would decide each.'
        lines.append(("open", Markup(text).format(counted)))
    return lines


def tally(judged: Sequence[Claim]) -> str:
    """The number of claims per verdict, as a sentence."""
    counts = Counter(claim.verdict for claim in judged)
    texts = []
    for verdict in TONES:
        if count := counts[verdict]:
            verb = "" if verdict.startswith("differs") else "is " if count == 1 else "are "
            texts.append(f"{count} {verb}{verdict if count == 1 else verdict.replace('differs', 'differ')}")
    return f"Of {len(judged)} claim{'s' if len(judged) > 1 else ''}, {listed(texts)}."
