"""The claim_figure stage draws a figure that only some studies have: onset, training budget, or progress."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emmeter.command import command
from emmeter.files.tables import BUDGET_COLUMNS, CURVE_COLUMNS, ONSET_COLUMNS, read
from emmeter.presentation.figures import draw_budget, draw_onset, draw_progress, save
from emmeter.presentation.style import Heading, styled
from emmeter.settings.sections import Figures
from emmeter.stages.figures import arguments

KINDS = {
    "onset": (ONSET_COLUMNS, draw_onset, "when memorization sets in"),
    "budget": (BUDGET_COLUMNS, draw_budget, "EMM against the training budget"),
    "progress": (CURVE_COLUMNS, draw_progress, "share of copies along training, dark for small N"),
}


def claim_figure(kind: str, study: Mapping[str, Any], style: Figures, *, table: Path, folder: Path) -> None:
    """Draw KIND.svg and KIND.png of one study.

    Args:
        kind: one of `KINDS`.
        study: its description (`emmeter.pipeline.description`).
        table: its onset.csv, budget.csv or curves.csv.
        folder: where the figure is written.
    Raises:
        StageError: the table is missing or damaged.
    """
    columns, draw, what = KINDS[kind]
    rows = read([table], columns)
    with styled():
        save(draw(study, rows, style, Heading(f"{study['title']}: {what}")), folder / f"{kind}.svg", style.dpi)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--kind", choices=list(KINDS), required=True)
    parser.add_argument("--table", type=Path, required=True)
    args = parser.parse_args(argv)
    style = Figures.model_validate(json.loads(args.style))
    claim_figure(args.kind, json.loads(args.study), style, table=args.table, folder=args.folder)


if __name__ == "__main__":
    command(main)
