"""The mark of runs that were not trained to the end: its signs, and real runs at their end and before it."""

import csv
import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from emmeter.measure.estimate import Estimate
from emmeter.measure.quality.floors import Compared, Measures
from emmeter.measure.trained import Mark, arm_marks, doubted, judge, last_fall

VECTORS = Path(__file__).parents[1] / "vectors" / "trained.csv"
FALLING, FLAT = [(100.0, 50.0), (200.0, 40.0)], [(100.0, 50.0), (200.0, 49.0)]


def compared(precision: float, frechet: float, precision_floor: float = 0.95, frechet_floor: float = 1.0) -> Compared:
    """A comparison with these measures; the others do not matter."""
    values, floor = (
        Measures(distance, 0.0, near, 0.5, 1.0, 0.5, 0.5)
        for distance, near in ((frechet, precision), (frechet_floor, precision_floor))
    )
    return Compared(20, 5, 1.0, values, floor, floor)


@pytest.mark.parametrize(
    ("precision", "frechet", "losses", "to_end", "signs"),
    [
        (0.95, 1.0, FLAT, True, 0),
        (0.86, 1.49, FALLING, True, 1),  # the loss still falls, but the images are like real ones
        (0.95, 9.0, FLAT, True, 1),  # few of the training images, well copied
        (0.80, 1.0, FLAT, True, 1),
        (0.80, 2.0, FLAT, False, 2),
        (0.80, 1.0, FALLING, False, 2),
        (0.95, 2.0, FALLING, False, 2),
        (0.10, 9.0, FALLING, False, 3),
        (0.10, 9.0, [], False, 2),  # the theoretical optimum, or a log that is gone
        (0.95, 2.0, [], True, 1),
    ],
)
def test_two_of_three_signs_make_the_mark(precision, frechet, losses, to_end, signs):
    judged = judge(compared(precision, frechet), losses)
    assert judged.to_end is to_end
    assert len(judged.signs) == signs


def test_signs_give_their_numbers():
    assert judge(compared(0.1, 9.0), FALLING).signs == (
        "precision is 0.10 instead of 0.95",
        "the Fréchet distance to the training images is 9.0 floors",
        "the held-out loss fell by 20 % in the last doubling of images seen",
    )


def test_images_that_could_not_be_compared_are_not_judged():
    assert judge(None, FALLING).to_end is None


@pytest.mark.parametrize(
    ("losses", "fall"),
    [
        ([], None),
        ([(100.0, 5.0)], None),
        ([(100.0, 5.0), (150.0, 4.0)], None),  # no row at half of the images
        ([(100.0, 5.0), (200.0, 4.0)], 0.2),
        ([(100.0, 4.0), (200.0, 5.0)], -0.25),  # it rose
        ([(100.0, 9.0), (200.0, 6.0), (300.0, 4.0)], 1 - 4 / (9 - 3 * math.log2(1.5))),
        ([(100.0, 0.0), (200.0, 0.0)], None),
    ],
)
def test_the_fall_of_the_held_out_loss_is_that_since_half_the_images(losses, fall):
    assert last_fall(losses) == pytest.approx(fall)


def runs():
    """Judgements of eight real runs on digits by labels and N: one per snapshot, with its share of the budget."""
    with open(VECTORS, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for (labels, n), group in itertools.groupby(rows, key=lambda row: (row["labels"], int(row["n"]))):
        log = list(group)
        losses = [(float(row["images_seen"]), float(row["held_out_loss"])) for row in log]
        names = ("precision", "frechet", "precision_floor", "frechet_floor")
        judged = {
            float(row["progress"]): judge(
                compared(*(float(row[name]) for name in names)), losses[: position + 1]
            ).to_end
            for position, row in enumerate(log)
            if row["precision"]
        }
        yield pytest.param(n, judged, id=f"{labels}-{n}")


@pytest.mark.parametrize(("n", "judged"), list(runs()))
def test_real_runs_are_marked_before_their_end_and_not_at_it(n, judged):
    assert list(judged) == [0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0]
    assert judged[0.05] is judged[0.1] is False
    assert judged[0.75] is judged[1.0] is True
    assert list(judged.values()) == sorted(judged.values())  # once trained to the end, always
    first = next(progress for progress, to_end in judged.items() if to_end)
    assert first >= {20: 0.2, 60: 0.3, 200: 0.5, 600: 0.75}[n]  # more images take longer


def row(arm, n, replicate, progress, to_end, features="pixels"):
    return {
        "study": "s", "arm": arm, "n": n, "replicate": replicate, "progress": progress, "features": features,
        "trained_to_end": to_end,
    }  # fmt: skip


def test_an_arm_is_marked_if_half_of_its_runs_are_not_trained_to_the_end():
    marks = arm_marks(
        [
            row("late", 20, 0, 0.5, False), row("late", 20, 0, 1.0, True),  # only the last snapshot counts
            row("half", 20, 0, 1.0, "False"), row("half", 20, 1, 1.0, "True"),  # as text, too
            row("third", 20, 0, 1.0, False), row("third", 20, 1, 1.0, True), row("third", 30, 0, 1.0, True),
            row("unknown", 20, 0, 1.0, ""),
            row("one space", 20, 0, 1.0, True), row("one space", 20, 0, 1.0, False, "other"),
        ]
    )  # fmt: skip
    assert marks == {
        ("s", "late"): Mark(0, 1),
        ("s", "half"): Mark(1, 2),
        ("s", "third"): Mark(1, 3),
        ("s", "unknown"): Mark(0, 0),
        ("s", "one space"): Mark(1, 1),
    }
    assert [arm for (_, arm), mark in marks.items() if mark.marked] == ["half", "one space"]


def run(n: int, distance: float, held_out: float | None = 60.0) -> dict[str, Any]:
    """A run whose images have this distance to the training images."""
    about = {} if held_out is None else {"held_out_distance": held_out}
    return {"n": n, "snapshots": [{"mean_distance": 1.0}, {"mean_distance": distance}], **about}


BELOW = Estimate(None, None, 10.0, "below", note="Clear.")


def test_images_farther_than_held_out_ones_make_the_mark_alone():
    judged = judge(compared(0.95, 1.0), FLAT, 67.0, 60.0)
    assert judged.to_end is False
    assert judged.signs == ("its images are 67 grey levels from the training images, held-out images 60",)
    assert judge(None, [], 67.0, 60.0).to_end is False


@pytest.mark.parametrize(("distance", "held_out"), [(61.0, 60.0), (5.0, 60.0), (90.0, None)])
def test_images_as_far_as_held_out_ones_or_nearer_are_no_sign(distance, held_out):
    assert judge(compared(0.95, 1.0), FLAT, distance, held_out).to_end is True


def test_broken_runs_are_no_upper_bound_of_emm():
    estimate = doubted(BELOW, [run(20, 70.0), run(10, 70.0), run(10, 70.0)])
    assert (estimate.status, estimate.high) == ("undetermined", None)
    assert estimate.note.startswith("The images of 3 of 3 runs are farther from the training images than held-out")


def test_sound_runs_at_the_smallest_size_keep_their_bound_with_a_note():
    estimate = doubted(BELOW, [run(20, 70.0), run(10, 50.0), run(10, 50.0), run(10, 70.0)])
    assert (estimate.status, estimate.high) == ("below", 10.0)
    assert estimate.note.startswith("Clear. The images of 2 of 4 runs are farther")


def test_estimates_of_sound_runs_and_of_earlier_versions_stay_as_they_are():
    assert doubted(BELOW, [run(10, 50.0)]) is BELOW
    assert doubted(BELOW, [run(10, 70.0, None)]) is BELOW
