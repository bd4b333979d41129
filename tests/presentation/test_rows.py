"""Rows of a study's tables: one per arm, run, snapshot or claim, empty where there is no number."""

import math
from typing import Any

import pytest

from emmeter.files.tables import FINDING_COLUMNS, ONSET_COLUMNS
from emmeter.measure.claims import Judgement
from emmeter.measure.onset import LEVEL
from emmeter.measure.scatter import Prior
from emmeter.presentation.rows import claim_rows, emm_rows, epochs, onset_rows
from emmeter.settings.studies import Finding
from tests import made_up
from tests.made_up import arm

PRIOR = Prior(0.2, 6.0, 40)
STUDY = {"name": "made_up", "factor": ""}


def test_the_very_same_runs_have_the_same_interval_in_every_study():
    """Given the scatter of all arms, an arm's row does not depend on the arms beside it."""
    arms = [arm(f"arm-{seed}", emm, seed) for seed, emm in enumerate((30.0, 60.0, 90.0))]
    together = emm_rows(STUDY, arms, PRIOR)
    assert [emm_rows(STUDY, [arm], PRIOR)[0] for arm in arms] == together


def test_epochs_of_a_budget():
    assert epochs("16000 images", 20.0) == 800
    assert epochs("40000 epochs", 1000.0) == 40_000
    assert epochs("16000 images", None) is epochs("", 20.0) is None


def run(n: int, replicate: int, *points: tuple[int, float]) -> dict[str, Any]:
    snapshots = [{"images_seen": seen, "ratio": ratio} for seen, ratio in points]
    return {"n": n, "replicate": replicate, "snapshots": snapshots}


def test_onset_rows_hold_one_run_each():
    record = {"runs": [run(50, 0, (1000, 0.0), (4000, 1.0)), run(100, 3, (1000, 0.0))]}
    first, second = onset_rows(STUDY, [made_up.ArmResult({"name": "arm"}, record)])
    assert tuple(first) == tuple(second) == ONSET_COLUMNS
    assert (first["study"], first["arm"], first["n"], first["replicate"], first["level"]) == (
        "made_up", "arm", 50, 0, LEVEL,
    )  # fmt: skip
    assert (first["onset_images"], first["onset_epochs"]) == pytest.approx((2000, 40))
    assert second["onset_images"] is second["onset_epochs"] is None
    assert second["note"]


CLAIMS = {
    "wider": Finding(claim="It is wider", expect="more", arms=["a", "b"], source="Figure 1"),
    "even": Finding(claim="It is even", expect="same", arms=["a", "b"], margin=1.5),
    "grows": Finding(claim="It grows", expect="proportional", arms=["a"], margin=1.3),
}
JUDGEMENTS = {
    "wider": Judgement("reproduced", 2.0, 1.5, 2.5, True),
    "even": Judgement("not resolved", None, 0.0, math.inf, False, None, "A note"),
    "grows": Judgement("contradicted", 0.5, 0.4, 0.6),
}
ARMS = [
    made_up.ArmResult(made_up.about("a", key="0a0a0a0a0a", budget="100 images"), {}),
    made_up.ArmResult(made_up.about("b", key="0b0b0b0b0b", budget="200 images"), {}),
]


def test_claim_rows_leave_missing_bounds_empty():
    first, second, third = claim_rows("made_up", CLAIMS, JUDGEMENTS, ARMS, True)
    setting = "digits at 8x8 pixels, {} training images per run"
    assert (first["setting"], third["setting"]) == (
        f"{setting.format(100)}; {setting.format(200)}", setting.format(100),
    )  # fmt: skip
    assert (first["arm_keys"], third["arm_keys"]) == ("0a0a0a0a0a 0b0b0b0b0b", "0a0a0a0a0a")
    assert tuple(first) == FINDING_COLUMNS
    assert (first["study"], first["finding"], first["source"], first["arms"]) == ("made_up", "wider", "Figure 1", "a b")
    assert (first["effect"], first["effect_low"], first["effect_high"], first["paired"]) == (2.0, 1.5, 2.5, True)
    assert second["effect"] is second["effect_low"] is second["effect_high"] is None
    assert [row["margin"] for row in (first, second, third)] == [None, 1.5, 1.3]  # where a margin matters
    assert [row["verdict"] for row in claim_rows("made_up", CLAIMS, JUDGEMENTS, ARMS, False)] == [
        "reproduced", "not resolved", "contradicted",  # the contradicted claim has no source
    ]  # fmt: skip


def test_every_claim_needs_its_judgement():
    with pytest.raises(KeyError):
        claim_rows("made_up", CLAIMS, {"wider": JUDGEMENTS["wider"]}, ARMS, True)
