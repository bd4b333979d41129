"""The summary stage joins the EMM tables of several studies into one table and one page."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emmeter.command import command
from emmeter.files.tables import EMM_COLUMNS, read, read_cells
from emmeter.files.writing import write_csv, write_text
from emmeter.presentation import tables

if TYPE_CHECKING:
    from pandas import DataFrame


def join(
    studies: Sequence[Path], columns: Sequence[str], render: Callable[["DataFrame"], str], *, table: Path, page: Path
) -> None:
    """Join one kind of table over studies, as CSV and as a page.

    Args:
        studies: the table of every study, in the order of the rows.
        columns: their columns.
        render: makes the page from the joined table.
        table: the CSV file to write; its cells are those of the studies, character by character.
        page: the HTML file to write.
    Raises:
        StageError: a table is missing, damaged, or has other columns.
    """
    text = render(read(studies, columns))
    write_csv(table, columns, read_cells(studies, columns).to_dict("records"))
    write_text(page, text)


def summary(studies: Sequence[Path], *, table: Path, page: Path) -> None:
    """Join the emm.csv of several studies; arguments and errors as for `join`."""
    title = "Effective model memorization"
    join(studies, EMM_COLUMNS, lambda emm: tables.page(title, emm), table=table, page=page)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The parser of a stage that joins tables."""
    parser = argparse.ArgumentParser(description=description, fromfile_prefix_chars="@")
    parser.add_argument("--studies", type=Path, nargs="+", required=True, help="the table of every study")
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--page", type=Path, required=True)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__).parse_args(argv)
    summary(args.studies, table=args.table, page=args.page)


if __name__ == "__main__":
    command(main)
