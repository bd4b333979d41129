"""Errors at single noise levels at the size nearest to EMM: which size, and which ratios."""

import math

import pytest

from emmeter.measure.by_noise import at_emm, nearest_size

NAN = math.nan


def arm(name: str = "a", emm: float = 40.0, low: float = NAN, high: float = NAN) -> dict[str, object]:
    return {"arm": name, "emm": emm, "emm_low": low, "emm_high": high}


def row(n: int, against: str, loss: float, *, to_optimum: float = 1.0, progress: float = 1.0, name: str = "a"):
    return {
        "arm": name, "n": n, "sigma": 0.5, "progress": progress, "against": against, "loss": loss,
        "to_optimum": to_optimum, "to_linear": 4.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row_of_arm", "size"),
    [
        (arm(), 30),
        (arm(emm=50), 60),
        (arm(emm=NAN, low=100), 90),  # at least 100
        (arm(emm=NAN, high=5), 10),  # below 5
        (arm(emm=NAN), 60),  # not determined: the middle one
    ],
)
def test_the_size_is_the_nearest_to_emm_or_to_its_bound(row_of_arm, size):
    assert nearest_size(row_of_arm, [90, 10, 30, 60, 60]) == size


def test_ratios_are_those_of_means_over_the_runs_of_that_size_at_the_end():
    rows = [
        row(30, "training", 1.0, to_optimum=1.0), row(30, "training", 3.0, to_optimum=3.0), row(30, "held-out", 8.0),
        row(30, "training", 100.0, progress=0.5), row(90, "training", 100.0),
    ]  # fmt: skip
    (level,) = at_emm([arm()], rows)
    assert (level.arm, level.n, level.runs, level.sigma) == ("a", 30, 2, 0.5)
    assert (level.gap, level.nearness) == (4.0, 0.5)


def test_without_held_out_images_there_is_no_gap_and_an_arm_without_rows_is_left_out():
    (level,) = at_emm([arm(), arm("b")], [row(30, "training", 1.0)])
    assert level.gap is None
