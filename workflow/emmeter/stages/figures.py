"""The figures stage draws each figure of a study as SVG and PNG from its tables and galleries."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emmeter.command import command
from emmeter.files import checksums
from emmeter.files.tables import read
from emmeter.presentation.figures import draw_curves, draw_emm, draw_gallery, draw_progress, save
from emmeter.presentation.style import styled
from emmeter.settings.sections import Figures


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--study", required=True, help="description of the study as JSON")
    parser.add_argument("--style", required=True, help="settings `figures` as JSON")
    parser.add_argument("--emm", type=Path, required=True)
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument("--galleries", type=Path, nargs="+", required=True, help="gallery.npz of every arm, in order")
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args(argv)
    study, style = json.loads(args.study), Figures.model_validate(json.loads(args.style))
    emm, curves = read(args.emm), read(args.curves)
    galleries = []
    checksums.check(args.galleries)
    for path in args.galleries:
        with np.load(path, allow_pickle=False) as archive:
            galleries.append({name: archive[name] for name in archive.files})
    with styled():
        for name, draw in (("curves", draw_curves), ("emm", draw_emm), ("progress", draw_progress)):
            save(draw(study, emm, curves, style), args.folder / f"{name}.svg", style.dpi)
        save(draw_gallery(study, emm, galleries, style), args.folder / "gallery.svg", style.dpi)


if __name__ == "__main__":
    command(main)
