"""CSV tables: types, and damage."""

import math

import pandas as pd
import pytest

from emmeter.errors import StageError
from emmeter.files.tables import CONTRAST_COLUMNS, frame, read, read_cells
from emmeter.files.writing import write_csv

ROW = {
    "study": "made_up", "arm": "007", "baseline": "nan", "setting": "digits, 100 images", "emm_ratio": 1.5,
    "ratio_low": 1 / 3, "ratio_high": None, "paired": True, "note": "",
}  # fmt: skip


def test_text_stays_text_and_empty_numbers_are_nan(tmp_path):
    """Also names of arms that look like numbers, or like pandas' marks of missing values."""
    write_csv(tmp_path / "table.csv", CONTRAST_COLUMNS, [ROW])
    (row,) = read([tmp_path / "table.csv"], CONTRAST_COLUMNS).to_dict("records")
    assert (row["arm"], row["baseline"], row["note"], row["paired"]) == ("007", "nan", "", "True")
    assert (row["emm_ratio"], row["ratio_low"]) == (1.5, 0.333333)
    assert math.isnan(row["ratio_high"])


def test_cells_are_copied_character_by_character(tmp_path):
    first, second, joined = (tmp_path / f"{name}.csv" for name in ("first", "second", "joined"))
    write_csv(first, CONTRAST_COLUMNS, [ROW, ROW | {"note": 'a "quoted", note'}])
    write_csv(second, CONTRAST_COLUMNS, [ROW | {"emm_ratio": 123456789}])
    write_csv(joined, CONTRAST_COLUMNS, read_cells([first, second], CONTRAST_COLUMNS).to_dict("records"))
    assert joined.read_bytes() == first.read_bytes() + second.read_bytes().partition(b"\n")[2]


def test_rows_have_the_types_of_a_table_that_is_read(tmp_path):
    rows = [ROW | {"ratio_low": 0.25, "paired": "True"}]
    write_csv(tmp_path / "table.csv", CONTRAST_COLUMNS, rows)
    pd.testing.assert_frame_equal(frame(rows, CONTRAST_COLUMNS), read([tmp_path / "table.csv"], CONTRAST_COLUMNS))


def test_a_table_without_rows_has_its_columns(tmp_path):
    write_csv(tmp_path / "none.csv", CONTRAST_COLUMNS, [])
    table = read([tmp_path / "none.csv"], CONTRAST_COLUMNS)
    assert (len(table), tuple(table.columns)) == (0, CONTRAST_COLUMNS)
    assert table["emm_ratio"].dtype == float


def cut(table: bytes) -> bytes:
    """The table without its last cell."""
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
        lambda table: table.replace(b"1.5", b"1.S"),
    ],
    ids=["cut", "empty", "other columns, no row", "other columns", "not text", "a cell too many", "no number"],
)
def test_damaged_tables_are_named(tmp_path, damaged):
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    write_csv(good, CONTRAST_COLUMNS, [ROW, ROW])
    bad.write_bytes(damaged(good.read_bytes()))
    with pytest.raises(StageError, match=f"^{bad}: .*delete it, and run snakemake again$"):
        read([good, bad], CONTRAST_COLUMNS)
    with pytest.raises(StageError, match=r"gone\.csv: is not there; run snakemake first"):
        read([good, tmp_path / "gone.csv"], CONTRAST_COLUMNS)
