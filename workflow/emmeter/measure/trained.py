"""The mark of runs that were not trained to the end: their images are not yet like any real ones.

A share of copies hides this, because noise is no copy either.  Three signs are looked at, and two of them make the
mark.  A Fréchet distance alone never does: a model that copies well covers only its own training images.  A fourth sign
makes the mark alone: images that are farther from the training images than real held-out images are.  Neither copies
nor new images of the same kind can be that far.

The thresholds stand between runs on digits that were trained to the end and the same runs stopped earlier
(`tests/measure/test_trained.py`).
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from emmeter.measure.estimate import Estimate
from emmeter.measure.quality.floors import Compared

PRECISION = 0.1  # below the floor
FRECHET = 1.5  # times the floor
FALL = 0.12  # of the held-out loss, while the number of training images seen doubled
SIGNS = 2  # that make the mark
FARTHER = 1.05  # times the distance of held-out images; the means of 250 images scatter by 2 %


def is_farther(distance: float, held_out: float | None) -> bool:
    """Check whether generated images are farther from the training images than held-out images are.

    Args:
        distance: mean distance of generated images to their nearest training image, in grey levels.
        held_out: the same of held-out images; None if there are none.
    """
    return held_out is not None and distance > FARTHER * held_out


@dataclass(frozen=True)
class Trained:
    """Whether a run was trained to the end.

    Attributes:
        to_end: False if its images are farther than held-out ones, or at least `SIGNS` signs speak against it; None if
            its images could not be compared.
        signs: the signs that speak against it, in words.
    """

    to_end: bool | None
    signs: tuple[str, ...] = ()


def judge(
    compared: Compared | None,
    losses: Sequence[tuple[float, float]],
    distance: float = 0.0,
    held_out: float | None = None,
) -> Trained:
    """Judge one snapshot of a run.

    Args:
        compared: its generated images against its training images; None if these could not be compared.
        losses: training images seen and held-out loss, in the order of training, up to the snapshot; may be empty.
        distance, held_out: as for `is_farther`.
    """
    signs = [farther_words(distance, held_out)] if held_out is not None and is_farther(distance, held_out) else []
    if compared is None:
        return Trained(False if signs else None, tuple(signs))
    far, generated, floor = bool(signs), compared.generated, compared.floor
    if generated.precision < floor.precision - PRECISION:
        signs.append(f"precision is {generated.precision:.2f} instead of {floor.precision:.2f}")
    if generated.frechet > FRECHET * floor.frechet:
        signs.append(f"the Fréchet distance to the training images is {generated.frechet / floor.frechet:.1f} floors")
    fall = last_fall(losses)
    if fall is not None and fall > FALL:
        signs.append(f"the held-out loss fell by {100 * fall:.0f} % in the last doubling of images seen")
    return Trained(len(signs) < SIGNS and not far, tuple(signs))


def farther_words(distance: float, held_out: float) -> str:
    """The sign of images that are farther than held-out ones, in words."""
    return f"its images are {distance:.0f} grey levels from the training images, held-out images {held_out:.0f}"


def last_fall(losses: Sequence[tuple[float, float]]) -> float | None:
    """Share by which the held-out loss fell while the number of training images seen doubled, up to the last entry.

    It is negative if the loss rose.  The loss at half the images is interpolated in log images.

    Args:
        losses: training images seen (increasing) and held-out loss.
    Returns:
        None if no entry is that early, or the loss is not positive.
    """
    if not losses:
        return None
    seen, last = losses[-1]
    for (before, first), (after, second) in itertools.pairwise(losses):
        if before <= seen / 2 <= after:
            share = (math.log(seen / 2) - math.log(before)) / (math.log(after) - math.log(before))
            half = first * (1 - share) + second * share
            return 1 - last / half if half > 0 else None
    return None


def doubted(estimate: Estimate, runs: Sequence[Mapping[str, Any]]) -> Estimate:
    """An estimate in the light of runs whose images are farther than held-out images.

    A ratio of 0 from a broken run says nothing about EMM.  So if at least half of the runs at the smallest size are
    such runs, EMM is not "below" that size, but not determined.  Otherwise a note names their number.

    Args:
        runs: all runs of the search, as `results.SearchedRun`; the last snapshot of each is looked at.
    """
    known = [run for run in runs if run.get("held_out_distance") is not None]  # earlier versions did not measure it
    far = [run for run in known if is_farther(run["snapshots"][-1]["mean_distance"], run["held_out_distance"])]
    if not far:
        return estimate
    note = (
        f"The images of {len(far)} of {len(runs)} runs are farther from the training images than held-out images are: "
        f"these runs are broken, or not trained to the end."
    )
    smallest = min(run["n"] for run in runs)
    decisive = [run for run in runs if run["n"] == smallest]
    if estimate.status == "below" and 2 * sum(run in far for run in decisive) >= len(decisive):
        note += f" So the low ratio at the smallest size, {smallest}, is no bound: mend the model, or train longer."
        return replace(estimate, status="undetermined", high=None, note=note)
    return replace(estimate, note=f"{estimate.note} {note}".strip())


@dataclass(frozen=True)
class Mark:
    """How many runs of an arm were not trained to the end."""

    short: int
    """Runs that were not trained to the end."""
    judged: int
    """Runs that could be judged."""

    @property
    def marked(self) -> bool:
        """True if this holds for at least half of the runs judged: EMM of the arm is then about unfinished models."""
        return self.judged > 0 and 2 * self.short >= self.judged


def arm_marks(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Mark]:
    """The mark of each arm, by study and arm, from the last snapshots of its runs.

    If several spaces of features were used, a run counts as not trained to the end if one of them shows it.

    Args:
        rows: rows of quality.csv of studies, of which `study`, `arm`, `n`, `replicate`, `progress` and `trained_to_end`
            (True, False or the same as text, anything else if it could not be judged) are used.
    """
    last: dict[tuple[str, str], dict[tuple[float, float], tuple[float, set[str]]]] = {}
    for row in rows:
        runs = last.setdefault((row["study"], row["arm"]), {})
        run, progress = (float(row["n"]), float(row["replicate"])), float(row["progress"])
        before, answers = runs.get(run, (0.0, set()))
        if progress >= before:
            runs[run] = progress, ({str(row["trained_to_end"])} | (answers if progress == before else set()))
    marks = {}
    for arm, runs in last.items():
        answers = [answers for _, answers in runs.values()]
        short = sum("False" in found for found in answers)
        marks[arm] = Mark(short, short + sum("True" in found and "False" not in found for found in answers))
    return marks
