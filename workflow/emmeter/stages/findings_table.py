"""The findings_table stage joins the findings of several studies into one table and one page."""

from collections.abc import Sequence

from emmeter.command import command
from emmeter.files.tables import FINDING_COLUMNS
from emmeter.presentation.findings import page
from emmeter.stages.summary import join


def main(argv: Sequence[str] | None = None) -> None:
    join(argv, __doc__, FINDING_COLUMNS, page)


if __name__ == "__main__":
    command(main)
