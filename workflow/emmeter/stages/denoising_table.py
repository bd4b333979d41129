"""The denoising_table stage joins the errors at single noise levels of a study's arms, and draws their figure."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emmeter.command import command
from emmeter.files.joining import join_arms
from emmeter.files.tables import ARM_COLUMNS, DENOISING_COLUMNS, EMM_COLUMNS, read
from emmeter.measure.by_noise import at_emm
from emmeter.presentation.curves_figure import study_heading
from emmeter.presentation.denoising_figure import draw_denoising, nothing_denoised
from emmeter.presentation.figures import save
from emmeter.presentation.style import styled
from emmeter.settings.sections import Figures
from emmeter.stages.figures import arguments

READING = (
    "At the size nearest to the EMM of each arm, after training. Left, above 1: training images are denoised better "
    "than new ones. Right, below 1: nearer to the optimum, which replays the training set, than to the linear denoiser."
)


def denoising_table(
    study: Mapping[str, Any],
    measured: Mapping[str, Any],
    style: Figures,
    *,
    emm: Path,
    tables: Sequence[Path],
    folder: Path,
) -> None:
    """Write denoising.csv of one study, and draw denoising.svg and denoising.png.

    Args:
        study: its description (`emmeter.pipeline.description`), of which name and title are used.
        measured: the study and its measured arms.
        emm: its emm.csv.
        tables: denoising.csv of each of these arms, in order.
        folder: where table and figure are written.
    Raises:
        DataError: a table has changed since it was written.
        StageError: a table is missing or damaged, or there is not one per arm.
    """
    output = folder / "denoising.csv"
    join_arms(measured, tables, DENOISING_COLUMNS, output)
    arms = read([emm], EMM_COLUMNS)
    found = at_emm(arms.to_dict("records"), read([output], (*ARM_COLUMNS, *DENOISING_COLUMNS)).to_dict("records"))
    heading = study_heading(study, "where in the noise networks memorize", arms, READING if found else "")
    with styled():
        figure = draw_denoising(found, style, heading) if found else nothing_denoised(style, heading)
        save(figure, folder / "denoising.svg", style.dpi)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--measured", required=True, help="the study and its measured arms as JSON")
    parser.add_argument("--emm", type=Path, required=True, help="emm.csv of the study")
    parser.add_argument("--tables", type=Path, nargs="+", required=True, help="denoising.csv of every arm, in order")
    args = parser.parse_args(argv)
    style = Figures.model_validate(json.loads(args.style))
    measured = json.loads(args.measured)
    denoising_table(json.loads(args.study), measured, style, emm=args.emm, tables=args.tables, folder=args.folder)


if __name__ == "__main__":
    command(main)
