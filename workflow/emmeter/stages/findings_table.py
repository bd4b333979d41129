"""The findings_table stage joins the findings of several studies into one table and one page."""

from collections.abc import Sequence
from pathlib import Path

from emmeter.command import command
from emmeter.files.tables import FINDING_COLUMNS
from emmeter.presentation import findings
from emmeter.stages.summary import arguments, join


def findings_table(studies: Sequence[Path], *, table: Path, page: Path) -> None:
    """Join the findings.csv of several studies; arguments and errors as for `join`."""
    join(studies, FINDING_COLUMNS, findings.page, table=table, page=page)


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__).parse_args(argv)
    findings_table(args.studies, table=args.table, page=args.page)


if __name__ == "__main__":
    command(main)
