"""The onset_figure stage draws when memorization sets in, as SVG and PNG, from a study's onset.csv."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emmeter.command import command
from emmeter.files.tables import ONSET_COLUMNS, read
from emmeter.presentation.figures import draw_onset, save
from emmeter.presentation.style import styled
from emmeter.settings.sections import Figures
from emmeter.stages.figures import arguments


def onset_figure(study: Mapping[str, Any], style: Figures, *, onset: Path, folder: Path) -> None:
    """Draw onset.svg and onset.png of one study.

    Args:
        study: its description (`emmeter.pipeline.description`), of which the title is used.
        onset: its onset.csv.
        folder: where the figure is written.
    Raises:
        StageError: the table is missing or damaged.
    """
    onsets = read([onset], ONSET_COLUMNS)
    with styled():
        save(draw_onset(study, onsets, style), folder / "onset.svg", style.dpi)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--onset", type=Path, required=True)
    args = parser.parse_args(argv)
    style = Figures.model_validate(json.loads(args.style))
    onset_figure(json.loads(args.study), style, onset=args.onset, folder=args.folder)


if __name__ == "__main__":
    command(main)
