"""Memorization against quality: runs joined with the quality of their images, and their means per size."""

import math

import pytest

from emmeter.files.tables import QUALITY_COLUMNS
from emmeter.measure.tradeoff import means, points


def run(arm: str, n: int, ratio: float, replicate: int = 0, progress: float = 1.0):
    return {"arm": arm, "n": n, "replicate": replicate, "progress": progress, "ratio": ratio}


def quality(arm: str, n: int, frechet: float, replicate: int = 0, progress: float = 1.0, **changes):
    """A row of quality.csv of which real images have a distance of 2, and 0.9 of everything else."""
    floors = {name: 2.0 if name.startswith("frechet") else 0.9 for name in QUALITY_COLUMNS if name.endswith("_floor")}
    return (
        dict.fromkeys(QUALITY_COLUMNS, 0.5)
        | floors
        | {"arm": arm, "n": n, "replicate": replicate, "progress": progress, "frechet": frechet}
        | {"features": "pixels", "against": "held-out", "trained_to_end": "True"}
        | changes
    )


def test_a_run_has_the_quality_of_the_snapshot_that_counts_against_held_out_images():
    rows = [
        quality("a", 10, 9.0, progress=0.5),
        quality("a", 10, 1.0, against="training"),
        quality("a", 10, 6.0, trained_to_end="False"),
    ]
    (point,) = points([run("a", 10, 0.8)], rows)
    assert (point.ratio, point.measures["frechet"], point.unfinished) == (0.8, 6.0, True)
    assert point.distance == 3.0
    (early,) = points([run("a", 10, 0.3, progress=0.5)], rows)
    assert (early.distance, early.unfinished) == (4.5, False)


@pytest.mark.parametrize("floor", [math.nan, 0.0])
def test_runs_that_could_not_be_compared_are_left_out(floor):
    rows = [quality("a", 10, 6.0, frechet_floor=floor), quality("a", 20, 6.0)]
    found = points([run("a", 10, 0.8), run("a", 20, 0.8), run("a", 30, 0.8)], rows)
    assert [point.n for point in found] == [20]


def test_means_are_per_size_and_say_which_sizes_all_arms_have():
    runs = [run("a", 20, 0.5), run("a", 10, 0.9), run("a", 10, 0.7, replicate=1), run("b", 10, 0.4)]
    rows = [
        quality("a", 20, 2.0),
        quality("a", 10, 4.0),
        quality("a", 10, 8.0, replicate=1, trained_to_end="False"),
        quality("b", 10, 3.0),
    ]
    found = list(means(points(runs, rows)))
    assert [(mean.arm, mean.n, mean.runs, mean.unfinished, mean.shared) for mean in found] == [
        ("a", 10, 2, 1, True),
        ("a", 20, 1, 0, False),
        ("b", 10, 1, 0, True),
    ]
    assert found[0].ratio == pytest.approx(0.8)
    assert (found[0].measures["frechet"], found[0].floors["frechet"]) == (6.0, 2.0)


def test_spaces_of_features_do_not_mix():
    rows = [quality("a", 10, 4.0), quality("a", 10, 8.0, features="efficientnet-lite0")]
    found = list(means(points([run("a", 10, 0.5)], rows)))
    assert [(mean.features, mean.measures["frechet"]) for mean in found] == [
        ("pixels", 4.0),
        ("efficientnet-lite0", 8.0),
    ]
