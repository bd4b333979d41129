"""Study tables and figures from made-up searches whose EMM is known."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from emmeter.errors import StageError
from emmeter.files import tables
from emmeter.files.tables import CONTRAST_COLUMNS, CURVE_COLUMNS, EMM_COLUMNS, read, read_all
from emmeter.measure import onset
from emmeter.measure.arms import ArmResult, comparison, epochs, prior_of, trail_of, wanting
from emmeter.measure.estimate import wilson
from emmeter.measure.outcome import Count, RunId
from emmeter.measure.scatter import Prior
from emmeter.measure.search import ladder, replay
from emmeter.presentation import figures
from emmeter.presentation.tables import answer
from emmeter.settings.sections import Figures, Search
from emmeter.stages.study import emm_rows, read_arms

SEARCH = Search(n_min=10, n_max=640, start=40)
SIZES = ladder(SEARCH, 10, 640)
ARMS = {
    "small": 30.0,
    "large": 90.0,
    "beyond": 5000.0,
    "under": 1.0,
    "flat": math.nan,
    "middle": 60.0,
    "beyond-too": 5000.0,
}
CLAIMS = {  # expectation, arms, verdict that the truth asks for
    "larger": ("more", ["large", "small"], "reproduced"),
    "smaller": ("more", ["small", "large"], "differs at this scale"),
    "equal": ("same", ["large", "small"], "differs at this scale"),
    "rising": ("increasing", ["small", "middle", "large"], "reproduced"),
    "beyond": ("more", ["beyond", "large"], "reproduced"),  # from limits alone
    "under": ("less", ["beyond", "under"], "differs at this scale"),
    "lost": ("same", ["beyond", "beyond-too"], "not resolved"),
    "onset": ("proportional", ["small"], "differs at this scale"),  # between the same two snapshots whatever N
    "no-onset": ("proportional", ["under"], "not resolved"),
}


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


def about(name: str, **other: Any) -> dict[str, Any]:
    """What a description tells of an arm."""
    return {
        "name": name, "value": "8", "search": SEARCH.model_dump(), "key": f"key-{name}", "data": "digits",
        "resolution": 8, "budget": "1000 images", "multiple": 10, "available": 1740,
    } | other  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """The tables that the study stage writes for one arm of every kind."""
    folder = tmp_path_factory.mktemp("study")
    paths = []
    for seed, (name, emm) in enumerate(ARMS.items()):
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(json.dumps(record(emm, seed)))
    description = {
        "name": "made_up", "title": "Made up", "source": "Figure 9", "factor": "network.channels",
        "as_published": False,
        "arms": [about(name) for name in ARMS],
        "findings": [
            [
                name,
                {"claim": f"It is {name}", "expect": expect, "arms": arms, "margin": 1.5}
                | ({"source": "someone else"} if expect == "proportional" else {}),
            ]
            for name, (expect, arms, _) in CLAIMS.items()
        ],
    }  # fmt: skip
    (folder / "study.json").write_text(json.dumps(description))
    outputs = [f"--{name}={folder / name}.csv" for name in ("emm", "curves", "contrasts", "findings", "onset")]
    command = [
        sys.executable,
        "-m",
        "emmeter.stages.study",
        "--study",
        json.dumps(description),
        "--records",
        *map(str, paths),
    ]
    subprocess.run([*command, *outputs, f"--page={folder}/emm.html"], check=True)
    return folder


def test_tables_are_read_by_pandas_without_arguments(study):
    emm, curves, ratios = (pd.read_csv(study / f"{name}.csv") for name in ("emm", "curves", "contrasts"))
    assert tuple(emm.columns) == EMM_COLUMNS
    assert tuple(curves.columns) == CURVE_COLUMNS
    assert tuple(ratios.columns) == CONTRAST_COLUMNS
    assert tuple(pd.read_csv(study / "findings.csv").columns) == tables.FINDING_COLUMNS
    assert tuple(pd.read_csv(study / "onset.csv").columns) == tables.ONSET_COLUMNS
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
    assert large["ratio_low"] < large["emm_ratio"] < large["ratio_high"]
    assert rows.loc[["large", "middle"], "paired"].all()  # three arms share their confirming replicates
    assert rows.loc[["large", "middle"], "note"].isna().all()
    beyond, under, small = rows.loc["beyond"], rows.loc["under"], pd.read_csv(study / "emm.csv").iloc[0]
    assert np.isnan(beyond["emm_ratio"]) and np.isnan(under["emm_ratio"])
    assert beyond["ratio_low"] == pytest.approx(640 / small["emm_high"], rel=1e-5)  # limits leave a limit
    assert under["ratio_high"] == pytest.approx(10 / small["emm_low"], rel=1e-5)
    assert np.isnan(beyond["ratio_high"]) and np.isnan(under["ratio_low"])
    assert not beyond["paired"] and beyond["note"]


PRIOR = Prior(0.2, 6.0, 40)


def made_arms() -> list[ArmResult]:
    arms = []
    for seed, emm in enumerate((30.0, 60.0, 90.0)):
        known = record(emm, seed)
        arms.append(ArmResult(f"arm-{seed}", about(f"arm-{seed}"), SEARCH, known, trail_of(known)))
    return arms


def test_runs_that_arms_share_tell_of_the_scatter_once():
    """An arm under a second name narrows no interval."""
    arms = made_arms()
    assert prior_of([*arms, *arms[:2], arms[0]]) == prior_of(arms)


def test_the_very_same_runs_have_the_same_interval_in_every_study():
    """Given what all arms tell of the scatter, an arm's row does not depend on the arms beside it."""
    arms, prior = made_arms(), PRIOR
    study = {"name": "made_up", "factor": ""}
    together = emm_rows(study, arms, prior)
    assert [emm_rows(study, [arm], prior)[0] for arm in arms] == together


def test_epochs_of_a_budget():
    assert epochs("16000 images", 20.0) == 800
    assert epochs("40000 epochs", 1000.0) == 40_000
    assert epochs("16000 images", None) is epochs("", 20.0) is None


@pytest.mark.parametrize(
    ("status", "other", "words"),
    [
        ("below", {"multiple": 1}, "lower search.n_min (to at least 2)"),
        ("below", {}, "no smaller subset exists: set data.balanced: false, or train longer"),
        ("at_least", {}, "raise search.n_max (to at most 1740)"),
        ("at_least", {"available": 640}, "no larger subset"),
    ],
)
def test_advice_for_bounds_is_possible(status, other, words):
    known = record(1.0 if status == "below" else 5000.0, 3)
    arm = ArmResult("one", about("one", **other), SEARCH, known, trail_of(known))
    found = arm.estimate({RunId(r["n"], r["replicate"]): Count(r["memorized"], 500) for r in known["runs"]}, PRIOR)
    assert found.status == status
    assert words in wanting(arm, found)


def test_findings_are_judged_from_the_contrasts(study):
    rows = pd.read_csv(study / "findings.csv", keep_default_na=False).set_index("finding")
    assert rows["verdict"].to_dict() == {name: verdict for name, (*_, verdict) in CLAIMS.items()}
    contrast = pd.read_csv(study / "contrasts.csv").set_index("arm").loc["large"]
    larger, rising = rows.loc["larger"], rows.loc["rising"]
    effect = [float(larger[name]) for name in ("effect", "effect_low", "effect_high")]
    assert effect == pytest.approx(contrast[["emm_ratio", "ratio_low", "ratio_high"]].tolist())
    assert larger["paired"]
    assert rising["arms"] == "small middle large"
    assert rising["effect"] == larger["effect"]
    assert float(rows.loc["smaller", "effect"]) == pytest.approx(1 / effect[0], rel=1e-5)
    assert rows.loc["beyond", "effect"] == "" and float(rows.loc["beyond", "effect_low"]) > 1
    assert (rows["study"] == "made_up").all()
    assert rows.loc[["larger", "onset"], "source"].tolist() == ["Figure 9", "someone else"]
    assert rows.loc["lost", "further_runs"] == "" and rows.loc["lost", "note"].count("search.n_max") == 2


def test_onset_of_every_run(study):
    """The ratio rises from 0 after 500 images to its last value after 1000."""
    onsets, curves = pd.read_csv(study / "onset.csv"), pd.read_csv(study / "curves.csv")
    last = curves[curves["progress"] == 1.0].reset_index(drop=True)
    assert onsets[["arm", "n", "replicate"]].equals(last[["arm", "n", "replicate"]])
    reached = last["ratio"] >= onset.LEVEL
    expected = (500 * 2 ** (onset.LEVEL / last["ratio"].where(reached))).tolist()
    assert onsets["onset_images"].tolist() == pytest.approx(expected, rel=1e-5, nan_ok=True)
    assert (onsets["onset_epochs"] * onsets["n"])[reached].tolist() == pytest.approx(
        onsets["onset_images"][reached].tolist(), rel=1e-5
    )
    assert (onsets["note"].isna() == reached).all()
    assert 0 < reached.sum() < len(reached)


def test_contrasts_of_every_pair_are_each_others_inverse(study):
    description = json.loads((study / "study.json").read_text())
    arms = read_arms(description, [study / f"{name}.json" for name in ARMS])
    compare = comparison(arms, prior_of(arms))
    for one, other in itertools.permutations(ARMS, 2):
        found, back = compare(one, other, 0.95), compare(other, one, 0.95)
        assert (found.ratio is None) == (back.ratio is None)
        assert found.low * back.high == pytest.approx(1) or (found.low, back.high) == (0, math.inf)


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
        sys.executable, "-m", "emmeter.stages.figures", "--study", (study / "study.json").read_text(),
        "--style", Figures(dpi=60).model_dump_json(),
        "--emm", str(study / "emm.csv"), "--curves", str(study / "curves.csv"),
        "--galleries", *[str(tmp_path / "gallery.npz")] * len(ARMS), "--folder",
    ]  # fmt: skip
    for name in ("once", "again"):
        subprocess.run([*command, str(tmp_path / name)], check=True)
    made = {path.name: path.read_bytes() for path in (tmp_path / "once").iterdir()}
    assert set(made) == {f"{n}.{k}" for n in ("curves", "emm", "progress", "gallery") for k in ("svg", "png")}
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}


def test_legend_names_each_arm_once(study):
    """Also arms with a limit alone."""
    emm = [row for row in read(study / "emm.csv") if row["arm"] in ("small", "beyond", "under")]
    curves = read(study / "curves.csv")
    assert {row["role"] for row in curves if row["arm"] == "under"} == {"locate", "confirm"}
    figure = figures.draw_curves(json.loads((study / "study.json").read_text()), emm, curves, Figures())
    legend = figure.axes[0].get_legend()
    assert legend is not None
    names = [text.get_text().partition(":")[0] for text in legend.get_texts()]
    assert names == [row["arm"] for row in emm]


def test_panels_of_many_arms(study):
    """Seven arms in rows of four: a panel each, sizes below the lowest of each column, ? where undetermined."""
    emm, curves = read(study / "emm.csv"), read(study / "curves.csv")
    figure = figures.draw_curves(json.loads((study / "study.json").read_text()), emm, curves, Figures())
    panels = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_title().partition(":")[0] for panel in panels] == list(ARMS)
    assert [panel.xaxis.get_tick_params()["labelbottom"] for panel in panels] == [False] * 3 + [True] * 4
    lost = [row["arm"] for row in emm if row["status"] == "undetermined"]
    assert lost == [panel.get_title()[:-3] for panel in panels if panel.get_title().endswith(": ?")]


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
        command = [sys.executable, "-m", "emmeter.stages.summary", "--studies", *tables, *outputs]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    (tmp_path / "old.csv").write_text("study,arm\na,b\n")
    refused = join(tmp_path / "old.csv")
    assert refused.returncode == 1 and refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
    assert not (tmp_path / "all.csv").exists()
    assert join(study / "emm.csv", study / "emm.csv").returncode == 0
    assert len(read(tmp_path / "all.csv")) == 2 * len(ARMS)


def cut(table: bytes) -> bytes:
    """Without its last cell."""
    return table.rpartition(b",")[0]


@pytest.mark.parametrize(
    "damaged",
    [
        cut,
        lambda table: b"",
        lambda table: b"study,arm\n",
        lambda table: b"study,arm\na,b\n",
        lambda table: table + b"\xff\n",
        lambda table: table.rstrip() + b",1\n",
    ],
    ids=["cut", "empty", "other columns, no row", "other columns", "not text", "a cell too many"],
)
def test_damaged_tables_are_named(study, tmp_path, damaged):
    good, bad = study / "contrasts.csv", tmp_path / "bad.csv"
    bad.write_bytes(damaged(good.read_bytes()))
    with pytest.raises(StageError, match=f"^{bad}: .*delete it, and run snakemake again$"):
        read_all([good, bad], CONTRAST_COLUMNS)
    with pytest.raises(StageError, match=r"gone\.csv: is not there; run snakemake first"):
        read_all([good, tmp_path / "gone.csv"], CONTRAST_COLUMNS)
