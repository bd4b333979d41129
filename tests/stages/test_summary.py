"""The stages summary and findings_table: joined tables and their pages."""

import csv

import pytest

from emmeter.errors import StageError
from emmeter.files.tables import EMM_COLUMNS, FINDING_COLUMNS, read
from emmeter.files.writing import write_csv
from emmeter.presentation import findings, tables
from emmeter.stages import findings_table, summary
from tests import made_up


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return made_up.write(tmp_path_factory.mktemp("study"))


STAGES = {
    "emm": (summary, EMM_COLUMNS, lambda table: tables.page("Effective model memorization", table)),
    "findings": (findings_table, FINDING_COLUMNS, findings.page),
}


def join(folder, stage, *studies):
    stage.main(["--studies", *map(str, studies), "--table", f"{folder}/all.csv", "--page", f"{folder}/all.html"])


@pytest.mark.parametrize("name", STAGES)
def test_studies_are_joined_character_by_character(study, tmp_path, name):
    stage, columns, page = STAGES[name]
    table = study / f"{name}.csv"
    join(tmp_path, stage, table, table)
    header, _, rows = table.read_text().partition("\n")
    assert (tmp_path / "all.csv").read_text() == f"{header}\n{rows}{rows}"
    assert (tmp_path / "all.html").read_text() == page(read([table, table], columns))


@pytest.mark.parametrize("name", STAGES)
def test_other_columns_are_refused_and_nothing_is_written(study, tmp_path, name):
    stage, columns, _ = STAGES[name]
    with open(tmp_path / "old.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns[:-1], ["x"] * (len(columns) - 1)])
    (tmp_path / "new").mkdir()
    with pytest.raises(StageError, match=r"old\.csv: has other columns than this version writes"):
        join(tmp_path / "new", stage, study / f"{name}.csv", tmp_path / "old.csv")
    assert not list((tmp_path / "new").iterdir())


def test_a_study_without_findings_joins_as_nothing(tmp_path):
    write_csv(tmp_path / "none.csv", FINDING_COLUMNS, [])
    join(tmp_path, findings_table, tmp_path / "none.csv")
    assert len(read([tmp_path / "all.csv"], FINDING_COLUMNS)) == 0
