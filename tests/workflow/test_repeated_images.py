"""A study of repeated images in the real workflow: what runs share, its tables, and its verification."""

import csv
import subprocess
import sys

import pytest

ARMS = {
    "none": {},
    "repeated": {"data.duplicates.share": 0.2, "data.duplicates.times": 5},
    "trained": {"data.duplicates.share": 0.2, "data.duplicates.times": 5, "diffusion.denoiser": "network"},
}
STUDY = {
    "title": "Repeated images",
    "factor": "data.duplicates",
    "base": {"diffusion.denoiser": "optimum", "search.rule": "grid", "search.grid": [10]},
    "arms": ARMS,
}


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.exhaustive
def test_a_study_of_repeated_images_runs_to_its_tables(empty):
    empty.change("studies.own", STUDY)
    plan = empty.plan("own")
    assert len(plan["subset"]) == len(plan["sample"]) - 1 == 2  # arms that repeat alike share a subset
    empty.snakemake("own")
    tables = empty.folder / "results/digits/own"
    assert [row["value"] for row in table(tables / "emm.csv")] == ["none", "20 % x 5", "20 % x 5"]
    copied = {(row["arm"], row["progress"]): row for row in table(tables / "copied.csv")}
    assert copied["none", "1"]["repeated"] == "0" and copied["none", "1"]["repeated_share"] == ""
    row = copied["repeated", "1"]
    assert (row["train"], row["repeated"], row["memorized"]) == ("10", "2", "12")
    assert 2 * float(row["repeated_copies"]) + 8 * float(row["once_copies"]) == pytest.approx(12, abs=1e-4)
    assert copied["trained", "1"]["repeated"] == "2"
    done = subprocess.run([sys.executable, "-m", "emmeter.cli", "verify"], **empty.process(), stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stdout
    assert empty.plan("own").rules == set()


def test_repetitions_without_effect_are_one_line_before_any_job(empty):
    empty.change("studies.own", STUDY | {"arms": {"once": {"data.duplicates.share": 0.2}}})
    output = empty.snakemake("-n", "own", check=False).stdout
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert lines == [
        "error: studies.own.arms.once: data.duplicates.times = 1: must be at least 2 beside share = 0.2, "
        "which repeats nothing otherwise"
    ]
