"""The claim_figure stage draws the figure of a claim about more than EMM: of the onset, or of the training budget."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emmeter.command import command
from emmeter.files.tables import BUDGET_COLUMNS, ONSET_COLUMNS, read
from emmeter.presentation.figures import draw_budget, draw_onset, save
from emmeter.presentation.style import styled
from emmeter.settings.sections import Figures
from emmeter.stages.figures import arguments

KINDS = {"onset": (ONSET_COLUMNS, draw_onset), "budget": (BUDGET_COLUMNS, draw_budget)}


def claim_figure(kind: str, study: Mapping[str, Any], style: Figures, *, table: Path, folder: Path) -> None:
    """Draw KIND.svg and KIND.png of one study.

    Args:
        kind: one of `KINDS`.
        study: its description (`emmeter.pipeline.description`), of which the title is used.
        table: its onset.csv or budget.csv.
        folder: where the figure is written.
    Raises:
        StageError: the table is missing or damaged.
    """
    columns, draw = KINDS[kind]
    rows = read([table], columns)
    with styled():
        save(draw(study, rows, style), folder / f"{kind}.svg", style.dpi)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--kind", choices=list(KINDS), required=True)
    parser.add_argument("--table", type=Path, required=True)
    args = parser.parse_args(argv)
    style = Figures.model_validate(json.loads(args.style))
    claim_figure(args.kind, json.loads(args.study), style, table=args.table, folder=args.folder)


if __name__ == "__main__":
    command(main)
