"""The part of results that must not depend on when, where and in how many attempts they were made."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

from emmeter.files.provenance import provenance
from one_run import Pipeline

TABLES = ("study", "figures", "summary", "findings_table")
VARIES = {*provenance("", 0), "cost", "run_seconds", "runs", "images_per_second", "resumed_at_image"} - {"key"}


def content(path: Path) -> Any:
    """The part of a file that must not depend on when, where and in how many attempts it was made."""
    if path.suffix == ".json":
        record = json.loads(path.read_text())
        runs = record["runs"] if isinstance(record.get("runs"), list) else []  # the record of quality counts them
        counts = [[run["n"], run["snapshots"], run["images_trained"], run["flops"]] for run in runs]
        inputs = sorted((name, digest) for name, digest in record.get("inputs", {}).items() if name != "emm.json")
        return {name: value for name, value in record.items() if name not in VARIES}, counts, inputs
    if path.name in ("SHA256SUMS", "emm.html", "report.html"):
        return None  # they hold the cost in seconds, or the checksum of a file with the cost
    if path.suffix == ".csv":
        with open(path, newline="") as file:
            return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    return path.read_bytes()


def outcome(results: Path) -> dict[str, Any]:
    """The content of each file of the results by path, without temporary files (which begin with a dot) and states."""
    paths = (path for path in results.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(p.relative_to(results)): content(p) for p in paths if p.relative_to(results).parts[0] != "state"}


def made_by(pipeline: Pipeline, stage: str, present: dict[str, Any]) -> dict[str, Any]:
    """The files of one stage among `present`."""
    if stage in ("summary", "findings_table"):
        stem = "emm" if stage == "summary" else "findings"
        return {name: value for name, value in present.items() if name in (f"{stem}.csv", f"{stem}.html")}
    if stage in TABLES:
        drawn = {name for name in present if name.endswith((".svg", ".png"))}
        in_study = {name: value for name, value in present.items() if name.startswith("experiment/")}
        return {name: value for name, value in in_study.items() if (name in drawn) == (stage == "figures")}
    folder = str(pipeline.folder(stage).relative_to(pipeline.results))  # type: ignore[arg-type]
    return {name: value for name, value in present.items() if name.startswith(f"{folder}/")}


def assert_whole(pipeline: Pipeline, expected: dict[str, Any]) -> None:
    """Every present file equals that of the undisturbed run."""
    for name, value in outcome(pipeline.results).items():
        assert value == expected[name], name


def assert_equal(pipeline: Pipeline, stage: str, expected: dict[str, Any]) -> None:
    """All files of the stage are present and equal to those of the undisturbed run, and nothing else remains.

    The state of a training stays until its samples exist.
    """
    assert made_by(pipeline, stage, outcome(pipeline.results)) == made_by(pipeline, stage, expected)
    assert list(pipeline.results.rglob(".*")) == []
    assert pipeline.state.exists() == (stage == "train")


def remove(pipeline: Pipeline, stage: str) -> None:
    """Remove the files and the state of a stage, so that it starts again."""
    shutil.rmtree(pipeline.results / "state", ignore_errors=True)
    for name in made_by(pipeline, stage, outcome(pipeline.results)):
        (pipeline.results / name).unlink()
