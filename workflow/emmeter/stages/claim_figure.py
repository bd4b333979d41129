"""The claim_figure stage draws a figure that only some studies have: onset, training budget, or progress."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emmeter.command import command
from emmeter.files.tables import BUDGET_COLUMNS, CURVE_COLUMNS, ONSET_COLUMNS, read
from emmeter.presentation.figures import draw_budget, draw_onset, draw_progress, save
from emmeter.presentation.style import Figure, Heading, styled
from emmeter.settings.sections import Figures
from emmeter.stages.figures import arguments

TITLES = {
    "onset": "when memorization sets in",
    "budget": "EMM against the training budget",
    "progress": "share of copies along training, dark for small N",
}


def claim_figure(kind: str, study: Mapping[str, Any], style: Figures, *, table: Path, folder: Path) -> None:
    """Draw KIND.svg and KIND.png of one study.

    Args:
        kind: one of `TITLES`.
        study: its description (`emmeter.pipeline.description`).
        table: its onset.csv, budget.csv or curves.csv.
        folder: where the figure is written.
    Raises:
        StageError: the table is missing or damaged.
    """
    with styled():
        save(drawn(kind, study, style, table), folder / f"{kind}.svg", style.dpi)


def drawn(kind: str, study: Mapping[str, Any], style: Figures, table: Path) -> Figure:
    """The figure of a study; the arguments are those of `claim_figure`."""
    heading = Heading(f"{study['title']}: {TITLES[kind]}")
    if kind == "onset":
        return draw_onset(read([table], ONSET_COLUMNS), style, heading)
    if kind == "budget":
        return draw_budget(read([table], BUDGET_COLUMNS), style, heading)
    levels = {arm["name"]: 1 - arm["search"]["epsilon"] for arm in study["arms"]}
    return draw_progress(read([table], CURVE_COLUMNS), levels, style, heading)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--kind", choices=list(TITLES), required=True)
    parser.add_argument("--table", type=Path, required=True)
    args = parser.parse_args(argv)
    style = Figures.model_validate(json.loads(args.style))
    claim_figure(args.kind, json.loads(args.study), style, table=args.table, folder=args.folder)


if __name__ == "__main__":
    command(main)
