"""Claims under other criteria for copies on the page."""

import math

from emmeter.presentation.page.material import StudyMaterial
from emmeter.presentation.page.parts import Measured
from emmeter.presentation.page.words import NBSP

NOTE = (
    "Verdicts on the claims of this study if copies were counted by another criterion, from the same images. No run "
    "was added, so an EMM far from the runs is extrapolated. In brackets: the ratio. Rank correlation: Kendall's tau "
    "between the EMMs of the arms under the study's own criterion and under this one; 1: the same order. Ratio: d1/d2 "
    "below the threshold. Mirrored: mirror images count, too. Calibrated: d1 over the mean distance of the match to "
    "its 50 nearest training images. Absolute: d1 per pixel in grey levels, 0 to 255. Cosine: similarity of features "
    "above the threshold."
)


def judged(study: StudyMaterial) -> list[Measured]:
    """The table of the claims of a study under each criterion; none without other criteria or claims."""
    rows = [] if study.criteria is None else study.criteria.to_dict("records")
    claims = dict.fromkeys(row["claim"] for row in rows if isinstance(row["claim"], str) and row["claim"])
    groups: dict[tuple[str, str], list] = {}
    for row in rows:
        threshold = "" if math.isnan(row["threshold"]) else f"{NBSP}{row['threshold']:.3g}"
        groups.setdefault((row["criterion"], threshold), []).append(row)
    if len(groups) < 2 or not claims:
        return []
    cells = []
    for (criterion, threshold), found in groups.items():
        verdicts = {row["claim"]: row for row in found}
        correlation = found[0]["rank_correlation"]
        shown = [
            f"{verdicts[claim]['verdict']}{'' if math.isnan(effect) else f' ({effect:.2f})'}"
            for claim in claims
            if (effect := verdicts[claim]["effect"]) is not None
        ]
        order = "" if math.isnan(correlation) else f"{correlation:.2f}"
        cells.append([f"{criterion}{threshold}", *shown, order])
    return [Measured("Claims under other criteria", NOTE, ("Criterion", *claims, "Rank correlation"), cells)]
