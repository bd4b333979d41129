"""The tradeoff stage sets memorization against image quality: a table and a figure of one study."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emmeter.command import command
from emmeter.files.tables import (
    ARM_COLUMNS,
    CURVE_COLUMNS,
    EMM_COLUMNS,
    QUALITY_COLUMNS,
    TRADEOFF_COLUMNS,
    read,
)
from emmeter.files.writing import write_csv
from emmeter.measure.tradeoff import Point, means
from emmeter.presentation.curves_figure import levels, study_heading
from emmeter.presentation.figures import save
from emmeter.presentation.style import styled
from emmeter.presentation.tradeoff_figure import draw_tradeoff, nothing_compared, study_points
from emmeter.settings.sections import Figures
from emmeter.stages.figures import arguments

READING = (
    "Each point is a run; open: not trained to the end. Quality is measured against held-out images, by {}. The "
    "upright line is where real images are."
)


def tradeoff(study: Mapping[str, Any], style: Figures, *, emm: Path, curves: Path, quality: Path, folder: Path) -> None:
    """Write tradeoff.csv of one study, and draw tradeoff.svg and tradeoff.png in its first space of features.

    Args:
        study: its description (`emmeter.pipeline.description`), of which name and title are used.
        emm, curves, quality: its tables of these names.
        folder: where table and figure are written.
    Raises:
        StageError: a table is missing or damaged.
    """
    arms, measured = read([emm], EMM_COLUMNS), read([quality], (*ARM_COLUMNS, *QUALITY_COLUMNS))
    runs = study_points(arms, read([curves], CURVE_COLUMNS), measured)
    values = dict(zip(arms["arm"], arms["value"], strict=True))
    write_csv(folder / "tradeoff.csv", TRADEOFF_COLUMNS, rows(study["name"], values, runs))
    with styled():
        if runs:
            shown = [run for run in runs if run.features == runs[0].features]
            heading = study_heading(study, "copies against image quality", arms, READING.format(runs[0].features))
            figure = draw_tradeoff(shown, levels(arms), style, heading)
        else:
            figure = nothing_compared(style, study_heading(study, "copies against image quality", arms))
        save(figure, folder / "tradeoff.svg", style.dpi)


def rows(study: str, values: Mapping[str, str], runs: Sequence[Point]) -> list[dict[str, Any]]:
    """Rows of tradeoff.csv; `values` are the arms' values of the factor."""
    return [
        {
            "study": study, "arm": mean.arm, "value": values[mean.arm], "features": mean.features, "n": mean.n,
            "shared": mean.shared, "runs": mean.runs, "unfinished": mean.unfinished, "ratio": mean.ratio,
            **mean.measures, **{f"{name}_floor": floor for name, floor in mean.floors.items()},
        }
        for mean in means(runs)
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    for name in ("emm", "curves", "quality"):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"{name}.csv of the study")
    args = parser.parse_args(argv)
    style = Figures.model_validate(json.loads(args.style))
    tables = {name: getattr(args, name) for name in ("emm", "curves", "quality")}
    tradeoff(json.loads(args.study), style, **tables, folder=args.folder)


if __name__ == "__main__":
    command(main)
