"""The page of an experiment: `report.html`, made from its tables and records."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from markupsafe import Markup

from emmeter.presentation.curves_figure import counted_rows
from emmeter.presentation.page.claims import Claim, head, tally
from emmeter.presentation.page.downloads import download
from emmeter.presentation.page.intervals import Axis, axis
from emmeter.presentation.page.material import File, Material, StudyMaterial
from emmeter.presentation.page.origin import Origin, data_line, origin
from emmeter.presentation.page.parts import Download, StudyPart
from emmeter.presentation.page.studies import GROUPS, study_part
from emmeter.presentation.page.templates import render
from emmeter.presentation.page.words import NBSP, fraction, listed, percent, span
from emmeter.presentation.tables import OWN_BUDGET, answer, budget_words

FEW = 3  # studies up to which all are open
MOST = 5  # arms that a sentence names

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Page:
    """Everything that the template shows.

    Attributes:
        findings: sentences at the head, each with its tone.
        settings: what all EMMs belong to, by label.
        level, threshold: the share that defines EMM and the criterion, in words.
    """

    name: str
    title: str
    findings: Sequence[tuple[str, Markup]]
    settings: Mapping[str, str]
    level: str
    threshold: str
    groups: Mapping[str, Sequence[StudyPart]]
    studies: Sequence[StudyPart]
    few: bool
    claims: Sequence[Claim]
    tally: str
    axis: Axis
    origin: Origin | None
    each_once: bool
    """Whether the cost of all runs, each counted once, differs from the costs of the studies."""
    command: str
    configuration: Download | None
    arm_settings: str
    first_arm: str
    published: str
    tables: Sequence[Download]


def page(material: Material) -> str:
    """The page as HTML."""
    return render("page.html.j2", page=content(material))


def content(material: Material) -> Page:
    """Everything that the template shows."""
    rows = [row for study in material.studies for row in study.findings.to_dict("records")]
    ends = [row[name] for row in rows for name in ("effect", "effect_low", "effect_high")]
    effects = axis([0.75, 4 / 3, *(end for end in ends if not math.isnan(end))], ratios=True)
    studies = [study_part(study, effects) for study in material.studies]
    groups = {group: [study for study in studies if study.group == group] for group in dict.fromkeys(GROUPS.values())}
    claims = [claim for study in studies for claim in study.claims]
    arms = [arm for study in material.studies for arm in study.emm.to_dict("records")]
    searches = [search for study in material.studies for search in study.searches.values()]
    first = next(iter(searches), None)
    facts = origin([search.record for search in searches], material.records)
    return Page(
        name=material.name,
        title=studies[0].headline if len(studies) == 1 else f"EMM in {len(studies)} studies",
        findings=[("", overview(arms, studies)), *head(claims), *unfinished(studies), *beyond(material.studies)],
        settings=settings(material, arms),
        level=_alternatives(percent(1 - arm["epsilon"]) for arm in arms),
        threshold=_alternatives(fraction(arm["threshold"]) for arm in arms),
        groups={group: members for group, members in groups.items() if members},
        studies=studies,
        few=len(studies) <= FEW,
        claims=claims,
        tally=tally(claims) if claims else "",
        axis=effects,
        origin=facts,
        each_once=facts is not None and 0 < facts.spent.samplings != sum(arm["runs"] for arm in arms),
        command=material.command,
        configuration=_configuration(material.configuration),
        arm_settings=first.settings if first else "",
        first_arm=arms[0]["arm"],
        published=published(material),
        tables=[download(file) for file in material.files],
    )


def _configuration(text: str) -> Download | None:
    return download(File("configuration.yaml", text.encode())) if text else None


def _alternatives(texts: Any) -> str:
    return " or ".join(dict.fromkeys(texts))


def overview(arms: Sequence[Row], studies: Sequence[StudyPart]) -> Markup:
    """EMM over the whole page: of one study its headline with intervals, of several the range over all arms."""
    if len(studies) == 1:
        return Markup("{}.").format(_range(arms) or studies[0].headline)
    statuses = Counter(arm["status"] for arm in arms)
    emms = [arm["emm"] for arm in arms if arm["status"] == "estimated"]
    words = {
        "below": "below the smallest size tried",
        "at_least": "at or above the largest size tried",
        "undetermined": "not determined",
    }
    others = [f"{words[status]} in {count}" for status, count in statuses.items() if status in words]
    rest = Markup("; it is {}").format(listed(others)) if others else Markup("")
    if not emms:
        return Markup("EMM could be estimated in none of {} arms{}.").format(len(arms), rest)
    return Markup("EMM could be estimated in {} of {} arms: from {} training images{}.").format(
        len(emms), len(arms), span(emms), rest
    )


def _range(arms: Sequence[Row]) -> Markup | None:
    """The smallest and the largest EMM of a study with their intervals; None without two estimates that differ."""
    known = sorted((arm for arm in arms if arm["status"] == "estimated"), key=lambda arm: arm["emm"])
    if len(known) < 2 or len(known) < len(arms) or answer(known[0]) == answer(known[-1]):
        return None
    (low, low_interval), (high, high_interval) = answer(known[0]), answer(known[-1])
    return Markup("EMM is {} training images ({}) in the arm <i>{}</i> and {} ({}) in <i>{}</i>").format(
        low, f"95{NBSP}% interval {low_interval}", known[0]["arm"], high, high_interval, known[-1]["arm"]
    )


def unfinished(studies: Sequence[StudyPart]) -> list[tuple[str, Markup]]:
    """A sentence on arms whose runs were not trained to the end, if there are any."""
    arms = [(study, arm) for study in studies for arm in study.unfinished]
    if not arms:
        return []
    names = [
        Markup('<a href="#{}"><i>{}</i></a>').format(study.anchor, arm if len(studies) == 1 else f"{study.name}/{arm}")
        for study, arm in arms[:MOST]
    ]
    names += [f"{len(arms) - MOST} more"] if len(arms) > MOST else []
    text = "<b>Not trained to the end:</b> at least half of the runs of {}. Their EMMs are those of unfinished models."
    return [("care", Markup(text).format(listed(names)))]


def beyond(studies: Sequence[StudyMaterial]) -> list[tuple[str, Markup]]:
    """The sentence that EMM is no safe size, with the shares of copies in runs above the intervals of their arms."""
    shares = []
    for study in studies:
        for arm in study.emm.to_dict("records"):
            if arm["status"] == "estimated" and arm["rule"] != "grid" and not math.isnan(arm["emm_high"]):
                rows = counted_rows(arm, study.curves)
                shares += rows.loc[rows["n"] > arm["emm_high"], "ratio"].tolist()
    text = Markup("<b>EMM is not a safe size.</b> Above it copies become rarer; they do not end.")
    if shares:
        text += Markup(
            " In the {} with more training images than the interval of their arm, {} of the generated images were "
            "still near copies in the median, and up to {}."
        ).format(
            "run" if len(shares) == 1 else f"{len(shares)} runs",
            f"{100 * median(shares):.0f}{NBSP}%",
            f"{100 * max(shares):.0f}{NBSP}%",
        )
    return [("care", text)]


def settings(material: Material, arms: Sequence[Row]) -> dict[str, str]:
    """What all EMMs of the page belong to, by label."""
    titles = list(dict.fromkeys(filter(None, map(data_line, material.records.subsets))))
    sides = _alternatives(f"{row['resolution']:.0f}{NBSP}×{NBSP}{row['resolution']:.0f}" for row in arms)
    sources = list(dict.fromkeys(row["data"] for row in arms))
    data = sources[0] if len(sources) == 1 else f"{len(sources)} data sets"
    if len(titles) == 1 and len(sources) == 1:
        data = f"{data} ({titles[0].partition(', licence')[0]})"
    curves = [study.curves for study in material.studies]
    images = [n for table in curves for n in table["images"].tolist()]
    confirming = [row["confirm_runs"] for row in arms if row["confirm_runs"]]
    lines = {
        "Data": f"{data}, {sides} pixels",
        "Training budget": budget(arms, [n for table in curves for n in table["n"].tolist()]),
        "Near copy": _alternatives(f"d1/d2 < {fraction(row['threshold'])}" for row in arms),
        "EMM at": _alternatives(f"{percent(1 - row['epsilon'])} (epsilon {row['epsilon']:g})" for row in arms),
        "Generated": span(images, " images per run"),
        "Confirming runs": span(confirming, " per arm") if confirming else "none",
    }
    if "seed" in material.settings:
        lines["Seed"] = str(material.settings["seed"])
    return lines


def budget(arms: Sequence[Row], sizes: Sequence[float]) -> str:
    """The training budget of a run, in images and in epochs."""
    budgets = list(dict.fromkeys(row["budget"] for row in arms if row["budget"]))
    if budgets == [OWN_BUDGET]:
        return budget_words(OWN_BUDGET)
    if len(budgets) != 1:
        return "none" if not budgets else f"{len(budgets)} budgets, named with each study"
    amount, unit = budgets[0].split()
    if unit != "images":
        return budget_words(budgets[0])
    smallest, largest = min(sizes), max(sizes)
    epochs = f"{float(amount) / smallest:,.0f} epochs at N = {smallest:,.0f}"
    if smallest < largest:
        epochs += f", {float(amount) / largest:,.0f} at {largest:,.0f}"
    return f"{budget_words(budgets[0])} ({epochs})"


def published(material: Material) -> str:
    """How our shares of copies compare with the published ones of the same settings, as a sentence; or nothing."""
    count = len(material.published)
    within = material.published["within"].tolist().count("True")
    return f"{within} of {count} published shares of copies lie within the tolerance of ours." if count else ""
