"""Records: written, typed and documented with the same keys."""

import ast
import inspect
import json
import re
from pathlib import Path

import pytest
import yaml

from emmeter.files import records
from emmeter.files.layout import RECORDS as RECORD_FILES
from emmeter.files.layout import SETTINGS, run_folder
from emmeter.files.records import (
    Cost,
    DenoisingRecord,
    EmmRecord,
    Provenance,
    QualityRecord,
    RunRecord,
    SamplingRecord,
    ScoreRecord,
    SubsetRecord,
    TrainingRecord,
)
from emmeter.measure import results
from emmeter.measure.results import SearchedRun, Snapshot
from emmeter.settings.keys import stage_settings
from one_run import STAGES, Pipeline

PAGE = (Path(__file__).parents[2] / "docs" / "outputs.md").read_text(encoding="utf-8")
RECORDS = {
    "subset": SubsetRecord,
    "train": TrainingRecord,
    "sample": SamplingRecord,
    "score": ScoreRecord,
    "emm": EmmRecord,
    "quality": QualityRecord,
    "denoising": DenoisingRecord,
}
NAMES = {
    SubsetRecord: "subset.json",
    TrainingRecord: "training.json",
    SamplingRecord: "sampling.json",
    ScoreRecord: "score.json",
    EmmRecord: "emm.json",
    QualityRecord: "quality.json",
    DenoisingRecord: "denoising.json",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Pipeline(tmp_path_factory.mktemp("run") / "results").complete()


def keys(kind: type) -> set[str]:
    return set(kind.__required_keys__ | kind.__optional_keys__)


def code(text: str) -> set[str]:
    """Words in backticks."""
    return set(re.findall(r"`(\w+)`", text))


def table(line: str) -> list[list[str]]:
    """Cells of the rows of the table that follows a line of the page."""
    rows = PAGE.partition(f"\n{line}\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    assert rows, line
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def documented(line: str) -> set[str]:
    return set().union(*(code(cells[0]) for cells in table(line)))


def cell(line: str, key: str) -> str:
    """Description of a key in the table that follows a line."""
    return next(cells[1] for cells in table(line) if f"`{key}`" in cells[0])


COMMON = documented("Every record has these keys:")
OF_RUNS = documented("Records of runs (all but `emm.json`, `quality.json` and `denoising.json`) also have these:")


def test_keys_of_all_records_are_documented():
    assert keys(Provenance) == COMMON
    assert COMMON | OF_RUNS - {"inputs"} == keys(RunRecord)


@pytest.mark.parametrize("kind", NAMES, ids=lambda kind: NAMES[kind])
def test_keys_of_a_record_are_documented(kind):
    shared = COMMON | (OF_RUNS if kind not in (EmmRecord, QualityRecord, DenoisingRecord) else set())
    assert documented(f"`{NAMES[kind]}`:") == keys(kind) - shared
    assert ("inputs" in keys(kind)) == (kind not in (SubsetRecord, EmmRecord))


def test_keys_inside_of_records_are_documented():
    assert documented("Each entry of `runs` has these keys:") == keys(SearchedRun)
    assert code(cell("`score.json`:", "snapshots").partition(", as in")[0]) == keys(Snapshot)
    assert code(cell("`score.json`:", "cost").partition(" of ")[0]) == keys(Cost)


@pytest.mark.parametrize("module", [records, results], ids=lambda module: module.__name__)
def test_every_key_has_a_docstring(module):
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef):
            body = node.body[1:]  # the first statement is the docstring of the class
            for field, text in zip(body[::2], body[1::2], strict=True):
                assert isinstance(field, ast.AnnAssign), node.name
                assert isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant), ast.unparse(field)


@pytest.mark.parametrize("stage", STAGES)
def test_written_records_have_exactly_their_keys(run, stage):
    kind = RECORDS[stage]
    record = records.read(run.record(stage), kind)
    assert set(record) == keys(kind)
    assert list(record)[-len(COMMON) :] == list(Provenance.__annotations__)


def test_written_rows_have_exactly_their_keys(run):
    score = records.read(run.record("score"), ScoreRecord)
    search = records.read(run.record("emm"), EmmRecord)
    assert set(score["cost"]) == keys(Cost)
    assert all(set(snapshot) == keys(Snapshot) for snapshot in score["snapshots"])
    assert all(set(searched) == keys(SearchedRun) for searched in search["runs"])


def test_the_record_of_a_search_leads_to_the_files_of_its_runs(run):
    search = records.read(run.record("emm"), EmmRecord)
    for stage, key in search["keys"].items():
        for searched in search["runs"]:
            folder = run_folder(run.results, stage, key, searched["n"], searched["replicate"])
            assert (folder / RECORD_FILES[stage]).is_file()


@pytest.mark.parametrize("stage", STAGES)
def test_settings_are_those_of_the_command_line(run, stage):
    """Settings are read from JSON with sorted keys, resolved again, and written in the same order."""
    text = json.dumps(stage_settings(stage, run.setup), sort_keys=True)
    assert (run.folder(stage) / SETTINGS).read_text() == yaml.safe_dump(json.loads(text), sort_keys=False)
