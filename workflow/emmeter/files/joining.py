"""Tables of single arms, joined into a table of their study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emmeter.errors import StageError
from emmeter.files import checksums
from emmeter.files.tables import ARM_COLUMNS, read_cells
from emmeter.files.writing import write_csv


def join_arms(description: Mapping[str, Any], tables: Sequence[Path], columns: Sequence[str], output: Path) -> None:
    """Join one kind of table over the arms of a study; its cells are those of the arms, character by character.

    Args:
        description: the study and its measured arms, as `emmeter.pipeline.description.measured` describes them.
        tables: the table of every one of these arms, in the order of the description.
        columns: their columns.
        output: the CSV file to write, with the columns `study`, `arm` and `value` before these.
    Raises:
        DataError: a table has changed since it was written.
        StageError: there is not one table per arm, or one is missing or has other columns.
    """
    arms = description["arms"]
    if len(tables) != len(arms):
        raise StageError(f"{len(tables)} tables for the {len(arms)} arms of study {description['name']}")
    checksums.check(tables)
    rows: list[dict[str, Any]] = []
    for arm, table in zip(arms, tables, strict=True):
        about = {"study": description["name"], "arm": arm["name"], "value": arm["value"]}
        rows += [{**about, **row} for row in read_cells([table], columns).to_dict("records")]
    write_csv(output, (*ARM_COLUMNS, *columns), rows)
