"""The part of the page about one study."""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from emmeter.presentation.curves_figure import counted_rows
from emmeter.presentation.page import criteria, quality, repeated
from emmeter.presentation.page.claims import claims
from emmeter.presentation.page.downloads import download
from emmeter.presentation.page.drawings import drawings
from emmeter.presentation.page.gallery import example
from emmeter.presentation.page.intervals import Axis, axis
from emmeter.presentation.page.material import StudyMaterial
from emmeter.presentation.page.parts import ArmRow, Cost, StudyPart
from emmeter.presentation.page.words import NBSP
from emmeter.presentation.sentences import finding
from emmeter.presentation.style import TOGETHER
from emmeter.presentation.tables import answer, images_and_budget

if TYPE_CHECKING:
    from pandas import DataFrame

Row = Mapping[str, Any]
GROUPS = {  # headings of studies, by the beginning of their factor; the longest counts
    "data.labels": "Labels",
    "data": "Training data",
    "network": "Network",
    "training": "Training",
    "sampling": "Averaging, noise and sampling",
    "diffusion": "Averaging, noise and sampling",
    "scoring": "Criterion",
    "": "Other studies",
}


def study_part(study: StudyMaterial, effects: Axis) -> StudyPart:
    """Make the part of a study.

    Args:
        effects: the axis of the effects of all claims of the page.
    """
    emm, contrasts = study.emm, study.contrasts
    arms = emm.to_dict("records")
    counted = {arm["arm"]: counted_rows(arm, study.curves) for arm in arms}
    runs = sum(map(len, counted.values()))
    sizes = axis(number for arm in arms for number in _known(arm, "emm", "emm_low", "emm_high"))
    ratios = axis(
        (n for row in contrasts.to_dict("records") for n in _known(row, "emm_ratio", "ratio_low", "ratio_high")),
        ratios=True,
    )
    marks = quality.marks(study)
    remarks = {name: quality.remark(mark) for name, mark in marks.items()}
    texts = {arm["arm"]: " ".join(filter(None, (arm["note"], remarks.get(arm["arm"], "")))) for arm in arms}
    notes = list(dict.fromkeys(filter(None, texts.values())))
    letters = {note: letter(index) for index, note in enumerate(notes)}
    judged = claims(study.findings, emm, effects)
    n = study.curves["n"].tolist()
    columns = ("runs", "images_trained", "flops", "seconds")
    total = {name: sum(arm[name] for arm in arms) for name in columns}  # not a number if it is not known of an arm
    return StudyPart(
        name=study.name,
        anchor=f"study-{study.name}",
        group=GROUPS[max((start for start in GROUPS if study.factor.startswith(start)), key=len)],
        title=study.title,
        source=study.source,
        factor=study.factor,
        headline=finding(emm, contrasts, study.curves),
        setting=setting(emm),
        claims=judged,
        drawings=drawings(study),
        arms=[
            _arm_row(arm, look(index, len(arms)), contrasts, sizes, ratios, letters.get(texts[arm["arm"]], ""))
            for index, arm in enumerate(arms)
        ],
        unfinished=list(marks),
        baseline=arms[0]["arm"] if len(contrasts) else "",
        brackets=set(emm["rule"]) == {"grid"},
        paired=set(contrasts.loc[contrasts["emm_ratio"].notna(), "paired"]) == {"True"},
        axis=sizes,
        ratios=ratios,
        notes=[(mark, note) for note, mark in letters.items()],
        examples=[
            example(arm["arm"], look(index, len(arms)), search.gallery)
            for index, arm in enumerate(arms)
            if (search := study.searches.get(arm["arm"])) is not None and search.gallery is not None
        ],
        measured=[*quality.measured(study), *quality.traded(study), *repeated.repeated(study), *criteria.judged(study)],
        tables=[download(file) for file in study.files],
        cost=Cost(
            len(arms),
            round(total["runs"]),
            _none(total["images_trained"]),
            _none(total["flops"]),
            total["seconds"] / 60,
        ),
        runs=runs,
        sizes=(int(min(n)), int(max(n))),
    )


def setting(emm: "DataFrame") -> str:
    """The images and the budgets of the arms of a study; empty if there are more than two kinds."""
    kinds = list(dict.fromkeys(map(images_and_budget, emm.to_dict("records"))))
    return "; ".join(kinds) if len(kinds) <= 2 else ""


def _known(row: Row, *names: str) -> list[float]:
    return [row[name] for name in names if not math.isnan(row[name])]


def _none(number: float) -> float | None:
    return None if math.isnan(number) else number


def look(index: int, count: int) -> int:
    """The number of an arm's colour and marker, as `style.tint` and `style.marker` choose them."""
    return index if count <= TOGETHER else 0


def _arm_row(arm: Row, shape: int, contrasts: "DataFrame", sizes: Axis, ratios: Axis, note: str) -> ArmRow:
    text, interval = answer(arm)
    against = next((row for row in contrasts.to_dict("records") if row["arm"] == arm["arm"]), None)
    ends = [None, None, None]
    if against is not None:
        ends = [_none(against[name]) for name in ("emm_ratio", "ratio_low", "ratio_high")]
    ratio_text, ratio_interval = ratio_words(*ends) if against is not None else ("1", "")
    return ArmRow(
        name=arm["arm"],
        value=value(arm),
        shape=shape,
        tint=shape,
        emm=text.replace(" ", NBSP),
        interval="" if interval == "none" else interval,
        plot=sizes.draw(_none(arm["emm"]), _none(arm["emm_low"]), _none(arm["emm_high"]), shape=shape),
        ratio=ratio_text,
        ratio_interval=ratio_interval,
        ratio_plot=ratios.draw(*ends, shape=shape),
        runs=round(arm["runs"]),
        confirming=round(arm["confirm_runs"]),
        note=note,
    )


def ratio_words(middle: float | None, low: float | None, high: float | None) -> tuple[str, str]:
    """A ratio and its interval in words: ("1.34", "1.08 to 1.66"), ("≥ 2.1", ""), ("0.5 to 3.0", ""), ("–", "")."""

    def number(ratio: float) -> str:
        return f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"

    if low is not None and high is not None:
        both = f"{number(low)} to {number(high)}"
        return (number(middle), both) if middle is not None else (both, "")
    if low is not None:
        return f"≥{NBSP}{number(low)}", ""
    return (f"≤{NBSP}{number(high)}", "") if high is not None else ("–", "")


def value(arm: Row) -> str:
    """The arm's value of the factor, unless its name tells it; flags of skip connections as dots."""
    text = arm["value"]
    if re.fullmatch(r"\[[01](, [01])*\]", text):
        return re.sub("[^01]", "", text).translate({ord("1"): "●", ord("0"): "○"})
    return "" if text in (arm["arm"], "None") else text


def letter(index: int) -> str:
    """The mark of a note: a, b, ..., z, aa, ab, ..."""
    first, last = divmod(index, 26)
    return (letter(first - 1) if first else "") + chr(ord("a") + last)
