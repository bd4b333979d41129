"""Image quality on the page: a table of one run per arm, and arms whose runs were not trained to the end."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from emmeter.measure.tradeoff import METRICS, means
from emmeter.measure.trained import Mark, arm_marks
from emmeter.presentation.page.material import StudyMaterial
from emmeter.presentation.page.parts import Measured
from emmeter.presentation.sentences import size
from emmeter.presentation.tradeoff_figure import study_points

Row = Mapping[str, Any]
HEADINGS = (
    *("Arm", "N", "Fréchet distance", "Precision", "Recall", "Coverage", "Authenticity"),
    *("Training images copied", "Trained to the end"),
)
NOTE = (
    "Of each arm, the run whose N is nearest to EMM, at its end, against as many of its training images. In brackets: "
    "the same for real images that were held out; a distance means something beside that number only. Precision: share "
    "of generated images near a real one. Recall and coverage: share of real images near a generated one. "
    "Authenticity: about one half for real images, 0 for copies."
)

TRADE_HEADINGS = (
    *("Arm", "Near copies", "Fréchet distance", "Precision", "Recall", "Coverage", "Authenticity"),
    "Runs not trained to the end",
)
TRADE_NOTE = (
    "Means of the runs of each arm at a size that all arms share, the one nearest to the EMM of the first arm. Images "
    "are compared with held-out ones. In brackets: the same for real images."
)


def marks(study: StudyMaterial) -> dict[str, Mark]:
    """Arms of which at least half of the runs were not trained to the end."""
    if study.quality is None:
        return {}
    found = arm_marks(study.quality.to_dict("records"))
    return {arm: mark for (_, arm), mark in found.items() if mark.marked}


def remark(mark: Mark) -> str:
    """What a reader of the arm's EMM must know."""
    return f"{mark.short} of its {mark.judged} runs were not trained to the end: EMM is that of unfinished models."


def measured(study: StudyMaterial) -> list[Measured]:
    """Tables of the quality of a study's images, one per space of features."""
    if study.quality is None:
        return []
    rows = [row for row in study.quality.to_dict("records") if row["against"] == "training"]
    copied = [] if study.copied is None else study.copied.to_dict("records")
    arms = study.emm.to_dict("records")
    tables = []
    for features in dict.fromkeys(row["features"] for row in rows):
        compared = [row for row in rows if row["features"] == features]
        shown = [_cells(row, copied) for arm in arms if (row := nearest(arm, compared)) is not None]
        if shown:
            tables.append(Measured(f"Image quality, compared by {features}", NOTE, HEADINGS, shown))
    return tables


def traded(study: StudyMaterial) -> list[Measured]:
    """Tables of memorization against quality at the size nearest to the first EMM that all arms share, if there is one.

    There is one table per space of features.
    """
    if study.quality is None:
        return []
    every = [mean for mean in means(study_points(study.emm, study.curves, study.quality)) if mean.shared]
    if not every:
        return []
    target = size(study.emm.to_dict("records")[0]) or 1.0
    n = min((mean.n for mean in every), key=lambda n: abs(math.log2(n / target)))
    tables = []
    for features in dict.fromkeys(mean.features for mean in every):
        rows = [
            [
                mean.arm,
                f"{100 * mean.ratio:.0f} %",
                *(f"{mean.measures[metric]:.2f} ({mean.floors[metric]:.2f})" for metric in METRICS),
                f"{mean.unfinished} of {mean.runs}",
            ]
            for mean in every
            if (mean.features, mean.n) == (features, n)
        ]
        title = f"Copies against image quality at N = {n}, compared by {features}"
        tables.append(Measured(title, TRADE_NOTE, TRADE_HEADINGS, rows))
    return tables


def nearest(arm: Row, rows: Sequence[Row]) -> Row | None:
    """The last snapshot of the run of an arm whose N is nearest to EMM or its limit; None if nothing was compared."""
    own = [row for row in rows if row["arm"] == arm["arm"] and not math.isnan(row["images"])]
    target = size(arm) or 1.0
    ranked = sorted(own, key=lambda row: (abs(math.log2(row["n"] / target)), row["replicate"], -row["progress"]))
    return ranked[0] if ranked else None


def _cells(row: Row, copied: Sequence[Row]) -> Sequence[str]:
    run = ("arm", "n", "replicate", "progress")
    share = next((each for each in copied if all(each[name] == row[name] for name in run)), None)
    numbers = [f"{row[metric]:.2f} ({row[f'{metric}_floor']:.2f})" for metric in METRICS]
    images = f"{share['copied']:.0f} of {share['train']:.0f}" if share else ""
    ended = {"True": "yes", "False": "no"}.get(row["trained_to_end"], "")
    return [row["arm"], f"{row['n']:.0f}", *numbers, images, ended]
