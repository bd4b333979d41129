"""The study stage: tables of made-up searches whose EMM is known."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from emmeter.errors import StageError
from emmeter.files.tables import CONTRAST_COLUMNS, CURVE_COLUMNS, EMM_COLUMNS, FINDING_COLUMNS, ONSET_COLUMNS
from emmeter.measure import onset
from emmeter.measure.arms import fit_prior
from emmeter.measure.comparison import compare_emms
from emmeter.stages.study import read_arms
from tests import made_up
from tests.made_up import ARMS, CLAIMS


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The tables that the study stage writes for one arm of every kind."""
    return made_up.write(tmp_path_factory.mktemp("study"))


def test_tables_are_read_by_pandas_without_arguments(study):
    emm, curves, ratios = (pd.read_csv(study / f"{name}.csv") for name in ("emm", "curves", "contrasts"))
    assert tuple(emm.columns) == EMM_COLUMNS
    assert tuple(curves.columns) == CURVE_COLUMNS
    assert tuple(ratios.columns) == CONTRAST_COLUMNS
    assert tuple(pd.read_csv(study / "findings.csv").columns) == FINDING_COLUMNS
    assert tuple(pd.read_csv(study / "onset.csv").columns) == ONSET_COLUMNS
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
    arms = read_arms(made_up.description(), [study / f"{name}.json" for name in ARMS])
    compare = compare_emms(arms, fit_prior(arms))
    for first, second in itertools.permutations(ARMS, 2):
        contrast, inverse = compare((first,), (second,), 0.95), compare((second,), (first,), 0.95)
        assert (contrast.ratio is None) == (inverse.ratio is None)
        assert contrast.low * inverse.high == pytest.approx(1) or (contrast.low, inverse.high) == (0, math.inf)


def test_page_shows_every_arm_and_escapes(study):
    page = (study / "emm.html").read_text()
    assert all(name in page for name in ARMS)
    assert "<script" not in page and "http" not in page


def test_every_arm_needs_its_record(study):
    with pytest.raises(StageError, match="--records: 1 files for the 7 arms of study made_up"):
        read_arms(made_up.description(), [study / "small.json"])
