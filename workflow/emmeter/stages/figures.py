"""The figures stage draws each figure of a study as SVG and PNG from its tables and galleries."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emmeter.command import command
from emmeter.files.scores import read_gallery
from emmeter.files.tables import CONTRAST_COLUMNS, CURVE_COLUMNS, EMM_COLUMNS, read
from emmeter.presentation.curves_figure import draw_curves, study_heading
from emmeter.presentation.figures import draw_emm, save
from emmeter.presentation.gallery_figure import draw_gallery
from emmeter.presentation.sentences import finding
from emmeter.presentation.style import styled
from emmeter.settings.sections import Figures

READING = "Filled: confirming runs, which alone enter the fitted line. Open: locating runs."
RANKS = "Each column: a generated image and its two nearest training images, with d1/d2; even ranks, best match first."


def figures(
    study: Mapping[str, Any],
    style: Figures,
    *,
    emm: Path,
    curves: Path,
    contrasts: Path,
    galleries: Sequence[Path],
    folder: Path,
) -> None:
    """Draw curves, emm and gallery of one study, each as SVG and PNG.

    Args:
        study: its description (`emmeter.pipeline.description`), of which the title is used.
        emm: its emm.csv.
        curves: its curves.csv.
        contrasts: its contrasts.csv, which decides what the titles say.
        galleries: gallery.npz of every arm, in the order of emm.csv.
        folder: where the figures are written.
    Raises:
        DataError: a gallery has changed since it was written.
        StageError: a table or a gallery is missing or damaged.
    """
    arms, snapshots = read([emm], EMM_COLUMNS), read([curves], CURVE_COLUMNS)
    text = finding(arms, read([contrasts], CONTRAST_COLUMNS), snapshots)
    images = [read_gallery(path) for path in galleries]
    with styled():
        drawn = {
            "curves": draw_curves(arms, snapshots, style, study_heading(study, text, arms, READING)),
            "emm": draw_emm(arms, style, study_heading(study, text, arms)),
            "gallery": draw_gallery(arms, images, style, study_heading(study, "copies near EMM", arms, RANKS)),
        }
        for name, figure in drawn.items():
            save(figure, folder / f"{name}.svg", style.dpi)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The parser of a stage that draws figures of one study."""
    parser = argparse.ArgumentParser(description=description, fromfile_prefix_chars="@")
    parser.add_argument("--study", required=True, help="description of the study as JSON")
    parser.add_argument("--style", required=True, help="settings `figures` as JSON")
    parser.add_argument("--folder", type=Path, required=True)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--emm", type=Path, required=True)
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument("--contrasts", type=Path, required=True)
    parser.add_argument("--galleries", type=Path, nargs="+", required=True, help="gallery.npz of every arm, in order")
    args = parser.parse_args(argv)
    figures(
        json.loads(args.study),
        Figures.model_validate(json.loads(args.style)),
        emm=args.emm,
        curves=args.curves,
        contrasts=args.contrasts,
        galleries=args.galleries,
        folder=args.folder,
    )


if __name__ == "__main__":
    command(main)
