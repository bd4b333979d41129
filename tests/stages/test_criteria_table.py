"""The criteria_table stage: verdicts of a made-up study under counts of other criteria, and the table on the page."""

import json

import pandas as pd
import pytest

from emmeter.files import checksums
from emmeter.files.tables import ARM_CRITERIA_COLUMNS
from emmeter.files.writing import write_csv
from emmeter.stages import criteria_table
from emmeter.stages.report import report
from tests import made_up
from tests.presentation.pages import outline

ARMS = {"small": 30.0, "large": 90.0}


@pytest.fixture
def made(tmp_path):
    """A study of two arms and one claim, counted alike by one criterion and with exchanged arms by another."""
    folder = tmp_path / "made_up"
    folder.mkdir()
    made_up.write(folder)
    study = made_up.description()
    study["arms"] = [about for about in study["arms"] if about["name"] in ARMS]
    study["findings"] = [entry for entry in study["findings"] if entry[0] == "larger"]
    shares = {"same": ARMS, "exchanged": dict(zip(ARMS, reversed(ARMS.values()), strict=True))}
    for name, emm in ARMS.items():
        rows = []
        for run in json.loads((folder / f"{name}.json").read_text())["runs"]:
            for snapshot in run["snapshots"]:
                about = {key: run[key] for key in ("n", "replicate", "role")} | {"threshold": 0.5, "images": 500}
                about |= {key: snapshot[key] for key in ("progress", "images_seen")}
                for criterion, emms in shares.items():
                    share = 1 / (1 + (run["n"] / emms[name]) ** 4 / 9) if emms[name] != emm else None
                    copies = snapshot["memorized"] if share is None else round(500 * share * snapshot["progress"])
                    rows.append(about | {"criterion": criterion, "memorized": copies})
        write_csv(tmp_path / name / "criteria.csv", ARM_CRITERIA_COLUMNS, rows)
        checksums.record(tmp_path / name / "criteria.csv")
    records, tables = ([str(base / end) for base, end in pairs] for pairs in (
        [(folder, f"{name}.json") for name in ARMS], [(tmp_path / name, "criteria.csv") for name in ARMS]
    ))  # fmt: skip
    return study, records, tables, folder / "criteria.csv"


def test_a_claim_survives_the_criterion_that_counts_alike_and_not_the_one_that_exchanges_the_arms(made):
    study, records, tables, output = made
    criteria_table.main(
        ["--study", json.dumps(study), "--records", *records, "--tables", *tables, "--output", str(output)]
    )
    rows = pd.read_csv(output).set_index("criterion")
    assert rows.loc[["own", "same"], "survives"].tolist() == [True, True]
    assert rows.loc["same", "effect"] == rows.loc["own", "effect"] > 1
    assert not rows.loc["exchanged", "survives"] and rows.loc["exchanged", "verdict"] != "reproduced"
    assert rows.loc[["own", "same"], "rank_correlation"].tolist() == [1, 1]
    report([outline(made_up.description())], output.parent.parent, output.parent.parent / "report.html")
    page = (output.parent.parent / "report.html").read_text(encoding="utf-8")
    assert "Claims under other criteria" in page and "exchanged\u00a00.5" in page


def test_without_a_table_of_every_arm_there_are_no_rows(made):
    study, records, tables, output = made
    criteria_table.main(
        ["--study", json.dumps(study), "--records", *records, "--tables", tables[0], "--output", str(output)]
    )
    assert output.read_text().count("\n") == 1
