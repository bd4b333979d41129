"""Repeated training images on the page: whether they are copied before the others."""

import math
from statistics import fmean

from emmeter.measure.by_noise import nearest_size
from emmeter.presentation.page.material import StudyMaterial
from emmeter.presentation.page.parts import Measured

TITLE = "Copies of repeated training images"
NOTE = (
    "Of each arm, the mean of its runs at the N nearest to EMM, at each snapshot. A repeated image stands in the "
    "training set more than once. Copies are counted per different image, whatever the number of its repetitions."
)
HEADINGS = (
    *("Arm", "N", "Share of training", "Repeated images", "Of these copied", "Of the others copied"),
    *("Copies per repeated image", "Copies per other image"),
)


def repeated(study: StudyMaterial) -> list[Measured]:
    """A table of the copies of repeated images beside those of the others, if an arm has repeated images."""
    if study.copied is None:
        return []
    rows = [row for row in study.copied.to_dict("records") if row["repeated"] > 0]
    shown = []
    for arm in study.emm.to_dict("records"):
        own = [row for row in rows if row["arm"] == arm["arm"]]
        if not own:
            continue
        n = nearest_size(arm, (int(row["n"]) for row in own))
        runs = [row for row in own if row["n"] == n]
        for progress in sorted({row["progress"] for row in runs}):
            means = {
                name: fmean(row[name] for row in runs if row["progress"] == progress)
                for name in ("repeated", "repeated_share", "once_share", "repeated_copies", "once_copies")
            }
            shares = [_text(100 * means[name], "{:.0f} %") for name in ("repeated_share", "once_share")]
            copies = [_text(means[name], "{:.2f}") for name in ("repeated_copies", "once_copies")]
            shown.append([arm["arm"], str(n), f"{progress:g}", f"{means['repeated']:.3g}", *shares, *copies])
    return [Measured(TITLE, NOTE, HEADINGS, shown)] if shown else []


def _text(number: float, form: str) -> str:
    return "" if math.isnan(number) else form.format(number)  # no image is there but once
