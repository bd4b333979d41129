"""The onset_figure stage draws when memorization sets in, as SVG and PNG, from a study's onset.csv."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from emmeter.command import command
from emmeter.files.tables import read
from emmeter.presentation.figures import draw_onset, save
from emmeter.presentation.style import styled
from emmeter.settings.sections import Figures


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--study", required=True, help="description of the study as JSON")
    parser.add_argument("--style", required=True, help="settings `figures` as JSON")
    parser.add_argument("--onset", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args(argv)
    study, style = json.loads(args.study), Figures.model_validate(json.loads(args.style))
    with styled():
        save(draw_onset(study, read(args.onset), style), args.folder / "onset.svg", style.dpi)


if __name__ == "__main__":
    command(main)
