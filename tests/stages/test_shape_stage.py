"""The shape stage: made-up studies beside published numbers of the same and of another shape."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from scipy.special import expit

from emmeter.errors import StageError
from emmeter.files.tables import SHAPE_COLUMNS, read
from emmeter.measure.arms import ArmResult
from emmeter.measure.outcome import logit
from emmeter.measure.scatter import Prior
from emmeter.presentation.shape import shape_rows
from emmeter.presentation.shape_figure import in_order
from emmeter.settings.published import Number
from emmeter.settings.sections import Figures, Search
from emmeter.stages.shape import main, scales
from tests import made_up
from tests.made_up import arm

PRIOR = Prior(0.1, 20.0, 40)
ARMS = {"small": 30.0, "middle": 60.0, "large": 90.0}
GRID = Search(rule="grid", grid=[60], replicates=4)


def number(n: int, percent: float) -> Number:
    return Number("made_up", "theirs", n, None, percent, 0.3, "Figure 9", {})


def curve(emm: float, sizes=(500, 1000, 2000, 4000, 8000)) -> list[Number]:
    """Published numbers on a curve with this EMM, and the slope of the made-up runs."""
    return [number(n, float(100 * expit(logit(0.9) - 2.9 * math.log2(n / emm)))) for n in sizes]


PUBLISHED = {"small": curve(1000), "middle": curve(2000), "large": curve(3000)}  # as ARMS, times 33.3


def rows(published: dict[str, list[Number]], quantity: str, arms: dict[str, float] = ARMS) -> dict[Any, dict[str, Any]]:
    """Rows of a quantity by arm and the arm that it is compared with, or by arm and published size."""
    results = [arm(name, emm, seed) for seed, (name, emm) in enumerate(arms.items())]
    table = shape_rows("made_up", results, PRIOR, published)
    assert all(tuple(row) == SHAPE_COLUMNS for row in table)
    by = "published_n" if quantity == "percent" else "against"
    return {(row["arm"], row[by]): row for row in table if row["quantity"] == quantity}


def at_one_size(name: str, ratios: list[float]) -> ArmResult:
    """An arm with one run of 1,000 images per ratio, on 60 training images."""
    counts = [{"memorized": round(1000 * ratio), "images": 1000, "ratio": ratio} for ratio in ratios]
    runs = [{"n": 60, "replicate": r, "role": "grid", "snapshots": [c]} | c for r, c in enumerate(counts)]
    return ArmResult(made_up.about(name, search=GRID.model_dump()), {"runs": runs, "sizes": [60], "status": "crossing"})


# Rows


def test_the_same_shape_at_another_scale():
    """Our EMMs are 33.3 times smaller, and everything that compares is equal within the intervals."""
    emm = rows(PUBLISHED, "emm")
    assert [row["published"] for row in emm.values()] == pytest.approx([1000, 2000, 3000])
    assert all(row["ours_low"] < ARMS[name] < row["ours_high"] for (name, _), row in emm.items())
    pairs = rows(PUBLISHED, "emm_ratio")
    assert list(pairs) == [("middle", "small"), ("large", "small"), ("large", "middle")]
    for (name, against), row in pairs.items():
        assert row["published"] == pytest.approx(ARMS[name] / ARMS[against])
        assert row["ours_low"] < row["published"] < row["ours_high"]
    assert [row["order"] for row in pairs.values()][:2] == ["same", "same"]
    matched = [row for row in rows(PUBLISHED, "percent").values() if "ours" in row and row["ours"] is not None]
    assert len(matched) >= 8
    for row in matched:
        assert row["position"] == pytest.approx(row["published_n"] / 1000)
        assert row["n"] == pytest.approx(row["position"] * emm["small", ""]["ours"])
    # Two intervals need not overlap of 95 % each: at most one of these does not.
    assert sum(not row["ours_low"] <= row["published"] <= row["ours_high"] for row in matched) <= 1


def test_the_opposite_order_is_seen():
    pairs = rows({"small": curve(3000), "large": curve(1000)}, "emm_ratio")
    assert {pair: row["order"] for pair, row in pairs.items()} == {("large", "small"): "opposite"}


def test_bounds_of_either_side_compare_as_far_as_they_go():
    arms = ARMS | {"beyond": 5000.0}
    published = PUBLISHED | {"beyond": curve(50_000, sizes=(4000, 8000))}
    row = rows(published, "emm_ratio", arms)["beyond", "small"]
    assert (row["published"], row["published_high"], row["ours"], row["ours_high"]) == (None, None, None, None)
    assert row["published_low"] == pytest.approx(8000 / rows(published, "emm", arms)["small", ""]["published_high"])
    assert row["ours_low"] > 10
    assert row["order"] == "same"
    assert rows(published, "percent", arms)["beyond", 4000]["ours"] is None  # there is no line
    both = {"small": curve(50_000, sizes=(1000,)), "large": curve(50_000, sizes=(1000,))}
    assert rows(both, "emm_ratio") == {}  # the published numbers do not compare them
    assert rows(both, "percent") == {}  # nor is there a position


def test_sizes_beyond_the_confirming_runs_are_marked_and_far_ones_are_left_out():
    found = rows(PUBLISHED, "percent")
    small = {n: found["small", n] for n in (1000, 2000, 8000)}
    assert small[1000]["extrapolated"] is False
    assert small[8000]["ours"] is None and "octaves" in small[8000]["note"]
    extrapolated = [row for row in found.values() if row["extrapolated"]]
    assert extrapolated and all(row["ours"] is not None for row in extrapolated)


def test_one_size_compares_odds():
    """Odds of 9, 1 and 1/9 by our runs, and published; the order is known from both."""
    arms = [at_one_size(f"a{ratio}", [ratio - 0.01, ratio, ratio, ratio + 0.01]) for ratio in (0.9, 0.5, 0.1)]
    published = {"a0.9": curve(1000), "a0.5": [number(1000, 60.0)], "a0.1": [number(1000, 20.0)]}
    table = shape_rows("made_up", arms, PRIOR, published)
    assert all(tuple(row) == SHAPE_COLUMNS for row in table)
    assert {(row["published_n"], row["n"]) for row in table} == {(1000, 60.0)}
    percents = {row["arm"]: row for row in table if row["quantity"] == "percent"}
    assert [row["published"] for row in percents.values()] == pytest.approx([90, 60, 20])
    assert [row["ours"] for row in percents.values()] == pytest.approx([90, 50, 10], abs=0.2)
    odds = {(row["arm"], row["against"]): row for row in table if row["quantity"] == "odds_ratio"}
    assert odds["a0.5", "a0.9"]["published"] == pytest.approx(1.5 / 9)
    assert odds["a0.5", "a0.9"]["ours"] == pytest.approx(1 / 9, rel=0.03)
    assert [row["order"] for row in odds.values()] == ["same"] * 3


# The stage


def write(folder: Path, numbers: dict[str, list[Number]], arms: dict[str, float] = ARMS) -> list[str]:
    """Write the records of the arms; return the options of the stage, of which the outputs are in `folder`."""
    described = made_up.description() | {"arms": [made_up.about(name) for name in arms]}
    studies = [
        {"description": described, "numbers": {name: [vars(number) for number in n] for name, n in numbers.items()}}
    ]
    records = [folder / f"{name}.json" for name in arms]
    for seed, (path, emm) in enumerate(zip(records, arms.values(), strict=True)):
        path.write_text(json.dumps(made_up.record(emm, seed)))
    outputs = [f"--table={folder}/shape.csv", f"--figure={folder}/shape.svg"]
    style = ["--style", Figures(dpi=50).model_dump_json()]
    return ["--studies", json.dumps(studies), *style, *outputs, "--records", *map(str, records)]


def test_the_stage_writes_table_and_figure(tmp_path):
    main(write(tmp_path, PUBLISHED))
    table = read([tmp_path / "shape.csv"], SHAPE_COLUMNS)
    assert table["quantity"].value_counts().to_dict() == {"emm": 3, "emm_ratio": 3, "percent": 15}
    assert set(table["figure"]) == {"Figure 9"}
    assert "same order in" in in_order(table.to_dict("records"))
    svg = (tmp_path / "shape.svg").read_text()
    for text in ("Made up", "middle", "EMM, arm / small", "Size of images, network and training budget differ"):
        assert text in svg
    assert (tmp_path / "shape.png").stat().st_size > 0


def test_the_stage_needs_a_study_and_a_record_per_arm(tmp_path):
    options = write(tmp_path, PUBLISHED)
    with pytest.raises(StageError, match="2 files for 3 arms"):
        main(options[:-1])
    with pytest.raises(StageError, match="selects no study"):
        main(["--studies", "[]", *options[2:]])


def test_the_text_below_the_title_says_what_differs():
    described = made_up.description()
    assert scales([described]) == (
        "Size of images, network and training budget differ, so that only shapes compare. Published: cifar10 at 32x32 "
        "pixels, 40,000 training epochs per run. Ours: digits at 8x8 pixels, 1,000 training images per run."
    )
    assert scales([described | {"as_published": True}]) == "Images and training budgets are those of the paper."
