"""The comparison with published numbers by shape: made where a selected study has such numbers, and only then."""

import csv

import pytest

from project import JOINED

SHAPE = {f"results/digits/shape.{kind}" for kind in ("csv", "svg", "png")}
CONDITIONING = {
    "title": "Conditioning",
    "factor": "data.labels",
    "arms": {"unconditional": {"data.labels": "none"}, "random-labels": {"data.labels": "random-10"}},
}


def test_without_published_numbers_there_is_no_comparison(project):
    assert not any((project.folder / file).exists() for file in SHAPE)
    assert "shape" not in project.plan().rules
    project.snakemake("shape", check=False)
    assert "selects no study whose arms have published numbers" in (project.folder / "logs/shape.log").read_text()
    assert not any((project.folder / file).exists() for file in SHAPE)


@pytest.mark.exhaustive
def test_a_study_with_published_numbers_is_compared(project):
    project.change("studies.conditioning", CONDITIONING)
    plan = project.plan()
    assert {"shape", "study", *JOINED, "report"} <= plan.rules
    assert plan["study"] == ["conditioning"]
    project.snakemake()
    with open(project.folder / "results/digits/shape.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["quantity"], row["arm"]) for row in rows} >= {("emm", "unconditional"), ("emm_ratio", "random-labels")}
    assert float(rows[0]["published"]) > 1000 and rows[0]["ours"] == ""  # networks this small are broken
    assert all((project.folder / file).stat().st_size > 0 for file in SHAPE)
    assert 'download="shape.csv"' in (project.folder / "results/digits/report.html").read_text()
    assert project.plan().rules == set()
    project.change("figures.dpi", 60)
    assert project.plan().rules == {"figures", "tradeoff", "shape", "report"}
