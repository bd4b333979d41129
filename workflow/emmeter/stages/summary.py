"""The summary stage joins the EMM tables of several studies into one table and one page."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from emmeter.command import command
from emmeter.files.tables import EMM_COLUMNS, read_all
from emmeter.files.writing import write_csv, write_text
from emmeter.presentation.tables import page


def join(
    argv: Sequence[str] | None,
    description: str | None,
    columns: Sequence[str],
    page_of: Callable[[list[dict[str, str]]], str],
) -> None:
    """A program that joins one kind of table over studies, as CSV and as a page.

    Raises:
        StageError: a table is missing or damaged; see `read_all`.
    """
    parser = argparse.ArgumentParser(description=description, fromfile_prefix_chars="@")
    parser.add_argument("--studies", type=Path, nargs="+", required=True, help="the table of every study")
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--page", type=Path, required=True)
    args = parser.parse_args(argv)
    rows = read_all(args.studies, columns)
    write_csv(args.table, columns, rows)
    write_text(args.page, page_of(rows))


def main(argv: Sequence[str] | None = None) -> None:
    join(argv, __doc__, EMM_COLUMNS, lambda rows: page("Effective model memorization", rows))


if __name__ == "__main__":
    command(main)
