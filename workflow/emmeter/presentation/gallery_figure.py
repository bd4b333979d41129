"""The gallery of a study: generated images with their two nearest training images, from the best match to the worst."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from emmeter.presentation.style import MUTED, NARROW, RULE, SERIES, Figure, Heading, placed, titled
from emmeter.settings.sections import Figures

if TYPE_CHECKING:
    from pandas import DataFrame

Gallery = Mapping[str, np.ndarray]
SIDES = {"generated": "generated", "nearest": "nearest", "second": "second"}  # arrays, and their names on the figure
LEFT, GAP = 0.72, 0.06  # inches
WORD = 0.65  # inches of a column from which a copy is named as one


def chosen(gallery: Gallery, columns: int) -> np.ndarray:
    """Positions of the images of a gallery that so many columns show: from the first to the last at even distances."""
    count = len(gallery["rank"])
    return np.round(np.linspace(0, count - 1, min(columns, count))).astype(int)


def caption(gallery: Gallery) -> str:
    """The run that a gallery shows, such as "N = 20: 71 % of 250 images are copies"."""
    copies, images = int(gallery["copies"]), int(gallery["images"])
    return f"N = {int(gallery['n']):,}: {100 * copies / images:.3g} % of {images:,} images are copies"


def draw_gallery(
    emm: "DataFrame", galleries: Sequence[Gallery], style: Figures, heading: Heading | None = None
) -> Figure:
    """Draw a block per arm: columns of a generated image, the nearest and the second nearest training image.

    Columns are at even ranks of d1/d2, so that the share of copies shown is that of the run.

    Args:
        emm: emm.csv of the study.
        galleries: the arrays of each arm's gallery.npz, in the order of `emm`.
    """
    width = style.width
    columns = style.gallery if width >= NARROW else min(style.gallery, 5)
    cell = (width - LEFT - 0.1) / columns
    block = 3 * cell + 0.62
    figure, _ = titled(width, block * len(emm), heading)
    for row, (arm, gallery) in enumerate(zip(emm["arm"], galleries, strict=True)):
        bottom = block * (len(emm) - 1 - row)
        total, top = figure.get_figheight(), bottom + block - 0.12
        figure.text(0.1 / width, top / total, arm, fontweight="bold", fontsize=8.5, va="top")
        figure.text(1 - 0.1 / width, top / total, caption(gallery), fontsize=8, color=MUTED, ha="right", va="top")
        for line, name in enumerate(SIDES.values()):
            middle = bottom + cell * (2.5 - line) + 0.06
            figure.text(0.1 / width, middle / total, name, fontsize=8, color=MUTED, va="center")
        for column, position in enumerate(chosen(gallery, columns)):
            _draw_column(figure, gallery, position, (LEFT + cell * column, bottom + 0.06), cell)
    return figure


def _draw_column(figure: Figure, gallery: Gallery, position: int, corner: tuple[float, float], cell: float) -> None:
    """Draw one generated image with its neighbours, below its ratio.

    A copy has a frame and a bold ratio, followed by the word where there is room.
    """
    left, bottom = corner
    copy = bool(gallery["copy"][position])
    for line, side in enumerate(SIDES):
        axes = placed(figure, left, bottom + cell * (2 - line) + GAP / 2, cell - GAP, cell - GAP)
        image = gallery[side][position].transpose(1, 2, 0)
        axes.imshow(image[..., 0] if image.shape[2] == 1 else image, vmin=0, vmax=255, cmap="gray")
        axes.set(xticks=[], yticks=[])
        framed = copy and side == "generated"
        axes.spines[:].set(visible=True, color=SERIES[1] if framed else RULE, linewidth=2 if framed else 0.7)
    x, y = (left + (cell - GAP) / 2) / figure.get_figwidth(), (bottom + 3 * cell + 0.04) / figure.get_figheight()
    text = f"{ratio(gallery, position):.2f}" + (" copy" if copy and cell > WORD else "")
    figure.text(
        x, y, text, fontsize=7.5, ha="center", va="bottom", color=SERIES[1] if copy else MUTED,
        fontweight="bold" if copy else "normal",
    )  # fmt: skip


def ratio(gallery: Gallery, position: int) -> float:
    """d1/d2 of an image of a gallery; 0 for an exact copy of an image that occurs once."""
    first, second = gallery["d1"][position], gallery["d2"][position]
    return float(first / second) if second else 0.0
