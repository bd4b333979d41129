"""Study tables and figures from made-up searches whose EMM is known."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from emm import figures
from emm.search import Count, RunId, ladder, replay
from emm.settings import Figures, Search
from emm.statistics import contrast, wilson
from emm.study import CONTRAST_COLUMNS, CURVE_COLUMNS, EMM_COLUMNS, answer
from emm.tables import read

SEARCH = Search(n_min=10, n_max=640, start=40)
SIZES = ladder(SEARCH, 10, 640)
ARMS = {"small": 30.0, "large": 90.0, "beyond": 5000.0, "under": 1.0, "flat": math.nan}


def record(emm: float, seed: int) -> dict[str, Any]:
    """The record of a finished search on a model with this EMM, slope 2.9 and run scatter 0.3 logit."""
    generator = np.random.default_rng(seed)
    counts: dict[RunId, Count] = {}
    while missing := (trail := replay(SEARCH, SIZES, counts)).missing:
        for run in missing:
            logit = math.log(9) + (0 if math.isnan(emm) else 2.9 * math.log2(emm / run.n)) + generator.normal(0, 0.3)
            counts[run] = Count(int(generator.binomial(500, 1 / (1 + math.exp(-logit)))), 500)
    runs = []
    for run in trail.runs:
        low, high = wilson(counts[run].memorized, 500)
        last = {
            "memorized": counts[run].memorized, "images": 500, "ratio": counts[run].ratio, "ratio_low": low,
            "ratio_high": high, "mean_distance": 7.5, "progress": 1.0, "images_seen": 1000,
        }  # fmt: skip
        early = last | {"memorized": 0, "ratio": 0.0, "ratio_low": 0.0, "ratio_high": 0.01, "progress": 0.5}
        runs.append(
            {
                "n": run.n,
                "replicate": run.replicate,
                "role": "confirm" if run in trail.confirm else "locate",
                "memorized": counts[run].memorized,
                "images": 500,
                "snapshots": [early | {"images_seen": 500}, last],
                "images_trained": 1000,
                "evaluations": 0,
                "seconds": 6.0,
            }
        )
    return {
        "rule": "bisection", "epsilon": 0.1, "threshold": 1 / 3, "snapshot": "last", "status": trail.status,
        "sizes": SIZES, "runs": runs, "images_trained": 1000 * len(runs), "flops": 10**9,
        "run_seconds": 6.0 * len(runs),
    }  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """The tables that the study stage writes for one arm of every kind."""
    folder = tmp_path_factory.mktemp("study")
    paths = []
    for seed, (name, emm) in enumerate(ARMS.items()):
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(json.dumps(record(emm, seed)))
    description = {
        "name": "made_up", "title": "Made up", "source": "", "factor": "network.channels",
        "arms": [{"name": name, "value": "8", "search": SEARCH.model_dump()} for name in ARMS],
    }  # fmt: skip
    (folder / "study.json").write_text(json.dumps(description))
    outputs = [f"--{name}={folder / name}.csv" for name in ("emm", "curves", "contrasts")]
    command = [sys.executable, "-m", "emm.study", "--study", json.dumps(description), "--records", *map(str, paths)]
    subprocess.run([*command, *outputs, f"--page={folder}/emm.html"], check=True)
    return folder


def test_tables_are_read_by_pandas_without_arguments(study):
    emm, curves, contrasts = (pd.read_csv(study / f"{name}.csv") for name in ("emm", "curves", "contrasts"))
    assert tuple(emm.columns) == EMM_COLUMNS
    assert tuple(curves.columns) == CURVE_COLUMNS
    assert tuple(contrasts.columns) == CONTRAST_COLUMNS
    assert list(emm["arm"]) == list(ARMS)  # order of the configuration
    assert len(curves) == 2 * emm["runs"].sum()
    assert emm["emm"].dtype == float


def test_every_kind_of_answer(study):
    rows = pd.read_csv(study / "emm.csv").set_index("arm")
    assert rows.loc[["small", "large"], "status"].tolist() == ["estimated"] * 2
    for arm in ("small", "large"):
        row = rows.loc[arm]
        assert row["emm_low"] < ARMS[arm] < row["emm_high"]
        assert row["emm_low"] < row["emm"] < row["emm_high"]
    assert rows.loc["beyond", "status"] == "at_least"
    assert rows.loc["beyond", "emm_low"] == 640
    assert rows.loc["under", "status"] == "below"
    assert rows.loc["under", "emm_high"] == 10
    assert rows.loc["flat", "status"] in ("undetermined", "at_least", "below")
    assert rows.loc[["beyond", "under", "flat"], "emm"].isna().all()
    assert rows["note"].loc["beyond"] and rows["df"].loc["small"] >= 4  # pooled over arms, two each


def test_contrasts_compare_with_the_first_arm(study):
    rows = pd.read_csv(study / "contrasts.csv").set_index("arm")
    large = rows.loc["large"]
    assert large["baseline"] == "small"
    assert large["ratio_low"] < 3 < large["ratio_high"]
    assert np.isnan(rows.loc["beyond", "emm_ratio"])
    assert rows.loc["beyond", "note"]


def test_contrast_of_an_arm_with_itself_and_its_inverse():
    a, b = (40.0, 30.0, 50.0), (20.0, 18.0, 25.0)
    middle, low, high = contrast(a, b)
    back = contrast(b, a)
    assert middle == pytest.approx(2)
    assert (1 / back[2], 1 / back[1]) == pytest.approx((low, high))  # the inverse ratio has the inverse interval
    assert contrast(a, (20.0, 20.0, 20.0)) == pytest.approx((2, 1.5, 2.5))  # nothing to add: the interval scales
    same = contrast(a, a)
    assert same[0] == 1 and same[1] < 1 < same[2]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"status": "estimated", "emm": 26.7, "emm_low": 20.2, "emm_high": 33.8}, ("27", "20 to 34")),
        ({"status": "estimated", "emm": "4.56", "emm_low": "", "emm_high": ""}, ("4.6", "none")),
        ({"status": "at_least", "emm": "", "emm_low": "640", "emm_high": ""}, ("≥ 640", "")),
        ({"status": "below", "emm": None, "emm_low": None, "emm_high": 10.0}, ("< 10", "")),
        ({"status": "undetermined", "emm": "", "emm_low": "", "emm_high": ""}, ("not determined", "")),
    ],
)
def test_answer_for_readers(row, expected):
    assert answer(row) == expected


def test_page_shows_every_arm_and_escapes(study):
    page = (study / "emm.html").read_text()
    assert all(name in page for name in ARMS)
    assert "<script" not in page and "http" not in page


def test_figures_draw_every_kind_of_arm_and_repeat_their_bytes(study, tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (16, 3, 8, 8), dtype=np.uint8)
    gallery = {f"{kind}_{of}": images for kind in ("best", "worst") for of in ("generated", "train")}
    np.savez(tmp_path / "gallery.npz", **gallery)
    command = [
        sys.executable, "-m", "emm.figures", "--study", (study / "study.json").read_text(),
        "--style", Figures(dpi=60).model_dump_json(),
        "--emm", str(study / "emm.csv"), "--curves", str(study / "curves.csv"),
        "--galleries", *[str(tmp_path / "gallery.npz")] * len(ARMS), "--folder",
    ]  # fmt: skip
    for name in ("once", "again"):
        subprocess.run([*command, str(tmp_path / name)], check=True)
    made = {path.name: path.read_bytes() for path in (tmp_path / "once").iterdir()}
    assert set(made) == {f"{n}.{k}" for n in ("curves", "emm", "progress", "gallery") for k in ("svg", "png")}
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}


def test_mosaic_puts_pairs_above_each_other():
    top, bottom = np.full((3, 1, 2, 2), 10, np.uint8), np.full((3, 1, 2, 2), 20, np.uint8)
    picture = figures.mosaic(top, bottom)
    assert picture.shape == (5, 8)
    assert (picture[:2, [0, 1, 3, 4, 6, 7]] == 10).all()
    assert (picture[3:, [0, 1, 3, 4, 6, 7]] == 20).all()
    assert (picture[2] == 255).all()


def test_summary_table_joins_studies(study, tmp_path):
    def join(*tables: Path) -> subprocess.CompletedProcess:
        outputs = ["--table", tmp_path / "all.csv", "--page", tmp_path / "all.html"]
        command = [sys.executable, "-m", "emm.tables", "--studies", *tables, *outputs]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    (tmp_path / "old.csv").write_text("study,arm\na,b\n")
    refused = join(tmp_path / "old.csv")
    assert refused.returncode == 1 and refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
    assert not (tmp_path / "all.csv").exists()
    assert join(study / "emm.csv", study / "emm.csv").returncode == 0
    assert len(read(tmp_path / "all.csv")) == 2 * len(ARMS)
